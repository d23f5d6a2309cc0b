package streams

import (
	"context"
	"slices"

	imagev1 "github.com/openshift/api/image/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
)

// excludeSecret, "true" on a Secret, keeps it out of imagestreams/secrets.
const excludeSecret = "openshift.io/image.excludeSecret"

// SecretsREST serves imagestreams/secrets: the pull secrets of a namespace, whatever stream is named. They
// are read with the server's own rights, so that the right to this resource is what guards them.
type SecretsREST struct {
	secrets corev1client.SecretsGetter
}

var _ rest.Getter = &SecretsREST{}

// NewSecrets returns imagestreams/secrets.
func NewSecrets(secrets corev1client.SecretsGetter) *SecretsREST { return &SecretsREST{secrets} }

// New returns an empty SecretList.
func (*SecretsREST) New() runtime.Object { return &imagev1.SecretList{} }

// Destroy does nothing.
func (*SecretsREST) Destroy() {}

// Get returns the pull secrets of the request's namespace.
func (r *SecretsREST) Get(ctx context.Context, _ string, _ *metav1.GetOptions) (runtime.Object, error) {
	namespace := request.NamespaceValue(ctx)
	list, err := r.secrets.Secrets(namespace).List(ctx, metav1.ListOptions{})
	if apierrors.IsForbidden(err) {
		return nil, apierrors.NewForbidden(imagev1.Resource("imagestreams/secrets"), "", noSecretsError{})
	}
	if err != nil {
		return nil, err
	}
	list.Items = slices.DeleteFunc(list.Items, func(s corev1.Secret) bool {
		pull := s.Type == corev1.SecretTypeDockercfg || s.Type == corev1.SecretTypeDockerConfigJson
		return !pull || s.Annotations[excludeSecret] == "true"
	})
	out := imagev1.SecretList(*list)
	return &out, nil
}

// noSecretsError says that the administrator keeps istag from reading Secrets.
type noSecretsError struct{}

func (noSecretsError) Error() string {
	return "the image API may not list Secrets here; an administrator can grant it by the ClusterRole istag-pull-secrets"
}
