// Package trigger is the companion watcher: when an image stream tag moves, the workloads that follow
// it by OpenShift's annotation get its pull spec, and roll out.
//
//	StreamRecord event -> tags that moved -> cache index -> workloads -> plan -> one server-side apply
//
// Work is proportional to the followers of what moved; a resync costs comparisons only.
package trigger

import (
	"context"
	"fmt"
	"strings"
	"time"

	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	storev1 "istag.dev/store/v1"
)

// Failed writes are retried after firstRetry, then after twice as long each time, up to lastRetry. A
// tag that moves, or a change of the workload, does not wait for the retry.
const (
	firstRetry = 500 * time.Millisecond
	lastRetry  = 5 * time.Minute
)

// defaultWorkers is how many workloads of each kind are written at once.
const defaultWorkers = 8

// Options tune the watcher; the zero value is good.
type Options struct {
	// Workers is how many workloads of each kind are written at once; 0 means 8.
	Workers int
}

// Add adds to a manager one controller for each kind of workload that can have triggers:
// Deployments, StatefulSets, DaemonSets and CronJobs. The manager's scheme must know these
// and StreamRecords, and its cache should have the settings of [CacheByObject].
func Add(mgr ctrl.Manager, options Options) error {
	if options.Workers <= 0 {
		options.Workers = defaultWorkers
	}
	recorder := mgr.GetEventRecorder(FieldManager)
	for _, k := range kinds() {
		if err := mgr.GetFieldIndexer().IndexField(context.Background(), k.newObject(), indexField, k.index); err != nil {
			return fmt.Errorf("indexing %ss by tag: %w", k.gvk.Kind, err)
		}
		err := ctrl.NewControllerManagedBy(mgr).
			Named("trigger_"+strings.ToLower(k.gvk.Kind)).
			For(k.newObject(), builder.WithPredicates(k.relevant())).
			Watches(&storev1.StreamRecord{}, k.onStream(mgr.GetCache())).
			WithOptions(controller.Options{
				MaxConcurrentReconciles: options.Workers,
				RateLimiter:             workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](firstRetry, lastRetry),
			}).
			Complete(newReconciler(k, mgr.GetClient(), recorder))
		if err != nil {
			return fmt.Errorf("adding the controller of %ss: %w", k.gvk.Kind, err)
		}
	}
	return nil
}
