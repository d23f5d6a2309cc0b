package webhook

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	lru "k8s.io/apimachinery/pkg/util/cache"
	"k8s.io/client-go/rest"
	testingclock "k8s.io/utils/clock/testing"

	"istag.dev/config"
	"istag.dev/store"
	storev1 "istag.dev/store/v1"
	"istag.dev/webhook/lock"
	"istag.dev/webhook/policy"
	"istag.dev/webhook/scope"
)

// machineClock is the clock of a machine as Go reads it: it goes on by itself, and somebody sets it. What is compared is the time
// that has gone by, which nobody sets; what is shown is what was set.
type machineClock struct {
	start     time.Time // by time.Now
	gone, set time.Duration
}

// Now reads the clock.
func (c *machineClock) Now() time.Time {
	now := c.start.Add(c.gone)
	// The seconds that a Time shows begin at bit 30 of its first word; the time gone by is another. TestMachineClock sees to it.
	*(*uint64)(unsafe.Pointer(&now)) += uint64(c.set/time.Second) << 30
	return now
}

// jumps are by how much somebody sets the clock, forwards and backwards.
var jumps = []time.Duration{time.Hour, -time.Hour, 365 * 24 * time.Hour, -365 * 24 * time.Hour}

func TestMachineClock(t *testing.T) {
	for _, jump := range jumps {
		clock := &machineClock{start: time.Now()}
		before := clock.Now()
		clock.set, clock.gone = jump, time.Second
		after := clock.Now()
		if shown := after.Round(0).Sub(before.Round(0)); shown != jump+time.Second || after.Sub(before) != time.Second {
			t.Errorf("a clock that is set by %s shows that, and Go goes by the second that went by: shown %s, gone %s", jump, shown, after.Sub(before))
		}
	}
}

// changing is an API server in which nothing is there and nobody may do anything, until there is and they may.
type changing struct {
	*httptest.Server
	there atomic.Bool
	asked atomic.Int32
}

func newChanging(t *testing.T) *changing {
	t.Helper()
	c := &changing{}
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.asked.Add(1)
		w.Header().Set("Content-Type", "application/json")
		var answer any
		switch name := r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]; {
		case name == "subjectaccessreviews":
			answer = &authorizationv1.SubjectAccessReview{
				TypeMeta: metav1.TypeMeta{APIVersion: "authorization.k8s.io/v1", Kind: "SubjectAccessReview"},
				Status:   authorizationv1.SubjectAccessReviewStatus{Allowed: c.there.Load()},
			}
			w.WriteHeader(http.StatusCreated)
		case !c.there.Load():
			answer = metav1.Status{
				TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"},
				Status:   metav1.StatusFailure, Reason: metav1.StatusReasonNotFound, Code: http.StatusNotFound,
			}
			w.WriteHeader(http.StatusNotFound)
		case strings.HasPrefix(name, "sha256-"):
			record := &storev1.ImageRecord{ObjectMeta: metav1.ObjectMeta{Name: name}}
			record.SetGroupVersionKind(storev1.GroupVersion.WithKind("ImageRecord"))
			answer = record
		default:
			record := stream(name, true)
			record.SetGroupVersionKind(storev1.GroupVersion.WithKind("StreamRecord"))
			answer = record
		}
		_ = json.NewEncoder(w).Encode(answer)
	}))
	t.Cleanup(c.Close)
	return c
}

