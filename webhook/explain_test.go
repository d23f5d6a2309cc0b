package webhook

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/rest"

	"istag.dev/resolver"
)

// reviewer is an API server that knows users by their tokens, "token-" and the name, and what they may.
type reviewer struct {
	mu sync.Mutex
	// rights are "user verb resource.group namespace/name".
	rights map[string]bool
	// broken says that it does not tell of rights.
	broken bool
}

func (v *reviewer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch r.URL.Path {
	case "/apis/authentication.k8s.io/v1/tokenreviews":
		var review authenticationv1.TokenReview
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if name, ok := strings.CutPrefix(review.Spec.Token, "token-"); ok {
			review.Status = authenticationv1.TokenReviewStatus{Authenticated: true, User: authenticationv1.UserInfo{
				Username: name, UID: "uid-" + name, Groups: []string{"devs"}, Extra: map[string]authenticationv1.ExtraValue{"example.com/team": {"a", "b"}},
			}}
		}
		reply(w, http.StatusCreated, review)
	case "/apis/authorization.k8s.io/v1/subjectaccessreviews":
		if v.broken {
			reply(w, http.StatusForbidden, metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusFailure, Code: http.StatusForbidden, Reason: metav1.StatusReasonForbidden})
			return
		}
		var review authorizationv1.SubjectAccessReview
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		a := review.Spec.ResourceAttributes
		resource := schema.GroupResource{Group: a.Group, Resource: a.Resource}
		review.Status.Allowed = v.rights[review.Spec.User+" "+a.Verb+" "+resource.String()+" "+a.Namespace+"/"+a.Name]
		reply(w, http.StatusCreated, review)
	default:
		http.NotFound(w, r)
	}
}

func reply(w http.ResponseWriter, code int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(body)
}

// oracle answers every question alike, and remembers what it was asked.
type oracle struct {
	mu     sync.Mutex
	asked  []Question
	answer Answer
	err    error
}

func (o *oracle) Explain(_ context.Context, q Question) (Answer, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.asked = append(o.asked, q)
	return o.answer, o.err
}

// serveExplain serves the endpoint for a pinner, with an API server that knows some rights.
func serveExplain(t *testing.T, v *reviewer, pinner explainer) string {
	t.Helper()
	api := httptest.NewServer(v)
	t.Cleanup(api.Close)
	handler, err := NewExplain(&rest.Config{Host: api.URL, QPS: -1}, pinner)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server.URL + ExplainPath
}

