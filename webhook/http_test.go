package webhook

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"istag.dev/resolver"
	"istag.dev/store"
	"istag.dev/webhook/lock"
	"istag.dev/webhook/scope"
)

// review makes the body that the API server would send for a request.
func reviewBody(tb testing.TB, r admissionv1.AdmissionRequest) string {
	tb.Helper()
	body, err := json.Marshal(admissionv1.AdmissionReview{
		TypeMeta: metav1.TypeMeta{APIVersion: "admission.k8s.io/v1", Kind: "AdmissionReview"},
		Request:  &r,
	})
	if err != nil {
		tb.Fatal(err)
	}
	return string(body)
}

// containers makes a Pod with n containers of distinct images.
func containers(n int) string {
	var list []string
	for i := range n {
		list = append(list, fmt.Sprintf(`{"name":"c%d","image":"keycloak:1"}`, i))
	}
	return `{"metadata":{},"spec":{"containers":[` + strings.Join(list, ",") + `]}}`
}

func TestServeBadInput(t *testing.T) {
	pinner := newTestPinner(t, nothingLive, &bytes.Buffer{})
	server := httptest.NewServer(pinner.Pin())
	defer server.Close()
	const jsonType = "application/json"
	unknown := strings.Replace(reviewBody(t, request("pods", podOf("keycloak:1", ""), "")), "admission.k8s.io/v1", "admission.k8s.io/v9", 1)
	cases := map[string]struct {
		reason, contentType, body string
		allowed                   bool
		code                      int32
		says                      string
	}{
		"NoBody":           {"nothing was asked", jsonType, "", false, 400, "not an AdmissionReview"},
		"ContentType":      {"the API server sends JSON", "text/plain", reviewBody(t, request("pods", podOf("keycloak:1", ""), "")), false, 400, "expected application/json"},
		"NotJSON":          {"the body must be JSON", jsonType, "{", false, 400, "not an AdmissionReview"},
		"FieldTwice":       {"of two values one would be lost", jsonType, `{"kind":"AdmissionReview","kind":"Pod"}`, false, 400, "duplicate"},
		"NotAReview":       {"a Pod is no review", jsonType, `{"apiVersion":"v1","kind":"Pod"}`, false, 400, "kind \"Pod\""},
		"NoRequest":        {"a review without a request asks nothing", jsonType, `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview"}`, false, 400, "no request"},
		"NullRequest":      {"a review with null asks nothing", jsonType, `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":null}`, false, 400, "no request"},
		"UnknownVersion":   {"an unknown version may mean something else", jsonType, unknown, false, 400, "admission.k8s.io/v9"},
		"TooLarge":         {"a body has a bound", jsonType, strings.Repeat(" ", 10<<20), false, 413, "of at most 7340032 bytes"},
		"ObjectNotJSON":    {"the object must be JSON of the right shape", jsonType, reviewBody(t, request("pods", `[]`, "")), false, 400, "/request/object"},
		"OldObjectNotJSON": {"the old object too", jsonType, reviewBody(t, request("pods", `{}`, `{"spec":1}`)), false, 400, "/request/oldObject"},
		"NoContainers":     {"the API server refuses it by itself", jsonType, reviewBody(t, request("pods", `{"spec":{}}`, "")), true, 0, ""},
		"Containers1000":   {"a thousand containers are pinned like one", jsonType, reviewBody(t, request("pods", containers(1000), "")), true, 0, ""},
		"NotAnImage":       {"the API server judges the form of images", jsonType, reviewBody(t, request("pods", podOf("UPPER://x", ""), "")), true, 0, ""},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			answer := post(t, server.URL, tc.contentType, tc.body)
			result := ptr.Deref(answer.Result, metav1.Status{})
			if answer.Allowed != tc.allowed || result.Code != tc.code || !strings.Contains(result.Message, tc.says) {
				t.Errorf("%s: got allowed %v, %+v", tc.reason, answer.Allowed, result)
			}
		})
	}
	answer := post(t, server.URL, jsonType, reviewBody(t, request("pods", containers(1000), "")))
	var patches []any
	if err := json.Unmarshal(answer.Patch, &patches); err != nil || len(patches) != 1001 {
		t.Errorf("each container and the annotation are patched: %d patches, %v", len(patches), err)
	}
}

// post sends a body to the webhook and returns its answer.
func post(tb testing.TB, url, contentType, body string) *admissionv1.AdmissionResponse {
	tb.Helper()
	r, err := http.NewRequestWithContext(tb.Context(), http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		tb.Fatal(err)
	}
	r.Header.Set("Content-Type", contentType)
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		tb.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		tb.Fatal(err)
	}
	return decodeAnswer(tb, text)
}

func decodeAnswer(tb testing.TB, text []byte) *admissionv1.AdmissionResponse {
	tb.Helper()
	var review admissionv1.AdmissionReview
	if err := json.Unmarshal(text, &review); err != nil || review.Response == nil || review.APIVersion != "admission.k8s.io/v1" || review.Kind != "AdmissionReview" {
		tb.Fatalf("the answer is an AdmissionReview: %v: %s", err, text)
	}
	return review.Response
}

