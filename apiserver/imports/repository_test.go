package imports

import (
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	imagev1 "github.com/openshift/api/image/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"istag.dev/store"
)

// whole asks for a whole repository.
func (f *fixture) whole(repository string) *imagev1.ImageStreamImport {
	isi := f.request()
	isi.Spec.Repository = &imagev1.RepositoryImportSpec{
		From:         corev1.ObjectReference{Kind: "DockerImage", Name: f.host + "/" + repository},
		ImportPolicy: imagev1.TagImportPolicy{Insecure: true, Scheduled: true},
	}
	return isi
}

func tagsOf(images []imagev1.ImageImportStatus) []string {
	var tags []string
	for _, image := range images {
		tags = append(tags, image.Tag+" "+image.Status.Status)
	}
	return tags
}

func TestImportRepository(t *testing.T) {
	f := newFixture(t)
	digest := f.push(f.image(), "a/b:1.0", "a/b:latest", "a/b:1.0.1", "a/b:edge")
	f.options.MaxTagsPerRepository = 3
	got := f.mustCreate(f.whole("a/b"))
	repository := got.Status.Repository
	check(t, "it succeeded", metav1.Status{Status: "Success"}, repository.Status)
	check(t, "the first tags are imported, in their order", []string{"latest Success", "1.0 Success", "1.0.1 Success"}, tagsOf(repository.Images))
	check(t, "the others are named", []string{"edge"}, repository.AdditionalTags)
	check(t, "there are no single images", 0, len(got.Status.Images))
	check(t, "a tag means its image", []string{digest}, f.history("1.0"))
	tag := store.SpecTag(&got.Status.Import.Spec, "1.0")
	check(t, "and is imported again from its own pull spec", f.host+"/a/b:1.0", tag.From.Name)
	check(t, "by the repository's policy", true, tag.ImportPolicy.Scheduled && tag.ImportPolicy.Insecure)
	check(t, "other tags are left alone", nil, store.SpecTag(&got.Status.Import.Spec, "edge"))

	f.options.MaxTagsPerRepository = -1
	got = f.mustCreate(f.whole("a/b"))
	check(t, "-1 means all", 4, len(got.Status.Repository.Images))
}

func TestImportRepositoryNotKept(t *testing.T) {
	f := newFixture(t)
	f.push(f.image(), "a/b:1.0")
	isi := f.whole("a/b")
	isi.Spec.Import = false
	got := f.mustCreate(isi)
	check(t, "its images are shown", []string{"1.0 Success"}, tagsOf(got.Status.Repository.Images))
	check(t, "and nothing is written", []int{0, 0}, []int{f.streams.writes, len(f.images.images)})
}

func TestImportRepositoryFailures(t *testing.T) {
	failing := func(tags ...string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if !slices.ContainsFunc(tags, func(tag string) bool { return strings.HasSuffix(r.URL.Path, "/manifests/"+tag) }) {
				return false
			}
			w.WriteHeader(http.StatusNotFound)
			return true
		}
	}
	listing := func(code int) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.HasSuffix(r.URL.Path, "/tags/list") {
				return false
			}
			w.WriteHeader(code)
			return true
		}
	}
	cases := map[string]struct {
		reason string
		fault  func(http.ResponseWriter, *http.Request) bool
		repo   string
		want   metav1.StatusReason
		says   string
		images []string
	}{
		"One":          {"one image that fails is counted", failing("1.0"), "a/b", "ImportFailed", "one of the images from this repository failed to import", []string{"latest Success", "1.0 Failure"}},
		"Several":      {"so are several", failing("1.0", "latest"), "a/b", "ImportFailed", "2 of the images from this repository failed to import", []string{"latest Failure", "1.0 Failure"}},
		"NotFound":     {"an unknown repository is told", nil, "no/such", "NotFound", "has no such repository", nil},
		"Unauthorized": {"a private repository is told", listing(401), "a/b", "Unauthorized", "you may not have access to the container image", nil},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.push(f.image(), "a/b:1.0", "a/b:latest")
			f.breakWith(tc.fault)
			got := f.mustCreate(f.whole(tc.repo)).Status.Repository
			check(t, tc.reason, []any{"Failure", tc.want}, []any{got.Status.Status, got.Status.Reason})
			if !strings.Contains(got.Status.Message, tc.says) {
				t.Errorf("%s: %q does not say %q", tc.reason, got.Status.Message, tc.says)
			}
			check(t, tc.reason, tc.images, tagsOf(got.Images))
			for _, tag := range []string{"1.0", "latest"} {
				if record, ok := f.streams.records["web"]; ok && f.history(tag) == nil && store.SpecTag(&record.Spec, tag) != nil {
					t.Errorf("tag %q, which nobody named, is not made for a failure", tag)
				}
			}
		})
	}
}

