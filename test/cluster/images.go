package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sync/errgroup"
)

// privateHost is the upstream host whose mirror is the private registry.
const privateHost = "private.example.com"

// brokenRepository holds the image that crashes in every pod.
const brokenRepository = "istag/broken"

// seed is one tag to fill a registry with.
type seed struct {
	host, repository, tag string
	// platforms has more than one entry for an index.
	platforms []v1.Platform
}

var (
	amd64 = v1.Platform{OS: "linux", Architecture: "amd64"}
	arm64 = v1.Platform{OS: "linux", Architecture: "arm64"}
)

// seeds is everything the registries are filled with.
var seeds = []seed{
	{"quay.io", "keycloak/keycloak", "19.0", []v1.Platform{amd64}},
	{"quay.io", "keycloak/keycloak", "20.0.1", []v1.Platform{amd64}},
	{"quay.io", "keycloak/keycloak", "20.0.2", []v1.Platform{amd64}},
	{"quay.io", "keycloak/keycloak", "20.0.3", []v1.Platform{amd64}},
	{"quay.io", "redhattraining/httpd-24", "2.4", []v1.Platform{amd64}},
	{"quay.io", "redhattraining/httpd-24", "latest", []v1.Platform{amd64}},
	{"quay.io", "istag/multiarch", "1.0", []v1.Platform{amd64, arm64}},
	{"quay.io", brokenRepository, "1.0", []v1.Platform{amd64}},
	{"registry.access.redhat.com", "ubi9/php-80", "latest", []v1.Platform{amd64}},
	{"registry.access.redhat.com", "ubi8/php-80", "latest", []v1.Platform{amd64}},
	{"registry.access.redhat.com", "ubi8/php-74", "latest", []v1.Platform{amd64}},
	{privateHost, "team/app", "1.0", []v1.Platform{amd64}},
}

// imageDate is when every image says it was made: the clock must not show in a
// digest.
var imageDate = time.Date(2024, time.January, 2, 3, 4, 5, 0, time.UTC)

// upstream is the seed's repository as users write it.
func (s seed) upstream() string { return s.host + "/" + s.repository }

// image makes the seed's image for one platform: a layer with one file, and a
// configuration that names repository, tag and platform. Equal seeds make equal
// digests, different ones different.
func (s seed) image(platform v1.Platform) (v1.Image, error) {
	label := fmt.Sprintf("%s:%s %s\n", s.upstream(), s.tag, platform.String())
	// Docker's types, as most registries still serve; an OCI index lists OCI's.
	layerType, base := types.DockerLayer, empty.Image
	if len(s.platforms) > 1 {
		layerType = types.OCILayer
		base = mutate.ConfigMediaType(mutate.MediaType(base, types.OCIManifestSchema1), types.OCIConfigJSON)
	}
	layer, err := layerWith("etc/istag-image", label, layerType)
	if err != nil {
		return nil, err
	}
	image, err := mutate.ConfigFile(base, &v1.ConfigFile{
		OS:           platform.OS,
		Architecture: platform.Architecture,
		Created:      v1.Time{Time: imageDate},
		RootFS:       v1.RootFS{Type: "layers"},
		Config: v1.Config{
			Env:          []string{"PATH=/usr/local/bin:/usr/bin:/bin"},
			Cmd:          []string{"/bin/run"},
			ExposedPorts: map[string]struct{}{"8080/tcp": {}},
			User:         "1001",
			Labels: map[string]string{
				"org.opencontainers.image.source":  "https://" + s.upstream(),
				"org.opencontainers.image.version": s.tag,
				"version":                          s.tag,
			},
		},
	})
	if err != nil {
		return nil, err
	}
	return mutate.Append(image, mutate.Addendum{
		Layer:   layer,
		History: v1.History{Created: v1.Time{Time: imageDate}, CreatedBy: "istag test/cluster"},
	})
}

// index makes the seed's OCI index, of one image per platform.
func (s seed) index() (v1.ImageIndex, error) {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, platform := range s.platforms {
		image, err := s.image(platform)
		if err != nil {
			return nil, err
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add:        image,
			Descriptor: v1.Descriptor{Platform: &platform},
		})
	}
	return index, nil
}

// layerWith makes a layer of one file. It is gzipped without compressing: a
// compressor's output may change with its version, and the digest with it.
func layerWith(path, content string, mediaType types.MediaType) (v1.Layer, error) {
	var archive bytes.Buffer
	writer := tar.NewWriter(&archive)
	header := &tar.Header{Name: path, Mode: 0o644, Size: int64(len(content)), ModTime: imageDate, Format: tar.FormatUSTAR}
	if err := writer.WriteHeader(header); err != nil {
		return nil, err
	}
	if _, err := io.WriteString(writer, content); err != nil {
		return nil, err
	}
	if err := writer.Close(); err != nil {
		return nil, err
	}
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(archive.Bytes())), nil }
	return tarball.LayerFromOpener(open, tarball.WithCompressionLevel(gzip.NoCompression), tarball.WithMediaType(mediaType))
}

// push puts the seed below prefix, the local mirror of its host, and tells
// what it became.
func (s seed) push(ctx context.Context, prefix string, auth authn.Authenticator) (Image, error) {
	local := prefix + "/" + s.repository
	tag, err := name.NewTag(local+":"+s.tag, name.Insecure, name.StrictValidation)
	if err != nil {
		return Image{}, err
	}
	pushed := Image{
		Name:    s.upstream(),
		Tag:     s.tag,
		Local:   local,
		Private: s.host == privateHost,
		Broken:  s.repository == brokenRepository,
	}
	options := []remote.Option{remote.WithContext(ctx), remote.WithAuth(auth)}
	if len(s.platforms) > 1 {
		index, err := s.index()
		if err != nil {
			return Image{}, err
		}
		if pushed.Platforms, err = platformDigests(index); err != nil {
			return Image{}, err
		}
		digest, err := index.Digest()
		pushed.Digest = digest.String()
		return pushed, errors.Join(err, remote.WriteIndex(tag, index, options...))
	}
	image, err := s.image(s.platforms[0])
	if err != nil {
		return Image{}, err
	}
	digest, err := image.Digest()
	pushed.Digest = digest.String()
	return pushed, errors.Join(err, remote.Write(tag, image, options...))
}

// brokenDigest is the digest of the broken image.
func brokenDigest() (string, error) {
	i := slices.IndexFunc(seeds, func(s seed) bool { return s.repository == brokenRepository })
	image, err := seeds[i].image(amd64)
	if err != nil {
		return "", err
	}
	digest, err := image.Digest()
	return digest.String(), err
}

// platformDigests maps the platforms of an index to their manifests.
func platformDigests(index v1.ImageIndex) (map[string]string, error) {
	manifest, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	digests := map[string]string{}
	for _, entry := range manifest.Manifests {
		digests[entry.Platform.String()] = entry.Digest.String()
	}
	return digests, nil
}

// pushAll fills the registries behind mirrors and reports in the order of
// [seeds].
func pushAll(ctx context.Context, mirrors map[string]string, private authn.Authenticator) ([]Image, error) {
	images := make([]Image, len(seeds))
	group, ctx := errgroup.WithContext(ctx)
	for i, seed := range seeds {
		group.Go(func() error {
			auth := authn.Anonymous
			if seed.host == privateHost {
				auth = private
			}
			var err error
			if images[i], err = seed.push(ctx, mirrors[seed.host], auth); err != nil {
				return fmt.Errorf("push %s:%s: %w", seed.upstream(), seed.tag, err)
			}
			return nil
		})
	}
	return images, group.Wait()
}
