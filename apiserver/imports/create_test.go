package imports

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	imagev1 "github.com/openshift/api/image/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/utils/ptr"

	"istag.dev/store"
	storev1 "istag.dev/store/v1"
)

func TestImport(t *testing.T) {
	f := newFixture(t)
	digest := f.push(f.image(), "a/b:1")
	got := f.mustCreate(f.request(f.from("a/b:1", "latest")))

	check(t, "one image, one status", 1, len(got.Status.Images))
	status := got.Status.Images[0]
	check(t, "it succeeded", metav1.Status{Status: "Success"}, status.Status)
	check(t, "the tag is the registry's, not the stream's", "1", status.Tag)
	check(t, "the image is named by its digest", digest, status.Image.Name)
	check(t, "it is pulled as the user spells it, by digest", f.host+"/a/b@"+digest, status.Image.DockerImageReference)
	check(t, "its metadata can be shown", true, strings.Contains(string(status.Image.DockerImageMetadata.Raw), `"Env":["A=b"]`))
	check(t, "its manifest was not asked for", "", status.Image.DockerImageManifest+status.Image.DockerImageConfig)

	stream := got.Status.Import
	check(t, "the stream was made on the fly", []string{"web", ns}, []string{stream.Name, stream.Namespace})
	tag := store.SpecTag(&stream.Spec, "latest")
	check(t, "its tag remembers where it came from", corev1.ObjectReference{Kind: "DockerImage", Name: f.host + "/a/b:1"}, *tag.From)
	check(t, "unset policies have their defaults", []string{"Source", "Legacy"}, []string{string(tag.ReferencePolicy.Type), string(tag.ImportPolicy.ImportMode)})
	check(t, "and means the image", []string{digest}, f.history("latest"))
	check(t, "the image is kept", f.host+"/a/b@"+digest, f.images.images[digest].DockerImageReference)
	check(t, "the answer says what was asked, with defaults", imagev1.ImportModeLegacy, got.Spec.Images[0].ImportPolicy.ImportMode)
	check(t, "it is an object like others", true, got.UID != "" && !got.CreationTimestamp.IsZero())

	f.seen()
	again := f.mustCreate(f.request(f.from("a/b:1", "latest")))
	check(t, "importing again changes nothing", stream.ResourceVersion, again.Status.Import.ResourceVersion)
	check(t, "and costs one HEAD", []string{"HEAD /v2/a/b/manifests/1"}, f.seen())
	check(t, "and has the image in the answer all the same", digest, again.Status.Images[0].Image.Name)
}

func TestImportTagsAndReferences(t *testing.T) {
	f := newFixture(t)
	digest := f.push(f.image(), "a/b:1", "a/b:latest")
	cases := map[string]struct {
		reason     string
		from, to   string
		remote     string
		tags       []string
		wantImages int
	}{
		"To":           {"the tag asked for is the stream's", "a/b:1", "x", "1", []string{"x"}, 1},
		"NoTo":         {"without one it is the pull spec's own", "a/b:1", "", "1", []string{"1"}, 1},
		"Latest":       {"without any tag latest is asked for", "a/b", "x", "latest", []string{"x"}, 1},
		"Digest":       {"a digest is no tag", "a/b@" + digest, "x", "", []string{"x"}, 1},
		"TagAndDigest": {"a tag beside a digest names the tag in the stream only", "a/b:1@" + digest, "", "", []string{"1"}, 1},
		"Nothing":      {"with no tag at all nothing is written", "a/b", "", "latest", nil, 0},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			f.streams.records, f.images.images = map[string]*storev1.StreamRecord{}, map[string]*imagev1.Image{}
			got := f.mustCreate(f.request(f.from(tc.from, tc.to)))
			check(t, tc.reason+": status.tag", tc.remote, got.Status.Images[0].Tag)
			check(t, tc.reason+": the image is found", digest, got.Status.Images[0].Image.Name)
			var tags []string
			if got.Status.Import != nil {
				for _, tag := range got.Status.Import.Spec.Tags {
					tags = append(tags, tag.Name)
				}
			}
			check(t, tc.reason+": tags", tc.tags, tags)
			check(t, tc.reason+": images kept", tc.wantImages, len(f.images.images))
		})
	}
}

