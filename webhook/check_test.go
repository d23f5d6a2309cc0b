package webhook

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	admissionv1 "k8s.io/api/admission/v1"
	authenticationv1 "k8s.io/api/authentication/v1"

	"istag.dev/config"
	"istag.dev/resolver"
	"istag.dev/webhook/audit"
	"istag.dev/webhook/policy"
	"istag.dev/webhook/scope"
)

// rulesOf changes the policy to one with execution rules, about pods and Deployments.
func rulesOf(rules ...config.ExecutionRule) func(*config.Policy) {
	for i := range rules {
		rules[i].OnResources = []config.GroupResource{{Resource: "pods"}, {Group: "apps", Resource: "deployments"}, {Group: "apps", Resource: "replicasets"}}
	}
	return func(c *config.Policy) { c.ExecutionRules, c.RegistryHosts = rules, []string{internal} }
}

// knownImages has the image of digest, which its maker has called "bad", and that of oldDigest.
func knownImages(asked *[]string) imagesFunc {
	return func(d string) (*policy.Known, error) {
		*asked = append(*asked, d)
		switch d {
		case digest:
			return &policy.Known{Annotations: map[string]string{"images.openshift.io/deny-execution": "true"}}, nil
		case oldDigest:
			return &policy.Known{}, nil
		default:
			return nil, nil
		}
	}
}

var (
	// denyExecution is the rule that OpenShift documents.
	denyExecution = config.ExecutionRule{Name: "execution-denied", Reject: true, SkipOnResolutionFailure: true,
		MatchImageAnnotations: []config.ValueCondition{{Key: "images.openshift.io/deny-execution", Value: "true"}}}
	noHub  = config.ExecutionRule{Name: "no-hub", Reject: true, MatchRegistries: []string{"docker.io"}, IgnoreNamespaceOverride: true}
	onlyUs = config.ExecutionRule{Name: "only-quay", MatchRegistries: []string{"quay.io"}}
)

