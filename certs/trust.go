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

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
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

// trust keeps the CA bundles of its targets equal to the CA in the Secret, and for a while after the CA was replaced also
// the previous one.
type trust struct {
	reader  client.Reader
	writer  client.Writer
	secret  types.NamespacedName
	targets []target
	clock   clock.PassiveClock

	// trusted is closed, once, when every target has the bundle.
	trusted chan struct{}
	once    sync.Once
}

// target is one object in which the API server reads whom to trust. It is handled unstructured: writing it back through a Go type would
// drop fields newer than the type.
type target struct {
	kind schema.GroupVersionKind
	name string
	// holders returns the parts of the object that have a caBundle each.
	holders func(object map[string]any) ([]map[string]any, error)
}

// Kinds of webhook configurations.
const (
	mutating   = "MutatingWebhookConfiguration"
	validating = "ValidatingWebhookConfiguration"
)

func webhookTarget(kind, name string) target {
	of := schema.GroupVersionKind{Group: "admissionregistration.k8s.io", Version: "v1", Kind: kind}
	return target{kind: of, name: name, holders: webhookHolders}
}

func apiServiceTarget(name string) target {
	kind := schema.GroupVersionKind{Group: "apiregistration.k8s.io", Version: "v1", Kind: "APIService"}
	return target{kind: kind, name: name, holders: func(object map[string]any) ([]map[string]any, error) {
		spec, ok := object["spec"].(map[string]any)
		if !ok {
			return nil, errors.New("it has no spec")
		}
		return []map[string]any{spec}, nil
	}}
}

func webhookHolders(object map[string]any) ([]map[string]any, error) {
	webhooks, _ := object["webhooks"].([]any)
	if len(webhooks) == 0 {
		return nil, errors.New("it has no webhooks")
	}
	var holders []map[string]any
	for i := range webhooks {
		webhook, _ := webhooks[i].(map[string]any)
		holder, ok := webhook["clientConfig"].(map[string]any)
		if !ok {
			return nil, fmt.Errorf("webhook %d has no clientConfig", i)
		}
		holders = append(holders, holder)
	}
	return holders, nil
}

func (t target) String() string { return fmt.Sprintf("%s %q", t.kind.Kind, t.name) }

func (t target) object() *unstructured.Unstructured {
	object := &unstructured.Unstructured{}
	object.SetGroupVersionKind(t.kind)
	return object
}

// addTrust adds the controller and a cache of its own, which holds the Secret and the targets and nothing else: the manager's cache
// could list all Secrets of the cluster, and list and watch of one name can be granted by name.
func addTrust(mgr manager.Manager, opts Options) (<-chan struct{}, error) {
	named := func(name string) fields.Selector { return fields.OneTermEqualSelector("metadata.name", name) }
	targets := []target{
		webhookTarget(mutating, opts.MutatingWebhook),
		webhookTarget(validating, opts.ValidatingWebhook),
		apiServiceTarget(opts.APIService),
	}
	watched := map[client.Object]cache.ByObject{
		&corev1.Secret{}: {Field: named(opts.Secret), Namespaces: map[string]cache.Config{opts.Namespace: {}}},
	}
	for _, target := range targets {
		watched[target.object()] = cache.ByObject{Field: named(target.name)}
	}
	objects, err := cache.New(mgr.GetConfig(), cache.Options{
		HTTPClient: mgr.GetHTTPClient(),
		Scheme:     mgr.GetScheme(),
		Mapper:     mgr.GetRESTMapper(),
		ByObject:   watched,
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
		targets: targets,
		clock:   clock.RealClock{},
		trusted: make(chan struct{}),
	}
	// A change of any of them is about all of them.
	request := []reconcile.Request{{NamespacedName: opts.secretKey()}}
	controller := builder.ControllerManagedBy(mgr).
		Named("ca-bundle").
		WatchesRawSource(source.Kind(objects, &corev1.Secret{}, handler.TypedEnqueueRequestsFromMapFunc(
			func(context.Context, *corev1.Secret) []reconcile.Request { return request })))
	for _, target := range targets {
		controller.WatchesRawSource(source.Kind(objects, target.object(), handler.TypedEnqueueRequestsFromMapFunc(
			func(context.Context, *unstructured.Unstructured) []reconcile.Request { return request })))
	}
	return t.trusted, controller.Complete(t)
}

// Reconcile writes the bundles that are not what they should be. What is missing or not yet filled is waited for: its
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

	var (
		result reconcile.Result
		errs   []error
		all    = true
	)
	for _, target := range t.targets {
		found, again, err := t.keep(ctx, target, current)
		errs = append(errs, err)
		all = all && found
		// What remains of the overlap is the same for every target that has a previous CA.
		result.RequeueAfter = max(result.RequeueAfter, again)
	}
	if err := errors.Join(errs...); err != nil {
		return reconcile.Result{}, err
	}
	if all {
		t.once.Do(func() { close(t.trusted) })
	}
	return result, nil
}

// keep writes the bundle of one target if need be. It says whether there is the target, and when a previous CA has to be dropped
// (zero: there is none).
func (t *trust) keep(ctx context.Context, target target, current []*x509.Certificate) (found bool, again time.Duration, err error) {
	object := target.object()
	if err := t.reader.Get(ctx, types.NamespacedName{Name: target.name}, object); err != nil {
		return false, 0, client.IgnoreNotFound(err)
	}
	object = object.DeepCopy()
	holders, err := target.holders(object.Object)
	if err != nil {
		return true, 0, fmt.Errorf("putting the CA bundle into %s: %w", target, err)
	}
	changed, again := inject(holders, current, t.clock.Now())
	if !changed {
		return true, again, nil
	}
	if err := t.writer.Update(ctx, object, client.FieldOwner(fieldOwner)); err != nil {
		return true, 0, fmt.Errorf("writing %s: %w", target, err)
	}
	log.FromContext(ctx).Info("wrote the CA bundle", "kind", target.kind.Kind, "name", target.name, "previousKept", again > 0)
	return true, again, nil
}

// inject sets the bundle of every holder. It says whether that changed anything, and when a previous CA has to be dropped (zero:
// there is none).
func inject(holders []map[string]any, current []*x509.Certificate, now time.Time) (changed bool, again time.Duration) {
	for _, holder := range holders {
		// What is neither text nor base64 is not a bundle that anything could have trusted.
		text, _ := holder["caBundle"].(string)
		before, _ := base64.StdEncoding.DecodeString(text)

		after, wait := bundle(certificates(before), current, now)
		again = max(again, wait)
		if bytes.Equal(before, after) {
			continue
		}
		changed = true
		holder["caBundle"] = base64.StdEncoding.EncodeToString(after)
	}
	return changed, again
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
