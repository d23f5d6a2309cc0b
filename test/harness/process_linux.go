package harness

import "syscall"

// childAttributes makes a process lead a group of its own, and has the kernel kill it should we die
// without a chance to stop it.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
