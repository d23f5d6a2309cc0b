package policy

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"istag.dev/config"
)

// Resources that tests ask about.
var (
	pods        = schema.GroupResource{Resource: "pods"}
	ephemeral   = schema.GroupResource{Resource: "pods/ephemeralcontainers"}
	podTemplate = schema.GroupResource{Resource: "podtemplates"}
	controllers = schema.GroupResource{Resource: "replicationcontrollers"}
	deployments = schema.GroupResource{Group: "apps", Resource: "deployments"}
	replicaSets = schema.GroupResource{Group: "apps", Resource: "replicasets"}
	revisions   = schema.GroupResource{Group: "apps", Resource: "controllerrevisions"}
	jobs        = schema.GroupResource{Group: "batch", Resource: "jobs"}
	cronJobs    = schema.GroupResource{Group: "batch", Resource: "cronjobs"}
	builds      = schema.GroupResource{Group: "build.openshift.io", Resource: "builds"}
	rollouts    = schema.GroupResource{Group: "argoproj.io", Resource: "rollouts"}
)

// argo is a custom workload of the configuration, of resource rollouts.
var argo = []config.Workload{{Group: "argoproj.io", Resource: "rollouts", PodSpec: "spec.template.spec"}}

// unselectable is a rule that configurations cannot hold.
var unselectable = config.ExecutionRule{Name: "a", MatchImageLabels: []metav1.LabelSelector{{
	MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "a", Operator: "Is"}},
}}}