func TestImportFalse(t *testing.T) {
	f := newFixture(t)
	digest := f.push(f.image(), "a/b:1")
	isi := f.request(f.from("a/b:1", "latest"), f.from("a/b:nosuch", ""))
	isi.Spec.Import = false
	got := f.mustCreate(isi)
	check(t, "the image is looked up", digest, got.Status.Images[0].Image.Name)
	check(t, "what is missing is said", metav1.StatusReasonNotFound, got.Status.Images[1].Status.Reason)
	check(t, "no stream is written or shown", true, f.streams.writes == 0 && got.Status.Import == nil)
	check(t, "no image is kept", 0, len(f.images.images))
}

func TestImportDryRun(t *testing.T) {
	f := newFixture(t)
	digest := f.push(f.image(), "a/b:1")
	obj, err := New(f.options).Create(f.context(), f.request(f.from("a/b:1", "latest")), nil, &metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	if err != nil {
		t.Fatal(err)
	}
	got := obj.(*imagev1.ImageStreamImport)
	check(t, "the answer shows what would be", digest, store.Latest(&got.Status.Import.Status, "latest").Image)
	check(t, "nothing is", []int{0, 0}, []int{f.streams.writes, len(f.images.images)})
}

func TestImportIncludesManifest(t *testing.T) {
	f := newFixture(t)
	image := f.image()
	digest := f.push(image, "a/b:1")
	manifest, _ := image.RawManifest()
	config, _ := image.RawConfigFile()
	spec := f.from("a/b:1", "latest")
	spec.IncludeManifest = true
	for range 2 { // The second time the image is known already.
		got := f.mustCreate(f.request(spec)).Status.Images[0].Image
		check(t, "the answer has them as they are", []string{string(manifest), string(config)}, []string{got.DockerImageManifest, got.DockerImageConfig})
		kept := f.images.images[digest]
		check(t, "the image that is kept has them not", "", kept.DockerImageManifest+kept.DockerImageConfig)
	}
}

func TestImportIndex(t *testing.T) {
	f := newFixture(t)
	index, children := f.index("linux/arm64", "linux/amd64", "unknown/unknown")
	digest := f.push(index, "multi:1")
	namesOf := func(images []imagev1.Image) []string {
		var names []string
		for _, image := range images {
			names = append(names, image.Name)
		}
		return names
	}
	t.Run("Legacy", func(t *testing.T) {
		got := f.mustCreate(f.request(f.from("multi:1", "latest"))).Status.Images[0]
		check(t, "one platform's image is taken", children[1], got.Image.Name)
		check(t, "it has no parts", 0, len(got.Manifests))
	})
	whole := f.from("multi:1", "all")
	whole.ImportPolicy.ImportMode = imagev1.ImportModePreserveOriginal
	t.Run("PreserveOriginal", func(t *testing.T) {
		got := f.mustCreate(f.request(whole)).Status.Images[0]
		check(t, "the index is kept", digest, got.Image.Name)
		check(t, "with its images, attestations left out", children[:2], namesOf(got.Manifests))
		for _, child := range children[:2] {
			check(t, "each image is kept too", f.host+"/multi@"+child, f.images.images[child].DockerImageReference)
		}
		check(t, "the tag means the index", []string{digest}, f.history("all"))
	})
	t.Run("NotKept", func(t *testing.T) {
		isi := f.request(whole)
		isi.Spec.Import = false
		got := f.mustCreate(isi).Status.Images[0]
		check(t, "clients read the configuration of an image, since an index has none", true, strings.Contains(got.Manifests[0].DockerImageConfig, "A=b"))
	})
	t.Run("BadChild", func(t *testing.T) {
		f.images.images = map[string]*imagev1.Image{}
		f.breakWith(func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.HasSuffix(r.URL.Path, children[0]) {
				return false
			}
			w.WriteHeader(http.StatusNotFound)
			return true
		})
		defer f.breakWith(nil)
		got := f.mustCreate(f.request(whole)).Status.Images[0]
		check(t, "an index of which one image is broken can be imported", "Success", got.Status.Status)
		check(t, "with the others", children[1:2], namesOf(got.Manifests))
	})
}