// TestClockJumpsAndWhatIsRemembered: what is not there is remembered for a moment of the time that goes by. However the clock is
// set meanwhile, it is neither remembered for longer nor forgotten at once.
func TestClockJumpsAndWhatIsRemembered(t *testing.T) {
	for name, c := range map[string]struct {
		reason string
		keep   time.Duration
		ask    func(*testing.T, *rest.Config, *machineClock) func(context.Context) (bool, error)
	}{
		"streams": {"a stream that is not there may be made", absentFor, func(t *testing.T, config *rest.Config, clock *machineClock) func(context.Context) (bool, error) {
			t.Helper()
			streams, err := NewStreams(config)
			if err != nil {
				t.Fatal(err)
			}
			streams.absent = lru.NewLRUExpireCacheWithClock(absentMost, clock)
			return func(ctx context.Context) (bool, error) {
				found, err := streams.Stream(ctx, "shop", "late")
				return found != nil, err
			}
		}},
		"access": {"who may not may be allowed to", deniedFor, func(t *testing.T, config *rest.Config, clock *machineClock) func(context.Context) (bool, error) {
			t.Helper()
			access, err := NewAccess(config)
			if err != nil {
				t.Fatal(err)
			}
			access.answers = lru.NewLRUExpireCacheWithClock(accessMost, clock)
			return func(ctx context.Context) (bool, error) {
				return access.May(ctx, authenticationv1.UserInfo{Username: "alice"}, "other", "keycloak")
			}
		}},
		"images": {"an image that is not there may be imported", absentFor, func(t *testing.T, config *rest.Config, clock *machineClock) func(context.Context) (bool, error) {
			t.Helper()
			images, err := NewImages(config)
			if err != nil {
				t.Fatal(err)
			}
			images.absent = lru.NewLRUExpireCacheWithClock(absentMost, clock)
			if err := images.index.Replace(nil, ""); err != nil {
				t.Fatal(err)
			}
			return func(ctx context.Context) (bool, error) {
				known, err := images.Image(ctx, digest)
				return known != nil, err
			}
		}},
	} {
		for _, jump := range jumps {
			t.Run(name+" "+jump.String(), func(t *testing.T) {
				api, clock := newChanging(t), &machineClock{start: time.Now()}
				ask := c.ask(t, &rest.Config{Host: api.URL}, clock)
				want := func(reason string, found bool, asked int32) {
					t.Helper()
					before := api.asked.Load()
					got, err := ask(t.Context())
					if err != nil || got != found || api.asked.Load()-before != asked {
						t.Errorf("%s: got %t after %d requests, want %t after %d: %v", reason, got, api.asked.Load()-before, found, asked, err)
					}
				}
				want("at first it is asked for", false, 1)
				clock.set = jump
				want("in the same moment it is not asked for again", false, 0)
				api.there.Store(true)
				clock.gone = c.keep + 1
				want(c.reason+", and it is asked for in time", true, 1)
			})
		}
	}
}

// TestClockJumpsAndDecisions asks the same of admission before and after somebody set the clock.
func TestClockJumpsAndDecisions(t *testing.T) {
	for _, jump := range jumps {
		t.Run(jump.String(), func(t *testing.T) {
			api, clock := newChanging(t), &machineClock{start: time.Now()}
			streams, err := NewStreams(&rest.Config{Host: api.URL})
			if err != nil {
				t.Fatal(err)
			}
			streams.absent = lru.NewLRUExpireCacheWithClock(absentMost, clock)
			p := newPinner(t, func(o *Options) { o.Streams = streams })
			for image, want := range map[string]struct {
				allowed bool
				becomes string
			}{
				"keycloak:1":       {true, pulled},
				"keycloak:nope":    {false, ""},
				"keycloak:pending": {false, ""},
				"global:1":         {true, ""},
				"nothing:1":        {true, ""},
				"quay.io/any/x:1":  {true, ""},
			} {
				for when, set := range map[string]time.Duration{"before": 0, "after": jump, "back": 0} {
					clock.set = set
					got := ask(t, p, request("pods", podOf(image, ""), ""))
					var patches []string
					if want.becomes != "" {
						patches = []string{"/spec/containers/0/image=" + want.becomes}
					}
					if diff := cmp.Diff(patches, patchesOf(got)); diff != "" || got.Allowed != want.allowed {
						t.Errorf("%s, %s the clock was set: allowed %t, want %t (-want +got):\n%s", image, when, got.Allowed, want.allowed, diff)
					}
				}
			}
		})
	}
}

