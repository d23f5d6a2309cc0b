package store

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	imagev1 "github.com/openshift/api/image/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	storev1 "istag.dev/store/v1"
)

// none is a cluster without other streams.
func none(string, string) (*storev1.StreamRecord, error) { return nil, nil }

// by is a change that a user makes, in a cluster without other streams.
func by(user string) Change {
	return Change{
		By:       storev1.Requester{User: user, Verb: "update", Resource: "imagestreams"},
		Identity: authenticationv1.UserInfo{Username: user, Groups: []string{"staff"}},
		Source:   none,
		Now:      t0,
	}
}

// accept runs Accept, which must find nothing wrong, and checks that doing it again changes nothing.
func accept(t *testing.T, r *storev1.StreamRecord, old *imagev1.ImageStreamSpec, c Change) {
	t.Helper()
	if errs, err := Accept(r, old, c); err != nil || len(errs) > 0 {
		t.Fatalf("Accept: %v, %v", errs, err)
	}
	again := r.DeepCopy()
	if errs, err := Accept(again, r.Spec.DeepCopy(), by("someone else")); err != nil || len(errs) > 0 {
		t.Fatalf("Accept once more: %v, %v", errs, err)
	}
	if diff := cmp.Diff(r, again); diff != "" {
		t.Errorf("what has been accepted is accepted without a change: -first +second:\n%s", diff)
	}
}

// edit changes the spec of a record as a user would.
func edit(t *testing.T, r *storev1.StreamRecord, c Change, change func(*imagev1.ImageStreamSpec)) {
	t.Helper()
	old := r.Spec.DeepCopy()
	change(&r.Spec)
	accept(t, r, old, c)
}

// imported is a record whose tag "t" follows quay.io/a/b:1 and has been imported as digestA.
func imported(t *testing.T) *storev1.StreamRecord {
	t.Helper()
	r := recordOf("s", fromImage("t", "quay.io/a/b:1"))
	accept(t, r, nil, by("alice"))
	RecordImport(r, "t", Import{Reference: "quay.io/a/b@" + digestA, Image: digestA}, t0)
	return r
}

// details returns errors as "field: type: detail".
func details(errs field.ErrorList) []string {
	var all []string
	for _, err := range errs {
		all = append(all, err.Field+": "+string(err.Type)+": "+err.Detail)
	}
	return all
}

func TestAcceptNewStream(t *testing.T) {
	r := recordOf("s", fromImage("b", "quay.io/a/b:2"), fromImage("a", "quay.io/a/b:0"), fromImage("a", "quay.io/a/b:1"))
	r.Spec.Tags[0].Generation = ptr.To[int64](77)
	r.Spec.DockerImageRepository = "quay.io/a/b"
	accept(t, r, nil, by("alice"))
	want := []imagev1.TagReference{fromImage("a", "quay.io/a/b:1"), fromImage("b", "quay.io/a/b:2")}
	for i := range want {
		want[i].Generation = ptr.To[int64](1)
		want[i].ImportPolicy.ImportMode = imagev1.ImportModeLegacy
		want[i].ReferencePolicy.Type = imagev1.SourceTagReferencePolicy
	}
	if diff := cmp.Diff(want, r.Spec.Tags); diff != "" {
		t.Errorf("tags are sorted, the last of two wins, defaults are filled, generations are 1 whatever was sent: -want +got:\n%s", diff)
	}
	if r.Record.Generation != 1 || r.Generation != 1 {
		t.Errorf("a new stream has generation 1, got %d and %d", r.Record.Generation, r.Generation)
	}
	if r.Status.DockerImageRepository != "quay.io/a/b" {
		t.Errorf("without a registry in the cluster the repository is spec's, got %q", r.Status.DockerImageRepository)
	}
}

