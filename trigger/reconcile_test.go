package trigger

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	storev1 "istag.dev/store/v1"
)

// harness is a reconciler on a fake API server.
//
// The fake merges, and keeps field managers, with the code of the real one, and it compares resource
// versions. It does not validate: a container that loses its image, which the real one refuses, is
// left with none; nor does it know uids. TestAPIServer is about these.
type harness struct {
	kind       *kind
	api        client.WithWatch // the API server itself
	reconciler *reconciler
	events     *recorder
	writes     int
	applyError error
	admit      func(content map[string]any) // what another webhook does to what is applied
}

func newHarness(t *testing.T, k *kind, objects ...client.Object) *harness {
	t.Helper()
	h := &harness{kind: k, events: &recorder{}}
	h.api = fake.NewClientBuilder().WithScheme(testScheme(t)).WithReturnManagedFields().WithObjects(objects...).Build()
	unexpected := func(verb string) error {
		t.Errorf("the reconciler called %s; it may only apply", verb)
		return errors.New("unexpected write")
	}
	c := interceptor.NewClient(h.api, interceptor.Funcs{
		// What the reconciler reads is what the cache keeps.
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, obj client.Object, opts ...client.GetOption) error {
			if err := c.Get(ctx, key, obj, opts...); err != nil {
				return err
			}
			if _, ok := obj.(*storev1.StreamRecord); !ok {
				reflect.ValueOf(obj).Elem().Set(reflect.ValueOf(k.strip(obj)).Elem())
			}
			return nil
		},
		Apply: func(ctx context.Context, c client.WithWatch, obj runtime.ApplyConfiguration, opts ...client.ApplyOption) error {
			h.writes++
			if h.applyError != nil {
				return h.applyError
			}
			if err := c.Apply(ctx, obj, opts...); err != nil {
				return err
			}
			if h.admit != nil {
				h.admit(obj.(interface{ UnstructuredContent() map[string]any }).UnstructuredContent())
			}
			return nil
		},
		Create: func(context.Context, client.WithWatch, client.Object, ...client.CreateOption) error {
			return unexpected("Create")
		},
		Update: func(context.Context, client.WithWatch, client.Object, ...client.UpdateOption) error {
			return unexpected("Update")
		},
		Patch: func(context.Context, client.WithWatch, client.Object, client.Patch, ...client.PatchOption) error {
			return unexpected("Patch")
		},
		Delete: func(context.Context, client.WithWatch, client.Object, ...client.DeleteOption) error {
			return unexpected("Delete")
		},
	})
	h.reconciler = newReconciler(k, c, h.events)
	return h
}

// reconcile reconciles the workload "w" and returns how many writes that took.
func (h *harness) reconcile(t *testing.T) (reconcile.Result, int, error) {
	t.Helper()
	before := h.writes
	result, err := h.reconciler.Reconcile(t.Context(), reconcile.Request{NamespacedName: client.ObjectKey{Namespace: "demo", Name: "w"}})
	return result, h.writes - before, err
}

// mustReconcile fails the test on an error or a retry.
func (h *harness) mustReconcile(t *testing.T, reason string, wantWrites int) {
	t.Helper()
	result, writes, err := h.reconcile(t)
	if err != nil || !result.IsZero() {
		t.Fatalf("%s: result %+v, error %v", reason, result, err)
	}
	if writes != wantWrites {
		t.Errorf("%s: %d writes, want %d", reason, writes, wantWrites)
	}
}

func (h *harness) workload(t *testing.T) client.Object {
	t.Helper()
	obj := h.kind.newObject()
	if err := h.api.Get(t.Context(), client.ObjectKey{Namespace: "demo", Name: "w"}, obj); err != nil {
		t.Fatal(err)
	}
	return obj
}

func (h *harness) images(t *testing.T) []string {
	t.Helper()
	var images []string
	for _, c := range containers(h.kind.podSpec(h.workload(t))) {
		images = append(images, c.Name+"="+c.Image)
	}
	return images
}

// edit changes the workload as a user of kubectl edit would.
func (h *harness) edit(t *testing.T, mutate func(client.Object)) {
	t.Helper()
	obj := h.workload(t)
	mutate(obj)
	if err := h.api.Update(t.Context(), obj, client.FieldOwner("kubectl-edit")); err != nil {
		t.Fatal(err)
	}
}

