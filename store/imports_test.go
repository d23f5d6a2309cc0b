package store

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	imagev1 "github.com/openshift/api/image/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	storev1 "istag.dev/store/v1"
)

func conditionsOf(r *storev1.StreamRecord, tag string) []imagev1.TagEventCondition {
	for _, list := range r.Status.Tags {
		if list.Tag == tag {
			return list.Conditions
		}
	}
	return nil
}

func succeeded(pullSpec string, generation int64, at metav1.Time) []imagev1.TagEventCondition {
	return []imagev1.TagEventCondition{{
		Type: imagev1.ImportSuccess, Status: corev1.ConditionTrue, Reason: ReasonImported,
		Message: "imported from " + pullSpec, Generation: generation, LastTransitionTime: at,
	}}
}

func TestRecordImport(t *testing.T) {
	r := imported(t)
	if diff := cmp.Diff(succeeded("quay.io/a/b:1", 2, t0), conditionsOf(r, "t")); diff != "" {
		t.Errorf("a success is said: -want +got:\n%s", diff)
	}
	if o := Origin(r, "t"); o.Via != storev1.ViaImport || o.Source != "quay.io/a/b:1" || o.By.User != "alice" {
		t.Errorf("whoever last changed the tag asked for it: %+v", o)
	}
	before := r.DeepCopy()
	if RecordImport(r, "t", Import{Reference: "quay.io/a/b@" + digestA, Image: digestA}, t1) {
		t.Error("the same image again is no change")
	}
	if diff := cmp.Diff(before, r); diff != "" {
		t.Errorf("the same image again leaves the record as it is: -before +after:\n%s", diff)
	}
	if !RecordImport(r, "t", Import{Reference: "quay.io/a/b@" + digestB, Image: digestB}, t1) {
		t.Error("another image is a change")
	}
	if tag := SpecTag(&r.Spec, "t"); *tag.Generation != r.Record.Generation || Pending(r, tag) {
		t.Errorf("an import brings tag and stream to one generation: %d, %d", *tag.Generation, r.Record.Generation)
	}
	if RecordImport(r, "absent", Import{Reference: "x", Image: digestB}, t1) {
		t.Error("a tag that left spec meanwhile is not brought back")
	}
	edit(t, r, by("bob"), func(s *imagev1.ImageStreamSpec) { s.Tags[0].Generation = ptr.To[int64](0) })
	if !RecordImport(r, "t", Import{Reference: "quay.io/a/b@" + digestB, Image: digestB}, t1) {
		t.Error("the same image for a newer generation accounts for that generation")
	}
	if o := Origin(r, "t"); o.By.User != "alice" {
		t.Errorf("but what the tag means came from where it came: %+v", o)
	}
}

func TestRecordImportFailure(t *testing.T) {
	r := imported(t)
	edit(t, r, by("alice"), func(s *imagev1.ImageStreamSpec) { s.Tags[0].From.Name = "quay.io/a/b:gone" })
	if !RecordImportFailure(r, "t", "NotFound", "there is no quay.io/a/b:gone", t1) {
		t.Error("a first failure is recorded")
	}
	failure := ImportFailure(&r.Status, "t")
	if failure == nil || failure.Reason != "NotFound" || failure.Generation != r.Record.Generation || len(conditionsOf(r, "t")) != 1 {
		t.Fatalf("it takes the place of the success before: got condition %+v", conditionsOf(r, "t"))
	}
	if latest := Latest(&r.Status, "t"); latest == nil || latest.Image != digestA {
		t.Errorf("a failure takes nothing away: the tag means %+v", latest)
	}
	if Pending(r, &r.Spec.Tags[0]) {
		t.Error("the failure accounts for the generation that was asked for")
	}
	before := r.DeepCopy()
	if RecordImportFailure(r, "t", "NotFound", "there is no quay.io/a/b:gone", t1) {
		t.Error("the same failure again is no change")
	}
	if diff := cmp.Diff(before, r); diff != "" {
		t.Errorf("the same failure again leaves the record as it is: -before +after:\n%s", diff)
	}
	edit(t, r, by("alice"), func(s *imagev1.ImageStreamSpec) { s.Tags[0].Generation = ptr.To[int64](0) })
	if !RecordImportFailure(r, "t", "NotFound", "there is no quay.io/a/b:gone", t1) || Pending(r, &r.Spec.Tags[0]) {
		t.Error("the same failure of a newer generation accounts for that generation")
	}
	if !RecordImport(r, "t", Import{Reference: "quay.io/a/b@" + digestA, Image: digestA}, t1) || ImportFailure(&r.Status, "t") != nil {
		t.Error("a success clears the failure, even with the image of before")
	}
}

