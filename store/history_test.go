package store

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	imagev1 "github.com/openshift/api/image/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	storev1 "istag.dev/store/v1"
)

var (
	t0 = metav1.NewTime(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	t1 = metav1.NewTime(t0.Add(time.Hour))
)

const (
	digestA = "sha256:aaaa000000000000000000000000000000000000000000000000000000000000"
	digestB = "sha256:bbbb000000000000000000000000000000000000000000000000000000000000"
)

// recordOf makes a record of namespace "shop" with the spec tags given.
func recordOf(name string, tags ...imagev1.TagReference) *storev1.StreamRecord {
	r := &storev1.StreamRecord{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}}
	r.Spec.Tags = tags
	return r
}

func fromImage(tag, pullSpec string) imagev1.TagReference {
	return imagev1.TagReference{Name: tag, From: &corev1.ObjectReference{Kind: KindDockerImage, Name: pullSpec}}
}

func fromTag(tag, source string) imagev1.TagReference {
	return imagev1.TagReference{Name: tag, From: &corev1.ObjectReference{Kind: KindImageStreamTag, Name: source}}
}

func event(reference, image string, generation int64, created metav1.Time) imagev1.TagEvent {
	return imagev1.TagEvent{DockerImageReference: reference, Image: image, Generation: generation, Created: created}
}

func TestAddEvent(t *testing.T) {
	old := event("r/a@"+digestA, digestA, 1, t0)
	cases := map[string]struct {
		reason  string
		event   imagev1.TagEvent
		want    []imagev1.TagEvent
		changed bool
	}{
		"Same": {
			reason: "an event equal in reference, image and generation says nothing new",
			event:  event("r/a@"+digestA, digestA, 1, t1),
			want:   []imagev1.TagEvent{old},
		},
		"NewerGeneration": {
			reason:  "the same image for a newer generation only moves the generation, in place",
			event:   event("r/a@"+digestA, digestA, 2, t1),
			want:    []imagev1.TagEvent{event("r/a@"+digestA, digestA, 2, t0)},
			changed: true,
		},
		"OtherReference": {
			reason:  "the same image under another name changes in place and keeps its time",
			event:   event("r/b@"+digestA, digestA, 2, t1),
			want:    []imagev1.TagEvent{event("r/b@"+digestA, digestA, 2, t0)},
			changed: true,
		},
		"OtherImageUnderTheSameReference": {
			reason:  "two images under one pull spec collapse into the newer",
			event:   event("r/a@"+digestA, digestB, 2, t1),
			want:    []imagev1.TagEvent{event("r/a@"+digestA, digestB, 2, t0)},
			changed: true,
		},
		"OtherImage": {
			reason:  "another image goes before what the tag meant so far",
			event:   event("r/a@"+digestB, digestB, 2, t1),
			want:    []imagev1.TagEvent{event("r/a@"+digestB, digestB, 2, t1), old},
			changed: true,
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			r := recordOf("s")
			r.Status.Tags = []imagev1.NamedTagEventList{{Tag: "t", Items: []imagev1.TagEvent{old}, Conditions: []imagev1.TagEventCondition{{Type: imagev1.ImportSuccess}}}}
			changed := addEvent(r, "t", tc.event, storev1.TagEventOrigin{Via: storev1.ViaImport, Source: "r/a:1"})
			if changed != tc.changed {
				t.Errorf("%s: changed = %v", tc.reason, changed)
			}
			if diff := cmp.Diff(tc.want, r.Status.Tags[0].Items); diff != "" {
				t.Errorf("%s: -want +got:\n%s", tc.reason, diff)
			}
			if cleared := r.Status.Tags[0].Conditions == nil; cleared != changed {
				t.Errorf("every change clears the conditions, and nothing else does: cleared = %v", cleared)
			}
		})
	}
}

func TestAddEventRepeatsAnOlderImage(t *testing.T) {
	r := recordOf("s")
	for i, image := range []string{digestA, digestB, digestA} {
		addEvent(r, "t", event("r/a@"+image, image, int64(i+1), metav1.NewTime(t0.Add(time.Duration(i)*time.Hour))), storev1.TagEventOrigin{Via: storev1.ViaImport})
	}
	var got []string
	for _, e := range r.Status.Tags[0].Items {
		got = append(got, e.Image)
	}
	if diff := cmp.Diff([]string{digestA, digestB, digestA}, got); diff != "" {
		t.Errorf("moving back is an event of its own: -want +got:\n%s", diff)
	}
	if len(r.Record.Origins) != 3 {
		t.Errorf("each event has an origin, got %d", len(r.Record.Origins))
	}
}

