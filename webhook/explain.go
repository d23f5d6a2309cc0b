package webhook

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"
	"golang.org/x/sync/semaphore"
	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apiserver/pkg/authentication/authenticatorfactory"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	"k8s.io/apiserver/pkg/endpoints/filters"
	"k8s.io/apiserver/pkg/endpoints/filters/impersonation"
	apirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/server/options"
	authenticationclient "k8s.io/client-go/kubernetes/typed/authentication/v1"
	authorizationclient "k8s.io/client-go/kubernetes/typed/authorization/v1"
	"k8s.io/client-go/rest"
	logf "sigs.k8s.io/controller-runtime/pkg/log"
)

const (
	// ExplainPath is where anyone with a token may ask what an image would become, and why.
	ExplainPath = "/explain"

	// maxQuestion bounds the text of a question, maxToken the header that says who asks.
	maxQuestion, maxToken = 4 << 10, 32 << 10
	// maxExplaining bounds what is answered at once: reviews go first.
	maxExplaining = 16
	// explainTimeout is how long the API server has to say who asks, and then the answer.
	explainTimeout = 5 * time.Second
	// allowedFor and deniedFor are how long what the API server said of a user is remembered. It is short
	// for those who were just given the right that they lacked.
	allowedFor, deniedFor = 10 * time.Second, time.Second
)

// explainer says what would be decided. A Pinner is one.
type explainer interface {
	Explain(ctx context.Context, q Question) (Answer, error)
}

// NewExplain returns a handler that answers GET with the query parameters namespace, image and, if need be,
// resource and optIn, by an Answer as JSON. Who asks is known by a bearer token, which the API server of
// cluster reviews, and must be allowed to create pods in the namespace or to get imagestreamtags there;
// who may impersonate another may ask for them, by the headers of the Kubernetes API. Errors are
// metav1.Status.
func NewExplain(cluster *rest.Config, pinner explainer) (http.Handler, error) {
	authentication, err := authenticationclient.NewForConfig(cluster)
	if err != nil {
		return nil, err
	}
	authorization, err := authorizationclient.NewForConfig(cluster)
	if err != nil {
		return nil, err
	}
	known, _, err := authenticatorfactory.DelegatingAuthenticatorConfig{
		TokenAccessReviewClient:  authentication,
		TokenAccessReviewTimeout: explainTimeout,
		WebhookRetryBackoff:      options.DefaultAuthWebhookRetryBackoff(),
		CacheTTL:                 allowedFor,
	}.New()
	if err != nil {
		return nil, fmt.Errorf("setting up authentication: %w", err)
	}
	may, err := authorizerfactory.DelegatingAuthorizerConfig{
		SubjectAccessReviewClient: authorization,
		AllowCacheTTL:             allowedFor,
		DenyCacheTTL:              deniedFor,
		WebhookRetryBackoff:       options.DefaultAuthWebhookRetryBackoff(),
	}.New()
	if err != nil {
		return nil, fmt.Errorf("setting up authorization: %w", err)
	}
	scheme := runtime.NewScheme()
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})

	var handler http.Handler = &explain{pinner: pinner, may: may}
	handler = impersonation.WithImpersonation(handler, may, serializer.NewCodecFactory(scheme))
	handler = filters.WithAuthentication(handler, known, http.HandlerFunc(stranger), nil, nil)
	return bounded(handler), nil
}

// bounded takes what is worth being looked at, and no more at once than there is room for.
func bounded(next http.Handler) http.Handler {
	room := semaphore.NewWeighted(maxExplaining)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method != http.MethodGet:
			w.Header().Set("Allow", http.MethodGet)
			answerError(w, apierrors.NewGenericServerResponse(http.StatusMethodNotAllowed, r.Method, schema.GroupResource{}, "", "ask with GET", 0, true))
			return
		case len(r.URL.RawQuery) > maxQuestion:
			answerError(w, apierrors.NewBadRequest(fmt.Sprintf("the question is longer than %d bytes", maxQuestion)))
			return
		case len(r.Header.Get("Authorization")) > maxToken:
			stranger(w, r)
			return
		case !room.TryAcquire(1):
			w.Header().Set("Retry-After", "1")
			answerError(w, apierrors.NewTooManyRequests("too many questions at once; try again in a moment", 1))
			return
		}
		defer room.Release(1)
		ctx, cancel := context.WithTimeout(r.Context(), explainTimeout)
		defer cancel()
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

// stranger answers those whom the API server does not know.
func stranger(w http.ResponseWriter, _ *http.Request) {
	answerError(w, apierrors.NewUnauthorized(`say who asks by a header "Authorization: Bearer TOKEN" with a token that the cluster's API server takes`))
}

