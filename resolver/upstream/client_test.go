package upstream

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/openshift/api/image/docker10"
	imagev1 "github.com/openshift/api/image/v1"
	corev1 "k8s.io/api/core/v1"

	"istag.dev/config"
)

func TestUnchangedTagCostsOneHead(t *testing.T) {
	reg := newRegistry(t)
	image := randomImage(t)
	reg.push(t, "a/b:1", image)
	index, _ := indexOf(t, "linux/arm64", "linux/amd64")
	reg.push(t, "multi:1", index)
	client := newClient(t, Options{})

	cases := map[string]struct {
		reason string
		spec   string
		first  []string
		again  []string
	}{
		"Image": {
			reason: "the first question to a registry costs a ping, the next one HEAD and nothing else",
			spec:   "a/b:1",
			first:  []string{"GET /v2/", "HEAD /v2/a/b/manifests/1"},
			again:  []string{"HEAD /v2/a/b/manifests/1"},
		},
		"Index": {
			reason: "the image in an index is looked for once, for an index never changes",
			spec:   "multi:1",
			first:  []string{"HEAD /v2/multi/manifests/1", "GET /v2/multi/manifests/" + digestOf(t, index)},
			again:  []string{"HEAD /v2/multi/manifests/1"},
		},
	}
	for _, name := range []string{"Image", "Index"} {
		tc := cases[name]
		for _, want := range [][]string{tc.first, tc.again, tc.again} {
			if _, err := client.Digest(t.Context(), Request{PullSpec: reg.host() + "/" + tc.spec, Insecure: true}); err != nil {
				t.Fatalf("%s: %s: %v", name, tc.reason, err)
			}
			// The ping races over HTTPS first, which a plain HTTP server does not see.
			if diff := cmp.Diff(want, reg.seen()); diff != "" {
				t.Errorf("%s: %s: requests (-want +got):\n%s", name, tc.reason, diff)
			}
		}
	}
}