func compile(t *testing.T, c config.Policy, workloads ...config.Workload) *Policy {
	t.Helper()
	p, err := Compile(c, workloads)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// on makes a resolution rule.
func on(resource schema.GroupResource, local bool, mode config.ResolutionMode) config.ResolutionRule {
	return config.ResolutionRule{TargetResource: config.GroupResource(resource), LocalNames: local, Policy: mode}
}

func allOf(group string) schema.GroupResource {
	return schema.GroupResource{Group: group, Resource: config.AnyResource}
}

// TestModes has the table of the five modes, for a resource that no rule covers.
func TestModes(t *testing.T) {
	cases := map[config.ResolutionMode]struct {
		reason                    string
		looks, requires, rewrites bool
	}{
		config.RequiredRewrite: {"looked up, refused, replaced", true, true, true},
		config.Required:        {"looked up, refused, left", true, true, false},
		config.AttemptRewrite:  {"looked up, let pass, replaced", true, false, true},
		config.Attempt:         {"looked up, let pass, left", true, false, false},
		config.DoNotAttempt:    {"left alone", false, false, false},
	}
	for mode, tc := range cases {
		t.Run(string(mode), func(t *testing.T) {
			p := compile(t, config.Policy{ResolveImages: mode, ResolutionRules: []config.ResolutionRule{}})
			for _, local := range []bool{true, false} {
				if p.Looks(deployments) != tc.looks || p.Requires() != tc.requires || p.Rewrites(deployments, false, local) != tc.rewrites {
					t.Errorf("%s: local %t: got %t, %t, %t", tc.reason, local, p.Looks(deployments), p.Requires(), p.Rewrites(deployments, false, local))
				}
			}
		})
	}
}

// TestRewrites asks whether a name of a local stream, and any other that can be resolved, is replaced.
func TestRewrites(t *testing.T) {
	none := []config.ResolutionRule{}
	denyOnPods := []config.ExecutionRule{{Name: "deny", Reject: true}}
	cases := map[string]struct {
		reason       string
		policy       config.Policy
		resource     schema.GroupResource
		updating     bool
		local, other bool
	}{
		"DefaultPods":            {reason: "local names are replaced in pods", resource: pods, local: true},
		"DefaultPodsUpdate":      {reason: "new images of pods are replaced", resource: pods, updating: true, local: true},
		"DefaultControllers":     {reason: "local names are replaced in replication controllers", resource: controllers, local: true},
		"DefaultDeployments":     {reason: "local names are replaced in templates", resource: deployments, local: true},
		"DefaultDeploymentsSet":  {reason: "new images of templates are replaced", resource: deployments, updating: true, local: true},
		"DefaultReplicaSets":     {reason: "local names are replaced in templates", resource: replicaSets, local: true},
		"DefaultCronJobs":        {reason: "local names are replaced in templates of jobs", resource: cronJobs, updating: true, local: true},
		"DefaultJobs":            {reason: "local names are replaced in new jobs", resource: jobs, local: true},
		"DefaultJobsUpdate":      {reason: "the template of a job that exists cannot be changed", resource: jobs, updating: true},
		"DefaultBuilds":          {reason: "local names are replaced in new builds", resource: builds, local: true},
		"DefaultBuildsUpdate":    {reason: "a build that exists cannot be changed", resource: builds, updating: true},
		"DefaultPodTemplates":    {reason: "what is made from a template is a pod", resource: podTemplate, local: true},
		"DefaultEphemeral":       {reason: "ephemeral containers are a pod's", resource: ephemeral, updating: true, local: true},
		"DefaultRevisions":       {reason: "a revision stands for its pods", resource: revisions, local: true},
		"DefaultRollouts":        {reason: "custom resources of the configuration are workloads", resource: rollouts, local: true},
		"DefaultExtensions":      {reason: "what policies of old name is covered", resource: schema.GroupResource{Group: "extensions", Resource: "deployments"}, local: true},
		"DefaultElse":            {reason: "the global mode, which replaces nothing, counts for all else", resource: schema.GroupResource{Resource: "services"}},
		"DefaultRewrite":         {reason: "the default rules leave all but local names as they are, whatever the global mode", policy: config.Policy{ResolveImages: config.RequiredRewrite}, resource: deployments, local: true},
		"DefaultRewriteElse":     {reason: "the global mode counts where no rule does", policy: config.Policy{ResolveImages: config.RequiredRewrite}, resource: schema.GroupResource{Resource: "services"}, local: true, other: true},
		"DefaultNamed":           {reason: "the global mode counts for a resource that an execution rule names", policy: config.Policy{ResolveImages: config.AttemptRewrite, ExecutionRules: denyOnPods}, resource: pods, local: true, other: true},
		"DefaultNamedElse":       {reason: "and for no other", policy: config.Policy{ResolveImages: config.AttemptRewrite, ExecutionRules: denyOnPods}, resource: deployments, local: true},
		"DefaultNamedAttempt":    {reason: "a global mode that replaces nothing replaces nothing", policy: config.Policy{ExecutionRules: denyOnPods}, resource: pods, local: true},
		"DefaultNamedAny":        {reason: "an execution rule about a group names its resources", policy: config.Policy{ResolveImages: config.AttemptRewrite, ExecutionRules: []config.ExecutionRule{{Name: "a", OnResources: []config.GroupResource{{Group: "apps", Resource: "*"}}}}}, resource: deployments, local: true, other: true},
		"DefaultNamedJobsUpdate": {reason: "not even then is a job that exists changed", policy: config.Policy{ResolveImages: config.RequiredRewrite, ExecutionRules: []config.ExecutionRule{{Name: "a", OnResources: []config.GroupResource{config.GroupResource(jobs)}}}}, resource: jobs, updating: true},

		"NoRules":         {reason: "without rules the global mode counts", policy: config.Policy{ResolveImages: config.AttemptRewrite, ResolutionRules: none}, resource: deployments, local: true, other: true},
		"NoRulesAttempt":  {reason: "without rules no name is local", policy: config.Policy{ResolutionRules: none}, resource: deployments},
		"NoRulesJobs":     {reason: "a job that exists cannot be changed by any policy", policy: config.Policy{ResolveImages: config.RequiredRewrite, ResolutionRules: none}, resource: jobs, updating: true},
		"NoRulesRollouts": {reason: "rules that are given are all the rules", policy: config.Policy{ResolutionRules: none}, resource: rollouts},

		"Rule":            {reason: "a rule's mode counts", policy: config.Policy{ResolutionRules: []config.ResolutionRule{on(deployments, false, config.AttemptRewrite)}}, resource: deployments, local: true, other: true},
		"RuleRequired":    {reason: "of a Required mode the part that replaces counts", policy: config.Policy{ResolutionRules: []config.ResolutionRule{on(deployments, false, config.RequiredRewrite)}}, resource: deployments, local: true, other: true},
		"RuleRequiredNot": {reason: "Required alone replaces nothing", policy: config.Policy{ResolutionRules: []config.ResolutionRule{on(deployments, false, config.Required)}}, resource: deployments},
		"RuleNone":        {reason: "where a rule covers the resource, the global mode does not count", policy: config.Policy{ResolveImages: config.RequiredRewrite, ResolutionRules: []config.ResolutionRule{on(deployments, false, config.DoNotAttempt)}}, resource: deployments},
		"RuleElse":        {reason: "a rule is about its resource", policy: config.Policy{ResolutionRules: []config.ResolutionRule{on(pods, true, config.AttemptRewrite)}}, resource: deployments},
		"RuleOtherGroup":  {reason: "a resource of another group is another", policy: config.Policy{ResolutionRules: []config.ResolutionRule{on(schema.GroupResource{Group: "extensions", Resource: "deployments"}, true, config.AttemptRewrite)}}, resource: deployments},
		"RuleLocal":       {reason: "local names are replaced whatever the mode", policy: config.Policy{ResolutionRules: []config.ResolutionRule{on(deployments, true, config.DoNotAttempt)}}, resource: deployments, local: true},
		"RuleGlobal":      {reason: "a rule without a mode has the global one", policy: config.Policy{ResolveImages: config.RequiredRewrite, ResolutionRules: []config.ResolutionRule{on(deployments, false, "")}}, resource: deployments, local: true, other: true},
		"RuleGlobalNot":   {reason: "a rule without a mode has the global one", policy: config.Policy{ResolutionRules: []config.ResolutionRule{on(deployments, false, "")}}, resource: deployments},
		"RulesAddUp":      {reason: "of several rules one is enough", policy: config.Policy{ResolutionRules: []config.ResolutionRule{on(deployments, false, config.AttemptRewrite), on(deployments, false, config.DoNotAttempt)}}, resource: deployments, local: true, other: true},
		"RulesAddUpLocal": {reason: "of several rules one is enough", policy: config.Policy{ResolutionRules: []config.ResolutionRule{on(deployments, false, config.DoNotAttempt), on(deployments, true, config.DoNotAttempt)}}, resource: deployments, local: true},
		"Any":             {reason: "* is every resource of a group", policy: config.Policy{ResolutionRules: []config.ResolutionRule{on(allOf("apps"), true, config.DoNotAttempt)}}, resource: deployments, local: true},
		"AnyElse":         {reason: "* is no other group", policy: config.Policy{ResolutionRules: []config.ResolutionRule{on(allOf("apps"), true, config.DoNotAttempt)}}, resource: jobs},
		"AnyAddsUp":       {reason: "* adds to the rule of a resource", policy: config.Policy{ResolutionRules: []config.ResolutionRule{on(deployments, false, config.DoNotAttempt), on(allOf("apps"), false, config.AttemptRewrite)}}, resource: deployments, local: true, other: true},
		"AnyRevisions":    {reason: "a revision counts as a pod, whatever its group", policy: config.Policy{ResolutionRules: []config.ResolutionRule{on(allOf("apps"), true, config.AttemptRewrite)}}, resource: revisions},
		"PodsEphemeral":   {reason: "a rule about pods is about their ephemeral containers", policy: config.Policy{ResolutionRules: []config.ResolutionRule{on(pods, false, config.AttemptRewrite)}}, resource: ephemeral, updating: true, local: true, other: true},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if tc.policy.ResolveImages == "" {
				tc.policy.ResolveImages = config.Attempt
			}
			p := compile(t, tc.policy, argo...)
			if local := p.Rewrites(tc.resource, tc.updating, true); local != tc.local {
				t.Errorf("%s: a local name: got %t", tc.reason, local)
			}
			if other := p.Rewrites(tc.resource, tc.updating, false); other != tc.other {
				t.Errorf("%s: another name: got %t", tc.reason, other)
			}
		})
	}
}