type explain struct {
	pinner explainer
	may    authorizer.UnconditionalAuthorizer
}

func (e *explain) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	asks, ok := apirequest.UserFrom(r.Context())
	if !ok {
		stranger(w, r)
		return
	}
	question, err := parseQuestion(r.URL.RawQuery)
	if err != nil {
		answerError(w, apierrors.NewBadRequest(err.Error()))
		return
	}
	if err := e.authorize(r.Context(), asks, question.Namespace); err != nil {
		answerError(w, err)
		return
	}
	question.User = userInfo(asks)
	answer, err := e.pinner.Explain(r.Context(), question)
	if err != nil {
		answerError(w, cannotTell(r.Context(), err, question))
		return
	}
	answerJSON(w, http.StatusOK, answer)
}

// cannotTell makes the answer of an error. Users are told what was meant for them; the log has the rest.
func cannotTell(ctx context.Context, err error, q Question) apierrors.APIStatus {
	logf.FromContext(ctx).Error(err, "explaining", "namespace", q.Namespace, "image", q.Image)
	if meant := (*statusError)(nil); errors.As(err, &meant) {
		return apierrors.NewServiceUnavailable(meant.Error())
	}
	return apierrors.NewServiceUnavailable("istag cannot tell now; its webhook's log says why")
}

// authorize returns nil if a user may know what images mean in a namespace.
func (e *explain) authorize(ctx context.Context, asks user.Info, namespace string) apierrors.APIStatus {
	var errs []error
	for _, right := range []authorizer.AttributesRecord{
		{Verb: "create", APIVersion: "v1", Resource: "pods"},
		{Verb: "get", APIGroup: "image.openshift.io", APIVersion: "v1", Resource: "imagestreamtags"},
	} {
		right.User, right.Namespace, right.ResourceRequest = asks, namespace, true
		decision, _, err := e.may.Authorize(ctx, right)
		if decision == authorizer.DecisionAllow {
			return nil
		}
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		logf.FromContext(ctx).Error(err, "asking what a user may", "user", asks.GetName(), "namespace", namespace)
		return apierrors.NewServiceUnavailable("the cluster's API server does not say now what you may; try again in a moment")
	}
	return apierrors.NewForbidden(schema.GroupResource{}, "", fmt.Errorf("user %q asks about namespace %q, which takes the right to create pods or to get imagestreamtags.image.openshift.io there", asks.GetName(), namespace))
}

// parseQuestion reads the parameters of a question.
func parseQuestion(query string) (Question, error) {
	values, err := url.ParseQuery(query)
	if err != nil {
		return Question{}, fmt.Errorf("the question cannot be read: %w", err)
	}
	q := Question{Resource: schema.GroupResource{Resource: "pods"}}
	for name, given := range values {
		if len(given) != 1 {
			return Question{}, fmt.Errorf("parameter %q is given %d times", name, len(given))
		}
		value := given[0]
		switch name {
		case "namespace":
			q.Namespace = value
		case "image":
			q.Image = value
		case "resource":
			if q.Resource = schema.ParseGroupResource(value); q.Resource.Resource == "" {
				return Question{}, fmt.Errorf("parameter %q must be a resource, with its group if it has one, as in deployments.apps: got %q", name, value)
			}
		case "optIn":
			if q.OptIn, err = strconv.ParseBool(value); err != nil {
				return Question{}, fmt.Errorf("parameter %q must be true or false: got %q", name, value)
			}
		default:
			return Question{}, fmt.Errorf("parameter %q is not known; there are namespace, image, resource and optIn", name)
		}
	}
	if problems := validation.IsDNS1123Label(q.Namespace); len(problems) > 0 {
		return Question{}, fmt.Errorf("parameter %q must be the name of a namespace: got %q", "namespace", q.Namespace)
	}
	if q.Image == "" {
		return Question{}, fmt.Errorf("parameter %q must be the image as a manifest would have it", "image")
	}
	return q, nil
}

func userInfo(asks user.Info) authenticationv1.UserInfo {
	info := authenticationv1.UserInfo{Username: asks.GetName(), UID: asks.GetUID(), Groups: asks.GetGroups()}
	for key, values := range asks.GetExtra() {
		if info.Extra == nil {
			info.Extra = map[string]authenticationv1.ExtraValue{}
		}
		info.Extra[key] = values
	}
	return info
}

func answerError(w http.ResponseWriter, err apierrors.APIStatus) {
	status := err.Status()
	status.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}
	answerJSON(w, int(status.Code), status)
}

func answerJSON(w http.ResponseWriter, code int, body any) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	if err := json.MarshalWrite(w, body); err != nil {
		logf.Log.WithName("webhook").Error(err, "answering a question")
	}
}
