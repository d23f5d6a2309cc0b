package tags

import (
	"context"
	"fmt"
	"slices"

	imagev1 "github.com/openshift/api/image/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"

	"istag.dev/apiserver/streams"
	"istag.dev/store"
	storev1 "istag.dev/store/v1"
)

// Create puts a tag into a stream's spec, and makes the stream if there is none. A tag that has only
// been pushed so far has no place in spec yet and is no obstacle.
func (r *resource[T]) Create(ctx context.Context, obj runtime.Object, validate rest.ValidateObjectFunc, options *metav1.CreateOptions) (runtime.Object, error) {
	sent, ok := obj.DeepCopyObject().(T)
	if !ok {
		return nil, r.wrongType(obj)
	}
	name := sent.GetName()
	stream, tag, ok := splitName(name)
	if !ok {
		return nil, invalid(r.names, name, field.Invalid(field.NewPath("metadata", "name"), name, "must be of the form <stream>:<tag>"))
	}
	ref, err := r.kind.create(sent, tag)
	if err != nil {
		return nil, err
	}
	if validate != nil {
		if err := validate(ctx, sent.DeepCopyObject()); err != nil {
			return nil, err
		}
	}
	how := streams.UpdateOptions{Create: true}
	if options != nil {
		how.DryRun, how.FieldManager = options.DryRun, options.FieldManager
	}
	record, _, err := r.streams.Update(ctx, stream, how, func(record *storev1.StreamRecord, c store.Change) error {
		if store.SpecTag(&record.Spec, tag) != nil {
			return apierrors.NewAlreadyExists(imagev1.Resource(r.names.taken), name)
		}
		return setTag(record, tag, ref, c)
	})
	if err != nil {
		return nil, asTags(err, r.names, name, tag)
	}
	return r.written(ctx, record, tag), nil
}

// Update replaces a tag, or patches one, and reports whether it was new. A PUT makes what is missing,
// the stream included; a patch needs a tag that GET finds, unless it is an apply.
//
// Without a resource version it is unconditional. With one it goes by this tag alone: what others did to
// the stream's other tags since is no conflict.
func (r *resource[T]) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, create rest.ValidateObjectFunc, update rest.ValidateObjectUpdateFunc, forceCreate bool, options *metav1.UpdateOptions) (runtime.Object, bool, error) {
	stream, tag, err := r.split(name)
	if err != nil {
		return nil, false, err
	}
	u := updating[T]{
		resource: r, name: name, tag: tag, info: info, create: create, update: update,
		patch: isPatch(ctx), mayCreate: forceCreate || !isPatch(ctx),
	}
	how := streams.UpdateOptions{Create: u.mayCreate}
	if options != nil {
		how.DryRun, how.FieldManager = options.DryRun, options.FieldManager
	}
	record, _, err := r.streams.Update(ctx, stream, how, func(record *storev1.StreamRecord, c store.Change) error {
		return u.change(ctx, record, c)
	})
	if err != nil {
		return nil, false, asTags(err, r.names, name, tag)
	}
	return r.written(ctx, record, tag), u.created, nil
}

// updating is one call of Update.
type updating[T object] struct {
	*resource[T]
	name, tag string
	info      rest.UpdatedObjectInfo
	create    rest.ValidateObjectFunc
	update    rest.ValidateObjectUpdateFunc
	patch     bool
	mayCreate bool
	created   bool
}

// change makes of the stream as it is now what the request wants. It is called again for as long as
// others change the stream meanwhile, so that a patch always is one of the newest tag.
func (u *updating[T]) change(ctx context.Context, record *storev1.StreamRecord, c store.Change) error {
	absent := record.UID == ""
	if u.patch {
		absent = absent || !u.kind.shown(record, u.tag)
	}
	if absent && !u.mayCreate {
		return u.names.notFound(u.name)
	}
	old := u.kind.empty() // An object without a UID tells the handlers that this is a creation.
	if !absent {
		old = u.kind.view(record, u.tag)
	}
	updated, err := u.info.UpdatedObject(ctx, old.DeepCopyObject())
	if err != nil {
		return err
	}
	obj, ok := updated.(T)
	if !ok {
		return u.wrongType(updated)
	}
	seen, err := u.seen(ctx, record, u.tag, u.name, obj.GetUID(), obj.GetResourceVersion())
	if err != nil {
		return err
	}
	var ref *imagev1.TagReference
	if absent {
		ref, err = u.creation(ctx, obj)
	} else {
		ref, err = u.replacement(ctx, obj, seen, old)
	}
	if err != nil {
		return err
	}
	u.created = ref != nil && store.SpecTag(&record.Spec, u.tag) == nil
	return setTag(record, u.tag, ref, c)
}

func (u *updating[T]) creation(ctx context.Context, obj T) (*imagev1.TagReference, error) {
	ref, err := u.kind.create(obj, u.tag)
	if err != nil {
		return nil, err
	}
	if ref == nil {
		return nil, notSpecTag(obj, u.tag)
	}
	if u.create != nil {
		err = u.create(ctx, obj.DeepCopyObject())
	}
	return ref, err
}

