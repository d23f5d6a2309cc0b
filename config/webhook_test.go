package config

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestWebhook(t *testing.T) {
	c, err := Parse([]byte(head + `
webhook:
  auditLog: {path: /var/log/istag/audit.log, maxSizeMB: 5, maxFiles: 0, maxAgeDays: 7}
  firstImportWait: 0s
  workloads:
  - {group: argoproj.io, resource: rollouts, podSpec: spec.template.spec}
  - {group: ray.io, resource: rayclusters, podSpec: "spec.workerGroupSpecs[*].template.spec"}
`))
	if err != nil {
		t.Fatal(err)
	}
	want := Default().Webhook
	want.AuditLog = AuditLog{Path: "/var/log/istag/audit.log", MaxSizeMB: 5, MaxFiles: 0, MaxAgeDays: 7}
	want.FirstImportWait.Duration = 0
	want.Workloads = []Workload{
		{Group: "argoproj.io", Resource: "rollouts", PodSpec: "spec.template.spec"},
		{Group: "ray.io", Resource: "rayclusters", PodSpec: "spec.workerGroupSpecs[*].template.spec"},
	}
	if diff := cmp.Diff(want, c.Webhook); diff != "" {
		t.Errorf("fields that are set override, others keep their defaults: -want +got:\n%s", diff)
	}
	c, err = Parse([]byte(head + "webhook: {auditLog: {path: /a}, firstImportWait: 3s}"))
	if err != nil || c.Webhook.AuditLog.MaxSizeMB != 100 || c.Webhook.FirstImportWait.Duration != 3*time.Second {
		t.Errorf("a part of a section leaves the rest as it is: %+v, %v", c, err)
	}
}

func TestWebhookRefuses(t *testing.T) {
	cases := map[string]struct {
		reason, webhook string
		says            string
	}{
		"AuditPath":        {"decisions are recorded somewhere", `auditLog: {path: ""}`, "webhook.auditLog.path"},
		"AuditOld":         {"the audit log has several fields", `auditLog: "-"`, "auditLog"},
		"AuditSize":        {"a file of no size holds nothing", "auditLog: {maxSizeMB: 0}", "webhook.auditLog.maxSizeMB: Invalid value: 0: must be at least 1"},
		"AuditFiles":       {"there are no fewer files than none", "auditLog: {maxFiles: -1}", "webhook.auditLog.maxFiles"},
		"AuditAge":         {"there is no age below none", "auditLog: {maxAgeDays: -1}", "webhook.auditLog.maxAgeDays"},
		"WaitLong":         {"a review has to answer in time", "firstImportWait: 3001ms", "webhook.firstImportWait"},
		"WaitNegative":     {"time does not run backwards", "firstImportWait: -1s", "webhook.firstImportWait"},
		"WorkloadGroup":    {"a custom resource has a group", "workloads: [{resource: a, podSpec: spec}]", "webhook.workloads[0].group"},
		"WorkloadBuiltIn":  {"what is known anyway would be looked at twice", "workloads: [{group: apps, resource: deployments, podSpec: spec}]", "webhook.workloads[0].group"},
		"WorkloadVersion":  {"a version is not part of a group", "workloads: [{group: a.io/v1, resource: a, podSpec: spec}]", "webhook.workloads[0].group"},
		"WorkloadKind":     {"a kind is not a resource, and would match nothing", "workloads: [{group: a.io, resource: Rollout, podSpec: spec}]", "webhook.workloads[0].resource"},
		"WorkloadTwice":    {"two paths would contradict each other", "workloads: [{group: a.io, resource: as, podSpec: spec}, {group: a.io, resource: as, podSpec: spec.b}]", "webhook.workloads[1]"},
		"WorkloadNoPath":   {"a pod spec is somewhere", "workloads: [{group: a.io, resource: as}]", "webhook.workloads[0].podSpec"},
		"WorkloadPointer":  {"a path is not a JSON pointer", "workloads: [{group: a.io, resource: as, podSpec: /spec/template}]", "webhook.workloads[0].podSpec"},
		"WorkloadIndex":    {"one element of a list has no meaning of its own", `workloads: [{group: a.io, resource: as, podSpec: "spec.a[0].b"}]`, "webhook.workloads[0].podSpec"},
		"WorkloadDots":     {"names are not empty", "workloads: [{group: a.io, resource: as, podSpec: spec..template}]", "webhook.workloads[0].podSpec"},
		"WorkloadMisspelt": {"a misspelled field must not be ignored", "workloads: [{group: a.io, resource: as, podSpecs: spec}]", "podSpecs"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if _, err := Parse([]byte(head + "webhook:\n  " + tc.webhook)); err == nil || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("%s: the error says %q: got %v", tc.reason, tc.says, err)
			}
		})
	}
}
