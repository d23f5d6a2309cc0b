// Package webhook is admission: it finds the images of an object under review, asks the resolver what
// each means, patches the object and records what it decided.
package webhook

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	admissionv1 "k8s.io/api/admission/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
	logf "sigs.k8s.io/controller-runtime/pkg/log"

	"istag.dev/resolver"
	"istag.dev/store"
)

// decisionDenied is what the audit log calls an unresolved name, whose object is refused.
const decisionDenied = "denied"

// liveBudget bounds all live reads of one review together.
const liveBudget = time.Second

// liveReader reads a stream that the index may not have seen yet, nil if there is none. Streams is one.
type liveReader interface {
	Stream(ctx context.Context, namespace, name string) (*store.Stream, error)
}

// Pinner is the mutating webhook. It replaces the names of images that mean a tag of an image stream
// by that tag's pull spec, in pods and in the templates of workloads, and refuses an object that names
// a tag which a local stream does not have.
type Pinner struct {
	index *store.Index
	live  liveReader
	audit *AuditLog
}

// NewPinner returns the webhook's handler.
func NewPinner(index *store.Index, live liveReader, audit *AuditLog) *Pinner {
	return &Pinner{index: index, live: live, audit: audit}
}

// review answers one request.
func (p *Pinner) review(ctx context.Context, request *admissionRequest) *admissionv1.AdmissionResponse {
	start := time.Now()
	select {
	case <-p.index.Synced():
	default:
		return refuse(http.StatusServiceUnavailable, errors.New("istag has not read all image streams yet; try again in a moment"))
	}
	if !reviewed(request) || request.Object == nil || request.Object.owned() {
		return &admissionv1.AdmissionResponse{Allowed: true}
	}
	r := &review{
		request:  request,
		current:  newWorkload(request.Object, request.Resource),
		old:      newWorkload(request.OldObject, request.Resource),
		snapshot: p.index.Snapshot(),
		start:    start,
	}
	p.decide(ctx, r)
	if err := p.audit.Write(r.records); err != nil {
		logf.FromContext(ctx).Error(err, "decisions were not recorded")
	}
	return r.response()
}

// reviewed reports whether a request can hold images to pin. The images of a Job that exists cannot be
// changed, and no subresource that we see has any.
func reviewed(r *admissionRequest) bool {
	if r.SubResource != "" {
		return false
	}
	switch r.Operation {
	case admissionv1.Create:
		return true
	case admissionv1.Update:
		return r.Resource.Resource != "jobs"
	default:
		return false
	}
}

// decide decides on every image of the object that is new or changed. An image is known by its
// container's name; one that stays as it was is left alone, so that nobody's unrelated update is
// changed or refused. If the object asks for its names to be looked up, or no longer does, all its
// images count as changed.
func (p *Pinner) decide(ctx context.Context, r *review) {
	reprocess := r.current.optIn != r.old.optIn
	decided := map[string]resolver.Decision{}
	r.records = make([]AuditRecord, 0, len(r.current.images))
	r.patches = make([]patch, 0, len(r.current.images)+1)
	for _, image := range r.current.images {
		if !reprocess && r.old.has(image.container, image.written) {
			continue
		}
		decision, ok := decided[image.written]
		if !ok {
			decision = p.resolve(ctx, r, image.written)
			decided[image.written] = decision
		}
		r.add(image, decision)
	}
}

// resolve decides on one name, against the snapshot of the review. The snapshot gains a stream that
// only a live read knows of.
func (p *Pinner) resolve(ctx context.Context, r *review, written string) resolver.Decision {
	request := resolver.Request{Namespace: r.request.Namespace, Image: written, OptIn: r.current.optIn}
	decision := resolver.Resolve(r.snapshot, request)
	if decision.Reason != resolver.ReasonNoStream || r.blind {
		return decision
	}
	ctx, cancel := context.WithDeadline(ctx, r.start.Add(liveBudget))
	defer cancel()
	name, _, _ := store.SplitTagName(decision.Istag)
	stream, err := p.live.Stream(ctx, r.request.Namespace, name)
	if err != nil {
		// The index is what we know, then; further reads of this review would only cost it its time.
		r.blind = true
		logf.FromContext(ctx).Error(err, "reading a stream that the index does not have", "stream", name)
		return decision
	}
	if stream == nil {
		return decision
	}
	r.snapshot = r.snapshot.With(stream)
	return resolver.Resolve(r.snapshot, request)
}

// review is one request on its way to an answer.
type review struct {
	request      *admissionRequest
	current, old *workload
	snapshot     store.Snapshot
	start        time.Time
	blind        bool // a live read failed

	patches []patch
	pins    resolver.Pins
	denied  field.ErrorList
	records []AuditRecord
}

