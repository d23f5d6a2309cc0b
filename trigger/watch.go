package trigger

import (
	"context"
	"slices"

	imagev1 "github.com/openshift/api/image/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	logf "sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"istag.dev/store"
	storev1 "istag.dev/store/v1"
)

// indexField is the name of the cache's index of workloads by the tags they follow.
const indexField = "istag.dev/follows"

// index returns the tags that a workload follows, as "namespace/stream:tag": those of its triggers that
// are not paused, lead into its pod spec and can be followed. An annotation that cannot be read
// follows nothing.
func (k *kind) index(obj client.Object) []string {
	triggers, err := Parse(obj.GetAnnotations()[Annotation])
	if err != nil {
		return nil
	}
	var keys []string
	for i := range triggers {
		if _, ok := below(k.base, triggers[i].FieldPath); !ok || triggers[i].Paused {
			continue
		}
		if istag, err := triggers[i].Istag(obj.GetNamespace()); err == nil {
			keys = append(keys, istag.String())
		}
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

// relevant lets an event of a workload through if its triggers, or images that they may be about,
// are not what they were. Updates of status, scale and metadata are not, nor is a resync. The end of
// an annotation, or of the object, is let through so that what is remembered of it is forgotten.
func (k *kind) relevant() predicate.Predicate {
	return predicate.Funcs{
		CreateFunc:  func(e event.CreateEvent) bool { return triggered(e.Object) },
		DeleteFunc:  func(e event.DeleteEvent) bool { return triggered(e.Object) },
		GenericFunc: func(event.GenericEvent) bool { return false },
		UpdateFunc: func(e event.UpdateEvent) bool {
			before, after := e.ObjectOld.GetAnnotations()[Annotation], e.ObjectNew.GetAnnotations()[Annotation]
			if before != after {
				return true
			}
			return after != "" && !sameImages(k.podSpec(e.ObjectOld), k.podSpec(e.ObjectNew))
		},
	}
}

func sameImages(a, b *corev1.PodSpec) bool {
	same := func(a, b corev1.Container) bool { return a.Name == b.Name && a.Image == b.Image }
	return slices.EqualFunc(a.InitContainers, b.InitContainers, same) && slices.EqualFunc(a.Containers, b.Containers, same)
}

// onStream queues the workloads of one kind that follow a tag which moved.
//
// The first list of streams queues nothing: the first list of workloads queues every one that has
// triggers, and none is reconciled before both lists are there. A deleted stream or tag queues
// nothing either: workloads keep the image they have.
func (k *kind) onStream(cache client.Reader) handler.EventHandler {
	return handler.Funcs{
		CreateFunc: func(ctx context.Context, e event.CreateEvent, q workqueue.TypedRateLimitingInterface[reconcile.Request]) {
			if !e.IsInInitialList {
				k.enqueue(ctx, cache, nil, e.Object, q)
			}
		},
		UpdateFunc: func(ctx context.Context, e event.UpdateEvent, q workqueue.TypedRateLimitingInterface[reconcile.Request]) {
			if e.ObjectOld.GetResourceVersion() != e.ObjectNew.GetResourceVersion() {
				k.enqueue(ctx, cache, e.ObjectOld, e.ObjectNew, q)
			}
		},
	}
}

// enqueue queues the followers of the tags that differ between two versions of a record; before may
// be nil. Its cost is that of the stream's tags and their followers.
func (k *kind) enqueue(ctx context.Context, cache client.Reader, before, after client.Object, q workqueue.TypedRateLimitingInterface[reconcile.Request]) {
	record, ok := after.(*storev1.StreamRecord)
	if !ok {
		return
	}
	old, _ := before.(*storev1.StreamRecord)
	if old == nil {
		old = &storev1.StreamRecord{}
	}
	requests := sets.New[reconcile.Request]()
	for _, tag := range movedTags(old, record) {
		istag := Istag{Namespace: record.Namespace, Stream: store.StreamName(record.Name), Tag: tag}
		if err := k.followers(ctx, cache, istag, requests); err != nil {
			logf.FromContext(ctx).Error(err, "followers of a tag that moved were not found", "kind", k.gvk.Kind, "istag", istag.String())
		}
	}
	for request := range requests {
		q.Add(request)
	}
}

// followers adds the workloads that follow a tag.
func (k *kind) followers(ctx context.Context, cache client.Reader, istag Istag, requests sets.Set[reconcile.Request]) error {
	list := k.newList()
	// Only names are read, so the objects may be the cache's own.
	if err := cache.List(ctx, list, client.MatchingFields{indexField: istag.String()}, client.UnsafeDisableDeepCopy); err != nil {
		return err
	}
	return meta.EachListItem(list, func(item runtime.Object) error {
		if obj, ok := item.(client.Object); ok {
			requests.Insert(reconcile.Request{NamespacedName: client.ObjectKeyFromObject(obj)})
		}
		return nil
	})
}

// movedTags returns the tags that mean an image now and meant another, or none, before.
func movedTags(before, after *storev1.StreamRecord) []string {
	oldEvents, oldPolicies := newestEvents(before), policies(before)
	newPolicies := policies(after)
	repository := before.Status.DockerImageRepository != after.Status.DockerImageRepository
	var moved []string
	for tag, newest := range newestEvents(after) {
		// PullSpec searches a record's lists. It is asked only where something that it reads has
		// changed, or a stream of many tags would cost their square at every event.
		old, ok := oldEvents[tag]
		if ok && !repository && oldPolicies[tag] == newPolicies[tag] &&
			old.Image == newest.Image && old.DockerImageReference == newest.DockerImageReference {
			continue
		}
		is, ok := store.PullSpec(after, tag)
		if was, _ := store.PullSpec(before, tag); ok && is != was {
			moved = append(moved, tag)
		}
	}
	slices.Sort(moved)
	return moved
}

func newestEvents(record *storev1.StreamRecord) map[string]*imagev1.TagEvent {
	newest := make(map[string]*imagev1.TagEvent, len(record.Status.Tags))
	for i := range record.Status.Tags {
		list := &record.Status.Tags[i]
		if _, ok := newest[list.Tag]; !ok && len(list.Items) > 0 {
			newest[list.Tag] = &list.Items[0]
		}
	}
	return newest
}

func policies(record *storev1.StreamRecord) map[string]imagev1.TagReferencePolicyType {
	types := make(map[string]imagev1.TagReferencePolicyType, len(record.Spec.Tags))
	for i := range record.Spec.Tags {
		tag := &record.Spec.Tags[i]
		if _, ok := types[tag.Name]; !ok {
			types[tag.Name] = tag.ReferencePolicy.Type
		}
	}
	return types
}
