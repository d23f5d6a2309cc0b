//go:build !linux

package harness

import "syscall"

// childAttributes makes a process lead a group of its own.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}
