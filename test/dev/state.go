package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// state is what the supervisor leaves in its folder for up and down.
type state struct {
	Supervisor process `json:"supervisor"`
	// Ready says that the rest is there and the cluster can be used.
	Ready      bool      `json:"ready"`
	Kubeconfig string    `json:"kubeconfig,omitempty"`
	Registry   string    `json:"registry,omitempty"`
	Children   []process `json:"children,omitempty"`
}

func stateFile(dir string) string { return filepath.Join(dir, "dev.json") }

// readState returns nil if there is none.
func readState(dir string) (*state, error) {
	data, err := os.ReadFile(stateFile(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	s := &state{}
	return s, json.Unmarshal(data, s)
}

// write lets a reader see the old state or the new one, never half of it.
func (s *state) write(dir string) error {
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	next := stateFile(dir) + ".new"
	if err := os.WriteFile(next, append(data, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(next, stateFile(dir))
}

// process is known by its id and its start: an id alone may be somebody else's by now.
type process struct {
	Name  string `json:"name"`
	PID   int    `json:"pid"`
	Start string `json:"start"`
}

func newProcess(name string, pid int) process { return process{name, pid, startOf(pid)} }

// alive reports whether the process still runs.
func (p process) alive() bool { return p.Start != "" && startOf(p.PID) == p.Start }

// startOf returns when a process started, in whatever way the system tells it, and nothing if it does
// not run.
func startOf(pid int) string {
	if syscall.Kill(pid, 0) != nil {
		return ""
	}
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		output, err := exec.CommandContext(context.Background(), "ps", "-o", "lstart=", "-p", strconv.Itoa(pid)).Output()
		if err != nil {
			return ""
		}
		return strings.TrimSpace(string(output))
	}
	// The name, in parentheses, may hold anything. After it come the state and, 19 fields later, the start.
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	if len(fields) < 20 || fields[0] == "Z" {
		return ""
	}
	return fields[19]
}

// lock keeps a second up or down out of a folder until the returned function is called.
func lock(dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(filepath.Join(dir, "dev.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(errors.New("another up or down is at work in this folder"), file.Close())
	}
	return func() { _ = file.Close() }, nil
}
