package crdstore

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"strconv"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/storage"
)

// watchBuffer is how many events a watch reads ahead of its client.
const watchBuffer = 64

// Watch implements storage.Interface. Events, bookmarks and errors are those of a watch of the backing
// API server, which starts where and how this one is to start.
func (s *crdStorage[T, P]) Watch(ctx context.Context, key string, opts storage.ListOptions) (watch.Interface, error) {
	ctx, cancel := context.WithCancel(ctx)
	w, err := s.watch(ctx, cancel, s.place(key), opts)
	if err != nil {
		cancel()
		return nil, err
	}
	go w.run(ctx)
	return w, nil
}

func (s *crdStorage[T, P]) watch(ctx context.Context, cancel context.CancelFunc, p place, opts storage.ListOptions) (*watcher[T, P], error) {
	chosen, resourceVersion, err := s.choose(ctx, p, opts)
	if err != nil {
		return nil, err
	}
	opts.ResourceVersion = resourceVersion
	if opts.SendInitialEvents != nil {
		opts.ResourceVersionMatch = metav1.ResourceVersionMatchNotOlderThan
	}
	request := s.selecting(p, opts).MaxRetries(0).Param("watch", "true")
	if opts.SendInitialEvents != nil {
		request.Param("sendInitialEvents", strconv.FormatBool(*opts.SendInitialEvents))
	}
	if opts.Predicate.AllowWatchBookmarks {
		request.Param("allowWatchBookmarks", "true")
	}
	body, err := request.Stream(ctx)
	if err != nil {
		return nil, s.failure(ctx, err, p)
	}
	return &watcher[T, P]{kind: &s.kind, chosen: chosen, body: body, cancel: cancel, events: make(chan watch.Event, watchBuffer)}, nil
}

// watcher sends on what a watch of the backing API server says.
type watcher[T any, P object[T]] struct {
	kind   *kind[T, P]
	chosen *choice[T, P]
	body   io.ReadCloser
	cancel context.CancelFunc
	events chan watch.Event
}

// ResultChan implements watch.Interface.
func (w *watcher[T, P]) ResultChan() <-chan watch.Event { return w.events }

// Stop implements watch.Interface. It may be called more than once.
func (w *watcher[T, P]) Stop() { w.cancel() }

// frame is how one event is sent. The type comes first.
type frame struct {
	Type   watch.EventType `json:"type"`
	Object jsontext.Value  `json:"object"`
}

// run ends with the stream, with ctx, or with an event that cannot be understood.
func (w *watcher[T, P]) run(ctx context.Context) {
	defer close(w.events)
	defer func() { _ = w.body.Close() }()
	defer w.cancel()
	decoder := jsontext.NewDecoder(w.body, decoding)
	var f frame
	for {
		if err := jsonv2.UnmarshalDecode(decoder, &f); err != nil {
			var semantic *jsonv2.SemanticError
			if errors.As(err, &semantic) {
				w.send(ctx, unintelligible(err))
			}
			return
		}
		event, wanted, err := w.translate(f)
		if err != nil {
			w.send(ctx, unintelligible(err))
			return
		}
		if wanted && !w.send(ctx, event) {
			return
		}
	}
}

// send reports whether the watch goes on.
func (w *watcher[T, P]) send(ctx context.Context, event watch.Event) bool {
	select {
	case w.events <- event:
		return true
	case <-ctx.Done():
		return false
	}
}

// translate returns the event that users see, if they are to see one.
func (w *watcher[T, P]) translate(f frame) (watch.Event, bool, error) {
	if f.Type == watch.Error {
		status := &metav1.Status{}
		err := json.Unmarshal(f.Object, status)
		status.TypeMeta = metav1.TypeMeta{}
		return watch.Event{Type: watch.Error, Object: status}, true, err
	}
	var obj P = new(T)
	if err := decode(f.Object, obj); err != nil {
		return watch.Event{}, false, err
	}
	w.kind.reveal(obj)
	if f.Type == watch.Bookmark {
		return watch.Event{Type: watch.Bookmark, Object: obj}, true, nil
	}
	seen, wanted, err := w.chosen.see(f.Type, obj)
	return watch.Event{Type: seen, Object: obj}, wanted, err
}

