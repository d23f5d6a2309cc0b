package tags

import (
	"errors"
	"fmt"
	"strings"

	imagev1 "github.com/openshift/api/image/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// streamKind is what the errors of streams are about.
var streamKind = schema.GroupKind{Group: imagev1.GroupName, Kind: "ImageStream"}

func (n names) groupKind() schema.GroupKind {
	return schema.GroupKind{Group: imagev1.GroupName, Kind: n.kind}
}

func (n names) groupResource() schema.GroupResource { return imagev1.Resource(n.resource) }

func invalid(n names, name string, errs ...*field.Error) error {
	return apierrors.NewInvalid(n.groupKind(), name, errs)
}

// asTags makes of an error about a stream one about its tag, if the tag is what is wrong: the user wrote
// "tag.from.name", and never saw "spec.tags[t].from.name". Every other error is returned as it is.
func asTags(err error, n names, name, tag string) error {
	var status apierrors.APIStatus
	if !errors.As(err, &status) || !apierrors.IsInvalid(err) {
		return err
	}
	details := status.Status().Details
	if details == nil || details.Kind != streamKind.Kind {
		return err
	}
	own := field.NewPath("spec", "tags").Key(tag).String()
	mine := false
	causes := make([]metav1.StatusCause, 0, len(details.Causes))
	messages := make([]string, 0, len(details.Causes))
	for _, cause := range details.Causes {
		rest, ok := strings.CutPrefix(cause.Field, own)
		switch {
		case ok && (rest == "" || rest[0] == '.' || rest[0] == '['):
			cause.Field = n.field + rest
			mine = true
		case cause.Field == "metadata.name":
			mine = true // The stream's name is the first half of the tag's.
		}
		causes = append(causes, cause)
		messages = append(messages, cause.Field+": "+cause.Message)
	}
	if !mine {
		return err
	}
	message := strings.Join(messages, ", ")
	if len(messages) > 1 {
		message = "[" + message + "]"
	}
	renamed := apierrors.NewInvalid(n.groupKind(), name, nil)
	renamed.ErrStatus.Details.Causes = causes
	renamed.ErrStatus.Message += ": " + message
	return renamed
}

func (n names) notFound(name string) error { return apierrors.NewNotFound(n.groupResource(), name) }

func (n names) conflict(name, format string, args ...any) error {
	return apierrors.NewConflict(n.groupResource(), name, fmt.Errorf(format, args...))
}