func TestAcceptChanges(t *testing.T) {
	cases := map[string]struct {
		reason         string
		edit           func(*imagev1.ImageStreamSpec)
		wantGeneration int64 // of the stream; an imported record has 2
		wantPending    bool
		wantUser       string // of the tag's request
	}{
		"Nothing": {
			reason: "an unchanged spec keeps its generations", edit: func(*imagev1.ImageStreamSpec) {}, wantGeneration: 2, wantUser: "alice",
		},
		"GenerationTakenAway": {
			reason: "a client that sends no generation (kubectl apply, old clients) means the stored one",
			edit:   func(s *imagev1.ImageStreamSpec) { s.Tags[0].Generation = nil }, wantGeneration: 2, wantUser: "alice",
		},
		"GenerationInvented": {
			reason: "only 0 means anything as a generation from a client",
			edit:   func(s *imagev1.ImageStreamSpec) { s.Tags[0].Generation = ptr.To[int64](99) }, wantGeneration: 2, wantUser: "alice",
		},
		"DefaultsTakenAway": {
			reason: "the empty string is the default",
			edit: func(s *imagev1.ImageStreamSpec) {
				s.Tags[0].ImportPolicy.ImportMode, s.Tags[0].ReferencePolicy.Type = "", ""
			}, wantGeneration: 2, wantUser: "alice",
		},
		"GenerationZero": {
			reason: "generation 0 asks for another import",
			edit:   func(s *imagev1.ImageStreamSpec) { s.Tags[0].Generation = ptr.To[int64](0) }, wantGeneration: 3, wantPending: true, wantUser: "bob",
		},
		"Name": {
			reason: "another name is to be imported",
			edit:   func(s *imagev1.ImageStreamSpec) { s.Tags[0].From.Name = "quay.io/a/b:2" }, wantGeneration: 3, wantPending: true, wantUser: "bob",
		},
		"NameThroughApply": {
			reason: "kubectl apply changes the name and drops the generation at once",
			edit: func(s *imagev1.ImageStreamSpec) {
				s.Tags[0].From.Name, s.Tags[0].Generation = "quay.io/a/b:2", nil
			}, wantGeneration: 3, wantPending: true, wantUser: "bob",
		},
		"ImportMode": {
			reason: "another import mode is to be imported",
			edit: func(s *imagev1.ImageStreamSpec) {
				s.Tags[0].ImportPolicy.ImportMode = imagev1.ImportModePreserveOriginal
			}, wantGeneration: 3, wantPending: true, wantUser: "bob",
		},
		"Scheduled": {
			reason: "the schedule is spec, but no reason to import",
			edit:   func(s *imagev1.ImageStreamSpec) { s.Tags[0].ImportPolicy.Scheduled = true }, wantGeneration: 3, wantUser: "bob",
		},
		"Insecure": {
			reason: "insecure is spec, but no reason to import",
			edit:   func(s *imagev1.ImageStreamSpec) { s.Tags[0].ImportPolicy.Insecure = true }, wantGeneration: 3, wantUser: "bob",
		},
		"ReferencePolicy": {
			reason: "the reference policy is spec, but no reason to import",
			edit: func(s *imagev1.ImageStreamSpec) {
				s.Tags[0].ReferencePolicy.Type = imagev1.LocalTagReferencePolicy
			}, wantGeneration: 3, wantUser: "bob",
		},
		"Annotations": {
			reason: "annotations are spec, but no reason to import",
			edit:   func(s *imagev1.ImageStreamSpec) { s.Tags[0].Annotations = map[string]string{"a": "b"} }, wantGeneration: 3, wantUser: "bob",
		},
		"FromTakenAway": {
			reason: "a tag that follows nothing any more keeps its image",
			edit:   func(s *imagev1.ImageStreamSpec) { s.Tags[0].From = nil }, wantGeneration: 3, wantUser: "bob",
		},
		"OwnNamespaceSpelledOut": {
			reason: "naming the own namespace is the same reference",
			edit:   func(s *imagev1.ImageStreamSpec) { s.Tags[0].From.Namespace = "shop" }, wantGeneration: 3, wantUser: "bob",
		},
		"Removed": {
			reason: "a tag that leaves spec keeps its history and loses its request",
			edit:   func(s *imagev1.ImageStreamSpec) { s.Tags = nil }, wantGeneration: 3,
		},
		"LookupPolicy": {
			reason: "the lookup policy is spec, and no tag's",
			edit:   func(s *imagev1.ImageStreamSpec) { s.LookupPolicy.Local = true }, wantGeneration: 3, wantUser: "alice",
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			r := imported(t)
			edit(t, r, by("bob"), tc.edit)
			if r.Record.Generation != tc.wantGeneration || r.Generation != tc.wantGeneration {
				t.Errorf("%s: stream generation %d, %d, want %d", tc.reason, r.Record.Generation, r.Generation, tc.wantGeneration)
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
			got := ""
			if o := requestedBy(r, "t"); o != nil {
				got = o.User
			}
			if got != tc.wantUser {
				t.Errorf("%s: the tag was last changed by %q, want %q", tc.reason, got, tc.wantUser)
			}
			if got := Origin(r, "t").By.User; got != "alice" {
				t.Errorf("%s: what the tag means, alice asked for, not %q", tc.reason, got)
			}
		})
	}
}

