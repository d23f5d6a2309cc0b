// Package access is the question whether somebody may use an image stream of another namespace.
package access

import (
	imagev1 "github.com/openshift/api/image/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
)

// Review asks whether a user may use a stream: whether they may "get" its imagestreams/layers, as for a pull.
func Review(user *authenticationv1.UserInfo, namespace, stream string) *authorizationv1.SubjectAccessReview {
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
