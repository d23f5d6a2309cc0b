package importer

import (
	"context"
	"errors"
	"fmt"
	"slices"

	imagev1 "github.com/openshift/api/image/v1"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/singleflight"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"istag.dev/resolver/upstream"
	"istag.dev/store"
	storev1 "istag.dev/store/v1"
)

// parallelTags bounds how many tags of one stream are asked for at once.
const parallelTags = 4

// question is one request to a registry, on behalf of one or more tags.
type question struct {
	request upstream.Request
	// tags with the generation that each had when it asked.
	tags []asker
}

type asker struct {
	name       string
	generation int64
}

// answer is what came of a question: an image, or why there is none.
type answer struct {
	question

	image upstream.Descriptor
	// err is the registry's.
	err error
	// storeErr is the API server's: it says nothing of the tag.
	storeErr error
}

// plan returns what to ask now for a record: every tag that is pending, and every failing one that is
// due. Tags that ask the same share a question.
func (r *Reconciler) plan(req reconcile.Request, record *storev1.StreamRecord) []question {
	retry := failing(record)
	var questions []question
	index := map[upstream.Request]int{}
	for i := range record.Spec.Tags {
		tag := &record.Spec.Tags[i]
		request := upstream.NewRequest(tag)
		again := slices.Contains(retry, tag.Name) && r.retries.isDue(req.NamespacedName, tag.Name, request)
		if !again && !store.Pending(record, tag) {
			continue
		}
		at, ok := index[request]
		if !ok {
			at = len(questions)
			index[request] = at
			questions = append(questions, question{request: request})
		}
		questions[at].tags = append(questions[at].tags, asker{tag.Name, ptr.Deref(tag.Generation, 0)})
	}
	return questions
}

// ask puts questions to registries and makes sure that every image found has its ImageRecord.
//
// No question is begun once the time for one has passed, so that a stream with many tags in slow
// registries shows the others' results in between: the answers can be fewer than the questions, and
// what was not asked is still to be asked.
func (r *Reconciler) ask(ctx context.Context, record *storev1.StreamRecord, questions []question) []answer {
	begin := r.clock.Now()
	answers := make([]*answer, len(questions))
	var group errgroup.Group
	var fetches singleflight.Group
	group.SetLimit(parallelTags)
	for i, q := range questions {
		group.Go(func() error {
			if ctx.Err() == nil && (i < parallelTags || r.clock.Since(begin) < r.timeout) {
				answers[i] = r.answer(ctx, record, q, &fetches)
			}
			return nil
		})
	}
	_ = group.Wait() // Failures are answers.
	var given []answer
	for _, a := range answers {
		if a != nil {
			given = append(given, *a)
		}
	}
	return given
}

func (r *Reconciler) answer(ctx context.Context, record *storev1.StreamRecord, q question, fetches *singleflight.Group) *answer {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	a := &answer{question: q}
	if a.image, a.err = r.upstream.Digest(ctx, q.request); a.err == nil {
		key := a.image.Reference
		if q.request.Insecure {
			key += " insecure"
		}
		_, a.err, _ = fetches.Do(key, func() (any, error) { return nil, r.ensureImage(ctx, record, q.request, a.image) })
	}
	var failed *storeError
	if errors.As(a.err, &failed) {
		a.err, a.storeErr = nil, failed
	}
	if a.err != nil {
		log.FromContext(ctx).V(1).Info("import failed", "pullSpec", q.request.PullSpec, "reason", upstream.Reason(a.err), "message", a.err.Error(), "cause", fmt.Sprint(errors.Unwrap(a.err)))
	}
	return a
}

// storeError is an error of the API server, as opposed to a registry's.
type storeError struct{ err error }

func (e *storeError) Error() string { return e.err.Error() }

func (e *storeError) Unwrap() error { return e.err }

// ensureImage makes the ImageRecord of an image that has none. A record that exists is never changed.
//
// The digest is so far only the registry's word, and a record may have come from another registry. So
// the image is fetched all the same, unless this repository has been seen to have it: else a registry
// could name an image that it does not hold, and give its stream a look at what another holds.
func (r *Reconciler) ensureImage(ctx context.Context, record *storev1.StreamRecord, req upstream.Request, found upstream.Descriptor) error {
	name := store.ImageRecordName(found.Digest)
	var known storev1.ImageRecord
	err := r.live.Get(ctx, client.ObjectKey{Name: name}, &known)
	exists := err == nil
	switch {
	case exists && (known.Image.DockerImageReference == found.Reference || inHistory(record, found)):
		return nil
	case !exists && !apierrors.IsNotFound(err):
		return &storeError{fmt.Errorf("reading image record %q: %w", name, err)}
	}
	image, err := r.upstream.Fetch(ctx, req, found.Digest)
	if err != nil || exists {
		return err
	}
	created := &storev1.ImageRecord{ObjectMeta: metav1.ObjectMeta{Name: name}, Image: *image}
	err = r.client.Create(ctx, created, client.FieldOwner(controllerName))
	switch {
	case err == nil || apierrors.IsAlreadyExists(err):
		return nil
	case apierrors.IsInvalid(err) || apierrors.IsRequestEntityTooLargeError(err):
		return &upstream.Error{
			Kind:    upstream.Invalid,
			Message: fmt.Sprintf("%s: the image cannot be stored: the API server refuses what its manifest and configuration say", req.PullSpec),
			Cause:   err,
		}
	default:
		return &storeError{fmt.Errorf("creating image record %q: %w", name, err)}
	}
}

// inHistory reports whether a stream has imported an image before, from the same repository.
func inHistory(record *storev1.StreamRecord, found upstream.Descriptor) bool {
	for _, list := range record.Status.Tags {
		if slices.ContainsFunc(list.Items, func(e imagev1.TagEvent) bool {
			return e.Image == found.Digest && e.DockerImageReference == found.Reference
		}) {
			return true
		}
	}
	return false
}

// apply puts answers on a record, by the rules of its history, and reports whether it changed. An
// answer to a question that a tag no longer asks is dropped; the tag is pending then.
func apply(record *storev1.StreamRecord, answers []answer, now metav1.Time) bool {
	changed := false
	for _, a := range answers {
		if a.storeErr != nil {
			continue
		}
		for _, asked := range a.tags {
			tag := store.SpecTag(&record.Spec, asked.name)
			if tag == nil || !store.Importable(tag) || upstream.NewRequest(tag) != a.request || ptr.Deref(tag.Generation, 0) != asked.generation {
				continue
			}
			if a.err == nil {
				imported := store.Import{Reference: a.image.Reference, Image: a.image.Digest}
				changed = store.RecordImport(record, asked.name, imported, now) || changed
				continue
			}
			changed = store.RecordImportFailure(record, asked.name, upstream.Reason(a.err), a.err.Error(), now) || changed
		}
	}
	return changed
}
