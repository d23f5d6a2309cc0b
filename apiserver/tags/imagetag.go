package tags

import (
	"strings"
	"time"

	imagev1 "github.com/openshift/api/image/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"istag.dev/apiserver/table"
	"istag.dev/store"
	storev1 "istag.dev/store/v1"
)

// itag is the kind ImageTag: whatever a stream says of a tag, in spec, status or both.
type itag struct{}

func (itag) names() names {
	return names{
		resource: "imagetags", singular: "imagetag", short: "itag", kind: "ImageTag",
		taken: "imagetags", field: "spec",
	}
}

func (itag) empty() *imagev1.ImageTag { return &imagev1.ImageTag{} }

func (itag) list(meta metav1.ListMeta, items []*imagev1.ImageTag) runtime.Object {
	list := &imagev1.ImageTagList{ListMeta: meta, Items: make([]imagev1.ImageTag, 0, len(items))}
	for _, item := range items {
		list.Items = append(list.Items, *item)
	}
	return list
}

func (itag) shown(record *storev1.StreamRecord, tag string) bool {
	return store.SpecTag(&record.Spec, tag) != nil || history(record, tag) != nil
}

// view has the stream's annotations, as in OpenShift. Of its generation it says nothing, since that
// changes with every tag of the stream, and a tag would seem to.
func (itag) view(record *storev1.StreamRecord, tag string) *imagev1.ImageTag {
	obj := &imagev1.ImageTag{
		ObjectMeta: tagMeta(record, tag, record.Annotations),
		Spec:       store.SpecTag(&record.Spec, tag),
	}
	if h := history(record, tag); h != nil {
		status := *h
		if len(status.Items) == 0 {
			status.Items = nil // "items":null on the wire, as in OpenShift
		}
		obj.Status = &status
	}
	return obj
}

func (itag) needsImage() bool { return false }

func (itag) fill(obj *imagev1.ImageTag, record *storev1.StreamRecord, tag string, image *imagev1.Image) {
	filled := *image
	filled.DockerImageReference, _ = store.PullSpec(record, tag)
	obj.Image = &filled
}

func (itag) own(obj *imagev1.ImageTag) *imagev1.ImageTag {
	return &imagev1.ImageTag{Spec: obj.Spec, Status: obj.Status}
}

func (k itag) create(obj *imagev1.ImageTag, tag string) (*imagev1.TagReference, error) {
	obj.Annotations = stored(obj.Annotations)
	obj.Status, obj.Image = nil, nil
	if obj.Spec == nil {
		return nil, invalid(k.names(), obj.Name, field.Required(field.NewPath("spec"), "spec is a required field during creation"))
	}
	return k.specTag(obj, tag)
}

func (k itag) specTag(obj *imagev1.ImageTag, tag string) (*imagev1.TagReference, error) {
	if obj.Spec.Name == "" {
		obj.Spec.Name = tag
	}
	if obj.Spec.Name != tag {
		return nil, invalid(k.names(), obj.Name, field.Invalid(field.NewPath("spec", "name"), obj.Spec.Name, "must match image tag name"))
	}
	obj.Spec.Annotations = stored(obj.Spec.Annotations)
	return obj.Spec, nil
}

func (k itag) update(obj, seen, now *imagev1.ImageTag, tag string) (*imagev1.TagReference, error) {
	var errs field.ErrorList
	if !sameMeta(&obj.ObjectMeta, &seen.ObjectMeta) || !equality.Semantic.DeepEqual(stored(obj.Annotations), stored(seen.Annotations)) {
		errs = append(errs, field.Invalid(field.NewPath("metadata"), "", "may not update fields other than spec"))
	}
	if !equality.Semantic.DeepEqual(obj.Status, seen.Status) {
		errs = append(errs, field.Invalid(field.NewPath("status"), "", "may not update fields other than spec"))
	}
	if len(errs) > 0 {
		return nil, invalid(k.names(), obj.Name, errs...)
	}
	obj.ObjectMeta = *now.ObjectMeta.DeepCopy()
	obj.Status, obj.Image = now.Status, now.Image
	if obj.Spec != nil {
		return k.specTag(obj, tag)
	}
	if now.Spec == nil && now.Status == nil {
		return nil, apierrors.NewNotFound(imagev1.Resource(k.names().resource), obj.Name)
	}
	return nil, nil
}

