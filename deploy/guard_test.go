package deploy_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"sigs.k8s.io/yaml"

	storev1 "istag.dev/store/v1"
)

// The policies that are the guard. What they say is the same.
const (
	guardName  = "never-leak.istag.dev"
	jobGuard   = "jobs." + guardName
	podGuard   = "pods." + guardName
	addedGuard = "ephemeral-containers." + guardName
)

var guards = []string{guardName, jobGuard, podGuard, addedGuard}

// records of the namespace; the guard is asked once for each.
var records = map[string]string{
	"keycloak":   "{spec: {lookupPolicy: {local: true}}}",
	"my--app.v2": "{spec: {lookupPolicy: {local: true}}, status: {tags: []}}",
	"httpd":      "{spec: {lookupPolicy: {local: false}}}",
	"bare":       "{record: {generation: 1}}",
	"null":       "{spec: null}",
}

// guarded is a request and which of its images the guard is to refuse.
type guarded struct {
	reason string
	request
	refused string
}

// names are images of a bare pod.
func names(image string) request { return request{resource: pods, object: pod("", containers(image))} }

// asked are images of a bare pod that asks for all its names to be looked up.
func asked(image string) request {
	return request{resource: pods, object: pod(optIn, containers(image))}
}

func whatTheGuardSees() map[string]guarded {
	cases := map[string]guarded{}
	for image, reason := range map[string]string{
		"keycloak":                 "It is the name of a local stream.",
		"keycloak:20.0":            "So it is with a tag.",
		"keycloak:_x":              "The tag need not exist: then it would not be found in the stream, but elsewhere.",
		"my_app.v2":                "Names of streams may hold dots, and underscores that a record's name cannot.",
		"my_app.v2:1":              "Names of streams may hold dots, and underscores that a record's name cannot.",
		"keycloak:" + longTag("a"): "A tag may be this long.",
	} {
		cases["Name/"+image] = guarded{reason, names(image), image}
	}
	for image, reason := range map[string]string{
		"keycloak@sha256:0":              "A digest is exact.",
		"keycloak:20.0@sha256:0":         "A digest is exact, with a tag before it.",
		"busybox:1.36":                   "There is no such stream.",
		"mykeycloak:1":                   "There is no such stream.",
		"keycloak-x:1":                   "There is no such stream.",
		"keycloak/x:1":                   "There is no such stream.",
		"library/keycloak:1":             "A path leads elsewhere.",
		"docker.io/keycloak:1":           "A registry is elsewhere.",
		"keycloak:5000/x":                "It is a registry, with its port.",
		"keycloak:":                      "That is no name at all.",
		"keycloak:a b":                   "That is no name at all.",
		"keycloak:-x":                    "That is no name at all.",
		"keycloak:" + longTag("a") + "a": "No tag is that long.",
		"":                               "That is no name at all.",
		"Keycloak":                       "Names of streams are lower case.",
		"my--app.v2:1":                   "That is a record's name, which is nobody's business.",
		"myxapp.v2:1":                    "A dot is a dot.",
		"httpd:2.4":                      "The stream is not looked up locally.",
		"bare:1":                         "Nor is one that does not say.",
		"null:1":                         "Nor is one that does not say.",
	} {
		cases["Other/"+image] = guarded{reason, names(image), ""}
	}
	for image, reason := range map[string]string{
		"httpd:2.4":                   "Whoever asks has all names looked up, whatever the stream says.",
		"httpd":                       "Whoever asks has all names looked up, whatever the stream says.",
		"bare:1":                      "Whoever asks has all names looked up, whatever the stream says.",
		"keycloak:1":                  "A local stream is one of them.",
		"docker.io/httpd:2.4":         "The registry does not count.",
		"docker.io/library/httpd:2.4": "Nor does the path after it.",
		"library/httpd:2.4":           "Nor does the path alone.",
		"localhost/x/httpd":           "That is a registry as well.",
		"localhost:5000/x/httpd":      "That is a registry as well.",
		"x:5000/x/httpd":              "That is a registry as well.",
	} {
		cases["Asked/"+image] = guarded{reason, asked(image), image}
	}
	for image, reason := range map[string]string{
		"library/httpd@sha256:0":  "A digest is exact.",
		"docker.io/a/b/httpd:2.4": "A path of two parts is no namespace.",
		"a/b/httpd:2.4":           "A path of two parts is no namespace.",
		"httpd/x:2.4":             "It is another name.",
		"/httpd:2.4":              "That is no name at all.",
		"a//httpd:2.4":            "That is no name at all.",
		"a b/httpd:2.4":           "That is no name at all.",
		"busybox":                 "There is no such stream.",
	} {
		cases["AskedOther/"+image] = guarded{reason, asked(image), ""}
	}
	for name, tc := range guardedObjects() {
		cases[name] = tc
	}
	return cases
}

