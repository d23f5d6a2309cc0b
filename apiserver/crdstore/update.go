package crdstore

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/utils/ptr"
)

// GuaranteedUpdate implements storage.Interface. It tries for as long as ctx allows and then returns a
// Timeout. Writers of one object in this process take turns, and make each other's changes; tryUpdate must
// not itself change an object of the kind, and can be called in another goroutine, while the caller waits.
//
// When tryUpdate sets the deletion timestamp, the object is deleted, with the propagation that its
// finalizers ask for, and nothing else of that change is kept.
func (s *crdStorage[T, P]) GuaranteedUpdate(
	ctx context.Context, key string, destination runtime.Object, ignoreNotFound bool,
	preconditions *storage.Preconditions, tryUpdate storage.UpdateFunc, cachedExistingObject runtime.Object,
) error {
	out, err := s.kind.of(destination)
	if err != nil {
		return err
	}
	p := s.place(key)
	lock, written, err := s.locks.acquire(ctx, key, newRider(func(current *T) (*T, error) {
		next, err := s.change(p, current, preconditions, tryUpdate)
		if err == nil && next != nil && next.GetDeletionTimestamp() != nil {
			return nil, nil
		}
		return next, err
	}))
	if err != nil {
		return s.timeout()
	}
	if written != nil {
		*out = *written
		return nil
	}
	defer s.locks.release(key, lock)
	return s.untilWritten(ctx, p, s.suggested(cachedExistingObject, lock), func(current P, certain bool) error {
		if current == nil {
			if !ignoreNotFound {
				return storage.NewKeyNotFoundError(key, 0)
			}
			current = new(T)
		}
		next, err := s.change(p, current, preconditions, tryUpdate)
		switch {
		case err != nil && !certain, err == nil && next == nil && !certain:
			return errUncertain
		case err != nil:
			return err
		case next == nil:
			*out = *current
			return nil
		}
		written, err := s.writeAll(ctx, p, current, next, lock)
		if err != nil {
			return overtaken(err)
		}
		*out = *written
		if s.locks.awaited(lock) {
			lock.latest = written.DeepCopy()
		}
		return nil
	})
}

// unwritten is the resource version of an object that others see before it is written: none that any
// client can have seen.
const unwritten = "18446744073709551615"

// carriedTimeout bounds a write that is made for several requests, and does not end with any of them: each
// of the others must learn what became of it.
const carriedTimeout = 15 * time.Second

// writeAll writes an object with the changes of those who wait for the lock, as far as they want to
// change what the object is to become. Each who comes later sees what those before made, as if that had
// been written. None is carried where the object is made or deleted. What is refused with the changes of
// others in it is written without them.
func (s *crdStorage[T, P]) writeAll(ctx context.Context, p place, current, next P, lock *lock[T]) (P, error) {
	if current.GetResourceVersion() == "" || next.GetDeletionTimestamp() != nil || !s.locks.awaited(lock) {
		return s.write(ctx, p, current, next)
	}
	written, err := s.writeCarrying(ctx, p, current, next, lock)
	if err == nil || storage.IsConflict(err) || apierrors.IsTimeout(err) || apierrors.IsServiceUnavailable(err) {
		return written, err
	}
	return s.write(ctx, p, current, next)
}

func (s *crdStorage[T, P]) writeCarrying(ctx context.Context, p place, current, next P, lock *lock[T]) (written P, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), carriedTimeout)
	defer cancel()
	all, settle := s.locks.carry(lock, next, func(object *T) *T {
		tentative := P(P(object).DeepCopy())
		tentative.SetResourceVersion(unwritten)
		return tentative
	})
	// Whatever happens, those who are carried must not wait for ever.
	defer func() { settle(written, func(object *T) *T { return P(object).DeepCopy() }) }()
	return s.write(ctx, p, current, all)
}

