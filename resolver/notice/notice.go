// Package notice tells users, by events and in the log, what a controller did to their streams.
package notice

import (
	"context"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/log"

	storev1 "istag.dev/store/v1"
)

// maxNote is the most that the API server takes in an event's note.
const maxNote = 1024

// Notice is an event that says what one write changed.
type Notice struct{ Type, Reason, Note string }

// Normal returns a notice of something that went as it should.
func Normal(reason, note string) Notice { return Notice{corev1.EventTypeNormal, reason, note} }

// Warning returns a notice of something that somebody should look at.
func Warning(reason, note string) Notice { return Notice{corev1.EventTypeWarning, reason, note} }

// Send tells a notice about a record. action is what the controller was doing.
func (n Notice) Send(ctx context.Context, recorder events.EventRecorder, record *storev1.StreamRecord, action string) {
	log.FromContext(ctx).Info("tag changed", "reason", n.Reason, "note", n.Note)
	recorder.Eventf(record, nil, n.Type, n.Reason, action, "%s", clip(n.Note))
}

func clip(note string) string {
	if len(note) <= maxNote {
		return note
	}
	const more = "…"
	return strings.ToValidUTF8(note[:maxNote-len(more)], "") + more
}