func TestExplain(t *testing.T) {
	const shop = "namespace=shop&image=keycloak:20.0"
	rights := map[string]bool{
		"alice create pods shop/":                                   true,
		"bob get imagestreamtags.image.openshift.io shop/":          true,
		"carol list imagestreamtags.image.openshift.io shop/":       true,
		"dan create pods other/":                                    true,
		"admin impersonate users /alice":                            true,
		"admin impersonate users /dan":                              true,
		"admin impersonate groups /ops":                             true,
		"admin create pods shop/":                                   true,
		"system:anonymous create pods shop/":                        true,
		"admin impersonate serviceaccounts argocd/controller":       true,
		"system:serviceaccount:argocd:controller create pods shop/": true,
	}
	answer := Answer{Decision: "pinned", Reason: resolver.ReasonLocalLookup, Becomes: "quay.io/keycloak/keycloak@sha256:" + strings.Repeat("a", 64)}
	known := func(name string) authenticationv1.UserInfo {
		return authenticationv1.UserInfo{
			Username: name, UID: "uid-" + name, Groups: []string{"devs", "system:authenticated"},
			Extra: map[string]authenticationv1.ExtraValue{"example.com/team": {"a", "b"}},
		}
	}
	pods := schema.GroupResource{Resource: "pods"}
	cases := map[string]struct {
		reason string
		method string
		query  string
		header map[string]string
		token  string
		broken bool
		err    error
		code   int
		says   string
		want   *Question
	}{
		"CreatePods": {
			reason: "who may create pods can find out by creating one", query: shop, token: "token-alice", code: http.StatusOK,
			want: &Question{Namespace: "shop", Image: "keycloak:20.0", Resource: pods, User: known("alice")},
		},
		"GetTags": {
			reason: "who may read the tags knows already", query: shop, token: "token-bob", code: http.StatusOK,
			want: &Question{Namespace: "shop", Image: "keycloak:20.0", Resource: pods, User: known("bob")},
		},
		"Everything": {
			reason: "all parameters", query: shop + "&resource=deployments.apps&optIn=true", token: "token-alice", code: http.StatusOK,
			want: &Question{Namespace: "shop", Image: "keycloak:20.0", Resource: schema.GroupResource{Group: "apps", Resource: "deployments"}, OptIn: true, User: known("alice")},
		},
		"Impersonate": {
			reason: "an administrator asks for somebody else", query: shop, token: "token-admin", code: http.StatusOK,
			header: map[string]string{"Impersonate-User": "alice", "Impersonate-Group": "ops"},
			want:   &Question{Namespace: "shop", Image: "keycloak:20.0", Resource: pods, User: authenticationv1.UserInfo{Username: "alice", Groups: []string{"ops", "system:authenticated"}}},
		},
		"ImpersonateServiceAccount": {
			reason: "or for a service account, whose groups are known", query: shop, token: "token-admin", code: http.StatusOK,
			header: map[string]string{"Impersonate-User": "system:serviceaccount:argocd:controller"},
			want: &Question{Namespace: "shop", Image: "keycloak:20.0", Resource: pods, User: authenticationv1.UserInfo{
				Username: "system:serviceaccount:argocd:controller", Groups: []string{"system:serviceaccounts", "system:serviceaccounts:argocd", "system:authenticated"},
			}},
		},
		"NoToken":        {reason: "a stranger is told nothing", query: shop, code: http.StatusUnauthorized, says: "Authorization: Bearer"},
		"WrongToken":     {reason: "nor who shows a token that is none", query: shop, token: "guess", code: http.StatusUnauthorized, says: "Bearer"},
		"EmptyToken":     {reason: "nor who shows an empty one", query: shop, header: map[string]string{"Authorization": "Bearer "}, code: http.StatusUnauthorized, says: "Bearer"},
		"LongToken":      {reason: "the API server is not bothered with what can be no token", query: shop, token: "token-alice" + strings.Repeat("x", maxToken), code: http.StatusUnauthorized, says: "Bearer"},
		"Password":       {reason: "nor is a password a token", query: shop, header: map[string]string{"Authorization": "Basic YWxpY2U6YQ=="}, code: http.StatusUnauthorized, says: "Bearer"},
		"FrontProxy":     {reason: "nobody in front of us is believed who a user is", query: shop, header: map[string]string{"X-Remote-User": "alice"}, code: http.StatusUnauthorized, says: "Bearer"},
		"ImpersonateNo":  {reason: "a stranger is nobody else either", query: shop, header: map[string]string{"Impersonate-User": "alice"}, code: http.StatusUnauthorized, says: "Bearer"},
		"NoRight":        {reason: "a tenant does not learn of another's images", query: shop, token: "token-dan", code: http.StatusForbidden, says: `user "dan" asks about namespace "shop", which takes the right to create pods`},
		"OtherVerb":      {reason: "another right is another right", query: shop, token: "token-carol", code: http.StatusForbidden, says: "imagestreamtags"},
		"NotImpersonate": {reason: "who may not impersonate is nobody else", query: shop, token: "token-alice", header: map[string]string{"Impersonate-User": "bob"}, code: http.StatusForbidden, says: `cannot impersonate resource \"users\"`},
		"Impersonated":   {reason: "the rights are those of whom it is asked for", query: shop, token: "token-admin", header: map[string]string{"Impersonate-User": "dan"}, code: http.StatusForbidden, says: `user \"dan\"`},
		"RightsUnknown":  {reason: "a right that cannot be told is none", query: shop, token: "token-alice", broken: true, code: http.StatusServiceUnavailable, says: "API server"},
		"NoNamespace":    {reason: "an image has its meaning in a namespace", query: "image=a", token: "token-alice", code: http.StatusBadRequest, says: "namespace"},
		"BadNamespace":   {reason: "not everything is the name of one", query: "image=a&namespace=a/b", token: "token-alice", code: http.StatusBadRequest, says: "namespace"},
		"NoImage":        {reason: "a question is about an image", query: "namespace=shop", token: "token-alice", code: http.StatusBadRequest, says: "image"},
		"BadOptIn":       {reason: "a switch has two positions", query: shop + "&optIn=perhaps", token: "token-alice", code: http.StatusBadRequest, says: "optIn"},
		"BadResource":    {reason: "a group alone is no resource", query: shop + "&resource=.apps", token: "token-alice", code: http.StatusBadRequest, says: "resource"},
		"Unknown":        {reason: "a misspelled parameter must not be ignored", query: shop + "&optin=true", token: "token-alice", code: http.StatusBadRequest, says: "optin"},
		"Twice":          {reason: "of two values one would be lost", query: shop + "&image=b", token: "token-alice", code: http.StatusBadRequest, says: "image"},
		"NotAQuery":      {reason: "what cannot be read is refused", query: shop + "&%zz", token: "token-alice", code: http.StatusBadRequest, says: "read"},
		"Long":           {reason: "a question has a bound", query: shop + strings.Repeat("x", maxQuestion), token: "token-alice", code: http.StatusBadRequest, says: "4096"},
		"Post":           {reason: "nothing can be changed here", method: http.MethodPost, query: shop, token: "token-alice", code: http.StatusMethodNotAllowed, says: "GET"},
		"NotNow": {
			reason: "what is meant for the user is told", query: shop, token: "token-alice", err: unavailable("not %s", "synced"), code: http.StatusServiceUnavailable, says: "not synced",
			want: &Question{Namespace: "shop", Image: "keycloak:20.0", Resource: pods, User: known("alice")},
		},
		"CannotTell": {
			reason: "what cannot be told is not made up, nor is the cause told", query: shop, token: "token-alice", err: errors.New("secret"), code: http.StatusServiceUnavailable, says: "log",
			want: &Question{Namespace: "shop", Image: "keycloak:20.0", Resource: pods, User: known("alice")},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			pinner := &oracle{answer: answer, err: tc.err}
			endpoint := serveExplain(t, &reviewer{rights: rights, broken: tc.broken}, pinner)
			method := tc.method
			if method == "" {
				method = http.MethodGet
			}
			request, err := http.NewRequestWithContext(t.Context(), method, endpoint+"?"+tc.query, http.NoBody)
			if err != nil {
				t.Fatal(err)
			}
			if tc.token != "" {
				request.Header.Set("Authorization", "Bearer "+tc.token)
			}
			for name, value := range tc.header {
				request.Header.Set(name, value)
			}
			response, err := http.DefaultClient.Do(request)
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			body, err := io.ReadAll(response.Body)
			if err != nil {
				t.Fatal(err)
			}
			if response.StatusCode != tc.code {
				t.Errorf("%s: %s: %s", tc.reason, response.Status, body)
			}
			if got := response.Header.Get("Content-Type"); got != "application/json" {
				t.Errorf("content type %q", got)
			}
			var want []Question
			if tc.want != nil {
				want = []Question{*tc.want}
			}
			if diff := cmp.Diff(want, pinner.asked); diff != "" {
				t.Errorf("%s: questions that came through: -want +got:\n%s", tc.reason, diff)
			}
			if tc.code == http.StatusOK {
				var got Answer
				if err := json.Unmarshal(body, &got); err != nil || got != answer {
					t.Errorf("%s: %v: %s", tc.reason, err, body)
				}
				return
			}
			var status metav1.Status
			if err := json.Unmarshal(body, &status); err != nil || status.Kind != "Status" || status.APIVersion != "v1" || int(status.Code) != tc.code {
				t.Errorf("%s: an error is a Status: %v: %s", tc.reason, err, body)
			}
			if !strings.Contains(string(body), tc.says) && !strings.Contains(status.Message, tc.says) || strings.Contains(string(body), "secret") {
				t.Errorf("%s: the error says %q: %s", tc.reason, tc.says, body)
			}
		})
	}
}

