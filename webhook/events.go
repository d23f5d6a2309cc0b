package webhook

import (
	"context"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/tools/record/util"
	"k8s.io/utils/clock"
	logf "sigs.k8s.io/controller-runtime/pkg/log"

	"istag.dev/webhook/audit"
)

const (
	eventReason = "ImageRefused"
	eventAction = "Admission"
	eventSource = "istag-webhook"

	// maxNote is the most that the API server takes as an event's text, maxName as an object's name.
	maxNote, maxName = 1024, 253
	// queuedDenials is how many denials may wait to be told.
	queuedDenials = 1000
	// tellTimeout is how long the API server has to take one event.
	tellTimeout = 10 * time.Second
	// tellQPS and tellBurst bound what one replica asks of the API server, for the whole cluster.
	tellQPS, tellBurst = 5, 50

	// objectBurst and objectQPS bound the events about one object, which its controller makes over and
	// over: a handful, then one a minute.
	objectBurst, objectQPS = 5, 1. / 60
	// namespaceBurst and namespaceQPS bound those of one namespace, whose users can make up any number of
	// objects.
	namespaceBurst, namespaceQPS = 30, 1. / 10
)

// Events tells users of denials, by Kubernetes events in the namespace of the object. Nothing waits for
// it: what comes faster than it may be told is counted, and dropped. It is a Runnable of a
// controller-runtime manager, for every replica.
type Events struct {
	client  rest.Interface
	queue   chan denial
	clock   clock.PassiveClock
	dropped *prometheus.CounterVec
}

type denial struct {
	object  corev1.ObjectReference
	message string
	at      time.Time
}

// Why a denial was not told.
const (
	droppedFull   = "queue"  // too many were waiting
	droppedOften  = "rate"   // there were too many of the object or of the namespace
	droppedFailed = "failed" // the API server did not take it
)

// NewEvents returns Events that use the API server and the identity of a client configuration.
func NewEvents(cluster *rest.Config, reg prometheus.Registerer) (*Events, error) {
	cluster = rest.CopyConfig(cluster)
	cluster.GroupVersion = &corev1.SchemeGroupVersion
	cluster.APIPath = "/api"
	cluster.NegotiatedSerializer = scheme.Codecs.WithoutConversion()
	cluster.QPS, cluster.Burst = tellQPS, tellBurst
	client, err := rest.RESTClientFor(cluster)
	if err != nil {
		return nil, err
	}
	e := &Events{
		client: client,
		queue:  make(chan denial, queuedDenials),
		clock:  clock.RealClock{},
		dropped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "istag_admission_events_dropped_total",
			Help: "Denials that no event tells of, because there were too many, or because the API server did not take it.",
		}, []string{"cause"}),
	}
	reg.MustRegister(e.dropped)
	return e, nil
}

// Denied tells of a denial, soon. An object that does not exist yet has no UID, and is referred to by its
// name.
func (e *Events) Denied(object corev1.ObjectReference, message string) {
	// Nobody has checked the object yet. What is as long as a request may be must not wait in memory.
	object.Name, message = audit.Clip(object.Name, maxName), audit.Clip(message, maxNote)
	select {
	case e.queue <- denial{object, message, e.clock.Now()}:
	default:
		e.dropped.WithLabelValues(droppedFull).Inc()
	}
}

// NeedLeaderElection says that every replica tells of what it denied.
func (e *Events) NeedLeaderElection() bool { return false }

// Start tells of denials until ctx ends.
func (e *Events) Start(ctx context.Context) error {
	objects := record.NewEventSourceObjectSpamFilter(queuedDenials, objectBurst, objectQPS, e.clock, func(event *corev1.Event) string {
		o := &event.InvolvedObject
		return o.Namespace + "/" + o.APIVersion + "/" + o.Kind + "/" + o.Name
	})
	correlator := record.NewEventCorrelatorWithOptions(record.CorrelatorOptions{
		BurstSize:   namespaceBurst,
		QPS:         namespaceQPS,
		Clock:       e.clock,
		SpamKeyFunc: func(event *corev1.Event) string { return event.Namespace },
		// Events that say different things are never made one. The bounds are enough, and what a user did
		// last is what the user wants to read.
		KeyFunc: func(event *corev1.Event) (aggregate, local string) {
			aggregate, _ = record.EventAggregatorByReasonFunc(event)
			return aggregate, ""
		},
	})
	for {
		select {
		case <-ctx.Done():
			return nil
		case d := <-e.queue:
			event := d.event()
			if objects.Filter(event) {
				e.dropped.WithLabelValues(droppedOften).Inc()
				continue
			}
			if err := e.tell(ctx, correlator, event); err != nil {
				e.dropped.WithLabelValues(droppedFailed).Inc()
				logf.FromContext(ctx).Error(err, "telling of a denial", "namespace", event.Namespace, "kind", event.InvolvedObject.Kind, "name", event.InvolvedObject.Name)
			}
		}
	}
}

func (d denial) event() *corev1.Event {
	at := metav1.NewTime(d.at)
	return &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: d.object.Namespace,
			Name:      util.GenerateEventName(d.object.Name, d.at.UnixNano()),
		},
		InvolvedObject:      d.object,
		Type:                corev1.EventTypeWarning,
		Reason:              eventReason,
		Action:              eventAction,
		Message:             d.message,
		FirstTimestamp:      at,
		LastTimestamp:       at,
		Count:               1,
		Source:              corev1.EventSource{Component: eventSource},
		ReportingController: eventSource,
	}
}

// tell makes an event, or counts up the one that says the same, unless its namespace has had enough.
func (e *Events) tell(ctx context.Context, correlator *record.EventCorrelator, event *corev1.Event) error {
	ctx, cancel := context.WithTimeout(ctx, tellTimeout)
	defer cancel()
	result, err := correlator.EventCorrelate(event)
	if err != nil {
		return fmt.Errorf("comparing it with earlier ones: %w", err)
	}
	if result.Skip {
		e.dropped.WithLabelValues(droppedOften).Inc()
		return nil
	}
	told := &corev1.Event{}
	patched := result.Event.Count > 1
	if patched {
		err = e.client.Patch(types.StrategicMergePatchType).Namespace(result.Event.Namespace).Resource("events").Name(result.Event.Name).
			Body(result.Patch).Do(ctx).Into(told)
	}
	// Events go after an hour, whatever we remember of them.
	if !patched || util.IsKeyNotFoundError(err) {
		result.Event.ResourceVersion = ""
		err = e.client.Post().Namespace(result.Event.Namespace).Resource("events").Body(result.Event).Do(ctx).Into(told)
	}
	if err != nil {
		return err
	}
	correlator.UpdateState(told)
	return nil
}