func TestImportRepositoryDeadline(t *testing.T) {
	f := newFixture(t)
	f.push(f.image(), "a/b:1.0", "a/b:latest")
	f.options.Timeout = 300 * time.Millisecond

	f.hang("/manifests/1.0")
	got := f.mustCreate(f.whole("a/b"))
	check(t, "what is late is summed up", "one of the images from this repository not imported in time", got.Status.Repository.Status.Message)
	record := f.streams.records["web"]
	tag := store.SpecTag(&record.Spec, "1.0")
	check(t, "and is left to the importer", true, tag != nil && store.Pending(record, tag))

	f.hang("/tags/list")
	status := f.mustCreate(f.whole("a/b")).Status.Repository.Status
	check(t, "a list that does not come is told", []any{metav1.StatusReasonTimeout, f.host + "/a/b: the registry did not give it within 300ms; try again"}, []any{status.Reason, status.Message})
}

func TestImportRepositoryAndImages(t *testing.T) {
	f := newFixture(t)
	f.push(f.image(), "a/b:1.0")
	named := f.push(f.image(), "other:1")
	isi := f.whole("a/b")
	isi.Spec.Images = []imagev1.ImageImportSpec{f.from("other:1", "1.0")}
	got := f.mustCreate(isi)
	check(t, "each has its status", []int{1, 1}, []int{len(got.Status.Images), len(got.Status.Repository.Images)})
	check(t, "a tag that is named counts more than one that is listed", []string{named}, f.history("1.0"))
}

func TestPrioritize(t *testing.T) {
	want := []string{
		"latest",
		"v10.1", "5.10", "5.9", "5.1", "v5.1", "v5.1-rc2", "v5.1-rc1",
		"v10.1.3", "5.10.0", "5.1.2", "5.1.2-alpha.1", "5.1.1",
		"05.1", "1", "1.2.3.4", "5.1.99999999999999999999", "edge", "v1",
	}
	for range 20 {
		shuffled := slices.Clone(want)
		rand.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		check(t, "latest, minor versions, full versions, all else", want, prioritize(shuffled))
	}
	check(t, "a tag that a registry lists twice is one", []string{"a", "b"}, prioritize([]string{"b", "a", "b"}))
	check(t, "no tags are none", []string{}, prioritize(nil))
}

func FuzzPrioritize(f *testing.F) {
	f.Add("latest 1.0 v1.0 1.0.0 1.0.0-rc1 x")
	f.Add("1.0-a 1.0-b 01.0 1.0-")
	f.Fuzz(func(t *testing.T, text string) {
		tags := strings.Fields(text)
		got := prioritize(tags)
		backwards := slices.Clone(tags)
		slices.Reverse(backwards)
		check(t, "the order does not depend on the registry's", got, prioritize(backwards))
		slices.Sort(tags)
		sorted := slices.Clone(got)
		slices.Sort(sorted)
		check(t, "no tag is lost", slices.Compact(tags), sorted)
	})
}
