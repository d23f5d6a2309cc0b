package store

import (
	"cmp"
	"slices"

	imagev1 "github.com/openshift/api/image/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	storev1 "istag.dev/store/v1"
)

// AcceptStatus takes in a status that a client wrote (PUT imagestreams/status). Spec and envelope are
// put back; OpenShift forgets the lookup policy there. A newest event without a generation gets one.
// Tags that follow move along, which OpenShift omits.
func AcceptStatus(record, old *storev1.StreamRecord, c Change) {
	record.Spec = *old.Spec.DeepCopy()
	record.Record = *old.Record.DeepCopy()
	normalizeStatus(&record.Status)
	moved := map[string]bool{}
	for i := range record.Status.Tags {
		list := &record.Status.Tags[i]
		for j := range list.Conditions {
			setNow(&list.Conditions[j].LastTransitionTime, c)
		}
		for j := range list.Items {
			setNow(&list.Items[j].Created, c)
		}
		if len(list.Items) == 0 {
			continue
		}
		newest, was := &list.Items[0], Latest(&old.Status, list.Tag)
		if newest.Generation == 0 {
			newest.Generation = observedGeneration(record, list.Tag, was)
		}
		moved[list.Tag] = was == nil || was.Image != newest.Image || was.DockerImageReference != newest.DockerImageReference
	}
	addStatusOrigins(record, old, c)
	follow(record, moved, nil, nil)
	seal(record)
}

// setNow fills a time that a client left out, which the records cannot do without.
func setNow(t *metav1.Time, c Change) {
	if t.IsZero() {
		*t = c.Now
	}
}

// observedGeneration returns the generation of a newest event that came without one, as OpenShift gives
// it: that of spec if the tag had an event, that of the stream otherwise.
func observedGeneration(record *storev1.StreamRecord, tag string, was *imagev1.TagEvent) int64 {
	spec := SpecTag(&record.Spec, tag)
	if was == nil || spec == nil || spec.Generation == nil {
		return record.Record.Generation
	}
	return *spec.Generation
}

// addStatusOrigins notes who wrote the events that were not there before.
func addStatusOrigins(record, old *storev1.StreamRecord, c Change) {
	for _, list := range record.Status.Tags {
		var before []imagev1.TagEvent
		for i := range old.Status.Tags {
			if old.Status.Tags[i].Tag == list.Tag {
				before = old.Status.Tags[i].Items
			}
		}
		for _, event := range slices.Backward(list.Items) {
			known := slices.ContainsFunc(before, func(e imagev1.TagEvent) bool {
				return e.Image == event.Image && e.Created.Equal(&event.Created) && e.DockerImageReference == event.DockerImageReference
			})
			if !known {
				dropOrigin(record, list.Tag, event)
				addOrigin(record, list.Tag, event, storev1.TagEventOrigin{Via: storev1.ViaStatus, By: requester(c.By)})
			}
		}
	}
}

// RemoveTag takes a tag out of spec and status and reports whether it was in either. Accept follows.
func RemoveTag(record *storev1.StreamRecord, tag string) bool {
	tags, lists := len(record.Spec.Tags), len(record.Status.Tags)
	record.Spec.Tags = slices.DeleteFunc(record.Spec.Tags, func(t imagev1.TagReference) bool { return t.Name == tag })
	record.Status.Tags = slices.DeleteFunc(record.Status.Tags, func(l imagev1.NamedTagEventList) bool { return l.Tag == tag })
	return len(record.Spec.Tags) < tags || len(record.Status.Tags) < lists
}

// Push records an image that was pushed for a tag (ImageStreamMapping), carries it to the tags that
// follow, and reports whether the record changed.
func Push(record *storev1.StreamRecord, tag string, pushed Import, c Change) bool {
	tag = cmp.Or(tag, DefaultTag)
	event := imagev1.TagEvent{
		Created:              c.Now,
		DockerImageReference: pushed.Reference,
		Image:                pushed.Image,
		Generation:           record.Record.Generation,
	}
	if !addEvent(record, tag, event, storev1.TagEventOrigin{Via: storev1.ViaPush, By: requester(c.By)}) {
		return false
	}
	follow(record, map[string]bool{tag: true}, nil, nil)
	seal(record)
	return true
}

// Trim keeps at most limit events of each tag and reports whether the record changed. The oldest go
// first; the newest of a tag never does, nor does one whose image is in use.
func Trim(record *storev1.StreamRecord, limit int, inUse func(image string) bool) bool {
	trimmed := false
	for i := range record.Status.Tags {
		list := &record.Status.Tags[i]
		for j := len(list.Items) - 1; j > 0 && len(list.Items) > limit; j-- {
			if image := list.Items[j].Image; image != "" && inUse(image) {
				continue
			}
			list.Items = slices.Delete(list.Items, j, j+1)
			trimmed = true
		}
	}
	if trimmed {
		collapse(record)
	}
	return trimmed
}
