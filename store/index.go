package store

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unique"

	iradix "github.com/hashicorp/go-immutable-radix/v2"
	imagev1 "github.com/openshift/api/image/v1"

	storev1 "istag.dev/store/v1"
)

// Stream is what resolution needs of one image stream. It is immutable.
type Stream struct {
	// Namespace and Name of the stream (not of its record).
	Namespace, Name string
	// Local says that workloads of the namespace may use the stream by its short name.
	Local bool
	// Generation is the stream's own.
	Generation int64

	tags []Tag // sorted by name
}

// Tag is what resolution needs of one tag. It is immutable.
type Tag struct {
	Name string
	// Image is the digest that the tag means, empty if it means none (yet).
	Image string
	// Pinned is the tag's pull spec by its digest, "repo@sha256:…"; empty if Image is.
	Pinned string
	// Reference says that the tag has a pull spec but no digest, because it is never imported.
	Reference bool
	// Awaited says that the tag follows something, and that its first import is neither done nor failed.
	Awaited bool
	// Failure is the message of the last import if it failed, else empty.
	Failure string
	// MovedBy is the user who asked for what the tag means, empty if that is not known.
	MovedBy string
}

// NewStream makes the index's form of a record.
func NewStream(record *storev1.StreamRecord) *Stream {
	s := &Stream{
		Namespace:  record.Namespace,
		Name:       StreamName(record.Name),
		Local:      record.Spec.LookupPolicy.Local,
		Generation: record.Record.Generation,
	}
	names := make([]string, 0, len(record.Spec.Tags)+len(record.Status.Tags))
	for i := range record.Spec.Tags {
		names = append(names, record.Spec.Tags[i].Name)
	}
	for i := range record.Status.Tags {
		names = append(names, record.Status.Tags[i].Tag)
	}
	slices.Sort(names)
	names = slices.Compact(names)
	s.tags = make([]Tag, 0, len(names))
	for _, name := range names {
		s.tags = append(s.tags, newTag(record, name))
	}
	s.addMovers(record)
	return s
}

// addMovers says of each tag who moved it. It reads the origins once, newest first: there is one for
// every event of every tag.
func (s *Stream) addMovers(record *storev1.StreamRecord) {
	newest := make(map[string]*imagev1.TagEvent, len(record.Status.Tags))
	for i := range record.Status.Tags {
		if list := &record.Status.Tags[i]; len(list.Items) > 0 {
			newest[list.Tag] = &list.Items[0]
		}
	}
	for i := range record.Record.Origins {
		o := &record.Record.Origins[i]
		event := newest[o.Tag]
		if event == nil || event.Image != o.Image || !event.Created.Equal(&o.Created) {
			continue
		}
		delete(newest, o.Tag)
		if at, ok := s.find(o.Tag); ok && o.By != nil {
			// Few users move many tags, so they share the text of their names.
			s.tags[at].MovedBy = unique.Make(o.By.User).Value()
		}
	}
}

func newTag(record *storev1.StreamRecord, name string) Tag {
	tag := Tag{Name: name}
	if failure := ImportFailure(&record.Status, name); failure != nil {
		tag.Failure = failure.Message
	}
	event := Latest(&record.Status, name)
	if event == nil {
		from := SpecTag(&record.Spec, name)
		tag.Awaited = from != nil && from.From != nil && !from.Reference && tag.Failure == ""
		return tag
	}
	if event.Image == "" {
		tag.Reference = true
		return tag
	}
	spec, _ := PullSpec(record, name)
	// One string for both: with many tags a second copy of the digests would be a third of the index.
	tag.Pinned = Repository(spec) + "@" + event.Image
	tag.Image = tag.Pinned[len(tag.Pinned)-len(event.Image):]
	return tag
}

// TagNames returns the names of all tags, sorted.
func (s *Stream) TagNames() []string {
	names := make([]string, 0, len(s.tags))
	for i := range s.tags {
		names = append(names, s.tags[i].Name)
	}
	return names
}

// Tag returns one tag of the stream; ok is false if the stream has no such tag, in spec or status.
func (s *Stream) Tag(name string) (tag Tag, ok bool) {
	i, ok := s.find(name)
	if !ok {
		return Tag{}, false
	}
	return s.tags[i], true
}

func (s *Stream) find(name string) (int, bool) {
	return slices.BinarySearchFunc(s.tags, name, func(t Tag, name string) int { return strings.Compare(t.Name, name) })
}

// Snapshot is the index at one moment. It never changes; the zero value is empty.
type Snapshot struct {
	tree *iradix.Tree[*Stream]
}

// Stream returns a stream by its namespace and name.
func (s Snapshot) Stream(namespace, name string) (*Stream, bool) {
	if s.tree == nil {
		return nil, false
	}
	return s.tree.Get(indexKey(namespace, name))
}

