package apiserver

import (
	imagev1 "github.com/openshift/api/image/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apiserver/pkg/registry/rest"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/client-go/kubernetes"

	"istag.dev/apiserver/crdstore"
	"istag.dev/apiserver/images"
	"istag.dev/apiserver/imports"
	"istag.dev/apiserver/streams"
	"istag.dev/apiserver/tags"
)

// group returns every resource of image.openshift.io/v1.
func (s *Server) group(scheme *runtime.Scheme, codecs serializer.CodecFactory, c *genericapiserver.RecommendedConfig) (*genericapiserver.APIGroupInfo, error) {
	records, err := crdstore.NewClient(s.Cluster)
	if err != nil {
		return nil, err
	}
	kubernetesClient, err := kubernetes.NewForConfig(s.Cluster)
	if err != nil {
		return nil, err
	}
	codec := codecs.LegacyCodec(imagev1.GroupVersion)
	imageREST, imageRegistry, err := images.New(scheme, crdstore.Images(records, codec))
	if err != nil {
		return nil, err
	}
	streamREST, statusREST, registry, err := streams.New(streams.Options{
		Typer:      scheme,
		Storage:    crdstore.Streams(records, codec),
		Authorizer: c.Authorization.Authorizer,
		Admit:      s.Config.Imports.Admit,
	})
	if err != nil {
		return nil, err
	}
	group := genericapiserver.NewDefaultAPIGroupInfo(imagev1.GroupName, scheme, metav1.ParameterCodec, codecs)
	group.VersionedResourcesStorageMap[imagev1.GroupVersion.Version] = map[string]rest.Storage{
		"images":               imageREST,
		"imagestreams":         streamREST,
		"imagestreams/status":  statusREST,
		"imagestreams/layers":  images.NewLayers(registry, imageRegistry),
		"imagestreams/secrets": streams.NewSecrets(kubernetesClient.CoreV1()),
		"imagestreamimages":    images.NewStreamImages(registry, imageRegistry),
		"imagestreamtags":      tags.NewImageStreamTags(registry, imageRegistry),
		"imagetags":            tags.NewImageTags(registry, imageRegistry),
		"imagestreamimports": imports.New(imports.Options{
			Streams:              registry,
			Images:               imageRegistry,
			Upstream:             s.Upstream,
			Admit:                s.Config.Imports.Admit,
			Authorizer:           c.Authorization.Authorizer,
			MaxTagsPerRepository: s.Config.Imports.MaxTagsPerRepository,
		}),
		"imagestreammappings": imports.NewMappings(registry, imageRegistry),
	}
	return &group, nil
}
