// Package deploy_test checks the manifests as `kubectl apply -k` would send them.
package deploy_test

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"testing"

	certmanagerv1 "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"

	"istag.dev/config"
)

const (
	namespace = "istag-system"

	// certManagerCA is the annotation by which cert-manager's CA injector finds its work.
	certManagerCA = "cert-manager.io/inject-ca-from"
)

var never = []string{"kube-system", "kube-node-lease", "kube-public", namespace}

// overlays are what users install, and who makes the certificate there.
var overlays = map[string]config.CertificateMode{
	"base":                   config.SelfManaged,
	"cert-manager":           config.External,
	"testdata/argo-rollouts": config.SelfManaged, // a component, of the base's
}

// eachOverlay runs a test on every overlay.
func eachOverlay(t *testing.T, test func(t *testing.T, set objects)) {
	t.Helper()
	for _, dir := range slices.Sorted(maps.Keys(overlays)) {
		t.Run(path.Base(dir), func(t *testing.T) { test(t, render(t, dir)) })
	}
}

// objects are decoded manifests.
type objects []client.Object

// render builds a kustomization and decodes each object strictly: an unknown or repeated field fails the test.
func render(t *testing.T, dir string) objects {
	t.Helper()
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), dir)
	if err != nil {
		t.Fatalf("building %q: %v", dir, err)
	}
	scheme := runtime.NewScheme()
	utilruntime.Must(clientgoscheme.AddToScheme(scheme))
	utilruntime.Must(apiextensionsv1.AddToScheme(scheme))
	utilruntime.Must(certmanagerv1.AddToScheme(scheme))
	utilruntime.Must(apiregistrationv1.AddToScheme(scheme))
	decoder := serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()

	var out objects
	for _, resource := range built.Resources() {
		text, err := resource.AsYAML()
		if err != nil {
			t.Fatal(err)
		}
		decoded, gvk, err := decoder.Decode(text, nil, nil)
		if err != nil {
			t.Fatalf("decoding %s: %v", resource.CurId(), err)
		}
		object, ok := decoded.(client.Object)
		if !ok {
			t.Fatalf("%s is no object", resource.CurId())
		}
		object.GetObjectKind().SetGroupVersionKind(*gvk)
		out = append(out, object)
	}
	return out
}

// all returns the objects of one Go type.
func all[T client.Object](set objects) []T {
	var out []T
	for _, o := range set {
		if typed, ok := o.(T); ok {
			out = append(out, typed)
		}
	}
	return out
}

// find returns the object of one Go type and name, or nil.
func find[T client.Object](set objects, name string) (found T) {
	for _, o := range all[T](set) {
		if o.GetName() == name {
			return o
		}
	}
	return found
}

// get is find, and fails the test if there is none.
func get[T client.Object](t *testing.T, set objects, name string) T {
	t.Helper()
	for _, o := range all[T](set) {
		if o.GetName() == name {
			return o
		}
	}
	t.Fatalf("there is no %T %q", *new(T), name)
	return *new(T)
}

func nameOf(o client.Object) string {
	return fmt.Sprintf("%s %s", o.GetObjectKind().GroupVersionKind().Kind, client.ObjectKeyFromObject(o))
}

func configuration(t *testing.T, set objects) *config.Configuration {
	t.Helper()
	text := get[*corev1.ConfigMap](t, set, "istag").Data["config.yaml"]
	c, err := config.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}
