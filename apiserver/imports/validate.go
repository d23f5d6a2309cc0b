package imports

import (
	"regexp"

	"github.com/distribution/reference"
	imagev1 "github.com/openshift/api/image/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"istag.dev/resolver/upstream"
	"istag.dev/store"
	storev1 "istag.dev/store/v1"
)

var tagName = regexp.MustCompile(`^\w[\w.-]{0,127}$`)

// setDefaults gives what the request leaves open its value; the empty string is unset.
func setDefaults(isi *imagev1.ImageStreamImport) {
	policies := func(i *imagev1.TagImportPolicy, r *imagev1.TagReferencePolicy) {
		if i.ImportMode == "" {
			i.ImportMode = imagev1.ImportModeLegacy
		}
		if r.Type == "" {
			r.Type = imagev1.SourceTagReferencePolicy
		}
	}
	for i := range isi.Spec.Images {
		policies(&isi.Spec.Images[i].ImportPolicy, &isi.Spec.Images[i].ReferencePolicy)
	}
	if repository := isi.Spec.Repository; repository != nil {
		policies(&repository.ImportPolicy, &repository.ReferencePolicy)
	}
}

// validate checks a request that has its defaults.
func validate(isi *imagev1.ImageStreamImport) field.ErrorList {
	errs := validateStreamName(isi.Namespace, isi.Name)
	spec := field.NewPath("spec")
	if len(isi.Spec.Images) == 0 && isi.Spec.Repository == nil {
		errs = append(errs, field.Required(spec, "you must specify at least one image or a repository import"))
	}
	if repository := isi.Spec.Repository; repository != nil {
		path := spec.Child("repository")
		errs = append(errs, validateRepository(&repository.From, path.Child("from"))...)
		errs = append(errs, validatePolicies(repository.ImportPolicy, repository.ReferencePolicy, path)...)
	}
	for i := range isi.Spec.Images {
		image, path := &isi.Spec.Images[i], spec.Child("images").Index(i)
		errs = append(errs, validateFrom(&image.From, path.Child("from"))...)
		errs = append(errs, validatePolicies(image.ImportPolicy, image.ReferencePolicy, path)...)
		if image.To != nil {
			errs = append(errs, validateTag(image.To.Name, path.Child("to", "name"))...)
		}
	}
	return errs
}

// validateStreamName checks what names the stream by the rules that streams have.
func validateStreamName(namespace, name string) field.ErrorList {
	return store.Validate(&storev1.StreamRecord{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}, nil, nil)
}

func validateTag(tag string, path *field.Path) field.ErrorList {
	switch {
	case tag == "":
		return field.ErrorList{field.Required(path, "the name of the target tag must be specified")}
	case !tagName.MatchString(tag):
		return field.ErrorList{field.Invalid(path, tag, "must be at most 128 letters, digits, '_', '.' and '-', and begin with none of the last two")}
	default:
		return nil
	}
}

func validateFrom(from *corev1.ObjectReference, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if from.Kind != store.KindDockerImage {
		errs = append(errs, field.Invalid(path.Child("kind"), from.Kind, "only DockerImage is supported"))
	}
	name := path.Child("name")
	if from.Name == "" {
		return append(errs, field.Required(name, "must be a pull spec such as quay.io/keycloak/keycloak:26.0"))
	}
	if err := upstream.Check(from.Name); err != nil {
		errs = append(errs, field.Invalid(name, from.Name, err.Error()))
	}
	return errs
}

func validateRepository(from *corev1.ObjectReference, path *field.Path) field.ErrorList {
	errs := validateFrom(from, path)
	if named, err := reference.ParseNormalizedNamed(from.Name); err == nil && !reference.IsNameOnly(named) {
		errs = append(errs, field.Invalid(path.Child("name"), from.Name, "must be a repository, without a tag or a digest"))
	}
	return errs
}

func validatePolicies(i imagev1.TagImportPolicy, r imagev1.TagReferencePolicy, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	switch i.ImportMode {
	case imagev1.ImportModeLegacy, imagev1.ImportModePreserveOriginal:
	default:
		errs = append(errs, field.NotSupported(path.Child("importPolicy", "importMode"), i.ImportMode,
			[]imagev1.ImportModeType{imagev1.ImportModeLegacy, imagev1.ImportModePreserveOriginal}))
	}
	switch r.Type {
	case imagev1.SourceTagReferencePolicy, imagev1.LocalTagReferencePolicy:
	default:
		errs = append(errs, field.NotSupported(path.Child("referencePolicy", "type"), r.Type,
			[]imagev1.TagReferencePolicyType{imagev1.SourceTagReferencePolicy, imagev1.LocalTagReferencePolicy}))
	}
	return errs
}

// validateRegistries checks that images may be imported from where the request says.
func validateRegistries(isi *imagev1.ImageStreamImport, admit store.Admit) field.ErrorList {
	var errs field.ErrorList
	check := func(from *corev1.ObjectReference, insecure bool, path *field.Path) {
		if err := admit(from.Name, insecure); err != nil {
			errs = append(errs, field.Forbidden(path.Child("from", "name"), err.Error()))
		}
	}
	if repository := isi.Spec.Repository; repository != nil {
		check(&repository.From, repository.ImportPolicy.Insecure, field.NewPath("spec", "repository"))
	}
	for i := range isi.Spec.Images {
		image := &isi.Spec.Images[i]
		check(&image.From, image.ImportPolicy.Insecure, field.NewPath("spec", "images").Index(i))
	}
	return errs
}
