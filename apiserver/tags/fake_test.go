package tags

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	imagev1 "github.com/openshift/api/image/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/utils/ptr"

	"istag.dev/apiserver/streams"
	"istag.dev/store"
	storev1 "istag.dev/store/v1"
)

const namespace = "shop"

var start = metav1.NewTime(time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC))

func in(t testing.TB, verb string) context.Context {
	ctx := request.WithNamespace(t.Context(), namespace)
	ctx = request.WithUser(ctx, &user.DefaultInfo{Name: "alice"})
	return request.WithRequestInfo(ctx, &request.RequestInfo{IsResourceRequest: true, Verb: verb, Resource: "imagestreamtags"})
}

// fakeStreams keeps streams in memory as the API server keeps records: every write gets the next
// resource version, and what was at each version is remembered until it is compacted.
type fakeStreams struct {
	mu sync.Mutex
	// revisions[i] is everything as it was at resource version i.
	revisions []map[types.NamespacedName]*storev1.StreamRecord
	compacted int
	changed   *sync.Cond
	// before is called before each write of an Update, for another writer to come between.
	before func(attempt int)
	// watched are the options that Watch was called with last; open counts the watches that run.
	watched metainternalversion.ListOptions
	open    sync.WaitGroup
	// last are the options that Update was called with last.
	last streams.UpdateOptions
	// listed are those that List was.
	listed metainternalversion.ListOptions
}

func newFakeStreams(records ...*storev1.StreamRecord) *fakeStreams {
	f := &fakeStreams{revisions: []map[types.NamespacedName]*storev1.StreamRecord{{}}}
	f.changed = sync.NewCond(&f.mu)
	for _, r := range records {
		f.put(r)
	}
	return f
}

func key(r *storev1.StreamRecord) types.NamespacedName {
	return types.NamespacedName{Namespace: r.Namespace, Name: r.Name}
}

func (f *fakeStreams) now() map[types.NamespacedName]*storev1.StreamRecord {
	return f.revisions[len(f.revisions)-1]
}

// write adds a revision; a nil record deletes.
func (f *fakeStreams) write(k types.NamespacedName, record *storev1.StreamRecord) *storev1.StreamRecord {
	next := maps.Clone(f.now())
	delete(next, k)
	if record != nil {
		record = record.DeepCopy()
		record.ResourceVersion = strconv.Itoa(len(f.revisions))
		if record.UID == "" {
			record.UID, record.CreationTimestamp = uuid.NewUUID(), start
		}
		next[k] = record
	}
	f.revisions = append(f.revisions, next)
	f.changed.Broadcast()
	return record
}

func (f *fakeStreams) put(record *storev1.StreamRecord) *storev1.StreamRecord {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.write(key(record), record).DeepCopy()
}

func (f *fakeStreams) remove(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.write(types.NamespacedName{Namespace: namespace, Name: name}, nil)
}

func (f *fakeStreams) compact() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.compacted = len(f.revisions) - 1
}

func (f *fakeStreams) version() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return strconv.Itoa(len(f.revisions) - 1)
}

func (f *fakeStreams) Get(ctx context.Context, name string) (*storev1.StreamRecord, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	record, ok := f.now()[types.NamespacedName{Namespace: request.NamespaceValue(ctx), Name: name}]
	if !ok {
		return nil, apierrors.NewNotFound(imagev1.Resource("imagestreams"), name)
	}
	return record.DeepCopy(), nil
}

func (f *fakeStreams) GetAt(ctx context.Context, name, resourceVersion string) (*storev1.StreamRecord, error) {
	list, err := f.List(ctx, &metainternalversion.ListOptions{
		ResourceVersion: resourceVersion, ResourceVersionMatch: metav1.ResourceVersionMatchExact,
		FieldSelector: fields.OneTermEqualSelector("metadata.name", name),
	})
	if err != nil {
		return nil, err
	}
	if len(list.Items) == 0 {
		return nil, apierrors.NewNotFound(imagev1.Resource("imagestreams"), name)
	}
	return &list.Items[0], nil
}

// at returns a revision that a client asks for.
func (f *fakeStreams) at(resourceVersion string) (int, error) {
	revision, err := strconv.Atoi(resourceVersion)
	switch {
	case err != nil:
		return 0, apierrors.NewBadRequest("invalid resource version")
	case revision < f.compacted:
		return 0, apierrors.NewResourceExpired("too old resource version")
	case revision >= len(f.revisions):
		err := apierrors.NewTimeoutError("Too large resource version", 1)
		err.ErrStatus.Details.Causes = []metav1.StatusCause{{Type: metav1.CauseTypeResourceVersionTooLarge}}
		return 0, err
	}
	return revision, nil
}

