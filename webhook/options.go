// Package webhook is admission: it finds the images of an object under review, asks the resolver what
// each means, patches the object, has the last word on what may run, and records what it decided.
package webhook

import (
	"context"
	"net/http"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"istag.dev/config"
	"istag.dev/store"
	"istag.dev/webhook/audit"
	"istag.dev/webhook/lock"
	"istag.dev/webhook/policy"
	"istag.dev/webhook/scope"
)

// Paths at which the API server finds the webhooks.
const (
	PinPath   = "/pin"   // mutating: names become pull specs
	CheckPath = "/check" // validating: the last word on images
)

// maxWaiting is how many reviews may wait for first imports at once. A review that comes on top decides at
// once: waiting must not take up the connections that others need.
const maxWaiting = 64

// StreamReader reads a stream that the index may not have seen yet, nil if there is none. *Streams is one.
type StreamReader interface {
	Stream(ctx context.Context, namespace, name string) (*store.Stream, error)
}

// ImageReader knows what the store has of an image, nil if it has nothing. An error means that this cannot
// be told. *Images is one.
type ImageReader interface {
	Image(ctx context.Context, digest string) (*policy.Known, error)
}

// AccessReviewer knows who may use which stream of a namespace that is not the object's own. *Access is one.
type AccessReviewer interface {
	May(ctx context.Context, user authenticationv1.UserInfo, namespace, stream string) (bool, error)
}

// Denials is told what was refused, to tell it to whoever looks at the object.
type Denials interface {
	Denied(object corev1.ObjectReference, message string)
}

// Options are what admission needs. Those that may be nil say so.
type Options struct {
	Index   *store.Index
	Streams StreamReader
	Scopes  scope.Reader
	// Locks may be nil: nothing is locked, then.
	Locks lock.Reader
	// Images is asked if the policy needs images. It may be nil: none is known, then.
	Images ImageReader
	// Policy returns the policy in force. A review uses one for its whole length.
	Policy func() *policy.Policy
	// Access is asked about streams of other namespaces only. Nil refuses them all.
	Access AccessReviewer
	Audit  *audit.Log
	// Metrics may be nil.
	Metrics *Metrics
	// Events may be nil. It is told of what was refused, dry runs left out.
	Events Denials
	// Workloads are the custom resources that have pod specs.
	Workloads []config.Workload
	// FirstImportWait is how long a review waits for the first import of a tag that it needs.
	FirstImportWait time.Duration
}

// Pinner is both webhooks. The mutating one replaces the names of images that mean a tag of an image
// stream by that tag's pull spec, and refuses an object that names a tag which a local stream does not
// have. The validating one refuses images that were changed behind it, and those that may not run.
type Pinner struct {
	options Options

	custom  map[schema.GroupResource][]step
	waiting chan struct{}
	pool    sync.Pool // of *buffers
}

// New returns the webhooks.
func New(o Options) *Pinner {
	p := &Pinner{
		options: o,
		custom:  make(map[schema.GroupResource][]step, len(o.Workloads)),
		waiting: make(chan struct{}, maxWaiting),
		pool:    sync.Pool{New: func() any { return new(buffers) }},
	}
	for _, w := range o.Workloads {
		p.custom[schema.GroupResource{Group: w.Group, Resource: w.Resource}] = parsePath(w.PodSpec)
	}
	return p
}

// Pin is the mutating webhook, to be served at PinPath.
func (p *Pinner) Pin() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { p.serve(w, r, pinHook) })
}

// Check is the validating webhook, to be served at CheckPath.
func (p *Pinner) Check() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { p.serve(w, r, checkHook) })
}

// hook is one of the two webhooks, by the name that the audit log and the metrics have for it.
type hook string

const (
	pinHook   hook = "pin"
	checkHook hook = "check"
)