func TestDigest(t *testing.T) {
	reg := newRegistry(t)
	image := randomImage(t)
	digest := digestOf(t, image)
	reg.push(t, "a/b:1", image)
	reg.push(t, "a/b:latest", image)
	index, children := indexOf(t, "linux/s390x", "linux/amd64", "linux/arm64", "windows/amd64")
	reg.push(t, "multi:1", index)
	odd, oddChildren := indexOf(t, "plan9/mips", "plan9/386")
	reg.push(t, "odd:1", odd)
	h := reg.host()

	cases := map[string]struct {
		reason   string
		platform string
		req      Request
		want     Descriptor
		err      Kind
	}{
		"Tag": {
			reason: "a tag gives the digest that the registry serves, in the user's spelling of the repository",
			req:    Request{PullSpec: h + "/a/b:1"},
			want:   Descriptor{Reference: h + "/a/b@" + digest, Digest: digest, MediaType: string(types.DockerManifestSchema2)},
		},
		"NoTag": {
			reason: "neither tag nor digest means latest",
			req:    Request{PullSpec: h + "/a/b"},
			want:   Descriptor{Reference: h + "/a/b@" + digest, Digest: digest, MediaType: string(types.DockerManifestSchema2)},
		},
		"TagAndDigest": {
			reason: "a digest counts more than a tag",
			req:    Request{PullSpec: h + "/a/b:nosuch@" + digest},
			want:   Descriptor{Reference: h + "/a/b@" + digest, Digest: digest, MediaType: string(types.DockerManifestSchema2)},
		},
		"UnknownDigest": {
			reason: "a digest is known without asking, but the image must exist",
			req:    Request{PullSpec: h + "/a/b@sha256:" + strings.Repeat("0", 64)},
			err:    NotFound,
		},
		"LegacyDefault": {
			reason: "Legacy takes linux/amd64 out of an index, whatever comes first",
			req:    Request{PullSpec: h + "/multi:1"},
			want:   Descriptor{Reference: h + "/multi@" + children["linux/amd64"], Digest: children["linux/amd64"], MediaType: string(types.DockerManifestSchema2)},
		},
		"LegacyConfigured": {
			reason:   "the configured platform comes before linux/amd64",
			platform: "linux/arm64/v8",
			req:      Request{PullSpec: h + "/multi:1"},
			want:     Descriptor{Reference: h + "/multi@" + children["linux/arm64"], Digest: children["linux/arm64"], MediaType: string(types.DockerManifestSchema2)},
		},
		"LegacyPreferred": {
			reason:   "the tag's annotations come before the configured platform",
			platform: "linux/arm64",
			req:      Request{PullSpec: h + "/multi:1", PreferArch: "s390x"},
			want:     Descriptor{Reference: h + "/multi@" + children["linux/s390x"], Digest: children["linux/s390x"], MediaType: string(types.DockerManifestSchema2)},
		},
		"LegacyPreferredOS": {
			reason: "the architecture of a preferred operating system is the configured one",
			req:    Request{PullSpec: h + "/multi:1", PreferOS: "windows"},
			want:   Descriptor{Reference: h + "/multi@" + children["windows/amd64"], Digest: children["windows/amd64"], MediaType: string(types.DockerManifestSchema2)},
		},
		"LegacyPreferredAbsent": {
			reason: "a preference that the index does not meet is dropped, as in OpenShift",
			req:    Request{PullSpec: h + "/multi:1", PreferArch: "riscv64"},
			want:   Descriptor{Reference: h + "/multi@" + children["linux/amd64"], Digest: children["linux/amd64"], MediaType: string(types.DockerManifestSchema2)},
		},
		"LegacyFirst": {
			reason: "an index without any wanted platform gives its first image",
			req:    Request{PullSpec: h + "/odd:1"},
			want:   Descriptor{Reference: h + "/odd@" + oddChildren["plan9/mips"], Digest: oddChildren["plan9/mips"], MediaType: string(types.DockerManifestSchema2)},
		},
		"PreserveOriginal": {
			reason: "PreserveOriginal keeps the index",
			req:    Request{PullSpec: h + "/multi:1", Mode: imagev1.ImportModePreserveOriginal},
			want:   Descriptor{Reference: h + "/multi@" + digestOf(t, index), Digest: digestOf(t, index), MediaType: string(types.OCIImageIndex)},
		},
		"NotFound": {
			reason: "a tag that the registry does not have is NotFound",
			req:    Request{PullSpec: h + "/a/b:nosuch"},
			err:    NotFound,
		},
		"Uppercase": {
			reason: "what no container runtime can pull is refused before any request",
			req:    Request{PullSpec: h + "/A/b:1"},
			err:    Invalid,
		},
		"Empty":  {reason: "an empty name is refused", err: Invalid},
		"SHA512": {reason: "records are named by sha256", req: Request{PullSpec: h + "/a@sha512:" + strings.Repeat("0", 128)}, err: Invalid},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			tc.req.Insecure = true
			got, err := newClient(t, Options{Platform: tc.platform}).Digest(t.Context(), tc.req)
			checkKind(t, tc.reason, err, tc.err)
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tc.reason, diff)
			}
		})
	}
}

func checkKind(t *testing.T, reason string, err error, want Kind) {
	t.Helper()
	var got Kind
	var e *Error
	if errors.As(err, &e) {
		got = e.Kind
	} else if err != nil {
		t.Errorf("%s: not an *Error: %v", reason, err)
	}
	if got != want {
		t.Errorf("%s: got kind %q (%v), want %q", reason, got, err, want)
	}
}

func TestHeadNotOffered(t *testing.T) {
	image := randomImage(t)
	index, children := indexOf(t, "linux/arm64", "linux/amd64")
	withoutHeader := func(header string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, req *http.Request) bool {
			if req.Method != http.MethodHead {
				return false
			}
			for k, v := range map[string]string{
				"Content-Type": string(types.DockerManifestSchema2), "Content-Length": "7", "Docker-Content-Digest": digestOf(t, image),
			} {
				if k != header {
					w.Header().Set(k, v)
				} else {
					w.Header()[k] = nil
				}
			}
			return true
		}
	}
	cases := map[string]struct {
		reason string
		fault  func(http.ResponseWriter, *http.Request) bool
	}{
		"405":         {"a registry that refuses HEAD is asked by GET", status(http.StatusMethodNotAllowed, http.MethodHead)},
		"501":         {"a registry that does not know HEAD is asked by GET", status(http.StatusNotImplemented, http.MethodHead)},
		"NoDigest":    {"a HEAD without digest says nothing", withoutHeader("Docker-Content-Digest")},
		"NoMediaType": {"a HEAD without media type does not say whether it is an index", withoutHeader("Content-Type")},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			reg := newRegistry(t)
			reg.push(t, "a:1", image)
			reg.push(t, "multi:1", index)
			reg.breakWith(tc.fault)
			client := newClient(t, Options{})
			for spec, want := range map[string]string{"a:1": digestOf(t, image), "multi:1": children["linux/amd64"]} {
				got, err := client.Digest(t.Context(), Request{PullSpec: reg.host() + "/" + spec, Insecure: true})
				if err != nil || got.Digest != want {
					t.Errorf("%s: %s: got %q, %v; want %q", tc.reason, spec, got.Digest, err, want)
				}
			}
		})
	}
}

