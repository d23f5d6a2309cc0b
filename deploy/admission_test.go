package deploy_test

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"istag.dev/config"
)

// entry is one webhook of either configuration.
type entry struct {
	name       string
	mutating   bool
	called     admissionregistrationv1.WebhookClientConfig
	rules      []admissionregistrationv1.RuleWithOperations
	conditions []admissionregistrationv1.MatchCondition
	namespaces *metav1.LabelSelector

	failure    admissionregistrationv1.FailurePolicyType
	match      admissionregistrationv1.MatchPolicyType
	effects    admissionregistrationv1.SideEffectClass
	reinvoke   *admissionregistrationv1.ReinvocationPolicyType
	timeout    int32
	versions   []string
	objectsAre *metav1.LabelSelector
}

// entriesOf returns the webhooks in the order in which they are asked.
func entriesOf(t *testing.T, set objects) []entry {
	t.Helper()
	conf := configuration(t, set)
	var out []entry
	for _, w := range get[*admissionregistrationv1.MutatingWebhookConfiguration](t, set, conf.Certificates.MutatingWebhook).Webhooks {
		out = append(out, entry{
			w.Name, true, w.ClientConfig, w.Rules, w.MatchConditions, w.NamespaceSelector,
			*w.FailurePolicy, *w.MatchPolicy, *w.SideEffects, w.ReinvocationPolicy, *w.TimeoutSeconds, w.AdmissionReviewVersions, w.ObjectSelector,
		})
	}
	for _, w := range get[*admissionregistrationv1.ValidatingWebhookConfiguration](t, set, conf.Certificates.ValidatingWebhook).Webhooks {
		out = append(out, entry{
			w.Name, false, w.ClientConfig, w.Rules, w.MatchConditions, w.NamespaceSelector,
			*w.FailurePolicy, *w.MatchPolicy, *w.SideEffects, nil, *w.TimeoutSeconds, w.AdmissionReviewVersions, w.ObjectSelector,
		})
	}
	return out
}

// entryNamed returns one of them.
func entryNamed(t *testing.T, set objects, name string) entry {
	t.Helper()
	entries := entriesOf(t, set)
	at := slices.IndexFunc(entries, func(e entry) bool { return e.name == name })
	if at < 0 {
		t.Fatalf("there is no webhook %q", name)
	}
	return entries[at]
}