// waiting answers nothing until it is let go.
type waiting struct{ asked, end chan struct{} }

func (w waiting) Explain(context.Context, Question) (Answer, error) {
	w.asked <- struct{}{}
	<-w.end
	return Answer{}, nil
}

func TestExplainBounded(t *testing.T) {
	pinner := waiting{make(chan struct{}), make(chan struct{})}
	endpoint := serveExplain(t, &reviewer{rights: map[string]bool{"alice create pods shop/": true}}, pinner)
	ask := func() (int, error) {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, endpoint+"?namespace=shop&image=a", http.NoBody)
		if err != nil {
			return 0, err
		}
		request.Header.Set("Authorization", "Bearer token-alice")
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return 0, err
		}
		return response.StatusCode, response.Body.Close()
	}
	codes := make(chan int, maxExplaining)
	for range maxExplaining {
		go func() {
			code, err := ask()
			if err != nil {
				t.Error(err)
			}
			codes <- code
		}()
		<-pinner.asked
	}
	if code, err := ask(); err != nil || code != http.StatusTooManyRequests {
		t.Errorf("questions do not take the room of reviews: %d, %v", code, err)
	}
	close(pinner.end)
	for range maxExplaining {
		if code := <-codes; code != http.StatusOK {
			t.Errorf("those that were taken in are answered: %d", code)
		}
	}
}

func FuzzParseQuestion(f *testing.F) {
	f.Add("namespace=shop&image=keycloak:20.0&resource=deployments.apps&optIn=true")
	f.Add("namespace=a&image=%zz")
	f.Fuzz(func(t *testing.T, query string) {
		q, err := parseQuestion(query)
		if err != nil {
			return
		}
		if len(validation.IsDNS1123Label(q.Namespace)) > 0 || q.Image == "" || q.Resource.Resource == "" {
			t.Errorf("what is accepted is a question: %+v", q)
		}
		if values, err := url.ParseQuery(query); err != nil || values.Get("image") != q.Image || values.Get("namespace") != q.Namespace {
			t.Errorf("a question says what was asked: %+v", q)
		}
	})
}
