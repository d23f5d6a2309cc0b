package tags

import (
	"fmt"
	"maps"
	"time"

	imagev1 "github.com/openshift/api/image/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"istag.dev/apiserver/table"
	"istag.dev/store"
	storev1 "istag.dev/store/v1"
)

// lastApplied is what "kubectl apply" adds to metadata.annotations, and to nothing else.
const lastApplied = "kubectl.kubernetes.io/last-applied-configuration"

// istag is the kind ImageStreamTag: a tag that means an image, with that image.
type istag struct{}

func (istag) names() names {
	return names{
		resource: "imagestreamtags", singular: "imagestreamtag", short: "istag", kind: "ImageStreamTag",
		taken: "imagestreamtag", field: "tag",
	}
}

func (istag) empty() *imagev1.ImageStreamTag { return &imagev1.ImageStreamTag{} }

func (istag) list(meta metav1.ListMeta, items []*imagev1.ImageStreamTag) runtime.Object {
	list := &imagev1.ImageStreamTagList{ListMeta: meta, Items: make([]imagev1.ImageStreamTag, 0, len(items))}
	for _, item := range items {
		list.Items = append(list.Items, *item)
	}
	return list
}

// shown is false for tags that wait for their first import and for those that are only references, as in OpenShift:
// there is no image to show.
func (istag) shown(record *storev1.StreamRecord, tag string) bool {
	event := store.Latest(&record.Status, tag)
	return event != nil && event.Image != ""
}

func (k istag) view(record *storev1.StreamRecord, tag string) *imagev1.ImageStreamTag {
	spec := store.SpecTag(&record.Spec, tag)
	var annotations map[string]string
	if spec != nil {
		annotations = spec.Annotations
	}
	obj := &imagev1.ImageStreamTag{
		ObjectMeta:   tagMeta(record, tag, annotations),
		Tag:          spec,
		LookupPolicy: record.Spec.LookupPolicy,
	}
	if h := history(record, tag); h != nil {
		obj.Conditions = h.Conditions
	}
	if !k.shown(record, tag) {
		return obj
	}
	event := store.Latest(&record.Status, tag)
	obj.CreationTimestamp, obj.Generation = event.Created, event.Generation
	obj.Image.Name = event.Image
	obj.Image.DockerImageReference, _ = store.PullSpec(record, tag)
	return obj
}

func (istag) needsImage() bool { return true }

func (istag) fill(obj *imagev1.ImageStreamTag, _ *storev1.StreamRecord, _ string, image *imagev1.Image) {
	reference := obj.Image.DockerImageReference
	obj.Image = *image
	obj.Image.DockerImageReference = reference
	if obj.Tag == nil {
		return
	}
	if annotations := stored(obj.Tag.Annotations); annotations != nil {
		merged := maps.Clone(image.Annotations)
		if merged == nil {
			merged = map[string]string{}
		}
		maps.Copy(merged, annotations)
		obj.Image.Annotations = merged
	}
}

func (istag) own(obj *imagev1.ImageStreamTag) *imagev1.ImageStreamTag {
	return &imagev1.ImageStreamTag{Tag: obj.Tag, Generation: obj.Generation, Conditions: obj.Conditions, Image: obj.Image}
}

func (k istag) create(obj *imagev1.ImageStreamTag, tag string) (*imagev1.TagReference, error) {
	obj.Annotations = stored(obj.Annotations)
	obj.Generation, obj.Conditions, obj.Image = 0, nil, imagev1.Image{}
	if obj.Tag == nil {
		return nil, nil
	}
	given := stored(obj.Tag.Annotations)
	if given != nil && !maps.Equal(withoutLastApplied(given), withoutLastApplied(obj.Annotations)) {
		return nil, invalid(k.names(), obj.Name, field.Invalid(field.NewPath("tag", "annotations"), "<map>",
			"tag annotations must not be provided or must be equal to the object meta annotations"))
	}
	obj.Tag.Name, obj.Tag.Annotations = tag, obj.Annotations
	return obj.Tag, nil
}

func withoutLastApplied(annotations map[string]string) map[string]string {
	annotations = maps.Clone(annotations)
	delete(annotations, lastApplied)
	return annotations
}

func (k istag) update(obj, seen, now *imagev1.ImageStreamTag, tag string) (*imagev1.TagReference, error) {
	if len(obj.Labels) == 0 {
		obj.Labels = seen.Labels // Clients older than the labels of tags do not send them.
	}
	if !sameMeta(&obj.ObjectMeta, &seen.ObjectMeta) {
		return nil, invalid(k.names(), obj.Name, field.Invalid(field.NewPath("metadata"), "", "may not update fields other than metadata.annotations"))
	}
	if obj.Tag == nil {
		if now.Tag == nil {
			return nil, notSpecTag(obj, tag)
		}
		obj.Tag = now.Tag.DeepCopy()
	}
	annotations := stored(obj.Annotations)
	obj.Tag.Name, obj.Tag.Annotations = tag, annotations
	obj.ObjectMeta = *now.ObjectMeta.DeepCopy()
	obj.Annotations = annotations
	obj.Generation, obj.LookupPolicy, obj.Conditions, obj.Image = now.Generation, now.LookupPolicy, now.Conditions, now.Image
	return obj.Tag, nil
}

// notSpecTag refuses to change a tag that is not in spec without saying what it should be.
func notSpecTag(obj metav1.Object, tag string) error {
	stream, _, _ := splitName(obj.GetName())
	return apierrors.NewBadRequest(fmt.Sprintf("imagestreamtag %s is not a spec tag in imagestream %s/%s, cannot be updated", tag, obj.GetNamespace(), stream))
}

// sameMeta reports whether a client sent back what it may not change. What no client sets anywhere in
// Kubernetes is not looked at: the server puts that back.
func sameMeta(sent, seen *metav1.ObjectMeta) bool {
	return sent.GenerateName == seen.GenerateName &&
		equality.Semantic.DeepEqual(sent.Labels, seen.Labels) &&
		equality.Semantic.DeepEqual(sent.OwnerReferences, seen.OwnerReferences) &&
		equality.Semantic.DeepEqual(sent.Finalizers, seen.Finalizers)
}

var istagColumns = []metav1.TableColumnDefinition{
	table.Name(),
	table.Text("Image Reference", imagev1.Image{}.SwaggerDoc()["dockerImageReference"]),
	table.Text("Updated", "Last update time."),
	table.Wide(table.Text("Image Name", imagev1.ImageStreamTag{}.SwaggerDoc()["image"])),
}

func (istag) cells(obj *imagev1.ImageStreamTag, now time.Time) []any {
	return []any{obj.Name, obj.Image.DockerImageReference, table.Ago(obj.CreationTimestamp, now), obj.Image.Name}
}
