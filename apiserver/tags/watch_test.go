package tags

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	imagev1 "github.com/openshift/api/image/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/utils/ptr"

	storev1 "istag.dev/store/v1"
)

const patience = 10 * time.Second

// next returns the next event, in short: "ADDED s:1 @3".
func next(t *testing.T, w watch.Interface) string {
	t.Helper()
	select {
	case event, ok := <-w.ResultChan():
		if !ok {
			return "closed"
		}
		m, err := meta.Accessor(event.Object)
		if err != nil {
			return string(event.Type)
		}
		return strings.TrimSpace(fmt.Sprintf("%s %s @%s", event.Type, m.GetName(), m.GetResourceVersion()))
	case <-time.After(patience):
		t.Fatal("no event came")
		return ""
	}
}

func watching(t *testing.T, s *fakeStreams, options *metainternalversion.ListOptions) watch.Interface {
	t.Helper()
	w, err := NewImageStreamTags(s, fakeImages{}).Watch(in(t, "watch"), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Stop)
	return w
}

func expect(t *testing.T, reason string, w watch.Interface, want ...string) {
	t.Helper()
	for _, event := range want {
		if got := next(t, w); got != event {
			t.Fatalf("%s\nwant %q, got %q", reason, event, got)
		}
	}
}

// change writes a stream anew with other tags, as the same object.
func change(t *testing.T, s *fakeStreams, name string, makes ...func(*storev1.StreamRecord)) {
	t.Helper()
	record := stream(name, makes...)
	if old, err := s.Get(in(t, "get"), name); err == nil {
		record.UID, record.CreationTimestamp = old.UID, old.CreationTimestamp
	}
	s.put(record)
}

func TestWatchTellsWhatChanged(t *testing.T) {
	s := newFakeStreams(stream("a", got("1", "sha256:a"), got("2", "sha256:a")), stream("b", got("1", "sha256:b")))
	w := watching(t, s, &metainternalversion.ListOptions{ResourceVersion: s.version()})
	// Version 2 is that of stream b: whoever comes with it may have been cut off among its tags.
	expect(t, "the tags of the stream of that version are told again", w, "MODIFIED b:1 @2")

	change(t, s, "a", got("1", "sha256:a"), got("2", "sha256:new"), got("3", "sha256:a"))
	expect(t, "only tags that changed are told", w, "MODIFIED a:2 @3", "ADDED a:3 @3")
	change(t, s, "a", got("3", "sha256:b"), wanted("pending", "quay.io/x/y:1"))
	expect(t, "tags that went come first, under the version before; pending ones are not told", w, "DELETED a:1 @3", "DELETED a:2 @3", "MODIFIED a:3 @4")
	change(t, s, "a", got("3", "sha256:b"), got("pending", "sha256:a"))
	expect(t, "a tag is added when it has its image", w, "ADDED a:pending @5")
	change(t, s, "a", got("3", "sha256:b"), got("pending", "sha256:a"), func(r *storev1.StreamRecord) { r.Annotations = map[string]string{"x": "y"} })
	change(t, s, "a", got("3", "sha256:b"), got("pending", "sha256:a"), labelled("app", "web"))
	expect(t, "a change that no tag shows is not told, and one of the stream's labels changes all", w, "MODIFIED a:3 @7", "MODIFIED a:pending @7")
	s.remove("a")
	expect(t, "with their stream all its tags go", w, "DELETED a:3 @7", "DELETED a:pending @7")
	change(t, s, "a", got("3", "sha256:b"))
	expect(t, "and come again with it", w, "ADDED a:3 @9")
}

func TestWatchInitialEvents(t *testing.T) {
	cases := map[string]struct {
		reason  string
		options metainternalversion.ListOptions
		want    []string
	}{
		"NoVersion":   {"Without a version the watch begins with what there is.", metainternalversion.ListOptions{}, []string{"ADDED a:1 @2", "ADDED b:1 @1"}},
		"VersionZero": {"So does version 0.", metainternalversion.ListOptions{ResourceVersion: "0"}, []string{"ADDED a:1 @2", "ADDED b:1 @1"}},
		"Asked": {
			"Where the client asks for it, a bookmark says when that is over.",
			metainternalversion.ListOptions{
				SendInitialEvents: ptr.To(true), ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan,
				ResourceVersion: "1", AllowWatchBookmarks: true,
			},
			[]string{"ADDED a:1 @2", "ADDED b:1 @1", "BOOKMARK  @2"},
		},
		"NotWanted": {"A client can want only what changes from now on.", metainternalversion.ListOptions{SendInitialEvents: ptr.To(false)}, nil},
		"Version":   {"After a version come the changes since, and once more those of it.", metainternalversion.ListOptions{ResourceVersion: "1"}, []string{"MODIFIED b:1 @1", "ADDED a:1 @2"}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			s := newFakeStreams(stream("b", got("1", "sha256:a")), stream("a", got("1", "sha256:a")))
			w := watching(t, s, &c.options)
			expect(t, c.reason, w, c.want...)
			change(t, s, "b", got("2", "sha256:a"))
			expect(t, "then come changes, and versions never go back", w, "DELETED b:1 @2", "ADDED b:2 @3")
		})
	}
}

