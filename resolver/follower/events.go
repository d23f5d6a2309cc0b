package follower

import (
	"cmp"
	"fmt"

	imagev1 "github.com/openshift/api/image/v1"

	"istag.dev/resolver/notice"
	"istag.dev/store"
	storev1 "istag.dev/store/v1"
)

// Reasons of the events that the follower makes, and their action.
const (
	ReasonTagFollowed  = "TagFollowed"
	ReasonFollowFailed = "FollowFailed"

	action = "Follow"
)

// changes returns what the difference between two states of a record is worth telling of its
// following tags: another image, and failures other than before.
func changes(before, after *storev1.StreamRecord) []notice.Notice {
	var notices []notice.Notice
	for _, h := range followedBy(after) {
		tag := h.from.tag
		was, is := store.Latest(&before.Status, tag), store.Latest(&after.Status, tag)
		if is != nil && (was == nil || meaning(was) != meaning(is)) {
			notices = append(notices, notice.Normal(ReasonTagFollowed, fmt.Sprintf("tag %q is now %s (follows %s)", tag, meaning(is), h.to.seenFrom(after.Namespace))))
		}
		old, failure := store.ImportFailure(&before.Status, tag), store.ImportFailure(&after.Status, tag)
		if failure != nil && (old == nil || old.Reason != failure.Reason || old.Message != failure.Message) {
			notices = append(notices, notice.Warning(ReasonFollowFailed, fmt.Sprintf("tag %q: %s: %s", tag, failure.Reason, failure.Message)))
		}
	}
	return notices
}

// meaning returns the digest of an event, or its pull spec if it has none.
func meaning(e *imagev1.TagEvent) string { return cmp.Or(e.Image, e.DockerImageReference) }
