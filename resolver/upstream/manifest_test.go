package upstream

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	refs "github.com/distribution/reference"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/openshift/api/image/docker10"
	imagev1 "github.com/openshift/api/image/v1"

	"istag.dev/config"
)

const (
	someDigest  = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	otherDigest = "sha256:fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210"
)

func imageManifest(configSize int64) string {
	return fmt.Sprintf(`{"schemaVersion":2,"config":{"mediaType":%q,"size":%d,"digest":%q},"layers":[{"mediaType":%q,"size":7,"digest":%q}]}`,
		types.OCIConfigJSON, configSize, someDigest, types.OCILayer, otherDigest)
}

func TestParseManifest(t *testing.T) {
	index := fmt.Sprintf(`{"schemaVersion":2,"manifests":[{"mediaType":%q,"size":7,"digest":%q}]}`, types.OCIManifestSchema1, someDigest)
	cases := map[string]struct {
		reason    string
		mediaType string
		raw       string
		want      string
		err       Kind
	}{
		"Image":         {reason: "the answer's media type counts", mediaType: string(types.DockerManifestSchema2), raw: imageManifest(2), want: string(types.DockerManifestSchema2)},
		"Index":         {reason: "the answer's media type counts", mediaType: string(types.DockerManifestList), raw: index, want: string(types.DockerManifestList)},
		"ImageSniffed":  {reason: "a static web server does not know media types", mediaType: "application/octet-stream", raw: imageManifest(2), want: string(types.OCIManifestSchema1)},
		"IndexSniffed":  {reason: "a static web server does not know media types", raw: index, want: string(types.OCIImageIndex)},
		"Both":          {reason: "two readers must not see two images", mediaType: string(types.OCIManifestSchema1), raw: strings.TrimSuffix(index, "}") + "," + strings.TrimPrefix(imageManifest(2), "{"), err: Invalid},
		"Mismatch":      {reason: "two readers must not see two images", mediaType: string(types.OCIImageIndex), raw: imageManifest(2), err: Invalid},
		"Neither":       {reason: "what is nothing is refused", raw: `{"schemaVersion":2}`, err: Invalid},
		"NotJSON":       {reason: "a login page is no manifest", raw: "<html>", err: Invalid},
		"Schema1":       {reason: "schema 1 is known by its version too", raw: `{"schemaVersion":1,"fsLayers":[]}`, err: Invalid},
		"NegativeSize":  {reason: "sizes are counted", raw: imageManifest(-1), err: Invalid},
		"NullConfig":    {reason: "a manifest without digests describes nothing", raw: `{"schemaVersion":2,"config":null,"layers":[]}`, err: Invalid},
		"TooLarge":      {reason: "a configuration that says it is huge is not asked for", raw: imageManifest(MaxBody + 1), err: TooLarge},
		"MalformedHash": {reason: "a digest must be one", raw: strings.ReplaceAll(imageManifest(2), someDigest, "sha256:xyz"), err: Invalid},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			m, err := parseManifest(tc.mediaType, []byte(tc.raw))
			if tc.err != "" {
				if err == nil {
					t.Fatalf("%s: no error", tc.reason)
				}
				if got := explain(err, place{}).kind; got != tc.err {
					t.Errorf("%s: got %q (%v), want %q", tc.reason, got, err, tc.err)
				}
				return
			}
			if err != nil || m.mediaType != tc.want {
				t.Errorf("%s: got %+v, %v; want media type %q", tc.reason, m, err, tc.want)
			}
		})
	}
}

