package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"os"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/authn"
	"golang.org/x/crypto/bcrypt"
	"sigs.k8s.io/yaml"
)

// registryUser is the one account of the private registry.
const registryUser = "istag"

// startRegistry starts one registry. With an htpasswd file it asks for a
// password. Each has its own storage, configuration and access log.
func (c *cluster) startRegistry(name string, port int, htpasswd string) error {
	config := map[string]any{
		"version": "0.1",
		"log":     map[string]any{"level": "info"},
		"storage": map[string]any{
			"filesystem": map[string]any{"rootdirectory": filepath.Join(c.dir, name)},
			"delete":     map[string]any{"enabled": true},
		},
		"http": map[string]any{"addr": address(port), "secret": rand.Text()},
	}
	if htpasswd != "" {
		config["auth"] = map[string]any{"htpasswd": map[string]any{"realm": "istag-local", "path": htpasswd}}
	}
	data, err := yaml.Marshal(config)
	if err != nil {
		return err
	}
	path := filepath.Join(c.dir, name+".yaml")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		return err
	}
	return c.processes.start(name, c.built.Paths["registry"], "--config="+path, "--access-log="+c.accessLog(name))
}

// accessLog is the access log of the registry named.
func (c *cluster) accessLog(name string) string {
	return filepath.Join(c.logsDir(), name+"-access.jsonl")
}

// startRegistries starts both, the private one with a password made up now.
func (c *cluster) startRegistries() error {
	c.password = rand.Text()
	// The cheapest hash: every request is checked against it, and the password
	// lies in clear in the state file beside it.
	hash, err := bcrypt.GenerateFromPassword([]byte(c.password), bcrypt.MinCost)
	if err != nil {
		return err
	}
	htpasswd := filepath.Join(c.dir, "htpasswd")
	if err := os.WriteFile(htpasswd, fmt.Appendf(nil, "%s:%s\n", registryUser, hash), 0o600); err != nil {
		return err
	}
	if err := c.startRegistry("registry", c.ports.registry, ""); err != nil {
		return err
	}
	return c.startRegistry("private-registry", c.ports.privateRegistry, htpasswd)
}

// mirrors maps every upstream host to its place in one of the registries.
func (c *cluster) mirrors() map[string]string {
	mirrors := map[string]string{}
	for _, seed := range seeds {
		port := c.ports.registry
		if seed.host == privateHost {
			port = c.ports.privateRegistry
		}
		mirrors[seed.host] = address(port) + "/" + seed.host
	}
	return mirrors
}

// fillRegistries waits for both, pushes every image and begins the access logs
// anew, so that a test counts only its own requests.
func (c *cluster) fillRegistries(ctx context.Context) ([]Image, error) {
	for port, want := range map[int]int{c.ports.registry: http.StatusOK, c.ports.privateRegistry: http.StatusUnauthorized} {
		err := until(ctx, fmt.Sprintf("http://%s/v2/ answers %d", address(port), want), func(ctx context.Context) (bool, error) {
			return answers(ctx, http.DefaultClient, "http://"+address(port)+"/v2/", want)
		})
		if err != nil {
			return nil, err
		}
	}
	images, err := pushAll(ctx, c.mirrors(), &authn.Basic{Username: registryUser, Password: c.password})
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"registry", "private-registry"} {
		if err := os.Truncate(c.accessLog(name), 0); err != nil {
			return nil, err
		}
	}
	return images, nil
}
