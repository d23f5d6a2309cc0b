// Package deploy_test checks the manifests as `kubectl apply -k` would send them.
package deploy_test

import (
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"testing"

	certmanagerv1 "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	cmmeta "github.com/cert-manager/cert-manager/pkg/apis/meta/v1"
	"github.com/google/go-cmp/cmp"
	imagev1 "github.com/openshift/api/image/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"

	"istag.dev/config"
)

const (
	namespace = "istag-system"

	// certManagerCA is the annotation by which cert-manager's CA injector finds its work.
	certManagerCA = "cert-manager.io/inject-ca-from"
)

var never = []string{"kube-system", "kube-node-lease", "kube-public", namespace}

// overlays are what users install, and who makes the certificate there.
var overlays = map[string]config.CertificateMode{
	"base":         config.SelfManaged,
	"cert-manager": config.External,
}

// eachOverlay runs a test on every overlay.
func eachOverlay(t *testing.T, test func(t *testing.T, set objects)) {
	t.Helper()
	for _, dir := range slices.Sorted(maps.Keys(overlays)) {
		t.Run(dir, func(t *testing.T) { test(t, render(t, dir)) })
	}
}

// objects are decoded manifests.
type objects []client.Object

// render builds a kustomization and decodes each object strictly: an unknown or repeated field fails the test.
func render(t *testing.T, dir string) objects {
	t.Helper()
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), dir)
	if err != nil {
		t.Fatalf("building %q: %v", dir, err)
	}
	scheme := runtime.NewScheme()
	utilruntime.Must(clientgoscheme.AddToScheme(scheme))
	utilruntime.Must(apiextensionsv1.AddToScheme(scheme))
	utilruntime.Must(certmanagerv1.AddToScheme(scheme))
	utilruntime.Must(apiregistrationv1.AddToScheme(scheme))
	decoder := serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()

	var out objects
	for _, resource := range built.Resources() {
		text, err := resource.AsYAML()
		if err != nil {
			t.Fatal(err)
		}
		decoded, gvk, err := decoder.Decode(text, nil, nil)
		if err != nil {
			t.Fatalf("decoding %s: %v", resource.CurId(), err)
		}
		object, ok := decoded.(client.Object)
		if !ok {
			t.Fatalf("%s is no object", resource.CurId())
		}
		object.GetObjectKind().SetGroupVersionKind(*gvk)
		out = append(out, object)
	}
	return out
}

// all returns the objects of one Go type.
func all[T client.Object](set objects) []T {
	var out []T
	for _, o := range set {
		if typed, ok := o.(T); ok {
			out = append(out, typed)
		}
	}
	return out
}

// find returns the object of one Go type and name, or nil.
func find[T client.Object](set objects, name string) (found T) {
	for _, o := range all[T](set) {
		if o.GetName() == name {
			return o
		}
	}
	return found
}

// get is find, and fails the test if there is none.
func get[T client.Object](t *testing.T, set objects, name string) T {
	t.Helper()
	for _, o := range all[T](set) {
		if o.GetName() == name {
			return o
		}
	}
	t.Fatalf("there is no %T %q", *new(T), name)
	return *new(T)
}

func nameOf(o client.Object) string {
	return fmt.Sprintf("%s %s", o.GetObjectKind().GroupVersionKind().Kind, client.ObjectKeyFromObject(o))
}

