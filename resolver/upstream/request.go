package upstream

import (
	"fmt"
	"strings"

	refs "github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	imagev1 "github.com/openshift/api/image/v1"

	"istag.dev/config"
	"istag.dev/store"
)

// Annotations of a tag that choose the image taken out of an index in Legacy mode.
const (
	PreferOSAnnotation   = imagev1.ImporterPreferOSAnnotation
	PreferArchAnnotation = imagev1.ImporterPreferArchAnnotation
)

// Request is a question to a registry. Equal requests have equal answers.
type Request struct {
	// PullSpec is what the user wrote: a repository with a tag, a digest, both (the digest counts) or
	// neither (the tag is "latest").
	PullSpec string
	// Mode says whether an index is kept or one image taken out of it. Anything but PreserveOriginal
	// means Legacy.
	Mode imagev1.ImportModeType
	// PreferOS and PreferArch choose the image that is taken out of an index.
	PreferOS, PreferArch string
	// Insecure allows plain HTTP and certificates that cannot be verified, for the registry that the
	// pull spec names. Mirrors have their own setting.
	Insecure bool
}

// NewRequest returns the request that a tag of kind DockerImage makes.
func NewRequest(tag *imagev1.TagReference) Request {
	req := Request{Mode: imagev1.ImportModeLegacy, Insecure: tag.ImportPolicy.Insecure}
	if tag.From != nil {
		req.PullSpec = tag.From.Name
	}
	if tag.ImportPolicy.ImportMode == imagev1.ImportModePreserveOriginal {
		req.Mode = imagev1.ImportModePreserveOriginal
		return req
	}
	req.PreferOS = tag.Annotations[PreferOSAnnotation]
	req.PreferArch = tag.Annotations[PreferArchAnnotation]
	return req
}

// reference is a pull spec taken apart.
type reference struct {
	// spelled is the repository as the user wrote it.
	spelled string
	// domain and path name the repository in full: "docker.io" and "library/nginx".
	domain, path string
	// tag or digest, the other is empty.
	tag, digest string
}

func (r reference) withDigest(digest string) string { return r.spelled + "@" + digest }

// Check returns an *Error for what no registry can be asked for, and nil for every other pull spec.
func Check(pullSpec string) error {
	_, err := parse(pullSpec)
	return err
}

// parse takes a pull spec apart by the rules that container runtimes have.
func parse(spec string) (reference, error) {
	if spec == "" {
		return reference{}, invalid("from.name is empty: it must be a pull spec such as quay.io/keycloak/keycloak:26.0", nil)
	}
	named, err := refs.ParseDockerRef(spec)
	if err != nil {
		return reference{}, invalid(fmt.Sprintf("%q is not a pull spec: %s", clip(spec), clip(err.Error())), err)
	}
	r := reference{spelled: store.Repository(spec), domain: refs.Domain(named), path: refs.Path(named)}
	switch n := named.(type) {
	case refs.Canonical:
		r.digest = n.Digest().String()
		if err := checkDigest(r.digest); err != nil {
			return reference{}, err
		}
	case refs.Tagged:
		r.tag = n.Tag()
	default:
		r.tag = store.DefaultTag
	}
	if _, err := name.NewRepository(r.domain+"/"+r.path, name.StrictValidation); err != nil {
		return reference{}, invalid(fmt.Sprintf("%q is not a pull spec: %s", clip(spec), clip(err.Error())), err)
	}
	return r, nil
}

func checkDigest(digest string) error {
	hash, err := v1.NewHash(digest)
	if err != nil {
		return invalid(fmt.Sprintf("%q is not a digest: it must be sha256: and 64 hexadecimal digits", clip(digest)), err)
	}
	if hash.Algorithm != "sha256" {
		return errDigestAlgorithm(hash.Algorithm)
	}
	return nil
}

// place is one registry that may serve a repository.
type place struct {
	// label is how messages name the place.
	label      string
	mirror     bool
	insecure   bool
	repository name.Repository
}

// reference is what to ask for at this place.
func (p place) reference(r reference) name.Reference {
	if r.digest != "" {
		return p.repository.Digest(r.digest)
	}
	return p.repository.Tag(r.tag)
}

// places returns where a repository is asked for: the mirrors in order, then its own registry.
func places(registries []config.Registry, ref reference, insecure bool) ([]place, error) {
	full := ref.domain + "/" + ref.path
	own, err := home(ref, insecure)
	if err != nil {
		return nil, err
	}
	var places []place
	prefix, mirrors := mirrorsOf(registries, full)
	for _, m := range mirrors {
		at, err := newPlace(strings.TrimSuffix(m.Location, "/")+strings.TrimPrefix(full, prefix), m.Insecure)
		if err != nil {
			continue // The name is too long there, so the mirror cannot have it.
		}
		at.label, at.mirror = m.Location, true
		places = append(places, at)
	}
	return append(places, own), nil
}

// home is the place that a pull spec names.
func home(ref reference, insecure bool) (place, error) {
	at, err := newPlace(ref.domain+"/"+ref.path, insecure)
	at.label = ref.domain
	return at, err
}

func newPlace(repository string, insecure bool) (place, error) {
	options := []name.Option{name.StrictValidation}
	if insecure {
		options = append(options, name.Insecure)
	}
	repo, err := name.NewRepository(repository, options...)
	if err != nil {
		return place{}, invalid(fmt.Sprintf("%q is not a repository: %s", clip(repository), clip(err.Error())), err)
	}
	return place{insecure: insecure, repository: repo}, nil
}

// mirrorsOf returns the longest prefix that names a repository, whole path components only, and its
// mirrors.
func mirrorsOf(registries []config.Registry, repository string) (string, []config.Mirror) {
	var prefix string
	var mirrors []config.Mirror
	for _, r := range registries {
		p := strings.TrimSuffix(r.Prefix, "/")
		if rest, ok := strings.CutPrefix(p, "index.docker.io"); ok && (rest == "" || rest[0] == '/') {
			p = "docker.io" + rest
		}
		if (repository == p || strings.HasPrefix(repository, p+"/")) && len(p) > len(prefix) {
			prefix, mirrors = p, r.Mirrors
		}
	}
	return prefix, mirrors
}

func host(location string) string {
	h, _, _ := strings.Cut(location, "/")
	return h
}
