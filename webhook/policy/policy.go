// Package policy decides what an administrator's rules say of one image: whether its name is looked up
// and replaced, and whether it may run. It knows no cluster: what is known of an image is handed in.
// Beside the rules it has Current, the policy in force, which follows the configuration file.
package policy

import (
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"istag.dev/config"
)

// Policy is a compiled config.Policy. It never changes, and none of its methods allocates or waits.
type Policy struct {
	mode       config.ResolutionMode
	resolution table[resolution]
	execution  table[execution]
	hosts      []registry
	images     bool
}

// table says what holds for a resource. A key whose resource is config.AnyResource stands for those of
// its group that have no entry of their own.
type table[T any] map[schema.GroupResource]T

func (t table[T]) of(r schema.GroupResource) (T, bool) {
	if held, ok := t[r]; ok {
		return held, true
	}
	held, ok := t[schema.GroupResource{Group: r.Group, Resource: config.AnyResource}]
	return held, ok
}

// resolution is what the resolution rules that cover a resource come to.
type resolution struct {
	local   bool // local names are replaced
	rewrite bool // all are
}

func (r resolution) with(other resolution) resolution {
	return resolution{local: r.local || other.local, rewrite: r.rewrite || other.rewrite}
}

// Compile makes a Policy of a configuration that was validated. The custom resources given are covered
// by the default resolution rules, as the kinds that OpenShift knows are.
func Compile(c config.Policy, workloads []config.Workload) (*Policy, error) {
	p := &Policy{mode: c.ResolveImages}
	for _, host := range c.RegistryHosts {
		p.hosts = append(p.hosts, parseRegistry(host))
	}
	rules := c.ResolutionRules
	if rules == nil {
		rules = defaultRules(c, workloads)
	}
	p.resolution = compileResolution(rules, c.ResolveImages)
	var err error
	if p.execution, err = compileExecution(c.ExecutionRules); err != nil {
		return nil, err
	}
	p.images = p.Requires()
	for _, e := range p.execution {
		p.images = p.images || slices.ContainsFunc(e.rules, func(r rule) bool { return r.needsImage || r.skip })
	}
	return p, nil
}

// defaultResources are those of OpenShift's default rules, and PodTemplates.
var defaultResources = []config.GroupResource{
	{Group: "", Resource: "pods"},
	{Group: "", Resource: "replicationcontrollers"},
	{Group: "", Resource: "podtemplates"},
	{Group: "apps", Resource: "daemonsets"},
	{Group: "apps", Resource: "deployments"},
	{Group: "apps", Resource: "replicasets"},
	{Group: "apps", Resource: "statefulsets"},
	{Group: "apps.openshift.io", Resource: "deploymentconfigs"},
	{Group: "batch", Resource: "cronjobs"},
	{Group: "batch", Resource: "jobs"},
	{Group: "build.openshift.io", Resource: "builds"},
	{Group: "extensions", Resource: "daemonsets"},
	{Group: "extensions", Resource: "deployments"},
	{Group: "extensions", Resource: "replicasets"},
}

// defaultRules replace local names, and look up and leave all others, unless an execution rule names the
// resource: then the global mode holds for those.
func defaultRules(c config.Policy, workloads []config.Workload) []config.ResolutionRule {
	resources := slices.Clone(defaultResources)
	for _, w := range workloads {
		resources = append(resources, config.GroupResource{Group: w.Group, Resource: w.Resource})
	}
	rules := make([]config.ResolutionRule, 0, len(resources))
	for _, resource := range resources {
		rule := config.ResolutionRule{TargetResource: resource, LocalNames: true, Policy: config.DoNotAttempt}
		for i := range c.ExecutionRules {
			if covers(onResources(&c.ExecutionRules[i]), schema.GroupResource(resource)) {
				rule.Policy = c.ResolveImages
			}
		}
		rules = append(rules, rule)
	}
	return rules
}

