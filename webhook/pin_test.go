package webhook

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	imagev1 "github.com/openshift/api/image/v1"
	admissionv1 "k8s.io/api/admission/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"

	"istag.dev/resolver"
	"istag.dev/store"
	storev1 "istag.dev/store/v1"
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

// liveFunc adapts a function to liveReader.
type liveFunc func(ctx context.Context, namespace, name string) (*store.Stream, error)

func (f liveFunc) Stream(ctx context.Context, namespace, name string) (*store.Stream, error) {
	return f(ctx, namespace, name)
}

func nothingLive(context.Context, string, string) (*store.Stream, error) { return nil, nil }

// newTestPinner returns a webhook over the streams "keycloak", local, and "global", not local.
func newTestPinner(tb testing.TB, live liveFunc, audit *bytes.Buffer) *Pinner {
	tb.Helper()
	index := store.NewIndex()
	if err := index.Replace([]any{stream("keycloak", true), stream("global", false)}, "1"); err != nil {
		tb.Fatal(err)
	}
	return NewPinner(index, live, NewAuditLog(audit))
}

// ask puts a request to the webhook as the API server does and returns the answer.
func ask(tb testing.TB, p *Pinner, r admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
	tb.Helper()
	recorder := httptest.NewRecorder()
	post := httptest.NewRequestWithContext(tb.Context(), http.MethodPost, Path, strings.NewReader(reviewBody(tb, r)))
	post.Header.Set("Content-Type", "application/json")
	p.ServeHTTP(recorder, post)
	response := decodeAnswer(tb, recorder.Body.Bytes())
	if response.UID != r.UID {
		tb.Errorf("an answer has the uid of its request, got %q", response.UID)
	}
	return response
}

// request makes a create request for JSON text; old makes it an update.
func request(resource, object, old string) admissionv1.AdmissionRequest {
	r := admissionv1.AdmissionRequest{
		UID:       "u1",
		Kind:      metav1.GroupVersionKind{Group: "apps", Version: "v1", Kind: "Deployment"},
		Resource:  metav1.GroupVersionResource{Group: "apps", Version: "v1", Resource: resource},
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
		if !strings.HasPrefix(p.Path, "/metadata/annotations") {
			out = append(out, fmt.Sprintf("%s=%v", p.Path, p.Value))
		}
	}
	return out
}

func decodePatch(response *admissionv1.AdmissionResponse) []patch {
	var patches []patch
	if response.Patch != nil && json.Unmarshal(response.Patch, &patches) != nil {
		return []patch{{Op: "not a JSON patch"}}
	}
	return patches
}

func TestHandlePinsEveryKind(t *testing.T) {
	const spec = `{"initContainers":[{"name":"i","image":"keycloak:1"}],"containers":[{"name":"a","image":"x/y:1"},{"name":"b","image":"keycloak:1"}]}`
	template := `{"spec":{"template":{"spec":` + spec + `}}}`
	cases := map[string]struct{ object, path string }{
		"pods":                   {`{"spec":` + spec + `}`, "/spec"},
		"deployments":            {template, "/spec/template/spec"},
		"replicasets":            {template, "/spec/template/spec"},
		"statefulsets":           {template, "/spec/template/spec"},
		"daemonsets":             {template, "/spec/template/spec"},
		"replicationcontrollers": {template, "/spec/template/spec"},
		"jobs":                   {template, "/spec/template/spec"},
		"cronjobs":               {`{"spec":{"jobTemplate":` + template + `}}`, "/spec/jobTemplate/spec/template/spec"},
	}
	for resource, tc := range cases {
		t.Run(resource, func(t *testing.T) {
			response := ask(t, newTestPinner(t, nothingLive, &bytes.Buffer{}), request(resource, tc.object, ""))
			want := []string{tc.path + "/initContainers/0/image=" + pulled, tc.path + "/containers/1/image=" + pulled}
			if diff := cmp.Diff(want, patchesOf(response)); diff != "" || !response.Allowed {
				t.Errorf("init containers and containers are pinned, others are left: -want +got:\n%s", diff)
			}
		})
	}
}

// pod makes a Pod with one container "a"; metadata is the inside of its metadata object.
func pod(image, metadata string) string {
	return fmt.Sprintf(`{"metadata":{%s},"spec":{"containers":[{"name":"a","image":%q}]}}`, metadata, image)
}

