package upstream

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"istag.dev/config"
)

// pages serves a list of tags in pages of two, like a registry that does not let clients choose.
func pages(link string, tags ...string) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, req *http.Request) bool {
		if !strings.HasSuffix(req.URL.Path, "/tags/list") {
			return false
		}
		from, _ := strconv.Atoi(req.URL.Query().Get("last"))
		to := min(from+2, len(tags))
		if to < len(tags) {
			w.Header().Set("Link", fmt.Sprintf(link, req.URL.Path, to))
		}
		fmt.Fprintf(w, `{"name":"a/b","tags":["%s"]}`, strings.Join(tags[from:to], `","`))
		return true
	}
}

const relativeLink = `<%s?last=%d&n=2>; rel="next"`

func TestTags(t *testing.T) {
	answer := func(body string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, req *http.Request) bool {
			if !strings.HasSuffix(req.URL.Path, "/tags/list") {
				return false
			}
			fmt.Fprint(w, body)
			return true
		}
	}
	fail := func(code int) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, req *http.Request) bool {
			if !strings.HasSuffix(req.URL.Path, "/tags/list") {
				return false
			}
			w.WriteHeader(code)
			return true
		}
	}
	cases := map[string]struct {
		reason string
		start  func(*testing.T) *fakeRegistry
		repo   string
		fault  func(http.ResponseWriter, *http.Request) bool
		want   []string
		err    Kind
		says   string
	}{
		"Registry": {reason: "a real registry lists what was pushed", repo: "a/b", want: []string{"1", "latest"}},
		"Pages":    {reason: "all pages are read, in the registry's order", repo: "a/b", fault: pages(relativeLink, "z", "b", "a", "y", "c"), want: []string{"z", "b", "a", "y", "c"}},
		"PagesTLS": {
			reason: "the insecure flag does not keep the pages of a registry with TLS apart",
			start:  newTLSRegistry, repo: "a/b", fault: pages(relativeLink, "z", "b", "a"), want: []string{"z", "b", "a"},
		},
		"Elsewhere": {
			reason: "a registry cannot send us to another host",
			repo:   "a/b", fault: pages(`<http://169.254.169.254%s?last=%d>; rel="next"`, "z", "b", "a"), err: Invalid, says: "another place",
		},
		"Impossible":   {reason: "names that cannot be tags are left out", repo: "a/b", fault: answer(`{"tags":["a/b","","-x","` + strings.Repeat("x", 129) + `","ok"]}`), want: []string{"ok"}},
		"Null":         {reason: "an empty repository has no tags", repo: "a/b", fault: answer(`{"name":"a/b","tags":null}`)},
		"NotJSON":      {reason: "an answer that is no list is told as such", repo: "a/b", fault: answer(`<html>`), err: Invalid, says: "list of tags that cannot be read"},
		"OtherJSON":    {reason: "an answer that is no list is told as such", repo: "a/b", fault: answer(`{"tags":{"a":1}}`), err: Invalid, says: "list of tags that cannot be read"},
		"TooLarge":     {reason: "an endless page is cut off", repo: "a/b", fault: answer(`{"tags":["` + strings.Repeat("x", MaxBody) + `"]}`), err: TooLarge},
		"NotFound":     {reason: "an unknown repository is told from an unknown tag", repo: "no/such", err: NotFound, says: "has no such repository; check the repository's name"},
		"Unauthorized": {reason: "a registry that wants credentials says so", repo: "a/b", fault: fail(http.StatusUnauthorized), err: Unauthorized},
		"RateLimited":  {reason: "a registry that has enough says so", repo: "a/b", fault: fail(http.StatusTooManyRequests), err: RateLimited},
		"OutOfOrder":   {reason: "a registry that is out of order says so", repo: "a/b", fault: fail(http.StatusBadGateway), err: Unreachable, says: "502"},
		"Uppercase":    {reason: "what is no repository is not asked for", repo: "A", err: Invalid},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			start := tc.start
			if start == nil {
				start = newRegistry
			}
			reg := start(t)
			image := randomImage(t)
			reg.push(t, "a/b:1", image)
			reg.push(t, "a/b:latest", image)
			reg.breakWith(tc.fault)
			got, err := newClient(t, Options{}).Tags(t.Context(), Request{PullSpec: reg.host() + "/" + tc.repo, Insecure: true})
			checkKind(t, tc.reason, err, tc.err)
			if err != nil && !strings.Contains(err.Error(), tc.says) {
				t.Errorf("%s: %q does not say %q", tc.reason, err, tc.says)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tc.reason, diff)
			}
		})
	}
}

