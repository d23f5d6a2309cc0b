package trigger

import (
	"fmt"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Reasons and actions of events on workloads. The recorder folds events of one version of an object
// that share both into the first, text and all, so what a user must be able to tell apart has a reason
// of its own.
const (
	reasonImageUpdated      = "ImageUpdated"
	reasonInvalidAnnotation = "InvalidTriggers"
	reasonInvalidPath       = "InvalidTriggerPath"
	reasonRefused           = "TriggerNotFollowed"
	reasonImageRewritten    = "ImageRewritten"
	reasonUpdateForbidden   = "ImageUpdateForbidden"
	reasonUpdateInvalid     = "ImageUpdateInvalid"
	reasonUpdateFailed      = "ImageUpdateFailed"

	actionReadTriggers = "ReadTriggers"
	actionUpdateImage  = "UpdateImage"
)

const (
	// noteLimit is the API's for the text of an event; a longer one is refused.
	noteLimit = 1024
	// warningLimit bounds what is remembered, and said, of one version of an annotation. Errors
	// of admission may hold numbers that differ each time.
	warningLimit = 8
)

// reporter tells users, on their workloads, what became of their triggers: a warning once for as long
// as it holds, however often it is found again. It is safe for concurrent use.
type reporter struct {
	recorder events.EventRecorder

	mu     sync.Mutex
	warned map[types.NamespacedName]*warnings
}

// warnings is what was said of one version of the annotation of one object.
type warnings struct {
	uid        types.UID
	annotation string
	notes      sets.Set[string]
}

func newReporter(recorder events.EventRecorder) *reporter {
	return &reporter{recorder: recorder, warned: map[types.NamespacedName]*warnings{}}
}

// warn records a warning event unless the same was recorded since the last forget.
func (r *reporter) warn(obj client.Object, reason, action, note string) {
	if r.first(obj, reason+note) {
		r.recorder.Eventf(obj, nil, corev1.EventTypeWarning, reason, action, "%s", abbreviate(note, noteLimit))
	}
}

func (r *reporter) first(obj client.Object, text string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	key, annotation := client.ObjectKeyFromObject(obj), obj.GetAnnotations()[Annotation]
	w := r.warned[key]
	if w == nil || w.uid != obj.GetUID() || w.annotation != annotation {
		w = &warnings{uid: obj.GetUID(), annotation: annotation, notes: sets.New[string]()}
		r.warned[key] = w
	}
	if w.notes.Has(text) || w.notes.Len() >= warningLimit {
		return false
	}
	w.notes.Insert(text)
	return true
}

// forget ends what was said of an object: it is gone, or all is well.
func (r *reporter) forget(key types.NamespacedName) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.warned, key)
}

// refused reports triggers that cannot be followed; the others of the object are.
func (r *reporter) refused(obj client.Object, why []string) {
	r.warn(obj, reasonRefused, actionReadTriggers, fmt.Sprintf("annotation %s: %s", Annotation, strings.Join(why, "; ")))
}

// updated reports a roll-out. All its containers are in one event, see the note at the reasons.
func (r *reporter) updated(obj client.Object, changes []change) {
	notes := make([]string, len(changes))
	for i, c := range changes {
		notes[i] = fmt.Sprintf("container %q follows %s to %s", c.container, c.follow.istag.Name(), c.follow.image.pullSpec)
	}
	r.recorder.Eventf(obj, nil, corev1.EventTypeNormal, reasonImageUpdated, actionUpdateImage, "%s", abbreviate(strings.Join(notes, "; "), noteLimit))
}

// updateFailed reports a write that the API server refused. Conflicts, and answers that only ask to
// come back later, are not the workload's affair; nor is it news that its namespace is gone.
func (r *reporter) updateFailed(obj client.Object, err error) {
	reason := reasonUpdateFailed
	switch {
	case apierrors.ReasonForError(err) == "",
		apierrors.IsConflict(err), apierrors.IsNotFound(err),
		apierrors.IsTooManyRequests(err), apierrors.IsServiceUnavailable(err),
		apierrors.IsTimeout(err), apierrors.IsServerTimeout(err):
		return
	case apierrors.IsForbidden(err):
		reason = reasonUpdateForbidden
	case apierrors.IsInvalid(err):
		reason = reasonUpdateInvalid
	}
	r.warn(obj, reason, actionUpdateImage, err.Error())
}
