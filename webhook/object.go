package webhook

import (
	"strconv"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// resolveNamesAnnotation, with the value "*" on an object or its pod template, asks for all its names
// to be looked up.
const resolveNamesAnnotation = "alpha.image.policy.openshift.io/resolve-names"

// object is what admission reads of a workload of any kind; only one of the places for a pod spec is
// filled.
type object struct {
	Metadata metadata `json:"metadata"`
	Spec     struct {
		podSpec     `json:",inline"`
		Template    *template `json:"template"`
		JobTemplate *struct {
			Spec struct {
				Template *template `json:"template"`
			} `json:"spec"`
		} `json:"jobTemplate"`
	} `json:"spec"`
}

type template struct {
	Metadata metadata `json:"metadata"`
	Spec     podSpec  `json:"spec"`
}

type metadata struct {
	Name            string            `json:"name"`
	GenerateName    string            `json:"generateName"`
	Annotations     map[string]string `json:"annotations"`
	OwnerReferences []struct {
		Controller bool `json:"controller"`
	} `json:"ownerReferences"`
}

type podSpec struct {
	InitContainers []container `json:"initContainers"`
	Containers     []container `json:"containers"`
}

type container struct {
	Name  string `json:"name"`
	Image string `json:"image"`
}

// podSpec returns the object's pod spec, the metadata of its template (nil for a pod) and the place of
// the pod spec in the object. A ReplicationController may have no template; then the pod spec is empty.
func (o *object) podSpec(resource metav1.GroupVersionResource) (podSpec, *metadata, place) {
	t, at := o.Spec.Template, templatePlace
	switch resource.Resource {
	case "pods":
		return o.Spec.podSpec, nil, podPlace
	case "cronjobs":
		t, at = nil, cronJobPlace
		if o.Spec.JobTemplate != nil {
			t = o.Spec.JobTemplate.Spec.Template
		}
	}
	if t == nil {
		return podSpec{}, nil, at
	}
	return t.Spec, &t.Metadata, at
}

// place is where in an object its pod spec is: as a field path for people, and as a JSON pointer.
type place struct{ field, pointer string }

var (
	podPlace      = place{"spec", "/spec"}
	templatePlace = place{"spec.template.spec", "/spec/template/spec"}
	cronJobPlace  = place{"spec.jobTemplate.spec.template.spec", "/spec/jobTemplate/spec/template/spec"}
)

// owned reports whether a controller made the object. Its own template was dealt with already, and
// changing what it made would make it try again for ever.
func (o *object) owned() bool {
	for i := range o.Metadata.OwnerReferences {
		if o.Metadata.OwnerReferences[i].Controller {
			return true
		}
	}
	return false
}

// image is one container's image and its place.
type image struct {
	container string
	written   string
	list      string // initContainers or containers
	index     int
	in        place
}

// field is the image's field path, as in "spec.containers[0].image".
func (i image) field() string {
	return i.in.field + "." + i.list + "[" + strconv.Itoa(i.index) + "].image"
}

// pointer is the image's JSON pointer, as in "/spec/containers/0/image".
func (i image) pointer() string {
	return i.in.pointer + "/" + i.list + "/" + strconv.Itoa(i.index) + "/image"
}

// workload is one version of the object under review.
type workload struct {
	*object
	images []image
	optIn  bool
}

// newWorkload takes an object apart; no object is a workload without images.
func newWorkload(o *object, resource metav1.GroupVersionResource) *workload {
	if o == nil {
		return &workload{object: &object{}}
	}
	spec, template, in := o.podSpec(resource)
	w := &workload{object: o, images: make([]image, 0, len(spec.InitContainers)+len(spec.Containers))}
	for i, c := range spec.InitContainers {
		w.images = append(w.images, image{c.Name, c.Image, "initContainers", i, in})
	}
	for i, c := range spec.Containers {
		w.images = append(w.images, image{c.Name, c.Image, "containers", i, in})
	}
	w.optIn = o.Metadata.Annotations[resolveNamesAnnotation] == "*" ||
		template != nil && template.Annotations[resolveNamesAnnotation] == "*"
	return w
}

// has reports whether the workload has a container of the name with exactly the image.
func (w *workload) has(container, written string) bool {
	for i := range w.images {
		if w.images[i].container == container {
			return w.images[i].written == written
		}
	}
	return false
}

// displayName returns the object's name or, if the API server is still to make one, what it is made of.
func (w *workload) displayName(r *admissionRequest) string {
	switch {
	case r.Name != "":
		return r.Name
	case w.Metadata.Name != "":
		return w.Metadata.Name
	default:
		return w.Metadata.GenerateName
	}
}
