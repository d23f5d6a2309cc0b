package certs

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
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
	// Namespace holds the Secret and the Services.
	Namespace string
	// Secret receives ca.crt, ca.key, tls.crt and tls.key. It must exist: it is only ever updated, so that no right to create Secrets
	// is needed.
	Secret string
	// Services are the names under which the API server reaches those who serve the certificate. The library renews a
	// certificate that lacks the first.
	Services []string
	// MutatingWebhook is the MutatingWebhookConfiguration whose every webhook gets the CA bundle.
	MutatingWebhook string
	// ValidatingWebhook is the ValidatingWebhookConfiguration whose every webhook gets it too.
	ValidatingWebhook string
	// APIService gets the CA bundle too.
	APIService string
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
		{"MutatingWebhook", o.MutatingWebhook},
		{"ValidatingWebhook", o.ValidatingWebhook},
		{"APIService", o.APIService},
		{"CertDir", o.CertDir},
	} {
		if f.value == "" {
			errs = append(errs, fmt.Errorf("%s is required", f.name))
		}
	}
	if len(o.Services) == 0 || slices.Contains(o.Services, "") {
		errs = append(errs, errors.New("no Services are given, or an empty one"))
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

// AddRotator adds to mgr what makes and renews the serving certificate in the Secret and keeps the CA bundles of the webhook configuration
// and of the APIService in step with it. Both act only on the elected leader.
//
// The channel is closed once the certificate is in CertDir and the webhook configuration and the APIService trust it. It stays
// open for as long as this process does not lead.
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
// while those who serve still present a certificate of the previous CA until the kubelet has brought the new one; every
// admission, and every request to the API, would fail for that minute. The bundle is therefore kept by trust, which overlaps them.
func newRotator(opts Options) *rotator.CertRotator {
	var names []string
	for _, service := range opts.Services {
		host := service + "." + opts.Namespace
		names = append(names, host+".svc", host)
	}
	return &rotator.CertRotator{
		SecretKey:      opts.secretKey(),
		CertDir:        opts.CertDir,
		CAName:         caName,
		CAOrganization: caOrganization,
		// The API server verifies the names that end in .svc.
		DNSName:       names[0],
		ExtraDNSNames: append(names[1:], opts.ExtraDNSNames...),
		IsReady:       make(chan struct{}),

		RequireLeaderElection: true,
		// Those who serve read their files again; exiting the controller would help nobody.
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
