package streams

import (
	"context"

	imagev1 "github.com/openshift/api/image/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/registry/generic"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage/names"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"istag.dev/store"
	storev1 "istag.dev/store/v1"
)

// Options of New.
type Options struct {
	// Typer knows StreamRecord as the internal version of ImageStream.
	Typer runtime.ObjectTyper
	// Storage keeps the records.
	Storage generic.RESTOptionsGetter
	// Authorizer says who may use the streams of another namespace.
	Authorizer authorizer.UnconditionalAuthorizer
	// Admit says from where images may be imported.
	Admit store.Admit
}

// New returns imagestreams, their status, and the registry through which all else reads and changes them.
func New(o Options) (*REST, *StatusREST, *Registry, error) {
	registry := &Registry{authorizer: o.Authorizer}
	common := strategy{ObjectTyper: o.Typer, NameGenerator: names.SimpleNameGenerator, admit: o.Admit, change: registry.changeOf}
	spec, status, view := specStrategy{common}, statusStrategy{common}, viewStrategy{common}
	streams := &genericregistry.Store{
		NewFunc:                   func() runtime.Object { return &storev1.StreamRecord{} },
		NewListFunc:               func() runtime.Object { return &storev1.StreamRecordList{} },
		DefaultQualifiedResource:  imagev1.Resource("imagestreams"),
		SingularQualifiedResource: imagev1.Resource("imagestream"),
		CreateStrategy:            spec,
		UpdateStrategy:            spec,
		DeleteStrategy:            spec,
		ResetFieldsStrategy:       spec,
		TableConvertor:            tableConvertor,
		// Who removes the last finalizer removes the object: the API server that keeps the record.
		ShouldDeleteDuringUpdate: func(context.Context, string, runtime.Object, runtime.Object) bool { return false },
	}
	if err := streams.CompleteWithOptions(&generic.StoreOptions{RESTOptions: o.Storage, AttrFunc: attributes}); err != nil {
		return nil, nil, nil, err
	}
	statuses, views := *streams, *streams
	statuses.UpdateStrategy, statuses.ResetFieldsStrategy = status, status
	views.CreateStrategy, views.UpdateStrategy = view, view
	registry.streams = &views
	return &REST{streams}, &StatusREST{&statuses}, registry, nil
}

// REST serves imagestreams.
type REST struct{ *genericregistry.Store }

var (
	_ rest.StandardStorage    = &REST{}
	_ rest.ShortNamesProvider = &REST{}
	_ rest.CategoriesProvider = &REST{}
)

// ShortNames are those of OpenShift.
func (*REST) ShortNames() []string { return []string{"is"} }

// Categories are those of OpenShift.
func (*REST) Categories() []string { return []string{"all"} }

// Create makes a stream.
func (r *REST) Create(ctx context.Context, obj runtime.Object, validate rest.ValidateObjectFunc, options *metav1.CreateOptions) (runtime.Object, error) {
	ctx, failure := withFailure(ctx)
	created, err := r.Store.Create(ctx, obj, validate, options)
	if f := failure(); f != nil && err != nil {
		return nil, f
	}
	return created, err
}

// Update changes a stream.
func (r *REST) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, create rest.ValidateObjectFunc, update rest.ValidateObjectUpdateFunc, forceCreate bool, options *metav1.UpdateOptions) (runtime.Object, bool, error) {
	ctx, failure := withFailure(ctx)
	updated, created, err := r.Store.Update(ctx, name, info, create, update, forceCreate, options)
	if f := failure(); f != nil && err != nil {
		return nil, false, f
	}
	return updated, created, err
}

// StatusREST serves imagestreams/status.
type StatusREST struct{ streams *genericregistry.Store }

var (
	_ rest.Getter              = &StatusREST{}
	_ rest.Updater             = &StatusREST{}
	_ rest.ResetFieldsStrategy = &StatusREST{}
	_ rest.TableConvertor      = &StatusREST{}
)

// New returns an empty stream.
func (r *StatusREST) New() runtime.Object { return &storev1.StreamRecord{} }

// Destroy does nothing: what there is to destroy belongs to REST.
func (r *StatusREST) Destroy() {}

// Get returns a stream.
func (r *StatusREST) Get(ctx context.Context, name string, options *metav1.GetOptions) (runtime.Object, error) {
	return r.streams.Get(ctx, name, options)
}

// Update changes the status of a stream, which must exist.
func (r *StatusREST) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, create rest.ValidateObjectFunc, update rest.ValidateObjectUpdateFunc, _ bool, options *metav1.UpdateOptions) (runtime.Object, bool, error) {
	return r.streams.Update(ctx, name, info, create, update, false, options)
}

// GetResetFields names what a write of the status cannot set.
func (r *StatusREST) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return r.streams.GetResetFields()
}

// ConvertToTable shows the stream.
func (r *StatusREST) ConvertToTable(ctx context.Context, obj, options runtime.Object) (*metav1.Table, error) {
	return r.streams.ConvertToTable(ctx, obj, options)
}