func longTag(letter string) string { return strings.Repeat(letter, 128) }

// guardedObjects are objects of all kinds and changes of them.
func guardedObjects() map[string]guarded {
	const local, notLocal = "keycloak:20.0", "httpd:2.4"
	volume := "{containers: [{name: a, image: " + digest + "}], volumes: [{name: v, image: {reference: " + local + "}}]}"
	return map[string]guarded{
		"Deployment":        {"Workloads are looked at where workloads are pinned.", request{resource: deployments, object: templated("", "", containers(local))}, local},
		"CronJob":           {"Its pod spec is deepest.", request{resource: "cronjobs.v1.batch", object: "{spec: {jobTemplate: {spec: {template: {spec: " + containers(local) + "}}}}}"}, local},
		"PodTemplate":       {"Its pod spec is elsewhere.", request{resource: "podtemplates.v1.", object: "{template: {spec: " + containers(local) + "}}"}, local},
		"Second":            {"One is enough.", names("busybox").with(containers("busybox", local)), local},
		"Init":              {"It is pulled as well.", names("").with("{containers: [], initContainers: [{name: i, image: " + local + "}]}"), local},
		"Volume":            {"It is pulled as well.", names("").with(volume), local},
		"Ephemeral":         {"It is pulled as well.", request{ephemeral, pod(owner, "{containers: [], ephemeralContainers: [{name: e, image: "+local+"}]}"), pod(owner, "{containers: []}")}, local},
		"EphemeralStays":    {"It was there before.", request{ephemeral, pod(owner, "{containers: [], ephemeralContainers: [{name: e, image: "+local+"}, {name: f, image: busybox}]}"), pod(owner, "{containers: [], ephemeralContainers: [{name: e, image: "+local+"}]}")}, ""},
		"Owned":             {"Its controller would put it back.", request{resource: replicasets, object: templated(owner, "", containers(local))}, ""},
		"OwnedPod":          {"Its workload is what is looked at.", request{resource: pods, object: pod(owner, containers(local))}, ""},
		"OwnedByNobody":     {"That is no controller.", request{resource: replicasets, object: templated(guest, "", containers(local))}, local},
		"Unchanged":         {"An update of something else.", request{deployments, templated("labels: {a: b}", "", containers(local)), templated("", "", containers(local))}, ""},
		"Changed":           {"It is new.", request{deployments, templated("", "", containers("keycloak:21")), templated("", "", containers(local))}, "keycloak:21"},
		"ChangedOther":      {"What was there before stays.", request{deployments, templated("", "", containers(local, "busybox")), templated("", "", containers(local, "x"))}, ""},
		"Back":              {"A name in a digest's place is new.", request{deployments, templated(pinned, "", containers(local)), templated(pinned, "", containers(digest))}, local},
		"Renamed":           {"A container of a new name is a new container.", request{deployments, templated("", "", "{containers: [{name: b, image: "+local+"}]}"), templated("", "", "{containers: [{name: a, image: "+local+"}]}")}, local},
		"VolumeUnchanged":   {"So with volumes.", request{pods, pod("labels: {a: b}", volume), pod("", volume)}, ""},
		"TemplateAsks":      {"The template can ask as well.", request{resource: deployments, object: templated("", optIn, containers(notLocal))}, notLocal},
		"AsksLater":         {"What is asked for later is what is there already.", request{deployments, templated(optIn, "", containers(notLocal)), templated("", "", containers(notLocal))}, notLocal},
		"AsksNoLonger":      {"What is there stays.", request{deployments, templated("", "", containers(notLocal)), templated(optIn, "", containers(notLocal))}, ""},
		"AskedBefore":       {"What is there stays.", request{deployments, templated(optIn+", labels: {a: b}", "", containers(notLocal)), templated(optIn, "", containers(notLocal))}, ""},
		"AsksOtherwise":     {"Only * asks.", request{resource: deployments, object: templated(`annotations: {alpha.image.policy.openshift.io/resolve-names: "true"}`, "", containers(notLocal))}, ""},
		"NoContainers":      {"There is nothing to leak.", request{resource: deployments, object: templated("", "", "{}")}, ""},
		"Rollout":           {"A custom resource that is configured.", request{resource: "rollouts.v1alpha1.argoproj.io", object: templated("", "", containers(local))}, local},
		"RolloutElsewhere":  {"It may have no pod spec of its own.", request{resource: "rollouts.v1alpha1.argoproj.io", object: "{spec: {workloadRef: {name: x}}}"}, ""},
		"RolloutNull":       {"Its lists may be null.", request{resource: "rollouts.v1alpha1.argoproj.io", object: templated("", "", "{containers: null, volumes: null}")}, ""},
		"RolloutOddShape":   {"Its fields may be anything.", request{resource: "rollouts.v1alpha1.argoproj.io", object: templated("", "", "{containers: keycloak, volumes: [{image: keycloak}], initContainers: [{image: 7}, keycloak]}")}, ""},
		"RolloutNoSpecThen": {"Its fields may be anything.", request{"rollouts.v1alpha1.argoproj.io", templated("", "", containers(local)), "{spec: null}"}, local},
	}
}

