package harness

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
)

const kubernetesAPI = "kube-apiserver"

// startRelays starts what passes on the connections to the webhook, and those that the webhook makes to the API server.
func (e *Env) startRelays(ctx context.Context) error {
	// The relays take the listeners as they are.
	free, err := choosePorts(ctx, 2)
	if err != nil {
		return err
	}
	kubernetes := []string{strings.TrimPrefix(e.Cluster.APIServer, "https://")}
	e.front = startRelay(free.listeners[0], e.turns.next)
	e.api = startRelay(free.listeners[1], func() []string { return kubernetes })
	return nil
}

// HangAPI lets the webhook hear nothing of the API server, nor be heard, until it is resumed: connections stay open, and new ones are taken
// and not answered. What was held up passes then. Nobody else notices.
func (e *Env) HangAPI() (resume func()) {
	if e.api == nil {
		return func() {}
	}
	return e.api.hold()
}

// CutAPI resets the webhook's connections to the API server, and new ones, until it is restored. Nobody else notices.
func (e *Env) CutAPI() (restore func()) {
	if e.api == nil {
		return func() {}
	}
	return e.api.cut()
}

// RestartKubernetesAPI kills the cluster's API server, which comes back at the same address with the same data, and returns when it is ready.
func (e *Env) RestartKubernetesAPI(ctx context.Context) error {
	before := e.Cluster.PIDs[kubernetesAPI]
	if err := syscall.Kill(e.cluster.command.Process.Pid, syscall.SIGUSR1); err != nil {
		return fmt.Errorf("asking for another %s: %w", kubernetesAPI, err)
	}
	return e.Wait(ctx, kubernetesAPI+" is back", func(ctx context.Context) error {
		text, err := os.ReadFile(filepath.Join(e.Dir, "cluster", "cluster.json"))
		if err != nil {
			return err
		}
		now := &Cluster{}
		if err := json.Unmarshal(text, now); err != nil {
			return err
		}
		if now.PIDs[kubernetesAPI] == before {
			return errors.New("it is still the old one")
		}
		e.Cluster.PIDs = now.PIDs
		return e.Kubectl(ctx, "get", "--raw", "/readyz").Err()
	})
}

// SuspendRegistries stops the registries where they are: connections to them are taken, and nobody answers until they are resumed.
func (e *Env) SuspendRegistries() (resume func() error, err error) {
	var pids []int
	for _, name := range []string{"registry", "private-registry"} {
		pid, ok := e.Cluster.PIDs[name]
		if !ok {
			return nil, fmt.Errorf("the cluster has no %s", name)
		}
		pids = append(pids, pid)
	}
	return suspend(pids...)
}

// suspend stops processes, with their groups, where they are.
func suspend(pids ...int) (resume func() error, err error) {
	signal := func(s syscall.Signal) error {
		var errs []error
		for _, pid := range pids {
			errs = append(errs, syscall.Kill(-pid, s))
		}
		return errors.Join(errs...)
	}
	resume = sync.OnceValue(func() error { return signal(syscall.SIGCONT) })
	if err := signal(syscall.SIGSTOP); err != nil {
		return nil, errors.Join(err, resume())
	}
	return resume, nil
}