func TestPickSkipsWhatIsNoImage(t *testing.T) {
	raw := fmt.Sprintf(`{"schemaVersion":2,"manifests":[
		{"mediaType":%[1]q,"size":7,"digest":%[3]q,"platform":{"os":"linux","architecture":"amd64"}},
		{"mediaType":%[2]q,"size":7,"digest":%[3]q,"platform":{"os":"unknown","architecture":"unknown"}},
		{"mediaType":%[2]q,"size":7,"digest":%[4]q}]}`, types.OCIImageIndex, types.OCIManifestSchema1, someDigest, otherDigest)
	m, err := parseManifest("", []byte(raw))
	if err != nil {
		t.Fatal(err)
	}
	got, err := pick(m.index, Request{}, defaultPlatform)
	if err != nil || got.Digest.String() != otherDigest {
		t.Errorf("an index in the index and an attestation are no images: got %v, %v", got, err)
	}
	m.index.Manifests = m.index.Manifests[:2]
	if _, err := pick(m.index, Request{}, defaultPlatform); err == nil {
		t.Error("an index without any image has none to pick")
	}
}

func TestNewImageRefusesWhatCannotBeStored(t *testing.T) {
	m, err := parseManifest("", []byte(imageManifest(2)))
	if err != nil {
		t.Fatal(err)
	}
	config := `{"config":{"Labels":{"k":"` + strings.Repeat("x", maxImage) + `"}}}`
	_, err = newImage("a@"+someDigest, someDigest, m, []byte(config))
	var p *placeError
	if !errors.As(err, &p) || p.kind != TooLarge {
		t.Errorf("an image over what the API server stores is refused here, with a reason: %v", err)
	}
}

func TestParse(t *testing.T) {
	cases := map[string]struct {
		reason string
		spec   string
		want   reference
	}{
		"Short":     {"docker.io is understood, and not added to the user's spelling", "nginx", reference{spelled: "nginx", domain: "docker.io", path: "library/nginx", tag: "latest"}},
		"User":      {"docker.io is understood, and not added to the user's spelling", "me/app:1", reference{spelled: "me/app", domain: "docker.io", path: "me/app", tag: "1"}},
		"Docker":    {"docker.io written out stays", "docker.io/library/nginx:1", reference{spelled: "docker.io/library/nginx", domain: "docker.io", path: "library/nginx", tag: "1"}},
		"Port":      {"a port is no tag", "localhost:5000/a", reference{spelled: "localhost:5000/a", domain: "localhost:5000", path: "a", tag: "latest"}},
		"Digest":    {"a digest", "quay.io/a/b@" + someDigest, reference{spelled: "quay.io/a/b", domain: "quay.io", path: "a/b", digest: someDigest}},
		"TagDigest": {"a digest counts more than a tag", "quay.io/a/b:1@" + someDigest, reference{spelled: "quay.io/a/b", domain: "quay.io", path: "a/b", digest: someDigest}},
	}
	for name, tc := range cases {
		got, err := parse(tc.spec)
		if err != nil {
			t.Errorf("%s: %s: %v", name, tc.reason, err)
		}
		if diff := cmp.Diff(tc.want, got, cmp.AllowUnexported(reference{})); diff != "" {
			t.Errorf("%s: %s (-want +got):\n%s", name, tc.reason, diff)
		}
	}
}

func TestPlaces(t *testing.T) {
	registries := []config.Registry{
		{Prefix: "docker.io", Mirrors: []config.Mirror{{Location: "hub.example.com"}}},
		{Prefix: "index.docker.io/library/nginx", Mirrors: []config.Mirror{{Location: "nginx.example.com/copy/nginx"}}},
		{Prefix: "quay.io/keycloak", Mirrors: []config.Mirror{{Location: "mirror.example.com:5000/quay"}}},
	}
	cases := map[string]struct {
		reason string
		spec   string
		want   []string
	}{
		"Hub":        {"docker.io is the prefix of names without a registry", "redis:7", []string{"hub.example.com/library/redis", "index.docker.io/library/redis"}},
		"Repository": {"a whole repository can be a prefix, and index.docker.io is docker.io", "nginx", []string{"nginx.example.com/copy/nginx", "index.docker.io/library/nginx"}},
		"Path":       {"the location replaces the prefix", "quay.io/keycloak/keycloak:1", []string{"mirror.example.com:5000/quay/keycloak", "quay.io/keycloak/keycloak"}},
		"Boundary":   {"a prefix ends where a path component ends", "quay.io/keycloaks/x:1", []string{"quay.io/keycloaks/x"}},
	}
	for name, tc := range cases {
		ref, err := parse(tc.spec)
		if err != nil {
			t.Fatal(err)
		}
		all, err := places(registries, ref, false)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, at := range all {
			got = append(got, at.repository.Name())
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s: %s (-want +got):\n%s", name, tc.reason, diff)
		}
	}
}

