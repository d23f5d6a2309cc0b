package webhook

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"istag.dev/config"
	"istag.dev/resolver"
)

// customPinner knows some custom resources.
func customPinner(tb testing.TB, change func(*Options)) *Pinner {
	tb.Helper()
	return newPinner(tb, func(o *Options) {
		o.Workloads = []config.Workload{
			{Group: "argoproj.io", Resource: "rollouts", PodSpec: "spec.template.spec"},
			{Group: "ray.io", Resource: "rayclusters", PodSpec: "spec.workerGroups[*].template.spec"},
			{Group: "example.com", Resource: "things", PodSpec: "spec[*].pods[*]"},
			{Group: "example.com", Resource: "plains", PodSpec: "podSpec"},
		}
		o.Policy = policyOf(tb, o.Workloads, nil)
		if change != nil {
			change(o)
		}
	})
}

func customRequest(group, resource, object, old string) admissionv1.AdmissionRequest {
	r := request(resource, object, old)
	r.Kind = metav1.GroupVersionKind{Group: group, Version: "v1", Kind: "Custom"}
	r.Resource = metav1.GroupVersionResource{Group: group, Version: "v1", Resource: resource}
	return r
}

func TestCustomResources(t *testing.T) {
	rollout := func(metadata, image string) string { return revisionOf("", metadata, "a="+image) }
	const ray = `{"metadata":{},"spec":{"template":"not a template","workerGroups":[{"template":{"spec":{"containers":[{"name":"ray","image":%q}]}}},{},null,{"template":{"spec":{"volumes":[{"name":"v","image":{"reference":%q}}]}}}]}}`
	const things = `{"metadata":{},"spec":{"b~c":{"pods":{"x/y":{"initContainers":[{"name":"i","image":%q}]}}},"a":{"pods":[{"containers":[{"name":"c","image":%q}]}]},"z":1}}`
	pins := resolver.Pins{"a": {Written: "keycloak:1", Istag: "keycloak:1", PullSpec: pulled}}
	at := func(path string) string { return path + "=" + pulled }
	cases := map[string]struct {
		reason  string
		request admissionv1.AdmissionRequest
		want    []string
	}{
		"Rollout":      {"a pod spec at a path", customRequest("argoproj.io", "rollouts", rollout("", "keycloak:1"), ""), []string{at("/spec/template/spec/containers/0/image")}},
		"Owned":        {"what has a controller is left", customRequest("argoproj.io", "rollouts", rollout(owned, "keycloak:1"), ""), nil},
		"Unchanged":    {"images that stay are left", customRequest("argoproj.io", "rollouts", rollout("", "keycloak:1"), rollout(`"labels":{"a":"b"}`, "keycloak:1")), nil},
		"Changed":      {"others are not", customRequest("argoproj.io", "rollouts", rollout("", "keycloak:1"), rollout("", "x/y")), []string{at("/spec/template/spec/containers/0/image")}},
		"OptIn":        {"the object can ask for look-ups", customRequest("argoproj.io", "rollouts", rollout(optIn, "global:1"), ""), []string{at("/spec/template/spec/containers/0/image")}},
		"OptInBeside":  {"so can what has the pod spec", customRequest("argoproj.io", "rollouts", strings.Replace(rollout("", "global:1"), `"template":{`, `"template":{"metadata":{`+optIn+`},`, 1), ""), []string{at("/spec/template/spec/containers/0/image")}},
		"Lists":        {"every element of a list has one, or none", customRequest("ray.io", "rayclusters", fmt.Sprintf(ray, "keycloak:1", "keycloak:1"), ""), []string{at("/spec/workerGroups/0/template/spec/containers/0/image"), at("/spec/workerGroups/3/template/spec/volumes/0/image/reference")}},
		"ListsUpdated": {"elements are known by their index", customRequest("ray.io", "rayclusters", fmt.Sprintf(ray, "keycloak:1", "keycloak:1"), fmt.Sprintf(ray, "keycloak:1", "x/y")), []string{at("/spec/workerGroups/3/template/spec/volumes/0/image/reference")}},
		"Maps":         {"every element of a map has one, and keys are escaped", customRequest("example.com", "things", fmt.Sprintf(things, "keycloak:1", "keycloak:1"), ""), []string{at("/spec/a/pods/0/containers/0/image"), at("/spec/b~0c/pods/x~1y/initContainers/0/image")}},
		"Top":          {"a path of one part", customRequest("example.com", "plains", `{"metadata":{},"podSpec":{"containers":[{"name":"a","image":"keycloak:1"}]}}`, ""), []string{at("/podSpec/containers/0/image")}},
		"Nothing":      {"where the path leads nowhere there are no images", customRequest("argoproj.io", "rollouts", `{"metadata":{},"spec":{"workloadRef":{"name":"web"}}}`, ""), nil},
		"Null":         {"nor in what is null", customRequest("argoproj.io", "rollouts", `{"metadata":{},"spec":{"template":null}}`, ""), nil},
		"Odd":          {"nor in what is no object", customRequest("argoproj.io", "rollouts", `{"metadata":{},"spec":{"template":[1]}}`, ""), nil},
		"Unknown":      {"a resource that nobody configured is none of ours, whatever it looks like", customRequest("example.com", "others", `{"metadata":{},"spec":{"containers":"many"}}`, ""), nil},
		"OtherGroup":   {"nor is one of the same name in another group", customRequest("example.com", "deployments", deploymentOf("keycloak:1", ""), ""), nil},
		"Provenance":   {"an image in place keeps its pin", customRequest("argoproj.io", "rollouts", rollout(pinnedAs(pins), pulled), ""), nil},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			response := ask(t, customPinner(t, nil), tc.request)
			if diff := cmp.Diff(tc.want, patchesOf(response)); diff != "" || !response.Allowed {
				t.Errorf("%s: allowed %v, %+v: -want +got:\n%s", tc.reason, response.Allowed, response.Result, diff)
			}
		})
	}
}

func TestCustomResourcesRefused(t *testing.T) {
	const things = `{"metadata":{},"spec":{"b":{"pods":{"x":{"containers":[{"name":"c","image":"keycloak:absent"}]}}}}}`
	response := ask(t, customPinner(t, nil), customRequest("example.com", "things", things, ""))
	if response.Allowed || !strings.Contains(response.Result.Message, "spec[b].pods[x].containers[0].image: Forbidden") {
		t.Errorf("a refusal names the field: %+v", response.Result)
	}
	if got := response.AuditAnnotations["b.x.c"]; !strings.HasPrefix(got, "denied NoTag") {
		t.Errorf("images of several pod specs are told apart: %v", response.AuditAnnotations)
	}
	response = ask(t, customPinner(t, nil), customRequest("argoproj.io", "rollouts", `{"spec":{"template":{"spec":{"containers":"many"}}}}`, ""))
	if response.Allowed || response.Result.Code != 400 || !strings.Contains(response.Result.Message, "spec.template.spec") {
		t.Errorf("a pod spec that is none is not let through unseen: %+v", response.Result)
	}
	response = ask(t, customPinner(t, podPlacement), customRequest("argoproj.io", "rollouts", revisionOf("", "", "a=keycloak:absent"), ""))
	if response.Allowed {
		t.Errorf("where pods are pinned they are templates like others: %+v", response)
	}
}

func TestParsePath(t *testing.T) {
	want := []step{{name: "spec"}, {"workerGroups", true}, {name: "template"}, {name: "spec"}}
	if diff := cmp.Diff(want, parsePath("spec.workerGroups[*].template.spec"), cmp.AllowUnexported(step{})); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
