package streams

import (
	"context"
	"fmt"

	imagev1 "github.com/openshift/api/image/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage/names"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"istag.dev/store"
	storev1 "istag.dev/store/v1"
)

// strategy is what all ways of writing a stream have in common.
type strategy struct {
	runtime.ObjectTyper
	names.NameGenerator

	admit  store.Admit
	change func(ctx context.Context) store.Change
}

var _ rest.RESTDeleteStrategy = strategy{}

// NamespaceScoped says that streams live in namespaces.
func (strategy) NamespaceScoped() bool { return true }

// AllowCreateOnUpdate says that a PUT of a stream that is not there is a 404, as in OpenShift.
func (strategy) AllowCreateOnUpdate(context.Context) bool { return false }

// AllowUnconditionalUpdate says that a PUT must name a resource version, as in OpenShift.
func (strategy) AllowUnconditionalUpdate(context.Context) bool { return false }

// Canonicalize does nothing: the history rules leave one form.
func (strategy) Canonicalize(runtime.Object) {}

// WarningsOnCreate has none.
func (strategy) WarningsOnCreate(context.Context, runtime.Object) []string { return nil }

// WarningsOnUpdate has none.
func (strategy) WarningsOnUpdate(context.Context, runtime.Object, runtime.Object) []string {
	return nil
}

// specStrategy is for users who write a stream: its spec counts, its status is the server's.
type specStrategy struct{ strategy }

// PrepareForCreate drops what users do not set.
func (specStrategy) PrepareForCreate(_ context.Context, obj runtime.Object) {
	record := obj.(*storev1.StreamRecord)
	record.Status, record.Record = imagev1.ImageStreamStatus{}, storev1.StreamEnvelope{}
}

// PrepareForUpdate puts back what users do not set.
func (specStrategy) PrepareForUpdate(_ context.Context, obj, old runtime.Object) {
	record, before := obj.(*storev1.StreamRecord), old.(*storev1.StreamRecord).DeepCopy()
	record.Status, record.Record = before.Status, before.Record
}

// Validate applies the history rules to a new stream and checks what comes of it. As in OpenShift the
// rules are applied here, because what they find wrong is an error of the user's.
func (s specStrategy) Validate(ctx context.Context, obj runtime.Object) field.ErrorList {
	record := obj.(*storev1.StreamRecord)
	return append(s.accept(ctx, record, nil), store.Validate(record, nil, s.admit)...)
}

// ValidateUpdate applies the history rules to a changed stream and checks what comes of it.
func (s specStrategy) ValidateUpdate(ctx context.Context, obj, old runtime.Object) field.ErrorList {
	record, before := obj.(*storev1.StreamRecord), old.(*storev1.StreamRecord)
	return append(s.accept(ctx, record, &before.Spec), store.Validate(record, before, s.admit)...)
}

func (s specStrategy) accept(ctx context.Context, record *storev1.StreamRecord, old *imagev1.ImageStreamSpec) field.ErrorList {
	errs, err := store.Accept(record, old, s.change(ctx))
	if err != nil {
		reportFailure(ctx, err)
		return field.ErrorList{field.InternalError(field.NewPath("spec"), err)}
	}
	return errs
}

// GetResetFields names what a write of the stream itself cannot set.
func (specStrategy) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return resetFields("status")
}

// statusStrategy is for registries and pruners, who write a stream's status.
type statusStrategy struct{ strategy }

// PrepareForUpdate puts back all but the status.
func (s statusStrategy) PrepareForUpdate(ctx context.Context, obj, old runtime.Object) {
	record, before := obj.(*storev1.StreamRecord), old.(*storev1.StreamRecord).DeepCopy()
	record.Spec, record.Record = before.Spec, before.Record
	record.Labels, record.Annotations = before.Labels, before.Annotations
	store.AcceptStatus(record, before, s.change(ctx))
}

// ValidateUpdate checks the status.
func (s statusStrategy) ValidateUpdate(_ context.Context, obj, old runtime.Object) field.ErrorList {
	return store.Validate(obj.(*storev1.StreamRecord), old.(*storev1.StreamRecord), s.admit)
}

// GetResetFields names what a write of the status cannot set.
func (statusStrategy) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return resetFields("spec")
}

// viewStrategy is for the resources that are views of a stream. They have applied the history rules
// themselves, since each knows which.
type viewStrategy struct{ strategy }

// PrepareForCreate shows the generation that the rules gave the stream.
func (viewStrategy) PrepareForCreate(_ context.Context, obj runtime.Object) {
	record := obj.(*storev1.StreamRecord)
	record.Generation = record.Record.Generation
}

// PrepareForUpdate shows the generation that the rules gave the stream.
func (viewStrategy) PrepareForUpdate(_ context.Context, obj, _ runtime.Object) {
	record := obj.(*storev1.StreamRecord)
	record.Generation = record.Record.Generation
}

// Validate checks a stream that a view made.
func (s viewStrategy) Validate(_ context.Context, obj runtime.Object) field.ErrorList {
	return store.Validate(obj.(*storev1.StreamRecord), nil, s.admit)
}

// ValidateUpdate checks a stream that a view changed.
func (s viewStrategy) ValidateUpdate(_ context.Context, obj, old runtime.Object) field.ErrorList {
	return store.Validate(obj.(*storev1.StreamRecord), old.(*storev1.StreamRecord), s.admit)
}

func resetFields(name string) map[fieldpath.APIVersion]*fieldpath.Set {
	return map[fieldpath.APIVersion]*fieldpath.Set{
		fieldpath.APIVersion(imagev1.GroupVersion.String()): fieldpath.NewSet(fieldpath.MakePathOrDie(name)),
	}
}

// Fields by which streams can be selected (reference: OpenShift's own selectors), beside their name and namespace.
const (
	fieldSpecRepository   = "spec.dockerImageRepository"
	fieldStatusRepository = "status.dockerImageRepository"
)

// attributes are a stream's labels and selectable fields.
func attributes(obj runtime.Object) (labels.Set, fields.Set, error) {
	record, ok := obj.(*storev1.StreamRecord)
	if !ok {
		return nil, nil, fmt.Errorf("%T is not a stream", obj)
	}
	return record.Labels, fields.Set{
		"metadata.name":       record.Name,
		"metadata.namespace":  record.Namespace,
		fieldSpecRepository:   record.Spec.DockerImageRepository,
		fieldStatusRepository: record.Status.DockerImageRepository,
	}, nil
}

// AddFieldLabels makes the selectable fields of streams known to a scheme.
func AddFieldLabels(scheme *runtime.Scheme) error {
	return scheme.AddFieldLabelConversionFunc(imagev1.GroupVersion.WithKind("ImageStream"), func(label, value string) (string, string, error) {
		switch label {
		case "metadata.name", "metadata.namespace", fieldSpecRepository, fieldStatusRepository:
			return label, value, nil
		}
		return "", "", fmt.Errorf("%q is not a field that image streams can be selected by: those are metadata.name, metadata.namespace, %s and %s",
			label, fieldSpecRepository, fieldStatusRepository)
	})
}
