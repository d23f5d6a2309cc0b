package store

import (
	"cmp"
	"slices"

	imagev1 "github.com/openshift/api/image/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	storev1 "istag.dev/store/v1"
)

// Accept takes in a change of spec. old is the spec before, nil for a new stream; the record's
// generation, requests, origins and status come in as they were. The rules are OpenShift's:
//
//   - the stream's generation grows with every change of spec; a new tag gets it as its own, and so
//     does a tag that names something else than before, or whose generation was set to 0 (the way to
//     ask for another import); any other generation that a client writes is put back;
//   - a changed tag that names a tag or image of a stream gets that image at once, one that is a
//     reference gets its pull spec at once, and any other waits to be imported;
//   - tags that follow a tag of this stream get what it now means.
//
// Removing a tag from spec keeps its history. What the user got wrong comes back as the field errors,
// anything else that went wrong as the error; either leaves the record unfit for writing. Accept does
// not see what Validate finds, which is asked as well.
func Accept(record *storev1.StreamRecord, old *imagev1.ImageStreamSpec, c Change) (field.ErrorList, error) {
	a := acceptance{record: record, change: c, sources: newSources(record, c.Source)}
	normalize(&record.Spec)
	normalizeStatus(&record.Status)
	if old != nil {
		a.old = old.DeepCopy()
		normalize(a.old)
	}
	changed := a.stamp()
	errs, err := a.loops(changed)
	if err != nil {
		return nil, err
	}
	// All sources are looked up before any event is added, so that what a tag gets does not depend on
	// the names of the tags that change with it.
	events := map[string]*resolved{}
	for _, name := range changed {
		r, wrong, err := a.resolve(SpecTag(&record.Spec, name))
		if err != nil {
			return nil, err
		}
		if wrong != nil {
			errs = append(errs, wrong)
		}
		events[name] = r
	}
	if len(errs) > 0 {
		return errs, nil
	}
	a.move(changed, events)
	seal(record)
	return nil, nil
}

// acceptance is one change of spec on its way into a record.
type acceptance struct {
	record  *storev1.StreamRecord
	old     *imagev1.ImageStreamSpec // nil for a new stream
	change  Change
	sources *sources
}

// stamp gives the stream and its changed tags their generations, notes who changed tags, and returns
// the names of the tags that name something else than before, in order.
func (a *acceptance) stamp() []string {
	record := a.record
	old := a.old
	if old == nil {
		record.Record.Generation = 0
		old = &imagev1.ImageStreamSpec{}
	}
	known := make(map[string]*imagev1.TagReference, len(old.Tags))
	for i := range old.Tags {
		known[old.Tags[i].Name] = &old.Tags[i]
	}
	var changed, touched []string
	for i := range record.Spec.Tags {
		tag := &record.Spec.Tags[i]
		was := known[tag.Name]
		reimport := was != nil && tag.Generation != nil && *tag.Generation == 0 && ptr.Deref(was.Generation, 0) != 0
		if was == nil || reimport || a.referenceChanged(was, tag) {
			changed, touched = append(changed, tag.Name), append(touched, tag.Name)
			continue
		}
		tag.Generation = was.Generation
		if !equality.Semantic.DeepEqual(was, tag) {
			touched = append(touched, tag.Name)
			a.unfollow(was, tag)
		}
	}
	if a.old == nil || len(changed) > 0 || !equality.Semantic.DeepEqual(old, &record.Spec) {
		record.Record.Generation++
	}
	for i := range record.Spec.Tags {
		tag := &record.Spec.Tags[i]
		if tag.Generation == nil || slices.Contains(changed, tag.Name) {
			tag.Generation = ptr.To(record.Record.Generation)
		}
		if slices.Contains(touched, tag.Name) {
			setRequest(record, tag, a.change)
		}
	}
	return changed
}

// unfollow takes off the condition that said why a tag which follows no longer could not.
func (a *acceptance) unfollow(was, tag *imagev1.TagReference) {
	_, _, _, followed := Follows(a.record, was)
	if _, _, _, follows := Follows(a.record, tag); followed && !follows {
		clearConditions(a.record, tag.Name)
	}
}