func TestLooks(t *testing.T) {
	blind := func(rules ...config.ResolutionRule) config.Policy {
		return config.Policy{ResolveImages: config.DoNotAttempt, ResolutionRules: append([]config.ResolutionRule{}, rules...)}
	}
	cases := map[string]struct {
		reason   string
		policy   config.Policy
		resource schema.GroupResource
		want     bool
	}{
		"Global":        {"the global mode looks up everywhere", config.Policy{ResolveImages: config.Attempt, ResolutionRules: []config.ResolutionRule{}}, deployments, true},
		"GlobalNot":     {"nobody asks", blind(), pods, false},
		"Covered":       {"a rule looks up, even one that says not to", blind(on(deployments, false, config.DoNotAttempt)), deployments, true},
		"CoveredElse":   {"a rule is about its resource", blind(on(deployments, true, config.Attempt)), jobs, false},
		"CoveredAny":    {"* is every resource of a group", blind(on(allOf("batch"), true, config.Attempt)), jobs, true},
		"CoveredAsPods": {"ephemeral containers are a pod's", blind(on(pods, true, config.Attempt)), ephemeral, true},
		"Default":       {"the default rules cover what has pods", config.Policy{ResolveImages: config.DoNotAttempt}, rollouts, true},
		"DefaultElse":   {"and nothing else", config.Policy{ResolveImages: config.DoNotAttempt}, schema.GroupResource{Group: "a.example.com", Resource: "bs"}, false},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if got := compile(t, tc.policy, argo...).Looks(tc.resource); got != tc.want {
				t.Errorf("%s: got %t", tc.reason, got)
			}
		})
	}
}

