// Package pruner bounds the history of tags. It drops the oldest events of a tag that has too many, but
// none whose image a pod runs.
package pruner

import (
	"cmp"
	"context"
	"fmt"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"istag.dev/store"
	storev1 "istag.dev/store/v1"
)

const (
	controllerName = "istag-pruner"

	// DefaultLimit is how many events a tag keeps.
	DefaultLimit = 50

	// conflictDelay is how soon a record is looked at again that someone else wrote meanwhile.
	conflictDelay = time.Second
	// inUsePause is how long the pods are not listed again for a stream all of whose surplus was in use.
	inUsePause = time.Minute
)

// Options of the controller; the zero value is good.
type Options struct {
	// Limit is how many events a tag keeps; 0 means DefaultLimit.
	Limit int
	// Clock tells when the pods may be listed again; nil means the real one.
	Clock clock.PassiveClock
}

// Add puts the controller into a manager, whose scheme must know StreamRecords and pods. Pods are
// read from the API server, so that the manager need not watch them all.
func Add(mgr ctrl.Manager, o Options) error {
	r := New(mgr.GetClient(), mgr.GetAPIReader(), o)
	return ctrl.NewControllerManagedBy(mgr).
		Named(controllerName).
		For(&storev1.StreamRecord{}, builder.WithPredicates(tooLong{r.limit})).
		WithOptions(controller.Options{
			// One at a time: each lists the pods of the cluster, and none is urgent.
			MaxConcurrentReconciles: 1,
			RateLimiter:             workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](time.Second, 5*time.Minute),
		}).
		Complete(r)
}

// Reconciler bounds the history of the tags of one stream.
type Reconciler struct {
	// client reads StreamRecords from the cache, and writes. A version that is old by now conflicts.
	client client.Client
	// live lists pods as they are now: a cache might not have the pod yet that was just started.
	live  client.Reader
	limit int
	clock clock.PassiveClock

	mu     sync.Mutex
	paused map[types.NamespacedName]pause
}

// pause is until when the pods are not listed again for a stream, as long as it is the same.
type pause struct {
	until time.Time
	uid   types.UID
}

// New returns a Reconciler. live must not be a cache.
func New(c client.Client, live client.Reader, o Options) *Reconciler {
	r := &Reconciler{
		client: c,
		live:   live,
		limit:  cmp.Or(o.Limit, DefaultLimit),
		clock:  o.Clock,
		paused: map[types.NamespacedName]pause{},
	}
	if r.clock == nil {
		r.clock = clock.RealClock{}
	}
	return r
}

// Reconcile drops the events of a stream's tags that are too many. If it cannot be known what pods run,
// it drops nothing.
func (r *Reconciler) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	var record storev1.StreamRecord
	if err := r.client.Get(ctx, req.NamespacedName, &record); err != nil {
		if apierrors.IsNotFound(err) {
			r.resume(req.NamespacedName)
			return reconcile.Result{}, nil
		}
		return reconcile.Result{}, fmt.Errorf("reading stream record %q: %w", req, err)
	}
	if !record.DeletionTimestamp.IsZero() || !exceeds(&record, r.limit) {
		r.resume(req.NamespacedName)
		return reconcile.Result{}, nil
	}
	if wait := r.wait(&record); wait > 0 {
		return reconcile.Result{RequeueAfter: wait}, nil
	}
	running, err := runningImages(ctx, r.live)
	if err != nil {
		return reconcile.Result{}, fmt.Errorf("shortening the history of stream record %q: %w", req, err)
	}
	before := events(&record)
	if !store.Trim(&record, r.limit, running.Has) {
		r.pause(&record)
		return reconcile.Result{RequeueAfter: inUsePause}, nil
	}
	switch err := r.client.Update(ctx, &record, client.FieldOwner(controllerName)); {
	case apierrors.IsConflict(err):
		return reconcile.Result{RequeueAfter: conflictDelay}, nil
	case apierrors.IsNotFound(err):
		return reconcile.Result{}, nil
	case err != nil:
		return reconcile.Result{}, fmt.Errorf("writing stream record %q: %w", req, err)
	}
	log.FromContext(ctx).Info("history shortened", "limit", r.limit, "dropped", before-events(&record))
	return reconcile.Result{}, nil
}

// wait returns how long the pods are not to be listed for a stream; 0 if they may be now.
func (r *Reconciler) wait(record *storev1.StreamRecord) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.paused[client.ObjectKeyFromObject(record)]
	if p.uid != record.UID {
		return 0
	}
	return max(0, p.until.Sub(r.clock.Now()))
}

func (r *Reconciler) pause(record *storev1.StreamRecord) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.paused[client.ObjectKeyFromObject(record)] = pause{r.clock.Now().Add(inUsePause), record.UID}
}

func (r *Reconciler) resume(key types.NamespacedName) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.paused, key)
}

// exceeds reports whether a tag of a stream has more events than the limit.
func exceeds(record *storev1.StreamRecord, limit int) bool {
	for i := range record.Status.Tags {
		if len(record.Status.Tags[i].Items) > limit {
			return true
		}
	}
	return false
}

func events(record *storev1.StreamRecord) int {
	n := 0
	for i := range record.Status.Tags {
		n += len(record.Status.Tags[i].Items)
	}
	return n
}

// tooLong lets those records through that have a tag with more events than the limit, and the end of
// any, so that nothing is remembered of it.
type tooLong struct{ limit int }

var _ predicate.Predicate = tooLong{}

func (p tooLong) exceeded(object client.Object) bool {
	record, ok := object.(*storev1.StreamRecord)
	return ok && exceeds(record, p.limit)
}

// Create implements predicate.Predicate.
func (p tooLong) Create(e event.CreateEvent) bool { return p.exceeded(e.Object) }

// Update implements predicate.Predicate. A resync brings the same version again.
func (p tooLong) Update(e event.UpdateEvent) bool {
	return e.ObjectOld.GetResourceVersion() != e.ObjectNew.GetResourceVersion() && p.exceeded(e.ObjectNew)
}

// Delete implements predicate.Predicate.
func (p tooLong) Delete(e event.DeleteEvent) bool { return p.exceeded(e.Object) }

// Generic implements predicate.Predicate.
func (p tooLong) Generic(e event.GenericEvent) bool { return p.exceeded(e.Object) }
