package crdstore

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/utils/ptr"

	storev1 "istag.dev/store/v1"
)

// patience bounds the wait for an event that must come.
const patience = 10 * time.Second

// TestWatch holds the promises of watches, against a real API server.
func TestWatch(t *testing.T) {
	cases := map[string]func(*testing.T, *backing){
		"it goes on where another ended":                        testWatchFrom,
		"without a version it begins with what is there":        testWatchInitial,
		"it tells the end of the initial events":                testWatchList,
		"it can begin without initial events":                   testWatchNoInitial,
		"a version too old is 410":                              testWatchExpired,
		"it is narrowed to a label":                             testWatchLabel,
		"it is narrowed to a name":                              testWatchName,
		"an object that comes to match is added, and back":      testWatchField,
		"what matched when it began is known, however it began": testWatchBaseline,
		"it ends when it is stopped, and again":                 testWatchStop,
	}
	for name, test := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, realBacking(t))
		})
	}
}

func testWatchFrom(t *testing.T, b *backing) {
	b.create(t, "before")
	from := b.create(t, "a_b").ResourceVersion
	b.change(t, "a_b", label("x", "1"))
	b.remove(t, "a_b")
	w := b.watch(t, "", storage.ListOptions{ResourceVersion: from, Predicate: predicate(nil, nil)})
	expect(t, w, "MODIFIED a_b", "DELETED a_b")
	last := b.create(t, "later")
	event := next(t, w)
	if diff := cmp.Diff(last, event.Object); diff != "" {
		t.Errorf("event (-created +event):\n%s", diff)
	}
}

func testWatchInitial(t *testing.T, b *backing) {
	b.create(t, "a")
	for _, version := range []string{"", "0"} {
		w := b.watch(t, "", storage.ListOptions{ResourceVersion: version, Predicate: predicate(nil, nil)})
		expect(t, w, "ADDED a")
	}
}

func testWatchList(t *testing.T, b *backing) {
	b.create(t, "a_b")
	b.create(t, "c")
	opts := storage.ListOptions{SendInitialEvents: ptr.To(true), Predicate: predicate(nil, nil)}
	opts.Predicate.AllowWatchBookmarks = true
	w := b.watch(t, "", opts)
	expect(t, w, "ADDED a_b", "ADDED c")
	end := next(t, w)
	mark, ok := end.Object.(*storev1.StreamRecord)
	if end.Type != watch.Bookmark || !ok || mark.Annotations[metav1.InitialEventsAnnotationKey] != "true" || mark.ResourceVersion == "" || mark.Kind != "" {
		t.Errorf("got %v", end)
	}
	b.create(t, "d")
	expect(t, w, "ADDED d")
}

func testWatchNoInitial(t *testing.T, b *backing) {
	b.create(t, "a", repository("r"))
	for _, selector := range []string{"", "spec.dockerImageRepository=r"} {
		opts := storage.ListOptions{SendInitialEvents: ptr.To(false), Predicate: predicate(nil, fields.ParseSelectorOrDie(selector))}
		opts.Predicate.AllowWatchBookmarks = true
		w := b.watch(t, "", opts)
		b.change(t, "a", label("x", selector[:min(1, len(selector))]))
		expect(t, w, "MODIFIED a")
	}
}

func testWatchExpired(t *testing.T, b *backing) {
	b.create(t, "a")
	w, err := b.streams.Watch(t.Context(), b.key(""), storage.ListOptions{Recursive: true, ResourceVersion: "1", Predicate: predicate(nil, nil)})
	if err != nil {
		if !apierrors.IsResourceExpired(err) {
			t.Fatal(err)
		}
		return
	}
	defer w.Stop()
	event := next(t, w)
	if status, ok := event.Object.(*metav1.Status); event.Type != watch.Error || !ok || status.Reason != metav1.StatusReasonExpired {
		t.Errorf("got %v", event)
	}
	if _, open := <-w.ResultChan(); open {
		t.Error("the watch goes on after an error")
	}
}

func testWatchLabel(t *testing.T, b *backing) {
	b.create(t, "a", label("x", "1"))
	b.create(t, "b")
	w := b.watch(t, "", storage.ListOptions{Predicate: predicate(labels.SelectorFromSet(labels.Set{"x": "1"}), nil)})
	expect(t, w, "ADDED a")
	b.change(t, "b", label("x", "1"))
	b.change(t, "a", label("x", "2"))
	expect(t, w, "ADDED b", "DELETED a")
}

