package images

import (
	"context"
	"time"

	"github.com/hashicorp/golang-lru/v2/expirable"
	imagev1 "github.com/openshift/api/image/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/endpoints/request"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"

	storev1 "istag.dev/store/v1"
)

const (
	// cachedImages bounds the memory of the cache: an image takes a few KiB.
	cachedImages = 2048
	// cachedFor bounds how long another replica's change of an image's labels, or its deletion, goes unseen. What an
	// image holds never changes.
	cachedFor = 10 * time.Second
)

// Registry reads and creates images on behalf of the resources that show them. Errors are StatusErrors
// about resource "images", to be returned bare.
type Registry struct {
	images *genericregistry.Store
	cache  *expirable.LRU[string, *imagev1.Image]
}

func newRegistry(images *genericregistry.Store) *Registry {
	return &Registry{images: images, cache: expirable.NewLRU[string, *imagev1.Image](cachedImages, nil, cachedFor)}
}

// Image returns the image of a digest, without its manifest and configuration. It can be some seconds
// old and is the caller's own but for what pointers in it lead to.
func (r *Registry) Image(ctx context.Context, digest string) (*imagev1.Image, error) {
	if image, ok := r.cache.Get(digest); ok {
		copied := *image
		return &copied, nil
	}
	obj, err := r.images.Get(asImages(ctx), digest, &metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	image := ToAPI(obj.(*storev1.ImageRecord))
	image.DockerImageManifest, image.DockerImageConfig = "", ""
	image.ManagedFields = nil
	r.cache.Add(digest, image)
	copied := *image
	return &copied, nil
}

// Create keeps an image. One that is there already is left as it is.
func (r *Registry) Create(ctx context.Context, image *imagev1.Image) error {
	_, err := r.images.Create(asImages(ctx), FromAPI(image.DeepCopy()), nil, &metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

func (r *Registry) forget(digest string) { r.cache.Remove(digest) }

// asImages makes of a request for something else one for images, which are of no namespace.
func asImages(ctx context.Context) context.Context {
	info := request.RequestInfo{
		IsResourceRequest: true,
		APIGroup:          imagev1.GroupVersion.Group,
		APIVersion:        imagev1.GroupVersion.Version,
		Resource:          "images",
	}
	return request.WithNamespace(request.WithRequestInfo(ctx, &info), metav1.NamespaceNone)
}
