// Package scope knows what each namespace asks of admission, by its labels.
package scope

import (
	"context"
	"fmt"
	"strings"
)

// Labels of namespaces.
const (
	AdmissionLabel    = "istag.dev/admission"
	PlacementLabel    = "istag.dev/placement"
	OnReapplyLabel    = "istag.dev/on-reapply"
	OnUnresolvedLabel = "istag.dev/on-unresolved"
	// IgnoreRulesAnnotation, on a namespace, is OpenShift's: names of execution rules with commas between them.
	IgnoreRulesAnnotation = "alpha.image.policy.openshift.io/ignore-rules"
)

// Mode is what is done with a decision.
type Mode string

// Modes.
const (
	Off     Mode = ""        // nothing: the namespace is none of ours
	Enforce Mode = "enforce" // objects are changed and refused
	Warn    Mode = "warn"    // users are told what would be done
	Audit   Mode = "audit"   // it is recorded what would be done
)

// Settings are what one namespace asks for.
type Settings struct {
	Mode Mode
	// PodPlacement says that pods are pinned and workloads are left as they are written.
	PodPlacement bool
	// HoldOnReapply says that a manifest which is applied again, unchanged, keeps the images it has.
	HoldOnReapply bool
	// AllowUnresolved says that a name which a local stream has no image for is left as it is written.
	AllowUnresolved bool
	// IgnoreRules are the names of the execution rules that the namespace exempts itself from.
	IgnoreRules []string
}

// Reader knows the settings of namespaces.
type Reader interface {
	// Settings returns what a namespace asks for. They are shared: they must not be changed.
	Settings(ctx context.Context, namespace string) (Settings, error)
}

// Parse returns what a namespace asks for by its labels and annotations. An unknown value counts as none:
// admission is off, and everything else has its default.
func Parse(name string, labels, annotations map[string]string) Settings {
	settings, _ := parse(name, labels, annotations)
	return settings
}

// parse also says what is wrong with the labels.
func parse(name string, labels, annotations map[string]string) (Settings, []problem) {
	if neverAdmitted(name) {
		return Settings{}, nil
	}
	r := reader{labels: labels}
	settings := Settings{
		Mode:            Mode(r.choose(AdmissionLabel, string(Off), string(Enforce), string(Warn), string(Audit))),
		PodPlacement:    r.choose(PlacementLabel, "template", "pod") == "pod",
		HoldOnReapply:   r.choose(OnReapplyLabel, "resolve", "hold") == "hold",
		AllowUnresolved: r.choose(OnUnresolvedLabel, "deny", "allow") == "allow",
	}
	if settings.Mode == Off {
		return Settings{}, r.problems
	}
	if rules := annotations[IgnoreRulesAnnotation]; rules != "" {
		settings.IgnoreRules = strings.Split(rules, ",") // spaces belong to the names, as in OpenShift
	}
	return settings, r.problems
}

// neverAdmitted reports whether a namespace is one that a cluster needs to start, whatever its labels say.
func neverAdmitted(namespace string) bool {
	switch namespace {
	case "kube-system", "kube-node-lease", "kube-public":
		return true
	default:
		return false
	}
}

// problem is a label whose value is none of those that are known.
type problem struct{ label, value, known string }

// reader reads labels that choose between values, and keeps what it does not understand.
type reader struct {
	labels   map[string]string
	problems []problem
}

// choose returns the value of a label: one of those known, or the first, which is the default.
func (r *reader) choose(label string, known ...string) string {
	value, ok := r.labels[label]
	if !ok {
		return known[0]
	}
	for _, k := range known {
		if value == k && value != "" {
			return value
		}
	}
	r.problems = append(r.problems, problem{label, value, strings.TrimPrefix(strings.Join(known, ", "), ", ")})
	return known[0]
}

// String says what is wrong, and what would be right.
func (p problem) String() string {
	return fmt.Sprintf("label %s is %q: expected one of %s", p.label, p.value, p.known)
}