// referenceChanged reports whether a tag names something else than before. As in OpenShift neither the
// insecure, scheduled and reference policies nor annotations count, and taking "from" away does not
// either. Unlike there, the kind alone does: a pull spec and a tag of a stream can be spelled alike, and
// the tag would go on meaning what the other kind meant.
func (a *acceptance) referenceChanged(was, tag *imagev1.TagReference) bool {
	if tag.From == nil {
		return false
	}
	if was.From == nil {
		return true
	}
	if cmp.Or(was.From.Namespace, a.record.Namespace) != cmp.Or(tag.From.Namespace, a.record.Namespace) ||
		was.From.Kind != tag.From.Kind ||
		was.From.Name != tag.From.Name ||
		was.Reference != tag.Reference ||
		was.ImportPolicy.ImportMode != tag.ImportPolicy.ImportMode {
		return true
	}
	namespace, _, _, follows := Follows(a.record, tag)
	if !follows {
		return false
	}
	if _, _, _, followed := Follows(a.record, was); !followed {
		return true
	}
	// From now on a tag of another namespace is followed by the right of whoever changed anything of the
	// follower, so that right is asked for.
	return namespace != a.record.Namespace && !sameTag(was, tag)
}

// sameTag reports whether two entries of spec differ at most by their generations.
func sameTag(a, b *imagev1.TagReference) bool {
	x, y := *a, *b
	x.Generation, y.Generation = nil, nil
	return equality.Semantic.DeepEqual(&x, &y)
}

// move gives the changed tags their events and carries those on.
func (a *acceptance) move(changed []string, events map[string]*resolved) {
	moved, retargeted := map[string]bool{}, map[string]bool{}
	for _, name := range changed {
		tag := SpecTag(&a.record.Spec, name)
		if !Importable(tag) {
			clearConditions(a.record, name) // They are about what the tag named before.
		}
		if _, ok := AliasTarget(a.record, tag); ok {
			retargeted[name] = true
		}
		if r := events[name]; r != nil {
			r.event.Generation = *tag.Generation
			moved[name] = addEvent(a.record, name, r.event, r.origin)
		}
	}
	follow(a.record, moved, retargeted, requester(a.change.By))
}

// normalize brings a spec into the one form the rules work on: one entry a tag (the last wins),
// sorted by name, with the defaults of image.openshift.io/v1, for which the empty string is unset.
func normalize(spec *imagev1.ImageStreamSpec) {
	spec.Tags = lastByName(spec.Tags, func(t *imagev1.TagReference) string { return t.Name })
	for i := range spec.Tags {
		setDefaults(&spec.Tags[i])
	}
}

func setDefaults(tag *imagev1.TagReference) {
	tag.ReferencePolicy.Type = cmp.Or(tag.ReferencePolicy.Type, imagev1.SourceTagReferencePolicy)
	tag.ImportPolicy.ImportMode = cmp.Or(tag.ImportPolicy.ImportMode, imagev1.ImportModeLegacy)
}

// normalizeStatus brings a status into the one form the rules work on: one entry a tag (the last
// wins), sorted by tag, with a list of items, be it empty.
func normalizeStatus(status *imagev1.ImageStreamStatus) {
	status.Tags = lastByName(status.Tags, func(l *imagev1.NamedTagEventList) string { return l.Tag })
	for i := range status.Tags {
		if status.Tags[i].Items == nil {
			status.Tags[i].Items = []imagev1.TagEvent{}
		}
	}
}

// lastByName sorts a list by name and keeps the last of equal names. Nearly every list is so already.
func lastByName[T any](list []T, name func(*T) string) []T {
	for i := 1; i < len(list); i++ {
		if name(&list[i-1]) >= name(&list[i]) {
			slices.Reverse(list)
			slices.SortStableFunc(list, func(a, b T) int { return cmp.Compare(name(&a), name(&b)) })
			return slices.CompactFunc(list, func(a, b T) bool { return name(&a) == name(&b) })
		}
	}
	return list
}

// seal ends a change made by the API server: what is computed from the rest of the record is computed.
func seal(record *storev1.StreamRecord) {
	collapse(record)
	record.Status.DockerImageRepository = record.Spec.DockerImageRepository
	record.Status.PublicDockerImageRepository = ""
	record.Generation = record.Record.Generation
}
