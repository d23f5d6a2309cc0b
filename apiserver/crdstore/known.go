package crdstore

import (
	"math"
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"k8s.io/apimachinery/pkg/types"
)

// maxKnown bounds what is remembered, in bytes of JSON. In memory that is about twice as much.
const maxKnown = 32 << 20

// known remembers the objects that were listed last. Of one UID and resource version there is only one
// object, so whoever knows both need not be sent it again.
type known[T any, P object[T]] struct {
	mu      sync.Mutex
	objects *simplelru.LRU[types.UID, remembered[T]]
	size    int
	in      map[string]int // how many objects of a namespace
}

// remembered is an object, which nobody may change, and what it takes as JSON.
type remembered[T any] struct {
	object *T
	size   int
}

func newKnown[T any, P object[T]]() *known[T, P] {
	k := &known[T, P]{in: map[string]int{}}
	k.objects, _ = simplelru.NewLRU(math.MaxInt, k.forget) // fails only for sizes of less than 1
	return k
}

func (k *known[T, P]) forget(_ types.UID, r remembered[T]) {
	k.size -= r.size
	namespace := P(r.object).GetNamespace()
	if k.in[namespace]--; k.in[namespace] == 0 {
		delete(k.in, namespace)
	}
}

// any reports whether an object of a namespace is known, or of any if it is empty.
func (k *known[T, P]) any(namespace string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if namespace == "" {
		return k.size > 0
	}
	return k.in[namespace] > 0
}

// get returns an object, or nil if it is not known.
func (k *known[T, P]) get(uid types.UID, resourceVersion string) *T {
	k.mu.Lock()
	defer k.mu.Unlock()
	r, ok := k.objects.Get(uid)
	if !ok || P(r.object).GetResourceVersion() != resourceVersion {
		return nil
	}
	return r.object
}

// add remembers objects that together take so many bytes as JSON, unless those are too many. What the
// objects lead to must not change from now on.
func (k *known[T, P]) add(objects []T, size int) {
	if size > maxKnown {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for i := range objects {
		object := objects[i] // not to keep the whole list for one
		k.objects.Remove(P(&object).GetUID())
		k.objects.Add(P(&object).GetUID(), remembered[T]{&object, size / len(objects)})
		k.size += size / len(objects)
		k.in[P(&object).GetNamespace()]++
	}
	for k.size > maxKnown {
		k.objects.RemoveOldest()
	}
}