func TestWatchBookmark(t *testing.T) {
	s := newFakeStreams(stream("a", got("1", "sha256:a")))
	for name, watcher := range map[string]interface {
		Watch(context.Context, *metainternalversion.ListOptions) (watch.Interface, error)
		New() runtime.Object
	}{"istag": NewImageStreamTags(s, fakeImages{}), "itag": NewImageTags(s, fakeImages{})} {
		t.Run(name, func(t *testing.T) {
			w, err := watcher.Watch(in(t, "watch"), &metainternalversion.ListOptions{AllowWatchBookmarks: true})
			if err != nil {
				t.Fatal(err)
			}
			defer w.Stop()
			<-w.ResultChan()
			event := <-w.ResultChan()
			want := watcher.New()
			m, _ := meta.Accessor(want)
			m.SetResourceVersion("1")
			m.SetAnnotations(map[string]string{metav1.InitialEventsAnnotationKey: "true"})
			if diff := cmp.Diff(want, event.Object); event.Type != watch.Bookmark || diff != "" {
				t.Errorf("a bookmark is of the resource's own type, with a version and annotations alone; got %s\n%s", event.Type, diff)
			}
		})
	}
}

func TestWatchSelectors(t *testing.T) {
	cases := map[string]struct {
		reason  string
		options metainternalversion.ListOptions
		want    []string
	}{
		"Name": {
			"One tag's name: nothing is told of any other.",
			metainternalversion.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", "s:2")},
			[]string{"MODIFIED s:2 @4", "DELETED s:2 @4"},
		},
		"Labels": {
			"A stream that gets the label brings its tags, and takes them with it when it loses it.",
			metainternalversion.ListOptions{LabelSelector: labels.SelectorFromSet(labels.Set{"app": "web"})},
			[]string{"ADDED s:1 @4", "ADDED s:2 @4", "DELETED s:1 @4", "DELETED s:2 @4"},
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			s := newFakeStreams(stream("s", got("1", "sha256:a"), got("2", "sha256:a")), stream("t", got("2", "sha256:a")), stream("last"))
			c.options.ResourceVersion = s.version()
			w := watching(t, s, &c.options)
			change(t, s, "s", got("1", "sha256:a"), got("2", "sha256:b"), labelled("app", "web"))
			change(t, s, "s", got("1", "sha256:a"))
			expect(t, c.reason, w, c.want...)
		})
	}
	s := newFakeStreams()
	watching(t, s, &metainternalversion.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", "s:2")})
	if got := s.watched.FieldSelector.String(); got != "metadata.name=s" {
		t.Errorf("the watch of one tag is one of its stream alone; got %q", got)
	}
	_, err := NewImageStreamTags(s, fakeImages{}).Watch(in(t, "watch"), &metainternalversion.ListOptions{FieldSelector: fields.OneTermEqualSelector("spec.x", "y")})
	if !apierrors.IsBadRequest(err) {
		t.Errorf("an unknown field must be a 400; got %v", err)
	}
}

func TestWatchTooOld(t *testing.T) {
	s := newFakeStreams(stream("a"), stream("b"))
	s.compact()
	_, err := NewImageStreamTags(s, fakeImages{}).Watch(in(t, "watch"), &metainternalversion.ListOptions{ResourceVersion: "1"})
	if !apierrors.IsResourceExpired(err) {
		t.Errorf("a client whose version is too old must hear so, to list anew; got %v", err)
	}
}

// scripted is a watch of streams whose events the test sends.
type scripted struct {
	*fakeStreams
	watch *watch.FakeWatcher
}

func (s scripted) Watch(context.Context, *metainternalversion.ListOptions) (watch.Interface, error) {
	return s.watch, nil
}

