package webhook

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	logf "sigs.k8s.io/controller-runtime/pkg/log"

	"istag.dev/resolver"
	"istag.dev/store"
	"istag.dev/webhook/lock"
	"istag.dev/webhook/policy"
	"istag.dev/webhook/scope"
)

// maxImages bounds the images of one object: a request of a few megabytes can name hundreds of thousands, and
// each is a line of the audit log.
const maxImages = 1000

// review is one request on its way to an answer.
type review struct {
	pinner  *Pinner
	hook    hook
	request *admissionRequest
	buffers *buffers
	user    *authenticationv1.UserInfo // if it was needed
	start   time.Time

	kind         kind
	role         role
	settings     scope.Settings
	policy       *policy.Policy
	rules        rules
	current, old *workload
	// reprocess says that the object asks for its names to be looked up, or no longer does, so that all its
	// images count as changed.
	reprocess bool

	snapshot store.Snapshot
	live     []*store.Stream // that only a live read knows of
	asked    []string        // streams that a live read was made for
	blind    bool            // a live read failed
	waited   bool

	names         []named
	known, before resolver.Pins  // of the object and the old one
	placed        []resolver.Pin // whose images are in place
	lock          lock.Lock

	verdicts []verdict
	pins     resolver.Pins // of this review, and those that go on
	marks    marks
	response response
}

// role is what an object is to admission, by its kind, its owner and where its namespace wants pins.
type role int

const (
	// roleNone: not our business. A controller made it, and its template was dealt with, or it cannot
	// hold names.
	roleNone role = iota
	// rolePinned: the names in it are replaced.
	rolePinned
	// roleTemplate: it stays as it is written, because the pods that come of it are pinned.
	roleTemplate
	// roleRevision: it gets a lock.
	roleRevision
)

// rules are what the policy says of names in the object.
type rules struct {
	local, full bool // names are replaced: of the namespace's streams, and full ones
	requires    bool // what cannot be resolved is refused
}

// verdict is what becomes of one image.
type verdict struct {
	image    *image
	decision resolver.Decision
	outcome  outcome
	rule     string
	message  string // why it is refused
}

// outcome is what the audit log calls it.
type outcome string

const (
	outcomePinned  outcome = "pinned"
	outcomeLeft    outcome = "left"
	outcomeDenied  outcome = "denied"
	outcomeAllowed outcome = "allowed" // by the check; in metrics only
)

// Reasons of admission's own; the others are the resolver's.
const (
	// Pinned:
	ReasonSameObject resolver.Reason = "SameObject" // the object has that tag already, pinned
	ReasonHeld       resolver.Reason = "Held"       // a manifest was applied again, and the namespace holds its images
	ReasonLocked     resolver.Reason = "Locked"     // the pod's revision is locked to it

	// Left:
	ReasonPolicy       resolver.Reason = "Policy"       // the policy does not replace such names
	ReasonPodPlacement resolver.Reason = "PodPlacement" // the namespace pins pods, not templates
	ReasonUnchanged    resolver.Reason = "Unchanged"    // the image is what it was
	ReasonAdmissionOff resolver.Reason = "AdmissionOff" // the namespace did not ask for admission

	// Left, or denied if the policy requires that every image is resolved:
	ReasonNoAccess resolver.Reason = "NoAccess" // the user may not use the stream of another namespace

	// Denied by the check:
	ReasonImageChanged resolver.Reason = "ImageChanged" // it is not what the provenance annotation says
	ReasonUnknownImage resolver.Reason = "UnknownImage" // the policy requires a known image, and it is none
	ReasonRule         resolver.Reason = "Rule"         // an execution rule refuses it, or none accepts it
	reasonAccepted     resolver.Reason = "Accepted"
)

// review answers one request.
func (p *Pinner) review(ctx context.Context, r *review) *response {
	r.response.uid = r.request.UID
	if err := r.run(ctx); err != nil {
		response := refuse(r.request.UID, codeOf(err), err)
		response.unready = errors.Is(err, errUnready)
		return response
	}
	if err := p.options.Audit.Write(r.buffers.records); err != nil {
		logf.FromContext(ctx).Error(err, "decisions were not recorded")
	}
	return &r.response
}

// run does a review. An error is for a request that is not decided on.
func (r *review) run(ctx context.Context) error {
	r.response.allowed = true
	if concerned, err := r.begin(ctx); err != nil || !concerned {
		return err
	}
	if r.hook == checkHook {
		return r.check(ctx)
	}
	switch r.role {
	case rolePinned:
		return r.pin(ctx)
	case roleRevision:
		return r.lockRevision(ctx)
	case roleTemplate:
		return r.forecast(ctx)
	default:
		return nil
	}
}

// statusError is an error with its HTTP status.
type statusError struct {
	code int32
	error
}

func (e *statusError) Unwrap() error { return e.error }

// unavailable is for what may be otherwise in a moment.
func unavailable(format string, args ...any) error {
	return &statusError{http.StatusServiceUnavailable, fmt.Errorf(format, args...)}
}