func configuration(t *testing.T, set objects) *config.Configuration {
	t.Helper()
	text := get[*corev1.ConfigMap](t, set, "istag").Data["config.yaml"]
	c, err := config.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestObjects(t *testing.T) {
	clusterScoped := []string{
		"Namespace", "CustomResourceDefinition", "ClusterRole", "ClusterRoleBinding", "APIService",
		"MutatingWebhookConfiguration", "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding",
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
		yes, no                        = "base cert-manager", ""
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
			account: controller, verb: "list", resource: "secrets", ns: namespace, in: "base",
		},
		"RotatorWritesTheSecret": {
			reason:  "The certificate is kept there.",
			account: controller, verb: "update", resource: "secrets", name: "istag-tls", ns: namespace, in: "base",
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
			account: controller, verb: "watch", group: "admissionregistration.k8s.io", resource: "mutatingwebhookconfigurations", name: "istag", in: "base",
		},
		"TrustIsWritten": {
			reason:  "The API server must trust the certificate that was made.",
			account: controller, verb: "update", group: "admissionregistration.k8s.io", resource: "mutatingwebhookconfigurations", name: "istag", in: "base",
		},
		"TrustInTheAPIIsWatched": {
			reason:  "So is the APIService's.",
			account: controller, verb: "watch", group: "apiregistration.k8s.io", resource: "apiservices", name: "v1.image.openshift.io", in: "base",
		},
		"TrustInTheAPIIsWritten": {
			reason:  "The API server must trust the API's certificate too.",
			account: controller, verb: "update", group: "apiregistration.k8s.io", resource: "apiservices", name: "v1.image.openshift.io", in: "base",
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

func container(t *testing.T, d *appsv1.Deployment) corev1.Container {
	t.Helper()
	if n := len(d.Spec.Template.Spec.Containers); n != 1 {
		t.Fatalf("%s has %d containers", nameOf(d), n)
	}
	return d.Spec.Template.Spec.Containers[0]
}

func TestPods(t *testing.T) {
	eachOverlay(t, func(t *testing.T, set objects) {
		conf := configuration(t, set)
		for _, role := range []string{"webhook", "apiserver", "controller"} {
			d := get[*appsv1.Deployment](t, set, "istag-"+role)
			t.Run(role, func(t *testing.T) {
				c, pod := container(t, d), d.Spec.Template.Spec

				if *d.Spec.Replicas < 2 {
					t.Error("one replica is not enough to lose a node")
				}
				selector, err := metav1.LabelSelectorAsSelector(d.Spec.Selector)
				if err != nil {
					t.Fatal(err)
				}
				if !selector.Matches(labels.Set(d.Spec.Template.Labels)) {
					t.Error("the Deployment does not select its own pods")
				}
				if pod.ServiceAccountName != "istag-"+role {
					t.Errorf("the pod runs as %q", pod.ServiceAccountName)
				}
				get[*corev1.ServiceAccount](t, set, pod.ServiceAccountName)
				if !strings.HasPrefix(c.Image, "ghcr.io/istag/istag:") {
					t.Errorf("image %q: kustomize's images must set a tag", c.Image)
				}
				if diff := cmp.Diff([]string{"serve", role, "--config", "/etc/istag/config.yaml"}, c.Args); diff != "" {
					t.Errorf("arguments (-want, +got):\n%s", diff)
				}
				checkRestricted(t, pod, c)
				checkPorts(t, role, conf, c)
				checkVolumes(t, set, pod, c)

				pdb := get[*policyv1.PodDisruptionBudget](t, set, d.Name)
				if diff := cmp.Diff(d.Spec.Selector, pdb.Spec.Selector); diff != "" {
					t.Errorf("the disruption budget counts other pods (-Deployment, +budget):\n%s", diff)
				}
				for _, spread := range pod.TopologySpreadConstraints {
					if diff := cmp.Diff(d.Spec.Selector, spread.LabelSelector); diff != "" {
						t.Errorf("other pods are spread (-Deployment, +spread):\n%s", diff)
					}
					if spread.WhenUnsatisfiable != corev1.ScheduleAnyway {
						t.Error("a cluster of one node must be able to run every replica")
					}
				}
				if len(pod.TopologySpreadConstraints) == 0 {
					t.Error("replicas on one node are lost together")
				}
			})
		}
	})
}

// checkRestricted checks what the namespace enforces and more: a pod that the namespace refuses shows only in its ReplicaSet's events.
func checkRestricted(t *testing.T, pod corev1.PodSpec, c corev1.Container) {
	t.Helper()
	if s := pod.SecurityContext; s == nil || s.RunAsNonRoot == nil || !*s.RunAsNonRoot ||
		s.SeccompProfile == nil || s.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
		t.Error("the pod must run as non-root with the runtime's default seccomp profile")
	}
	s := c.SecurityContext
	if s == nil || s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation || s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem ||
		s.Capabilities == nil || !slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}) || len(s.Capabilities.Add) > 0 {
		t.Error("the container must drop all capabilities, gain none, and not write to its image")
	}
	for _, resource := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		if _, ok := c.Resources.Requests[resource]; !ok {
			t.Errorf("the container must request %s", resource)
		}
	}
}

