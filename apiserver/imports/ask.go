package imports

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	imagev1 "github.com/openshift/api/image/v1"
	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/klog/v2"

	"istag.dev/resolver/upstream"
	"istag.dev/store"
	storev1 "istag.dev/store/v1"
)

const (
	// parallel bounds how many images of one request are asked for at once.
	parallel = 4
	// maxChildren bounds how many images of an index are looked at.
	maxChildren = 32
	// maxAnswer bounds the images of an answer, roughly in bytes.
	maxAnswer = 32 << 20
	// slack is how near to the deadline a registry that does not answer counts as not asked long enough.
	slack = 50 * time.Millisecond
)

// finding is what came of a question: exactly one of image, err and late is set.
type finding struct {
	found upstream.Descriptor
	// image is shared: it is copied before it is changed.
	image *imagev1.Image
	// children are the images of an index that could be had.
	children []*imagev1.Image
	err      error
	late     lateness
}

// asking is the questions of one request.
type asking struct {
	upstream Upstream
	images   Images
	// stream is as it was when the request began, nil if there was none.
	stream *storev1.StreamRecord
	// rawChildren says that clients want the configuration of an index's images, which is nowhere else
	// if they are not kept.
	rawChildren bool

	mu sync.Mutex
	// asked and fetches hold what is asked already, so that it is asked once.
	asked   map[question]func() (*finding, error)
	fetches map[fetchKey]func() (*imagev1.Image, error)
	// weight of the images found so far.
	weight int
}

type fetchKey struct {
	reference     string
	insecure, raw bool
}

func newAsking(r *REST, isi *imagev1.ImageStreamImport, stream *storev1.StreamRecord) *asking {
	return &asking{
		upstream:    r.Upstream,
		images:      r.Images,
		stream:      stream,
		rawChildren: !isi.Spec.Import,
		asked:       map[question]func() (*finding, error){},
		fetches:     map[fetchKey]func() (*imagev1.Image, error){},
	}
}

// all returns the findings of a list, in its order. ctx has a deadline, and what it does not leave time
// for is late. An error is the API server's own, to be returned bare.
func (a *asking) all(ctx context.Context, list []wanted) ([]*finding, error) {
	findings := make([]*finding, len(list))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	for i := range list {
		group.Go(func() error {
			var err error
			findings[i], err = a.once(ctx, list[i].question)
			return err
		})
	}
	return findings, group.Wait()
}

func (a *asking) once(ctx context.Context, q question) (*finding, error) {
	a.mu.Lock()
	ask, ok := a.asked[q]
	if !ok {
		ask = sync.OnceValues(func() (*finding, error) { return a.ask(ctx, q) })
		a.asked[q] = ask
	}
	a.mu.Unlock()
	return ask()
}

func (a *asking) ask(ctx context.Context, q question) (*finding, error) {
	if isDone(ctx) {
		return &finding{late: outOfTime}, nil
	}
	f := &finding{}
	var err error
	if f.found, err = a.upstream.Digest(ctx, q.request); err == nil {
		f.image, err = a.fetch(ctx, q, f.found)
	}
	var failed *storeError
	switch {
	case err == nil:
	case unansweredInTime(ctx, err):
		return &finding{late: outOfTime}, nil
	case errors.As(err, &failed):
		return nil, failed.err
	default:
		klog.FromContext(ctx).V(4).Info("import failed", "pullSpec", q.request.PullSpec, "reason", upstream.Reason(err), "message", err.Error(), "cause", errors.Unwrap(err))
		return &finding{err: err}, nil
	}
	if f.children, err = a.children(ctx, q, f); err != nil {
		return nil, err
	}
	if !a.room(f) {
		return &finding{late: outOfSpace}, nil
	}
	return f, nil
}

// unansweredInTime tells a registry that the request's own deadline cut off from one that answered, or
// that had all the time that a registry gets.
func unansweredInTime(ctx context.Context, err error) bool {
	var known *upstream.Error
	if errors.As(err, &known) && known.Kind != upstream.Unreachable {
		return false
	}
	deadline, _ := ctx.Deadline()
	return ctx.Err() != nil || time.Until(deadline) < slack
}

