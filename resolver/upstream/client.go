// Package upstream asks registries which image a name means and what that image holds.
package upstream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	imagev1 "github.com/openshift/api/image/v1"
	"golang.org/x/sync/singleflight"
	"k8s.io/utils/lru"

	"istag.dev/config"
)

const (
	// defaultTimeout bounds a call whose context has no deadline.
	defaultTimeout = time.Minute

	// How many registries, repositories and indexes a Client remembers. What is forgotten costs one
	// request more.
	rememberedRegistries   = 1024
	rememberedRepositories = 8192
	rememberedIndexes      = 8192
)

// Options of a Client.
type Options struct {
	// Registries says which mirrors are asked before a registry. The longest matching prefix counts.
	Registries []config.Registry
	// Platform, "os/architecture[/variant]", that Legacy mode takes out of an index. Empty means
	// linux/amd64.
	Platform string
	// Transport carries the requests; nil means one with sensible timeouts. Of an *http.Transport a
	// copy that does not verify certificates serves insecure requests; any other type serves both.
	Transport http.RoundTripper
	// UserAgent that registries see.
	UserAgent string
}

// Client asks registries, anonymously. It is safe for concurrent use.
//
// What it remembers (how a registry is talked to, tokens, which image of an index was chosen) saves
// requests and decides nothing: losing it changes no answer.
type Client struct {
	registries []config.Registry
	platform   v1.Platform
	userAgent  string
	secure     http.RoundTripper
	insecure   http.RoundTripper

	pings      singleflight.Group
	challenges *lru.Cache // registryKey -> *transport.Challenge
	tokens     *lru.Cache // repositoryKey -> http.RoundTripper
	children   *lru.Cache // childKey -> child
}

// Descriptor is the image that a name means now.
type Descriptor struct {
	// Reference is the pull spec of the image: the repository as the user spells it, with the digest.
	Reference string
	// Digest of the image's manifest, "sha256:…".
	Digest string
	// MediaType of the manifest, as the registry states it.
	MediaType string
}

// New returns a Client, or an error if the options make no sense.
func New(o Options) (*Client, error) {
	platform, err := parsePlatform(o.Platform)
	if err != nil {
		return nil, err
	}
	for _, r := range o.Registries {
		for _, m := range r.Mirrors {
			if _, err := name.NewRegistry(host(m.Location), name.StrictValidation); err != nil {
				return nil, fmt.Errorf("mirror %q of %q: %w", m.Location, r.Prefix, err)
			}
		}
	}
	secure, insecure := transports(o.Transport)
	return &Client{
		registries: o.Registries,
		platform:   platform,
		userAgent:  o.UserAgent,
		secure:     secure,
		insecure:   insecure,
		challenges: lru.New(rememberedRegistries),
		tokens:     lru.New(rememberedRepositories),
		children:   lru.New(rememberedIndexes),
	}, nil
}

func parsePlatform(s string) (v1.Platform, error) {
	if s == "" {
		return defaultPlatform, nil
	}
	p, err := v1.ParsePlatform(s)
	if err != nil || p.OS == "" || p.Architecture == "" {
		return v1.Platform{}, fmt.Errorf(`platform %q: must be "os/architecture" or "os/architecture/variant"`, s)
	}
	return *p, nil
}

// Digest returns the image that a request means now. It costs one HEAD where the registry offers
// that; where the name means an index and the mode is Legacy, the image chosen from an index not
// seen before costs a GET.
//
// The digest of a HEAD is the registry's word. Fetch is what proves it. An error that a registry is
// to blame for is an *Error.
func (c *Client) Digest(ctx context.Context, req Request) (Descriptor, error) {
	ref, err := parse(req.PullSpec)
	if err != nil {
		return Descriptor{}, err
	}
	var found Descriptor
	err = c.ask(ctx, req, ref, func(ctx context.Context, at place) error {
		options, err := c.options(ctx, at)
		if err != nil {
			return err
		}
		found, err = c.digestAt(at.reference(ref), req, options)
		return err
	})
	if err != nil {
		return Descriptor{}, err
	}
	found.Reference = ref.withDigest(found.Digest)
	return found, nil
}