// checkPorts compares the ports by name with what the configuration makes the process listen on.
func checkPorts(t *testing.T, role string, conf *config.Configuration, c corev1.Container) {
	t.Helper()
	want := map[string]string{"health": conf.HealthAddress, "metrics": conf.MetricsAddress}
	live, ready, on := "/healthz", "/readyz", "health"
	switch role {
	case "webhook":
		want["webhook"] = conf.Webhook.Address
	case "apiserver":
		want["api"] = conf.APIServer.Address
		live, on = "/livez", "api"
	}
	got := map[string]string{}
	for _, p := range c.Ports {
		got[p.Name] = fmt.Sprintf(":%d", p.ContainerPort)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("ports (-configuration, +container):\n%s", diff)
	}
	for path, probe := range map[string]*corev1.Probe{live: c.LivenessProbe, ready: c.ReadinessProbe} {
		if probe == nil || probe.HTTPGet == nil || probe.HTTPGet.Path != path || probe.HTTPGet.Port.String() != on {
			t.Errorf("there must be a probe of %s on port %s", path, on)
		} else if (probe.HTTPGet.Scheme == corev1.URISchemeHTTPS) != (on == "api") {
			t.Errorf("the probe of %s on port %s speaks %s", path, on, probe.HTTPGet.Scheme)
		}
	}
}

// checkVolumes checks that what is mounted exists, and that what is declared is mounted.
func checkVolumes(t *testing.T, set objects, pod corev1.PodSpec, c corev1.Container) {
	t.Helper()
	mounted := map[string]bool{}
	for _, m := range c.VolumeMounts {
		mounted[m.Name] = true
		if !m.ReadOnly {
			t.Errorf("nothing writes to %s", m.MountPath)
		}
	}
	for _, v := range pod.Volumes {
		if !mounted[v.Name] {
			t.Errorf("volume %q is mounted nowhere", v.Name)
		}
		if v.ConfigMap != nil {
			get[*corev1.ConfigMap](t, set, v.ConfigMap.Name)
		}
	}
	if len(mounted) != len(pod.Volumes) {
		t.Errorf("%d volumes, %d mounted", len(pod.Volumes), len(mounted))
	}
}

func TestConfiguration(t *testing.T) {
	for dir, mode := range overlays {
		t.Run(dir, func(t *testing.T) {
			want := config.Default()
			want.Certificates.Mode = mode
			if diff := cmp.Diff(want, configuration(t, render(t, dir))); diff != "" {
				t.Errorf("but for who makes the certificate, every installation starts from the defaults (-want, +got):\n%s", diff)
			}
		})
	}
}

// TestWebhook follows a review from the API server to the process, over all the objects that must agree on the way.
func TestWebhook(t *testing.T) {
	eachOverlay(t, func(t *testing.T, set objects) {
		conf := configuration(t, set)
		hooks := get[*admissionregistrationv1.MutatingWebhookConfiguration](t, set, conf.Certificates.MutatingWebhook)
		if len(hooks.Webhooks) != 1 {
			t.Fatalf("%d webhooks", len(hooks.Webhooks))
		}
		hook := hooks.Webhooks[0]

		// To the Service.
		service := hook.ClientConfig.Service
		if service == nil || service.Path == nil || *service.Path != "/pin" || service.Namespace != conf.Namespace || service.Port == nil {
			t.Fatalf("the webhook is called at %+v", service)
		}
		checkService(t, set, conf, service.Name, *service.Port, "webhook", conf.Webhook.Address)
		d := get[*appsv1.Deployment](t, set, "istag-webhook")

		// With the certificate from the Secret.
		checkSecretVolume(t, d, conf, conf.Webhook.CertDir, []string{corev1.TLSCertKey, corev1.TLSPrivateKeyKey}, false)
		if diff := cmp.Diff([]string{"v1"}, hook.AdmissionReviewVersions); diff != "" {
			t.Error(diff)
		}
		if d.Spec.Strategy.RollingUpdate == nil || d.Spec.Strategy.RollingUpdate.MaxUnavailable.String() != "0" {
			t.Error("an upgrade must not take a replica away before the next one answers")
		}
		c := container(t, d)
		if grace, sleep := *d.Spec.Template.Spec.TerminationGracePeriodSeconds, c.Lifecycle.PreStop.Sleep.Seconds; sleep+int64(*hook.TimeoutSeconds) >= grace {
			t.Errorf("%d s of sleep and %d s of a last review do not fit into %d s of grace", sleep, *hook.TimeoutSeconds, grace)
		}
	})
}

