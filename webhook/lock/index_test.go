package lock

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	lru "k8s.io/apimachinery/pkg/util/cache"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"
	testingclock "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"
)

// The paths of what can be a revision.
const (
	replicaSetsPath            = "/apis/apps/v1/replicasets"
	controllerRevisionsPath    = "/apis/apps/v1/controllerrevisions"
	jobsPath                   = "/apis/batch/v1/jobs"
	replicationControllersPath = "/api/v1/replicationcontrollers"
)

// cluster is an API server that has revisions, of which it serves the metadata.
type cluster struct {
	*httptest.Server
	// reads counts GETs of single revisions.
	reads atomic.Int32
	// events are what watchers are told, by path, after what there was when they came.
	events map[string]chan metav1.WatchEvent

	mu      sync.Mutex
	objects map[string]*metav1.PartialObjectMetadata // by path
}

func newCluster(t testing.TB) *cluster {
	t.Helper()
	c := &cluster{events: map[string]chan metav1.WatchEvent{}, objects: map[string]*metav1.PartialObjectMetadata{}}
	for _, path := range []string{replicaSetsPath, controllerRevisionsPath, jobsPath, replicationControllersPath} {
		c.events[path] = make(chan metav1.WatchEvent, 100)
	}
	c.Server = httptest.NewServer(c)
	t.Cleanup(func() {
		c.CloseClientConnections()
		c.Close()
	})
	return c
}

// index returns an Index of the cluster.
func (c *cluster) index(t testing.TB) *Index {
	t.Helper()
	x, err := NewIndex(&rest.Config{Host: c.URL})
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// pathOf is where a revision is read: its resource's path with the namespace in it, and its name.
func pathOf(all string, object *metav1.PartialObjectMetadata) string {
	last := strings.LastIndex(all, "/")
	return all[:last] + "/namespaces/" + object.Namespace + all[last:] + "/" + object.Name
}

func (c *cluster) set(all string, object *metav1.PartialObjectMetadata) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.objects[pathOf(all, object)] = object
}

func (c *cluster) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	events, collection := c.events[r.URL.Path]
	switch {
	case !strings.Contains(r.Header.Get("Accept"), "as=PartialObjectMetadata"):
		http.Error(w, "only metadata is to be asked for", http.StatusNotAcceptable)
	case !collection:
		c.reads.Add(1)
		c.get(w, r)
	case r.URL.Query().Get("labelSelector") != Label:
		http.Error(w, "only locked revisions are to be asked for", http.StatusForbidden)
	default:
		c.watch(w, r, events)
	}
}

func (c *cluster) get(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	found := c.objects[r.URL.Path]
	switch {
	case strings.HasSuffix(r.URL.Path, "/broken"):
		w.WriteHeader(http.StatusInternalServerError)
	case found == nil:
		w.WriteHeader(http.StatusNotFound)
		_ = json.NewEncoder(w).Encode(apierrors.NewNotFound(schema.GroupResource{Resource: "revisions"}, r.URL.Path).Status())
	default:
		_ = json.NewEncoder(w).Encode(found)
	}
}

// watch streams what is locked, the news that this was all, and what happens then.
func (c *cluster) watch(w http.ResponseWriter, r *http.Request, events chan metav1.WatchEvent) {
	send := func(e metav1.WatchEvent) {
		_ = json.NewEncoder(w).Encode(e)
		_ = http.NewResponseController(w).Flush()
	}
	c.mu.Lock()
	for path, object := range c.objects {
		if _, locked := object.Labels[Label]; locked && path == pathOf(r.URL.Path, object) {
			send(event("ADDED", object))
		}
	}
	c.mu.Unlock()
	all := object("", "")
	all.Annotations = map[string]string{metav1.InitialEventsAnnotationKey: "true"}
	send(event("BOOKMARK", all))
	for {
		select {
		case <-r.Context().Done():
			return
		case e := <-events:
			send(e)
		}
	}
}

func event(kind string, object *metav1.PartialObjectMetadata) metav1.WatchEvent {
	text, _ := json.Marshal(object) // plain data
	e := metav1.WatchEvent{Type: kind}
	e.Object.Raw = text
	return e
}

// object is a revision in namespace "shop" that is not locked.
func object(name string, uid types.UID) *metav1.PartialObjectMetadata {
	o := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: uid, ResourceVersion: "7"}}
	o.SetGroupVersionKind(metav1.SchemeGroupVersion.WithKind("PartialObjectMetadata"))
	return o
}

