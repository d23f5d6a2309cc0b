package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
)

// TestMain lets the test binary be the supervisor that up starts.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "run" {
		os.Exit(execute())
	}
	os.Exit(m.Run())
}

func TestUpAndDown(t *testing.T) {
	dir := t.TempDir()
	var log bytes.Buffer
	t.Cleanup(func() {
		if err := down(context.Background(), dir, &log); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Log(log.String())
		}
	})
	want := fmt.Sprintf("export KUBECONFIG=%s/cluster/kubeconfig\n", dir)
	var first state
	for _, when := range []string{"the first time", "again"} {
		var out bytes.Buffer
		if err := up(t.Context(), dir, &out, &log); err != nil {
			t.Fatal(err)
		}
		if out.String() != want {
			t.Errorf("up %s must print exactly what a shell can evaluate, %q, not %q", when, want, out.String())
		}
		s, err := readState(dir)
		if err != nil {
			t.Fatal(err)
		}
		if first.Supervisor.PID != 0 && first.Supervisor != s.Supervisor {
			t.Errorf("up %s must find what runs already", when)
		}
		first = *s
	}
	if err := down(t.Context(), dir, &log); err != nil {
		t.Fatal(err)
	}
	for _, p := range append(first.Children, first.Supervisor) {
		if p.alive() {
			t.Errorf("down returns when all is gone: %s, process %d", p.Name, p.PID)
		}
	}
	log.Reset()
	if err := down(t.Context(), dir, &log); err != nil || !strings.Contains(log.String(), "nothing runs") {
		t.Errorf("down says so when nothing runs: %v: %s", err, log.String())
	}
}

func TestDownEndsNobodyElse(t *testing.T) {
	dir := t.TempDir()
	stranger := newProcess("supervisor", os.Getpid())
	stranger.Start += "0" // the id is in use again, by us
	if err := (&state{Supervisor: stranger, Ready: true}).write(dir); err != nil {
		t.Fatal(err)
	}
	if err := down(t.Context(), dir, &bytes.Buffer{}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(stateFile(dir)); err == nil {
		t.Error("what is left of a supervisor that is gone is taken away")
	}
}

func TestFailedUpLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	// A file stands where a folder must be.
	if err := os.WriteFile(dir+"/istag", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	err := up(t.Context(), dir, &bytes.Buffer{}, &bytes.Buffer{})
	if err == nil || !strings.Contains(err.Error(), "not a directory") {
		t.Fatalf("it must say what is wrong: %v", err)
	}
	if s, _ := readState(dir); s != nil && syscall.Kill(s.Supervisor.PID, 0) == nil {
		t.Errorf("nothing is left running: %+v", s)
	}
}

func TestDemo(t *testing.T) {
	var out bytes.Buffer
	if err := demo(t.Context(), &out); err != nil {
		t.Errorf("%v\n%s", err, out.String())
	}
}

func TestProcessIsKnownByItsStart(t *testing.T) {
	self := newProcess("self", os.Getpid())
	if !self.alive() {
		t.Error("we run")
	}
	if gone := newProcess("gone", 1<<30); gone.alive() {
		t.Error("no process has this id")
	}
}