// with is the pod with another spec.
func (r request) with(spec string) request {
	return request{resource: r.resource, object: pod("", spec)}
}

// refusals asks the guard about a request, for every stream of the namespace.
func refusals(t *testing.T, r request, policy validating.Validator, namespace *corev1.Namespace, typed bool) []string {
	t.Helper()
	var out []string
	attributes := r.attributes(t, typed)
	for name, content := range records {
		record := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(content), &record.Object); err != nil {
			t.Fatal(err)
		}
		record.SetGroupVersionKind(storev1.GroupVersion.WithKind("StreamRecord"))
		record.SetNamespace(namespace.Name)
		record.SetName(name)
		if message := judge(t, policy, attributes, record, namespace); message != "" {
			out = append(out, message)
		}
	}
	return out
}

func TestGuard(t *testing.T) {
	policy := newValidator(t, get[*admissionregistrationv1.ValidatingAdmissionPolicy](t, render(t, "base"), guardName))
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "team-a", Labels: map[string]string{"istag.dev/admission": "enforce"}}}
	for name, tc := range whatTheGuardSees() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, typed := range []bool{true, false} {
				got := refusals(t, tc.request, policy, namespace, typed)
				switch {
				case tc.refused == "" && len(got) > 0:
					t.Errorf("%s\nrefused: %q (Go types: %t)", tc.reason, got, typed)
				case tc.refused != "" && (len(got) != 1 || !strings.Contains(got[0], fmt.Sprintf("image %q", tc.refused)) || !strings.Contains(got[0], "kubectl get pods")):
					t.Errorf("%s\nwant one message, about %q, and what to do; got %q (Go types: %t)", tc.reason, tc.refused, got, typed)
				}
			}
		})
	}
}

func TestGuardOfPods(t *testing.T) {
	policy := newValidator(t, get[*admissionregistrationv1.ValidatingAdmissionPolicy](t, render(t, "base"), guardName))
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "team-a", Labels: map[string]string{"istag.dev/placement": "pod"}}}
	for name, tc := range map[string]guarded{
		"Deployment": {"It stays as it is written.", request{resource: deployments, object: templated("", "", containers("keycloak"))}, ""},
		"ReplicaSet": {"So does what its controller makes of it.", request{resource: replicasets, object: templated(owner, "", containers("keycloak"))}, ""},
		"OwnedPod":   {"Pods are pinned, whoever makes them.", request{resource: pods, object: pod(owner, containers("keycloak"))}, "keycloak"},
		"Pod":        {"Pods are pinned, whoever makes them.", names("keycloak"), "keycloak"},
		"Unchanged":  {"It was there before.", request{pods, pod("labels: {a: b}", containers("keycloak")), pod("", containers("keycloak"))}, ""},
		"Ephemeral":  {"It is added to a pod.", request{ephemeral, pod(owner, "{containers: [], ephemeralContainers: [{name: e, image: keycloak}]}"), pod(owner, "{containers: []}")}, "keycloak"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := refusals(t, tc.request, policy, namespace, true); (len(got) == 1) != (tc.refused != "") {
				t.Errorf("%s\nrefused: %q", tc.reason, got)
			}
		})
	}
}

