package policy

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/fsnotify/fsnotify"
	logf "sigs.k8s.io/controller-runtime/pkg/log"

	"istag.dev/config"
)

// What became of a changed configuration file.
const (
	Reloaded = "ok"     // another policy is in force
	Failed   = "failed" // the file cannot be used, and the policy stays
)

const (
	// readEvery is how often the file is read although nobody says that it changed: some file systems say
	// nothing, nor does the folder of a symbolic link of what happens to the file that it leads to.
	readEvery = time.Minute
	// settle is how long the file must have been still before it is read. An editor writes in several
	// steps, and half a file can be a valid one.
	settle = 200 * time.Millisecond
	// volumeLink is the symbolic link that the kubelet swaps to replace the files of a volume.
	volumeLink = "..data"
)

// Current is the policy in force. It follows the configuration file while its Start runs.
type Current struct {
	path     string
	started  *config.Configuration // what the process was started with
	reloaded func(result string)

	every, settle time.Duration // readEvery and settle, but for tests

	policy atomic.Pointer[Policy]

	// These are Start's alone:
	configured config.Policy // what policy was compiled from
	last       []byte        // what the file held when it was last read
	trouble    string        // why it could not be read, if it could not
}

// Follow returns the policy of a configuration that was read from a file, an empty path meaning that
// there is none. reloaded is called after each change of the file that changes the policy, with Reloaded,
// once the other one is in force, and after each that cannot be used, with Failed; it may be nil.
func Follow(path string, c *config.Configuration, reloaded func(result string)) (*Current, error) {
	p, err := Compile(c.Policy, c.Webhook.Workloads)
	if err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	if reloaded == nil {
		reloaded = func(string) {}
	}
	current := &Current{path: path, started: c, reloaded: reloaded, every: readEvery, settle: settle, configured: c.Policy}
	current.policy.Store(p)
	return current, nil
}

// Get returns the policy in force.
func (c *Current) Get() *Policy { return c.policy.Load() }

// NeedLeaderElection says that every replica has its own policy.
func (*Current) NeedLeaderElection() bool { return false }

// Start keeps the policy equal to the file's until ctx ends, and then returns nil. Without a file it
// returns at once. Without a watch of the folder, which is logged, changes are seen late.
func (c *Current) Start(ctx context.Context) error {
	if c.path == "" {
		return nil
	}
	logger := logf.FromContext(ctx).WithName("policy")
	var (
		events <-chan fsnotify.Event
		lost   <-chan error
	)
	// The folder, not the file: a volume's files are replaced by the swap of a symbolic link beside them.
	folder := filepath.Dir(c.path)
	watcher, err := fsnotify.NewWatcher()
	if err == nil {
		defer func() { _ = watcher.Close() }()
		events, lost = watcher.Events, watcher.Errors
		err = watcher.Add(folder)
	}
	if err != nil {
		logger.Error(err, "the configuration file's folder cannot be watched; changes are seen late", "folder", folder, "every", c.every)
	}
	ticker := time.NewTicker(c.every)
	defer ticker.Stop()
	still := time.NewTimer(0) // the file may have changed since it was read
	defer still.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case event := <-events:
			if name := filepath.Base(event.Name); name == filepath.Base(c.path) || name == volumeLink {
				still.Reset(c.settle)
			}
		case err := <-lost:
			logger.Error(err, "watching the configuration file's folder", "folder", folder)
			still.Reset(c.settle)
		case <-ticker.C:
			if watcher != nil {
				_ = watcher.Add(folder) // another one may have taken its place
			}
			still.Reset(c.settle)
		case <-still.C:
			c.read(ctx)
		}
	}
}

// read looks at the file, and takes its policy over if it is a valid other one.
func (c *Current) read(ctx context.Context) {
	logger := logf.FromContext(ctx).WithName("policy").WithValues("file", c.path)
	text, err := os.ReadFile(c.path)
	if err != nil {
		if c.trouble != err.Error() {
			c.trouble = err.Error()
			logger.Error(err, "the configuration file cannot be read; the policy stays as it is")
		}
		return
	}
	c.trouble = ""
	if c.last != nil && bytes.Equal(text, c.last) {
		return
	}
	c.last = text
	switch changed, err := c.take(ctx, text); {
	case err != nil:
		logger.Error(err, "the configuration file is refused; the policy stays as it is until the file is mended")
		c.reloaded(Failed)
	case changed:
		logger.Info("the policy was changed")
		c.reloaded(Reloaded)
	}
}

// take puts the policy of a file's text in force, and reports whether it is another one.
func (c *Current) take(ctx context.Context, text []byte) (bool, error) {
	parsed, err := config.Parse(text)
	if err != nil {
		return false, err
	}
	if sections := changedSections(c.started, parsed); len(sections) > 0 {
		logf.FromContext(ctx).WithName("policy").Info("sections of the configuration file other than the policy differ from those in force; they take effect at the next start",
			"file", c.path, "sections", strings.Join(sections, " "))
	}
	if reflect.DeepEqual(parsed.Policy, c.configured) {
		return false, nil
	}
	p, err := Compile(parsed.Policy, c.started.Webhook.Workloads)
	if err != nil {
		return false, fmt.Errorf("policy: %w", err)
	}
	c.policy.Store(p)
	c.configured = parsed.Policy
	return true, nil
}

// changedSections are the fields of the file in which two configurations differ, but for the policy.
func changedSections(a, b *config.Configuration) []string {
	var sections []string
	before, after := reflect.ValueOf(a).Elem(), reflect.ValueOf(b).Elem()
	for i := range before.NumField() {
		name, _, _ := strings.Cut(before.Type().Field(i).Tag.Get("json"), ",")
		if name != "policy" && !reflect.DeepEqual(before.Field(i).Interface(), after.Field(i).Interface()) {
			sections = append(sections, name)
		}
	}
	slices.Sort(sections)
	return sections
}