func TestTagsAreBounded(t *testing.T) {
	reg := newRegistry(t)
	asked := 0
	reg.breakWith(func(w http.ResponseWriter, req *http.Request) bool {
		if !strings.HasSuffix(req.URL.Path, "/tags/list") {
			return false
		}
		asked++
		w.Header().Set("Link", fmt.Sprintf(`<%s?last=%d>; rel="next"`, req.URL.Path, asked))
		fmt.Fprintf(w, `{"tags":[%s"x"]}`, strings.Repeat(`"x",`, 4999))
		return true
	})
	got, err := newClient(t, Options{}).Tags(t.Context(), Request{PullSpec: reg.host() + "/a/b", Insecure: true})
	if err != nil || len(got) != MaxTags || asked != 2 {
		t.Errorf("an endless list ends: %d tags after %d pages, %v", len(got), asked, err)
	}
}

func TestTagsAskNoMirror(t *testing.T) {
	mirror, own := newRegistry(t), newRegistry(t)
	own.push(t, "a/b:1", randomImage(t))
	client := newClient(t, Options{Registries: []config.Registry{{Prefix: own.host(), Mirrors: []config.Mirror{{Location: mirror.host(), Insecure: true}}}}})
	got, err := client.Tags(t.Context(), Request{PullSpec: own.host() + "/a/b", Insecure: true})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"1"}, got); diff != "" {
		t.Errorf("the registry itself lists its tags (-want +got):\n%s", diff)
	}
	if seen := mirror.seen(); len(seen) > 0 {
		t.Errorf("a mirror has only what was pulled through it: %q", seen)
	}
}

func TestFetchRaw(t *testing.T) {
	reg := newRegistry(t)
	image := randomImage(t)
	index, _ := indexOf(t, "linux/amd64")
	reg.push(t, "a/b:1", image)
	reg.push(t, "multi:1", index)
	bytesOf := func(f func() ([]byte, error)) string {
		b, err := f()
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	cases := map[string]struct {
		reason, name, digest, manifest, config string
	}{
		"Image": {"an image comes with both", "a/b:1", digestOf(t, image), bytesOf(image.RawManifest), bytesOf(image.RawConfigFile)},
		"Index": {"an index has no configuration", "multi:1", digestOf(t, index), bytesOf(index.RawManifest), ""},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			client := newClient(t, Options{})
			req := Request{PullSpec: reg.host() + "/" + tc.name, Insecure: true}
			raw, err := client.FetchRaw(t.Context(), req, tc.digest)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]string{tc.manifest, tc.config}, []string{raw.DockerImageManifest, raw.DockerImageConfig}); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tc.reason, diff)
			}
			if hash, _, _ := v1.SHA256(strings.NewReader(raw.DockerImageManifest)); hash.String() != tc.digest {
				t.Errorf("the manifest is the one that the digest proves: %s", hash)
			}
			plain, err := client.Fetch(t.Context(), req, tc.digest)
			if err != nil {
				t.Fatal(err)
			}
			raw.DockerImageManifest, raw.DockerImageConfig = "", ""
			if diff := cmp.Diff(raw, plain); diff != "" {
				t.Errorf("Fetch differs in nothing else (-raw +plain):\n%s", diff)
			}
		})
	}
}

func TestCheck(t *testing.T) {
	if err := Check("quay.io/a/b:1"); err != nil {
		t.Errorf("a pull spec is one: %v", err)
	}
	checkKind(t, "what no runtime can pull is refused", Check("quay.io/A:1"), Invalid)
}

func FuzzNextPage(f *testing.F) {
	f.Add(`</v2/a/tags/list?last=x>; rel="next"`)
	f.Add(`<http://evil.example.com/>`)
	f.Add(`<//evil.example.com/>`)
	f.Fuzz(func(t *testing.T, link string) {
		at, err := home(reference{domain: "quay.io", path: "a/b"}, false)
		if err != nil {
			t.Fatal(err)
		}
		page := tagsURL(at)
		next, err := nextPage(link, page)
		if err == nil && next != nil && (next.Host != page.Host || next.Scheme != page.Scheme) {
			t.Errorf("%q leads to %q", link, next)
		}
	})
}
