package webhook

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"istag.dev/resolver"
	"istag.dev/store"
	"istag.dev/webhook/audit"
	"istag.dev/webhook/scope"
)

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

func TestHandleDecides(t *testing.T) {
	pinnedPod, pinnedTemplate := []string{"/spec/containers/0/image=" + pulled}, []string{"/spec/template/spec/containers/0/image=" + pulled}
	subresource := request("pods", podOf("keycloak:1", ""), "")
	subresource.SubResource = "status"
	remove := request("pods", podOf("keycloak:1", ""), "")
	remove.Operation = admissionv1.Delete
	cases := map[string]struct {
		reason  string
		request admissionv1.AdmissionRequest
		want    []string
	}{
		"Local":         {"a local stream's name is pinned", request("pods", podOf("keycloak:1", ""), ""), pinnedPod},
		"NotLocal":      {"a stream without local lookup is left", request("pods", podOf("global:1", ""), ""), nil},
		"NoStream":      {"a name without a stream is left", request("pods", podOf("mysql", ""), ""), nil},
		"Placeholder":   {"what is no image name is left to the API server", request("deployments", deploymentOf(" ", ""), ""), nil},
		"OptInObject":   {"the annotation on the object asks for look-ups", request("pods", podOf("global:1", optIn), ""), pinnedPod},
		"OptInTemplate": {"the annotation on the template asks for look-ups", request("deployments", deploymentOf("docker.io/x/global:1", optIn), ""), pinnedTemplate},
		"OptInOther":    {"only the value * asks", request("pods", podOf("global:1", optInOther), ""), nil},
		"Owned":         {"what a controller made is left to that controller", request("pods", podOf("keycloak:1", owned), ""), nil},
		"OwnedLoosely":  {"an owner that is no controller does not count", request("pods", podOf("keycloak:1", ownedLoosely), ""), pinnedPod},
		"Unchanged":     {"an image that stays is left, even if it would be pinned today", request("pods", podOf("keycloak:1", ""), podOf("keycloak:1", "")), nil},
		"Changed":       {"a changed image is pinned", request("pods", podOf("keycloak:1", ""), podOf("keycloak:0", "")), pinnedPod},
		"OptedIn":       {"turning look-ups on processes every image again", request("pods", podOf("global:1", optIn), podOf("global:1", "")), pinnedPod},
		"OptedOut":      {"turning look-ups off processes every image again", request("pods", podOf("keycloak:1", ""), podOf("keycloak:1", optIn)), pinnedPod},
		"JobUpdate":     {"a Job's template cannot be changed", request("jobs", deploymentOf("keycloak:1", ""), deploymentOf("keycloak:0", "")), nil},
		"SubResource":   {"subresources hold no images", subresource, nil},
		"Delete":        {"nothing is pinned on the way out", remove, nil},
		"NoTemplate":    {"a ReplicationController may have no template", request("replicationcontrollers", `{"spec":{}}`, ""), nil},
		"NoContainers":  {"a pod without containers is the API server's to refuse", request("pods", `{"spec":{}}`, ""), nil},
		"RenamedContainer": {
			"a container is known by its name, wherever it stands",
			request("pods", `{"spec":{"containers":[{"name":"new","image":"keycloak:1"},{"name":"a","image":"keycloak:1"}]}}`, podOf("keycloak:1", "")),
			pinnedPod,
		},
		"MovedToInit": {
			"init containers and containers share their names",
			request("pods", `{"spec":{"initContainers":[{"name":"a","image":"keycloak:1"}]}}`, podOf("keycloak:1", "")), nil,
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
	unchanged := request("pods", podOf("keycloak:2", `"labels":{"a":"b"}`), podOf("keycloak:2", ""))
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
		return podOf(image, metadata)
	}
	const pointer = "/metadata/annotations/istag.dev~1pinned"
	const managed = `"managedFields":[{"manager":"kubelet","fieldsV1":{"f:spec":{}}},{"manager":"kubectl","fieldsV1":{"f:metadata":{"f:annotations":{".":{},"f:istag.dev/pinned":{}}}}}]`
	fresh := resolver.Pins{"a": {Written: "keycloak:1", Istag: "keycloak:1", PullSpec: pulled, Generation: 4}}
	before := resolver.Pins{"a": {Written: "keycloak", Istag: "keycloak:latest", PullSpec: pulled, Generation: 2}}
	cases := map[string]struct {
		reason  string
		request admissionv1.AdmissionRequest
		want    []patch
	}{
		"FirstAnnotation": {
			"an object without annotations gets the map",
			request("pods", podOf("keycloak:1", ""), ""),
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
		"Mirrored": {
			"an image of the same digest is in place, wherever it is pulled from",
			request("pods", annotated("mirror.example.com/k@"+digest, before), annotated(pulled, before)),
			[]patch{{Op: "add", Path: pointer, Value: strings.Replace(before.String(), "quay.io/keycloak/keycloak", "mirror.example.com/k", 1)}},
		},
		"Contradicted": {
			"what was changed after us stays on record, for the check to refuse",
			request("pods", annotated("x/y:1", before), ""), nil,
		},
		"Copied": {
			"who copies an object and writes another image means that image",
			request("pods", strings.Replace(annotated("x/y:1", before), `"annotations"`, managed+`,"annotations"`, 1), ""),
			[]patch{{Op: "remove", Path: pointer}},
		},
		"RepinnedNew": {
			"unless it can be pinned again",
			request("pods", annotated("keycloak:1", before), ""),
			[]patch{{Op: "add", Path: pointer, Value: fresh.String()}},
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
	var got []audit.Record
	for line := range strings.Lines(log.String()) {
		var a audit.Record
		if err := json.Unmarshal([]byte(line), &a); err != nil {
			t.Fatalf("each line is one JSON object: %v", err)
		}
		if a.Time.IsZero() || a.DurationMicros < 0 {
			t.Errorf("a record has its time and duration: %+v", a)
		}
		a.Time, a.DurationMicros = time.Time{}, 0
		got = append(got, a)
	}
	base := audit.Record{APIVersion: audit.APIVersion, Webhook: "pin", Mode: scope.Enforce, UID: "u1", User: "alice", Namespace: "shop", Kind: "Deployment.apps", Name: "web", Operation: "CREATE", DryRun: true}
	a, b, c := base, base, base
	a.Container, a.Written, a.Istag, a.PullSpec, a.StreamGeneration, a.MovedBy, a.Decision, a.Reason = "a", "keycloak:1", "keycloak:1", pulled, 4, "bob", "pinned", resolver.ReasonLocalLookup
	b.Container, b.Written, b.Istag, b.StreamGeneration, b.Decision, b.Reason = "b", "keycloak:2", "keycloak:2", 4, "denied", resolver.ReasonNoTag
	c.Container, c.Written, c.Decision, c.Reason = "c", "x/y:1", "left", resolver.ReasonNotLocalName
	if diff := cmp.Diff([]audit.Record{a, b, c}, got); diff != "" {
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
	p := newPinner(t, func(o *Options) { o.Index = store.NewIndex() })
	if got := ask(t, p, request("pods", podOf("keycloak:1", ""), "")); got.Allowed || got.Result.Status != noAnswer {
		t.Errorf("a webhook that knows no streams yet must not guess: %+v", got.Result)
	}
}

func TestHandleSurvivesItsAuditLog(t *testing.T) {
	p := newTestPinner(t, nothingLive, writerFunc(func([]byte) (int, error) { return 0, errors.New("disk full") }))
	if got := ask(t, p, request("pods", podOf("keycloak:1", ""), "")); !got.Allowed || got.Patch == nil {
		t.Errorf("a full disk must not stop the cluster: %+v", got)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
