package store

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/distribution/reference"
	imagev1 "github.com/openshift/api/image/v1"
	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/api/validation"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	storev1 "istag.dev/store/v1"
)

// Admit says whether images may be imported from where a pull spec points: nil if so.
type Admit func(pullSpec string, insecure bool) error

const (
	// streamNamePattern is that of one part of a repository's path.
	streamNamePattern = `[a-z0-9]+(?:[._-][a-z0-9]+)*`
	// maxRepository is the most that a repository's path can have, and "namespace/name" is one.
	maxRepository = 255

	tagNamePattern = `[\w][\w.-]{0,127}`
)

var (
	streamName = regexp.MustCompile("^" + streamNamePattern + "$")
	tagName    = regexp.MustCompile("^" + tagNamePattern + "$")
)

// Validate checks a whole record, as OpenShift does, and tag names as well. old is nil on creation;
// otherwise only what differs from it is checked, so that a stream that was stored under other rules can
// still be changed. admit may be nil, if images may come from anywhere.
func Validate(record, old *storev1.StreamRecord, admit Admit) field.ErrorList {
	v := checks{record: record, old: old, admit: admit, seen: map[string]bool{}}
	if old == nil {
		v.old = &storev1.StreamRecord{}
		v.errs = validateName(record)
	}
	v.repository()
	v.specTags()
	v.statusTags()
	return v.errs
}

// validateName checks the name of a new stream, and the rest of its metadata.
func validateName(record *storev1.StreamRecord) field.ErrorList {
	errs := validation.ValidateObjectMeta(&record.ObjectMeta, true, streamNameReasons, field.NewPath("metadata"))
	name := field.NewPath("metadata", "name")
	switch {
	case len(record.Namespace)+1+len(record.Name) > maxRepository:
		errs = append(errs, field.Invalid(name, record.Name, fmt.Sprintf("'namespace/name' cannot be longer than %d characters", maxRepository)))
	case len(RecordName(record.Name)) > utilvalidation.DNS1123SubdomainMaxLength:
		errs = append(errs, field.Invalid(name, record.Name, fmt.Sprintf("cannot be longer than %d characters, of which every \"_\" counts as two", utilvalidation.DNS1123SubdomainMaxLength)))
	}
	return errs
}

// streamNameReasons returns what is wrong with a name, or with the prefix of one that is to be generated.
func streamNameReasons(name string, prefix bool) []string {
	if prefix {
		name += "x"
	}
	if reasons := content.IsPathSegmentName(name); len(reasons) > 0 {
		return reasons
	}
	if !streamName.MatchString(name) {
		return []string{fmt.Sprintf("must match %q", streamNamePattern)}
	}
	return nil
}

// ValidateTag checks one tag of spec, whose field is path; its name is not looked at.
func ValidateTag(tag *imagev1.TagReference, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if tag.From != nil {
		errs = validateFrom(tag, path)
	}
	switch tag.ReferencePolicy.Type {
	case "", imagev1.SourceTagReferencePolicy, imagev1.LocalTagReferencePolicy:
	default:
		errs = append(errs, field.Invalid(path.Child("referencePolicy", "type"), tag.ReferencePolicy.Type,
			fmt.Sprintf("valid values are %q, %q", imagev1.SourceTagReferencePolicy, imagev1.LocalTagReferencePolicy)))
	}
	switch tag.ImportPolicy.ImportMode {
	case "", imagev1.ImportModeLegacy, imagev1.ImportModePreserveOriginal:
	default:
		errs = append(errs, field.Invalid(path.Child("importPolicy", "importMode"), tag.ImportPolicy.ImportMode,
			fmt.Sprintf("invalid import mode, valid modes are '', '%s', '%s'", imagev1.ImportModeLegacy, imagev1.ImportModePreserveOriginal)))
	}
	if follow, ok := tag.Annotations[FollowAnnotation]; ok && follow != "true" && follow != "false" {
		errs = append(errs, field.Invalid(path.Child("annotations").Key(FollowAnnotation), follow, `must be "true" or "false"`))
	}
	return errs
}

