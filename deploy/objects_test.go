package deploy_test

import (
	"path"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"

	"istag.dev/config"
)

func TestObjects(t *testing.T) {
	clusterScoped := []string{
		"Namespace", "CustomResourceDefinition", "ClusterRole", "ClusterRoleBinding", "APIService",
		"MutatingWebhookConfiguration", "ValidatingWebhookConfiguration", "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding",
	}
	// The Role that it binds is there, and a binding is where its Role is.
	elsewhere := map[string]string{"RoleBinding kube-system/istag-authentication-reader": "kube-system"}

	eachOverlay(t, func(t *testing.T, set objects) {
		seen := map[string]bool{}
		for _, o := range set {
			if seen[nameOf(o)] {
				t.Errorf("%s is there twice", nameOf(o))
			}
			seen[nameOf(o)] = true

			want := namespace
			if slices.Contains(clusterScoped, o.GetObjectKind().GroupVersionKind().Kind) {
				want = ""
			}
			if other, ok := elsewhere[nameOf(o)]; ok {
				want = other
			}
			if o.GetNamespace() != want {
				t.Errorf("%s must be in namespace %q: what lands elsewhere is not removed with the installation", nameOf(o), want)
			}
			if o.GetLabels()["app.kubernetes.io/part-of"] != "istag" {
				t.Errorf("%s must say what it is part of", nameOf(o))
			}
		}

		ns := get[*corev1.Namespace](t, set, namespace)
		for _, mode := range []string{"enforce", "audit", "warn"} {
			if ns.Labels["pod-security.kubernetes.io/"+mode] != "restricted" {
				t.Errorf("the namespace must %s the restricted pod security standard", mode)
			}
		}
		if _, ok := ns.Labels["istag.dev/admission"]; ok {
			t.Error("istag's own namespace must never be opted in")
		}
		for _, crd := range []string{"streamrecords.store.istag.dev", "imagerecords.store.istag.dev"} {
			get[*apiextensionsv1.CustomResourceDefinition](t, set, crd)
		}
	})
}

func TestConfiguration(t *testing.T) {
	for dir, mode := range overlays {
		t.Run(path.Base(dir), func(t *testing.T) {
			want := config.Default()
			want.Certificates.Mode = mode
			if path.Base(dir) == "argo-rollouts" {
				want.Webhook.Workloads = []config.Workload{{Group: "argoproj.io", Resource: "rollouts", PodSpec: "spec.template.spec"}}
			}
			if diff := cmp.Diff(want, configuration(t, render(t, dir))); diff != "" {
				t.Errorf("but for who makes the certificate and what is a workload, every installation starts from the defaults (-want, +got):\n%s", diff)
			}
		})
	}
}
