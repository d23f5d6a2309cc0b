package webhook

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"
	testingclock "k8s.io/utils/clock/testing"
)

// newspaper is an API server that takes events.
type newspaper struct {
	mu     sync.Mutex
	calls  []string
	events map[string]corev1.Event // by namespace/name
}

func (n *newspaper) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.calls = append(n.calls, r.Method)
	parts := strings.Split(strings.TrimPrefix(r.URL.Path, "/api/v1/namespaces/"), "/")
	var event corev1.Event
	var key string
	switch {
	case r.Method == http.MethodPost && len(parts) == 2 && parts[1] == "events":
	case r.Method == http.MethodPatch && len(parts) == 3 && parts[1] == "events":
		key = parts[0] + "/" + parts[2]
		found, ok := n.events[key]
		if !ok {
			reply(w, http.StatusNotFound, metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusFailure, Code: http.StatusNotFound, Reason: metav1.StatusReasonNotFound})
			return
		}
		event = found
	default:
		http.NotFound(w, r)
		return
	}
	// Of a patch we use nothing that is not written over.
	if err := json.NewDecoder(r.Body).Decode(&event); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if key == "" {
		key = parts[0] + "/" + event.Name
	}
	n.events[key] = event
	reply(w, http.StatusOK, event)
}

func (n *newspaper) read() (calls int, events []corev1.Event) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, event := range n.events {
		events = append(events, event)
	}
	return len(n.calls), events
}

// publish returns Events with an API server that takes them, by the clock given.
func publish(t *testing.T, clock *testingclock.FakePassiveClock) (*Events, *newspaper) {
	t.Helper()
	n := &newspaper{events: map[string]corev1.Event{}}
	api := httptest.NewServer(n)
	t.Cleanup(api.Close)
	e := newEvents(t, api.URL, clock)
	go func() { _ = e.Start(t.Context()) }()
	return e, n
}

func newEvents(t *testing.T, url string, clock *testingclock.FakePassiveClock) *Events {
	t.Helper()
	e, err := NewEvents(&rest.Config{Host: url}, prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	e.clock = clock
	return e
}

// settle returns when each of so many denials was told or dropped.
func settle(t *testing.T, e *Events, n *newspaper, denials int) {
	t.Helper()
	var calls int
	err := wait.PollUntilContextTimeout(t.Context(), time.Millisecond, time.Minute, true, func(context.Context) (bool, error) {
		calls, _ = n.read()
		return calls+dropped(e, droppedFull)+dropped(e, droppedOften)+dropped(e, droppedFailed) >= denials, nil
	})
	if err != nil {
		t.Fatalf("of %d denials %d were told: %v", denials, calls, err)
	}
}

func dropped(e *Events, cause string) int {
	return int(testutil.ToFloat64(e.dropped.WithLabelValues(cause)))
}

func refused(namespace, name string) corev1.ObjectReference {
	return corev1.ObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Namespace: namespace, Name: name}
}

var eventTime = time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)

func TestEvent(t *testing.T) {
	clock := testingclock.NewFakePassiveClock(eventTime)
	e, n := publish(t, clock)
	e.Denied(refused("shop", "keycloak"), `tag "20.0" has no image`)
	settle(t, e, n, 1)
	_, events := n.read()
	at := metav1.NewTime(eventTime)
	want := []corev1.Event{{
		TypeMeta:            metav1.TypeMeta{Kind: "Event", APIVersion: "v1"},
		ObjectMeta:          metav1.ObjectMeta{Namespace: "shop", Name: fmt.Sprintf("keycloak.%x", eventTime.UnixNano())},
		InvolvedObject:      refused("shop", "keycloak"),
		Type:                "Warning",
		Reason:              "ImageRefused",
		Action:              "Admission",
		Message:             `tag "20.0" has no image`,
		FirstTimestamp:      at,
		LastTimestamp:       at,
		Count:               1,
		Source:              corev1.EventSource{Component: "istag-webhook"},
		ReportingController: "istag-webhook",
	}}
	if diff := cmp.Diff(want, events); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}

	clock.SetTime(eventTime.Add(time.Minute))
	e.Denied(refused("shop", "keycloak"), `tag "20.0" has no image`)
	settle(t, e, n, 2)
	_, events = n.read()
	if len(events) != 1 || events[0].Count != 2 || !events[0].LastTimestamp.Time.Equal(eventTime.Add(time.Minute)) {
		t.Errorf("what is said again is counted: %+v", events)
	}

	n.mu.Lock()
	clear(n.events)
	n.mu.Unlock()
	e.Denied(refused("shop", "keycloak"), `tag "20.0" has no image`)
	settle(t, e, n, 4)
	if _, events = n.read(); len(events) != 1 || events[0].Count != 3 {
		t.Errorf("an event that the API server forgot is made again: %+v", events)
	}
}

