package tags

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	imagev1 "github.com/openshift/api/image/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	storev1 "istag.dev/store/v1"
)

func TestPut(t *testing.T) {
	event := stream("s", labelled("app", "web"), wanted("v1", "quay.io/x/y:1", annotated("old", "yes")), got("v1", "sha256:aaa"), got("pushed", "sha256:bbb"), wanted("pending", "quay.io/x/y:2"))
	cases := map[string]struct {
		reason  string
		obj     *imagev1.ImageStreamTag
		created bool
		check   func(*imagev1.ImageStreamTag) bool
	}{
		"NewTag":     {"A tag that is not in spec is created.", ocTag("s:v2", "v2", "quay.io/x/y:2"), true, func(o *imagev1.ImageStreamTag) bool { return *o.Tag.Generation == 2 }},
		"NewStream":  {"So is a stream.", ocTag("n:v1", "v1", "quay.io/x/y:1"), true, func(o *imagev1.ImageStreamTag) bool { return *o.Tag.Generation == 1 && o.UID != "" }},
		"PushedTag":  {"A tag that is in status alone is new in spec.", ocTag("s:pushed", "pushed", "quay.io/x/y:2"), true, func(o *imagev1.ImageStreamTag) bool { return o.Image.Name == "sha256:bbb" }},
		"PendingTag": {"A tag that GET does not find is replaced.", ocTag("s:pending", "pending", "quay.io/x/y:3"), false, func(o *imagev1.ImageStreamTag) bool { return o.Tag.From.Name == "quay.io/x/y:3" }},
		"Replaced": {"A tag is replaced as a whole: its annotations go, its image stays until the import.", ocTag("s:v1", "v1", "quay.io/x/y:9"), false, func(o *imagev1.ImageStreamTag) bool {
			return o.Tag.Annotations == nil && *o.Tag.Generation == 2 && o.Image.Name == "sha256:aaa"
		}},
		"OtherName": {"The tag's own name does not count.", ocTag("s:v1", "something", "quay.io/x/y:1"), false, func(o *imagev1.ImageStreamTag) bool { return o.Tag.Name == "v1" }},
		"OnlyAnnotations": {"Without a tag only the annotations change, and those of the object count.", &imagev1.ImageStreamTag{
			ObjectMeta: metav1.ObjectMeta{Name: "s:v1", Annotations: map[string]string{"new": "yes", OriginAnnotation: "forged"}},
		}, false, func(o *imagev1.ImageStreamTag) bool {
			return o.Tag.From.Name == "quay.io/x/y:1" && cmp.Diff(map[string]string{"new": "yes"}, o.Tag.Annotations) == "" && *o.Tag.Generation == 1
		}},
		"MetaWins": {"The object's annotations replace those of the tag.", func() *imagev1.ImageStreamTag {
			o := ocTag("s:v1", "v1", "quay.io/x/y:1")
			o.Annotations, o.Tag.Annotations = map[string]string{"new": "yes"}, map[string]string{"old": "yes"}
			return o
		}(), false, func(o *imagev1.ImageStreamTag) bool {
			return cmp.Diff(map[string]string{"new": "yes"}, o.Tag.Annotations) == ""
		}},
		"Ignored": {"What oc sends beyond the tag is tolerated.", func() *imagev1.ImageStreamTag {
			o := ocTag("s:v1", "v1", "quay.io/x/y:1")
			o.Image.DockerImageReference, o.LookupPolicy.Local, o.Generation = "x", true, 9
			o.Conditions = []imagev1.TagEventCondition{{}}
			o.Labels = map[string]string{"app": "web"}
			return o
		}(), false, func(o *imagev1.ImageStreamTag) bool { return !o.LookupPolicy.Local && o.Generation == 1 }},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			s := newFakeStreams(event.DeepCopy())
			obj, created, err := NewImageStreamTags(s, fakeImages{}).Update(in(t, "update"), c.obj.Name, put(c.obj), nil, nil, false, &metav1.UpdateOptions{})
			if err != nil {
				t.Fatalf("%s\n%v", c.reason, err)
			}
			if created != c.created || !c.check(obj.(*imagev1.ImageStreamTag)) {
				t.Errorf("%s\ngot created=%t, %+v", c.reason, created, obj)
			}
		})
	}
}