func TestImportPrefersArchitecture(t *testing.T) {
	f := newFixture(t)
	index, children := f.index("linux/amd64", "linux/arm64")
	f.push(index, "multi:1")
	f.streams.put(&storev1.StreamRecord{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "web"},
		Spec: imagev1.ImageStreamSpec{Tags: []imagev1.TagReference{{
			Name: "arm", Annotations: map[string]string{imagev1.ImporterPreferArchAnnotation: "arm64"}, Generation: ptr.To[int64](1),
			From: &corev1.ObjectReference{Kind: "DockerImage", Name: f.host + "/multi:1"},
		}}},
		Record: storev1.StreamEnvelope{Generation: 1},
	})
	got := f.mustCreate(f.request(f.from("multi:1", "arm"), f.from("multi:1", "other")))
	check(t, "a tag's annotation chooses its image, and no other tag's",
		[]string{children[1], children[0]}, []string{got.Status.Images[0].Image.Name, got.Status.Images[1].Image.Name})
}

func TestImportFailures(t *testing.T) {
	answer := func(code int) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.Contains(r.URL.Path, "/manifests/") {
				return false
			}
			w.WriteHeader(code)
			return true
		}
	}
	cases := map[string]struct {
		reason string
		fault  func(http.ResponseWriter, *http.Request) bool
		status metav1.StatusReason
		code   int32
		begins string
	}{
		"NotFound":     {"OpenShift's sentence comes first", answer(404), "NotFound", 404, `dockerimage.image.openshift.io "%s/a/b:1" not found: registry `},
		"Unauthorized": {"OpenShift's sentence comes first", answer(401), "Unauthorized", 401, `you may not have access to the container image "%s/a/b:1": registry `},
		"Forbidden":    {"a refusal is one", answer(403), "Forbidden", 403, `%s/a/b:1: registry `},
		"RateLimited":  {"too many requests are told as such", answer(429), "TooManyRequests", 429, `%s/a/b:1: registry `},
		"OutOfOrder":   {"all else is the server's side", answer(500), "InternalError", 500, `%s/a/b:1: registry `},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.breakWith(tc.fault)
			got := f.mustCreate(f.request(f.from("a/b:1", "latest")))
			status := got.Status.Images[0].Status
			check(t, tc.reason, metav1.Status{Status: "Failure", Reason: tc.status, Code: tc.code},
				metav1.Status{Status: status.Status, Reason: status.Reason, Code: status.Code})
			if begins := fmt.Sprintf(tc.begins, f.host); !strings.HasPrefix(status.Message, begins) {
				t.Errorf("%s: %q does not begin with %q", tc.reason, status.Message, begins)
			}
			check(t, "the tag that was fetched is said", "1", got.Status.Images[0].Tag)
			condition := store.ImportFailure(&got.Status.Import.Status, "latest")
			if condition == nil || condition.Reason != string(tc.status) {
				t.Errorf("the tag's condition says so too: %v", condition)
			}
		})
	}
}

func TestImportOneOfSeveralFails(t *testing.T) {
	f := newFixture(t)
	old := f.push(f.image(), "a/b:1", "a/b:2")
	f.mustCreate(f.request(f.from("a/b:1", "one"), f.from("a/b:2", "two")))
	next := f.push(f.image(), "a/b:2")
	got := f.mustCreate(f.request(f.from("a/b:gone", "one"), f.from("a/b:2", "two")))
	check(t, "the statuses are in the order of the request", []string{"Failure", "Success"},
		[]string{got.Status.Images[0].Status.Status, got.Status.Images[1].Status.Status})
	check(t, "a failure takes nothing away", []string{old}, f.history("one"))
	check(t, "and holds nothing up", []string{next, old}, f.history("two"))
}

