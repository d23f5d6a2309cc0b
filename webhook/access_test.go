package webhook

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	lru "k8s.io/apimachinery/pkg/util/cache"
	"k8s.io/client-go/rest"
	testingclock "k8s.io/utils/clock/testing"
)

// TestAccess asks an API server where group "builders" may use streams of namespace "base", but "mallory" may
// explicitly not, and which fails for namespace "broken".
func TestAccess(t *testing.T) {
	var asked []authorizationv1.SubjectAccessReviewSpec
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var review authorizationv1.SubjectAccessReview
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil || r.URL.Path != "/apis/authorization.k8s.io/v1/subjectaccessreviews" {
			t.Errorf("%s %s: %v", r.Method, r.URL, err)
		}
		asked = append(asked, review.Spec)
		w.Header().Set("Content-Type", "application/json")
		if review.Spec.ResourceAttributes.Namespace == "broken" {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		review.Status.Allowed = len(review.Spec.Groups) > 0 && review.Spec.Groups[0] == "builders"
		review.Status.Denied = review.Spec.User == "mallory"
		w.WriteHeader(http.StatusCreated)
		_ = json.NewEncoder(w).Encode(review)
	}))
	defer server.Close()
	access, err := NewAccess(&rest.Config{Host: server.URL, ContentConfig: rest.ContentConfig{ContentType: "application/json"}})
	if err != nil {
		t.Fatal(err)
	}
	clock := testingclock.NewFakeClock(time.Now())
	access.answers = lru.NewLRUExpireCacheWithClock(accessMost, clock)
	alice := authenticationv1.UserInfo{Username: "alice", UID: "7", Groups: []string{"builders"}, Extra: map[string]authenticationv1.ExtraValue{"scopes": {"a", "b"}}}
	bob := authenticationv1.UserInfo{Username: "bob"}
	mallory := authenticationv1.UserInfo{Username: "mallory", Groups: []string{"builders"}}
	steps := []struct {
		reason    string
		user      authenticationv1.UserInfo
		namespace string
		after     time.Duration
		want      bool
		fails     bool
		asks      int
	}{
		{reason: "who has the right may", user: alice, namespace: "base", want: true, asks: 1},
		{reason: "and is not asked about again at once", user: alice, namespace: "base", after: allowedFor - 1, want: true},
		{reason: "but in time", user: alice, namespace: "base", after: 2, want: true, asks: 1},
		{reason: "a right here is none there", user: alice, namespace: "other", want: true, asks: 1},
		{reason: "who lacks it may not", user: bob, namespace: "base", asks: 1},
		{reason: "and is not asked about again at once", user: bob, namespace: "base"},
		{reason: "but soon, lest they wait", user: bob, namespace: "base", after: deniedFor + 1, asks: 1},
		{reason: "an explicit refusal counts", user: mallory, namespace: "base", asks: 1},
		{reason: "what cannot be told is an error", user: alice, namespace: "broken", fails: true, asks: 1},
		{reason: "which is not remembered", user: alice, namespace: "broken", fails: true, asks: 1},
	}
	for _, s := range steps {
		clock.Step(s.after)
		before := len(asked)
		got, err := access.May(t.Context(), s.user, s.namespace, "keycloak")
		if got != s.want || (err != nil) != s.fails || len(asked)-before != s.asks {
			t.Errorf("%s: May(%s, %s) = %v, %v after %d requests", s.reason, s.user.Username, s.namespace, got, err, len(asked)-before)
		}
	}
	want := authorizationv1.SubjectAccessReviewSpec{
		User: "alice", UID: "7", Groups: []string{"builders"}, Extra: map[string]authorizationv1.ExtraValue{"scopes": {"a", "b"}},
		ResourceAttributes: &authorizationv1.ResourceAttributes{
			Namespace: "base", Verb: "get", Group: "image.openshift.io", Resource: "imagestreams", Subresource: "layers", Name: "keycloak",
		},
	}
	if diff := cmp.Diff(want, asked[0]); diff != "" {
		t.Errorf("all of a user's identity is handed on: -want +got:\n%s", diff)
	}
}