func TestFaults(t *testing.T) {
	hang := func(_ http.ResponseWriter, req *http.Request) bool {
		<-req.Context().Done()
		return true
	}
	everything := func(code int) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, _ *http.Request) bool {
			w.WriteHeader(code)
			return true
		}
	}
	cases := map[string]struct {
		reason string
		fault  func(http.ResponseWriter, *http.Request) bool
		kind   Kind
		status string
		text   string
	}{
		"401": {
			reason: "a registry that wants credentials is told from one that lacks the image",
			fault:  status(http.StatusUnauthorized), kind: Unauthorized, status: "Unauthorized", text: "wants credentials",
		},
		"401Basic": {
			reason: "a registry behind basic auth says so at the ping already",
			fault: func(w http.ResponseWriter, _ *http.Request) bool {
				w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
				w.WriteHeader(http.StatusUnauthorized)
				return true
			},
			kind: Unauthorized, status: "Unauthorized", text: "wants credentials",
		},
		"401Bearer": {
			reason: "a token service that gives no token to strangers means the same",
			fault: func(w http.ResponseWriter, req *http.Request) bool {
				w.Header().Set("WWW-Authenticate", `Bearer realm="http://`+req.Host+`/token",service="x"`)
				w.WriteHeader(http.StatusUnauthorized)
				return true
			},
			kind: Unauthorized, status: "Unauthorized", text: "wants credentials",
		},
		"403":         {reason: "a refusal is Forbidden", fault: status(http.StatusForbidden), kind: Forbidden, status: "Forbidden", text: "refuses access"},
		"404":         {reason: "a missing image is NotFound", fault: status(http.StatusNotFound), kind: NotFound, status: "NotFound", text: "has no such image"},
		"429":         {reason: "a rate limit is told from other refusals", fault: status(http.StatusTooManyRequests), kind: RateLimited, status: "TooManyRequests", text: "no more requests"},
		"500":         {reason: "a registry out of order says nothing of the image", fault: status(http.StatusInternalServerError), kind: Unreachable, status: "InternalError", text: "500 Internal Server Error"},
		"Hang":        {reason: "a registry that hangs is given up at the deadline", fault: hang, kind: Unreachable, status: "InternalError", text: "does not answer in time"},
		"NotRegistry": {reason: "a web server that is no registry is told from a missing image", fault: everything(http.StatusNotFound), kind: NotRegistry, status: "NotV2Registry", text: "is no registry"},
		"Redirects": {
			reason: "redirects in a circle end",
			fault: func(w http.ResponseWriter, req *http.Request) bool {
				if req.URL.Path == "/v2/" {
					return false
				}
				http.Redirect(w, req, req.URL.Path, http.StatusTemporaryRedirect)
				return true
			},
			kind: Unreachable, status: "InternalError", text: "redirects more than 5 times",
		},
		"Schema1": {
			reason: "an image that runtimes cannot pull is refused",
			fault: func(w http.ResponseWriter, req *http.Request) bool {
				if req.URL.Path == "/v2/" {
					return false
				}
				w.Header().Set("Content-Type", string(types.DockerManifestSchema1Signed))
				w.Header().Set("Docker-Content-Digest", "sha256:"+strings.Repeat("1", 64))
				w.Header().Set("Content-Length", "2")
				_, _ = w.Write([]byte("{}"))
				return true
			},
			kind: Invalid, status: "Invalid", text: "schema 1",
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			reg := newRegistry(t)
			reg.breakWith(tc.fault)
			client := newClient(t, Options{})
			var first string
			for range 2 {
				timeout := time.Minute
				if name == "Hang" {
					timeout = 500 * time.Millisecond
				}
				ctx, cancel := context.WithTimeout(t.Context(), timeout)
				_, err := client.Digest(ctx, Request{PullSpec: reg.host() + "/a/b:1", Insecure: true})
				cancel()
				checkKind(t, tc.reason, err, tc.kind)
				if got := Reason(err); got != tc.status {
					t.Errorf("%s: got reason %q, want %q", tc.reason, got, tc.status)
				}
				if !strings.Contains(err.Error(), tc.text) || !strings.Contains(err.Error(), reg.host()) {
					t.Errorf("%s: message does not say %q and where: %v", tc.reason, tc.text, err)
				}
				if first != "" && first != err.Error() {
					t.Errorf("the same failure must have the same message, or records are written again and again: %q, then %q", first, err)
				}
				first = err.Error()
			}
		})
	}
}

