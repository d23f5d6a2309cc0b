package importer

import (
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"

	"istag.dev/resolver/upstream"
)

const (
	firstRetry = 10 * time.Second
	// lastRetry and the jitter on top of it make 15 minutes.
	lastRetry   = 12*time.Minute + 30*time.Second
	retryJitter = 0.2
)

// retries knows when failing tags are due, by back-off that doubles. It is kept in memory only: after
// a restart every failing tag is due at once.
//
// Each tag has its own: one that has failed for days must not make its neighbour, which failed once,
// wait for as long.
type retries struct {
	clock   clock.PassiveClock
	limiter workqueue.TypedRateLimiter[retryKey]

	mu  sync.Mutex
	due map[types.NamespacedName]map[string]due
}

// due is when a request may be made again.
type due struct {
	at      time.Time
	request upstream.Request
}

type retryKey struct {
	record types.NamespacedName
	tag    string
}

func newRetries(c clock.PassiveClock) *retries {
	return &retries{
		clock:   c,
		limiter: workqueue.NewTypedItemExponentialFailureRateLimiter[retryKey](firstRetry, lastRetry),
		due:     map[types.NamespacedName]map[string]due{},
	}
}

// failed sets when a tag is due after one more failure.
func (r *retries) failed(record types.NamespacedName, tag string, request upstream.Request) {
	delay := r.limiter.When(retryKey{record, tag})
	delay += time.Duration(rand.Float64() * retryJitter * float64(delay))
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.due[record] == nil {
		r.due[record] = map[string]due{}
	}
	r.due[record][tag] = due{r.clock.Now().Add(delay), request}
}

// isDue reports whether a failing tag may be tried now: when its time has come, or when it asks
// something else than what failed.
func (r *retries) isDue(record types.NamespacedName, tag string, request upstream.Request) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	d := r.due[record][tag]
	return d.request != request || !r.clock.Now().Before(d.at)
}

// wait returns the time until the first of a record's failing tags is due, 0 if none fails, and
// forgets all others.
func (r *retries) wait(record types.NamespacedName, failing []string) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	for tag := range r.due[record] {
		if !slices.Contains(failing, tag) {
			r.limiter.Forget(retryKey{record, tag})
			delete(r.due[record], tag)
		}
	}
	if len(r.due[record]) == 0 {
		delete(r.due, record)
	}
	var first time.Duration
	for _, tag := range failing {
		left := max(r.due[record][tag].at.Sub(r.clock.Now()), time.Millisecond)
		if first == 0 || left < first {
			first = left
		}
	}
	return first
}

// forget drops all that is known of a record.
func (r *retries) forget(record types.NamespacedName) { r.wait(record, nil) }
