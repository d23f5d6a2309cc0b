package deploy_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"istag.dev/config"
)

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
