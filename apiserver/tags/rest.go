// Package tags serves imagestreamtags and imagetags: the tags of streams, each as an object of its own.
// They are views. What they show is computed from the records of streams, and what is written through
// them changes those.
package tags

import (
	"context"
	"fmt"

	imagev1 "github.com/openshift/api/image/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/registry/rest"

	"istag.dev/apiserver/streams"
	"istag.dev/apiserver/table"
	"istag.dev/store"
	storev1 "istag.dev/store/v1"
)

// Streams reads and changes the streams that tags belong to. *streams.Registry does, and says how.
type Streams interface {
	Get(ctx context.Context, name string) (*storev1.StreamRecord, error)
	GetAt(ctx context.Context, name, resourceVersion string) (*storev1.StreamRecord, error)
	List(ctx context.Context, options *metainternalversion.ListOptions) (*storev1.StreamRecordList, error)
	Watch(ctx context.Context, options *metainternalversion.ListOptions) (watch.Interface, error)
	Update(ctx context.Context, name string, options streams.UpdateOptions, change func(*storev1.StreamRecord, store.Change) error) (*storev1.StreamRecord, bool, error)
}

// Images reads images.
type Images interface {
	// Image returns an image by its digest, without manifest and configuration; the error is a 404 on
	// resource "images" if there is none. What pointers in it lead to is not changed.
	Image(ctx context.Context, digest string) (*imagev1.Image, error)
}

// ImageStreamTags serves imagestreamtags: every tag that means an image, with that image. Tags that are
// still to be imported and tags that are only references are not found, as in OpenShift, but can be
// replaced and deleted.
type ImageStreamTags struct {
	resource[*imagev1.ImageStreamTag]
}

// NewImageStreamTags returns imagestreamtags.
func NewImageStreamTags(streams Streams, images Images) *ImageStreamTags {
	k := istag{}
	return &ImageStreamTags{resource[*imagev1.ImageStreamTag]{
		TableConvertor: table.New(istagColumns, k.cells), kind: k, names: k.names(), streams: streams, images: images,
	}}
}

// ImageTags serves imagetags: every tag that a stream has in spec or in status.
type ImageTags struct {
	resource[*imagev1.ImageTag]
}

// NewImageTags returns imagetags.
func NewImageTags(streams Streams, images Images) *ImageTags {
	k := itag{}
	return &ImageTags{resource[*imagev1.ImageTag]{
		TableConvertor: table.New(itagColumns, k.cells), kind: k, names: k.names(), streams: streams, images: images,
	}}
}

// storage is what both resources offer. Deletion of a collection is not part of it, as in OpenShift:
// deleting the streams is that.
type storage interface {
	rest.Getter
	rest.Lister
	rest.Watcher
	rest.CreaterUpdater
	rest.GracefulDeleter
	rest.Scoper
	rest.SingularNameProvider
	rest.ShortNamesProvider
	rest.Storage
}

var (
	_ storage = (*ImageStreamTags)(nil)
	_ storage = (*ImageTags)(nil)
)

// resource is what the two resources have in common.
type resource[T object] struct {
	rest.TableConvertor
	kind    kind[T]
	names   names
	streams Streams
	images  Images
}

// New returns an empty object.
func (r *resource[T]) New() runtime.Object { return r.kind.empty() }

// NewList returns an empty list.
func (r *resource[T]) NewList() runtime.Object { return r.kind.list(metav1.ListMeta{}, nil) }

// Destroy does nothing: nothing is kept.
func (r *resource[T]) Destroy() {}

// NamespaceScoped says that tags live where their stream does.
func (r *resource[T]) NamespaceScoped() bool { return true }

// GetSingularName returns the name of one.
func (r *resource[T]) GetSingularName() string { return r.names.singular }

// ShortNames returns what users type.
func (r *resource[T]) ShortNames() []string { return []string{r.names.short} }

// Get returns a tag by its name, "stream:tag", with its image. A missing stream is a 404 on
// imagestreams and a missing tag one on this resource: clients of OpenShift tell them apart by that.
func (r *resource[T]) Get(ctx context.Context, name string, _ *metav1.GetOptions) (runtime.Object, error) {
	stream, tag, err := r.split(name)
	if err != nil {
		return nil, err
	}
	record, err := r.streams.Get(ctx, stream)
	if err != nil {
		return nil, err
	}
	if !r.kind.shown(record, tag) {
		return nil, r.names.notFound(name)
	}
	obj, err := r.withImage(ctx, record, tag)
	if err != nil && (r.kind.needsImage() || !apierrors.IsNotFound(err)) {
		return nil, err
	}
	return obj, nil
}

// withImage returns the view of a tag with its image. If that cannot be had the view is returned beside the error.
func (r *resource[T]) withImage(ctx context.Context, record *storev1.StreamRecord, tag string) (T, error) {
	obj := r.kind.view(record, tag)
	event := store.Latest(&record.Status, tag)
	if event == nil || event.Image == "" {
		return obj, nil
	}
	image, err := r.images.Image(ctx, event.Image)
	if err != nil {
		return obj, err
	}
	r.kind.fill(obj, record, tag, image)
	return obj, nil
}

// split takes the name of a request apart.
func (r *resource[T]) split(name string) (stream, tag string, err error) {
	stream, tag, ok := splitName(name)
	if !ok {
		return "", "", apierrors.NewBadRequest(fmt.Sprintf("%ss must be retrieved with <name>:<tag>", r.names.kind))
	}
	return stream, tag, nil
}