func (c *Client) digestAt(ref name.Reference, req Request, options []remote.Option) (Descriptor, error) {
	desc, manifest, err := head(ref, options)
	if err != nil {
		return Descriptor{}, err
	}
	if desc.Digest.Algorithm != "sha256" {
		return Descriptor{}, errDigestAlgorithm(desc.Digest.Algorithm)
	}
	mediaType := bareType(string(desc.MediaType))
	if isSchema1(mediaType) {
		return Descriptor{}, errSchema1()
	}
	found := Descriptor{Digest: desc.Digest.String(), MediaType: mediaType}
	if req.Mode == imagev1.ImportModePreserveOriginal || manifest == nil && isImage(mediaType) {
		return found, nil
	}
	return c.choose(ref.Context(), req, found, manifest, options)
}

// head asks for a manifest's descriptor, by GET where the registry does not offer HEAD or leaves out
// of its answer what makes it useful; then the manifest comes with it.
func head(ref name.Reference, options []remote.Option) (*v1.Descriptor, []byte, error) {
	desc, err := remote.Head(ref, options...)
	if err == nil {
		return desc, nil, nil
	}
	if !headUnsupported(err) {
		return nil, nil, err
	}
	got, err := remote.Get(ref, options...)
	if err != nil {
		return nil, nil, err
	}
	return &got.Descriptor, got.Manifest, nil
}

// headUnsupported tells a registry that does not do HEAD, or not well, from one that says no. An
// answer that lacks a header is an error of neither type.
func headUnsupported(err error) bool {
	var refused *transport.Error
	if errors.As(err, &refused) {
		switch refused.StatusCode {
		case http.StatusBadRequest, http.StatusMethodNotAllowed, http.StatusNotAcceptable, http.StatusNotImplemented:
			return true
		default:
			return false
		}
	}
	return !isNetwork(err)
}

// childKey is an index and what the request prefers in it.
type childKey struct{ index, os, architecture string }

type child struct{ digest, mediaType string }

// choose returns the image that an index holds for the request's platform; what turns out to be no
// index is returned as it is. What has a digest never changes, so a choice once made holds for ever.
func (c *Client) choose(repository name.Repository, req Request, found Descriptor, manifest []byte, options []remote.Option) (Descriptor, error) {
	key := childKey{found.Digest, req.PreferOS, req.PreferArch}
	if chosen, ok := c.children.Get(key); ok {
		chosen := chosen.(child)
		return Descriptor{Digest: chosen.digest, MediaType: chosen.mediaType}, nil
	}
	if manifest == nil {
		got, err := getVerified(repository.Digest(found.Digest), options)
		if err != nil {
			return Descriptor{}, err
		}
		manifest, found.MediaType = got.Manifest, bareType(string(got.MediaType))
	}
	parsed, err := parseManifest(found.MediaType, manifest)
	if err != nil {
		return Descriptor{}, err
	}
	chosen := child{found.Digest, parsed.mediaType}
	if parsed.index != nil {
		picked, err := pick(parsed.index, req, c.platform)
		if err != nil {
			return Descriptor{}, err
		}
		chosen = child{picked.Digest.String(), string(picked.MediaType)}
	}
	c.children.Add(key, chosen)
	return Descriptor{Digest: chosen.digest, MediaType: chosen.mediaType}, nil
}

// Fetch returns what an image holds, as image.openshift.io/v1 has it, by its digest, which Digest
// gave. The bytes that the registry sends are checked against it. An error that a registry is to
// blame for is an *Error.
func (c *Client) Fetch(ctx context.Context, req Request, digest string) (*imagev1.Image, error) {
	image, err := c.FetchRaw(ctx, req, digest)
	if err != nil {
		return nil, err
	}
	image.DockerImageManifest, image.DockerImageConfig = "", ""
	return image, nil
}