// checkService follows a connection from the name that the API server dials to the process of a role: the certificate is for that
// name, the Service selects the role's pods and no others, and the port is the one that the process listens on.
func checkService(t *testing.T, set objects, conf *config.Configuration, name string, port int32, role, address string) {
	t.Helper()
	if !slices.Contains(conf.Certificates.Services, name) {
		t.Errorf("the certificate is for %q, the API server dials %q", conf.Certificates.Services, name)
	}
	svc := get[*corev1.Service](t, set, name)
	if len(svc.Spec.Ports) != 1 || svc.Spec.Ports[0].Port != port {
		t.Fatalf("the Service has ports %v, the API server dials %d", svc.Spec.Ports, port)
	}
	for _, d := range all[*appsv1.Deployment](set) {
		selected := labels.SelectorFromSet(svc.Spec.Selector).Matches(labels.Set(d.Spec.Template.Labels))
		if selected != (d.Name == "istag-"+role) {
			t.Errorf("Service %s selects the pods of %s: %t", name, d.Name, selected)
		}
	}
	c := container(t, get[*appsv1.Deployment](t, set, "istag-"+role))
	_, listens, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(c.Ports, func(p corev1.ContainerPort) bool {
		return p.Name == svc.Spec.Ports[0].TargetPort.String() && fmt.Sprint(p.ContainerPort) == listens
	}) {
		t.Errorf("target port %q is not the container's port for %q", svc.Spec.Ports[0].TargetPort.String(), address)
	}
}

// checkSecretVolume checks that a Deployment's certificate directory shows exactly these keys of the Secret.
func checkSecretVolume(t *testing.T, d *appsv1.Deployment, conf *config.Configuration, dir string, keys []string, optional bool) {
	t.Helper()
	c := container(t, d)
	at := slices.IndexFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.MountPath == dir })
	if at < 0 {
		t.Fatalf("%s has nothing at %s", nameOf(d), dir)
	}
	in := slices.IndexFunc(d.Spec.Template.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == c.VolumeMounts[at].Name })
	secret := d.Spec.Template.Spec.Volumes[in].Secret
	if secret == nil || secret.SecretName != conf.Certificates.Secret {
		t.Fatalf("%s mounts %+v", nameOf(d), secret)
	}
	var got []string
	for _, item := range secret.Items {
		if item.Key != item.Path {
			t.Errorf("%s: key %q becomes file %q", nameOf(d), item.Key, item.Path)
		}
		got = append(got, item.Key)
	}
	if diff := cmp.Diff(keys, got); diff != "" {
		t.Errorf("%s must see these keys of the Secret, and not the CA's (-want, +got):\n%s", nameOf(d), diff)
	}
	if (secret.Optional != nil && *secret.Optional) != optional {
		t.Errorf("%s: the Secret is optional: %t, want %t", nameOf(d), !optional, optional)
	}
	if c.VolumeMounts[at].SubPath != "" {
		t.Errorf("%s: the kubelet never renews what is mounted by subPath", nameOf(d))
	}
}