// Delete implements storage.Interface. An object that has finalizers stays until they are gone.
func (s *crdStorage[T, P]) Delete(
	ctx context.Context, key string, out runtime.Object, preconditions *storage.Preconditions,
	validateDeletion storage.ValidateObjectFunc, cachedExistingObject runtime.Object, _ storage.DeleteOptions,
) error {
	to, err := s.kind.of(out)
	if err != nil {
		return err
	}
	lock, _, err := s.locks.acquire(ctx, key, nil)
	if err != nil {
		return s.timeout()
	}
	defer s.locks.release(key, lock)
	p := s.place(key)
	return s.untilWritten(ctx, p, s.suggested(cachedExistingObject, lock), func(current P, certain bool) error {
		if current == nil {
			return storage.NewKeyNotFoundError(key, 0)
		}
		err := preconditions.Check(key, current)
		if err == nil {
			err = validateDeletion(ctx, current)
		}
		if err != nil && !certain {
			return errUncertain
		}
		if err != nil {
			return err
		}
		left, err := s.delete(ctx, p, current, metav1.DeletePropagationBackground)
		if err != nil {
			return overtaken(err)
		}
		if left == nil {
			left = current
		}
		*to = *left
		return nil
	})
}

// How an attempt ends that must be made again with the object as it is now.
var (
	errUncertain = errors.New("what was decided may follow from an outdated object")
	errOvertaken = errors.New("another writer was faster")
)

// overtaken turns the error of a write into errOvertaken if that is what it says.
func overtaken(err error) error {
	if storage.IsConflict(err) || storage.IsExist(err) || storage.IsNotFound(err) {
		return errOvertaken
	}
	return err
}

// suggested returns what the object may be now, nil if there is no telling. Nobody else has it.
func (s *crdStorage[T, P]) suggested(cached runtime.Object, lock *lock[T]) P {
	latest := P(lock.latest)
	lock.latest = nil
	if given, err := s.kind.of(cached); err == nil && latest == nil {
		return given.DeepCopy()
	}
	return latest
}

// untilWritten calls attempt with the object as it is, nil if there is none, until no other writer is
// faster. The first time it may be what was suggested, which is not certain to be so still.
func (s *crdStorage[T, P]) untilWritten(ctx context.Context, p place, suggested P, attempt func(current P, certain bool) error) error {
	current, certain := suggested, false
	for pause := minPause; ; {
		if current == nil {
			var err error
			if current, err = s.get(ctx, p, ""); err != nil && !storage.IsNotFound(err) {
				return err
			}
			certain = true
		}
		err := attempt(current, certain)
		switch {
		case errors.Is(err, errOvertaken) && certain:
			if !idle(ctx, pause) {
				return s.timeout()
			}
			pause = min(2*pause, maxPause)
		case errors.Is(err, errOvertaken), errors.Is(err, errUncertain):
		default:
			return err
		}
		current = nil
	}
}

// Pauses between attempts, in which the writers of other processes that took part in a conflict part.
const (
	minPause = 2 * time.Millisecond
	maxPause = 64 * time.Millisecond
)

