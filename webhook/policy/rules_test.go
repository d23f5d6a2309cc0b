package policy

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"istag.dev/config"
)

// refused says that a rule refuses an image, the rule "" that none accepts it.
type refused string

// check asks a policy of the rules given about an image, in a pod unless it says otherwise. It returns nil
// if the image may run.
func check(t *testing.T, rules []config.ExecutionRule, image Image, exempt ...string) *refused {
	t.Helper()
	p := compile(t, config.Policy{ResolveImages: config.Attempt, ExecutionRules: rules, RegistryHosts: []string{"registry.svc:5000"}})
	if image.Resource.Resource == "" {
		image.Resource = pods
	}
	rule, ok := p.Check(image, exempt)
	if ok {
		if rule != "" {
			t.Errorf("an image that may run is refused by no rule, got %q", rule)
		}
		return nil
	}
	return (*refused)(&rule)
}

func by(rule string) *refused { return (*refused)(&rule) }

func same(a, b *refused) bool { return (a == nil) == (b == nil) && (a == nil || *a == *b) }

func describe(r *refused) string {
	if r == nil {
		return "may run"
	}
	return "refused by rule \"" + string(*r) + "\""
}

// TestCheck has how rules play together. Rule names say what a rule does.
func TestCheck(t *testing.T) {
	quay, ghcr := Image{Registry: "quay.io"}, Image{Registry: "ghcr.io"}
	acceptQuay := config.ExecutionRule{Name: "accept-quay", MatchRegistries: []string{"quay.io"}}
	acceptAll := config.ExecutionRule{Name: "accept-all"}
	rejectGHCR := config.ExecutionRule{Name: "reject-ghcr", Reject: true, MatchRegistries: []string{"ghcr.io"}}
	rejectAll := config.ExecutionRule{Name: "reject-all", Reject: true}
	always := func(r config.ExecutionRule) config.ExecutionRule {
		r.IgnoreNamespaceOverride = true
		return r
	}
	inverted := func(r config.ExecutionRule) config.ExecutionRule {
		r.InvertMatch = true
		return r
	}
	onThese := func(r config.ExecutionRule, resources ...schema.GroupResource) config.ExecutionRule {
		for _, resource := range resources {
			r.OnResources = append(r.OnResources, config.GroupResource(resource))
		}
		return r
	}
	of := func(image Image, resource schema.GroupResource) Image {
		image.Resource = resource
		return image
	}
	cases := map[string]struct {
		reason string
		rules  []config.ExecutionRule
		image  Image
		exempt []string
		want   *refused
	}{
		"NoRules":             {reason: "without rules everything may run", image: quay},
		"AllReject":           {reason: "where all rules reject, the default is to allow", rules: []config.ExecutionRule{rejectGHCR}, image: quay},
		"Reject":              {reason: "a rule that rejects refuses", rules: []config.ExecutionRule{rejectGHCR}, image: ghcr, want: by("reject-ghcr")},
		"Accept":              {reason: "a rule that accepts lets run", rules: []config.ExecutionRule{acceptQuay}, image: quay},
		"NotAccepted":         {reason: "where a rule accepts, one has to", rules: []config.ExecutionRule{acceptQuay}, image: ghcr, want: by("")},
		"NotAcceptedOfTwo":    {reason: "where a rule accepts, not to be rejected is not enough", rules: []config.ExecutionRule{acceptQuay, rejectGHCR}, image: Image{Registry: "a.example.com"}, want: by("")},
		"AcceptThenReject":    {reason: "a rejection counts, whatever accepted before it", rules: []config.ExecutionRule{acceptAll, rejectGHCR}, image: ghcr, want: by("reject-ghcr")},
		"RejectThenAccept":    {reason: "a rejection counts, whatever would accept after it", rules: []config.ExecutionRule{rejectGHCR, acceptAll}, image: ghcr, want: by("reject-ghcr")},
		"FirstReject":         {reason: "the first rule that refuses is named", rules: []config.ExecutionRule{rejectGHCR, rejectAll}, image: ghcr, want: by("reject-ghcr")},
		"NoConditions":        {reason: "a rule without conditions matches everything", rules: []config.ExecutionRule{rejectAll}, image: quay, want: by("reject-all")},
		"InvertedAccept":      {reason: "an inverted rule accepts what its conditions do not match", rules: []config.ExecutionRule{inverted(acceptQuay)}, image: ghcr},
		"InvertedAcceptNot":   {reason: "and not what they match", rules: []config.ExecutionRule{inverted(acceptQuay)}, image: quay, want: by("")},
		"InvertedReject":      {reason: "an inverted rule rejects what its conditions do not match", rules: []config.ExecutionRule{inverted(rejectGHCR)}, image: quay, want: by("reject-ghcr")},
		"InvertedRejectNot":   {reason: "and not what they match", rules: []config.ExecutionRule{inverted(rejectGHCR)}, image: ghcr},
		"InvertedNothing":     {reason: "the inversion of everything is nothing", rules: []config.ExecutionRule{inverted(rejectAll)}, image: quay},
		"Exempt":              {reason: "a namespace can exempt itself from a rule", rules: []config.ExecutionRule{rejectGHCR}, image: ghcr, exempt: []string{"other", "reject-ghcr"}},
		"ExemptOther":         {reason: "but only from those it names", rules: []config.ExecutionRule{rejectGHCR}, image: ghcr, exempt: []string{"other"}, want: by("reject-ghcr")},
		"ExemptUntrimmed":     {reason: "names are taken as they are written", rules: []config.ExecutionRule{rejectGHCR}, image: ghcr, exempt: []string{" reject-ghcr"}, want: by("reject-ghcr")},
		"ExemptInVain":        {reason: "unless the rule says that none can", rules: []config.ExecutionRule{always(rejectGHCR)}, image: ghcr, exempt: []string{"reject-ghcr"}, want: by("reject-ghcr")},
		"ExemptAccept":        {reason: "an exemption from the rule that accepts is none from being accepted", rules: []config.ExecutionRule{acceptAll}, image: quay, exempt: []string{"accept-all"}, want: by("")},
		"ExemptAcceptInVain":  {reason: "a rule that ignores namespaces accepts all the same", rules: []config.ExecutionRule{always(acceptAll)}, image: quay, exempt: []string{"accept-all"}},
		"ExemptThenNext":      {reason: "the other rules go on counting", rules: []config.ExecutionRule{rejectGHCR, rejectAll}, image: ghcr, exempt: []string{"reject-ghcr"}, want: by("reject-all")},
		"OnPodsOnly":          {reason: "a rule without resources is about pods", rules: []config.ExecutionRule{rejectAll}, image: of(quay, deployments)},
		"OnEphemeral":         {reason: "ephemeral containers are a pod's", rules: []config.ExecutionRule{rejectAll}, image: of(quay, ephemeral), want: by("reject-all")},
		"OnRevisions":         {reason: "a revision stands for its pods", rules: []config.ExecutionRule{rejectAll}, image: of(quay, revisions), want: by("reject-all")},
		"OnNamed":             {reason: "a rule is about the resources it names", rules: []config.ExecutionRule{onThese(rejectAll, jobs, deployments)}, image: of(quay, deployments), want: by("reject-all")},
		"OnNamedNotPods":      {reason: "and then about pods only if it names them", rules: []config.ExecutionRule{onThese(rejectAll, jobs, deployments)}, image: quay},
		"OnAny":               {reason: "* is every resource of a group", rules: []config.ExecutionRule{onThese(rejectAll, allOf("apps"))}, image: of(quay, deployments), want: by("reject-all")},
		"OnAnyElse":           {reason: "* is no other group", rules: []config.ExecutionRule{onThese(rejectAll, allOf("apps"))}, image: of(quay, jobs)},
		"OnAnyPods":           {reason: "* of the core group has pods", rules: []config.ExecutionRule{onThese(rejectAll, allOf(""))}, image: quay, want: by("reject-all")},
		"DefaultPerResource":  {reason: "a rule that accepts on one resource does not change the default of another", rules: []config.ExecutionRule{onThese(acceptQuay, deployments), rejectGHCR}, image: quay},
		"DefaultPerResource2": {reason: "where a rule accepts, one has to, though others only reject elsewhere", rules: []config.ExecutionRule{onThese(acceptQuay, deployments), rejectGHCR}, image: of(Image{Registry: "a.example.com"}, deployments), want: by("")},
		"AnyAndNamed":         {reason: "rules about a group and about one of its resources count together, in order", rules: []config.ExecutionRule{onThese(acceptAll, allOf("apps")), onThese(rejectGHCR, deployments)}, image: of(ghcr, deployments), want: by("reject-ghcr")},
		"AnyAndNamedElse":     {reason: "another resource of the group has the group's rules only", rules: []config.ExecutionRule{onThese(acceptAll, allOf("apps")), onThese(rejectGHCR, deployments)}, image: of(ghcr, replicaSets)},
		"NamedTwice":          {reason: "a resource that is named twice has the rule once", rules: []config.ExecutionRule{onThese(acceptQuay, deployments, deployments, allOf("apps"))}, image: of(quay, deployments)},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if got := check(t, tc.rules, tc.image, tc.exempt...); !same(got, tc.want) {
				t.Errorf("%s: want it %s, got it %s", tc.reason, describe(tc.want), describe(got))
			}
		})
	}
}

