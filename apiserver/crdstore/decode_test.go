package crdstore

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/google/go-cmp/cmp"
	imagev1 "github.com/openshift/api/image/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
	kjson "sigs.k8s.io/json"

	storev1 "istag.dev/store/v1"
)

var created = metav1.NewTime(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))

func owned(manager, fields string) []metav1.ManagedFieldsEntry {
	return []metav1.ManagedFieldsEntry{{
		Manager: manager, Operation: metav1.ManagedFieldsOperationUpdate, APIVersion: "v1", Time: &created, FieldsType: "FieldsV1",
		FieldsV1: metav1.NewFieldsV1(fields),
	}}
}

// usual is a stream with three tags of three events each.
func usual(i int) storev1.StreamRecord {
	digest := "sha256:" + strings.Repeat("ab", 32)
	r := storev1.StreamRecord{
		TypeMeta: metav1.TypeMeta{APIVersion: storev1.GroupVersion.String(), Kind: "StreamRecord"},
		ObjectMeta: metav1.ObjectMeta{
			Name: fmt.Sprintf("stream--%d", i), Namespace: "demo", UID: "8f7d2f0e-7f0a-4a7e-9a3b-0a2b6b0b1c2d", ResourceVersion: "12345",
			CreationTimestamp: created, Labels: map[string]string{"app": "x"}, Annotations: map[string]string{"a": "b"},
			ManagedFields: owned("istag", `{"f:record":{},"f:spec":{},"f:status":{}}`),
		},
	}
	r.Record.Generation, r.Record.ManagedFields = 7, owned("oc", `{"f:spec":{"f:tags":{"k:{\"name\":\"1\"}":{}}}}`)
	for t := range 3 {
		tag := fmt.Sprintf("%d.0", t)
		r.Spec.Tags = append(r.Spec.Tags, imagev1.TagReference{
			Name: tag, From: &corev1.ObjectReference{Kind: "DockerImage", Name: "quay.io/keycloak/keycloak:" + tag}, Generation: ptr.To(int64(2)),
			ImportPolicy: imagev1.TagImportPolicy{Scheduled: true}, ReferencePolicy: imagev1.TagReferencePolicy{Type: imagev1.SourceTagReferencePolicy},
		})
		events := imagev1.NamedTagEventList{Tag: tag}
		for range 3 {
			events.Items = append(events.Items, imagev1.TagEvent{Created: created, DockerImageReference: "quay.io/keycloak/keycloak@" + digest, Image: digest, Generation: 3})
			r.Record.Origins = append(r.Record.Origins, storev1.TagEventOrigin{
				Tag: tag, Image: digest, Created: created, Via: storev1.ViaImport, By: &storev1.Requester{User: "alice", Verb: "create"},
			})
		}
		r.Status.Tags = append(r.Status.Tags, events)
	}
	return r
}

// TestDecoding says that records are decoded as the decoder of Kubernetes decodes them.
func TestDecoding(t *testing.T) {
	stream := usual(1)
	stream.DeletionTimestamp = &created
	stream.OwnerReferences = []metav1.OwnerReference{{Name: "a", UID: "b", Controller: ptr.To(true)}}
	stream.Status.Tags[0].Conditions = []imagev1.TagEventCondition{{Type: "ImportSuccess", Status: "False", LastTransitionTime: created, Message: "é\u2028<&>"}}
	stream.Record.Requests = []storev1.TagRequest{{Tag: "1", Identity: &authenticationv1.UserInfo{
		Username: "alice", Groups: []string{"devs"}, Extra: map[string]authenticationv1.ExtraValue{"x": {"y"}},
	}}}
	image := storev1.ImageRecord{ObjectMeta: metav1.ObjectMeta{Name: "sha256-ab", CreationTimestamp: created}}
	image.Image = imagev1.Image{
		DockerImageMetadata: runtime.RawExtension{Raw: []byte(`{"Config": {"Cmd": ["sh"]}, "Size": 12345678901234}`)},
		DockerImageLayers:   []imagev1.ImageLayer{{Name: "l", LayerSize: 1 << 40, MediaType: "m"}},
		Signatures:          []imagev1.ImageSignature{{Content: []byte{0, 1, 255}, Created: &created, SignedClaims: map[string]string{"a": "b"}}},
		DockerImageManifest: "{\"a\":\"\\u00e9\"}",
	}
	sources := map[string]string{
		"a stream":                  encoded(t, stream),
		"an image":                  encoded(t, image),
		"empty lists and nulls":     `{"metadata":{"labels":{},"creationTimestamp":null},"spec":{"tags":null},"status":{"tags":[{"tag":"a","items":[]}]}}`,
		"fields of another version": `{"metadata":{"new":[1,{"a":2}]},"spec":{"lookupPolicy":{"local":true,"Local":false}},"SPEC":{}}`,
		"a field twice":             `{"spec":{"dockerImageRepository":"a","dockerImageRepository":"b"}}`,
		"other forms of time":       `{"metadata":{"creationTimestamp":"2026-01-02T03:04:05+02:00","deletionTimestamp":"2026-01-02T03:04:05.6Z"}}`,
		"spaces":                    " {\n\t\"image\" : { \"dockerImageMetadata\" : { \"a\" : 1 } } } ",
	}
	for name, source := range sources {
		t.Run(name, func(t *testing.T) {
			decodeBoth[storev1.StreamRecord](t, source)
			decodeBoth[storev1.ImageRecord](t, source)
		})
	}
	for name, source := range map[string]string{
		"another type": `{"metadata":{"labels":7}}`, "no time": `{"metadata":{"creationTimestamp":"yesterday"}}`, "half a record": `{"metadata":{`,
	} {
		if err := decode([]byte(source), &storev1.StreamRecord{}); err == nil {
			t.Errorf("%s was decoded", name)
		}
	}
}

