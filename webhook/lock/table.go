package lock

import (
	"fmt"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// revision is what is kept of a locked revision.
type revision struct {
	uid, controller types.UID
	label           string
	lock            Lock
}

// is reports whether this is the revision that is asked for, and not another of its name.
func (r *revision) is(asked Revision) bool {
	if asked.UID != "" && asked.UID != r.uid {
		return false
	}
	// What nobody controls is about to be adopted.
	return asked.Controller == "" || r.controller == "" || asked.Controller == r.controller
}

// table holds the locked revisions of one resource. A client-go reflector feeds it (it is a
// cache.ReflectorStore).
type table struct {
	resource schema.GroupVersionResource

	mu     sync.RWMutex
	held   held
	synced chan struct{}
	once   sync.Once
}

func newTable(resource schema.GroupVersionResource) *table {
	return &table{resource: resource, held: newHeld(0), synced: make(chan struct{})}
}

// get returns a revision, nil if there is no locked one of the name.
func (t *table) get(name types.NamespacedName) *revision {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.held.revisions[name]
}

// Add puts a *metav1.PartialObjectMetadata into the table.
func (t *table) Add(obj any) error {
	object, err := asMetadata(obj)
	if err != nil {
		return err
	}
	found, text := newRevision(object)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.held.put(nameOf(object), found, text)
	return nil
}

// Update puts the newer form of a *metav1.PartialObjectMetadata into the table.
func (t *table) Update(obj any) error { return t.Add(obj) }

// Delete takes a *metav1.PartialObjectMetadata out of the table.
func (t *table) Delete(obj any) error {
	object, err := asMetadata(obj)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.held.drop(nameOf(object))
	return nil
}

// Replace makes the table hold exactly the *metav1.PartialObjectMetadata given.
func (t *table) Replace(list []any, _ string) error {
	next := newHeld(len(list))
	for _, obj := range list {
		object, err := asMetadata(obj)
		if err != nil {
			return err
		}
		found, text := newRevision(object)
		next.put(nameOf(object), found, text)
	}
	t.mu.Lock()
	t.held = next
	t.mu.Unlock()
	t.once.Do(func() { close(t.synced) })
	return nil
}

// Resync does nothing: the table has no second reader to tell.
func (t *table) Resync() error { return nil }

// held are locked revisions. Equal locks are decoded once and kept once: those of the Jobs of a CronJob,
// those of a Deployment's ReplicaSets while its tags rest.
type held struct {
	revisions map[types.NamespacedName]*revision
	locks     map[string]*counted // by their labels
}

// counted is a lock with the number of revisions that have it.
type counted struct {
	lock  Lock
	users int
}

func newHeld(size int) held {
	return held{revisions: make(map[types.NamespacedName]*revision, size), locks: map[string]*counted{}}
}

// put takes a revision in with the text of its lock, or out if it has none that is whole.
func (h *held) put(name types.NamespacedName, r *revision, text string) {
	if r == nil {
		h.drop(name)
		return
	}
	c := h.locks[r.label]
	if c == nil {
		lock, ok := parse(text)
		if !ok {
			h.drop(name)
			return
		}
		c = &counted{lock: lock}
		h.locks[r.label] = c
	}
	c.users++ // before the lock that it had is dropped, which may be the same
	h.drop(name)
	r.lock = c.lock
	h.revisions[name] = r
}

func (h *held) drop(name types.NamespacedName) {
	had := h.revisions[name]
	if had == nil {
		return
	}
	delete(h.revisions, name)
	c := h.locks[had.label]
	if c.users--; c.users == 0 {
		delete(h.locks, had.label)
	}
}

// newRevision returns a revision with the text of its lock, which is not read yet; nil if there is none.
func newRevision(object *metav1.PartialObjectMetadata) (r *revision, text string) {
	label, text, ok := read(object.Labels, object.Annotations)
	if !ok {
		return nil, ""
	}
	r = &revision{uid: object.UID, label: label}
	if controller := metav1.GetControllerOfNoCopy(object); controller != nil {
		r.controller = controller.UID
	}
	return r, text
}

func nameOf(object *metav1.PartialObjectMetadata) types.NamespacedName {
	return types.NamespacedName{Namespace: object.Namespace, Name: object.Name}
}

func asMetadata(obj any) (*metav1.PartialObjectMetadata, error) {
	object, ok := obj.(*metav1.PartialObjectMetadata)
	if !ok {
		return nil, fmt.Errorf("the index of locks takes a *PartialObjectMetadata, got %T", obj)
	}
	return object, nil
}
