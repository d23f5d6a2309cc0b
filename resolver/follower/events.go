package follower

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	imagev1 "github.com/openshift/api/image/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"istag.dev/store"
	storev1 "istag.dev/store/v1"
)

// Reasons of the events that the follower makes, and their action.
const (
	ReasonTagFollowed  = "TagFollowed"
	ReasonFollowFailed = "FollowFailed"

	action = "Follow"
)

// maxNote is the most that the API server takes in an event's note.
const maxNote = 1024

// notice is an event that says what one write changed.
type notice struct{ eventType, reason, note string }

func (n notice) send(ctx context.Context, recorder events.EventRecorder, record *storev1.StreamRecord) {
	log.FromContext(ctx).Info("tag changed", "reason", n.reason, "note", n.note)
	recorder.Eventf(record, nil, n.eventType, n.reason, action, "%s", clipNote(n.note))
}

// changes returns what the difference between two states of a record is worth telling of its
// following tags: another image, and failures other than before.
func changes(before, after *storev1.StreamRecord) []notice {
	var notices []notice
	for _, h := range followedBy(after) {
		tag := h.from.tag
		was, is := store.Latest(&before.Status, tag), store.Latest(&after.Status, tag)
		if is != nil && (was == nil || meaning(was) != meaning(is)) {
			notices = append(notices, notice{
				corev1.EventTypeNormal, ReasonTagFollowed, fmt.Sprintf("tag %q is now %s (follows %s)", tag, meaning(is), h.to.seenFrom(after.Namespace)),
			})
		}
		old, failure := store.ImportFailure(&before.Status, tag), store.ImportFailure(&after.Status, tag)
		if failure != nil && (old == nil || old.Reason != failure.Reason || old.Message != failure.Message) {
			notices = append(notices, notice{
				corev1.EventTypeWarning, ReasonFollowFailed, fmt.Sprintf("tag %q: %s: %s", tag, failure.Reason, failure.Message),
			})
		}
	}
	return notices
}

// meaning returns the digest of an event, or its pull spec if it has none.
func meaning(e *imagev1.TagEvent) string { return cmp.Or(e.Image, e.DockerImageReference) }

func clipNote(note string) string {
	if len(note) <= maxNote {
		return note
	}
	const more = "…"
	return strings.ToValidUTF8(note[:maxNote-len(more)], "") + more
}