func TestImportSharesQuestions(t *testing.T) {
	f := newFixture(t)
	digest := f.push(f.image(), "a/b:1", "a/b:2")
	f.mustCreate(f.request(f.from("a/b:1", "x"), f.from("a/b:1", "y"), f.from("a/b:2", "z")))
	counts := map[string]int{}
	for _, r := range f.seen() {
		counts[r]++
	}
	check(t, "two tags with one source cost one question", 1, counts["HEAD /v2/a/b/manifests/1"])
	check(t, "one image is fetched once, whatever its tags", 1, counts["GET /v2/a/b/manifests/"+digest])
}

func TestImportSameTagTwice(t *testing.T) {
	f := newFixture(t)
	f.push(f.image(), "a/b:1")
	last := f.push(f.image(), "a/b:2")
	for range 2 {
		f.mustCreate(f.request(f.from("a/b:1", "x"), f.from("a/b:2", "x")))
	}
	check(t, "the last counts, and importing again is still no change", []string{last}, f.history("x"))
}

// A registry must not be able to name an image that it does not hold.
func TestImportProvesImages(t *testing.T) {
	f := newFixture(t)
	stolen := f.push(f.image(), "secret/app:1")
	f.images.images[stolen] = &imagev1.Image{
		ObjectMeta: metav1.ObjectMeta{Name: stolen, UID: "1"}, DockerImageReference: "private.example.com/app@" + stolen,
		DockerImageMetadata: runtime.RawExtension{Raw: []byte(`{"Config":{"Env":["PASSWORD=x"]}}`)},
	}
	f.breakWith(func(w http.ResponseWriter, r *http.Request) bool {
		switch {
		case r.Method == http.MethodHead && strings.HasPrefix(r.URL.Path, "/v2/evil/app/manifests/"):
			w.Header().Set("Docker-Content-Digest", stolen)
			w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
			w.Header().Set("Content-Length", "7")
			return true
		default:
			return false
		}
	})
	got := f.mustCreate(f.request(f.from("evil/app:1", "latest")))
	check(t, "an image that the repository does not hold is not given away", metav1.StatusReasonNotFound, got.Status.Images[0].Status.Reason)
	check(t, "nor tagged", nil, f.history("latest"))
}

func TestImportDeadline(t *testing.T) {
	f := newFixture(t)
	digest := f.push(f.image(), "fast/app:1")
	f.push(f.image(), "slow/app:1")
	f.hang("/slow/")
	f.options.Timeout = 300 * time.Millisecond
	got := f.mustCreate(f.request(f.from("slow/app:1", "slow"), f.from("fast/app:1", "fast")))
	check(t, "what is there in time is in the answer", digest, got.Status.Images[1].Image.Name)
	status := got.Status.Images[0].Status
	check(t, "what is not is said", []any{"Failure", metav1.StatusReasonTimeout, int32(504)}, []any{status.Status, status.Reason, status.Code})
	check(t, "with what happens to it", f.host+`/slow/app:1 is still being imported: the registry did not give it within 300ms; "oc describe is web" shows what comes of it`, status.Message)
	record := f.streams.records["web"]
	check(t, "the tag is there and waits for the importer", true, store.Pending(record, store.SpecTag(&record.Spec, "slow")))
	check(t, "without a failure", true, store.ImportFailure(&record.Status, "slow") == nil)

	isi := f.request(f.from("slow/app:1", "slow"))
	isi.Spec.Import = false
	status = f.mustCreate(isi).Status.Images[0].Status
	check(t, "nothing is promised where nothing is written", f.host+"/slow/app:1: the registry did not give it within 300ms; try again", status.Message)
}

