package importer

import (
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"istag.dev/store"
	storev1 "istag.dev/store/v1"
)

// needed lets only those records through that want something, so that idle streams cost nothing, at
// start and at every resync.
type needed struct{ predicate.Funcs }

// Create implements predicate.Predicate.
func (needed) Create(e event.CreateEvent) bool { return wants(e.Object) }

// Update implements predicate.Predicate. A resync brings the same version again: what that wants is
// already in the queue.
func (needed) Update(e event.UpdateEvent) bool {
	return e.ObjectOld.GetResourceVersion() != e.ObjectNew.GetResourceVersion() && wants(e.ObjectNew)
}

// Generic implements predicate.Predicate.
func (needed) Generic(e event.GenericEvent) bool { return wants(e.Object) }

func wants(object any) bool {
	record, ok := object.(*storev1.StreamRecord)
	if !ok || !record.DeletionTimestamp.IsZero() {
		return false
	}
	if len(failing(record)) > 0 {
		return true
	}
	for i := range record.Spec.Tags {
		if store.Pending(record, &record.Spec.Tags[i]) {
			return true
		}
	}
	return false
}

// failing returns the tags whose last import failed and may succeed another time.
func failing(record *storev1.StreamRecord) []string {
	var tags []string
	for i := range record.Status.Tags {
		name := record.Status.Tags[i].Tag
		if store.ImportFailure(&record.Status, name) == nil {
			continue
		}
		if tag := store.SpecTag(&record.Spec, name); tag != nil && store.Importable(tag) {
			tags = append(tags, name)
		}
	}
	return tags
}