// TestDeadlinesGoByTheTimeThatGoesBy looks at the deadline that each reader is given: a time that shows only what was set would come an
// hour late, or at once, if somebody set the clock by an hour.
func TestDeadlinesGoByTheTimeThatGoesBy(t *testing.T) {
	seen := map[string]bool{}
	look := func(ctx context.Context, reader string) {
		t.Helper()
		deadline, ok := ctx.Deadline()
		if !ok || !monotonic(deadline) {
			t.Errorf("%s: a deadline by the time that goes by is expected, got %s (%t)", reader, deadline, ok)
		}
		seen[reader] = true
	}
	p := newPinner(t, func(o *Options) {
		o.Scopes = scopesByContext(func(ctx context.Context) (scope.Settings, error) {
			look(ctx, "namespaces")
			return scope.Settings{Mode: scope.Enforce, PodPlacement: true}, nil
		})
		o.Locks = locksByContext(func(ctx context.Context) (lock.Lock, bool, error) {
			look(ctx, "locks")
			return nil, false, nil
		})
		o.Streams = liveFunc(func(ctx context.Context, _, _ string) (*store.Stream, error) {
			look(ctx, "streams")
			return nil, nil
		})
		o.Images = imagesByContext(func(ctx context.Context) (*policy.Known, error) {
			look(ctx, "images")
			return nil, nil
		})
		o.Access = accessByContext(func(ctx context.Context) (bool, error) {
			look(ctx, "access")
			return true, nil
		})
		o.Policy = policyOf(t, nil, func(c *config.Policy) {
			c.ResolveImages, c.RegistryHosts = config.AttemptRewrite, []string{"registry.example.com"}
			c.ExecutionRules = []config.ExecutionRule{{Name: "labelled", Reject: true, MatchImageLabels: []metav1.LabelSelector{{MatchLabels: map[string]string{"bad": "yes"}}}}}
		})
	})
	pod := `{"metadata":{` + owned + `},"spec":{"containers":[
		{"name":"a","image":"nothing:1"},{"name":"b","image":"registry.example.com/other/app:1"},{"name":"c","image":"` + pulled + `"}]}}`
	ask(t, p, request("pods", pod, ""))
	askCheck(t, p, request("pods", pod, ""))
	for _, reader := range []string{"namespaces", "locks", "streams", "images", "access"} {
		if !seen[reader] {
			t.Errorf("the case is to ask all readers, and has not asked for %s", reader)
		}
	}
}

// monotonic reports whether a time has the reading of a clock that nobody sets. Go shows that in its text.
func monotonic(at time.Time) bool { return strings.Contains(at.String(), " m=") }

type (
	scopesByContext func(context.Context) (scope.Settings, error)
	locksByContext  func(context.Context) (lock.Lock, bool, error)
	imagesByContext func(context.Context) (*policy.Known, error)
	accessByContext func(context.Context) (bool, error)
)

func (f scopesByContext) Settings(ctx context.Context, _ string) (scope.Settings, error) {
	return f(ctx)
}

func (f locksByContext) Lock(ctx context.Context, _ lock.Revision) (lock.Lock, bool, error) {
	return f(ctx)
}

func (f imagesByContext) Image(ctx context.Context, _ string) (*policy.Known, error) { return f(ctx) }

func (f accessByContext) May(ctx context.Context, _ authenticationv1.UserInfo, _, _ string) (bool, error) {
	return f(ctx)
}

// TestClockJumpsAndEvents: the bounds of events go by the clock that is shown. Set forwards it tells more, set backwards the same as if no
// time went by; nothing waits for it, and what comes later is told.
func TestClockJumpsAndEvents(t *testing.T) {
	for _, jump := range jumps {
		t.Run(jump.String(), func(t *testing.T) {
			clock := testingclock.NewFakePassiveClock(eventTime)
			e, n := publish(t, clock)
			e.Denied(refused("shop", "before"), "no")
			settle(t, e, n, 1)
			clock.SetTime(eventTime.Add(jump))
			e.Denied(refused("shop", "after"), "no")
			settle(t, e, n, 2)
			clock.SetTime(eventTime.Add(time.Second))
			e.Denied(refused("shop", "back"), "no")
			settle(t, e, n, 3)
			if _, events := n.read(); len(events) != 3 {
				t.Errorf("every denial is told: got %d events, dropped %d", len(events), dropped(e, droppedOften))
			}
		})
	}
}
