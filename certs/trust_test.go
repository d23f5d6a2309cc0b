package certs

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/open-policy-agent/cert-controller/pkg/rotator"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

func TestBundle(t *testing.T) {
	now := time.Now().Truncate(time.Second)
	fresh := newCA(t, now.Add(-time.Minute)).Cert
	old := newCA(t, now.Add(-9*365*24*time.Hour)).Cert
	older := newCA(t, now.Add(-9*365*24*time.Hour)).Cert
	oldest := newCA(t, now.Add(-9*365*24*time.Hour)).Cert
	ended := newCA(t, now.Add(-caValidity-time.Hour)).Cert

	cases := map[string]struct {
		reason   string
		previous []*x509.Certificate
		current  *x509.Certificate
		want     []*x509.Certificate
		again    time.Duration
	}{
		"First": {
			reason:  "On a new installation there is nothing to overlap with.",
			current: fresh,
			want:    []*x509.Certificate{fresh},
		},
		"Unchanged": {
			reason:   "A bundle that is right must stay as it is, or every check would write.",
			previous: []*x509.Certificate{fresh},
			current:  fresh,
			want:     []*x509.Certificate{fresh},
		},
		"JustReplaced": {
			reason:   "Webhook replicas serve the old CA's certificate until the kubelet has brought the new one.",
			previous: []*x509.Certificate{old},
			current:  fresh,
			want:     []*x509.Certificate{fresh, old},
			again:    overlap - time.Minute,
		},
		"StillOverlapping": {
			reason:   "The overlap must survive a restart of the controller, so it is read from the bundle itself.",
			previous: []*x509.Certificate{fresh, old},
			current:  fresh,
			want:     []*x509.Certificate{fresh, old},
			again:    overlap - time.Minute,
		},
		"ReplacedLongAgo": {
			reason:   "Replacing the CA is the remedy for a stolen key, so the old one must not stay trusted.",
			previous: []*x509.Certificate{old, older},
			current:  old,
			want:     []*x509.Certificate{old},
		},
		"PreviousEnded": {
			reason:   "A CA past its end is of no use to anybody.",
			previous: []*x509.Certificate{ended},
			current:  fresh,
			want:     []*x509.Certificate{fresh},
		},
		"ReplacedOftenAndFast": {
			reason:   "The bundle must not grow without bound; the newest are the likeliest to be served.",
			previous: []*x509.Certificate{old, older, oldest},
			current:  fresh,
			want:     []*x509.Certificate{fresh, old, older},
			again:    overlap - time.Minute,
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got, again := bundle(tc.previous, []*x509.Certificate{tc.current}, now)
			if !slices.EqualFunc(certificates(got), tc.want, (*x509.Certificate).Equal) {
				t.Errorf("%s\nbundle has %d certificates, want %d, in this order", tc.reason, len(certificates(got)), len(tc.want))
			}
			if again != tc.again {
				t.Errorf("%s\nagain in %s, want %s", tc.reason, again, tc.again)
			}
		})
	}
}

func TestCertificates(t *testing.T) {
	ca := newCA(t, time.Now())
	broken := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("not DER")})

	cases := map[string]struct {
		reason string
		text   []byte
		want   int
	}{
		"Nil":     {reason: "A Secret that was just shipped is empty.", text: nil, want: 0},
		"Text":    {reason: "What a hand wrote into the bundle must not stop the controller.", text: []byte("\n"), want: 0},
		"One":     {reason: "This is what the library writes.", text: ca.CertPEM, want: 1},
		"Several": {reason: "An overlapping bundle holds two.", text: append(slices.Clone(ca.CertPEM), ca.CertPEM...), want: 2},
		"Broken":  {reason: "The good certificates around a broken one still count.", text: append(broken, ca.CertPEM...), want: 1},
		"Key":     {reason: "A key is no certificate, and must never reach a bundle.", text: ca.KeyPEM, want: 0},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if got := len(certificates(tc.text)); got != tc.want {
				t.Errorf("%s\ngot %d certificates, want %d", tc.reason, got, tc.want)
			}
		})
	}
}

func secretOf(ca *rotator.KeyPairArtifacts) *corev1.Secret {
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: testSecret.Namespace, Name: testSecret.Name}}
	if ca != nil {
		s.Data = map[string][]byte{caKey: ca.CertPEM, "ca.key": ca.KeyPEM}
	}
	return s
}

func configOf(bundles ...[]byte) *admissionregistrationv1.MutatingWebhookConfiguration {
	config := &admissionregistrationv1.MutatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "istag", Labels: map[string]string{"kept": "yes"}},
	}
	for i, b := range bundles {
		config.Webhooks = append(config.Webhooks, admissionregistrationv1.MutatingWebhook{
			Name:         string(rune('a'+i)) + ".istag.dev",
			ClientConfig: admissionregistrationv1.WebhookClientConfig{CABundle: b},
		})
	}
	return config
}

