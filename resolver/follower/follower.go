// Package follower keeps tags at what tags of other streams mean, where their spec says that they
// follow them.
//
//	StreamRecord event -> cache index -> every record that follows it, near or far -> walk -> one write
//
// Each follower finds what it should mean by itself, by walking from tag to tag through the cache up to
// the one that its chain begins with. So a chain of any length settles with one write for each of its
// streams, and in whatever order they are looked at.
package follower

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"istag.dev/store"
	storev1 "istag.dev/store/v1"
)

const (
	controllerName = "istag-follower"

	defaultWorkers = 4

	// conflictDelay is how soon a record is looked at again that someone else wrote meanwhile.
	conflictDelay = time.Second
	// recheckEvery is how often the right to use a stream of another namespace is asked for when
	// nothing else gives reason to. Nobody tells us when a right is given or taken away.
	recheckEvery = 5 * time.Minute
)

// Options of the controller; the zero value is good.
type Options struct {
	// Workers is the number of streams looked at at once; 0 means 4.
	Workers int
	// Clock is the time of events and of cached rights; nil means the real one.
	Clock clock.Clock
}

// Add puts the controller into a manager, whose scheme must know StreamRecords and
// authorization.k8s.io/v1.
func Add(mgr ctrl.Manager, o Options) error {
	if err := mgr.GetFieldIndexer().IndexField(context.Background(), &storev1.StreamRecord{}, indexField, sources); err != nil {
		return fmt.Errorf("indexing stream records by what they follow: %w", err)
	}
	return ctrl.NewControllerManagedBy(mgr).
		Named(controllerName).
		For(&storev1.StreamRecord{}, builder.WithPredicates(following{})).
		Watches(&storev1.StreamRecord{}, onSource(mgr.GetCache())).
		WithOptions(controller.Options{
			MaxConcurrentReconciles: cmp.Or(o.Workers, defaultWorkers),
			RateLimiter:             workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](time.Second, recheckEvery),
		}).
		Complete(New(mgr.GetClient(), mgr.GetEventRecorder(controllerName), o))
}

// Reconciler keeps the following tags of one stream at what they follow.
type Reconciler struct {
	// client reads StreamRecords from the cache. A version that is old by now does no harm: the write
	// that comes of it conflicts, and a source that moved meanwhile has its followers looked at again.
	client   client.Client
	recorder events.EventRecorder
	access   *access
	clock    clock.Clock
}

// New returns a Reconciler.
func New(c client.Client, recorder events.EventRecorder, o Options) *Reconciler {
	r := &Reconciler{client: c, recorder: recorder, clock: o.Clock}
	if r.clock == nil {
		r.clock = clock.RealClock{}
	}
	r.access = newAccess(c, r.clock)
	return r
}

// Reconcile gives every following tag of a stream what it follows, or a condition that says why it
// cannot have it. A tag whose rights cannot be asked for stays as it is, and does not stop the others.
func (r *Reconciler) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	var record storev1.StreamRecord
	if err := r.client.Get(ctx, req.NamespacedName, &record); err != nil {
		if apierrors.IsNotFound(err) {
			return reconcile.Result{}, nil
		}
		return reconcile.Result{}, fmt.Errorf("reading stream record %q: %w", req, err)
	}
	if !record.DeletionTimestamp.IsZero() {
		return reconcile.Result{}, nil
	}
	hops := followedBy(&record)
	if len(hops) == 0 {
		return reconcile.Result{}, nil
	}
	before := record.DeepCopy()
	changed, settleErr := r.settle(ctx, &record, hops)
	if changed {
		if err := r.write(ctx, before, &record); err != nil {
			return refused(req, err)
		}
	}
	if settleErr != nil {
		return reconcile.Result{}, fmt.Errorf("following with stream record %q: %w", req, settleErr)
	}
	for _, h := range hops {
		if h.to.namespace != record.Namespace {
			return reconcile.Result{RequeueAfter: recheckEvery}, nil
		}
	}
	return reconcile.Result{}, nil
}

// settle puts on a record what its following tags should mean, and reports whether it changed.
func (r *Reconciler) settle(ctx context.Context, record *storev1.StreamRecord, hops []hop) (bool, error) {
	w := newWalker(r.client, r.access, record)
	change := store.Change{Now: metav1.NewTime(r.clock.Now().Truncate(time.Second))} // the precision that the API keeps
	changed := false
	var errs []error
	for _, h := range hops {
		event, wrong, err := w.walk(ctx, h)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if wrong != nil {
			changed = store.RecordFollowFailure(record, h.from.tag, string(wrong.reason), wrong.message, change) || changed
			continue
		}
		changed = store.RecordFollow(record, h.from.tag, *event, h.to.seenFrom(record.Namespace)) || changed
	}
	return changed, errors.Join(errs...)
}

// write replaces a record if nobody has since it was read, and tells what changed.
func (r *Reconciler) write(ctx context.Context, before, after *storev1.StreamRecord) error {
	notices := changes(before, after)
	if err := r.client.Update(ctx, after, client.FieldOwner(controllerName)); err != nil {
		return err
	}
	for _, n := range notices {
		n.Send(ctx, r.recorder, after, action)
	}
	return nil
}

// refused ends a reconcile whose record could not be written.
func refused(req reconcile.Request, err error) (reconcile.Result, error) {
	switch {
	case apierrors.IsConflict(err):
		return reconcile.Result{RequeueAfter: conflictDelay}, nil
	case apierrors.IsNotFound(err):
		return reconcile.Result{}, nil
	default:
		return reconcile.Result{}, fmt.Errorf("writing stream record %q: %w", req, err)
	}
}
