package store

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	imagev1 "github.com/openshift/api/image/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	storev1 "istag.dev/store/v1"
)

// none is a namespace without other streams.
func none(string) (*storev1.StreamRecord, error) { return nil, nil }

// accept runs Accept and fails the test on an error.
func accept(t *testing.T, r *storev1.StreamRecord, source Source) bool {
	t.Helper()
	changed, err := Accept(r, source, t0)
	if err != nil {
		t.Fatalf("Accept: %v", err)
	}
	return changed
}

// imported is a record whose tag "t" follows quay.io/a/b:1 and has been imported as digestA.
func imported(t *testing.T) *storev1.StreamRecord {
	t.Helper()
	r := recordOf("s", fromImage("t", "quay.io/a/b:1"))
	accept(t, r, none)
	RecordImport(r, "t", Import{Reference: "quay.io/a/b@" + digestA, Image: digestA}, t0)
	return r
}

func TestAcceptNewRecord(t *testing.T) {
	r := recordOf("s", fromImage("b", "quay.io/a/b:2"), fromImage("a", "quay.io/a/b:0"), fromImage("a", "quay.io/a/b:1"))
	r.Spec.Tags[0].Generation = ptr.To[int64](77)
	if !accept(t, r, none) {
		t.Error("a new record changes")
	}
	want := []imagev1.TagReference{fromImage("a", "quay.io/a/b:1"), fromImage("b", "quay.io/a/b:2")}
	for i := range want {
		want[i].Generation = ptr.To[int64](1)
		want[i].ImportPolicy.ImportMode = imagev1.ImportModeLegacy
		want[i].ReferencePolicy.Type = imagev1.SourceTagReferencePolicy
	}
	if diff := cmp.Diff(want, r.Spec.Tags); diff != "" {
		t.Errorf("tags are sorted, the last of two wins, defaults are filled, generations are 1 whatever was sent: -want +got:\n%s", diff)
	}
	if r.Record.Generation != 1 {
		t.Errorf("a new stream has generation 1, got %d", r.Record.Generation)
	}
	if accept(t, r, none) {
		t.Error("what has been accepted is accepted without a change")
	}
}

func TestAcceptChanges(t *testing.T) {
	cases := map[string]struct {
		reason         string
		edit           func(*imagev1.ImageStreamSpec)
		wantGeneration int64 // of the stream; an imported record has 2
		wantPending    bool
	}{
		"Nothing": {
			reason: "an unchanged spec keeps its generations", edit: func(*imagev1.ImageStreamSpec) {}, wantGeneration: 2,
		},
		"GenerationTakenAway": {
			reason: "a client that sends no generation (kubectl apply, old clients) means the stored one",
			edit:   func(s *imagev1.ImageStreamSpec) { s.Tags[0].Generation = nil }, wantGeneration: 2,
		},
		"GenerationInvented": {
			reason: "only 0 means anything as a generation from a client",
			edit:   func(s *imagev1.ImageStreamSpec) { s.Tags[0].Generation = ptr.To[int64](99) }, wantGeneration: 2,
		},
		"GenerationZero": {
			reason: "generation 0 asks for another import",
			edit:   func(s *imagev1.ImageStreamSpec) { s.Tags[0].Generation = ptr.To[int64](0) }, wantGeneration: 3, wantPending: true,
		},
		"Name": {
			reason: "another name is to be imported",
			edit:   func(s *imagev1.ImageStreamSpec) { s.Tags[0].From.Name = "quay.io/a/b:2" }, wantGeneration: 3, wantPending: true,
		},
		"NameThroughApply": {
			reason: "kubectl apply changes the name and drops the generation at once",
			edit: func(s *imagev1.ImageStreamSpec) {
				s.Tags[0].From.Name, s.Tags[0].Generation = "quay.io/a/b:2", nil
			}, wantGeneration: 3, wantPending: true,
		},
		"ImportMode": {
			reason: "another import mode is to be imported",
			edit: func(s *imagev1.ImageStreamSpec) {
				s.Tags[0].ImportPolicy.ImportMode = imagev1.ImportModePreserveOriginal
			}, wantGeneration: 3, wantPending: true,
		},
		"Scheduled": {
			reason: "the schedule is spec, but no reason to import",
			edit:   func(s *imagev1.ImageStreamSpec) { s.Tags[0].ImportPolicy.Scheduled = true }, wantGeneration: 3,
		},
		"Insecure": {
			reason: "insecure is spec, but no reason to import",
			edit:   func(s *imagev1.ImageStreamSpec) { s.Tags[0].ImportPolicy.Insecure = true }, wantGeneration: 3,
		},
		"ReferencePolicy": {
			reason: "the reference policy is spec, but no reason to import",
			edit: func(s *imagev1.ImageStreamSpec) {
				s.Tags[0].ReferencePolicy.Type = imagev1.LocalTagReferencePolicy
			}, wantGeneration: 3,
		},
		"Annotations": {
			reason: "annotations are spec, but no reason to import",
			edit:   func(s *imagev1.ImageStreamSpec) { s.Tags[0].Annotations = map[string]string{"a": "b"} }, wantGeneration: 3,
		},
		"FromTakenAway": {
			reason: "a tag that follows nothing any more keeps its image",
			edit:   func(s *imagev1.ImageStreamSpec) { s.Tags[0].From = nil }, wantGeneration: 3,
		},
		"OwnNamespaceSpelledOut": {
			reason: "naming the own namespace is the same reference",
			edit:   func(s *imagev1.ImageStreamSpec) { s.Tags[0].From.Namespace = "shop" }, wantGeneration: 3,
		},
		"Removed": {
			reason: "a tag that leaves spec keeps its history",
			edit:   func(s *imagev1.ImageStreamSpec) { s.Tags = nil }, wantGeneration: 3,
		},
		"LookupPolicy": {
			reason: "the lookup policy is spec",
			edit:   func(s *imagev1.ImageStreamSpec) { s.LookupPolicy.Local = true }, wantGeneration: 3,
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			r := imported(t)
			tc.edit(&r.Spec)
			accept(t, r, none)
			if r.Record.Generation != tc.wantGeneration {
				t.Errorf("%s: stream generation %d, want %d", tc.reason, r.Record.Generation, tc.wantGeneration)
			}
			if tag := SpecTag(&r.Spec, "t"); tag != nil {
				if got := Pending(r, tag); got != tc.wantPending {
					t.Errorf("%s: pending = %v, want %v", tc.reason, got, tc.wantPending)
				}
				if want := map[bool]int64{false: 2, true: tc.wantGeneration}[tc.wantPending]; *tag.Generation != want {
					t.Errorf("%s: tag generation %d, want %d", tc.reason, *tag.Generation, want)
				}
			}
			if latest := Latest(&r.Status, "t"); latest == nil || latest.Image != digestA {
				t.Errorf("%s: whatever is asked for, the tag means what it meant until that is known; got %+v", tc.reason, latest)
			}
			if accept(t, r, none) {
				t.Errorf("%s: accepting twice changes once", tc.reason)
			}
		})
	}
}

