package webhook

import (
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"istag.dev/store"
	"istag.dev/webhook/policy"
)

const (
	// maxSeries bounds the decisions that are told apart. All of the values there are come to far fewer;
	// it is what keeps a mistake of ours from letting strangers fill the memory of whoever scrapes us.
	maxSeries = 500
	// unlisted takes the place of every label beyond that.
	unlisted = "other"
)

// Metrics counts what admission decides and how long it takes. A nil *Metrics counts nothing. None of its
// methods allocates for labels that were seen before, and none waits for another.
//
// The values of its labels are constants of this module, never anything that a request says.
type Metrics struct {
	decisions *prometheus.CounterVec
	durations *prometheus.HistogramVec
	reloads   *prometheus.CounterVec

	counters  table[decisionLabels, prometheus.Counter]
	observers table[string, prometheus.Observer]
}

type decisionLabels struct{ webhook, mode, outcome, reason string }

// NewMetrics registers the metrics of admission and of the index that it reads. It is called once for
// one registry.
func NewMetrics(reg prometheus.Registerer, index *store.Index) *Metrics {
	m := &Metrics{
		decisions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "istag_admission_decisions_total",
			Help: "Images that admission decided on.",
		}, []string{"webhook", "mode", "outcome", "reason"}),
		durations: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "istag_admission_duration_seconds",
			Help: "How long reviews took, from the request's arrival to its answer.",
			// From a review that changes nothing to the API server's deadline.
			Buckets: []float64{50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 250e-3, 500e-3, 1, 2.5, 5},
		}, []string{"webhook"}),
		reloads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "istag_policy_reloads_total",
			Help: "How often the policy was read again, and what became of it.",
		}, []string{"result"}),
	}
	for _, result := range []string{policy.Reloaded, policy.Failed} {
		m.reloads.WithLabelValues(result) // a series that begins with the first failure raises no alert
	}
	started := time.Now()
	reg.MustRegister(m.decisions, m.durations, m.reloads,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "istag_index_age_seconds",
			Help: "Seconds since the index of image streams last heard from the API server, which speaks about once a minute when nothing changes.",
		}, func() float64 { return time.Since(heard(index, started)).Seconds() }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "istag_index_streams",
			Help: "Image streams in the index.",
		}, func() float64 { return float64(index.Snapshot().Len()) }),
	)
	return m
}

// heard returns when the index last heard from the API server. One that never did has been waiting since
// the start.
func heard(index *store.Index, started time.Time) time.Time {
	if at := index.Heard(); !at.IsZero() {
		return at
	}
	return started
}

// decided counts the decision on one image.
func (m *Metrics) decided(webhook, mode, outcome, reason string) {
	if m == nil {
		return
	}
	labels := decisionLabels{webhook, mode, outcome, reason}
	m.counters.get(labels, func(full bool) prometheus.Counter {
		if full {
			return m.decisions.WithLabelValues(unlisted, unlisted, unlisted, unlisted)
		}
		return m.decisions.WithLabelValues(webhook, mode, outcome, reason)
	}).Inc()
}

// took says how long one review lasted.
func (m *Metrics) took(webhook string, d time.Duration) {
	if m == nil {
		return
	}
	m.observers.get(webhook, func(full bool) prometheus.Observer {
		if full {
			return m.durations.WithLabelValues(unlisted)
		}
		return m.durations.WithLabelValues(webhook)
	}).Observe(d.Seconds())
}

// PolicyReloaded counts that the policy was read again, with what result.
func (m *Metrics) PolicyReloaded(result string) {
	if m != nil {
		m.reloads.WithLabelValues(result).Inc()
	}
}

// table remembers what was made for each key. Reading it takes no lock: it is copied when it grows,
// which it soon stops doing.
type table[K comparable, V any] struct {
	mu  sync.Mutex // one writer at a time
	now atomic.Pointer[map[K]V]
}

// get returns the value of a key, which it makes if need be. Beyond maxSeries keys it makes one each time
// and remembers none.
func (t *table[K, V]) get(key K, create func(full bool) V) V {
	if now := t.now.Load(); now != nil {
		if v, ok := (*now)[key]; ok {
			return v
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	next := map[K]V{}
	if now := t.now.Load(); now != nil {
		if v, ok := (*now)[key]; ok {
			return v
		}
		if len(*now) >= maxSeries {
			return create(true)
		}
		next = maps.Clone(*now)
	}
	next[key] = create(false)
	t.now.Store(&next)
	return next[key]
}
