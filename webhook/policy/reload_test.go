package policy

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/util/wait"

	"istag.dev/config"
)

const (
	head      = "apiVersion: config.istag.dev/v1\nkind: Configuration\n"
	attempt   = head + "policy: {resolveImages: Attempt}\n"
	required  = head + "policy: {resolveImages: Required}\n"
	broken    = head + "policy: {resolveImages: Never}\n"
	unrelated = required + "streams: {historyLimit: 7}\nhealthAddress: ':1'\n"
)

// following is a Current under test, and what it said.
type following struct {
	*Current
	t *testing.T

	mu      sync.Mutex
	results []string
	logged  []string
}

// follow starts to follow a file, which holds attempt unless it is there already, until the test ends.
func follow(t *testing.T, path string, tune ...func(*Current)) *following {
	t.Helper()
	c, err := config.Parse([]byte(attempt))
	if err != nil {
		t.Fatal(err)
	}
	f := &following{t: t}
	if f.Current, err = Follow(path, c, f.result); err != nil {
		t.Fatal(err)
	}
	f.settle = time.Millisecond
	for _, change := range tune {
		change(f.Current)
	}
	ctx, cancel := context.WithCancel(logr.NewContext(t.Context(), funcr.New(f.log, funcr.Options{})))
	done := make(chan error)
	go func() { done <- f.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("stopping on request is no failure: %v", err)
		}
	})
	return f
}

func (f *following) result(result string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.results = append(f.results, result)
}

func (f *following) log(_, args string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.logged = append(f.logged, args)
}

// await waits until exactly the results wanted were reported.
func (f *following) await(reason string, want ...string) {
	f.t.Helper()
	f.until(reason, func() bool { return len(f.results) >= len(want) })
	f.mu.Lock()
	defer f.mu.Unlock()
	if diff := cmp.Diff(want, f.results); diff != "" {
		f.t.Fatalf("%s: -want +got:\n%s", reason, diff)
	}
}

// said waits until something was logged, and returns how many times it was.
func (f *following) said(text string) int {
	f.t.Helper()
	count := func() (n int) {
		for _, line := range f.logged {
			if strings.Contains(line, text) {
				n++
			}
		}
		return n
	}
	f.until("the log says "+text, func() bool { return count() > 0 })
	f.mu.Lock()
	defer f.mu.Unlock()
	return count()
}

func (f *following) until(reason string, holds func() bool) {
	f.t.Helper()
	if err := wait.PollUntilContextTimeout(f.t.Context(), time.Millisecond, 30*time.Second, true, func(context.Context) (bool, error) {
		f.mu.Lock()
		defer f.mu.Unlock()
		return holds(), nil
	}); err != nil {
		f.t.Fatalf("%s: results %v, log %v", reason, f.results, f.logged)
	}
}

func (f *following) requires(reason string, want bool) {
	f.t.Helper()
	if got := f.Get().Requires(); got != want {
		f.t.Errorf("%s: Requires() = %t", reason, got)
	}
}

// write replaces a file in one step, so that nobody reads half of it.
func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func TestFollow(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.yaml")
	write(t, path, attempt)
	f := follow(t, path)
	f.requires("the policy is that of the start", false)

	write(t, path, required)
	f.await("another policy is taken over", Reloaded)
	f.requires("the policy in force is the file's", true)
	before := f.Get()

	write(t, path, broken)
	f.await("what is not valid is refused", Reloaded, Failed)
	f.requires("the old policy stays", true)
	if f.Get() != before {
		t.Error("what is refused changes nothing")
	}

	write(t, path, required+"# mended\n")
	write(t, path, head+"policy: nonsense\n")
	f.await("another file that is not valid is refused, too", Reloaded, Failed, Failed)
	write(t, path, attempt)
	f.await("a file that is valid again is taken over", Reloaded, Failed, Failed, Reloaded)
	f.requires("the policy in force is the file's", false)
}

func TestFollowChangedBeforeStart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.yaml")
	write(t, path, required)
	f := follow(t, path)
	f.await("a change between the first reading of the file and the start of its watch is not lost", Reloaded)
}

func TestFollowInPlace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.yaml")
	write(t, path, attempt)
	f := follow(t, path)
	if err := os.WriteFile(path, []byte(required), 0o600); err != nil {
		t.Fatal(err)
	}
	f.until("a file that is written where it is is followed, too", func() bool { return f.Get().Requires() })
}

