package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

const (
	// startTimeout is for a machine with much else to do; a start takes seconds.
	startTimeout = 3 * time.Minute
	// stopGrace is how long each component may take to end by itself.
	stopGrace = 10 * time.Second
)

// Options say how to [Run] a cluster.
type Options struct {
	// Dir is the folder for everything the cluster writes. It is made if need
	// be. What is in etcd and in the registries stays there afterwards, and a
	// later Run in the same folder goes on with it, under new certificates and
	// on new ports.
	Dir string
	// Bin is the root of the binaries' folders, as for [Build].
	Bin string
	// Progress gets lines for people.
	Progress io.Writer
	// Ready is called once, when everything is ready. An error ends the cluster.
	Ready func(*State) error
	// Restart, once everything is ready, has the API server killed and started
	// again for each value. The state is written anew then.
	Restart <-chan os.Signal
}

// cluster is one attempt to run one.
type cluster struct {
	dir       string
	built     *Built
	ports     *ports
	pki       *pki
	processes *processes
	password  string
	progress  io.Writer
}

// Run builds what is missing, runs a cluster until ctx is done, and returns
// when every process it started is gone. The error is nil if the cluster was
// ready and ctx is why it ended.
func Run(ctx context.Context, options Options) (err error) {
	dir, err := filepath.Abs(options.Dir)
	if err != nil {
		return err
	}
	built, err := Build(ctx, options.Bin, options.Progress)
	if err != nil {
		return fmt.Errorf("build: %w", err)
	}
	release, err := claim(dir)
	if err != nil {
		return err
	}
	defer release()
	defer func() { err = errors.Join(err, removeState(dir)) }()
	for attempt := 1; ; attempt++ {
		c := &cluster{dir: dir, built: built, progress: options.Progress}
		err := c.run(ctx, &options)
		if attempt > 1 || !isPortTaken(err) {
			return err
		}
		fmt.Fprintln(options.Progress, "a port was taken by somebody else: starting once more with others")
	}
}

// claim makes the folder and keeps a second cluster out of it.
func claim(dir string) (release func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, ".lock")
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	// The first wait is one too many: another cluster is there to stay.
	release, err = lock(ctx, path, func() { cancel(fmt.Errorf("a cluster runs in %q already", dir)) })
	if err != nil {
		return nil, err
	}
	return release, removeState(dir)
}

// removeState takes back the promise of the state file.
func removeState(dir string) error {
	err := os.Remove(filepath.Join(dir, stateFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// run starts everything, waits for ctx or for a component to die, and ends
// everything.
func (c *cluster) run(ctx context.Context, options *Options) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	c.processes = &processes{logsDir: c.logsDir(), grace: stopGrace, died: cancel}
	defer c.end()

	begun := time.Now()
	state, err := c.start(ctx)
	if err != nil {
		return fmt.Errorf("start: %w", causeOr(ctx, err))
	}
	if err := state.write(); err != nil {
		return err
	}
	fmt.Fprintf(c.progress, "ready in %s\n", time.Since(begun).Round(10*time.Millisecond))
	if err := options.Ready(state); err != nil {
		return err
	}
	for {
		select {
		case <-options.Restart:
			if err := c.restartAPIServer(state); err != nil {
				return err
			}
		case <-ctx.Done():
			var exit *exitError
			if errors.As(context.Cause(ctx), &exit) {
				return exit
			}
			return nil
		}
	}
}

// restartAPIServer kills the API server and starts it again.
func (c *cluster) restartAPIServer(state *State) error {
	if err := c.processes.restart(apiserverName); err != nil {
		return err
	}
	state.PIDs = c.processes.pids()
	fmt.Fprintln(c.progress, "restarted the API server")
	return state.write()
}

// end stops every process.
func (c *cluster) end() {
	begun := time.Now()
	c.processes.stop()
	fmt.Fprintf(c.progress, "ended in %s\n", time.Since(begun).Round(10*time.Millisecond))
}

// start starts everything and returns when all of it is ready.
func (c *cluster) start(ctx context.Context) (*State, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, fmt.Errorf("not ready after %s", startTimeout))
	defer cancel()
	if err := c.prepare(); err != nil {
		return nil, err
	}
	kubeconfig := filepath.Join(c.dir, "kubeconfig")
	if err := writeKubeconfig(kubeconfig, c.apiserverURL(), c.pki.ca.certFile, "istag-local-admin", c.pki.admin); err != nil {
		return nil, err
	}
	client, err := newClient(kubeconfig)
	if err != nil {
		return nil, err
	}
	var images []Image
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return c.startKubernetes(ctx, client) })
	group.Go(func() (err error) {
		if err := c.startRegistries(); err != nil {
			return err
		}
		images, err = c.fillRegistries(ctx)
		return err
	})
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return c.state(kubeconfig, images), nil
}

// prepare makes the folders, chooses the ports and makes the keys.
func (c *cluster) prepare() (err error) {
	for _, dir := range []string{c.pkiDir(), c.logsDir()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	if c.ports, err = choosePorts(); err != nil {
		return err
	}
	if c.pki, err = newPKI(c.pkiDir()); err != nil {
		return fmt.Errorf("make keys and certificates: %w", err)
	}
	return nil
}

// startKubernetes starts the control plane and its node, and waits for them.
func (c *cluster) startKubernetes(ctx context.Context, client kubernetes.Interface) error {
	begun := time.Now()
	for _, start := range []func() error{c.startEtcd, c.startAPIServer} {
		if err := start(); err != nil {
			return err
		}
	}
	err := until(ctx, "the API server is ready", func(ctx context.Context) (bool, error) {
		err := client.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
		return err == nil, err
	})
	if err != nil {
		return err
	}
	for _, start := range []func() error{
		func() error { return createNode(ctx, client, c.built.Versions["kubernetes"]) }, c.startControllerManager, c.startScheduler, c.startKwok,
	} {
		if err := start(); err != nil {
			return err
		}
	}
	return c.waitForPods(ctx, client, begun)
}

// newClient makes a client that is not throttled: it looks often, for seconds.
func newClient(kubeconfig string) (kubernetes.Interface, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, err
	}
	config.QPS = -1
	return kubernetes.NewForConfig(config)
}

// state describes the cluster.
func (c *cluster) state(kubeconfig string, images []Image) *State {
	return &State{
		Dir:               c.dir,
		Kubeconfig:        kubeconfig,
		Context:           contextName,
		APIServer:         c.apiserverURL(),
		CAFile:            c.pki.ca.certFile,
		BinDir:            c.built.Dir,
		Binaries:          c.built.Paths,
		Kubectl:           c.built.Paths["kubectl"],
		Registry:          address(c.ports.registry),
		RegistryAccessLog: c.accessLog("registry"),
		PrivateRegistry: PrivateRegistry{
			Host:      address(c.ports.privateRegistry),
			Username:  registryUser,
			Password:  c.password,
			AccessLog: c.accessLog("private-registry"),
		},
		Mirrors:  c.mirrors(),
		Images:   images,
		Node:     nodeName,
		LogsDir:  c.logsDir(),
		PID:      os.Getpid(),
		PIDs:     c.processes.pids(),
		Versions: c.built.Versions,
	}
}

func (c *cluster) pkiDir() string  { return filepath.Join(c.dir, "pki") }
func (c *cluster) logsDir() string { return filepath.Join(c.dir, "logs") }

// causeOr prefers the reason a context ended over the error it led to.
func causeOr(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil && err != nil {
		return cause
	}
	return err
}