func TestAcceptSources(t *testing.T) {
	other := imported(t)
	other.Name = "other"
	RecordImport(other, "t", Import{Reference: "quay.io/a/b@" + digestB, Image: digestB}, t1)
	source := func(stream string) (*storev1.StreamRecord, error) {
		if stream == "other" {
			return other, nil
		}
		return nil, nil
	}
	from := func(kind, name string) imagev1.TagReference {
		return imagev1.TagReference{Name: "new", From: &corev1.ObjectReference{Kind: kind, Name: name}}
	}
	reference := from(KindDockerImage, "quay.io/a/b:1")
	reference.Reference = true
	elsewhere := from(KindImageStreamTag, "other:t")
	elsewhere.From.Namespace = "elsewhere"
	cases := map[string]struct {
		reason     string
		tag        imagev1.TagReference
		want       string // image; "" is none
		wantRef    string
		wantReason string // of the condition
		wantVia    storev1.TagEventVia
	}{
		"OtherStream":        {reason: "a tag of another stream is copied once", tag: from(KindImageStreamTag, "other:t"), want: digestB, wantVia: storev1.ViaCopy},
		"SameStream":         {reason: "a name without colon is a tag of this stream", tag: from(KindImageStreamTag, "t"), want: digestA, wantVia: storev1.ViaAlias},
		"SameStreamSpelled":  {reason: "this stream may be named in full", tag: from(KindImageStreamTag, "s:t"), want: digestA, wantVia: storev1.ViaAlias},
		"AbsentTag":          {reason: "a tag that is not there yet is waited for", tag: from(KindImageStreamTag, "other:absent")},
		"AbsentStream":       {reason: "a stream that is not there is the user's mistake", tag: from(KindImageStreamTag, "absent:t"), wantReason: ReasonNotFound},
		"Image":              {reason: "an image is found anywhere in the history", tag: from(KindImageStreamImage, "other@"+digestA), want: digestA, wantVia: storev1.ViaCopy},
		"ImagePrefix":        {reason: "the beginning of a digest is enough", tag: from(KindImageStreamImage, "other@bbbb"), want: digestB, wantVia: storev1.ViaCopy},
		"ImageHere":          {reason: "an image without a stream is of this one", tag: from(KindImageStreamImage, digestA), want: digestA, wantVia: storev1.ViaCopy},
		"ImageAbsent":        {reason: "an image that no history has cannot be meant", tag: from(KindImageStreamImage, "other@ffff"), wantReason: ReasonNotFound},
		"ImageAmbiguous":     {reason: "two images cannot both be meant", tag: from(KindImageStreamImage, "other@sha256:"), wantReason: ReasonInvalid},
		"Reference":          {reason: "a reference is never imported", tag: reference, wantRef: "quay.io/a/b:1", wantVia: storev1.ViaReference},
		"OtherNamespace":     {reason: "nobody can be asked whether this is allowed", tag: elsewhere, wantReason: ReasonForbidden},
		"UnknownKind":        {reason: "only three kinds of source are known", tag: from("Pod", "x"), wantReason: ReasonInvalid},
		"DockerImageIsAsked": {reason: "a registry is asked later", tag: from(KindDockerImage, "quay.io/a/b:1")},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			r := imported(t)
			r.Spec.Tags = append(r.Spec.Tags, tc.tag)
			accept(t, r, source)
			got, failure := Latest(&r.Status, "new"), ImportFailure(&r.Status, "new")
			if tc.want == "" && tc.wantRef == "" && got != nil || (tc.want != "" || tc.wantRef != "") && got == nil {
				t.Fatalf("%s: event %+v, condition %+v", tc.reason, got, failure)
			}
			if got != nil && (got.Image != tc.want || tc.wantRef != "" && got.DockerImageReference != tc.wantRef || got.Generation != 3) {
				t.Errorf("%s: got %+v", tc.reason, got)
			}
			if got != nil && r.Record.Origins[0].Via != tc.wantVia {
				t.Errorf("%s: origin %+v, want %s", tc.reason, r.Record.Origins[0], tc.wantVia)
			}
			if (failure == nil) != (tc.wantReason == "") || failure != nil && failure.Reason != tc.wantReason {
				t.Errorf("%s: condition %+v, want reason %q", tc.reason, failure, tc.wantReason)
			}
		})
	}
}