func TestCheck(t *testing.T) {
	pins := resolver.Pins{"a": {Written: "keycloak:1", Istag: "keycloak:1", PullSpec: oldPulled}}
	required := func(c *config.Policy) {
		c.ResolveImages = config.Required
		c.ResolutionRules = []config.ResolutionRule{{TargetResource: config.GroupResource{Resource: "pods"}, LocalNames: false}}
	}
	enforce := scope.Settings{Mode: scope.Enforce}
	pods := func(image string) admissionv1.AdmissionRequest { return request("pods", podOf(image, ""), "") }
	cases := map[string]struct {
		reason   string
		settings scope.Settings
		policy   func(*config.Policy)
		request  admissionv1.AdmissionRequest
		denied   []string // parts of the message; none means allowed
		warning  string
		rule     string
		decision resolver.Reason // in the audit log, empty means no record
		asked    int             // how often what is known of an image was asked for
	}{
		"Nothing": {reason: "what was pinned is not recorded twice", settings: enforce, request: pods(pulled)},
		"Kept":    {reason: "an image that is what the annotation says", settings: enforce, request: request("pods", podWith(pinnedAs(pins), "a="+oldPulled), "")},
		"Changed": {
			reason: "another webhook changed it", settings: enforce, request: request("pods", podWith(pinnedAs(pins), "a=evil/x"), ""),
			denied: []string{"spec.containers[0].image: Forbidden", oldPulled, `"evil/x"`}, decision: ReasonImageChanged,
		},
		"ChangedUpdate": {
			reason: "on updates too", settings: enforce, request: request("pods", podWith(pinnedAs(pins), "a=evil/x"), podWith("", "a=x/y")),
			denied: []string{"was changed"}, decision: ReasonImageChanged,
		},
		"ChangedByUser": {reason: "users may change what was pinned before", settings: enforce, request: request("pods", podWith(pinnedAs(pins), "a=evil/x"), podWith(pinnedAs(pins), "a="+oldPulled))},
		"ChangedCopy":   {reason: "or write another image into a copy", settings: enforce, request: request("pods", podWith(`"managedFields":[{"fieldsV1":{"f:metadata":{"f:annotations":{"f:istag.dev/pinned":{}}}}}],`+pinnedAs(pins), "a=evil/x"), "")},
		"Mirrored":      {reason: "the same digest is the same image, wherever it is pulled from", settings: enforce, request: request("pods", podWith(pinnedAs(pins), "a=mirror.example.com/k@"+oldDigest), "")},
		"ChangedBefore": {reason: "what was there stays", settings: enforce, request: request("pods", podWith(pinnedAs(pins), "a=evil/x"), podWith(pinnedAs(pins), "a=evil/x"))},
		"ChangedWarn":   {reason: "where nothing is replaced the annotation means nothing", settings: scope.Settings{Mode: scope.Warn}, request: request("pods", podWith(pinnedAs(pins), "a=evil/x"), "")},
		"ChangedOwned":  {reason: "what a controller made is left", settings: enforce, request: request("replicasets", revisionOf("", pinnedAs(pins)+","+owned, "a=evil/x"), "")},
		"ChangedPod": {
			reason: "where pods are pinned the pods of controllers are looked at", settings: scope.Settings{Mode: scope.Enforce, PodPlacement: true},
			request: request("pods", podWith(pinnedAs(pins)+","+owned, "a=evil/x"), ""), denied: []string{"was changed"}, decision: ReasonImageChanged,
		},
		"ChangedRevision": {reason: "a revision has its workload's annotations", settings: scope.Settings{Mode: scope.Enforce, PodPlacement: true}, request: request("replicasets", revisionOf("", pinnedAs(pins)+","+owned, "a=evil/x"), "")},

		"Rule": {
			reason: "a rule refuses an image by what is known of it", settings: enforce, policy: rulesOf(denyExecution), request: pods(pulled), asked: 1,
			denied: []string{`execution rule "execution-denied" refuses image ` + pulled, "ask whoever administers", "ignore-rules: execution-denied"}, rule: "execution-denied", decision: ReasonRule,
		},
		"RuleExempt": {reason: "a namespace may exempt itself", settings: scope.Settings{Mode: scope.Enforce, IgnoreRules: []string{"execution-denied"}}, policy: rulesOf(denyExecution), request: pods(pulled), asked: 1},
		"RulePasses": {reason: "another image is fine", settings: enforce, policy: rulesOf(denyExecution), request: pods(oldPulled), asked: 1},
		"RuleOnce":   {reason: "an image is asked about once", settings: enforce, policy: rulesOf(denyExecution), request: request("pods", podWith("", "a="+oldPulled, "b="+oldPulled), ""), asked: 1},
		"RuleName": {
			reason: "a name that is not replaced counts as what it means", settings: enforce, policy: rulesOf(denyExecution), request: request("deployments", deploymentOf("keycloak:1", ""), ""), asked: 1,
			denied: []string{"spec.template.spec.containers[0].image", pulled}, rule: "execution-denied", decision: ReasonRule,
		},
		"RuleLock": {
			reason: "or is locked to", settings: scope.Settings{Mode: scope.Enforce, PodPlacement: true}, policy: rulesOf(denyExecution),
			request: request("replicasets", revisionOf("", lockedAs(lockOf(oldPulled, "keycloak:1")), "a=keycloak:1"), ""), asked: 1,
		},
		"RuleTemplate": {
			reason: "templates that stay as they are written are checked, too", settings: scope.Settings{Mode: scope.Enforce, PodPlacement: true}, policy: rulesOf(denyExecution),
			request: request("deployments", deploymentOf("keycloak:1", ""), ""), asked: 1, denied: []string{pulled}, rule: "execution-denied", decision: ReasonRule,
		},
		"RuleFullName": {
			reason: "a full name of another namespace's stream counts as what it means, for who may know", settings: enforce, policy: rulesOf(denyExecution), request: pods(internal + "/shop/global:1"), asked: 1,
			denied: []string{pulled}, rule: "execution-denied", decision: ReasonRule,
		},
		"RuleHost": {
			reason: "a rule for all has no way out", settings: scope.Settings{Mode: scope.Enforce, IgnoreRules: []string{"no-hub"}}, policy: rulesOf(noHub), request: pods("mysql"),
			denied: []string{`execution rule "no-hub" refuses image mysql: ask whoever`}, rule: "no-hub", decision: ReasonRule,
		},
		"RuleNone": {
			reason: "if rules accept, one has to", settings: enforce, policy: rulesOf(onlyUs), request: pods("ghcr.io/x/y:1"),
			denied: []string{"no execution rule accepts image ghcr.io/x/y:1"}, decision: ReasonRule,
		},
		"RuleAccepts":    {reason: "one does", settings: enforce, policy: rulesOf(onlyUs), request: pods("quay.io/x/y:1")},
		"RuleWarn":       {reason: "the user is told", settings: scope.Settings{Mode: scope.Warn}, policy: rulesOf(noHub), request: pods("mysql"), warning: `would refuse "mysql" in container "a": execution rule "no-hub"`, rule: "no-hub", decision: ReasonRule},
		"RuleAudit":      {reason: "the log has it", settings: scope.Settings{Mode: scope.Audit}, policy: rulesOf(noHub), request: pods("mysql"), rule: "no-hub", decision: ReasonRule},
		"RuleUnchanged":  {reason: "what was there stays", settings: enforce, policy: rulesOf(noHub), request: request("pods", podOf("mysql", ""), podOf("mysql", ""))},
		"RuleOwned":      {reason: "as in OpenShift, the pods of controllers are left", settings: enforce, policy: rulesOf(noHub), request: request("pods", podOf("mysql", owned), "")},
		"RuleOff":        {reason: "other namespaces are none of ours", policy: rulesOf(noHub), request: pods("mysql")},
		"RuleOfResource": {reason: "a rule is about some resources", settings: enforce, policy: rulesOf(noHub), request: request("statefulsets", deploymentOf("mysql", ""), "")},
		"RuleSeveral": {
			reason: "all that is wrong is said", settings: enforce, policy: rulesOf(noHub), request: request("pods", podWith("", "a=mysql", "b=redis"), ""),
			denied: []string{"containers[0]", "containers[1]"}, rule: "no-hub", decision: ReasonRule,
		},

		"RequiredKnown": {reason: "a digest that a stream had is resolved", settings: enforce, policy: required, request: pods(oldPulled), asked: 1},
		"RequiredUnknown": {
			reason: "another is not", settings: enforce, policy: required, request: pods("quay.io/x@sha256:cccc000000000000000000000000000000000000000000000000000000000000"), asked: 1,
			denied: []string{"no image stream has ever had"}, decision: ReasonUnknownImage,
		},
		"RequiredName":       {reason: "a name that is not replaced resolves", settings: enforce, policy: required, request: pods("keycloak:1"), asked: 1},
		"RequiredUnresolved": {reason: "or does not", settings: enforce, policy: required, request: pods("quay.io/x/y:1"), denied: []string{"one exact image"}, decision: resolver.ReasonNotLocalName},
		"RequiredTemplate": {
			reason: "where pods are pinned it is their revisions that have to resolve", settings: scope.Settings{Mode: scope.Enforce, PodPlacement: true}, policy: required,
			request: request("deployments", deploymentOf("quay.io/x/y:1", ""), ""),
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			var asked []string
			p := newPinner(t, func(o *Options) {
				o.Scopes, o.Images, o.Audit = settings(tc.settings), knownImages(&asked), audit.NewLog(&log)
				o.Policy = policyOf(t, nil, tc.policy)
			})
			response := askCheck(t, p, tc.request)
			message := ""
			if response.Result != nil {
				message = response.Result.Message
			}
			if response.Allowed != (len(tc.denied) == 0) || response.Patch != nil || len(asked) != tc.asked {
				t.Errorf("%s: allowed %v, %q, asked about %v", tc.reason, response.Allowed, message, asked)
			}
			for _, text := range tc.denied {
				if !strings.Contains(message, text) {
					t.Errorf("%s: message %q lacks %q", tc.reason, message, text)
				}
			}
			if got := strings.Join(response.Warnings, " "); !strings.Contains(got, tc.warning) || (got == "") != (tc.warning == "") {
				t.Errorf("%s: warnings %q", tc.reason, got)
			}
			records := recordsOf(t, &log)
			if (len(records) == 0) != (tc.decision == "") {
				t.Fatalf("%s: records %+v", tc.reason, records)
			}
			for _, a := range records {
				if a.Webhook != "check" || a.Decision != "denied" || a.Reason != tc.decision || a.Rule != tc.rule || a.PullSpec != "" {
					t.Errorf("%s: record %+v", tc.reason, a)
				}
			}
		})
	}
}

