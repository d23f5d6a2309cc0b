package scope

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr/funcr"
	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"
	testingclock "k8s.io/utils/clock/testing"
	logf "sigs.k8s.io/controller-runtime/pkg/log"
)

// cluster is an API server that has namespaces, of which it serves the metadata.
type cluster struct {
	*httptest.Server
	// reads counts GETs of single namespaces.
	reads atomic.Int32
	// events are what watchers are told, after what there was when they came.
	events chan metav1.WatchEvent

	mu         sync.Mutex
	namespaces map[string]*metav1.PartialObjectMetadata
}

func newCluster(t testing.TB, namespaces ...*metav1.PartialObjectMetadata) *cluster {
	t.Helper()
	c := &cluster{events: make(chan metav1.WatchEvent, 100), namespaces: map[string]*metav1.PartialObjectMetadata{}}
	for _, n := range namespaces {
		c.namespaces[n.Name] = n
	}
	c.Server = httptest.NewServer(c)
	t.Cleanup(func() {
		c.CloseClientConnections()
		c.Close()
	})
	return c
}

func (c *cluster) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	name, single := strings.CutPrefix(r.URL.Path, "/api/v1/namespaces/")
	switch {
	case !strings.Contains(r.Header.Get("Accept"), "as=PartialObjectMetadata"):
		http.Error(w, "only metadata is to be asked for", http.StatusNotAcceptable)
	case single:
		c.reads.Add(1)
		c.get(w, name)
	case r.URL.Path == "/api/v1/namespaces" && r.URL.Query().Get("labelSelector") == AdmissionLabel:
		c.watch(w, r)
	default:
		http.Error(w, "nothing else is to be asked for", http.StatusForbidden)
	}
}

func (c *cluster) get(w http.ResponseWriter, name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	found := c.namespaces[name]
	switch {
	case name == "broken":
		w.WriteHeader(http.StatusInternalServerError)
	case found == nil:
		w.WriteHeader(http.StatusNotFound)
		_ = json.NewEncoder(w).Encode(apierrors.NewNotFound(schema.GroupResource{Resource: "namespaces"}, name).Status())
	default:
		_ = json.NewEncoder(w).Encode(found)
	}
}

// watch streams what there is, the news that this was all, and what happens then.
func (c *cluster) watch(w http.ResponseWriter, r *http.Request) {
	send := func(e metav1.WatchEvent) {
		_ = json.NewEncoder(w).Encode(e)
		_ = http.NewResponseController(w).Flush()
	}
	c.mu.Lock()
	for _, n := range c.namespaces {
		if _, labelled := n.Labels[AdmissionLabel]; labelled {
			send(event("ADDED", n))
		}
	}
	c.mu.Unlock()
	all := object("")
	all.Annotations = map[string]string{metav1.InitialEventsAnnotationKey: "true"}
	send(event("BOOKMARK", all))
	for {
		select {
		case <-r.Context().Done():
			return
		case e := <-c.events:
			send(e)
		}
	}
}

func (c *cluster) set(n *metav1.PartialObjectMetadata) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.namespaces[n.Name] = n
}

func event(kind string, object *metav1.PartialObjectMetadata) metav1.WatchEvent {
	text, _ := json.Marshal(object) // plain data
	e := metav1.WatchEvent{Type: kind}
	e.Object.Raw = text
	return e
}

// object is a namespace with labels, "key=value".
func object(name string, labels ...string) *metav1.PartialObjectMetadata {
	n := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Name: name, ResourceVersion: "7"}}
	n.SetGroupVersionKind(metav1.SchemeGroupVersion.WithKind("PartialObjectMetadata"))
	for _, label := range labels {
		key, value, _ := strings.Cut(label, "=")
		metav1.SetMetaDataLabel(&n.ObjectMeta, key, value)
	}
	return n
}

const (
	enforce  = AdmissionLabel + "=enforce"
	warn     = AdmissionLabel + "=warn"
	podsOnly = PlacementLabel + "=pod"
)

