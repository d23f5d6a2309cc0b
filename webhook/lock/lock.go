// Package lock keeps the images of one revision of a workload the same for all its pods: what the
// names of the revision's template meant is written on the object that stands for the revision, a
// ReplicaSet, a ControllerRevision, a Job or a ReplicationController, when it is made.
//
// The lock is a label and an annotation of the object's own metadata. Its template is not touched: its
// owner would make another revision, for ever. That the lock stays with its revision rests on what
// Kubernetes does (k8s.io/kubernetes v1.36.3):
//
//   - The deployment controller copies a Deployment's annotations to its newest ReplicaSet, adding and
//     overwriting but never removing, and sets labels only when it makes one
//     (pkg/controller/deployment/util, SetNewReplicaSetAnnotations; pkg/controller/deployment, getNewReplicaSet).
//   - `kubectl rollout undo` of a Deployment replaces the Deployment's annotations with those of the old
//     ReplicaSet, and takes no labels but the template's (k8s.io/kubectl/pkg/polymorphichelpers). So the
//     key of the annotation is made from its content: whatever is copied to whichever revision never
//     changes what that one's label means.
//   - A StatefulSet and a DaemonSet copy their annotations to a ControllerRevision when they make it, and
//     undo copies nothing back but the template. Whether two revisions are equal is a question of their
//     data alone (pkg/controller/history, EqualRevision; pkg/controller/daemon, Match).
//   - Labels of the template become labels of the revision, where it is made. What is no lock there is
//     overwritten when the revision is locked.
package lock

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"strings"

	"github.com/go-json-experiment/json"

	"istag.dev/resolver"
)

const (
	// Label of a revision that is locked. Its value says which of the object's annotations is the lock.
	Label = "istag.dev/lock"

	// annotationPrefix and the value of the Label make the key of the annotation.
	annotationPrefix = "lock.istag.dev/"
)

// Lock maps names of images, as they are written in the template, to what they are locked to.
type Lock map[string]resolver.Pin

// Reader reads locks from an index of the locked revisions, and, if that does not have the
// revision (yet), once from the API server.
type Reader interface {
	// Lock returns the lock of a revision; ok is false if the revision is not locked. The lock is shared:
	// it must not be changed.
	Lock(ctx context.Context, r Revision) (l Lock, ok bool, err error)
}

// Text returns the value of the Label, and the key and the value of the annotation that the value means.
// Equal locks give equal text.
func (l Lock) Text() (label, key, value string) {
	text, err := json.Marshal(l, json.Deterministic(true))
	if err != nil {
		return "", "", "" // a map of plain strings and numbers always encodes
	}
	label = labelOf(string(text))
	return label, annotationPrefix + label, string(text)
}

// Read returns the lock of a revision by its labels and annotations; ok is false if it has none, or none
// that is whole.
func Read(labels, annotations map[string]string) (l Lock, ok bool) {
	_, text, ok := read(labels, annotations)
	if !ok {
		return nil, false
	}
	return parse(text)
}

// Stray reports whether the key of an annotation is that of a lock.
func Stray(annotation string) bool { return strings.HasPrefix(annotation, annotationPrefix) }

// read returns the text of a lock with the label that names it; ok is false if there is none whose content
// is what the label says.
func read(labels, annotations map[string]string) (label, text string, ok bool) {
	if label = labels[Label]; label == "" {
		return "", "", false
	}
	text, ok = annotations[annotationPrefix+label]
	return label, text, ok && labelOf(text) == label
}

func parse(text string) (l Lock, ok bool) {
	err := json.Unmarshal([]byte(text), &l)
	return l, err == nil && l != nil
}

// lowerCase is what the value of a label and the name of an annotation may be made of. A SHA-256 is 52
// characters of it, of 63 that are allowed; in hexadecimal it would be 64.
var lowerCase = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

func labelOf(text string) string {
	sum := sha256.Sum256([]byte(text))
	return lowerCase.EncodeToString(sum[:])
}
