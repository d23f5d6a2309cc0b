package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

const head = "apiVersion: config.istag.dev/v1\nkind: Configuration\n"

func TestParse(t *testing.T) {
	got, err := Parse([]byte(head))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Default(), got); diff != "" {
		t.Errorf("an empty configuration is the default one: -want +got:\n%s", diff)
	}
	text, err := yaml.Marshal(Default())
	if err != nil {
		t.Fatal(err)
	}
	if got, err = Parse(text); err != nil {
		t.Fatalf("what \"istag config\" prints can be used: %v", err)
	}
	if diff := cmp.Diff(Default(), got); diff != "" {
		t.Errorf("the printed defaults mean the defaults: -want +got:\n%s", diff)
	}

	got, err = Parse([]byte(head + `
imports: {timeout: 5s, maxTagsPerRepository: -1, allowedRegistries: [{domain: quay.io}, {domain: "*.example.com", insecure: true}]}
registries:
- prefix: quay.io
  mirrors: [{location: "127.0.0.1:5000/quay.io", insecure: true}]
- prefix: quay.io/keycloak
`))
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.Imports.Timeout.Duration = 5e9
	want.Imports.MaxTagsPerRepository = -1
	want.Imports.AllowedRegistries = []AllowedRegistry{{Domain: "quay.io"}, {Domain: "*.example.com", Insecure: true}}
	want.Registries = []Registry{
		{Prefix: "quay.io", Mirrors: []Mirror{{Location: "127.0.0.1:5000/quay.io", Insecure: true}}},
		{Prefix: "quay.io/keycloak"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("fields that are set override, others keep their defaults: -want +got:\n%s", diff)
	}
}

func TestParseRefuses(t *testing.T) {
	cases := map[string]struct {
		reason, text string
		says         string
	}{
		"NoVersion":      {"a file says what it is", "kind: Configuration", "apiVersion"},
		"OtherVersion":   {"another version may mean something else", "apiVersion: config.istag.dev/v2\nkind: Configuration", "config.istag.dev/v1"},
		"OtherKind":      {"another kind is another file", "apiVersion: config.istag.dev/v1\nkind: Pod", "Configuration"},
		"UnknownField":   {"a misspelled field must not be ignored", head + "webhok: {}", "webhok"},
		"FieldTwice":     {"of two values one would be lost", head + "namespace: a\nnamespace: b", "namespace"},
		"NotYAML":        {"the text must be YAML", "\t", "yaml"},
		"EmptyNamespace": {"istag must know where it is", head + `namespace: ""`, "namespace"},
		"Mode":           {"there are two modes", head + "certificates: {mode: Magic}", "SelfManaged"},
		"NoServices":     {"a certificate is for some name", head + "certificates: {services: []}", "certificates.services"},
		"EmptyService":   {"a name has characters", head + `certificates: {services: [istag-webhook, ""]}`, "certificates.services[1]"},
		"NoAPIService":   {"a certificate that nothing trusts is of no use", head + `certificates: {apiService: ""}`, "certificates.apiService"},
		"NoAPIAddress":   {"the API is served somewhere", head + `apiserver: {address: ""}`, "apiserver.address"},
		"NoAPICertDir":   {"its certificate is somewhere", head + `apiserver: {certDir: ""}`, "apiserver.certDir"},
		"History":        {"the newest event is the tag itself", head + "streams: {historyLimit: 0}", "streams.historyLimit"},
		"Platform":       {"a platform has an architecture", head + `imports: {platform: ""}`, "imports.platform"},
		"Timeout":        {"an import needs some time", head + "imports: {timeout: 0s}", "imports.timeout"},
		"Workers":        {"somebody has to work", head + "imports: {workers: 0}", "imports.workers"},
		"MaxTags":        {"no tags at all would be no import", head + "imports: {maxTagsPerRepository: 0}", "imports.maxTagsPerRepository"},
		"MaxTagsLess":    {"only -1 means all", head + "imports: {maxTagsPerRepository: -2}", "imports.maxTagsPerRepository"},
		"AllowedNone":    {"an entry names a registry", head + "imports: {allowedRegistries: [{insecure: true}]}", "imports.allowedRegistries[0].domain"},
		"AllowedPath":    {"a repository's path is no registry", head + "imports: {allowedRegistries: [{domain: quay.io/a}]}", "imports.allowedRegistries[0].domain"},
		"AllowedURL":     {"a URL is no registry", head + "imports: {allowedRegistries: [{domain: 'https://quay.io'}]}", "imports.allowedRegistries[0].domain"},
		"AllowedTwice":   {"an entry that says nothing new is a mistake", head + "imports: {allowedRegistries: [{domain: quay.io}, {domain: 'QUAY.io:443'}]}", "imports.allowedRegistries[1].domain"},
		"AllowedUnknown": {"a misspelled field must not be ignored", head + "imports: {allowedRegistries: [{domainName: quay.io}]}", "domainName"},
		"Prefix":         {"a registry is a host", head + "registries: [{prefix: Not a host}]", "registries[0].prefix"},
		"PrefixTwice":    {"two entries would contradict each other", head + "registries: [{prefix: quay.io}, {prefix: quay.io}]", "registries[1].prefix"},
		"PrefixPath":     {"a path is a repository's", head + "registries: [{prefix: quay.io/UPPER}]", "registries[0].prefix"},
		"Mirror":         {"a mirror is a host", head + "registries: [{prefix: quay.io, mirrors: [{location: ''}]}]", "registries[0].mirrors[0].location"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if _, err := Parse([]byte(tc.text)); err == nil || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("%s: the error names %q: got %v", tc.reason, tc.says, err)
			}
		})
	}
}

func TestLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.yaml")
	if _, err := Load(path); err == nil {
		t.Error("a file that is not there is an error")
	}
	if err := os.WriteFile(path, []byte(head+"nonsense: 1"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Load(path)
	if err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "istag config") {
		t.Errorf("the error names the file and the way out: %v", err)
	}
	if c, err := Load(""); err != nil || c.Namespace != "istag-system" {
		t.Errorf("no file means the defaults: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(head + "registries: [{prefix: quay.io, mirrors: [{location: a.example.com/b}]}]"))
	f.Add([]byte("{}"))
	f.Add([]byte(head + "webhook: {workloads: [{group: argoproj.io, resource: rollouts, podSpec: 'spec.a[*].spec'}], auditLog: {maxFiles: 1}}"))
	f.Add([]byte(head + "policy: {resolveImages: Required, resolutionRules: [{targetResource: {resource: '*'}, localNames: true}], registryHosts: ['a:1']}"))
	f.Add([]byte(head + "policy: {executionRules: [{name: a, matchRegistries: [quay.io], matchImageLabels: [{matchExpressions: [{key: b, operator: In, values: [c]}]}]}]}"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if c, err := Parse(text); err == nil && len(c.validate()) > 0 {
			t.Error("what is accepted is valid")
		}
	})
}