func TestPullSpec(t *testing.T) {
	local := imagev1.TagReference{Name: "t", ReferencePolicy: imagev1.TagReferencePolicy{Type: imagev1.LocalTagReferencePolicy}}
	cases := map[string]struct {
		reason     string
		tags       []imagev1.TagReference
		repository string
		event      imagev1.TagEvent
		want       string
	}{
		"Source": {
			reason: "the default is to pull from where the image came from", tags: []imagev1.TagReference{fromImage("t", "quay.io/a/b:1")},
			repository: "reg/shop/s", event: event("quay.io/a/b@"+digestA, digestA, 1, t0), want: "quay.io/a/b@" + digestA,
		},
		"Local": {
			reason: "policy Local pulls through the cluster's registry", tags: []imagev1.TagReference{local},
			repository: "reg/shop/s", event: event("quay.io/a/b@"+digestA, digestA, 1, t0), want: "reg/shop/s@" + digestA,
		},
		"LocalWithoutARegistry": {
			reason: "policy Local falls back to the source where the cluster has no registry", tags: []imagev1.TagReference{local},
			event: event("quay.io/a/b@"+digestA, digestA, 1, t0), want: "quay.io/a/b@" + digestA,
		},
		"LocalWithoutADigest": {
			reason: "a reference tag has no digest to pull by, whatever its policy", tags: []imagev1.TagReference{local},
			repository: "reg/shop/s", event: event("quay.io/a/b:1", "", 1, t0), want: "quay.io/a/b:1",
		},
		"NoSpecTag": {
			reason:     "a tag without a spec entry has no policy",
			repository: "reg/shop/s", event: event("quay.io/a/b@"+digestA, digestA, 1, t0), want: "quay.io/a/b@" + digestA,
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			r := recordOf("s", tc.tags...)
			r.Status.DockerImageRepository = tc.repository
			r.Status.Tags = []imagev1.NamedTagEventList{{Tag: "t", Items: []imagev1.TagEvent{tc.event}}}
			if got, ok := PullSpec(r, "t"); got != tc.want || !ok {
				t.Errorf("%s: got %q, %v, want %q", tc.reason, got, ok, tc.want)
			}
		})
	}
	if _, ok := PullSpec(recordOf("s", local), "t"); ok {
		t.Error("a tag without an event has no pull spec")
	}
}

func TestObservedGeneration(t *testing.T) {
	status := &imagev1.ImageStreamStatus{Tags: []imagev1.NamedTagEventList{{
		Tag:        "t",
		Items:      []imagev1.TagEvent{event("r@"+digestA, digestA, 3, t0), event("r@"+digestB, digestB, 9, t0)},
		Conditions: []imagev1.TagEventCondition{{Type: imagev1.ImportSuccess, Generation: 5}},
	}}}
	if got := ObservedGeneration(status, "t"); got != 5 {
		t.Errorf("the newest event and the condition count, older events do not: got %d, want 5", got)
	}
	if got := ObservedGeneration(status, "absent"); got != 0 {
		t.Errorf("a tag without status has been seen at no generation: got %d", got)
	}
	r := recordOf("s", fromImage("t", "r:1"))
	r.Status = *status
	for generation, want := range map[int64]bool{5: false, 6: true} {
		r.Spec.Tags[0].Generation = ptr.To(generation)
		if got := Pending(r, &r.Spec.Tags[0]); got != want {
			t.Errorf("generation %d of spec against 5 observed: pending = %v, want %v", generation, got, want)
		}
	}
}

func TestNames(t *testing.T) {
	for stream, record := range map[string]string{"keycloak": "keycloak", "a_b": "a--b", "a_b.c-d_e": "a--b.c-d--e"} {
		if got := RecordName(stream); got != record {
			t.Errorf("RecordName(%q) = %q, want %q", stream, got, record)
		}
		if got := StreamName(record); got != stream {
			t.Errorf("StreamName(%q) = %q, want %q", record, got, stream)
		}
	}
	cases := map[string]struct {
		stream, tag string
		ok          bool
	}{
		"keycloak:20.0": {"keycloak", "20.0", true},
		"keycloak:":     {"keycloak", "latest", true},
		"keycloak":      {"", "", false},
		":20.0":         {"", "", false},
	}
	for name, want := range cases {
		if stream, tag, ok := SplitTagName(name); stream != want.stream || tag != want.tag || ok != want.ok {
			t.Errorf("SplitTagName(%q) = %q, %q, %v, want %+v", name, stream, tag, ok, want)
		}
	}
	for spec, want := range map[string]string{
		"mysql":                             "mysql",
		"mysql:5.7":                         "mysql",
		"quay.io/a/b@" + digestA:            "quay.io/a/b",
		"quay.io/a/b:1@" + digestA:          "quay.io/a/b",
		"reg.example.com:5000/a/b":          "reg.example.com:5000/a/b",
		"reg.example.com:5000/a/b:1":        "reg.example.com:5000/a/b",
		"reg.example.com:5000/a@" + digestB: "reg.example.com:5000/a",
	} {
		if got := Repository(spec); got != want {
			t.Errorf("Repository(%q) = %q, want %q", spec, got, want)
		}
	}
}