func TestImportKeepsWithinTheRequestsTime(t *testing.T) {
	f := newFixture(t)
	f.hang("/slow/")
	ctx, cancel := context.WithTimeout(f.context(), margin+200*time.Millisecond)
	defer cancel()
	obj, err := New(f.options).Create(ctx, f.request(f.from("slow/app:1", "slow")), nil, &metav1.CreateOptions{})
	if err != nil || ctx.Err() != nil {
		t.Fatalf("there is an answer before the request is cut off: %v, %v", err, ctx.Err())
	}
	check(t, "it says that the image is late", metav1.StatusReasonTimeout, obj.(*imagev1.ImageStreamImport).Status.Images[0].Status.Reason)

	gone, cancel := context.WithCancel(f.context())
	time.AfterFunc(100*time.Millisecond, cancel)
	_, err = New(f.options).Create(gone, f.request(f.from("slow/app:1", "other")), nil, &metav1.CreateOptions{})
	if !apierrors.IsTimeout(err) {
		t.Errorf("a request whose client is gone ends: %v", err)
	}
	check(t, "and writes nothing", 1, f.streams.writes)
}

func TestImportPreconditions(t *testing.T) {
	f := newFixture(t)
	f.push(f.image(), "a/b:1", "a/b:2")
	stream := f.mustCreate(f.request(f.from("a/b:1", "one"), f.from("a/b:1", "two"))).Status.Import
	with := func(edit func(*imagev1.ImageStreamImport), images ...imagev1.ImageImportSpec) *imagev1.ImageStreamImport {
		isi := f.request(images...)
		edit(isi)
		return isi
	}
	version := func(v string) func(*imagev1.ImageStreamImport) {
		return func(isi *imagev1.ImageStreamImport) { isi.ResourceVersion = v }
	}
	absent := func(edit func(*imagev1.ImageStreamImport)) func(*imagev1.ImageStreamImport) {
		return func(isi *imagev1.ImageStreamImport) {
			isi.Name = "absent"
			edit(isi)
		}
	}
	uid := func(isi *imagev1.ImageStreamImport) { isi.UID = "another" }
	cases := map[string]struct {
		reason string
		isi    *imagev1.ImageStreamImport
		want   metav1.StatusReason
		kind   string
	}{
		"Version":       {"the stream is as the user saw it", with(version(stream.ResourceVersion), f.from("a/b:1", "one")), "", ""},
		"StaleVersion":  {"the stream is not as the user saw it", with(version("0"), f.from("a/b:1", "one")), metav1.StatusReasonConflict, "imagestream"},
		"UID":           {"another stream is none", with(uid, f.from("a/b:1", "one")), metav1.StatusReasonNotFound, "imagestream"},
		"VersionAbsent": {"what the user saw is gone", with(absent(version("1")), f.from("a/b:1", "one")), metav1.StatusReasonNotFound, "imagestreams"},
		"UIDAbsent":     {"what the user saw is gone", with(absent(uid), f.from("a/b:1", "one")), metav1.StatusReasonNotFound, "imagestreams"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			f.seen()
			_, err := f.create(tc.isi)
			if tc.want == "" {
				if err != nil {
					t.Fatalf("%s: %v", tc.reason, err)
				}
				return
			}
			reason, _ := statusOfError(t, err)
			check(t, tc.reason, tc.want, reason)
			var status apierrors.APIStatus
			errors.As(err, &status)
			check(t, tc.reason+": details.kind", tc.kind, status.Status().Details.Kind)
			check(t, "no registry is asked in vain", 0, len(f.seen()))
		})
	}
}

