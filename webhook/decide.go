package webhook

import (
	"context"
	"fmt"
	"time"

	logf "sigs.k8s.io/controller-runtime/pkg/log"

	"istag.dev/resolver"
	"istag.dev/webhook/lock"
)

// liveBudget bounds all live reads of one review together.
const liveBudget = time.Second

// named is what one name means in this review.
type named struct {
	written  string
	decision resolver.Decision
}

// pin decides on every image that is new or changed, and replaces those that are pinned.
func (r *review) pin(ctx context.Context) error {
	r.propose()
	if r.kind.shape == shapePod && r.settings.PodPlacement {
		if err := r.readLock(ctx); err != nil {
			return err
		}
	}
	r.readPins()
	r.decide(ctx)
	r.judge()
	if r.enforces() {
		r.replaceImages()
		if r.request.SubResource == "" { // the API server keeps nothing else of it
			r.keepProvenance()
			r.dropStrayLocks()
		}
	}
	return r.conclude()
}

// forecast refuses names that would not resolve in the pods that come of an object, and leaves it as it is written. Its
// revision would be refused as well, but it is now that the user listens: of that, controllers say little, and the
// deployment controller gives up after some minutes.
func (r *review) forecast(ctx context.Context) error {
	r.propose()
	r.readPins()
	r.decide(ctx)
	r.judge()
	for i := range r.verdicts {
		v := &r.verdicts[i]
		if v.outcome == outcomePinned {
			v.outcome = outcomeLeft
			v.decision.Reason, v.decision.PullSpec, v.decision.MovedBy = ReasonPodPlacement, "", ""
		}
	}
	if r.enforces() {
		r.keepProvenance()
		r.dropStrayLocks()
	}
	return r.conclude()
}

// propose makes the images that are new or changed those to decide on.
func (r *review) propose() {
	r.verdicts = make([]verdict, 0, len(r.current.images))
	for i := range r.current.images {
		if r.changed(i) {
			r.verdicts = append(r.verdicts, verdict{image: &r.current.images[i]})
		}
	}
}

// readLock reads the lock of the revision that a pod is of, if the pod has names that it may know.
func (r *review) readLock(ctx context.Context) error {
	by := r.current.controller()
	if by == nil || !r.hasCandidate() || r.pinner.options.Locks == nil {
		return nil
	}
	owner := lock.Owner{APIVersion: by.APIVersion, Kind: by.Kind, Name: by.Name, UID: by.UID}
	revision, ok := lock.RevisionOf(r.request.Namespace, owner, r.current.labels())
	if !ok {
		return nil
	}
	locked, _, err := r.pinner.options.Locks.Lock(ctx, revision)
	if err != nil && r.enforces() {
		return unavailable("istag cannot read which images %s %q is locked to: %w; try again in a moment", revision.Resource, revision.Name, err)
	}
	r.lock = locked
	return nil
}

// decide decides on every image that was proposed, all against one snapshot: equal names mean equal digests. If
// anything makes the snapshot newer, it decides on all of them again.
func (r *review) decide(ctx context.Context) {
	for {
		r.names = r.names[:0]
		for i := range r.verdicts {
			v := &r.verdicts[i]
			v.decision = r.decideImage(ctx, v.image)
		}
		if !r.readAbsent(ctx) && !r.awaitImports(ctx) {
			return
		}
	}
}

// decideImage decides on one image: by what was agreed for it before, or by what its name means now.
func (r *review) decideImage(ctx context.Context, image *image) resolver.Decision {
	if pin, ok := r.held(image); ok {
		return pinned(pin, ReasonHeld)
	}
	if pin, ok := r.lock[image.written]; ok && isExact(pin) {
		return pinned(pin, ReasonLocked)
	}
	d := r.meaning(ctx, image.written)
	if d.Outcome == resolver.Pinned || d.Outcome == resolver.Unresolved {
		for i := range r.placed {
			if r.placed[i].Istag == d.Istag {
				same := pinned(r.placed[i], ReasonSameObject)
				same.Local = d.Local
				return same
			}
		}
	}
	return d
}

func pinned(pin resolver.Pin, reason resolver.Reason) resolver.Decision {
	return resolver.Decision{
		Outcome: resolver.Pinned, Reason: reason, Istag: pin.Istag, PullSpec: pin.PullSpec, Generation: pin.Generation,
	}
}

// meaning returns what a name means, once for each name and snapshot.
func (r *review) meaning(ctx context.Context, written string) resolver.Decision {
	for i := range r.names {
		if r.names[i].written == written {
			return r.names[i].decision
		}
	}
	d := r.resolve(ctx, written)
	r.names = append(r.names, named{written, d})
	return d
}

// resolve asks the resolver, and the API server if the stream is another namespace's: but not if the policy wants to
// know nothing of such names.
func (r *review) resolve(ctx context.Context, written string) resolver.Decision {
	d := resolver.Resolve(r.snapshot, r.question(written))
	if d.Stream == "" {
		return d
	}
	if !r.wants(d.Local) {
		return resolver.Decision{Outcome: resolver.Left, Reason: ReasonPolicy, Istag: d.Istag, Local: d.Local}
	}
	if d.Namespace == r.request.Namespace {
		return d
	}
	if message := r.mayNot(ctx, d.Namespace, d.Stream); message != "" {
		// Whether there is such a stream is not for this user to know.
		return resolver.Decision{Outcome: resolver.Left, Reason: ReasonNoAccess, Istag: d.Istag, Message: message}
	}
	return d
}

