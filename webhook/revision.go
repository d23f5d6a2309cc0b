package webhook

import (
	"context"
	"slices"

	admissionv1 "k8s.io/api/admission/v1"

	"istag.dev/resolver"
	"istag.dev/webhook/lock"
)

// lockRevision gives an object that stands for a revision its lock: what the names of its template mean when it is
// made, or when it comes by without a lock, or with other names. The template itself stays as it is: its owner would
// take another one for a new revision, and make that, for ever.
func (r *review) lockRevision(ctx context.Context) error {
	labels := r.current.labels()
	have, locked := lock.Read(labels, r.current.Annotations)
	if !locked { // a client may have left it out
		have, _ = lock.Read(r.old.labels(), r.old.Annotations)
	}
	unchanged := r.unchanged()
	if unchanged && locked {
		return nil
	}
	next := r.proposeNames(have)
	// Nobody waits, and nobody is refused, for the sake of an update that is about something else.
	r.waited = unchanged
	r.decide(ctx)
	r.judge()
	for i := range r.verdicts {
		v := &r.verdicts[i]
		d := &v.decision
		switch {
		case v.outcome == outcomePinned:
			next[v.image.written] = resolver.Pin{Written: v.image.written, Istag: d.Istag, PullSpec: d.PullSpec, Generation: d.Generation}
		case v.outcome == outcomeDenied && unchanged:
			return nil // all of a revision is locked, or nothing
		}
	}
	if unchanged && !r.hasNames() {
		return nil
	}
	if r.enforces() {
		r.markLock(next, labels)
	}
	return r.conclude()
}

// unchanged reports whether the object exists, and has the images that it had. What a revision's names mean does
// not depend on annotations that come and go.
func (r *review) unchanged() bool {
	if r.request.Operation != admissionv1.Update {
		return false
	}
	for i := range r.current.images {
		if r.changed(i) {
			return false
		}
	}
	return true
}

// hasNames reports whether an image of the object may be the name of a tag, so that its pods will ask for a lock.
func (r *review) hasNames() bool {
	return slices.ContainsFunc(r.current.images, func(i image) bool { return resolver.IsCandidate(r.question(i.written)) })
}

// proposeNames makes the images whose names are not locked yet those to decide on, and returns what the others are
// locked to. A name that the object got just now is not locked yet, whatever a lock says that came along with it.
func (r *review) proposeNames(have lock.Lock) lock.Lock {
	kept := lock.Lock{}
	for i := range r.current.images {
		image := &r.current.images[i]
		if pin, ok := have[image.written]; ok && (r.request.Operation == admissionv1.Create || r.old.names(image.written)) {
			kept[image.written] = pin
			continue
		}
		r.verdicts = append(r.verdicts, verdict{image: image})
	}
	return kept
}

// markLock puts a lock on the object, and takes others off.
func (r *review) markLock(next lock.Lock, labels map[string]string) {
	label, key, value := "", "", ""
	if r.hasNames() { // a lock to nothing too says that there is nothing to look for
		label, key, value = next.Text()
	}
	if _, there := labels[lock.Label]; there && label == "" {
		r.marks.unlabel(lock.Label)
	}
	for stray := range r.current.Annotations {
		if lock.Stray(stray) && stray != key {
			r.marks.unannotate(stray)
		}
	}
	if label != "" && labels[lock.Label] != label {
		r.marks.label(lock.Label, label)
	}
	if key != "" && r.current.Annotations[key] != value {
		r.marks.annotate(key, value)
	}
}