// With returns a snapshot that also has the stream given.
func (s Snapshot) With(stream *Stream) Snapshot {
	if s.tree == nil {
		s.tree = iradix.New[*Stream]()
	}
	tree, _, _ := s.tree.Insert(indexKey(stream.Namespace, stream.Name), stream)
	return Snapshot{tree: tree}
}

// Len returns the number of streams.
func (s Snapshot) Len() int {
	if s.tree == nil {
		return 0
	}
	return s.tree.Len()
}

func indexKey(namespace, name string) []byte {
	key := make([]byte, 0, len(namespace)+1+len(name))
	key = append(key, namespace...)
	key = append(key, '/')
	return append(key, name...)
}

// Index is the in-memory copy of every stream that the admission path reads. A client-go reflector
// feeds it (it is a cache.ReflectorStore); it keeps the little that resolution needs and lets the
// records go. Readers take snapshots and never wait for writers.
type Index struct {
	mu      sync.Mutex // one writer at a time
	current atomic.Pointer[Snapshot]
	synced  chan struct{}
	once    sync.Once

	// heard is when the reflector last spoke, in nanoseconds after created: by a clock that nobody sets.
	created time.Time
	heard   atomic.Int64
}

// NewIndex returns an empty index.
func NewIndex() *Index {
	x := &Index{synced: make(chan struct{}), created: time.Now()}
	x.current.Store(&Snapshot{tree: iradix.New[*Stream]()})
	return x
}

// Snapshot returns the index as it is now.
func (x *Index) Snapshot() Snapshot { return *x.current.Load() }

// Watch returns the index as it is now, and a channel that is closed once what it says of one stream is
// no longer all there is to know. It can be closed early: for a neighbour, or for nothing.
func (x *Index) Watch(namespace, name string) (Snapshot, <-chan struct{}) {
	now := x.Snapshot()
	changed, _, _ := now.tree.Root().GetWatch(indexKey(namespace, name))
	return now, changed
}

// Synced is closed once the index holds a full list of the streams.
func (x *Index) Synced() <-chan struct{} { return x.synced }

// Heard returns when the index last heard from the API server, by whatever it said; the zero time if
// it never did.
func (x *Index) Heard() time.Time {
	after := x.heard.Load()
	if after == 0 {
		return time.Time{}
	}
	return x.created.Add(time.Duration(after))
}

// Add puts a *storev1.StreamRecord into the index.
func (x *Index) Add(obj any) error {
	record, err := asRecord(obj)
	if err != nil {
		return err
	}
	stream := NewStream(record)
	x.write(func(txn *iradix.Txn[*Stream]) {
		txn.Insert(indexKey(stream.Namespace, stream.Name), stream)
	})
	return nil
}

// Update puts the newer form of a *storev1.StreamRecord into the index.
func (x *Index) Update(obj any) error { return x.Add(obj) }

// Delete takes a *storev1.StreamRecord out of the index.
func (x *Index) Delete(obj any) error {
	record, err := asRecord(obj)
	if err != nil {
		return err
	}
	x.write(func(txn *iradix.Txn[*Stream]) {
		txn.Delete(indexKey(record.Namespace, StreamName(record.Name)))
	})
	return nil
}

// Replace makes the index hold exactly the *storev1.StreamRecords given.
func (x *Index) Replace(list []any, _ string) error {
	streams := make([]*Stream, 0, len(list))
	for _, obj := range list {
		record, err := asRecord(obj)
		if err != nil {
			return err
		}
		streams = append(streams, NewStream(record))
	}
	x.write(func(txn *iradix.Txn[*Stream]) {
		txn.DeletePrefix(nil)
		for _, stream := range streams {
			txn.Insert(indexKey(stream.Namespace, stream.Name), stream)
		}
	})
	x.once.Do(func() { close(x.synced) })
	return nil
}

// write changes the index, and tells those who watch once the change can be seen.
func (x *Index) write(change func(*iradix.Txn[*Stream])) {
	x.mu.Lock()
	defer x.mu.Unlock()
	txn := x.Snapshot().tree.Txn()
	txn.TrackMutate(true)
	change(txn)
	x.current.Store(&Snapshot{tree: txn.CommitOnly()})
	x.hear()
	txn.Notify()
}

func (x *Index) hear() { x.heard.Store(int64(max(1, time.Since(x.created)))) }

// Bookmark hears that there is nothing new: with it the API server speaks at least every minute or so.
func (x *Index) Bookmark(string) error {
	x.hear()
	return nil
}

// Resync does nothing: the index has no second reader to tell.
func (x *Index) Resync() error { return nil }

func asRecord(obj any) (*storev1.StreamRecord, error) {
	record, ok := obj.(*storev1.StreamRecord)
	if !ok {
		return nil, fmt.Errorf("index takes a *StreamRecord, got %T", obj)
	}
	return record, nil
}
