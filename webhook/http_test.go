package webhook

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"istag.dev/store"
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
	return `{"spec":{"containers":[` + strings.Join(list, ",") + `]}}`
}

func TestServeBadInput(t *testing.T) {
	pinner := newTestPinner(t, nothingLive, &bytes.Buffer{})
	server := httptest.NewServer(pinner)
	defer server.Close()
	const jsonType = "application/json"
	unknown := strings.Replace(reviewBody(t, request("pods", pod("keycloak:1", ""), "")), "admission.k8s.io/v1", "admission.k8s.io/v9", 1)
	cases := map[string]struct {
		reason, contentType, body string
		allowed                   bool
		code                      int32
		says                      string
	}{
		"NoBody":           {"nothing was asked", jsonType, "", false, 400, "not an AdmissionReview"},
		"ContentType":      {"the API server sends JSON", "text/plain", reviewBody(t, request("pods", pod("keycloak:1", ""), "")), false, 400, "expected application/json"},
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
		"NotAnImage":       {"the API server judges the form of images", jsonType, reviewBody(t, request("pods", pod("UPPER://x", ""), "")), true, 0, ""},
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
	got := ask(t, newTestPinner(t, live, &bytes.Buffer{}), request("pods", pod("mysql", ""), ""))
	if got.Allowed || got.Result.Code != 500 || strings.Contains(got.Result.Message, "a bug") {
		t.Errorf("a bug is answered, without its inside: %+v", got.Result)
	}
}

// FuzzServe feeds the webhook what a stranger may send: any body, and any object in a good review.
func FuzzServe(f *testing.F) {
	f.Add("", `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"u"}}`)
	f.Add("deployments", deployment("keycloak:1", optIn))
	f.Add("pods", pod("keycloak:2", owned))
	f.Add("cronjobs", `{"spec":{"jobTemplate":{"spec":{"template":null}}}}`)
	handler := newTestPinner(f, nothingLive, &bytes.Buffer{})
	f.Fuzz(func(t *testing.T, resource, text string) {
		body := text
		if resource != "" && json.Valid([]byte(text)) {
			body = reviewBody(t, request(resource, text, text))
		}
		recorder := httptest.NewRecorder()
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, Path, strings.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		handler.ServeHTTP(recorder, r)
		if got := decodeAnswer(t, recorder.Body.Bytes()); got.Result != nil && got.Result.Code == http.StatusInternalServerError {
			t.Fatalf("the handler failed: %s", got.Result.Message)
		}
	})
}
