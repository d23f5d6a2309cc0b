package deploy_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	imagev1 "github.com/openshift/api/image/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// rules returns every RBAC rule under the role that holds it.
func rules(set objects) map[string][]rbacv1.PolicyRule {
	out := map[string][]rbacv1.PolicyRule{}
	for _, r := range all[*rbacv1.ClusterRole](set) {
		out[nameOf(r)] = r.Rules
	}
	for _, r := range all[*rbacv1.Role](set) {
		out[nameOf(r)] = r.Rules
	}
	return out
}

func TestRulesAreNarrow(t *testing.T) {
	// Whoever may do these to the named resources may do everything, sooner or later.
	escalating := []string{"escalate", "bind", "impersonate", "delete", "deletecollection"}
	allowed := []string{
		"ClusterRole /istag-apiserver: delete [streamrecords imagerecords]", // it is how users delete theirs
		"ClusterRole /istag-pull-secrets: list [secrets]",                   // a role of its own, to be removed at will
	}

	eachOverlay(t, func(t *testing.T, set objects) {
		for role, rules := range rules(set) {
			for _, rule := range rules {
				checkRule(t, role, rule)
				if slices.Equal(rule.APIGroups, []string{imagev1.GroupName}) {
					continue // The users' own: TestUserRoles.
				}
				for _, verb := range rule.Verbs {
					what := fmt.Sprintf("%s: %s %v", role, verb, rule.Resources)
					secrets := strings.HasPrefix(role, "ClusterRole ") && slices.Contains(rule.Resources, "secrets")
					if (secrets || slices.Contains(escalating, verb)) && !slices.Contains(allowed, what) {
						t.Errorf("%s: nothing here needs that", what)
					}
				}
			}
		}
	})
}

// checkRule checks what holds for every rule.
func checkRule(t *testing.T, role string, rule rbacv1.PolicyRule) {
	t.Helper()
	for what, values := range map[string][]string{
		"apiGroups": rule.APIGroups, "resources": rule.Resources, "verbs": rule.Verbs,
		"resourceNames": rule.ResourceNames, "nonResourceURLs": rule.NonResourceURLs,
	} {
		for _, value := range values {
			if strings.Contains(value, "*") {
				t.Errorf("%s: wildcard in %s: %v", role, what, values)
			}
		}
	}
	if slices.Contains(rule.Verbs, "create") && len(rule.ResourceNames) > 0 {
		t.Errorf("%s: a rule to create cannot be limited to names %v, and grants nothing", role, rule.ResourceNames)
	}
}

// grants says whether a ServiceAccount may do verb to a resource; name is "" where any name is meant, ns is "" where all namespaces are.
func grants(set objects, account, verb, group, resource, name, ns string) bool {
	var granted []rbacv1.PolicyRule
	bound := func(subjects []rbacv1.Subject) bool {
		return slices.Contains(subjects, rbacv1.Subject{Kind: "ServiceAccount", Name: account, Namespace: namespace})
	}
	for _, b := range all[*rbacv1.ClusterRoleBinding](set) {
		if role := find[*rbacv1.ClusterRole](set, b.RoleRef.Name); bound(b.Subjects) && b.RoleRef.Kind == "ClusterRole" && role != nil {
			granted = append(granted, role.Rules...)
		}
	}
	for _, b := range all[*rbacv1.RoleBinding](set) {
		if role := find[*rbacv1.Role](set, b.RoleRef.Name); bound(b.Subjects) && b.RoleRef.Kind == "Role" && role != nil && ns == b.Namespace {
			granted = append(granted, role.Rules...)
		}
	}
	return slices.ContainsFunc(granted, func(r rbacv1.PolicyRule) bool {
		return slices.Contains(r.Verbs, verb) && slices.Contains(r.APIGroups, group) && slices.Contains(r.Resources, resource) &&
			(len(r.ResourceNames) == 0 || slices.Contains(r.ResourceNames, name))
	})
}