func TestUnreachable(t *testing.T) {
	reg := newRegistry(t)
	host := reg.host()
	reg.Close()
	cases := map[string]struct {
		reason string
		spec   string
		text   string
	}{
		"Refused":  {"a closed port is told as such", host + "/a:1", "connection refused"},
		"NoSuchIP": {"a name that does not resolve is told as such, without the name server's address", "nosuch.invalid/a:1", "cannot be found"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			_, err := newClient(t, Options{}).Digest(ctx, Request{PullSpec: tc.spec})
			checkKind(t, tc.reason, err, Unreachable)
			if !strings.Contains(err.Error(), tc.text) {
				t.Errorf("%s: %v", tc.reason, err)
			}
		})
	}
}

func TestCanceled(t *testing.T) {
	reg := newRegistry(t)
	ctx, cancel := context.WithCancel(t.Context())
	reg.breakWith(func(http.ResponseWriter, *http.Request) bool {
		cancel()
		return false
	})
	_, err := newClient(t, Options{}).Digest(ctx, Request{PullSpec: reg.host() + "/a:1", Insecure: true})
	var e *Error
	if !errors.Is(err, context.Canceled) || errors.As(err, &e) {
		t.Errorf("a caller that gives up is nobody's fault: %v", err)
	}
}

func TestTLS(t *testing.T) {
	plain, secure := newRegistry(t), newTLSRegistry(t)
	image := randomImage(t)
	plain.push(t, "a:1", image)
	secure.push(t, "a:1", image)
	trusting := secure.Client().Transport

	cases := map[string]struct {
		reason    string
		reg       *fakeRegistry
		transport http.RoundTripper
		insecure  bool
		err       Kind
	}{
		"Trusted":            {"a certificate of a known authority is fine", secure, trusting, false, ""},
		"Unknown":            {"a certificate of an unknown authority needs the insecure flag", secure, nil, false, NeedsInsecure},
		"UnknownInsecure":    {"the insecure flag does without verification", secure, nil, true, ""},
		"PlainHTTP":          {"plain HTTP needs the insecure flag, on this host too", plain, nil, false, NeedsInsecure},
		"PlainHTTPInsecure":  {"the insecure flag falls back to plain HTTP", plain, nil, true, ""},
		"PlainHTTPGiven":     {"a transport of one's own changes nothing", plain, trusting, true, ""},
		"PlainHTTPGivenNot":  {"a transport of one's own does not weaken anything", plain, trusting, false, NeedsInsecure},
		"GivenForBothUnsafe": {"a transport of another type serves insecure requests too", plain, onlyRoundTripper{http.DefaultTransport}, true, ""},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := newClient(t, Options{Transport: tc.transport}).Digest(t.Context(), Request{PullSpec: tc.reg.host() + "/a:1", Insecure: tc.insecure})
			checkKind(t, tc.reason, err, tc.err)
			if tc.err == "" && got.Digest != digestOf(t, image) {
				t.Errorf("%s: got %q", tc.reason, got.Digest)
			}
			if tc.err == NeedsInsecure && (Reason(err) != "BadRequest" || !strings.Contains(err.Error(), "importPolicy.insecure")) {
				t.Errorf("%s: reason %q, message %q", tc.reason, Reason(err), err)
			}
		})
	}
}

type onlyRoundTripper struct{ http.RoundTripper }

func TestRedirect(t *testing.T) {
	reg, target := newRegistry(t), newRegistry(t)
	image := randomImage(t)
	target.push(t, "a:1", image)
	reg.breakWith(func(w http.ResponseWriter, req *http.Request) bool {
		if req.URL.Path == "/v2/" {
			return false
		}
		http.Redirect(w, req, target.URL+req.URL.Path, http.StatusTemporaryRedirect)
		return true
	})
	client := newClient(t, Options{})
	req := Request{PullSpec: reg.host() + "/a:1", Insecure: true}
	got, err := client.Digest(t.Context(), req)
	if err != nil || got.Digest != digestOf(t, image) {
		t.Fatalf("a registry may send elsewhere: got %q, %v", got.Digest, err)
	}
	if _, err := client.Fetch(t.Context(), req, got.Digest); err != nil {
		t.Errorf("a registry may send elsewhere for manifest and configuration too: %v", err)
	}
}

