package webhook

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/go-json-experiment/json"
	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"istag.dev/webhook/audit"
	"istag.dev/webhook/scope"
)

const (
	// maxWarning and maxWarnings keep all Warnings of an answer whole: of longer ones the API server
	// cuts what it likes.
	maxWarning  = 256
	maxWarnings = 16
	// maxAnnotation is the most that an annotation of the API server's audit log says.
	maxAnnotation = 1024
)

// response is the answer to a review.
type response struct {
	uid         types.UID
	allowed     bool
	status      *metav1.Status
	patch       []byte
	annotations []annotation
	warnings    []string
	// unready says that this is to be no answer, but an error of the webhook's.
	unready bool
}

// annotation is one of the API server's own audit log.
type annotation struct{ key, value string }

// refuse answers a request that is not decided on.
func refuse(uid types.UID, code int32, err error) *response {
	return &response{uid: uid, status: &metav1.Status{
		Status: metav1.StatusFailure, Code: code, Message: err.Error(), Reason: reasonOf(code),
	}}
}

func reasonOf(code int32) metav1.StatusReason {
	switch code {
	case http.StatusBadRequest:
		return metav1.StatusReasonBadRequest
	case http.StatusRequestEntityTooLarge:
		return metav1.StatusReasonRequestEntityTooLarge
	case http.StatusServiceUnavailable:
		return metav1.StatusReasonServiceUnavailable
	default:
		return metav1.StatusReasonInternalError
	}
}

// append appends the answer as an AdmissionReview. It is written by hand: the API server waits, and to do it
// by reflection takes as long as the decision does.
func (r *response) append(dst []byte) []byte {
	dst = append(dst, `{"apiVersion":"`+reviewAPIVersion+`","kind":"`+reviewKind+`","response":{"uid":`...)
	dst = appendText(dst, string(r.uid))
	if r.allowed {
		dst = append(dst, `,"allowed":true`...)
	} else {
		dst = append(dst, `,"allowed":false`...)
	}
	if r.status != nil {
		if text, err := json.Marshal(r.status); err == nil {
			dst = append(append(dst, `,"status":`...), text...)
		}
	}
	if len(r.patch) > 0 {
		dst = append(dst, `,"patchType":"JSONPatch","patch":"`...)
		dst = append(base64.StdEncoding.AppendEncode(dst, r.patch), '"')
	}
	for i, a := range r.annotations {
		dst = append(dst, separator(i, `,"auditAnnotations":{`)...)
		dst = appendText(append(appendText(dst, a.key), ':'), a.value)
	}
	if len(r.annotations) > 0 {
		dst = append(dst, '}')
	}
	for i, warning := range r.warnings {
		dst = appendText(append(dst, separator(i, `,"warnings":[`)...), warning)
	}
	if len(r.warnings) > 0 {
		dst = append(dst, ']')
	}
	return append(dst, "}}\n"...)
}

func separator(i int, first string) string {
	if i == 0 {
		return first
	}
	return ","
}

// conclude makes the answer of the verdicts, and records them.
func (r *review) conclude() error {
	r.record()
	if r.settings.Mode != scope.Audit {
		r.tell()
	}
	r.explain()
	if !r.enforces() {
		return nil
	}
	if denied := r.denied(); len(denied) > 0 {
		status := apierrors.NewInvalid(groupKind(r.request), r.current.displayName(r.request), denied).Status()
		r.response.allowed, r.response.status = false, &status
		if events := r.pinner.options.Events; events != nil && !r.request.DryRun {
			events.Denied(r.reference(), status.Message)
		}
		return nil
	}
	r.buffers.patch = r.marks.appendTo(r.buffers.patch, r.current)
	if len(r.buffers.patch) > 0 {
		r.buffers.patch = append(r.buffers.patch, ']')
		r.response.patch = r.buffers.patch
	}
	return nil
}

// denied are the errors of the images that are refused.
func (r *review) denied() field.ErrorList {
	var errs field.ErrorList
	for i := range r.verdicts {
		if v := &r.verdicts[i]; v.outcome == outcomeDenied {
			errs = append(errs, field.Forbidden(field.NewPath(v.image.field()), v.message))
		}
	}
	return errs
}

// record makes the records of the verdicts, for the audit log, the API server's own and the metrics.
func (r *review) record() {
	if len(r.verdicts) == 0 {
		return
	}
	now := time.Now()
	base := audit.Record{
		APIVersion:     audit.APIVersion,
		Time:           now.UTC(),
		UID:            r.request.UID,
		User:           r.request.UserInfo.Username,
		Namespace:      r.request.Namespace,
		Kind:           groupKind(r.request).String(),
		Name:           r.current.displayName(r.request),
		Operation:      string(r.request.Operation),
		DryRun:         r.request.DryRun,
		Webhook:        string(r.hook),
		Mode:           r.settings.Mode,
		DurationMicros: now.Sub(r.start).Microseconds(),
	}
	for i := range r.verdicts {
		v := &r.verdicts[i]
		d := &v.decision
		r.pinner.options.Metrics.decided(string(r.hook), string(r.settings.Mode), string(v.outcome), string(d.Reason))
		if v.outcome == outcomeAllowed {
			continue
		}
		a := base
		a.Container, a.Written, a.Istag, a.StreamGeneration = v.image.key, v.image.written, d.Istag, d.Generation
		a.PullSpec, a.MovedBy, a.Rule = d.PullSpec, d.MovedBy, v.rule
		a.Decision, a.Reason = string(v.outcome), d.Reason
		if v.outcome != outcomePinned {
			a.PullSpec, a.MovedBy = "", ""
		}
		r.buffers.records = append(r.buffers.records, a)
		if d.Istag != "" || v.outcome == outcomeDenied {
			r.annotate(&a)
		}
	}
}

