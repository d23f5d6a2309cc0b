package store

import (
	"fmt"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	storev1 "istag.dev/store/v1"
)

// Change is what surrounds a change of a stream: who asks for it, when, and how other streams are read.
type Change struct {
	// By is who asks; it goes into the origin of every tag event that comes of the change.
	By storev1.Requester
	// Identity is who asks, in full. It is stored only with tags that follow a tag of another namespace.
	Identity authenticationv1.UserInfo
	// Source reads the streams that tags copy from.
	Source Source
	// Now is the time of new events, in whole seconds, as the API keeps them.
	Now metav1.Time
}

// Source returns the record of another stream, or nil if there is none. If whoever asks may not use
// streams of that namespace the error is a *ForbiddenError, made before anything about the stream was
// looked at; every other error is the store's own.
type Source func(namespace, stream string) (*storev1.StreamRecord, error)

// ForbiddenError says that a user may not use a stream of another namespace.
type ForbiddenError struct {
	Namespace, Stream string
	// Reason is the authorizer's, and can be empty.
	Reason string
}

func (e *ForbiddenError) Error() string {
	message := fmt.Sprintf("you may not use stream %q of namespace %q: that needs \"get\" on imagestreams/layers there", e.Stream, e.Namespace)
	if e.Reason != "" {
		message += " (" + e.Reason + ")"
	}
	return message
}
