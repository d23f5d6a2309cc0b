package store

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	imagev1 "github.com/openshift/api/image/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	storev1 "istag.dev/store/v1"
)

// FollowAnnotation on a tag of spec, with the value "true", makes a tag that names a tag of another
// stream follow it; without it the tag is a copy made once.
const FollowAnnotation = "istag.dev/follow"

// place is a tag of a stream, or an image of a stream's history, as a "from" names it.
type place struct{ namespace, stream, part string }

// sourceOf takes apart what a "from" of kind ImageStreamTag or ImageStreamImage names: "<part>" of the
// stream itself, or "<stream>:<part>" or "<stream>@<part>". ok is false if it is neither.
func sourceOf(record *storev1.StreamRecord, tag *imagev1.TagReference) (source place, ok bool) {
	from := tag.From
	separator := ":"
	switch {
	case from == nil:
		return place{}, false
	case from.Kind == KindImageStreamImage:
		separator = "@"
	case from.Kind != KindImageStreamTag:
		return place{}, false
	}
	source = place{cmp.Or(from.Namespace, record.Namespace), StreamName(record.Name), from.Name}
	if stream, part, found := strings.Cut(from.Name, separator); found {
		source.stream, source.part = stream, part
	}
	return source, source.stream != "" && source.part != "" && !strings.Contains(source.part, separator)
}

func (p place) streamOf(record *storev1.StreamRecord) bool {
	return p.namespace == record.Namespace && p.stream == StreamName(record.Name)
}

// nameFor spells a tag (separator ":") or an image ("@") for readers of a namespace.
func (p place) nameFor(namespace, separator string) string {
	name := p.stream + separator + p.part
	if p.namespace == namespace {
		return name
	}
	return p.namespace + "/" + name
}

// AliasTarget returns the tag of its own stream that a spec tag follows; ok is false if it follows none.
func AliasTarget(record *storev1.StreamRecord, tag *imagev1.TagReference) (target string, ok bool) {
	source, ok := sourceOf(record, tag)
	if !ok || tag.From.Kind != KindImageStreamTag || !source.streamOf(record) {
		return "", false
	}
	return source.part, true
}

// Follows returns the tag of another stream that a tag of spec follows; ok is false if it follows none.
func Follows(record *storev1.StreamRecord, tag *imagev1.TagReference) (namespace, stream, tagName string, ok bool) {
	source, ok := sourceOf(record, tag)
	if !ok || tag.From.Kind != KindImageStreamTag || tag.Annotations[FollowAnnotation] != "true" || source.streamOf(record) {
		return "", "", "", false
	}
	return source.namespace, source.stream, source.part, true
}

// sources reads each stream that tags name once.
type sources struct {
	record *storev1.StreamRecord
	read   Source
	had    map[place]sourceAnswer
}

type sourceAnswer struct {
	record *storev1.StreamRecord
	err    error
}

func newSources(record *storev1.StreamRecord, read Source) *sources {
	return &sources{record: record, read: read, had: map[place]sourceAnswer{}}
}

// of returns the stream of a place, nil if there is none.
func (s *sources) of(p place) (*storev1.StreamRecord, error) {
	if p.streamOf(s.record) {
		return s.record, nil
	}
	if !streamName.MatchString(p.stream) {
		return nil, nil // So a Source says that there is no such stream.
	}
	key := place{namespace: p.namespace, stream: p.stream}
	answer, ok := s.had[key]
	if !ok {
		answer.record, answer.err = s.read(p.namespace, p.stream)
		s.had[key] = answer
	}
	return answer.record, answer.err
}

// resolved is what a changed tag gets without asking a registry.
type resolved struct {
	event  imagev1.TagEvent
	origin storev1.TagEventOrigin
}

