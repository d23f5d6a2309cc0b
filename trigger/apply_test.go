package trigger

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"istag.dev/resolver"
)

// TestWrite looks at the request itself: exactly what is sent.
func TestWrite(t *testing.T) {
	k := deployment()
	obj := workload(k, "w", annotate(entry("keycloak:20.0", pathWeb), entry("sidecar:1", pathSidecar)),
		"init:setup=x", "init:sidecar=r/sidecar@sha256:5", "first=y", "web=old")
	obj.SetResourceVersion("42")
	obj.SetLabels(map[string]string{"a": "b"})
	p, err := k.plan(obj, func(i Istag) (image, bool, error) {
		if i.Stream == "keycloak" {
			return image{pullSpec: "r/keycloak@sha256:2", generation: 7}, true, nil
		}
		return image{pullSpec: "r/sidecar@sha256:5", generation: 3}, true, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"apiVersion": "apps/v1",
		"kind":       "Deployment",
		"metadata": map[string]any{
			"namespace": "demo", "name": "w", "uid": "uid-w", "resourceVersion": "42",
			"annotations": map[string]any{
				resolver.PinnedAnnotation: `{"web":{"written":"keycloak:20.0","istag":"keycloak:20.0","pullSpec":"r/keycloak@sha256:2","generation":7}}`,
			},
		},
		"spec": map[string]any{"template": map[string]any{"spec": map[string]any{
			"initContainers": []any{map[string]any{"name": "sidecar", "image": "r/sidecar@sha256:5"}},
			"containers":     []any{map[string]any{"name": "web", "image": "r/keycloak@sha256:2"}},
		}}},
	}
	if diff := cmp.Diff(want, k.configuration(obj, p).Object); diff != "" {
		t.Errorf("an apply holds the object's identity, all containers that follow a tag and what was pinned, and nothing else: -want, +got:\n%s", diff)
	}
	if diff := cmp.Diff([]verdict{verdictFollowed, verdictFollowed}, p.verdicts); diff != "" {
		t.Errorf("verdicts: -want, +got:\n%s", diff)
	}
}

func TestPins(t *testing.T) {
	pins := resolver.Pins{
		"web":   {Written: "keycloak", Istag: "keycloak:latest", PullSpec: "r/keycloak@sha256:1", Generation: 1},
		"other": {Written: "other:1", Istag: "other:1", PullSpec: "r/other@sha256:1", Generation: 2},
		"gone":  {Written: "gone:1", Istag: "gone:1", PullSpec: "r/gone@sha256:1", Generation: 3},
	}
	moved := resolver.Pin{Istag: "keycloak:20.0", PullSpec: "r/keycloak@sha256:2", Generation: 7}
	fromIstag, fromUser := moved, moved
	fromIstag.Written, fromUser.Written = "keycloak:20.0", "keycloak"
	cases := map[string]struct {
		reason string
		before string
		want   resolver.Pins
	}{
		"None":     {reason: "without a pin the tag's name stands for what was written", want: resolver.Pins{"web": fromIstag}},
		"Nonsense": {reason: "text that is no pins counts as none", before: "nonsense", want: resolver.Pins{"web": fromIstag}},
		"Existing": {
			reason: "what the user wrote outlives the move, other containers keep their pins, and those that are gone lose theirs",
			before: pins.String(), want: resolver.Pins{"web": fromUser, "other": pins["other"]},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			obj := workload(deployment(), "w", annotate(entry("keycloak:20.0", pathWeb)), "web=old", "other=r/other@sha256:1")
			if tc.before != "" {
				obj.GetAnnotations()[resolver.PinnedAnnotation] = tc.before
			}
			h := newHarness(t, deployment(), obj, record("keycloak", tagged("20.0", "r/keycloak@sha256:2")))
			h.mustReconcile(t, tc.reason, 1)
			got := resolver.ParsePins(h.workload(t).GetAnnotations()[resolver.PinnedAnnotation])
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("%s: -want, +got:\n%s", tc.reason, diff)
			}
		})
	}
}

