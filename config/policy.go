package config

import (
	"regexp"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// ResolutionMode says what is done with the names of images: whether they are looked up, whether one that
// cannot be resolved is refused, and whether one that can be is replaced by what it means.
type ResolutionMode string

// Resolution modes, OpenShift's.
const (
	RequiredRewrite ResolutionMode = "RequiredRewrite" // look up, refuse, replace
	Required        ResolutionMode = "Required"        // look up, refuse
	AttemptRewrite  ResolutionMode = "AttemptRewrite"  // look up, replace
	Attempt         ResolutionMode = "Attempt"         // look up
	DoNotAttempt    ResolutionMode = "DoNotAttempt"    // leave alone
)

// AnyResource in the place of a resource means every one of its group.
const AnyResource = "*"

// Policy says which names of images are resolved, and which images may run. Its fields are those of
// OpenShift's ImagePolicyConfig.
type Policy struct {
	// ResolveImages is the mode of every resource that no rule of ResolutionRules covers. It alone says
	// whether an image that cannot be resolved is refused.
	ResolveImages ResolutionMode `json:"resolveImages"`
	// ResolutionRules are the modes of single resources. Left out, they are those of OpenShift: the names
	// of local streams are replaced in every kind of workload. An empty list means no rules.
	ResolutionRules []ResolutionRule `json:"resolutionRules,omitzero"`
	// ExecutionRules say which images may run. They are read in order.
	ExecutionRules []ExecutionRule `json:"executionRules,omitempty"`
	// RegistryHosts are the hosts, with their ports if they have one, by which image streams may be
	// named in full: host/namespace/stream:tag.
	RegistryHosts []string `json:"registryHosts,omitempty"`
}

// GroupResource names a resource; "*" means every one of the group.
type GroupResource struct {
	Group    string `json:"group"`
	Resource string `json:"resource"`
}

// ResolutionRule is the mode of one resource.
type ResolutionRule struct {
	TargetResource GroupResource `json:"targetResource"`
	// LocalNames says that names of streams in the object's own namespace are replaced, whatever the mode.
	LocalNames bool `json:"localNames"`
	// Policy is the mode; empty means that of Policy.ResolveImages. Of a Required mode only the part
	// that replaces names counts here.
	Policy ResolutionMode `json:"policy,omitempty"`
}

// ExecutionRule accepts or rejects images. All of its conditions have to hold for it to match; without
// any, it matches every image.
type ExecutionRule struct {
	// Name of the rule, which namespaces may exempt themselves by.
	Name string `json:"name"`
	// OnResources that the rule is about. None means pods.
	OnResources []GroupResource `json:"onResources,omitempty"`
	// Reject says that a matching image is refused. Otherwise it is accepted.
	Reject bool `json:"reject,omitempty"`
	// InvertMatch makes the rule match what its conditions do not.
	InvertMatch bool `json:"invertMatch,omitempty"`
	// SkipOnResolutionFailure skips the rule for an image that nothing is known of.
	SkipOnResolutionFailure bool `json:"skipOnResolutionFailure,omitempty"`
	// IgnoreNamespaceOverride keeps namespaces from exempting themselves.
	IgnoreNamespaceOverride bool `json:"ignoreNamespaceOverride,omitempty"`
	// MatchIntegratedRegistry matches images of any of Policy.RegistryHosts.
	MatchIntegratedRegistry bool `json:"matchIntegratedRegistry,omitempty"`
	// MatchRegistries matches images of any of these hosts. docker.io also means index.docker.io,
	// registry-1.docker.io, and images that name no registry.
	MatchRegistries []string `json:"matchRegistries,omitempty"`
	// MatchDockerImageLabels matches by the labels in the image's configuration.
	MatchDockerImageLabels []ValueCondition `json:"matchDockerImageLabels,omitempty"`
	// MatchImageLabels matches by the labels of the Image object; all of them have to.
	MatchImageLabels []metav1.LabelSelector `json:"matchImageLabels,omitempty"`
	// MatchImageAnnotations matches by the annotations of the Image object.
	MatchImageAnnotations []ValueCondition `json:"matchImageAnnotations,omitempty"`
}

// ValueCondition holds if a key has a value.
type ValueCondition struct {
	Key string `json:"key"`
	// Set holds if the key is there, whatever its value.
	Set bool `json:"set,omitempty"`
	// Value that the key must have.
	Value string `json:"value,omitempty"`
}

// DefaultPolicy is what OpenShift ships.
func DefaultPolicy() Policy { return Policy{ResolveImages: Attempt} }

var modes = []ResolutionMode{RequiredRewrite, Required, AttemptRewrite, Attempt, DoNotAttempt}

func (p *Policy) validate(path *field.Path) field.ErrorList {
	errs := validateMode(path.Child("resolveImages"), p.ResolveImages)
	for i := range p.ResolutionRules {
		rule, at := &p.ResolutionRules[i], path.Child("resolutionRules").Index(i)
		errs = append(errs, validateResource(at.Child("targetResource"), rule.TargetResource)...)
		if rule.Policy != "" {
			errs = append(errs, validateMode(at.Child("policy"), rule.Policy)...)
		}
	}
	names := map[string]bool{}
	for i := range p.ExecutionRules {
		rule, at := &p.ExecutionRules[i], path.Child("executionRules").Index(i)
		errs = append(errs, validateRuleName(at.Child("name"), rule.Name, names)...)
		errs = append(errs, rule.validate(at)...)
		if p.ResolveImages == DoNotAttempt {
			errs = append(errs, rule.validateBlind(at)...)
		}
	}
	return append(errs, validateHosts(path.Child("registryHosts"), p.RegistryHosts)...)
}

func validateMode(path *field.Path, mode ResolutionMode) field.ErrorList {
	for _, known := range modes {
		if mode == known {
			return nil
		}
	}
	return field.ErrorList{field.NotSupported(path, mode, modes)}
}

// validateRuleName checks a name that namespaces list in an annotation, and adds it to those seen.
func validateRuleName(path *field.Path, name string, seen map[string]bool) field.ErrorList {
	var errs field.ErrorList
	switch {
	case name == "":
		return field.ErrorList{field.Required(path, "write a name that says what the rule does, such as deny-execution")}
	case strings.Contains(name, ",") || strings.TrimSpace(name) != name:
		errs = append(errs, field.Invalid(path, name, "must hold no comma and neither begin nor end with a space: namespaces exempt themselves by a list of names with commas between them"))
	}
	if seen[name] {
		errs = append(errs, field.Duplicate(path, name))
	}
	seen[name] = true
	return errs
}

func (r *ExecutionRule) validate(path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, resource := range r.OnResources {
		errs = append(errs, validateResource(path.Child("onResources").Index(i), resource)...)
	}
	errs = append(errs, validateHosts(path.Child("matchRegistries"), r.MatchRegistries)...)
	errs = append(errs, validateConditions(path.Child("matchDockerImageLabels"), r.MatchDockerImageLabels)...)
	errs = append(errs, validateConditions(path.Child("matchImageAnnotations"), r.MatchImageAnnotations)...)
	for i := range r.MatchImageLabels {
		if _, err := metav1.LabelSelectorAsSelector(&r.MatchImageLabels[i]); err != nil {
			errs = append(errs, field.Invalid(path.Child("matchImageLabels").Index(i), metav1.FormatLabelSelector(&r.MatchImageLabels[i]), "must be a label selector: "+err.Error()))
		}
	}
	return errs
}

// validateBlind refuses conditions that ask about images which nobody looks up.
func (r *ExecutionRule) validateBlind(path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, condition := range []struct {
		name string
		used int
	}{
		{"matchDockerImageLabels", len(r.MatchDockerImageLabels)},
		{"matchImageLabels", len(r.MatchImageLabels)},
		{"matchImageAnnotations", len(r.MatchImageAnnotations)},
	} {
		if condition.used > 0 {
			errs = append(errs, field.Forbidden(path.Child(condition.name), "can never match while images are not looked up: take it out, or set policy.resolveImages to Attempt"))
		}
	}
	return errs
}

func validateConditions(path *field.Path, conditions []ValueCondition) field.ErrorList {
	var errs field.ErrorList
	for i, condition := range conditions {
		if condition.Key == "" {
			errs = append(errs, field.Required(path.Index(i).Child("key"), "write the key of a label or an annotation"))
		}
		if condition.Set && condition.Value != "" {
			errs = append(errs, field.Invalid(path.Index(i).Child("value"), condition.Value, "must be left out where set is true, which means any value"))
		}
	}
	return errs
}

// resourceName is a resource in the plural, as URLs have it. A kind, such as Pod, would silently match nothing.
var resourceName = regexp.MustCompile(`^[a-z]([a-z0-9-]*[a-z0-9])?$`)

func validateResource(path *field.Path, r GroupResource) field.ErrorList {
	var errs field.ErrorList
	switch group := path.Child("group"); {
	case r.Group == "core":
		errs = append(errs, field.Invalid(group, r.Group, `must be "" for pods and the other resources of the core group`))
	case r.Group != "" && len(validation.IsDNS1123Subdomain(r.Group)) > 0:
		errs = append(errs, field.Invalid(group, r.Group, `must be an API group without a version, such as "apps", or ""`))
	}
	switch resource := path.Child("resource"); {
	case r.Resource == "":
		errs = append(errs, field.Required(resource, `write the plural name of a resource, such as deployments, or "*" for every one of the group`))
	case r.Resource != AnyResource && !resourceName.MatchString(r.Resource):
		errs = append(errs, field.Invalid(resource, r.Resource, `must be the plural name of a resource in lower case and without a subresource, such as deployments, or "*" for every one of the group`))
	case r == GroupResource{Group: "apps", Resource: "controllerrevisions"}:
		errs = append(errs, field.Invalid(resource, r.Resource, `counts as pods: write group "", resource pods`))
	}
	return errs
}

// registryHost is what names of images can begin with that is taken for a host, below: dots or a port or localhost.
var registryHost = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*(:[0-9]{1,5})?$`)

func validateHosts(path *field.Path, hosts []string) field.ErrorList {
	var errs field.ErrorList
	seen := map[string]bool{}
	for i, host := range hosts {
		switch at := path.Index(i); {
		case host == "":
			errs = append(errs, field.Required(at, "write a registry host, such as quay.io"))
			continue
		case !registryHost.MatchString(host):
			errs = append(errs, field.Invalid(at, host, "must be a registry host, with a port if need be and nothing else, such as quay.io or registry.example.com:5000"))
			continue
		case !strings.ContainsAny(host, ".:") && host != "localhost":
			errs = append(errs, field.Invalid(at, host, `must hold "." or ":", or the first part of an image's name is no registry`))
			continue
		}
		same, port := splitPort(strings.ToLower(host))
		if port = strings.TrimLeft(port, "0"); port != "" && port != securePort {
			same += ":" + port
		}
		if seen[same] {
			errs = append(errs, field.Duplicate(path.Index(i), host))
		}
		seen[same] = true
	}
	return errs
}