func TestTokens(t *testing.T) {
	reg := newRegistry(t)
	reg.push(t, "a:1", randomImage(t))
	token := "first"
	reg.breakWith(func(w http.ResponseWriter, req *http.Request) bool {
		switch {
		case req.URL.Path == "/token":
			_ = json.NewEncoder(w).Encode(map[string]string{"token": token})
			return true
		case req.Header.Get("Authorization") != "Bearer "+token:
			w.Header().Set("WWW-Authenticate", `Bearer realm="http://`+req.Host+`/token",service="x",scope="repository:a:pull"`)
			w.WriteHeader(http.StatusUnauthorized)
			return true
		default:
			return false
		}
	})
	client := newClient(t, Options{})
	steps := []struct {
		reason string
		token  string
		want   []string
	}{
		{"a first question costs ping and token", "first", []string{"GET /v2/", "GET /token", "HEAD /v2/a/manifests/1"}},
		{"the next one uses the token again", "first", []string{"HEAD /v2/a/manifests/1"}},
		{"a token that has run out is replaced", "second", []string{"HEAD /v2/a/manifests/1", "GET /token", "HEAD /v2/a/manifests/1"}},
		{"and used again", "second", []string{"HEAD /v2/a/manifests/1"}},
	}
	for _, step := range steps {
		token = step.token
		if _, err := client.Digest(t.Context(), Request{PullSpec: reg.host() + "/a:1", Insecure: true}); err != nil {
			t.Fatalf("%s: %v", step.reason, err)
		}
		if diff := cmp.Diff(step.want, reg.seen()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", step.reason, diff)
		}
	}
}