// TestGuardIsAsked follows a request to the guard by its selectors. What they select costs time, and is refused while an API
// server that has just started does not know of records yet.
func TestGuardIsAsked(t *testing.T) {
	const enforce, placement = "istag.dev/admission=enforce", "istag.dev/placement="
	cases := map[string]struct {
		reason    string
		resource  string
		namespace []string
		labels    labels.Set
		by        string
	}{
		"Deployment":     {"It is what is pinned.", deployments, []string{enforce}, nil, guardName},
		"CronJob":        {"It is what is pinned.", "cronjobs.v1.batch", []string{enforce}, nil, guardName},
		"Template":       {"That is the default.", deployments, []string{enforce, placement + "template"}, nil, guardName},
		"Pod":            {"Users make pods too.", pods, []string{enforce}, nil, guardName},
		"ReplicaSet":     {"Users make these too.", replicasets, []string{enforce}, nil, guardName},
		"OfADeployment":  {"There are many, and none is looked at.", replicasets, []string{enforce}, labels.Set{"pod-template-hash": "1"}, ""},
		"ReplicaSetPod":  {"There are many, and none is looked at.", pods, []string{enforce}, labels.Set{"pod-template-hash": "1"}, ""},
		"StatefulSetPod": {"There are many, and none is looked at.", pods, []string{enforce}, labels.Set{"controller-revision-hash": "1"}, ""},
		"JobPod":         {"There are many, and none is looked at.", pods, []string{enforce}, labels.Set{"batch.kubernetes.io/controller-uid": "1"}, ""},
		"Job":            {"A Job has the labels of its pods.", "jobs.v1.batch", []string{enforce}, labels.Set{"batch.kubernetes.io/controller-uid": "1"}, jobGuard},
		"JobPlaced":      {"It stays as it is written.", "jobs.v1.batch", []string{enforce, placement + "pod"}, nil, ""},
		"PodsPlaced":     {"Pods are what is pinned.", pods, []string{enforce, placement + "pod"}, labels.Set{"pod-template-hash": "1"}, podGuard},
		"WorkloadPlaced": {"It stays as it is written.", deployments, []string{enforce, placement + "pod"}, nil, ""},
		"Ephemeral":      {"They are added to any pod.", ephemeral, []string{enforce}, labels.Set{"pod-template-hash": "1"}, addedGuard},
		"EphemeralToo":   {"They are added to any pod.", ephemeral, []string{enforce, placement + "pod"}, labels.Set{"pod-template-hash": "1"}, addedGuard},
		"Revision":       {"Its workload is what is looked at.", revisions, []string{enforce}, nil, ""},
		"Warn":           {"Nothing is refused there.", pods, []string{"istag.dev/admission=warn"}, nil, ""},
		"Audit":          {"Nothing is refused there.", pods, []string{"istag.dev/admission=audit"}, nil, ""},
		"None":           {"It did not ask.", pods, nil, nil, ""},
		"Allow":          {"It asked for names to be left.", pods, []string{enforce, "istag.dev/on-unresolved=allow"}, nil, ""},
		"AllowPlaced":    {"It asked for names to be left.", pods, []string{enforce, "istag.dev/on-unresolved=allow", placement + "pod"}, nil, ""},
		"AllowEphemeral": {"It asked for names to be left.", ephemeral, []string{enforce, "istag.dev/on-unresolved=allow"}, nil, ""},
		"Deny":           {"That is the default.", pods, []string{enforce, "istag.dev/on-unresolved=deny"}, nil, guardName},
	}
	eachOverlay(t, func(t *testing.T, set objects) {
		for name, tc := range cases {
			if got := guardsOf(t, set, "team-a", tc.resource, tc.namespace, tc.labels); strings.Join(got, " ") != tc.by {
				t.Errorf("%s: %s\nasked is %q, want %q", name, tc.reason, got, tc.by)
			}
			for _, forbidden := range never {
				if got := guardsOf(t, set, forbidden, tc.resource, tc.namespace, tc.labels); len(got) > 0 {
					t.Errorf("%s: a cluster must be able to start without us, and %q is asked in %q", name, got, forbidden)
				}
			}
		}
	})
}

