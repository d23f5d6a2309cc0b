package tags

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	imagev1 "github.com/openshift/api/image/v1"
	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/utils/ptr"
)

func TestPatch(t *testing.T) {
	s := newFakeStreams(stream("s", wanted("v1", "quay.io/x/y:1", annotated("old", "yes")), got("v1", "sha256:aaa"), wanted("pending", "quay.io/x/y:2")))
	tags := NewImageStreamTags(s, fakeImages{})
	do := func(name string, force bool, info rest.UpdatedObjectInfo) (*imagev1.ImageStreamTag, bool, error) {
		obj, created, err := tags.Update(in(t, "patch"), name, info, nil, nil, force, &metav1.UpdateOptions{})
		if err != nil {
			return nil, false, err
		}
		return obj.(*imagev1.ImageStreamTag), created, nil
	}

	got, created, err := do("s:v1", false, patch(func(o *imagev1.ImageStreamTag) { o.Tag.From.Name = "quay.io/x/y:9" }))
	if err != nil || created || got.Tag.From.Name != "quay.io/x/y:9" || got.Tag.Annotations["old"] != "yes" || *got.Tag.Generation != 2 {
		t.Errorf("a patch of tag.from changes that alone; got %+v, %t, %v", got, created, err)
	}
	got, _, err = do("s:v1", false, patch(func(o *imagev1.ImageStreamTag) { o.Annotations["new"] = "yes" }))
	if err != nil || cmp.Diff(map[string]string{"old": "yes", "new": "yes"}, got.Tag.Annotations) != "" || *got.Tag.Generation != 2 {
		t.Errorf("a patch of metadata.annotations needs none of tag.annotations; got %+v, %v", got, err)
	}
	got, _, err = do("s:v1", false, patch(func(o *imagev1.ImageStreamTag) { delete(o.Annotations, "old") }))
	if err != nil || cmp.Diff(map[string]string{"new": "yes"}, got.Tag.Annotations) != "" {
		t.Errorf("an annotation that is taken away stays away; got %+v, %v", got, err)
	}
	_, _, err = do("s:v1", false, patch(func(o *imagev1.ImageStreamTag) { o.ResourceVersion = "1" }))
	refused(t, "a patch can carry the version it was made from, and this tag has changed since", err, 409, "imagestreamtags")
	_, _, err = do("s:pending", false, patch(func(*imagev1.ImageStreamTag) {}))
	refused(t, "what GET does not find cannot be patched", err, 404, "imagestreamtags")
	_, _, err = do("s:none", false, patch(func(*imagev1.ImageStreamTag) {}))
	refused(t, "nor can a tag that is not there", err, 404, "imagestreamtags")
	_, _, err = do("none:v1", false, patch(func(*imagev1.ImageStreamTag) {}))
	refused(t, "nor that of a stream that is not there, and the error says so, as GET does", err, 404, "imagestreams")

	apply := rest.DefaultUpdatedObjectInfo(nil, func(_ context.Context, _, old runtime.Object) (runtime.Object, error) {
		if old.(*imagev1.ImageStreamTag).UID != "" {
			return nil, errors.New("an apply of what is not there must be told so")
		}
		return ocTag("s:pending", "pending", "quay.io/x/y:3"), nil
	})
	got, created, err = do("s:pending", true, apply)
	if err != nil || created || got.Tag.From.Name != "quay.io/x/y:3" {
		t.Errorf("an apply makes what GET does not find; got %+v, %t, %v", got, created, err)
	}
}

