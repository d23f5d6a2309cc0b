package tags

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"sync"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/utils/ptr"

	storev1 "istag.dev/store/v1"
)

// Watch watches tags. Of each change of a stream it tells what became of those tags that changed with it.
//
// Many events then have one resource version, and a client that is cut off among them comes back with
// it. So that such a client misses nothing, the tags that went are told first and under the version
// before, and a watch that begins at the version of a stream tells that stream's tags once more, as
// modified. A client can hear of a tag twice, never too seldom.
func (r *resource[T]) Watch(ctx context.Context, options *metainternalversion.ListOptions) (watch.Interface, error) {
	narrow, err := narrowed(options)
	if err != nil {
		return nil, err
	}
	w := &tagWatch[T]{
		resource: r,
		narrow:   narrow,
		known:    map[types.UID][]T{},
		result:   make(chan watch.Event),
		stopped:  make(chan struct{}),
	}
	var again []T
	if !initialEvents(narrow.options) {
		if again, err = w.begin(ctx); err != nil {
			return nil, err
		}
	}
	streams, err := r.streams.Watch(ctx, narrow.options)
	if err != nil {
		return nil, err
	}
	go w.run(ctx, streams, again)
	return w, nil
}

// initialEvents reports whether a watch begins by telling what there is.
func initialEvents(options *metainternalversion.ListOptions) bool {
	return ptr.Deref(options.SendInitialEvents, options.ResourceVersion == "" || options.ResourceVersion == "0")
}

// tagWatch turns the events of streams into those of tags.
type tagWatch[T object] struct {
	*resource[T]
	narrow narrowing

	// known are the tags as the client knows them, by their stream, and version is up to where it knows all.
	// What is sent is a copy: who gets it writes to it.
	known   map[types.UID][]T
	version string

	result  chan watch.Event
	stop    sync.Once
	stopped chan struct{}
}

// Stop ends the watch. It can be called at any time, and more than once.
func (w *tagWatch[T]) Stop() { w.stop.Do(func() { close(w.stopped) }) }

// ResultChan returns the events. It is closed when the watch has ended, whoever ended it.
func (w *tagWatch[T]) ResultChan() <-chan watch.Event { return w.result }

// begin learns what a client knows that comes with a resource version: the streams as they were then. It returns the
// tags of which the client may not have been told. The error is a 410 if that version is too long ago.
func (w *tagWatch[T]) begin(ctx context.Context) ([]T, error) {
	list := &metainternalversion.ListOptions{
		LabelSelector: w.narrow.options.LabelSelector,
		FieldSelector: w.narrow.options.FieldSelector,
	}
	unversioned := w.narrow.options.ResourceVersion == "" || w.narrow.options.ResourceVersion == "0"
	if !unversioned {
		list.ResourceVersion, list.ResourceVersionMatch = w.narrow.options.ResourceVersion, metav1.ResourceVersionMatchExact
	}
	records, err := w.streams.List(ctx, list)
	if err != nil {
		return nil, err
	}
	if unversioned { // The client wants what changes from now on.
		w.narrow.options.ResourceVersion = records.ResourceVersion
	}
	w.version = w.narrow.options.ResourceVersion
	var again []T
	for i := range records.Items {
		record := &records.Items[i]
		w.known[record.UID] = w.project(record, w.narrow)
		if !unversioned && record.ResourceVersion == w.version {
			again = append(again, w.known[record.UID]...)
		}
	}
	return again, nil
}

func (w *tagWatch[T]) run(ctx context.Context, streams watch.Interface, again []T) {
	defer close(w.result)
	defer streams.Stop()
	for _, obj := range again {
		if !w.send(ctx, watch.Modified, obj.DeepCopyObject()) {
			return
		}
	}
	for {
		select {
		case event, ok := <-streams.ResultChan():
			if !ok || !w.tell(ctx, event) {
				return
			}
		case <-w.stopped:
			return
		case <-ctx.Done():
			return
		}
	}
}

func (w *tagWatch[T]) send(ctx context.Context, kind watch.EventType, obj runtime.Object) bool {
	select {
	case w.result <- watch.Event{Type: kind, Object: obj}:
		return true
	case <-w.stopped:
	case <-ctx.Done():
	}
	return false
}

// tell passes one event of a stream on and reports whether the watch goes on.
func (w *tagWatch[T]) tell(ctx context.Context, event watch.Event) bool {
	if event.Type == watch.Error {
		return w.send(ctx, watch.Error, event.Object)
	}
	record, ok := event.Object.(*storev1.StreamRecord)
	if !ok {
		failure := apierrors.NewInternalError(fmt.Errorf("the watch of streams brought a %T", event.Object)).Status()
		w.send(ctx, watch.Error, &failure)
		return false
	}
	if event.Type == watch.Bookmark {
		w.version = record.ResourceVersion
		bookmark := w.kind.empty()
		bookmark.SetResourceVersion(record.ResourceVersion)
		bookmark.SetAnnotations(maps.Clone(record.Annotations)) // They say when the initial events are over.
		return w.send(ctx, watch.Bookmark, bookmark)
	}
	var now []T
	if event.Type != watch.Deleted {
		now = w.project(record, w.narrow)
	}
	if !w.tellTags(ctx, w.known[record.UID], now, record.ResourceVersion) {
		return false
	}
	w.known[record.UID] = now
	if event.Type == watch.Deleted {
		delete(w.known, record.UID)
	}
	w.version = later(w.version, record.ResourceVersion)
	return true
}

// tellTags tells how the tags of a stream differ from what they were: first those that went.
func (w *tagWatch[T]) tellTags(ctx context.Context, before, now []T, version string) bool {
	remains := make(map[string]bool, len(now))
	for _, obj := range now {
		remains[obj.GetName()] = true
	}
	was := make(map[string]T, len(before))
	for _, obj := range before {
		was[obj.GetName()] = obj
		if remains[obj.GetName()] {
			continue
		}
		obj.SetResourceVersion(cmp.Or(w.version, version))
		if !w.send(ctx, watch.Deleted, obj) {
			return false
		}
	}
	for _, obj := range now {
		kind := watch.Added
		if old, ok := was[obj.GetName()]; ok {
			if same(old, obj) {
				continue
			}
			kind = watch.Modified
		}
		if !w.send(ctx, kind, obj.DeepCopyObject()) {
			return false
		}
	}
	return true
}

// same reports whether two views of a tag tell the same. Their resource versions are the stream's, which
// changes with every tag. It may change before, which is thrown away.
func same(before, now object) bool {
	before.SetResourceVersion(now.GetResourceVersion())
	return equality.Semantic.DeepEqual(before, now)
}

// later returns the later of two resource versions. The initial events of a watch come in the order of
// the streams' names, not of their versions.
func later(a, b string) string {
	if order, err := resourceversion.CompareResourceVersion(a, b); err == nil && order > 0 {
		return a
	}
	return b
}
