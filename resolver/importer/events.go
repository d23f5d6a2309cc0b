package importer

import (
	"fmt"

	imagev1 "github.com/openshift/api/image/v1"

	"istag.dev/resolver/notice"
	"istag.dev/store"
	storev1 "istag.dev/store/v1"
)

// Reasons of the events that the importer makes, and their action.
const (
	ReasonTagImported  = "TagImported"
	ReasonImportFailed = "ImportFailed"

	action = "Import"
)

// changes returns what the difference between two states of a record is worth telling: imports that
// brought another image, and failures other than before. Comparing states rather than counting calls
// is what keeps a repeated reconcile from telling anything twice.
func changes(before, after *storev1.StreamRecord) []notice.Notice {
	var notices []notice.Notice
	for i := range after.Status.Tags {
		tag := after.Status.Tags[i].Tag
		was, is := store.Latest(&before.Status, tag), store.Latest(&after.Status, tag)
		if is != nil && is.Image != "" && (was == nil || was.Image != is.Image) {
			if source, ok := importedFrom(after, tag, is); ok {
				notices = append(notices, notice.Normal(ReasonTagImported, fmt.Sprintf("tag %q is now %s (from %s)", tag, is.Image, source)))
			}
		}
		old, failure := store.ImportFailure(&before.Status, tag), store.ImportFailure(&after.Status, tag)
		if failure != nil && (old == nil || old.Reason != failure.Reason || old.Message != failure.Message) {
			notices = append(notices, notice.Warning(ReasonImportFailed, fmt.Sprintf("tag %q: %s: %s", tag, failure.Reason, failure.Message)))
		}
	}
	return notices
}

// importedFrom returns the pull spec that an event was imported from; ok is false if the event came
// about another way.
func importedFrom(record *storev1.StreamRecord, tag string, event *imagev1.TagEvent) (source string, ok bool) {
	for _, o := range record.Record.Origins {
		if o.Tag == tag && o.Image == event.Image && o.Created.Equal(&event.Created) {
			return o.Source, o.Via == storev1.ViaImport
		}
	}
	return "", false
}
