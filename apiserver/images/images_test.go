package images

import (
	"context"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	imagev1 "github.com/openshift/api/image/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/storage"

	storev1 "istag.dev/store/v1"
)

func digest(letter string) string { return "sha256:" + strings.Repeat(letter, 64) }

// oneStream is a namespace with one stream in it.
type oneStream struct{ record *storev1.StreamRecord }

func (s oneStream) Get(_ context.Context, name string) (*storev1.StreamRecord, error) {
	if name != s.record.Name {
		return nil, apierrors.NewNotFound(imagev1.Resource("imagestreams"), name)
	}
	return s.record, nil
}

// newStream has two images, a and ab…, of one layer, and an index of two images, c and d.
func newStream() (oneStream, *Registry) {
	images := newRegistry(nil)
	almost := "sha256:" + strings.Repeat("a", 63) + "b"
	for _, image := range []*imagev1.Image{
		{ObjectMeta: metav1.ObjectMeta{Name: digest("a")}, DockerImageLayers: []imagev1.ImageLayer{{Name: digest("1"), LayerSize: 7, MediaType: "layer"}},
			DockerImageManifestMediaType: "application/vnd.oci.image.manifest.v1+json",
			DockerImageMetadata:          runtime.RawExtension{Raw: []byte(`{"Id":"` + digest("0") + `"}`)}},
		{ObjectMeta: metav1.ObjectMeta{Name: almost}},
		{ObjectMeta: metav1.ObjectMeta{Name: digest("e")}, DockerImageManifests: []imagev1.ImageManifest{{Digest: digest("c")}, {Digest: digest("d")}}},
		{ObjectMeta: metav1.ObjectMeta{Name: digest("c")}},
	} {
		images.cache.Add(image.Name, image)
	}
	tag := func(name string, digests ...string) imagev1.NamedTagEventList {
		list := imagev1.NamedTagEventList{Tag: name}
		for _, d := range digests {
			list.Items = append(list.Items, imagev1.TagEvent{Image: d})
		}
		return list
	}
	return oneStream{&storev1.StreamRecord{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "app", UID: "1", Annotations: map[string]string{"of": "the stream"}},
		Status: imagev1.ImageStreamStatus{Tags: []imagev1.NamedTagEventList{
			tag("1", digest("a"), almost), tag("2", digest("e"), digest("a")), tag("reference", ""),
		}},
	}}, images
}

func TestStreamImage(t *testing.T) {
	streams, images := newStream()
	r := NewStreamImages(streams, images)
	cases := map[string]struct {
		reason string
		name   string
		want   string
		check  func(error) bool
	}{
		"Whole":         {reason: "The whole digest names one image.", name: "app@" + digest("a"), want: digest("a")},
		"Prefix":        {reason: "A digest may be cut short.", name: "app@sha256:eee", want: digest("e")},
		"Hex":           {reason: "The algorithm may be left out.", name: "app@eee", want: digest("e")},
		"Child":         {reason: "The images of an index are the stream's too.", name: "app@sha256:ccc", want: digest("c")},
		"Ambiguous":     {reason: "One of several would be luck.", name: "app@sha256:aaa", check: apierrors.IsConflict},
		"Unknown":       {reason: "A stream shows its own images only.", name: "app@sha256:fff", check: apierrors.IsNotFound},
		"NoStream":      {reason: "A stream that is not there has no images.", name: "nope@sha256:aaa", check: apierrors.IsNotFound},
		"NoDigest":      {reason: "A stream alone names no image.", name: "app", check: apierrors.IsBadRequest},
		"EmptyDigest":   {reason: "Nothing names no image.", name: "app@", check: apierrors.IsBadRequest},
		"ManyAtSigns":   {reason: "A name has two parts.", name: "app@a@b", check: apierrors.IsBadRequest},
		"ReferenceOnly": {reason: "A tag without a digest has no image.", name: "app@sha256:0", check: apierrors.IsNotFound},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			obj, err := r.Get(t.Context(), tc.name, &metav1.GetOptions{})
			if tc.check != nil {
				if !tc.check(err) {
					t.Errorf("%s\ngot %v", tc.reason, err)
				}
				return
			}
			if err != nil {
				t.Fatalf("%s\ngot %v", tc.reason, err)
			}
			image := obj.(*imagev1.ImageStreamImage)
			if image.Image.Name != tc.want || image.Name != tc.name || image.Annotations["of"] == "" || image.UID != "" {
				t.Errorf("%s\ngot %s named %s, annotations %v, uid %q", tc.reason, image.Image.Name, image.Name, image.Annotations, image.UID)
			}
		})
	}
}

