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
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/open-policy-agent/cert-controller/pkg/rotator"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
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

func apiServiceOf(bundle []byte) *apiregistrationv1.APIService {
	return &apiregistrationv1.APIService{
		ObjectMeta: metav1.ObjectMeta{Name: "v1.image.openshift.io", Labels: map[string]string{"kept": "yes"}},
		Spec:       apiregistrationv1.APIServiceSpec{Group: "image.openshift.io", Version: "v1", CABundle: bundle},
	}
}

func TestTrustReconcile(t *testing.T) {
	now := time.Now().Truncate(time.Second)
	ca := newCA(t, now)
	old := newCA(t, now.Add(-24*time.Hour))
	both := append(slices.Clone(ca.CertPEM), old.CertPEM...)
	errBoom := errors.New("boom")

	type want struct {
		webhooks   [][]byte
		apiService []byte
		writes     int
		trusted    bool
		again      time.Duration
		err        error
	}
	cases := map[string]struct {
		reason  string
		objects []client.Object
		failure error
		want    want
	}{
		"NoSecret": {
			reason:  "Nothing can be done without it; its appearance is an event, so this is no error to retry.",
			objects: []client.Object{configOf(nil), apiServiceOf(nil)},
			want:    want{webhooks: [][]byte{nil}},
		},
		"EmptySecret": {
			reason:  "The Secret is shipped empty, and filled by the rotator a moment later.",
			objects: []client.Object{secretOf(nil), configOf(nil), apiServiceOf(nil)},
			want:    want{webhooks: [][]byte{nil}},
		},
		"NoConfiguration": {
			reason:  "A certificate that nothing trusts must not be reported as ready, and the API must not wait for the webhook.",
			objects: []client.Object{secretOf(ca), apiServiceOf(nil)},
			want:    want{apiService: ca.CertPEM, writes: 1},
		},
		"NoAPIService": {
			reason:  "While the APIService is away on purpose, the webhook works on.",
			objects: []client.Object{secretOf(ca), configOf(nil)},
			want:    want{webhooks: [][]byte{ca.CertPEM}, writes: 1},
		},
		"NoWebhooks": {
			reason:  "A configuration without webhooks is somebody's mistake, and worth an error; the API is none the worse.",
			objects: []client.Object{secretOf(ca), configOf(), apiServiceOf(nil)},
			want:    want{apiService: ca.CertPEM, writes: 1, err: errAny},
		},
		"First": {
			reason:  "Every webhook of the configuration gets the CA, and so does the APIService.",
			objects: []client.Object{secretOf(ca), configOf(nil, nil), apiServiceOf(nil)},
			want:    want{webhooks: [][]byte{ca.CertPEM, ca.CertPEM}, apiService: ca.CertPEM, writes: 2, trusted: true},
		},
		"Unchanged": {
			reason:  "A write that changes nothing is load on the API server at every resync.",
			objects: []client.Object{secretOf(ca), configOf(ca.CertPEM), apiServiceOf(ca.CertPEM)},
			want:    want{webhooks: [][]byte{ca.CertPEM}, apiService: ca.CertPEM, trusted: true},
		},
		"OneEmptied": {
			reason:  "What an apply of the manifests took away is put back, and nothing else is written.",
			objects: []client.Object{secretOf(ca), configOf(ca.CertPEM), apiServiceOf(nil)},
			want:    want{webhooks: [][]byte{ca.CertPEM}, apiService: ca.CertPEM, writes: 1, trusted: true},
		},
		"Garbage": {
			reason:  "What somebody else put there, and is no certificate, is replaced.",
			objects: []client.Object{secretOf(ca), configOf([]byte("Cg==")), apiServiceOf([]byte("Cg=="))},
			want:    want{webhooks: [][]byte{ca.CertPEM}, apiService: ca.CertPEM, writes: 2, trusted: true},
		},
		"Replaced": {
			reason:  "The previous CA stays for the overlap, and its removal is planned.",
			objects: []client.Object{secretOf(ca), configOf(old.CertPEM), apiServiceOf(old.CertPEM)},
			want:    want{webhooks: [][]byte{both}, apiService: both, writes: 2, trusted: true, again: overlap},
		},
		"OneReplaced": {
			reason:  "Each target overlaps with what it trusted itself.",
			objects: []client.Object{secretOf(ca), configOf(old.CertPEM), apiServiceOf(ca.CertPEM)},
			want:    want{webhooks: [][]byte{both}, apiService: ca.CertPEM, writes: 1, trusted: true, again: overlap},
		},
		"WriteFails": {
			reason:  "A conflict is retried, and not reported as ready.",
			objects: []client.Object{secretOf(ca), configOf(nil), apiServiceOf(nil)},
			failure: errBoom,
			want:    want{webhooks: [][]byte{nil}, writes: 2, err: errBoom},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			writes := 0
			c := fake.NewClientBuilder().WithScheme(testScheme(t)).WithObjects(tc.objects...).WithInterceptorFuncs(interceptor.Funcs{
				Update: func(ctx context.Context, c client.WithWatch, obj client.Object, opts ...client.UpdateOption) error {
					writes++
					if tc.failure != nil {
						return tc.failure
					}
					return c.Update(ctx, obj, opts...)
				},
			}).Build()
			r := &trust{
				reader: c, writer: c, secret: testSecret,
				targets: []target{webhookTarget(mutating, "istag"), apiServiceTarget("v1.image.openshift.io")},
				clock:   clocktesting.NewFakePassiveClock(now), trusted: make(chan struct{}),
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
			trusted := false
			select {
			case <-r.trusted:
				trusted = true
			default:
			}
			webhooks, apiService := bundlesIn(t, c)
			got := want{webhooks: webhooks, apiService: apiService, writes: writes, trusted: trusted, again: result.RequeueAfter, err: tc.want.err}
			if diff := cmp.Diff(tc.want, got, cmp.AllowUnexported(want{}), cmpopts.EquateErrors()); diff != "" {
				t.Errorf("%s\n(-want, +got):\n%s", tc.reason, diff)
			}
		})
	}
}