// TestPatchForms applies the three forms of a patch to what the tag is, as the handler of patches does.
func TestPatchForms(t *testing.T) {
	strategic := func(old, patch []byte) ([]byte, error) {
		return strategicpatch.StrategicMergePatch(old, patch, &imagev1.ImageStreamTag{})
	}
	steps := func(old, patch []byte) ([]byte, error) {
		decoded, err := jsonpatch.DecodePatch(patch)
		if err != nil {
			return nil, err
		}
		return decoded.Apply(old)
	}
	cases := map[string]struct {
		apply func(old, patch []byte) ([]byte, error)
		patch string
	}{
		"MergeFrom":            {jsonpatch.MergePatch, `{"tag":{"from":{"name":"quay.io/x/y:9"}}}`},
		"StrategicFrom":        {strategic, `{"tag":{"from":{"name":"quay.io/x/y:9"}}}`},
		"JSONFrom":             {steps, `[{"op":"test","path":"/tag/from/name","value":"quay.io/x/y:1"},{"op":"replace","path":"/tag/from/name","value":"quay.io/x/y:9"}]`},
		"MergeAnnotations":     {jsonpatch.MergePatch, `{"metadata":{"annotations":{"new":"yes","old":null}}}`},
		"StrategicAnnotations": {strategic, `{"metadata":{"annotations":{"new":"yes","old":null}}}`},
		"JSONAnnotations":      {steps, `[{"op":"add","path":"/metadata/annotations/new","value":"yes"},{"op":"remove","path":"/metadata/annotations/old"}]`},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			s := newFakeStreams(stream("s", wanted("v1", "quay.io/x/y:1", annotated("old", "yes")), got("v1", "sha256:aaa")))
			info := rest.DefaultUpdatedObjectInfo(nil, func(_ context.Context, _, old runtime.Object) (runtime.Object, error) {
				before, err := json.Marshal(old)
				if err != nil {
					return nil, err
				}
				after, err := c.apply(before, []byte(c.patch))
				if err != nil {
					return nil, err
				}
				obj := &imagev1.ImageStreamTag{}
				return obj, json.Unmarshal(after, obj)
			})
			_, created, err := NewImageStreamTags(s, fakeImages{}).Update(in(t, "patch"), "s:v1", info, nil, nil, false, nil)
			if err != nil || created {
				t.Fatalf("got created=%t, %v", created, err)
			}
			want := specTags(t, newFakeStreams(stream("s", wanted("v1", "quay.io/x/y:1", annotated("old", "yes")))), "s")
			if strings.HasSuffix(name, "From") {
				want[0].From.Name, want[0].Generation = "quay.io/x/y:9", ptr.To[int64](2)
			} else {
				want[0].Annotations = map[string]string{"new": "yes"}
			}
			if diff := cmp.Diff(want, specTags(t, s, "s")); diff != "" {
				t.Errorf("a patch changes what it names and nothing else\n-want +got:\n%s", diff)
			}
		})
	}
}

func TestWritesAreRepeatedOnTheNewestTag(t *testing.T) {
	s := newFakeStreams(stream("s", wanted("v1", "quay.io/x/y:1"), got("v1", "sha256:aaa")))
	s.before = func(attempt int) {
		if attempt < 3 { // others annotate the tag and add tags while the patch is on its way
			record, _ := s.Get(in(t, "get"), "s")
			if record.Spec.Tags[0].Annotations == nil {
				record.Spec.Tags[0].Annotations = map[string]string{}
			}
			record.Spec.Tags[0].Annotations[fmt.Sprint("other", attempt)] = "yes"
			wanted(fmt.Sprint("new", attempt), "quay.io/x/y:2")(record)
			s.put(record)
		}
	}
	tags := NewImageStreamTags(s, fakeImages{})
	obj, _, err := tags.Update(in(t, "patch"), "s:v1", patch(func(o *imagev1.ImageStreamTag) { metav1.SetMetaDataAnnotation(&o.ObjectMeta, "mine", "yes") }), nil, nil, false, nil)
	if err != nil {
		t.Fatalf("a patch never conflicts with others' changes: %v", err)
	}
	want := map[string]string{"other0": "yes", "other1": "yes", "other2": "yes", "mine": "yes"}
	if diff := cmp.Diff(want, obj.(*imagev1.ImageStreamTag).Tag.Annotations); diff != "" {
		t.Errorf("no change of anybody's is lost\n-want +got:\n%s", diff)
	}
	if n := len(specTags(t, s, "s")); n != 4 {
		t.Errorf("got %d tags, want all 4", n)
	}
}
