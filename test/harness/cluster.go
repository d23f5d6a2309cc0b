package harness

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"syscall"
)

// Cluster is what the local cluster says of itself when it is ready; test/cluster documents each field.
type Cluster struct {
	Kubeconfig        string            `json:"kubeconfig"`
	APIServer         string            `json:"apiServer"`
	CAFile            string            `json:"caFile"`
	Kubectl           string            `json:"kubectl"`
	Registry          string            `json:"registry"`
	RegistryAccessLog string            `json:"registryAccessLog"`
	PrivateRegistry   PrivateRegistry   `json:"privateRegistry"`
	Mirrors           map[string]string `json:"mirrors"`
	Images            []Image           `json:"images"`
	LogsDir           string            `json:"logsDir"`
	PIDs              map[string]int    `json:"pids"`
}

// PrivateRegistry is the registry that asks for a password.
type PrivateRegistry struct {
	Host      string `json:"host"`
	Username  string `json:"username"`
	Password  string `json:"password"`
	AccessLog string `json:"accessLog"`
}

// Image is one tag that the registries were filled with.
type Image struct {
	Name      string            `json:"name"`
	Tag       string            `json:"tag"`
	Digest    string            `json:"digest"`
	Local     string            `json:"local"`
	Private   bool              `json:"private"`
	Platforms map[string]string `json:"platforms"`
}

// startCluster builds the command of the local cluster, runs it and waits until the cluster is ready.
// It ends when we do, however we end, because we hold its standard input.
func (e *Env) startCluster(ctx context.Context) error {
	source := filepath.Join(e.root, "test", "cluster")
	binary, err := e.build(ctx, source, ".", "cluster")
	if err != nil {
		return err
	}
	command := exec.CommandContext(context.WithoutCancel(ctx), binary, "run", "--until-stdin-closes", "--dir", filepath.Join(e.Dir, "cluster"))
	command.Dir = source
	stdin, err := command.StdinPipe()
	if err != nil {
		return err
	}
	stdout, err := command.StdoutPipe()
	if err != nil {
		return err
	}
	// It ends its children in order when its input closes, which to be killed with us would keep it from.
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	e.cluster, err = startProcess("cluster", command, filepath.Join(e.Dir, "cluster.log"), prefixed{e.log, "cluster"}, e.death.report)
	if err != nil {
		return err
	}
	e.cluster.stdin = stdin
	line := make(chan []byte, 1)
	go func() {
		text, _ := bufio.NewReader(stdout).ReadBytes('\n')
		line <- text
	}()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case text := <-line:
		e.Cluster = &Cluster{}
		if err := json.Unmarshal(text, e.Cluster); err != nil {
			<-e.cluster.exited // it says why on its own standard error
			return fmt.Errorf("reading what the cluster says of itself: %w", e.cluster.unexpected())
		}
		return nil
	}
}
