package webhook

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// kind is a sort of object that admission knows.
type kind struct {
	shape shape
	// revision says that the object stands for a revision of a workload, whose pods are to be alike.
	revision bool
	// path is where custom resources have their pod specs.
	path []step
}

// shape says where an object has its pod spec.
type shape int

const (
	shapeNone        shape = iota
	shapePod               // spec
	shapeTemplate          // spec.template.spec
	shapeCronJob           // spec.jobTemplate.spec.template.spec
	shapePodTemplate       // template.spec
	shapeData              // data.spec.template.spec
	shapeCustom            // kind.path
)

const ephemeralSubresource = "ephemeralcontainers"

// kindOf returns the kind of what a request is about; its shape is shapeNone if that can hold no image
// that concerns us. Of subresources that is so of all but one.
func (p *Pinner) kindOf(resource metav1.GroupVersionResource, subresource string) kind {
	if subresource != "" && (resource.Group != "" || resource.Resource != "pods" || subresource != ephemeralSubresource) {
		return kind{}
	}
	switch resource.Group {
	case "":
		switch resource.Resource {
		case "pods":
			return kind{shape: shapePod}
		case "podtemplates":
			return kind{shape: shapePodTemplate}
		case "replicationcontrollers":
			return kind{shape: shapeTemplate, revision: true}
		}
	case "apps":
		switch resource.Resource {
		case "deployments", "statefulsets", "daemonsets":
			return kind{shape: shapeTemplate}
		case "replicasets":
			return kind{shape: shapeTemplate, revision: true}
		case "controllerrevisions":
			return kind{shape: shapeData, revision: true}
		}
	case "batch":
		switch resource.Resource {
		case "jobs":
			return kind{shape: shapeTemplate, revision: true}
		case "cronjobs":
			return kind{shape: shapeCronJob}
		}
	}
	if path, ok := p.custom[schema.GroupResource{Group: resource.Group, Resource: resource.Resource}]; ok {
		return kind{shape: shapeCustom, path: path}
	}
	return kind{}
}

// place is where in an object its pod spec is: as a field path for people, and as a JSON pointer.
type place struct{ field, pointer string }

// Places of the kinds that Kubernetes has.
func (s shape) place() *place {
	switch s {
	case shapeTemplate:
		return &place{"spec.template.spec", "/spec/template/spec"}
	case shapeCronJob:
		return &place{"spec.jobTemplate.spec.template.spec", "/spec/jobTemplate/spec/template/spec"}
	case shapePodTemplate:
		return &place{"template.spec", "/template/spec"}
	case shapeData:
		return &place{"data.spec.template.spec", "/data/spec/template/spec"}
	default:
		return &place{"spec", "/spec"}
	}
}

// child returns the place of a field of what is here.
func (p place) child(name string) place {
	if p.field != "" {
		p.field += "."
	}
	return place{p.field + name, p.pointer + "/" + escape(name)}
}

// element returns the place of an element of the list or the map that is here.
func (p place) element(key string) place {
	return place{p.field + "[" + key + "]", p.pointer + "/" + escape(key)}
}

// escape makes a part of a JSON pointer (RFC 6901).
func escape(name string) string {
	if !strings.ContainsAny(name, "~/") {
		return name
	}
	return strings.ReplaceAll(strings.ReplaceAll(name, "~", "~0"), "/", "~1")
}

// Lists of a pod spec that hold images.
const (
	listInit       = "initContainers"
	listContainers = "containers"
	listEphemeral  = "ephemeralContainers"
	listVolumes    = "volumes"
)

// image is one image of a pod spec and its place.
type image struct {
	// key is the container's name, or "volumes/" and the volume's. In an object with several pod specs,
	// what tells them apart comes before it.
	key     string
	written string
	list    string
	index   int
	in      *place
}

// field is the image's field path, as in "spec.containers[0].image".
func (i *image) field() string {
	return i.in.field + "." + i.list + "[" + strconv.Itoa(i.index) + "]." + i.leaf(".")
}

// pointer is the image's JSON pointer, as in "/spec/containers/0/image".
func (i *image) pointer() string {
	return i.in.pointer + "/" + i.list + "/" + strconv.Itoa(i.index) + "/" + i.leaf("/")
}

func (i *image) leaf(separator string) string {
	if i.list == listVolumes {
		return "image" + separator + "reference"
	}
	return "image"
}

// workload takes an object of the kind apart; no object is a workload without images.
func (k kind) workload(o *object) *workload {
	if o == nil {
		return &workload{bare: true}
	}
	w := newWorkload(o.Metadata)
	if k.shape == shapePod {
		w.add(&o.Spec.podSpec, k.shape.place(), "", true)
		return w
	}
	// A ReplicationController may have no template; then it has no images.
	if t := k.template(o); t != nil {
		w.add(&t.Spec, k.shape.place(), "", false)
		w.optIn = w.optIn || t.Metadata.optsIn()
	}
	return w
}

func newWorkload(m *metadata) *workload {
	if m == nil {
		return &workload{bare: true}
	}
	return &workload{metadata: *m, optIn: m.Annotations[resolveNamesAnnotation] == "*"}
}

func (m *templateMetadata) optsIn() bool { return m.Annotations[resolveNamesAnnotation] == "*" }

func (k kind) template(o *object) *template {
	switch k.shape {
	case shapeTemplate:
		return o.Spec.Template
	case shapePodTemplate:
		return o.Template
	case shapeCronJob:
		if o.Spec.JobTemplate != nil {
			return o.Spec.JobTemplate.Spec.Template
		}
	case shapeData:
		var data struct {
			Spec struct {
				Template *template `json:"template"`
			} `json:"spec"`
		}
		// Other controllers keep other things there, which are none of ours.
		if len(o.Data) > 0 && json.Unmarshal(o.Data, &data) == nil {
			return data.Spec.Template
		}
	case shapeNone, shapePod, shapeCustom:
	}
	return nil
}

// workloads takes both versions of the object of a request apart.
func (k kind) workloads(request *admissionRequest, body []byte) (current, old *workload, err error) {
	if k.shape != shapeCustom {
		return k.workload(request.Object), k.workload(request.OldObject), nil
	}
	return k.customWorkloads(body)
}

// String is for messages to people.
func (i *image) String() string {
	prefix, name, volume := strings.Cut(i.key, listVolumes+"/")
	if i.list == listVolumes && volume {
		return fmt.Sprintf("volume %q", prefix+name)
	}
	return fmt.Sprintf("container %q", i.key)
}
