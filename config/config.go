// Package config is istag's configuration file.
package config

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"
)

// APIVersion and Kind that a configuration file states.
const (
	APIVersion = "config.istag.dev/v1"
	Kind       = "Configuration"
)

// Configuration is the whole configuration of istag; every role reads the same file. An absent
// field has the value that Default gives it.
type Configuration struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`

	// Namespace that istag is installed in. Workloads there are never touched.
	Namespace string `json:"namespace"`
	// HealthAddress is the host:port that serves /healthz and /readyz.
	HealthAddress string `json:"healthAddress"`
	// MetricsAddress is the host:port that serves /metrics, in plain HTTP.
	MetricsAddress string `json:"metricsAddress"`

	Webhook      Webhook      `json:"webhook"`
	APIServer    APIServer    `json:"apiserver"`
	Certificates Certificates `json:"certificates"`
	Streams      Streams      `json:"streams"`
	Imports      Imports      `json:"imports"`
	Policy       Policy       `json:"policy"`

	// Registries says how upstream registries are reached. The longest matching prefix counts.
	Registries []Registry `json:"registries"`
}

// Webhook configures admission.
type Webhook struct {
	// Address is the host:port that serves HTTPS to the API server.
	Address string `json:"address"`
	// CertDir is the folder of tls.crt and tls.key, which are read again when they change.
	CertDir string `json:"certDir"`
	// AuditLog is where decisions are recorded.
	AuditLog AuditLog `json:"auditLog"`
	// FirstImportWait is how long a review waits for the first import of a tag that it needs, before it
	// refuses the object. 0 means not at all.
	FirstImportWait metav1.Duration `json:"firstImportWait"`
	// Workloads are the custom resources that have pod specs. The webhook configurations have to send
	// them as well.
	Workloads []Workload `json:"workloads,omitempty"`
}

// AuditLog says where the audit log is written and how much of it is kept.
type AuditLog struct {
	// Path is the file that records are appended to, "-" for standard output, which is not rotated.
	Path string `json:"path"`
	// MaxSizeMB is the size in megabytes at which a file is put aside and a new one begun.
	MaxSizeMB int `json:"maxSizeMB"`
	// MaxFiles is how many files that were put aside are kept. 0 means all.
	MaxFiles int `json:"maxFiles"`
	// MaxAgeDays is for how many days they are kept. 0 means for ever.
	MaxAgeDays int `json:"maxAgeDays"`
}

// Workload is a kind of custom resource that has a pod spec.
type Workload struct {
	// Group and Resource of the custom resource, as in "argoproj.io" and "rollouts".
	Group    string `json:"group"`
	Resource string `json:"resource"`
	// PodSpec is the path of the pod spec in the object: names of fields with dots between them, and
	// "[*]" after the name of a list or a map of which every element has one, as in
	// "spec.template.spec" or "spec.workerGroups[*].template.spec".
	PodSpec string `json:"podSpec"`
}

// APIServer configures the API that users see, image.openshift.io/v1.
type APIServer struct {
	// Address is the host:port that serves HTTPS to the API server in front of this one.
	Address string `json:"address"`
	// CertDir is the folder of tls.crt and tls.key, which are read again when they change.
	CertDir string `json:"certDir"`
}

// CertificateMode says who provides the certificate of the webhook and of the API.
type CertificateMode string

const (
	// SelfManaged certificates are made and renewed by istag's controller.
	SelfManaged CertificateMode = "SelfManaged"
	// External certificates are someone else's business, cert-manager's for instance: the Secret
	// and the CA bundles in the webhook configuration and the APIService.
	External CertificateMode = "External"
)

// Certificates configures the serving certificate, which the webhook and the API share.
type Certificates struct {
	Mode CertificateMode `json:"mode"`
	// Secret in istag's namespace that holds the certificate.
	Secret string `json:"secret"`
	// Services in istag's namespace that the API server reaches the webhook and the API by.
	Services []string `json:"services"`
	// MutatingWebhook is the name of the MutatingWebhookConfiguration that gets the CA bundle.
	MutatingWebhook string `json:"mutatingWebhook"`
	// ValidatingWebhook is the name of the ValidatingWebhookConfiguration that gets the CA bundle.
	ValidatingWebhook string `json:"validatingWebhook"`
	// APIService is the name of the APIService that gets the CA bundle.
	APIService string `json:"apiService"`
	// ExtraNames are further DNS names that the certificate is valid for, such as localhost for a
	// webhook that runs outside the cluster.
	ExtraNames []string `json:"extraNames,omitempty"`
}

// Streams configures what is kept of every image stream.
type Streams struct {
	// HistoryLimit is the number of events kept for one tag, the newest first. Beyond it, an event
	// stays for as long as a pod uses its image.
	HistoryLimit int `json:"historyLimit"`
}

// Imports configures how upstream registries are asked.
type Imports struct {
	// Platform, "os/architecture[/variant]", that a tag in Legacy import mode takes out of an index.
	Platform string `json:"platform"`
	// Timeout of all requests for one tag together.
	Timeout metav1.Duration `json:"timeout"`
	// Workers is the number of streams imported at once.
	Workers int `json:"workers"`
	// MaxTagsPerRepository is how many tags the import of a whole repository takes in at once; the
	// answer names the others. -1 means all.
	MaxTagsPerRepository int `json:"maxTagsPerRepository"`
	// AllowedRegistries are the registries that users may import from. None means all.
	AllowedRegistries []AllowedRegistry `json:"allowedRegistries,omitempty"`
}

// Registry says how the repositories under a prefix are reached.
type Registry struct {
	// Prefix is a registry host, with port if it has one, or a host and leading parts of a
	// repository's path: "quay.io", "quay.io/keycloak".
	Prefix string `json:"prefix"`
	// Mirrors are asked in order, and the registry itself after them, until one answers.
	Mirrors []Mirror `json:"mirrors,omitempty"`
}

// Mirror is another place that serves a registry's repositories.
type Mirror struct {
	// Location replaces the registry's prefix in a repository's name: with prefix "quay.io" and
	// location "mirror.example.com/quay", quay.io/a/b is asked for as mirror.example.com/quay/a/b.
	Location string `json:"location"`
	// Insecure allows plain HTTP and certificates that cannot be verified.
	Insecure bool `json:"insecure,omitempty"`
}

// Default returns the configuration that an empty file means.
func Default() *Configuration {
	return &Configuration{
		APIVersion:     APIVersion,
		Kind:           Kind,
		Namespace:      "istag-system",
		HealthAddress:  ":8081",
		MetricsAddress: ":8080",
		Webhook: Webhook{
			Address:         ":9443",
			CertDir:         "/var/run/istag/tls",
			AuditLog:        AuditLog{Path: "-", MaxSizeMB: 100, MaxFiles: 10, MaxAgeDays: 0},
			FirstImportWait: metav1.Duration{Duration: 2 * time.Second},
		},
		APIServer: APIServer{
			Address: ":8443",
			CertDir: "/var/run/istag/tls",
		},
		Certificates: Certificates{
			Mode:              SelfManaged,
			Secret:            "istag-tls",
			Services:          []string{"istag-webhook", "istag-apiserver"},
			MutatingWebhook:   "istag",
			ValidatingWebhook: "istag",
			APIService:        "v1.image.openshift.io",
		},
		Streams: Streams{HistoryLimit: 50},
		Policy:  DefaultPolicy(),
		Imports: Imports{
			Platform:             "linux/amd64",
			Timeout:              metav1.Duration{Duration: 30 * time.Second},
			Workers:              8,
			MaxTagsPerRepository: 50,
		},
		Registries: []Registry{},
	}
}

// Load reads and checks a configuration file. An empty path means the defaults.
func Load(path string) (*Configuration, error) {
	if path == "" {
		return Default(), nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading configuration: %w", err)
	}
	c, err := Parse(data)
	if err != nil {
		return nil, fmt.Errorf("configuration %s: %w (run \"istag config\" to see every field with its default)", path, err)
	}
	return c, nil
}

// Parse decodes a configuration strictly, over the defaults, and checks it: a field that is unknown
// or given twice is an error.
func Parse(data []byte) (*Configuration, error) {
	c := Default()
	c.APIVersion, c.Kind = "", ""
	if err := yaml.UnmarshalStrict(data, c); err != nil {
		return nil, err
	}
	if err := c.validate().ToAggregate(); err != nil {
		return nil, err
	}
	return c, nil
}

func (c *Configuration) validate() field.ErrorList {
	var errs field.ErrorList
	if c.APIVersion != APIVersion {
		errs = append(errs, field.NotSupported(field.NewPath("apiVersion"), c.APIVersion, []string{APIVersion}))
	}
	if c.Kind != Kind {
		errs = append(errs, field.NotSupported(field.NewPath("kind"), c.Kind, []string{Kind}))
	}
	if c.Streams.HistoryLimit < 1 {
		errs = append(errs, field.Invalid(field.NewPath("streams", "historyLimit"), c.Streams.HistoryLimit, "must be at least 1"))
	}
	errs = append(errs, c.validateRequired()...)
	errs = append(errs, c.Webhook.validate(field.NewPath("webhook"))...)
	errs = append(errs, c.Policy.validate(field.NewPath("policy"))...)
	certificates := field.NewPath("certificates")
	if m := c.Certificates.Mode; m != SelfManaged && m != External {
		errs = append(errs, field.NotSupported(certificates.Child("mode"), m, []CertificateMode{SelfManaged, External}))
	}
	for i, service := range c.Certificates.Services {
		if service == "" {
			errs = append(errs, field.Required(certificates.Child("services").Index(i), "must not be empty"))
		}
	}
	imports := field.NewPath("imports")
	if _, err := v1.ParsePlatform(c.Imports.Platform); err != nil || c.Imports.Platform == "" {
		errs = append(errs, field.Invalid(imports.Child("platform"), c.Imports.Platform, `must be "os/architecture" or "os/architecture/variant"`))
	}
	if c.Imports.Timeout.Duration <= 0 {
		errs = append(errs, field.Invalid(imports.Child("timeout"), c.Imports.Timeout.Duration.String(), "must be more than 0"))
	}
	if c.Imports.Workers <= 0 {
		errs = append(errs, field.Invalid(imports.Child("workers"), c.Imports.Workers, "must be at least 1"))
	}
	if n := c.Imports.MaxTagsPerRepository; n < -1 || n == 0 {
		errs = append(errs, field.Invalid(imports.Child("maxTagsPerRepository"), n, "must be at least 1, or -1 for all"))
	}
	errs = append(errs, validateAllowed(imports.Child("allowedRegistries"), c.Imports.AllowedRegistries)...)
	return append(errs, validateRegistries(c.Registries)...)
}

// validateRequired checks what has a default, and must not be emptied.
func (c *Configuration) validateRequired() field.ErrorList {
	certificates := field.NewPath("certificates")
	var errs field.ErrorList
	for _, required := range []struct {
		path  *field.Path
		empty bool
	}{
		{field.NewPath("namespace"), c.Namespace == ""},
		{field.NewPath("webhook", "address"), c.Webhook.Address == ""},
		{field.NewPath("webhook", "certDir"), c.Webhook.CertDir == ""},
		{field.NewPath("webhook", "auditLog", "path"), c.Webhook.AuditLog.Path == ""},
		{field.NewPath("apiserver", "address"), c.APIServer.Address == ""},
		{field.NewPath("apiserver", "certDir"), c.APIServer.CertDir == ""},
		{certificates.Child("secret"), c.Certificates.Secret == ""},
		{certificates.Child("services"), len(c.Certificates.Services) == 0},
		{certificates.Child("mutatingWebhook"), c.Certificates.MutatingWebhook == ""},
		{certificates.Child("validatingWebhook"), c.Certificates.ValidatingWebhook == ""},
		{certificates.Child("apiService"), c.Certificates.APIService == ""},
	} {
		if required.empty {
			errs = append(errs, field.Required(required.path, "must not be empty"))
		}
	}
	return errs
}

func validateRegistries(registries []Registry) field.ErrorList {
	var errs field.ErrorList
	seen := map[string]bool{}
	for i, r := range registries {
		path := field.NewPath("registries").Index(i)
		errs = append(errs, validateLocation(path.Child("prefix"), r.Prefix)...)
		if seen[r.Prefix] {
			errs = append(errs, field.Duplicate(path.Child("prefix"), r.Prefix))
		}
		seen[r.Prefix] = true
		for j, m := range r.Mirrors {
			errs = append(errs, validateLocation(path.Child("mirrors").Index(j).Child("location"), m.Location)...)
		}
	}
	return errs
}

// validateLocation checks a registry host with, perhaps, leading parts of a repository's path.
func validateLocation(path *field.Path, location string) field.ErrorList {
	host, repository, found := strings.Cut(location, "/")
	if _, err := name.NewRegistry(host, name.StrictValidation); err != nil {
		return field.ErrorList{field.Invalid(path, location, "must begin with a registry host such as quay.io or mirror.example.com:5000")}
	}
	if found {
		if _, err := name.NewRepository(host+"/"+repository, name.StrictValidation); err != nil {
			return field.ErrorList{field.Invalid(path, location, "what follows the registry host must be the beginning of a repository's path")}
		}
	}
	return nil
}
