package scope

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	lru "k8s.io/apimachinery/pkg/util/cache"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/clock"
	logf "sigs.k8s.io/controller-runtime/pkg/log"
)

const (
	// readBudget bounds a live read for whom it is shared with: nobody waits longer than its own context.
	readBudget = time.Second
	// offFor is how long a namespace is not asked for again that a live read found to be none of ours. It
	// only has to outlast what the API server still sends of a namespace that lost its label.
	offFor = time.Second
	// offMost bounds the names remembered.
	offMost = 10_000
)

// Namespaces are the settings of all namespaces that ask for admission, and a Reader. Of the namespaces
// nothing but their metadata is read.
type Namespaces struct {
	own    string
	client metadata.Interface
	clock  clock.PassiveClock
	flight singleflight.Group
	// off holds the time at which a namespace was seen to be none of ours.
	off *lru.LRUExpireCache

	// current is replaced, never changed: every review reads it, and namespaces change seldom.
	current atomic.Pointer[map[string]namespace]
	mu      sync.Mutex // one writer at a time
	synced  chan struct{}
	once    sync.Once
}

// namespace is what is known of one.
type namespace struct {
	settings Settings
	problems []problem
}

// NewNamespaces returns Namespaces that use the API server and the identity of a client configuration. own is
// istag's own namespace, which never asks for anything, whatever its labels.
func NewNamespaces(config *rest.Config, own string) (*Namespaces, error) {
	return newNamespaces(config, own, clock.RealClock{})
}

func newNamespaces(config *rest.Config, own string, clock clock.PassiveClock) (*Namespaces, error) {
	config = rest.CopyConfig(config)
	config.QPS = -1 // the API server's own fairness decides, and off bounds what we ask
	client, err := metadata.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	n := &Namespaces{own: own, client: client, clock: clock, off: lru.NewLRUExpireCacheWithClock(offMost, clock), synced: make(chan struct{})}
	n.current.Store(&map[string]namespace{})
	return n, nil
}

func (n *Namespaces) all() metadata.Getter {
	return n.client.Resource(schema.GroupVersionResource{Version: "v1", Resource: "namespaces"})
}

// Feed keeps the settings equal to the labels of the cluster's namespaces until ctx ends. It logs labels
// that it does not understand.
func (n *Namespaces) Feed(ctx context.Context) {
	labelled := cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			options.LabelSelector = AdmissionLabel
			return n.all().List(ctx, options)
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			options.LabelSelector = AdmissionLabel
			return n.all().Watch(ctx, options)
		},
	}, n.client)
	logger := logf.FromContext(ctx).WithName("namespaces")
	index := &index{Namespaces: n, tell: func(name string, p problem) {
		logger.Info("a namespace has a label that means nothing", "namespace", name, "problem", p.String())
	}}
	reflector := cache.NewReflectorWithOptions(labelled, &metav1.PartialObjectMetadata{}, index, cache.ReflectorOptions{Name: "namespaces"})
	reflector.RunWithContext(ctx)
}

// Synced is closed once all labelled namespaces were read.
func (n *Namespaces) Synced() <-chan struct{} { return n.synced }

// Settings implements Reader. The API server sends us what is made in labelled namespaces only, so one that
// is not known was labelled an instant ago: it is asked for.
func (n *Namespaces) Settings(ctx context.Context, name string) (Settings, error) {
	if known, ok := (*n.current.Load())[name]; ok {
		return known.settings, nil
	}
	if name == n.own || neverAdmitted(name) || n.isOff(name) || len(validation.IsDNS1123Label(name)) > 0 {
		return Settings{}, nil
	}
	settings, err := n.ask(ctx, name)
	if err != nil {
		return Settings{}, fmt.Errorf("reading the labels of namespace %q: %w", name, err)
	}
	return settings, nil
}

// isOff reports whether a namespace was seen to be none of ours a moment ago. A moment that has not come
// yet, by a clock that was put back, is not a moment ago.
func (n *Namespaces) isOff(name string) bool {
	at, ok := n.off.Get(name)
	if !ok {
		return false
	}
	seen, ok := at.(time.Time)
	return ok && !n.clock.Now().Before(seen)
}

// ask reads one namespace from the API server. Equal questions at one time are asked once.
func (n *Namespaces) ask(ctx context.Context, name string) (Settings, error) {
	result := n.flight.DoChan(name, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readBudget)
		defer cancel()
		at := n.clock.Now()
		object, err := n.all().Get(ctx, name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
			n.off.Add(name, at, offFor)
			return Settings{}, nil
		case err != nil:
			return nil, err
		}
		settings := Parse(name, object.Labels, object.Annotations)
		if settings.Mode == Off {
			n.off.Add(name, at, offFor)
		}
		return settings, nil
	})
	select {
	case <-ctx.Done():
		return Settings{}, ctx.Err()
	case answer := <-result:
		settings, _ := answer.Val.(Settings)
		return settings, answer.Err
	}
}

// index is what a client-go reflector feeds: it is a cache.ReflectorStore.
type index struct {
	*Namespaces
	tell func(name string, p problem)
}

// Add puts a *metav1.PartialObjectMetadata into the index.
func (x *index) Add(obj any) error {
	name, now, err := x.read(obj)
	if err != nil {
		return err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	current := *x.current.Load()
	// Much changes in a namespace that is none of our business.
	if had, ok := current[name]; ok && reflect.DeepEqual(had, now) {
		return nil
	}
	x.report(current, name, now)
	next := maps.Clone(current)
	next[name] = now
	x.current.Store(&next)
	return nil
}

// Update puts the newer form of a *metav1.PartialObjectMetadata into the index.
func (x *index) Update(obj any) error { return x.Add(obj) }

// Delete takes a *metav1.PartialObjectMetadata out of the index.
func (x *index) Delete(obj any) error {
	name, _, err := x.read(obj)
	if err != nil {
		return err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	next := maps.Clone(*x.current.Load())
	delete(next, name)
	x.current.Store(&next)
	return nil
}

// Replace makes the index hold exactly the *metav1.PartialObjectMetadata given.
func (x *index) Replace(list []any, _ string) error {
	next := make(map[string]namespace, len(list))
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, obj := range list {
		name, now, err := x.read(obj)
		if err != nil {
			return err
		}
		x.report(*x.current.Load(), name, now)
		next[name] = now
	}
	x.current.Store(&next)
	x.once.Do(func() { close(x.synced) })
	return nil
}

// Resync does nothing: the index has no second reader to tell.
func (x *index) Resync() error { return nil }

func (x *index) read(obj any) (name string, now namespace, err error) {
	object, ok := obj.(*metav1.PartialObjectMetadata)
	if !ok {
		return "", namespace{}, fmt.Errorf("the index of namespaces takes a *PartialObjectMetadata, got %T", obj)
	}
	if object.Name != x.own {
		now.settings, now.problems = parse(object.Name, object.Labels, object.Annotations)
	}
	return object.Name, now, nil
}

// report tells of problems that a namespace did not have before.
func (x *index) report(current map[string]namespace, name string, now namespace) {
	for _, p := range now.problems {
		if !slices.Contains(current[name].problems, p) {
			x.tell(name, p)
		}
	}
}