func deployment(image, templateMetadata string) string {
	return fmt.Sprintf(`{"spec":{"template":{"metadata":{%s},"spec":{"containers":[{"name":"a","image":%q}]}}}}`, templateMetadata, image)
}

const (
	optIn        = `"annotations":{"alpha.image.policy.openshift.io/resolve-names":"*"}`
	optInOther   = `"annotations":{"alpha.image.policy.openshift.io/resolve-names":"true"}`
	owned        = `"ownerReferences":[{"apiVersion":"apps/v1","kind":"ReplicaSet","name":"web-1","uid":"u","controller":true}]`
	ownedLoosely = `"ownerReferences":[{"apiVersion":"v1","kind":"ConfigMap","name":"c","uid":"u"}]`
)

func TestHandleDecides(t *testing.T) {
	pinnedPod, pinnedTemplate := []string{"/spec/containers/0/image=" + pulled}, []string{"/spec/template/spec/containers/0/image=" + pulled}
	subresource := request("pods", pod("keycloak:1", ""), "")
	subresource.SubResource = "status"
	remove := request("pods", pod("keycloak:1", ""), "")
	remove.Operation = admissionv1.Delete
	cases := map[string]struct {
		reason  string
		request admissionv1.AdmissionRequest
		want    []string
	}{
		"Local":         {"a local stream's name is pinned", request("pods", pod("keycloak:1", ""), ""), pinnedPod},
		"NotLocal":      {"a stream without local lookup is left", request("pods", pod("global:1", ""), ""), nil},
		"NoStream":      {"a name without a stream is left", request("pods", pod("mysql", ""), ""), nil},
		"Placeholder":   {"what is no image name is left to the API server", request("deployments", deployment(" ", ""), ""), nil},
		"OptInObject":   {"the annotation on the object asks for look-ups", request("pods", pod("global:1", optIn), ""), pinnedPod},
		"OptInTemplate": {"the annotation on the template asks for look-ups", request("deployments", deployment("docker.io/x/global:1", optIn), ""), pinnedTemplate},
		"OptInOther":    {"only the value * asks", request("pods", pod("global:1", optInOther), ""), nil},
		"Owned":         {"what a controller made is left to that controller", request("pods", pod("keycloak:1", owned), ""), nil},
		"OwnedLoosely":  {"an owner that is no controller does not count", request("pods", pod("keycloak:1", ownedLoosely), ""), pinnedPod},
		"Unchanged":     {"an image that stays is left, even if it would be pinned today", request("pods", pod("keycloak:1", ""), pod("keycloak:1", "")), nil},
		"Changed":       {"a changed image is pinned", request("pods", pod("keycloak:1", ""), pod("keycloak:0", "")), pinnedPod},
		"OptedIn":       {"turning look-ups on processes every image again", request("pods", pod("global:1", optIn), pod("global:1", "")), pinnedPod},
		"OptedOut":      {"turning look-ups off processes every image again", request("pods", pod("keycloak:1", ""), pod("keycloak:1", optIn)), pinnedPod},
		"JobUpdate":     {"a Job's template cannot be changed", request("jobs", deployment("keycloak:1", ""), deployment("keycloak:0", "")), nil},
		"SubResource":   {"subresources hold no images", subresource, nil},
		"Delete":        {"nothing is pinned on the way out", remove, nil},
		"NoTemplate":    {"a ReplicationController may have no template", request("replicationcontrollers", `{"spec":{}}`, ""), nil},
		"NoContainers":  {"a pod without containers is the API server's to refuse", request("pods", `{"spec":{}}`, ""), nil},
		"RenamedContainer": {
			"a container is known by its name, wherever it stands",
			request("pods", `{"spec":{"containers":[{"name":"new","image":"keycloak:1"},{"name":"a","image":"keycloak:1"}]}}`, pod("keycloak:1", "")),
			pinnedPod,
		},
		"MovedToInit": {
			"init containers and containers share their names",
			request("pods", `{"spec":{"initContainers":[{"name":"a","image":"keycloak:1"}]}}`, pod("keycloak:1", "")), nil,
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			response := ask(t, newTestPinner(t, nothingLive, &bytes.Buffer{}), tc.request)
			if !response.Allowed {
				t.Fatalf("%s: refused: %+v", tc.reason, response.Result)
			}
			if diff := cmp.Diff(tc.want, patchesOf(response)); diff != "" {
				t.Errorf("%s: -want +got:\n%s", tc.reason, diff)
			}
		})
	}
}