// TestMatch has what the conditions of one rule match, as a rule that rejects shows it.
func TestMatch(t *testing.T) {
	known := &Known{
		Labels:       map[string]string{"tier": "gold", "scan": "ok"},
		Annotations:  map[string]string{"deny": "true", "empty": ""},
		DockerLabels: map[string]string{"vendor": "Example"},
	}
	selector := func(labels map[string]string) metav1.LabelSelector {
		return metav1.LabelSelector{MatchLabels: labels}
	}
	value := func(key, value string) []config.ValueCondition {
		return []config.ValueCondition{{Key: key, Value: value}}
	}
	set := func(key string) []config.ValueCondition { return []config.ValueCondition{{Key: key, Set: true}} }
	cases := map[string]struct {
		reason  string
		rule    config.ExecutionRule
		image   Image
		matches bool
	}{
		"Registry":           {"an image of a listed registry", config.ExecutionRule{MatchRegistries: []string{"ghcr.io", "quay.io"}}, Image{Registry: "quay.io"}, true},
		"RegistryOther":      {"an image of another", config.ExecutionRule{MatchRegistries: []string{"quay.io"}}, Image{Registry: "evil.quay.io"}, false},
		"RegistryNone":       {"an image that names no registry is Docker Hub's", config.ExecutionRule{MatchRegistries: []string{"docker.io"}}, Image{}, true},
		"RegistryNoneOther":  {"and no other's", config.ExecutionRule{MatchRegistries: []string{"quay.io"}}, Image{}, false},
		"RegistryHubNames":   {"Docker Hub has several names", config.ExecutionRule{MatchRegistries: []string{"Registry-1.docker.io"}}, Image{Registry: "index.docker.io"}, true},
		"RegistryHubPort":    {"Docker Hub has a port", config.ExecutionRule{MatchRegistries: []string{"docker.io"}}, Image{Registry: "registry-1.docker.io:443"}, true},
		"RegistryHubNot":     {"Docker Hub is not all of Docker", config.ExecutionRule{MatchRegistries: []string{"docker.io"}}, Image{Registry: "hub.docker.io"}, false},
		"RegistryCase":       {"hosts have no case", config.ExecutionRule{MatchRegistries: []string{"Quay.io"}}, Image{Registry: "QUAY.IO"}, true},
		"RegistryPort":       {"another port is another registry", config.ExecutionRule{MatchRegistries: []string{"r.example.com"}}, Image{Registry: "r.example.com:5000"}, false},
		"RegistrySecurePort": {"443 goes without saying", config.ExecutionRule{MatchRegistries: []string{"r.example.com"}}, Image{Registry: "r.example.com:443"}, true},
		"RegistryZeros":      {"zeros before a port mean nothing", config.ExecutionRule{MatchRegistries: []string{"quay.io", "r.svc:5000"}}, Image{Registry: "quay.io:0443"}, true},
		"RegistryZeros2":     {"zeros before a port mean nothing", config.ExecutionRule{MatchRegistries: []string{"quay.io", "r.svc:5000"}}, Image{Registry: "r.svc:005000"}, true},
		"RegistryKnown":      {"what is known of an image does not change its registry", config.ExecutionRule{MatchRegistries: []string{"quay.io"}}, Image{Registry: "quay.io", Known: known}, true},
		"Integrated":         {"an image named by a registry host", config.ExecutionRule{MatchIntegratedRegistry: true}, Image{Registry: "Registry.svc:5000"}, true},
		"IntegratedNot":      {"an image named by another", config.ExecutionRule{MatchIntegratedRegistry: true}, Image{Registry: "quay.io"}, false},
		"IntegratedNone":     {"an image that names no registry", config.ExecutionRule{MatchIntegratedRegistry: true}, Image{}, false},
		"IntegratedAndOther": {"conditions all have to hold", config.ExecutionRule{MatchIntegratedRegistry: true, MatchRegistries: []string{"quay.io"}}, Image{Registry: "registry.svc:5000"}, false},

		"Annotation":        {"an annotation has the value", config.ExecutionRule{MatchImageAnnotations: value("deny", "true")}, Image{Known: known}, true},
		"AnnotationOther":   {"an annotation has another value", config.ExecutionRule{MatchImageAnnotations: value("deny", "false")}, Image{Known: known}, false},
		"AnnotationSet":     {"an annotation has a value", config.ExecutionRule{MatchImageAnnotations: set("deny")}, Image{Known: known}, true},
		"AnnotationEmpty":   {"an annotation that is empty is there", config.ExecutionRule{MatchImageAnnotations: set("empty")}, Image{Known: known}, true},
		"AnnotationUnset":   {"an annotation is not there", config.ExecutionRule{MatchImageAnnotations: set("other")}, Image{Known: known}, false},
		"AnnotationsAll":    {"conditions all have to hold", config.ExecutionRule{MatchImageAnnotations: append(value("deny", "true"), set("other")...)}, Image{Known: known}, false},
		"AnnotationAndMore": {"conditions of all kinds have to hold", config.ExecutionRule{MatchImageAnnotations: value("deny", "true"), MatchRegistries: []string{"quay.io"}}, Image{Registry: "ghcr.io", Known: known}, false},
		"DockerLabel":       {"a label in the configuration has the value", config.ExecutionRule{MatchDockerImageLabels: value("vendor", "Example")}, Image{Known: known}, true},
		"DockerLabelCase":   {"values are compared as they are", config.ExecutionRule{MatchDockerImageLabels: value("vendor", "example")}, Image{Known: known}, false},
		"DockerLabelOther":  {"a label of the Image object is another", config.ExecutionRule{MatchDockerImageLabels: set("tier")}, Image{Known: known}, false},
		"DockerLabelNone":   {"an image without a configuration has no labels", config.ExecutionRule{MatchDockerImageLabels: set("vendor")}, Image{Known: &Known{}}, false},
		"Label":             {"a label of the Image object is selected", config.ExecutionRule{MatchImageLabels: []metav1.LabelSelector{selector(map[string]string{"tier": "gold"})}}, Image{Known: known}, true},
		"LabelOther":        {"another value is not", config.ExecutionRule{MatchImageLabels: []metav1.LabelSelector{selector(map[string]string{"tier": "iron"})}}, Image{Known: known}, false},
		"LabelDocker":       {"a label in the configuration is another", config.ExecutionRule{MatchImageLabels: []metav1.LabelSelector{selector(map[string]string{"vendor": "Example"})}}, Image{Known: known}, false},
		"LabelAll":          {"all selectors have to select", config.ExecutionRule{MatchImageLabels: []metav1.LabelSelector{selector(map[string]string{"tier": "gold"}), selector(map[string]string{"scan": "bad"})}}, Image{Known: known}, false},
		"LabelBoth":         {"all selectors do", config.ExecutionRule{MatchImageLabels: []metav1.LabelSelector{selector(map[string]string{"tier": "gold"}), selector(map[string]string{"scan": "ok"})}}, Image{Known: known}, true},
		"LabelAbsent":       {"a selector can ask for what is not there", config.ExecutionRule{MatchImageLabels: []metav1.LabelSelector{{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "other", Operator: metav1.LabelSelectorOpDoesNotExist}}}}}, Image{Known: &Known{}}, true},
		"LabelEverything":   {"an empty selector selects everything", config.ExecutionRule{MatchImageLabels: []metav1.LabelSelector{{}}}, Image{Known: &Known{}}, true},

		"UnknownAnnotation": {"a rule that asks about an image does not match one that nothing is known of", config.ExecutionRule{MatchImageAnnotations: value("empty", "")}, Image{}, false},
		"UnknownLabel":      {"not even by an empty selector", config.ExecutionRule{MatchImageLabels: []metav1.LabelSelector{{}}}, Image{}, false},
		"UnknownDocker":     {"nor by labels of the configuration", config.ExecutionRule{MatchDockerImageLabels: value("a", "")}, Image{}, false},
		"UnknownElse":       {"a rule that asks nothing about an image matches one that nothing is known of", config.ExecutionRule{MatchRegistries: []string{"quay.io"}}, Image{Registry: "quay.io"}, true},
		"UnknownSkip":       {"unless it is to be skipped for those", config.ExecutionRule{MatchRegistries: []string{"quay.io"}, SkipOnResolutionFailure: true}, Image{Registry: "quay.io"}, false},
		"UnknownSkipInvert": {"a rule that is skipped is not inverted either", config.ExecutionRule{MatchRegistries: []string{"ghcr.io"}, SkipOnResolutionFailure: true, InvertMatch: true}, Image{Registry: "quay.io"}, false},
		"UnknownInvert":     {"an inverted rule matches an image that nothing is known of", config.ExecutionRule{MatchImageAnnotations: set("approved"), InvertMatch: true}, Image{}, true},
		"KnownSkip":         {"a rule is not skipped for what is known", config.ExecutionRule{MatchImageAnnotations: value("deny", "true"), SkipOnResolutionFailure: true}, Image{Known: known}, true},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			tc.rule.Name, tc.rule.Reject = "it", true
			if got := check(t, []config.ExecutionRule{tc.rule}, tc.image) != nil; got != tc.matches {
				t.Errorf("%s: want a match %t, got %t", tc.reason, tc.matches, got)
			}
			if tc.image.Known == nil || tc.rule.MatchImageAnnotations != nil {
				return
			}
			// What matches is accepted, too, where nothing is in doubt.
			tc.rule.Reject = false
			if got := check(t, []config.ExecutionRule{tc.rule}, tc.image) == nil; got != tc.matches {
				t.Errorf("%s: want it accepted %t, got %t", tc.reason, tc.matches, got)
			}
		})
	}
}

