package lock

import (
	"strings"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
)

// What revisions are, as resources.
const (
	replicaSets            = "replicasets"
	controllerRevisions    = "controllerrevisions"
	jobs                   = "jobs"
	replicationControllers = "replicationcontrollers"
)

// hashLabel is the label of pods of StatefulSets and DaemonSets that says which revision they are of.
const hashLabel = "controller-revision-hash"

// Revision is the object that stands for the revision that a pod is of.
type Revision struct {
	// Resource is "replicasets", "controllerrevisions", "jobs" or "replicationcontrollers".
	Resource        string
	Namespace, Name string
	// UID of the object; empty if only its name is known.
	UID types.UID
	// Controller is the UID of what made the object, if its own is not known. A workload that is deleted
	// and made again with the same template has revisions of the same names.
	Controller types.UID
}

// longestUID is far more than a UUID has.
const longestUID = 64

// possible reports whether an object can be called so. Whoever writes a pod chooses the names of its
// owner, and admission comes before anyone looks at them.
func (r Revision) possible() bool {
	return len(r.UID) <= longestUID && len(r.Controller) <= longestUID &&
		len(validation.IsDNS1123Label(r.Namespace)) == 0 && len(validation.IsDNS1123Subdomain(r.Name)) == 0
}

// Owner is the controller of a pod.
type Owner struct {
	APIVersion, Kind, Name string
	UID                    types.UID
}

// RevisionOf returns the revision of a pod by its controller and its labels; ok is false if
// revisions of such a controller are not known.
func RevisionOf(namespace string, owner Owner, labels map[string]string) (r Revision, ok bool) {
	r = Revision{Namespace: namespace, Name: owner.Name, UID: owner.UID}
	switch owner.APIVersion + " " + owner.Kind {
	case "apps/v1 ReplicaSet":
		r.Resource = replicaSets
	case "batch/v1 Job":
		r.Resource = jobs
	case "v1 ReplicationController":
		r.Resource = replicationControllers
	case "apps/v1 StatefulSet":
		// The label is the ControllerRevision's name (pkg/controller/statefulset, setPodRevision).
		r = Revision{Resource: controllerRevisions, Namespace: namespace, Name: labels[hashLabel], Controller: owner.UID}
	case "apps/v1 DaemonSet":
		r = Revision{Resource: controllerRevisions, Namespace: namespace, Name: daemonRevision(owner.Name, labels[hashLabel]), Controller: owner.UID}
	}
	return r, r.Resource != "" && r.Name != ""
}

// daemonRevision returns the name of a DaemonSet's ControllerRevision (pkg/controller/daemon, snapshot). A
// hash has no hyphen: the label of a revision that lost its own is its whole name (constructHistory).
func daemonRevision(name, hash string) string {
	if hash == "" || strings.Contains(hash, "-") {
		return hash
	}
	return name + "-" + hash
}