// errUnready is for what cannot be reviewed at all now. It is no answer: the failure policy says what becomes of the object, and
// the guard refuses the names of local streams and nothing else, which is more than we can tell.
var errUnready = errors.New("istag's webhook is not ready")

func codeOf(err error) int32 {
	if coded := (*statusError)(nil); errors.As(err, &coded) {
		return coded.code
	}
	return http.StatusBadRequest
}

// begin finds out what a request is about, and whether it concerns us at all.
func (r *review) begin(ctx context.Context) (concerned bool, err error) {
	q := r.request
	r.kind = r.pinner.kindOf(q.Resource, q.SubResource)
	if r.kind.shape == shapeNone || q.Object == nil || q.Namespace == "" {
		return false, nil
	}
	if q.Operation != admissionv1.Create && q.Operation != admissionv1.Update {
		return false, nil
	}
	settings, unknown := r.pinner.options.Scopes.Settings(ctx, q.Namespace)
	if unknown == nil && settings.Mode == scope.Off {
		return false, nil
	}
	r.settings = settings
	if r.current, r.old, err = r.kind.workloads(q, r.buffers.body.Bytes()); err != nil {
		return false, err
	}
	if r.role = r.roleOf(); r.role == roleNone && unknown == nil {
		return false, nil
	}
	r.takePolicy()
	r.reprocess = r.role != roleRevision && r.current.optIn != r.old.optIn
	if unknown != nil {
		if !r.hasCandidate() {
			return false, nil
		}
		return false, unavailable("%w: what namespace %q asks of it cannot be read: %w", errUnready, q.Namespace, unknown)
	}
	select {
	case <-r.pinner.options.Index.Synced():
	default:
		if r.enforces() && r.hasCandidate() {
			return false, unavailable("%w: it has not read all image streams yet", errUnready)
		}
		return false, nil
	}
	r.snapshot = r.pinner.options.Index.Snapshot()
	return true, r.bound()
}

// takePolicy takes the policy of the moment for the whole review.
func (r *review) takePolicy() {
	r.policy = r.pinner.options.Policy()
	resource := schema.GroupResource{Group: r.request.Resource.Group, Resource: r.request.Resource.Resource}
	if !r.policy.Looks(resource) {
		return
	}
	// A lock is in an object's metadata, which can be changed where its images cannot.
	updating := r.request.Operation == admissionv1.Update && r.role != roleRevision
	r.rules = rules{
		local:    r.policy.Rewrites(resource, updating, true),
		full:     r.policy.Rewrites(resource, updating, false),
		requires: r.policy.Requires(),
	}
}

// roleOf returns what the object is to admission.
func (r *review) roleOf() role {
	switch pods := r.kind.shape == shapePod; {
	case r.request.SubResource != "": // a user wrote that, whoever made the pod
		return rolePinned
	case r.settings.PodPlacement && pods:
		return rolePinned
	case r.settings.PodPlacement && r.kind.revision:
		return roleRevision
	case r.kind.shape == shapeData, r.current.controller() != nil:
		return roleNone
	case r.settings.PodPlacement:
		return roleTemplate
	case r.request.Operation == admissionv1.Update && r.request.Resource.Resource == "jobs" && r.kind.revision:
		return roleNone // its images cannot be changed
	default:
		return rolePinned
	}
}

// bound refuses an object with too many images.
func (r *review) bound() error {
	if n := len(r.current.images); n > maxImages {
		err := fmt.Errorf("the object has %d images, and istag looks at %d at most", n, maxImages)
		if r.enforces() {
			return &statusError{http.StatusRequestEntityTooLarge, err}
		}
		r.current.images = r.current.images[:maxImages]
	}
	return nil
}

// enforces reports whether decisions are carried out.
func (r *review) enforces() bool { return r.settings.Mode == scope.Enforce }

// changed reports whether an image of the object, by its index, is new or was changed. One that stays as it was
// is left alone, so that nobody's unrelated update is changed or refused.
func (r *review) changed(i int) bool {
	image := &r.current.images[i]
	if r.request.SubResource != "" && image.list != listEphemeral {
		return false
	}
	return r.reprocess || !r.old.has(image.key, image.written, i)
}

// hasCandidate reports whether an image that is new or changed could be the name of a tag.
func (r *review) hasCandidate() bool {
	for i := range r.current.images {
		if r.changed(i) && resolver.IsCandidate(r.question(r.current.images[i].written)) {
			return true
		}
	}
	return false
}

// question is what the resolver is asked about a name.
func (r *review) question(written string) resolver.Request {
	return resolver.Request{Namespace: r.request.Namespace, Image: written, OptIn: r.current.optIn, Hosts: r.policy}
}

func groupKind(r *admissionRequest) schema.GroupKind {
	return schema.GroupKind(metav1.GroupKind{Group: r.Kind.Group, Kind: r.Kind.Kind})
}
