package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// asCommand makes this test binary the command itself, so that a test can
// treat a cluster as others will: as a process.
const asCommand = "ISTAG_TEST_AS_CLUSTER"

func TestMain(m *testing.M) {
	if os.Getenv(asCommand) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// command is `cluster run` as a process.
type command struct {
	State
	process *os.Process
	stdin   io.Closer
	stderr  string // a file
	ended   chan error
}

// runCommand starts `cluster run` and waits until it is ready. Whatever the
// test does, it has ended when the test has.
func runCommand(t *testing.T, arguments ...string) *command {
	t.Helper()
	if testing.Short() {
		t.Skip("runs a whole cluster")
	}
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0], append([]string{"run", "--dir", filepath.Join(dir, "cluster")}, arguments...)...)
	cmd.Env = append(os.Environ(), asCommand+"=1")
	c := &command{stderr: filepath.Join(dir, "stderr"), ended: make(chan error, 1)}
	stderr, err := os.Create(c.stderr)
	if err != nil {
		t.Fatal(err)
	}
	defer stderr.Close()
	cmd.Stderr = stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c.process, c.stdin = cmd.Process, stdin
	line, err := bufio.NewReader(stdout).ReadBytes('\n')
	go func() { c.ended <- cmd.Wait(); close(c.ended) }()
	t.Cleanup(func() {
		_ = c.process.Signal(syscall.SIGTERM)
		for range c.ended { // closed at the end
		}
	})
	if err := errors.Join(err, json.Unmarshal(line, &c.State)); err != nil {
		t.Fatalf("not ready: %v\n%s", err, c.said(t))
	}
	return c
}

