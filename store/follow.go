package store

import (
	imagev1 "github.com/openshift/api/image/v1"
	"k8s.io/utils/ptr"

	storev1 "istag.dev/store/v1"
)

// follow carries the newest events of the moved tags to the tags of the stream that follow them, and
// gives retargeted followers, which by asked for, what their target means. A target is settled before
// its followers, so a chain of any length arrives in one pass, whatever the order of the tags; a loop
// ends where it began.
func follow(record *storev1.StreamRecord, moved, retargeted map[string]bool, by *storev1.Requester) {
	targets := map[string]string{}
	for i := range record.Spec.Tags {
		if target, ok := AliasTarget(record, &record.Spec.Tags[i]); ok {
			targets[record.Spec.Tags[i].Name] = target
		}
	}
	var settle func(name string)
	settle = func(name string) {
		target, ok := targets[name]
		if !ok {
			return
		}
		delete(targets, name)
		settle(target)
		newest := Latest(&record.Status, target)
		if newest == nil || !moved[target] && !retargeted[name] {
			return
		}
		event := *newest
		// A follower that was changed later than its target must not seem to wait for an import.
		event.Generation = max(event.Generation, ptr.Deref(SpecTag(&record.Spec, name).Generation, 0))
		origin := storev1.TagEventOrigin{Via: storev1.ViaAlias, Source: target, By: by}
		if !retargeted[name] {
			origin.By = nil
			if o := Origin(record, target); o != nil {
				origin.By = o.By.DeepCopy()
			}
		}
		if addEvent(record, name, event, origin) {
			moved[name] = true
		}
	}
	for i := range record.Spec.Tags {
		settle(record.Spec.Tags[i].Name)
	}
}

// RecordFollow makes the newest event of the tag that a tag follows the newest of the tag, carries it to
// the tags that follow that, and reports whether the record changed. source is the name that was
// followed: "stream:tag", with "namespace/" before it if that is another one. The origin says who asked
// for the following, not who moved the source.
func RecordFollow(record *storev1.StreamRecord, tag string, event imagev1.TagEvent, source string) bool {
	spec := SpecTag(&record.Spec, tag)
	if spec == nil {
		return false
	}
	if _, _, _, ok := Follows(record, spec); !ok {
		return false
	}
	event.Generation = ptr.Deref(spec.Generation, 0)
	failed := ImportFailure(&record.Status, tag) != nil
	origin := storev1.TagEventOrigin{Via: storev1.ViaFollow, Source: source, By: requestedBy(record, tag)}
	moved := addEvent(record, tag, event, origin)
	if moved {
		follow(record, map[string]bool{tag: true}, nil, nil)
	}
	if failed {
		clearConditions(record, tag)
	}
	collapse(record)
	return moved || failed
}

// RecordFollowFailure records as the tag's ImportSuccess condition why it cannot follow any more, and
// reports whether the record changed. What the tag meant before, it means still.
func RecordFollowFailure(record *storev1.StreamRecord, tag, reason, message string, c Change) bool {
	spec := SpecTag(&record.Spec, tag)
	if spec == nil {
		return false
	}
	if _, _, _, ok := Follows(record, spec); !ok {
		return false
	}
	generation := ptr.Deref(spec.Generation, 0)
	if same := failedAs(record, tag, reason, message); same != nil && same.Generation >= generation {
		return false
	}
	setFailure(record, tag, reason, message, generation, c.Now)
	collapse(record)
	return true
}
