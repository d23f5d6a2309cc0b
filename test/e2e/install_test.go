package e2e

import (
	"context"
	"errors"
	"strings"
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

func TestShippedManifestsAreAccepted(t *testing.T) {
	t.Parallel()
	result := env.Kubectl(t.Context(), "apply", "--dry-run=server", "-k", "../../deploy/base")
	if err := result.Err(); err != nil {
		t.Fatal(err)
	}
	for _, object := range []string{
		"deployment.apps/istag-webhook", "deployment.apps/istag-apiserver", "deployment.apps/istag-controller", "poddisruptionbudget.policy/istag-webhook",
		"service/istag-webhook", "service/istag-apiserver", "apiservice.apiregistration.k8s.io/v1.image.openshift.io", "mutatingwebhookconfiguration.admissionregistration.k8s.io/istag",
		"validatingwebhookconfiguration.admissionregistration.k8s.io/istag", "validatingadmissionpolicy.admissionregistration.k8s.io/never-leak.istag.dev",
		"validatingadmissionpolicybinding.admissionregistration.k8s.io/never-leak.istag.dev",
	} {
		if !strings.Contains(result.Stdout, object) {
			t.Errorf("%s must be among what is installed: %s", object, result.Stdout)
		}
	}
	if result.Stderr != "" {
		t.Errorf("the API server must have no warnings: %s", result.Stderr)
	}
}

// TestPoliciesAreUnderstood asks the API server what it thinks of the expressions, which it checks against every kind that they are about.
func TestPoliciesAreUnderstood(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"never-leak.istag.dev", "jobs.never-leak.istag.dev", "pods.never-leak.istag.dev", "ephemeral-containers.never-leak.istag.dev", "records.store.istag.dev"} {
		err := env.Wait(t.Context(), "the API server has looked at "+name, func(ctx context.Context) error {
			policy := &admissionregistrationv1.ValidatingAdmissionPolicy{}
			if err := env.Client().Get(ctx, client.ObjectKey{Name: name}, policy); err != nil {
				return err
			}
			if policy.Status.TypeChecking == nil || policy.Status.ObservedGeneration != policy.Generation {
				return errors.New("it has not")
			}
			for _, warning := range policy.Status.TypeChecking.ExpressionWarnings {
				t.Errorf("%s, %s: %s", name, warning.FieldRef, warning.Warning)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
}

func TestRolesMayDoNoMoreThanTheyNeed(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		reason, account, namespace, may string
		want                            string
	}{
		"webhook reads streams":         {"that is its work", "istag-webhook", "default", "list streamrecords.store.istag.dev", "yes"},
		"webhook reads images":          {"rules are about them", "istag-webhook", "default", "list imagerecords.store.istag.dev", "yes"},
		"webhook reads locks":           {"pods take their images from them", "istag-webhook", "default", "watch replicasets.apps", "yes"},
		"webhook writes no workload":    {"its answers do", "istag-webhook", "default", "update replicasets.apps", "no"},
		"webhook reads no pods":         {"it is sent those it needs", "istag-webhook", "default", "list pods", "no"},
		"webhook reads no secret":       {"it hears strangers", "istag-webhook", "default", "get secrets", "no"},
		"webhook reads not even its":    {"its key comes on a volume", "istag-webhook", env.Namespace, "get secrets", "no"},
		"webhook writes no stream":      {"it answers and nothing else", "istag-webhook", "default", "update streamrecords.store.istag.dev", "no"},
		"webhook makes no pods":         {"it answers and nothing else", "istag-webhook", "default", "create pods", "no"},
		"API writes streams":            {"that is its work", "istag-apiserver", "default", "update streamrecords.store.istag.dev", "yes"},
		"API lists pull secrets":        {"users see those of their namespace", "istag-apiserver", "default", "list secrets", "yes"},
		"API makes no pods":             {"it serves streams", "istag-apiserver", "default", "create pods", "no"},
		"API writes no secret":          {"it serves streams", "istag-apiserver", "default", "update secrets", "no"},
		"controller writes streams":     {"that is its work", "istag-controller", "default", "update streamrecords.store.istag.dev", "yes"},
		"controller rolls workloads":    {"that is its work", "istag-controller", "default", "patch deployments.apps", "yes"},
		"controller reads no secret":    {"pull secrets are their namespace's", "istag-controller", "default", "get secrets", "no"},
		"controller makes no workloads": {"it changes what is there", "istag-controller", "default", "create deployments.apps", "no"},
		"controller makes no pods":      {"it changes what is there", "istag-controller", "default", "create pods", "no"},
		"controller deletes nothing":    {"it changes what is there", "istag-controller", "default", "delete streamrecords.store.istag.dev", "no"},
		"controller grants nothing":     {"it would be the cluster's owner", "istag-controller", "default", "create rolebindings.rbac.authorization.k8s.io", "no"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			args := append([]string{"auth", "can-i", "--as", "system:serviceaccount:" + env.Namespace + ":" + c.account, "--namespace", c.namespace}, strings.Fields(c.may)...)
			if got := strings.TrimSpace(env.Kubectl(t.Context(), args...).Stdout); got != c.want {
				t.Errorf("%s: %s may %s: want %s, got %q", c.reason, c.account, c.may, c.want, got)
			}
		})
	}
}

func TestCommandLine(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		reason string
		args   []string
		fails  bool
		text   string
	}{
		"config":       {"the defaults can be seen", []string{"config"}, false, "kind: Configuration"},
		"no role":      {"a role must be named", []string{"serve"}, true, "webhook, apiserver, controller"},
		"two roles":    {"one process, one role", []string{"serve", "webhook", "--all"}, true, "--all"},
		"unknown role": {"a role that is none", []string{"serve", "registry"}, true, "registry"},
		"no file":      {"a configuration file that is not there", []string{"serve", "webhook", "--config", "/nonesuch"}, true, "/nonesuch"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			output, err := env.Istag(t.Context(), c.args...).CombinedOutput()
			if (err != nil) != c.fails || !strings.Contains(string(output), c.text) {
				t.Errorf("%s: istag %q: %v: it must say %q, says: %s", c.reason, c.args, err, c.text, output)
			}
		})
	}
}