func (f *fakeStreams) List(ctx context.Context, o *metainternalversion.ListOptions) (*storev1.StreamRecordList, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.listed = *o
	revision := len(f.revisions) - 1
	var err error
	if o.ResourceVersionMatch == metav1.ResourceVersionMatchExact {
		if revision, err = f.at(o.ResourceVersion); err != nil {
			return nil, err
		}
	}
	skip := 0
	if o.Continue != "" {
		if _, err := fmt.Sscanf(o.Continue, "%d/%d", &revision, &skip); err != nil {
			return nil, apierrors.NewBadRequest("invalid continue token")
		}
	}
	list := &storev1.StreamRecordList{ListMeta: metav1.ListMeta{ResourceVersion: strconv.Itoa(revision)}}
	for _, record := range f.revisions[revision] {
		if selects(ctx, o, record) {
			list.Items = append(list.Items, *record.DeepCopy())
		}
	}
	slices.SortFunc(list.Items, func(a, b storev1.StreamRecord) int { return compareKeys(&a, &b) })
	list.Items = list.Items[min(skip, len(list.Items)):]
	if o.Limit > 0 && len(list.Items) > int(o.Limit) {
		list.RemainingItemCount = ptr.To(int64(len(list.Items)) - o.Limit)
		list.Items = list.Items[:o.Limit]
		list.Continue = fmt.Sprintf("%d/%d", revision, skip+int(o.Limit))
	}
	return list, nil
}

func compareKeys(a, b *storev1.StreamRecord) int {
	return strings.Compare(key(a).String(), key(b).String())
}

func selects(ctx context.Context, o *metainternalversion.ListOptions, record *storev1.StreamRecord) bool {
	if ns := request.NamespaceValue(ctx); ns != "" && ns != record.Namespace {
		return false
	}
	if o.LabelSelector != nil && !o.LabelSelector.Matches(labels.Set(record.Labels)) {
		return false
	}
	set := fields.Set{"metadata.name": record.Name, "metadata.namespace": record.Namespace}
	return o.FieldSelector == nil || o.FieldSelector.Matches(set)
}

// Watch tells every revision after the one asked for, as soon as there is one.
func (f *fakeStreams) Watch(ctx context.Context, o *metainternalversion.ListOptions) (watch.Interface, error) {
	f.mu.Lock()
	f.watched = *o
	revision := len(f.revisions) - 1
	var first []watch.Event
	var err error
	if initialEvents(o) {
		for _, record := range f.now() {
			if selects(ctx, o, record) {
				first = append(first, watch.Event{Type: watch.Added, Object: record.DeepCopy()})
			}
		}
		slices.SortFunc(first, func(a, b watch.Event) int {
			return compareKeys(a.Object.(*storev1.StreamRecord), b.Object.(*storev1.StreamRecord))
		})
		if o.AllowWatchBookmarks {
			mark := &storev1.StreamRecord{}
			mark.ResourceVersion = strconv.Itoa(revision)
			mark.Annotations = map[string]string{metav1.InitialEventsAnnotationKey: "true"}
			first = append(first, watch.Event{Type: watch.Bookmark, Object: mark})
		}
	} else {
		revision, err = f.at(o.ResourceVersion)
	}
	f.mu.Unlock()
	if err != nil {
		return nil, err
	}
	w := &fakeWatch{result: make(chan watch.Event), done: make(chan struct{}), wake: f.changed}
	f.open.Add(1)
	go func() {
		defer f.open.Done()
		defer close(w.result)
		for _, event := range first {
			if !w.send(event) {
				return
			}
		}
		for {
			events, ok := f.after(ctx, o, revision, w)
			if !ok {
				return
			}
			revision++
			for _, event := range events {
				if !w.send(event) {
					return
				}
			}
		}
	}()
	return w, nil
}

// after waits for the revision after one and returns what changed in it for a watch.
func (f *fakeStreams) after(ctx context.Context, o *metainternalversion.ListOptions, revision int, w *fakeWatch) ([]watch.Event, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for len(f.revisions) <= revision+1 {
		if w.stopped() {
			return nil, false
		}
		f.changed.Wait()
	}
	old, now := f.revisions[revision], f.revisions[revision+1]
	version := strconv.Itoa(revision + 1)
	var events []watch.Event
	for k, record := range now {
		before, had := old[k]
		if had && before == record {
			continue
		}
		had = had && selects(ctx, o, before)
		switch {
		case selects(ctx, o, record) && had:
			events = append(events, watch.Event{Type: watch.Modified, Object: record.DeepCopy()})
		case selects(ctx, o, record):
			events = append(events, watch.Event{Type: watch.Added, Object: record.DeepCopy()})
		case had:
			events = append(events, gone(before, version))
		}
	}
	for k, before := range old {
		if _, ok := now[k]; !ok && selects(ctx, o, before) {
			events = append(events, gone(before, version))
		}
	}
	return events, true
}

func gone(record *storev1.StreamRecord, version string) watch.Event {
	record = record.DeepCopy()
	record.ResourceVersion = version
	return watch.Event{Type: watch.Deleted, Object: record}
}

type fakeWatch struct {
	result chan watch.Event
	once   sync.Once
	done   chan struct{}
	wake   *sync.Cond
}

func (w *fakeWatch) ResultChan() <-chan watch.Event { return w.result }

func (w *fakeWatch) Stop() {
	w.once.Do(func() {
		close(w.done)
		w.wake.L.Lock()
		defer w.wake.L.Unlock()
		w.wake.Broadcast()
	})
}