// idle waits for a part of a pause, and reports whether there is time left.
func idle(ctx context.Context, pause time.Duration) bool {
	timer := time.NewTimer(rand.N(pause))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// change returns what an object is to become, nil if it is that already.
func (s *crdStorage[T, P]) change(p place, current P, preconditions *storage.Preconditions, tryUpdate storage.UpdateFunc) (P, error) {
	if err := preconditions.Check(p.key, current); err != nil {
		return nil, err
	}
	version, err := s.Versioner().ObjectResourceVersion(current)
	if err != nil {
		return nil, err
	}
	updated, _, err := tryUpdate(P(current.DeepCopy()), storage.ResponseMeta{ResourceVersion: version})
	if err != nil {
		return nil, err
	}
	next, err := s.kind.of(updated)
	if err != nil {
		return nil, err
	}
	if version == 0 {
		return next, nil
	}
	was, is := s.kind.stored(current), s.kind.stored(next)
	is.SetResourceVersion(was.GetResourceVersion())
	if apiequality.Semantic.DeepEqual(was, is) {
		return nil, nil
	}
	return next, nil
}

// write makes an object what it is to become, and returns it as it then is.
func (s *crdStorage[T, P]) write(ctx context.Context, p place, current, next P) (P, error) {
	switch {
	case current.GetResourceVersion() == "":
		return s.create(ctx, p, next)
	case current.GetDeletionTimestamp() == nil && next.GetDeletionTimestamp() != nil:
		left, err := s.delete(ctx, p, current, propagation(next))
		if left == nil {
			left = next
		}
		return left, err
	}
	record := s.kind.stored(next)
	record.SetResourceVersion(current.GetResourceVersion())
	return s.send(ctx, http.MethodPut, p, record)
}

// create makes an object. It gets its UID and its time from the backing API server.
func (s *crdStorage[T, P]) create(ctx context.Context, p place, obj P) (P, error) {
	if obj.GetResourceVersion() != "" {
		return nil, apierrors.NewBadRequest(storage.ErrResourceVersionSetOnCreate.Error())
	}
	if _, ok := s.kind.recordName(p.name); !ok {
		return nil, s.unstorable(p.name)
	}
	record := s.kind.stored(obj)
	forget(record)
	return s.send(ctx, http.MethodPost, p, record)
}

// send writes a record and returns the object that it then holds.
func (s *crdStorage[T, P]) send(ctx context.Context, verb string, p place, record P) (P, error) {
	request := s.request(verb, p).Param("fieldManager", fieldManager).Param("fieldValidation", metav1.FieldValidationIgnore)
	if verb == http.MethodPut {
		request.Name(record.GetName())
	}
	var written P = new(T)
	err := send(ctx, request, record, written)
	if missing := namespaceMissing(err); missing != nil {
		return nil, missing
	}
	if err != nil {
		return nil, s.failure(ctx, err, p)
	}
	s.kind.reveal(written)
	return written, nil
}

// namespaceMissing returns the error of a create in a namespace that is not there, which says so itself.
func namespaceMissing(err error) error {
	var status *apierrors.StatusError
	if errors.As(err, &status) && apierrors.IsNotFound(status) && status.ErrStatus.Details != nil && status.ErrStatus.Details.Kind == "namespaces" {
		return status
	}
	return nil
}

// delete asks for the deletion of an object as it is now, and returns what is left of it: nil, or the
// object with the time of its deletion.
func (s *crdStorage[T, P]) delete(ctx context.Context, p place, current P, how metav1.DeletionPropagation) (P, error) {
	options := &metav1.DeleteOptions{
		TypeMeta:          metav1.TypeMeta{APIVersion: metav1.SchemeGroupVersion.String(), Kind: "DeleteOptions"},
		Preconditions:     &metav1.Preconditions{UID: ptr.To(current.GetUID()), ResourceVersion: ptr.To(current.GetResourceVersion())},
		PropagationPolicy: &how,
	}
	var answer jsontext.Value
	if err := send(ctx, s.request(http.MethodDelete, p).Name(s.kind.toRecord(p.name)), options, &answer); err != nil {
		return nil, s.failure(ctx, err, p)
	}
	var is metav1.TypeMeta
	if err := decode(answer, &is); err != nil {
		return nil, s.failure(ctx, err, p)
	}
	if is.Kind != s.kind.record { // a Status, which says that it is gone
		return nil, nil
	}
	var left P = new(T)
	if err := decode(answer, left); err != nil {
		return nil, s.failure(ctx, err, p)
	}
	s.kind.reveal(left)
	return left, nil
}

// propagation returns how an object's finalizers ask for the deletion of what it owns.
func propagation(obj metav1.Object) metav1.DeletionPropagation {
	for _, finalizer := range obj.GetFinalizers() {
		switch finalizer {
		case metav1.FinalizerOrphanDependents:
			return metav1.DeletePropagationOrphan
		case metav1.FinalizerDeleteDependents:
			return metav1.DeletePropagationForeground
		}
	}
	return metav1.DeletePropagationBackground
}
