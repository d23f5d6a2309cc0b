package tags

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	imagev1 "github.com/openshift/api/image/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/utils/ptr"

	"istag.dev/store"
)

func docker(pullSpec string) *corev1.ObjectReference {
	return &corev1.ObjectReference{Kind: store.KindDockerImage, Name: pullSpec}
}

// ocTag is the body that "oc tag" sends.
func ocTag(name, tag, pullSpec string) *imagev1.ImageStreamTag {
	return &imagev1.ImageStreamTag{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace},
		Tag: &imagev1.TagReference{
			Name: tag, From: docker(pullSpec), Generation: ptr.To[int64](0),
			ImportPolicy:    imagev1.TagImportPolicy{ImportMode: imagev1.ImportModeLegacy},
			ReferencePolicy: imagev1.TagReferencePolicy{Type: imagev1.SourceTagReferencePolicy},
		},
	}
}

// ocCreate is the body that "oc create istag" sends.
func ocCreate(name, pullSpec string, annotations map[string]string) *imagev1.ImageStreamTag {
	return &imagev1.ImageStreamTag{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace, Annotations: annotations},
		Tag:        &imagev1.TagReference{From: docker(pullSpec), Annotations: annotations},
	}
}

func put(obj runtime.Object) rest.UpdatedObjectInfo { return rest.DefaultUpdatedObjectInfo(obj) }

// patch changes whatever the tag is now, as the handler of patches does.
func patch(change func(*imagev1.ImageStreamTag)) rest.UpdatedObjectInfo {
	return rest.DefaultUpdatedObjectInfo(nil, func(_ context.Context, _, old runtime.Object) (runtime.Object, error) {
		obj := old.DeepCopyObject().(*imagev1.ImageStreamTag)
		if obj.UID == "" {
			return nil, apierrors.NewNotFound(imagev1.Resource("imagestreamtags"), "by the handler")
		}
		change(obj)
		return obj, nil
	})
}

func specTags(t *testing.T, s *fakeStreams, name string) []imagev1.TagReference {
	t.Helper()
	record, err := s.Get(in(t, "get"), name)
	if err != nil {
		t.Fatal(err)
	}
	return record.Spec.Tags
}

// refused checks an error's code, kind and the fields of its causes.
func refused(t *testing.T, reason string, err error, code int32, kind string, causes ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("%s\nwant an error", reason)
	}
	got := status(t, err)
	var fields []string
	gotKind := ""
	if got.Details != nil {
		gotKind = got.Details.Kind
		for _, c := range got.Details.Causes {
			fields = append(fields, c.Field)
		}
	}
	if got.Code != code || gotKind != kind || !slices.Equal(fields, causes) {
		t.Errorf("%s\nwant %d %s %q, got %d %s %q: %s", reason, code, kind, causes, got.Code, gotKind, fields, got.Message)
	}
}

func TestCreateImageStreamTag(t *testing.T) {
	s := newFakeStreams(stream("s", labelled("app", "web"), got("pushed", "sha256:aaa"), wanted("there", "quay.io/x/y:1")))
	tags := NewImageStreamTags(s, fakeImages{})
	create := func(obj runtime.Object) (*imagev1.ImageStreamTag, error) {
		created, err := tags.Create(in(t, "create"), obj, nil, &metav1.CreateOptions{FieldManager: "oc"})
		if err != nil {
			return nil, err
		}
		return created.(*imagev1.ImageStreamTag), nil
	}

	got, err := create(ocCreate("new:tip", "quay.io/a/b:1", map[string]string{"a": "b", OriginAnnotation: "forged"}))
	if err != nil {
		t.Fatalf("a tag of a stream that is not there makes the stream: %v", err)
	}
	want := []imagev1.TagReference{{
		Name: "tip", From: docker("quay.io/a/b:1"), Annotations: map[string]string{"a": "b"}, Generation: ptr.To[int64](1),
		ImportPolicy:    imagev1.TagImportPolicy{ImportMode: imagev1.ImportModeLegacy},
		ReferencePolicy: imagev1.TagReferencePolicy{Type: imagev1.SourceTagReferencePolicy},
	}}
	if diff := cmp.Diff(want, specTags(t, s, "new")); diff != "" {
		t.Errorf("the tag has the name of its object, the defaults and the annotations that are kept\n-want +got:\n%s", diff)
	}
	if got.Name != "new:tip" || got.UID == "" || got.Image.Name != "" || got.Tag == nil {
		t.Errorf("the answer for a tag that waits for its import is the tag alone; got %+v", got)
	}
	if !s.last.Create || s.last.FieldManager != "oc" {
		t.Errorf("the options go on; got %+v", s.last)
	}

	onlyMeta := ocCreate("s:meta", "quay.io/a/b:1", nil)
	onlyMeta.Annotations = map[string]string{"kept": "yes"}
	if got, err = create(onlyMeta); err != nil || got.Tag.Annotations["kept"] != "yes" {
		t.Errorf("annotations of the object alone are kept in the tag; got %+v, %v", got, err)
	}
	if got.Labels["app"] != "web" {
		t.Errorf("a tag has the labels of its stream; got %v", got.Labels)
	}
	if got, err = create(ocCreate("s:pushed", "quay.io/a/b:1", nil)); err != nil || got.Image.Name != "sha256:aaa" || got.Image.DockerImageMetadataVersion == "" {
		t.Errorf("a tag that was only pushed can be created and is answered with its image; got %+v, %v", got, err)
	}
	if got, err = create(&imagev1.ImageStreamTag{ObjectMeta: metav1.ObjectMeta{Name: "bare:x"}}); err != nil || got.Tag != nil {
		t.Errorf("\"tag\":null adds no tag; got %+v, %v", got, err)
	}
	if record, err := s.Get(in(t, "get"), "bare"); err != nil || len(record.Spec.Tags) > 0 || record.Record.Generation != 1 {
		t.Errorf("but it makes the stream; got %+v, %v", record, err)
	}
	applied := ocCreate("s:applied", "quay.io/a/b:1", map[string]string{"a": "b"})
	applied.Tag.Annotations = map[string]string{"a": "b"}
	applied.Annotations[lastApplied] = "{}"
	if got, err = create(applied); err != nil || got.Tag.Annotations[lastApplied] != "{}" {
		t.Errorf("what \"kubectl apply\" adds to the metadata makes no difference between the two; got %+v, %v", got, err)
	}
}