func TestServeSurvivesAPanic(t *testing.T) {
	live := func(context.Context, string, string) (*store.Stream, error) { panic("a bug") } //nolint:forbidigo // the case
	got := ask(t, newTestPinner(t, live, &bytes.Buffer{}), request("pods", podOf("mysql", ""), ""))
	if got.Allowed || got.Result.Code != 500 || strings.Contains(got.Result.Message, "a bug") {
		t.Errorf("a bug is answered, without its inside: %+v", got.Result)
	}
}

// FuzzReview feeds the webhooks what a stranger may send: any body, and any object in a good review.
func FuzzReview(f *testing.F) {
	seeds := []struct{ resource, object, old string }{
		{"", `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"u"}}`, ""},
		{"deployments", deploymentOf("keycloak:1", optIn), deploymentOf("x/y", "")},
		{"pods", podOf("keycloak:2", owned), ""},
		{"pods", podWith(pinnedAs(resolver.Pins{"a": {Written: "keycloak:1", Istag: "keycloak:1", PullSpec: oldPulled}}), "a="+oldPulled, "b=keycloak:1"), ""},
		{"cronjobs", `{"spec":{"jobTemplate":{"spec":{"template":null}}}}`, ""},
		{"replicasets", revisionOf("", lockedAs(lockOf(oldPulled, "keycloak:1")), "a=keycloak:1"), ""},
		{"controllerrevisions", revisionOf("controllerrevisions", "", "a=keycloak:1"), ""},
		{"things", `{"metadata":{"annotations":{"lock.istag.dev/~a":""}},"spec":{"b~c":{"pods":{"x/y":{"initContainers":[{"name":"i","image":"keycloak:1"}]}}}}}`, ""},
		{"pods", `{"spec":{"containers":[{"name":"a/b","image":"keycloak:1"}],"volumes":[{"name":"v","image":{"reference":"keycloak:1"}}]}}`, `{"metadata":null}`},
	}
	for _, s := range seeds {
		f.Add(s.resource, s.object, s.old, false)
		f.Add(s.resource, s.object, s.old, true)
	}
	handlers := map[bool][]http.Handler{}
	for _, podPlacement := range []bool{false, true} {
		p := customPinner(f, func(o *Options) {
			o.Scopes = settings{Mode: scope.Enforce, PodPlacement: podPlacement, HoldOnReapply: true}
			policies := rulesOf(noHub)
			o.Policy = policyOf(f, o.Workloads, policies)
			o.Locks = locksFunc(func(lock.Revision) (lock.Lock, bool, error) { return lockOf(oldPulled, "keycloak:1"), true, nil })
		})
		handlers[podPlacement] = []http.Handler{p.Pin(), p.Check()}
	}
	f.Fuzz(func(t *testing.T, resource, object, old string, podPlacement bool) {
		body := object
		if resource != "" && json.Valid([]byte(object)) {
			r := request(resource, object, "")
			if json.Valid([]byte(old)) {
				r = request(resource, object, old)
			}
			if resource == "things" {
				r.Resource.Group = "example.com"
			}
			body = reviewBody(t, r)
		}
		for _, handler := range handlers[podPlacement] {
			recorder := httptest.NewRecorder()
			r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, PinPath, strings.NewReader(body))
			r.Header.Set("Content-Type", "application/json")
			handler.ServeHTTP(recorder, r)
			got := decodeAnswer(t, recorder.Body.Bytes())
			if got.Result != nil && got.Result.Code == http.StatusInternalServerError {
				t.Fatalf("the handler failed: %s", got.Result.Message)
			}
			checkPatch(t, object, got.Patch)
		}
	})
}

// patched are the places that a patch may touch.
var patched = regexp.MustCompile(`^(/metadata|/metadata/annotations(/istag\.dev~1pinned|/lock\.istag\.dev~1.*)?|/metadata/labels(/istag\.dev~1lock)?|.*/(initContainers|containers|ephemeralContainers)/[0-9]+/image|.*/volumes/[0-9]+/image/reference)$`)

// checkPatch applies a patch to an object, and checks that it touches nothing else than it may.
func checkPatch(t *testing.T, object string, patch []byte) {
	t.Helper()
	if patch == nil {
		return
	}
	decoded, err := jsonpatch.DecodePatch(patch)
	if err != nil {
		t.Fatalf("the patch is none: %v: %s", err, patch)
	}
	if _, err := decoded.Apply([]byte(object)); err != nil {
		t.Fatalf("the patch cannot be applied: %v: %s to %s", err, patch, object)
	}
	for _, operation := range decoded {
		path, err := operation.Path()
		if err != nil || !patched.MatchString(path) {
			t.Errorf("the patch touches %q, %v", path, err)
		}
	}
}