// locked is a revision that is.
func locked(name string, uid types.UID, l Lock) *metav1.PartialObjectMetadata {
	o := object(name, uid)
	o.Labels, o.Annotations = written(l)
	return o
}

// controlled gives a revision a controller.
func controlled(o *metav1.PartialObjectMetadata, by types.UID) *metav1.PartialObjectMetadata {
	o.OwnerReferences = []metav1.OwnerReference{{UID: "none"}, {UID: by, Controller: ptr.To(true)}}
	return o
}

// feed runs the feed until the test ends, and returns when it has read everything once.
func feed(t testing.TB, x *Index) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { x.Feed(ctx) })
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	select {
	case <-x.Synced():
	case <-time.After(30 * time.Second):
		t.Fatal("the locks were not read")
	}
}

func TestIndexLock(t *testing.T) {
	c := newCluster(t)
	mine, theirs := example("a:1"), example("b:2")
	c.set(replicaSetsPath, locked("web-1", "u1", mine))
	c.set(jobsPath, locked("web-1", "j1", theirs))
	c.set(replicationControllersPath, locked("web-1", "r1", theirs))
	c.set(controllerRevisionsPath, controlled(locked("web-1", "c1", theirs), "set"))
	c.set(controllerRevisionsPath, locked("orphan-1", "c2", theirs))
	c.set(replicaSetsPath, locked("again-1", "old", theirs))
	x := c.index(t)
	clock := testingclock.NewFakeClock(time.Now())
	x.recent = lru.NewLRUExpireCacheWithClock(recentMost, clock)
	feed(t, x)
	// Of these the index does not hear.
	c.set(replicaSetsPath, locked("new-1", "u2", mine))
	c.set(replicaSetsPath, object("plain-1", "u3"))
	c.set(replicaSetsPath, locked("again-1", "new", mine))
	torn := locked("torn-1", "u4", mine)
	torn.Annotations = nil
	c.set(replicaSetsPath, torn)
	none, nullKey := labelOf("null"), annotationPrefix+labelOf("null")
	empty := object("empty-1", "u5")
	empty.Labels, empty.Annotations = map[string]string{Label: none}, map[string]string{nullKey: "null"}
	c.set(replicaSetsPath, empty)
	c.set(controllerRevisionsPath, controlled(locked("next-1", "c3", mine), "set"))
	cases := []struct {
		reason string
		asked  Revision
		want   Lock
		fails  bool
		reads  int32
	}{
		{"a locked revision is in memory", Revision{Resource: replicaSets, Name: "web-1", UID: "u1"}, mine, false, 0},
		{"what has the same name is another revision", Revision{Resource: jobs, Name: "web-1", UID: "j1"}, theirs, false, 0},
		{"whatever it is", Revision{Resource: replicationControllers, Name: "web-1", UID: "r1"}, theirs, false, 0},
		{"a name may be all that is known", Revision{Resource: controllerRevisions, Name: "web-1"}, theirs, false, 0},
		{"or a name, and whose it is", Revision{Resource: controllerRevisions, Name: "web-1", Controller: "set"}, theirs, false, 0},
		{"the revision of a set that was deleted is not that of the one in its place", Revision{Resource: controllerRevisions, Name: "web-1", Controller: "next"}, nil, false, 1},
		{"one that nobody has is about to be adopted", Revision{Resource: controllerRevisions, Name: "orphan-1", Controller: "next"}, theirs, false, 0},
		{"a revision is made an instant before its pods, so it is read", Revision{Resource: replicaSets, Name: "new-1", UID: "u2"}, mine, false, 1},
		{"once for all that come at once", Revision{Resource: replicaSets, Name: "new-1", UID: "u2"}, mine, false, 0},
		{"so is one that is known by its name", Revision{Resource: controllerRevisions, Name: "next-1", Controller: "set"}, mine, false, 1},
		{"an index that is behind is not believed", Revision{Resource: replicaSets, Name: "again-1", UID: "new"}, mine, false, 1},
		{"nor is what came after", Revision{Resource: replicaSets, Name: "new-1", UID: "older"}, nil, false, 1},
		{"a revision may be without a lock", Revision{Resource: replicaSets, Name: "plain-1", UID: "u3"}, nil, false, 1},
		{"which is not asked again at once", Revision{Resource: replicaSets, Name: "plain-1", UID: "u3"}, nil, false, 0},
		{"half a lock is none", Revision{Resource: replicaSets, Name: "torn-1", UID: "u4"}, nil, false, 1},
		{"nor is something else with a hash", Revision{Resource: replicaSets, Name: "empty-1", UID: "u5"}, nil, false, 1},
		{"what is gone is not locked", Revision{Resource: jobs, Name: "gone", UID: "u6"}, nil, false, 1},
		{"and not asked for again at once", Revision{Resource: jobs, Name: "gone", UID: "u6"}, nil, false, 0},
		{"an error is an error: by the tag of the moment a revision would have two digests", Revision{Resource: replicaSets, Name: "broken", UID: "u7"}, nil, true, 1},
		{"and not remembered", Revision{Resource: replicaSets, Name: "broken", UID: "u7"}, nil, true, 1},
		{"no path of the API is reached by the name of an owner", Revision{Resource: replicaSets, Name: "../../secrets/x", UID: "u8"}, nil, false, 0},
		{"pods are not revisions", Revision{Resource: "pods", Name: "x"}, nil, true, 0},
	}
	for _, tc := range cases {
		tc.asked.Namespace = "shop"
		before := c.reads.Load()
		got, ok, err := x.Lock(t.Context(), tc.asked)
		if diff := cmp.Diff(tc.want, got); diff != "" || ok != (tc.want != nil) || (err != nil) != tc.fails || c.reads.Load()-before != tc.reads {
			t.Errorf("%s: Lock(%+v): %v, %v, after %d reads, want %d (-want +got):\n%s", tc.reason, tc.asked, ok, err, c.reads.Load()-before, tc.reads, diff)
		}
	}
	c.set(replicaSetsPath, locked("plain-1", "u3", mine))
	clock.Step(recentFor + 1)
	if _, ok, err := x.Lock(t.Context(), Revision{Resource: replicaSets, Namespace: "shop", Name: "plain-1", UID: "u3"}); !ok || err != nil {
		t.Errorf("a revision may be locked later, so it is asked again in time: %v, %v", ok, err)
	}
}