// TestOwnership is about what server-side apply does with fields that are not sent again.
func TestOwnership(t *testing.T) {
	cases := map[string]struct {
		reason string
		// between is what a user does after both containers were written, before the tag of "web"
		// moves again.
		between func(t *testing.T, h *harness)
		want    []string
		// wantOwned are the containers whose image is ours in the end.
		wantOwned []string
	}{
		"Unchanged": {
			reason:  "a container that did not change this time keeps its image",
			between: func(*testing.T, *harness) {},
			want:    []string{"first=x", "web=r/keycloak@sha256:3", "sidecar=r/sidecar@sha256:5"}, wantOwned: []string{"sidecar", "web"},
		},
		"Paused": {
			reason: "a container whose trigger is paused keeps the image that only we own",
			between: func(t *testing.T, h *harness) {
				t.Helper()
				h.annotate(t, entry("keycloak:20.0", pathWeb), with(entry("sidecar:1", pathSidecar), "paused", true))
			},
			want: []string{"first=x", "web=r/keycloak@sha256:3", "sidecar=r/sidecar@sha256:5"}, wantOwned: []string{"sidecar", "web"},
		},
		"Removed": {
			reason: "so does one whose trigger is removed",
			between: func(t *testing.T, h *harness) {
				t.Helper()
				h.annotate(t, entry("keycloak:20.0", pathWeb))
			},
			want: []string{"first=x", "web=r/keycloak@sha256:3", "sidecar=r/sidecar@sha256:5"}, wantOwned: []string{"sidecar", "web"},
		},
		"TagLost": {
			reason: "so does one whose stream is deleted",
			between: func(t *testing.T, h *harness) {
				t.Helper()
				if err := h.api.Delete(t.Context(), record("sidecar")); err != nil {
					t.Fatal(err)
				}
			},
			want: []string{"first=x", "web=r/keycloak@sha256:3", "sidecar=r/sidecar@sha256:5"}, wantOwned: []string{"sidecar", "web"},
		},
		"TakenBack": {
			reason: "an image that somebody else wrote since is theirs, and we do not claim it",
			between: func(t *testing.T, h *harness) {
				t.Helper()
				h.annotate(t, entry("keycloak:20.0", pathWeb))
				h.edit(t, func(o client.Object) { h.kind.podSpec(o).Containers[2].Image = "mine:1" })
			},
			want: []string{"first=x", "web=r/keycloak@sha256:3", "sidecar=mine:1"}, wantOwned: []string{"web"},
		},
		"ContainerRemoved": {
			reason: "a container that the user removed is not made again",
			between: func(t *testing.T, h *harness) {
				t.Helper()
				h.annotate(t, entry("keycloak:20.0", pathWeb))
				h.edit(t, func(o client.Object) {
					spec := h.kind.podSpec(o)
					spec.Containers = slices.Delete(spec.Containers, 2, 3)
				})
			},
			want: []string{"first=x", "web=r/keycloak@sha256:3"}, wantOwned: []string{"web"},
		},
	}
	for name, tc := range cases {
		for _, kindName := range []string{"Deployment", "CronJob"} {
			t.Run(name+"/"+kindName, func(t *testing.T) {
				k := kindNamed(t, kindName)
				base := strings.TrimSuffix(k.base, templateBase)
				rebase := func(e map[string]any) map[string]any { e["fieldPath"] = base + e["fieldPath"].(string); return e }
				keycloak := record("keycloak", tagged("20.0", "r/keycloak@sha256:2"))
				h := newHarness(t, k, keycloak, record("sidecar", tagged("1", "r/sidecar@sha256:5")),
					workload(k, "w", annotate(rebase(entry("keycloak:20.0", pathWeb)), rebase(entry("sidecar:1", pathSidecar))), "first=x", "web=old", "sidecar=old"))
				h.mustReconcile(t, "both are written", 1)
				tc.between(t, h)
				// The cases write paths of a Deployment.
				h.edit(t, func(o client.Object) {
					o.GetAnnotations()[Annotation] = strings.ReplaceAll(strings.ReplaceAll(o.GetAnnotations()[Annotation], k.base, templateBase), templateBase, k.base)
				})
				moved := record("keycloak", tagged("20.0", "r/keycloak@sha256:3"))
				if err := h.api.Get(t.Context(), client.ObjectKeyFromObject(moved), keycloak); err != nil {
					t.Fatal(err)
				}
				moved.ResourceVersion = keycloak.ResourceVersion
				if err := h.api.Update(t.Context(), moved); err != nil {
					t.Fatal(err)
				}
				h.mustReconcile(t, tc.reason, 1)
				if diff := cmp.Diff(tc.want, h.images(t)); diff != "" {
					t.Errorf("%s: -want, +got:\n%s", tc.reason, diff)
				}
				owned := ownedImages(h.workload(t), k.path()).UnsortedList()
				slices.Sort(owned)
				if diff := cmp.Diff(tc.wantOwned, owned); diff != "" {
					t.Errorf("%s: owned: -want, +got:\n%s", tc.reason, diff)
				}
			})
		}
	}
}

