package images

import (
	"context"
	"encoding/json"
	"sync"

	"github.com/google/go-containerregistry/pkg/v1/types"
	imagev1 "github.com/openshift/api/image/v1"
	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/rest"
)

// parallelImages bounds how many images are read at once for one request.
const parallelImages = 16

// Layers serves imagestreams/layers: every blob that somebody who may pull from a stream may have, with
// all of the stream's history. A registry asks for it.
type Layers struct {
	streams Streams
	images  *Registry
}

var _ rest.Getter = &Layers{}

// NewLayers returns imagestreams/layers.
func NewLayers(streams Streams, images *Registry) *Layers { return &Layers{streams, images} }

// New returns empty ImageStreamLayers.
func (*Layers) New() runtime.Object { return &imagev1.ImageStreamLayers{} }

// Destroy does nothing.
func (*Layers) Destroy() {}

// Get returns the layers of a stream.
func (r *Layers) Get(ctx context.Context, name string, _ *metav1.GetOptions) (runtime.Object, error) {
	record, err := r.streams.Get(ctx, name)
	if err != nil {
		return nil, err
	}
	w := &walk{images: r.images, layers: &imagev1.ImageStreamLayers{
		ObjectMeta: metav1.ObjectMeta{
			Name: record.Name, Namespace: record.Namespace, UID: record.UID,
			ResourceVersion: record.ResourceVersion, CreationTimestamp: record.CreationTimestamp,
		},
		Blobs:  map[string]imagev1.ImageLayerData{},
		Images: map[string]imagev1.ImageBlobReferences{},
	}}
	// One level at a time: the images of the history, then the children of the indexes among them.
	for next := digests(record, ""); len(next) > 0; {
		if next, err = w.visit(ctx, next); err != nil {
			return nil, err
		}
	}
	return w.layers, nil
}

// walk collects what images hold.
type walk struct {
	images *Registry

	mu     sync.Mutex
	layers *imagev1.ImageStreamLayers
}

// visit adds images that were not added before, and returns the children of the indexes among them.
func (w *walk) visit(ctx context.Context, digests []string) ([]string, error) {
	var children []string
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallelImages)
	for _, digest := range digests {
		if !w.first(digest) {
			continue
		}
		group.Go(func() error {
			image, err := w.images.Image(ctx, digest)
			if apierrors.IsNotFound(err) {
				return nil
			}
			if err != nil {
				return err
			}
			w.mu.Lock()
			defer w.mu.Unlock()
			children = append(children, w.add(digest, image)...)
			return nil
		})
	}
	return children, group.Wait()
}

// first reports whether an image was not visited before, and marks it visited: missing, until it is found.
func (w *walk) first(digest string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, visited := w.layers.Images[digest]; visited {
		return false
	}
	w.layers.Images[digest] = imagev1.ImageBlobReferences{ImageMissing: true}
	return true
}

func (w *walk) add(digest string, image *imagev1.Image) (children []string) {
	references := imagev1.ImageBlobReferences{}
	w.layers.Blobs[digest] = imagev1.ImageLayerData{MediaType: image.DockerImageManifestMediaType}
	for _, layer := range image.DockerImageLayers {
		size := layer.LayerSize
		w.layers.Blobs[layer.Name] = imagev1.ImageLayerData{LayerSize: &size, MediaType: layer.MediaType}
		references.Layers = append(references.Layers, layer.Name)
	}
	if config := configDigest(image); config != "" {
		references.Config = &config
		w.layers.Blobs[config] = imagev1.ImageLayerData{MediaType: configMediaType(image)}
	}
	for _, manifest := range image.DockerImageManifests {
		references.Manifests = append(references.Manifests, manifest.Digest)
		children = append(children, manifest.Digest)
	}
	w.layers.Images[digest] = references
	return children
}

// configDigest returns the digest of an image's configuration, which is the image's ID; "" for an index.
func configDigest(image *imagev1.Image) string {
	var metadata struct {
		ID string `json:"Id"`
	}
	if len(image.DockerImageManifests) > 0 || json.Unmarshal(image.DockerImageMetadata.Raw, &metadata) != nil || !digestName.MatchString(metadata.ID) {
		return ""
	}
	return metadata.ID
}

func configMediaType(image *imagev1.Image) string {
	if image.DockerImageManifestMediaType == string(types.OCIManifestSchema1) {
		return string(types.OCIConfigJSON)
	}
	return string(types.DockerConfigJSON)
}
