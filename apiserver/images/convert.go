package images

import (
	imagev1 "github.com/openshift/api/image/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	storev1 "istag.dev/store/v1"
)

// ToAPI returns an image as clients see it. The two share what is not changed.
func ToAPI(in *storev1.ImageRecord) *imagev1.Image {
	out := in.Image
	out.ObjectMeta = in.ObjectMeta
	return &out
}

// FromAPI returns an image as it is handled in the server.
func FromAPI(in *imagev1.Image) *storev1.ImageRecord {
	out := &storev1.ImageRecord{ObjectMeta: in.ObjectMeta, Image: *in}
	out.Image.TypeMeta = metav1.TypeMeta{}
	out.Image.ObjectMeta = metav1.ObjectMeta{Name: in.Name}
	return out
}