func TestMirrors(t *testing.T) {
	image := randomImage(t)
	cases := map[string]struct {
		reason string
		// spec of the image asked for; %o stands for the registry itself.
		spec       string
		registries func(origin, first, second string) []config.Registry
		setUp      func(t *testing.T, origin, first, second *fakeRegistry)
		err        Kind
		text       []string
		asked      [3]bool
	}{
		"FirstAnswers": {
			reason: "a mirror that has the image is asked alone, under its own path",
			registries: func(origin, first, second string) []config.Registry {
				return []config.Registry{{Prefix: origin, Mirrors: []config.Mirror{{Location: first + "/copy", Insecure: true}, {Location: second, Insecure: true}}}}
			},
			setUp: func(t *testing.T, _, first, _ *fakeRegistry) {
				t.Helper()
				first.push(t, "copy/team/app:1", image)
			},
			asked: [3]bool{false, true, false},
		},
		"NotFoundGoesOn": {
			reason: "a mirror that lacks the image hands on to the next, and to the registry itself",
			registries: func(origin, first, second string) []config.Registry {
				return []config.Registry{{Prefix: origin, Mirrors: []config.Mirror{{Location: first, Insecure: true}, {Location: second, Insecure: true}}}}
			},
			setUp: func(t *testing.T, origin, _, _ *fakeRegistry) {
				t.Helper()
				origin.push(t, "team/app:1", image)
			},
			asked: [3]bool{true, true, true},
		},
		"BrokenGoesOn": {
			reason: "so does one that is out of order",
			registries: func(origin, first, second string) []config.Registry {
				return []config.Registry{{Prefix: origin, Mirrors: []config.Mirror{{Location: first, Insecure: true}, {Location: second, Insecure: true}}}}
			},
			setUp: func(t *testing.T, _, first, second *fakeRegistry) {
				t.Helper()
				first.breakWith(status(http.StatusInternalServerError))
				second.push(t, "team/app:1", image)
			},
			asked: [3]bool{false, true, true},
		},
		"HangGoesOn": {
			reason: "a mirror that hangs leaves time for the next",
			registries: func(origin, first, second string) []config.Registry {
				return []config.Registry{{Prefix: origin, Mirrors: []config.Mirror{{Location: first, Insecure: true}, {Location: second, Insecure: true}}}}
			},
			setUp: func(t *testing.T, _, first, second *fakeRegistry) {
				t.Helper()
				first.breakWith(func(_ http.ResponseWriter, req *http.Request) bool {
					<-req.Context().Done()
					return true
				})
				second.push(t, "team/app:1", image)
			},
			asked: [3]bool{false, true, true},
		},
		"LongestPrefix": {
			reason: "the longest prefix counts, whatever the order",
			registries: func(origin, first, second string) []config.Registry {
				return []config.Registry{
					{Prefix: origin, Mirrors: []config.Mirror{{Location: first, Insecure: true}}},
					{Prefix: origin + "/team", Mirrors: []config.Mirror{{Location: second + "/t", Insecure: true}}},
				}
			},
			setUp: func(t *testing.T, _, _, second *fakeRegistry) {
				t.Helper()
				second.push(t, "t/app:1", image)
			},
			asked: [3]bool{false, false, true},
		},
		"ComponentBoundary": {
			reason: "a prefix ends where a path component ends",
			registries: func(origin, first, _ string) []config.Registry {
				return []config.Registry{{Prefix: origin + "/te", Mirrors: []config.Mirror{{Location: first, Insecure: true}}}}
			},
			setUp: func(t *testing.T, origin, _, _ *fakeRegistry) {
				t.Helper()
				origin.push(t, "team/app:1", image)
			},
			asked: [3]bool{true, false, false},
		},
		"AllFail": {
			reason: "the registry's own error counts, and the mirrors' are told",
			registries: func(origin, first, second string) []config.Registry {
				return []config.Registry{{Prefix: origin, Mirrors: []config.Mirror{{Location: first, Insecure: true}, {Location: second, Insecure: true}}}}
			},
			setUp: func(_ *testing.T, origin, first, _ *fakeRegistry) {
				first.breakWith(status(http.StatusTooManyRequests))
				origin.breakWith(status(http.StatusForbidden))
			},
			err:   Forbidden,
			text:  []string{"refuses access", "allows no more requests", "has no such image"},
			asked: [3]bool{true, true, true},
		},
		"MirrorMustBeInsecure": {
			reason: "the tag's insecure flag does not weaken a mirror",
			registries: func(origin, first, _ string) []config.Registry {
				return []config.Registry{{Prefix: origin, Mirrors: []config.Mirror{{Location: first}}}}
			},
			setUp: func(t *testing.T, origin, first, _ *fakeRegistry) {
				t.Helper()
				first.push(t, "team/app:1", image)
				origin.breakWith(status(http.StatusNotFound))
			},
			err:   NotFound,
			text:  []string{"speaks plain HTTP"},
			asked: [3]bool{true, false, false},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			all := [3]*fakeRegistry{newRegistry(t), newRegistry(t), newRegistry(t)}
			tc.setUp(t, all[0], all[1], all[2])
			for _, reg := range all {
				reg.seen()
			}
			client := newClient(t, Options{Registries: tc.registries(all[0].host(), all[1].host(), all[2].host())})
			ctx, cancel := context.WithTimeout(t.Context(), 6*time.Second)
			defer cancel()
			got, err := client.Digest(ctx, Request{PullSpec: all[0].host() + "/team/app:1", Insecure: true})
			checkKind(t, tc.reason, err, tc.err)
			for _, text := range tc.text {
				if !strings.Contains(err.Error(), text) {
					t.Errorf("%s: message lacks %q: %v", tc.reason, text, err)
				}
			}
			if want := all[0].host() + "/team/app@" + digestOf(t, image); err == nil && got.Reference != want {
				t.Errorf("%s: a mirror must not show in the pull spec: got %q, want %q", tc.reason, got.Reference, want)
			}
			var asked [3]bool
			for i, reg := range all {
				asked[i] = len(reg.seen()) > 0
			}
			if diff := cmp.Diff(tc.asked, asked); diff != "" {
				t.Errorf("%s: who was asked: registry, first, second (-want +got):\n%s", tc.reason, diff)
			}
		})
	}
}

