package store

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	imagev1 "github.com/openshift/api/image/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	storev1 "istag.dev/store/v1"
)

func TestAcceptStatus(t *testing.T) {
	cases := map[string]struct {
		reason string
		edit   func(*storev1.StreamRecord)
		want   map[string][]imagev1.TagEvent
		origin map[string]storev1.TagEventVia // of the newest events
	}{
		"Nothing": {
			reason: "a status that is put back as it was changes nothing",
			edit:   func(*storev1.StreamRecord) {},
			want: map[string][]imagev1.TagEvent{
				"t": {event("quay.io/a/b@"+digestA, digestA, 2, t0)}, "z": {event("quay.io/a/b@"+digestA, digestA, 2, t0)},
			},
			origin: map[string]storev1.TagEventVia{"t": storev1.ViaImport, "z": storev1.ViaAlias},
		},
		"Spec": {
			reason: "spec is another request's, all of it, and so is the envelope",
			edit: func(r *storev1.StreamRecord) {
				r.Spec = imagev1.ImageStreamSpec{DockerImageRepository: "x", LookupPolicy: imagev1.ImageLookupPolicy{Local: true}}
				r.Record = storev1.StreamEnvelope{}
			},
			want: map[string][]imagev1.TagEvent{
				"t": {event("quay.io/a/b@"+digestA, digestA, 2, t0)}, "z": {event("quay.io/a/b@"+digestA, digestA, 2, t0)},
			},
			origin: map[string]storev1.TagEventVia{"t": storev1.ViaImport, "z": storev1.ViaAlias},
		},
		"NewEvent": {
			reason: "an event without a generation is of spec's, and without a time of now; tags that follow move",
			edit: func(r *storev1.StreamRecord) {
				r.Status.Tags[0].Items = append([]imagev1.TagEvent{event("quay.io/a/b@"+digestB, digestB, 0, metav1.Time{})}, r.Status.Tags[0].Items...)
			},
			want: map[string][]imagev1.TagEvent{
				"t": {event("quay.io/a/b@"+digestB, digestB, 2, t1), event("quay.io/a/b@"+digestA, digestA, 2, t0)},
				"z": {event("quay.io/a/b@"+digestB, digestB, 2, t1), event("quay.io/a/b@"+digestA, digestA, 2, t0)},
			},
			origin: map[string]storev1.TagEventVia{"t": storev1.ViaStatus, "z": storev1.ViaAlias},
		},
		"NewTag": {
			reason: "an event of a new tag is of the stream's generation; the last of two entries wins",
			edit: func(r *storev1.StreamRecord) {
				r.Status.Tags = append(r.Status.Tags, imagev1.NamedTagEventList{Tag: "a"},
					imagev1.NamedTagEventList{Tag: "a", Items: []imagev1.TagEvent{event("r@"+digestB, digestB, 0, t0)}}, imagev1.NamedTagEventList{Tag: "b"})
			},
			want: map[string][]imagev1.TagEvent{
				"a": {event("r@"+digestB, digestB, 2, t0)},
				"t": {event("quay.io/a/b@"+digestA, digestA, 2, t0)}, "z": {event("quay.io/a/b@"+digestA, digestA, 2, t0)},
			},
			origin: map[string]storev1.TagEventVia{"a": storev1.ViaStatus, "t": storev1.ViaImport, "z": storev1.ViaAlias},
		},
		"Pruned": {
			reason: "what is taken away is gone, with its origins",
			edit:   func(r *storev1.StreamRecord) { r.Status.Tags = r.Status.Tags[:1] },
			want:   map[string][]imagev1.TagEvent{"t": {event("quay.io/a/b@"+digestA, digestA, 2, t0)}},
			origin: map[string]storev1.TagEventVia{"t": storev1.ViaImport},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			old := recordOf("s", fromImage("t", "quay.io/a/b:1"), fromTag("z", "t"))
			accept(t, old, nil, by("alice"))
			RecordImport(old, "t", Import{Reference: "quay.io/a/b@" + digestA, Image: digestA}, t0)
			r := old.DeepCopy()
			tc.edit(r)
			c := by("registry")
			c.Now = t1
			AcceptStatus(r, old, c)
			if diff := cmp.Diff(old.Spec, r.Spec); diff != "" {
				t.Errorf("spec stays: -want +got:\n%s", diff)
			}
			if diff := cmp.Diff(old.Record.Requests, r.Record.Requests); diff != "" || r.Record.Generation != 2 || r.Generation != 2 {
				t.Errorf("so does what is known of it: generation %d, -want +got:\n%s", r.Record.Generation, diff)
			}
			got, origin := map[string][]imagev1.TagEvent{}, map[string]storev1.TagEventVia{}
			for _, list := range r.Status.Tags {
				got[list.Tag] = list.Items
				origin[list.Tag] = Origin(r, list.Tag).Via
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("%s: -want +got:\n%s", tc.reason, diff)
			}
			if diff := cmp.Diff(tc.origin, origin); diff != "" {
				t.Errorf("%s: -want +got:\n%s", tc.reason, diff)
			}
			for _, o := range r.Record.Origins {
				if got[o.Tag] == nil {
					t.Errorf("%s: an origin without an event: %+v", tc.reason, o)
				}
			}
		})
	}
}

