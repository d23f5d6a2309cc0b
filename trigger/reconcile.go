package trigger

import (
	"context"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"
	logf "sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"istag.dev/store"
	storev1 "istag.dev/store/v1"
)

// A workload that somebody else changed between our reading and writing it is tried again after
// firstConflict, then after twice as long each time, up to lastConflict: mostly the cache hears of the
// change within milliseconds, but it may have lost its watch.
const (
	firstConflict = 10 * time.Millisecond
	lastConflict  = 10 * time.Second
)

// reconciler makes the images of the workloads of one kind follow their tags.
type reconciler struct {
	kind      *kind
	client    client.Client // reads from the cache
	reports   *reporter
	conflicts workqueue.TypedRateLimiter[reconcile.Request]
}

func newReconciler(k *kind, c client.Client, recorder events.EventRecorder) *reconciler {
	return &reconciler{
		kind:      k,
		client:    c,
		reports:   newReporter(recorder),
		conflicts: workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](firstConflict, lastConflict),
	}
}

// Reconcile writes what the triggers of one workload ask for, in one request or none.
//
// Errors that only a change of the workload can heal are not retried; a conflict is retried soon and
// quietly; every other error is retried ever more slowly.
func (r *reconciler) Reconcile(ctx context.Context, req reconcile.Request) (reconcile.Result, error) {
	err := r.reconcile(ctx, req.NamespacedName)
	if apierrors.IsConflict(err) {
		logf.FromContext(ctx).V(1).Info("workload changed meanwhile, trying again")
		return reconcile.Result{RequeueAfter: r.conflicts.When(req)}, nil
	}
	r.conflicts.Forget(req)
	return reconcile.Result{}, err
}

func (r *reconciler) reconcile(ctx context.Context, key types.NamespacedName) error {
	obj := r.kind.newObject()
	err := r.client.Get(ctx, key, obj)
	if apierrors.IsNotFound(err) || err == nil && (!triggered(obj) || !obj.GetDeletionTimestamp().IsZero()) {
		r.reports.forget(key)
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading workload: %w", err)
	}
	p, err := r.kind.plan(obj, r.lookup(ctx))
	if err != nil {
		return r.blame(obj, err)
	}
	logf.FromContext(ctx).V(1).Info("planned", "verdicts", p.verdicts, "changes", len(p.changes))
	if len(p.changes) > 0 {
		if err := r.apply(ctx, obj, p); err != nil {
			return r.blame(obj, err)
		}
	}
	if len(p.refused) > 0 {
		r.reports.refused(obj, p.refused)
		return nil
	}
	r.reports.forget(key)
	return nil
}

// apply writes a plan and reports it.
func (r *reconciler) apply(ctx context.Context, obj client.Object, p *plan) error {
	u := r.kind.configuration(obj, p)
	err := r.client.Apply(ctx, client.ApplyConfigurationFromUnstructured(u), client.FieldOwner(FieldManager), client.ForceOwnership)
	if err != nil {
		r.reports.updateFailed(obj, err)
		return fmt.Errorf("applying images: %w", err)
	}
	if err := r.kind.check(u, p); err != nil {
		return err
	}
	log := logf.FromContext(ctx)
	for _, c := range p.changes {
		log.Info("image updated", "container", c.container, "istag", c.follow.istag.Name(), "from", c.from, "to", c.follow.image.pullSpec)
	}
	r.reports.updated(obj, p.changes)
	return nil
}

// blame reports an error that is the user's to heal, and marks it as one that is not retried.
func (r *reconciler) blame(obj client.Object, err error) error {
	var user *userError
	if !errors.As(err, &user) {
		return err
	}
	r.reports.warn(obj, user.reason, user.action, user.Error())
	return reconcile.TerminalError(err)
}

// lookup resolves tags from the cached records. Each stream is read once, so that all triggers of a
// workload see it at the same moment.
func (r *reconciler) lookup(ctx context.Context) lookup {
	records := map[types.NamespacedName]*storev1.StreamRecord{}
	return func(istag Istag) (image, bool, error) {
		key := types.NamespacedName{Namespace: istag.Namespace, Name: store.RecordName(istag.Stream)}
		record, ok := records[key]
		if !ok {
			record = &storev1.StreamRecord{}
			// The cache's own copy, which is only read: a record can hold thousands of tags, and a wave
			// reads it once for each of its workloads.
			err := r.client.Get(ctx, key, record, client.UnsafeDisableDeepCopy)
			if client.IgnoreNotFound(err) != nil {
				return image{}, false, fmt.Errorf("reading stream %q: %w", istag.Stream, err)
			}
			if err != nil {
				record = nil
			}
			records[key] = record
		}
		if record == nil {
			return image{}, false, nil
		}
		pullSpec, ok := store.PullSpec(record, istag.Tag)
		if !ok || pullSpec == "" {
			return image{}, false, nil
		}
		return image{pullSpec: pullSpec, generation: record.Record.Generation}, true, nil
	}
}
