package store

import (
	imagev1 "github.com/openshift/api/image/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	storev1 "istag.dev/store/v1"
)

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
// newer, is left exactly as it is. Accept must have seen the record's spec.
func RecordImport(record *storev1.StreamRecord, tag string, imported Import, now metav1.Time) bool {
	from := SpecTag(&record.Spec, tag)
	if from == nil {
		return false
	}
	newest := Latest(&record.Status, tag)
	failure := ImportFailure(&record.Status, tag)
	same := newest != nil && newest.Image == imported.Image && newest.DockerImageReference == imported.Reference
	if same && failure == nil && newest.Generation >= ptr.Deref(from.Generation, 0) {
		return false
	}
	record.Record.Generation++
	from.Generation = ptr.To(record.Record.Generation)
	event := imagev1.TagEvent{
		Created:              now,
		DockerImageReference: imported.Reference,
		Image:                imported.Image,
		Generation:           record.Record.Generation,
	}
	if addEvent(record, tag, event, storev1.ViaImport, from.From.Name) {
		follow(record, map[string]bool{tag: true}, nil)
	}
	seal(record)
	return true
}

// RecordImportFailure records as the tag's ImportSuccess condition why an import failed, and reports
// whether the record changed. What the tag meant before, it means still. The same failure again
// changes nothing, so that a tag that keeps failing wakes nobody. Accept must have seen the record's
// spec.
func RecordImportFailure(record *storev1.StreamRecord, tag, reason, message string, now metav1.Time) bool {
	from := SpecTag(&record.Spec, tag)
	if from == nil {
		return false
	}
	pending := Pending(record, from)
	generation := ptr.Deref(from.Generation, 0)
	if c := ImportFailure(&record.Status, tag); c == nil || c.Reason != reason || c.Message != message {
		record.Record.Generation++
		generation = record.Record.Generation
		from.Generation = ptr.To(generation)
	}
	changed := setFailure(record, tag, reason, message, generation, now)
	seal(record)
	return changed || pending
}
