package harness

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// roleGrace outlasts the time that a role gives the requests under way.
	roleGrace = 50 * time.Second
	// clusterGrace outlasts the time that the cluster gives each of its components.
	clusterGrace = 60 * time.Second
	// tailSize is how much of its log an error about a process shows.
	tailSize = 3000
)

// process is a running child. It leads a process group of its own, so that a Ctrl-C in the terminal
// reaches only us and we choose the order in which the children end.
type process struct {
	name    string
	logFile string
	command *exec.Cmd
	// stdin, if not nil, is closed to end the process; otherwise it gets SIGTERM.
	stdin    io.Closer
	stopping atomic.Bool
	// exited is closed once the process is gone and err is set.
	exited chan struct{}
	err    error
}

// startProcess starts a command with its standard error appended to a log, and to also if that is not
// nil. Died is called if it ends before it is stopped.
func startProcess(name string, command *exec.Cmd, logFile string, also io.Writer, died func(error)) (*process, error) {
	log, err := os.OpenFile(logFile, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	p := &process{name: name, logFile: logFile, command: command, exited: make(chan struct{})}
	command.Stderr = log
	if also != nil {
		command.Stderr = io.MultiWriter(log, also)
	}
	if command.SysProcAttr == nil {
		command.SysProcAttr = childAttributes()
	}
	// Whoever inherited its standard error must not keep us waiting.
	command.WaitDelay = time.Second
	if err := command.Start(); err != nil {
		_ = log.Close()
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	go func() {
		p.err = command.Wait()
		_ = log.Close()
		close(p.exited)
		if !p.stopping.Load() {
			died(p.unexpected())
		}
	}()
	return p, nil
}

// unexpected says how the process ended, with the end of its log.
func (p *process) unexpected() error {
	how := "exited with 0"
	if p.err != nil {
		how = p.err.Error()
	}
	return fmt.Errorf("%s ended as it should not (%s); the end of %s:\n%s", p.name, how, p.logFile, tail(p.logFile))
}

// stop ends the process, politely first, and returns when it is gone. A process that had to be killed is
// an error, because whatever it owned may have outlived it, and so is one that ends with a complaint: the
// race detector's comes at the end.
func (p *process) stop(grace time.Duration) error {
	p.stopping.Store(true)
	select {
	case <-p.exited:
		return nil
	default:
	}
	if p.stdin != nil {
		_ = p.stdin.Close()
	} else {
		_ = syscall.Kill(p.command.Process.Pid, syscall.SIGTERM)
	}
	select {
	case <-p.exited:
		if p.err != nil {
			return p.unexpected()
		}
		return nil
	case <-time.After(grace):
		_ = syscall.Kill(-p.command.Process.Pid, syscall.SIGKILL)
		<-p.exited
		return fmt.Errorf("%s did not end within %s and was killed; the end of %s:\n%s", p.name, grace, p.logFile, tail(p.logFile))
	}
}

// kill ends the process by force and returns when it is gone.
func (p *process) kill() error {
	p.stopping.Store(true)
	select {
	case <-p.exited:
		return nil
	default:
	}
	// The process has not been waited for, so that its id is its own.
	if err := syscall.Kill(-p.command.Process.Pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("killing %s: %w", p.name, err)
	}
	<-p.exited
	return nil
}

// tail returns the end of a file, and nothing if it cannot be read.
func tail(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	if len(data) > tailSize {
		data = data[len(data)-tailSize:]
	}
	return strings.TrimRight(string(data), "\n")
}

// environment is ours without what would lead a child elsewhere than it is told.
func (e *Env) environment() []string {
	var kept []string
	for _, variable := range os.Environ() {
		name, _, _ := strings.Cut(variable, "=")
		if name == "KUBECONFIG" || name == "KUBECACHEDIR" || strings.HasSuffix(strings.ToUpper(name), "_PROXY") {
			continue
		}
		kept = append(kept, variable)
	}
	return append(kept, "KUBECACHEDIR="+filepath.Join(e.Dir, "kubectl-cache"))
}