var itagColumns = []metav1.TableColumnDefinition{
	table.Name(),
	table.Text("Spec", "How the tag came to be: set in spec, a reference, imported on schedule, following a tag, or pushed."),
	table.Text("Status", "What the tag means now, or why that is not known."),
	{Name: "History", Type: "integer", Description: "How many events the tag has had."},
	table.Text("Updated", "Last update time."),
}

func (itag) cells(obj *imagev1.ImageTag, now time.Time) []any {
	source, status := specSource(obj.Spec)
	event, failure, last := latest(obj.Status)
	if event != nil {
		switch {
		case behind(obj.Spec, event):
			status = "Importing"
		case event.Image != "":
			source = "image/" + event.Image
		case event.DockerImageReference != "":
			source = event.DockerImageReference
		}
	}
	if failure != nil {
		status = "ImportFailed (" + failure.Reason + ")"
	}
	if status == "" {
		status = source
	}
	var events any // an empty cell rather than a 0
	if obj.Status != nil && len(obj.Status.Items) > 0 {
		events = int64(len(obj.Status.Items))
	}
	return []any{obj.Name, specKind(obj.Spec, event, source), status, events, table.Ago(last, now)}
}

// specSource says where a spec tag points, or else what is wrong with where it points.
func specSource(spec *imagev1.TagReference) (source, wrong string) {
	if spec == nil || spec.From == nil {
		return "", ""
	}
	from := spec.From
	switch {
	case from.Kind == store.KindDockerImage:
		return from.Name, ""
	case from.Kind == store.KindImageStreamTag && from.Namespace != "":
		return "istag " + from.Namespace + "/" + from.Name, ""
	case from.Kind == store.KindImageStreamTag:
		return "istag/" + from.Name, ""
	case from.Kind == store.KindImageStreamImage:
		stream, id, ok := strings.Cut(from.Name, "@")
		if !ok || stream == "" || id == "" {
			return "", "InvalidRefName"
		}
		return "image/" + id, ""
	}
	return "", "InvalidRefKind"
}

// specKind says in a word how the tag came to be what it is.
func specKind(spec *imagev1.TagReference, event *imagev1.TagEvent, source string) string {
	word := ""
	if spec != nil && spec.From != nil {
		word = "Tag"
		switch {
		case spec.From.Kind == store.KindImageStreamTag && !strings.Contains(spec.From.Name, ":"):
			return "Track" // Its events have their source's generation, which says nothing here.
		case spec.ImportPolicy.Scheduled:
			word = "Scheduled"
		case spec.Reference:
			word = "Ref"
		}
	}
	if event == nil {
		return word
	}
	generation := int64(0)
	if spec != nil {
		generation = ptr.Deref(spec.Generation, 0)
	}
	if word == "" && source != "" || generation > 0 && event.Generation > generation {
		return "Push"
	}
	return word
}

// behind reports whether spec asks for something newer than the event.
func behind(spec *imagev1.TagReference, event *imagev1.TagEvent) bool {
	return spec != nil && event.Generation > 0 && event.Generation < ptr.Deref(spec.Generation, 0)
}

// latest returns a tag's newest event, why its import failed, and when the later of them happened. That
// an import was tried and found nothing new is no update.
func latest(status *imagev1.NamedTagEventList) (event *imagev1.TagEvent, failure *imagev1.TagEventCondition, last metav1.Time) {
	if status == nil {
		return nil, nil, last
	}
	if len(status.Items) > 0 {
		event = &status.Items[0]
		last = event.Created
	}
	for i := range status.Conditions {
		c := &status.Conditions[i]
		if c.Type != imagev1.ImportSuccess || c.Status != corev1.ConditionFalse {
			continue
		}
		failure = c
		if last.Before(&c.LastTransitionTime) {
			last = c.LastTransitionTime
		}
	}
	return event, failure, last
}
