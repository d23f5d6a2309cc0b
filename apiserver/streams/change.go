package streams

import (
	"context"
	"time"

	imagev1 "github.com/openshift/api/image/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/request"

	"istag.dev/store"
	storev1 "istag.dev/store/v1"
)

// changeOf returns what surrounds a change that a request makes: who makes it, when, and which other
// streams it may use.
func (r *Registry) changeOf(ctx context.Context) store.Change {
	c := store.Change{
		Source: r.source(ctx),
		// The precision that the API keeps, so that a time compares equal after it was stored.
		Now: metav1.NewTime(time.Now().Truncate(time.Second)),
	}
	if info, ok := request.RequestInfoFrom(ctx); ok {
		c.By.Verb, c.By.Resource = info.Verb, info.Resource
		if info.Subresource != "" {
			c.By.Resource += "/" + info.Subresource
		}
	}
	if user, ok := request.UserFrom(ctx); ok {
		c.By.User = user.GetName()
		c.Identity = authenticationv1.UserInfo{Username: user.GetName(), UID: user.GetUID(), Groups: user.GetGroups()}
		for key, values := range user.GetExtra() {
			if c.Identity.Extra == nil {
				c.Identity.Extra = map[string]authenticationv1.ExtraValue{}
			}
			c.Identity.Extra[key] = values
		}
	}
	return c
}

// source reads streams that tags copy from. The namespace of the request is the user's own affair; for
// any other the user must be allowed to pull from the stream, which is asked before it is looked at.
func (r *Registry) source(ctx context.Context) store.Source {
	return func(namespace, stream string) (*storev1.StreamRecord, error) {
		if namespace != request.NamespaceValue(ctx) {
			if err := r.mayPull(ctx, namespace, stream); err != nil {
				return nil, err
			}
		}
		record, err := r.Get(request.WithNamespace(ctx, namespace), stream)
		if apierrors.IsNotFound(err) || apierrors.IsBadRequest(err) {
			return nil, nil // So a Source says that there is no such stream.
		}
		return record, err
	}
}

// mayPull returns nil if the request's user may "get" imagestreams/layers, which is OpenShift's right to pull.
func (r *Registry) mayPull(ctx context.Context, namespace, stream string) error {
	user, ok := request.UserFrom(ctx)
	if !ok {
		return &store.ForbiddenError{Namespace: namespace, Stream: stream}
	}
	decision, reason, err := r.authorizer.Authorize(ctx, authorizer.AttributesRecord{
		User:            user,
		Verb:            "get",
		Namespace:       namespace,
		APIGroup:        imagev1.GroupVersion.Group,
		APIVersion:      imagev1.GroupVersion.Version,
		Resource:        "imagestreams",
		Subresource:     "layers",
		Name:            stream,
		ResourceRequest: true,
	})
	if decision == authorizer.DecisionAllow {
		return nil
	}
	if err != nil && decision != authorizer.DecisionDeny && reason == "" {
		return apierrors.NewInternalError(err)
	}
	return &store.ForbiddenError{Namespace: namespace, Stream: stream, Reason: reason}
}