// guardsOf returns the policies that select an object.
func guardsOf(t *testing.T, set objects, namespace, resource string, with []string, object labels.Set) []string {
	t.Helper()
	var out []string
	for _, name := range guards {
		match := get[*admissionregistrationv1.ValidatingAdmissionPolicy](t, set, name).Spec.MatchConstraints
		byLabels, err := metav1.LabelSelectorAsSelector(match.ObjectSelector)
		if err != nil {
			t.Fatal(err)
		}
		if selects(t, match.NamespaceSelector, namespace, with...) && rulesHave(rulesOf(match), resource) && (match.ObjectSelector == nil || byLabels.Matches(object)) {
			out = append(out, name)
		}
	}
	return out
}

// rulesOf returns the rules of a policy as webhooks have them.
func rulesOf(match *admissionregistrationv1.MatchResources) []admissionregistrationv1.RuleWithOperations {
	var rules []admissionregistrationv1.RuleWithOperations
	for _, rule := range match.ResourceRules {
		rules = append(rules, rule.RuleWithOperations)
	}
	return rules
}

// TestGuardFailsClosed checks what holds for each of the policies and its binding.
func TestGuardFailsClosed(t *testing.T) {
	eachOverlay(t, func(t *testing.T, set objects) {
		first := get[*admissionregistrationv1.ValidatingAdmissionPolicy](t, set, guardName)
		for _, name := range guards {
			policy := get[*admissionregistrationv1.ValidatingAdmissionPolicy](t, set, name)
			if *policy.Spec.FailurePolicy != admissionregistrationv1.Fail {
				t.Errorf("%s: a policy that cannot be evaluated must not let a name leak", name)
			}
			if len(policy.Spec.MatchConstraints.ExcludeResourceRules) > 0 {
				t.Errorf("%s: what it is about is said in one place", name)
			}
			says := policy.Spec.DeepCopy()
			says.MatchConstraints = first.Spec.MatchConstraints
			if diff := cmp.Diff(&first.Spec, says); diff != "" {
				t.Errorf("%s does not say what %s says (-want, +got):\n%s", name, guardName, diff)
			}
			checkGuardBinding(t, get[*admissionregistrationv1.ValidatingAdmissionPolicyBinding](t, set, name))
		}
		if diff := cmp.Diff(&admissionregistrationv1.ParamKind{APIVersion: storev1.GroupVersion.String(), Kind: "StreamRecord"}, first.Spec.ParamKind); diff != "" {
			t.Errorf("the parameters are the streams (-want, +got):\n%s", diff)
		}
		// The webhooks and the guard are about the same: what one of them changes is what the other refuses if it did not.
		// Only Jobs are not: their images cannot be changed, so that an update of one is never pinned.
		var got []string
		for _, name := range []string{guardName, jobGuard, addedGuard} {
			got = append(got, resourcesOf(t, rulesOf(get[*admissionregistrationv1.ValidatingAdmissionPolicy](t, set, name).Spec.MatchConstraints))...)
		}
		slices.Sort(got)
		want := resourcesOf(t, entryNamed(t, set, pin).rules)
		want[slices.Index(want, "jobs.batch: CREATE UPDATE")] = "jobs.batch: CREATE"
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("resources (-webhook, +guard):\n%s", diff)
		}
	})
}

func checkGuardBinding(t *testing.T, binding *admissionregistrationv1.ValidatingAdmissionPolicyBinding) {
	t.Helper()
	if binding.Spec.PolicyName != binding.Name || binding.Spec.MatchResources != nil {
		t.Errorf("%s: it binds the policy of its name, for all that this selects", binding.Name)
	}
	if diff := cmp.Diff([]admissionregistrationv1.ValidationAction{admissionregistrationv1.Deny}, binding.Spec.ValidationActions); diff != "" {
		t.Errorf("%s: what it finds is refused (-want, +got):\n%s", binding.Name, diff)
	}
	ref := binding.Spec.ParamRef
	if ref == nil || ref.Namespace != "" || ref.Selector == nil || len(ref.Selector.MatchLabels)+len(ref.Selector.MatchExpressions) > 0 {
		t.Errorf("%s: it is asked about every stream of the object's namespace, not %+v", binding.Name, ref)
	} else if *ref.ParameterNotFoundAction != admissionregistrationv1.AllowAction {
		t.Errorf("%s: a namespace without streams has no names of them", binding.Name)
	}
}
