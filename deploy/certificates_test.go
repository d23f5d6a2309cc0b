package deploy_test

import (
	"slices"
	"strings"
	"testing"

	certmanagerv1 "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	cmmeta "github.com/cert-manager/cert-manager/pkg/apis/meta/v1"
	"github.com/google/go-cmp/cmp"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// trusting returns the objects in which the API server reads whom to trust.
func trusting(t *testing.T, set objects) []client.Object {
	t.Helper()
	names := configuration(t, set).Certificates
	return []client.Object{
		get[*admissionregistrationv1.MutatingWebhookConfiguration](t, set, names.MutatingWebhook),
		get[*admissionregistrationv1.ValidatingWebhookConfiguration](t, set, names.ValidatingWebhook),
		get[*apiregistrationv1.APIService](t, set, names.APIService),
	}
}

func TestSelfManagedCertificate(t *testing.T) {
	set := render(t, "base")
	conf := configuration(t, set)

	secret := get[*corev1.Secret](t, set, conf.Certificates.Secret)
	if len(secret.Data)+len(secret.StringData) > 0 || secret.Type != corev1.SecretTypeOpaque {
		t.Error("the Secret must be shipped empty, and of a type that may be empty: the rotator fills it")
	}
	bundle := get[*apiregistrationv1.APIService](t, set, conf.Certificates.APIService).Spec.CABundle
	for _, e := range entriesOf(t, set) {
		bundle = append(bundle, e.called.CABundle...)
	}
	if len(bundle) > 0 {
		t.Error("a shipped CA bundle would be put back by every apply, and cut the webhook or the API off")
	}
	for _, target := range trusting(t, set) {
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
	targets := trusting(t, set)
	ns, name, _ := strings.Cut(targets[0].GetAnnotations()[certManagerCA], "/")
	for _, target := range targets {
		if target.GetAnnotations()[certManagerCA] != targets[0].GetAnnotations()[certManagerCA] {
			t.Errorf("one certificate, and %s trusts the CA of %q", nameOf(target), target.GetAnnotations()[certManagerCA])
		}
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