func TestTrustReconcile(t *testing.T) {
	now := time.Now().Truncate(time.Second)
	ca := newCA(t, now)
	old := newCA(t, now.Add(-24*time.Hour))
	both := append(slices.Clone(ca.CertPEM), old.CertPEM...)
	errBoom := errors.New("boom")

	type want struct {
		bundles [][]byte
		writes  int
		trusted bool
		again   time.Duration
		err     error
	}
	cases := map[string]struct {
		reason  string
		objects []client.Object
		failure error
		want    want
	}{
		"NoSecret": {
			reason:  "Nothing can be done without it; its appearance is an event, so this is no error to retry.",
			objects: []client.Object{configOf(nil)},
			want:    want{bundles: [][]byte{nil}},
		},
		"EmptySecret": {
			reason:  "The Secret is shipped empty, and filled by the rotator a moment later.",
			objects: []client.Object{secretOf(nil), configOf(nil)},
			want:    want{bundles: [][]byte{nil}},
		},
		"NoConfiguration": {
			reason:  "A certificate that nothing trusts must not be reported as ready.",
			objects: []client.Object{secretOf(ca)},
		},
		"NoWebhooks": {
			reason:  "A configuration without webhooks is somebody's mistake, and worth an error.",
			objects: []client.Object{secretOf(ca), configOf()},
			want:    want{err: errAny},
		},
		"First": {
			reason:  "Every webhook of the configuration gets the CA.",
			objects: []client.Object{secretOf(ca), configOf(nil, nil)},
			want:    want{bundles: [][]byte{ca.CertPEM, ca.CertPEM}, writes: 1, trusted: true},
		},
		"Unchanged": {
			reason:  "A write that changes nothing is load on the API server at every resync.",
			objects: []client.Object{secretOf(ca), configOf(ca.CertPEM)},
			want:    want{bundles: [][]byte{ca.CertPEM}, trusted: true},
		},
		"Garbage": {
			reason:  "What somebody else put there, and is no certificate, is replaced.",
			objects: []client.Object{secretOf(ca), configOf([]byte("Cg=="))},
			want:    want{bundles: [][]byte{ca.CertPEM}, writes: 1, trusted: true},
		},
		"Replaced": {
			reason:  "The previous CA stays for the overlap, and its removal is planned.",
			objects: []client.Object{secretOf(ca), configOf(old.CertPEM)},
			want:    want{bundles: [][]byte{both}, writes: 1, trusted: true, again: overlap},
		},
		"WriteFails": {
			reason:  "A conflict is retried, and not reported as ready.",
			objects: []client.Object{secretOf(ca), configOf(nil)},
			failure: errBoom,
			want:    want{bundles: [][]byte{nil}, writes: 1, err: errBoom},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			writes := 0
			c := fake.NewClientBuilder().WithObjects(tc.objects...).WithInterceptorFuncs(interceptor.Funcs{
				Update: func(ctx context.Context, c client.WithWatch, obj client.Object, opts ...client.UpdateOption) error {
					writes++
					if tc.failure != nil {
						return tc.failure
					}
					return c.Update(ctx, obj, opts...)
				},
			}).Build()
			r := &trust{
				reader: c, writer: c, secret: testSecret, webhook: "istag",
				clock: clocktesting.NewFakePassiveClock(now), trusted: make(chan struct{}),
			}
			// Twice: the second run must find its work done, and must not close a closed channel.
			result, err := r.Reconcile(t.Context(), reconcile.Request{})
			if tc.want.err == nil {
				if _, err := r.Reconcile(t.Context(), reconcile.Request{}); err != nil {
					t.Errorf("%s\nsecond run: %v", tc.reason, err)
				}
			}

			if !errors.Is(err, tc.want.err) && (!errors.Is(tc.want.err, errAny) || err == nil) {
				t.Errorf("%s\nerror %v, want %v", tc.reason, err, tc.want.err)
			}
			if diff := cmp.Diff(reconcile.Result{RequeueAfter: tc.want.again}, result); diff != "" {
				t.Errorf("%s\nresult (-want, +got):\n%s", tc.reason, diff)
			}
			if writes != tc.want.writes {
				t.Errorf("%s\n%d writes, want %d", tc.reason, writes, tc.want.writes)
			}
			select {
			case <-r.trusted:
				if !tc.want.trusted {
					t.Errorf("%s\nreported as trusted", tc.reason)
				}
			default:
				if tc.want.trusted {
					t.Errorf("%s\nnot reported as trusted", tc.reason)
				}
			}

			config := &admissionregistrationv1.MutatingWebhookConfiguration{}
			if err := c.Get(t.Context(), types.NamespacedName{Name: "istag"}, config); client.IgnoreNotFound(err) != nil {
				t.Fatal(err)
			}
			var bundles [][]byte
			for _, w := range config.Webhooks {
				bundles = append(bundles, w.ClientConfig.CABundle)
			}
			if diff := cmp.Diff(tc.want.bundles, bundles); diff != "" {
				t.Errorf("%s\nbundles (-want, +got):\n%s", tc.reason, diff)
			}
			if len(config.Webhooks) > 0 && config.Labels["kept"] != "yes" {
				t.Errorf("%s\nthe rest of the configuration was changed", tc.reason)
			}
		})
	}
}

// errAny stands for "an error, whichever".
var errAny = errors.New("any error")
