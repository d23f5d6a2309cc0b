package scope

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParse(t *testing.T) {
	type texts = map[string]string
	cases := []struct {
		reason, name        string
		labels, annotations texts
		want                Settings
		problems            []string
	}{
		{reason: "a namespace that asks for nothing is none of ours"},
		{reason: "nor is one that only says how", labels: texts{PlacementLabel: "pod", OnReapplyLabel: "hold", OnUnresolvedLabel: "allow"}, annotations: texts{IgnoreRulesAnnotation: "a"}},
		{reason: "enforce", labels: texts{AdmissionLabel: "enforce"}, want: Settings{Mode: Enforce}},
		{reason: "warn", labels: texts{AdmissionLabel: "warn"}, want: Settings{Mode: Warn}},
		{reason: "audit", labels: texts{AdmissionLabel: "audit"}, want: Settings{Mode: Audit}},
		{
			reason: "every default may be written out",
			labels: texts{AdmissionLabel: "enforce", PlacementLabel: "template", OnReapplyLabel: "resolve", OnUnresolvedLabel: "deny"},
			want:   Settings{Mode: Enforce},
		},
		{
			reason:      "everything may be otherwise",
			labels:      texts{AdmissionLabel: "enforce", PlacementLabel: "pod", OnReapplyLabel: "hold", OnUnresolvedLabel: "allow"},
			annotations: texts{IgnoreRulesAnnotation: "a,b"},
			want:        Settings{Mode: Enforce, PodPlacement: true, HoldOnReapply: true, AllowUnresolved: true, IgnoreRules: []string{"a", "b"}},
		},
		{
			reason: "the names of rules are taken as they are, as in OpenShift", labels: texts{AdmissionLabel: "warn"},
			annotations: texts{IgnoreRulesAnnotation: "a, b"}, want: Settings{Mode: Warn, IgnoreRules: []string{"a", " b"}},
		},
		{
			reason: "an empty list exempts from nothing", labels: texts{AdmissionLabel: "warn"},
			annotations: texts{IgnoreRulesAnnotation: ""}, want: Settings{Mode: Warn},
		},
		{
			reason: "a typo in the label that switches us on must not do anything to anyone, but be told",
			labels: texts{AdmissionLabel: "enforced", PlacementLabel: "pod"}, problems: []string{`istag.dev/admission is "enforced": expected one of enforce, warn, audit`},
		},
		{reason: "capitals are a typo", labels: texts{AdmissionLabel: "Enforce"}, problems: []string{"istag.dev/admission"}},
		{reason: "so is nothing at all", labels: texts{AdmissionLabel: ""}, problems: []string{"istag.dev/admission"}},
		{
			reason: "a typo in another leaves the default, which is the safe one",
			labels: texts{AdmissionLabel: "enforce", PlacementLabel: "pods", OnReapplyLabel: "", OnUnresolvedLabel: "Allow"},
			want:   Settings{Mode: Enforce},
			problems: []string{
				`istag.dev/placement is "pods": expected one of template, pod`,
				`istag.dev/on-reapply is "": expected one of resolve, hold`,
				`istag.dev/on-unresolved is "Allow": expected one of deny, allow`,
			},
		},
		{reason: "a cluster must be able to start without us", name: "kube-system", labels: texts{AdmissionLabel: "enforce"}},
		{reason: "its nodes must stay alive", name: "kube-node-lease", labels: texts{AdmissionLabel: "enforce"}},
		{reason: "and new ones join", name: "kube-public", labels: texts{AdmissionLabel: "enforce"}},
		{reason: "those three names are exact", name: "kube-systems", labels: texts{AdmissionLabel: "enforce"}, want: Settings{Mode: Enforce}},
	}
	for _, tc := range cases {
		got, problems := parse(tc.name, tc.labels, tc.annotations)
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s: parse (-want +got):\n%s", tc.reason, diff)
		}
		if diff := cmp.Diff(tc.want, Parse(tc.name, tc.labels, tc.annotations)); diff != "" {
			t.Errorf("%s: Parse (-want +got):\n%s", tc.reason, diff)
		}
		if !slices.EqualFunc(problems, tc.problems, func(p problem, text string) bool { return strings.Contains(p.String(), text) }) {
			t.Errorf("%s: problems are %v, want %q", tc.reason, problems, tc.problems)
		}
	}
}
