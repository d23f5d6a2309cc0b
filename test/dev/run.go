package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"istag.dev/test/harness"
)

// run is the supervisor: it holds an environment until it is told to end or a process of it dies.
func run(ctx context.Context, dir string, log io.Writer) (err error) {
	dir, err = filepath.Abs(dir)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	s := &state{Supervisor: newProcess("supervisor", os.Getpid())}
	if err := s.write(dir); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(stateFile(dir))) }()
	env, err := harness.Start(ctx, harness.Options{Dir: dir, Log: log})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, env.Stop()) }()
	s.Ready, s.Kubeconfig, s.Registry = true, env.Cluster.Kubeconfig, env.Cluster.Registry
	processes := env.Processes()
	for _, name := range slices.Sorted(maps.Keys(processes)) {
		s.Children = append(s.Children, newProcess(name, processes[name]))
	}
	if err := s.write(dir); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		fmt.Fprintln(log, "told to end")
	case <-env.Dead(): // Stop says which process it was
	}
	return nil
}