// FetchRaw is Fetch with the manifest and, where it has one, the configuration as the registry sent
// them. Each can take MaxBody bytes.
func (c *Client) FetchRaw(ctx context.Context, req Request, digest string) (*imagev1.Image, error) {
	ref, err := parse(req.PullSpec)
	if err != nil {
		return nil, err
	}
	if err := checkDigest(digest); err != nil {
		return nil, err
	}
	var image *imagev1.Image
	err = c.ask(ctx, req, ref, func(ctx context.Context, at place) error {
		options, err := c.options(ctx, at)
		if err != nil {
			return err
		}
		image, err = fetch(at.repository.Digest(digest), ref.withDigest(digest), options)
		return err
	})
	return image, err
}

func fetch(at name.Digest, reference string, options []remote.Option) (*imagev1.Image, error) {
	got, err := getVerified(at, options)
	if err != nil {
		return nil, err
	}
	m, err := parseManifest(bareType(string(got.MediaType)), got.Manifest)
	if err != nil {
		return nil, err
	}
	var config []byte
	if m.hasConfig() {
		image, err := got.Image()
		if err != nil {
			return nil, err
		}
		if config, err = image.RawConfigFile(); err != nil {
			return nil, err
		}
	}
	image, err := newImage(reference, at.DigestStr(), m, config)
	if err != nil {
		return nil, err
	}
	image.DockerImageManifest, image.DockerImageConfig = string(got.Manifest), string(config)
	return image, nil
}

// getVerified returns a manifest whose bytes have the digest asked for. The library takes the
// registry's word for the digest of signed schema 1 manifests, hence the check here.
func getVerified(ref name.Digest, options []remote.Option) (*remote.Descriptor, error) {
	got, err := remote.Get(ref, options...)
	if err != nil {
		return nil, err
	}
	if isSchema1(bareType(string(got.MediaType))) {
		return nil, errSchema1()
	}
	sum, _, err := v1.SHA256(bytes.NewReader(got.Manifest))
	if err != nil {
		return nil, err
	}
	if sum.String() != ref.DigestStr() {
		return nil, fmt.Errorf("manifest digest %q is not %q", sum, ref.DigestStr())
	}
	return got, nil
}

// ask does one thing at each place that may serve a repository, in order, until one succeeds. Each
// gets an equal share of the time left, so that a mirror that hangs leaves some for the others. The
// error is the registry's own, which comes last; the mirrors' are told too.
func (c *Client) ask(ctx context.Context, req Request, ref reference, do func(context.Context, place) error) error {
	places, err := places(c.registries, ref, req.Insecure)
	if err != nil {
		return err
	}
	return c.askAt(ctx, req, places, do)
}

func (c *Client) askAt(ctx context.Context, req Request, places []place, do func(context.Context, place) error) error {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, defaultTimeout)
		defer cancel()
	}
	failed := make([]failure, 0, len(places))
	for i, at := range places {
		err := within(ctx, len(places)-i, func(ctx context.Context) error { return do(ctx, at) })
		if err == nil {
			return nil
		}
		if errors.Is(ctx.Err(), context.Canceled) {
			return fmt.Errorf("asking for %q: %w", clip(req.PullSpec), context.Canceled)
		}
		problem := explain(err, at)
		failed = append(failed, failure{at, problem})
		switch problem.kind {
		case Unauthorized, Forbidden, Unreachable, NeedsInsecure, NotRegistry:
			c.forget(at)
		case NotFound, RateLimited, Invalid, TooLarge:
		}
	}
	return summarise(req.PullSpec, failed)
}

// within runs do with the given fraction of the time that ctx has left.
func within(ctx context.Context, shares int, do func(context.Context) error) error {
	deadline, _ := ctx.Deadline()
	ctx, cancel := context.WithTimeout(ctx, time.Until(deadline)/time.Duration(shares))
	defer cancel()
	return do(ctx)
}
