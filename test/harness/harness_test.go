package harness

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
	"testing"

	"github.com/go-logr/logr"
	"golang.org/x/sync/errgroup"
	ctrl "sigs.k8s.io/controller-runtime"
)

func TestEnvironmentsSideBySide(t *testing.T) {
	ctrl.SetLogger(logr.Discard())
	var envs [2]*Env
	group, ctx := errgroup.WithContext(t.Context())
	for i := range envs {
		dir := t.TempDir()
		group.Go(func() (err error) {
			envs[i], err = Start(ctx, Options{Dir: dir, Log: io.Discard})
			return err
		})
	}
	err := group.Wait()
	t.Cleanup(func() {
		for _, e := range envs {
			if e != nil {
				_ = e.Stop()
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	left, right := envs[0], envs[1]
	for name, pid := range left.Processes() {
		if right.Processes()[name] == pid || pid == 0 {
			t.Errorf("each environment has a %s of its own, got process %d twice", name, pid)
		}
	}

	// One of them loses its webhook.
	if err := syscall.Kill(left.Processes()["istag serve webhook"], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-left.Dead()
	err = left.Wait(t.Context(), "pigs fly", func(context.Context) error { return fmt.Errorf("they do not") })
	for _, text := range []string{"pigs fly", "they do not", "istag serve webhook ended", "signal: killed", "webhook.log"} {
		if err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("who waits for what cannot come must be told why, with %q: %v", text, err)
		}
	}
	if result := right.Kubectl(t.Context(), "get", "mutatingwebhookconfiguration", "istag"); result.Code != 0 {
		t.Errorf("the other environment is none the worse: %v", result.Err())
	}

	processes := left.Processes()
	if err := left.Stop(); err == nil {
		t.Error("the end must tell of the process that had died")
	}
	if err := right.Stop(); err != nil {
		t.Errorf("an environment that was well ends well: %v", err)
	}
	for name, pid := range processes {
		if syscall.Kill(pid, 0) == nil {
			t.Errorf("nothing may be left: %s, process %d", name, pid)
		}
	}
}

// TestFaults breaks an environment in every way that tests may, none of which is a death.
func TestFaults(t *testing.T) {
	ctrl.SetLogger(logr.Discard())
	e, err := Start(t.Context(), Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Stop() })
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	admits := func(reason string) {
		t.Helper()
		if err := e.waitForAdmission(t.Context()); err != nil {
			t.Fatalf("%s: %v", reason, err)
		}
	}
	first := e.Webhooks()[0]
	second, err := e.AddWebhook(t.Context())
	check(err)
	if got := e.Webhooks(); len(got) != 2 || got[0] != first || got[1] != second || len(e.Processes()) != len(e.Cluster.PIDs)+5 {
		t.Errorf("there are two replicas: %v, %v", got, e.Processes())
	}
	check(first.Kill())
	admits("the second one takes over")
	resume, err := second.Suspend()
	check(err)
	check(resume())
	check(errors.Join(e.KillWebhook(), second.Kill(), second.Stop()))
	if len(e.Webhooks()) != 0 {
		t.Error("none is left")
	}
	if _, err := second.Suspend(); err == nil {
		t.Error("what does not run cannot be suspended")
	}
	check(e.StartWebhook(t.Context()))
	admits("the first one is back")

	api := e.Cluster.PIDs[kubernetesAPI]
	flows := e.HangAPI()
	check(e.RestartKubernetesAPI(t.Context()))
	flows()
	if now := e.Processes()[kubernetesAPI]; now == api || syscall.Kill(api, 0) == nil {
		t.Errorf("one API server takes the place of another: %d, %d", api, now)
	}
	e.CutAPI()()
	admits("the API server is back")

	resume, err = e.SuspendRegistries()
	check(err)
	check(errors.Join(resume(), resume()))
	_, err = e.ServedDigest(t.Context(), "quay.io/keycloak/keycloak:20.0.1")
	check(err)
	check(e.Stop())
}

func TestStartSaysWhatIsWrong(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(fmt.Errorf("changed my mind"))
	if _, err := Start(ctx, Options{Dir: t.TempDir()}); err == nil {
		t.Error("a start that is called off must fail")
	}
}