// wants reports whether anybody wants to know what names of a sort mean.
func (r *review) wants(local bool) bool {
	if r.rules.requires || r.hook == checkHook && r.policy.NeedsImages() {
		return true
	}
	return local && r.rules.local || !local && r.rules.full
}

// mayNot returns why the user may not use a stream of another namespace, empty if they may.
func (r *review) mayNot(ctx context.Context, namespace, stream string) string {
	username := r.request.UserInfo.Username
	allowed, err := false, error(nil)
	if access := r.pinner.options.Access; access != nil {
		if r.user == nil {
			u, err := userOf(r.buffers.body.Bytes())
			if err != nil {
				return err.Error()
			}
			r.user = &u
		}
		allowed, err = access.May(ctx, *r.user, namespace, stream)
	}
	switch {
	case err != nil:
		return fmt.Sprintf("whether user %q may use image stream %q of namespace %q cannot be told now: %v; try again in a moment", username, stream, namespace, err)
	case !allowed:
		return fmt.Sprintf("user %q may not use image stream %q of namespace %q, if there is one: that takes \"get\" on imagestreams/layers there, as the ClusterRole system:image-puller has it", username, stream, namespace)
	default:
		return ""
	}
}

// readAbsent reads the streams that were missed from the API server, each once, and reports whether it found any.
func (r *review) readAbsent(ctx context.Context) bool {
	if r.hook == checkHook && !r.rules.requires {
		return false
	}
	var cancel context.CancelFunc
	found := false
	for i := range r.names {
		d := &r.names[i].decision
		if !d.Absent || r.blind || !r.ask(d.Namespace+"/"+d.Stream) {
			continue
		}
		if cancel == nil {
			ctx, cancel = context.WithDeadline(ctx, r.start.Add(liveBudget)) //nolint:fatcontext // once, for all of them
			defer cancel()
		}
		stream, err := r.pinner.options.Streams.Stream(ctx, d.Namespace, d.Stream)
		if err != nil {
			// The index is what we know, then; further reads of this review would only cost it its time.
			r.blind = true
			logf.FromContext(ctx).Error(err, "reading a stream that the index does not have", "stream", d.Stream)
			break
		}
		if stream != nil {
			r.live, found = append(r.live, stream), true
		}
	}
	if found {
		r.renew()
	}
	return found
}

// ask reports whether a stream is to be asked for, which it is once.
func (r *review) ask(stream string) bool {
	for _, asked := range r.asked {
		if asked == stream {
			return false
		}
	}
	r.asked = append(r.asked, stream)
	return true
}

// renew takes the newest snapshot there is, with the streams that it does not have yet.
func (r *review) renew() {
	r.snapshot = r.pinner.options.Index.Snapshot()
	for _, stream := range r.live {
		if _, ok := r.snapshot.Stream(stream.Namespace, stream.Name); !ok {
			r.snapshot = r.snapshot.With(stream)
		}
	}
}

// judge says what becomes of each image by what it means.
func (r *review) judge() {
	for i := range r.verdicts {
		v := &r.verdicts[i]
		d := &v.decision
		replaces := r.rules.full
		if d.Local {
			replaces = r.rules.local
		}
		// What was agreed before is kept, whatever the policy says now.
		replaces = replaces || d.Reason == ReasonHeld || d.Reason == ReasonLocked
		v.outcome = outcomeLeft
		switch {
		case d.Outcome == resolver.Pinned && replaces:
			v.outcome = outcomePinned
		case d.Outcome == resolver.Pinned:
			d.Reason, d.PullSpec, d.MovedBy = ReasonPolicy, "", ""
		case r.rules.requires && d.Reason != resolver.ReasonDigest: // digests are for the check
			v.outcome, v.message = outcomeDenied, inexact(v.image.written, d)
		case d.Outcome != resolver.Unresolved:
		case !replaces:
			d.Reason, d.Message = ReasonPolicy, ""
		case r.settings.AllowUnresolved:
			r.warn("%s: %q is left as it is written (istag.dev/on-unresolved: allow): %s", v.image, v.image.written, d.Message)
		default:
			v.outcome, v.message = outcomeDenied, d.Message
		}
	}
}

// inexact says why the policy refuses an image that was not resolved.
func inexact(written string, d *resolver.Decision) string {
	why := d.Message
	if why == "" {
		why = because(d.Reason)
	}
	return fmt.Sprintf("the cluster's policy requires that %q means one exact image, and it cannot be resolved: %s; write the image by its digest, or by a tag of an image stream", written, why)
}

// because says in words why a name is left.
func because(reason resolver.Reason) string {
	switch reason {
	case resolver.ReasonNotAnImage:
		return "it is not the name of an image"
	case resolver.ReasonNotLocalName:
		return "it names a registry or a path, and no image stream"
	case resolver.ReasonNoStream:
		return "there is no image stream of that name"
	case resolver.ReasonNotLocalStream:
		return "the image stream of that name is not for local lookup (spec.lookupPolicy.local)"
	case resolver.ReasonDigest:
		return "it is exact already"
	case ReasonPolicy:
		return "the cluster's policy leaves such names"
	case ReasonPodPlacement:
		return "the namespace pins pods (istag.dev/placement: pod)"
	case ReasonUnchanged:
		return "it is what it was"
	case ReasonAdmissionOff:
		return "the namespace did not ask for admission (istag.dev/admission)"
	default:
		return string(reason)
	}
}
