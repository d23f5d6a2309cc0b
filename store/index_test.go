package store

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	imagev1 "github.com/openshift/api/image/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	storev1 "istag.dev/store/v1"
)

func TestNewStream(t *testing.T) {
	r := recordOf("a--b", fromImage("pending", "quay.io/a/b:1"))
	r.Spec.LookupPolicy.Local = true
	r.Record.Generation = 7
	failed := []imagev1.TagEventCondition{{Type: imagev1.ImportSuccess, Status: corev1.ConditionFalse, Message: "no"}}
	r.Status.Tags = []imagev1.NamedTagEventList{
		{Tag: "digest", Items: []imagev1.TagEvent{event("quay.io/a/b@"+digestA, digestA, 1, t0), event("quay.io/a/b@"+digestB, digestB, 1, t0)}},
		{Tag: "port", Items: []imagev1.TagEvent{event("reg:5000/a/b:1", digestA, 1, t0)}},
		{Tag: "reference", Items: []imagev1.TagEvent{event("quay.io/a/b:1", "", 1, t0)}},
		{Tag: "failed", Items: []imagev1.TagEvent{}, Conditions: failed},
	}
	s := NewStream(r)
	if s.Namespace != "shop" || s.Name != "a_b" || !s.Local || s.Generation != 7 {
		t.Errorf("got %+v", s)
	}
	want := []Tag{
		{Name: "digest", Image: digestA, Pinned: "quay.io/a/b@" + digestA},
		{Name: "failed", Failure: "no"},
		{Name: "pending", Awaited: true},
		{Name: "port", Image: digestA, Pinned: "reg:5000/a/b@" + digestA},
		{Name: "reference", Reference: true},
	}
	if diff := cmp.Diff(want, s.tags); diff != "" {
		t.Errorf("tags of spec and status, by name, pinned by the newest digest: -want +got:\n%s", diff)
	}
	for _, tag := range want {
		if got, ok := s.Tag(tag.Name); !ok || got != tag {
			t.Errorf("Tag(%q) = %+v, %v", tag.Name, got, ok)
		}
	}
	if _, ok := s.Tag("absent"); ok {
		t.Error("an absent tag is not found")
	}
}

func TestStreamSaysWhoMovedATag(t *testing.T) {
	by := func(user string) *storev1.Requester { return &storev1.Requester{User: user, Verb: "update"} }
	later := metav1.NewTime(t0.Add(time.Hour))
	origin := func(tag, image string, at metav1.Time, by *storev1.Requester) storev1.TagEventOrigin {
		return storev1.TagEventOrigin{Tag: tag, Image: image, Created: at, Via: storev1.ViaCopy, By: by}
	}
	r := recordOf("a")
	for _, tag := range []string{"back", "moved", "unknown", "unnamed"} {
		r.Status.Tags = append(r.Status.Tags, imagev1.NamedTagEventList{Tag: tag, Items: []imagev1.TagEvent{
			event("quay.io/a/b@"+digestA, digestA, 2, later), event("quay.io/a/b@"+digestB, digestB, 1, t0),
		}})
	}
	r.Record.Origins = []storev1.TagEventOrigin{
		origin("moved", digestA, later, by("bob")), origin("moved", digestB, t0, by("alice")),
		origin("back", digestA, t0, by("alice")), origin("back", digestA, later, by("carol")),
		origin("unknown", digestB, t0, by("alice")),
		origin("unnamed", digestA, later, nil),
		origin("gone", digestA, later, by("bob")),
	}
	cases := map[string]struct{ reason, want string }{
		"moved":   {"who made the newest event counts, not who made an older one", "bob"},
		"back":    {"an event is known by its time too, so that who moved a tag back to an image is told from who first did", "carol"},
		"unknown": {"what is not known of the newest event is not guessed from an older one", ""},
		"unnamed": {"an event that nobody asked for names nobody", ""},
	}
	s := NewStream(r)
	for name, tc := range cases {
		if tag, ok := s.Tag(name); !ok || tag.MovedBy != tc.want {
			t.Errorf("%s: tag %q was moved by %q, want %q", tc.reason, name, tag.MovedBy, tc.want)
		}
	}
}

func TestIndexSnapshots(t *testing.T) {
	x := NewIndex()
	select {
	case <-x.Synced():
		t.Fatal("an index is not synced before its first list")
	default:
	}
	if err := x.Replace([]any{recordOf("a"), recordOf("b")}, "1"); err != nil {
		t.Fatal(err)
	}
	<-x.Synced()
	before := x.Snapshot()
	if err := x.Delete(recordOf("a")); err != nil {
		t.Fatal(err)
	}
	if err := x.Add(recordOf("c")); err != nil {
		t.Fatal(err)
	}
	has := func(s Snapshot) (names []string) {
		for _, name := range []string{"a", "b", "c"} {
			if _, ok := s.Stream("shop", name); ok {
				names = append(names, name)
			}
		}
		return names
	}
	if diff := cmp.Diff([]string{"a", "b"}, has(before)); diff != "" {
		t.Errorf("a snapshot never changes: -want +got:\n%s", diff)
	}
	if diff := cmp.Diff([]string{"b", "c"}, has(x.Snapshot())); diff != "" {
		t.Errorf("a new snapshot has every change: -want +got:\n%s", diff)
	}
	if _, ok := x.Snapshot().Stream("sho", "p/b"); ok {
		t.Error("namespace and name cannot run into each other")
	}
	if err := x.Replace([]any{recordOf("a")}, "2"); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"a"}, has(x.Snapshot())); diff != "" {
		t.Errorf("a new list replaces everything: -want +got:\n%s", diff)
	}
	if err := x.Add("text"); err == nil {
		t.Error("only records fit")
	}
	if _, ok := (Snapshot{}).Stream("shop", "a"); ok {
		t.Error("the zero snapshot is empty")
	}
}

