package store

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	imagev1 "github.com/openshift/api/image/v1"
	"k8s.io/utils/ptr"

	storev1 "istag.dev/store/v1"
)

func TestFollowChains(t *testing.T) {
	// k follows a follows z follows m: neither order of names is the order of the chain.
	r := recordOf("s", fromImage("m", "quay.io/a/b:1"), fromTag("z", "m"), fromTag("a", "s:z"), fromTag("k", "a"))
	accept(t, r, nil, by("alice"))
	edit(t, r, by("bob"), func(s *imagev1.ImageStreamSpec) { SpecTag(s, "m").Generation = ptr.To[int64](0) })
	for i, image := range []string{digestA, digestB, digestA} {
		RecordImport(r, "m", Import{Reference: "quay.io/a/b@" + image, Image: image}, t0)
		for tag, source := range map[string]string{"z": "m", "a": "z", "k": "a"} {
			if got := Latest(&r.Status, tag); got == nil || *got != *Latest(&r.Status, "m") {
				t.Errorf("import %d: the whole chain follows in one write, with the same event: tag %q means %+v", i, tag, got)
			}
			if o := Origin(r, tag); o.Via != storev1.ViaAlias || o.Source != source || o.By.User != "bob" {
				t.Errorf("import %d: tag %q follows %q on behalf of who asked for the import: %+v", i, tag, source, o)
			}
		}
	}
	before := Latest(&r.Status, "m").Generation
	edit(t, r, by("carol"), func(s *imagev1.ImageStreamSpec) { s.Tags = append(s.Tags, fromTag("later", "k")) })
	if got := Latest(&r.Status, "m").Generation; got != before {
		t.Errorf("a new follower leaves its target alone: generation %d, was %d", got, before)
	}
	if got := Latest(&r.Status, "later"); got == nil || got.Image != digestA || got.Generation != r.Record.Generation {
		t.Errorf("a new follower begins with what its target means: got %+v", got)
	}
	if o := Origin(r, "later"); o.By.User != "carol" {
		t.Errorf("whoever made a follower asked for what it means: %+v", o)
	}
	if len(r.Record.Origins) != 4*3+1 {
		t.Errorf("every event has an origin: %d", len(r.Record.Origins))
	}
}

func TestLoops(t *testing.T) {
	other := recordOf("other", following(fromTag("x", "s:a")), fromTag("y", "x"), fromTag("copy", "s:a"))
	c := by("alice")
	c.Source = func(_, stream string) (*storev1.StreamRecord, error) {
		if stream == "other" {
			return other, nil
		}
		return nil, nil
	}
	cases := map[string]struct {
		reason string
		tags   []imagev1.TagReference
		want   []string
	}{
		"Two": {
			reason: "a loop is named once, from its first tag",
			tags:   []imagev1.TagReference{fromTag("a", "b"), fromTag("b", "s:a")},
			want:   []string{"spec.tags[a].from.name: FieldValueInvalid: follows itself: a -> b -> a"},
		},
		"Beside": {
			reason: "a tag that leads into a loop is not part of it",
			tags:   []imagev1.TagReference{fromTag("a", "b"), fromTag("b", "c"), fromTag("c", "b")},
			want:   []string{"spec.tags[b].from.name: FieldValueInvalid: follows itself: b -> c -> b"},
		},
		"OverAnotherStream": {
			reason: "a loop may lead through other streams",
			tags:   []imagev1.TagReference{following(fromTag("a", "other:y"))},
			want:   []string{"spec.tags[a].from.name: FieldValueInvalid: follows itself: a -> other:y -> other:x -> a"},
		},
		"Copy": {
			reason: "a copy ends a chain",
			tags:   []imagev1.TagReference{fromTag("a", "other:y")},
		},
		"OfACopy": {
			reason: "and so does following one",
			tags:   []imagev1.TagReference{following(fromTag("a", "other:copy"))},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			errs, err := Accept(recordOf("s", tc.tags...), nil, c)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, details(errs)); diff != "" {
				t.Errorf("%s: -want +got:\n%s", tc.reason, diff)
			}
		})
	}
}

func TestLoopsOfOldAreLetBe(t *testing.T) {
	r := recordOf("s", fromTag("a", "b"), fromTag("b", "a"))
	normalize(&r.Spec)
	r.Status.Tags = []imagev1.NamedTagEventList{{Tag: "a", Items: []imagev1.TagEvent{event("r@"+digestA, digestA, 1, t0)}}}
	edit(t, r, by("alice"), func(s *imagev1.ImageStreamSpec) { s.LookupPolicy.Local = true })
	Push(r, "a", Import{Reference: "r@" + digestB, Image: digestB}, by("alice"))
	if got := Latest(&r.Status, "b"); got == nil || got.Image != digestB {
		t.Errorf("a loop ends and both tags agree: b means %+v", got)
	}
}

