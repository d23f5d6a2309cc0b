package imports

import (
	"context"
	"fmt"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	imagev1 "github.com/openshift/api/image/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"

	"istag.dev/apiserver/streams"
	"istag.dev/resolver/upstream"
	"istag.dev/store"
	storev1 "istag.dev/store/v1"
)

// MappingREST serves imagestreammappings, by which a registry says what was pushed to it.
type MappingREST struct {
	streams Streams
	images  Images
}

var (
	_ rest.Creater              = &MappingREST{}
	_ rest.Scoper               = &MappingREST{}
	_ rest.Storage              = &MappingREST{}
	_ rest.SingularNameProvider = &MappingREST{}
)

// NewMappings returns imagestreammappings.
func NewMappings(streams Streams, images Images) *MappingREST { return &MappingREST{streams, images} }

// New returns an empty ImageStreamMapping.
func (*MappingREST) New() runtime.Object { return &imagev1.ImageStreamMapping{} }

// Destroy has nothing to clean up.
func (*MappingREST) Destroy() {}

// NamespaceScoped says that mappings are into the streams of a namespace.
func (*MappingREST) NamespaceScoped() bool { return true }

// GetSingularName returns the name by which clients may say the resource.
func (*MappingREST) GetSingularName() string { return "imagestreammapping" }

// Create makes an image the newest event of a tag, and creates the image if there is none of its digest.
// The stream must exist.
func (r *MappingREST) Create(ctx context.Context, obj runtime.Object, createValidation rest.ValidateObjectFunc, options *metav1.CreateOptions) (runtime.Object, error) {
	given, ok := obj.(*imagev1.ImageStreamMapping)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("not an ImageStreamMapping: %T", obj))
	}
	mapping := given.DeepCopy()
	mapping.Namespace = request.NamespaceValue(ctx)
	if errs := validateMapping(mapping); len(errs) > 0 {
		return nil, apierrors.NewInvalid(kind("ImageStreamMapping"), mapping.Name, errs)
	}
	if createValidation != nil {
		if err := createValidation(ctx, mapping.DeepCopyObject()); err != nil {
			return nil, err
		}
	}
	stream, err := r.streams.Get(ctx, mapping.Name)
	if err != nil {
		return nil, err
	}
	if errs := fillReference(mapping, stream); len(errs) > 0 {
		return nil, apierrors.NewInvalid(kind("ImageStreamMapping"), mapping.Name, errs)
	}
	reference, err := r.keepImage(ctx, mapping, stream, options.DryRun)
	if err != nil {
		return nil, err
	}
	pushed := store.Import{Reference: reference, Image: mapping.Image.Name}
	before := imageOf(stream, mapping.Tag)
	_, _, err = r.streams.Update(ctx, mapping.Name, streams.UpdateOptions{DryRun: options.DryRun}, func(record *storev1.StreamRecord, c store.Change) error {
		if imageOf(record, mapping.Tag) != before {
			return apierrors.NewConflict(imagev1.Resource("imagestreams"), mapping.Name,
				fmt.Errorf("tag %q was given another image meanwhile; please try again", mapping.Tag))
		}
		store.Push(record, mapping.Tag, pushed, c)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &metav1.Status{Status: metav1.StatusSuccess}, nil
}

func validateMapping(mapping *imagev1.ImageStreamMapping) field.ErrorList {
	errs := validateStreamName(mapping.Namespace, mapping.Name)
	errs = append(errs, validateTag(mapping.Tag, field.NewPath("tag"))...)
	image := field.NewPath("image")
	name := image.Child("metadata", "name")
	if mapping.Image.Name == "" {
		errs = append(errs, field.Required(name, "must be the image's digest"))
	} else if hash, err := v1.NewHash(mapping.Image.Name); err != nil || hash.Algorithm != "sha256" {
		errs = append(errs, field.Invalid(name, mapping.Image.Name, "must be the image's digest, sha256: and 64 hexadecimal digits"))
	}
	if reference := mapping.Image.DockerImageReference; reference != "" {
		if err := upstream.Check(reference); err != nil {
			errs = append(errs, field.Invalid(image.Child("dockerImageReference"), reference, err.Error()))
		}
	}
	return errs
}

// fillReference says where the image is, if the mapping does not: in the stream's own repository.
func fillReference(mapping *imagev1.ImageStreamMapping, stream *storev1.StreamRecord) field.ErrorList {
	switch repository := stream.Status.DockerImageRepository; {
	case mapping.Image.DockerImageReference != "":
	case repository == "":
		return field.ErrorList{field.Required(field.NewPath("image", "dockerImageReference"),
			"must be the image's pull spec: the stream has no repository of its own that it could be in")}
	default:
		mapping.Image.DockerImageReference = repository + "@" + mapping.Image.Name
	}
	return nil
}

// keepImage creates the image if there is none of its digest, and returns the pull spec by which the
// stream knows it. One that a registry of the cluster manages is in the stream's own repository too.
func (r *MappingREST) keepImage(ctx context.Context, mapping *imagev1.ImageStreamMapping, stream *storev1.StreamRecord, dryRun []string) (string, error) {
	reference := mapping.Image.DockerImageReference
	known, err := r.images.Image(ctx, mapping.Image.Name)
	switch repository := stream.Status.DockerImageRepository; {
	case apierrors.IsNotFound(err) && len(dryRun) > 0:
		return reference, nil
	case apierrors.IsNotFound(err):
		return reference, r.images.Create(ctx, &mapping.Image)
	case err == nil && repository != "" && known.Annotations[imagev1.ManagedByOpenShiftAnnotation] == "true":
		return repository + "@" + mapping.Image.Name, nil
	default:
		return reference, err
	}
}