func TestCheckThatCannotBeTold(t *testing.T) {
	for mode, want := range map[scope.Mode]bool{scope.Enforce: false, scope.Warn: true, scope.Audit: true} {
		p := newPinner(t, func(o *Options) {
			o.Scopes = settings{Mode: mode}
			o.Images = imagesFunc(func(string) (*policy.Known, error) { return nil, errors.New("down") })
			o.Policy = policyOf(t, nil, rulesOf(denyExecution))
		})
		if got := askCheck(t, p, request("pods", podOf(pulled, ""), "")); got.Allowed != want || !want && got.Result.Code != 503 {
			t.Errorf("mode %s: a rule that cannot be asked lets nothing through: %+v", mode, got)
		}
		if got := askCheck(t, p, request("pods", podOf("quay.io/x/y", ""), "")); !got.Allowed {
			t.Errorf("mode %s: of what has no digest nothing is known anyway: %+v", mode, got.Result)
		}
	}
}

func TestFullNamesAskForRightsOnlyIfNeedBe(t *testing.T) {
	rewriting := func(c *config.Policy) {
		c.RegistryHosts, c.ResolveImages = []string{internal}, config.AttemptRewrite
		c.ResolutionRules = []config.ResolutionRule{{TargetResource: config.GroupResource{Resource: "pods"}, Policy: config.AttemptRewrite}}
	}
	shipped := func(c *config.Policy) { c.RegistryHosts = []string{internal} }
	cases := map[string]struct {
		reason string
		policy func(*config.Policy)
		image  string
		check  bool
		asked  []string
		want   string // decision and reason
	}{
		"Shipped":    {"the policy as it is shipped wants to know nothing", shipped, internal + "/base/base", false, nil, "left Policy: "},
		"CheckNone":  {"nor does the check without rules that ask", rulesOf(noHub), internal + "/base/base", true, nil, ""},
		"CheckRules": {"with such rules it does", rulesOf(denyExecution), internal + "/base/base", true, []string{"alice base/base"}, ""},
		"Rewriting":  {"a policy that replaces does", rewriting, internal + "/base/base", false, []string{"alice base/base"}, "left NoAccess: "},
		"Own":        {"one's own namespace is one's own", rewriting, internal + "/shop/global:1", false, nil, "pinned RegistryHost: "},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			var asked, known []string
			var log bytes.Buffer
			p := newPinner(t, func(o *Options) {
				o.Policy, o.Images, o.Audit = policyOf(t, nil, tc.policy), knownImages(&known), audit.NewLog(&log)
				o.Access = accessFunc(func(user authenticationv1.UserInfo, namespace, stream string) (bool, error) {
					asked = append(asked, user.Username+" "+namespace+"/"+stream)
					return false, nil
				})
			})
			r := request("pods", podOf(tc.image, ""), "")
			send := ask
			if tc.check {
				send = askCheck
			}
			response := send(t, p, r)
			if diff := cmp.Diff(tc.asked, asked); diff != "" || !response.Allowed {
				t.Errorf("%s: allowed %v: -want +got:\n%s", tc.reason, response.Allowed, diff)
			}
			got := ""
			if records := recordsOf(t, &log); len(records) > 0 {
				got = records[0].Decision + " " + string(records[0].Reason) + ": "
				if records[0].Decision == "left" && (records[0].StreamGeneration != 0 || records[0].PullSpec != "") {
					t.Errorf("%s: what the user may not know is not told: %+v", tc.reason, records[0])
				}
			}
			if got != tc.want {
				t.Errorf("%s: decided %q, want %q", tc.reason, got, tc.want)
			}
		})
	}
}