func TestAcceptReportsTheStoresErrors(t *testing.T) {
	down := errors.New("down")
	r := recordOf("s", fromTag("t", "other:t"))
	if _, err := Accept(r, func(string) (*storev1.StreamRecord, error) { return nil, down }, t0); !errors.Is(err, down) {
		t.Errorf("an error of the store is not the user's mistake: got %v", err)
	}
}

func TestFollowChains(t *testing.T) {
	// c follows b follows a, named so that neither order of names is the order of the chain.
	r := recordOf("s", fromImage("m", "quay.io/a/b:1"), fromTag("z", "m"), fromTag("a", "s:z"), fromTag("k", "a"))
	accept(t, r, none)
	for i, image := range []string{digestA, digestB, digestA} {
		RecordImport(r, "m", Import{Reference: "quay.io/a/b@" + image, Image: image}, t0)
		for _, tag := range []string{"z", "a", "k"} {
			if got := Latest(&r.Status, tag); got == nil || got.Image != image {
				t.Errorf("import %d: the whole chain follows in one write: tag %q means %+v", i, tag, got)
			}
		}
	}
	before := Latest(&r.Status, "m").Generation
	r.Spec.Tags = append(r.Spec.Tags, fromTag("later", "k"))
	accept(t, r, none)
	if got := Latest(&r.Status, "m").Generation; got != before {
		t.Errorf("a new follower leaves its target alone: generation %d, was %d", got, before)
	}
	if got := Latest(&r.Status, "later"); got == nil || got.Image != digestA {
		t.Errorf("a new follower begins with what its target means: got %+v", got)
	}
}

func TestFollowLoops(t *testing.T) {
	r := recordOf("s", fromTag("a", "b"), fromTag("b", "a"), fromTag("self", "self"))
	r.Status.Tags = []imagev1.NamedTagEventList{{Tag: "a", Items: []imagev1.TagEvent{event("r@"+digestA, digestA, 1, t0)}}}
	accept(t, r, none)
	if got := Latest(&r.Status, "b"); got == nil || got.Image != digestA {
		t.Errorf("a loop ends and both tags agree: b means %+v", got)
	}
}

func TestRecordImport(t *testing.T) {
	r := imported(t)
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
}

func TestRecordImportFailure(t *testing.T) {
	r := imported(t)
	r.Spec.Tags[0].From.Name = "quay.io/a/b:gone"
	accept(t, r, none)
	if !RecordImportFailure(r, "t", "NotFound", "there is no quay.io/a/b:gone", t1) {
		t.Error("a first failure is recorded")
	}
	failure := ImportFailure(&r.Status, "t")
	if failure == nil || failure.Reason != "NotFound" || failure.Generation != r.Record.Generation {
		t.Fatalf("got condition %+v", failure)
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
	r.Spec.Tags[0].Generation = ptr.To[int64](0)
	accept(t, r, none)
	if !RecordImportFailure(r, "t", "NotFound", "there is no quay.io/a/b:gone", t1) || Pending(r, &r.Spec.Tags[0]) {
		t.Error("the same failure of a newer generation accounts for that generation")
	}
	if !RecordImport(r, "t", Import{Reference: "quay.io/a/b@" + digestA, Image: digestA}, t1) || ImportFailure(&r.Status, "t") != nil {
		t.Error("a success clears the failure, even with the image of before")
	}
}
