package trigger

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	imagev1 "github.com/openshift/api/image/v1"
	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	storev1 "istag.dev/store/v1"
)

const (
	pathWeb     = `spec.template.spec.containers[?(@.name=="web")].image`
	pathSidecar = `spec.template.spec.containers[?(@.name=="sidecar")].image`
)

// with returns an entry with more or other keys; those of "from" are written "from.kind" and so on.
func with(e map[string]any, keysAndValues ...any) map[string]any {
	for i := 0; i < len(keysAndValues); i += 2 {
		key := keysAndValues[i].(string)
		if inner, ok := strings.CutPrefix(key, "from."); ok {
			e["from"].(map[string]any)[inner] = keysAndValues[i+1]
			continue
		}
		e[key] = keysAndValues[i+1]
	}
	return e
}

func TestIndex(t *testing.T) {
	cases := map[string]struct {
		reason     string
		kind       string
		annotation string
		want       []string
	}{
		"None": {
			reason: "a workload without triggers follows nothing",
		},
		"Two": {
			reason:     "every tag that is followed is a key",
			annotation: annotate(entry("keycloak:20.0", pathWeb), entry("sidecar:1", pathSidecar)),
			want:       []string{"demo/keycloak:20.0", "demo/sidecar:1"},
		},
		"OneTagTwice": {
			reason:     "two containers of one tag are one key",
			annotation: annotate(entry("keycloak:20.0", pathWeb), entry("keycloak:20.0", pathSidecar)),
			want:       []string{"demo/keycloak:20.0"},
		},
		"EmptyTag": {
			reason:     "the key holds the tag that is meant",
			annotation: annotate(entry("keycloak:", pathWeb)),
			want:       []string{"demo/keycloak:latest"},
		},
		"Paused": {
			reason:     "a paused trigger need not hear of its tag",
			annotation: annotate(with(entry("keycloak:20.0", pathWeb), "paused", true), entry("sidecar:1", pathSidecar)),
			want:       []string{"demo/sidecar:1"},
		},
		"OtherKind": {
			reason:     "only ImageStreamTags move",
			annotation: annotate(with(entry("keycloak@sha256:1", pathWeb), "from.kind", "ImageStreamImage")),
		},
		"APIVersion": {
			reason:     "OpenShift does not index these",
			annotation: annotate(with(entry("keycloak:20.0", pathWeb), "from.apiVersion", "image.openshift.io/v1")),
		},
		"NoColon": {
			reason:     "OpenShift does not index these",
			annotation: annotate(entry("keycloak", pathWeb)),
		},
		"OtherNamespace": {
			reason:     "another tenant's tags are not followed",
			annotation: annotate(with(entry("keycloak:20.0", pathWeb), "from.namespace", "other")),
		},
		"OwnNamespace": {
			reason:     "the own namespace may be named",
			annotation: annotate(with(entry("keycloak:20.0", pathWeb), "from.namespace", "demo")),
			want:       []string{"demo/keycloak:20.0"},
		},
		"WrongBase": {
			reason:     "a path of another kind changes nothing here",
			annotation: annotate(entry("keycloak:20.0", "spec.jobTemplate."+pathWeb)),
		},
		"CronJob": {
			reason: "a CronJob has a base of its own", kind: "CronJob",
			annotation: annotate(entry("keycloak:20.0", "spec.jobTemplate."+pathWeb)),
			want:       []string{"demo/keycloak:20.0"},
		},
		"BadPath": {
			reason:     "what is wrong with a path is found when its tag has an image, so its moves must be heard",
			annotation: annotate(entry("keycloak:20.0", "spec.template.spec.nonsense")),
			want:       []string{"demo/keycloak:20.0"},
		},
		"Undecodable": {
			reason:     "what cannot be read follows nothing",
			annotation: `{}`,
		},
		"Duplicate": {
			reason:     "a duplicate path spoils the whole annotation",
			annotation: annotate(entry("keycloak:20.0", pathWeb), entry("sidecar:1", pathWeb)),
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			k := deployment()
			if tc.kind != "" {
				k = kindNamed(t, tc.kind)
			}
			got := k.index(workload(k, "w", tc.annotation, "web= "))
			if diff := cmp.Diff(tc.want, got, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("%s: -want, +got:\n%s", tc.reason, diff)
			}
		})
	}
}

