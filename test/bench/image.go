package main

import (
	"crypto/sha256"
	"fmt"

	imagev1 "github.com/openshift/api/image/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"istag.dev/store"
	storev1 "istag.dev/store/v1"
)

// imageMetadata is what the configuration of an application's image says, as an import keeps it.
const imageMetadata = `{"kind":"DockerImage","apiVersion":"image.openshift.io/1.0","Id":"sha256:8f1e7b1ecd1e1c1d65f8ff0f41f1a9a0d2f7a2a2d9d4e1f4a7b3c9c1f8a1d2e3",
"Created":"2026-02-03T04:05:06Z","DockerVersion":"","Architecture":"amd64","Size":187654321,"ContainerConfig":{},"Config":{"User":"1000",
"ExposedPorts":{"8080/tcp":{},"8443/tcp":{}},"Env":["PATH=/opt/app/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
"LANG=en_US.UTF-8","JAVA_HOME=/usr/lib/jvm/java-21","APP_HOME=/opt/app","APP_VERSION=2.0.7"],"Entrypoint":["/opt/app/bin/start.sh"],"Cmd":["--optimized"],
"WorkingDir":"/opt/app","Labels":{"architecture":"x86_64","com.example.component":"app-container","description":"An application as many teams build one",
"io.k8s.display-name":"App","io.openshift.expose-services":"","maintainer":"The App team","name":"app","release":"7","summary":"An application",
"url":"https://example.com/app","vcs-ref":"c35c0d6ab2c1aef1b4a1be7d4b0dd6ba4d3dd0ae","vcs-type":"git","vendor":"Example, Inc.","version":"2.0"}}}`

// imageLayers is how many layers the image has.
const imageLayers = 8

// newImage makes the record of a tag event's image.
func newImage(event imagev1.TagEvent) *storev1.ImageRecord {
	image := imagev1.Image{
		ObjectMeta:                   metav1.ObjectMeta{Name: event.Image},
		DockerImageReference:         event.DockerImageReference,
		DockerImageMetadata:          runtime.RawExtension{Raw: []byte(imageMetadata)},
		DockerImageMetadataVersion:   "1.0",
		DockerImageManifestMediaType: "application/vnd.oci.image.manifest.v1+json",
	}
	for i := range imageLayers {
		image.DockerImageLayers = append(image.DockerImageLayers, imagev1.ImageLayer{
			Name:      fmt.Sprintf("sha256:%x", sha256.Sum256(fmt.Appendf(nil, "%s %d", event.Image, i))),
			LayerSize: 20_000_000,
			MediaType: "application/vnd.oci.image.layer.v1.tar+gzip",
		})
	}
	return &storev1.ImageRecord{ObjectMeta: metav1.ObjectMeta{Name: store.ImageRecordName(event.Image)}, Image: image}
}
