package importer

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
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"istag.dev/config"
	"istag.dev/resolver/upstream"
	"istag.dev/store"
	storev1 "istag.dev/store/v1"
)

// TestRealRegistry imports through the real client: quay.io is served by a mirror in this process.
func TestRealRegistry(t *testing.T) {
	var mu sync.Mutex
	var requests []string
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		requests = append(requests, r.Method+" "+r.URL.Path)
		mu.Unlock()
		inner.ServeHTTP(w, r)
	}))
	defer server.Close()
	seen := func() []string {
		mu.Lock()
		defer mu.Unlock()
		got := requests
		requests = nil
		return got
	}
	host := strings.TrimPrefix(server.URL, "http://")
	push := func() string {
		pushed, err := random.Image(64, 1)
		if err != nil {
			t.Fatal(err)
		}
		ref, err := name.ParseReference(host + "/keycloak/keycloak:20.0")
		if err != nil {
			t.Fatal(err)
		}
		if err := remote.Write(ref, pushed); err != nil {
			t.Fatal(err)
		}
		digest, err := pushed.Digest()
		if err != nil {
			t.Fatal(err)
		}
		seen()
		return digest.String()
	}
	up, err := upstream.New(upstream.Options{
		Registries: []config.Registry{{Prefix: "quay.io", Mirrors: []config.Mirror{{Location: host, Insecure: true}}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	f := newFixture(t, stream("keycloak", image("20.0", keycloak+":20.0")))
	f.upstream = up

	first := push()
	f.reconcile("keycloak")
	check(t, "a tag means the digest that the registry serves", keycloak+"@"+first, store.Latest(&f.get("keycloak").Status, "20.0").DockerImageReference)
	check(t, "a new image costs its manifest and its configuration", 4, len(seen()))
	var record storev1.ImageRecord
	if err := f.api.Get(t.Context(), client.ObjectKey{Name: store.ImageRecordName(first)}, &record); err != nil {
		t.Fatal(err)
	}
	check(t, "its record is ready for image.openshift.io/v1", []string{first, keycloak + "@" + first, "1.0"},
		[]string{record.Image.Name, record.Image.DockerImageReference, record.Image.DockerImageMetadataVersion})

	f.reimport("keycloak", "20.0")
	f.reconcile("keycloak")
	check(t, "an unchanged tag costs one HEAD", []string{"HEAD /v2/keycloak/keycloak/manifests/20.0"}, seen())

	second := push()
	f.reimport("keycloak", "20.0")
	f.reconcile("keycloak")
	check(t, "a moved tag moves", []string{second, first}, history(f.get("keycloak"), "20.0"))
}