// otherStreams is a cluster with a stream "other" in namespaces "shop" and "elsewhere", of which alice may
// use both and bob only the former.
func otherStreams(t *testing.T, user string) Change {
	t.Helper()
	other := imported(t)
	other.Name = "other"
	RecordImport(other, "t", Import{Reference: "quay.io/a/b@" + digestB, Image: digestB}, t1)
	c := by(user)
	c.Source = func(namespace, stream string) (*storev1.StreamRecord, error) {
		found := other.DeepCopy()
		found.Namespace = namespace
		switch {
		case namespace == "elsewhere" && user != "alice":
			return nil, &ForbiddenError{Namespace: namespace, Stream: stream, Reason: "no role"}
		case stream == "other" && (namespace == "shop" || namespace == "elsewhere"):
			return found, nil
		}
		return nil, nil
	}
	return c
}

func from(kind, name string) imagev1.TagReference {
	return imagev1.TagReference{Name: "new", From: &corev1.ObjectReference{Kind: kind, Name: name}}
}

func in(namespace string, tag imagev1.TagReference) imagev1.TagReference {
	tag.From.Namespace = namespace
	return tag
}

func following(tag imagev1.TagReference) imagev1.TagReference {
	tag.Annotations = map[string]string{FollowAnnotation: "true"}
	return tag
}

func asReference(tag imagev1.TagReference) imagev1.TagReference {
	tag.Reference = true
	return tag
}

func TestAcceptSources(t *testing.T) {
	cases := map[string]struct {
		reason     string
		tag        imagev1.TagReference
		want       string // image; "" is none
		wantRef    string
		wantVia    storev1.TagEventVia
		wantSource string
	}{
		"OtherStream": {
			reason: "a tag of another stream is copied once", tag: from(KindImageStreamTag, "other:t"),
			want: digestB, wantVia: storev1.ViaCopy, wantSource: "other:t",
		},
		"OtherNamespace": {
			reason: "so is one of another namespace, by those who may", tag: in("elsewhere", from(KindImageStreamTag, "other:t")),
			want: digestB, wantVia: storev1.ViaCopy, wantSource: "elsewhere/other:t",
		},
		"OtherNamespaceShort": {
			reason: "a name without stream is of a stream of the same name there", tag: in("elsewhere", from(KindImageStreamTag, "absent")),
		},
		"Follow": {
			reason: "a tag that follows another stream begins with what that means", tag: following(from(KindImageStreamTag, "other:t")),
			want: digestB, wantVia: storev1.ViaFollow, wantSource: "other:t",
		},
		"SameStream": {
			reason: "a name without colon is a tag of this stream", tag: from(KindImageStreamTag, "t"),
			want: digestA, wantVia: storev1.ViaAlias, wantSource: "t",
		},
		"SameStreamSpelled": {
			reason: "this stream may be named in full", tag: in("shop", from(KindImageStreamTag, "s:t")),
			want: digestA, wantVia: storev1.ViaAlias, wantSource: "t",
		},
		"SameStreamFollow": {
			reason: "a tag of this stream is followed whatever the annotation says", tag: following(from(KindImageStreamTag, "s:t")),
			want: digestA, wantVia: storev1.ViaAlias, wantSource: "t",
		},
		"AbsentTag": {reason: "a tag that is not there yet is no mistake", tag: from(KindImageStreamTag, "other:absent")},
		"Image": {
			reason: "an image is found anywhere in the history", tag: from(KindImageStreamImage, "other@"+digestA),
			want: digestA, wantVia: storev1.ViaCopy, wantSource: "other@" + digestA,
		},
		"ImagePrefix": {
			reason: "the beginning of a digest is enough", tag: in("elsewhere", from(KindImageStreamImage, "other@bbbb")),
			want: digestB, wantVia: storev1.ViaCopy, wantSource: "elsewhere/other@" + digestB,
		},
		"ImageHere": {
			reason: "an image without a stream is of this one", tag: from(KindImageStreamImage, digestA),
			want: digestA, wantVia: storev1.ViaCopy, wantSource: "s@" + digestA,
		},
		"Reference": {
			reason: "a reference is never imported", tag: asReference(from(KindDockerImage, "quay.io/a/b:1")),
			wantRef: "quay.io/a/b:1", wantVia: storev1.ViaReference, wantSource: "quay.io/a/b:1",
		},
		"DockerImage": {reason: "a registry is asked later", tag: from(KindDockerImage, "quay.io/a/b:1")},
		"UnknownKind": {reason: "what Validate refuses is left to it", tag: from("Pod", "x")},
		"NoPullSpec":  {reason: "what Validate refuses is left to it", tag: asReference(from(KindDockerImage, "Not A Name"))},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			r, c := imported(t), otherStreams(t, "alice")
			// The stream "s" of the other namespace has no tag "absent".
			sources := c.Source
			c.Source = func(namespace, stream string) (*storev1.StreamRecord, error) {
				if namespace == "elsewhere" && stream == "s" {
					return &storev1.StreamRecord{}, nil
				}
				return sources(namespace, stream)
			}
			old := r.Spec.DeepCopy()
			r.Spec.Tags = append(r.Spec.Tags, tc.tag)
			if errs, err := Accept(r, old, c); err != nil || len(errs) > 0 {
				t.Fatalf("%s: %v, %v", tc.reason, errs, err)
			}
			got := Latest(&r.Status, "new")
			if tc.wantVia == "" {
				if got != nil || len(r.Status.Tags) != 1 {
					t.Errorf("%s: got %+v", tc.reason, r.Status.Tags)
				}
				return
			}
			if got == nil || got.Image != tc.want || tc.wantRef != "" && got.DockerImageReference != tc.wantRef || got.Generation != 3 {
				t.Fatalf("%s: got %+v", tc.reason, got)
			}
			want := &storev1.TagEventOrigin{Tag: "new", Image: tc.want, Created: got.Created, Via: tc.wantVia, Source: tc.wantSource, By: &c.By}
			if diff := cmp.Diff(want, Origin(r, "new")); diff != "" {
				t.Errorf("%s: origin: -want +got:\n%s", tc.reason, diff)
			}
			for _, list := range r.Status.Tags {
				if list.Tag == "new" && list.Conditions != nil {
					t.Errorf("%s: what was not imported says nothing of an import: %+v", tc.reason, list.Conditions)
				}
			}
		})
	}
}