func TestAdmissionScope(t *testing.T) {
	eachOverlay(t, func(t *testing.T, set objects) {
		hook := get[*admissionregistrationv1.MutatingWebhookConfiguration](t, set, "istag").Webhooks[0]
		selector, err := metav1.LabelSelectorAsSelector(hook.NamespaceSelector)
		if err != nil {
			t.Fatal(err)
		}
		selects := func(name, mode string) bool {
			set := labels.Set{corev1.LabelMetadataName: name}
			if mode != "" {
				set["istag.dev/admission"] = mode
			}
			return selector.Matches(set)
		}
		if !selects("team-a", "enforce") {
			t.Error("a namespace that opts in must be selected")
		}
		if selects("team-a", "") || selects("team-a", "off") {
			t.Error("a namespace that does not opt in must not be selected")
		}
		for _, name := range never {
			if selects(name, "enforce") {
				t.Errorf("namespace %q must never be selected, whatever its labels say", name)
			}
		}

		var got []schema.GroupVersionResource
		for _, rule := range hook.Rules {
			if rule.Scope == nil || *rule.Scope != admissionregistrationv1.NamespacedScope {
				t.Error("only namespaced objects hold pods")
			}
			operations := []admissionregistrationv1.OperationType{admissionregistrationv1.Create, admissionregistrationv1.Update}
			if diff := cmp.Diff(operations, rule.Operations); diff != "" {
				t.Error(diff)
			}
			for _, resource := range rule.Resources {
				got = append(got, schema.GroupVersionResource{Group: rule.APIGroups[0], Version: rule.APIVersions[0], Resource: resource})
			}
		}
		want := []schema.GroupVersionResource{
			corev1.SchemeGroupVersion.WithResource("pods"),
			corev1.SchemeGroupVersion.WithResource("replicationcontrollers"),
			appsv1.SchemeGroupVersion.WithResource("deployments"),
			appsv1.SchemeGroupVersion.WithResource("replicasets"),
			appsv1.SchemeGroupVersion.WithResource("statefulsets"),
			appsv1.SchemeGroupVersion.WithResource("daemonsets"),
			{Group: "batch", Version: "v1", Resource: "jobs"},
			{Group: "batch", Version: "v1", Resource: "cronjobs"},
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("resources (-want, +got):\n%s", diff)
		}

		if *hook.SideEffects != admissionregistrationv1.SideEffectClassNone {
			t.Error("with side effects, a dry run is refused")
		}
		if *hook.FailurePolicy != admissionregistrationv1.Fail {
			t.Error("nothing else yet keeps an unpinned local name out while no replica answers")
		}
		if *hook.ReinvocationPolicy != admissionregistrationv1.IfNeededReinvocationPolicy {
			t.Error("containers that another webhook adds are pinned too")
		}
		if *hook.TimeoutSeconds != 5 {
			t.Errorf("timeout %d s", *hook.TimeoutSeconds)
		}
	})
}

// TestCriticalPriority keeps istag installable on clusters that allow the system-* priority classes only under a quota.
func TestCriticalPriority(t *testing.T) {
	const class = "system-cluster-critical"
	eachOverlay(t, func(t *testing.T, set objects) {
		for name, reason := range map[string]string{
			"istag-webhook":   "no pod of a labelled namespace starts without it",
			"istag-apiserver": "no namespace is deleted without it",
		} {
			if got := get[*appsv1.Deployment](t, set, name).Spec.Template.Spec.PriorityClassName; got != class {
				t.Errorf("%s has priority %q; %s", name, got, reason)
			}
		}
		if !slices.ContainsFunc(all[*corev1.ResourceQuota](set), func(q *corev1.ResourceQuota) bool {
			return slices.ContainsFunc(q.Spec.ScopeSelector.MatchExpressions, func(m corev1.ScopedResourceSelectorRequirement) bool {
				return m.ScopeName == corev1.ResourceQuotaScopePriorityClass && slices.Contains(m.Values, class)
			})
		}) {
			t.Errorf("no quota names priority class %q", class)
		}
	})
}

func TestSelfManagedCertificate(t *testing.T) {
	set := render(t, "base")
	conf := configuration(t, set)

	secret := get[*corev1.Secret](t, set, conf.Certificates.Secret)
	if len(secret.Data)+len(secret.StringData) > 0 || secret.Type != corev1.SecretTypeOpaque {
		t.Error("the Secret must be shipped empty, and of a type that may be empty: the rotator fills it")
	}
	hooks := get[*admissionregistrationv1.MutatingWebhookConfiguration](t, set, conf.Certificates.MutatingWebhook)
	service := get[*apiregistrationv1.APIService](t, set, conf.Certificates.APIService)
	if len(hooks.Webhooks[0].ClientConfig.CABundle)+len(service.Spec.CABundle) > 0 {
		t.Error("a shipped CA bundle would be put back by every apply, and cut the webhook or the API off")
	}
	for _, target := range []client.Object{hooks, service} {
		if _, ok := target.GetAnnotations()[certManagerCA]; ok {
			t.Errorf("%s: cert-manager and the rotator would fight over the CA bundle", nameOf(target))
		}
	}
	// Optional, or the pod that fills the Secret would wait for it.
	checkSecretVolume(t, get[*appsv1.Deployment](t, set, "istag-controller"), conf, conf.Webhook.CertDir, []string{corev1.TLSCertKey}, true)
}

