package store

import (
	"slices"
	"strings"

	imagev1 "github.com/openshift/api/image/v1"
	corev1 "k8s.io/api/core/v1"

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
// Items is never nil: the CRD's schema requires the field and refuses null.
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
// Every change clears the tag's conditions.
func addEvent(record *storev1.StreamRecord, tag string, event imagev1.TagEvent, via storev1.TagEventVia, source string) bool {
	list := statusTag(&record.Status, tag)
	if len(list.Items) == 0 {
		list.Items = []imagev1.TagEvent{event}
		list.Conditions = nil
		setOrigin(record, tag, event, via, source)
		return true
	}
	newest := &list.Items[0]
	sameImage := newest.Image == event.Image
	sameReference := newest.DockerImageReference == event.DockerImageReference
	switch {
	case sameImage && sameReference && newest.Generation == event.Generation:
		return false
	case sameImage || sameReference:
		dropOrigin(record, tag, *newest)
		newest.DockerImageReference = event.DockerImageReference
		newest.Image = event.Image
		newest.Generation = event.Generation
		event.Created = newest.Created
	default:
		list.Items = slices.Insert(list.Items, 0, event)
	}
	list.Conditions = nil
	setOrigin(record, tag, event, via, source)
	return true
}

func setOrigin(record *storev1.StreamRecord, tag string, event imagev1.TagEvent, via storev1.TagEventVia, source string) {
	origin := storev1.TagEventOrigin{Tag: tag, Image: event.Image, Created: event.Created, Via: via, Source: source}
	record.Record.Origins = slices.Insert(record.Record.Origins, 0, origin)
}

func dropOrigin(record *storev1.StreamRecord, tag string, event imagev1.TagEvent) {
	record.Record.Origins = slices.DeleteFunc(record.Record.Origins, func(o storev1.TagEventOrigin) bool {
		return o.Tag == tag && o.Image == event.Image && o.Created.Equal(&event.Created)
	})
}

// follow carries the newest events of the moved tags to the tags of the stream that follow them, and
// gives retargeted followers what their target means. A target is settled before its followers, so a
// chain of any length arrives in one pass, whatever the order of the tags; a loop ends where it began.
func follow(record *storev1.StreamRecord, moved, retargeted map[string]bool) {
	visited := map[string]bool{}
	var settle func(name string)
	settle = func(name string) {
		tag := SpecTag(&record.Spec, name)
		if tag == nil || visited[name] {
			return
		}
		visited[name] = true
		target, ok := aliasTarget(record, tag)
		if !ok {
			return
		}
		settle(target)
		newest := Latest(&record.Status, target)
		if newest == nil || !moved[target] && !retargeted[name] {
			return
		}
		event := *newest
		if retargeted[name] {
			event.Generation = *tag.Generation
		}
		if addEvent(record, name, event, storev1.ViaAlias, target) {
			moved[name] = true
		}
	}
	for i := range record.Spec.Tags {
		settle(record.Spec.Tags[i].Name)
	}
}

// aliasTarget returns the tag that a spec tag follows: one of its own stream, named "tag" or
// "stream:tag".
func aliasTarget(record *storev1.StreamRecord, tag *imagev1.TagReference) (string, bool) {
	from := tag.From
	if from == nil || from.Kind != KindImageStreamTag {
		return "", false
	}
	if from.Namespace != "" && from.Namespace != record.Namespace {
		return "", false
	}
	stream, target, ok := strings.Cut(from.Name, ":")
	if !ok {
		return from.Name, true
	}
	return target, stream == StreamName(record.Name)
}

// collapse drops the status entries that say nothing, and the origins of events that are gone.
func collapse(record *storev1.StreamRecord) {
	record.Status.Tags = slices.DeleteFunc(record.Status.Tags, func(l imagev1.NamedTagEventList) bool {
		return len(l.Items) == 0 && len(l.Conditions) == 0
	})
	record.Record.Origins = slices.DeleteFunc(record.Record.Origins, func(o storev1.TagEventOrigin) bool {
		for i := range record.Status.Tags {
			if record.Status.Tags[i].Tag != o.Tag {
				continue
			}
			return !slices.ContainsFunc(record.Status.Tags[i].Items, func(e imagev1.TagEvent) bool {
				return e.Image == o.Image && e.Created.Equal(&o.Created)
			})
		}
		return true
	})
}