func TestImportMeanwhile(t *testing.T) {
	move := func(f *fixture, edit func(*storev1.StreamRecord)) func() {
		return func() {
			record := f.streams.records["web"].DeepCopy()
			edit(record)
			f.streams.put(record)
		}
	}
	spec := func(tag string) func(*storev1.StreamRecord) {
		return func(r *storev1.StreamRecord) { store.SpecTag(&r.Spec, tag).From.Name = "quay.io/other/app:1" }
	}
	cases := map[string]struct {
		reason      string
		edit        func(*storev1.StreamRecord)
		withVersion bool
		conflict    bool
	}{
		"SameTag":          {reason: "without a resource version the result is put on the stream as it is", edit: spec("one")},
		"SameTagVersion":   {reason: "with one, a change of the tag that is imported is a conflict", edit: spec("one"), withVersion: true, conflict: true},
		"OtherTagVersion":  {reason: "a change of another tag is none", edit: spec("two"), withVersion: true},
		"LabelVersion":     {reason: "a change of anything else is none", edit: func(r *storev1.StreamRecord) { r.Labels = map[string]string{"a": "b"} }, withVersion: true},
		"GenerationOnly":   {reason: "what the importer does to the tag meanwhile is none", edit: func(r *storev1.StreamRecord) { *store.SpecTag(&r.Spec, "one").Generation++ }, withVersion: true},
		"OtherImageOfTag":  {reason: "another image of the tag is a conflict", edit: func(r *storev1.StreamRecord) { store.Latest(&r.Status, "one").Image = "sha256:0" }, withVersion: true, conflict: true},
		"RecreatedVersion": {reason: "another stream of the name is another", edit: func(r *storev1.StreamRecord) { r.UID = "another" }, withVersion: true, conflict: true},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.push(f.image(), "a/b:1")
			stream := f.mustCreate(f.request(f.from("a/b:1", "one"), f.from("a/b:1", "two"))).Status.Import
			next := f.push(f.image(), "a/b:1")
			isi := f.request(f.from("a/b:1", "one"))
			if tc.withVersion {
				isi.ResourceVersion = stream.ResourceVersion
			}
			f.streams.meanwhile = move(f, tc.edit)
			_, err := f.create(isi)
			check(t, tc.reason, tc.conflict, apierrors.IsConflict(err))
			if !tc.conflict {
				check(t, tc.reason, next, f.history("one")[0])
			}
		})
	}
	t.Run("Deleted", func(t *testing.T) {
		f := newFixture(t)
		f.push(f.image(), "a/b:1")
		f.mustCreate(f.request(f.from("a/b:1", "one")))
		f.streams.meanwhile = func() { delete(f.streams.records, "web") }
		if _, err := f.create(f.request(f.from("a/b:1", "one"))); !apierrors.IsNotFound(err) {
			t.Errorf("a stream that was deleted meanwhile stays deleted: %v", err)
		}
	})
}

func TestImportErrorsOfTheServerAreBare(t *testing.T) {
	f := newFixture(t)
	f.push(f.image(), "a/b:1")
	f.streams.refuse = apierrors.NewInvalid(kind("ImageStream"), "web", field.ErrorList{field.Invalid(field.NewPath("spec"), "", "no")})
	_, err := f.create(f.request(f.from("a/b:1", "one")))
	if err != f.streams.refuse { //nolint:errorlint // What is wrapped becomes a 500.
		t.Errorf("an error of the store is returned as it is: %v", err)
	}
	f.streams.refuse = nil
	f.images.images = map[string]*imagev1.Image{}
	f.images.refuse = apierrors.NewServiceUnavailable("etcd is away")
	if _, err := f.create(f.request(f.from("a/b:1", "one"))); err != f.images.refuse { //nolint:errorlint // As above.
		t.Errorf("an error of the store is returned as it is: %v", err)
	}
	check(t, "and nothing is written", 0, f.streams.writes)
	f.images.refuse = apierrors.NewInvalid(kind("Image"), "x", nil)
	got := f.mustCreate(f.request(f.from("a/b:1", "one")))
	check(t, "an image that cannot be stored is a failure of its own", metav1.StatusReasonInvalid, got.Status.Images[0].Status.Reason)
}

func TestCreateValidation(t *testing.T) {
	f := newFixture(t)
	f.push(f.image(), "a/b:1")
	refused := apierrors.NewForbidden(imagev1.Resource("imagestreamimports"), "web", errors.New("policy"))
	isi := f.request(f.from("a/b:1", "one"))
	_, err := New(f.options).Create(f.context(), isi, func(_ context.Context, obj runtime.Object) error {
		check(t, "policies see defaults", imagev1.SourceTagReferencePolicy, obj.(*imagev1.ImageStreamImport).Spec.Images[0].ReferencePolicy.Type)
		return refused
	}, &metav1.CreateOptions{})
	check(t, "what a policy refuses is refused", true, errors.Is(err, refused))
	check(t, "before any registry is asked", 0, len(f.seen()))
	check(t, "the object that was given is left as it is", "", string(isi.Spec.Images[0].ReferencePolicy.Type))
}

