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
imports: {timeout: 5s}
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
		"Platform":       {"a platform has an architecture", head + `imports: {platform: ""}`, "imports.platform"},
		"Timeout":        {"an import needs some time", head + "imports: {timeout: 0s}", "imports.timeout"},
		"Workers":        {"somebody has to work", head + "imports: {workers: 0}", "imports.workers"},
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
	f.Fuzz(func(t *testing.T, text []byte) {
		if c, err := Parse(text); err == nil && len(c.validate()) > 0 {
			t.Error("what is accepted is valid")
		}
	})
}