func TestCertManager(t *testing.T) {
	set := render(t, "cert-manager")
	conf := configuration(t, set)

	if find[*corev1.Secret](set, conf.Certificates.Secret) != nil {
		t.Error("cert-manager makes the Secret; one that is applied empty is of the wrong type")
	}
	hooks := get[*admissionregistrationv1.MutatingWebhookConfiguration](t, set, conf.Certificates.MutatingWebhook)
	ns, name, _ := strings.Cut(hooks.Annotations[certManagerCA], "/")
	if api := get[*apiregistrationv1.APIService](t, set, conf.Certificates.APIService); api.Annotations[certManagerCA] != hooks.Annotations[certManagerCA] {
		t.Errorf("one certificate, and the API trusts the CA of %q", api.Annotations[certManagerCA])
	}
	leaf := get[*certmanagerv1.Certificate](t, set, name)
	if ns != leaf.Namespace {
		t.Errorf("the CA is injected from namespace %q", ns)
	}
	if leaf.Spec.SecretName != conf.Certificates.Secret {
		t.Errorf("the certificate is written to Secret %q, the webhook and the API serve %q", leaf.Spec.SecretName, conf.Certificates.Secret)
	}
	for _, service := range conf.Certificates.Services {
		if host := service + "." + conf.Namespace + ".svc"; !slices.Contains(leaf.Spec.DNSNames, host) {
			t.Errorf("the API server verifies %q, the certificate is for %q", host, leaf.Spec.DNSNames)
		}
	}
	if diff := cmp.Diff([]certmanagerv1.KeyUsage{certmanagerv1.UsageServerAuth}, leaf.Spec.Usages); diff != "" {
		t.Errorf("usages (-want, +got):\n%s", diff)
	}
	if leaf.Spec.IsCA {
		t.Error("the serving certificate must not be able to sign others")
	}

	// Leaf -> CA issuer -> CA certificate -> self-signed issuer.
	issuer := get[*certmanagerv1.Issuer](t, set, issuerName(t, leaf))
	if issuer.Spec.CA == nil {
		t.Fatalf("issuer %q signs with no CA", issuer.Name)
	}
	at := slices.IndexFunc(all[*certmanagerv1.Certificate](set), func(c *certmanagerv1.Certificate) bool {
		return c.Spec.SecretName == issuer.Spec.CA.SecretName
	})
	if at < 0 {
		t.Fatalf("no certificate fills Secret %q, with which issuer %q signs", issuer.Spec.CA.SecretName, issuer.Name)
	}
	ca := all[*certmanagerv1.Certificate](set)[at]
	if !ca.Spec.IsCA || ca.Spec.CommonName == "" {
		t.Errorf("certificate %q must be a CA with a name: the leaf's issuer field must not be empty", ca.Name)
	}
	if ca.Spec.PrivateKey.RotationPolicy != certmanagerv1.RotationPolicyNever {
		t.Error("a CA renewed under a new key makes every certificate that it signed before fail at once")
	}
	if get[*certmanagerv1.Issuer](t, set, issuerName(t, ca)).Spec.SelfSigned == nil {
		t.Error("the chain must end in a self-signed issuer")
	}
	for _, c := range []*certmanagerv1.Certificate{leaf, ca} {
		if c.Spec.RenewBefore.Duration >= c.Spec.Duration.Duration {
			t.Errorf("certificate %q would be renewed for ever", c.Name)
		}
	}
	if leaf.Spec.Duration.Duration >= ca.Spec.Duration.Duration-ca.Spec.RenewBefore.Duration {
		t.Error("the serving certificate must be renewed more often than its CA")
	}
}

// issuerName returns the name of a certificate's issuer, which must be of the kind and group that live in a namespace.
func issuerName(t *testing.T, c *certmanagerv1.Certificate) string {
	t.Helper()
	if diff := cmp.Diff(cmmeta.IssuerReference{Name: c.Spec.IssuerRef.Name, Kind: certmanagerv1.IssuerKind, Group: "cert-manager.io"}, c.Spec.IssuerRef); diff != "" {
		t.Errorf("issuer of %q (-want, +got):\n%s", c.Name, diff)
	}
	return c.Spec.IssuerRef.Name
}
