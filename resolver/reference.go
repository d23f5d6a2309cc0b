// Package resolver decides what image names mean. Everything in it is a pure function of a name and
// a snapshot of the streams: no I/O, no clock.
package resolver

import (
	"errors"
	"strings"

	"github.com/distribution/reference"
)

// Reference is an image name taken apart as OpenShift takes it apart, which differs from Docker's
// way: nothing is filled in, and only the first part of the path is the namespace.
type Reference struct {
	// Registry is the host, with its port if it has one.
	Registry string
	// Namespace is the first part of the path, if it has several.
	Namespace string
	// Name is the rest of the path.
	Name string
	// Tag is empty if the name states none.
	Tag string
	// ID is the digest, "sha256:…", empty if the name states none.
	ID string
}

// errIPv6 refuses what the grammar of today allows and OpenShift's does not.
var errIPv6 = errors.New("a registry host cannot be an IPv6 address")

// ParseReference takes an image name apart by OpenShift's rules (library-go, image/reference):
//
//   - the first part of several is a registry if it holds "." or ":" or is "localhost";
//   - a single part is a registry, tag and all, if it holds "." or begins with "localhost", so a
//     stream of such a name cannot be addressed by it;
//   - a name may state a tag and a digest at once.
func ParseReference(s string) (Reference, error) {
	if ref, ok := parsePlain(s); ok {
		return ref, nil
	}
	return parseFull(s)
}

// parsePlain takes apart what nearly every local name is: letters, digits and inner dashes, perhaps with
// a tag. The regular expression of the full grammar costs more than all the rest of resolution. ok is
// false for everything that needs that grammar.
func parsePlain(s string) (ref Reference, ok bool) {
	name, tag, tagged := strings.Cut(s, ":")
	if name == "" || len(name) > 128 || name[0] == '-' || name[len(name)-1] == '-' || strings.HasPrefix(name, "localhost") {
		return ref, false
	}
	for i := range len(name) {
		if c := name[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return ref, false
		}
	}
	if !tagged {
		return Reference{Name: name}, true
	}
	if tag == "" || len(tag) > 128 || tag[0] == '.' || tag[0] == '-' {
		return ref, false
	}
	for i := range len(tag) {
		if c := tag[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && (c < 'A' || c > 'Z') && c != '_' && c != '.' && c != '-' {
			return ref, false
		}
	}
	return Reference{Name: name, Tag: tag}, true
}

func parseFull(s string) (Reference, error) {
	if strings.HasPrefix(s, "[") {
		return Reference{}, errIPv6
	}
	parsed, err := reference.Parse(s)
	if err != nil {
		return Reference{}, err
	}
	named, ok := parsed.(reference.Named)
	if !ok {
		return Reference{}, reference.ErrReferenceInvalidFormat
	}
	var ref Reference
	if digested, ok := parsed.(reference.Digested); ok {
		ref.ID = digested.Digest().String()
	}
	path := named.Name()
	first, rest, several := strings.Cut(path, "/")
	switch {
	case !several && (strings.Contains(first, ".") || strings.HasPrefix(first, "localhost")):
		ref.Registry = s
		return ref, nil
	case several && (strings.ContainsAny(first, ".:") || first == "localhost"):
		ref.Registry, path = first, rest
	}
	if tagged, ok := parsed.(reference.Tagged); ok {
		ref.Tag = tagged.Tag()
	}
	ref.Namespace, ref.Name, several = strings.Cut(path, "/")
	if !several {
		ref.Namespace, ref.Name = "", path
	}
	return ref, nil
}
