package upstream

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/openshift/api/image/docker10"
	imagev1 "github.com/openshift/api/image/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// maxImage bounds the JSON of an image: the API server's own store takes about 1.5 MiB.
const maxImage = 1 << 20

var defaultPlatform = v1.Platform{OS: "linux", Architecture: "amd64"}

// manifest is what a registry sent: one of image and index.
type manifest struct {
	mediaType string
	image     *v1.Manifest
	index     *v1.IndexManifest
}

// hasConfig reports whether the manifest is that of a container image. An OCI artifact has a
// configuration of some type of its own, or an empty one.
func (m *manifest) hasConfig() bool {
	return m.image != nil && (m.image.Config.MediaType == types.DockerConfigJSON || m.image.Config.MediaType == types.OCIConfigJSON)
}

// bareType is a Content-Type without its parameters.
func bareType(contentType string) string {
	mediaType, _, _ := strings.Cut(contentType, ";")
	return strings.TrimSpace(mediaType)
}

func isImage(mediaType string) bool { return types.MediaType(mediaType).IsImage() }

func isIndex(mediaType string) bool { return types.MediaType(mediaType).IsIndex() }

func isSchema1(mediaType string) bool { return types.MediaType(mediaType).IsSchema1() }

// parseManifest reads a manifest of any type. The media type of the answer counts, then the one in
// the manifest, then its fields. One that could be read as both an image and an index is refused, so
// that no two readers see different images under one digest.
func parseManifest(mediaType string, raw []byte) (*manifest, error) {
	var fields struct {
		SchemaVersion int             `json:"schemaVersion"`
		MediaType     types.MediaType `json:"mediaType"`
		Config        json.RawMessage `json:"config"`
		Layers        json.RawMessage `json:"layers"`
		Manifests     json.RawMessage `json:"manifests"`
		FSLayers      json.RawMessage `json:"fsLayers"`
	}
	if err := json.Unmarshal(raw, &fields); err != nil {
		return nil, malformed("sends a manifest that is not JSON: %s", clip(err.Error()))
	}
	if isSchema1(mediaType) || isSchema1(string(fields.MediaType)) || fields.SchemaVersion == 1 || fields.FSLayers != nil {
		return nil, errSchema1()
	}
	imageLike, indexLike := fields.Config != nil || fields.Layers != nil, fields.Manifests != nil
	if imageLike == indexLike {
		return nil, malformed("sends a manifest that is neither an image nor an index")
	}
	m := &manifest{mediaType: string(manifestType(types.MediaType(mediaType), fields.MediaType, indexLike))}
	if isIndex(m.mediaType) != indexLike {
		return nil, malformed("sends a manifest whose content is not of its media type %q", clip(m.mediaType))
	}
	if indexLike {
		m.index = &v1.IndexManifest{}
		if err := json.Unmarshal(raw, m.index); err != nil {
			return nil, malformed("sends an index that cannot be read: %s", clip(err.Error()))
		}
		return m, checkDescriptors(m.index.Manifests)
	}
	m.image = &v1.Manifest{}
	if err := json.Unmarshal(raw, m.image); err != nil {
		return nil, malformed("sends a manifest that cannot be read: %s", clip(err.Error()))
	}
	if m.hasConfig() && m.image.Config.Size > MaxBody {
		return nil, &TooLargeError{}
	}
	return m, checkDescriptors(append([]v1.Descriptor{m.image.Config}, m.image.Layers...))
}

func manifestType(answered, stated types.MediaType, index bool) types.MediaType {
	for _, t := range []types.MediaType{answered, stated} {
		if t.IsIndex() || t.IsImage() {
			return t
		}
	}
	if index {
		return types.OCIImageIndex
	}
	return types.OCIManifestSchema1
}

func checkDescriptors(descriptors []v1.Descriptor) error {
	for _, d := range descriptors {
		if d.Size < 0 {
			return malformed("sends a manifest with a negative size in it")
		}
		if d.Digest.Hex == "" {
			return malformed("sends a manifest with a digest missing in it")
		}
	}
	return nil
}

// pick returns the image that Legacy mode takes out of an index: that of the tag's annotations, else
// of the configured platform, else linux/amd64, else the first. Attestations, which say that their
// platform is unknown, are no images.
func pick(index *v1.IndexManifest, req Request, configured v1.Platform) (*v1.Descriptor, error) {
	preferred := configured
	preferred.OS = cmp.Or(req.PreferOS, preferred.OS)
	if req.PreferArch != "" && req.PreferArch != preferred.Architecture {
		preferred.Architecture, preferred.Variant = req.PreferArch, ""
	}
	var images []*v1.Descriptor
	for i := range index.Manifests {
		d := &index.Manifests[i]
		if isIndex(string(d.MediaType)) || isSchema1(string(d.MediaType)) || d.Digest.Algorithm != "sha256" {
			continue
		}
		if d.Platform != nil && d.Platform.OS == "unknown" && d.Platform.Architecture == "unknown" {
			continue
		}
		images = append(images, d)
	}
	if len(images) == 0 {
		return nil, malformed("has an index without any image under this name")
	}
	for _, wanted := range []v1.Platform{preferred, configured, defaultPlatform} {
		for _, exact := range []bool{true, false} {
			for _, d := range images {
				if runsOn(d.Platform, wanted, exact) {
					return d, nil
				}
			}
		}
	}
	return images[0], nil
}