// TestRequires has what surprises users of OpenShift: only the global mode refuses.
func TestRequires(t *testing.T) {
	cases := map[string]struct {
		reason string
		policy config.Policy
		want   bool
	}{
		"Rule":      {"a rule's Required refuses nothing", config.Policy{ResolveImages: config.Attempt, ResolutionRules: []config.ResolutionRule{on(pods, true, config.Required), on(deployments, true, config.RequiredRewrite)}}, false},
		"Global":    {"the global Required refuses everywhere", config.Policy{ResolveImages: config.Required, ResolutionRules: []config.ResolutionRule{on(pods, true, config.DoNotAttempt)}}, true},
		"Rewrite":   {"so does RequiredRewrite", config.Policy{ResolveImages: config.RequiredRewrite}, true},
		"Default":   {"what OpenShift ships refuses nothing", config.DefaultPolicy(), false},
		"Execution": {"nor does a rule about which images may run", config.Policy{ResolveImages: config.Attempt, ExecutionRules: []config.ExecutionRule{{Name: "a", Reject: true}}}, false},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if got := compile(t, tc.policy).Requires(); got != tc.want {
				t.Errorf("%s: got %t", tc.reason, got)
			}
		})
	}
}

func TestIntegrated(t *testing.T) {
	cases := map[string]struct {
		reason string
		hosts  []string
		host   string
		want   bool
	}{
		"None":        {"no hosts match nothing", nil, "quay.io", false},
		"NoneEmpty":   {"no hosts match no host", nil, "", false},
		"Empty":       {"a name without a host is named by none", []string{"r.example.com"}, "", false},
		"Same":        {"a host is its name and port", []string{"a.example.com", "r.svc:5000"}, "r.svc:5000", true},
		"Case":        {"hosts have no case", []string{"R.example.com"}, "r.EXAMPLE.com", true},
		"Port":        {"another port is another registry", []string{"r.svc:5000"}, "r.svc", false},
		"DefaultPort": {"443 goes without saying", []string{"r.example.com:443"}, "r.example.com", true},
		"PortGiven":   {"443 may be said", []string{"r.example.com"}, "r.example.com:443", true},
		"Prefix":      {"a host is compared as a whole", []string{"r.example.com"}, "r.example.com.evil.example.com", false},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			p := compile(t, config.Policy{ResolveImages: config.Attempt, RegistryHosts: tc.hosts})
			if got := p.Integrated(tc.host); got != tc.want {
				t.Errorf("%s: got %t", tc.reason, got)
			}
		})
	}
}