func validateFrom(tag *imagev1.TagReference, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	from := tag.From
	if from.Name == "" {
		errs = append(errs, field.Required(path.Child("from", "name"), ""))
	}
	switch from.Kind {
	case KindDockerImage:
		if _, err := parsePullSpec(from.Name); err != nil && from.Name != "" {
			errs = append(errs, field.Invalid(path.Child("from", "name"), from.Name, err.Error()))
		}
	case KindImageStreamTag, KindImageStreamImage:
		if tag.ImportPolicy.Scheduled {
			errs = append(errs, field.Invalid(path.Child("importPolicy", "scheduled"), true,
				"only tags pointing to Docker repositories may be scheduled for background import"))
		}
	default:
		errs = append(errs, field.Required(path.Child("from", "kind"), "valid values are 'DockerImage', 'ImageStreamImage', 'ImageStreamTag'"))
	}
	return errs
}

var errIPv6 = errors.New("a registry host cannot be an IPv6 address")

// parsePullSpec takes a pull spec apart by OpenShift's grammar, in which nothing is filled in.
func parsePullSpec(spec string) (reference.Named, error) {
	if strings.HasPrefix(spec, "[") {
		return nil, errIPv6
	}
	parsed, err := reference.Parse(spec)
	if err != nil {
		return nil, err
	}
	named, ok := parsed.(reference.Named)
	if !ok {
		return nil, reference.ErrReferenceInvalidFormat
	}
	return named, nil
}

func isPullSpec(spec string) bool {
	_, err := parsePullSpec(spec)
	return err == nil
}

// checks is one record on its way through the rules.
type checks struct {
	record, old *storev1.StreamRecord
	admit       Admit
	errs        field.ErrorList
	// seen are the pull specs that were looked at: each is named once.
	seen map[string]bool
	// exempt are the repositories that the stream had before; nil until asked for.
	exempt map[string]bool
}

func (v *checks) repository() {
	spec := v.record.Spec.DockerImageRepository
	if spec == "" || spec == v.old.Spec.DockerImageRepository {
		return
	}
	path := field.NewPath("spec", "dockerImageRepository")
	named, err := parsePullSpec(spec)
	if err != nil {
		v.errs = append(v.errs, field.Invalid(path, spec, err.Error()))
		return
	}
	before := len(v.errs)
	if _, ok := named.(reference.Tagged); ok {
		v.errs = append(v.errs, field.Invalid(path, spec, "the repository name may not contain a tag"))
	}
	if _, ok := named.(reference.Digested); ok {
		v.errs = append(v.errs, field.Invalid(path, spec, "the repository name may not contain an ID"))
	}
	if len(v.errs) == before {
		v.allowed(spec, v.insecure(nil), path)
	}
}

func (v *checks) specTags() {
	names := map[string]bool{}
	for i := range v.record.Spec.Tags {
		tag := &v.record.Spec.Tags[i]
		path := tagPath(tag.Name)
		if names[tag.Name] {
			v.errs = append(v.errs, field.Duplicate(path, tag.Name))
		}
		names[tag.Name] = true
		if tag.From != nil && tag.From.Kind == KindDockerImage {
			v.seen[tag.From.Name] = true // The event of a reference says no more than its tag.
		}
		if v.isOld(tag) {
			continue
		}
		v.tagName(tag.Name, path.Child("name"))
		wrong := ValidateTag(tag, path)
		v.errs = append(v.errs, wrong...)
		if len(wrong) == 0 && tag.From != nil && tag.From.Kind == KindDockerImage {
			v.allowed(tag.From.Name, v.insecure(tag), path.Child("from", "name"))
		}
	}
}

