package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

const (
	pollInterval = 100 * time.Millisecond
	// endTimeout outlasts the graces that the supervisor gives all it started.
	endTimeout = 2 * time.Minute
	tailSize   = 3000
)

// up leaves a supervisor running that holds the cluster, and prints how to use it. Only the line for
// the shell goes to out.
func up(ctx context.Context, dir string, out, log io.Writer) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	unlock, err := lock(dir)
	if err != nil {
		return err
	}
	defer unlock()
	current, err := readState(dir)
	if err != nil {
		return err
	}
	if current != nil && current.Ready && current.Supervisor.alive() {
		fmt.Fprintf(log, "it runs already, in %s\n", dir)
		tell(current, dir, out, log)
		return nil
	}
	if err := end(ctx, current, dir); err != nil {
		return err
	}
	current, err = launch(ctx, dir, log)
	if err != nil {
		return err
	}
	tell(current, dir, out, log)
	return nil
}

func tell(s *state, dir string, out, log io.Writer) {
	fmt.Fprintf(log, "registry: http://%s\nto end it: make down (go run ./test/dev down --dir %s)\n", s.Registry, dir)
	fmt.Fprintf(out, "export KUBECONFIG=%s\n", quote(s.Kubeconfig))
}

// launch starts the supervisor in a session of its own and waits until it is ready. If it does not get
// there, it leaves nothing running.
func launch(ctx context.Context, dir string, log io.Writer) (*state, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	logFile := filepath.Join(dir, "dev.log")
	output, err := os.Create(logFile)
	if err != nil {
		return nil, err
	}
	defer output.Close()
	// It goes on when we have ended.
	command := exec.CommandContext(context.WithoutCancel(ctx), self, "run", "--dir", dir)
	command.Stdout, command.Stderr = output, output
	command.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := command.Start(); err != nil {
		return nil, err
	}
	exited := make(chan struct{})
	go func() {
		_ = command.Wait() // the log says how it ended
		close(exited)
	}()
	ready, err := follow(ctx, dir, logFile, log, exited)
	if err == nil {
		return ready, nil
	}
	_ = command.Process.Signal(syscall.SIGTERM)
	<-exited
	return nil, fmt.Errorf("%w; the end of %s:\n%s", err, logFile, tail(logFile))
}

// follow shows the supervisor's log until it is ready.
func follow(ctx context.Context, dir, logFile string, log io.Writer, exited <-chan struct{}) (*state, error) {
	file, err := os.Open(logFile)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil, errors.New("interrupted")
		case <-exited:
			return nil, errors.New("it could not be started")
		case <-ticker.C:
		}
		if _, err := io.Copy(log, file); err != nil {
			return nil, err
		}
		current, err := readState(dir)
		if err != nil {
			return nil, err
		}
		if current != nil && current.Ready && current.Supervisor.alive() {
			return current, nil
		}
	}
}

// down ends what up left running.
func down(ctx context.Context, dir string, log io.Writer) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		fmt.Fprintf(log, "nothing runs in %s\n", dir)
		return nil
	}
	unlock, err := lock(dir)
	if err != nil {
		return err
	}
	defer unlock()
	current, err := readState(dir)
	if err != nil {
		return err
	}
	if current == nil || !current.Supervisor.alive() {
		fmt.Fprintf(log, "nothing runs in %s\n", dir)
		return end(ctx, current, dir)
	}
	begun := time.Now()
	if err := end(ctx, current, dir); err != nil {
		return err
	}
	fmt.Fprintf(log, "ended in %s\n", time.Since(begun).Round(10*time.Millisecond))
	return nil
}

// end ends a supervisor and waits until it and all that it had started are gone. The children are never
// signalled: they end with their supervisor, even if that was killed.
func end(ctx context.Context, s *state, dir string) error {
	if s == nil {
		return nil
	}
	if s.Supervisor.alive() {
		if err := syscall.Kill(s.Supervisor.PID, syscall.SIGTERM); err != nil {
			return fmt.Errorf("ending process %d: %w", s.Supervisor.PID, err)
		}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, endTimeout, fmt.Errorf("not within %s", endTimeout))
	defer cancel()
	for _, p := range append([]process{s.Supervisor}, s.Children...) {
		for p.alive() {
			select {
			case <-ctx.Done():
				return fmt.Errorf("waiting for the end of %s, process %d: %w", p.Name, p.PID, context.Cause(ctx))
			case <-time.After(pollInterval):
			}
		}
	}
	// It is still there if the supervisor was killed.
	if err := os.Remove(stateFile(dir)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// tail returns the end of a file.
func tail(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(data[max(0, len(data)-tailSize):])
}
