package deploy_test

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	imagev1 "github.com/openshift/api/image/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	storev1 "istag.dev/store/v1"
)

// TestAPIService follows a request from the API server to the process, over all the objects that must agree on the way.
func TestAPIService(t *testing.T) {
	eachOverlay(t, func(t *testing.T, set objects) {
		conf := configuration(t, set)
		spec := get[*apiregistrationv1.APIService](t, set, conf.Certificates.APIService).Spec
		if got := spec.Version + "." + spec.Group; spec.Group != imagev1.GroupName || got != conf.Certificates.APIService {
			t.Errorf("APIService %q is for %q", conf.Certificates.APIService, got)
		}
		if spec.InsecureSkipTLSVerify {
			t.Error("whoever answers in the server's place must not be believed")
		}
		if spec.Service == nil || spec.Service.Namespace != conf.Namespace || spec.Service.Port == nil {
			t.Fatalf("the API is asked at %+v", spec.Service)
		}
		checkService(t, set, conf, spec.Service.Name, *spec.Service.Port, "apiserver", conf.APIServer.Address)

		d := get[*appsv1.Deployment](t, set, "istag-apiserver")
		checkSecretVolume(t, d, conf, conf.APIServer.CertDir, []string{corev1.TLSCertKey, corev1.TLSPrivateKeyKey}, false)
		if d.Spec.Strategy.RollingUpdate == nil || d.Spec.Strategy.RollingUpdate.MaxUnavailable.String() != "0" {
			t.Error("an upgrade must not take a replica away before the next one answers")
		}
		// The process gives itself 40 s.
		if grace, sleep := *d.Spec.Template.Spec.TerminationGracePeriodSeconds, container(t, d).Lifecycle.PreStop.Sleep.Seconds; sleep+40 >= grace {
			t.Errorf("%d s of sleep and the end of watches and imports do not fit into %d s of grace", sleep, grace)
		}
	})
}

// TestRecordsPolicy checks who may write records against who has a right to.
func TestRecordsPolicy(t *testing.T) {
	eachOverlay(t, func(t *testing.T, set objects) {
		binding := get[*admissionregistrationv1.ValidatingAdmissionPolicyBinding](t, set, "records.store.istag.dev")
		if diff := cmp.Diff([]admissionregistrationv1.ValidationAction{admissionregistrationv1.Deny}, binding.Spec.ValidationActions); diff != "" {
			t.Errorf("what the policy finds is refused (-want, +got):\n%s", diff)
		}
		if binding.Spec.MatchResources != nil {
			t.Error("it holds in every namespace")
		}
		policy := get[*admissionregistrationv1.ValidatingAdmissionPolicy](t, set, binding.Spec.PolicyName)
		if *policy.Spec.FailurePolicy != admissionregistrationv1.Fail {
			t.Error("a policy that cannot be evaluated must not let anything pass")
		}
		want := []admissionregistrationv1.NamedRuleWithOperations{{RuleWithOperations: admissionregistrationv1.RuleWithOperations{
			// Nothing may stop a namespace from going.
			Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Create, admissionregistrationv1.Update},
			Rule: admissionregistrationv1.Rule{
				APIGroups:   []string{storev1.GroupVersion.Group},
				APIVersions: []string{storev1.GroupVersion.Version},
				Resources:   []string{"streamrecords", "imagerecords"},
			},
		}}}
		if diff := cmp.Diff(want, policy.Spec.MatchConstraints.ResourceRules); diff != "" {
			t.Errorf("what it is about (-want, +got):\n%s", diff)
		}

		if n := len(policy.Spec.Validations); n != 1 {
			t.Fatalf("%d validations", n)
		}
		validation := policy.Spec.Validations[0]
		if validation.Reason == nil || *validation.Reason != metav1.StatusReasonForbidden || !strings.Contains(validation.Message, imagev1.GroupVersion.String()) {
			t.Errorf("who is refused is told what to do instead: %v %q", validation.Reason, validation.Message)
		}
		for _, account := range all[*corev1.ServiceAccount](set) {
			writes := slices.ContainsFunc([]string{"create", "update", "patch"}, func(verb string) bool {
				return grants(set, account.Name, verb, storev1.GroupVersion.Group, "streamrecords", "", "")
			})
			named := strings.Contains(validation.Expression, `"system:serviceaccount:`+namespace+":"+account.Name+`"`)
			if writes != named {
				t.Errorf("ServiceAccount %s has a right to write records: %t, and the policy lets it: %t", account.Name, writes, named)
			}
		}
	})
}

// TestUserRoles compares what users get with what the API serves.
func TestUserRoles(t *testing.T) {
	const aggregate = "rbac.authorization.k8s.io/aggregate-to-"
	view := map[string]string{
		"imagestreams": "get list watch", "imagestreamtags": "get list watch", "imagetags": "get list watch",
		"imagestreamimages": "get", "imagestreams/status": "get",
	}
	edit := map[string]string{
		"imagestreams":        "create delete deletecollection get list patch update watch",
		"imagestreamtags":     "create delete get list patch update watch",
		"imagetags":           "create delete get list patch update watch",
		"imagestreamimages":   "get",
		"imagestreamimports":  "create",
		"imagestreammappings": "create",
		"imagestreams/status": "get",
		"imagestreams/layers": "get update", "imagestreams/secrets": "get",
	}
	cases := map[string]struct {
		reason string
		label  string
		want   map[string]string
	}{
		"istag-image-admin": {
			reason: "Who administers a namespace administers its streams, and may let others pull from them.",
			label:  aggregate + "admin", want: edit,
		},
		"istag-image-edit": {
			reason: "Who changes workloads changes their images.",
			label:  aggregate + "edit", want: edit,
		},
		"istag-image-view": {
			reason: "Who looks sees streams, and neither their content nor any secret.",
			label:  aggregate + "view", want: view,
		},
		"system:image-puller": {
			reason: "Pulling is a right of its own, to be given to another namespace.",
			want:   map[string]string{"imagestreams/layers": "get"},
		},
		"system:image-pusher": {
			reason: "So is pushing.",
			want:   map[string]string{"imagestreams/layers": "get update"},
		},
		"system:image-builder": {
			reason: "A build pushes to a stream that may not exist yet.",
			want:   map[string]string{"imagestreams/layers": "get update", "imagestreams": "create"},
		},
	}
	eachOverlay(t, func(t *testing.T, set objects) {
		for name, tc := range cases {
			role := get[*rbacv1.ClusterRole](t, set, name)
			got := map[string]string{}
			for _, rule := range role.Rules {
				if diff := cmp.Diff([]string{imagev1.GroupName}, rule.APIGroups); diff != "" {
					t.Errorf("%s: groups (-want, +got):\n%s", name, diff)
				}
				for _, resource := range rule.Resources {
					got[resource] = strings.Join(slices.Sorted(slices.Values(rule.Verbs)), " ")
				}
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("%s: %s\n(-want, +got):\n%s", name, tc.reason, diff)
			}
			for label := range maps.Keys(role.Labels) {
				if strings.HasPrefix(label, aggregate) && label != tc.label {
					t.Errorf("%s: %s\nit must not be part of %s", name, tc.reason, strings.TrimPrefix(label, aggregate))
				}
			}
			if tc.label != "" && role.Labels[tc.label] != "true" {
				t.Errorf("%s: %s\nit has no label %s", name, tc.reason, tc.label)
			}
		}
	})
}
