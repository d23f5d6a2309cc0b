package config

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

func TestPolicy(t *testing.T) {
	c, err := Parse([]byte(head + `
policy:
  resolveImages: RequiredRewrite
  resolutionRules:
  - targetResource: {resource: pods}
    localNames: true
  - targetResource: {group: apps, resource: "*"}
    policy: DoNotAttempt
  executionRules:
  - name: everything
  - name: deny-execution
    onResources: [{resource: pods}, {group: batch, resource: "*"}]
    reject: true
    skipOnResolutionFailure: true
    ignoreNamespaceOverride: true
    invertMatch: true
    matchIntegratedRegistry: true
    matchRegistries: [quay.io, "registry.example.com:5000", localhost]
    matchDockerImageLabels: [{key: a, set: true}]
    matchImageLabels: [{matchLabels: {tier: gold}}]
    matchImageAnnotations: [{key: images.openshift.io/deny-execution, value: "true"}, {key: empty}]
  registryHosts: [image-registry.openshift-image-registry.svc:5000]
`))
	if err != nil {
		t.Fatal(err)
	}
	want := Policy{
		ResolveImages: RequiredRewrite,
		ResolutionRules: []ResolutionRule{
			{TargetResource: GroupResource{Resource: "pods"}, LocalNames: true},
			{TargetResource: GroupResource{Group: "apps", Resource: "*"}, Policy: DoNotAttempt},
		},
		ExecutionRules: []ExecutionRule{{Name: "everything"}, {
			Name:                    "deny-execution",
			OnResources:             []GroupResource{{Resource: "pods"}, {Group: "batch", Resource: "*"}},
			Reject:                  true,
			SkipOnResolutionFailure: true,
			IgnoreNamespaceOverride: true,
			InvertMatch:             true,
			MatchIntegratedRegistry: true,
			MatchRegistries:         []string{"quay.io", "registry.example.com:5000", "localhost"},
			MatchDockerImageLabels:  []ValueCondition{{Key: "a", Set: true}},
			MatchImageLabels:        []metav1.LabelSelector{{MatchLabels: map[string]string{"tier": "gold"}}},
			MatchImageAnnotations:   []ValueCondition{{Key: "images.openshift.io/deny-execution", Value: "true"}, {Key: "empty"}},
		}},
		RegistryHosts: []string{"image-registry.openshift-image-registry.svc:5000"},
	}
	if diff := cmp.Diff(want, c.Policy); diff != "" {
		t.Errorf("the fields are OpenShift's: -want +got:\n%s", diff)
	}
}

func TestPolicyOfNoRules(t *testing.T) {
	c, err := Parse([]byte(head + "policy: {resolutionRules: []}"))
	if err != nil {
		t.Fatal(err)
	}
	text, err := yaml.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	if c, err = Parse(text); err != nil || c.Policy.ResolutionRules == nil {
		t.Errorf("no rules are not the default rules, printed neither: %v, %v", c, err)
	}
	if c, err = Parse([]byte(head)); err != nil || c.Policy.ResolutionRules != nil {
		t.Errorf("rules that are left out are the default ones: %v, %v", c, err)
	}
}