func TestHandleDenies(t *testing.T) {
	object := `{"spec":{"template":{"spec":{"initContainers":[{"name":"i","image":"keycloak:2"}],"containers":[{"name":"a","image":"keycloak:1"},{"name":"b","image":"keycloak:pending"}]}}}}`
	response := ask(t, newTestPinner(t, nothingLive, &bytes.Buffer{}), request("deployments", object, ""))
	if response.Allowed || response.Patch != nil {
		t.Fatalf("an object with a name that cannot be resolved is refused whole: %+v", response)
	}
	if response.Result.Code != 422 || response.Result.Reason != metav1.StatusReasonInvalid {
		t.Errorf("as in OpenShift the answer is 422 Invalid: %+v", response.Result)
	}
	for _, text := range []string{
		`Deployment.apps "web" is invalid`, "spec.template.spec.initContainers[0].image: Forbidden", "spec.template.spec.containers[1].image: Forbidden",
		`no tag "2"`, "has no image yet",
	} {
		if !strings.Contains(response.Result.Message, text) {
			t.Errorf("the message names every field and what is wrong there: %q lacks %q", response.Result.Message, text)
		}
	}
	unchanged := request("pods", pod("keycloak:2", `"labels":{"a":"b"}`), pod("keycloak:2", ""))
	if got := ask(t, newTestPinner(t, nothingLive, &bytes.Buffer{}), unchanged); !got.Allowed {
		t.Errorf("an unrelated update is never refused: %+v", got.Result)
	}
}

func TestHandleKeepsProvenance(t *testing.T) {
	annotated := func(image string, pins resolver.Pins) string {
		metadata := `"annotations":{"x":"y"}`
		if pins != nil {
			metadata = fmt.Sprintf(`"annotations":{"x":"y","istag.dev/pinned":%q}`, pins.String())
		}
		return pod(image, metadata)
	}
	const pointer = "/metadata/annotations/istag.dev~1pinned"
	fresh := resolver.Pins{"a": {Written: "keycloak:1", Istag: "keycloak:1", PullSpec: pulled, Generation: 4}}
	before := resolver.Pins{"a": {Written: "keycloak", Istag: "keycloak:latest", PullSpec: pulled, Generation: 2}}
	cases := map[string]struct {
		reason  string
		request admissionv1.AdmissionRequest
		want    []patch
	}{
		"FirstAnnotation": {
			"an object without annotations gets the map",
			request("pods", pod("keycloak:1", ""), ""),
			[]patch{{Op: "add", Path: "/metadata/annotations", Value: map[string]any{"istag.dev/pinned": fresh.String()}}},
		},
		"OtherAnnotations": {
			"other annotations stay",
			request("pods", annotated("keycloak:1", nil), ""),
			[]patch{{Op: "add", Path: pointer, Value: fresh.String()}},
		},
		"Repinned": {
			"a new pin replaces the old",
			request("pods", annotated("keycloak:1", before), annotated(pulled, before)),
			[]patch{{Op: "add", Path: pointer, Value: fresh.String()}},
		},
		"Unchanged": {
			"an image in place keeps its pin, and costs no patch",
			request("pods", annotated(pulled, before), annotated(pulled, before)), nil,
		},
		"Replaced": {
			"kubectl replace drops annotations without meaning to",
			request("pods", annotated(pulled, nil), annotated(pulled, before)),
			[]patch{{Op: "add", Path: pointer, Value: before.String()}},
		},
		"Gone": {
			"a pin whose image is gone goes too",
			request("pods", annotated("x/y:1", before), annotated(pulled, before)),
			[]patch{{Op: "remove", Path: pointer}},
		},
		"Nothing": {"an object that nothing was pinned in gets no annotation", request("pods", annotated("x/y:1", nil), ""), nil},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			response := ask(t, newTestPinner(t, nothingLive, &bytes.Buffer{}), tc.request)
			var got []patch
			for _, p := range decodePatch(response) {
				if strings.HasPrefix(p.Path, "/metadata/annotations") {
					got = append(got, p)
				}
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("%s: -want +got:\n%s", tc.reason, diff)
			}
		})
	}
}

