// Package images serves images and the views of them: imagestreamimages and imagestreams/layers.
package images

import (
	"context"
	"crypto/sha256"
	"fmt"
	"regexp"

	imagev1 "github.com/openshift/api/image/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/generic"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage/names"

	storev1 "istag.dev/store/v1"
)

// New returns images, and the registry through which all else reads and creates them.
func New(typer runtime.ObjectTyper, storage generic.RESTOptionsGetter) (*REST, *Registry, error) {
	s := strategy{ObjectTyper: typer, NameGenerator: names.SimpleNameGenerator}
	images := &genericregistry.Store{
		NewFunc:                   func() runtime.Object { return &storev1.ImageRecord{} },
		NewListFunc:               func() runtime.Object { return &storev1.ImageRecordList{} },
		DefaultQualifiedResource:  imagev1.Resource("images"),
		SingularQualifiedResource: imagev1.Resource("image"),
		CreateStrategy:            s,
		UpdateStrategy:            s,
		DeleteStrategy:            s,
		TableConvertor:            tableConvertor,
		ShouldDeleteDuringUpdate:  func(context.Context, string, runtime.Object, runtime.Object) bool { return false },
	}
	if err := images.CompleteWithOptions(&generic.StoreOptions{RESTOptions: storage}); err != nil {
		return nil, nil, err
	}
	registry := newRegistry(images)
	images.AfterUpdate = func(obj runtime.Object, _ *metav1.UpdateOptions) { registry.forget(obj.(*storev1.ImageRecord).Name) }
	images.AfterDelete = func(obj runtime.Object, _ *metav1.DeleteOptions) { registry.forget(obj.(*storev1.ImageRecord).Name) }
	return &REST{images}, registry, nil
}

// REST serves images.
type REST struct{ *genericregistry.Store }

var _ rest.StandardStorage = &REST{}

// strategy is how images are written. What an image holds follows from its digest, so that only what is
// said about it can change.
type strategy struct {
	runtime.ObjectTyper
	names.NameGenerator
}

// NamespaceScoped says that images belong to no namespace.
func (strategy) NamespaceScoped() bool { return false }

// AllowCreateOnUpdate says that a PUT of an image that is not there is a 404.
func (strategy) AllowCreateOnUpdate(context.Context) bool { return false }

// AllowUnconditionalUpdate says that a PUT must name a resource version.
func (strategy) AllowUnconditionalUpdate(context.Context) bool { return false }

// Canonicalize does nothing.
func (strategy) Canonicalize(runtime.Object) {}

// WarningsOnCreate has none.
func (strategy) WarningsOnCreate(context.Context, runtime.Object) []string { return nil }

// WarningsOnUpdate has none.
func (strategy) WarningsOnUpdate(context.Context, runtime.Object, runtime.Object) []string {
	return nil
}

// PrepareForCreate keeps the name in both places that have one.
func (strategy) PrepareForCreate(_ context.Context, obj runtime.Object) {
	record := obj.(*storev1.ImageRecord)
	record.Image.ObjectMeta = metav1.ObjectMeta{Name: record.Name}
}

// PrepareForUpdate puts back what follows from the digest.
func (strategy) PrepareForUpdate(_ context.Context, obj, old runtime.Object) {
	record, before := obj.(*storev1.ImageRecord), old.(*storev1.ImageRecord).DeepCopy()
	record.Image.ObjectMeta = before.Image.ObjectMeta
	record.Image.DockerImageMetadata = before.Image.DockerImageMetadata
	record.Image.DockerImageMetadataVersion = before.Image.DockerImageMetadataVersion
	record.Image.DockerImageLayers = before.Image.DockerImageLayers
	record.Image.DockerImageManifests = before.Image.DockerImageManifests
	record.Image.DockerImageManifestMediaType = before.Image.DockerImageManifestMediaType
	record.Image.DockerImageManifest = before.Image.DockerImageManifest
	record.Image.DockerImageConfig = before.Image.DockerImageConfig
}

var digestName = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// Validate checks a new image.
func (strategy) Validate(_ context.Context, obj runtime.Object) field.ErrorList {
	record := obj.(*storev1.ImageRecord)
	var errs field.ErrorList
	if !digestName.MatchString(record.Name) {
		errs = append(errs, field.Invalid(field.NewPath("metadata", "name"), record.Name, `must be the image's digest, "sha256:" and 64 hexadecimal digits`))
	}
	if record.Image.DockerImageReference == "" {
		errs = append(errs, field.Required(field.NewPath("dockerImageReference"), "where the image can be pulled from"))
	}
	if manifest := record.Image.DockerImageManifest; manifest != "" {
		if sum := fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(manifest))); sum != record.Name {
			errs = append(errs, field.Invalid(field.NewPath("dockerImageManifest"), sum, "the manifest's digest is not the image's name"))
		}
	}
	return errs
}

// ValidateUpdate checks a changed image.
func (s strategy) ValidateUpdate(ctx context.Context, obj, _ runtime.Object) field.ErrorList {
	return s.Validate(ctx, obj)
}