func TestCreateImageStreamTagErrors(t *testing.T) {
	s := newFakeStreams(stream("s", wanted("there", "quay.io/x/y:1")))
	tags := NewImageStreamTags(s, fakeImages{})
	before := s.version()
	with := func(change func(*imagev1.ImageStreamTag)) *imagev1.ImageStreamTag {
		obj := ocCreate("s:new", "quay.io/a/b:1", nil)
		change(obj)
		return obj
	}
	cases := map[string]struct {
		reason string
		obj    runtime.Object
		code   int32
		kind   string
		causes []string
	}{
		"Exists":           {"A tag in spec is a conflict; OpenShift names the resource in the singular.", ocCreate("s:there", "quay.io/a/b:1", nil), 409, "imagestreamtag", nil},
		"NoTag":            {"A name that is not that of a tag is an invalid name.", ocCreate("s", "quay.io/a/b:1", nil), 422, "ImageStreamTag", []string{"metadata.name"}},
		"NoName":           {"So is none.", ocCreate("", "quay.io/a/b:1", nil), 422, "ImageStreamTag", []string{"metadata.name"}},
		"BadStream":        {"The name of a stream that cannot be is named as the tag's.", ocCreate("Bad:x", "quay.io/a/b:1", nil), 422, "ImageStreamTag", []string{"metadata.name"}},
		"BadTag":           {"Tag names are those of registries.", ocCreate("s:Bad Tag!", "quay.io/a/b:1", nil), 422, "ImageStreamTag", []string{"tag.name"}},
		"OtherAnnotations": {"The tag's own annotations must be the object's.", with(func(o *imagev1.ImageStreamTag) { o.Tag.Annotations = map[string]string{"a": "b"} }), 422, "ImageStreamTag", []string{"tag.annotations"}},
		"NoFromName":       {"What is wrong in the tag is named as the user wrote it.", with(func(o *imagev1.ImageStreamTag) { o.Tag.From.Name = "" }), 422, "ImageStreamTag", []string{"tag.from.name"}},
		"BadKind":          {"The kind is one of three.", with(func(o *imagev1.ImageStreamTag) { o.Tag.From.Kind = "Pod" }), 422, "ImageStreamTag", []string{"tag.from.kind"}},
		"NoSuchStream": {"A source that is missing is named.", with(func(o *imagev1.ImageStreamTag) {
			o.Tag.From = &corev1.ObjectReference{Kind: store.KindImageStreamTag, Name: "none:x"}
		}), 422, "ImageStreamTag", []string{"tag.from.name"}},
		"ForbiddenElswhere": {"So is a source that the user may not use.", with(func(o *imagev1.ImageStreamTag) {
			o.Tag.From = &corev1.ObjectReference{Kind: store.KindImageStreamTag, Name: "none:x", Namespace: "secret"}
		}), 422, "ImageStreamTag", []string{"tag.from"}},
		"TwoMistakes": {"Every mistake is named.", with(func(o *imagev1.ImageStreamTag) {
			o.Tag.ReferencePolicy.Type = "Nearby"
			o.Tag.ImportPolicy.ImportMode = "Fast"
		}), 422, "ImageStreamTag", []string{"tag.referencePolicy.type", "tag.importPolicy.importMode"}},
		"AnotherType": {"Another type is a bad request.", &imagev1.ImageTag{}, 400, "", nil},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := tags.Create(in(t, "create"), c.obj, nil, nil)
			refused(t, c.reason, err, c.code, c.kind, c.causes...)
		})
	}
	if s.version() != before {
		t.Error("something was written by a request that was refused")
	}
	_, err := tags.Create(in(t, "create"), cases["TwoMistakes"].obj, nil, nil)
	want := `ImageStreamTag.image.openshift.io "s:new" is invalid: [tag.referencePolicy.type: Invalid value: "Nearby": valid values are "Source", "Local", tag.importPolicy.importMode: Invalid value: "Fast": invalid import mode, valid modes are '', 'Legacy', 'PreserveOriginal']`
	if err.Error() != want {
		t.Errorf("the message says it all, as the API server's own do\nwant %s\ngot  %s", want, err)
	}
}

