package webhook

import (
	"context"
	"encoding/json"
	"fmt"

	imagev1 "github.com/openshift/api/image/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	lru "k8s.io/apimachinery/pkg/util/cache"
	client "k8s.io/client-go/kubernetes/typed/authorization/v1"
	"k8s.io/client-go/rest"
)

// accessMost bounds the answers remembered.
const accessMost = 10_000

// Access asks the API server who may use which stream of another namespace.
type Access struct {
	client  client.SubjectAccessReviewInterface
	answers *lru.LRUExpireCache
}

// NewAccess returns an Access that asks the API server of a client configuration, with its identity.
func NewAccess(config *rest.Config) (*Access, error) {
	config = rest.CopyConfig(config)
	config.QPS = -1 // as for streams
	c, err := client.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	return &Access{client: c.SubjectAccessReviews(), answers: lru.NewLRUExpireCache(accessMost)}, nil
}

// May reports whether a user may use a stream: whether they may "get" its imagestreams/layers, as for a pull. The
// answer can be some seconds old.
func (a *Access) May(ctx context.Context, user authenticationv1.UserInfo, namespace, stream string) (bool, error) {
	who, err := json.Marshal(user) // the keys of maps are sorted
	if err != nil {
		return false, fmt.Errorf("encoding the identity of user %q: %w", user.Username, err)
	}
	key := namespace + "/" + stream + " " + string(who)
	if answer, ok := a.answers.Get(key); ok {
		return answer == true, nil
	}
	review, err := a.client.Create(ctx, accessReview(user, namespace, stream), metav1.CreateOptions{})
	if err != nil {
		return false, err
	}
	// An explicit refusal counts as one, as it does for the API server itself.
	allowed := review.Status.Allowed && !review.Status.Denied
	keep := deniedFor
	if allowed {
		keep = allowedFor
	}
	a.answers.Add(key, allowed, keep)
	return allowed, nil
}

func accessReview(user authenticationv1.UserInfo, namespace, stream string) *authorizationv1.SubjectAccessReview {
	extra := make(map[string]authorizationv1.ExtraValue, len(user.Extra))
	for key, values := range user.Extra {
		extra[key] = authorizationv1.ExtraValue(values)
	}
	return &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User:   user.Username,
		UID:    user.UID,
		Groups: user.Groups,
		Extra:  extra,
		ResourceAttributes: &authorizationv1.ResourceAttributes{
			Namespace:   namespace,
			Verb:        "get",
			Group:       imagev1.GroupName,
			Resource:    "imagestreams",
			Subresource: "layers",
			Name:        stream,
		},
	}}
}