func TestTagIsAwaited(t *testing.T) {
	failed := []imagev1.TagEventCondition{{Type: imagev1.ImportSuccess, Status: corev1.ConditionFalse, Message: "no"}}
	r := recordOf("a", fromImage("new", "quay.io/a/b:1"), fromImage("failed", "quay.io/a/b:2"), fromImage("done", "quay.io/a/b:3"), imagev1.TagReference{Name: "empty"})
	reference := fromImage("reference", "quay.io/a/b:4")
	reference.Reference = true
	r.Spec.Tags = append(r.Spec.Tags, reference)
	r.Status.Tags = []imagev1.NamedTagEventList{
		{Tag: "done", Items: []imagev1.TagEvent{event("quay.io/a/b@"+digestA, digestA, 1, t0)}},
		{Tag: "failed", Items: []imagev1.TagEvent{}, Conditions: failed},
	}
	cases := map[string]struct {
		reason string
		want   bool
	}{
		"new":       {"its import goes on", true},
		"failed":    {"its import is over, for now", false},
		"done":      {"it has an image", false},
		"empty":     {"it follows nothing", false},
		"reference": {"a reference is never imported", false},
	}
	s := NewStream(r)
	for name, tc := range cases {
		if tag, ok := s.Tag(name); !ok || tag.Awaited != tc.want {
			t.Errorf("%s: tag %q: awaited %v, want %v", tc.reason, name, tag.Awaited, tc.want)
		}
	}
}

func TestIndexWatch(t *testing.T) {
	x := NewIndex()
	if err := x.Replace([]any{recordOf("a"), recordOf("b")}, "1"); err != nil {
		t.Fatal(err)
	}
	closed := func(c <-chan struct{}) bool {
		select {
		case <-c:
			return true
		default:
			return false
		}
	}
	steps := []struct {
		reason, name string
		change       func() error
		tells        bool
	}{
		{"a stream that changes is told of", "a", func() error { return x.Update(recordOf("a")) }, true},
		{"another that changes is not", "a", func() error { return x.Update(recordOf("b")) }, false},
		{"a stream that comes is told of", "new", func() error { return x.Add(recordOf("new")) }, true},
		{"one that goes too", "new", func() error { return x.Delete(recordOf("new")) }, true},
		{"after a new list nothing is certain", "b", func() error { return x.Replace([]any{recordOf("b")}, "2") }, true},
	}
	for _, s := range steps {
		before, changed := x.Watch("shop", s.name)
		if closed(changed) {
			t.Errorf("%s: but nothing has changed yet", s.reason)
		}
		// Private snapshots share parts with the index and must not disturb it.
		before.With(NewStream(recordOf(s.name)))
		if err := s.change(); err != nil {
			t.Fatal(err)
		}
		if closed(changed) != s.tells {
			t.Errorf("%s: told: %v", s.reason, closed(changed))
		}
	}
}

// TestIndexWatchOfMany replaces more streams than the index keeps account of one by one.
func TestIndexWatchOfMany(t *testing.T) {
	var list []any
	for i := range 5000 {
		list = append(list, recordOf(fmt.Sprintf("s%d", i)))
	}
	x := NewIndex()
	if err := x.Replace(list, "1"); err != nil {
		t.Fatal(err)
	}
	_, changed := x.Watch("shop", "s7")
	if err := x.Replace(list, "2"); err != nil {
		t.Fatal(err)
	}
	<-changed
	if got := x.Snapshot().Len(); got != len(list) {
		t.Errorf("a new list replaces everything: %d streams", got)
	}
}

func TestIndexHeard(t *testing.T) {
	x := NewIndex()
	if !x.Heard().IsZero() {
		t.Error("an index has heard nothing at first")
	}
	steps := []struct {
		what string
		do   func() error
	}{
		{"a list", func() error { return x.Replace([]any{recordOf("a")}, "1") }},
		{"a stream", func() error { return x.Update(recordOf("a")) }},
		{"a bookmark", func() error { return x.Bookmark("2") }},
		{"a deletion", func() error { return x.Delete(recordOf("a")) }},
	}
	for _, s := range steps {
		before := time.Now()
		if err := s.do(); err != nil {
			t.Fatal(err)
		}
		if got := x.Heard(); got.Before(before) || got.After(time.Now()) {
			t.Errorf("%s is heard: %v, between %v and now", s.what, got, before)
		}
	}
}

func TestIndexReadersAndWriters(t *testing.T) {
	x := NewIndex()
	var writers sync.WaitGroup
	for i := range 4 {
		writers.Go(func() {
			for j := range 200 {
				if err := x.Add(recordOf(fmt.Sprintf("s%d-%d", i, j))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for last := 0; last < 800; {
				got := x.Snapshot().Len()
				if got < last {
					t.Errorf("the index shrank from %d to %d", last, got)
				}
				last = got
			}
		})
	}
	writers.Wait()
	readers.Wait()
}
