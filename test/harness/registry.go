package harness

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// manifestTypes are those that a registry may answer with, indexes included.
var manifestTypes = []string{
	"application/vnd.oci.image.index.v1+json",
	"application/vnd.oci.image.manifest.v1+json",
	"application/vnd.docker.distribution.manifest.list.v2+json",
	"application/vnd.docker.distribution.manifest.v2+json",
}

// Image returns what the registries were filled with under an upstream name, such as
// "quay.io/keycloak/keycloak:20.0.2".
func (e *Env) Image(upstream string) (Image, error) {
	for _, image := range e.Cluster.Images {
		if image.Name+":"+image.Tag == upstream {
			return image, nil
		}
	}
	return Image{}, fmt.Errorf("the local registries were not filled with %q", upstream)
}

// ServedDigest asks the registry itself what an upstream name, "quay.io/keycloak/keycloak:20.0.2",
// means: it is the digest of the bytes that the registry serves.
func (e *Env) ServedDigest(ctx context.Context, upstream string) (string, error) {
	body, _, err := e.manifest(ctx, upstream)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("sha256:%x", sha256.Sum256(body)), nil
}

// Retag makes an upstream name mean what another of the same repository means, as somebody who pushes
// to it would. Either may end in a tag or a digest.
func (e *Env) Retag(ctx context.Context, from, to string) error {
	body, mediaType, err := e.manifest(ctx, from)
	if err != nil {
		return err
	}
	_, _, err = e.manifestRequest(ctx, http.MethodPut, to, mediaType, body)
	return err
}

func (e *Env) manifest(ctx context.Context, upstream string) (body []byte, mediaType string, err error) {
	return e.manifestRequest(ctx, http.MethodGet, upstream, "", nil)
}

// manifestRequest speaks to the registry, past everything of istag's.
func (e *Env) manifestRequest(ctx context.Context, method, upstream, mediaType string, content []byte) ([]byte, string, error) {
	host, rest, _ := strings.Cut(upstream, "/")
	location, ok := e.Cluster.Mirrors[host]
	repository, tag, found := strings.Cut(rest, "@")
	if !found {
		repository, tag, found = strings.Cut(rest, ":")
	}
	if !ok || !found {
		return nil, "", fmt.Errorf("%q is not a name with a tag or a digest of a registry that is served here", upstream)
	}
	registry, prefix, _ := strings.Cut(location, "/")
	url := fmt.Sprintf("http://%s/v2/%s/%s/manifests/%s", registry, prefix, repository, tag)
	request, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(content))
	if err != nil {
		return nil, "", err
	}
	request.Header["Accept"] = manifestTypes
	if mediaType != "" {
		request.Header.Set("Content-Type", mediaType)
	}
	if registry == e.Cluster.PrivateRegistry.Host {
		request.SetBasicAuth(e.Cluster.PrivateRegistry.Username, e.Cluster.PrivateRegistry.Password)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, "", err
	}
	if response.StatusCode >= http.StatusMultipleChoices {
		return nil, "", fmt.Errorf("%s %s: %s: %s", method, url, response.Status, body)
	}
	return body, response.Header.Get("Content-Type"), nil
}
