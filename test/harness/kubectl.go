package harness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// Result is what a command said and how it ended.
type Result struct {
	// Command is the line that was run, for people.
	Command        string
	Stdout, Stderr string
	// Code is the exit code, or -1 if the command did not run or did not end by itself.
	Code int
}

// Err is nil if the command succeeded, and otherwise holds all it said.
func (r Result) Err() error {
	if r.Code == 0 {
		return nil
	}
	return fmt.Errorf("%s: exit code %d\n%s%s", r.Command, r.Code, r.Stdout, r.Stderr)
}

// Kubectl runs kubectl as the cluster's administrator.
func (e *Env) Kubectl(ctx context.Context, args ...string) Result {
	return e.KubectlStdin(ctx, "", args...)
}

// KubectlStdin runs kubectl with text on its standard input.
func (e *Env) KubectlStdin(ctx context.Context, stdin string, args ...string) Result {
	command := exec.CommandContext(ctx, e.Cluster.Kubectl, args...)
	command.Env = append(e.environment(), "KUBECONFIG="+e.Cluster.Kubeconfig)
	command.WaitDelay = time.Second
	var stdout, stderr bytes.Buffer
	command.Stdin, command.Stdout, command.Stderr = strings.NewReader(stdin), &stdout, &stderr
	err := command.Run()
	result := Result{
		Command: "kubectl " + strings.Join(args, " "),
		Stdout:  stdout.String(),
		Stderr:  stderr.String(),
		Code:    command.ProcessState.ExitCode(),
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		result.Code, result.Stderr = -1, result.Stderr+err.Error()+"\n"
	}
	return result
}