func runsOn(p *v1.Platform, wanted v1.Platform, exact bool) bool {
	return p != nil && p.OS == wanted.OS && p.Architecture == wanted.Architecture && (!exact || p.Variant == wanted.Variant)
}

// newImage returns the image of a manifest and, where it has one, its configuration.
func newImage(reference, digest string, m *manifest, config []byte) (*imagev1.Image, error) {
	metadata := docker10.DockerImage{
		TypeMeta: metav1.TypeMeta{Kind: "DockerImage", APIVersion: docker10.GroupVersion.String()},
		ID:       digest,
	}
	image := &imagev1.Image{
		ObjectMeta:                   metav1.ObjectMeta{Name: digest},
		DockerImageReference:         reference,
		DockerImageMetadataVersion:   "1.0",
		DockerImageManifestMediaType: m.mediaType,
	}
	if m.index != nil {
		image.DockerImageManifests = children(m.index)
	} else {
		metadata.ID = m.image.Config.Digest.String()
		image.DockerImageLayers, metadata.Size = layers(m.image.Layers, int64(len(config)))
	}
	if m.hasConfig() {
		if err := readConfig(config, &metadata); err != nil {
			return nil, err
		}
	}
	raw, err := json.Marshal(metadata)
	if err != nil {
		return nil, fmt.Errorf("encoding metadata of %s: %w", digest, err)
	}
	image.DockerImageMetadata = runtime.RawExtension{Raw: raw}
	whole, err := json.Marshal(image)
	if err != nil {
		return nil, fmt.Errorf("encoding image %s: %w", digest, err)
	}
	if len(whole) > maxImage {
		return nil, &placeError{
			kind: TooLarge, text: fmt.Sprintf("has an image whose labels, environment and layers take more than the %d MiB that can be stored", maxImage>>20),
			advice: "make the image's configuration smaller",
		}
	}
	return image, nil
}

func children(index *v1.IndexManifest) []imagev1.ImageManifest {
	list := make([]imagev1.ImageManifest, 0, len(index.Manifests))
	for _, d := range index.Manifests {
		entry := imagev1.ImageManifest{Digest: d.Digest.String(), MediaType: string(d.MediaType), ManifestSize: d.Size}
		if d.Platform != nil {
			entry.Architecture, entry.OS, entry.Variant = d.Platform.Architecture, d.Platform.OS, d.Platform.Variant
		}
		list = append(list, entry)
	}
	return list
}

// layers returns an image's layers, lowest first, and its size: that of its configuration and of
// every layer, counted once.
func layers(descriptors []v1.Descriptor, size int64) ([]imagev1.ImageLayer, int64) {
	list := make([]imagev1.ImageLayer, 0, len(descriptors))
	counted := map[v1.Hash]bool{}
	for _, d := range descriptors {
		list = append(list, imagev1.ImageLayer{Name: d.Digest.String(), LayerSize: d.Size, MediaType: string(d.MediaType)})
		if !counted[d.Digest] {
			counted[d.Digest] = true
			size += min(d.Size, math.MaxInt64-size)
		}
	}
	return list, size
}

// readConfig fills metadata from an image's configuration. The keys are the same but for capitals.
func readConfig(raw []byte, metadata *docker10.DockerImage) error {
	var config struct {
		Architecture    string                 `json:"architecture"`
		Author          string                 `json:"author"`
		Comment         string                 `json:"comment"`
		Config          *docker10.DockerConfig `json:"config"`
		Container       string                 `json:"container"`
		ContainerConfig docker10.DockerConfig  `json:"container_config"`
		Created         json.RawMessage        `json:"created"`
		DockerVersion   string                 `json:"docker_version"`
		Parent          string                 `json:"parent"`
	}
	if err := json.Unmarshal(raw, &config); err != nil {
		return malformed("sends an image configuration that cannot be read: %s", clip(err.Error()))
	}
	metadata.Architecture = config.Architecture
	metadata.Author = config.Author
	metadata.Comment = config.Comment
	metadata.Config = config.Config
	metadata.Container = config.Container
	metadata.ContainerConfig = config.ContainerConfig
	metadata.Created = created(config.Created)
	metadata.DockerVersion = config.DockerVersion
	metadata.Parent = config.Parent
	return nil
}

// created returns zero for a time that cannot be read or written: an image is no worse for it.
func created(raw json.RawMessage) metav1.Time {
	var text string
	if json.Unmarshal(raw, &text) != nil {
		return metav1.Time{}
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return metav1.Time{}
	}
	if t = t.UTC().Truncate(time.Second); t.Year() < 1 || t.Year() > 9999 {
		return metav1.Time{}
	}
	return metav1.NewTime(t)
}
