package crdstore

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/storage"
)

// etcdTooLarge is what etcd says of more than it takes at once. The backing API server passes it on without a reason.
const etcdTooLarge = "etcdserver: request is too large"

// retrySeconds is how long a client should wait when the backing API server did not answer.
const retrySeconds = 1

// failure returns what the failure of a backing request means for the user's. What genericregistry.Store
// words itself, in the user's terms, becomes a storage error. Other answers of the backing API server go
// up as they are (it says 410, 413, 429 and 403 to us for reasons that are as good for the user), except
// those that would speak of records.
func (s *crdStorage[T, P]) failure(ctx context.Context, err error, p place) error {
	var status *apierrors.StatusError
	if !errors.As(err, &status) {
		return s.silence(ctx, err)
	}
	switch {
	case notServed(status):
		return unavailable(fmt.Sprintf("the cluster does not serve %s.%s, which keep the %ss: install the custom resource definitions",
			s.kind.resource, s.client.APIVersion().Group, s.kind.shown.Kind))
	case apierrors.IsNotFound(status):
		return storage.NewKeyNotFoundError(p.key, 0)
	case apierrors.IsAlreadyExists(status):
		return storage.NewKeyExistsError(p.key, 0)
	case apierrors.IsConflict(status):
		return storage.NewResourceVersionConflictsError(p.key, 0)
	case apierrors.IsInvalid(status):
		return s.refused(status, p)
	case strings.Contains(status.ErrStatus.Message, etcdTooLarge):
		return apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("%s %q would be larger than the cluster can keep, by default 1.5 MiB: leave out tags or annotations",
			s.kind.shown.Kind, p.name))
	}
	return status
}

// notServed tells whether there is no such resource, rather than no such object.
func notServed(status *apierrors.StatusError) bool {
	return apierrors.IsNotFound(status) && apierrors.HasStatusCause(status, metav1.CauseTypeUnexpectedServerResponse)
}

// silence is the error for a request that got no answer, or none that can be understood.
func (s *crdStorage[T, P]) silence(ctx context.Context, err error) error {
	var unreadable *unreadableError
	switch {
	case ctx.Err() != nil:
		return s.timeout()
	case errors.As(err, &unreadable):
		return apierrors.NewInternalError(fmt.Errorf("what the cluster keeps of an %s cannot be read: %w", s.kind.shown.Kind, unreadable.error))
	}
	// The URL is of no use to users.
	var request *url.Error
	if errors.As(err, &request) {
		err = request.Err
	}
	return unavailable(fmt.Sprintf("the cluster's API server, which keeps the %ss, did not answer: %s", s.kind.shown.Kind, err))
}

// timeout is the error for a request whose time is over.
func (s *crdStorage[T, P]) timeout() error {
	return apierrors.NewTimeoutError(fmt.Sprintf("the time for the request was over before the cluster's API server, which keeps the %ss, had answered: try again",
		s.kind.shown.Kind), retrySeconds)
}

func unavailable(message string) error {
	err := apierrors.NewServiceUnavailable(message)
	err.ErrStatus.Details = &metav1.StatusDetails{RetryAfterSeconds: retrySeconds}
	return err
}

// refused is the error for an object that our own validation let through and that the cluster, or a
// policy on records, does not: no fault of the user's, whatever the code was.
func (s *crdStorage[T, P]) refused(status *apierrors.StatusError, p place) error {
	var reasons []string
	if details := status.ErrStatus.Details; details != nil {
		for _, cause := range details.Causes {
			reasons = append(reasons, strings.TrimPrefix(cause.Field+": "+cause.Message, ": "))
		}
	}
	if reasons == nil {
		reasons = append(reasons, "it gave no reason")
	}
	err := apierrors.NewInternalError(fmt.Errorf("the cluster refuses to keep %s %q, which is a defect of this server or of its custom resource definitions: %s",
		s.kind.shown.Kind, p.name, strings.Join(reasons, "; ")))
	err.ErrStatus.Code = http.StatusInternalServerError
	return err
}

// unstorable is the error for a name that no record can have.
func (s *crdStorage[T, P]) unstorable(name string) error {
	return apierrors.NewInvalid(s.kind.shown, name, field.ErrorList{field.Invalid(field.NewPath("metadata", "name"), name,
		fmt.Sprintf("is kept as %q, which must be at most 253 characters and stand for no other name", s.kind.toRecord(name)))})
}
