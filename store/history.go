package store

import (
	"slices"
	"strings"

	imagev1 "github.com/openshift/api/image/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	storev1 "istag.dev/store/v1"
)

// Latest returns the newest event of a tag, or nil if the tag has none.
func Latest(status *imagev1.ImageStreamStatus, tag string) *imagev1.TagEvent {
	for i := range status.Tags {
		if status.Tags[i].Tag == tag && len(status.Tags[i].Items) > 0 {
			return &status.Tags[i].Items[0]
		}
	}
	return nil
}

// SpecTag returns the spec entry of a tag, or nil if there is none.
func SpecTag(spec *imagev1.ImageStreamSpec, tag string) *imagev1.TagReference {
	for i := range spec.Tags {
		if spec.Tags[i].Name == tag {
			return &spec.Tags[i]
		}
	}
	return nil
}

// ImportFailure returns the condition that says why the last import of a tag failed, or nil if it
// did not.
func ImportFailure(status *imagev1.ImageStreamStatus, tag string) *imagev1.TagEventCondition {
	for i := range status.Tags {
		if status.Tags[i].Tag != tag {
			continue
		}
		for j := range status.Tags[i].Conditions {
			c := &status.Tags[i].Conditions[j]
			if c.Type == imagev1.ImportSuccess && c.Status == corev1.ConditionFalse {
				return c
			}
		}
	}
	return nil
}

// ObservedGeneration returns the newest generation that the status of a tag accounts for, by an
// event or by a condition; 0 if it accounts for none. A spec tag of a newer generation is still to
// be imported.
func ObservedGeneration(status *imagev1.ImageStreamStatus, tag string) int64 {
	var observed int64
	for i := range status.Tags {
		if status.Tags[i].Tag != tag {
			continue
		}
		if items := status.Tags[i].Items; len(items) > 0 {
			observed = max(observed, items[0].Generation)
		}
		for _, c := range status.Tags[i].Conditions {
			if c.Type == imagev1.ImportSuccess {
				observed = max(observed, c.Generation)
			}
		}
	}
	return observed
}

// PullSpec returns what the kubelet should get for a tag: the newest event's own reference, or,
// where the tag's reference policy is Local and the stream has a repository in the cluster,
// that repository with the event's digest. ok is false if the tag has no event.
//
// A reference tag's pull spec may hold a tag instead of a digest.
func PullSpec(record *storev1.StreamRecord, tag string) (spec string, ok bool) {
	event := Latest(&record.Status, tag)
	if event == nil {
		return "", false
	}
	from := SpecTag(&record.Spec, tag)
	repository := record.Status.DockerImageRepository
	if from == nil || from.ReferencePolicy.Type != imagev1.LocalTagReferencePolicy || repository == "" || event.Image == "" {
		return event.DockerImageReference, true
	}
	return repository + "@" + event.Image, true
}

// statusTag returns the status entry of a tag, made if there is none. Entries stay sorted by tag.
// Items is never nil, so that a record compares equal to what is read back of it.
func statusTag(status *imagev1.ImageStreamStatus, tag string) *imagev1.NamedTagEventList {
	i, found := slices.BinarySearchFunc(status.Tags, tag, func(l imagev1.NamedTagEventList, tag string) int {
		return strings.Compare(l.Tag, tag)
	})
	if !found {
		status.Tags = slices.Insert(status.Tags, i, imagev1.NamedTagEventList{Tag: tag, Items: []imagev1.TagEvent{}})
	}
	return &status.Tags[i]
}

// addEvent makes an event the newest of a tag and reports whether anything changed. It compares
// with the newest event only, as OpenShift does: an equal one is left, one that differs only by its
// generation, or by only one of reference and image, is changed in place and keeps its time, and
// anything else goes before it. Going back to an older image therefore makes a new event.
// Every change clears the tag's conditions. An event that only got a newer generation keeps its origin:
// what the tag means still came from there.
func addEvent(record *storev1.StreamRecord, tag string, event imagev1.TagEvent, origin storev1.TagEventOrigin) bool {
	list := statusTag(&record.Status, tag)
	if len(list.Items) == 0 {
		list.Items = []imagev1.TagEvent{event}
		list.Conditions = nil
		addOrigin(record, tag, event, origin)
		return true
	}
	newest := &list.Items[0]
	sameImage := newest.Image == event.Image
	sameReference := newest.DockerImageReference == event.DockerImageReference
	switch {
	case sameImage && sameReference && newest.Generation == event.Generation:
		return false
	case sameImage && sameReference:
		newest.Generation = event.Generation
	case sameImage || sameReference:
		dropOrigin(record, tag, *newest)
		newest.DockerImageReference = event.DockerImageReference
		newest.Image = event.Image
		newest.Generation = event.Generation
		addOrigin(record, tag, *newest, origin)
	default:
		list.Items = slices.Insert(list.Items, 0, event)
		addOrigin(record, tag, event, origin)
	}
	list.Conditions = nil
	return true
}

