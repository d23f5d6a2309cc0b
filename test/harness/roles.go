package harness

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/yaml"

	"istag.dev/certs"
	"istag.dev/config"
	"istag.dev/webhook"
)

const (
	webhookRole    = "webhook"
	apiserverRole  = "apiserver"
	controllerRole = "controller"
	// portCount is that of the webhook, that of the API, and for each role those of health and of metrics.
	portCount = 2 + 2*3
	// allRoles is every role in one process.
	allRoles = "all"
)

// roleNames are those of the roles that run as a process each.
var roleNames = []string{webhookRole, apiserverRole, controllerRole}

// role is one process of istag's: how to run it, and the process while it runs.
type role struct {
	name string
	// args follow "istag serve".
	args   []string
	config *config.Configuration
	// original is the configuration at first.
	original *config.Configuration
	// account is the ServiceAccount it runs as; empty means istag itself, with every right.
	account string
	// turns is where it has its turn while it is ready, if it serves the webhooks.
	turns   *turns
	process *process
}

// title is what people call the process.
func (r *role) title() string {
	title := "istag serve " + strings.Join(r.args, " ")
	if number, added := strings.CutPrefix(r.name, replicaPrefix); added {
		title += " " + number
	}
	return title
}

// addRoles says how each role is run: by the shipped configuration, but for addresses and files.
func (e *Env) addRoles(base *config.Configuration, free *ports) {
	e.webhookBase = "https://" + local(free.address(0))
	if e.front != nil {
		e.webhookBase = "https://" + local(e.front.address())
	}
	e.WebhookURL = e.webhookBase + webhook.PinPath
	for i, name := range roleNames {
		c := *base
		c.Webhook.Address, c.APIServer.Address = free.address(0), free.address(1)
		setCertDir(&c, filepath.Join(e.Dir, "istag", name+"-tls"))
		c.Webhook.AuditLog.Path = e.auditLog(name)
		c.HealthAddress, c.MetricsAddress = free.address(2+2*i), free.address(3+2*i)
		// The name that the webhook is found by here.
		c.Certificates.ExtraNames = []string{"localhost"}
		c.Registries = e.registries()
		e.roles[name] = &role{name: name, args: []string{name}, config: &c, original: &c, account: "istag-" + name}
	}
	e.roles[webhookRole].turns = &e.turns
	e.replicas = []*Replica{{e, e.roles[webhookRole]}}
	all := *e.roles[webhookRole].config
	setCertDir(&all, filepath.Join(e.Dir, "istag", allRoles+"-tls"))
	e.roles[allRoles] = &role{name: allRoles, args: []string{"--all"}, config: &all, original: &all, turns: &e.turns}
}

// local is an address of loopback by the name that certificates have for it here.
func local(address string) string {
	_, port, _ := net.SplitHostPort(address)
	return net.JoinHostPort("localhost", port)
}

func setCertDir(c *config.Configuration, dir string) {
	c.Webhook.CertDir, c.APIServer.CertDir = dir, dir
}

// StartAPIServer starts the API server again after StopAPIServer and returns when users can use it.
func (e *Env) StartAPIServer(ctx context.Context) error { return e.startRole(ctx, apiserverRole) }

// StopAPIServer ends the API server, as if every replica were gone.
func (e *Env) StopAPIServer() error { return e.roles[apiserverRole].stop() }

// StartController starts the controller again after StopController and returns when it is ready.
func (e *Env) StartController(ctx context.Context) error { return e.startRole(ctx, controllerRole) }

// StopController ends the controller.
func (e *Env) StopController() error { return e.roles[controllerRole].stop() }

// StartAll starts one process with every role, where the others were stopped.
func (e *Env) StartAll(ctx context.Context) error { return e.startRole(ctx, allRoles) }

// StopAll ends the process with every role.
func (e *Env) StopAll() error { return e.roles[allRoles].stop() }

// Metrics returns the address at which a role, "webhook", "apiserver" or "controller", serves /metrics.
func (e *Env) Metrics(role string) string {
	return "http://" + e.roles[role].config.MetricsAddress + "/metrics"
}

// WebhookCertDir returns the folder of the certificate that the webhook serves.
func (e *Env) WebhookCertDir() string { return e.roles[webhookRole].config.Webhook.CertDir }

// Log returns the file with all that a role, "webhook", "apiserver", "controller" or "all", said. An added replica of the webhook has
// one of its own.
func (e *Env) Log(role string) string { return filepath.Join(e.Dir, "istag", role+".log") }

// Istag returns a command of the server's binary.
func (e *Env) Istag(ctx context.Context, args ...string) *exec.Cmd {
	command := exec.CommandContext(ctx, e.istag(), args...)
	command.Env = e.environment()
	return command
}

