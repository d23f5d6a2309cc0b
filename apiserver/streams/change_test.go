package streams

import (
	"context"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	authenticationv1 "k8s.io/api/authentication/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/request"

	"istag.dev/store"
	storev1 "istag.dev/store/v1"
)

// asAlice is the context of one of her requests.
func asAlice(ctx context.Context) context.Context {
	ctx = request.WithUser(ctx, &user.DefaultInfo{
		Name: "alice", UID: "7", Groups: []string{"devs"}, Extra: map[string][]string{"scopes": {"all"}},
	})
	ctx = request.WithRequestInfo(ctx, &request.RequestInfo{Verb: "patch", Resource: "imagestreams", Subresource: "status"})
	return request.WithNamespace(ctx, "hers")
}

func TestChangeSaysWho(t *testing.T) {
	c := (&Registry{}).changeOf(asAlice(t.Context()))
	if diff := cmp.Diff(storev1.Requester{User: "alice", Verb: "patch", Resource: "imagestreams/status"}, c.By); diff != "" {
		t.Errorf("who asked (-want +got):\n%s", diff)
	}
	want := authenticationv1.UserInfo{
		Username: "alice", UID: "7", Groups: []string{"devs"}, Extra: map[string]authenticationv1.ExtraValue{"scopes": {"all"}},
	}
	if diff := cmp.Diff(want, c.Identity); diff != "" {
		t.Errorf("all that is needed to ask again what they may do (-want +got):\n%s", diff)
	}
	if c.Now.Nanosecond() != 0 {
		t.Errorf("a time of %s would not compare equal after it was stored", c.Now)
	}
}

// TestForeignStream has a registry without any storage: looking at a stream would end the test.
func TestForeignStream(t *testing.T) {
	broken := errors.New("no answer")
	cases := map[string]struct {
		reason        string
		decision      authorizer.Decision
		why           string
		err           error
		wantForbidden bool
	}{
		"NoOpinion": {reason: "Who has no right may not pull.", decision: authorizer.DecisionNoOpinion, wantForbidden: true},
		"Denied":    {reason: "The authorizer's reason is passed on.", decision: authorizer.DecisionDeny, why: "not today", wantForbidden: true},
		"Broken":    {reason: "An authorizer that fails is no answer of the user's making.", decision: authorizer.DecisionNoOpinion, err: broken},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			var asked authorizer.Attributes
			r := &Registry{authorizer: authorizer.AuthorizerFunc(func(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
				asked = a
				return tc.decision, tc.why, tc.err
			})}
			record, err := r.changeOf(asAlice(t.Context())).Source("theirs", "app")
			if record != nil || err == nil {
				t.Fatalf("%s\ngot %v, %v", tc.reason, record, err)
			}
			var forbidden *store.ForbiddenError
			if errors.As(err, &forbidden) != tc.wantForbidden {
				t.Errorf("%s\ngot %v", tc.reason, err)
			}
			if tc.wantForbidden && (forbidden.Namespace != "theirs" || forbidden.Stream != "app" || forbidden.Reason != tc.why) {
				t.Errorf("%s\ngot %+v", tc.reason, forbidden)
			}
			got := []string{asked.GetUser().GetName(), asked.GetVerb(), asked.GetAPIGroup(), asked.GetResource(), asked.GetSubresource(), asked.GetNamespace(), asked.GetName()}
			want := []string{"alice", "get", "image.openshift.io", "imagestreams", "layers", "theirs", "app"}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("the right to pull (-want +got):\n%s", diff)
			}
		})
	}
}