func (h *harness) annotate(t *testing.T, entries ...map[string]any) {
	t.Helper()
	h.edit(t, func(o client.Object) {
		annotations := o.GetAnnotations()
		annotations[Annotation] = annotate(entries...)
		o.SetAnnotations(annotations)
	})
}

func TestReconcile(t *testing.T) {
	paths := func(k *kind, container string) string {
		return fmt.Sprintf("%s.containers[?(@.name==%q)].image", k.base, container)
	}
	keycloak := record("keycloak", tagged("20.0", "r/keycloak@sha256:2"), tagged("latest", "r/keycloak@sha256:9"))
	sidecar := record("sidecar", tagged("1", "r/sidecar@sha256:5"))
	cases := map[string]struct {
		reason     string
		kind       string
		annotation string
		containers []string
		records    []client.Object
		want       []string // unset: as before, without a write
		wantEvents []string // what each must hold
		terminal   bool
	}{
		"NoAnnotation": {
			reason:     "a workload without triggers is left alone",
			containers: []string{"web=keycloak:20.0"},
		},
		"NullAnnotation": {
			reason:     "null is no triggers",
			annotation: `null`, containers: []string{"web=keycloak:20.0"},
		},
		"Paused": {
			reason:     "a paused trigger changes nothing",
			annotation: annotate(with(entry("keycloak:20.0", pathWeb), "paused", true)), containers: []string{"web=old"},
		},
		"PausedText": {
			reason:     "nor does one that is paused in words",
			annotation: annotate(with(entry("keycloak:20.0", pathWeb), "paused", "true")), containers: []string{"web=old"},
		},
		"PausedOtherNamespace": {
			reason:     "whoever pauses a trigger is not told that it could not be followed",
			annotation: annotate(with(entry("keycloak:20.0", pathWeb), "paused", true, "from.namespace", "other")), containers: []string{"web=old"},
		},
		"StreamMissing": {
			reason:     "a stream that is not there yet is waited for",
			annotation: annotate(entry("nothing:20.0", pathWeb)), containers: []string{"web=old"},
		},
		"TagMissing": {
			reason:     "so is a tag: nothing is an error, and the image stays",
			annotation: annotate(entry("keycloak:21.0", pathWeb)), containers: []string{"web=old"},
		},
		"TagWithoutEvent": {
			reason:     "a tag that was never imported means nothing yet",
			annotation: annotate(entry("empty:20.0", pathWeb)), containers: []string{"web=old"},
			records: []client.Object{record("empty", tagged("20.0", ""))},
		},
		"Equal": {
			reason:     "an image that is right is not written again",
			annotation: annotate(entry("keycloak:20.0", pathWeb)), containers: []string{"web=r/keycloak@sha256:2"},
		},
		"WrongBase": {
			reason:     "a path of another kind is skipped without a word",
			annotation: annotate(entry("keycloak:20.0", "spec.jobTemplate."+pathWeb)), containers: []string{"web=old"},
		},
		"Moved": {
			reason:     "the container that follows the tag gets its pull spec, the others keep theirs",
			annotation: annotate(entry("keycloak:20.0", pathWeb)), containers: []string{"first=x", "web=r/keycloak@sha256:1", "last=y"},
			want:       []string{"first=x", "web=r/keycloak@sha256:2", "last=y"},
			wantEvents: []string{`Normal ImageUpdated w: container "web" follows keycloak:20.0 to r/keycloak@sha256:2`},
		},
		"ShortName": {
			reason:     "an image that is still a short name becomes the pull spec",
			annotation: annotate(entry("keycloak:20.0", pathWeb)), containers: []string{"web=keycloak:20.0"},
			want:       []string{"web=r/keycloak@sha256:2"},
			wantEvents: []string{"ImageUpdated"},
		},
		"Placeholder": {
			reason:     "a single space is the conventional image of a workload that waits for its tag",
			annotation: annotate(entry("keycloak:20.0", pathWeb)), containers: []string{"web= "},
			want:       []string{"web=r/keycloak@sha256:2"},
			wantEvents: []string{"ImageUpdated"},
		},
		"EmptyTagIsLatest": {
			reason:     "\"keycloak:\" means keycloak:latest",
			annotation: annotate(entry("keycloak:", pathWeb)), containers: []string{"web=old"},
			want:       []string{"web=r/keycloak@sha256:9"},
			wantEvents: []string{"follows keycloak:latest to"},
		},
		"InitContainerByName": {
			reason:     "oc names init containers as if they were main ones",
			annotation: annotate(entry("keycloak:20.0", pathWeb)), containers: []string{"init:web=old", "main=x"},
			want:       []string{"web=r/keycloak@sha256:2", "main=x"},
			wantEvents: []string{"ImageUpdated"},
		},
		"InitContainerByIndex": {
			reason:     "an index counts in the list that the path names",
			annotation: annotate(entry("keycloak:20.0", "spec.template.spec.initContainers[0].image")), containers: []string{"init:web=old", "main=x"},
			want:       []string{"web=r/keycloak@sha256:2", "main=x"},
			wantEvents: []string{"ImageUpdated"},
		},
		"TwoContainersOneWrite": {
			reason:     "containers that change together are written together and reported in one event",
			annotation: annotate(entry("keycloak:20.0", pathWeb), entry("sidecar:1", pathSidecar)), containers: []string{"init:sidecar=old", "web=old"},
			want:       []string{"sidecar=r/sidecar@sha256:5", "web=r/keycloak@sha256:2"},
			wantEvents: []string{`container "sidecar" follows sidecar:1 to r/sidecar@sha256:5; container "web" follows keycloak:20.0 to r/keycloak@sha256:2`},
		},
		"OneOfTwoUnresolved": {
			reason:     "triggers are not all or nothing: one whose tag is missing does not hold up the other",
			annotation: annotate(entry("nothing:1", pathSidecar), entry("keycloak:20.0", pathWeb)), containers: []string{"web=old", "sidecar=x"},
			want:       []string{"web=r/keycloak@sha256:2", "sidecar=x"},
			wantEvents: []string{"ImageUpdated"},
		},
		"TwoSpellingsOfOneContainer": {
			reason:     "the last trigger of a container wins",
			annotation: annotate(entry("sidecar:1", "spec.template.spec.containers[0].image"), entry("keycloak:20.0", pathWeb)), containers: []string{"web=old"},
			want:       []string{"web=r/keycloak@sha256:2"},
			wantEvents: []string{"ImageUpdated"},
		},
		"TwoSpellingsLastEqual": {
			reason:     "and if it is content nothing is written",
			annotation: annotate(entry("sidecar:1", "spec.template.spec.containers[0].image"), entry("keycloak:20.0", pathWeb)), containers: []string{"web=r/keycloak@sha256:2"},
		},
		"ReferenceTag": {
			reason:     "the pull spec of a reference tag holds a tag, and is used as it is",
			annotation: annotate(entry("byref:20.0", pathWeb)), containers: []string{"web=old"},
			records:    []client.Object{record("byref", tagged("20.0", "quay.io/keycloak/keycloak:20.0"))},
			want:       []string{"web=quay.io/keycloak/keycloak:20.0"},
			wantEvents: []string{"ImageUpdated"},
		},
		"LocalPolicy": {
			reason:     "with the Local policy the image comes by way of the cluster's registry",
			annotation: annotate(entry("local:20.0", pathWeb)), containers: []string{"web=old"},
			records:    []client.Object{record("local", tagged("20.0", "r@sha256:2"), local("registry/demo/local"))},
			want:       []string{"web=registry/demo/local@sha256:2"},
			wantEvents: []string{"ImageUpdated"},
		},
		"Underscore": {
			reason:     "a stream's record has another name than the stream if it holds an underscore",
			annotation: annotate(entry("my_stream:1", pathWeb)), containers: []string{"web=old"},
			records:    []client.Object{record("my_stream", tagged("1", "r/my@sha256:2"))},
			want:       []string{"web=r/my@sha256:2"},
			wantEvents: []string{"follows my_stream:1"},
		},
		"StatefulSet": {
			reason: "every kind is followed alike", kind: "StatefulSet",
			annotation: annotate(entry("keycloak:20.0", pathWeb)), containers: []string{"web=old"},
			want: []string{"web=r/keycloak@sha256:2"}, wantEvents: []string{"ImageUpdated"},
		},
		"DaemonSet": {
			reason: "every kind is followed alike", kind: "DaemonSet",
			annotation: annotate(entry("keycloak:20.0", pathWeb)), containers: []string{"web=old"},
			want: []string{"web=r/keycloak@sha256:2"}, wantEvents: []string{"ImageUpdated"},
		},
		"CronJob": {
			reason: "a CronJob's pod spec lies deeper", kind: "CronJob",
			annotation: annotate(entry("keycloak:20.0", paths(kindNamed(t, "CronJob"), "web"))), containers: []string{"init:a=x", "web=old", "b=y"},
			want: []string{"a=x", "web=r/keycloak@sha256:2", "b=y"}, wantEvents: []string{"ImageUpdated"},
		},
		"CronJobWithBaseOfDeployment": {
			reason: "a path of another kind is skipped without a word", kind: "CronJob",
			annotation: annotate(entry("keycloak:20.0", pathWeb)), containers: []string{"web=old"},
		},
		"Undecodable": {
			reason:     "an annotation that cannot be read is reported and left until it changes",
			annotation: `{"from":{}}`, containers: []string{"web=old"},
			wantEvents: []string{"Warning InvalidTriggers w: annotation image.openshift.io/triggers: it is a JSON object, not a list"}, terminal: true,
		},
		"DuplicatePath": {
			reason:     "a duplicate path spoils the whole annotation",
			annotation: annotate(entry("keycloak:20.0", pathWeb), entry("sidecar:1", pathWeb)), containers: []string{"web=old"},
			wantEvents: []string{"Warning InvalidTriggers w: "}, terminal: true,
		},
		"BadPathBlocksAll": {
			reason:     "a path that leads nowhere stops the other triggers of the object too",
			annotation: annotate(entry("keycloak:20.0", pathWeb), entry("sidecar:1", pathSidecar)), containers: []string{"web=old"},
			wantEvents: []string{`Warning InvalidTriggerPath w: annotation image.openshift.io/triggers: entry 1: fieldPath "spec.template.spec.containers[?(@.name==\"sidecar\")].image": no container is named "sidecar"`}, terminal: true,
		},
		"BadPathOfUnresolvedTag": {
			reason:     "a bad path is found only once its tag has an image",
			annotation: annotate(entry("keycloak:20.0", pathWeb), entry("nothing:1", pathSidecar)), containers: []string{"web=old"},
			want: []string{"web=r/keycloak@sha256:2"}, wantEvents: []string{"ImageUpdated"},
		},
		"BadPathPaused": {
			reason:     "pausing the trigger frees the others",
			annotation: annotate(entry("keycloak:20.0", pathWeb), with(entry("sidecar:1", pathSidecar), "paused", true)), containers: []string{"web=old"},
			want: []string{"web=r/keycloak@sha256:2"}, wantEvents: []string{"ImageUpdated"},
		},
		"IndexOutOfRange": {
			reason:     "an index beyond the list is a bad path",
			annotation: annotate(entry("keycloak:20.0", "spec.template.spec.containers[1].image")), containers: []string{"web=old"},
			wantEvents: []string{"containers has no index 1: it has 1"}, terminal: true,
		},
		"OtherNamespace": {
			reason:     "another tenant's tag is refused, whatever it means, and the object's other triggers work",
			annotation: annotate(with(entry("keycloak:20.0", pathSidecar), "from.namespace", "other"), entry("keycloak:20.0", pathWeb)), containers: []string{"web=old", "sidecar=x"},
			want:       []string{"web=r/keycloak@sha256:2", "sidecar=x"},
			wantEvents: []string{"ImageUpdated", `Warning TriggerNotFollowed w: annotation image.openshift.io/triggers: entry 0: from.namespace is "other"`},
		},
		"OwnNamespace": {
			reason:     "the own namespace may be named",
			annotation: annotate(with(entry("keycloak:20.0", pathWeb), "from.namespace", "demo")), containers: []string{"web=old"},
			want: []string{"web=r/keycloak@sha256:2"}, wantEvents: []string{"ImageUpdated"},
		},
		"OtherKind": {
			reason:     "a kind that does not move is not followed, at creation neither",
			annotation: annotate(with(entry("keycloak:20.0", pathWeb), "from.kind", "DockerImage")), containers: []string{"web=old"},
			wantEvents: []string{`Warning TriggerNotFollowed w: annotation image.openshift.io/triggers: entry 0: from.kind is "DockerImage"`},
		},
		"APIVersion": {
			reason:     "an apiVersion makes OpenShift ignore a trigger",
			annotation: annotate(with(entry("keycloak:20.0", pathWeb), "from.apiVersion", "v1")), containers: []string{"web=old"},
			wantEvents: []string{"TriggerNotFollowed"},
		},
		"NoColon": {
			reason:     "a name without a tag is not followed",
			annotation: annotate(entry("keycloak", pathWeb)), containers: []string{"web=old"},
			wantEvents: []string{"TriggerNotFollowed"},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			k := deployment()
			if tc.kind != "" {
				k = kindNamed(t, tc.kind)
			}
			objects := append([]client.Object{keycloak.DeepCopy(), sidecar.DeepCopy(), workload(k, "w", tc.annotation, tc.containers...)}, tc.records...)
			h := newHarness(t, k, objects...)
			before := h.images(t)
			result, writes, err := h.reconcile(t)
			if terminal := errors.Is(err, reconcile.TerminalError(nil)); terminal != tc.terminal || (err != nil && !terminal) || !result.IsZero() {
				t.Errorf("%s: result %+v, error %v", tc.reason, result, err)
			}
			want, wantWrites := tc.want, 1
			if want == nil {
				want, wantWrites = before, 0
			}
			if diff := cmp.Diff(want, h.images(t)); diff != "" {
				t.Errorf("%s: images: -want, +got:\n%s", tc.reason, diff)
			}
			if writes != wantWrites {
				t.Errorf("%s: %d writes, want %d", tc.reason, writes, wantWrites)
			}
			expectEvents(t, tc.reason, h, tc.wantEvents...)
			if _, writes, _ := h.reconcile(t); writes != 0 {
				t.Errorf("%s: done again, it wrote again", tc.reason)
			}
			expectEvents(t, tc.reason+" (done again)", h)
		})
	}
}