func (w *fakeWatch) stopped() bool {
	select {
	case <-w.done:
		return true
	default:
		return false
	}
}

func (w *fakeWatch) send(event watch.Event) bool {
	select {
	case w.result <- event:
		return true
	case <-w.done:
		return false
	}
}

// Update tries until nobody wrote in between, as the registry does.
func (f *fakeStreams) Update(ctx context.Context, name string, o streams.UpdateOptions, change func(*storev1.StreamRecord, store.Change) error) (*storev1.StreamRecord, bool, error) {
	k := types.NamespacedName{Namespace: request.NamespaceValue(ctx), Name: name}
	c := store.Change{By: storev1.Requester{User: "alice", Verb: "update", Resource: "imagestreamtags"}, Source: f.source, Now: start}
	for attempt := 0; ; attempt++ {
		f.mu.Lock()
		f.last = o
		old := f.now()[k]
		f.mu.Unlock()
		if old == nil && !o.Create {
			return nil, false, apierrors.NewNotFound(imagev1.Resource("imagestreams"), name)
		}
		record := &storev1.StreamRecord{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: k.Namespace}}
		if old != nil {
			record = old.DeepCopy()
		}
		if err := change(record, c); err != nil {
			return nil, false, err
		}
		if errs := store.Validate(record, old, nil); len(errs) > 0 {
			return nil, false, apierrors.NewInvalid(streamKind, name, errs)
		}
		if f.before != nil {
			f.before(attempt)
		}
		f.mu.Lock()
		switch {
		case f.now()[k] != old:
			f.mu.Unlock()
			continue
		case len(o.DryRun) > 0, old != nil && equality.Semantic.DeepEqual(old, record):
		default:
			record = f.write(k, record).DeepCopy()
		}
		f.mu.Unlock()
		return record, old == nil, nil
	}
}

func (f *fakeStreams) source(ns, stream string) (*storev1.StreamRecord, error) {
	if ns != namespace {
		return nil, &store.ForbiddenError{Namespace: ns, Stream: stream}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.now()[types.NamespacedName{Namespace: ns, Name: stream}].DeepCopy(), nil
}

// fakeImages has every image but those named, for which it has an error.
type fakeImages map[string]error

var errRegistry = errors.New("the images cannot be read")

func (f fakeImages) Image(_ context.Context, digest string) (*imagev1.Image, error) {
	if err := f[digest]; err != nil {
		return nil, err
	}
	return &imagev1.Image{
		ObjectMeta:                 metav1.ObjectMeta{Name: digest, Annotations: map[string]string{"size": "small", "team": "image"}},
		DockerImageReference:       "first.example/importer@" + digest,
		DockerImageMetadataVersion: "1.0",
	}, nil
}

func noImage(digest string) error { return apierrors.NewNotFound(imagev1.Resource("images"), digest) }

// stream makes a record; its tags are made by the functions.
func stream(name string, makes ...func(*storev1.StreamRecord)) *storev1.StreamRecord {
	r := &storev1.StreamRecord{}
	r.Namespace, r.Name = namespace, name
	r.Record.Generation = 1
	for _, m := range makes {
		m(r)
	}
	return r
}

func labelled(k, v string) func(*storev1.StreamRecord) {
	return func(r *storev1.StreamRecord) {
		r.Labels = map[string]string{k: v}
	}
}

// wanted puts a tag into spec.
func wanted(tag, pullSpec string, more ...func(*imagev1.TagReference)) func(*storev1.StreamRecord) {
	return func(r *storev1.StreamRecord) {
		ref := imagev1.TagReference{
			Name:            tag,
			From:            &corev1.ObjectReference{Kind: store.KindDockerImage, Name: pullSpec},
			Generation:      ptr.To[int64](1),
			ImportPolicy:    imagev1.TagImportPolicy{ImportMode: imagev1.ImportModeLegacy},
			ReferencePolicy: imagev1.TagReferencePolicy{Type: imagev1.SourceTagReferencePolicy},
		}
		for _, m := range more {
			m(&ref)
		}
		r.Spec.Tags = append(r.Spec.Tags, ref)
	}
}

func annotated(k, v string) func(*imagev1.TagReference) {
	return func(t *imagev1.TagReference) { t.Annotations = map[string]string{k: v} }
}

// got puts a tag with one event into status.
func got(tag, digest string) func(*storev1.StreamRecord) {
	return func(r *storev1.StreamRecord) {
		event := imagev1.TagEvent{Created: start, Image: digest, DockerImageReference: "quay.io/x/y@" + digest, Generation: 1}
		if digest == "" {
			event.DockerImageReference = "quay.io/x/y:" + tag
		}
		r.Status.Tags = append(r.Status.Tags, imagev1.NamedTagEventList{Tag: tag, Items: []imagev1.TagEvent{event}})
		r.Record.Origins = append(r.Record.Origins, storev1.TagEventOrigin{
			Tag: tag, Image: digest, Created: start, Via: storev1.ViaImport, Source: "quay.io/x/y:" + tag, By: &storev1.Requester{User: "alice"},
		})
	}
}
