package store

import (
	imagev1 "github.com/openshift/api/image/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	storev1 "istag.dev/store/v1"
)

// ReasonImported is the reason of the condition that says that an import succeeded.
const ReasonImported = "Imported"

// Importable reports whether a tag's image is found by asking a registry.
func Importable(tag *imagev1.TagReference) bool {
	return tag.From != nil && tag.From.Kind == KindDockerImage && !tag.Reference
}

// Pending reports whether a tag is still to be imported: its generation in spec is newer than any
// that its status accounts for.
func Pending(record *storev1.StreamRecord, tag *imagev1.TagReference) bool {
	return Importable(tag) && ptr.Deref(tag.Generation, 0) > ObservedGeneration(&record.Status, tag.Name)
}

// Import is what a registry said of a tag.
type Import struct {
	// Reference is the pull spec as the user spells its repository, with the digest: "repo@sha256:…".
	Reference string
	// Image is the digest, "sha256:…".
	Image string
}

// RecordImport makes an imported image the newest event of a tag, carries it to the tags that follow
// and reports whether the record changed. A tag that already means this image, and asked for nothing
// newer, is left exactly as it is.
func RecordImport(record *storev1.StreamRecord, tag string, imported Import, now metav1.Time) bool {
	from := SpecTag(&record.Spec, tag)
	if from == nil || from.From == nil || isImported(record, from, imported) {
		return false
	}
	record.Record.Generation++
	from.Generation = ptr.To(record.Record.Generation)
	addImport(record, from, imported, now)
	follow(record, map[string]bool{tag: true}, nil, nil)
	collapse(record)
	return true
}

// isImported reports whether an import tells nothing new: the tag means the image, and asked for nothing
// since.
func isImported(record *storev1.StreamRecord, tag *imagev1.TagReference, imported Import) bool {
	newest := Latest(&record.Status, tag.Name)
	return newest != nil && newest.Image == imported.Image && newest.DockerImageReference == imported.Reference &&
		newest.Generation >= ptr.Deref(tag.Generation, 0) && ImportFailure(&record.Status, tag.Name) == nil
}

// addImport adds the event of an import for the generation that the tag has in spec, on behalf of
// whoever last changed the tag, and says when the import was.
func addImport(record *storev1.StreamRecord, tag *imagev1.TagReference, imported Import, now metav1.Time) {
	event := imagev1.TagEvent{
		Created:              now,
		DockerImageReference: imported.Reference,
		Image:                imported.Image,
		Generation:           *tag.Generation,
	}
	origin := storev1.TagEventOrigin{Via: storev1.ViaImport, Source: tag.From.Name, By: requestedBy(record, tag.Name)}
	addEvent(record, tag.Name, event, origin)
	setCondition(record, tag.Name, corev1.ConditionTrue, ReasonImported, "imported from "+tag.From.Name, event.Generation, now)
}

// RecordImportFailure records as the tag's ImportSuccess condition why an import failed, and reports
// whether the record changed. What the tag meant before, it means still. The same failure again
// changes nothing, so that a tag that keeps failing wakes nobody.
func RecordImportFailure(record *storev1.StreamRecord, tag, reason, message string, now metav1.Time) bool {
	from := SpecTag(&record.Spec, tag)
	if from == nil {
		return false
	}
	if failedAs(record, tag, reason, message) == nil {
		record.Record.Generation++
		from.Generation = ptr.To(record.Record.Generation)
	} else if !Pending(record, from) {
		return false
	}
	setFailure(record, tag, reason, message, ptr.Deref(from.Generation, 0), now)
	collapse(record)
	return true
}
