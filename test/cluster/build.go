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

	"golang.org/x/mod/modfile"
	"golang.org/x/sys/unix"
)

// assetsVariable is controller-runtime's convention: a folder with etcd,
// kube-apiserver and kubectl, and perhaps others.
const assetsVariable = "KUBEBUILDER_ASSETS"

// binaries are the commands of this module, in the order they are built: the
// small ones first, so that what breaks breaks soon.
var binaries = []string{
	"registry", "etcd", "kubectl", "kube-scheduler", "kube-apiserver", "kube-controller-manager", "kwok",
}

// Built is what [Build] returns.
type Built struct {
	// Dir is the folder of the binaries built here, even if there are none.
	Dir string
	// Paths maps the name of every binary to its path.
	Paths map[string]string
	// Versions is what they were built from.
	Versions map[string]string
}

// Build makes sure that every binary is there and tells where. Root is the
// folder under which each set of versions has its own; empty means .bin in
// this module's source. Progress goes to progress. Nothing is built, and no
// source is needed, when all of it is there already.
//
// Two of them at once, in two processes even, do not harm each other: the
// second waits for the first and then finds its work done.
func Build(ctx context.Context, root string, progress io.Writer) (*Built, error) {
	versions, err := versions()
	if err != nil {
		return nil, err
	}
	key, err := buildKey(versions)
	if err != nil {
		return nil, err
	}
	if root == "" {
		source, err := sourceDir()
		if err != nil {
			return nil, fmt.Errorf("%w; name a folder with --bin", err)
		}
		root = filepath.Join(source, ".bin")
	}
	if root, err = filepath.Abs(root); err != nil {
		return nil, err
	}
	built := &Built{Dir: filepath.Join(root, key), Paths: map[string]string{}, Versions: versions}
	missing := built.find(os.Getenv(assetsVariable))
	if len(missing) == 0 {
		return built, nil
	}
	if err := os.MkdirAll(built.Dir, 0o755); err != nil {
		return nil, err
	}
	unlock, err := lock(ctx, filepath.Join(built.Dir, ".lock"), func() {
		fmt.Fprintln(progress, "another build is at work in this folder: waiting for it")
	})
	if err != nil {
		return nil, err
	}
	defer unlock()
	// Whoever held the lock may have built them.
	missing = built.find(os.Getenv(assetsVariable))
	return built, built.compile(ctx, missing, progress)
}

// find fills Paths with what exists and returns the names of the rest.
func (b *Built) find(assets string) (missing []string) {
	for _, name := range binaries {
		b.Paths[name] = filepath.Join(b.Dir, name)
		// No asset is called registry: that one is ours, with its own flags.
		if assets != "" && name != "registry" && exists(filepath.Join(assets, name)) {
			b.Paths[name] = filepath.Join(assets, name)
		}
		if !exists(b.Paths[name]) {
			missing = append(missing, name)
		}
	}
	return missing
}

// compile builds the named binaries, one after the other.
func (b *Built) compile(ctx context.Context, names []string, progress io.Writer) error {
	if len(names) == 0 {
		return nil
	}
	source, err := sourceDir()
	if err != nil {
		return err
	}
	begun := time.Now()
	fmt.Fprintf(progress, "building %d binaries from their Go modules: minutes the first time, then never again\n", len(names))
	for i, name := range names {
		step := fmt.Sprintf("[%d/%d] %s", i+1, len(names), name)
		fmt.Fprintln(progress, step)
		start := time.Now()
		stopTelling := every(20*time.Second, func() {
			fmt.Fprintf(progress, "%s: still compiling after %s\n", step, time.Since(start).Round(time.Second))
		})
		err := b.compileOne(ctx, source, name)
		stopTelling()
		if err != nil {
			return fmt.Errorf("build %s: %w", name, err)
		}
		fmt.Fprintf(progress, "%s: %s\n", step, time.Since(start).Round(100*time.Millisecond))
	}
	fmt.Fprintf(progress, "built in %s: %s\n", time.Since(begun).Round(time.Second), b.Dir)
	return nil
}

// compileOne builds under another name and renames at the end, so that a file
// under the binary's own name is always a whole one.
func (b *Built) compileOne(ctx context.Context, source, name string) error {
	unfinished := filepath.Join(b.Dir, "."+name+".unfinished")
	// The product's workspace or vendoring must not choose these versions.
	// With no flag that vet, tests or linters do not have: they share its cache.
	command := exec.CommandContext(ctx, "go", "build", "-mod=readonly", "-buildvcs=false",
		"-ldflags", linkerFlags(b.Versions), "-o", unfinished, "./cmd/"+name)
	command.Dir = source
	command.Env = append(os.Environ(), "GOWORK=off")
	// Go starts compilers: an interrupted build ends with all of them.
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	command.Cancel = func() error { return syscall.Kill(-command.Process.Pid, syscall.SIGKILL) }
	if output, err := command.CombinedOutput(); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return fmt.Errorf("%w\n%s", err, output)
	}
	return os.Rename(unfinished, filepath.Join(b.Dir, name))
}

// sourceDir finds this module's source: the current folder, one above it, or
// test/cluster in one of those.
func sourceDir() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		for _, candidate := range []string{dir, filepath.Join(dir, "test", "cluster")} {
			data, err := os.ReadFile(filepath.Join(candidate, "go.mod"))
			if err == nil && modfile.ModulePath(data) == moduleName {
				return candidate, nil
			}
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("the source of %s is not at or above the current folder", moduleName)
		}
		dir = filepath.Dir(dir)
	}
}

// lock takes the file's lock, which ends with the process at the latest, and
// returns what releases it. It calls waiting once if another holder is there.
func lock(ctx context.Context, path string, waiting func()) (unlock func(), err error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	// Tried again and again rather than waited for: flock heeds no context.
	for told := false; ; {
		err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { _ = file.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errors.Join(fmt.Errorf("lock %q: %w", path, err), file.Close())
		}
		if !told && waiting != nil {
			waiting()
			told = true
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(context.Cause(ctx), file.Close())
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// every calls tell at each interval until the function it returns is called.
func every(interval time.Duration, tell func()) (stop func()) {
	ticker, done := time.NewTicker(interval), make(chan struct{})
	go func() {
		for {
			select {
			case <-ticker.C:
				tell()
			case <-done:
				return
			}
		}
	}()
	return func() { ticker.Stop(); close(done) }
}

// exists tells whether path is there.
func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
