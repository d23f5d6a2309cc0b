package webhook

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	imagev1 "github.com/openshift/api/image/v1"
	admissionv1 "k8s.io/api/admission/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"istag.dev/config"
	"istag.dev/store"
	storev1 "istag.dev/store/v1"
	"istag.dev/webhook/audit"
	"istag.dev/webhook/lock"
	"istag.dev/webhook/policy"
	"istag.dev/webhook/scope"
)

const (
	digest = "sha256:aaaa000000000000000000000000000000000000000000000000000000000000"
	pulled = "quay.io/keycloak/keycloak@" + digest
)

// stream is one of namespace "shop" whose tag "1" has an image, which bob chose, and whose tag "pending" has none.
func stream(name string, local bool) *storev1.StreamRecord {
	r := &storev1.StreamRecord{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}}
	r.Spec.LookupPolicy.Local = local
	r.Spec.Tags = []imagev1.TagReference{{Name: "pending"}}
	r.Record.Generation = 4
	r.Status.Tags = []imagev1.NamedTagEventList{{Tag: "1", Items: []imagev1.TagEvent{{DockerImageReference: pulled, Image: digest}}}}
	r.Record.Origins = []storev1.TagEventOrigin{{Tag: "1", Image: digest, Via: storev1.ViaCopy, By: &storev1.Requester{User: "bob"}}}
	return r
}

// liveFunc adapts a function to StreamReader.
type liveFunc func(ctx context.Context, namespace, name string) (*store.Stream, error)

func (f liveFunc) Stream(ctx context.Context, namespace, name string) (*store.Stream, error) {
	return f(ctx, namespace, name)
}

func nothingLive(context.Context, string, string) (*store.Stream, error) { return nil, nil }

// settings are those of every namespace.
type settings scope.Settings

func (s settings) Settings(context.Context, string) (scope.Settings, error) {
	return scope.Settings(s), nil
}

// scopesFunc adapts a function to scope.Reader.
type scopesFunc func(namespace string) (scope.Settings, error)

func (f scopesFunc) Settings(_ context.Context, namespace string) (scope.Settings, error) {
	return f(namespace)
}

// locksFunc adapts a function to lock.Reader.
type locksFunc func(lock.Revision) (lock.Lock, bool, error)

func (f locksFunc) Lock(_ context.Context, r lock.Revision) (lock.Lock, bool, error) { return f(r) }

// imagesFunc adapts a function to ImageReader.
type imagesFunc func(digest string) (*policy.Known, error)

func (f imagesFunc) Image(_ context.Context, digest string) (*policy.Known, error) { return f(digest) }

// accessFunc adapts a function to AccessReviewer.
type accessFunc func(user authenticationv1.UserInfo, namespace, stream string) (bool, error)

func (f accessFunc) May(_ context.Context, user authenticationv1.UserInfo, namespace, stream string) (bool, error) {
	return f(user, namespace, stream)
}

// policyOf compiles a policy; change changes the one that is shipped.
func policyOf(tb testing.TB, workloads []config.Workload, change func(*config.Policy)) func() *policy.Policy {
	tb.Helper()
	c := config.DefaultPolicy()
	if change != nil {
		change(&c)
	}
	compiled, err := policy.Compile(c, workloads)
	if err != nil {
		tb.Fatal(err)
	}
	return func() *policy.Policy { return compiled }
}

// newPinner returns the webhooks, in a cluster that has the streams "keycloak", local, and "global", not local,
// and where every namespace enforces.
func newPinner(tb testing.TB, change func(*Options)) *Pinner {
	tb.Helper()
	index := store.NewIndex()
	if err := index.Replace([]any{stream("keycloak", true), stream("global", false)}, "1"); err != nil {
		tb.Fatal(err)
	}
	o := Options{
		Index:   index,
		Streams: liveFunc(nothingLive),
		Scopes:  settings{Mode: scope.Enforce},
		Policy:  policyOf(tb, nil, nil),
		Audit:   audit.NewLog(io.Discard),
	}
	if change != nil {
		change(&o)
	}
	return New(o)
}

// newTestPinner returns the same with another reader and an audit log to look at.
func newTestPinner(tb testing.TB, live liveFunc, log io.Writer) *Pinner {
	tb.Helper()
	return newPinner(tb, func(o *Options) {
		o.Streams = live
		o.Audit = audit.NewLog(log)
	})
}

