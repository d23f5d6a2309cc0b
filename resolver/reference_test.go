package resolver

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const sha = "sha256:aaaa000000000000000000000000000000000000000000000000000000000000"

// TestParseReference is the golden table of OpenShift's parser.
func TestParseReference(t *testing.T) {
	cases := map[string]struct {
		reason string
		want   Reference
	}{
		"mysql":                     {"one part is a name", Reference{Name: "mysql"}},
		"mysql:5.7":                 {"one part is a name", Reference{Name: "mysql", Tag: "5.7"}},
		"mysql@" + sha:              {"a digest is kept", Reference{Name: "mysql", ID: sha}},
		"mysql:5.7@" + sha:          {"tag and digest are both kept", Reference{Name: "mysql", Tag: "5.7", ID: sha}},
		"library/mysql":             {"the first of two parts is the namespace", Reference{Namespace: "library", Name: "mysql"}},
		"host/ns/name:t":            {"a host without dot or port is no registry", Reference{Namespace: "host", Name: "ns/name", Tag: "t"}},
		"node.js":                   {"one part with a dot is a registry", Reference{Registry: "node.js"}},
		"node.js:18":                {"one part with a dot is a registry, tag and all", Reference{Registry: "node.js:18"}},
		"node.js@" + sha:            {"one part with a dot is a registry, digest and all", Reference{Registry: "node.js@" + sha, ID: sha}},
		"localhosting":              {"one part that begins with localhost is a registry", Reference{Registry: "localhosting"}},
		"localhost":                 {"one part that begins with localhost is a registry", Reference{Registry: "localhost"}},
		"localhost/mysql":           {"localhost is a registry", Reference{Registry: "localhost", Name: "mysql"}},
		"localhosting/mysql":        {"what only begins with localhost is no registry before a path", Reference{Namespace: "localhosting", Name: "mysql"}},
		"registry:5000":             {"one part with a colon has a tag", Reference{Name: "registry", Tag: "5000"}},
		"registry:5000/mysql":       {"a port makes a registry", Reference{Registry: "registry:5000", Name: "mysql"}},
		"docker.io/mysql":           {"no namespace is filled in", Reference{Registry: "docker.io", Name: "mysql"}},
		"quay.io/a/b/c:1":           {"only the first part of the path is the namespace", Reference{Registry: "quay.io", Namespace: "a", Name: "b/c", Tag: "1"}},
		"reg.svc:5000/ns/n:t":       {"a registry with dot and port", Reference{Registry: "reg.svc:5000", Namespace: "ns", Name: "n", Tag: "t"}},
		"reg.svc:5000/ns/a/b:t":     {"the rest of the path is the name", Reference{Registry: "reg.svc:5000", Namespace: "ns", Name: "a/b", Tag: "t"}},
		"a_b__c-d---e:T.a_g-1":      {"every separator of the grammar", Reference{Name: "a_b__c-d---e", Tag: "T.a_g-1"}},
		"HOST.example.com/a/b:t":    {"a registry may be in capitals", Reference{Registry: "HOST.example.com", Namespace: "a", Name: "b", Tag: "t"}},
		"quay.io/keycloak/k@" + sha: {"a registry, a path and a digest", Reference{Registry: "quay.io", Namespace: "keycloak", Name: "k", ID: sha}},
	}
	for input, tc := range cases {
		got, err := ParseReference(input)
		if err != nil {
			t.Errorf("%s: ParseReference(%q): %v", tc.reason, input, err)
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s: ParseReference(%q): -want +got:\n%s", tc.reason, input, diff)
		}
	}
	for input, reason := range map[string]string{
		"Mysql":                              "a name is in lower case",
		" ":                                  "a space is no name (the placeholder that oc new-app writes)",
		"":                                   "nothing is no name",
		" mysql":                             "spaces are not trimmed",
		"mysql ":                             "spaces are not trimmed",
		"mysql:":                             "a tag cannot be empty",
		"mysql@":                             "a digest cannot be empty",
		"mysql@sha256:abc":                   "a digest has its full length",
		"a//b":                               "a part of a path cannot be empty",
		"[::1]:5000/mysql":                   "OpenShift knows no IPv6 registries",
		"mysql:" + string(make([]byte, 129)): "a tag is made of printable characters",
	} {
		if got, err := ParseReference(input); err == nil {
			t.Errorf("%s: ParseReference(%q) = %+v", reason, input, got)
		}
	}
}

func FuzzParseReference(f *testing.F) {
	for _, s := range []string{"mysql", "mysql:5.7@" + sha, "quay.io/a/b/c:1", "node.js:18", "localhost", "[::1]:50/a", "a//b", "Mysql", " ", "a-b:1_x.Y-z", "-a", "a-", "a:-", "a:.", "localhost-a:1", "a:b:c", strings.Repeat("a", 129), "a:" + strings.Repeat("b", 129)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ref, err := ParseReference(s)
		if full, fullErr := parseFull(s); full != ref || (err == nil) != (fullErr == nil) {
			t.Errorf("ParseReference(%q) = %+v, %v, by the full grammar %+v, %v", s, ref, err, full, fullErr)
		}
		if err != nil {
			if ref != (Reference{}) {
				t.Errorf("an error comes with nothing else: %+v", ref)
			}
			return
		}
		if ref.Name == "" && ref.Registry == "" {
			t.Errorf("ParseReference(%q) found neither name nor registry: %+v", s, ref)
		}
		if got := ref.join(); got != s {
			t.Errorf("ParseReference(%q) lost something: %+v joins to %q", s, ref, got)
		}
	})
}

// join puts the parts together again.
func (r Reference) join() string {
	if r.Name == "" {
		return r.Registry
	}
	s := r.Name
	if r.Namespace != "" {
		s = r.Namespace + "/" + s
	}
	if r.Registry != "" {
		s = r.Registry + "/" + s
	}
	if r.Tag != "" {
		s += ":" + r.Tag
	}
	if r.ID != "" {
		s += "@" + r.ID
	}
	return s
}
