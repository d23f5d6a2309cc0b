package webhook

import (
	"context"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"istag.dev/resolver"
	"istag.dev/webhook/lock"
	"istag.dev/webhook/policy"
	"istag.dev/webhook/scope"
)

// examined is what the rules say of one image.
type examined struct {
	image  string
	known  bool // the store has it
	ok     bool
	rule   string // that refuses it
	exempt bool   // the namespace can exempt itself from that
}

// check has the last word on the images that are new or changed. It sees the object as it will be stored, after every
// webhook that changes objects, and refuses what was changed behind the other one's back and what the policy forbids.
func (r *review) check(ctx context.Context) error {
	r.propose()
	if len(r.verdicts) == 0 {
		return nil
	}
	r.readPins()
	if r.role == roleRevision {
		r.lock, _ = lock.Read(r.current.labels(), r.current.Annotations)
	}
	r.decide(ctx)
	var seen []examined
	for i := range r.verdicts {
		v := &r.verdicts[i]
		v.outcome = outcomeAllowed
		if r.changedBehindUs(v) {
			continue
		}
		final := v.image.written
		if v.decision.Outcome == resolver.Pinned {
			final = v.decision.PullSpec
		}
		at := slices.IndexFunc(seen, func(e examined) bool { return e.image == final })
		if at < 0 {
			e, err := r.examine(ctx, final)
			if err != nil && r.enforces() {
				return unavailable("istag cannot tell whether image %q may run: %w; try again in a moment", final, err)
			}
			if err != nil { // nothing would be refused anyway
				v.decision.Reason = reasonAccepted
				continue
			}
			at, seen = len(seen), append(seen, e)
		}
		r.rule(v, &seen[at])
	}
	return r.conclude()
}

// changedBehindUs refuses an image that is not what the mutating webhook has just said it is.
func (r *review) changedBehindUs(v *verdict) bool {
	pin, changed := r.contradicts(v.image)
	if !changed || !r.enforces() || r.role != rolePinned {
		return false
	}
	v.outcome, v.decision = outcomeDenied, resolver.Decision{Reason: ReasonImageChanged, Istag: pin.Istag}
	v.message = fmt.Sprintf("istag had pinned %q to %s, and it was changed to %q since: keep other webhooks from changing pinned images, or take the annotation %s off and try again", pin.Written, pin.PullSpec, v.image.written, resolver.PinnedAnnotation)
	return true
}

// examine asks the rules about the image that is to run.
func (r *review) examine(ctx context.Context, image string) (examined, error) {
	question := policy.Image{
		Resource: schema.GroupResource{Group: r.request.Resource.Group, Resource: r.request.Resource.Resource},
		Registry: policy.Host(image),
	}
	digest := digestOf(image)
	if images := r.pinner.options.Images; digest != "" && images != nil && r.policy.NeedsImages() {
		var err error
		if question.Known, err = images.Image(ctx, digest); err != nil {
			return examined{}, err
		}
	}
	e := examined{image: image, known: question.Known != nil}
	e.rule, e.ok = r.policy.Check(question, r.settings.IgnoreRules)
	if !e.ok && e.rule != "" {
		rule, _ := r.policy.Check(question, append([]string{e.rule}, r.settings.IgnoreRules...))
		e.exempt = rule != e.rule
	}
	return e, nil
}

// rule says what becomes of an image by what was found out about it.
func (r *review) rule(v *verdict, e *examined) {
	d := &v.decision
	switch {
	case r.rules.requires && r.role != roleTemplate && d.Outcome != resolver.Pinned && !e.known:
		v.outcome = outcomeDenied
		if d.Reason != resolver.ReasonDigest {
			v.message = inexact(v.image.written, d)
			return
		}
		d.Reason = ReasonUnknownImage
		v.message = fmt.Sprintf("the cluster's policy requires that images are known, and no image stream has ever had %q: import it first, with an image stream tag that follows it", v.image.written)
	case !e.ok:
		v.outcome, v.rule, d.Reason = outcomeDenied, e.rule, ReasonRule
		v.message = e.refusal()
	default:
		d.Reason = reasonAccepted
	}
}

// refusal says which rule refuses an image, and what to do.
func (e *examined) refusal() string {
	const ask = "ask whoever administers istag's policy"
	switch {
	case e.rule == "":
		return fmt.Sprintf("no execution rule accepts image %s: %s", e.image, ask)
	case e.exempt:
		return fmt.Sprintf("execution rule %q refuses image %s: %s; the namespace may exempt itself with its annotation %s: %s", e.rule, e.image, ask, scope.IgnoreRulesAnnotation, e.rule)
	default:
		return fmt.Sprintf("execution rule %q refuses image %s: %s", e.rule, e.image, ask)
	}
}
