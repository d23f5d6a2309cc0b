package store

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	imagev1 "github.com/openshift/api/image/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	storev1 "istag.dev/store/v1"
)

// Reasons of a tag's ImportSuccess condition that the history rules themselves give.
const (
	ReasonNotFound  = "NotFound"
	ReasonInvalid   = "Invalid"
	ReasonForbidden = "Forbidden"
)

// Source returns the record of another stream of the same namespace, or nil if there is none.
type Source func(stream string) (*storev1.StreamRecord, error)

// Accept takes in what users changed in a stream's spec since the rules last saw it, and reports
// whether the record differs from before. The rules are OpenShift's:
//
//   - the stream's generation grows with every change of spec; a new tag gets it as its own, and so
//     does a tag whose from, reference flag or import mode changed, or whose generation was set to 0
//     (the way to ask for another import); any other generation that a client writes is put back;
//   - a changed tag that names a tag or image of a stream gets that image at once, one that is a
//     reference gets its pull spec at once, and any other waits to be imported;
//   - tags that follow a tag of this stream get what it now means.
//
// Removing a tag from spec keeps its history. A source that cannot be had becomes the tag's
// ImportSuccess condition. The error is the source's own, and leaves the record unfit for writing.
func Accept(record *storev1.StreamRecord, source Source, now metav1.Time) (bool, error) {
	before := record.DeepCopy()
	normalize(&record.Spec)
	slices.SortFunc(record.Status.Tags, func(a, b imagev1.NamedTagEventList) int { return strings.Compare(a.Tag, b.Tag) })

	moved, retargeted := map[string]bool{}, map[string]bool{}
	for _, name := range stampGenerations(record) {
		tag := SpecTag(&record.Spec, name)
		if _, ok := aliasTarget(record, tag); ok {
			retargeted[name] = true
			continue
		}
		ok, err := resolveSource(record, tag, source, now)
		if err != nil {
			return false, err
		}
		moved[name] = ok
	}
	follow(record, moved, retargeted)
	record.Status.DockerImageRepository = record.Spec.DockerImageRepository
	seal(record)
	return !equality.Semantic.DeepEqual(before, record), nil
}

// seal ends every change of a record: what says nothing goes, and the spec counts as seen.
func seal(record *storev1.StreamRecord) {
	collapse(record)
	record.Record.ObservedSpec = record.Spec.DeepCopy()
}

// normalize brings a spec into the one form the rules work on: one entry a tag (the last wins),
// sorted by name, with the defaults of image.openshift.io/v1, for which the empty string is unset.
func normalize(spec *imagev1.ImageStreamSpec) {
	slices.Reverse(spec.Tags)
	slices.SortStableFunc(spec.Tags, func(a, b imagev1.TagReference) int { return cmp.Compare(a.Name, b.Name) })
	spec.Tags = slices.CompactFunc(spec.Tags, func(a, b imagev1.TagReference) bool { return a.Name == b.Name })
	for i := range spec.Tags {
		tag := &spec.Tags[i]
		if tag.ReferencePolicy.Type == "" {
			tag.ReferencePolicy.Type = imagev1.SourceTagReferencePolicy
		}
		if tag.ImportPolicy.ImportMode == "" {
			tag.ImportPolicy.ImportMode = imagev1.ImportModeLegacy
		}
	}
}

// stampGenerations gives the stream and its changed tags their generations and returns the names of
// those tags.
func stampGenerations(record *storev1.StreamRecord) []string {
	observed := record.Record.ObservedSpec
	if observed == nil {
		observed = &imagev1.ImageStreamSpec{}
	}
	var changed []string
	for i := range record.Spec.Tags {
		tag := &record.Spec.Tags[i]
		old := SpecTag(observed, tag.Name)
		reimport := old != nil && tag.Generation != nil && *tag.Generation == 0 && ptr.Deref(old.Generation, 0) != 0
		if old == nil || reimport || referenceChanged(record.Namespace, old, tag) {
			changed = append(changed, tag.Name)
			continue
		}
		tag.Generation = old.Generation
	}
	if record.Record.ObservedSpec == nil || len(changed) > 0 || !equality.Semantic.DeepEqual(observed, &record.Spec) {
		record.Record.Generation++
	}
	for _, name := range changed {
		SpecTag(&record.Spec, name).Generation = ptr.To(record.Record.Generation)
	}
	return changed
}

// referenceChanged reports whether a tag points elsewhere than before. As in OpenShift neither the
// kind alone nor the insecure, scheduled and reference policies nor annotations count, and taking
// "from" away does not either.
func referenceChanged(namespace string, old, tag *imagev1.TagReference) bool {
	if tag.From == nil {
		return false
	}
	if old.From == nil {
		return true
	}
	return cmp.Or(old.From.Namespace, namespace) != cmp.Or(tag.From.Namespace, namespace) ||
		old.From.Name != tag.From.Name ||
		old.Reference != tag.Reference ||
		old.ImportPolicy.ImportMode != tag.ImportPolicy.ImportMode
}

// sourceError is a source that a user named wrongly; any other error is the store's.
type sourceError struct{ reason, message string }

func (e *sourceError) Error() string { return e.message }

