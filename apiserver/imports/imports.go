// Package imports serves imagestreamimports and imagestreammappings: requests that put images into
// streams and are themselves never stored.
package imports

import (
	"cmp"
	"context"
	"time"

	imagev1 "github.com/openshift/api/image/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/registry/rest"

	"istag.dev/apiserver/streams"
	"istag.dev/resolver/upstream"
	"istag.dev/store"
	storev1 "istag.dev/store/v1"
)

// defaultTimeout bounds the time for registries. An API server cuts a request at 34 s, and the stream
// must be written after that.
const defaultTimeout = 30 * time.Second

// Streams reads and changes streams; *streams.Registry is one.
type Streams interface {
	Get(ctx context.Context, name string) (*storev1.StreamRecord, error)
	Update(ctx context.Context, name string, options streams.UpdateOptions, change func(*storev1.StreamRecord, store.Change) error) (*storev1.StreamRecord, bool, error)
}

// Images reads and creates images; *images.Registry is one.
type Images interface {
	// Image returns the image of a digest, which the caller does not change, or a NotFound.
	Image(ctx context.Context, digest string) (*imagev1.Image, error)
	// Create keeps an image. One that is there already is left as it is.
	Create(ctx context.Context, image *imagev1.Image) error
}

// Upstream asks registries; *upstream.Client is one.
type Upstream interface {
	// Digest returns the image that a request means now.
	Digest(ctx context.Context, req upstream.Request) (upstream.Descriptor, error)
	// Fetch returns what the image of a digest holds, having checked that the registry has it.
	Fetch(ctx context.Context, req upstream.Request, digest string) (*imagev1.Image, error)
	// FetchRaw is Fetch with the manifest and the configuration as they are.
	FetchRaw(ctx context.Context, req upstream.Request, digest string) (*imagev1.Image, error)
	// Tags returns the tags of a repository.
	Tags(ctx context.Context, req upstream.Request) ([]string, error)
}

// Options of imagestreamimports.
type Options struct {
	Streams  Streams
	Images   Images
	Upstream Upstream
	// Admit says from which registries users may import; nil means from all.
	Admit store.Admit
	// Authorizer says who may import from the others as well: whoever may create images, or
	// imagestreammappings, in the whole cluster.
	Authorizer authorizer.UnconditionalAuthorizer
	// MaxTagsPerRepository is how many tags of a whole repository are imported; -1 means all.
	MaxTagsPerRepository int
	// Timeout of all requests to registries together; 0 means 30 s.
	Timeout time.Duration
}

// REST serves imagestreamimports.
type REST struct{ Options }

var (
	_ rest.Creater              = &REST{}
	_ rest.Scoper               = &REST{}
	_ rest.Storage              = &REST{}
	_ rest.SingularNameProvider = &REST{}
)

// New returns imagestreamimports.
func New(o Options) *REST {
	o.Timeout = cmp.Or(o.Timeout, defaultTimeout)
	return &REST{o}
}

// New returns an empty ImageStreamImport.
func (*REST) New() runtime.Object { return &imagev1.ImageStreamImport{} }

// Destroy has nothing to clean up.
func (*REST) Destroy() {}

// NamespaceScoped says that imports are into the streams of a namespace.
func (*REST) NamespaceScoped() bool { return true }

// GetSingularName returns the name by which clients may say the resource.
func (*REST) GetSingularName() string { return "imagestreamimport" }

func kind(name string) schema.GroupKind {
	return schema.GroupKind{Group: imagev1.GroupName, Kind: name}
}
