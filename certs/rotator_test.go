package certs

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"testing"
	"time"

	"github.com/open-policy-agent/cert-controller/pkg/rotator"
)

func TestOptionsValidate(t *testing.T) {
	cases := map[string]struct {
		reason string
		change func(*Options)
		want   bool
	}{
		"Complete": {
			reason: "The options that the controller role uses must be accepted.",
			change: func(*Options) {},
			want:   true,
		},
		"NoExtraNames": {
			reason: "On a cluster the Service's names are all that is needed.",
			change: func(o *Options) { o.ExtraDNSNames = nil },
			want:   true,
		},
		"NoNamespace": {
			reason: "Without a namespace the library would watch every Secret of the cluster.",
			change: func(o *Options) { o.Namespace = "" },
		},
		"NoSecret": {
			reason: "There must be a place to keep the certificate.",
			change: func(o *Options) { o.Secret = "" },
		},
		"NoServices": {
			reason: "A certificate without a Service's name is refused by the API server.",
			change: func(o *Options) { o.Services = nil },
		},
		"NoService": {
			reason: "Nobody is reached by an empty name.",
			change: func(o *Options) { o.Services = []string{"istag-webhook", ""} },
		},
		"NoWebhook": {
			reason: "A certificate that nothing trusts must not look like success.",
			change: func(o *Options) { o.MutatingWebhook = "" },
		},
		"NoValidatingWebhook": {
			reason: "One of two webhooks that is not trusted is not called, and nobody would be told.",
			change: func(o *Options) { o.ValidatingWebhook = "" },
		},
		"NoAPIService": {
			reason: "Nor must one that the API's clients never reach.",
			change: func(o *Options) { o.APIService = "" },
		},
		"NoCertDir": {
			reason: "The library would look for /tls.crt, and stop the manager minutes later.",
			change: func(o *Options) { o.CertDir = "" },
		},
		"Address": {
			reason: "The library writes DNS names only; an address would be ignored by whoever verifies, so it is refused at once.",
			change: func(o *Options) { o.ExtraDNSNames = []string{"localhost", "127.0.0.1"} },
		},
		"AddressV6": {
			reason: "The same holds for IPv6.",
			change: func(o *Options) { o.ExtraDNSNames = []string{"::1"} },
		},
		"NotAName": {
			reason: "A URL is a likely slip, and no certificate name.",
			change: func(o *Options) { o.ExtraDNSNames = []string{"https://localhost"} },
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			opts := testOptions()
			tc.change(&opts)
			if err := opts.validate(); (err == nil) != tc.want {
				t.Errorf("%s\nvalidate(): %v, want valid: %t", tc.reason, err, tc.want)
			}
			if tc.want {
				return
			}
			if _, err := AddRotator(nil, opts); err == nil {
				t.Errorf("%s\nAddRotator accepted the options", tc.reason)
			}
		})
	}
}

// TestCertificate makes certificates with the library as AddRotator sets it up.
func TestCertificate(t *testing.T) {
	ca := newCA(t, time.Now())
	files := newPair(t, ca)
	block, _ := pem.Decode(files[certKey])
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca.Cert)

	cases := map[string]struct {
		reason string
		host   string
		want   bool
	}{
		"Service": {
			reason: "This is the name that the API server verifies for a Service.",
			host:   "istag-webhook.istag-system.svc",
			want:   true,
		},
		"OtherService": {
			reason: "One certificate serves the webhook and the API.",
			host:   "istag-apiserver.istag-system.svc",
			want:   true,
		},
		"ShortService": {
			reason: "People who test from a pod dial this one.",
			host:   "istag-webhook.istag-system",
			want:   true,
		},
		"Localhost": {
			reason: "A local run has no Service: its webhook configuration dials https://localhost:PORT.",
			host:   "localhost",
			want:   true,
		},
		"Address": {
			reason: "The library sets no IP addresses, so a local run must not dial one; once it does, Options can accept them.",
			host:   "127.0.0.1",
		},
		"Stranger": {
			reason: "The certificate must be good for nothing else.",
			host:   "kubernetes.default.svc",
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := cert.Verify(x509.VerifyOptions{DNSName: tc.host, Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
			if (err == nil) != tc.want {
				t.Errorf("%s\nVerify(%q): %v, want verified: %t", tc.reason, tc.host, err, tc.want)
			}
		})
	}

	t.Run("LibraryAgrees", func(t *testing.T) {
		rot := newRotator(testOptions())
		ok, err := rotator.ValidCert(ca.CertPEM, files[certKey], files[keyKey], rot.DNSName, rot.ExtKeyUsages, time.Now().Add(rot.LookaheadInterval))
		if !ok || err != nil {
			t.Errorf("the library must find its own fresh certificate valid, or it would renew for ever: %v", err)
		}
		if _, err := tls.X509KeyPair(files[certKey], files[keyKey]); err != nil {
			t.Error(err)
		}
	})
}

func TestNewRotator(t *testing.T) {
	rot := newRotator(testOptions())
	if rot.RestartOnSecretRefresh {
		t.Error("the controller must not exit when the Secret changes: the files are reloaded by the webhook")
	}
	if !rot.RequireLeaderElection {
		t.Error("two replicas that rotate would fight over the Secret")
	}
	if len(rot.Webhooks) != 0 {
		t.Error("the library must not write the CA bundle: it would cut off the servers that still present the previous CA's certificate")
	}
	if rot.LookaheadInterval >= rot.ServerCertDuration || rot.ServerCertDuration >= rot.CaCertDuration-rot.LookaheadInterval {
		t.Error("a certificate must live longer than its renewal interval, and its CA longer than the certificate, or each check renews")
	}
}
