package imports

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	imagev1 "github.com/openshift/api/image/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"istag.dev/resolver/upstream"
)

// codes are the HTTP codes that OpenShift's import has for each kind of error; 500 for all others.
var codes = map[upstream.Kind]int32{
	upstream.NotFound:      http.StatusNotFound,
	upstream.Unauthorized:  http.StatusUnauthorized,
	upstream.Forbidden:     http.StatusForbidden,
	upstream.NotRegistry:   http.StatusForbidden,
	upstream.RateLimited:   http.StatusTooManyRequests,
	upstream.NeedsInsecure: http.StatusBadRequest,
	upstream.Invalid:       http.StatusUnprocessableEntity,
	upstream.TooLarge:      http.StatusUnprocessableEntity,
}

func success() metav1.Status { return metav1.Status{Status: metav1.StatusSuccess} }

// failure returns what a client reads about an import that failed. Where OpenShift has a sentence of its
// own for that, it comes first.
func failure(pullSpec string, err error) metav1.Status {
	status := metav1.Status{
		Status:  metav1.StatusFailure,
		Reason:  metav1.StatusReason(upstream.Reason(err)),
		Code:    http.StatusInternalServerError,
		Message: err.Error(),
	}
	var known *upstream.Error
	if !errors.As(err, &known) {
		return status
	}
	if code, ok := codes[known.Kind]; ok {
		status.Code = code
	}
	detail := strings.TrimPrefix(known.Message, pullSpec+": ")
	switch known.Kind {
	case upstream.NotFound:
		status.Message = fmt.Sprintf("dockerimage.%s %q not found: %s", imagev1.GroupName, pullSpec, detail)
		status.Details = &metav1.StatusDetails{Name: pullSpec, Group: imagev1.GroupName, Kind: "dockerimage"}
	case upstream.Unauthorized:
		status.Message = fmt.Sprintf("you may not have access to the container image %q: %s", pullSpec, detail)
	default:
	}
	return status
}

// lateness is why an image is not in the answer although nothing is wrong with it.
type lateness int

const (
	inTime lateness = iota
	outOfTime
	outOfSpace
)

// unfinished returns what a client reads about an import that is not done yet. stream is empty if it
// will not be done in the background either.
func unfinished(pullSpec, stream string, why lateness, limit time.Duration) metav1.Status {
	status := metav1.Status{Status: metav1.StatusFailure, Reason: metav1.StatusReasonTimeout, Code: http.StatusGatewayTimeout}
	cause := fmt.Sprintf("the registry did not give it within %s", limit.Round(100*time.Millisecond))
	advice := "try again"
	if why == outOfSpace {
		status.Reason, status.Code = metav1.StatusReasonRequestEntityTooLarge, http.StatusRequestEntityTooLarge
		cause, advice = "the answer would be too large", "ask for fewer images at once"
	}
	if stream == "" {
		status.Message = fmt.Sprintf("%s: %s; %s", pullSpec, cause, advice)
		return status
	}
	status.Message = fmt.Sprintf("%s is still being imported: %s; %q shows what comes of it", pullSpec, cause, "oc describe is "+stream)
	return status
}

// reasonImportFailed is the reason of a repository's import of which some images failed.
const reasonImportFailed metav1.StatusReason = "ImportFailed"

// repositoryStatus sums up what came of the images of a repository.
func repositoryStatus(failed, late int) metav1.Status {
	const failedText, lateText = "of the images from this repository failed to import", "of the images from this repository not imported in time"
	count := func(n int, text string) string {
		if n == 1 {
			return "one " + text
		}
		return fmt.Sprintf("%d %s", n, text)
	}
	status := metav1.Status{Status: metav1.StatusFailure, Reason: reasonImportFailed}
	switch {
	case failed == 0 && late == 0:
		return success()
	case late == 0:
		status.Message = count(failed, failedText)
	case failed == 0:
		status.Message = count(late, lateText)
	default:
		status.Message = count(failed, failedText) + ", " + count(late, lateText)
	}
	return status
}