func TestWatchErrors(t *testing.T) {
	s := scripted{newFakeStreams(), watch.NewFakeWithChanSize(4, false)}
	w, err := NewImageStreamTags(s, fakeImages{}).Watch(in(t, "watch"), nil)
	if err != nil {
		t.Fatal(err)
	}
	gone := apierrors.NewResourceExpired("too old").ErrStatus
	s.watch.Error(&gone)
	s.watch.Add(&imagev1.Image{})
	if event := <-w.ResultChan(); event.Type != watch.Error || event.Object != runtime.Object(&gone) {
		t.Errorf("an error goes to the client as it is; got %v", event)
	}
	if event := <-w.ResultChan(); event.Type != watch.Error {
		t.Errorf("what is no stream is an error; got %v", event)
	}
	if event, ok := <-w.ResultChan(); ok {
		t.Errorf("and ends the watch; got %v", event)
	}
}

func TestWatchEnds(t *testing.T) {
	full := func(s *fakeStreams) { // events that nobody reads
		for i := range 3 {
			s.put(stream("s"+strconv.Itoa(i), got("1", "sha256:a")))
		}
	}
	cases := map[string]struct {
		reason string
		end    func(w watch.Interface, cancel func())
	}{
		"Stop":      {"Stop ends a watch.", func(w watch.Interface, _ func()) { w.Stop() }},
		"StopTwice": {"A second Stop is nothing.", func(w watch.Interface, _ func()) { w.Stop(); w.Stop() }},
		"Context":   {"So does the end of the request.", func(_ watch.Interface, cancel func()) { cancel() }},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			s := newFakeStreams()
			full(s)
			ctx, cancel := context.WithCancel(in(t, "watch"))
			defer cancel()
			w, err := NewImageStreamTags(s, fakeImages{}).Watch(ctx, &metainternalversion.ListOptions{})
			if err != nil {
				t.Fatal(err)
			}
			c.end(w, cancel)
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				for range w.ResultChan() { // An event may be on its way.
				}
				s.open.Wait()
			}()
			select {
			case <-ended:
			case <-time.After(patience):
				t.Errorf("%s Its events and the watch of the streams must end with it.", c.reason)
			}
		})
	}
	t.Run("Upstream", func(t *testing.T) {
		s := scripted{newFakeStreams(), watch.NewFake()}
		w, err := NewImageStreamTags(s, fakeImages{}).Watch(in(t, "watch"), nil)
		if err != nil {
			t.Fatal(err)
		}
		s.watch.Stop()
		if got := next(t, w); got != "closed" {
			t.Errorf("when the watch of the streams ends this one does; got %s", got)
		}
	})
}

// follower is a client that keeps what it is told, is cut off at any time, and comes back with the last version it saw.
type follower struct {
	t       *testing.T
	open    func(*metainternalversion.ListOptions) (watch.Interface, error)
	known   map[string]string
	version string
}

func text(t *testing.T, obj runtime.Object) (name, content string) {
	t.Helper()
	obj = obj.DeepCopyObject()
	m, err := meta.Accessor(obj)
	if err != nil {
		t.Fatal(err)
	}
	m.SetResourceVersion("")
	data, err := json.Marshal(obj)
	if err != nil {
		t.Fatal(err)
	}
	return m.GetName(), string(data)
}

// follow reads up to n events, and to the one of the tag named last if it comes.
func (f *follower) follow(n int, last string) {
	f.t.Helper()
	w, err := f.open(&metainternalversion.ListOptions{ResourceVersion: f.version})
	if err != nil {
		f.t.Fatal(err)
	}
	defer w.Stop()
	for range n {
		select {
		case event := <-w.ResultChan():
			name, content := text(f.t, event.Object)
			if event.Type == watch.Deleted {
				delete(f.known, name)
			} else {
				f.known[name] = content
			}
			m, _ := meta.Accessor(event.Object)
			if later(f.version, m.GetResourceVersion()) != m.GetResourceVersion() {
				f.t.Errorf("the version went back from %s to %s", f.version, m.GetResourceVersion())
			}
			f.version = m.GetResourceVersion()
			if name == last {
				return
			}
		case <-time.After(patience):
			f.t.Fatal("no event came")
		}
	}
}

// mutate writes one of three streams anew with any tags, or deletes it.
func mutate(t *testing.T, s *fakeStreams, random *rand.Rand) {
	name := "s" + strconv.Itoa(random.IntN(3))
	if random.IntN(12) == 0 {
		if _, err := s.Get(in(t, "get"), name); err == nil {
			s.remove(name)
		}
		return
	}
	var tags []func(*storev1.StreamRecord)
	for tag := range 5 {
		if digest := random.IntN(5); digest > 0 {
			tags = append(tags, got(strconv.Itoa(tag), "sha256:"+strconv.Itoa(digest)))
		}
	}
	if random.IntN(6) == 0 {
		tags = append(tags, labelled("app", strconv.Itoa(random.IntN(2))))
	}
	change(t, s, name, tags...)
}

