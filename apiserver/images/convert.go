package images

import (
	imagev1 "github.com/openshift/api/image/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/conversion"
	"k8s.io/apimachinery/pkg/runtime"

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

// AddConversions makes ImageRecord the internal version of Image in a scheme.
func AddConversions(scheme *runtime.Scheme) error {
	for _, add := range []struct {
		from, to any
		convert  conversion.ConversionFunc
	}{
		{(*storev1.ImageRecord)(nil), (*imagev1.Image)(nil), func(in, out any, _ conversion.Scope) error {
			*out.(*imagev1.Image) = *ToAPI(in.(*storev1.ImageRecord))
			return nil
		}},
		{(*imagev1.Image)(nil), (*storev1.ImageRecord)(nil), func(in, out any, _ conversion.Scope) error {
			*out.(*storev1.ImageRecord) = *FromAPI(in.(*imagev1.Image))
			return nil
		}},
		{(*storev1.ImageRecordList)(nil), (*imagev1.ImageList)(nil), func(in, out any, _ conversion.Scope) error {
			from, to := in.(*storev1.ImageRecordList), out.(*imagev1.ImageList)
			to.ListMeta, to.Items = from.ListMeta, make([]imagev1.Image, 0, len(from.Items))
			for i := range from.Items {
				to.Items = append(to.Items, *ToAPI(&from.Items[i]))
			}
			return nil
		}},
		{(*imagev1.ImageList)(nil), (*storev1.ImageRecordList)(nil), func(in, out any, _ conversion.Scope) error {
			from, to := in.(*imagev1.ImageList), out.(*storev1.ImageRecordList)
			to.ListMeta, to.Items = from.ListMeta, make([]storev1.ImageRecord, 0, len(from.Items))
			for i := range from.Items {
				to.Items = append(to.Items, *FromAPI(&from.Items[i]))
			}
			return nil
		}},
	} {
		if err := scheme.AddConversionFunc(add.from, add.to, add.convert); err != nil {
			return err
		}
	}
	return nil
}