func expectEvents(t *testing.T, reason string, h *harness, want ...string) {
	t.Helper()
	got := h.events.take()
	if !slices.EqualFunc(want, got, func(want, got string) bool { return strings.Contains(got, want) }) {
		t.Errorf("%s: events %q, want ones with %q", reason, got, want)
	}
}

func TestReconcileGone(t *testing.T) {
	h := newHarness(t, deployment(), record("keycloak", tagged("20.0", "r@sha256:2")))
	h.mustReconcile(t, "a workload that is gone needs nothing", 0)

	obj := workload(deployment(), "w", annotate(entry("keycloak:20.0", pathWeb)), "web=old")
	obj.SetFinalizers([]string{"example.com/wait"})
	h = newHarness(t, deployment(), record("keycloak", tagged("20.0", "r@sha256:2")), obj)
	if err := h.api.Delete(t.Context(), obj); err != nil {
		t.Fatal(err)
	}
	h.mustReconcile(t, "a workload on its way out is not rolled out", 0)
}

func TestWriteErrors(t *testing.T) {
	resource := schema.GroupResource{Group: "apps", Resource: "deployments"}
	cases := map[string]struct {
		reason    string
		err       error
		conflict  bool
		wantEvent string
	}{
		"Conflict": {
			reason: "somebody wrote at the same time: try again soon, and tell nobody",
			err:    apierrors.NewConflict(resource, "w", errors.New("changed")), conflict: true,
		},
		"Forbidden": {
			reason: "what a quota or a webhook refuses may be allowed later, and the user is to know",
			err:    apierrors.NewForbidden(resource, "w", errors.New("exceeded quota")), wantEvent: "Warning ImageUpdateForbidden w: ",
		},
		"Invalid": {
			reason: "so with what validation refuses",
			err:    apierrors.NewInvalid(schema.GroupKind{Group: "apps", Kind: "Deployment"}, "w", nil), wantEvent: "Warning ImageUpdateInvalid w: ",
		},
		"WebhookDown": {
			reason: "and with a webhook that does not answer",
			err:    apierrors.NewInternalError(errors.New("failed calling webhook")), wantEvent: "Warning ImageUpdateFailed w: ",
		},
		"Busy": {
			reason: "a busy API server is not the workload's affair",
			err:    apierrors.NewTooManyRequests("busy", 1),
		},
		"Unreachable": {
			reason: "nor is one that cannot be reached; the event could not be written either",
			err:    errors.New("connection refused"),
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t, deployment(), record("keycloak", tagged("20.0", "r@sha256:2")), workload(deployment(), "w", annotate(entry("keycloak:20.0", pathWeb)), "web=old"))
			h.applyError = tc.err
			var waits []time.Duration
			for range 3 {
				result, writes, err := h.reconcile(t)
				if writes != 1 {
					t.Errorf("%s: %d writes", tc.reason, writes)
				}
				if tc.conflict {
					waits = append(waits, result.RequeueAfter)
				}
				if (err == nil) != tc.conflict || errors.Is(err, reconcile.TerminalError(nil)) || (err != nil && !errors.Is(err, tc.err)) {
					t.Errorf("%s: error is %v", tc.reason, err)
				}
			}
			if tc.conflict {
				if diff := cmp.Diff([]time.Duration{firstConflict, 2 * firstConflict, 4 * firstConflict}, waits); diff != "" {
					t.Errorf("conflicts are retried soon, then more slowly: -want, +got:\n%s", diff)
				}
			}
			var want []string
			if tc.wantEvent != "" {
				want = []string{tc.wantEvent} // once for three times
			}
			expectEvents(t, tc.reason, h, want...)

			h.applyError = nil
			h.mustReconcile(t, "it heals by itself", 1)
			expectEvents(t, "it heals by itself", h, "ImageUpdated")
			if n := len(h.reconciler.reports.warned); n != 0 {
				t.Errorf("all is well, but warnings of %d objects are remembered", n)
			}
			if n := h.reconciler.conflicts.NumRequeues(reconcile.Request{NamespacedName: client.ObjectKey{Namespace: "demo", Name: "w"}}); n != 0 {
				t.Errorf("all is well, but %d conflicts are remembered", n)
			}
		})
	}
}