func TestGrants(t *testing.T) {
	const (
		webhook, controller, apiserver = "istag-webhook", "istag-controller", "istag-apiserver"
		yes, no                        = "base cert-manager argo-rollouts", ""
		selfManaged                    = "base argo-rollouts"
	)
	cases := map[string]struct {
		reason                                   string
		account, verb, group, resource, name, ns string
		in                                       string
	}{
		"WebhookWatchesStreams": {
			reason:  "Admission answers from an index of all streams.",
			account: webhook, verb: "watch", group: "store.istag.dev", resource: "streamrecords", in: yes,
		},
		"WebhookReadsImages": {
			reason:  "Execution rules are about labels and annotations of images.",
			account: webhook, verb: "watch", group: "store.istag.dev", resource: "imagerecords", in: yes,
		},
		"WebhookReadsNamespaces": {
			reason:  "What a namespace asks for is on its labels.",
			account: webhook, verb: "watch", resource: "namespaces", in: yes,
		},
		"WebhookReadsReplicaSets": {
			reason:  "The lock of a revision is on its ReplicaSet.",
			account: webhook, verb: "watch", group: "apps", resource: "replicasets", in: yes,
		},
		"WebhookReadsControllerRevisions": {
			reason:  "Or on its ControllerRevision.",
			account: webhook, verb: "watch", group: "apps", resource: "controllerrevisions", in: yes,
		},
		"WebhookReadsJobs": {
			reason:  "Or on its Job.",
			account: webhook, verb: "watch", group: "batch", resource: "jobs", in: yes,
		},
		"WebhookReadsReplicationControllers": {
			reason:  "Or on its ReplicationController.",
			account: webhook, verb: "watch", resource: "replicationcontrollers", in: yes,
		},
		"WebhookWritesNoReplicaSet": {
			reason:  "Its answers change objects; it changes none itself.",
			account: webhook, verb: "update", group: "apps", resource: "replicasets", in: no,
		},
		"WebhookReadsNoPods": {
			reason:  "Those it needs are in the reviews.",
			account: webhook, verb: "list", resource: "pods", in: no,
		},
		"WebhookAsksWhoMay": {
			reason:  "Whoever names a stream of another namespace must have a right to it.",
			account: webhook, verb: "create", group: "authorization.k8s.io", resource: "subjectaccessreviews", in: yes,
		},
		"WebhookAsksWhoIsThere": {
			reason:  "Whoever wants an explanation says who they are.",
			account: webhook, verb: "create", group: "authentication.k8s.io", resource: "tokenreviews", in: yes,
		},
		"WebhookTellsEvents": {
			reason:  "A refusal is an event.",
			account: webhook, verb: "create", resource: "events", in: yes,
		},
		"WebhookWritesNoStream": {
			reason:  "The role that hears strangers must not be able to move a tag.",
			account: webhook, verb: "update", group: "store.istag.dev", resource: "streamrecords", in: no,
		},
		"WebhookReadsNoSecret": {
			reason:  "Nor may it read a key, not even its own but from the volume.",
			account: webhook, verb: "get", resource: "secrets", name: "istag-tls", ns: namespace, in: no,
		},
		"ControllerWritesStreams": {
			reason:  "An import records what it found.",
			account: controller, verb: "update", group: "store.istag.dev", resource: "streamrecords", in: yes,
		},
		"ControllerRecordsImages": {
			reason:  "An imported image is recorded under its digest.",
			account: controller, verb: "create", group: "store.istag.dev", resource: "imagerecords", in: yes,
		},
		"ControllerPatchesDeployments": {
			reason:  "A trigger sets the image of a Deployment.",
			account: controller, verb: "patch", group: "apps", resource: "deployments", in: yes,
		},
		"ControllerPatchesCronJobs": {
			reason:  "A trigger sets the image of a CronJob.",
			account: controller, verb: "patch", group: "batch", resource: "cronjobs", in: yes,
		},
		"ControllerPatchesNoPods": {
			reason:  "Pods get their image from admission; a right to patch them is a right to run anything anywhere.",
			account: controller, verb: "patch", resource: "pods", in: no,
		},
		"ControllerTellsEvents": {
			reason:  "Users see failures as events of their objects.",
			account: controller, verb: "create", group: "events.k8s.io", resource: "events", in: yes,
		},
		"ControllerIsElected": {
			reason:  "Leader election makes a Lease.",
			account: controller, verb: "create", group: "coordination.k8s.io", resource: "leases", ns: namespace, in: yes,
		},
		"ControllerStaysElected": {
			reason:  "Leader election renews that Lease.",
			account: controller, verb: "update", group: "coordination.k8s.io", resource: "leases", name: "istag-controller", ns: namespace, in: yes,
		},
		"ControllerLeavesOtherLeases": {
			reason:  "Somebody else's Lease decides somebody else's leader.",
			account: controller, verb: "update", group: "coordination.k8s.io", resource: "leases", name: "other", ns: namespace, in: no,
		},
		"RotatorListsSecrets": {
			reason:  "The library's cache holds the Secrets of the namespace; cert-manager's users need no rotator.",
			account: controller, verb: "list", resource: "secrets", ns: namespace, in: selfManaged,
		},
		"RotatorWritesTheSecret": {
			reason:  "The certificate is kept there.",
			account: controller, verb: "update", resource: "secrets", name: "istag-tls", ns: namespace, in: selfManaged,
		},
		"RotatorWritesNoOtherSecret": {
			reason:  "There is no need to.",
			account: controller, verb: "update", resource: "secrets", name: "other", ns: namespace, in: no,
		},
		"NoSecretsElsewhere": {
			reason:  "A Secret of another namespace is its tenants' own.",
			account: controller, verb: "get", resource: "secrets", name: "istag-tls", ns: "default", in: no,
		},
		"TrustIsWatched": {
			reason:  "The CA bundle is put back when somebody empties it.",
			account: controller, verb: "watch", group: "admissionregistration.k8s.io", resource: "mutatingwebhookconfigurations", name: "istag", in: selfManaged,
		},
		"TrustIsWritten": {
			reason:  "The API server must trust the certificate that was made.",
			account: controller, verb: "update", group: "admissionregistration.k8s.io", resource: "mutatingwebhookconfigurations", name: "istag", in: selfManaged,
		},
		"TrustOfTheCheckIsWatched": {
			reason:  "So is that in the validating webhooks.",
			account: controller, verb: "watch", group: "admissionregistration.k8s.io", resource: "validatingwebhookconfigurations", name: "istag", in: selfManaged,
		},
		"TrustOfTheCheckIsWritten": {
			reason:  "They are served with the same certificate.",
			account: controller, verb: "update", group: "admissionregistration.k8s.io", resource: "validatingwebhookconfigurations", name: "istag", in: selfManaged,
		},
		"OtherChecksAreNot": {
			reason:  "Whoever writes another's webhook configuration can switch it off.",
			account: controller, verb: "update", group: "admissionregistration.k8s.io", resource: "validatingwebhookconfigurations", name: "other", in: no,
		},
		"TrustInTheAPIIsWatched": {
			reason:  "So is the APIService's.",
			account: controller, verb: "watch", group: "apiregistration.k8s.io", resource: "apiservices", name: "v1.image.openshift.io", in: selfManaged,
		},
		"TrustInTheAPIIsWritten": {
			reason:  "The API server must trust the API's certificate too.",
			account: controller, verb: "update", group: "apiregistration.k8s.io", resource: "apiservices", name: "v1.image.openshift.io", in: selfManaged,
		},
		"OtherAPIsAreNot": {
			reason:  "Whoever writes another's APIService can answer in its place.",
			account: controller, verb: "update", group: "apiregistration.k8s.io", resource: "apiservices", name: "v1.apps", in: no,
		},
		"ControllerListsPods": {
			reason:  "An image that runs stays in its tag's history.",
			account: controller, verb: "list", resource: "pods", in: yes,
		},
		"ControllerAsksWhoMay": {
			reason:  "A tag follows one in another namespace for as long as whoever made it may use that.",
			account: controller, verb: "create", group: "authorization.k8s.io", resource: "subjectaccessreviews", in: yes,
		},
		"APIWritesStreams": {
			reason:  "Every change by users goes through it.",
			account: apiserver, verb: "create", group: "store.istag.dev", resource: "streamrecords", in: yes,
		},
		"APIDeletesImages": {
			reason:  "An administrator prunes images by it.",
			account: apiserver, verb: "delete", group: "store.istag.dev", resource: "imagerecords", in: yes,
		},
		"APIListsPullSecrets": {
			reason:  "imagestreams/secrets shows those of a namespace.",
			account: apiserver, verb: "list", resource: "secrets", in: yes,
		},
		"APIWatchesNoSecrets": {
			reason:  "It keeps none in memory.",
			account: apiserver, verb: "watch", resource: "secrets", in: no,
		},
		"APIWatchesNamespaces": {
			reason:  "Nothing is created in a namespace that goes.",
			account: apiserver, verb: "watch", resource: "namespaces", in: yes,
		},
		"APIWatchesPolicies": {
			reason:  "The cluster's policies hold for image streams as well.",
			account: apiserver, verb: "watch", group: "admissionregistration.k8s.io", resource: "validatingadmissionpolicies", in: yes,
		},
		"APIWritesNoWorkloads": {
			reason:  "Rollouts are the controller's.",
			account: apiserver, verb: "patch", group: "apps", resource: "deployments", in: no,
		},
		"OtherWebhooksAreNot": {
			reason:  "Whoever writes another's webhook configuration can switch it off.",
			account: controller, verb: "update", group: "admissionregistration.k8s.io", resource: "mutatingwebhookconfigurations", name: "other", in: no,
		},
	}
	eachOverlay(t, func(t *testing.T, set objects) {
		dir := t.Name()[strings.LastIndex(t.Name(), "/")+1:]
		for name, tc := range cases {
			t.Run(name, func(t *testing.T) {
				want := slices.Contains(strings.Fields(tc.in), dir)
				if got := grants(set, tc.account, tc.verb, tc.group, tc.resource, tc.name, tc.ns); got != want {
					t.Errorf("%s\n%s may %s %s %q in %q: %t, want %t", tc.reason, tc.account, tc.verb, tc.resource, tc.name, tc.ns, got, want)
				}
			})
		}
	})
}

func TestBindings(t *testing.T) {
	// Kubernetes has them for every API server behind its own.
	shared := []string{"system:auth-delegator", "extension-apiserver-authentication-reader"}

	eachOverlay(t, func(t *testing.T, set objects) {
		check := func(binding client.Object, ref rbacv1.RoleRef, subjects []rbacv1.Subject) {
			t.Helper()
			switch {
			case slices.Contains(shared, ref.Name):
			case ref.Kind == "Role":
				get[*rbacv1.Role](t, set, ref.Name)
			default:
				get[*rbacv1.ClusterRole](t, set, ref.Name)
			}
			for _, s := range subjects {
				if s.Kind != rbacv1.ServiceAccountKind || s.Namespace != namespace {
					t.Errorf("%s binds %v, which is none of ours", nameOf(binding), s)
				}
				get[*corev1.ServiceAccount](t, set, s.Name)
			}
		}
		for _, b := range all[*rbacv1.ClusterRoleBinding](set) {
			check(b, b.RoleRef, b.Subjects)
		}
		for _, b := range all[*rbacv1.RoleBinding](set) {
			check(b, b.RoleRef, b.Subjects)
		}
	})
}