// TestIndexFollows tells the index by watch events what happens, and expects it to know without reading.
func TestIndexFollows(t *testing.T) {
	first, second := example("a:1"), example("a:2")
	c := newCluster(t)
	c.set(replicaSetsPath, locked("web-1", "u1", first))
	x := c.index(t)
	feed(t, x)
	torn := locked("web-2", "u2", first)
	torn.Annotations = nil
	steps := []struct {
		reason string
		event  metav1.WatchEvent
		name   string
		want   Lock
	}{
		{"a new revision", event("ADDED", locked("web-2", "u2", first)), "web-2", first},
		{"a status that changed", event("MODIFIED", locked("web-1", "u1", first)), "web-1", first},
		{"a lock that was changed with the images", event("MODIFIED", locked("web-1", "u1", second)), "web-1", second},
		{"a lock that was torn", event("MODIFIED", torn), "web-2", nil},
		{"and mended", event("MODIFIED", locked("web-2", "u2", second)), "web-2", second},
		{"a revision that is gone", event("DELETED", locked("web-2", "u2", second)), "web-2", nil},
		{"and gone again", event("DELETED", locked("web-2", "u2", second)), "web-2", nil},
	}
	for i, step := range steps {
		marker := fmt.Sprintf("marker-%d", i)
		c.events[replicaSetsPath] <- step.event
		c.events[replicaSetsPath] <- event("ADDED", locked(marker, "m", first))
		name := types.NamespacedName{Namespace: "shop", Name: step.name}
		heard := func(context.Context) (bool, error) {
			return x.tables[replicaSets].get(types.NamespacedName{Namespace: "shop", Name: marker}) != nil, nil
		}
		if err := wait.PollUntilContextTimeout(t.Context(), time.Millisecond, 30*time.Second, true, heard); err != nil {
			t.Fatalf("%s: %v", step.reason, err)
		}
		got := x.tables[replicaSets].get(name)
		if (got != nil) != (step.want != nil) || got != nil && !cmp.Equal(step.want, got.lock) {
			t.Errorf("%s: the index has %+v, want %+v", step.reason, got, step.want)
		}
	}
	if c.reads.Load() != 0 {
		t.Errorf("what the index hears it does not ask for: %d reads", c.reads.Load())
	}
}