func TestAcceptRefuses(t *testing.T) {
	cases := map[string]struct {
		reason string
		tag    imagev1.TagReference
		want   string
	}{
		"AbsentStream": {
			reason: "a stream that is not there is the user's mistake", tag: from(KindImageStreamTag, "absent:t"),
			want: `spec.tags[new].from.name: FieldValueNotFound: there is no stream "absent" in namespace "shop"; create it first, or correct the name`,
		},
		"NoStreamName": {
			reason: "what can be no stream is not looked for", tag: from(KindImageStreamTag, "quay.io/a/b:1"),
			want: `spec.tags[new].from.name: FieldValueNotFound: no stream can be named "quay.io/a/b"; for an image of a registry use kind DockerImage`,
		},
		"PullSpecWithPort": {
			reason: "a pull spec is no tag of a stream", tag: from(KindImageStreamTag, "reg:5000/a/b:1"),
			want: `spec.tags[new].from.name: FieldValueInvalid: must be of the form <tag>, <repo>:<tag>, <id>, or <repo>@<id>`,
		},
		"NoTag": {
			reason: "half a name is none", tag: from(KindImageStreamTag, "other:"),
			want: `spec.tags[new].from.name: FieldValueInvalid: must be of the form <tag>, <repo>:<tag>, <id>, or <repo>@<id>`,
		},
		"NoStream": {
			reason: "half a name is none", tag: from(KindImageStreamImage, "@"+digestA),
			want: `spec.tags[new].from.name: FieldValueInvalid: must be of the form <tag>, <repo>:<tag>, <id>, or <repo>@<id>`,
		},
		"AbsentImage": {
			reason: "an image that no history has cannot be meant", tag: from(KindImageStreamImage, "other@ffff"),
			want: `spec.tags[new].from.name: FieldValueInvalid: imagestreamimage.image.openshift.io "ffff" not found: no image in the history of stream "other" begins with it`,
		},
		"AmbiguousImage": {
			reason: "two images cannot both be meant", tag: from(KindImageStreamImage, "other@sha256:"),
			want: `spec.tags[new].from.name: FieldValueInvalid: multiple images match the prefix "sha256:": ` + digestA + ", " + digestB + "; give more of the digest",
		},
		"Forbidden": {
			reason: "a stream that the user may not use is not spoken of", tag: in("elsewhere", from(KindImageStreamTag, "other:t")),
			want: `spec.tags[new].from: FieldValueForbidden: you may not use stream "other" of namespace "elsewhere": that needs "get" on imagestreams/layers there (no role)`,
		},
		"ForbiddenAndAbsent": {
			reason: "nor whether it is there", tag: in("elsewhere", from(KindImageStreamTag, "absent:t")),
			want: `spec.tags[new].from: FieldValueForbidden: you may not use stream "absent" of namespace "elsewhere": that needs "get" on imagestreams/layers there (no role)`,
		},
		"NoNamespace": {
			reason: "what can be no namespace is not looked into", tag: in("../x", from(KindImageStreamTag, "other:t")),
			want: `spec.tags[new].from.namespace: FieldValueInvalid: a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')`,
		},
		"DockerImageElsewhere": {
			reason: "a registry knows no namespaces", tag: in("elsewhere", from(KindDockerImage, "quay.io/a/b:1")),
			want: `spec.tags[new].from.namespace: FieldValueInvalid: an image of a registry has no namespace: leave it out, or name a tag of a stream there with kind ImageStreamTag`,
		},
		"Self": {
			reason: "a tag cannot follow itself", tag: from(KindImageStreamTag, "s:new"),
			want: `spec.tags[new].from.name: FieldValueInvalid: follows itself: new -> new`,
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			r := imported(t)
			old := r.Spec.DeepCopy()
			r.Spec.Tags = append(r.Spec.Tags, tc.tag)
			errs, err := Accept(r, old, otherStreams(t, "bob"))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]string{tc.want}, details(errs)); diff != "" {
				t.Errorf("%s: -want +got:\n%s", tc.reason, diff)
			}
		})
	}
}