// TestDoubt has the cases in which OpenShift takes a match for granted. The image is refused in all of them in
// which that, or its opposite, refuses it.
func TestDoubt(t *testing.T) {
	empty := []config.ValueCondition{{Key: "signed-by"}} // "" is the value
	unreadable := &Known{Unreadable: true, Annotations: map[string]string{"a": "b"}}
	absent, there := &Known{}, &Known{Annotations: map[string]string{"signed-by": ""}}
	cases := map[string]struct {
		reason string
		rule   config.ExecutionRule
		known  *Known
		want   *refused
	}{
		"EmptyReject":         {"a key that is not there is refused where one that is empty is", config.ExecutionRule{Reject: true, MatchImageAnnotations: empty}, absent, by("it")},
		"EmptyRejectThere":    {"a key that is empty is refused", config.ExecutionRule{Reject: true, MatchImageAnnotations: empty}, there, by("it")},
		"EmptyAccept":         {"a key that is not there is not accepted where one that is empty is (OpenShift accepts it)", config.ExecutionRule{MatchImageAnnotations: empty}, absent, by("")},
		"EmptyAcceptThere":    {"a key that is empty is accepted", config.ExecutionRule{MatchImageAnnotations: empty}, there, nil},
		"EmptyInvertReject":   {"a key that is not there is refused where one that is not empty is (OpenShift lets it run)", config.ExecutionRule{Reject: true, InvertMatch: true, MatchImageAnnotations: empty}, absent, by("it")},
		"EmptyInvertAccept":   {"a key that is not there is not accepted where one that is not empty is", config.ExecutionRule{InvertMatch: true, MatchImageAnnotations: empty}, absent, by("")},
		"EmptyLabelReject":    {"so it is with labels of the configuration", config.ExecutionRule{Reject: true, MatchDockerImageLabels: empty}, absent, by("it")},
		"EmptyLabelAccept":    {"so it is with labels of the configuration", config.ExecutionRule{MatchDockerImageLabels: empty}, absent, by("")},
		"UnreadableReject":    {"labels that cannot be read are refused where some are", config.ExecutionRule{Reject: true, MatchDockerImageLabels: empty}, unreadable, by("it")},
		"UnreadableAccept":    {"and not accepted where some are (OpenShift accepts them)", config.ExecutionRule{MatchDockerImageLabels: empty}, unreadable, by("")},
		"UnreadableInvert":    {"and refused where all but some are (OpenShift lets them run)", config.ExecutionRule{Reject: true, InvertMatch: true, MatchDockerImageLabels: empty}, unreadable, by("it")},
		"UnreadableInvert2":   {"and not accepted where all but some are", config.ExecutionRule{InvertMatch: true, MatchDockerImageLabels: empty}, unreadable, by("")},
		"UnreadableSkip":      {"unless the rule is to be skipped then", config.ExecutionRule{Reject: true, SkipOnResolutionFailure: true, MatchDockerImageLabels: empty}, unreadable, nil},
		"UnreadableSkipNot":   {"a rule that accepts and is skipped accepts nothing", config.ExecutionRule{SkipOnResolutionFailure: true, MatchDockerImageLabels: empty}, unreadable, by("")},
		"UnreadableSkipInv":   {"a rule that is inverted refuses all the same, as in OpenShift", config.ExecutionRule{Reject: true, InvertMatch: true, SkipOnResolutionFailure: true, MatchDockerImageLabels: empty}, unreadable, by("it")},
		"UnreadableSkipInv2":  {"and accepts nothing (OpenShift accepts it)", config.ExecutionRule{InvertMatch: true, SkipOnResolutionFailure: true, MatchDockerImageLabels: empty}, unreadable, by("")},
		"UnreadableElse":      {"labels that nobody asks for need not be readable", config.ExecutionRule{MatchImageAnnotations: []config.ValueCondition{{Key: "a", Value: "b"}}}, unreadable, nil},
		"UnreadableOtherHost": {"a rule about another registry is not about the image", config.ExecutionRule{Reject: true, MatchRegistries: []string{"ghcr.io"}, MatchDockerImageLabels: empty}, unreadable, nil},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			tc.rule.Name = "it"
			got := check(t, []config.ExecutionRule{tc.rule}, Image{Registry: "quay.io", Known: tc.known})
			if !same(got, tc.want) {
				t.Errorf("%s: want it %s, got it %s", tc.reason, describe(tc.want), describe(got))
			}
		})
	}
}

