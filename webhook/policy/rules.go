package policy

import (
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"istag.dev/config"
)

// Image is what the rules are asked about.
type Image struct {
	// Resource of the object that wants to run the image.
	Resource schema.GroupResource
	// Registry is the host of the image's pull spec, empty if it states none. Of a name that was resolved
	// it is that of the pull spec which the name means.
	Registry string
	// Known is what the store has of the image, nil if it has nothing.
	Known *Known
}

// Known is what the store has of an image.
type Known struct {
	// Labels and Annotations of the Image object.
	Labels, Annotations map[string]string
	// DockerLabels are those of the image's configuration; Unreadable says that there is one and that it
	// is none that we can read.
	DockerLabels map[string]string
	Unreadable   bool
}

// Check returns the name of the rule that refuses an image, and whether it may run. The rule is empty
// if there are rules and none accepts the image. exempt are the names of rules that the namespace
// exempts itself from.
//
// The first rule that matches and rejects refuses the image. Otherwise it may run if a rule accepts it, or
// if there is none that accepts anything, exempt or not.
func (p *Policy) Check(image Image, exempt []string) (rule string, ok bool) {
	e, covered := p.execution.of(counted(image.Resource))
	if !covered {
		return "", true
	}
	accepted := !e.accepts
	for i := range e.rules {
		r := &e.rules[i]
		if !r.always && slices.Contains(exempt, r.name) || r.skip && image.Known == nil || r.holds(p, &image) == r.invert {
			continue
		}
		if r.reject {
			return r.name, false
		}
		accepted = true
	}
	return "", accepted
}

// execution are the rules about one resource, in order.
type execution struct {
	rules   []rule
	accepts bool // one of them accepts
}

// rule is a compiled config.ExecutionRule.
type rule struct {
	name       string
	reject     bool
	invert     bool
	skip       bool // for images that nothing is known of
	always     bool // no namespace is exempt
	integrated bool

	registries []registry
	hub        bool // registries has Docker Hub

	dockerLabels, annotations []config.ValueCondition
	labels                    []labels.Selector
	needsImage                bool

	// refuses is whether refusing is what a match of the conditions leads to. OpenShift takes a match for
	// granted where an image cannot tell: a key that is not there for one that is "", and labels in a
	// configuration that cannot be read. We do where that refuses the image.
	refuses bool
}

func compileExecution(rules []config.ExecutionRule) (table[execution], error) {
	t := table[execution]{}
	compiled := make([]rule, 0, len(rules))
	for i := range rules {
		r, err := compileRule(&rules[i])
		if err != nil {
			return nil, fmt.Errorf("execution rule %q: %w", rules[i].Name, err)
		}
		compiled = append(compiled, r)
		for _, resource := range onResources(&rules[i]) {
			t[schema.GroupResource(resource)] = execution{}
		}
	}
	for resource := range t {
		var e execution
		for i := range rules {
			if covers(onResources(&rules[i]), resource) {
				e.rules = append(e.rules, compiled[i])
				e.accepts = e.accepts || !compiled[i].reject
			}
		}
		t[resource] = e
	}
	return t, nil
}

func compileRule(c *config.ExecutionRule) (rule, error) {
	r := rule{
		name:         c.Name,
		reject:       c.Reject,
		invert:       c.InvertMatch,
		skip:         c.SkipOnResolutionFailure,
		always:       c.IgnoreNamespaceOverride,
		integrated:   c.MatchIntegratedRegistry,
		dockerLabels: c.MatchDockerImageLabels,
		annotations:  c.MatchImageAnnotations,
		needsImage:   len(c.MatchDockerImageLabels)+len(c.MatchImageAnnotations)+len(c.MatchImageLabels) > 0,
		refuses:      c.Reject != c.InvertMatch,
	}
	for _, host := range c.MatchRegistries {
		r.registries = append(r.registries, parseRegistry(host))
		r.hub = r.hub || isHub(host)
	}
	for i := range c.MatchImageLabels {
		selector, err := metav1.LabelSelectorAsSelector(&c.MatchImageLabels[i])
		if err != nil {
			return rule{}, fmt.Errorf("matchImageLabels: %w", err)
		}
		r.labels = append(r.labels, selector)
	}
	return r, nil
}

// onResources are the resources that a rule is about.
func onResources(r *config.ExecutionRule) []config.GroupResource {
	if len(r.OnResources) == 0 {
		return []config.GroupResource{{Resource: "pods"}}
	}
	return r.OnResources
}

// holds reports whether all conditions hold, before any inversion.
func (r *rule) holds(p *Policy, image *Image) bool {
	if r.integrated && !p.Integrated(image.Registry) {
		return false
	}
	if len(r.registries) > 0 && !r.isOf(image.Registry) {
		return false
	}
	known := image.Known
	switch {
	case !r.needsImage:
		return true
	case known == nil:
		return false
	case known.Unreadable && len(r.dockerLabels) > 0:
		return r.refuses && (!r.reject || !r.skip)
	}
	for _, selector := range r.labels {
		if !selector.Matches(labels.Set(known.Labels)) {
			return false
		}
	}
	return r.hold(r.dockerLabels, known.DockerLabels) && r.hold(r.annotations, known.Annotations)
}

// isOf reports whether a host is one of the rule's.
func (r *rule) isOf(host string) bool {
	return r.hub && isHub(host) || isAmong(r.registries, host)
}

// isHub reports whether a host is Docker Hub, which has several names and is what no host means.
func isHub(host string) bool {
	r := parseRegistry(host)
	return r.port == "" && (r.name == "" || strings.EqualFold(r.name, "docker.io") ||
		strings.EqualFold(r.name, "index.docker.io") || strings.EqualFold(r.name, "registry-1.docker.io"))
}

// hold reports whether all of some conditions hold for labels or annotations.
func (r *rule) hold(conditions []config.ValueCondition, values map[string]string) bool {
	for i := range conditions {
		condition := &conditions[i]
		value, there := values[condition.Key]
		switch {
		case condition.Set && there:
		case condition.Set:
			return false
		case value != condition.Value:
			return false
		case !there && !r.refuses:
			return false
		}
	}
	return true
}