func TestAcceptAsksOnce(t *testing.T) {
	r := imported(t)
	c := otherStreams(t, "alice")
	sources, asked := c.Source, 0
	c.Source = func(namespace, stream string) (*storev1.StreamRecord, error) {
		asked++
		return sources(namespace, stream)
	}
	old := r.Spec.DeepCopy()
	for _, name := range []string{"a", "b", "c"} {
		tag := following(from(KindImageStreamTag, "other:t"))
		tag.Name = name
		r.Spec.Tags = append(r.Spec.Tags, tag)
	}
	if errs, err := Accept(r, old, c); err != nil || len(errs) > 0 || asked != 1 {
		t.Errorf("one stream is read once, whatever asks for it: %d times (%v, %v)", asked, errs, err)
	}
}

func TestAcceptReportsTheStoresErrors(t *testing.T) {
	down := errors.New("down")
	c := by("alice")
	c.Source = func(string, string) (*storev1.StreamRecord, error) { return nil, down }
	for reason, tag := range map[string]imagev1.TagReference{
		"copying":   fromTag("t", "other:t"),
		"following": following(fromTag("t", "other:t")),
	} {
		if errs, err := Accept(recordOf("s", tag), nil, c); !errors.Is(err, down) || errs != nil {
			t.Errorf("%s: an error of the store is not the user's mistake: got %v, %v", reason, errs, err)
		}
	}
}

func TestAcceptByNobody(t *testing.T) {
	r := recordOf("s", asReference(from(KindDockerImage, "quay.io/a/b:1")))
	accept(t, r, nil, by("alice"))
	r.Record.Requests = nil
	edit(t, r, by(""), func(s *imagev1.ImageStreamSpec) { s.Tags[0].From.Name = "quay.io/a/b:2" })
	if o := Origin(r, "new"); len(r.Record.Requests) > 0 || o == nil || o.By != nil {
		t.Errorf("where nobody is known to have asked, nobody is named: %+v, %+v", r.Record.Requests, o)
	}
	if Origin(r, "absent") != nil {
		t.Error("a tag without events has no origin")
	}
}

func TestAcceptKindAlone(t *testing.T) {
	r := imported(t)
	old := r.Spec.DeepCopy()
	r.Spec.Tags[0].From = &corev1.ObjectReference{Kind: KindImageStreamTag, Name: "other:t"}
	c := otherStreams(t, "alice")
	accept(t, r, old, c)
	old = r.Spec.DeepCopy()
	r.Spec.Tags[0].From.Kind = KindDockerImage
	accept(t, r, old, c)
	if !Pending(r, &r.Spec.Tags[0]) {
		t.Error("the same name of another kind is another source")
	}
}

