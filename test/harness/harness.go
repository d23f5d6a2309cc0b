// Package harness gives a real Kubernetes on loopback with istag installed on it as users install it:
// the shipped manifests, the shipped configuration and the shipped binary, each role a process of its
// own under its own ServiceAccount. The end-to-end tests, the demo, the benchmarks and the cluster that
// developers leave running all stand on it.
//
// What differs from a real installation is what a cluster without kubelets forces: the roles are
// processes of this machine and not pods, the API server reaches the webhook by URL and not by Service
// and our API server by a Service that is another name of this machine, and the certificate's Secret is written to files by this process.
//
// Tests can break it: end, kill, add and suspend replicas of the webhook, which have a port in common as if behind a Service; hold up or cut what
// the webhook hears of the API server; restart the API server; suspend the registries; and put any text into the webhook's configuration file.
package harness

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/rest"

	"istag.dev/config"
)

// Options say how to [Start] an environment.
type Options struct {
	// Dir is the folder for everything the environment writes, binaries included. It is made if need
	// be. Of an environment that ended, what is in etcd and in the registries is still there for the
	// next one in the same folder.
	Dir string
	// Log gets lines for people; nil means nobody reads them.
	Log io.Writer
	// Direct leaves out the relays between the API server and the webhook, for measurements. Added replicas get no requests then, and
	// HangAPI and CutAPI do nothing.
	Direct bool
}

// Env is a running environment. Its methods may be called from several goroutines, except those that
// start, stop and break parts of it.
type Env struct {
	// Dir is the absolute path of the environment's folder.
	Dir string
	// Cluster is what the local cluster says of itself.
	Cluster *Cluster
	// WebhookURL is where the webhook answers.
	WebhookURL string
	// Namespace is the one that istag is installed in.
	Namespace string

	// Actor is the cluster's administrator.
	*Actor

	webhookBase string // the URL of the webhook without its path
	root        string // of the main module
	log         *progress
	death       *death
	cluster     *process
	roles       map[string]*role
	// replicas are all that the webhook ever had, the first one first.
	replicas []*Replica
	mounts   mounts
	// front passes requests to the replicas of the webhook that are ready, and api theirs to the API server. Both can be nil.
	front, api *relay
	turns      turns
}

// Start starts an environment and returns when an object really passes admission. The context bounds
// the start alone: the environment runs until Stop. Nothing of it outlives the calling process; on Linux
// not even if that is killed.
func Start(ctx context.Context, options Options) (*Env, error) {
	begun := time.Now()
	dir, err := filepath.Abs(options.Dir)
	if err != nil {
		return nil, err
	}
	root, err := moduleRoot(ctx)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Join(dir, "istag"), 0o700); err != nil {
		return nil, err
	}
	e := &Env{Dir: dir, root: root, log: newProgress(options.Log), death: newDeath(), roles: map[string]*role{}}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-e.Dead():
			cancel(e.Err())
		case <-ctx.Done():
		}
	}()
	if err := e.start(ctx, !options.Direct); err != nil {
		if e.Err() != nil {
			return nil, e.Stop() // which says so
		}
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return nil, errors.Join(err, e.Stop())
	}
	e.log.printf("istag is ready after %s", time.Since(begun).Round(10*time.Millisecond))
	return e, nil
}

func (e *Env) start(ctx context.Context, relayed bool) error {
	group, building := errgroup.WithContext(ctx)
	group.Go(func() error { return e.startCluster(building) })
	group.Go(func() error { return e.buildIstag(building) })
	if err := group.Wait(); err != nil {
		return err
	}
	var err error
	if e.Actor, err = e.newActor(rest.ImpersonationConfig{}); err != nil {
		return err
	}
	shipped, err := e.manifests(ctx, filepath.Join(e.root, "deploy", "base"))
	if err != nil {
		return err
	}
	e.Namespace = shipped.config.Namespace
	if relayed {
		if err := e.startRelays(ctx); err != nil {
			return err
		}
	}
	ports, err := choosePorts(ctx, portCount)
	if err != nil {
		return err
	}
	e.addRoles(shipped.config, ports)
	if err := e.install(ctx, shipped); err != nil {
		return fmt.Errorf("installing istag: %w", err)
	}
	ports.release()
	if err := e.startRoles(ctx); err != nil {
		return err
	}
	return e.waitForAdmission(ctx)
}

// startRoles starts the controller, which makes the certificate, and those who wait for it.
func (e *Env) startRoles(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, name := range roleNames {
		group.Go(func() error { return e.startRole(ctx, name) })
	}
	return group.Wait()
}

// Stop ends every process of the environment and returns when all are gone. The error is about what
// had died before, or could not be ended.
func (e *Env) Stop() error {
	died := e.Err()
	e.death.expect()
	errs := []error{died}
	errs = append(errs, e.stopRoles(), e.mounts.stop())
	e.front.stop()
	e.api.stop()
	if e.cluster != nil {
		errs = append(errs, e.cluster.stop(clusterGrace))
	}
	return errors.Join(errs...)
}

// stopRoles ends the processes of istag at once.
func (e *Env) stopRoles() error {
	var (
		group sync.WaitGroup
		mu    sync.Mutex
		errs  []error
	)
	for _, role := range e.roles {
		group.Go(func() {
			err := role.stop()
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, err)
		})
	}
	group.Wait()
	return errors.Join(errs...)
}

// Processes maps the name of every process of the environment to its id.
func (e *Env) Processes() map[string]int {
	all := map[string]int{e.cluster.name: e.cluster.command.Process.Pid}
	maps.Copy(all, e.Cluster.PIDs)
	for _, role := range e.roles {
		if role.process != nil {
			all[role.process.name] = role.process.command.Process.Pid
		}
	}
	return all
}

// Dead is closed when a process of the environment ended though nobody stopped it.
func (e *Env) Dead() <-chan struct{} { return e.death.happened }

// Err says which process died, and how its log ends; nil while none has.
func (e *Env) Err() error {
	select {
	case <-e.Dead():
		return e.death.err
	default:
		return nil
	}
}

// registries makes the local registries serve the hosts that they were filled for.
func (e *Env) registries() []config.Registry {
	var registries []config.Registry
	for host, location := range e.Cluster.Mirrors {
		registries = append(registries, config.Registry{
			Prefix:  host,
			Mirrors: []config.Mirror{{Location: location, Insecure: true}},
		})
	}
	return registries
}

// death remembers the first process that ended though nobody stopped it.
type death struct {
	once     sync.Once
	happened chan struct{}
	err      error
	mu       sync.Mutex
	expected bool
}

func newDeath() *death { return &death{happened: make(chan struct{})} }

func (d *death) report(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.expected {
		d.once.Do(func() { d.err = err; close(d.happened) })
	}
}

// expect makes later deaths mean nothing.
func (d *death) expect() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.expected = true
}

// progress writes lines for people, whole ones, from several goroutines.
type progress struct {
	mu  sync.Mutex
	out io.Writer
}

func newProgress(out io.Writer) *progress {
	if out == nil {
		out = io.Discard
	}
	return &progress{out: out}
}

func (p *progress) printf(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintf(p.out, format+"\n", args...)
}

// prefixed passes on the lines of a process under its name. It never fails: nobody must end for a reader
// who has gone.
type prefixed struct {
	*progress
	name string
}

// Write expects whole lines.
func (p prefixed) Write(text []byte) (int, error) {
	for line := range strings.Lines(string(text)) {
		p.printf("%s: %s", p.name, strings.TrimSuffix(line, "\n"))
	}
	return len(text), nil
}