func TestNamespacesSettings(t *testing.T) {
	c := newCluster(t, object("shop", enforce), object("kube-system", enforce), object("istag-system", enforce), object("typo", AdmissionLabel+"=on"), object("free"))
	clock := testingclock.NewFakeClock(time.Now())
	n, err := newNamespaces(&rest.Config{Host: c.URL}, "istag-system", clock)
	if err != nil {
		t.Fatal(err)
	}
	feed(t, n, nil)
	c.set(object("new", warn, podsOnly)) // of which the index does not hear
	cases := []struct {
		reason, name string
		want         Settings
		fails        bool
		reads        int32
	}{
		{"a labelled namespace is in memory", "shop", Settings{Mode: Enforce}, false, 0},
		{"a cluster must be able to start without us, whatever the label says", "kube-system", Settings{}, false, 0},
		{"what we run in must not wait for us", "istag-system", Settings{}, false, 0},
		{"that these are never ours is known without reading them", "kube-public", Settings{}, false, 0},
		{"a label that means nothing asks for nothing", "typo", Settings{}, false, 0},
		{"one that was labelled an instant ago is read", "new", Settings{Mode: Warn, PodPlacement: true}, false, 1},
		{"until the index has it", "new", Settings{Mode: Warn, PodPlacement: true}, false, 1},
		{"one that is none of ours is read", "free", Settings{}, false, 1},
		{"and not again at once", "free", Settings{}, false, 0},
		{"so is one that does not exist", "gone", Settings{}, false, 1},
		{"and not again either", "gone", Settings{}, false, 0},
		{"an error is an error: off would let everything through", "broken", Settings{}, true, 1},
		{"and not remembered", "broken", Settings{}, true, 1},
		{"no path of the API is reached by the name of a namespace", "../pods", Settings{}, false, 0},
		{"nor a list by none", "", Settings{}, false, 0},
	}
	for _, tc := range cases {
		before := c.reads.Load()
		got, err := n.Settings(t.Context(), tc.name)
		if diff := cmp.Diff(tc.want, got); diff != "" || (err != nil) != tc.fails || c.reads.Load()-before != tc.reads {
			t.Errorf("%s: Settings(%q): %v, after %d reads, want %d (-want +got):\n%s", tc.reason, tc.name, err, c.reads.Load()-before, tc.reads, diff)
		}
		if tc.fails && !strings.Contains(err.Error(), `namespace "`+tc.name+`"`) {
			t.Errorf("%s: the error must say what was read: %v", tc.reason, err)
		}
	}
	c.set(object("free", enforce))
	clock.Step(offFor + 1)
	if got, err := n.Settings(t.Context(), "free"); err != nil || got.Mode != Enforce {
		t.Errorf("what is none of ours may become ours, so it is read again in time: %+v, %v", got, err)
	}
}

// TestNamespacesClockJumps asks for the same again and again while the clock does as it likes. Only how
// often the API server is asked may depend on it.
func TestNamespacesClockJumps(t *testing.T) {
	c := newCluster(t, object("shop", enforce), object("free"))
	start := time.Now()
	clock := testingclock.NewFakeClock(start)
	n, err := newNamespaces(&rest.Config{Host: c.URL}, "", clock)
	if err != nil {
		t.Fatal(err)
	}
	feed(t, n, nil)
	check := func(reason string, free Mode) {
		t.Helper()
		for name, want := range map[string]Mode{"shop": Enforce, "free": free} {
			if got, err := n.Settings(t.Context(), name); err != nil || got.Mode != want {
				t.Errorf("%s: namespace %s has mode %q, %v; want %q", reason, name, got.Mode, err, want)
			}
		}
	}
	check("at first", Off)
	for _, jump := range []time.Duration{time.Hour, -time.Hour, -24 * time.Hour, 10 * 365 * 24 * time.Hour} {
		clock.SetTime(start.Add(jump))
		check("by a clock that is off by "+jump.String(), Off)
	}
	clock.SetTime(start.Add(-time.Hour))
	c.set(object("free", enforce))
	check("what was seen in a future that has not come is not believed", Enforce)
}