// TestTable looks at what is kept, which nobody sees from outside.
func TestTable(t *testing.T) {
	table := newTable(schema.GroupVersionResource{})
	first, second := example("a:1"), example("a:2")
	add := func(name string, l Lock) {
		if err := table.Update(locked(name, "u", l)); err != nil {
			t.Fatal(err)
		}
	}
	same := func(reason string, locks int, names ...string) {
		t.Helper()
		users := 0
		for _, c := range table.held.locks {
			users += c.users
		}
		if len(table.held.locks) != locks || users != len(names) || len(table.held.revisions) != len(names) {
			t.Errorf("%s: %d locks of %d users in %d revisions, want %d of %d", reason, len(table.held.locks), users, len(table.held.revisions), locks, len(names))
		}
		for _, name := range names {
			if table.get(types.NamespacedName{Namespace: "shop", Name: name}) == nil {
				t.Errorf("%s: there is no %s", reason, name)
			}
		}
	}
	same("at first", 0)
	add("a", first)
	add("b", first)
	same("equal locks are kept once", 1, "a", "b")
	add("a", first)
	same("to hear of one again changes nothing", 1, "a", "b")
	add("a", second)
	same("a revision that is locked anew", 2, "a", "b")
	if err := table.Delete(object("b", "u")); err != nil {
		t.Fatal(err)
	}
	same("the last of its lock takes it along", 1, "a")
	if err := table.Add(object("a", "u")); err != nil {
		t.Fatal(err)
	}
	same("one that is not locked any more is out", 0)
	add("gone", first)
	if err := table.Replace([]any{locked("c", "u", first), locked("d", "u", first), object("e", "u")}, ""); err != nil {
		t.Fatal(err)
	}
	same("after a new list there is nothing but what is in it", 1, "c", "d")
	for _, wrong := range []error{table.Add(""), table.Update(""), table.Delete(""), table.Replace([]any{""}, "")} {
		if wrong == nil {
			t.Error("what is no metadata is an error")
		}
	}
	same("and changes nothing", 1, "c", "d")
}

// TestLockIsBounded asks an API server that does not answer.
func TestLockIsBounded(t *testing.T) {
	asked, answer := make(chan struct{}, 10), make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked <- struct{}{}
		<-answer
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(locked("web-1", "u1", example("a:1")))
	}))
	defer server.Close()
	x, err := NewIndex(&rest.Config{Host: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	revision := Revision{Resource: replicaSets, Namespace: "shop", Name: "web-1", UID: "u1"}
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan error)
	go func() {
		_, _, err := x.Lock(ctx, revision)
		first <- err
	}()
	<-asked
	var patient sync.WaitGroup
	patient.Go(func() {
		if _, ok, err := x.Lock(t.Context(), revision); !ok || err != nil {
			t.Errorf("who waits gets the answer, whoever asked first: %v, %v", ok, err)
		}
	})
	cancel()
	if err := <-first; !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "replicasets shop/web-1") {
		t.Errorf("nobody waits longer than its own context, and the error says what was read: %v", err)
	}
	close(answer)
	patient.Wait()
}

// BenchmarkLock is what a pod of a locked revision costs, at rest and while revisions change as fast as they can.
func BenchmarkLock(b *testing.B) {
	x, err := NewIndex(&rest.Config{Host: "127.0.0.1:1"})
	if err != nil {
		b.Fatal(err)
	}
	table := x.tables[replicaSets]
	var all []any
	for i := range 100_000 {
		all = append(all, locked(fmt.Sprintf("web-%d", i), "u", example(fmt.Sprintf("a:%d", i/10))))
	}
	for name, changes := range map[string]bool{"Rest": false, "Change": true} {
		b.Run(name, func(b *testing.B) {
			if err := table.Replace(all, ""); err != nil {
				b.Fatal(err)
			}
			ctx, cancel := context.WithCancel(b.Context())
			var writer sync.WaitGroup
			if changes {
				writer.Go(func() {
					for i := 0; ctx.Err() == nil; i++ {
						_ = table.Update(all[i%len(all)])
					}
				})
			}
			revision := Revision{Resource: replicaSets, Namespace: "shop", Name: "web-77", UID: "u"}
			b.ReportAllocs()
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, ok, err := x.Lock(ctx, revision); !ok || err != nil {
						b.Fatal(ok, err)
					}
				}
			})
			cancel()
			writer.Wait()
		})
	}
}