// resolveSource gives a changed tag its event where that needs no registry, and reports whether the
// tag moved.
func resolveSource(record *storev1.StreamRecord, tag *imagev1.TagReference, source Source, now metav1.Time) (bool, error) {
	event, via, name, err := sourceEvent(record, tag, source, now)
	var wrong *sourceError
	if errors.As(err, &wrong) {
		setFailure(record, tag.Name, wrong.reason, wrong.message, *tag.Generation, now)
		return false, nil
	}
	if err != nil || event == nil {
		return false, err
	}
	event.Generation = *tag.Generation
	return addEvent(record, tag.Name, *event, via, name), nil
}

func sourceEvent(record *storev1.StreamRecord, tag *imagev1.TagReference, source Source, now metav1.Time) (*imagev1.TagEvent, storev1.TagEventVia, string, error) {
	from := tag.From
	if from == nil {
		return nil, "", "", nil
	}
	if from.Namespace != "" && from.Namespace != record.Namespace {
		return nil, "", "", &sourceError{ReasonForbidden, fmt.Sprintf(
			"tag %q: from.namespace %q: a stream of another namespace cannot be used through a StreamRecord, which does not say who asks; copy the tag's pull spec instead",
			tag.Name, from.Namespace)}
	}
	switch from.Kind {
	case KindDockerImage:
		if !tag.Reference {
			return nil, "", "", nil
		}
		return &imagev1.TagEvent{Created: now, DockerImageReference: from.Name}, storev1.ViaReference, from.Name, nil
	case KindImageStreamTag:
		event, err := copyTag(record, tag, source)
		return event, storev1.ViaCopy, from.Name, err
	case KindImageStreamImage:
		event, name, err := copyImage(record, tag, source, now)
		return event, storev1.ViaCopy, name, err
	default:
		return nil, "", "", &sourceError{ReasonInvalid, fmt.Sprintf(
			"tag %q: from.kind %q: valid values are %q, %q and %q", tag.Name, from.Kind, KindDockerImage, KindImageStreamImage, KindImageStreamTag)}
	}
}

// copyTag returns a copy of the newest event of a tag of another stream; nil if that tag has none yet.
func copyTag(record *storev1.StreamRecord, tag *imagev1.TagReference, source Source) (*imagev1.TagEvent, error) {
	stream, target, _ := strings.Cut(tag.From.Name, ":")
	other, err := sourceRecord(record, stream, tag, source)
	if err != nil {
		return nil, err
	}
	return Latest(&other.Status, target).DeepCopy(), nil
}

// copyImage returns a new event for the one image of the named stream's history whose digest
// begins as given.
func copyImage(record *storev1.StreamRecord, tag *imagev1.TagReference, source Source, now metav1.Time) (*imagev1.TagEvent, string, error) {
	stream, id, ok := strings.Cut(tag.From.Name, "@")
	if !ok {
		stream, id = StreamName(record.Name), tag.From.Name
	}
	other, err := sourceRecord(record, stream, tag, source)
	if err != nil {
		return nil, "", err
	}
	found := map[string]string{}
	for _, list := range other.Status.Tags {
		for _, item := range list.Items {
			if id != "" && item.Image != "" && (strings.HasPrefix(item.Image, id) || strings.HasPrefix(strings.TrimPrefix(item.Image, "sha256:"), id)) {
				found[item.Image] = item.DockerImageReference
			}
		}
	}
	switch len(found) {
	case 0:
		return nil, "", &sourceError{ReasonNotFound, fmt.Sprintf("tag %q: from.name %q: no image in the history of stream %q begins with %q", tag.Name, tag.From.Name, stream, id)}
	case 1:
		for image, reference := range found {
			return &imagev1.TagEvent{Created: now, DockerImageReference: reference, Image: image}, stream + "@" + image, nil
		}
	}
	return nil, "", &sourceError{ReasonInvalid, fmt.Sprintf("tag %q: from.name %q: %d images in the history of stream %q begin with %q; give more of the digest", tag.Name, tag.From.Name, len(found), stream, id)}
}

func sourceRecord(record *storev1.StreamRecord, stream string, tag *imagev1.TagReference, source Source) (*storev1.StreamRecord, error) {
	if stream == StreamName(record.Name) {
		return record, nil
	}
	other, err := source(stream)
	if err != nil {
		return nil, err
	}
	if other == nil {
		return nil, &sourceError{ReasonNotFound, fmt.Sprintf("tag %q: from.name %q: there is no stream %q in namespace %q", tag.Name, tag.From.Name, stream, record.Namespace)}
	}
	return other, nil
}

// setFailure records why a tag has no newer image. The tag's history stays as it was. It reports
// whether anything but the generation changed.
func setFailure(record *storev1.StreamRecord, tag, reason, message string, generation int64, now metav1.Time) bool {
	list := statusTag(&record.Status, tag)
	for i := range list.Conditions {
		c := &list.Conditions[i]
		if c.Type == imagev1.ImportSuccess && c.Status == corev1.ConditionFalse && c.Reason == reason && c.Message == message {
			c.Generation = max(c.Generation, generation)
			return false
		}
	}
	list.Conditions = []imagev1.TagEventCondition{{
		Type:               imagev1.ImportSuccess,
		Status:             corev1.ConditionFalse,
		LastTransitionTime: now,
		Reason:             reason,
		Message:            message,
		Generation:         generation,
	}}
	return true
}
