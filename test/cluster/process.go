package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
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
	// replaced says, under the lock of the processes, that its end is wanted.
	replaced bool
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
	child, err := p.launch(os.O_TRUNC, name, path, args)
	if err != nil {
		return err
	}
	p.running = append(p.running, child)
	return nil
}

// restart kills a component and starts it again as it was. Its log goes on.
func (p *processes) restart(name string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	at := slices.IndexFunc(p.running, func(c *process) bool { return c.name == name })
	if at < 0 {
		return fmt.Errorf("restart %s: it does not run", name)
	}
	old := p.running[at]
	old.replaced = true
	_ = syscall.Kill(-old.command.Process.Pid, syscall.SIGKILL)
	p.mu.Unlock()
	<-old.exited
	p.mu.Lock()
	child, err := p.launch(os.O_APPEND, name, old.command.Path, old.command.Args[1:])
	if err != nil {
		return err
	}
	p.running[at] = child
	return nil
}

// launch runs a binary with its output in a log, opened by the flag given. The caller holds mu.
func (p *processes) launch(flag int, name, path string, args []string) (*process, error) {
	if p.stopping {
		return nil, fmt.Errorf("start %s: the cluster is ending", name)
	}
	child := &process{name: name, logFile: filepath.Join(p.logsDir, name+".log"), exited: make(chan struct{})}
	log, err := os.OpenFile(child.logFile, os.O_CREATE|os.O_WRONLY|flag, 0o666)
	if err != nil {
		return nil, err
	}
	// The child has its own descriptor.
	defer log.Close()
	child.command = exec.Command(path, args...)
	child.command.Stdout, child.command.Stderr = log, log
	child.command.Env = childEnvironment()
	child.command.SysProcAttr = childAttributes()
	if err := child.command.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go p.wait(child)
	return child, nil
}

// wait reaps the child and reports a death nobody asked for.
func (p *processes) wait(child *process) {
	err := child.command.Wait()
	// What the leader leaves behind in its group must not outlive it.
	_ = syscall.Kill(-child.command.Process.Pid, syscall.SIGKILL)
	child.err = err
	close(child.exited)
	p.mu.Lock()
	wanted := p.stopping || child.replaced
	p.mu.Unlock()
	if !wanted {
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