func TestPolicyRefuses(t *testing.T) {
	cases := map[string]struct {
		reason, policy string
		says           string
	}{
		"Mode":             {"a mode is one of five", "resolveImages: required", `policy.resolveImages: Unsupported value: "required": supported values: "RequiredRewrite", "Required"`},
		"NoMode":           {"every rule without a mode takes this one", `resolveImages: ""`, "policy.resolveImages"},
		"RuleMode":         {"a rule's mode is one of five", "resolutionRules: [{targetResource: {resource: pods}, policy: Never}]", "policy.resolutionRules[0].policy"},
		"RuleNoResource":   {"a rule is about a resource", "resolutionRules: [{localNames: true}]", "policy.resolutionRules[0].targetResource.resource: Required value: write the plural name"},
		"RuleKind":         {"a kind would match nothing, silently", "resolutionRules: [{targetResource: {resource: Pod}}]", "policy.resolutionRules[0].targetResource.resource"},
		"RuleSubresource":  {"subresources count as what they are of", "resolutionRules: [{targetResource: {resource: pods/status}}]", "policy.resolutionRules[0].targetResource.resource"},
		"RulePattern":      {"there is one pattern", `resolutionRules: [{targetResource: {resource: "pod*"}}]`, "policy.resolutionRules[0].targetResource.resource"},
		"RuleCore":         {"the core group has no name", "resolutionRules: [{targetResource: {group: core, resource: pods}}]", "policy.resolutionRules[0].targetResource.group"},
		"RuleVersion":      {"a group has no version", "resolutionRules: [{targetResource: {group: apps/v1, resource: deployments}}]", "policy.resolutionRules[0].targetResource.group"},
		"RuleAnyGroup":     {"groups have no pattern", `resolutionRules: [{targetResource: {group: "*", resource: deployments}}]`, "policy.resolutionRules[0].targetResource.group"},
		"Revisions":        {"a rule that is never asked would be a hole", "executionRules: [{name: a, onResources: [{group: apps, resource: controllerrevisions}]}]", "policy.executionRules[0].onResources[0].resource"},
		"NoName":           {"namespaces exempt themselves by names", "executionRules: [{reject: true}]", "policy.executionRules[0].name: Required value: write a name"},
		"NameTwice":        {"an exemption from one would be one from the other", "executionRules: [{name: a}, {name: b}, {name: a}]", `policy.executionRules[2].name: Duplicate value: "a"`},
		"NameComma":        {"a comma ends a name in the list", `executionRules: [{name: "a,b"}]`, "policy.executionRules[0].name"},
		"NameSpace":        {"a space is easily lost", `executionRules: [{name: " a"}]`, "policy.executionRules[0].name"},
		"NoResource":       {"a rule is about some resource", "executionRules: [{name: a, onResources: [{group: apps}]}]", "policy.executionRules[0].onResources[0].resource"},
		"Selector":         {"a selector that cannot be read selects nothing", "executionRules: [{name: a, matchImageLabels: [{matchExpressions: [{key: b, operator: Is}]}]}]", "policy.executionRules[0].matchImageLabels[0]"},
		"SelectorValues":   {"an operator needs its values", "executionRules: [{name: a, matchImageLabels: [{}, {matchExpressions: [{key: b, operator: In}]}]}]", "policy.executionRules[0].matchImageLabels[1]"},
		"NoKey":            {"a condition is about a key", "executionRules: [{name: a, matchImageAnnotations: [{value: b}]}]", "policy.executionRules[0].matchImageAnnotations[0].key"},
		"NoLabelKey":       {"a condition is about a key", "executionRules: [{name: a, matchDockerImageLabels: [{set: true}]}]", "policy.executionRules[0].matchDockerImageLabels[0].key"},
		"SetAndValue":      {"any value is not one value", "executionRules: [{name: a, matchImageAnnotations: [{key: a, set: true, value: b}]}]", "policy.executionRules[0].matchImageAnnotations[0].value"},
		"BlindLabels":      {"what is not looked up is not known", "resolveImages: DoNotAttempt\n  executionRules: [{name: a, matchImageLabels: [{}]}]", "policy.executionRules[0].matchImageLabels"},
		"BlindAnnotations": {"what is not looked up is not known", "resolveImages: DoNotAttempt\n  executionRules: [{name: a, matchImageAnnotations: [{key: a}]}]", "set policy.resolveImages to Attempt"},
		"BlindDocker":      {"what is not looked up is not known", "resolveImages: DoNotAttempt\n  executionRules: [{name: a, matchDockerImageLabels: [{key: a}]}]", "policy.executionRules[0].matchDockerImageLabels"},
		"Registry":         {"a repository is no registry", "executionRules: [{name: a, matchRegistries: [quay.io/a]}]", "policy.executionRules[0].matchRegistries[0]"},
		"RegistryEmpty":    {"a registry has a name", `executionRules: [{name: a, matchRegistries: [""]}]`, "policy.executionRules[0].matchRegistries[0]"},
		"RegistryURL":      {"a URL is no registry", `executionRules: [{name: a, matchRegistries: ["https://quay.io"]}]`, "policy.executionRules[0].matchRegistries[0]"},
		"RegistryPattern":  {"a pattern would match nothing, silently", `executionRules: [{name: a, matchRegistries: ["*.example.com"]}]`, "policy.executionRules[0].matchRegistries[0]"},
		"RegistryBare":     {"no name of an image has such a registry", `executionRules: [{name: a, matchRegistries: [registry]}]`, "policy.executionRules[0].matchRegistries[0]"},
		"RegistryTwice":    {"an entry that says nothing new is a mistake", `executionRules: [{name: a, matchRegistries: [quay.io, "QUAY.IO:443"]}]`, "policy.executionRules[0].matchRegistries[1]"},
		"Host":             {"a host is no path", "registryHosts: [quay.io/a]", "policy.registryHosts[0]"},
		"HostBare":         {"no name of an image has such a registry", "registryHosts: [registry]", "policy.registryHosts[0]"},
		"HostTwice":        {"an entry that says nothing new is a mistake", "registryHosts: [a.example.com, A.example.com]", "policy.registryHosts[1]"},
		"Unknown":          {"a misspelled field must not be ignored", "executionRules: [{name: a, rejects: true}]", "rejects"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if _, err := Parse([]byte(head + "policy:\n  " + tc.policy)); err == nil || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("%s: the error says %q: got %v", tc.reason, tc.says, err)
			}
		})
	}
}

func TestPolicyAccepts(t *testing.T) {
	cases := map[string]struct{ reason, policy string }{
		"NoConditions":     {"a rule without conditions matches everything, as in OpenShift", "executionRules: [{name: a}]"},
		"BlindRegistries":  {"registries are known without looking anything up", "resolveImages: DoNotAttempt\n  executionRules: [{name: a, matchRegistries: [quay.io]}]"},
		"EmptyList":        {"there may be no rules", "resolutionRules: []\n  executionRules: []"},
		"RuleWithoutMode":  {"a rule without a mode has the policy's", "resolutionRules: [{targetResource: {resource: pods}}]"},
		"ResourceTwice":    {"rules about one resource add up, as in OpenShift", "resolutionRules: [{targetResource: {resource: pods}}, {targetResource: {resource: pods}, localNames: true}]"},
		"UnknownResource":  {"OpenShift's builds are named in many a policy", "executionRules: [{name: a, onResources: [{group: build.openshift.io, resource: builds}]}]"},
		"SetFalse":         {"a key that must be empty, or absent, as in OpenShift", "executionRules: [{name: a, matchImageAnnotations: [{key: a, set: false}]}]"},
		"SelectorOfNone":   {"an empty selector selects everything", "executionRules: [{name: a, matchImageLabels: [{}]}]"},
		"RegistryWithPort": {"a port belongs to a host", `registryHosts: ["registry:5000", "127.0.0.1:5000"]`},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if _, err := Parse([]byte(head + "policy:\n  " + tc.policy)); err != nil {
				t.Errorf("%s: got %v", tc.reason, err)
			}
		})
	}
}