func testWatchName(t *testing.T, b *backing) {
	selector := fields.OneTermEqualSelector("metadata.name", "a_b")
	w := b.watch(t, "a_b", storage.ListOptions{Predicate: predicate(nil, selector)})
	foreign := b.watch(t, "a--b", storage.ListOptions{Predicate: predicate(nil, fields.OneTermEqualSelector("metadata.name", "a--b"))})
	b.create(t, "a")
	b.create(t, "a_b")
	b.change(t, "a_b", label("x", "1"))
	b.remove(t, "a_b")
	expect(t, w, "ADDED a_b", "MODIFIED a_b", "DELETED a_b")
	select {
	case event := <-foreign.ResultChan():
		t.Errorf("the watch of another name has %v", event)
	default:
	}
}

func testWatchField(t *testing.T, b *backing) {
	b.create(t, "a", repository("r"))
	b.create(t, "b")
	w := b.watch(t, "", storage.ListOptions{Predicate: predicate(nil, fields.ParseSelectorOrDie("spec.dockerImageRepository=r"))})
	expect(t, w, "ADDED a")
	b.change(t, "b", label("x", "1"))
	b.change(t, "b", repository("r"))
	b.change(t, "a", label("x", "1"))
	b.change(t, "a", repository("other"))
	b.change(t, "a", label("x", "2"))
	b.remove(t, "a")
	b.remove(t, "b")
	expect(t, w, "ADDED b", "MODIFIED a", "DELETED a", "DELETED b")
}

func testWatchBaseline(t *testing.T, b *backing) {
	b.create(t, "a", repository("r"))
	b.create(t, "b")
	from := b.create(t, "c", repository("r")).ResourceVersion
	b.change(t, "a", repository("other"))
	b.change(t, "b", label("x", "1"))
	b.change(t, "c", label("x", "1"))
	w := b.watch(t, "", storage.ListOptions{ResourceVersion: from, Predicate: predicate(nil, fields.ParseSelectorOrDie("spec.dockerImageRepository=r"))})
	expect(t, w, "DELETED a", "MODIFIED c")
}

func testWatchStop(t *testing.T, b *backing) {
	w := b.watch(t, "", storage.ListOptions{Predicate: predicate(nil, nil)})
	// More than fit into its buffer, which nobody reads.
	for i := range watchBuffer + 10 {
		b.create(t, fmt.Sprint("s", i))
	}
	w.Stop()
	w.Stop()
	deadline := time.After(patience)
	for {
		select {
		case _, open := <-w.ResultChan():
			if !open {
				return
			}
		case <-deadline:
			t.Fatal("the watch did not end")
		}
	}
}

func (b *backing) watch(t *testing.T, name string, opts storage.ListOptions) watch.Interface {
	t.Helper()
	opts.Recursive = name == ""
	w, err := b.streams.Watch(t.Context(), b.key(name), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Stop)
	return w
}

func (b *backing) change(t *testing.T, name string, edit func(*storev1.StreamRecord)) {
	t.Helper()
	if _, err := b.update(t.Context(), name, edit); err != nil {
		t.Fatal(err)
	}
}

func (b *backing) remove(t *testing.T, name string) {
	t.Helper()
	if err := b.streams.Delete(t.Context(), b.key(name), &storev1.StreamRecord{}, nil, storage.ValidateAllObjectFunc, nil, storage.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
}

func next(t *testing.T, w watch.Interface) watch.Event {
	t.Helper()
	select {
	case event, open := <-w.ResultChan():
		if !open {
			t.Fatal("the watch ended")
		}
		return event
	case <-time.After(patience):
		t.Fatal("no event came")
	}
	return watch.Event{}
}

func expect(t *testing.T, w watch.Interface, want ...string) {
	t.Helper()
	var got []string
	for range want {
		got = append(got, told(next(t, w)))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

func told(event watch.Event) string {
	if record, ok := event.Object.(*storev1.StreamRecord); ok {
		return fmt.Sprint(event.Type, " ", record.Name)
	}
	return fmt.Sprintf("%s %v", event.Type, event.Object)
}