func TestAdmission(t *testing.T) {
	s := newFakeStreams(stream("s", labelled("app", "web"), wanted("v1", "quay.io/x/y:1"), got("v1", "sha256:aaa")))
	tags := NewImageStreamTags(s, fakeImages{})
	denied := apierrors.NewForbidden(imagev1.Resource("imagestreamtags"), "s:v1", errors.New("policy"))
	var created, updated, old, deleted runtime.Object
	create := func(_ context.Context, obj runtime.Object) error { created = obj; return denied }
	update := func(_ context.Context, obj, was runtime.Object) error { updated, old = obj, was; return denied }
	remove := func(_ context.Context, obj runtime.Object) error { deleted = obj; return denied }
	before := s.version()

	if _, err := tags.Create(in(t, "create"), ocCreate("s:v2", "quay.io/x/y:2", nil), create, nil); err != error(denied) { //nolint:errorlint // bare
		t.Errorf("admission of a creation: got %v", err)
	}
	if obj := created.(*imagev1.ImageStreamTag); obj.Tag.Name != "v2" {
		t.Errorf("admission sees the tag as it will be; got %+v", obj.Tag)
	}
	created = nil
	if _, _, err := tags.Update(in(t, "update"), "n:v1", put(ocTag("n:v1", "v1", "quay.io/x/y:2")), create, update, false, nil); err != error(denied) { //nolint:errorlint // bare
		t.Errorf("admission of a PUT that makes a stream: got %v", err)
	}
	if created == nil || updated != nil {
		t.Error("a PUT that makes a stream is admitted as a creation, which needs the right to create")
	}
	created = nil
	if _, _, err := tags.Update(in(t, "update"), "s:new", put(ocTag("s:new", "new", "quay.io/x/y:2")), create, update, false, nil); err != error(denied) { //nolint:errorlint // bare
		t.Errorf("admission of a PUT that makes a tag: got %v", err)
	}
	if created != nil || updated == nil {
		t.Error("a PUT that makes a tag of a stream is admitted as an update, as in OpenShift")
	}
	if _, _, err := tags.Update(in(t, "update"), "s:v1", put(ocTag("s:v1", "x", "quay.io/x/y:2")), create, update, false, nil); err != error(denied) { //nolint:errorlint // bare
		t.Errorf("admission of a PUT: got %v", err)
	}
	obj, was := updated.(*imagev1.ImageStreamTag), old.(*imagev1.ImageStreamTag)
	if obj.UID != was.UID || obj.Labels["app"] != "web" || obj.Tag.Name != "v1" || obj.Image.Name != "sha256:aaa" || was.Tag.From.Name != "quay.io/x/y:1" {
		t.Errorf("admission sees the tag as it will be and as it was; got %+v and %+v", obj, was)
	}
	if _, _, err := tags.Delete(in(t, "delete"), "s:v1", remove, nil); err != error(denied) { //nolint:errorlint // bare
		t.Errorf("admission of a deletion: got %v", err)
	}
	if obj := deleted.(*imagev1.ImageStreamTag); obj.Tag == nil || obj.Image.Name != "sha256:aaa" {
		t.Errorf("admission sees the tag that would go; got %+v", obj)
	}
	if s.version() != before {
		t.Error("something was written that admission denied")
	}
}

