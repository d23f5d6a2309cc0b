package main

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// eventually waits for a condition, for as long as a slow machine may take.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	deadline, again := time.After(20*time.Second), time.NewTicker(10*time.Millisecond)
	defer again.Stop()
	for !condition() {
		select {
		case <-deadline:
			t.Fatalf("not so after 20 s: %s", what)
		case <-again.C:
		}
	}
}

// alive tells whether a process is there, zombies apart: they hold nothing.
func alive(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return !errors.Is(err, os.ErrNotExist)
	}
	_, state, _ := strings.Cut(string(data), ") ")
	return !strings.HasPrefix(state, "Z")
}

// readPID waits for a file with the id of a process.
func readPID(t *testing.T, path string) (pid int) {
	t.Helper()
	eventually(t, path+" has a process id", func() bool {
		data, _ := os.ReadFile(path)
		var err error
		pid, err = strconv.Atoi(strings.TrimSpace(string(data)))
		return err == nil && strings.HasSuffix(string(data), "\n")
	})
	return pid
}

func TestStopEndsWholeGroups(t *testing.T) {
	cases := map[string]struct {
		reason, script string
	}{
		"polite":   {"a child of the component gets the signal too", `sleep 600 & echo $! >"$0"; wait`},
		"orphan":   {"what ignores the signal ends when its leader has", `(trap "" TERM; sleep 600) & echo $! >"$0"; wait`},
		"stubborn": {"a leader that ignores the signal is killed", `trap "" TERM; sleep 600 & echo $! >"$0"; while :; do wait; done`},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			p := &processes{logsDir: dir, grace: 500 * time.Millisecond, died: func(err error) { t.Errorf("reported as died: %v", err) }}
			file := filepath.Join(dir, "pid")
			if err := p.start("component", "/bin/sh", "-c", tc.script, file); err != nil {
				t.Fatal(err)
			}
			leader, child := p.pids()["component"], readPID(t, file)
			p.stop()
			if alive(leader) {
				t.Errorf("%s: the leader lives", tc.reason)
			}
			eventually(t, tc.reason, func() bool { return !alive(child) })
		})
	}
}

func TestStopIsInReverseOrder(t *testing.T) {
	dir := t.TempDir()
	p := &processes{logsDir: dir, grace: 5 * time.Second, died: func(err error) { t.Errorf("reported as died: %v", err) }}
	order := filepath.Join(dir, "order")
	for _, name := range []string{"first", "second", "third"} {
		script := `trap 'echo ` + name + ` >>"$0"; exit' TERM; echo $$ >"$0.` + name + `"; while :; do sleep 0.01; done`
		if err := p.start(name, "/bin/sh", "-c", script, order); err != nil {
			t.Fatal(err)
		}
		readPID(t, order+"."+name) // its trap is set
	}
	p.stop()
	data, err := os.ReadFile(order)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := string(data), "third\nsecond\nfirst\n"; got != want {
		t.Errorf("ended in order %q, want %q: a component must outlive those that need it", got, want)
	}
	if err := p.start("late", "/bin/true"); err == nil {
		t.Error("nothing may start once the cluster is ending: nobody would stop it")
	}
}

func TestRestart(t *testing.T) {
	dir := t.TempDir()
	p := &processes{logsDir: dir, grace: 5 * time.Second, died: func(err error) { t.Errorf("reported as died: %v", err) }}
	t.Cleanup(p.stop)
	if err := p.start("etcd", "/bin/sh", "-c", "sleep 600"); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "file")
	if err := p.start("api", "/bin/sh", "-c", `trap "" TERM; echo started; echo $$ >"$0"; while :; do sleep 0.01; done`, file); err != nil {
		t.Fatal(err)
	}
	before, old := p.pids(), readPID(t, file)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := p.restart("api"); err != nil {
		t.Fatal(err)
	}
	now := readPID(t, file)
	if alive(old) || now == old || p.pids()["api"] != now || p.pids()["etcd"] != before["etcd"] {
		t.Errorf("one process takes the place of another, and no other's: %v, then %v", before, p.pids())
	}
	if log, err := os.ReadFile(filepath.Join(dir, "api.log")); err != nil || string(log) != "started\nstarted\n" {
		t.Errorf("the log goes on: %q, %v", log, err)
	}
	if err := p.restart("nonesuch"); err == nil {
		t.Error("what does not run cannot be started again")
	}
}

func TestUnexpectedEndIsReported(t *testing.T) {
	died := make(chan error, 1)
	p := &processes{logsDir: t.TempDir(), grace: time.Second, died: func(err error) { died <- err }}
	t.Cleanup(p.stop)
	if err := p.start("etcd", "/bin/sh", "-c", `echo "bind: address already in use" >&2; exit 3`); err != nil {
		t.Fatal(err)
	}
	err := <-died
	var exit *exitError
	if !errors.As(err, &exit) || exit.name != "etcd" {
		t.Fatalf("the error must name the component: %v", err)
	}
	if !strings.Contains(err.Error(), "already in use") {
		t.Errorf("the error must show the end of the log: %v", err)
	}
	if !isPortTaken(err) {
		t.Errorf("a port that is taken must be seen as such: %v", err)
	}
	if isPortTaken(errors.New("something else")) {
		t.Error("other errors are no reason to start again")
	}
}