func TestAllowedRegistries(t *testing.T) {
	cases := map[string]struct {
		reason  string
		may     string
		asked   []string
		refused bool
	}{
		"Nobody":   {reason: "others are refused", asked: []string{"create images", "create imagestreammappings"}, refused: true},
		"Images":   {reason: "who can create images can import from anywhere", may: "images", asked: []string{"create images"}},
		"Mappings": {reason: "who can create mappings can import from anywhere", may: "imagestreammappings", asked: []string{"create images", "create imagestreammappings"}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.push(f.image(), "a/b:1", "a/b:2")
			f.options.Admit = func(pullSpec string, insecure bool) error {
				if strings.HasSuffix(pullSpec, ":2") && insecure {
					return errors.New("not from there")
				}
				return nil
			}
			var asked []string
			f.options.Authorizer = authorizer.AuthorizerFunc(func(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
				check(t, "the right is one for the whole cluster, of the request's user", []string{"", "image.openshift.io", "alice"},
					[]string{a.GetNamespace(), a.GetAPIGroup(), a.GetUser().GetName()})
				asked = append(asked, a.GetVerb()+" "+a.GetResource())
				if a.GetResource() == tc.may {
					return authorizer.DecisionAllow, "", nil
				}
				return authorizer.DecisionNoOpinion, "", errors.New("no authorizer answers")
			})
			_, err := f.create(f.request(f.from("a/b:1", "one"), f.from("a/b:2", "two")))
			check(t, "the user is looked at only where it matters", tc.asked, asked)
			check(t, tc.reason, tc.refused, err != nil)
			if err != nil {
				reason, causes := statusOfError(t, err)
				check(t, "it is the user's field", []string{"spec.images[1].from.name: Forbidden: not from there"}, causes)
				check(t, "and a 422", metav1.StatusReasonInvalid, reason)
				check(t, "no registry is asked", 0, len(f.seen()))
			}
			asked = nil
			if _, err := f.create(f.request(f.from("a/b:1", "one"))); err != nil || asked != nil {
				t.Errorf("an allowed registry needs no right: %v, %v", err, asked)
			}
		})
	}
}

func TestLocalReferencePolicy(t *testing.T) {
	f := newFixture(t)
	digest := f.push(f.image(), "a/b:1")
	f.streams.put(&storev1.StreamRecord{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "web"},
		Spec:       imagev1.ImageStreamSpec{DockerImageRepository: "registry.local/shop/web"},
		Record:     storev1.StreamEnvelope{Generation: 1},
	})
	local := f.from("a/b:1", "local")
	local.ReferencePolicy.Type = imagev1.LocalTagReferencePolicy
	got := f.mustCreate(f.request(local, f.from("a/b:1", "source")))
	check(t, "each image has the reference that its tag gives", []string{"registry.local/shop/web@" + digest, f.host + "/a/b@" + digest},
		[]string{got.Status.Images[0].Image.DockerImageReference, got.Status.Images[1].Image.DockerImageReference})
}

func TestAnswerIsBounded(t *testing.T) {
	f := newFixture(t)
	isi := f.request(f.from("a/b:1", "one"))
	a := newAsking(New(f.options), isi, nil)
	large := &finding{image: &imagev1.Image{DockerImageManifest: strings.Repeat("x", maxAnswer/2)}}
	check(t, "images have room up to a limit", []bool{true, false}, []bool{a.room(large), a.room(large)})
	status := unfinished("quay.io/a:1", "web", outOfSpace, time.Second)
	check(t, "the others go on in the background", true, strings.Contains(status.Message, "still being imported: the answer would be too large"))
	check(t, "where there is none the user can ask for less", "quay.io/a:1: the answer would be too large; ask for fewer images at once",
		unfinished("quay.io/a:1", "", outOfSpace, time.Second).Message)
}