func TestRelevant(t *testing.T) {
	triggers := annotate(entry("keycloak:20.0", pathWeb))
	old := func() client.Object { return workload(deployment(), "w", triggers, "init:setup=a", "web=b") }
	cases := map[string]struct {
		reason   string
		old, new client.Object
		want     bool
	}{
		"Nothing":         {reason: "a resync is no news", old: old(), new: old()},
		"TriggersRemoved": {reason: "what was said of the triggers is to be forgotten", old: old(), new: workload(deployment(), "w", "", "init:setup=a", "web=b"), want: true},
		"TriggersAdded":   {reason: "new triggers may already ask for something", old: workload(deployment(), "w", "", "web=b"), new: workload(deployment(), "w", triggers, "web=b"), want: true},
		"TriggersChanged": {reason: "a trigger that is resumed catches up at once", old: workload(deployment(), "w", annotate(with(entry("keycloak:20.0", pathWeb), "paused", true)), "web=b"), new: workload(deployment(), "w", triggers, "web=b"), want: true},
		"ImageChanged":    {reason: "somebody else changed an image", old: old(), new: workload(deployment(), "w", triggers, "init:setup=a", "web=c"), want: true},
		"InitImage":       {reason: "init containers have triggers too", old: old(), new: workload(deployment(), "w", triggers, "init:setup=x", "web=b"), want: true},
		"ContainerAdded":  {reason: "the container that a path wants may be there now", old: old(), new: workload(deployment(), "w", triggers, "init:setup=a", "web=b", "sidecar=c"), want: true},
		"ContainersMoved": {reason: "an index may mean another container now", old: workload(deployment(), "w", triggers, "a=x", "b=x"), new: workload(deployment(), "w", triggers, "b=x", "a=x"), want: true},
		"ImageOfUntriggered": {
			reason: "a workload without triggers is nobody's business",
			old:    workload(deployment(), "w", "", "web=b"), new: workload(deployment(), "w", "", "web=c"),
		},
		"Status": {
			reason: "a roll-out updates the status many times, and none of them matters",
			old:    old(), new: func() client.Object {
				d := old().(*appsv1.Deployment)
				d.Status.ReadyReplicas, d.Generation, d.ResourceVersion = 3, 9, "99"
				d.Labels, d.Annotations["deployment.kubernetes.io/revision"] = map[string]string{"a": "b"}, "4"
				return d
			}(),
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if got := deployment().relevant().Update(event.UpdateEvent{ObjectOld: tc.old, ObjectNew: tc.new}); got != tc.want {
				t.Errorf("%s: let through: %t, want %t", tc.reason, got, tc.want)
			}
		})
	}
	for reason, tc := range map[string]struct {
		obj  client.Object
		want bool
	}{
		"a workload with triggers is looked at once, and forgotten at its end":      {obj: old(), want: true},
		"a workload with bad triggers too: its user is to be told":                  {obj: workload(deployment(), "w", "{"), want: true},
		"a workload without triggers is not: most workloads of a cluster have none": {obj: workload(deployment(), "w", "", "web=b")},
	} {
		p := deployment().relevant()
		if got := p.Create(event.CreateEvent{Object: tc.obj}); got != tc.want {
			t.Errorf("%s: creation let through: %t", reason, got)
		}
		if got := p.Delete(event.DeleteEvent{Object: tc.obj}); got != tc.want {
			t.Errorf("%s: deletion let through: %t", reason, got)
		}
	}
}