// FuzzImage feeds what a registry may send to what becomes a record.
func FuzzImage(f *testing.F) {
	f.Add(string(types.OCIManifestSchema1), []byte(imageManifest(2)), []byte(`{"architecture":"amd64","created":"2024-01-01T00:00:00Z","config":{"Env":["A=b"]}}`))
	f.Add("", []byte(`{"schemaVersion":2,"manifests":[{"size":7,"digest":"`+someDigest+`","platform":{"os":"linux"}}]}`), []byte(nil))
	f.Add(string(types.DockerManifestSchema1Signed), []byte(`{"schemaVersion":1}`), []byte(`{"created":"9999-12-31T23:59:59-01:00"}`))
	f.Fuzz(func(t *testing.T, mediaType string, raw, config []byte) {
		m, err := parseManifest(mediaType, raw)
		if err != nil {
			if len(explain(err, place{}).text) > 4*maxQuoted {
				t.Errorf("message without bound: %d bytes", len(err.Error()))
			}
			return
		}
		if m.index != nil {
			if picked, err := pick(m.index, Request{}, defaultPlatform); err == nil && checkDigest(picked.Digest.String()) != nil {
				t.Errorf("picked %q, which is no digest", picked.Digest)
			}
		}
		image, err := newImage("a@"+someDigest, someDigest, m, config)
		if err != nil {
			return
		}
		encoded, err := json.Marshal(image)
		if err != nil || len(encoded) > maxImage {
			t.Fatalf("%d bytes, %v", len(encoded), err)
		}
		var decoded imagev1.Image
		var metadata docker10.DockerImage
		if err := json.Unmarshal(encoded, &decoded); err != nil {
			t.Fatalf("a record that cannot be read back: %v", err)
		}
		if err := json.Unmarshal(decoded.DockerImageMetadata.Raw, &metadata); err != nil || metadata.Size < 0 {
			t.Fatalf("metadata that cannot be read back: %v, size %d", err, metadata.Size)
		}
	})
}

// FuzzParse checks that what is taken apart is still what container runtimes make of it.
func FuzzParse(f *testing.F) {
	for _, spec := range []string{"nginx", "quay.io/a/b:1", "localhost:5000/a@" + someDigest, "[::1]:5000/a", "a:b:c", "A/b", "x@sha256:1", "\xff"} {
		f.Add(spec)
	}
	f.Fuzz(func(t *testing.T, spec string) {
		ref, err := parse(spec)
		if err != nil {
			if !utf8.ValidString(err.Error()) || len(err.Error()) > 4*maxQuoted {
				t.Errorf("message %q", err)
			}
			return
		}
		if (ref.tag == "") == (ref.digest == "") {
			t.Errorf("%q: neither or both of tag and digest: %+v", spec, ref)
		}
		pinned, err := refs.ParseDockerRef(ref.withDigest(someDigest))
		if err != nil {
			t.Fatalf("%q: pull spec %q cannot be pulled: %v", spec, ref.withDigest(someDigest), err)
		}
		if refs.Domain(pinned) != ref.domain || refs.Path(pinned) != ref.path {
			t.Errorf("%q: pull spec names another repository: %s", spec, pinned)
		}
		all, err := places([]config.Registry{{Prefix: ref.domain, Mirrors: []config.Mirror{{Location: "mirror.example.com/x"}}}}, ref, false)
		if err != nil {
			t.Fatalf("%q: %v", spec, err)
		}
		if len(all) == 1 {
			return // A mirror's path can be too long where the repository's is not.
		}
		if got := all[0].repository.RepositoryStr(); got != "x/"+ref.path {
			t.Errorf("%q: asked for at its mirror as %q", spec, got)
		}
	})
}
