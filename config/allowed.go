package config

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/distribution/reference"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// AllowedRegistry is a registry that users may import from.
type AllowedRegistry struct {
	// Domain is the registry's host, with its port if that is not the usual one: "quay.io",
	// "*.example.com", "registry.example.com:5000". "*" stands for any characters, dots too, and "?" for
	// one. docker.io also means index.docker.io and registry-1.docker.io.
	Domain string `json:"domain"`
	// Insecure says that the port, where Domain states none, is 80, which imports with the insecure flag
	// ask for. Otherwise it is 443.
	Insecure bool `json:"insecure,omitempty"`
}

const (
	securePort   = "443"
	insecurePort = "80"

	// maxListed bounds how many of the allowed registries an error names.
	maxListed = 10
)

// Admit returns nil if users may import from the registry that a pull spec names. insecure is the
// import's own flag. The error is for the user, in OpenShift's words.
func (i Imports) Admit(pullSpec string, insecure bool) error {
	if len(i.AllowedRegistries) == 0 {
		return nil
	}
	named, err := reference.ParseNormalizedNamed(pullSpec)
	if err != nil {
		return fmt.Errorf("importing images is forbidden where the registry cannot be told: %w", err)
	}
	host, port := splitPort(strings.ToLower(reference.Domain(named)))
	if port == "" {
		port = defaultPort(insecure)
	}
	for _, alias := range aliases(host) {
		for _, allowed := range i.AllowedRegistries {
			if allowed.matches(alias, port) {
				return nil
			}
		}
	}
	asked := host + ":" + port
	return fmt.Errorf("importing images from registry %q is forbidden: registry %q not allowed by whitelist: %s", asked, asked, listed(i.AllowedRegistries))
}

func (a AllowedRegistry) matches(host, port string) bool {
	wantedHost, wantedPort := a.split()
	return matchGlob(wantedHost, host) && matchGlob(wantedPort, port)
}

func (a AllowedRegistry) split() (host, port string) {
	host, port = splitPort(strings.ToLower(a.Domain))
	if port == "" {
		port = defaultPort(a.Insecure)
	}
	return host, port
}

func defaultPort(insecure bool) string {
	if insecure {
		return insecurePort
	}
	return securePort
}

// splitPort takes the port off a host; it is empty if there is none. The colons within the brackets
// of an IPv6 address are not meant.
func splitPort(domain string) (host, port string) {
	if colon := strings.LastIndexByte(domain, ':'); colon > strings.LastIndexByte(domain, ']') {
		return domain[:colon], domain[colon+1:]
	}
	return domain, ""
}

// aliases returns the names of one registry. Docker Hub has several.
func aliases(host string) []string {
	hub := []string{"docker.io", "index.docker.io", "registry-1.docker.io"}
	for _, name := range hub {
		if name == host {
			return hub
		}
	}
	return []string{host}
}

// matchGlob reports whether all of s is matched by a pattern in which "*" is any characters and "?"
// is one. It takes at most the product of their lengths.
func matchGlob(pattern, s string) bool {
	p, i := 0, 0
	star, from := -1, 0
	for i < len(s) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, from = p, i
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == s[i]):
			p++
			i++
		case star >= 0:
			from++
			p, i = star+1, from
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}

func listed(registries []AllowedRegistry) string {
	var names []string
	for _, r := range registries[:min(len(registries), maxListed)] {
		host, port := r.split()
		names = append(names, fmt.Sprintf("%q", host+":"+port))
	}
	text := strings.Join(names, ", ")
	if more := len(registries) - maxListed; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

var allowedDomain = regexp.MustCompile(`^([A-Za-z0-9*?.-]+|\[[0-9A-Fa-f:]+\])(:[0-9*?]{1,5})?$`)

func validateAllowed(path *field.Path, registries []AllowedRegistry) field.ErrorList {
	var errs field.ErrorList
	seen := map[string]bool{}
	for i, r := range registries {
		domain := path.Index(i).Child("domain")
		if r.Domain == "" {
			errs = append(errs, field.Required(domain, "must be a registry host such as quay.io or *.example.com"))
			continue
		}
		if !allowedDomain.MatchString(r.Domain) {
			errs = append(errs, field.Invalid(domain, r.Domain, `must be a registry host, with a port if need be, in which "*" and "?" stand for other characters: quay.io, *.example.com, registry.example.com:5000`))
			continue
		}
		host, port := r.split()
		if seen[host+":"+port] {
			errs = append(errs, field.Duplicate(domain, r.Domain))
		}
		seen[host+":"+port] = true
	}
	return errs
}
