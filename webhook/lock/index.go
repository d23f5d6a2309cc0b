package lock

import (
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	lru "k8s.io/apimachinery/pkg/util/cache"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

const (
	// readBudget bounds a live read for whom it is shared with: nobody waits longer than its own context.
	readBudget = time.Second
	// recentFor is how long the answer of a live read stands in for the index, which hears of a new
	// revision within milliseconds. The first pods of a revision come at once, and a revision that is not
	// locked is in no index.
	recentFor = time.Second
	// recentMost bounds the answers remembered.
	recentMost = 10_000
)

// Index holds the locks of all locked revisions of the cluster, and is a Reader. Of the revisions nothing but
// their metadata is read.
type Index struct {
	client metadata.Interface
	tables map[string]*table // by resource; itself it never changes
	synced chan struct{}
	flight singleflight.Group
	recent *lru.LRUExpireCache
}

// NewIndex returns an Index that uses the API server and the identity of a client configuration.
func NewIndex(config *rest.Config) (*Index, error) {
	config = rest.CopyConfig(config)
	config.QPS = -1 // the API server's own fairness decides, and what is recent bounds what we ask
	client, err := metadata.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	x := &Index{client: client, tables: map[string]*table{}, synced: make(chan struct{}), recent: lru.NewLRUExpireCache(recentMost)}
	for _, resource := range []schema.GroupVersionResource{
		{Group: "apps", Version: "v1", Resource: replicaSets},
		{Group: "apps", Version: "v1", Resource: controllerRevisions},
		{Group: "batch", Version: "v1", Resource: jobs},
		{Group: "", Version: "v1", Resource: replicationControllers},
	} {
		x.tables[resource.Resource] = newTable(resource)
	}
	return x, nil
}

// Feed keeps the index equal to the locked revisions of the cluster until ctx ends. It is called once.
func (x *Index) Feed(ctx context.Context) {
	var running sync.WaitGroup
	for resource, table := range x.tables {
		reflector := cache.NewReflectorWithOptions(x.locked(table.resource), &metav1.PartialObjectMetadata{}, table,
			cache.ReflectorOptions{Name: "locks of " + resource})
		running.Go(func() { reflector.RunWithContext(ctx) })
	}
	running.Go(func() {
		for _, table := range x.tables {
			select {
			case <-table.synced:
			case <-ctx.Done():
				return
			}
		}
		close(x.synced)
	})
	running.Wait()
}

// Synced is closed once the index holds all locked revisions.
func (x *Index) Synced() <-chan struct{} { return x.synced }

// locked lists and watches what is locked of a resource.
func (x *Index) locked(resource schema.GroupVersionResource) cache.ListerWatcher {
	client := x.client.Resource(resource)
	return cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			options.LabelSelector = Label
			return client.List(ctx, options)
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			options.LabelSelector = Label
			return client.Watch(ctx, options)
		},
	}, x.client)
}

// Lock implements Reader. A revision is made an instant before its pods, so one that the index does not
// have, or has another of the same name for, is asked for.
func (x *Index) Lock(ctx context.Context, r Revision) (l Lock, ok bool, err error) {
	table, known := x.tables[r.Resource]
	if !known {
		return nil, false, fmt.Errorf("%q are not revisions", r.Resource)
	}
	found := table.get(types.NamespacedName{Namespace: r.Namespace, Name: r.Name})
	if found == nil || !found.is(r) {
		if found, err = x.ask(ctx, table.resource, r); err != nil {
			return nil, false, fmt.Errorf("reading the lock of %s %s/%s: %w", r.Resource, r.Namespace, r.Name, err)
		}
	}
	if found == nil {
		return nil, false, nil
	}
	return found.lock, true, nil
}

// ask reads one revision from the API server; it returns nil if that is not locked, or is not there. Equal
// questions at one time are asked once.
func (x *Index) ask(ctx context.Context, resource schema.GroupVersionResource, r Revision) (*revision, error) {
	if !r.possible() {
		return nil, nil
	}
	if answer, ok := x.recent.Get(r); ok {
		found, _ := answer.(*revision)
		return found, nil
	}
	key := fmt.Sprintf("%s/%s/%s/%s/%s", r.Resource, r.Namespace, r.Name, r.UID, r.Controller)
	result := x.flight.DoChan(key, func() (any, error) {
		found, err := x.read(context.WithoutCancel(ctx), resource, r)
		if err != nil {
			return nil, err
		}
		x.recent.Add(r, found, recentFor)
		return found, nil
	})
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case answer := <-result:
		found, _ := answer.Val.(*revision)
		return found, answer.Err
	}
}

func (x *Index) read(ctx context.Context, resource schema.GroupVersionResource, r Revision) (*revision, error) {
	ctx, cancel := context.WithTimeout(ctx, readBudget)
	defer cancel()
	object, err := x.client.Resource(resource).Namespace(r.Namespace).Get(ctx, r.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	found, text := newRevision(object)
	if found == nil || !found.is(r) {
		return nil, nil
	}
	lock, ok := parse(text)
	if !ok {
		return nil, nil
	}
	found.lock = lock
	return found, nil
}