func (u *updating[T]) replacement(ctx context.Context, obj, seen, old T) (*imagev1.TagReference, error) {
	ref, err := u.kind.update(obj, seen, old, u.tag)
	if err == nil && u.update != nil {
		err = u.update(ctx, obj.DeepCopyObject(), old.DeepCopyObject())
	}
	return ref, err
}

// seen returns the tag that a client saw when it decided on a change: as it was at the resource version
// that it sends, or as it is now if it sends none. The error is a conflict if it means another object or
// the tag has changed since.
func (r *resource[T]) seen(ctx context.Context, record *storev1.StreamRecord, tag, name string, uid types.UID, resourceVersion string) (seen T, err error) {
	now := r.kind.view(record, tag)
	if resourceVersion != "" && record.ResourceVersion == "" {
		return seen, r.names.notFound(name)
	}
	if uid != "" && !isUID(record, tag, uid) {
		return seen, r.names.conflict(name, "the UID sent, %s, is not that of this tag, whose stream was deleted since; read it again", uid)
	}
	if resourceVersion == "" || resourceVersion == record.ResourceVersion {
		return now, nil
	}
	then, err := r.streams.GetAt(ctx, record.Name, resourceVersion)
	switch {
	case apierrors.IsNotFound(err):
		then = &storev1.StreamRecord{}
	case apierrors.IsResourceExpired(err), apierrors.IsGone(err), apierrors.HasStatusCause(err, metav1.CauseTypeResourceVersionTooLarge):
		return seen, r.names.conflict(name, "the tag as it was at resource version %s is no longer known; read it again and apply your changes to what it is now", resourceVersion)
	case err != nil:
		return seen, err
	}
	seen = r.kind.view(then, tag)
	if then.UID != record.UID || !equality.Semantic.DeepEqual(r.kind.own(seen), r.kind.own(now)) {
		return seen, r.names.conflict(name, "the tag has been changed since resource version %s; read it again and apply your changes to what it is now", resourceVersion)
	}
	return seen, nil
}

// setTag makes ref what the spec says of a tag, nothing if it is nil, and lets the rules follow.
func setTag(record *storev1.StreamRecord, tag string, ref *imagev1.TagReference, c store.Change) error {
	old := specBefore(record)
	record.Spec.Tags = slices.DeleteFunc(record.Spec.Tags, func(t imagev1.TagReference) bool { return t.Name == tag })
	if ref != nil {
		record.Spec.Tags = append(record.Spec.Tags, *ref.DeepCopy())
	}
	return accept(record, old, c)
}

// specBefore returns what the rules compare a changed spec with: nil for a stream that is being made.
func specBefore(record *storev1.StreamRecord) *imagev1.ImageStreamSpec {
	if record.UID == "" {
		return nil
	}
	return record.Spec.DeepCopy()
}

func accept(record *storev1.StreamRecord, old *imagev1.ImageStreamSpec, c store.Change) error {
	errs, err := store.Accept(record, old, c)
	if err != nil {
		return err
	}
	if len(errs) > 0 {
		return apierrors.NewInvalid(streamKind, record.Name, errs)
	}
	return nil
}

// written answers a write with what came of it. The write has happened, so an image that cannot be read,
// or is not there yet, does not make it a failure.
func (r *resource[T]) written(ctx context.Context, record *storev1.StreamRecord, tag string) T {
	obj, _ := r.withImage(ctx, record, tag)
	return obj
}

// Delete takes a tag out of its stream's spec and status, whether it ever had an image or not. The image stays.
func (r *resource[T]) Delete(ctx context.Context, name string, validate rest.ValidateObjectFunc, options *metav1.DeleteOptions) (runtime.Object, bool, error) {
	stream, tag, err := r.split(name)
	if err != nil {
		return nil, false, err
	}
	how := streams.UpdateOptions{}
	var uid types.UID
	var resourceVersion string
	if options != nil {
		how.DryRun = options.DryRun
		uid, resourceVersion = preconditions(options.Preconditions)
	}
	_, _, err = r.streams.Update(ctx, stream, how, func(record *storev1.StreamRecord, c store.Change) error {
		if _, err := r.seen(ctx, record, tag, name, uid, resourceVersion); err != nil {
			return err
		}
		obj, old := r.kind.view(record, tag).DeepCopyObject(), specBefore(record)
		if !store.RemoveTag(record, tag) {
			return r.names.notFound(name)
		}
		if validate != nil {
			if err := validate(ctx, obj); err != nil {
				return err
			}
		}
		return accept(record, old, c)
	})
	if err != nil {
		return nil, false, asTags(err, r.names, name, tag)
	}
	return &metav1.Status{Status: metav1.StatusSuccess}, true, nil
}

func preconditions(p *metav1.Preconditions) (uid types.UID, resourceVersion string) {
	if p == nil {
		return "", ""
	}
	if p.UID != nil {
		uid = *p.UID
	}
	if p.ResourceVersion != nil {
		resourceVersion = *p.ResourceVersion
	}
	return uid, resourceVersion
}

// isPatch tells a patch from a PUT, which for the storage are one.
func isPatch(ctx context.Context) bool {
	info, ok := request.RequestInfoFrom(ctx)
	return ok && info.Verb == "patch"
}

func (r *resource[T]) wrongType(obj runtime.Object) error {
	return apierrors.NewBadRequest(fmt.Sprintf("expected an object of kind %s, got %T", r.names.kind, obj))
}
