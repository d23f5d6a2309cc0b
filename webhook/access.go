package webhook

import (
	"context"
	"encoding/json"
	"fmt"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	lru "k8s.io/apimachinery/pkg/util/cache"
	client "k8s.io/client-go/kubernetes/typed/authorization/v1"
	"k8s.io/client-go/rest"

	"istag.dev/resolver/access"
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
	review, err := a.client.Create(ctx, access.Review(&user, namespace, stream), metav1.CreateOptions{})
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