// compileResolution adds up the rules about each resource.
func compileResolution(rules []config.ResolutionRule, global config.ResolutionMode) table[resolution] {
	t := table[resolution]{}
	for _, r := range rules {
		mode := r.Policy
		if mode == "" {
			mode = global
		}
		key := schema.GroupResource(r.TargetResource)
		t[key] = t[key].with(resolution{local: r.LocalNames, rewrite: rewrites(mode)})
	}
	for key, held := range t {
		t[key] = held.with(t[schema.GroupResource{Group: key.Group, Resource: config.AnyResource}])
	}
	return t
}

// Looks reports whether images of a resource are looked up at all: if the global mode says so, or any
// rule covers the resource, even one that says DoNotAttempt.
func (p *Policy) Looks(resource schema.GroupResource) bool {
	_, covered := p.resolution.of(counted(resource))
	return covered || p.mode != config.DoNotAttempt
}

// Requires reports whether an image that cannot be resolved is refused. The global mode alone decides.
func (p *Policy) Requires() bool {
	return p.mode == config.Required || p.mode == config.RequiredRewrite
}

// Rewrites reports whether a name is replaced by what it means. updating says that the object exists, local
// that the name is that of a stream in the object's own namespace.
//
// If rules cover the resource, one of them has to say so, and the global mode counts for nothing.
func (p *Policy) Rewrites(resource schema.GroupResource, updating, local bool) bool {
	if updating && immutable(resource) {
		return false
	}
	if r, covered := p.resolution.of(counted(resource)); covered {
		return r.rewrite || r.local && local
	}
	return rewrites(p.mode)
}

// Integrated reports whether a registry host is one by which image streams are named in full.
func (p *Policy) Integrated(host string) bool { return isAmong(p.hosts, host) }

// NeedsImages reports whether it matters what the store has of an image: a rule asks, or an image that the
// store does not have cannot be resolved and is refused for that.
func (p *Policy) NeedsImages() bool { return p.images }

func rewrites(mode config.ResolutionMode) bool {
	return mode == config.RequiredRewrite || mode == config.AttemptRewrite
}

// immutable reports whether objects of a resource keep their images for as long as they exist.
func immutable(r schema.GroupResource) bool {
	return r.Group == "batch" && r.Resource == "jobs" || r.Group == "build.openshift.io" && r.Resource == "builds"
}

// counted returns the resource that the rules for another count for. What holds the images of pods and is
// neither a pod nor anything that people write counts as pods.
func counted(r schema.GroupResource) schema.GroupResource {
	if r.Group == "" && r.Resource == "pods/ephemeralcontainers" || r.Group == "apps" && r.Resource == "controllerrevisions" {
		return schema.GroupResource{Resource: "pods"}
	}
	return r
}

// covers reports whether a list of resources has one, by its name or as one of its group.
func covers(list []config.GroupResource, r schema.GroupResource) bool {
	return slices.ContainsFunc(list, func(l config.GroupResource) bool {
		return l.Group == r.Group && (l.Resource == r.Resource || l.Resource == config.AnyResource)
	})
}

// registry is a host of images, taken apart to be compared.
type registry struct{ name, port string }

// parseRegistry takes a host apart. Port 443 goes without saying, and zeros before a port mean nothing.
func parseRegistry(host string) registry {
	colon := strings.LastIndexByte(host, ':')
	if colon < 0 {
		return registry{name: host}
	}
	r := registry{name: host[:colon], port: strings.TrimLeft(host[colon+1:], "0")}
	if r.port == "443" {
		r.port = ""
	}
	return r
}

// is compares hosts, which have no case.
func (r registry) is(other registry) bool {
	return r.port == other.port && strings.EqualFold(r.name, other.name)
}

func isAmong(list []registry, host string) bool {
	r := parseRegistry(host)
	for i := range list {
		if list[i].is(r) {
			return true
		}
	}
	return false
}

// Host returns the registry that a container runtime would ask for an image, with its port, empty if the
// image names none, which means Docker Hub. It is the text's first part, if that can be nothing else.
func Host(image string) string {
	first, _, found := strings.Cut(image, "/")
	if found && (first == "localhost" || strings.ContainsAny(first, ".:") || strings.ToLower(first) != first) {
		return first
	}
	return ""
}
