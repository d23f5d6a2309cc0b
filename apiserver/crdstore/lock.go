package crdstore

import (
	"context"
	"slices"
	"sync"
)

// locks let one writer of this process at a time change an object. Each write of a record is refused
// unless it is based on the newest one: without turns, of many writers all but one would try again each
// time. Whoever has the turn can carry the changes of those who wait, so that many take few writes.
type locks[T any] struct {
	mu  sync.Mutex
	all map[string]*lock[T]
}

func newLocks[T any]() *locks[T] { return &locks[T]{all: map[string]*lock[T]{}} }

// lock is held by whoever has taken from turn what is in it.
type lock[T any] struct {
	turn    chan struct{}
	users   int         // that hold it or wait for it, guarded by locks.mu
	waiting []*rider[T] // that nobody carries now, guarded by locks.mu
	// latest is the object as its last writer left it, if that is known. The holder owns it.
	latest *T
}

// rider is a writer who waits, and lets others make its change.
type rider[T any] struct {
	// change returns what an object is to become; nil if it is that already, or is not to be written.
	change func(*T) (*T, error)
	// written gets the object once it is written.
	written chan *T
}

func newRider[T any](change func(*T) (*T, error)) *rider[T] {
	return &rider[T]{change, make(chan *T, 1)}
}

// acquire waits for the key's turn, for as long as ctx allows. If somebody else has made the change of r,
// which can be nil, meanwhile, it returns the object as it then was written, and no lock.
func (l *locks[T]) acquire(ctx context.Context, key string, r *rider[T]) (*lock[T], *T, error) {
	k := l.join(key, r)
	var written chan *T
	if r != nil {
		written = r.written
	}
	select {
	case <-k.turn:
	case object := <-written:
		l.leave(key, k)
		return nil, object, nil
	case <-ctx.Done():
		if r == nil || l.dismount(k, r) {
			l.leave(key, k)
			return nil, nil, ctx.Err()
		}
		// It is being carried, and its change in use: that ends soon.
		select {
		case <-k.turn:
		case object := <-written:
			l.leave(key, k)
			return nil, object, nil
		}
	}
	if r != nil && !l.dismount(k, r) {
		l.release(key, k)
		return nil, <-written, nil
	}
	return k, nil, nil
}

func (l *locks[T]) join(key string, r *rider[T]) *lock[T] {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := l.all[key]
	if k == nil {
		k = &lock[T]{turn: make(chan struct{}, 1)}
		k.turn <- struct{}{}
		l.all[key] = k
	}
	k.users++
	if r != nil {
		k.waiting = append(k.waiting, r)
	}
	return k
}

// dismount ends the waiting of a rider, and reports whether it was nobody's.
func (l *locks[T]) dismount(k *lock[T], r *rider[T]) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := slices.Index(k.waiting, r)
	if i >= 0 {
		k.waiting = slices.Delete(k.waiting, i, i+1)
	}
	return i >= 0
}

// maxCarried bounds what one writer does for others.
const maxCarried = 64

// carry makes of an object what those who wait want it to become, too. The caller holds the lock, and
// must call settle with the outcome: the object as it was written, or nil if it was not.
func (l *locks[T]) carry(k *lock[T], object *T, prepare func(*T) *T) (next *T, settle func(written *T, copied func(*T) *T)) {
	l.mu.Lock()
	n := min(len(k.waiting), maxCarried)
	riders := slices.Clone(k.waiting[:n])
	k.waiting = slices.Delete(k.waiting, 0, n)
	l.mu.Unlock()
	back := func(left []*rider[T]) {
		l.mu.Lock()
		defer l.mu.Unlock()
		k.waiting = append(left, k.waiting...)
	}
	var carried, refused []*rider[T]
	prepared := false
	defer func() {
		if !prepared { // A change panicked, which must not leave the others waiting for ever.
			back(riders)
		}
	}()
	for _, r := range riders {
		changed, err := r.change(prepare(object))
		if err != nil || changed == nil {
			// What another has not written yet is no reason to refuse a change: it gets its own turn.
			refused = append(refused, r)
			continue
		}
		object, carried = changed, append(carried, r)
	}
	prepared = true
	return object, func(written *T, copied func(*T) *T) {
		if written == nil {
			back(riders)
			return
		}
		for _, r := range carried {
			r.written <- copied(written)
		}
		back(refused)
	}
}

// release gives the turn to whoever has waited longest.
func (l *locks[T]) release(key string, k *lock[T]) {
	k.turn <- struct{}{}
	l.leave(key, k)
}

func (l *locks[T]) leave(key string, k *lock[T]) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if k.users--; k.users == 0 {
		delete(l.all, key)
	}
}

// awaited tells whether someone waits for a turn that the caller has.
func (l *locks[T]) awaited(k *lock[T]) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return k.users > 1
}
