package webhook

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"runtime/debug"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	admissionv1 "k8s.io/api/admission/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	logf "sigs.k8s.io/controller-runtime/pkg/log"

	"istag.dev/webhook/audit"
)

const (
	// maxBody is what a review can come to: two objects of at most 3 MiB each, the API server's limit
	// for one, and the rest of the request.
	maxBody = 7 << 20
	// maxKept is the largest buffer that is kept for the next review.
	maxKept = 1 << 20

	// maxReview is the longest that a review takes, whatever time the API server gives it.
	maxReview = 4500 * time.Millisecond

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
	DryRun    bool    `json:"dryRun"`
	Object    *object `json:"object"`
	OldObject *object `json:"oldObject"`
}

// buffers are what a review needs besides what it keeps. They are used again.
type buffers struct {
	body    bytes.Buffer
	patch   []byte
	answer  []byte
	records []audit.Record
}

// put gives buffers back, unless a review of unusual size made them large.
func (p *Pinner) put(b *buffers) {
	if b.body.Cap() > maxKept || cap(b.patch) > maxKept || cap(b.answer) > maxKept || cap(b.records) > maxKept/1024 {
		return
	}
	clear(b.records)
	b.body.Reset()
	b.patch, b.answer, b.records = b.patch[:0], b.answer[:0], b.records[:0]
	p.pool.Put(b)
}

// serve answers an AdmissionReview of admission.k8s.io/v1 with another one, whatever happens, once it is ready.
func (p *Pinner) serve(w http.ResponseWriter, r *http.Request, h hook) {
	start := time.Now()
	b, _ := p.pool.Get().(*buffers)
	defer p.put(b)
	response := &response{}
	defer func() {
		if cause := recover(); cause != nil {
			logf.FromContext(r.Context()).Error(fmt.Errorf("panic: %v", cause), "reviewing", "stack", string(debug.Stack()))
			response = refuse(response.uid, http.StatusInternalServerError, errors.New("istag's webhook failed; its log says more"))
		}
		if response.unready {
			http.Error(w, response.status.Message, http.StatusServiceUnavailable)
			return
		}
		b.answer = response.append(b.answer[:0])
		w.Header()["Content-Type"] = jsonContent
		if _, err := w.Write(b.answer); err != nil {
			logf.Log.WithName("webhook").Error(err, "answering a review", "uid", response.uid)
		}
		p.options.Metrics.took(string(h), time.Since(start))
	}()
	request, err := readRequest(w, r, &b.body)
	if err != nil {
		code := int32(http.StatusBadRequest)
		if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
			code = http.StatusRequestEntityTooLarge
		}
		response = refuse("", code, err)
		return
	}
	response.uid = request.UID
	ctx, cancel := context.WithDeadline(r.Context(), start.Add(reviewTime(r)))
	defer cancel()
	response = p.review(ctx, &review{
		pinner: p, hook: h, request: request, buffers: b, start: start,
	})
}

// jsonContent is shared by all answers, which never change it.
var jsonContent = []string{"application/json"}

// reviewTime is how long a review may take: what the API server gives it, less a tenth for the way.
func reviewTime(r *http.Request) time.Duration {
	const name = "timeout"
	given := ""
	if r.URL.RawQuery != "" {
		given = r.URL.Query().Get(name)
	}
	timeout, err := time.ParseDuration(given)
	if err != nil || timeout <= 0 {
		return maxReview
	}
	return min(timeout-timeout/10, maxReview)
}

func readRequest(w http.ResponseWriter, r *http.Request, body *bytes.Buffer) (*admissionRequest, error) {
	contentType := r.Header.Get("Content-Type")
	if contentType != jsonContent[0] {
		if mediaType, _, err := mime.ParseMediaType(contentType); err != nil || mediaType != jsonContent[0] {
			return nil, fmt.Errorf("content type %q: expected application/json", contentType)
		}
	}
	if n := r.ContentLength; n > 0 && n <= maxBody {
		body.Grow(int(n) + bytes.MinRead)
	}
	_, err := body.ReadFrom(http.MaxBytesReader(w, r.Body, maxBody))
	var review admissionReview
	if err == nil {
		err = decode(body.Bytes(), &review)
	}
	if err != nil {
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

// decode reads a review. A custom resource need not look like an object of Kubernetes: if it does not, the review
// is read without it.
func decode(body []byte, review *admissionReview) error {
	err := json.Unmarshal(body, review)
	if err == nil {
		return nil
	}
	var plain struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
		Request    *struct {
			admissionRequest `json:",inline"`

			Object    jsontext.Value `json:"object"`
			OldObject jsontext.Value `json:"oldObject"`
		} `json:"request"`
	}
	if json.Unmarshal(body, &plain) != nil || plain.Request == nil || builtIn(plain.Request.Resource.Group) {
		return err
	}
	*review = admissionReview{APIVersion: plain.APIVersion, Kind: plain.Kind, Request: &plain.Request.admissionRequest}
	if plain.Request.Object.Kind() == '{' {
		review.Request.Object = &object{}
	}
	return nil
}

// builtIn reports whether the kinds of a group are those of Kubernetes, whose shape is known.
func builtIn(group string) bool { return group == "" || group == "apps" || group == "batch" }

// userOf reads who makes a request in full, which few reviews need.
func userOf(body []byte) (authenticationv1.UserInfo, error) {
	var review struct {
		Request struct {
			UserInfo authenticationv1.UserInfo `json:"userInfo"`
		} `json:"request"`
	}
	if err := json.Unmarshal(body, &review); err != nil {
		return authenticationv1.UserInfo{}, fmt.Errorf("reading the user of the request: %w", err)
	}
	return review.Request.UserInfo, nil
}