func TestFollowOtherSections(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.yaml")
	write(t, path, attempt)
	f := follow(t, path)
	write(t, path, unrelated)
	f.await("the policy is taken over", Reloaded)
	if n := f.said(`"sections"="healthAddress streams"`); n != 1 {
		t.Errorf("other sections take effect at the next start, and that is said once, not %d times", n)
	}
	write(t, path, unrelated+"# a comment\n")
	write(t, path, attempt)
	f.await("a change that changes no policy counts for nothing", Reloaded, Reloaded)
}

// TestFollowVolume replaces the file as the kubelet does with those of a ConfigMap.
func TestFollowVolume(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "config.yaml")
	data := filepath.Join(dir, "..data")
	swap := func(version, text string) {
		t.Helper()
		if err := os.Mkdir(filepath.Join(dir, version), 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, version, "config.yaml"), text)
		if err := os.Symlink(version, data+"_tmp"); err != nil {
			t.Fatal(err)
		}
		old, _ := os.Readlink(data)
		if err := os.Rename(data+"_tmp", data); err != nil {
			t.Fatal(err)
		}
		if old != "" {
			if err := os.RemoveAll(filepath.Join(dir, old)); err != nil {
				t.Fatal(err)
			}
		}
	}
	swap("..1", attempt)
	if err := os.Symlink(filepath.Join("..data", "config.yaml"), path); err != nil {
		t.Fatal(err)
	}
	f := follow(t, path)
	swap("..2", required)
	f.await("a volume's file is followed", Reloaded)
	f.requires("the policy in force is the volume's", true)
	swap("..3", broken)
	f.await("a volume's file that is not valid is refused", Reloaded, Failed)
	swap("..4", attempt)
	f.await("a volume's file is followed on", Reloaded, Failed, Reloaded)
	f.requires("the policy in force is the volume's", false)
}

// TestFollowUnwatched changes a file of which the watched folder says nothing.
func TestFollowUnwatched(t *testing.T) {
	elsewhere := filepath.Join(t.TempDir(), "real.yaml")
	write(t, elsewhere, attempt)
	path := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.Symlink(elsewhere, path); err != nil {
		t.Fatal(err)
	}
	f := follow(t, path, func(c *Current) { c.every = 5 * time.Millisecond })
	write(t, elsewhere, required)
	f.await("the file is read now and then", Reloaded)
}

func TestFollowGone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "etc")
	path := filepath.Join(dir, "config.yaml")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, path, required)
	f := follow(t, path, func(c *Current) { c.every = 5 * time.Millisecond })
	f.await("the file is followed", Reloaded)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	f.said("cannot be read")
	f.requires("a file that is gone takes nothing with it", true)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, path, attempt)
	f.await("a file that comes back, in a folder that came back, is followed on", Reloaded, Reloaded)
	if n := f.said("cannot be read"); n != 1 {
		t.Errorf("that it was gone is said once, not %d times", n)
	}
}

func TestFollowSaysOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.yaml")
	write(t, path, broken)
	f := follow(t, path, func(c *Current) { c.every = 2 * time.Millisecond })
	f.await("what is not valid is refused", Failed)
	write(t, path, broken) // the same again
	write(t, filepath.Join(filepath.Dir(path), "other"), "not ours")
	write(t, path, required)
	f.await("the same text is refused once", Failed, Reloaded)
	if n := f.said("is refused"); n != 1 {
		t.Errorf("the same text is logged once, not %d times", n)
	}
}

func TestFollowNoFile(t *testing.T) {
	current, err := Follow("", config.Default(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := current.Start(t.Context()); err != nil {
		t.Errorf("there is nothing to follow: %v", err)
	}
	if current.Get() == nil || current.NeedLeaderElection() {
		t.Error("every replica has a policy")
	}
}

func TestFollowWorkloads(t *testing.T) {
	c, err := config.Parse([]byte(head + "webhook: {workloads: [{group: argoproj.io, resource: rollouts, podSpec: spec.template.spec}]}"))
	if err != nil {
		t.Fatal(err)
	}
	current, err := Follow("", c, nil)
	if err != nil {
		t.Fatal(err)
	}
	if !current.Get().Rewrites(rollouts, false, true) {
		t.Error("custom resources of the configuration are covered by default")
	}
	if changed, err := current.take(t.Context(), []byte(head+"policy: {executionRules: [{name: a}]}")); err != nil || !changed {
		t.Fatal(changed, err)
	}
	if !current.Get().Rewrites(rollouts, false, true) {
		t.Error("which resources are custom workloads is only read at the start")
	}
	c.Policy.ExecutionRules = []config.ExecutionRule{unselectable}
	if _, err := Follow("", c, nil); err == nil {
		t.Error("a policy that cannot be compiled is an error")
	}
}
