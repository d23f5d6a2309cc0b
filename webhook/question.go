package webhook

import (
	"context"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"istag.dev/resolver"
	"istag.dev/webhook/scope"
)

// Question asks what would become of an image.
type Question struct {
	// Namespace of the object that has the image.
	Namespace string
	// Image as it would be written.
	Image string
	// Resource of the object. The zero value means pods.
	Resource schema.GroupResource
	// User who would create the object.
	User authenticationv1.UserInfo
	// OptIn says that the object would ask for all its names to be looked up.
	OptIn bool
}

// Answer says what would become of an image, and why.
type Answer struct {
	// Decision is "pinned", "left" or "denied". Mode says whether it would be carried out.
	Decision string          `json:"decision"`
	Reason   resolver.Reason `json:"reason"`
	// Becomes is the image that the object would have; absent if it would be refused.
	Becomes string `json:"becomes,omitempty"`
	// Istag is the image stream tag that the image means, absent if it means none.
	Istag string `json:"istag,omitempty"`
	// PullSpec is what pods would be given for it, absent if it means no image.
	PullSpec string `json:"pullSpec,omitempty"`
	// Message says in words why.
	Message string `json:"message,omitempty"`
	// Rule is the execution rule that would refuse the image, absent if none would.
	Rule string `json:"rule,omitempty"`
	// Mode of the namespace, empty if it did not ask for admission.
	Mode scope.Mode `json:"mode"`
	// StreamGeneration is the stream's generation; absent if there is no stream.
	StreamGeneration int64 `json:"streamGeneration,omitempty"`
}

// Explain answers a question as a review of a new object would, by the same rules, at once and without any trace.
func (p *Pinner) Explain(ctx context.Context, q Question) (Answer, error) {
	if q.Resource == (schema.GroupResource{}) {
		q.Resource.Resource = "pods"
	}
	settings, err := p.options.Scopes.Settings(ctx, q.Namespace)
	if err != nil {
		return Answer{}, unavailable("what namespace %q asks of istag cannot be told now: %w", q.Namespace, err)
	}
	if settings.Mode == scope.Off {
		return Answer{Decision: string(outcomeLeft), Reason: ReasonAdmissionOff, Becomes: q.Image, Message: because(ReasonAdmissionOff)}, nil
	}
	select {
	case <-p.options.Index.Synced():
	default:
		return Answer{}, unavailable("istag has not read all image streams yet; try again in a moment")
	}
	r := p.reviewOf(q, settings)
	return r.answer(ctx)
}

// reviewOf makes a review of an object with a single image.
func (p *Pinner) reviewOf(q Question, settings scope.Settings) *review {
	r := &review{
		pinner: p,
		hook:   pinHook,
		request: &admissionRequest{
			Resource:  metav1.GroupVersionResource{Group: q.Resource.Group, Resource: q.Resource.Resource},
			Namespace: q.Namespace,
			Operation: admissionv1.Create,
		},
		user:     &q.User,
		start:    time.Now(),
		settings: settings,
		current:  &workload{optIn: q.OptIn, images: []image{{written: q.Image, list: listContainers, in: &place{}}}},
		old:      &workload{},
		snapshot: p.options.Index.Snapshot(),
		waited:   true,
	}
	r.request.UserInfo.Username = q.User.Username
	r.kind = p.kindOf(r.request.Resource, "")
	if r.role = r.roleOf(); r.role == roleNone {
		r.role = rolePinned
	}
	r.takePolicy()
	return r
}

// answer makes the review, with what the check would say of what becomes of the image.
func (r *review) answer(ctx context.Context) (Answer, error) {
	r.propose()
	r.decide(ctx)
	meaning := r.verdicts[0].decision
	r.judge()
	v := &r.verdicts[0]
	a := Answer{
		Decision: string(v.outcome), Reason: v.decision.Reason, Istag: v.decision.Istag, PullSpec: meaning.PullSpec,
		Message: v.message, Mode: r.settings.Mode, StreamGeneration: v.decision.Generation,
	}
	if v.outcome == outcomeDenied {
		return a, nil
	}
	a.Becomes = v.image.written
	if a.Message = v.decision.Message; a.Message == "" && v.outcome == outcomeLeft {
		a.Message = because(v.decision.Reason)
	}
	switch {
	case v.outcome == outcomePinned && r.role == rolePinned:
		a.Becomes = meaning.PullSpec
	case v.outcome == outcomePinned:
		a.Decision, a.Reason, a.Message = string(outcomeLeft), ReasonPodPlacement, because(ReasonPodPlacement)
	}
	final := v.image.written
	if meaning.Outcome == resolver.Pinned {
		final = meaning.PullSpec
	}
	e, err := r.examine(ctx, final)
	if err != nil {
		return Answer{}, unavailable("whether image %q may run cannot be told now: %w", final, err)
	}
	v.decision = meaning
	if r.rule(v, &e); v.outcome == outcomeDenied {
		a.Decision, a.Reason, a.Becomes, a.Message, a.Rule = string(outcomeDenied), v.decision.Reason, "", v.message, v.rule
	}
	return a, nil
}
