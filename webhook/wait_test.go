package webhook

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	imagev1 "github.com/openshift/api/image/v1"
	admissionv1 "k8s.io/api/admission/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"istag.dev/config"
	"istag.dev/store"
	storev1 "istag.dev/store/v1"
	"istag.dev/webhook/lock"
	"istag.dev/webhook/policy"
	"istag.dev/webhook/scope"
)

// importing is a stream of namespace "shop" whose tag "1" is being imported.
func importing(name string) *storev1.StreamRecord {
	r := &storev1.StreamRecord{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}}
	r.Spec.LookupPolicy.Local = true
	r.Spec.Tags = []imagev1.TagReference{{Name: "1", From: &corev1.ObjectReference{Kind: "DockerImage", Name: "quay.io/x/y:1"}}}
	return r
}

// TestFirstImport asks about a tag that is being imported, "new:1", in a bubble with a clock of its own.
func TestFirstImport(t *testing.T) {
	failed := importing("new")
	failed.Status.Tags = []imagev1.NamedTagEventList{{Tag: "1", Conditions: []imagev1.TagEventCondition{{Type: imagev1.ImportSuccess, Status: corev1.ConditionFalse, Message: "no such image"}}}}
	withoutTag := importing("new")
	withoutTag.Spec.Tags = nil
	const wait = 2 * time.Second
	cases := map[string]struct {
		reason  string
		change  func(*Options)
		then    func(*Pinner) error // what happens while the review waits
		url     string
		pinned  bool
		denied  string
		elapsed time.Duration
	}{
		"Done":    {reason: "an import that is done ends the wait", then: func(p *Pinner) error { return p.options.Index.Update(stream("new", true)) }, pinned: true},
		"Failed":  {reason: "one that fails too", then: func(p *Pinner) error { return p.options.Index.Update(failed) }, denied: "no such image"},
		"TagGone": {reason: "or a tag that goes", then: func(p *Pinner) error { return p.options.Index.Update(withoutTag) }, denied: "has no tag"},
		"Gone":    {reason: "or a stream, whose name is then left", then: func(p *Pinner) error { return p.options.Index.Delete(importing("new")) }},
		"Other":   {reason: "but nothing else", then: func(p *Pinner) error { return p.options.Index.Add(stream("news", true)) }, denied: "has no image yet", elapsed: wait},
		"List":    {reason: "a new list is looked at", then: func(p *Pinner) error { return p.options.Index.Replace([]any{stream("new", true)}, "2") }, pinned: true},
		"Timeout": {reason: "nobody waits for ever", denied: "has no image yet", elapsed: wait},
		"Deadline": {
			reason: "nor longer than the API server does", url: PinPath + "?timeout=1s", denied: "has no image yet", elapsed: 900 * time.Millisecond,
		},
		"Never": {reason: "waiting can be turned off", change: func(o *Options) { o.FirstImportWait = 0 }, denied: "has no image yet"},
		"Warn":  {reason: "what is not carried out is not worth it", change: func(o *Options) { o.Scopes = settings{Mode: scope.Warn} }},
		"Template": {
			reason: "a template that stays as it is written is not refused too early either",
			change: func(o *Options) { o.Scopes = settings{Mode: scope.Enforce, PodPlacement: true} },
			then:   func(p *Pinner) error { return p.options.Index.Update(stream("new", true)) },
		},
		"Allowed": {
			reason: "a namespace that takes unresolved names waits for better ones", change: func(o *Options) { o.Scopes = settings{Mode: scope.Enforce, AllowUnresolved: true} },
			then: func(p *Pinner) error { return p.options.Index.Update(stream("new", true)) }, pinned: true,
		},
		"Unseen": {
			reason: "a stream that only a live read knows of is waited for like any other",
			change: func(o *Options) {
				_ = o.Index.Delete(importing("new"))
				o.Streams = liveFunc(func(context.Context, string, string) (*store.Stream, error) {
					return store.NewStream(importing("new")), nil
				})
			},
			then: func(p *Pinner) error { return p.options.Index.Add(stream("new", true)) }, pinned: true,
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPinner(t, func(o *Options) {
					o.FirstImportWait = wait
					if err := o.Index.Add(importing("new")); err != nil {
						t.Fatal(err)
					}
					if tc.change != nil {
						tc.change(o)
					}
				})
				start, answered := time.Now(), make(chan *admissionv1.AdmissionResponse, 1)
				url := tc.url
				if url == "" {
					url = PinPath + "?timeout=5s"
				}
				go func() {
					answered <- askAt(t, p.Pin(), url, request("deployments", deploymentOf("new:1", ""), ""))
				}()
				synctest.Wait()
				if tc.then != nil {
					if err := tc.then(p); err != nil {
						t.Fatal(err)
					}
				}
				got := <-answered
				message := ""
				if got.Result != nil {
					message = got.Result.Message
				}
				if (got.Patch != nil) != tc.pinned || got.Allowed != (tc.denied == "") || !strings.Contains(message, tc.denied) {
					t.Errorf("%s: allowed %v, patch %s, %q", tc.reason, got.Allowed, got.Patch, message)
				}
				if elapsed := time.Since(start); elapsed != tc.elapsed {
					t.Errorf("%s: it took %v, want %v", tc.reason, elapsed, tc.elapsed)
				}
				if len(p.waiting) != 0 {
					t.Errorf("%s: it still counts as waiting", tc.reason)
				}
			})
		})
	}
}

func TestFewWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPinner(t, func(o *Options) {
			o.FirstImportWait = 2 * time.Second
			if err := o.Index.Add(importing("new")); err != nil {
				t.Fatal(err)
			}
		})
		answered := make(chan bool, maxWaiting)
		for range maxWaiting {
			go func() {
				answered <- ask(t, p, request("pods", podOf("new:1", ""), "")).Allowed
			}()
		}
		synctest.Wait()
		start := time.Now()
		if got := ask(t, p, request("pods", podOf("new:1", ""), "")); got.Allowed || time.Since(start) != 0 {
			t.Errorf("one more is decided at once: allowed %v after %v", got.Allowed, time.Since(start))
		}
		if err := p.options.Index.Update(stream("new", true)); err != nil {
			t.Fatal(err)
		}
		for range maxWaiting {
			if !<-answered {
				t.Error("those who wait get the image")
			}
		}
	})
}

// TestDeadline: whatever blocks, the answer is sent in time.
func TestDeadline(t *testing.T) {
	block := func(ctx context.Context) error {
		<-ctx.Done()
		return ctx.Err()
	}
	cases := map[string]struct {
		reason  string
		change  func(*Options)
		request admissionv1.AdmissionRequest
		allowed bool
		elapsed time.Duration
	}{
		"Streams": {
			reason:  "a live read has a budget, then the index decides",
			change:  func(o *Options) { o.Streams = blockingStreams(block) },
			request: request("pods", podOf("mysql", ""), ""), allowed: true, elapsed: liveBudget,
		},
		"Scopes": {
			reason:  "what a namespace asks for must be known",
			change:  func(o *Options) { o.Scopes = blockingScopes(block) },
			request: request("pods", podOf("mysql", ""), ""), elapsed: maxReview,
		},
		"Locks": {
			reason:  "so must a pod's revision",
			change:  func(o *Options) { podPlacement(o); o.Locks = blockingLocks(block) },
			request: request("pods", podOf("keycloak:1", owned), ""), elapsed: maxReview,
		},
		"Access": {
			reason: "and who may use a stream",
			change: func(o *Options) {
				o.Access = blockingAccess(block)
				o.Policy = policyOf(t, nil, func(c *config.Policy) {
					c.RegistryHosts, c.ResolveImages = []string{internal}, config.RequiredRewrite
					c.ResolutionRules = []config.ResolutionRule{{TargetResource: config.GroupResource{Resource: "pods"}, Policy: config.RequiredRewrite}}
				})
			},
			request: request("pods", podOf(internal+"/base/base:1", ""), ""), elapsed: maxReview,
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				got := askAt(t, newPinner(t, tc.change).Pin(), PinPath, tc.request)
				if elapsed := time.Since(start); got.Allowed != tc.allowed || elapsed != tc.elapsed {
					t.Errorf("%s: allowed %v after %v, want %v after %v: %+v", tc.reason, got.Allowed, elapsed, tc.allowed, tc.elapsed, got.Result)
				}
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		p := newPinner(t, func(o *Options) {
			o.Images = blockingImages(block)
			o.Policy = policyOf(t, nil, func(c *config.Policy) { c.ResolveImages = config.Required })
		})
		got := askAt(t, p.Check(), CheckPath+"?timeout=2s", request("pods", podOf(pulled, ""), ""))
		if elapsed := time.Since(start); got.Allowed || got.Result.Code != 503 || elapsed != 1800*time.Millisecond {
			t.Errorf("the check must know an image that it judges: allowed %v after %v: %+v", got.Allowed, elapsed, got.Result)
		}
	})
}