// asked is an ImageStreamImport of tag "t" from quay.io/a/b:1 that found an image.
func asked(image string) TagImport {
	return TagImport{
		Tag:             "t",
		From:            corev1.ObjectReference{Kind: KindDockerImage, Name: "quay.io/a/b:1"},
		ReferencePolicy: imagev1.TagReferencePolicy{Type: imagev1.LocalTagReferencePolicy},
		Imported:        &Import{Reference: "quay.io/a/b@" + image, Image: image},
	}
}

func failing(reason string) TagImport {
	i := asked("")
	i.Imported, i.Failure = nil, &ImportError{Reason: reason, Message: "no"}
	return i
}

func pending() TagImport {
	i := asked("")
	i.Imported, i.Pending = nil, true
	return i
}

func with(i TagImport, change func(*TagImport)) TagImport {
	change(&i)
	return i
}

func TestRecordImports(t *testing.T) {
	later := by("bob")
	later.Now = t1
	type tag struct {
		From       string
		Generation int64
		Image      string
		Events     int
		Failure    string
		Pending    bool
		Local      bool
		Scheduled  bool
		By         string // of the request
	}
	ours := tag{From: "quay.io/a/b:1", Generation: 2, Image: digestA, Events: 1, By: "alice"}
	change := func(f func(*tag)) *tag { c := ours; f(&c); return &c }
	cases := map[string]struct {
		reason     string
		prepare    func(*storev1.StreamRecord)
		imports    []TagImport
		want       *tag // what becomes of "t"; nil for nothing
		generation int64
		unchanged  bool
	}{
		"NewStream": {
			reason:     "a stream may be made by its first import",
			prepare:    func(r *storev1.StreamRecord) { *r = *recordOf("s") },
			imports:    []TagImport{asked(digestA)},
			want:       &tag{From: "quay.io/a/b:1", Generation: 1, Image: digestA, Events: 1, Local: true, By: "bob"},
			generation: 1,
		},
		"NewEmptyStream": {
			reason:  "even by one that tags nothing",
			prepare: func(r *storev1.StreamRecord) { *r = *recordOf("s") }, generation: 1,
		},
		"Same": {
			reason:  "a repeated import changes nothing",
			imports: []TagImport{asked(digestA)}, want: &ours, generation: 2, unchanged: true,
		},
		"SameFromElsewhere": {
			reason:  "nor does another name of the same image",
			imports: []TagImport{with(asked(digestA), func(i *TagImport) { i.From.Name = "quay.io/a/b:2" })}, want: &ours, generation: 2, unchanged: true,
		},
		"SameScheduled": {
			reason:     "the import policy is the request's all the same, and is no reason for another generation of the tag",
			imports:    []TagImport{with(asked(digestA), func(i *TagImport) { i.ImportPolicy.Scheduled = true })},
			want:       change(func(c *tag) { c.Scheduled, c.By = true, "bob" }),
			generation: 3,
		},
		"SameAfterFailure": {
			reason:     "a success clears a failure",
			prepare:    func(r *storev1.StreamRecord) { RecordImportFailure(r, "t", "NotFound", "gone", t0) },
			imports:    []TagImport{asked(digestA)},
			want:       change(func(c *tag) { c.Generation, c.By = 4, "bob" }),
			generation: 4,
		},
		"Moved": {
			reason:     "another image is an event, and the reference policy stays the tag's",
			imports:    []TagImport{asked(digestB)},
			want:       change(func(c *tag) { c.Generation, c.Image, c.Events, c.By = 3, digestB, 2, "bob" }),
			generation: 3,
		},
		"OverAlias": {
			reason:     "an import makes an alias a tag that is imported, even if both mean the same",
			prepare:    func(r *storev1.StreamRecord) { SpecTag(&r.Spec, "t").From = fromTag("t", "x").From },
			imports:    []TagImport{asked(digestA)},
			want:       change(func(c *tag) { c.Generation, c.By = 3, "bob" }),
			generation: 3,
		},
		"Asked": {
			reason:     "an import answers who asked before",
			prepare:    func(r *storev1.StreamRecord) { r.Record.Generation, r.Spec.Tags[0].Generation = 5, ptr.To[int64](5) },
			imports:    []TagImport{asked(digestA)},
			want:       change(func(c *tag) { c.Generation, c.By = 6, "bob" }),
			generation: 6,
		},
		"Failure": {
			reason:     "a failure takes nothing away, and is not pending",
			imports:    []TagImport{failing("NotFound")},
			want:       change(func(c *tag) { c.Generation, c.Failure, c.By = 3, "NotFound", "bob" }),
			generation: 3,
		},
		"FailureFromElsewhere": {
			reason:     "nor does it change what the tag names",
			imports:    []TagImport{with(failing("NotFound"), func(i *TagImport) { i.From.Name = "quay.io/a/b:2" })},
			want:       change(func(c *tag) { c.Generation, c.Failure, c.By = 3, "NotFound", "bob" }),
			generation: 3,
		},
		"SameFailure": {
			reason:     "the same failure again changes nothing",
			prepare:    func(r *storev1.StreamRecord) { RecordImportFailure(r, "t", "NotFound", "no", t0) },
			imports:    []TagImport{failing("NotFound")},
			want:       change(func(c *tag) { c.Generation, c.Failure = 3, "NotFound" }),
			generation: 3, unchanged: true,
		},
		"SameFailureAskedAgain": {
			reason: "unless another import was asked for, which has then been tried",
			prepare: func(r *storev1.StreamRecord) {
				RecordImportFailure(r, "t", "NotFound", "no", t0)
				r.Record.Generation, r.Spec.Tags[0].Generation = 5, ptr.To[int64](5)
			},
			imports:    []TagImport{failing("NotFound")},
			want:       change(func(c *tag) { c.Generation, c.Failure, c.By = 6, "NotFound", "bob" }),
			generation: 6,
		},
		"FailureOfNewTag": {
			reason:     "a failure makes the tag, so that it is tried again",
			prepare:    func(r *storev1.StreamRecord) { *r = *recordOf("s") },
			imports:    []TagImport{failing("NotFound")},
			want:       &tag{From: "quay.io/a/b:1", Generation: 1, Failure: "NotFound", Local: true, By: "bob"},
			generation: 1,
		},
		"FailureOfNewTagOfRepository": {
			reason:     "but not for each of a repository's",
			prepare:    func(r *storev1.StreamRecord) { *r = *recordOf("s") },
			imports:    []TagImport{with(failing("NotFound"), func(i *TagImport) { i.FromRepository = true })},
			want:       &tag{Failure: "NotFound"},
			generation: 1,
		},
		"PendingNew": {
			reason:     "what was not done in time is left to the importer",
			prepare:    func(r *storev1.StreamRecord) { *r = *recordOf("s") },
			imports:    []TagImport{pending()},
			want:       &tag{From: "quay.io/a/b:1", Generation: 1, Pending: true, Local: true, By: "bob"},
			generation: 1,
		},
		"PendingOld": {
			reason:  "as the request has it",
			imports: []TagImport{with(pending(), func(i *TagImport) { i.From.Name, i.ImportPolicy.Scheduled = "quay.io/a/b:2", true })},
			want: change(func(c *tag) {
				c.From, c.Generation, c.Pending, c.Scheduled, c.By = "quay.io/a/b:2", 3, true, true, "bob"
			}),
			generation: 3,
		},
		"PendingReference": {
			reason:     "a reference that is asked for is one no more, or nobody would import it",
			prepare:    func(r *storev1.StreamRecord) { r.Spec.Tags[0].Reference = true },
			imports:    []TagImport{pending()},
			want:       change(func(c *tag) { c.Generation, c.Pending, c.By = 3, true, "bob" }),
			generation: 3,
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			r := imported(t)
			r.Annotations = map[string]string{imagev1.DockerImageRepositoryCheckAnnotation: "before"}
			if tc.prepare != nil {
				tc.prepare(r)
			}
			before := r.DeepCopy()
			if got := RecordImports(r, tc.imports, later); got == tc.unchanged {
				t.Errorf("%s: changed = %v", tc.reason, got)
			}
			if diff := cmp.Diff(before, r); tc.unchanged && diff != "" {
				t.Errorf("%s: -before +after:\n%s", tc.reason, diff)
			}
			if when := r.Annotations[imagev1.DockerImageRepositoryCheckAnnotation]; !tc.unchanged && when != "2026-01-01T01:00:00Z" {
				t.Errorf("%s: a change says when it was imported: %q", tc.reason, when)
			}
			if r.Record.Generation != tc.generation || !tc.unchanged && r.Generation != tc.generation {
				t.Errorf("%s: generation %d, %d, want %d", tc.reason, r.Record.Generation, r.Generation, tc.generation)
			}
			var got *tag
			if spec := SpecTag(&r.Spec, "t"); spec != nil {
				got = &tag{From: spec.From.Name, Generation: *spec.Generation, Pending: Pending(r, spec), Scheduled: spec.ImportPolicy.Scheduled}
				got.Local = spec.ReferencePolicy.Type == imagev1.LocalTagReferencePolicy
				got.By = requestedBy(r, "t").User
			}
			for _, list := range r.Status.Tags {
				if got == nil {
					got = &tag{}
				}
				if got.Events = len(list.Items); got.Events > 0 {
					got.Image = list.Items[0].Image
				}
				if f := ImportFailure(&r.Status, "t"); f != nil {
					got.Failure = f.Reason
				}
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("%s: -want +got:\n%s", tc.reason, diff)
			}
			if again := r.DeepCopy(); RecordImports(again, tc.imports, later) && (len(tc.imports) == 0 || !tc.imports[0].Pending) {
				t.Errorf("%s: doing it again changes nothing: -first +second:\n%s", tc.reason, cmp.Diff(r, again))
			}
		})
	}
}

