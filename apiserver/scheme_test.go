package apiserver

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	imagev1 "github.com/openshift/api/image/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	apiopenapi "k8s.io/apiserver/pkg/endpoints/openapi"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"istag.dev/apiserver/openapi"
	storev1 "istag.dev/store/v1"
)

// decoded is what the server makes of what a client sends.
func decoded(t *testing.T, text string) runtime.Object {
	t.Helper()
	scheme, err := newScheme()
	if err != nil {
		t.Fatal(err)
	}
	obj, err := runtime.Decode(serializer.NewCodecFactory(scheme).UniversalDecoder(schema.GroupVersion{Group: imagev1.GroupName, Version: runtime.APIVersionInternal}), []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return obj
}

func TestDefaults(t *testing.T) {
	const tag = `"referencePolicy":{"type":""},"importPolicy":{"importMode":""}`
	want := []string{"Source", "Legacy"}
	cases := map[string]struct {
		reason string
		text   string
		got    func(runtime.Object) []string
	}{
		"ImageStream": {
			reason: "oc new-app sends a tag's reference policy with an empty type",
			text:   `{"apiVersion":"image.openshift.io/v1","kind":"ImageStream","spec":{"tags":[{"name":"1",` + tag + `}]}}`,
			got: func(o runtime.Object) []string {
				t := o.(*storev1.StreamRecord).Spec.Tags[0]
				return []string{string(t.ReferencePolicy.Type), string(t.ImportPolicy.ImportMode)}
			},
		},
		"ImageStreamTag": {
			reason: "and so does oc create istag",
			text:   `{"apiVersion":"image.openshift.io/v1","kind":"ImageStreamTag","tag":{"name":"",` + tag + `}}`,
			got: func(o runtime.Object) []string {
				t := o.(*imagev1.ImageStreamTag).Tag
				return []string{string(t.ReferencePolicy.Type), string(t.ImportPolicy.ImportMode)}
			},
		},
		"ImageTag": {
			reason: "an image tag's spec is a tag like others",
			text:   `{"apiVersion":"image.openshift.io/v1","kind":"ImageTag","spec":{"name":"1",` + tag + `}}`,
			got: func(o runtime.Object) []string {
				t := o.(*imagev1.ImageTag).Spec
				return []string{string(t.ReferencePolicy.Type), string(t.ImportPolicy.ImportMode)}
			},
		},
		"ImageStreamImport": {
			reason: "what is imported becomes a tag",
			text:   `{"apiVersion":"image.openshift.io/v1","kind":"ImageStreamImport","spec":{"images":[{"from":{"kind":"DockerImage","name":"x"},` + tag + `}]}}`,
			got: func(o runtime.Object) []string {
				i := o.(*imagev1.ImageStreamImport).Spec.Images[0]
				return []string{string(i.ReferencePolicy.Type), string(i.ImportPolicy.ImportMode)}
			},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(want, tc.got(decoded(t, tc.text))); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tc.reason, diff)
			}
		})
	}
}

func TestEnvelopeStaysInside(t *testing.T) {
	scheme, err := newScheme()
	if err != nil {
		t.Fatal(err)
	}
	record := &storev1.StreamRecord{Record: storev1.StreamEnvelope{Generation: 3, Requests: []storev1.TagRequest{{Tag: "1", By: storev1.Requester{User: "alice"}}}}}
	text, err := runtime.Encode(serializer.NewCodecFactory(scheme).LegacyCodec(imagev1.GroupVersion), record)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"kind":"ImageStream","apiVersion":"image.openshift.io/v1","metadata":{},"spec":{"lookupPolicy":{"local":false}},"status":{"dockerImageRepository":""}}`
	if diff := cmp.Diff(want+"\n", string(text)); diff != "" {
		t.Errorf("what clients see (-want +got):\n%s", diff)
	}
}

func TestSchemaIsWhole(t *testing.T) {
	definitions := openapi.Definitions(spec.MustCreateRef)
	for name, definition := range definitions {
		for _, dependency := range definition.Dependencies {
			if _, ok := definitions[dependency]; !ok {
				t.Errorf("%s refers to %s, which has no schema", name, dependency)
			}
		}
	}
	wire, err := newWireScheme()
	if err != nil {
		t.Fatal(err)
	}
	name, extensions := definitionNames(apiopenapi.NewDefinitionNamer(wire).GetDefinitionName)("github.com/openshift/api/image/v1.ImageStream")
	if name != "com.github.openshift.api.image.v1.ImageStream" || len(extensions) == 0 {
		t.Errorf("a type is published under %q with %v: without its kind server-side apply cannot find it", name, extensions)
	}
}