// TestOpenShiftsSample is the sample policy that OpenShift's source comes with.
func TestOpenShiftsSample(t *testing.T) {
	c, err := config.Parse([]byte(head + `
policy:
  executionRules:
  - name: execution-denied
    onResources:
    - resource: pods
    - resource: builds
      group: build.openshift.io
    reject: true
    matchImageAnnotations:
    - key: images.openshift.io/deny-execution
      value: "true"
    skipOnResolutionFailure: true
`))
	if err != nil {
		t.Fatal(err)
	}
	p := compile(t, c.Policy)
	denied := &Known{Annotations: map[string]string{"images.openshift.io/deny-execution": "true"}}
	for _, resource := range []schema.GroupResource{pods, builds} {
		if rule, ok := p.Check(Image{Resource: resource, Known: denied}, nil); ok || rule != "execution-denied" {
			t.Errorf("an image that is denied does not run in %s: got %q, %t", resource, rule, ok)
		}
		for _, known := range []*Known{nil, {}, {Annotations: map[string]string{"images.openshift.io/deny-execution": "false"}}} {
			if rule, ok := p.Check(Image{Resource: resource, Known: known}, nil); !ok {
				t.Errorf("an image that is not denied runs in %s: %+v: got %q", resource, known, rule)
			}
		}
	}
	if !p.NeedsImages() || p.Requires() {
		t.Error("the sample asks about images and requires none")
	}
}

