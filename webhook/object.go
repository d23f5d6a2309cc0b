package webhook

import (
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"k8s.io/apimachinery/pkg/types"
)

// resolveNamesAnnotation, with the value "*" on an object or its pod template, asks for all its names
// to be looked up.
const resolveNamesAnnotation = "alpha.image.policy.openshift.io/resolve-names"

// ExplainAnnotation is the annotation of an object that, with the value "true", asks for a Warning for each of
// its images that says what was decided and why.
const ExplainAnnotation = "istag.dev/explain"

// object is what admission reads of a workload of any kind that Kubernetes has; only one of the places for
// a pod spec is filled.
type object struct {
	Metadata *metadata `json:"metadata"`
	Spec     struct {
		podSpec     `json:",inline"`
		Template    *template `json:"template"`
		JobTemplate *struct {
			Spec struct {
				Template *template `json:"template"`
			} `json:"spec"`
		} `json:"jobTemplate"`
	} `json:"spec"`
	// Template is that of a PodTemplate.
	Template *template `json:"template"`
	// Data is that of a ControllerRevision: whatever its controller keeps there.
	Data jsontext.Value `json:"data"`
}

type template struct {
	Metadata templateMetadata `json:"metadata"`
	Spec     podSpec          `json:"spec"`
}

type templateMetadata struct {
	Annotations map[string]string `json:"annotations"`
}

type metadata struct {
	Name            string            `json:"name"`
	GenerateName    string            `json:"generateName"`
	Annotations     map[string]string `json:"annotations"`
	Labels          jsontext.Value    `json:"labels"` // few reviews read them
	OwnerReferences []owner           `json:"ownerReferences"`
}

type owner struct {
	APIVersion string    `json:"apiVersion"`
	Kind       string    `json:"kind"`
	Name       string    `json:"name"`
	UID        types.UID `json:"uid"`
	Controller bool      `json:"controller"`
}

// labels returns the labels; what cannot be read is none.
func (m *metadata) labels() map[string]string {
	var labels map[string]string
	if len(m.Labels) > 0 && json.Unmarshal(m.Labels, &labels) != nil {
		return nil
	}
	return labels
}

type podSpec struct {
	InitContainers      []container `json:"initContainers"`
	Containers          []container `json:"containers"`
	EphemeralContainers []container `json:"ephemeralContainers"`
	Volumes             []volume    `json:"volumes"`
}

type container struct {
	Name  string `json:"name"`
	Image string `json:"image"`
}

type volume struct {
	Name  string `json:"name"`
	Image *struct {
		Reference string `json:"reference"`
	} `json:"image"`
}

// workload is one version of the object under review.
type workload struct {
	metadata
	bare   bool // there is no metadata at all
	images []image
	optIn  bool
}

// add takes the images of a pod spec into the workload, in the order in which they are decided. keys begin
// with prefix; ephemeral says whether ephemeral containers are looked at.
func (w *workload) add(spec *podSpec, in *place, prefix string, ephemeral bool) {
	if w.images == nil {
		w.images = make([]image, 0, len(spec.InitContainers)+len(spec.Containers))
	}
	w.addList(spec.InitContainers, in, prefix, listInit)
	w.addList(spec.Containers, in, prefix, listContainers)
	if ephemeral {
		w.addList(spec.EphemeralContainers, in, prefix, listEphemeral)
	}
	for i := range spec.Volumes {
		if v := &spec.Volumes[i]; v.Image != nil && v.Image.Reference != "" {
			w.images = append(w.images, image{prefix + listVolumes + "/" + v.Name, v.Image.Reference, listVolumes, i, in})
		}
	}
}

func (w *workload) addList(containers []container, in *place, prefix, list string) {
	for i := range containers {
		c := &containers[i]
		w.images = append(w.images, image{prefix + c.Name, c.Image, list, i, in})
	}
}

// controller returns the owner that made the object and looks after it, nil if there is none. Its own
// template was dealt with already, and changing what it made would make it try again for ever.
func (w *workload) controller() *owner {
	for i := range w.OwnerReferences {
		if w.OwnerReferences[i].Controller {
			return &w.OwnerReferences[i]
		}
	}
	return nil
}

// has reports whether the workload has an image by that key, and exactly that one. at is where it would
// be if nothing was moved, -1 if that is not known.
func (w *workload) has(key, written string, at int) bool {
	if at >= 0 && at < len(w.images) && w.images[at].key == key {
		return w.images[at].written == written
	}
	for i := range w.images {
		if w.images[i].key == key {
			return w.images[i].written == written
		}
	}
	return false
}

// names reports whether any image of the workload is written like that.
func (w *workload) names(written string) bool {
	for i := range w.images {
		if w.images[i].written == written {
			return true
		}
	}
	return false
}

// displayName returns the object's name or, if the API server is still to make one, what it is made of.
func (w *workload) displayName(r *admissionRequest) string {
	switch {
	case r.Name != "":
		return r.Name
	case w.Name != "":
		return w.Name
	default:
		return w.GenerateName
	}
}