func TestMovedTags(t *testing.T) {
	base := func() *storev1.StreamRecord {
		return record("keycloak", tagged("19.0", "r@sha256:1"), tagged("20.0", "r@sha256:2"))
	}
	cases := map[string]struct {
		reason        string
		before, after *storev1.StreamRecord
		want          []string
	}{
		"Nothing": {reason: "equal records have no moves", before: base(), after: base()},
		"One": {
			reason: "only the tag that moved is named, not its stream's others",
			before: base(), after: record("keycloak", tagged("19.0", "r@sha256:1"), tagged("20.0", "r@sha256:3")),
			want: []string{"20.0"},
		},
		"Both": {
			reason: "one write may move several",
			before: base(), after: record("keycloak", tagged("19.0", "r@sha256:3"), tagged("20.0", "r@sha256:4")),
			want: []string{"19.0", "20.0"},
		},
		"NewTag": {
			reason: "a tag that had no image has one now",
			before: base(), after: record("keycloak", tagged("19.0", "r@sha256:1"), tagged("20.0", "r@sha256:2"), tagged("21.0", "r@sha256:3")),
			want: []string{"21.0"},
		},
		"NewStream": {
			reason: "so it is with a stream that appears",
			before: &storev1.StreamRecord{}, after: base(),
			want: []string{"19.0", "20.0"},
		},
		"TagRemoved": {
			reason: "a tag that is gone moves nothing: workloads keep their image",
			before: base(), after: record("keycloak", tagged("19.0", "r@sha256:1")),
		},
		"NotImportedYet": {
			reason: "an entry without an event means nothing",
			before: base(), after: record("keycloak", tagged("19.0", "r@sha256:1"), tagged("20.0", "r@sha256:2"),
				func(r *storev1.StreamRecord) {
					r.Status.Tags = append(r.Status.Tags, imagev1.NamedTagEventList{Tag: "21.0", Items: []imagev1.TagEvent{}})
				}),
		},
		"SameImageAgain": {
			reason: "a new event with the pull spec of the old one changes no workload",
			before: base(), after: record("keycloak", tagged("19.0", "r@sha256:1"), tagged("20.0", "r@sha256:2"),
				func(r *storev1.StreamRecord) {
					r.Status.Tags[1].Items = append([]imagev1.TagEvent{{DockerImageReference: "r@sha256:2", Image: "sha256:2", Generation: 9}}, r.Status.Tags[1].Items...)
					r.Record.Generation = 9
				}),
		},
		"ImportFailed": {
			reason: "a condition is no move",
			before: base(), after: record("keycloak", tagged("19.0", "r@sha256:1"), tagged("20.0", "r@sha256:2"),
				func(r *storev1.StreamRecord) {
					r.Status.Tags[1].Conditions = []imagev1.TagEventCondition{{Type: imagev1.ImportSuccess, Status: "False"}}
				}),
		},
		"BecameLocal": {
			reason: "another reference policy is another pull spec of the same image",
			before: base(), after: record("keycloak", tagged("19.0", "r@sha256:1"), tagged("20.0", "r@sha256:2"), local("")),
		},
		"BecameLocalWithRepository": {
			reason: "another reference policy is another pull spec of the same image",
			before: record("keycloak", tagged("20.0", "r@sha256:2"), func(r *storev1.StreamRecord) { r.Status.DockerImageRepository = "registry/demo/keycloak" }),
			after:  record("keycloak", tagged("20.0", "r@sha256:2"), local("registry/demo/keycloak")),
			want:   []string{"20.0"},
		},
		"RepositoryMoved": {
			reason: "the cluster's registry has another name: tags with the Local policy get it, others do not",
			before: record("keycloak", tagged("19.0", "r@sha256:1"), tagged("20.0", "r@sha256:2"), local("a/demo/keycloak")),
			after:  record("keycloak", tagged("19.0", "r@sha256:1"), tagged("20.0", "r@sha256:2"), local("b/demo/keycloak")),
			want:   []string{"20.0"},
		},
		"MovedBehindLocal": {
			reason: "with the Local policy only the digest counts: another upstream of the same image is no move",
			before: record("keycloak", tagged("20.0", "r@sha256:2"), local("a/demo/keycloak")),
			after:  record("keycloak", tagged("20.0", "mirror@sha256:2"), local("a/demo/keycloak")),
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, movedTags(tc.before, tc.after), cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("%s: -want, +got:\n%s", tc.reason, diff)
			}
		})
	}
}