func TestOwnedImages(t *testing.T) {
	cases := map[string]struct {
		reason string
		entry  metav1.ManagedFieldsEntry
		want   []string
	}{
		"Ours": {
			reason: "both lists count, and only containers whose image is ours",
			entry:  metav1.ManagedFieldsEntry{Manager: FieldManager, Operation: "Apply", FieldsV1: metav1.NewFieldsV1(`{"f:spec":{"f:template":{"f:spec":{"f:containers":{"k:{\"name\":\"a\"}":{".":{},"f:image":{},"f:name":{}},"k:{\"name\":\"b\"}":{".":{},"f:name":{}}},"f:initContainers":{"k:{\"name\":\"c\"}":{"f:image":{}}}}}}}`)},
			want:   []string{"a", "c"},
		},
		"Somebodys": {
			reason: "what others own is theirs",
			entry:  metav1.ManagedFieldsEntry{Manager: "kubectl", Operation: "Apply", FieldsV1: metav1.NewFieldsV1(`{"f:spec":{"f:template":{"f:spec":{"f:containers":{"k:{\"name\":\"a\"}":{"f:image":{}}}}}}}`)},
		},
		"Nonsense": {
			reason: "fields that cannot be read count as not ours",
			entry:  metav1.ManagedFieldsEntry{Manager: FieldManager, Operation: "Apply", FieldsV1: metav1.NewFieldsV1(`{"f:spec":3}`)},
		},
		"NoFields": {
			reason: "an entry without fields owns nothing",
			entry:  metav1.ManagedFieldsEntry{Manager: FieldManager, Operation: "Apply"},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{ManagedFields: []metav1.ManagedFieldsEntry{tc.entry}}}
			got := ownedImages(d, deployment().path()).UnsortedList()
			slices.Sort(got)
			if diff := cmp.Diff(tc.want, got, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("%s: -want, +got:\n%s", tc.reason, diff)
			}
		})
	}
}

// TestStaleRead is about a cache that lags behind: what somebody else wrote meanwhile must survive.
func TestStaleRead(t *testing.T) {
	k := deployment()
	h := newHarness(t, k, record("keycloak", tagged("20.0", "r@sha256:2")), workload(k, "w", annotate(entry("keycloak:20.0", pathWeb)), "other=x", "web=old"))
	stale := h.workload(t)
	h.edit(t, func(o client.Object) {
		spec := k.podSpec(o)
		spec.Containers = spec.Containers[:1]
	})
	p, err := k.plan(stale, h.reconciler.lookup(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	if err := h.reconciler.apply(t.Context(), stale, p); !apierrors.IsConflict(err) {
		t.Errorf("writing what is stale gave %v, want a conflict", err)
	}
	if diff := cmp.Diff([]string{"other=x"}, h.images(t)); diff != "" {
		t.Errorf("a container removed meanwhile must not come back: -want, +got:\n%s", diff)
	}
	expectEvents(t, "a conflict is quiet", h)
}
