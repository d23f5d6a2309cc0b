package upstream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Kind is what is wrong with a registry's answer, or with the question.
type Kind string

// The kinds of Error.
const (
	// NotFound: the registry has no such image.
	NotFound Kind = "NotFound"
	// Unauthorized: the registry wants credentials.
	Unauthorized Kind = "Unauthorized"
	// Forbidden: the registry refuses, whatever the credentials.
	Forbidden Kind = "Forbidden"
	// RateLimited: the registry has had enough requests for now.
	RateLimited Kind = "RateLimited"
	// Unreachable: no answer, or one that says that the registry is out of order.
	Unreachable Kind = "Unreachable"
	// NeedsInsecure: the registry answers only without TLS, or with a certificate that cannot be
	// verified.
	NeedsInsecure Kind = "NeedsInsecure"
	// NotRegistry: what answers is no registry.
	NotRegistry Kind = "NotRegistry"
	// Invalid: the pull spec, or what the registry sent, cannot be used.
	Invalid Kind = "Invalid"
	// TooLarge: the registry sent more than is read.
	TooLarge Kind = "TooLarge"
)

// reasons are the Kubernetes status reasons that OpenShift's import has for each kind.
var reasons = map[Kind]metav1.StatusReason{
	NotFound:      metav1.StatusReasonNotFound,
	Unauthorized:  metav1.StatusReasonUnauthorized,
	Forbidden:     metav1.StatusReasonForbidden,
	RateLimited:   metav1.StatusReasonTooManyRequests,
	Unreachable:   metav1.StatusReasonInternalError,
	NeedsInsecure: metav1.StatusReasonBadRequest,
	NotRegistry:   "NotV2Registry",
	Invalid:       metav1.StatusReasonInvalid,
	TooLarge:      metav1.StatusReasonInvalid,
}

// Error is why a pull spec gave no image.
type Error struct {
	Kind Kind
	// Message is for the user: what is wrong, where, and what to do. Equal causes have equal
	// messages: no request ids, no addresses of this side, no times.
	Message string
	// Cause is for the log: it may hold anything that Message may not. It may be nil.
	Cause error
}

func (e *Error) Error() string { return e.Message }

func (e *Error) Unwrap() error { return e.Cause }

// Reason returns the Kubernetes status reason of an error, InternalError where nothing better is
// known.
func Reason(err error) string {
	var e *Error
	if errors.As(err, &e) {
		if reason, ok := reasons[e.Kind]; ok {
			return string(reason)
		}
	}
	return string(metav1.StatusReasonInternalError)
}

func invalid(message string, cause error) *Error {
	return &Error{Kind: Invalid, Message: message, Cause: cause}
}

// placeError is what one place did wrong: text completes the sentence `registry "quay.io" …`, and
// advice says what to do about it.
type placeError struct {
	kind         Kind
	text, advice string
	cause        error
}

func (p *placeError) Error() string { return p.text }

func (p *placeError) Unwrap() error { return p.cause }

// malformed is the problem of an answer that cannot be used.
func malformed(format string, args ...any) *placeError {
	return &placeError{kind: Invalid, text: fmt.Sprintf(format, args...), advice: "push the image again with a current tool"}
}

func errSchema1() *placeError {
	return malformed("has it as a Docker schema 1 image, which current container runtimes cannot pull")
}

func errDigestAlgorithm(algorithm string) *Error {
	return invalid(fmt.Sprintf("digest algorithm %q: only sha256 can be used", clip(algorithm)), nil)
}

// stageError says during which request, other than that for the image itself, an error happened.
type stageError struct {
	stage stage
	err   error
}

type stage int

const (
	stagePing stage = iota + 1
	stageToken
	stageTags
)

func (e stageError) Error() string { return e.err.Error() }

func (e stageError) Unwrap() error { return e.err }

// failure is a place and what it did wrong.
type failure struct {
	at      place
	problem *placeError
}

// summarise returns the error of the registry itself, the last that was asked, with what its mirrors
// said.
func summarise(spec string, failed []failure) error {
	last := failed[len(failed)-1]
	causes := []error{last.problem.cause}
	var mirrors strings.Builder
	for _, f := range failed[:len(failed)-1] {
		fmt.Fprintf(&mirrors, "; its mirror %q %s", f.at.label, f.problem.text)
		causes = append(causes, f.problem.cause)
	}
	return &Error{
		Kind:    last.problem.kind,
		Message: fmt.Sprintf("%s: registry %q %s%s; %s", clip(spec), last.at.label, last.problem.text, mirrors.String(), last.problem.advice),
		Cause:   errors.Join(causes...),
	}
}

const (
	adviceName    = "check the repository and the tag"
	adviceLater   = "it is asked again later"
	adviceNetwork = "check the registry's name and this cluster's network; it is asked again later"
)