// annotate records a decision in the API server's audit log, under the key of its image.
func (r *review) annotate(a *audit.Record) {
	key := a.Container
	if strings.Contains(key, "/") {
		key = strings.ReplaceAll(key, "/", ".")
	}
	if !isAnnotation(key) || slices.ContainsFunc(r.response.annotations, func(other annotation) bool { return other.key == key }) {
		return
	}
	rule, becomes, mode := "", "", ""
	if a.Rule != "" {
		rule = " " + a.Rule
	}
	if a.PullSpec != "" {
		becomes = " " + a.PullSpec
	}
	if a.Mode != scope.Enforce {
		mode = " (" + string(a.Mode) + ")"
	}
	value := a.Decision + " " + string(a.Reason) + rule + ": " + a.Written + becomes + mode
	r.response.annotations = append(r.response.annotations, annotation{key, audit.Clip(value, maxAnnotation)})
}

// isAnnotation reports whether the API server's audit log takes a key, which it does if that would do as a label's. The
// names of containers always would, but it is after us that they are checked.
func isAnnotation(key string) bool {
	if len(key) == 0 || len(key) > validation.DNS1123LabelMaxLength {
		return false
	}
	for i := range len(key) {
		c := key[i]
		inner := c == '-' || c == '_' || c == '.'
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && (!inner || i == 0 || i == len(key)-1) {
			return false
		}
	}
	return true
}

// tell gives Warnings of what is not as it should be.
func (r *review) tell() {
	for i := range r.verdicts {
		v := &r.verdicts[i]
		switch warns := r.settings.Mode == scope.Warn; {
		case warns && v.outcome == outcomePinned:
			r.warn("would replace %q in %s by %s", v.image.written, v.image, v.decision.PullSpec)
		case warns && v.outcome == outcomeDenied:
			r.warn("would refuse %q in %s: %s", v.image.written, v.image, v.message)
		case v.outcome == outcomePinned && v.decision.Failure != "":
			r.warn("%s gets an older image of %q, because the last import of that tag failed: %s", v.image, v.decision.Istag, v.decision.Failure)
		}
	}
}

// explain gives a Warning for each image, if the object asks for that.
func (r *review) explain() {
	if r.current.Annotations[ExplainAnnotation] != "true" || r.hook != pinHook {
		return
	}
	for i := range r.current.images {
		image := &r.current.images[i]
		at := slices.IndexFunc(r.verdicts, func(v verdict) bool { return v.image == image })
		if at < 0 {
			r.warn("%s: %q is left (%s): %s", image, image.written, ReasonUnchanged, because(ReasonUnchanged))
			continue
		}
		v := &r.verdicts[at]
		d := &v.decision
		switch {
		case v.outcome == outcomePinned:
			r.warn("%s: %q is pinned (%s) to %s, of tag %s", image, image.written, d.Reason, d.PullSpec, d.Istag)
		case v.message != "":
			r.warn("%s: %q is %s (%s): %s", image, image.written, v.outcome, d.Reason, v.message)
		case d.Message != "":
			r.warn("%s: %q is %s (%s): %s", image, image.written, v.outcome, d.Reason, d.Message)
		default:
			r.warn("%s: %q is %s (%s): %s", image, image.written, v.outcome, d.Reason, because(d.Reason))
		}
	}
}

// warn adds a Warning for the user. What goes beyond maxWarnings is not said.
func (r *review) warn(format string, args ...any) {
	if len(r.response.warnings) >= maxWarnings || r.settings.Mode == scope.Audit && r.current.Annotations[ExplainAnnotation] != "true" {
		return
	}
	text := strings.Map(func(c rune) rune {
		if unicode.IsControl(c) {
			return ' ' // a header takes none
		}
		return c
	}, strings.ToValidUTF8(fmt.Sprintf(format, args...), "?"))
	text = audit.Clip(text, maxWarning)
	if !slices.Contains(r.response.warnings, text) {
		r.response.warnings = append(r.response.warnings, text)
	}
}

// reference is the object that a refusal is shown at: what made the object if that is still to be, and so cannot
// show anything.
func (r *review) reference() corev1.ObjectReference {
	if by := r.current.controller(); by != nil && r.request.Operation == admissionv1.Create {
		return corev1.ObjectReference{APIVersion: by.APIVersion, Kind: by.Kind, Namespace: r.request.Namespace, Name: by.Name, UID: by.UID}
	}
	kind := r.request.Kind
	return corev1.ObjectReference{
		APIVersion: metav1.GroupVersion{Group: kind.Group, Version: kind.Version}.String(),
		Kind:       kind.Kind, Namespace: r.request.Namespace, Name: r.current.displayName(r.request),
	}
}
