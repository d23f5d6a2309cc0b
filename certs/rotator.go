package certs

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/open-policy-agent/cert-controller/pkg/rotator"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/controller-runtime/pkg/manager"
)

const (
	caName         = "istag-ca"
	caOrganization = "istag"

	caValidity   = 10 * 365 * 24 * time.Hour
	certValidity = 365 * 24 * time.Hour

	// renewBefore is how long before its end a certificate is replaced. It is also the overlap of two serving certificates: both are
	// valid, and signed by the same CA, for this long.
	renewBefore = 90 * 24 * time.Hour

	// checkEvery is how often the remaining validity is looked at when nothing else happens.
	checkEvery = 12 * time.Hour
)

// Options says which objects the certificate concerns. All fields but ExtraDNSNames are required.
type Options struct {
	// Namespace holds the Secret and the Service.
	Namespace string
	// Secret receives ca.crt, ca.key, tls.crt and tls.key. It must exist: it is only ever updated, so that no right to create Secrets
	// is needed.
	Secret string
	// Service is the name under which the API server reaches the webhook.
	Service string
	// MutatingWebhook is the MutatingWebhookConfiguration whose every webhook gets the CA bundle.
	MutatingWebhook string
	// CertDir is where tls.crt appears once the Secret has been mounted. The rotator only looks whether the file exists;
	// if it does not within several minutes, the manager stops with an error.
	CertDir string
	// ExtraDNSNames are further host names of the certificate, for runs without a Service. They must be names: the library
	// cannot put an IP address into a certificate, so a webhook configuration of a local run says https://localhost:PORT/…,
	// never https://127.0.0.1:PORT/…. A name added here later is not in a certificate that was made before.
	ExtraDNSNames []string
}

func (o Options) validate() error {
	var errs []error
	for _, f := range []struct{ name, value string }{
		{"Namespace", o.Namespace},
		{"Secret", o.Secret},
		{"Service", o.Service},
		{"MutatingWebhook", o.MutatingWebhook},
		{"CertDir", o.CertDir},
	} {
		if f.value == "" {
			errs = append(errs, fmt.Errorf("%s is required", f.name))
		}
	}
	for _, name := range o.ExtraDNSNames {
		if net.ParseIP(name) != nil {
			errs = append(errs, fmt.Errorf("%q is an IP address, which cannot be in this certificate: use a name, such as localhost", name))
			continue
		}
		for _, problem := range validation.IsDNS1123Subdomain(name) {
			errs = append(errs, fmt.Errorf("%q is not a DNS name: %s", name, problem))
		}
	}
	return errors.Join(errs...)
}

func (o Options) secretKey() types.NamespacedName {
	return types.NamespacedName{Namespace: o.Namespace, Name: o.Secret}
}

// AddRotator adds to mgr what makes and renews the serving certificate in the Secret and keeps the CA bundle of the webhook configuration
// in step with it. Both act only on the elected leader.
//
// The channel is closed once the certificate is in CertDir and the webhook configuration trusts it. It stays open for as long as
// this process does not lead.
//
// At most one rotator can be added in a process: controller names are unique.
func AddRotator(mgr manager.Manager, opts Options) (<-chan struct{}, error) {
	if err := opts.validate(); err != nil {
		return nil, fmt.Errorf("options of the certificate rotator: %w", err)
	}
	rot := newRotator(opts)
	if err := rotator.AddRotator(mgr, rot); err != nil {
		return nil, fmt.Errorf("adding the certificate rotator: %w", err)
	}
	trusted, err := addTrust(mgr, opts)
	if err != nil {
		return nil, fmt.Errorf("adding the controller of the CA bundle: %w", err)
	}

	ready := make(chan struct{})
	return ready, mgr.Add(manager.RunnableFunc(func(ctx context.Context) error {
		for _, step := range []<-chan struct{}{rot.IsReady, trusted} {
			select {
			case <-step:
			case <-ctx.Done():
				return nil
			}
		}
		close(ready)
		return nil
	}))
}

// newRotator leaves the library's own list of webhooks empty. The library replaces a CA bundle at the moment the CA is replaced,
// while the webhook's replicas still serve a certificate of the previous CA until the kubelet has brought the new one; every
// admission would fail for that minute. The bundle is therefore kept by trust, which overlaps them.
func newRotator(opts Options) *rotator.CertRotator {
	host := opts.Service + "." + opts.Namespace
	return &rotator.CertRotator{
		SecretKey:      opts.secretKey(),
		CertDir:        opts.CertDir,
		CAName:         caName,
		CAOrganization: caOrganization,
		// The API server verifies this name, and the library renews a certificate that lacks it.
		DNSName:       host + ".svc",
		ExtraDNSNames: append([]string{host}, opts.ExtraDNSNames...),
		IsReady:       make(chan struct{}),

		RequireLeaderElection: true,
		// The webhook's server reloads its files; exiting the controller would help nobody.
		RestartOnSecretRefresh: false,

		CaCertDuration:         caValidity,
		ServerCertDuration:     certValidity,
		LookaheadInterval:      renewBefore,
		RotationCheckFrequency: checkEvery,
		CertName:               certKey,
		KeyName:                keyKey,
		ExtKeyUsages:           &[]x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
}