type blockingStreams func(context.Context) error

func (b blockingStreams) Stream(ctx context.Context, _, _ string) (*store.Stream, error) {
	return nil, b(ctx)
}

type blockingScopes func(context.Context) error

func (b blockingScopes) Settings(ctx context.Context, _ string) (scope.Settings, error) {
	return scope.Settings{}, b(ctx)
}

type blockingLocks func(context.Context) error

func (b blockingLocks) Lock(ctx context.Context, _ lock.Revision) (lock.Lock, bool, error) {
	return nil, false, b(ctx)
}

type blockingAccess func(context.Context) error

func (b blockingAccess) May(ctx context.Context, _ authenticationv1.UserInfo, _, _ string) (bool, error) {
	return false, b(ctx)
}

type blockingImages func(context.Context) error

func (b blockingImages) Image(ctx context.Context, _ string) (*policy.Known, error) {
	return nil, b(ctx)
}

func TestReviewTime(t *testing.T) {
	for query, want := range map[string]time.Duration{
		"":                         maxReview,
		"?timeout=5s":              maxReview,
		"?timeout=30s":             maxReview,
		"?timeout=1s":              900 * time.Millisecond,
		"?timeout=10ms":            9 * time.Millisecond,
		"?timeout=0s":              maxReview,
		"?timeout=-1s":             maxReview,
		"?timeout=soon":            maxReview,
		"?timeout=2s&timeout=500s": 1800 * time.Millisecond,
		"?a=b;c&%zz":               maxReview,
	} {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, PinPath+query, nil)
		if got := reviewTime(r); got != want {
			t.Errorf("%q leaves %v, want %v", query, got, want)
		}
	}
}

// TestNewestSnapshot: whatever makes the snapshot newer, all of an object is decided again, so that equal names stay
// equal.
func TestNewestSnapshot(t *testing.T) {
	moved := stream("keycloak", true)
	moved.Status.Tags[0].Items[0] = imagev1.TagEvent{DockerImageReference: oldPulled, Image: oldDigest}
	var p *Pinner
	live := func(_ context.Context, _, name string) (*store.Stream, error) {
		if err := p.options.Index.Update(moved); err != nil {
			return nil, err
		}
		return store.NewStream(stream(name, true)), nil
	}
	p = newPinner(t, func(o *Options) { o.Streams = liveFunc(live) })
	response := ask(t, p, request("pods", podWith("", "a=keycloak:1", "b=fresh:1", "c=keycloak:1"), ""))
	want := []string{"/spec/containers/0/image=" + oldPulled, "/spec/containers/1/image=" + pulled, "/spec/containers/2/image=" + oldPulled}
	got := patchesOf(response)
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("all against the newest snapshot: %q, want %q", got, want)
	}
}