func TestPutErrors(t *testing.T) {
	tags := NewImageStreamTags(newFakeStreams(stream("s", labelled("app", "web"), wanted("v1", "quay.io/x/y:1"), got("pushed", "sha256:bbb"))), fakeImages{})
	with := func(name string, change func(*imagev1.ImageStreamTag)) *imagev1.ImageStreamTag {
		obj := ocTag(name, "v1", "quay.io/x/y:1")
		change(obj)
		return obj
	}
	const readOnly = `ImageStreamTag.image.openshift.io "s:v1" is invalid: metadata: Invalid value: "": may not update fields other than metadata.annotations`
	cases := map[string]struct {
		reason string
		obj    *imagev1.ImageStreamTag
		code   int32
		kind   string
		text   string
	}{
		"BadName":       {"A name without a tag is a bad request.", ocTag("s", "v1", "x"), 400, "", "ImageStreamTags must be retrieved with <name>:<tag>"},
		"NoTag":         {"A tag that is not in spec needs to be said what it is.", with("s:pushed", func(o *imagev1.ImageStreamTag) { o.Tag = nil }), 400, "", "imagestreamtag pushed is not a spec tag in imagestream shop/s, cannot be updated"},
		"NoTagNoStream": {"So does the tag of a stream that is not there.", with("n:v1", func(o *imagev1.ImageStreamTag) { o.Tag = nil }), 400, "", "imagestreamtag v1 is not a spec tag in imagestream shop/n, cannot be updated"},
		"Labels":        {"Labels are the stream's.", with("s:v1", func(o *imagev1.ImageStreamTag) { o.Labels = map[string]string{"app": "db"} }), 422, "ImageStreamTag", readOnly},
		"Owner":         {"A tag has no owner.", with("s:v1", func(o *imagev1.ImageStreamTag) { o.OwnerReferences = []metav1.OwnerReference{{Name: "x"}} }), 422, "ImageStreamTag", readOnly},
		"Finalizers":    {"A tag has no finalizers.", with("s:v1", func(o *imagev1.ImageStreamTag) { o.Finalizers = []string{"x/y"} }), 422, "ImageStreamTag", readOnly},
		"VersionOfNone": {"A tag cannot have been read from a stream that is not there.", with("n:v1", func(o *imagev1.ImageStreamTag) { o.ResourceVersion = "1" }), 404, "imagestreamtags", `imagestreamtags.image.openshift.io "n:v1" not found`},
		"WrongUID":      {"Another object of the name is a conflict.", with("s:v1", func(o *imagev1.ImageStreamTag) { o.UID = "x" }), 409, "imagestreamtags", ""},
		"UIDOfNone":     {"So is one that is not there.", with("n:v1", func(o *imagev1.ImageStreamTag) { o.UID = "x" }), 409, "imagestreamtags", ""},
		"OnCreation":    {"Where the stream is made, the tag's own annotations must be the object's.", with("n:v1", func(o *imagev1.ImageStreamTag) { o.Tag.Annotations = map[string]string{"a": "b"} }), 422, "ImageStreamTag", ""},
		"BadVersion":    {"A resource version that is none is the registry's affair.", with("s:v1", func(o *imagev1.ImageStreamTag) { o.ResourceVersion = "abc" }), 400, "", "invalid resource version"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			_, _, err := tags.Update(in(t, "update"), c.obj.Name, put(c.obj), nil, nil, false, nil)
			if err == nil {
				t.Fatalf("%s\nwant an error", c.reason)
			}
			got := status(t, err)
			kind := ""
			if got.Details != nil {
				kind = got.Details.Kind
			}
			if got.Code != c.code || kind != c.kind || c.text != "" && got.Message != c.text {
				t.Errorf("%s\ngot %d %s %s", c.reason, got.Code, kind, got.Message)
			}
		})
	}
}

