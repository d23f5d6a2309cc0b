package harness

import "fmt"

// Result is what a command said and how it ended.
type Result struct {
	// Command is the line that was run, for people.
	Command        string
	Stdout, Stderr string
	// Code is the exit code, or -1 if the command did not run or did not end by itself.
	Code int
}

// Err is nil if the command succeeded, and otherwise holds all it said.
func (r Result) Err() error {
	if r.Code == 0 {
		return nil
	}
	return fmt.Errorf("%s: exit code %d\n%s%s", r.Command, r.Code, r.Stdout, r.Stderr)
}
