// Package importer keeps the tags of streams at what registries say: it imports tags that are new or
// changed and tries failed ones again.
package importer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	imagev1 "github.com/openshift/api/image/v1"
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

	"istag.dev/resolver/upstream"
	storev1 "istag.dev/store/v1"
)

const (
	controllerName = "istag-importer"

	defaultWorkers = 8
	defaultTimeout = 30 * time.Second

	// conflictDelay is how soon a record is looked at again that someone else wrote meanwhile.
	conflictDelay = time.Second
	// writeAttempts bounds how often results are put on a newer version of a record before the record
	// is looked at anew.
	writeAttempts = 4
)

// Upstream asks registries. *upstream.Client is one; what it does is extended by wrapping.
type Upstream interface {
	// Digest returns the image that a request means now.
	Digest(ctx context.Context, req upstream.Request) (upstream.Descriptor, error)
	// Fetch returns what the image of a digest holds, having checked that the registry has it.
	Fetch(ctx context.Context, req upstream.Request, digest string) (*imagev1.Image, error)
}

// Options of the import controller.
type Options struct {
	// Upstream is asked what tags mean.
	Upstream Upstream
	// Workers is the number of streams imported at once; 0 means 8.
	Workers int
	// Timeout of all requests for one tag together; 0 means 30 s.
	Timeout time.Duration
	// Clock is the time of events and of back-off; nil means the real one.
	Clock clock.PassiveClock
}

// Add puts the import controller into a manager.
func Add(mgr ctrl.Manager, o Options) error {
	r := New(mgr.GetClient(), mgr.GetAPIReader(), mgr.GetEventRecorder(controllerName), o)
	return ctrl.NewControllerManagedBy(mgr).
		Named(controllerName).
		For(&storev1.StreamRecord{}, builder.WithPredicates(needed{})).
		WithOptions(controller.Options{
			MaxConcurrentReconciles: cmp.Or(o.Workers, defaultWorkers),
			// For errors of the API server. Failing registries have a schedule of their own.
			RateLimiter: workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](time.Second, 5*time.Minute),
		}).
		Complete(r)
}

// Reconciler imports the tags of one stream.
type Reconciler struct {
	// client reads StreamRecords from the cache, to see whether there is anything to do, and writes.
	client client.Client
	// live reads what is acted upon: a record as the cache had it a moment ago would make us ask
	// registries again for what was just imported.
	live     client.Reader
	recorder events.EventRecorder
	upstream Upstream
	timeout  time.Duration
	clock    clock.PassiveClock
	retries  *retries
}

// New returns a Reconciler. live must not be a cache, which would have to watch all ImageRecords.
func New(c client.Client, live client.Reader, recorder events.EventRecorder, o Options) *Reconciler {
	r := &Reconciler{
		client:   c,
		live:     live,
		recorder: recorder,
		upstream: o.Upstream,
		timeout:  cmp.Or(o.Timeout, defaultTimeout),
		clock:    o.Clock,
	}
	if r.clock == nil {
		r.clock = clock.RealClock{}
	}
	r.retries = newRetries(r.clock)
	return r
}

// Reconcile asks registries for every tag that is to be imported now, and records what they said.
func (r *Reconciler) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	var record storev1.StreamRecord
	if err := r.client.Get(ctx, req.NamespacedName, &record); err != nil {
		return r.gone(req, err)
	}
	if len(r.plan(req, &record)) == 0 {
		return r.next(req, &record), nil
	}
	record = storev1.StreamRecord{}
	if err := r.live.Get(ctx, req.NamespacedName, &record); err != nil {
		return r.gone(req, err)
	}
	if !record.DeletionTimestamp.IsZero() {
		return reconcile.Result{}, nil
	}
	questions := r.plan(req, &record)
	if len(questions) == 0 {
		return r.next(req, &record), nil
	}
	answers := r.ask(ctx, &record, questions)
	if err := ctx.Err(); err != nil {
		return reconcile.Result{}, fmt.Errorf("importing stream record %q: %w", req, err)
	}
	if err := r.record(ctx, req, &record, answers); err != nil {
		return r.refused(req, err)
	}
	r.postpone(req, &record, answers)
	if err := storeErrors(answers); err != nil {
		return reconcile.Result{}, fmt.Errorf("importing stream record %q: %w", req, err)
	}
	if len(answers) < len(questions) {
		return reconcile.Result{RequeueAfter: time.Millisecond}, nil
	}
	return r.next(req, &record), nil
}

// next returns when a record wants to be looked at again: when the first of its failing tags is due.
func (r *Reconciler) next(req reconcile.Request, record *storev1.StreamRecord) reconcile.Result {
	return reconcile.Result{RequeueAfter: r.retries.wait(req.NamespacedName, failing(record))}
}

// postpone makes the tags whose import failed wait.
func (r *Reconciler) postpone(req reconcile.Request, record *storev1.StreamRecord, answers []answer) {
	still := failing(record)
	for _, a := range answers {
		for _, asked := range a.tags {
			if a.err != nil && slices.Contains(still, asked.name) {
				r.retries.failed(req.NamespacedName, asked.name, a.request)
			}
		}
	}
}

// gone ends a reconcile whose record could not be read.
func (r *Reconciler) gone(req reconcile.Request, err error) (reconcile.Result, error) {
	if !apierrors.IsNotFound(err) {
		return reconcile.Result{}, fmt.Errorf("reading stream record %q: %w", req, err)
	}
	r.retries.forget(req.NamespacedName)
	return reconcile.Result{}, nil
}

// refused ends a reconcile whose record could not be written.
func (r *Reconciler) refused(req reconcile.Request, err error) (reconcile.Result, error) {
	switch {
	case apierrors.IsConflict(err):
		return reconcile.Result{RequeueAfter: conflictDelay}, nil
	case apierrors.IsNotFound(err):
		r.retries.forget(req.NamespacedName)
		return reconcile.Result{}, nil
	default:
		return reconcile.Result{}, fmt.Errorf("writing stream record %q: %w", req, err)
	}
}

// record puts answers on a record and writes it. If someone else wrote it meanwhile, the answers go on
// the newer version, since asking registries again would cost more, but only those to questions that
// its tags still ask.
func (r *Reconciler) record(ctx context.Context, req reconcile.Request, record *storev1.StreamRecord, answers []answer) error {
	for attempt := 1; ; attempt++ {
		before := record.DeepCopy()
		if !apply(record, answers, r.now()) {
			return nil
		}
		err := r.write(ctx, before, record)
		if attempt == writeAttempts || !apierrors.IsConflict(err) {
			return err
		}
		*record = storev1.StreamRecord{}
		if err := r.live.Get(ctx, req.NamespacedName, record); err != nil {
			return err
		}
	}
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

// now has the precision that the API keeps, so that a time compares equal after it was stored.
func (r *Reconciler) now() metav1.Time { return metav1.NewTime(r.clock.Now().Truncate(time.Second)) }

func storeErrors(answers []answer) error {
	var errs []error
	for _, a := range answers {
		errs = append(errs, a.storeErr)
	}
	return errors.Join(errs...)
}