func TestRemoveTag(t *testing.T) {
	r := imported(t)
	r.Status.Tags = append(r.Status.Tags, imagev1.NamedTagEventList{Tag: "u", Items: []imagev1.TagEvent{event("r@"+digestB, digestB, 1, t0)}})
	for tag, want := range map[string]bool{"t": true, "u": true, "absent": false} {
		old := r.Spec.DeepCopy()
		if got := RemoveTag(r, tag); got != want {
			t.Errorf("removing %q: %v, want %v", tag, got, want)
		}
		accept(t, r, old, by("alice"))
	}
	if len(r.Spec.Tags)+len(r.Status.Tags)+len(r.Record.Origins)+len(r.Record.Requests) > 0 || r.Record.Generation != 3 {
		t.Errorf("a removed tag leaves nothing, and is one change of spec: %+v", r)
	}
}

func TestPush(t *testing.T) {
	r := recordOf("s", fromTag("z", DefaultTag))
	accept(t, r, nil, by("alice"))
	pushed := Import{Reference: "reg/shop/s@" + digestA, Image: digestA}
	if !Push(r, "", pushed, by("builder")) || Push(r, DefaultTag, pushed, by("builder")) {
		t.Error("a push is recorded once, for latest if for no tag")
	}
	for tag, via := range map[string]storev1.TagEventVia{DefaultTag: storev1.ViaPush, "z": storev1.ViaAlias} {
		got := Latest(&r.Status, tag)
		if got == nil || *got != event("reg/shop/s@"+digestA, digestA, 1, t0) {
			t.Fatalf("tag %q means what was pushed: %+v", tag, got)
		}
		if o := Origin(r, tag); o.Via != via || o.By.User != "builder" {
			t.Errorf("tag %q: origin %+v", tag, o)
		}
	}
	if r.Record.Generation != 1 {
		t.Errorf("a push changes no spec: generation %d", r.Record.Generation)
	}
}

func TestTrim(t *testing.T) {
	images := []string{"e", "d", "c", "", "a"} // newest first
	cases := map[string]struct {
		reason string
		limit  int
		used   string
		want   []string
	}{
		"Enough":     {"a history within the limit is left", 5, "", images},
		"Oldest":     {"the oldest go", 3, "", []string{"e", "d", "c"}},
		"Used":       {"but not one that runs; the next oldest goes instead", 3, "a", []string{"e", "d", "a"}},
		"AllUsed":    {"rather the limit is exceeded", 1, "edca", []string{"e", "d", "c", "a"}},
		"NeverEmpty": {"the newest is what the tag means", 0, "", []string{"e"}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			r := recordOf("s")
			for i := range images {
				image := images[len(images)-1-i]
				addEvent(r, "t", event("r@"+image, image, 1, metav1.NewTime(t0.AddDate(0, 0, i))), storev1.TagEventOrigin{Via: storev1.ViaPush})
			}
			used := func(image string) bool { return strings.Contains(tc.used, image) }
			if got := Trim(r, tc.limit, used); got != (len(tc.want) < len(images)) {
				t.Errorf("%s: changed = %v", tc.reason, got)
			}
			var got []string
			for _, e := range r.Status.Tags[0].Items {
				got = append(got, e.Image)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("%s: -want +got:\n%s", tc.reason, diff)
			}
			if len(r.Record.Origins) != len(got) {
				t.Errorf("%s: origins go with their events: %d of %d", tc.reason, len(r.Record.Origins), len(got))
			}
			if Trim(r, tc.limit, used) {
				t.Errorf("%s: trimming twice trims once", tc.reason)
			}
		})
	}
}
