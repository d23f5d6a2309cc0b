package harness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// moduleRoot is the folder of the main module's go.mod, found from the current folder.
func moduleRoot(ctx context.Context) (string, error) {
	output, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("asking go for the module: %w", err)
	}
	mod := strings.TrimSpace(string(output))
	if mod == "" || mod == os.DevNull {
		return "", errors.New("the current folder is in no Go module: go to the repository")
	}
	return filepath.Dir(mod), nil
}

// build builds the package of a module into the environment's folder. What is there and up to date is
// not linked again.
func (e *Env) build(ctx context.Context, module, pkg, name string, flags ...string) (string, error) {
	begun, output := time.Now(), filepath.Join(e.Dir, "bin", name)
	args := append([]string{"build", "-C", module, "-buildvcs=false"}, flags...)
	command := exec.CommandContext(ctx, "go", append(args, "-o", output, pkg)...)
	// Two modules are built here, of which a workspace may know only one.
	command.Env = append(os.Environ(), "GOWORK=off")
	// Go starts compilers: an interrupted build ends with all of them.
	command.SysProcAttr = childAttributes()
	command.Cancel = func() error { return syscall.Kill(-command.Process.Pid, syscall.SIGKILL) }
	if said, err := command.CombinedOutput(); err != nil {
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		return "", fmt.Errorf("building %s: %w\n%s", name, err, said)
	}
	e.log.printf("built %s in %s", name, time.Since(begun).Round(100*time.Millisecond))
	return output, nil
}

// buildIstag builds the server, with the race detector if we have it.
func (e *Env) buildIstag(ctx context.Context) error {
	var flags []string
	if raceDetector {
		flags = append(flags, "-race")
	}
	_, err := e.build(ctx, e.root, "./cmd/istag", "istag", flags...)
	return err
}

// istag is the path of the server that buildIstag builds.
func (e *Env) istag() string { return filepath.Join(e.Dir, "bin", "istag") }