func unintelligible(err error) watch.Event {
	status := apierrors.NewInternalError(err).Status()
	return watch.Event{Type: watch.Error, Object: &status}
}

// choice picks the events of objects that a predicate matches, as far as the backing API server cannot.
type choice[T any, P object[T]] struct {
	predicate storage.SelectionPredicate
	// matched are the objects that matched when they were last seen; nil if a match never changes.
	matched map[string]bool
}

// choose returns the choice for a watch, and the resource version to start the watch from.
func (s *crdStorage[T, P]) choose(ctx context.Context, p place, opts storage.ListOptions) (*choice[T, P], string, error) {
	c := &choice[T, P]{predicate: opts.Predicate}
	if !changeable(opts.Predicate) {
		return c, opts.ResourceVersion, nil
	}
	c.matched = map[string]bool{}
	initial := opts.ResourceVersion == "" || opts.ResourceVersion == "0"
	if opts.SendInitialEvents != nil {
		initial = *opts.SendInitialEvents
	}
	if initial {
		return c, opts.ResourceVersion, nil
	}
	from, err := s.baseline(ctx, p, opts, c)
	return c, from, err
}

// baselinePage is how many objects at a time are looked at to learn which match.
const baselinePage = 500

// baseline learns which objects match at the resource version that a watch starts from, or now if that
// does not matter, and returns that version. It fails with 410 if that is too long ago.
func (s *crdStorage[T, P]) baseline(ctx context.Context, p place, opts storage.ListOptions, c *choice[T, P]) (string, error) {
	from := storage.ListOptions{ResourceVersion: opts.ResourceVersion, Predicate: opts.Predicate}
	if from.ResourceVersion == "0" {
		from.ResourceVersion = ""
	}
	if from.ResourceVersion != "" {
		from.ResourceVersionMatch = metav1.ResourceVersionMatchExact
	}
	from.Predicate.Limit = baselinePage
	for {
		page, err := s.list(ctx, p, from)
		if err != nil {
			return "", err
		}
		for i := range page.Items {
			c.matched[id(P(&page.Items[i]))] = true
		}
		if page.Continue == "" {
			return page.ResourceVersion, nil
		}
		from.ResourceVersion, from.ResourceVersionMatch, from.Predicate.Continue = "", "", page.Continue
	}
}

// changeable tells whether an object can come to match a predicate, beyond its labels, or cease to.
func changeable(predicate storage.SelectionPredicate) bool {
	if predicate.Field == nil {
		return false
	}
	for _, requirement := range predicate.Field.Requirements() {
		if requirement.Field != metav1.ObjectNameField && requirement.Field != "metadata.namespace" {
			return true
		}
	}
	return false
}

func id(obj metav1.Object) string { return obj.GetNamespace() + "/" + obj.GetName() }

// see returns what an event means to those who see only the objects that match, if anything: an object
// that comes to match is added, and one that no longer does is deleted, for which its present state is
// given.
func (c *choice[T, P]) see(event watch.EventType, obj P) (watch.EventType, bool, error) {
	matches, err := c.matches(obj)
	if err != nil || c.matched == nil {
		return event, matches, err
	}
	was := c.matched[id(obj)]
	if event == watch.Deleted || !matches {
		delete(c.matched, id(obj))
		return watch.Deleted, was, nil
	}
	c.matched[id(obj)] = true
	if !was {
		return watch.Added, true, nil
	}
	return event, true, nil
}

// matches leaves the labels to the backing API server: an object that lost them is deleted.
func (c *choice[T, P]) matches(obj P) (bool, error) {
	predicate := c.predicate
	if predicate.Field == nil || predicate.Field.Empty() {
		return predicate.MatchesSharding(runtime.Object(obj))
	}
	_, fields, err := predicate.GetAttrs(obj)
	if err != nil || !predicate.Field.Matches(fields) {
		return false, err
	}
	return predicate.MatchesSharding(runtime.Object(obj))
}
