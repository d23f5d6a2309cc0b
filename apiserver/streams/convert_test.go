package streams

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	imagev1 "github.com/openshift/api/image/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	storev1 "istag.dev/store/v1"
)

func TestConversion(t *testing.T) {
	event := imagev1.TagEvent{Image: "sha256:aaa", DockerImageReference: "quay.io/x/y@sha256:aaa", Generation: 2}
	record := &storev1.StreamRecord{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "a_b", Generation: 2},
		Spec:       imagev1.ImageStreamSpec{Tags: []imagev1.TagReference{{Name: "1"}, {Name: "2"}}},
		Status: imagev1.ImageStreamStatus{Tags: []imagev1.NamedTagEventList{
			{Tag: "1", Items: []imagev1.TagEvent{event}},
			{Tag: "2", Items: []imagev1.TagEvent{}},
		}},
		Record: storev1.StreamEnvelope{Generation: 2, Requests: []storev1.TagRequest{{Tag: "1"}}},
	}
	stream := ToAPI(record)
	want := []imagev1.NamedTagEventList{{Tag: "1", Items: []imagev1.TagEvent{event}}, {Tag: "2"}}
	if diff := cmp.Diff(want, stream.Status.Tags); diff != "" {
		t.Errorf("a tag that was never imported shows null (-want +got):\n%s", diff)
	}
	if record.Status.Tags[1].Items == nil {
		t.Error("what is shown changed the record")
	}
	back := FromAPI(stream)
	record.Record = storev1.StreamEnvelope{}
	if diff := cmp.Diff(record, back); diff != "" {
		t.Errorf("what a client sends back differs by more than the envelope (-want +got):\n%s", diff)
	}
}