func TestAcceptGenerationZeroResolvesAnew(t *testing.T) {
	r, c := imported(t), otherStreams(t, "alice")
	edit(t, r, c, func(s *imagev1.ImageStreamSpec) {
		s.Tags = append(s.Tags, from(KindImageStreamTag, "other:t"), fromTag("z", "t"))
	})
	before := r.DeepCopy()
	edit(t, r, c, func(s *imagev1.ImageStreamSpec) {
		for i := range s.Tags {
			s.Tags[i].Generation = ptr.To[int64](0)
		}
	})
	for _, name := range []string{"new", "z"} {
		got := Latest(&r.Status, name)
		if want := *SpecTag(&r.Spec, name).Generation; got.Generation != want || want != 4 {
			t.Errorf("tag %q: the generations of spec and status meet: %d, %d", name, want, got.Generation)
		}
		if was := Latest(&before.Status, name); got.Image != was.Image || !got.Created.Equal(&was.Created) {
			t.Errorf("tag %q: the same image again is no new event: %+v, was %+v", name, got, was)
		}
	}
	if got := Latest(&r.Status, "t").Generation; got != 2 {
		t.Errorf("a follower that asks again leaves its target alone: generation %d", got)
	}
}

func TestAcceptForgetsConditionsOfOtherSources(t *testing.T) {
	r := imported(t)
	RecordImportFailure(r, "t", "NotFound", "gone", t1)
	edit(t, r, otherStreams(t, "alice"), func(s *imagev1.ImageStreamSpec) {
		s.Tags[0].From = &corev1.ObjectReference{Kind: KindImageStreamTag, Name: "other:absent"}
	})
	if got := ImportFailure(&r.Status, "t"); got != nil {
		t.Errorf("a tag that is imported no more has no failed import: %+v", got)
	}
}

func TestRequestsKeepIdentityForFollowersOfOtherNamespaces(t *testing.T) {
	cases := map[string]struct {
		reason string
		tag    imagev1.TagReference
		want   bool
	}{
		"Follow":         {"whether that user still may is asked at every move", in("elsewhere", following(from(KindImageStreamTag, "other:t"))), true},
		"FollowHere":     {"the own namespace needs no asking", following(from(KindImageStreamTag, "other:t")), false},
		"Copy":           {"a copy was allowed once", in("elsewhere", from(KindImageStreamTag, "other:t")), false},
		"FollowNoStream": {"a registry is followed by import", following(from(KindDockerImage, "quay.io/a/b:1")), false},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			c := otherStreams(t, "alice")
			r := recordOf("s", tc.tag)
			accept(t, r, nil, c)
			want := []storev1.TagRequest{{Tag: "new", By: c.By}}
			if tc.want {
				want[0].Identity = &c.Identity
			}
			if diff := cmp.Diff(want, r.Record.Requests); diff != "" {
				t.Errorf("%s: -want +got:\n%s", tc.reason, diff)
			}
		})
	}
}

func TestFollowersOfOtherNamespacesChangeByRight(t *testing.T) {
	r := recordOf("s", in("elsewhere", following(from(KindImageStreamTag, "other:t"))))
	accept(t, r, nil, otherStreams(t, "alice"))
	old := r.Spec.DeepCopy()
	r.Spec.Tags[0].ReferencePolicy.Type = imagev1.LocalTagReferencePolicy
	errs, err := Accept(r.DeepCopy(), old, otherStreams(t, "bob"))
	if err != nil || len(errs) != 1 || errs[0].Type != field.ErrorTypeForbidden {
		t.Errorf("the tag would follow by bob's right from now on, and he has none: %v, %v", errs, err)
	}
	r.Spec.Tags[0].Annotations = nil
	if errs, err := Accept(r, old, otherStreams(t, "bob")); err != nil || len(errs) > 0 {
		t.Errorf("anyone may end the following: %v, %v", errs, err)
	}
	if r.Record.Requests[0].Identity != nil || r.Record.Requests[0].By.User != "bob" {
		t.Errorf("nobody's identity is kept then: %+v", r.Record.Requests)
	}
	old = r.Spec.DeepCopy()
	r.Spec.Tags[0].Annotations = map[string]string{FollowAnnotation: "true"}
	if errs, err := Accept(r, old, otherStreams(t, "bob")); err != nil || len(errs) != 1 {
		t.Errorf("beginning to follow needs the right: %v, %v", errs, err)
	}
}