func TestDryRun(t *testing.T) {
	s := newFakeStreams(stream("s", wanted("v1", "quay.io/x/y:1")))
	tags := NewImageStreamTags(s, fakeImages{})
	before := s.version()
	all := []string{metav1.DryRunAll}
	created, err := tags.Create(in(t, "create"), ocCreate("n:v2", "quay.io/x/y:2", nil), nil, &metav1.CreateOptions{DryRun: all})
	if err != nil || created.(*imagev1.ImageStreamTag).Tag.Name != "v2" {
		t.Errorf("create: got %+v, %v", created, err)
	}
	if _, isNew, err := tags.Update(in(t, "update"), "s:v3", put(ocTag("s:v3", "v3", "quay.io/x/y:2")), nil, nil, false, &metav1.UpdateOptions{DryRun: all, FieldManager: "oc"}); err != nil || !isNew || s.last.FieldManager != "oc" {
		t.Errorf("update: got created=%t, %v", isNew, err)
	}
	if _, _, err := tags.Delete(in(t, "delete"), "s:v1", nil, &metav1.DeleteOptions{DryRun: all}); err != nil {
		t.Errorf("delete: got %v", err)
	}
	if s.version() != before {
		t.Error("a dry run must not write")
	}
}

func TestDelete(t *testing.T) {
	s := newFakeStreams(stream("s", wanted("both", "quay.io/x/y:1"), got("both", "sha256:aaa"), wanted("pending", "quay.io/x/y:1"), got("pushed", "sha256:bbb"), wanted("kept", "quay.io/x/y:1")))
	tags := NewImageStreamTags(s, fakeImages{"sha256:aaa": errRegistry})
	for _, tag := range []string{"both", "pending", "pushed"} {
		got, done, err := tags.Delete(in(t, "delete"), "s:"+tag, nil, &metav1.DeleteOptions{})
		if diff := cmp.Diff(&metav1.Status{Status: metav1.StatusSuccess}, got); err != nil || !done || diff != "" {
			t.Errorf("%s: a tag is deleted wherever it is, at once, and the answer is a plain success; got %t, %v\n%s", tag, done, err, diff)
		}
	}
	record, _ := s.Get(in(t, "get"), "s")
	if len(record.Spec.Tags) != 1 || len(record.Status.Tags) != 0 || record.Record.Generation != 3 {
		t.Errorf("what is left is the other tag; got %+v", record)
	}
	_, _, err := tags.Delete(in(t, "delete"), "s:both", nil, nil)
	refused(t, "a tag is deleted once", err, 404, "imagestreamtags")
	_, _, err = tags.Delete(in(t, "delete"), "none:x", nil, nil)
	refused(t, "a stream that is not there is told from a tag that is not", err, 404, "imagestreams")
	_, _, err = tags.Delete(in(t, "delete"), "s", nil, nil)
	refused(t, "a name without a tag is a bad request", err, 400, "")
}

func TestDeletePreconditions(t *testing.T) {
	s := newFakeStreams(stream("s", wanted("a", "quay.io/x/y:1"), wanted("b", "quay.io/x/y:1"), wanted("c", "quay.io/x/y:1")))
	tags := NewImageStreamTags(s, fakeImages{})
	record, _ := s.Get(in(t, "get"), "s")
	remove := func(tag string, p metav1.Preconditions) error {
		_, _, err := tags.Delete(in(t, "delete"), "s:"+tag, nil, &metav1.DeleteOptions{Preconditions: &p})
		return err
	}
	refused(t, "another object is a conflict", remove("a", metav1.Preconditions{UID: ptr.To[types.UID]("x")}), 409, "imagestreamtags")
	if err := remove("a", metav1.Preconditions{UID: ptr.To(uid(record, "a"))}); err != nil {
		t.Errorf("the tag's UID is met: %v", err)
	}
	if err := remove("b", metav1.Preconditions{UID: &record.UID, ResourceVersion: &record.ResourceVersion}); err != nil {
		t.Errorf("so is the stream's, and a version that is older only for the sake of other tags: %v", err)
	}
	now, _ := s.Get(in(t, "get"), "s")
	annotated("x", "y")(&now.Spec.Tags[0])
	s.put(now)
	refused(t, "a tag that has changed since is a conflict", remove("c", metav1.Preconditions{ResourceVersion: &record.ResourceVersion}), 409, "imagestreamtags")
}

func TestWrittenTagOutlivesItsImage(t *testing.T) {
	s := newFakeStreams(stream("s", got("v1", "sha256:aaa")))
	for name, failure := range map[string]error{"Gone": noImage("sha256:aaa"), "Unreadable": errRegistry} {
		t.Run(name, func(t *testing.T) {
			tags := NewImageStreamTags(s, fakeImages{"sha256:aaa": failure})
			obj, _, err := tags.Update(in(t, "update"), "s:v1", put(ocTag("s:v1", "v1", "quay.io/x/y:1")), nil, nil, false, nil)
			if err != nil || obj.(*imagev1.ImageStreamTag).Image.Name != "sha256:aaa" {
				t.Errorf("what was written is no failure for want of its image; got %+v, %v", obj, err)
			}
		})
	}
}