// add takes a decision into the answer and the audit records.
func (r *review) add(image image, d resolver.Decision) {
	decision := string(d.Outcome)
	switch d.Outcome {
	case resolver.Pinned:
		r.patches = append(r.patches, patch{"replace", image.pointer(), d.PullSpec})
		r.pin(image.container, resolver.Pin{Written: image.written, Istag: d.Istag, PullSpec: d.PullSpec, Generation: d.Generation})
	case resolver.Unresolved:
		decision = decisionDenied
		r.denied = append(r.denied, field.Forbidden(field.NewPath(image.field()), d.Message))
	case resolver.Left:
	}
	r.records = append(r.records, AuditRecord{
		Time:             time.Now().UTC(),
		UID:              r.request.UID,
		User:             r.request.UserInfo.Username,
		Namespace:        r.request.Namespace,
		Kind:             groupKind(r.request).String(),
		Name:             r.current.displayName(r.request),
		Operation:        string(r.request.Operation),
		DryRun:           ptr.Deref(r.request.DryRun, false),
		Container:        image.container,
		Written:          image.written,
		Istag:            d.Istag,
		PullSpec:         d.PullSpec,
		StreamGeneration: d.Generation,
		MovedBy:          d.MovedBy,
		Decision:         decision,
		Reason:           d.Reason,
		DurationMicros:   time.Since(r.start).Microseconds(),
	})
}

func (r *review) pin(container string, pin resolver.Pin) {
	if r.pins == nil {
		r.pins = resolver.Pins{}
	}
	r.pins[container] = pin
}

func (r *review) response() *admissionv1.AdmissionResponse {
	response := &admissionv1.AdmissionResponse{AuditAnnotations: r.auditAnnotations()}
	if len(r.denied) > 0 {
		response.Result = ptr.To(apierrors.NewInvalid(groupKind(r.request), r.current.displayName(r.request), r.denied).Status())
		return response
	}
	response.Allowed = true
	r.patchAnnotation()
	if len(r.patches) == 0 {
		return response
	}
	text, err := json.Marshal(r.patches)
	if err != nil {
		return refuse(http.StatusInternalServerError, fmt.Errorf("encoding the patch: %w", err))
	}
	response.Patch, response.PatchType = text, ptr.To(admissionv1.PatchTypeJSONPatch)
	return response
}

// patch is one operation of a JSON patch (RFC 6902).
type patch struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value,omitempty"`
}

// pinnedPointer is the JSON pointer of the provenance annotation.
var pinnedPointer = "/metadata/annotations/" + strings.ReplaceAll(resolver.PinnedAnnotation, "/", "~1")

// patchAnnotation keeps the provenance annotation true: pins of this review, and those of before whose
// image is still in place. A client that replaced the object without the annotation did not mean to
// lose it, so the old object's counts too.
func (r *review) patchAnnotation() {
	text, present := r.current.Metadata.Annotations[resolver.PinnedAnnotation]
	known := resolver.ParsePins(text)
	before := resolver.ParsePins(r.old.Metadata.Annotations[resolver.PinnedAnnotation])
	for _, image := range r.current.images {
		for _, pins := range []resolver.Pins{known, before} {
			pin, ok := pins[image.container]
			if _, decided := r.pins[image.container]; ok && !decided && pin.PullSpec == image.written {
				r.pin(image.container, pin)
			}
		}
	}
	switch want := r.pins.String(); {
	case len(r.pins) == 0 && present:
		r.patches = append(r.patches, patch{"remove", pinnedPointer, nil})
	case len(r.pins) == 0 || want == text:
	case len(r.current.Metadata.Annotations) == 0:
		r.patches = append(r.patches, patch{"add", "/metadata/annotations", map[string]string{resolver.PinnedAnnotation: want}})
	default:
		r.patches = append(r.patches, patch{"add", pinnedPointer, want})
	}
}

// auditAnnotations are the decisions on local names for the API server's audit log, one a container.
func (r *review) auditAnnotations() map[string]string {
	var annotations map[string]string
	for i := range r.records {
		a := &r.records[i]
		if a.Istag == "" {
			continue
		}
		if annotations == nil {
			annotations = map[string]string{}
		}
		annotations[a.Container] = strings.TrimSpace(a.Decision + " " + string(a.Reason) + ": " + a.Written + " " + a.PullSpec)
	}
	return annotations
}

func groupKind(r *admissionRequest) schema.GroupKind {
	return schema.GroupKind(metav1.GroupKind{Group: r.Kind.Group, Kind: r.Kind.Kind})
}
