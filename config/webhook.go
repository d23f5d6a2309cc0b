package config

import (
	"fmt"
	"regexp"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// maxFirstImportWait leaves a review time to answer within its deadline of 5 s.
const maxFirstImportWait = 3 * time.Second

// podSpecPath is the grammar of Workload.PodSpec.
var podSpecPath = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_-]*(\[\*\])?(\.[A-Za-z][A-Za-z0-9_-]*(\[\*\])?)*$`)

func (w *Webhook) validate(path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, bound := range []struct {
		name         string
		value, least int
	}{
		{"maxSizeMB", w.AuditLog.MaxSizeMB, 1},
		{"maxFiles", w.AuditLog.MaxFiles, 0},
		{"maxAgeDays", w.AuditLog.MaxAgeDays, 0},
	} {
		if bound.value < bound.least {
			errs = append(errs, field.Invalid(path.Child("auditLog", bound.name), bound.value, fmt.Sprintf("must be at least %d", bound.least)))
		}
	}
	if wait := w.FirstImportWait.Duration; wait < 0 || wait > maxFirstImportWait {
		errs = append(errs, field.Invalid(path.Child("firstImportWait"), wait.String(), "must be from 0s to "+maxFirstImportWait.String()))
	}
	return append(errs, validateWorkloads(path.Child("workloads"), w.Workloads)...)
}

func validateWorkloads(path *field.Path, workloads []Workload) field.ErrorList {
	var errs field.ErrorList
	seen := map[schema.GroupResource]bool{}
	for i, workload := range workloads {
		at := path.Index(i)
		resource := schema.GroupResource{Group: workload.Group, Resource: workload.Resource}
		// Every group of custom resources has a dot, and none of the groups whose workloads are known anyway.
		if len(validation.IsDNS1123Subdomain(workload.Group)) > 0 || !strings.Contains(workload.Group, ".") {
			errs = append(errs, field.Invalid(at.Child("group"), workload.Group, "must be the API group of a custom resource, without a version, such as argoproj.io"))
		}
		if !resourceName.MatchString(workload.Resource) {
			errs = append(errs, field.Invalid(at.Child("resource"), workload.Resource, "must be the plural name of a resource in lower case, such as rollouts"))
		}
		if seen[resource] {
			errs = append(errs, field.Duplicate(at, resource.String()))
		}
		seen[resource] = true
		if !podSpecPath.MatchString(workload.PodSpec) {
			errs = append(errs, field.Invalid(at.Child("podSpec"), workload.PodSpec, `must be names of fields with dots between them, perhaps with [*] after one, as in "spec.template.spec"`))
		}
	}
	return errs
}
