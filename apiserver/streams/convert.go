package streams

import (
	imagev1 "github.com/openshift/api/image/v1"
	"k8s.io/apimachinery/pkg/conversion"
	"k8s.io/apimachinery/pkg/runtime"

	storev1 "istag.dev/store/v1"
)

// ToAPI returns a stream as clients see it. The two share what is not changed.
func ToAPI(in *storev1.StreamRecord) *imagev1.ImageStream {
	out := &imagev1.ImageStream{ObjectMeta: in.ObjectMeta, Spec: in.Spec, Status: in.Status}
	// A tag that was never imported shows null, as in OpenShift.
	for i := range in.Status.Tags {
		if len(in.Status.Tags[i].Items) == 0 && in.Status.Tags[i].Items != nil {
			out.Status.Tags = withoutEmptyItems(in.Status.Tags)
			break
		}
	}
	return out
}

func withoutEmptyItems(tags []imagev1.NamedTagEventList) []imagev1.NamedTagEventList {
	out := make([]imagev1.NamedTagEventList, len(tags))
	copy(out, tags)
	for i := range out {
		if len(out[i].Items) == 0 {
			out[i].Items = nil
		}
	}
	return out
}

// FromAPI returns a stream as it is handled in the server, without the envelope, which no client sends.
func FromAPI(in *imagev1.ImageStream) *storev1.StreamRecord {
	out := &storev1.StreamRecord{ObjectMeta: in.ObjectMeta, Spec: in.Spec, Status: in.Status}
	for i := range in.Status.Tags {
		if in.Status.Tags[i].Items == nil {
			out.Status.Tags = withItems(in.Status.Tags)
			break
		}
	}
	return out
}

// withItems gives every tag a list, be it empty: the schema of records wants one.
func withItems(tags []imagev1.NamedTagEventList) []imagev1.NamedTagEventList {
	out := make([]imagev1.NamedTagEventList, len(tags))
	copy(out, tags)
	for i := range out {
		if out[i].Items == nil {
			out[i].Items = []imagev1.TagEvent{}
		}
	}
	return out
}

// AddConversions makes StreamRecord the internal version of ImageStream in a scheme.
func AddConversions(scheme *runtime.Scheme) error {
	for _, add := range []struct {
		from, to any
		convert  conversion.ConversionFunc
	}{
		{(*storev1.StreamRecord)(nil), (*imagev1.ImageStream)(nil), func(in, out any, _ conversion.Scope) error {
			*out.(*imagev1.ImageStream) = *ToAPI(in.(*storev1.StreamRecord))
			return nil
		}},
		{(*imagev1.ImageStream)(nil), (*storev1.StreamRecord)(nil), func(in, out any, _ conversion.Scope) error {
			*out.(*storev1.StreamRecord) = *FromAPI(in.(*imagev1.ImageStream))
			return nil
		}},
		{(*storev1.StreamRecordList)(nil), (*imagev1.ImageStreamList)(nil), func(in, out any, _ conversion.Scope) error {
			from, to := in.(*storev1.StreamRecordList), out.(*imagev1.ImageStreamList)
			to.ListMeta, to.Items = from.ListMeta, make([]imagev1.ImageStream, 0, len(from.Items))
			for i := range from.Items {
				to.Items = append(to.Items, *ToAPI(&from.Items[i]))
			}
			return nil
		}},
		{(*imagev1.ImageStreamList)(nil), (*storev1.StreamRecordList)(nil), func(in, out any, _ conversion.Scope) error {
			from, to := in.(*imagev1.ImageStreamList), out.(*storev1.StreamRecordList)
			to.ListMeta, to.Items = from.ListMeta, make([]storev1.StreamRecord, 0, len(from.Items))
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