// TestPutWithAVersion covers the optimistic lock: it is on the tag, not on the stream.
func TestPutWithAVersion(t *testing.T) {
	sibling := func(r *storev1.StreamRecord) { got("sibling", "sha256:new")(r) }
	cases := map[string]struct {
		reason    string
		meanwhile func(*fakeStreams, *storev1.StreamRecord)
		conflict  bool
	}{
		"Nothing":      {"Nothing happened.", func(*fakeStreams, *storev1.StreamRecord) {}, false},
		"SiblingMoved": {"What became of other tags is no conflict.", func(s *fakeStreams, r *storev1.StreamRecord) { sibling(r); s.put(r) }, false},
		"Relabelled":   {"Neither are the stream's labels, which the client sends as it saw them.", func(s *fakeStreams, r *storev1.StreamRecord) { labelled("app", "db")(r); s.put(r) }, false},
		"TagMoved": {"That the tag means another image is.", func(s *fakeStreams, r *storev1.StreamRecord) {
			r.Status.Tags[0].Items[0].Image = "sha256:other"
			s.put(r)
		}, true},
		"TagChanged": {"That the tag was changed is.", func(s *fakeStreams, r *storev1.StreamRecord) { annotated("a", "b")(&r.Spec.Tags[0]); s.put(r) }, true},
		"Recreated": {"That the stream is another one is, even if it looks alike.", func(s *fakeStreams, r *storev1.StreamRecord) {
			s.remove("s")
			r.UID = ""
			s.put(r)
		}, true},
		"Compacted": {"If what the client saw is not known any more, nobody can say.", func(s *fakeStreams, r *storev1.StreamRecord) { sibling(r); s.put(r); s.compact() }, true},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			s := newFakeStreams(stream("s", labelled("app", "web"), wanted("v1", "quay.io/x/y:1"), got("v1", "sha256:aaa")))
			tags := NewImageStreamTags(s, fakeImages{})
			read, err := tags.Get(in(t, "get"), "s:v1", nil)
			if err != nil {
				t.Fatal(err)
			}
			record, _ := s.Get(in(t, "get"), "s")
			c.meanwhile(s, record)

			obj := read.(*imagev1.ImageStreamTag).DeepCopy()
			obj.Annotations["mine"] = "yes"
			obj.UID = "" // A new stream has another; here the version alone must tell.
			updated, created, err := tags.Update(in(t, "update"), "s:v1", put(obj), nil, nil, false, nil)
			if c.conflict {
				refused(t, c.reason, err, 409, "imagestreamtags")
				return
			}
			if err != nil || created || updated.(*imagev1.ImageStreamTag).Tag.Annotations["mine"] != "yes" {
				t.Errorf("%s\ngot %+v, created=%t, %v", c.reason, updated, created, err)
			}
		})
	}
	for name, version := range map[string]string{"BeforeTheStream": "1", "FromTheFuture": "999"} {
		t.Run(name, func(t *testing.T) {
			obj := ocTag("s:v1", "v1", "quay.io/x/y:1")
			obj.ResourceVersion = version
			tags := NewImageStreamTags(newFakeStreams(stream("other"), stream("s", wanted("v1", "quay.io/x/y:1"))), fakeImages{})
			_, _, err := tags.Update(in(t, "update"), "s:v1", put(obj), nil, nil, false, nil)
			refused(t, "a version at which the tag cannot have been read is a conflict", err, 409, "imagestreamtags")
		})
	}
}

func TestPutWithAVersionSeesWhatCameBetween(t *testing.T) {
	s := newFakeStreams(stream("s", wanted("v1", "quay.io/x/y:1"), got("v1", "sha256:aaa")))
	tags := NewImageStreamTags(s, fakeImages{})
	read, _ := tags.Get(in(t, "get"), "s:v1", nil)
	s.before = func(attempt int) {
		if attempt == 0 {
			record, _ := s.Get(in(t, "get"), "s")
			annotated("other", "yes")(&record.Spec.Tags[0])
			s.put(record)
		}
	}
	_, _, err := tags.Update(in(t, "update"), "s:v1", put(read), nil, nil, false, nil)
	refused(t, "a change of the tag that comes while the PUT is under way is a conflict too", err, 409, "imagestreamtags")
}
