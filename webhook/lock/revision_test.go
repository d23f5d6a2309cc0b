package lock

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"
)

func TestRevisionOf(t *testing.T) {
	const uid = types.UID("11111111-1111-1111-1111-111111111111")
	hash := map[string]string{"controller-revision-hash": "7d9c", "pod-template-hash": "5b6f"}
	named := map[string]string{"controller-revision-hash": "web-7d9c"}
	cases := []struct {
		reason                 string
		apiVersion, kind, name string
		labels                 map[string]string
		want                   Revision
		ok                     bool
	}{
		{"a ReplicaSet is a revision itself", "apps/v1", "ReplicaSet", "web-5b6f", hash, Revision{Resource: "replicasets", Name: "web-5b6f", UID: uid}, true},
		{"a Job is", "batch/v1", "Job", "web", nil, Revision{Resource: "jobs", Name: "web", UID: uid}, true},
		{"a ReplicationController is", "v1", "ReplicationController", "web", nil, Revision{Resource: "replicationcontrollers", Name: "web", UID: uid}, true},
		{"a pod of a StatefulSet names its revision", "apps/v1", "StatefulSet", "web", named, Revision{Resource: "controllerrevisions", Name: "web-7d9c", Controller: uid}, true},
		{"a pod of a DaemonSet has the revision's hash", "apps/v1", "DaemonSet", "web", hash, Revision{Resource: "controllerrevisions", Name: "web-7d9c", Controller: uid}, true},
		{"of a revision that had lost its hash it has the name", "apps/v1", "DaemonSet", "web", named, Revision{Resource: "controllerrevisions", Name: "web-7d9c", Controller: uid}, true},
		{"a pod without the label is of no revision", "apps/v1", "StatefulSet", "web", nil, Revision{}, false},
		{"nor is a daemon's", "apps/v1", "DaemonSet", "web", nil, Revision{}, false},
		{"the same kind of another group is something else", "apps.kruise.io/v1", "StatefulSet", "web", named, Revision{}, false},
		{"whatever the kind", "batch.volcano.sh/v1alpha1", "Job", "web", nil, Revision{}, false},
		{"the core group is not every group", "example.com/v1", "ReplicationController", "web", nil, Revision{}, false},
		{"nor is every group the core group", "v1", "ReplicaSet", "web", nil, Revision{}, false},
		{"a Node's mirror pod has no revision", "v1", "Node", "node-1", nil, Revision{}, false},
		{"no owner has none", "", "", "", nil, Revision{}, false},
		{"an owner without a name is nobody", "apps/v1", "ReplicaSet", "", nil, Revision{}, false},
	}
	for _, tc := range cases {
		if tc.ok {
			tc.want.Namespace = "shop"
		}
		got, ok := RevisionOf("shop", Owner{tc.apiVersion, tc.kind, tc.name, uid}, tc.labels)
		if diff := cmp.Diff(tc.want, got); ok != tc.ok || ok && diff != "" {
			t.Errorf("%s: RevisionOf = %v (-want +got):\n%s", tc.reason, ok, diff)
		}
	}
}

func TestRevisionPossible(t *testing.T) {
	good := Revision{Namespace: "shop", Name: "web-1.x", UID: "11111111-1111-1111-1111-111111111111"}
	if !good.possible() {
		t.Errorf("%+v is", good)
	}
	long := types.UID(strings.Repeat("1", 1000))
	for reason, r := range map[string]Revision{
		"a name that climbs":                 {Namespace: "shop", Name: ".."},
		"one with a path":                    {Namespace: "shop", Name: "a/b"},
		"one that is escaped":                {Namespace: "shop", Name: "a%2fb"},
		"a list of all":                      {Namespace: "shop"},
		"a namespace that climbs":            {Namespace: "..", Name: "a"},
		"all namespaces":                     {Name: "a"},
		"a UID that is to fill our memory":   {Namespace: "shop", Name: "a", UID: long},
		"a controller's that is to do so":    {Namespace: "shop", Name: "a", Controller: long},
		"a name that no object is long like": {Namespace: "shop", Name: strings.Repeat("a", 254)},
	} {
		if r.possible() {
			t.Errorf("no object is called so: %s", reason)
		}
	}
}
