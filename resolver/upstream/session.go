package upstream

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// pingTimeout bounds the one request that learns how a registry is talked to. Callers wait for it no
// longer than their own contexts allow.
const pingTimeout = 15 * time.Second

type registryKey struct {
	host     string
	insecure bool
}

func (k registryKey) String() string {
	if k.insecure {
		return k.host + " insecure"
	}
	return k.host
}

type repositoryKey struct {
	registryKey
	repository string
}

func keyOf(at place) repositoryKey {
	return repositoryKey{registryKey{at.repository.RegistryStr(), at.insecure}, at.repository.RepositoryStr()}
}

// options returns how requests to a place are made. The first to a registry costs a ping, and, where
// the registry wants tokens, the first to a repository costs a token.
//
// The library does that anew for every call unless it is given a transport that has been through it.
func (c *Client) options(ctx context.Context, at place) ([]remote.Option, error) {
	rt, err := c.session(ctx, at)
	if err != nil {
		return nil, err
	}
	return []remote.Option{remote.WithContext(ctx), remote.WithTransport(rt)}, nil
}

// session returns the transport of requests to a place.
func (c *Client) session(ctx context.Context, at place) (http.RoundTripper, error) {
	challenge, err := c.ping(ctx, at)
	if err != nil {
		return nil, stageError{stagePing, err}
	}
	rt, err := c.authenticated(ctx, at, challenge)
	if err != nil {
		return nil, stageError{stageToken, err}
	}
	return rt, nil
}

// ping returns a registry's challenge. Callers at the same time share one request, which therefore
// outlives the one that happened to be first.
func (c *Client) ping(ctx context.Context, at place) (*transport.Challenge, error) {
	key := keyOf(at).registryKey
	if known, ok := c.challenges.Get(key); ok {
		return known.(*transport.Challenge), nil
	}
	answer := c.pings.DoChan(key.String(), func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), pingTimeout)
		defer cancel()
		challenge, err := transport.Ping(ctx, at.repository.Registry, c.base(at))
		if err == nil {
			c.challenges.Add(key, challenge)
		}
		return challenge, err
	})
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case a := <-answer:
		if a.Err != nil {
			return nil, a.Err
		}
		return a.Val.(*transport.Challenge), nil
	}
}

func (c *Client) authenticated(ctx context.Context, at place, challenge *transport.Challenge) (http.RoundTripper, error) {
	base := &schemeTransport{inner: c.base(at), registry: at.repository.Registry, scheme: "https"}
	if challenge.Insecure {
		base.scheme = "http"
	}
	registry := at.repository.Registry
	if !strings.EqualFold(challenge.Scheme, "bearer") {
		return transport.FromToken(registry, authn.Anonymous, base, challenge, &transport.Token{})
	}
	key := keyOf(at)
	if known, ok := c.tokens.Get(key); ok {
		return known.(http.RoundTripper), nil
	}
	scopes := []string{at.repository.Scope(transport.PullScope)}
	token, err := transport.Exchange(ctx, registry, authn.Anonymous, base, scopes, challenge)
	if err != nil {
		return nil, err
	}
	if token.Token == "" {
		token.Token = token.AccessToken
	}
	rt, err := transport.FromToken(registry, authn.Anonymous, base, challenge, token)
	if err != nil {
		return nil, err
	}
	c.tokens.Add(key, rt)
	return rt, nil
}

// forget makes the next request to a place begin from nothing: a registry that failed may have
// changed how it wants to be talked to.
func (c *Client) forget(at place) {
	key := keyOf(at)
	c.challenges.Remove(key.registryKey)
	c.tokens.Remove(key)
}

// base is the transport below authentication.
func (c *Client) base(at place) http.RoundTripper {
	inner := c.secure
	if at.insecure {
		inner = c.insecure
	}
	return transport.NewUserAgent(&guard{inner: inner, insecure: at.insecure}, c.userAgent)
}

// schemeTransport sends a registry's requests by the scheme that its ping showed. The library guesses
// the scheme from the registry's name. Other hosts, of a token or a redirect, keep theirs.
type schemeTransport struct {
	inner    http.RoundTripper
	registry name.Registry
	scheme   string
}

func (t *schemeTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Response == nil && req.URL.Host == t.registry.RegistryStr() && strings.HasPrefix(req.URL.Path, "/v2/") {
		req.URL.Scheme = t.scheme
	}
	return t.inner.RoundTrip(req)
}
