package images

import (
	"context"
	"fmt"
	"strings"

	imagev1 "github.com/openshift/api/image/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/rest"

	storev1 "istag.dev/store/v1"
)

// Streams reads streams. *streams.Registry is one.
type Streams interface {
	Get(ctx context.Context, name string) (*storev1.StreamRecord, error)
}

// StreamImages serves imagestreamimages: one image of a stream's history, named "stream@digest", where
// the digest may be cut short, with or without its algorithm.
type StreamImages struct {
	rest.TableConvertor

	streams Streams
	images  *Registry
}

var (
	_ rest.Getter               = &StreamImages{}
	_ rest.Scoper               = &StreamImages{}
	_ rest.SingularNameProvider = &StreamImages{}
	_ rest.ShortNamesProvider   = &StreamImages{}
)

// NewStreamImages returns imagestreamimages.
func NewStreamImages(streams Streams, images *Registry) *StreamImages {
	return &StreamImages{TableConvertor: streamImageTable, streams: streams, images: images}
}

// New returns an empty ImageStreamImage.
func (*StreamImages) New() runtime.Object { return &imagev1.ImageStreamImage{} }

// Destroy does nothing.
func (*StreamImages) Destroy() {}

// NamespaceScoped says that they live in namespaces.
func (*StreamImages) NamespaceScoped() bool { return true }

// GetSingularName returns the singular.
func (*StreamImages) GetSingularName() string { return "imagestreamimage" }

// ShortNames are those of OpenShift.
func (*StreamImages) ShortNames() []string { return []string{"isimage"} }

// Get returns one image of a stream. The name is given back as it was asked.
func (r *StreamImages) Get(ctx context.Context, name string, _ *metav1.GetOptions) (runtime.Object, error) {
	stream, id, ok := strings.Cut(name, "@")
	if !ok || stream == "" || id == "" || strings.Contains(id, "@") {
		return nil, apierrors.NewBadRequest("ImageStreamImages must be retrieved with <name>@<id>")
	}
	record, err := r.streams.Get(ctx, stream)
	if err != nil {
		return nil, err
	}
	notFound := apierrors.NewNotFound(imagev1.Resource("imagestreamimages"), name)
	found := digests(record, id)
	if len(found) == 0 {
		child, err := r.child(ctx, record, id)
		if err != nil {
			return nil, err
		}
		if child == "" {
			return nil, notFound
		}
		found = []string{child}
	}
	if len(found) > 1 {
		return nil, apierrors.NewConflict(imagev1.Resource("imagestreamimages"), name,
			fmt.Errorf("multiple images match the prefix %q: %s; give more of the digest", id, strings.Join(found, ", ")))
	}
	image, err := r.images.Image(ctx, found[0])
	if err != nil {
		return nil, err
	}
	return &imagev1.ImageStreamImage{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:         record.Namespace,
			Name:              name,
			CreationTimestamp: image.CreationTimestamp,
			Annotations:       record.Annotations,
		},
		Image: *image,
	}, nil
}

// digests returns the different images in a stream's history whose digest begins with id.
func digests(record *storev1.StreamRecord, id string) []string {
	var found []string
	seen := map[string]bool{}
	for i := range record.Status.Tags {
		for _, event := range record.Status.Tags[i].Items {
			if event.Image != "" && !seen[event.Image] && hasPrefix(event.Image, id) {
				seen[event.Image] = true
				found = append(found, event.Image)
			}
		}
	}
	return found
}

func hasPrefix(digest, id string) bool {
	_, hex, _ := strings.Cut(digest, ":")
	return strings.HasPrefix(digest, id) || strings.HasPrefix(hex, id)
}

// child returns the image among those that the stream's indexes list whose digest begins with id, or "".
func (r *StreamImages) child(ctx context.Context, record *storev1.StreamRecord, id string) (string, error) {
	for _, digest := range digests(record, "") {
		image, err := r.images.Image(ctx, digest)
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return "", err
		}
		for _, manifest := range image.DockerImageManifests {
			if hasPrefix(manifest.Digest, id) {
				return manifest.Digest, nil
			}
		}
	}
	return "", nil
}
