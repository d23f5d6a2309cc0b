package upstream

import (
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// fakeRegistry is a real registry in this process that counts requests and can be told to misbehave.
type fakeRegistry struct {
	*httptest.Server

	mu       sync.Mutex
	requests []string
	// fault handles a request and reports whether it did.
	fault func(http.ResponseWriter, *http.Request) bool
}

func newRegistry(t *testing.T) *fakeRegistry {
	t.Helper()
	return startRegistry(t, httptest.NewServer)
}

func newTLSRegistry(t *testing.T) *fakeRegistry {
	t.Helper()
	return startRegistry(t, httptest.NewTLSServer)
}

func startRegistry(t *testing.T, start func(http.Handler) *httptest.Server) *fakeRegistry {
	t.Helper()
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	r := &fakeRegistry{}
	r.Server = start(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.mu.Lock()
		r.requests = append(r.requests, req.Method+" "+req.URL.Path)
		fault := r.fault
		r.mu.Unlock()
		if fault != nil && fault(w, req) {
			return
		}
		inner.ServeHTTP(w, req)
	}))
	// TLS handshakes that are meant to fail are no news.
	r.Config.ErrorLog = log.New(io.Discard, "", 0)
	t.Cleanup(func() {
		r.CloseClientConnections()
		r.Close()
	})
	return r
}

// host is what a pull spec begins with.
func (r *fakeRegistry) host() string {
	_, host, _ := strings.Cut(r.URL, "://")
	return host
}

// breakWith makes the registry misbehave from now on; nil ends that.
func (r *fakeRegistry) breakWith(fault func(http.ResponseWriter, *http.Request) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fault = fault
}

// seen returns the requests since the last call.
func (r *fakeRegistry) seen() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	requests := r.requests
	r.requests = nil
	return requests
}

// push puts an image or index under a name, and forgets the requests that took.
func (r *fakeRegistry) push(t *testing.T, repository string, what remote.Taggable) {
	t.Helper()
	ref, err := name.ParseReference(r.host()+"/"+repository, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Push(ref, what, remote.WithTransport(r.Client().Transport)); err != nil {
		t.Fatal(err)
	}
	r.seen()
}

func newClient(t *testing.T, o Options) *Client {
	t.Helper()
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func randomImage(t *testing.T) v1.Image {
	t.Helper()
	image, err := random.Image(64, 2)
	if err != nil {
		t.Fatal(err)
	}
	return image
}

// indexOf returns an index with one image for each platform, and their digests.
func indexOf(t *testing.T, platforms ...string) (v1.ImageIndex, map[string]string) {
	t.Helper()
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	digests := map[string]string{}
	for _, p := range platforms {
		image := randomImage(t)
		platform, err := v1.ParsePlatform(p)
		if err != nil {
			t.Fatal(err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{Platform: platform}})
		digests[p] = digestOf(t, image)
	}
	return index, digests
}

func digestOf(t *testing.T, what interface{ Digest() (v1.Hash, error) }) string {
	t.Helper()
	digest, err := what.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return digest.String()
}

// status answers everything under /v2/…/manifests/ with a status.
func status(code int, methods ...string) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, req *http.Request) bool {
		if !strings.Contains(req.URL.Path, "/manifests/") || len(methods) > 0 && req.Method != methods[0] {
			return false
		}
		w.WriteHeader(code)
		return true
	}
}