// Origin returns where the newest event of a tag came from, or nil if that is not known.
func Origin(record *storev1.StreamRecord, tag string) *storev1.TagEventOrigin {
	newest := Latest(&record.Status, tag)
	if newest == nil {
		return nil
	}
	if i := originOf(record, tag, *newest); i >= 0 {
		return &record.Record.Origins[i]
	}
	return nil
}

func originOf(record *storev1.StreamRecord, tag string, event imagev1.TagEvent) int {
	return slices.IndexFunc(record.Record.Origins, func(o storev1.TagEventOrigin) bool {
		return o.Tag == tag && isOrigin(&o, &event)
	})
}

func isOrigin(o *storev1.TagEventOrigin, event *imagev1.TagEvent) bool {
	return o.Image == event.Image && o.Created.Equal(&event.Created)
}

// addOrigin notes where an event came from. Origins are kept newest first.
func addOrigin(record *storev1.StreamRecord, tag string, event imagev1.TagEvent, origin storev1.TagEventOrigin) {
	origin.Tag, origin.Image, origin.Created = tag, event.Image, event.Created
	record.Record.Origins = slices.Insert(record.Record.Origins, 0, origin)
}

func dropOrigin(record *storev1.StreamRecord, tag string, event imagev1.TagEvent) {
	if i := originOf(record, tag, event); i >= 0 {
		record.Record.Origins = slices.Delete(record.Record.Origins, i, i+1)
	}
}

// setFailure records why a tag has no newer image. The tag's history stays as it was, and the condition
// keeps its time if it says nothing new.
func setFailure(record *storev1.StreamRecord, tag, reason, message string, generation int64, now metav1.Time) {
	if same := failedAs(record, tag, reason, message); same != nil {
		same.Generation = max(same.Generation, generation)
		return
	}
	setCondition(record, tag, corev1.ConditionFalse, reason, message, generation, now)
}

// failedAs returns the condition that says that the last import of a tag failed, if it was for the
// reason given.
func failedAs(record *storev1.StreamRecord, tag, reason, message string) *imagev1.TagEventCondition {
	c := ImportFailure(&record.Status, tag)
	if c == nil || c.Reason != reason || c.Message != message {
		return nil
	}
	return c
}

func setCondition(record *storev1.StreamRecord, tag string, status corev1.ConditionStatus, reason, message string, generation int64, now metav1.Time) {
	statusTag(&record.Status, tag).Conditions = []imagev1.TagEventCondition{{
		Type:               imagev1.ImportSuccess,
		Status:             status,
		LastTransitionTime: now,
		Reason:             reason,
		Message:            message,
		Generation:         generation,
	}}
}

func clearConditions(record *storev1.StreamRecord, tag string) {
	statusTag(&record.Status, tag).Conditions = nil
}

// collapse drops the status entries that say nothing, the origins of events that are gone, and the
// requests of tags that left spec.
func collapse(record *storev1.StreamRecord) {
	record.Status.Tags = slices.DeleteFunc(record.Status.Tags, func(l imagev1.NamedTagEventList) bool {
		return len(l.Items) == 0 && len(l.Conditions) == 0
	})
	events := make(map[string][]imagev1.TagEvent, len(record.Status.Tags))
	for _, list := range record.Status.Tags {
		events[list.Tag] = list.Items
	}
	record.Record.Origins = slices.DeleteFunc(record.Record.Origins, func(o storev1.TagEventOrigin) bool {
		return !slices.ContainsFunc(events[o.Tag], func(e imagev1.TagEvent) bool { return isOrigin(&o, &e) })
	})
	names := make(map[string]bool, len(record.Spec.Tags))
	for i := range record.Spec.Tags {
		names[record.Spec.Tags[i].Name] = true
	}
	record.Record.Requests = slices.DeleteFunc(record.Record.Requests, func(r storev1.TagRequest) bool { return !names[r.Tag] })
}