// TestWebhooks follows a review from the API server to the process, over all the objects that must agree on the way.
func TestWebhooks(t *testing.T) {
	eachOverlay(t, func(t *testing.T, set objects) {
		conf := configuration(t, set)
		d := get[*appsv1.Deployment](t, set, "istag-webhook")
		for _, e := range entriesOf(t, set) {
			// To the Service.
			path := "/check"
			if e.mutating {
				path = "/pin"
			}
			service := e.called.Service
			if service == nil || service.Path == nil || *service.Path != path || service.Namespace != conf.Namespace || service.Port == nil {
				t.Fatalf("%s is called at %+v", e.name, service)
			}
			checkService(t, set, conf, service.Name, *service.Port, "webhook", conf.Webhook.Address)
			if diff := cmp.Diff([]string{"v1"}, e.versions); diff != "" {
				t.Error(diff)
			}
			if grace, sleep := *d.Spec.Template.Spec.TerminationGracePeriodSeconds, container(t, d).Lifecycle.PreStop.Sleep.Seconds; sleep+int64(e.timeout) >= grace {
				t.Errorf("%d s of sleep and %d s of a last review do not fit into %d s of grace", sleep, e.timeout, grace)
			}
		}
		// With the certificate from the Secret.
		checkSecretVolume(t, d, conf, conf.Webhook.CertDir, []string{corev1.TLSCertKey, corev1.TLSPrivateKeyKey}, false)
		if d.Spec.Strategy.RollingUpdate == nil || d.Spec.Strategy.RollingUpdate.MaxUnavailable.String() != "0" {
			t.Error("an upgrade must not take a replica away before the next one answers")
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

// selects says whether a selector of namespaces has one of a name, with labels "key=value".
func selects(t *testing.T, selector *metav1.LabelSelector, name string, with ...string) bool {
	t.Helper()
	compiled, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil {
		t.Fatal(err)
	}
	set := labels.Set{corev1.LabelMetadataName: name}
	for _, label := range with {
		key, value, _ := strings.Cut(label, "=")
		set[key] = value
	}
	return compiled.Matches(set)
}

func TestNamespacesOfAdmission(t *testing.T) {
	const enforce, pods = "istag.dev/admission=enforce", "istag.dev/placement=pod"
	all, users := []string{pin, check, revisionPin, revisionCheck}, []string{pin, check}
	cases := map[string]struct {
		reason string
		labels []string
		to     []string
	}{
		"None":      {reason: "A namespace that did not ask is left alone."},
		"Off":       {"So is one that says something else.", []string{"istag.dev/admission=off", pods}, nil},
		"Enforce":   {"It asked.", []string{enforce}, users},
		"Warn":      {"It asked to be told.", []string{"istag.dev/admission=warn"}, users},
		"Audit":     {"It asked for a record.", []string{"istag.dev/admission=audit"}, users},
		"Template":  {"That is the default.", []string{enforce, "istag.dev/placement=template"}, users},
		"Pod":       {"Its pods are pinned, those of controllers too.", []string{enforce, pods}, all},
		"WarnPod":   {"It asked to be told of them.", []string{"istag.dev/admission=warn", pods}, all},
		"Placement": {"Where is asked only after whether.", []string{pods}, nil},
	}
	eachOverlay(t, func(t *testing.T, set objects) {
		for name, tc := range cases {
			var got []string
			for _, e := range entriesOf(t, set) {
				if selects(t, e.namespaces, "team-a", tc.labels...) {
					got = append(got, e.name)
				}
				for _, forbidden := range never {
					if selects(t, e.namespaces, forbidden, tc.labels...) {
						t.Errorf("%s: %s selects namespace %q: a cluster must be able to start without us", name, e.name, forbidden)
					}
				}
				if e.objectsAre != nil {
					t.Errorf("%s: by a label, an object could get around us", e.name)
				}
			}
			slices.Sort(got)
			want := slices.Sorted(slices.Values(tc.to))
			if !slices.Equal(got, want) {
				t.Errorf("%s: %s\nselected by %q, want %q", name, tc.reason, got, want)
			}
		}
	})
}

// resourcesOf returns what rules have, "deployments.apps: CREATE UPDATE".
func resourcesOf(t *testing.T, rules []admissionregistrationv1.RuleWithOperations) []string {
	t.Helper()
	var out []string
	for _, rule := range rules {
		if rule.Scope == nil || *rule.Scope != admissionregistrationv1.NamespacedScope {
			t.Error("only namespaced objects hold pods")
		}
		if len(rule.APIGroups) != 1 || len(rule.APIVersions) != 1 {
			t.Errorf("one group and version a rule: %v", rule)
		}
		for _, resource := range rule.Resources {
			operations := fmt.Sprint(rule.Operations)
			out = append(out, strings.TrimSuffix(resource+"."+rule.APIGroups[0], ".")+": "+strings.Trim(operations, "[]"))
		}
	}
	return slices.Sorted(slices.Values(out))
}

// everyWorkload is what users write that has a pod spec.
var everyWorkload = []string{
	"cronjobs.batch: CREATE UPDATE", "daemonsets.apps: CREATE UPDATE", "deployments.apps: CREATE UPDATE", "jobs.batch: CREATE UPDATE",
	"pods/ephemeralcontainers: UPDATE", "pods: CREATE UPDATE", "podtemplates: CREATE UPDATE", "replicasets.apps: CREATE UPDATE",
	"replicationcontrollers: CREATE UPDATE", "statefulsets.apps: CREATE UPDATE",
}

func TestResourcesOfAdmission(t *testing.T) {
	want := map[string][]string{
		pin:   everyWorkload,
		check: everyWorkload,
		revisionPin: {
			"controllerrevisions.apps: CREATE UPDATE", "jobs.batch: CREATE UPDATE", "pods: CREATE UPDATE", "replicasets.apps: CREATE UPDATE",
			"replicationcontrollers: CREATE UPDATE",
		},
		revisionCheck: {"pods: CREATE UPDATE"},
	}
	eachOverlay(t, func(t *testing.T, set objects) {
		got := map[string][]string{}
		for _, e := range entriesOf(t, set) {
			got[e.name] = resourcesOf(t, e.rules)
		}
		// Those that are configured are sent by the entries of what users write, and by no other.
		for _, w := range configuration(t, set).Webhook.Workloads {
			for _, name := range []string{pin, check} {
				sent := w.Resource + "." + w.Group + ": CREATE UPDATE"
				if !slices.Contains(got[name], sent) {
					t.Errorf("%s: a workload that is configured is not sent: %s", name, sent)
				}
				got[name] = slices.DeleteFunc(got[name], func(s string) bool { return s == sent })
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("resources (-want, +got):\n%s", diff)
		}
	})
}

func TestNobodyWaitsForAdmission(t *testing.T) {
	eachOverlay(t, func(t *testing.T, set objects) {
		for _, e := range entriesOf(t, set) {
			if e.failure != admissionregistrationv1.Ignore {
				t.Errorf("%s: while no replica answers, only names that need us are refused, and that is the guard's work", e.name)
			}
			if e.effects != admissionregistrationv1.SideEffectClassNoneOnDryRun {
				t.Errorf("%s: a refusal makes an event, that of a dry run does not", e.name)
			}
			if e.timeout != 5 {
				t.Errorf("%s: timeout %d s; the webhook's own deadline is just under 5 s", e.name, e.timeout)
			}
			if e.match != admissionregistrationv1.Equivalent {
				t.Errorf("%s: an object is the same by every version of its kind", e.name)
			}
			if e.mutating && *e.reinvoke != admissionregistrationv1.IfNeededReinvocationPolicy {
				t.Errorf("%s: containers that another webhook adds are pinned too", e.name)
			}
		}
	})
}