func TestFetch(t *testing.T) {
	reg := newRegistry(t)
	image, err := mutate.ConfigFile(randomImage(t), &v1.ConfigFile{
		Architecture: "amd64", OS: "linux", Author: "someone",
		Created: v1.Time{Time: time.Date(2024, 2, 3, 4, 5, 6, 7, time.UTC)},
		Config:  v1.Config{Env: []string{"A=b"}, Labels: map[string]string{"k": "v"}, ExposedPorts: map[string]struct{}{"8080/tcp": {}}, Entrypoint: []string{"/run"}},
		RootFS:  v1.RootFS{Type: "layers"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if image, err = mutate.AppendLayers(image, static.NewLayer([]byte("layer"), types.DockerLayer)); err != nil {
		t.Fatal(err)
	}
	reg.push(t, "a/b:1", image)
	client := newClient(t, Options{})
	digest := digestOf(t, image)
	got, err := client.Fetch(t.Context(), Request{PullSpec: reg.host() + "/a/b:1", Insecure: true}, digest)
	if err != nil {
		t.Fatal(err)
	}
	wantRequests := []string{"GET /v2/", "GET /v2/a/b/manifests/" + digest, "GET /v2/a/b/blobs/" + digestOfConfig(t, image)}
	if diff := cmp.Diff(wantRequests, reg.seen()); diff != "" {
		t.Errorf("an image costs its manifest and its configuration, no layer (-want +got):\n%s", diff)
	}
	if got.Name != digest || got.DockerImageReference != reg.host()+"/a/b@"+digest || got.DockerImageMetadataVersion != "1.0" ||
		got.DockerImageManifestMediaType != string(types.DockerManifestSchema2) || got.DockerImageManifest != "" || got.DockerImageConfig != "" {
		t.Errorf("an image is named by its digest, and its raw bytes are not kept: %+v", got)
	}
	manifest, err := image.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	size := manifest.Config.Size
	var wantLayers []imagev1.ImageLayer
	for _, l := range manifest.Layers {
		size += l.Size
		wantLayers = append(wantLayers, imagev1.ImageLayer{Name: l.Digest.String(), LayerSize: l.Size, MediaType: string(l.MediaType)})
	}
	if diff := cmp.Diff(wantLayers, got.DockerImageLayers); diff != "" {
		t.Errorf("layers (-want +got):\n%s", diff)
	}
	var metadata map[string]any
	if err := json.Unmarshal(got.DockerImageMetadata.Raw, &metadata); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"kind": "DockerImage", "apiVersion": "image.openshift.io/1.0", "Id": manifest.Config.Digest.String(),
		"Created": "2024-02-03T04:05:06Z", "ContainerConfig": map[string]any{}, "Author": "someone", "Architecture": "amd64", "Size": float64(size),
		"Config": map[string]any{
			"Env": []any{"A=b"}, "Labels": map[string]any{"k": "v"}, "ExposedPorts": map[string]any{"8080/tcp": map[string]any{}}, "Entrypoint": []any{"/run"},
		},
	}
	if diff := cmp.Diff(want, metadata); diff != "" {
		t.Errorf("metadata has OpenShift's capitalised keys (-want +got):\n%s", diff)
	}
}

func digestOfConfig(t *testing.T, image v1.Image) string {
	t.Helper()
	digest, err := image.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	return digest.String()
}

func TestFetchIndex(t *testing.T) {
	reg := newRegistry(t)
	index, children := indexOf(t, "linux/amd64", "linux/arm64/v8")
	reg.push(t, "a:1", index)
	req := Request{PullSpec: reg.host() + "/a:1", Insecure: true, Mode: imagev1.ImportModePreserveOriginal}
	got, err := newClient(t, Options{}).Fetch(t.Context(), req, digestOf(t, index))
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := partial.Manifests(index)
	if err != nil {
		t.Fatal(err)
	}
	var want []imagev1.ImageManifest
	for i, p := range []v1.Platform{{OS: "linux", Architecture: "amd64"}, {OS: "linux", Architecture: "arm64", Variant: "v8"}} {
		size, err := manifest[i].(interface{ Size() (int64, error) }).Size()
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, imagev1.ImageManifest{
			Digest: children[p.String()], MediaType: string(types.DockerManifestSchema2), ManifestSize: size,
			OS: p.OS, Architecture: p.Architecture, Variant: p.Variant,
		})
	}
	if diff := cmp.Diff(want, got.DockerImageManifests); diff != "" {
		t.Errorf("an index lists its children (-want +got):\n%s", diff)
	}
	var metadata docker10.DockerImage
	if err := json.Unmarshal(got.DockerImageMetadata.Raw, &metadata); err != nil || metadata.Kind != "DockerImage" || metadata.Config != nil {
		t.Errorf("an index has metadata without configuration: %+v, %v", metadata, err)
	}
}

func TestFetchArtifact(t *testing.T) {
	reg := newRegistry(t)
	artifact := mutate.ConfigMediaType(mutate.MediaType(randomImage(t), types.OCIManifestSchema1), "application/vnd.example.chart.config.v1+json")
	reg.push(t, "chart:1", artifact)
	got, err := newClient(t, Options{}).Fetch(t.Context(), Request{PullSpec: reg.host() + "/chart:1", Insecure: true}, digestOf(t, artifact))
	if err != nil {
		t.Fatalf("an artifact without container configuration is an image like others: %v", err)
	}
	if len(got.DockerImageLayers) != 2 || len(reg.seen()) != 2 {
		t.Errorf("its configuration is not read, its layers are listed: %+v", got)
	}
}

func TestFetchRefuses(t *testing.T) {
	image := randomImage(t)
	digest := digestOf(t, image)
	body := func(path, contentType string, content []byte) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, req *http.Request) bool {
			if !strings.Contains(req.URL.Path, path) {
				return false
			}
			w.Header().Set("Content-Type", contentType)
			w.Header().Set("Docker-Content-Digest", digest)
			_, _ = w.Write(content)
			return true
		}
	}
	endless := func(w http.ResponseWriter, req *http.Request) bool {
		if !strings.Contains(req.URL.Path, "/manifests/") {
			return false
		}
		chunk := []byte(strings.Repeat(" ", 64<<10))
		for range 1 << 10 {
			if _, err := w.Write(chunk); err != nil {
				return true
			}
		}
		return true
	}
	cases := map[string]struct {
		reason string
		fault  func(http.ResponseWriter, *http.Request) bool
		want   Kind
	}{
		"WrongBytes":   {"bytes are checked against the digest, whatever the header says", body("/manifests/", string(types.DockerManifestSchema2), []byte("{}")), Invalid},
		"Schema1Trick": {"the media type of signed schema 1, whose digest is not of its bytes, opens no way around that", body("/manifests/", string(types.DockerManifestSchema1Signed), []byte("{}")), Invalid},
		"WrongConfig":  {"so is the configuration", body("/blobs/", "application/octet-stream", []byte("{}")), Invalid},
		"TooLarge":     {"a manifest announced over 4 MiB is not read", body("/manifests/", string(types.DockerManifestSchema2), make([]byte, MaxBody+1)), TooLarge},
		"Endless":      {"one that does not end is cut off", endless, TooLarge},
		"LongConfig":   {"of a configuration no more is read than its manifest says", body("/blobs/", "application/octet-stream", make([]byte, MaxBody+1)), Invalid},
		"404":          {"an image that is gone since it was named is NotFound", status(http.StatusNotFound), NotFound},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			reg := newRegistry(t)
			reg.push(t, "a:1", image)
			reg.breakWith(tc.fault)
			_, err := newClient(t, Options{}).Fetch(t.Context(), Request{PullSpec: reg.host() + "/a:1", Insecure: true}, digest)
			checkKind(t, tc.reason, err, tc.want)
			var large *TooLargeError
			if tc.want == TooLarge && !errors.As(err, &large) {
				t.Errorf("%s: no TooLargeError: %v", tc.reason, err)
			}
		})
	}
}

