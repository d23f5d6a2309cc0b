package webhook

import (
	"errors"
	"fmt"
	"mime"
	"net/http"
	"runtime/debug"

	"github.com/go-json-experiment/json"
	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	logf "sigs.k8s.io/controller-runtime/pkg/log"
)

const (
	// Path at which the API server finds the webhook.
	Path = "/pin"

	// maxBody is what a review can come to: two objects of at most 3 MiB each, the API server's limit
	// for one, and the rest of the request.
	maxBody = 7 << 20

	reviewAPIVersion = "admission.k8s.io/v1"
	reviewKind       = "AdmissionReview"
)

// admissionReview is what a webhook is asked, as far as we read it. The API server waits for us, so the
// body is decoded once, with the object in it, and what nobody reads is skipped.
//
// The decoder tells upper from lower case and refuses a name that is given twice: there is one way to
// read an object, ours and the API server's.
type admissionReview struct {
	APIVersion string            `json:"apiVersion"`
	Kind       string            `json:"kind"`
	Request    *admissionRequest `json:"request"`
}

type admissionRequest struct {
	UID         types.UID                   `json:"uid"`
	Kind        metav1.GroupVersionKind     `json:"kind"`
	Resource    metav1.GroupVersionResource `json:"resource"`
	SubResource string                      `json:"subResource"`
	Namespace   string                      `json:"namespace"`
	Name        string                      `json:"name"`
	Operation   admissionv1.Operation       `json:"operation"`
	UserInfo    struct {
		Username string `json:"username"`
	} `json:"userInfo"`
	DryRun    *bool   `json:"dryRun"`
	Object    *object `json:"object"`
	OldObject *object `json:"oldObject"`
}

// ServeHTTP answers an AdmissionReview of admission.k8s.io/v1, with another one whatever happens.
func (p *Pinner) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	response := &admissionv1.AdmissionResponse{}
	defer func() {
		if cause := recover(); cause != nil {
			logf.FromContext(r.Context()).Error(fmt.Errorf("panic: %v", cause), "reviewing", "stack", string(debug.Stack()))
			uid := response.UID
			response = refuse(http.StatusInternalServerError, errors.New("istag's webhook failed; its log says more"))
			response.UID = uid
		}
		answer(w, response)
	}()
	request, err := readRequest(w, r)
	if err != nil {
		response = refuse(http.StatusBadRequest, err)
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			response.Result.Code = http.StatusRequestEntityTooLarge
		}
		return
	}
	response.UID = request.UID
	response = p.review(r.Context(), request)
	response.UID = request.UID
}

func readRequest(w http.ResponseWriter, r *http.Request) (*admissionRequest, error) {
	contentType := r.Header.Get("Content-Type")
	if mediaType, _, err := mime.ParseMediaType(contentType); err != nil || mediaType != "application/json" {
		return nil, fmt.Errorf("content type %q: expected application/json", contentType)
	}
	var review admissionReview
	if err := json.UnmarshalRead(http.MaxBytesReader(w, r.Body, maxBody), &review); err != nil {
		return nil, fmt.Errorf("the body is not an %s of at most %d bytes: %w", reviewKind, maxBody, err)
	}
	if review.APIVersion != reviewAPIVersion || review.Kind != reviewKind {
		return nil, fmt.Errorf("the body is kind %q of %q: expected %s of %s", review.Kind, review.APIVersion, reviewKind, reviewAPIVersion)
	}
	if review.Request == nil || review.Request.UID == "" {
		return nil, fmt.Errorf("the %s has no request with a uid", reviewKind)
	}
	return review.Request, nil
}

func refuse(code int32, err error) *admissionv1.AdmissionResponse {
	return &admissionv1.AdmissionResponse{Result: &metav1.Status{
		Status: metav1.StatusFailure, Code: code, Message: err.Error(), Reason: reasons[code],
	}}
}

var reasons = map[int32]metav1.StatusReason{
	http.StatusBadRequest:          metav1.StatusReasonBadRequest,
	http.StatusInternalServerError: metav1.StatusReasonInternalError,
	http.StatusServiceUnavailable:  metav1.StatusReasonServiceUnavailable,
}

func answer(w http.ResponseWriter, response *admissionv1.AdmissionResponse) {
	review := admissionv1.AdmissionReview{
		TypeMeta: metav1.TypeMeta{APIVersion: reviewAPIVersion, Kind: reviewKind},
		Response: response,
	}
	w.Header().Set("Content-Type", "application/json")
	if err := json.MarshalWrite(w, review); err != nil {
		logf.Log.WithName("webhook").Error(err, "answering a review", "uid", response.UID)
	}
}