func TestRecordImportsOfManyTags(t *testing.T) {
	r := recordOf("s", fromTag("alias", "t"))
	accept(t, r, nil, by("alice"))
	r.Spec.Tags[0].Annotations = map[string]string{"kept": "yes"}
	second := with(asked(digestB), func(i *TagImport) { i.Tag = "u" })
	third := with(failing("NotFound"), func(i *TagImport) { i.Tag, i.Failure = "v", &ImportError{Reason: "NotFound"} })
	if !RecordImports(r, []TagImport{second, third, asked(digestA)}, by("bob")) {
		t.Fatal("new tags are a change")
	}
	for _, tag := range []string{"t", "u", "v"} {
		if got := *SpecTag(&r.Spec, tag).Generation; got != 2 || r.Record.Generation != 2 {
			t.Errorf("all tags of a request get one generation: %q has %d, the stream %d", tag, got, r.Record.Generation)
		}
	}
	if got := Latest(&r.Status, "alias"); got == nil || got.Image != digestA {
		t.Errorf("tags that follow move in the same write: %+v", got)
	}
	if o := Origin(r, "alias"); o == nil || o.Via != storev1.ViaAlias || o.By.User != "bob" {
		t.Errorf("on behalf of who asked: %+v", o)
	}
	if diff := cmp.Diff(succeeded("quay.io/a/b:1", 2, t0), conditionsOf(r, "u")); diff != "" {
		t.Errorf("a success is said: -want +got:\n%s", diff)
	}
	if got := ImportFailure(&r.Status, "v"); got.Message == "" {
		t.Error("a failure without a message gets one")
	}
}

func TestRecordImportsWithoutAnnotation(t *testing.T) {
	r := imported(t)
	before := r.DeepCopy()
	if !RecordImports(r, []TagImport{asked(digestA)}, by("bob")) {
		t.Error("a stream that does not say yet when it was imported says it")
	}
	before.Annotations = map[string]string{imagev1.DockerImageRepositoryCheckAnnotation: "2026-01-01T00:00:00Z"}
	before.Generation = 2
	if diff := cmp.Diff(before, r); diff != "" {
		t.Errorf("and nothing else: -want +got:\n%s", diff)
	}
}
