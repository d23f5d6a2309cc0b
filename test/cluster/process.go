package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// tailSize is how much of its log an error about a process shows.
const tailSize = 3000

// process is a running component, the leader of a process group of its own:
// a Ctrl-C in the terminal reaches only us, so that we choose the order in
// which they end, and whatever it starts ends with it.
type process struct {
	name    string
	logFile string
	command *exec.Cmd
	// exited is closed once the process is gone and err is set.
	exited chan struct{}
	err    error
}

// processes starts components and ends them in reverse order. Its methods may
// be called from several goroutines.
type processes struct {
	logsDir string
	grace   time.Duration
	// died is called with the reason when a process ends that nobody stopped.
	died func(error)

	mu       sync.Mutex
	running  []*process
	stopping bool
}

// start runs a binary with its output in a log of its own.
func (p *processes) start(name, path string, args ...string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopping {
		return fmt.Errorf("start %s: the cluster is ending", name)
	}
	child := &process{name: name, logFile: filepath.Join(p.logsDir, name+".log"), exited: make(chan struct{})}
	log, err := os.Create(child.logFile)
	if err != nil {
		return err
	}
	// The child has its own descriptor.
	defer log.Close()
	child.command = exec.Command(path, args...)
	child.command.Stdout, child.command.Stderr = log, log
	child.command.Env = childEnvironment()
	child.command.SysProcAttr = childAttributes()
	if err := child.command.Start(); err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	p.running = append(p.running, child)
	go p.wait(child)
	return nil
}

// wait reaps the child and reports a death nobody asked for.
func (p *processes) wait(child *process) {
	err := child.command.Wait()
	// What the leader leaves behind in its group must not outlive it.
	_ = syscall.Kill(-child.command.Process.Pid, syscall.SIGKILL)
	child.err = err
	close(child.exited)
	p.mu.Lock()
	stopping := p.stopping
	p.mu.Unlock()
	if !stopping {
		p.died(&exitError{name: child.name, err: err, logFile: child.logFile, tail: tail(child.logFile)})
	}
}

// stop ends every process, the last one started first, each with its group:
// politely, and by force when grace is over. It returns when all are gone.
func (p *processes) stop() {
	p.mu.Lock()
	p.stopping = true
	running := p.running
	p.running = nil
	p.mu.Unlock()
	for i := len(running) - 1; i >= 0; i-- {
		running[i].stop(p.grace)
	}
}

func (c *process) stop(grace time.Duration) {
	select {
	case <-c.exited:
		return
	default:
	}
	_ = syscall.Kill(-c.command.Process.Pid, syscall.SIGTERM)
	select {
	case <-c.exited:
	case <-time.After(grace):
		_ = syscall.Kill(-c.command.Process.Pid, syscall.SIGKILL)
		<-c.exited
	}
}

// pids maps the name of each process to its id.
func (p *processes) pids() map[string]int {
	p.mu.Lock()
	defer p.mu.Unlock()
	pids := map[string]int{}
	for _, child := range p.running {
		pids[child.name] = child.command.Process.Pid
	}
	return pids
}

// exitError says that a component ended though nobody stopped it.
type exitError struct {
	name    string
	err     error // nil when it exited with 0
	logFile string
	tail    string
}

// Error implements error.
func (e *exitError) Error() string {
	how := "exited with 0"
	if e.err != nil {
		how = e.err.Error()
	}
	return fmt.Sprintf("%s ended unexpectedly (%s); the end of %s:\n%s", e.name, how, e.logFile, e.tail)
}

// Unwrap returns how the process ended.
func (e *exitError) Unwrap() error { return e.err }

// isPortTaken tells whether err is a component that could not bind its port:
// somebody took it between our choosing it and the component's start.
func isPortTaken(err error) bool {
	var exit *exitError
	return errors.As(err, &exit) && strings.Contains(exit.tail, "address already in use")
}

// tail returns the end of a file, and nothing if it cannot be read.
func tail(path string) string {
	file, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer file.Close()
	if info, err := file.Stat(); err == nil && info.Size() > tailSize {
		if _, err := file.Seek(-tailSize, io.SeekEnd); err != nil {
			return ""
		}
	}
	data, err := io.ReadAll(file)
	if err != nil {
		return ""
	}
	return string(data)
}

// childEnvironment is ours without what would change a component from outside:
// etcd and the registry read each of their settings from a variable too,
// Kubernetes its feature gates, and everything its proxies.
func childEnvironment() []string {
	var kept []string
	for _, variable := range os.Environ() {
		switch {
		case strings.HasPrefix(variable, "ETCD_"), strings.HasPrefix(variable, "REGISTRY_"),
			strings.HasPrefix(variable, "OTEL_"), strings.HasPrefix(variable, "KUBE"),
			strings.HasPrefix(strings.ToUpper(strings.SplitN(variable, "=", 2)[0]), "HTTP"):
		default:
			kept = append(kept, variable)
		}
	}
	return kept
}