func TestNewRefusesBadOptions(t *testing.T) {
	for name, o := range map[string]Options{
		"Platform": {Platform: "linux"},
		"Mirror":   {Registries: []config.Registry{{Prefix: "quay.io", Mirrors: []config.Mirror{{Location: "no such host"}}}}},
	} {
		if _, err := New(o); err == nil {
			t.Errorf("%s: what cannot work is refused at the start", name)
		}
	}
}

func TestNewRequest(t *testing.T) {
	annotations := map[string]string{PreferOSAnnotation: "linux", PreferArchAnnotation: "arm64"}
	from := &corev1.ObjectReference{Kind: "DockerImage", Name: "quay.io/a/b:1"}
	cases := map[string]struct {
		reason string
		tag    imagev1.TagReference
		want   Request
	}{
		"Legacy": {
			reason: "an empty mode is Legacy, with the tag's preferences",
			tag:    imagev1.TagReference{From: from, Annotations: annotations, ImportPolicy: imagev1.TagImportPolicy{Insecure: true}},
			want:   Request{PullSpec: "quay.io/a/b:1", Mode: imagev1.ImportModeLegacy, PreferOS: "linux", PreferArch: "arm64", Insecure: true},
		},
		"PreserveOriginal": {
			reason: "preferences mean nothing to a kept index, and must not make equal questions differ",
			tag:    imagev1.TagReference{From: from, Annotations: annotations, ImportPolicy: imagev1.TagImportPolicy{ImportMode: imagev1.ImportModePreserveOriginal}},
			want:   Request{PullSpec: "quay.io/a/b:1", Mode: imagev1.ImportModePreserveOriginal},
		},
	}
	for name, tc := range cases {
		if diff := cmp.Diff(tc.want, NewRequest(&tc.tag)); diff != "" {
			t.Errorf("%s: %s (-want +got):\n%s", name, tc.reason, diff)
		}
	}
}