func decodeBoth[T any](t *testing.T, source string) {
	t.Helper()
	var want, got, streamed T
	if err := kjson.UnmarshalCaseSensitivePreserveInts([]byte(source), &want); err != nil {
		t.Fatal(err)
	}
	if err := decode([]byte(source), &got); err != nil {
		t.Fatal(err)
	}
	if err := jsonv2.UnmarshalRead(strings.NewReader(source), &streamed, decoding); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%T (-Kubernetes +ours):\n%s", want, diff)
	}
	if diff := cmp.Diff(want, streamed); diff != "" {
		t.Errorf("%T from a stream (-Kubernetes +ours):\n%s", want, diff)
	}
}

func encoded(t testing.TB, value any) string {
	t.Helper()
	data, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// BenchmarkDecodeList compares the decoder of Kubernetes with ours.
func BenchmarkDecodeList(b *testing.B) {
	all := list[storev1.StreamRecord]{TypeMeta: metav1.TypeMeta{APIVersion: storev1.GroupVersion.String(), Kind: "StreamRecordList"}}
	for i := range 1000 {
		all.Items = append(all.Items, usual(i))
	}
	body := []byte(encoded(b, all))
	scheme := runtime.NewScheme()
	if err := storev1.AddToScheme(scheme); err != nil {
		b.Fatal(err)
	}
	standard := serializer.NewCodecFactory(scheme).WithoutConversion().DecoderToVersion(
		serializer.NewCodecFactory(scheme).SupportedMediaTypes()[0].Serializer, storev1.GroupVersion)
	b.Run("kubernetes", func(b *testing.B) {
		measure(b, body, func() error { _, _, err := standard.Decode(body, nil, nil); return err })
	})
	b.Run("crdstore", func(b *testing.B) {
		measure(b, body, func() error {
			var got list[storev1.StreamRecord]
			err := jsonv2.UnmarshalRead(bytes.NewReader(body), &got, decoding)
			for i := range got.Items {
				streams.reveal(&got.Items[i])
			}
			return err
		})
	})
}

func measure(b *testing.B, body []byte, decode func() error) {
	b.Helper()
	b.ReportAllocs()
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		if err := decode(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkRead compares reads through the storage with reads of the records by client-go alone, from a
// real API server. What an API server on top of the storage costs is not in it.
func BenchmarkRead(b *testing.B) {
	back := realBacking(b)
	for i := range 1000 {
		r := usual(i)
		r.Name, r.Namespace, r.ResourceVersion = fmt.Sprintf("s_%d", i), back.namespace, ""
		if err := back.streams.Create(b.Context(), back.key(r.Name), &r, nil, 0); err != nil {
			b.Fatal(err)
		}
	}
	config := rest.CopyConfig(cluster.config)
	config.GroupVersion, config.APIPath = &storev1.GroupVersion, "/apis"
	scheme := runtime.NewScheme()
	if err := storev1.AddToScheme(scheme); err != nil {
		b.Fatal(err)
	}
	config.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	plain, err := rest.RESTClientFor(config)
	if err != nil {
		b.Fatal(err)
	}
	records := func() *rest.Request { return plain.Get().Namespace(back.namespace).Resource("streamrecords") }
	reads := map[string]func() error{
		"get/client-go": func() error { return records().Name("s--7").Do(b.Context()).Into(&storev1.StreamRecord{}) },
		"get/crdstore": func() error {
			return back.streams.Get(b.Context(), back.key("s_7"), storage.GetOptions{}, &storev1.StreamRecord{})
		},
		"list/client-go": func() error { return records().Do(b.Context()).Into(&storev1.StreamRecordList{}) },
		"list/crdstore": func() error {
			return back.streams.GetList(b.Context(), back.key(""), storage.ListOptions{Recursive: true, Predicate: storage.Everything}, &storev1.StreamRecordList{})
		},
	}
	for _, name := range slices.Sorted(maps.Keys(reads)) {
		b.Run(name, func(b *testing.B) { measure(b, nil, reads[name]) })
	}
}
