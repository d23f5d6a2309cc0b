package crdstore

import (
	"context"
	"sync"
)

// locks let one writer of this process at a time change an object. Each write of a record is refused
// unless it is based on the newest one: without turns, of many writers all but one would try again each
// time.
type locks[T any] struct {
	mu  sync.Mutex
	all map[string]*lock[T]
}

func newLocks[T any]() *locks[T] { return &locks[T]{all: map[string]*lock[T]{}} }

// lock is held by whoever has taken from turn what is in it.
type lock[T any] struct {
	turn  chan struct{}
	users int // that hold it or wait for it, guarded by locks.mu
	// latest is the object as its last writer left it, if that is known. The holder owns it.
	latest *T
}

// acquire waits for the key's turn, for as long as ctx allows.
func (l *locks[T]) acquire(ctx context.Context, key string) (*lock[T], error) {
	l.mu.Lock()
	k := l.all[key]
	if k == nil {
		k = &lock[T]{turn: make(chan struct{}, 1)}
		k.turn <- struct{}{}
		l.all[key] = k
	}
	k.users++
	l.mu.Unlock()
	select {
	case <-k.turn:
		return k, nil
	case <-ctx.Done():
		l.leave(key, k)
		return nil, ctx.Err()
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
