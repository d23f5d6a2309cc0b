package crdstore

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"testing"
)

// word is an object to which writers add letters.
type word = string

// adding is a change that adds a letter; it refuses what does not end with one of after, if that is not empty.
func adding(letter, after string) *rider[word] {
	return newRider(func(w *word) (*word, error) {
		if after != "" && (*w == "" || (*w)[len(*w)-1:] != after) {
			return nil, errors.New("not yet")
		}
		next := *w + letter
		return &next, nil
	})
}

// outcome of a writer's wait.
type outcome struct {
	lock   *lock[word]
	object *word
	err    error
}

// board lets a writer wait, and returns once it does.
func board(ctx context.Context, l *locks[word], r *rider[word]) <-chan outcome {
	done := make(chan outcome, 1)
	go func() {
		k, object, err := l.acquire(ctx, "key", r)
		done <- outcome{k, object, err}
	}()
	for {
		l.mu.Lock()
		waits := l.all["key"] != nil && slices.Contains(l.all["key"].waiting, r)
		l.mu.Unlock()
		if waits {
			return done
		}
		runtime.Gosched()
	}
}

// hold takes the turn.
func hold(t *testing.T, l *locks[word]) *lock[word] {
	t.Helper()
	k, object, err := l.acquire(t.Context(), "key", adding("h", ""))
	if k == nil || object != nil || err != nil {
		t.Fatalf("a turn that nobody has is taken at once: got %v, %v, %v", k, object, err)
	}
	return k
}

func same(w *word) *word { return w }

func copied(w *word) *word { next := *w; return &next }

func checkNoneLeft(t *testing.T, l *locks[word]) {
	t.Helper()
	if len(l.all) > 0 {
		t.Errorf("%d locks are left", len(l.all))
	}
}

func TestCarry(t *testing.T) {
	l := newLocks[word]()
	k := hold(t, l)
	a := board(t.Context(), l, adding("a", ""))
	refused := board(t.Context(), l, adding("z", "y"))
	b := board(t.Context(), l, adding("b", "a"))

	begin := "h"
	all, settle := l.carry(k, &begin, same)
	if *all != "hab" {
		t.Errorf("changes are made in the order of waiting, each on what those before made: got %q", *all)
	}
	settle(all, copied)
	for _, done := range []<-chan outcome{a, b} {
		if o := <-done; o.lock != nil || o.err != nil || *o.object != "hab" {
			t.Errorf("whoever was carried gets the object as written, and no turn: got %+v", o)
		}
	}
	l.release("key", k)
	o := <-refused
	if o.lock == nil || o.object != nil || o.err != nil {
		t.Fatalf("whose change was refused on what was not written gets a turn: got %+v", o)
	}
	l.release("key", o.lock)
	checkNoneLeft(t, l)
}

func TestCarriedInVain(t *testing.T) {
	l := newLocks[word]()
	k := hold(t, l)
	a := board(t.Context(), l, adding("a", ""))
	begin := "h"
	_, settle := l.carry(k, &begin, same)
	settle(nil, copied)
	l.release("key", k)
	o := <-a
	if o.lock == nil || o.err != nil {
		t.Fatalf("whose change was not written gets a turn: got %+v", o)
	}
	l.release("key", o.lock)
	checkNoneLeft(t, l)
}

func TestCarriedPastItsTime(t *testing.T) {
	l := newLocks[word]()
	k := hold(t, l)
	ctx, cancel := context.WithCancel(t.Context())
	early, a := board(ctx, l, adding("e", "never")), board(ctx, l, adding("a", ""))
	begin := "h"
	all, settle := l.carry(k, &begin, same)
	cancel()
	select {
	case o := <-a:
		t.Fatalf("a change that is in use is waited for: got %+v", o)
	case o := <-early:
		t.Fatalf("and so is one that may yet be: got %+v", o)
	default:
	}
	settle(all, copied)
	if o := <-a; o.err != nil || *o.object != "ha" {
		t.Errorf("what was written is told, time or no time: got %+v", o)
	}
	l.release("key", k)
	if o := <-early; o.lock != nil {
		l.release("key", o.lock)
	}
	checkNoneLeft(t, l)
}

func TestLeavesInTime(t *testing.T) {
	l := newLocks[word]()
	k := hold(t, l)
	ctx, cancel := context.WithCancel(t.Context())
	a := board(ctx, l, adding("a", ""))
	cancel()
	if o := <-a; !errors.Is(o.err, context.Canceled) || o.lock != nil || o.object != nil {
		t.Errorf("nobody waits longer than it has time: got %+v", o)
	}
	begin := "h"
	all, settle := l.carry(k, &begin, same)
	settle(all, copied)
	if *all != "h" {
		t.Errorf("the change of one who has left is not made: got %q", *all)
	}
	l.release("key", k)
	checkNoneLeft(t, l)
}

func TestCarriedPanic(t *testing.T) {
	l := newLocks[word]()
	k := hold(t, l)
	a := board(t.Context(), l, adding("a", ""))
	bad := board(t.Context(), l, newRider(func(*word) (*word, error) {
		var none *word
		return copied(none), nil
	}))
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic is whoever carries's to see")
			}
			l.release("key", k)
		}()
		begin := "h"
		l.carry(k, &begin, same)
	}()
	for range 2 {
		var o outcome
		select {
		case o = <-a:
		case o = <-bad:
		}
		if o.lock == nil || o.err != nil {
			t.Fatalf("those who were to be carried get their turns: got %+v", o)
		}
		l.release("key", o.lock)
	}
	checkNoneLeft(t, l)
}
