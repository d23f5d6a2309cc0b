package config

import (
	"fmt"
	"path"
	"strings"
	"testing"
)

func TestAdmit(t *testing.T) {
	cases := map[string]struct {
		reason   string
		allowed  []AllowedRegistry
		pullSpec string
		insecure bool
		refused  bool
	}{
		"None":            {reason: "without a list everything may be imported", pullSpec: "evil.example.com/a:1"},
		"NoneUnparsable":  {reason: "without a list there is nothing to tell", pullSpec: "Not A Pull Spec"},
		"Exact":           {reason: "a listed host may be used", allowed: []AllowedRegistry{{Domain: "quay.io"}}, pullSpec: "quay.io/a/b:1"},
		"Other":           {reason: "another may not", allowed: []AllowedRegistry{{Domain: "quay.io"}}, pullSpec: "evil.example.com/a:1", refused: true},
		"Suffix":          {reason: "a host is matched as a whole", allowed: []AllowedRegistry{{Domain: "quay.io"}}, pullSpec: "quay.io.evil.example.com/a:1", refused: true},
		"Prefix":          {reason: "a host is matched as a whole", allowed: []AllowedRegistry{{Domain: "quay.io"}}, pullSpec: "evilquay.io/a:1", refused: true},
		"DotIsADot":       {reason: "a dot stands for nothing else", allowed: []AllowedRegistry{{Domain: "quay.io"}}, pullSpec: "quayxio.example.com/a:1", refused: true},
		"Case":            {reason: "hosts have no case", allowed: []AllowedRegistry{{Domain: "Quay.io"}}, pullSpec: "QUAY.IO/a/b:1"},
		"Second":          {reason: "any entry will do", allowed: []AllowedRegistry{{Domain: "quay.io"}, {Domain: "ghcr.io"}}, pullSpec: "ghcr.io/a/b:1"},
		"Glob":            {reason: "* stands for any characters", allowed: []AllowedRegistry{{Domain: "*.example.com"}}, pullSpec: "a.b.example.com/x:1"},
		"GlobNotBare":     {reason: "a dot that is written must be there", allowed: []AllowedRegistry{{Domain: "*.example.com"}}, pullSpec: "example.com/x:1", refused: true},
		"Question":        {reason: "? stands for one character", allowed: []AllowedRegistry{{Domain: "r?.example.com"}}, pullSpec: "r1.example.com/x:1"},
		"QuestionTwo":     {reason: "? stands for no more than one character", allowed: []AllowedRegistry{{Domain: "r?.example.com"}}, pullSpec: "r12.example.com/x:1", refused: true},
		"Port":            {reason: "a port that is written is the one", allowed: []AllowedRegistry{{Domain: "r.example.com:5000"}}, pullSpec: "r.example.com:5000/x:1"},
		"PortOther":       {reason: "another port is another registry", allowed: []AllowedRegistry{{Domain: "r.example.com:5000"}}, pullSpec: "r.example.com:5001/x:1", refused: true},
		"PortDefault":     {reason: "without a port the usual one is meant", allowed: []AllowedRegistry{{Domain: "r.example.com"}}, pullSpec: "r.example.com:443/x:1"},
		"PortNotDefault":  {reason: "without a port only the usual one is meant", allowed: []AllowedRegistry{{Domain: "r.example.com"}}, pullSpec: "r.example.com:5000/x:1", refused: true},
		"PortAny":         {reason: "a port can be a pattern too", allowed: []AllowedRegistry{{Domain: "r.example.com:*"}}, pullSpec: "r.example.com:5000/x:1"},
		"Insecure":        {reason: "the insecure flag means port 80", allowed: []AllowedRegistry{{Domain: "r.example.com", Insecure: true}}, pullSpec: "r.example.com/x:1", insecure: true},
		"InsecureNot":     {reason: "a host allowed with TLS is not allowed without", allowed: []AllowedRegistry{{Domain: "r.example.com"}}, pullSpec: "r.example.com/x:1", insecure: true, refused: true},
		"DockerShort":     {reason: "a name without a host is Docker Hub's", allowed: []AllowedRegistry{{Domain: "docker.io"}}, pullSpec: "nginx"},
		"DockerIndex":     {reason: "Docker Hub has several names", allowed: []AllowedRegistry{{Domain: "docker.io"}}, pullSpec: "index.docker.io/library/nginx"},
		"DockerRegistry":  {reason: "Docker Hub has several names", allowed: []AllowedRegistry{{Domain: "registry-1.docker.io"}}, pullSpec: "docker.io/library/nginx"},
		"DockerNot":       {reason: "Docker Hub must be listed like any other", allowed: []AllowedRegistry{{Domain: "quay.io"}}, pullSpec: "nginx", refused: true},
		"Unparsable":      {reason: "where the registry cannot be told nothing is allowed", allowed: []AllowedRegistry{{Domain: "*"}}, pullSpec: "Not A Pull Spec", refused: true},
		"IPv6":            {reason: "brackets keep an address together", allowed: []AllowedRegistry{{Domain: "[2001:db8::1]:5000"}}, pullSpec: "[2001:db8::1]:5000/a:1"},
		"IPv6DefaultPort": {reason: "an address without a port has the usual one", allowed: []AllowedRegistry{{Domain: "[2001:db8::1]"}}, pullSpec: "[2001:db8::1]:443/a:1"},
		"TagIsNoPort":     {reason: "what follows the path is a tag", allowed: []AllowedRegistry{{Domain: "docker.io"}}, pullSpec: "nginx:5000"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			err := Imports{AllowedRegistries: tc.allowed}.Admit(tc.pullSpec, tc.insecure)
			if (err != nil) != tc.refused {
				t.Errorf("%s: got %v", tc.reason, err)
			}
		})
	}
}

