package follower

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	lru "k8s.io/apimachinery/pkg/util/cache"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	accessreview "istag.dev/resolver/access"
)

const (
	// allowedFor is how long a right counts as had without asking again, so that a wave of tags that
	// move asks once. A right that was refused is asked for every time.
	allowedFor = 10 * time.Second
	// allowedMost bounds the rights remembered.
	allowedMost = 10_000
)

// access knows who may use which stream of another namespace.
type access struct {
	client client.Writer
	had    *lru.LRUExpireCache
}

func newAccess(c client.Writer, clock clock.Clock) *access {
	return &access{client: c, had: lru.NewLRUExpireCacheWithClock(allowedMost, clock)}
}

// allowed reports whether a user may use a stream. asked holds the answers of one reconcile: however
// many tags ask the same, the API server is asked once.
func (a *access) allowed(ctx context.Context, asked map[string]bool, user *authenticationv1.UserInfo, namespace, stream string) (bool, error) {
	who, err := json.Marshal(user) // the keys of maps are sorted
	if err != nil {
		return false, fmt.Errorf("encoding the identity of user %q: %w", user.Username, err)
	}
	key := namespace + "/" + stream + " " + string(who)
	if answer, ok := asked[key]; ok {
		return answer, nil
	}
	if _, ok := a.had.Get(key); ok {
		return true, nil
	}
	review := accessreview.Review(user, namespace, stream)
	if err := a.client.Create(ctx, review); err != nil {
		return false, fmt.Errorf("asking whether user %q may use stream %q of namespace %q: %w", user.Username, stream, namespace, err)
	}
	asked[key] = review.Status.Allowed
	if review.Status.Allowed {
		a.had.Add(key, nil, allowedFor)
	}
	return review.Status.Allowed, nil
}