func TestOnStream(t *testing.T) {
	k := deployment()
	c := fake.NewClientBuilder().WithScheme(testScheme(t)).WithIndex(k.newObject(), indexField, k.index).WithObjects(
		workload(k, "follows-20", annotate(entry("my_stream:20.0", pathWeb)), "web= "),
		workload(k, "follows-19", annotate(entry("my_stream:19.0", pathWeb)), "web= "),
		workload(k, "follows-both", annotate(entry("my_stream:19.0", pathWeb), entry("my_stream:20.0", pathSidecar)), "web= ", "sidecar= "),
		workload(k, "paused", annotate(with(entry("my_stream:20.0", pathWeb), "paused", true)), "web= "),
		workload(k, "other-stream", annotate(entry("stream:20.0", pathWeb)), "web= "),
		workload(k, "broken", `{`, "web= "),
		workload(k, "none", "", "web= "),
		func() client.Object {
			w := workload(k, "other-namespace", annotate(entry("my_stream:20.0", pathWeb)), "web= ")
			w.SetNamespace("other")
			return w
		}(),
	).Build()
	handler := k.onStream(c)
	old := record("my_stream", withVersion("1"), tagged("19.0", "r@sha256:1"), tagged("20.0", "r@sha256:2"))
	moved20 := record("my_stream", withVersion("2"), tagged("19.0", "r@sha256:1"), tagged("20.0", "r@sha256:3"))
	movedBoth := record("my_stream", withVersion("2"), tagged("19.0", "r@sha256:3"), tagged("20.0", "r@sha256:3"))
	cases := map[string]struct {
		reason string
		send   func(q workqueue.TypedRateLimitingInterface[reconcile.Request])
		want   []string
	}{
		"OneTag": {
			reason: "only the followers of the tag that moved are queued, by the stream's name, not its record's",
			send: func(q workqueue.TypedRateLimitingInterface[reconcile.Request]) {
				handler.Update(t.Context(), event.UpdateEvent{ObjectOld: old, ObjectNew: moved20}, q)
			},
			want: []string{"demo/follows-20", "demo/follows-both"},
		},
		"TwoTags": {
			reason: "a workload that follows both is queued once",
			send: func(q workqueue.TypedRateLimitingInterface[reconcile.Request]) {
				handler.Update(t.Context(), event.UpdateEvent{ObjectOld: old, ObjectNew: movedBoth}, q)
			},
			want: []string{"demo/follows-19", "demo/follows-20", "demo/follows-both"},
		},
		"Resync": {
			reason: "a resync repeats what is known",
			send: func(q workqueue.TypedRateLimitingInterface[reconcile.Request]) {
				handler.Update(t.Context(), event.UpdateEvent{ObjectOld: old, ObjectNew: old}, q)
			},
		},
		"NoMove": {
			reason: "a write that moves no tag queues nobody",
			send: func(q workqueue.TypedRateLimitingInterface[reconcile.Request]) {
				after := old.DeepCopy()
				after.ResourceVersion, after.Record.Generation = "2", 9
				handler.Update(t.Context(), event.UpdateEvent{ObjectOld: old, ObjectNew: after}, q)
			},
		},
		"FirstList": {
			reason: "after a restart the workloads queue themselves, once",
			send: func(q workqueue.TypedRateLimitingInterface[reconcile.Request]) {
				handler.Create(t.Context(), event.CreateEvent{Object: old, IsInInitialList: true}, q)
			},
		},
		"NewStream": {
			reason: "workloads may have waited for the stream",
			send: func(q workqueue.TypedRateLimitingInterface[reconcile.Request]) {
				handler.Create(t.Context(), event.CreateEvent{Object: old}, q)
			},
			want: []string{"demo/follows-19", "demo/follows-20", "demo/follows-both"},
		},
		"Deleted": {
			reason: "workloads keep the image they have",
			send: func(q workqueue.TypedRateLimitingInterface[reconcile.Request]) {
				handler.Delete(t.Context(), event.DeleteEvent{Object: old}, q)
			},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			q := workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[reconcile.Request]())
			defer q.ShutDown()
			tc.send(q)
			var got []string
			for q.Len() > 0 {
				request, _ := q.Get()
				got = append(got, request.String())
			}
			slices.Sort(got)
			if diff := cmp.Diff(tc.want, got, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("%s: -want, +got:\n%s", tc.reason, diff)
			}
		})
	}
}