// TestRewritten is about another webhook that puts an image of its own in the place of ours.
func TestRewritten(t *testing.T) {
	k := deployment()
	h := newHarness(t, k, record("keycloak", tagged("20.0", "r@sha256:2")), workload(k, "w", annotate(entry("keycloak:20.0", pathWeb)), "web=old"))
	h.admit = func(content map[string]any) {
		spec := content["spec"].(map[string]any)["template"].(map[string]any)["spec"].(map[string]any)
		spec["containers"].([]any)[0].(map[string]any)["image"] = "mirror/r@sha256:2"
	}
	if _, _, err := h.reconcile(t); !errors.Is(err, reconcile.TerminalError(nil)) {
		t.Errorf("an image that is changed on its way in will be changed again: error %v, want one that is not retried", err)
	}
	expectEvents(t, "the user is told, and not that the image was updated", h, `Warning ImageRewritten w: container "web": tag "keycloak:20.0" means r@sha256:2, but on its way into the cluster that became "mirror/r@sha256:2"`)
}

func TestWarnings(t *testing.T) {
	events := &recorder{}
	reports := newReporter(events)
	obj := workload(deployment(), "w", "a")
	count := func(reason string, want int) {
		t.Helper()
		if got := len(events.take()); got != want {
			t.Errorf("%s: %d events, want %d", reason, got, want)
		}
	}
	reports.warn(obj, "R", "A", "one")
	reports.warn(obj, "R", "A", "two")
	reports.warn(obj, "R", "A", "one")
	count("errors that take turns are each said once", 2)

	obj.SetAnnotations(map[string]string{Annotation: "b"})
	reports.warn(obj, "R", "A", "one")
	count("a changed annotation that is still wrong deserves an answer", 1)

	obj.SetUID("another")
	reports.warn(obj, "R", "A", "one")
	count("so does another object of that name", 1)

	for i := range 100 {
		reports.warn(obj, "R", "A", fmt.Sprintf("used %d of 10", i))
	}
	count("an error whose text differs each time is not said for ever", warningLimit-1)

	reports.forget(client.ObjectKeyFromObject(obj))
	reports.warn(obj, "R", "A", strings.Repeat("é", noteLimit))
	got := events.take()
	if len(got) != 1 || len(got[0]) > noteLimit+len("Warning R w: ") || !strings.HasSuffix(got[0], "é...") {
		t.Errorf("a note that is too long for the API is cut: %d events, %d bytes", len(got), len(got[0]))
	}
}