func TestAdmitSaysWhatIsAllowed(t *testing.T) {
	imports := Imports{AllowedRegistries: []AllowedRegistry{{Domain: "quay.io"}, {Domain: "r.example.com", Insecure: true}}}
	want := `importing images from registry "evil.example.com:443" is forbidden: registry "evil.example.com:443" not allowed by whitelist: "quay.io:443", "r.example.com:80"`
	if err := imports.Admit("evil.example.com/a:1", false); err == nil || err.Error() != want {
		t.Errorf("the error is OpenShift's:\n got %v\nwant %s", err, want)
	}
	for i := range 20 {
		imports.AllowedRegistries = append(imports.AllowedRegistries, AllowedRegistry{Domain: fmt.Sprintf("r%d.example.com", i)})
	}
	if err := imports.Admit("evil.example.com/a:1", false); err == nil || !strings.HasSuffix(err.Error(), `"r7.example.com:443" and 12 more`) {
		t.Errorf("a long list is cut: %v", err)
	}
}

func FuzzAdmit(f *testing.F) {
	f.Add("*.example.com", "a.b.example.com/x:1", false)
	f.Add("r?.example.com:50*", "r1.example.com:5000/x@sha256:"+strings.Repeat("0", 64), true)
	f.Add("docker.io", "nginx", false)
	f.Add("**?*a", "aaaa/b", false)
	f.Fuzz(func(t *testing.T, domain, pullSpec string, insecure bool) {
		imports := Imports{AllowedRegistries: []AllowedRegistry{{Domain: domain}}}
		if len(validateAllowed(nil, imports.AllowedRegistries)) > 0 {
			return
		}
		err := imports.Admit(pullSpec, insecure)
		if err != nil && len(err.Error()) > 2*len(pullSpec)+len(domain)+400 {
			t.Errorf("the error is out of proportion: %v", err)
		}
		everything := Imports{AllowedRegistries: []AllowedRegistry{{Domain: "*:*"}}}
		if err == nil && everything.Admit(pullSpec, insecure) != nil {
			t.Errorf("%q admits %q, which *:* does not", domain, pullSpec)
		}
	})
}

func FuzzMatchGlob(f *testing.F) {
	f.Add("a*b?c", "axxbyc")
	f.Add("***", "")
	f.Fuzz(func(t *testing.T, pattern, s string) {
		// The standard library's rules are the same where nothing else of its syntax is used.
		if strings.ContainsAny(pattern, `[]\`) || strings.Contains(s, "/") || !isASCII(pattern+s) {
			return
		}
		want, err := path.Match(pattern, s)
		if err != nil {
			return
		}
		if got := matchGlob(pattern, s); got != want {
			t.Errorf("matchGlob(%q, %q) = %t", pattern, s, got)
		}
	})
}

func isASCII(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r > 127 }) < 0
}
