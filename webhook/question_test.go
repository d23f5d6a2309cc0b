package webhook

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	authenticationv1 "k8s.io/api/authentication/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"istag.dev/config"
	"istag.dev/resolver"
	"istag.dev/store"
	"istag.dev/webhook/audit"
	"istag.dev/webhook/scope"
)

func TestQuestions(t *testing.T) {
	enforce := scope.Settings{Mode: scope.Enforce}
	byPods := scope.Settings{Mode: scope.Enforce, PodPlacement: true}
	deployments := schema.GroupResource{Group: "apps", Resource: "deployments"}
	rewriting := func(c *config.Policy) {
		c.RegistryHosts, c.ResolveImages = []string{internal}, config.RequiredRewrite
		c.ResolutionRules = []config.ResolutionRule{{TargetResource: config.GroupResource{Resource: "pods"}, LocalNames: true, Policy: config.RequiredRewrite}}
	}
	cases := map[string]struct {
		reason   string
		settings scope.Settings
		policy   func(*config.Policy)
		question Question
		want     Answer
		says     string
	}{
		"Pinned": {
			reason: "a name becomes a pull spec", settings: enforce, question: Question{Image: "keycloak:1"},
			want: Answer{Decision: "pinned", Reason: resolver.ReasonLocalLookup, Becomes: pulled, Istag: "keycloak:1", PullSpec: pulled, Mode: scope.Enforce, StreamGeneration: 4},
		},
		"Warn": {
			reason: "the mode says whether it would", settings: scope.Settings{Mode: scope.Warn}, question: Question{Image: "keycloak:1"},
			want: Answer{Decision: "pinned", Reason: resolver.ReasonLocalLookup, Becomes: pulled, Istag: "keycloak:1", PullSpec: pulled, Mode: scope.Warn, StreamGeneration: 4},
		},
		"OptIn": {
			reason: "if the object asked for it", settings: enforce, question: Question{Image: "docker.io/x/global:1", OptIn: true},
			want: Answer{Decision: "pinned", Reason: resolver.ReasonOptIn, Becomes: pulled, Istag: "global:1", PullSpec: pulled, Mode: scope.Enforce, StreamGeneration: 4},
		},
		"Left": {
			reason: "or stays", settings: enforce, question: Question{Image: "quay.io/x/y"}, says: "names a registry",
			want: Answer{Decision: "left", Reason: resolver.ReasonNotLocalName, Becomes: "quay.io/x/y", Mode: scope.Enforce},
		},
		"Denied": {
			reason: "or is refused", settings: enforce, question: Question{Image: "keycloak:absent"}, says: "no tag",
			want: Answer{Decision: "denied", Reason: resolver.ReasonNoTag, Istag: "keycloak:absent", Mode: scope.Enforce, StreamGeneration: 4},
		},
		"Allowed": {
			reason: "unless the namespace takes it", settings: scope.Settings{Mode: scope.Enforce, AllowUnresolved: true}, question: Question{Image: "keycloak:absent"}, says: "no tag",
			want: Answer{Decision: "left", Reason: resolver.ReasonNoTag, Becomes: "keycloak:absent", Istag: "keycloak:absent", Mode: scope.Enforce, StreamGeneration: 4},
		},
		"Off": {
			reason: "a namespace that did not ask is left alone", question: Question{Image: "keycloak:1"}, says: "istag.dev/admission",
			want: Answer{Decision: "left", Reason: ReasonAdmissionOff, Becomes: "keycloak:1"},
		},
		"Placement": {
			reason: "a template stays, and its pods get the image", settings: byPods, question: Question{Image: "keycloak:1", Resource: deployments}, says: "placement",
			want: Answer{Decision: "left", Reason: ReasonPodPlacement, Becomes: "keycloak:1", Istag: "keycloak:1", PullSpec: pulled, Mode: scope.Enforce, StreamGeneration: 4},
		},
		"PlacementPods": {
			reason: "pods are pinned", settings: byPods, question: Question{Image: "keycloak:1"},
			want: Answer{Decision: "pinned", Reason: resolver.ReasonLocalLookup, Becomes: pulled, Istag: "keycloak:1", PullSpec: pulled, Mode: scope.Enforce, StreamGeneration: 4},
		},
		"Rule": {
			reason: "a rule has the last word", settings: enforce, policy: rulesOf(denyExecution), question: Question{Image: "keycloak:1"}, says: "refuses image " + pulled,
			want: Answer{Decision: "denied", Reason: ReasonRule, Istag: "keycloak:1", PullSpec: pulled, Rule: "execution-denied", Mode: scope.Enforce, StreamGeneration: 4},
		},
		"NoAccess": {
			reason: "rights count", settings: enforce, policy: rewriting, question: Question{Image: internal + "/base/base", User: authenticationv1.UserInfo{Username: "bob"}}, says: `user "bob" may not use`,
			want: Answer{Decision: "denied", Reason: ReasonNoAccess, Istag: "base/base:latest", Mode: scope.Enforce},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			var asked []string
			var events denials
			p := newPinner(t, func(o *Options) {
				o.Scopes, o.Images, o.Audit, o.Events = settings(tc.settings), knownImages(&asked), audit.NewLog(&log), &events
				o.Policy = policyOf(t, nil, tc.policy)
			})
			tc.question.Namespace = "shop"
			got, err := p.Explain(t.Context(), tc.question)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got, cmpopts.IgnoreFields(Answer{}, "Message")); diff != "" || !strings.Contains(got.Message, tc.says) {
				t.Errorf("%s: %q: -want +got:\n%s", tc.reason, got.Message, diff)
			}
			if log.Len() > 0 || len(events) > 0 {
				t.Errorf("a question leaves no trace: %s %v", log.String(), events)
			}
		})
	}
}

// TestQuestionsAreAnsweredAtOnce: whoever asks learns how things are, and not how they will be.
func TestQuestionsAreAnsweredAtOnce(t *testing.T) {
	p := newPinner(t, func(o *Options) {
		o.FirstImportWait = 1 << 40
		o.Streams = liveFunc(func(_ context.Context, _, name string) (*store.Stream, error) {
			return store.NewStream(importing(name)), nil
		})
	})
	if got, err := p.Explain(t.Context(), Question{Namespace: "shop", Image: "new:1"}); err != nil || got.Reason != resolver.ReasonNotImported {
		t.Errorf("got %+v, %v", got, err)
	}
	p = newPinner(t, func(o *Options) {
		o.Scopes = scopesFunc(func(string) (scope.Settings, error) { return scope.Settings{}, errors.New("down") })
	})
	if _, err := p.Explain(t.Context(), Question{Namespace: "shop", Image: "new:1"}); err == nil {
		t.Error("what cannot be told is an error")
	}
	p = newPinner(t, func(o *Options) { o.Index = store.NewIndex() })
	if _, err := p.Explain(t.Context(), Question{Namespace: "shop", Image: "new:1"}); err == nil {
		t.Error("without streams nothing can be told")
	}
}
