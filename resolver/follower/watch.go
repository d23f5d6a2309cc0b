package follower

import (
	"context"
	"maps"
	"slices"

	authenticationv1 "k8s.io/api/authentication/v1"
	"k8s.io/apimachinery/pkg/api/equality"
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

// indexField is the name of the cache's index of stream records by the streams that they follow.
const indexField = "istag.dev/sources"

// sources returns the streams that a record's tags follow, as "namespace/stream".
func sources(obj client.Object) []string {
	record, ok := obj.(*storev1.StreamRecord)
	if !ok {
		return nil
	}
	var keys []string
	for _, h := range followedBy(record) {
		keys = append(keys, h.to.namespace+"/"+h.to.stream)
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

// following lets those records through that have tags which follow, so that all others cost nothing.
type following struct{ predicate.Funcs }

// Create implements predicate.Predicate.
func (following) Create(e event.CreateEvent) bool { return len(sources(e.Object)) > 0 }

// Update implements predicate.Predicate. A resync brings the same version again.
func (following) Update(e event.UpdateEvent) bool {
	return e.ObjectOld.GetResourceVersion() != e.ObjectNew.GetResourceVersion() && len(sources(e.ObjectNew)) > 0
}

// Delete implements predicate.Predicate.
func (following) Delete(event.DeleteEvent) bool { return false }

// onSource queues all records that follow a stream, directly or over others, when it comes, goes, or
// changes in a way that they can see.
//
// The first list queues nothing: it queues every record that follows anything by itself, and none is
// looked at before the whole list is there.
func onSource(cache client.Reader) handler.EventHandler {
	type queue = workqueue.TypedRateLimitingInterface[reconcile.Request]
	return handler.Funcs{
		CreateFunc: func(ctx context.Context, e event.CreateEvent, q queue) {
			if !e.IsInInitialList {
				enqueue(ctx, cache, e.Object, q)
			}
		},
		UpdateFunc: func(ctx context.Context, e event.UpdateEvent, q queue) {
			if visiblyChanged(e.ObjectOld, e.ObjectNew) {
				enqueue(ctx, cache, e.ObjectNew, q)
			}
		},
		DeleteFunc: func(ctx context.Context, e event.DeleteEvent, q queue) { enqueue(ctx, cache, e.Object, q) },
	}
}

func enqueue(ctx context.Context, cache client.Reader, source client.Object, q workqueue.TypedRateLimitingInterface[reconcile.Request]) {
	seen := sets.New(client.ObjectKeyFromObject(source))
	for todo := seen.UnsortedList(); len(todo) > 0; todo = todo[1:] {
		var list storev1.StreamRecordList
		key := todo[0].Namespace + "/" + store.StreamName(todo[0].Name)
		// Only names are read, so the records may be the cache's own.
		if err := cache.List(ctx, &list, client.MatchingFields{indexField: key}, client.UnsafeDisableDeepCopy); err != nil {
			logf.FromContext(ctx).Error(err, "followers of a stream that changed were not found", "stream", key)
			return
		}
		for i := range list.Items {
			follower := client.ObjectKeyFromObject(&list.Items[i])
			if !seen.Has(follower) {
				seen.Insert(follower)
				todo = append(todo, follower)
				q.Add(reconcile.Request{NamespacedName: follower})
			}
		}
	}
}

// visiblyChanged reports whether followers of a stream, near or far, might see a difference between two
// versions of it. Conditions, policies, labels and a resync make none.
func visiblyChanged(before, after client.Object) bool {
	old, ok := before.(*storev1.StreamRecord)
	if !ok {
		return false
	}
	record, ok := after.(*storev1.StreamRecord)
	if !ok || old.ResourceVersion == record.ResourceVersion {
		return false
	}
	return !maps.Equal(outline(old), outline(record)) || !equality.Semantic.DeepEqual(identities(old), identities(record))
}

// line is what followers can see of a tag.
type line struct{ image, reference, follows string }

func outline(record *storev1.StreamRecord) map[string]line {
	lines := make(map[string]line, len(record.Spec.Tags))
	for i := range record.Spec.Tags {
		tag := &record.Spec.Tags[i]
		var l line
		if target, ok := store.AliasTarget(record, tag); ok {
			l.follows = target
		} else if h, ok := hopFrom(record, tag); ok {
			l.follows = h.to.String()
		}
		lines[tag.Name] = l
	}
	for i := range record.Status.Tags {
		list := &record.Status.Tags[i]
		l := lines[list.Tag]
		if len(list.Items) > 0 {
			l.image, l.reference = list.Items[0].Image, list.Items[0].DockerImageReference
		}
		lines[list.Tag] = l
	}
	return lines
}

// identities returns whose rights the tags of a stream need that follow.
func identities(record *storev1.StreamRecord) map[string]*authenticationv1.UserInfo {
	found := map[string]*authenticationv1.UserInfo{}
	for i := range record.Record.Requests {
		if r := &record.Record.Requests[i]; r.Identity != nil {
			found[r.Tag] = r.Identity
		}
	}
	return found
}