func FuzzCheck(f *testing.F) {
	f.Add("resolveImages: Attempt", "", "pods", "quay.io", "a", false)
	f.Add("executionRules: [{name: a, matchRegistries: [docker.io]}]", "apps", "deployments", "", "a", true)
	f.Add("executionRules: [{name: a, reject: true, invertMatch: true, matchImageAnnotations: [{key: a}], onResources: [{resource: '*'}]}]", "", "pods/ephemeralcontainers", "quay.io:443", "b", true)
	f.Add("executionRules: [{name: a, matchImageLabels: [{matchExpressions: [{key: a, operator: NotIn, values: [b]}]}]}]", "apps", "controllerrevisions", "quay.io", "b", true)
	f.Fuzz(func(t *testing.T, text, group, resource, registry, value string, known bool) {
		c, err := config.Parse([]byte(head + "policy: {" + text + "}"))
		if err != nil {
			return
		}
		p, err := Compile(c.Policy, c.Webhook.Workloads)
		if err != nil {
			t.Fatalf("what is valid can be compiled: %v", err)
		}
		image := Image{Resource: schema.GroupResource{Group: group, Resource: resource}, Registry: registry}
		if known {
			values := map[string]string{"a": value}
			image.Known = &Known{Labels: values, Annotations: values, DockerLabels: values, Unreadable: value == ""}
		}
		rule, ok := p.Check(image, []string{value})
		if ok && rule != "" {
			t.Errorf("an image that may run is refused by no rule, got %q", rule)
		}
		if !ok && len(c.Policy.ExecutionRules) == 0 {
			t.Error("without rules everything may run")
		}
		if p.Rewrites(image.Resource, false, false) && !p.Looks(image.Resource) {
			t.Error("what is not looked up cannot be replaced")
		}
		if p.Rewrites(image.Resource, false, false) && !p.Rewrites(image.Resource, false, true) {
			t.Error("what is replaced of all names is replaced of local ones")
		}
	})
}