// said is what the command wrote for people.
func (c *command) said(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile(c.stderr)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// kubectl runs kubectl against the cluster and returns what it wrote.
func (c *command) kubectl(t *testing.T, arguments ...string) string {
	t.Helper()
	output, err := exec.CommandContext(t.Context(), c.Kubectl, append([]string{"--kubeconfig", c.Kubeconfig}, arguments...)...).CombinedOutput()
	if err != nil {
		t.Errorf("kubectl %s: %v\n%s", strings.Join(arguments, " "), err, output)
	}
	return string(output)
}

// gone checks that nothing is left of the cluster, once it has ended.
func (c *command) gone(t *testing.T) {
	t.Helper()
	for name, pid := range c.PIDs {
		if alive(pid) {
			t.Errorf("%s (process %d) outlives the cluster", name, pid)
		}
	}
	for _, address := range []string{strings.TrimPrefix(c.APIServer, "https://"), c.Registry, c.PrivateRegistry.Host} {
		if connection, err := net.Dial("tcp", address); err == nil {
			_ = connection.Close()
			t.Errorf("something still listens on %s", address)
		}
	}
	if exists(filepath.Join(c.Dir, stateFile)) {
		t.Error("the state file says that the cluster is ready")
	}
}

func TestClusterRunsWorkloads(t *testing.T) {
	t.Parallel()
	c := runCommand(t, "--until-stdin-closes")
	if got := c.kubectl(t, "get", "--raw", "/readyz"); got != "ok" {
		t.Errorf("/readyz says %q", got)
	}
	c.kubectl(t, "create", "deployment", "web", "--image=example.com/web:1", "--replicas=3")
	c.kubectl(t, "rollout", "status", "deployment/web", "--timeout=60s")
	c.kubectl(t, "set", "image", "deployment/web", "web=example.com/web:2")
	c.kubectl(t, "rollout", "status", "deployment/web", "--timeout=60s")
	c.kubectl(t, "create", "cronjob", "tick", "--image=example.com/tick:1", "--schedule=0 0 1 1 *")
	c.kubectl(t, "create", "job", "once", "--from=cronjob/tick")
	c.kubectl(t, "wait", "--for=condition=complete", "job/once", "--timeout=60s")
	if got, want := c.kubectl(t, "version"), "Server Version: "+c.Versions["kubernetes"]; !strings.Contains(got, want) && os.Getenv(assetsVariable) == "" {
		t.Errorf("kubectl version says %q, not %q", got, want)
	}

	c.checkBroken(t)
	c.checkRestart(t)

	// As a test process that dies would.
	if err := c.stdin.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-c.ended; err != nil {
		t.Errorf("ending when asked to is no failure: %v\n%s", err, c.said(t))
	}
	c.gone(t)
}

// checkBroken checks that a rollout to the broken image does not succeed, under
// its own name and under another.
func (c *command) checkBroken(t *testing.T) {
	t.Helper()
	i := slices.IndexFunc(c.Images, func(image Image) bool { return image.Broken })
	broken := c.Images[i]
	for _, pullSpec := range []string{broken.Local + ":" + broken.Tag, "example.com/renamed@" + broken.Digest} {
		c.kubectl(t, "set", "image", "deployment/web", "web="+pullSpec)
		state := `{.items[?(@.spec.containers[0].image=="` + pullSpec + `")].status.containerStatuses[0].state.waiting.reason}`
		eventually(t, pullSpec+" crashes", func() bool {
			return c.kubectl(t, "get", "pods", "--selector=app=web", "--output=jsonpath="+state) == "CrashLoopBackOff"
		})
		c.kubectl(t, "rollout", "undo", "deployment/web")
		c.kubectl(t, "rollout", "status", "deployment/web", "--timeout=60s")
	}
}

// checkRestart checks that the API server is started again when that is asked for, and that the cluster survives it.
func (c *command) checkRestart(t *testing.T) {
	t.Helper()
	if err := c.process.Signal(syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	var now State
	eventually(t, "the state tells of another API server", func() bool {
		data, err := os.ReadFile(filepath.Join(c.Dir, stateFile))
		return err == nil && json.Unmarshal(data, &now) == nil && now.PIDs[apiserverName] != c.PIDs[apiserverName]
	})
	c.PIDs = now.PIDs
	eventually(t, "it is ready", func() bool {
		return exec.Command(c.Kubectl, "--kubeconfig", c.Kubeconfig, "get", "--raw", "/readyz").Run() == nil
	})
	c.kubectl(t, "create", "deployment", "after", "--image=example.com/web:1")
	c.kubectl(t, "rollout", "status", "deployment/after", "--timeout=60s")
}

// TestClusterBesideAnother runs at the same time as the one above.
func TestClusterBesideAnother(t *testing.T) {
	t.Parallel()
	c := runCommand(t)
	t.Run("images", func(t *testing.T) { c.checkImages(t) })
	t.Run("loopback", func(t *testing.T) { checkLoopbackOnly(t, c.PIDs) })

	scheduler, err := os.FindProcess(c.PIDs["kube-scheduler"])
	if err != nil {
		t.Fatal(err)
	}
	if err := scheduler.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := <-c.ended; err == nil {
		t.Error("a cluster that lost a component must not end well")
	}
	if said := c.said(t); !strings.Contains(said, "kube-scheduler ended unexpectedly") {
		t.Errorf("the component that died is not named:\n%s", said)
	}
	c.gone(t)
}

// checkImages checks that the registries serve what the state says.
func (c *command) checkImages(t *testing.T) {
	if response, err := http.Get("http://" + c.PrivateRegistry.Host + "/v2/"); err != nil || response.StatusCode != http.StatusUnauthorized {
		t.Errorf("the private registry lets strangers in: %v, %v", response, err)
	}
	for _, image := range c.Images {
		host, _, _ := strings.Cut(image.Name, "/")
		if want := c.Mirrors[host] + strings.TrimPrefix(image.Name, host); image.Local != want {
			t.Errorf("%s is at %q, its mirror says %q", image.Name, image.Local, want)
		}
		tag, err := name.NewTag(image.Local+":"+image.Tag, name.Insecure)
		if err != nil {
			t.Fatal(err)
		}
		auth := authn.Anonymous
		if image.Private {
			auth = &authn.Basic{Username: c.PrivateRegistry.Username, Password: c.PrivateRegistry.Password}
		}
		got, err := remote.Get(tag, remote.WithAuth(auth), remote.WithContext(t.Context()))
		if err != nil {
			t.Errorf("%s: %v", tag, err)
			continue
		}
		if got.Digest.String() != image.Digest {
			t.Errorf("%s is %s, the state says %s", tag, got.Digest, image.Digest)
		}
		if err := checkContent(got); err != nil {
			t.Errorf("%s: %v", tag, err)
		}
	}
	data, err := os.ReadFile(c.RegistryAccessLog)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(string(data), "/v2/quay.io/keycloak/keycloak/manifests/20.0.1"); got != 1 {
		t.Errorf("the access log has %d requests for one that was made:\n%s", got, data)
	}
}

// checkContent pulls all of an image or an index.
func checkContent(got *remote.Descriptor) error {
	if got.MediaType == types.OCIImageIndex {
		index, err := got.ImageIndex()
		if err != nil {
			return err
		}
		return validate.Index(index)
	}
	image, err := got.Image()
	if err != nil {
		return err
	}
	return validate.Image(image)
}

// checkLoopbackOnly asks the kernel who listens where.
func checkLoopbackOnly(t *testing.T, pids map[string]int) {
	t.Helper()
	// In the kernel's tables an address is hexadecimal, in the machine's byte order.
	const loopbackHex, listening = "0100007F", "0A"
	listeners := map[string]string{} // inode of the socket -> address
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		text, err := os.ReadFile(table)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if fields := strings.Fields(line); len(fields) > 9 && fields[3] == listening {
				listeners[fields[9]] = fields[1]
			}
		}
	}
	mine := 0
	for component, pid := range pids {
		files, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			target, _ := os.Readlink(file) // it may be closed by now
			inode := strings.TrimSuffix(strings.TrimPrefix(target, "socket:["), "]")
			local, ok := listeners[inode]
			if !ok {
				continue
			}
			mine++
			if address, port, _ := strings.Cut(local, ":"); address != loopbackHex {
				t.Errorf("%s listens on %s, port %s in hexadecimal, beyond this machine", component, address, port)
			}
		}
	}
	if mine < len(pids) {
		t.Errorf("%d ports for %d components: the check does not see them all", mine, len(pids))
	}
}

// TestClusterEndsOnSignal also goes on in a folder that held a cluster.
func TestClusterEndsOnSignal(t *testing.T) {
	t.Parallel()
	c := runCommand(t)
	c.kubectl(t, "create", "configmap", "kept")
	again := exec.Command(os.Args[0], "run", "--dir", c.Dir)
	again.Env = append(os.Environ(), asCommand+"=1")
	if output, err := again.CombinedOutput(); err == nil || !strings.Contains(string(output), "already") {
		t.Errorf("a folder must not hold two clusters: %v\n%s", err, output)
	}
	begun := time.Now()
	if err := c.process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := <-c.ended; err != nil {
		t.Errorf("ending when asked to is no failure: %v\n%s", err, c.said(t))
	}
	if took := time.Since(begun); took > stopGrace {
		t.Errorf("ending took %s: a component had to be killed", took)
	}
	c.gone(t)

	later := runCommand(t, "--dir", c.Dir)
	later.kubectl(t, "get", "configmap", "kept")
}