func TestFollows(t *testing.T) {
	cases := map[string]struct {
		reason string
		tag    imagev1.TagReference
		want   []string
	}{
		"Stream":     {"a tag of another stream", following(from(KindImageStreamTag, "other:t")), []string{"shop", "other", "t"}},
		"Namespace":  {"a tag of another namespace", in("elsewhere", following(from(KindImageStreamTag, "other:t"))), []string{"elsewhere", "other", "t"}},
		"Namesake":   {"a tag of the stream of the same name there", in("elsewhere", following(from(KindImageStreamTag, "t"))), []string{"elsewhere", "s", "t"}},
		"Copy":       {"without the annotation it is a copy", from(KindImageStreamTag, "other:t"), nil},
		"SameStream": {"tags of the same stream follow by themselves", following(from(KindImageStreamTag, "s:t")), nil},
		"Image":      {"an image does not move", following(from(KindImageStreamImage, "other@"+digestA)), nil},
		"Registry":   {"a registry is asked by import", following(from(KindDockerImage, "quay.io/a/b:1")), nil},
		"Bare":       {"a tag may name nothing", following(imagev1.TagReference{Name: "t"}), nil},
	}
	for name, tc := range cases {
		namespace, stream, tag, ok := Follows(recordOf("s"), &tc.tag)
		var got []string
		if ok {
			got = []string{namespace, stream, tag}
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s: %s: -want +got:\n%s", name, tc.reason, diff)
		}
	}
}

func TestRecordFollow(t *testing.T) {
	c := otherStreams(t, "alice")
	r := recordOf("s", following(fromTag("t", "other:t")), fromTag("alias", "t"), fromImage("i", "quay.io/a/b:1"))
	accept(t, r, nil, c)
	same := *Latest(&r.Status, "t")
	same.Generation = 77
	before := r.DeepCopy()
	if RecordFollow(r, "t", same, "other:t") {
		t.Error("what the tag means already is no change")
	}
	if diff := cmp.Diff(before, r); diff != "" {
		t.Errorf("and leaves the record as it is: -before +after:\n%s", diff)
	}

	if !RecordFollowFailure(r, "t", "Forbidden", "no", by("")) || RecordFollowFailure(r, "t", "Forbidden", "no", by("")) {
		t.Error("a failure is recorded once")
	}
	if got := ImportFailure(&r.Status, "t"); got == nil || got.Reason != "Forbidden" || Latest(&r.Status, "t") == nil {
		t.Errorf("it takes nothing away: %+v", got)
	}
	if !RecordFollow(r, "t", same, "other:t") || ImportFailure(&r.Status, "t") != nil {
		t.Error("following again clears the failure, even without another image")
	}

	moved := event("quay.io/a/b@"+digestA, digestA, 9, t1)
	if !RecordFollow(r, "t", moved, "other:t") {
		t.Error("another image is a change")
	}
	for tag, via := range map[string]storev1.TagEventVia{"t": storev1.ViaFollow, "alias": storev1.ViaAlias} {
		got := Latest(&r.Status, tag)
		if got.Image != digestA || !got.Created.Equal(&t1) || got.Generation != 1 {
			t.Errorf("tag %q gets the source's event, with its own generation: %+v", tag, got)
		}
		if o := Origin(r, tag); o.Via != via || o.By == nil || o.By.User != "alice" {
			t.Errorf("tag %q moved because alice asked for the following: %+v", tag, o)
		}
	}
	if r.Record.Generation != 1 {
		t.Errorf("following changes no spec: generation %d", r.Record.Generation)
	}
	for _, tag := range []string{"i", "alias", "absent"} {
		if RecordFollow(r, tag, moved, "other:t") || RecordFollowFailure(r, tag, "NotFound", "gone", c) {
			t.Errorf("tag %q does not follow: an answer that nobody asks for is dropped", tag)
		}
	}
}

func TestStopFollowing(t *testing.T) {
	other := recordOf("other")
	c := by("alice")
	c.Source = func(string, string) (*storev1.StreamRecord, error) { return other, nil }
	r := recordOf("s", following(fromTag("t", "other:t")))
	accept(t, r, nil, c)
	RecordFollowFailure(r, "t", "Forbidden", "not yours", c)
	edit(t, r, c, func(s *imagev1.ImageStreamSpec) { SpecTag(s, "t").Annotations = nil })
	if failure := ImportFailure(&r.Status, "t"); failure != nil {
		t.Errorf("a tag that follows no longer says still why it cannot: %+v", failure)
	}
}