// storeError is an error of the API server, as opposed to a registry's.
type storeError struct{ err error }

func (e *storeError) Error() string { return e.err.Error() }

func (e *storeError) Unwrap() error { return e.err }

func (a *asking) fetch(ctx context.Context, q question, found upstream.Descriptor) (*imagev1.Image, error) {
	key := fetchKey{found.Reference, q.request.Insecure, q.raw}
	a.mu.Lock()
	fetch, ok := a.fetches[key]
	if !ok {
		fetch = sync.OnceValues(func() (*imagev1.Image, error) { return a.load(ctx, q, found) })
		a.fetches[key] = fetch
	}
	a.mu.Unlock()
	return fetch()
}

// load returns an image that a registry says it has.
//
// The digest is so far only the registry's word, and an image that is known may be another's. So it is
// fetched all the same, unless this repository has been seen to have it: else a registry could name an
// image that it does not hold, and give its user a look at what another holds.
func (a *asking) load(ctx context.Context, q question, found upstream.Descriptor) (*imagev1.Image, error) {
	if q.raw {
		return a.upstream.FetchRaw(ctx, q.request, found.Digest)
	}
	known, err := a.images.Image(ctx, found.Digest)
	switch {
	case err == nil && (known.DockerImageReference == found.Reference || inHistory(a.stream, found)):
		return known, nil
	case err != nil && !apierrors.IsNotFound(err):
		return nil, &storeError{err}
	}
	return a.upstream.Fetch(ctx, q.request, found.Digest)
}

// inHistory reports whether a stream has imported an image before, from the same repository.
func inHistory(stream *storev1.StreamRecord, found upstream.Descriptor) bool {
	if stream == nil {
		return false
	}
	for _, list := range stream.Status.Tags {
		if slices.ContainsFunc(list.Items, func(e imagev1.TagEvent) bool {
			return e.Image == found.Digest && e.DockerImageReference == found.Reference
		}) {
			return true
		}
	}
	return false
}

// children returns the images of an index, in its order. One that cannot be had, or not in time, is left
// out: the index is none the worse for it.
func (a *asking) children(ctx context.Context, q question, index *finding) ([]*imagev1.Image, error) {
	var images []*imagev1.Image
	entries := index.image.DockerImageManifests
	for _, entry := range entries[:min(len(entries), maxChildren)] {
		if isDone(ctx) {
			break
		}
		if entry.OS == "unknown" && entry.Architecture == "unknown" {
			continue // An attestation is no image.
		}
		child := question{request: q.request, raw: q.raw || a.rawChildren}
		found := upstream.Descriptor{Reference: store.Repository(index.found.Reference) + "@" + entry.Digest, Digest: entry.Digest}
		image, err := a.fetch(ctx, child, found)
		var failed *storeError
		switch {
		case err == nil:
			images = append(images, image)
		case errors.As(err, &failed) && !isDone(ctx):
			return nil, failed.err
		default:
			klog.FromContext(ctx).V(4).Info("image of an index left out", "reference", found.Reference, "message", err.Error())
		}
	}
	return images, nil
}

// room reports whether the images of a finding still fit into the answer.
func (a *asking) room(f *finding) bool {
	weight := weigh(f.image)
	for _, child := range f.children {
		weight += weigh(child)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.weight+weight > maxAnswer {
		return false
	}
	a.weight += weight
	return true
}

// weigh returns about how many bytes an image takes, in memory and in an answer.
func weigh(image *imagev1.Image) int {
	const entry = 200
	return len(image.DockerImageManifest) + len(image.DockerImageConfig) + len(image.DockerImageMetadata.Raw) +
		entry*(1+len(image.DockerImageLayers)+len(image.DockerImageManifests))
}

// isDone reports whether the time for the request is over.
func isDone(ctx context.Context) bool { return ctx.Err() != nil }