func TestEventOfAnything(t *testing.T) {
	long := strings.Repeat("é", 1<<20)
	cases := map[string]struct{ reason, name, message string }{
		"GenerateName": {"an object without a name yet has the beginning of one", "web-", "m"},
		"NoName":       {"an object may have no name at all", "", "m"},
		"NotAName":     {"nobody has checked the name yet", "Not a Name/", "m"},
		"Long":         {"what is as long as a request may be is cut", long, long},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			e, n := publish(t, testingclock.NewFakePassiveClock(eventTime))
			e.Denied(refused("shop", tc.name), tc.message)
			settle(t, e, n, 1)
			_, events := n.read()
			if len(events) != 1 {
				t.Fatalf("%s: %d events", tc.reason, len(events))
			}
			event := events[0]
			if problems := validation.IsDNS1123Subdomain(event.Name); len(problems) > 0 || len(event.InvolvedObject.Name) > maxName || len(event.Message) > maxNote {
				t.Errorf("%s: the API server takes the event: %q %v", tc.reason, event.Name, problems)
			}
		})
	}
}

// TestEventFlood shows that neither a controller in a loop nor a user who tries costs the API server more
// than a handful of calls.
func TestEventFlood(t *testing.T) {
	const flood = 10_000
	cases := map[string]struct {
		reason string
		denial func(i int) (corev1.ObjectReference, string)
		most   int
	}{
		"Loop": {
			reason: "a controller asks for the same over and over",
			denial: func(int) (corev1.ObjectReference, string) { return refused("shop", "keycloak"), "m" },
			most:   objectBurst,
		},
		"Messages": {
			reason: "a user tries one name after another",
			denial: func(i int) (corev1.ObjectReference, string) {
				return refused("shop", "keycloak"), fmt.Sprintf("message %d", i)
			},
			most: objectBurst,
		},
		"Objects": {
			reason: "a user makes up objects",
			denial: func(i int) (corev1.ObjectReference, string) {
				return refused("shop", fmt.Sprintf("keycloak-%d", i)), "m"
			},
			most: namespaceBurst,
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			clock := testingclock.NewFakePassiveClock(eventTime)
			e, n := publish(t, clock)
			for i := range flood {
				e.Denied(tc.denial(i))
			}
			settle(t, e, n, flood)
			calls, _ := n.read()
			if calls == 0 || calls > tc.most {
				t.Errorf("%s: %d calls", tc.reason, calls)
			}
			if got := calls + dropped(e, droppedFull) + dropped(e, droppedOften); got != flood {
				t.Errorf("%s: what is not told is counted: %d", tc.reason, got)
			}
			// Somebody else is told still, and so is the first, later.
			e.Denied(refused("other", "keycloak"), "m")
			settle(t, e, n, flood+1)
			clock.SetTime(eventTime.Add(time.Hour))
			e.Denied(refused("shop", "keycloak"), "m")
			settle(t, e, n, flood+2)
			if got, _ := n.read(); got != calls+2 {
				t.Errorf("%s: %d calls after %d", tc.reason, got, calls)
			}
		})
	}
}

// TestEventNeverBlocks denies while nobody takes any event.
func TestEventNeverBlocks(t *testing.T) {
	const flood = 10_000
	e := newEvents(t, "http://127.0.0.1:1", testingclock.NewFakePassiveClock(eventTime))
	for i := range flood {
		e.Denied(refused("shop", fmt.Sprintf("keycloak-%d", i)), "m")
	}
	if got := dropped(e, droppedFull); got != flood-queuedDenials {
		t.Errorf("what does not fit is counted: %d", got)
	}
}

func TestEventRefused(t *testing.T) {
	n := &newspaper{events: map[string]corev1.Event{}}
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		reply(w, http.StatusForbidden, metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusFailure, Code: http.StatusForbidden, Message: "no"})
	}))
	defer api.Close()
	e := newEvents(t, api.URL, testingclock.NewFakePassiveClock(eventTime))
	go func() { _ = e.Start(t.Context()) }()
	e.Denied(refused("shop", "a"), "m")
	e.Denied(refused("shop", "b"), "m")
	settle(t, e, n, 2)
	if got := dropped(e, droppedFailed); got != 2 {
		t.Errorf("an event that is refused is counted, and no reason to stop: %d", got)
	}
}

func BenchmarkDenied(b *testing.B) {
	e, err := NewEvents(&rest.Config{Host: "http://127.0.0.1:1"}, prometheus.NewRegistry())
	if err != nil {
		b.Fatal(err)
	}
	object := refused("shop", "keycloak")
	b.ReportAllocs()
	for b.Loop() {
		e.Denied(object, "m")
	}
}