// TestTrustOfBothWebhooks is about the name that they share: they are two objects, and each has its own bundle.
func TestTrustOfBothWebhooks(t *testing.T) {
	ca := newCA(t, time.Now())
	checks := &admissionregistrationv1.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "istag"},
		Webhooks:   []admissionregistrationv1.ValidatingWebhook{{Name: "check.istag.dev"}, {Name: "revision.check.istag.dev"}},
	}
	c := fake.NewClientBuilder().WithScheme(testScheme(t)).WithObjects(secretOf(ca), configOf(nil), checks).Build()
	r := &trust{
		reader: c, writer: c, secret: testSecret,
		targets: []target{webhookTarget(mutating, "istag"), webhookTarget(validating, "istag")},
		clock:   clocktesting.NewFakePassiveClock(time.Now()), trusted: make(chan struct{}),
	}
	if _, err := r.Reconcile(t.Context(), reconcile.Request{}); err != nil {
		t.Fatal(err)
	}
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(checks), checks); err != nil {
		t.Fatal(err)
	}
	for _, w := range checks.Webhooks {
		if diff := cmp.Diff(ca.CertPEM, w.ClientConfig.CABundle); diff != "" {
			t.Errorf("%s: an API server that does not trust it calls neither (-want +got):\n%s", w.Name, diff)
		}
	}
	if webhooks, _ := bundlesIn(t, c); !cmp.Equal([][]byte{ca.CertPEM}, webhooks) {
		t.Error("the mutating webhook has no bundle, or another one")
	}
}

// bundlesIn returns what the API server would trust, and fails the test if anything else of an object was changed.
func bundlesIn(t *testing.T, c client.Client) (webhooks [][]byte, apiService []byte) {
	t.Helper()
	config := configOf()
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(config), config); client.IgnoreNotFound(err) != nil {
		t.Fatal(err)
	}
	for _, w := range config.Webhooks {
		webhooks = append(webhooks, w.ClientConfig.CABundle)
	}
	service := apiServiceOf(nil)
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(service), service); client.IgnoreNotFound(err) != nil {
		t.Fatal(err)
	}
	if config.Labels["kept"] != "yes" || service.Labels["kept"] != "yes" || service.Spec.Group != "image.openshift.io" {
		t.Error("the rest of an object was changed")
	}
	return webhooks, service.Spec.CABundle
}

func testScheme(t *testing.T) *runtime.Scheme {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), apiregistrationv1.AddToScheme(scheme)); err != nil {
		t.Fatal(err)
	}
	return scheme
}

// errAny stands for "an error, whichever".
var errAny = errors.New("any error")
