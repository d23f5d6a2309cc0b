package certs

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"sync"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"
)

const (
	fieldOwner = "istag-certs"

	// backdating is how far in the past the library sets the start of a CA's validity.
	backdating = time.Hour

	// overlap is for how long after the CA was replaced the previous one is still trusted. A kubelet brings a changed Secret to
	// a volume within about two minutes. It is short because replacing the CA is also the remedy for a stolen key.
	overlap = 10 * time.Minute

	// maxPrevious bounds the bundle, should something replace the CA again and again.
	maxPrevious = 2
)

// trust keeps the CA bundle of one MutatingWebhookConfiguration equal to the CA in the Secret, and for a while after the CA was
// replaced also the previous one.
//
// The configuration is handled unstructured: writing it back through a Go type would drop fields newer than the type.
type trust struct {
	reader  client.Reader
	writer  client.Writer
	secret  types.NamespacedName
	webhook string
	clock   clock.PassiveClock

	// trusted is closed, once, when the configuration has the bundle.
	trusted chan struct{}
	once    sync.Once
}

func newWebhookConfiguration() *unstructured.Unstructured {
	config := &unstructured.Unstructured{}
	config.SetGroupVersionKind(admissionregistrationv1.SchemeGroupVersion.WithKind("MutatingWebhookConfiguration"))
	return config
}

// addTrust adds the controller and a cache of its own, which holds the two objects and nothing else: the manager's cache could
// list all Secrets of the cluster, and list and watch of one name can be granted by name.
func addTrust(mgr manager.Manager, opts Options) (<-chan struct{}, error) {
	named := func(name string) fields.Selector { return fields.OneTermEqualSelector("metadata.name", name) }
	objects, err := cache.New(mgr.GetConfig(), cache.Options{
		HTTPClient: mgr.GetHTTPClient(),
		Scheme:     mgr.GetScheme(),
		Mapper:     mgr.GetRESTMapper(),
		ByObject: map[client.Object]cache.ByObject{
			&corev1.Secret{}:          {Field: named(opts.Secret), Namespaces: map[string]cache.Config{opts.Namespace: {}}},
			newWebhookConfiguration(): {Field: named(opts.MutatingWebhook)},
		},
	})
	if err != nil {
		return nil, fmt.Errorf("making a cache: %w", err)
	}
	if err := mgr.Add(objects); err != nil {
		return nil, fmt.Errorf("adding the cache to the manager: %w", err)
	}

	t := &trust{
		reader:  objects,
		writer:  mgr.GetClient(),
		secret:  opts.secretKey(),
		webhook: opts.MutatingWebhook,
		clock:   clock.RealClock{},
		trusted: make(chan struct{}),
	}
	request := []reconcile.Request{{NamespacedName: types.NamespacedName{Name: opts.MutatingWebhook}}}
	return t.trusted, builder.ControllerManagedBy(mgr).
		Named("ca-bundle").
		WatchesRawSource(source.Kind(objects, &corev1.Secret{}, handler.TypedEnqueueRequestsFromMapFunc(
			func(context.Context, *corev1.Secret) []reconcile.Request { return request }))).
		WatchesRawSource(source.Kind(objects, newWebhookConfiguration(), handler.TypedEnqueueRequestsFromMapFunc(
			func(context.Context, *unstructured.Unstructured) []reconcile.Request { return request }))).
		Complete(t)
}

// Reconcile writes the bundle if it is not what it should be. What is missing or not yet filled is waited for: its
// appearance is an event.
func (t *trust) Reconcile(ctx context.Context, _ reconcile.Request) (reconcile.Result, error) {
	secret := &corev1.Secret{}
	if err := t.reader.Get(ctx, t.secret, secret); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	current := certificates(secret.Data[caKey])
	if len(current) == 0 {
		return reconcile.Result{}, nil
	}

	config := newWebhookConfiguration()
	if err := t.reader.Get(ctx, types.NamespacedName{Name: t.webhook}, config); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	config = config.DeepCopy()
	changed, again, err := inject(config, current, t.clock.Now())
	if err != nil {
		return reconcile.Result{}, fmt.Errorf("putting the CA bundle into webhook configuration %q: %w", t.webhook, err)
	}
	if changed {
		if err := t.writer.Update(ctx, config, client.FieldOwner(fieldOwner)); err != nil {
			return reconcile.Result{}, fmt.Errorf("writing webhook configuration %q: %w", t.webhook, err)
		}
		log.FromContext(ctx).Info("wrote the CA bundle", "webhookConfiguration", t.webhook, "previousKept", again > 0)
	}
	t.once.Do(func() { close(t.trusted) })
	return reconcile.Result{RequeueAfter: again}, nil
}

// inject sets the bundle of every webhook in config. It says whether that changed anything, and when a previous CA has to be dropped
// (zero: there is none).
func inject(config *unstructured.Unstructured, current []*x509.Certificate, now time.Time) (changed bool, again time.Duration, err error) {
	webhooks, _, err := unstructured.NestedSlice(config.Object, "webhooks")
	if err != nil {
		return false, 0, err
	}
	for i := range webhooks {
		webhook, ok := webhooks[i].(map[string]any)
		if !ok {
			return false, 0, fmt.Errorf("webhook %d is not an object", i)
		}
		text, _, err := unstructured.NestedString(webhook, "clientConfig", "caBundle")
		if err != nil {
			return false, 0, err
		}
		// What is not base64 is not a bundle that anything could have trusted.
		before, _ := base64.StdEncoding.DecodeString(text)

		after, wait := bundle(certificates(before), current, now)
		again = max(again, wait)
		if bytes.Equal(before, after) {
			continue
		}
		changed = true
		if err := unstructured.SetNestedField(webhook, base64.StdEncoding.EncodeToString(after), "clientConfig", "caBundle"); err != nil {
			return false, 0, err
		}
	}
	if len(webhooks) == 0 {
		return false, 0, errors.New("it has no webhooks")
	}
	return changed, again, unstructured.SetNestedSlice(config.Object, webhooks, "webhooks")
}

// bundle returns what the API server should trust: the current CA first, then those of the previous bundle that a server may
// still present, and how long they may stay (zero: there are none). That the CA was replaced lately is read from its own start of
// validity, so that a restart of the controller changes nothing.
func bundle(previous, current []*x509.Certificate, now time.Time) ([]byte, time.Duration) {
	remaining := current[0].NotBefore.Add(backdating + overlap).Sub(now)

	kept := 0
	all := append([]*x509.Certificate(nil), current...)
	for _, ca := range previous {
		if remaining > 0 && kept < maxPrevious && now.Before(ca.NotAfter) && !contains(all, ca) {
			all = append(all, ca)
			kept++
		}
	}
	if kept == 0 {
		remaining = 0
	}

	var out []byte
	for _, ca := range all {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Raw})...)
	}
	return out, remaining
}

func contains(all []*x509.Certificate, c *x509.Certificate) bool {
	for _, other := range all {
		if other.Equal(c) {
			return true
		}
	}
	return false
}

// certificates returns the certificates in text, and leaves out what is none.
func certificates(text []byte) []*x509.Certificate {
	var out []*x509.Certificate
	for {
		var block *pem.Block
		block, text = pem.Decode(text)
		if block == nil {
			return out
		}
		if c, err := x509.ParseCertificate(block.Bytes); err == nil {
			out = append(out, c)
		}
	}
}
