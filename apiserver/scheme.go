package apiserver

import (
	"errors"
	"strings"

	imagev1 "github.com/openshift/api/image/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/conversion"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"istag.dev/apiserver/images"
	"istag.dev/apiserver/streams"
	storev1 "istag.dev/store/v1"
)

// newScheme returns the types that the server decodes, converts and encodes. Inside it a stream is its
// record, so that what clients never see goes with it; every other kind is inside as it is outside.
//
// The scheme is the API's alone: clients of the records have another, since the same Go types are other
// kinds there.
func newScheme() (*runtime.Scheme, error) {
	scheme, err := newWireScheme()
	if err != nil {
		return nil, err
	}
	internal := schema.GroupVersion{Group: imagev1.GroupName, Version: runtime.APIVersionInternal}
	scheme.AddKnownTypeWithName(internal.WithKind("ImageStream"), &storev1.StreamRecord{})
	scheme.AddKnownTypeWithName(internal.WithKind("ImageStreamList"), &storev1.StreamRecordList{})
	scheme.AddKnownTypeWithName(internal.WithKind("Image"), &storev1.ImageRecord{})
	scheme.AddKnownTypeWithName(internal.WithKind("ImageList"), &storev1.ImageRecordList{})
	scheme.AddKnownTypes(internal,
		&imagev1.ImageStreamMapping{},
		&imagev1.ImageStreamTag{}, &imagev1.ImageStreamTagList{},
		&imagev1.ImageTag{}, &imagev1.ImageTagList{},
		&imagev1.ImageStreamImage{},
		&imagev1.ImageStreamLayers{},
		&imagev1.ImageStreamImport{},
		&imagev1.SecretList{},
	)
	addDefaults(scheme)
	return scheme, errors.Join(
		addConversions(scheme),
		streams.AddFieldLabels(scheme),
		addTagFieldLabels(scheme),
	)
}

// newWireScheme returns the types as clients see them.
func newWireScheme() (*runtime.Scheme, error) {
	scheme := runtime.NewScheme()
	if err := imagev1.Install(scheme); err != nil {
		return nil, err
	}
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
	// Install also brings the versions of image metadata, which are never served.
	return scheme, scheme.SetVersionPriority(imagev1.GroupVersion)
}

// addConversions makes records the internal versions of what they keep.
func addConversions(scheme *runtime.Scheme) error {
	return errors.Join(
		addConversion(scheme, func(in *storev1.StreamRecord, out *imagev1.ImageStream) { *out = *streams.ToAPI(in) }),
		addConversion(scheme, func(in *imagev1.ImageStream, out *storev1.StreamRecord) { *out = *streams.FromAPI(in) }),
		addConversion(scheme, func(in *storev1.StreamRecordList, out *imagev1.ImageStreamList) {
			out.ListMeta, out.Items = in.ListMeta, convertAll(in.Items, streams.ToAPI)
		}),
		addConversion(scheme, func(in *imagev1.ImageStreamList, out *storev1.StreamRecordList) {
			out.ListMeta, out.Items = in.ListMeta, convertAll(in.Items, streams.FromAPI)
		}),
		addConversion(scheme, func(in *storev1.ImageRecord, out *imagev1.Image) { *out = *images.ToAPI(in) }),
		addConversion(scheme, func(in *imagev1.Image, out *storev1.ImageRecord) { *out = *images.FromAPI(in) }),
		addConversion(scheme, func(in *storev1.ImageRecordList, out *imagev1.ImageList) {
			out.ListMeta, out.Items = in.ListMeta, convertAll(in.Items, images.ToAPI)
		}),
		addConversion(scheme, func(in *imagev1.ImageList, out *storev1.ImageRecordList) {
			out.ListMeta, out.Items = in.ListMeta, convertAll(in.Items, images.FromAPI)
		}),
	)
}

func addConversion[In, Out any](scheme *runtime.Scheme, convert func(in *In, out *Out)) error {
	return scheme.AddConversionFunc((*In)(nil), (*Out)(nil), func(in, out any, _ conversion.Scope) error {
		convert(in.(*In), out.(*Out))
		return nil
	})
}

func convertAll[In, Out any](in []In, convert func(*In) *Out) []Out {
	out := make([]Out, 0, len(in))
	for i := range in {
		out = append(out, *convert(&in[i]))
	}
	return out
}

// addTagFieldLabels makes the fields by which tags can be selected known: as everywhere, name and namespace.
func addTagFieldLabels(scheme *runtime.Scheme) error {
	var errs []error
	for _, kind := range []string{"ImageStreamTag", "ImageTag"} {
		errs = append(errs, scheme.AddFieldLabelConversionFunc(imagev1.GroupVersion.WithKind(kind), runtime.DefaultMetaV1FieldSelectorConversion))
	}
	return errors.Join(errs...)
}

// addDefaults gives decoded objects OpenShift's defaults, for which the empty string is unset: its own
// client sends that.
func addDefaults(scheme *runtime.Scheme) {
	scheme.AddTypeDefaultingFunc(&imagev1.ImageStream{}, func(obj any) { defaultTags(obj.(*imagev1.ImageStream).Spec.Tags) })
	scheme.AddTypeDefaultingFunc(&imagev1.ImageStreamTag{}, func(obj any) {
		if tag := obj.(*imagev1.ImageStreamTag).Tag; tag != nil {
			defaultTag(&tag.ReferencePolicy, &tag.ImportPolicy)
		}
	})
	scheme.AddTypeDefaultingFunc(&imagev1.ImageTag{}, func(obj any) {
		if tag := obj.(*imagev1.ImageTag).Spec; tag != nil {
			defaultTag(&tag.ReferencePolicy, &tag.ImportPolicy)
		}
	})
	scheme.AddTypeDefaultingFunc(&imagev1.ImageStreamImport{}, func(obj any) {
		spec := &obj.(*imagev1.ImageStreamImport).Spec
		if spec.Repository != nil {
			defaultTag(&spec.Repository.ReferencePolicy, &spec.Repository.ImportPolicy)
		}
		for i := range spec.Images {
			defaultTag(&spec.Images[i].ReferencePolicy, &spec.Images[i].ImportPolicy)
		}
	})
}

func defaultTags(tags []imagev1.TagReference) {
	for i := range tags {
		defaultTag(&tags[i].ReferencePolicy, &tags[i].ImportPolicy)
	}
}

func defaultTag(reference *imagev1.TagReferencePolicy, policy *imagev1.TagImportPolicy) {
	if reference.Type == "" {
		reference.Type = imagev1.SourceTagReferencePolicy
	}
	if policy.ImportMode == "" {
		policy.ImportMode = imagev1.ImportModeLegacy
	}
}

// definitionNames returns how the published schema names a Go type. The types of OpenShift have no name of
// their own yet, and the one taken from their package's path would not be found among the scheme's: then
// no schema says of which kind it is, and server-side apply refuses them all.
func definitionNames(inner func(string) (string, spec.Extensions)) func(string) (string, spec.Extensions) {
	return func(name string) (string, spec.Extensions) {
		if host, path, ok := strings.Cut(name, "/"); ok {
			labels := strings.Split(host, ".")
			for i, j := 0, len(labels)-1; i < j; i, j = i+1, j-1 {
				labels[i], labels[j] = labels[j], labels[i]
			}
			name = strings.Join(labels, ".") + "." + strings.ReplaceAll(path, "/", ".")
		}
		return inner(name)
	}
}