// explain says what a place did wrong.
func explain(err error, at place) *placeError {
	var known *placeError
	if errors.As(err, &known) {
		return known
	}
	var wrong *Error
	if errors.As(err, &wrong) {
		return &placeError{wrong.Kind, "gives an answer that cannot be used: " + wrong.Message, adviceLater, err}
	}
	var large *TooLargeError
	if errors.As(err, &large) {
		return &placeError{TooLarge, fmt.Sprintf("sends more than the %d MiB that is read of a manifest or configuration", MaxBody>>20), "check that the name is that of an image", err}
	}
	if p := explainTLS(err, at); p != nil {
		return p
	}
	var during stageError
	errors.As(err, &during)
	var refused *transport.Error
	if errors.As(err, &refused) {
		return explainStatus(refused, during.stage, err)
	}
	if text := networkText(err); text != "" {
		return &placeError{Unreachable, text, adviceNetwork, err}
	}
	switch during.stage {
	case stagePing, stageToken:
		return &placeError{Unreachable, "asks for credentials in a way that is not understood", adviceLater, err}
	default:
		return &placeError{Invalid, "sends something else than what was asked for", adviceLater, err}
	}
}

func explainStatus(refused *transport.Error, during stage, cause error) *placeError {
	has := func(code transport.ErrorCode) bool {
		for _, d := range refused.Errors {
			if d.Code == code {
				return true
			}
		}
		return false
	}
	status := refused.StatusCode
	switch {
	case status == http.StatusTooManyRequests || has(transport.TooManyRequestsErrorCode):
		return &placeError{RateLimited, "allows no more requests for now", adviceLater, cause}
	case status == http.StatusUnauthorized || has(transport.UnauthorizedErrorCode):
		return &placeError{
			Unauthorized, "wants credentials: the repository is private, or does not exist",
			"check the name, or use a repository that can be read anonymously", cause,
		}
	case status == http.StatusForbidden || has(transport.DeniedErrorCode):
		return &placeError{
			Forbidden, "refuses access to the repository",
			"check the name, or use a repository that can be read anonymously", cause,
		}
	case status >= http.StatusInternalServerError:
		return &placeError{Unreachable, "is out of order: it answers " + statusText(status), adviceLater, cause}
	case during == stagePing:
		return &placeError{NotRegistry, "is no registry, or an outdated one: it answers " + statusText(status) + " at /v2/", "check the registry's name", cause}
	case during == stageToken:
		return &placeError{Unreachable, "sends to a token service that answers " + statusText(status), adviceLater, cause}
	case status == http.StatusNotFound || has(transport.ManifestUnknownErrorCode) || has(transport.NameUnknownErrorCode):
		if during == stageTags {
			return &placeError{NotFound, "has no such repository", "check the repository's name", cause}
		}
		return &placeError{NotFound, "has no such image", adviceName, cause}
	default:
		return &placeError{Unreachable, "answers " + statusText(status), adviceLater, cause}
	}
}

func statusText(status int) string {
	return strings.TrimSpace(fmt.Sprintf("%d %s", status, http.StatusText(status)))
}

// explainTLS returns nil for what has nothing to do with certificates or plain HTTP.
func explainTLS(err error, at place) *placeError {
	if at.insecure {
		return nil
	}
	advice := "set importPolicy.insecure if that is as it should be"
	if at.mirror {
		advice = "set insecure for the mirror if that is as it should be"
	}
	var (
		unknown  x509.UnknownAuthorityError
		hostname x509.HostnameError
		bad      x509.CertificateInvalidError
		verify   *tls.CertificateVerificationError
		record   tls.RecordHeaderError
	)
	needs := func(text string) *placeError { return &placeError{NeedsInsecure, text, advice, err} }
	switch {
	case errors.As(err, &unknown):
		return needs("has a certificate of an unknown authority")
	case errors.As(err, &hostname):
		return needs("has a certificate for another name")
	case errors.As(err, &bad) && bad.Reason == x509.Expired:
		return needs("has a certificate that has expired or is not valid yet")
	case errors.As(err, &bad), errors.As(err, &verify):
		return needs("has a certificate that cannot be verified")
	case errors.As(err, &record), errors.Is(err, http.ErrSchemeMismatch):
		return needs("speaks plain HTTP instead of HTTPS")
	case errors.Is(err, errPlainHTTP) && networkText(err) == "":
		return needs("sends to an address of plain HTTP")
	default:
		return nil
	}
}

// isNetwork reports whether an error came from the way to the registry, not from what it said.
func isNetwork(err error) bool {
	var sent *url.Error
	return errors.As(err, &sent) || networkText(err) != ""
}

// networkText says what went wrong on the way; empty for what did not. Texts of the standard library
// are not used, since they name ports and times.
func networkText(err error) string {
	var dns *net.DNSError
	var op *net.OpError
	switch {
	case errors.As(err, &dns) && dns.IsNotFound:
		return "cannot be found: its name does not resolve"
	case errors.As(err, &dns):
		return "cannot be found: the name server does not answer"
	case errors.Is(err, errTooManyRedirects):
		return fmt.Sprintf("redirects more than %d times", maxRedirects)
	case errors.Is(err, syscall.ECONNREFUSED):
		return "cannot be reached: connection refused"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return "cannot be reached: there is no route to it"
	case errors.Is(err, context.DeadlineExceeded), isTimeout(err):
		return "does not answer in time"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "breaks off its answer"
	case errors.As(err, &op):
		return "cannot be reached"
	default:
		return ""
	}
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// maxQuoted bounds what messages repeat of what users and registries say.
const maxQuoted = 256

func clip(s string) string {
	s = strings.ToValidUTF8(s, "�")
	if len(s) <= maxQuoted {
		return s
	}
	return strings.ToValidUTF8(s[:maxQuoted], "") + "…"
}