func (e *Env) startRole(ctx context.Context, name string) error {
	r := e.roles[name]
	kubeconfig, err := e.roleKubeconfig(ctx, r)
	if err != nil {
		return err
	}
	text, err := yaml.Marshal(r.config)
	if err != nil {
		return err
	}
	file := e.configFile(name)
	if err := replaceFile(file, text); err != nil {
		return err
	}
	if err := e.mountCertificate(ctx, r); err != nil {
		return err
	}
	args := append([]string{"serve"}, r.args...)
	command := exec.CommandContext(context.WithoutCancel(ctx), e.istag(), append(args, "--config", file, "--kubeconfig", kubeconfig)...)
	command.Env = e.environment()
	if r.process, err = startProcess(r.title(), command, e.Log(name), nil, e.death.report); err != nil {
		return err
	}
	err = e.Wait(ctx, r.title()+" is ready", func(ctx context.Context) error {
		if err := ok(ctx, http.DefaultClient, "http://"+r.config.HealthAddress+"/readyz"); err != nil || (name != apiserverRole && name != allRoles) {
			return err
		}
		return e.apiIsReady(ctx)
	})
	if err == nil && r.turns != nil {
		r.turns.add(r.config.Webhook.Address)
	}
	return err
}

// mountCertificate plays the kubelet for a role, except for the process that mounts the Secret itself: those who serve are not
// started before the certificate is there.
func (e *Env) mountCertificate(ctx context.Context, r *role) error {
	if r.name == allRoles {
		return nil
	}
	e.mounts.add(e, r.config)
	if r.name == controllerRole {
		return nil
	}
	return e.Wait(ctx, "there is a certificate for the "+r.name, func(context.Context) error {
		_, err := os.Stat(filepath.Join(r.config.Webhook.CertDir, corev1.TLSCertKey))
		return err
	})
}

// roleKubeconfig writes the kubeconfig of a role, with a token of its own ServiceAccount.
func (e *Env) roleKubeconfig(ctx context.Context, r *role) (string, error) {
	path := filepath.Join(e.Dir, "istag", r.name+".kubeconfig")
	if r.account == "" {
		return path, e.writeOwnKubeconfig(path)
	}
	token := e.Kubectl(ctx, "create", "token", r.account, "--namespace", r.config.Namespace, "--duration", "8760h")
	if token.Code != 0 {
		return "", fmt.Errorf("asking for a token of the %s: %w", r.name, token.Err())
	}
	cfg := api.NewConfig()
	cfg.Clusters["local"] = &api.Cluster{Server: e.Cluster.APIServer, CertificateAuthority: e.Cluster.CAFile}
	if r.turns != nil && e.api != nil {
		cfg.Clusters["local"].Server = "https://" + e.api.address()
	}
	cfg.AuthInfos[r.account] = &api.AuthInfo{Token: strings.TrimSpace(token.Stdout)}
	cfg.Contexts["local"] = &api.Context{Cluster: "local", AuthInfo: r.account}
	cfg.CurrentContext = "local"
	return path, clientcmd.WriteToFile(*cfg, path)
}

// writeOwnKubeconfig writes the administrator's kubeconfig, made to act as istag itself.
func (e *Env) writeOwnKubeconfig(path string) error {
	cfg, err := clientcmd.LoadFromFile(e.Cluster.Kubeconfig)
	if err != nil {
		return err
	}
	for _, user := range cfg.AuthInfos {
		user.Impersonate, user.ImpersonateGroups = e.itself().UserName, e.itself().Groups
	}
	return clientcmd.WriteToFile(*cfg, path)
}

// stop ends the process politely, if it runs.
func (r *role) stop() error {
	return r.end(func(p *process) error { return p.stop(roleGrace) })
}

// kill ends the process by force, if it runs.
func (r *role) kill() error {
	return r.end((*process).kill)
}

func (r *role) end(by func(*process) error) error {
	if r.process == nil {
		return nil
	}
	if r.turns != nil {
		r.turns.remove(r.config.Webhook.Address)
	}
	err := by(r.process)
	r.process = nil
	return err
}

// ok asks a URL and takes every answer but 200 as an error.
func ok(ctx context.Context, asks *http.Client, url string) error {
	_, err := get(ctx, asks, url)
	return err
}

// get returns what a URL answers, and takes every answer but 200 as an error.
func get(ctx context.Context, asks *http.Client, url string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	response, err := asks.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("GET %s: %s", url, response.Status)
	}
	return io.ReadAll(response.Body)
}

// mounts plays the kubelet: it keeps the certificate's Secret in a folder of each role.
type mounts struct {
	cancel  []context.CancelFunc
	running sync.WaitGroup
	mu      sync.Mutex
	dirs    map[string]bool
	errs    []error
}

// add mounts the Secret in a role's folder, unless it is mounted already.
func (m *mounts) add(e *Env, c *config.Configuration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dirs[c.Webhook.CertDir] {
		return
	}
	if m.dirs == nil {
		m.dirs = map[string]bool{}
	}
	m.dirs[c.Webhook.CertDir] = true
	mount := &certs.Mount{
		Client: e.Client(),
		Secret: types.NamespacedName{Namespace: c.Namespace, Name: c.Certificates.Secret},
		Dir:    c.Webhook.CertDir,
	}
	// It runs as long as the environment, longer than whoever started the role.
	ctx, cancel := context.WithCancel(context.Background())
	m.cancel = append(m.cancel, cancel)
	m.running.Go(func() {
		if err := mount.Start(ctx); err != nil {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.errs = append(m.errs, err)
		}
	})
}

// stop ends the mounts.
func (m *mounts) stop() error {
	for _, cancel := range m.cancel {
		cancel()
	}
	m.running.Wait()
	return errors.Join(m.errs...)
}