// TestWatchLosesNothing cuts watches off after any number of events, also in the middle of those that one
// write of a stream brings, and compares what clients know in the end with a list.
func TestWatchLosesNothing(t *testing.T) {
	for name, resource := range map[string]func(s *fakeStreams) interface {
		Watch(context.Context, *metainternalversion.ListOptions) (watch.Interface, error)
		List(context.Context, *metainternalversion.ListOptions) (runtime.Object, error)
	}{
		"ImageStreamTags": func(s *fakeStreams) interface {
			Watch(context.Context, *metainternalversion.ListOptions) (watch.Interface, error)
			List(context.Context, *metainternalversion.ListOptions) (runtime.Object, error)
		} {
			return NewImageStreamTags(s, fakeImages{})
		},
		"ImageTags": func(s *fakeStreams) interface {
			Watch(context.Context, *metainternalversion.ListOptions) (watch.Interface, error)
			List(context.Context, *metainternalversion.ListOptions) (runtime.Object, error)
		} {
			return NewImageTags(s, fakeImages{})
		},
	} {
		t.Run(name, func(t *testing.T) {
			random := rand.New(rand.NewPCG(3, 4))
			for trial := range 150 {
				s := newFakeStreams(stream("start")) // Version 0 would be no version at all.
				tags := resource(s)
				f := &follower{t: t, known: map[string]string{}, version: s.version(), open: func(o *metainternalversion.ListOptions) (watch.Interface, error) {
					return tags.Watch(in(t, "watch"), o)
				}}
				for round := range 6 {
					for range 1 + random.IntN(3) {
						mutate(t, s, random)
					}
					end := fmt.Sprintf("z%d", round) // There always is one event more to come.
					s.put(stream(end, got("end", "sha256:a")))
					f.follow(1+random.IntN(6), end+":end")
				}
				s.put(stream("zz", got("end", "sha256:a")))
				f.follow(1000, "zz:end")

				list, err := tags.List(in(t, "list"), nil)
				if err != nil {
					t.Fatal(err)
				}
				want := map[string]string{}
				if err := meta.EachListItem(list, func(obj runtime.Object) error {
					name, content := text(t, obj)
					want[name] = content
					return nil
				}); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(want, f.known); diff != "" {
					t.Fatalf("trial %d: a client that was cut off knows something else than there is\n-want +got:\n%s", trial, diff)
				}
			}
		})
	}
}

// FuzzProjection shows and compares whatever a record can hold.
func FuzzProjection(f *testing.F) {
	for _, record := range []*storev1.StreamRecord{
		stream("s", wanted("t", "quay.io/x/y:1"), got("t", "sha256:a")),
		{},
		stream("s", func(r *storev1.StreamRecord) {
			r.Status.Tags = []imagev1.NamedTagEventList{{Tag: "t"}, {Tag: "t", Items: []imagev1.TagEvent{{}}}, {}}
			r.Spec.Tags = []imagev1.TagReference{{Name: "t"}, {Name: "t"}, {}}
		}),
	} {
		data, err := json.Marshal(record)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var record storev1.StreamRecord
		if json.Unmarshal(data, &record) != nil {
			return
		}
		show(t, &NewImageStreamTags(nil, nil).resource, &record)
		show(t, &NewImageTags(nil, nil).resource, &record)
	})
}

func show[T object](t *testing.T, r *resource[T], record *storev1.StreamRecord) {
	shown := r.project(record, narrowing{})
	var names []string
	for i, obj := range r.project(record, narrowing{}) {
		names = append(names, obj.GetName())
		if !same(shown[i], obj) {
			t.Errorf("%s differs from itself", obj.GetName())
		}
		if _, err := r.ConvertToTable(t.Context(), obj, nil); err != nil {
			t.Error(err)
		}
		if _, tag, ok := splitName(obj.GetName()); ok && !same(r.kind.view(record, tag), obj) && unique(record, tag) {
			t.Errorf("%s is shown otherwise alone than among others", obj.GetName())
		}
	}
	if !slices.IsSorted(names) || len(slices.Compact(slices.Clone(names))) != len(names) {
		t.Errorf("tags must come in order, each once: %q", names)
	}
}

// unique reports whether a record has the tag once, as every stored one does.
func unique(record *storev1.StreamRecord, tag string) bool {
	n, m := 0, 0
	for i := range record.Spec.Tags {
		if record.Spec.Tags[i].Name == tag {
			n++
		}
	}
	for i := range record.Status.Tags {
		if record.Status.Tags[i].Tag == tag {
			m++
		}
	}
	return n <= 1 && m <= 1
}