// noAnswer stands for an error of the webhook's, by which the API server goes by its failure policy.
const noAnswer = "no answer"

// ask puts a request to the mutating webhook as the API server does and returns the answer.
func ask(tb testing.TB, p *Pinner, r admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
	tb.Helper()
	return askAt(tb, p.Pin(), PinPath+"?timeout=5s", r)
}

// askCheck puts a request to the validating webhook.
func askCheck(tb testing.TB, p *Pinner, r admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
	tb.Helper()
	return askAt(tb, p.Check(), CheckPath+"?timeout=5s", r)
}

func askAt(tb testing.TB, handler http.Handler, url string, r admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
	tb.Helper()
	recorder := httptest.NewRecorder()
	post := httptest.NewRequestWithContext(tb.Context(), http.MethodPost, url, strings.NewReader(reviewBody(tb, r)))
	post.Header.Set("Content-Type", "application/json")
	handler.ServeHTTP(recorder, post)
	if recorder.Code == http.StatusServiceUnavailable {
		return &admissionv1.AdmissionResponse{Result: &metav1.Status{Status: noAnswer, Message: recorder.Body.String()}}
	}
	response := decodeAnswer(tb, recorder.Body.Bytes())
	if response.UID != r.UID {
		tb.Errorf("an answer has the uid of its request, got %q", response.UID)
	}
	return response
}

// groupOf returns the API group of a resource.
func groupOf(resource string) string {
	switch resource {
	case "pods", "podtemplates", "replicationcontrollers":
		return ""
	case "jobs", "cronjobs":
		return "batch"
	default:
		return "apps"
	}
}

// request makes a create request for JSON text; old makes it an update.
func request(resource, object, old string) admissionv1.AdmissionRequest {
	r := admissionv1.AdmissionRequest{
		UID:       "u1",
		Kind:      metav1.GroupVersionKind{Group: "apps", Version: "v1", Kind: "Deployment"},
		Resource:  metav1.GroupVersionResource{Group: groupOf(resource), Version: "v1", Resource: resource},
		Namespace: "shop",
		Name:      "web",
		Operation: admissionv1.Create,
		UserInfo:  authenticationv1.UserInfo{Username: "alice"},
		Object:    runtime.RawExtension{Raw: []byte(object)},
	}
	if old != "" {
		r.Operation = admissionv1.Update
		r.OldObject = runtime.RawExtension{Raw: []byte(old)}
	}
	return r
}

// patchesOf returns what an answer changes, as "path=value" in order, the provenance annotation left out.
func patchesOf(response *admissionv1.AdmissionResponse) []string {
	var out []string
	for _, p := range decodePatch(response) {
		if !strings.HasPrefix(p.Path, "/metadata") {
			out = append(out, fmt.Sprintf("%s=%v", p.Path, p.Value))
		}
	}
	return out
}

// patch is one operation of a JSON patch (RFC 6902).
type patch struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value,omitempty"`
}

func decodePatch(response *admissionv1.AdmissionResponse) []patch {
	var patches []patch
	if response.Patch != nil && json.Unmarshal(response.Patch, &patches) != nil {
		return []patch{{Op: "not a JSON patch"}}
	}
	return patches
}

// podOf makes a Pod with one container "a"; metadata is the inside of its metadata object.
func podOf(image, metadata string) string {
	return fmt.Sprintf(`{"metadata":{%s},"spec":{"containers":[{"name":"a","image":%q}]}}`, metadata, image)
}

func deploymentOf(image, templateMetadata string) string {
	return fmt.Sprintf(`{"metadata":{},"spec":{"template":{"metadata":{%s},"spec":{"containers":[{"name":"a","image":%q}]}}}}`, templateMetadata, image)
}

const (
	optIn        = `"annotations":{"alpha.image.policy.openshift.io/resolve-names":"*"}`
	optInOther   = `"annotations":{"alpha.image.policy.openshift.io/resolve-names":"true"}`
	owned        = `"ownerReferences":[{"apiVersion":"apps/v1","kind":"ReplicaSet","name":"web-1","uid":"u","controller":true}]`
	ownedLoosely = `"ownerReferences":[{"apiVersion":"v1","kind":"ConfigMap","name":"c","uid":"u"}]`
)