func TestNeedsImages(t *testing.T) {
	one := []config.ValueCondition{{Key: "a"}}
	cases := map[string]struct {
		reason string
		rules  []config.ExecutionRule
		want   bool
	}{
		"None":         {"no rule asks", nil, false},
		"Registries":   {"a registry is part of the name", []config.ExecutionRule{{Name: "a", MatchRegistries: []string{"quay.io"}, MatchIntegratedRegistry: true}}, false},
		"Everything":   {"a rule without conditions asks nothing", []config.ExecutionRule{{Name: "a"}}, false},
		"DockerLabels": {"labels of the configuration are the image's", []config.ExecutionRule{{Name: "a"}, {Name: "b", MatchDockerImageLabels: one}}, true},
		"Labels":       {"labels are the image's", []config.ExecutionRule{{Name: "a", MatchImageLabels: []metav1.LabelSelector{{}}}}, true},
		"Annotations":  {"annotations are the image's", []config.ExecutionRule{{Name: "a", MatchImageAnnotations: one}}, true},
		"Skip":         {"whether anything is known is a question, too", []config.ExecutionRule{{Name: "a", SkipOnResolutionFailure: true}}, true},
		"Elsewhere":    {"whatever the rule is about", []config.ExecutionRule{{Name: "a", OnResources: []config.GroupResource{{Group: "batch", Resource: "*"}}, MatchImageAnnotations: one}}, true},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if got := compile(t, config.Policy{ResolveImages: config.Attempt, ExecutionRules: tc.rules}).NeedsImages(); got != tc.want {
				t.Errorf("%s: got %t", tc.reason, got)
			}
			if !compile(t, config.Policy{ResolveImages: config.Required, ExecutionRules: tc.rules}).NeedsImages() {
				t.Error("a digest is required to be that of an image in the store")
			}
		})
	}
}

func TestHost(t *testing.T) {
	cases := map[string]struct{ reason, image, want string }{
		"Bare":          {"a name alone names no registry", "mysql:5.7", ""},
		"BareDotted":    {"a dot in a name alone is no registry's", "node.js:18", ""},
		"BareLocalhost": {"nor is a name that begins like one", "localhosting", ""},
		"BareDigest":    {"a digest is no registry", "mysql@sha256:0", ""},
		"Path":          {"a path names no registry", "library/mysql", ""},
		"Host":          {"a dot makes a host", "quay.io/a/b:1", "quay.io"},
		"Port":          {"a port makes a host", "registry:5000/a@sha256:0", "registry:5000"},
		"Localhost":     {"localhost is a host", "localhost/a", "localhost"},
		"Capitals":      {"no path has capitals", "Registry/a", "Registry"},
		"Empty":         {"nothing names nothing", "", ""},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if got := Host(tc.image); got != tc.want {
				t.Errorf("%s: got %q", tc.reason, got)
			}
		})
	}
}

func TestCompileRefuses(t *testing.T) {
	if _, err := Compile(config.Policy{ExecutionRules: []config.ExecutionRule{unselectable}}, nil); err == nil {
		t.Error("a selector that cannot be read is an error, not a rule that selects nothing")
	}
}

// TestHotPath counts what admission does for every image.
func TestHotPath(t *testing.T) {
	p := compile(t, config.Policy{
		ResolveImages: config.Attempt,
		ExecutionRules: []config.ExecutionRule{
			{Name: "a", MatchRegistries: []string{"quay.io", "docker.io"}, MatchIntegratedRegistry: true, OnResources: []config.GroupResource{{Group: "apps", Resource: "*"}}},
			{
				Name: "b", OnResources: []config.GroupResource{{Group: "apps", Resource: "deployments"}}, Reject: true,
				MatchDockerImageLabels: []config.ValueCondition{{Key: "a", Set: true}},
				MatchImageLabels:       []metav1.LabelSelector{{MatchLabels: map[string]string{"a": "b"}, MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "c", Operator: "NotIn", Values: []string{"d", "e"}}}}},
				MatchImageAnnotations:  []config.ValueCondition{{Key: "a"}},
			},
		},
		RegistryHosts: []string{"r.svc:5000", "quay.io"},
	}, argo...)
	image := Image{Resource: deployments, Registry: "QUAY.io:443", Known: &Known{
		Labels: map[string]string{"a": "b"}, Annotations: map[string]string{}, DockerLabels: map[string]string{"a": ""},
	}}
	exempt := []string{"c"}
	if allocated := testing.AllocsPerRun(100, func() {
		_ = p.Looks(deployments) && p.Requires() && p.Rewrites(rollouts, true, true) && p.NeedsImages()
		_ = p.Integrated("R.svc:5000")
		if rule, ok := p.Check(image, exempt); rule != "b" || ok {
			t.Errorf("got %q, %t", rule, ok)
		}
	}); allocated > 0 {
		t.Errorf("%v allocations", allocated)
	}
}