// statusTags checks the events that are new.
func (v *checks) statusTags() {
	old := map[string]bool{}
	known := map[string]bool{}
	for _, list := range v.old.Status.Tags {
		known[list.Tag] = true
		for i := range list.Items {
			old[list.Items[i].DockerImageReference] = true
		}
	}
	names := map[string]bool{}
	for _, list := range v.record.Status.Tags {
		path := field.NewPath("status", "tags").Key(list.Tag)
		if names[list.Tag] {
			v.errs = append(v.errs, field.Duplicate(path, list.Tag))
		}
		names[list.Tag] = true
		tag := SpecTag(&v.record.Spec, list.Tag)
		if !known[list.Tag] && tag == nil {
			v.tagName(list.Tag, path.Child("tag"))
		}
		for i := range list.Items {
			spec := list.Items[i].DockerImageReference
			if old[spec] || spec != "" && v.seen[spec] {
				continue
			}
			v.seen[spec] = true
			v.event(spec, tag, path.Child("items").Index(i).Child("dockerImageReference"))
		}
	}
}

func (v *checks) event(spec string, tag *imagev1.TagReference, path *field.Path) {
	if spec == "" {
		v.errs = append(v.errs, field.Required(path, ""))
		return
	}
	if _, err := parsePullSpec(spec); err != nil {
		v.errs = append(v.errs, field.Invalid(path, spec, err.Error()))
		return
	}
	// An event that came with a change of its tag is what that tag names.
	if tag != nil && tag.From != nil && !v.isOld(tag) {
		path = tagPath(tag.Name).Child("from", "name")
	}
	v.allowed(spec, v.insecure(tag), path)
}

// isOld reports whether a tag of spec is what it was.
func (v *checks) isOld(tag *imagev1.TagReference) bool {
	was := SpecTag(&v.old.Spec, tag.Name)
	if was == nil {
		return false
	}
	before, now := *was, *tag
	setDefaults(&before)
	setDefaults(&now)
	return sameTag(&before, &now)
}

func (v *checks) tagName(name string, path *field.Path) {
	switch {
	case SpecTag(&v.old.Spec, name) != nil:
	case name == "":
		v.errs = append(v.errs, field.Required(path, "a tag needs a name"))
	case !tagName.MatchString(name):
		v.errs = append(v.errs, field.Invalid(path, name, fmt.Sprintf(
			"must match %q: at most 128 letters, digits, \"_\", \".\" and \"-\", of which the first is neither \".\" nor \"-\"", tagNamePattern)))
	}
}

// allowed checks that images may come from where a pull spec points.
func (v *checks) allowed(spec string, insecure bool, path *field.Path) {
	if v.admit == nil {
		return
	}
	err := v.admit(spec, insecure)
	if err != nil && !v.had(spec) {
		v.errs = append(v.errs, field.Forbidden(path, err.Error()))
	}
}

// had reports whether the stream used a pull spec's repository before.
func (v *checks) had(spec string) bool {
	if v.exempt == nil {
		v.exempt = map[string]bool{}
		v.exempt[canonical(v.old.Spec.DockerImageRepository)] = true
		for i := range v.old.Spec.Tags {
			if from := v.old.Spec.Tags[i].From; from != nil && from.Kind == KindDockerImage {
				v.exempt[canonical(from.Name)] = true
			}
		}
		for _, list := range v.old.Status.Tags {
			for i := range list.Items {
				v.exempt[canonical(list.Items[i].DockerImageReference)] = true
			}
		}
		delete(v.exempt, "")
	}
	return v.exempt[canonical(spec)]
}

// canonical returns the repository of a pull spec with everything filled in, "" if it is none.
func canonical(spec string) string {
	named, err := reference.ParseNormalizedNamed(Repository(spec))
	if err != nil {
		return ""
	}
	return named.Name()
}

// insecure reports whether a tag's registry may be asked without TLS.
func (v *checks) insecure(tag *imagev1.TagReference) bool {
	return tag != nil && tag.ImportPolicy.Insecure || v.record.Annotations[imagev1.InsecureRepositoryAnnotation] == "true"
}

func tagPath(name string) *field.Path { return field.NewPath("spec", "tags").Key(name) }