func TestHandleRecords(t *testing.T) {
	var log bytes.Buffer
	r := request("deployments", `{"spec":{"template":{"spec":{"containers":[
		{"name":"a","image":"keycloak:1"},{"name":"b","image":"keycloak:2"},{"name":"c","image":"x/y:1"}]}}}}`, "")
	r.DryRun = ptr.To(true)
	response := ask(t, newTestPinner(t, nothingLive, &log), r)
	var got []AuditRecord
	for line := range strings.Lines(log.String()) {
		var a AuditRecord
		if err := json.Unmarshal([]byte(line), &a); err != nil {
			t.Fatalf("each line is one JSON object: %v", err)
		}
		if a.Time.IsZero() || a.DurationMicros < 0 {
			t.Errorf("a record has its time and duration: %+v", a)
		}
		a.Time, a.DurationMicros = time.Time{}, 0
		got = append(got, a)
	}
	base := AuditRecord{UID: "u1", User: "alice", Namespace: "shop", Kind: "Deployment.apps", Name: "web", Operation: "CREATE", DryRun: true}
	a, b, c := base, base, base
	a.Container, a.Written, a.Istag, a.PullSpec, a.StreamGeneration, a.MovedBy, a.Decision, a.Reason = "a", "keycloak:1", "keycloak:1", pulled, 4, "bob", "pinned", resolver.ReasonLocalLookup
	b.Container, b.Written, b.Istag, b.StreamGeneration, b.Decision, b.Reason = "b", "keycloak:2", "keycloak:2", 4, "denied", resolver.ReasonNoTag
	c.Container, c.Written, c.Decision, c.Reason = "c", "x/y:1", "left", resolver.ReasonNotLocalName
	if diff := cmp.Diff([]AuditRecord{a, b, c}, got); diff != "" {
		t.Errorf("one record a decision: -want +got:\n%s", diff)
	}
	want := map[string]string{"a": "pinned LocalLookup: keycloak:1 " + pulled, "b": "denied NoTag: keycloak:2"}
	if diff := cmp.Diff(want, response.AuditAnnotations); diff != "" {
		t.Errorf("the API server's audit log has the decisions on local names: -want +got:\n%s", diff)
	}
}

func TestHandleReadsWhatTheIndexLacks(t *testing.T) {
	var asked []string
	live := func(_ context.Context, namespace, name string) (*store.Stream, error) {
		asked = append(asked, namespace+"/"+name)
		if name == "fresh" {
			return store.NewStream(stream("fresh", true)), nil
		}
		return nil, nil
	}
	object := `{"spec":{"containers":[{"name":"a","image":"fresh:1"},{"name":"b","image":"fresh:1"},{"name":"c","image":"keycloak:1"},{"name":"d","image":"mysql"},{"name":"e","image":"quay.io/x/y"}]}}`
	response := ask(t, newTestPinner(t, live, &bytes.Buffer{}), request("pods", object, ""))
	if diff := cmp.Diff([]string{"shop/fresh", "shop/mysql"}, asked); diff != "" {
		t.Errorf("only local names that the index lacks are asked for, each once: -want +got:\n%s", diff)
	}
	want := []string{"/spec/containers/0/image=" + pulled, "/spec/containers/1/image=" + pulled, "/spec/containers/2/image=" + pulled}
	if diff := cmp.Diff(want, patchesOf(response)); diff != "" {
		t.Errorf("a stream made a moment ago counts: -want +got:\n%s", diff)
	}

	calls := 0
	failing := func(context.Context, string, string) (*store.Stream, error) {
		calls++
		return nil, errors.New("down")
	}
	response = ask(t, newTestPinner(t, failing, &bytes.Buffer{}), request("pods", object, ""))
	if !response.Allowed || calls != 1 || len(patchesOf(response)) != 1 {
		t.Errorf("when the API server cannot be read the index decides, after one attempt: allowed %v, %d calls, %v", response.Allowed, calls, patchesOf(response))
	}
}

func TestHandleBeforeTheIndexIsRead(t *testing.T) {
	p := NewPinner(store.NewIndex(), liveFunc(nothingLive), NewAuditLog(&bytes.Buffer{}))
	if got := ask(t, p, request("pods", pod("keycloak:1", ""), "")); got.Allowed || got.Result.Code != 503 {
		t.Errorf("a webhook that knows no streams yet must not guess: %+v", got.Result)
	}
}

func TestHandleSurvivesItsAuditLog(t *testing.T) {
	p := newTestPinner(t, nothingLive, nil)
	p.audit = NewAuditLog(writerFunc(func([]byte) (int, error) { return 0, errors.New("disk full") }))
	if got := ask(t, p, request("pods", pod("keycloak:1", ""), "")); !got.Allowed || got.Patch == nil {
		t.Errorf("a full disk must not stop the cluster: %+v", got)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