// resolve returns the event of a changed tag; nil if the tag gets none now: it is to be imported, or
// follows a tag of this stream, or its source means nothing yet.
func (a *acceptance) resolve(tag *imagev1.TagReference) (*resolved, *field.Error, error) {
	from := tag.From
	if from == nil || from.Name == "" {
		return nil, nil, nil
	}
	path := tagPath(tag.Name).Child("from")
	switch from.Kind {
	case KindDockerImage:
		if from.Namespace != "" && from.Namespace != a.record.Namespace {
			return nil, field.Invalid(path.Child("namespace"), from.Namespace, "an image of a registry has no namespace: leave it out, or name a tag of a stream there with kind ImageStreamTag"), nil
		}
		if !tag.Reference || !isPullSpec(from.Name) {
			return nil, nil, nil // So it is imported, or Validate refuses it.
		}
		return &resolved{
			event:  imagev1.TagEvent{Created: a.change.Now, DockerImageReference: from.Name},
			origin: storev1.TagEventOrigin{Via: storev1.ViaReference, Source: from.Name, By: requester(a.change.By)},
		}, nil, nil
	case KindImageStreamTag, KindImageStreamImage:
		return a.resolveStream(tag, path)
	default:
		return nil, nil, nil // So Validate refuses it.
	}
}

func (a *acceptance) resolveStream(tag *imagev1.TagReference, path *field.Path) (*resolved, *field.Error, error) {
	from := tag.From
	source, ok := sourceOf(a.record, tag)
	if !ok {
		return nil, field.Invalid(path.Child("name"), from.Name, "must be of the form <tag>, <repo>:<tag>, <id>, or <repo>@<id>"), nil
	}
	if reasons := validation.ValidateNamespaceName(source.namespace, false); from.Namespace != "" && len(reasons) > 0 {
		return nil, field.Invalid(path.Child("namespace"), from.Namespace, strings.Join(reasons, ", ")), nil
	}
	if _, ok := AliasTarget(a.record, tag); ok {
		return nil, nil, nil
	}
	stream, err := a.sources.of(source)
	var forbidden *ForbiddenError
	switch {
	case errors.As(err, &forbidden):
		return nil, field.Forbidden(path, forbidden.Error()), nil
	case err != nil:
		return nil, nil, err
	case stream == nil:
		return nil, noStream(path.Child("name"), from.Name, source), nil
	}
	origin := storev1.TagEventOrigin{Via: storev1.ViaCopy, By: requester(a.change.By)}
	if from.Kind == KindImageStreamImage {
		event, wrong := imageEvent(stream, source, from.Name, path.Child("name"))
		if wrong != nil {
			return nil, wrong, nil
		}
		event.Created, source.part = a.change.Now, event.Image
		origin.Source = source.nameFor(a.record.Namespace, "@")
		return &resolved{event: *event, origin: origin}, nil, nil
	}
	newest := Latest(&stream.Status, source.part)
	if newest == nil {
		return nil, nil, nil
	}
	if _, _, _, ok := Follows(a.record, tag); ok {
		origin.Via = storev1.ViaFollow
	}
	origin.Source = source.nameFor(a.record.Namespace, ":")
	return &resolved{event: *newest, origin: origin}, nil, nil
}

func noStream(path *field.Path, value string, source place) *field.Error {
	wrong := field.NotFound(path, value)
	wrong.Detail = fmt.Sprintf("there is no stream %q in namespace %q; create it first, or correct the name", source.stream, source.namespace)
	if !streamName.MatchString(source.stream) {
		wrong.Detail = fmt.Sprintf("no stream can be named %q; for an image of a registry use kind DockerImage", source.stream)
	}
	return wrong
}

// imageEvent returns a new event for the one image of a stream's history whose digest begins as named.
func imageEvent(stream *storev1.StreamRecord, source place, value string, path *field.Path) (*imagev1.TagEvent, *field.Error) {
	found := map[string]*imagev1.TagEvent{}
	for i := range stream.Status.Tags {
		for j := range stream.Status.Tags[i].Items {
			item := &stream.Status.Tags[i].Items[j]
			matches := strings.HasPrefix(item.Image, source.part) || strings.HasPrefix(strings.TrimPrefix(item.Image, "sha256:"), source.part)
			if item.Image != "" && matches && found[item.Image] == nil {
				found[item.Image] = item
			}
		}
	}
	images := slices.Sorted(maps.Keys(found))
	switch len(images) {
	case 0:
		return nil, field.Invalid(path, value, fmt.Sprintf("imagestreamimage.image.openshift.io %q not found: no image in the history of stream %q begins with it", source.part, source.stream))
	case 1:
		item := found[images[0]]
		return &imagev1.TagEvent{DockerImageReference: item.DockerImageReference, Image: item.Image}, nil
	default:
		return nil, field.Invalid(path, value, fmt.Sprintf("multiple images match the prefix %q: %s; give more of the digest", source.part, strings.Join(images, ", ")))
	}
}
