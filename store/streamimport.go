package store

import (
	"slices"
	"strings"
	"time"

	imagev1 "github.com/openshift/api/image/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	storev1 "istag.dev/store/v1"
)

// TagImport is what an ImageStreamImport asks for one tag, and what came of it: exactly one of
// Imported, Failure and Pending is set.
type TagImport struct {
	Tag             string
	From            corev1.ObjectReference
	ImportPolicy    imagev1.TagImportPolicy
	ReferencePolicy imagev1.TagReferencePolicy
	// FromRepository says that the tag is one of a whole repository's import.
	FromRepository bool

	// Imported is the image that the registry has.
	Imported *Import
	// Failure says why there is none.
	Failure *ImportError
	// Pending says that there was not time enough; the importer goes on.
	Pending bool
}

// ImportError is why an import failed: a Kubernetes status reason, and a message for users.
type ImportError struct{ Reason, Message string }

// RecordImports records what came of an ImageStreamImport and reports whether the record changed. The
// rules are OpenShift's: all tags that change get one generation; an image that a tag means already
// changes nothing but the import policy; a failure takes nothing away, and makes a tag unless a whole
// repository was asked for; and a stream where nothing changed is left exactly as it is, once it says
// when it was imported.
//
// A new stream comes in with generation 0. Tags that follow move along in the same write.
func RecordImports(record *storev1.StreamRecord, imports []TagImport, c Change) bool {
	next := record.Record.Generation + 1
	changed := next == 1
	moved := map[string]bool{}
	for i := range imports {
		imported := &imports[i]
		switch {
		case imported.Imported != nil:
			changed = recordImported(record, imported, next, c, moved) || changed
		case imported.Failure != nil:
			changed = recordFailed(record, imported, next, c) || changed
		case imported.Pending:
			tag := specTag(&record.Spec, imported.Tag)
			// A reference is never imported, but here it was asked for.
			tag.Reference = false
			ask(record, tag, imported, next, c)
			changed = true
		}
	}
	follow(record, moved, nil, nil)
	if changed {
		record.Record.Generation = next
	} else if record.Annotations[imagev1.DockerImageRepositoryCheckAnnotation] != "" {
		return false
	}
	if record.Annotations == nil {
		record.Annotations = map[string]string{}
	}
	record.Annotations[imagev1.DockerImageRepositoryCheckAnnotation] = c.Now.UTC().Format(time.RFC3339)
	seal(record)
	return true
}

func recordImported(record *storev1.StreamRecord, imported *TagImport, generation int64, c Change, moved map[string]bool) bool {
	tag := SpecTag(&record.Spec, imported.Tag)
	// OpenShift lets a tag of another kind that happens to mean the image go on naming what it named; so
	// whether the tag is imported again would be chance.
	if tag == nil || tag.From == nil || tag.From.Kind != KindDockerImage || !isImported(record, tag, *imported.Imported) {
		tag = specTag(&record.Spec, imported.Tag)
		ask(record, tag, imported, generation, c)
		addImport(record, tag, *imported.Imported, c.Now)
		moved[imported.Tag] = true
		return true
	}
	before := tag.ImportPolicy
	tag.ImportPolicy = imported.ImportPolicy
	setDefaults(tag)
	if tag.ImportPolicy == before {
		return false
	}
	setRequest(record, tag, c)
	return true
}

func recordFailed(record *storev1.StreamRecord, imported *TagImport, generation int64, c Change) bool {
	message := imported.Failure.Message
	if message == "" {
		message = "unknown error prevented import"
	}
	tag := SpecTag(&record.Spec, imported.Tag)
	missing := tag == nil && !imported.FromRepository
	if missing {
		tag = specTag(&record.Spec, imported.Tag)
		ask(record, tag, imported, generation, c)
	}
	same := failedAs(record, imported.Tag, imported.Failure.Reason, message) != nil
	if same && !missing && (tag == nil || !Pending(record, tag)) {
		return false
	}
	if tag != nil {
		tag.Generation = ptr.To(generation)
		setRequest(record, tag, c)
	}
	setFailure(record, imported.Tag, imported.Failure.Reason, message, generation, c.Now)
	return true
}

// ask makes a tag of spec ask for an import. As in OpenShift a tag that exists keeps its reference policy
// and annotations.
func ask(record *storev1.StreamRecord, tag *imagev1.TagReference, imported *TagImport, generation int64, c Change) {
	tag.From = &corev1.ObjectReference{Kind: KindDockerImage, Name: imported.From.Name}
	tag.Generation = ptr.To(generation)
	tag.ImportPolicy = imported.ImportPolicy
	if tag.ReferencePolicy.Type == "" {
		tag.ReferencePolicy = imported.ReferencePolicy
	}
	setDefaults(tag)
	setRequest(record, tag, c)
}

// specTag returns the spec entry of a tag, made if there is none. Entries stay sorted by name.
func specTag(spec *imagev1.ImageStreamSpec, name string) *imagev1.TagReference {
	i, found := slices.BinarySearchFunc(spec.Tags, name, func(t imagev1.TagReference, name string) int {
		return strings.Compare(t.Name, name)
	})
	if !found {
		spec.Tags = slices.Insert(spec.Tags, i, imagev1.TagReference{Name: name})
	}
	return &spec.Tags[i]
}