// TestNamespacesFollow tells the index by watch events what happens, and expects it to know without reading.
func TestNamespacesFollow(t *testing.T) {
	c := newCluster(t, object("shop", enforce), object("typo", AdmissionLabel+"=on"))
	n, err := NewNamespaces(&rest.Config{Host: c.URL}, "istag-system")
	if err != nil {
		t.Fatal(err)
	}
	var lines lines
	feed(t, n, &lines)
	annotated := object("shop", warn)
	annotated.Annotations = map[string]string{IgnoreRulesAnnotation: "a"}
	steps := []struct {
		reason string
		event  metav1.WatchEvent
		name   string
		want   Settings
		// logged is how many lines tell of labels that mean nothing, from the beginning.
		logged int
	}{
		{"a new namespace", event("ADDED", object("new", enforce)), "new", Settings{Mode: Enforce}, 1},
		{"a changed mind", event("MODIFIED", annotated), "shop", Settings{Mode: Warn, IgnoreRules: []string{"a"}}, 1},
		{"a second typo", event("MODIFIED", object("shop", enforce, PlacementLabel+"=pods")), "shop", Settings{Mode: Enforce}, 2},
		{"the same typo, when something else changes", event("MODIFIED", object("shop", enforce, PlacementLabel+"=pods", "a=b")), "shop", Settings{Mode: Enforce}, 2},
		{"a typo corrected", event("MODIFIED", object("shop", enforce, podsOnly)), "shop", Settings{Mode: Enforce, PodPlacement: true}, 2},
		{"a label taken off is a deletion for who watches the labelled", event("DELETED", object("shop")), "shop", Settings{}, 2},
		{"our own, labelled", event("ADDED", object("istag-system", enforce)), "istag-system", Settings{}, 2},
	}
	for i, step := range steps {
		c.set(object(step.name)) // what a read would say
		marker := fmt.Sprintf("marker-%d", i)
		c.events <- step.event
		c.events <- event("ADDED", object(marker, warn))
		waitFor(t, step.reason, func() bool {
			_, heard := (*n.current.Load())[marker]
			return heard
		})
		got, err := n.Settings(t.Context(), step.name)
		if diff := cmp.Diff(step.want, got); diff != "" || err != nil {
			t.Errorf("%s: Settings(%q): %v (-want +got):\n%s", step.reason, step.name, err, diff)
		}
		if got := lines.all(); len(got) != step.logged {
			t.Errorf("%s: what is wrong is logged once: want %d lines, got %q", step.reason, step.logged, got)
		}
	}
	if got := lines.all(); !strings.Contains(got[0], `"namespace"="typo"`) || !strings.Contains(got[0], "expected one of enforce, warn, audit") {
		t.Errorf("a line says where and what, and what would be right: %q", got)
	}
	index := &index{Namespaces: n, tell: func(string, problem) {}}
	if err := index.Replace([]any{object("only", warn)}, ""); err != nil {
		t.Fatal(err)
	}
	if got := *n.current.Load(); len(got) != 1 || got["only"].settings.Mode != Warn {
		t.Errorf("after a new list there is nothing but what is in it: %+v", got)
	}
	for _, wrong := range []error{index.Add(""), index.Update(""), index.Delete(""), index.Replace([]any{""}, "")} {
		if wrong == nil {
			t.Error("what is no namespace is an error")
		}
	}
}

// TestNamespacesSettingsAreBounded asks an API server that does not answer.
func TestNamespacesSettingsAreBounded(t *testing.T) {
	asked, answer := make(chan struct{}, 10), make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked <- struct{}{}
		<-answer
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(object("shop", enforce))
	}))
	defer server.Close()
	n, err := NewNamespaces(&rest.Config{Host: server.URL}, "")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan error)
	go func() {
		_, err := n.Settings(ctx, "shop")
		first <- err
	}()
	<-asked
	var patient sync.WaitGroup
	patient.Go(func() {
		if got, err := n.Settings(t.Context(), "shop"); err != nil || got.Mode != Enforce {
			t.Errorf("who waits gets the answer, whoever asked first: %+v, %v", got, err)
		}
	})
	cancel()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Errorf("nobody waits longer than its own context: %v", err)
	}
	close(answer)
	patient.Wait()
}

// feed runs the feed until the test ends, and returns when it has read everything once.
func feed(t testing.TB, n *Namespaces, lines *lines) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	if lines != nil {
		ctx = logf.IntoContext(ctx, funcr.New(lines.add, funcr.Options{}))
	}
	var running sync.WaitGroup
	running.Go(func() { n.Feed(ctx) })
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	select {
	case <-n.Synced():
	case <-time.After(30 * time.Second):
		t.Fatal("the namespaces were not read")
	}
}

func waitFor(t testing.TB, what string, met func() bool) {
	t.Helper()
	err := wait.PollUntilContextTimeout(t.Context(), time.Millisecond, 30*time.Second, true, func(context.Context) (bool, error) { return met(), nil })
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// lines is a log.
type lines struct {
	mu   sync.Mutex
	text []string
}

func (l *lines) add(_, line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = append(l.text, line)
}

// all returns the lines that are ours.
func (l *lines) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(l.text), func(line string) bool { return !strings.Contains(line, "means nothing") })
}

// BenchmarkSettings is what every review costs.
func BenchmarkSettings(b *testing.B) {
	n, err := NewNamespaces(&rest.Config{Host: "127.0.0.1:1"}, "istag-system")
	if err != nil {
		b.Fatal(err)
	}
	index := &index{Namespaces: n, tell: func(string, problem) {}}
	var all []any
	for i := range 10_000 {
		all = append(all, object(fmt.Sprintf("namespace-%d", i), enforce))
	}
	if err := index.Replace(all, ""); err != nil {
		b.Fatal(err)
	}
	ctx := b.Context()
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if s, err := n.Settings(ctx, "namespace-77"); err != nil || s.Mode != Enforce {
				b.Fatal(s, err)
			}
		}
	})
}
