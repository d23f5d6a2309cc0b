package webhook

import (
	"context"

	"istag.dev/resolver"
)

// awaitImports waits for the first imports that names of the review are waiting for, once, and reports whether
// the snapshot is newer for it.
//
// Whoever creates a stream and a workload in one go does not have to know how long an import takes. Nothing else
// waits for it: no lock is held, and what comes on top of maxWaiting reviews does without.
func (r *review) awaitImports(ctx context.Context) bool {
	o := &r.pinner.options
	if r.waited || !r.waits() || o.FirstImportWait <= 0 {
		return false
	}
	var awaited []resolver.Decision
	for i := range r.names {
		if r.names[i].decision.Awaited {
			awaited = append(awaited, r.names[i].decision)
		}
	}
	if len(awaited) == 0 {
		return false
	}
	r.waited = true
	select {
	case r.pinner.waiting <- struct{}{}:
		defer func() { <-r.pinner.waiting }()
	default:
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, o.FirstImportWait)
	defer cancel()
	for i := range awaited {
		r.awaitImport(ctx, &awaited[i])
	}
	r.renew()
	return true
}

// waits reports whether a decision is worth waiting for: nobody is refused anything if it is not carried out.
func (r *review) waits() bool {
	return r.hook == pinHook && r.enforces()
}

// awaitImport waits until the index has an image for a tag, or the failure to import it, or no such tag.
func (r *review) awaitImport(ctx context.Context, d *resolver.Decision) {
	for seen := false; ; {
		snapshot, changed := r.pinner.options.Index.Watch(d.Namespace, d.Stream)
		stream, ok := snapshot.Stream(d.Namespace, d.Stream)
		if ok {
			if tag, _ := stream.Tag(d.Tag); !tag.Awaited {
				return
			}
		} else if seen {
			return
		}
		seen = seen || ok
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}
