// Package streams serves imagestreams, and is how every other resource reads and changes them.
package streams

import (
	"context"

	imagev1 "github.com/openshift/api/image/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/request"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"

	"istag.dev/store"
	storev1 "istag.dev/store/v1"
)

// Registry reads and changes streams on behalf of the resources that are views of them.
//
// A record's metadata.name is here the stream's own name, its metadata.generation the stream's own
// generation and its metadata.managedFields those of the stream. The namespace is that of the
// context's request. Errors are StatusErrors about resource "imagestreams", to be returned bare.
type Registry struct {
	streams    *genericregistry.Store
	authorizer authorizer.UnconditionalAuthorizer
}

// Get returns a stream as it is now.
func (r *Registry) Get(ctx context.Context, name string) (*storev1.StreamRecord, error) {
	obj, err := r.streams.Get(asStreams(ctx), name, &metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	return obj.(*storev1.StreamRecord), nil
}

// GetAt returns a stream as it was at a resource version; 410 Gone (Expired) if that is too long ago,
// 404 if it did not exist then.
func (r *Registry) GetAt(ctx context.Context, name, resourceVersion string) (*storev1.StreamRecord, error) {
	list, err := r.List(ctx, &metainternalversion.ListOptions{
		ResourceVersion:      resourceVersion,
		ResourceVersionMatch: metav1.ResourceVersionMatchExact,
		FieldSelector:        fields.OneTermEqualSelector("metadata.name", name),
	})
	if err != nil {
		return nil, err
	}
	if len(list.Items) == 0 {
		return nil, apierrors.NewNotFound(imagev1.Resource("imagestreams"), name)
	}
	return &list.Items[0], nil
}

// List returns streams. Every option has the meaning that it has for a list of imagestreams: the
// resource version with its match, limit and continue, label selector, and the field selectors
// metadata.name, metadata.namespace, spec.dockerImageRepository and status.dockerImageRepository.
func (r *Registry) List(ctx context.Context, options *metainternalversion.ListOptions) (*storev1.StreamRecordList, error) {
	obj, err := r.streams.List(asStreams(ctx), options)
	if err != nil {
		return nil, err
	}
	return obj.(*storev1.StreamRecordList), nil
}

// Watch watches streams, with the options of List; bookmarks and initial events are those of the
// records. Events carry *storev1.StreamRecord, or *metav1.Status for watch.Error.
func (r *Registry) Watch(ctx context.Context, options *metainternalversion.ListOptions) (watch.Interface, error) {
	return r.streams.Watch(asStreams(ctx), options)
}

// UpdateOptions say how Update goes about it.
type UpdateOptions struct {
	// Create makes the stream if there is none: the change gets an empty record with a name.
	Create bool
	// DryRun and FieldManager are as in the request's own options.
	DryRun       []string
	FieldManager string
	// UID and ResourceVersion, if not empty, must be the stream's: else a conflict.
	UID             types.UID
	ResourceVersion string
}

// Update changes a stream, trying again for as long as others change it meanwhile, and returns the
// stream as stored and whether it was created. change gets the stream as it is now and may be called
// more than once; an error of its is returned bare and nothing is written. A change that leaves the
// record as it was writes nothing. The result is validated like any other stream (422 on failure).
func (r *Registry) Update(ctx context.Context, name string, options UpdateOptions, change func(record *storev1.StreamRecord, c store.Change) error) (*storev1.StreamRecord, bool, error) {
	info := &changeInfo{
		name:    name,
		options: options,
		change:  func(record *storev1.StreamRecord) error { return change(record, r.changeOf(ctx)) },
	}
	obj, created, err := r.streams.Update(asStreams(ctx), name, info, nil, nil, options.Create,
		&metav1.UpdateOptions{DryRun: options.DryRun, FieldManager: options.FieldManager})
	if err != nil {
		return nil, false, err
	}
	return obj.(*storev1.StreamRecord), created, nil
}

// changeInfo is a change of a stream as the generic store wants it.
type changeInfo struct {
	name    string
	options UpdateOptions
	change  func(*storev1.StreamRecord) error
}

// Preconditions are those of the options.
func (i *changeInfo) Preconditions() *metav1.Preconditions {
	var p metav1.Preconditions
	if i.options.UID != "" {
		p.UID = &i.options.UID
	}
	if i.options.ResourceVersion != "" {
		p.ResourceVersion = &i.options.ResourceVersion
	}
	return &p
}

// UpdatedObject applies the change to the stream as it is now.
func (i *changeInfo) UpdatedObject(ctx context.Context, old runtime.Object) (runtime.Object, error) {
	record := old.(*storev1.StreamRecord).DeepCopy()
	if record.Name == "" {
		record.Name, record.Namespace = i.name, request.NamespaceValue(ctx)
	}
	if err := i.change(record); err != nil {
		return nil, err
	}
	return record, nil
}

// asStreams lets errors speak of imagestreams, whatever resource the request is for: pod admission in
// OpenShift tells a missing stream from a missing tag by that.
func asStreams(ctx context.Context) context.Context {
	info := request.RequestInfo{IsResourceRequest: true}
	if asked, ok := request.RequestInfoFrom(ctx); ok {
		info = *asked
	}
	info.APIGroup, info.APIVersion = imagev1.GroupVersion.Group, imagev1.GroupVersion.Version
	info.Resource, info.Subresource = "imagestreams", ""
	return request.WithRequestInfo(ctx, &info)
}