func TestLayers(t *testing.T) {
	streams, images := newStream()
	// d is listed by the index and not there; the rest of the cache stands for the store.
	images.cache.Remove(digest("d"))
	images.images = emptyStore()
	obj, err := NewLayers(streams, images).Get(t.Context(), "app", &metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	layers := obj.(*imagev1.ImageStreamLayers)
	config := digest("0")
	want := map[string]imagev1.ImageBlobReferences{
		digest("a"): {Layers: []string{digest("1")}, Config: &config},
		"sha256:" + strings.Repeat("a", 63) + "b": {},
		digest("e"): {Manifests: []string{digest("c"), digest("d")}},
		digest("c"): {},
		digest("d"): {ImageMissing: true},
	}
	if diff := cmp.Diff(want, layers.Images); diff != "" {
		t.Errorf("images of the whole history, with those of its indexes (-want +got):\n%s", diff)
	}
	size := int64(7)
	if diff := cmp.Diff(imagev1.ImageLayerData{LayerSize: &size, MediaType: "layer"}, layers.Blobs[digest("1")]); diff != "" {
		t.Errorf("a layer (-want +got):\n%s", diff)
	}
	if got := layers.Blobs[config].MediaType; got != "application/vnd.oci.image.config.v1+json" {
		t.Errorf("the configuration of an OCI image is of type %q", got)
	}
}

func TestImageStrategy(t *testing.T) {
	valid := func() *storev1.ImageRecord {
		return FromAPI(&imagev1.Image{ObjectMeta: metav1.ObjectMeta{Name: digest("a")}, DockerImageReference: "quay.io/x@" + digest("a")})
	}
	if errs := (strategy{}).Validate(t.Context(), valid()); len(errs) > 0 {
		t.Errorf("a valid image: %v", errs)
	}
	for name, spoil := range map[string]func(*storev1.ImageRecord){
		"name":                 func(r *storev1.ImageRecord) { r.Name = "sha256:short" },
		"dockerImageReference": func(r *storev1.ImageRecord) { r.Image.DockerImageReference = "" },
		"dockerImageManifest":  func(r *storev1.ImageRecord) { r.Image.DockerImageManifest = "{}" },
	} {
		record := valid()
		spoil(record)
		if errs := (strategy{}).Validate(t.Context(), record); len(errs) != 1 || !strings.HasSuffix(errs[0].Field, name) {
			t.Errorf("an image with a wrong %s: %v", name, errs)
		}
	}
	old, changed := valid(), valid()
	changed.Image.DockerImageLayers = []imagev1.ImageLayer{{Name: "forged"}}
	changed.Labels = map[string]string{"a": "b"}
	strategy{}.PrepareForUpdate(t.Context(), changed, old)
	if len(changed.Image.DockerImageLayers) > 0 || changed.Labels["a"] != "b" {
		t.Errorf("what an image holds follows from its digest, what is said of it does not: %+v", changed)
	}
}

// emptyStore has no image.
func emptyStore() *genericregistry.Store {
	return &genericregistry.Store{
		NewFunc:                  func() runtime.Object { return &storev1.ImageRecord{} },
		DefaultQualifiedResource: imagev1.Resource("images"),
		KeyFunc:                  func(_ context.Context, name string) (string, error) { return name, nil },
		Storage:                  genericregistry.DryRunnableStorage{Storage: nothing{}},
	}
}

// nothing is a storage without anything in it.
type nothing struct{ storage.Interface }

func (nothing) Get(_ context.Context, key string, _ storage.GetOptions, _ runtime.Object) error {
	return storage.NewKeyNotFoundError(key, 0)
}
