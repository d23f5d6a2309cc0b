package harness

import (
	"context"
	"os"
	"path/filepath"

	"sigs.k8s.io/yaml"

	"istag.dev/config"
	"istag.dev/webhook"
)

// CheckURL is where the validating webhook answers.
func (e *Env) CheckURL() string { return e.webhookBase + webhook.CheckPath }

// ExplainURL is where people are told what an image would become.
func (e *Env) ExplainURL() string { return e.webhookBase + webhook.ExplainPath }

// ConfigFile returns the path of the webhook's configuration file.
func (e *Env) ConfigFile() string { return e.configFile(webhookRole) }

func (e *Env) configFile(role string) string { return filepath.Join(e.Dir, "istag", role+".yaml") }

// ConfigText returns what is in the webhook's configuration file.
func (e *Env) ConfigText() ([]byte, error) { return os.ReadFile(e.ConfigFile()) }

// SetConfig makes the webhook's configuration file say what it said at first, changed. Nothing is restarted; a webhook that is started
// later has that configuration as well.
func (e *Env) SetConfig(change func(*config.Configuration)) error {
	r := e.roles[webhookRole]
	changed := *r.original
	change(&changed)
	r.config = &changed
	text, err := yaml.Marshal(r.config)
	if err != nil {
		return err
	}
	return e.WriteConfig(text)
}

// WriteConfig puts any text into the webhook's configuration file, at once, as a volume's files are replaced.
func (e *Env) WriteConfig(text []byte) error { return replaceFile(e.ConfigFile(), text) }

func replaceFile(path string, text []byte) error {
	next := path + ".next"
	if err := os.WriteFile(next, text, 0o600); err != nil {
		return err
	}
	return os.Rename(next, path)
}

// Install applies the manifests of a kustomization, as Start does those that are shipped.
func (e *Env) Install(ctx context.Context, kustomization string) error {
	s, err := e.manifests(ctx, kustomization)
	if err != nil {
		return err
	}
	return e.install(ctx, s)
}
