package streams

import (
	imagev1 "github.com/openshift/api/image/v1"

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

// withItems gives every tag a list, be it empty, as records have it.
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
