package tags

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	imagev1 "github.com/openshift/api/image/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/endpoints/request"

	storev1 "istag.dev/store/v1"
)

func status(t *testing.T, err error) metav1.Status {
	t.Helper()
	s, ok := err.(apierrors.APIStatus) // Not errors.As: a wrapped one reaches clients as a 500.
	if !ok {
		t.Fatalf("want a bare StatusError, got %T: %v", err, err)
	}
	return s.Status()
}

func TestGetImageStreamTag(t *testing.T) {
	local := func(r *storev1.StreamRecord) {
		r.Spec.Tags[0].ReferencePolicy.Type = imagev1.LocalTagReferencePolicy
		r.Spec.LookupPolicy.Local = true
		r.Status.DockerImageRepository = "reg.internal:5000/shop/s"
		r.Finalizers = []string{"x/y"}
		r.OwnerReferences = []metav1.OwnerReference{{Name: "owner"}}
		r.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "m"}}
		r.Annotations = map[string]string{"stream": "annotation"}
	}
	s := newFakeStreams(stream("s", labelled("app", "web"), wanted("t", "quay.io/x/y:t", annotated("team", "tag")), got("t", "sha256:aaa"), local))
	record, _ := s.Get(in(t, "get"), "s")

	got, err := NewImageStreamTags(s, fakeImages{}).Get(in(t, "get"), "s:t", &metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	spec := record.Spec.Tags[0]
	want := &imagev1.ImageStreamTag{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: "s:t", UID: uid(record, "t"), ResourceVersion: record.ResourceVersion, CreationTimestamp: start,
			Labels:      map[string]string{"app": "web"},
			Annotations: map[string]string{"team": "tag", OriginAnnotation: `{"via":"Import","source":"quay.io/x/y:t","by":{"user":"alice"}}`},
		},
		Tag:          &spec,
		Generation:   1,
		LookupPolicy: imagev1.ImageLookupPolicy{Local: true},
		Image: imagev1.Image{
			ObjectMeta:                 metav1.ObjectMeta{Name: "sha256:aaa", Annotations: map[string]string{"size": "small", "team": "tag"}},
			DockerImageReference:       "reg.internal:5000/shop/s@sha256:aaa",
			DockerImageMetadataVersion: "1.0",
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("an ImageStreamTag shows the stream's labels, the tag's annotations, also on the image, and the pull spec by its policy; nothing else of the stream\n-want +got:\n%s", diff)
	}
}

func TestGetImageStreamTagErrors(t *testing.T) {
	s := newFakeStreams(
		stream("s", wanted("pending", "quay.io/x/y:1"), wanted("ref", "quay.io/x/y:2"), got("ref", ""), got("pruned", "sha256:gone"), got("unreadable", "sha256:bad")),
	)
	tags := NewImageStreamTags(s, fakeImages{"sha256:gone": noImage("sha256:gone"), "sha256:bad": errRegistry})
	const badName = "ImageStreamTags must be retrieved with <name>:<tag>"
	cases := map[string]struct {
		reason string
		code   int32
		kind   string
		text   string
	}{
		"s":                {"A name without a tag is a bad request, in OpenShift's words.", 400, "", badName},
		"s:t:u":            {"A name with two tags is one too.", 400, "", badName},
		"s@sha256:aaa":     {"The name of an image is not that of a tag.", 400, "", badName},
		"other:t":          {"A missing stream is a 404 of kind imagestreams: pod admission leaves such a name alone.", 404, "imagestreams", `imagestreams.image.openshift.io "other" not found`},
		"s:none":           {"A missing tag is a 404 of kind imagestreamtags: pod admission tells by it.", 404, "imagestreamtags", `imagestreamtags.image.openshift.io "s:none" not found`},
		"s:pending":        {"A tag waiting for its import is not found.", 404, "imagestreamtags", `imagestreamtags.image.openshift.io "s:pending" not found`},
		"s:ref":            {"Neither is a tag that is only a reference.", 404, "imagestreamtags", `imagestreamtags.image.openshift.io "s:ref" not found`},
		"s:pruned":         {"A tag whose image is gone says which image.", 404, "images", `images.image.openshift.io "sha256:gone" not found`},
		"s_with_under:t_1": {"A name may hold underscores.", 404, "imagestreams", `imagestreams.image.openshift.io "s_with_under" not found`},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := tags.Get(in(t, "get"), name, nil)
			got := status(t, err)
			kind := ""
			if got.Details != nil {
				kind = got.Details.Kind
			}
			if got.Code != c.code || kind != c.kind || got.Message != c.text {
				t.Errorf("%s\ngot %d %q %q", c.reason, got.Code, kind, got.Message)
			}
		})
	}
	if _, err := tags.Get(in(t, "get"), "s:unreadable", nil); err != errRegistry { //nolint:errorlint // It must be bare.
		t.Errorf("an error in reading the image goes out as it is; got %v", err)
	}
}

func TestGetImageTag(t *testing.T) {
	failed := func(r *storev1.StreamRecord) {
		r.Status.Tags = append(r.Status.Tags, imagev1.NamedTagEventList{Tag: "failed", Items: []imagev1.TagEvent{}, Conditions: []imagev1.TagEventCondition{{Type: imagev1.ImportSuccess, Status: corev1.ConditionFalse}}})
		r.Annotations = map[string]string{"stream": "annotation"}
		r.OwnerReferences = []metav1.OwnerReference{{Name: "owner"}}
		r.Finalizers = []string{"x/y"}
		r.Generation = 7
		r.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "m"}}
	}
	s := newFakeStreams(stream("s", wanted("pending", "quay.io/x/y:1"), wanted("full", "quay.io/x/y:2"), got("full", "sha256:aaa"), got("pruned", "sha256:gone"), failed))
	tags := NewImageTags(s, fakeImages{"sha256:gone": noImage("sha256:gone")})
	record, _ := s.Get(in(t, "get"), "s")
	meta := func(name string, more ...string) metav1.ObjectMeta {
		m := metav1.ObjectMeta{
			Namespace: namespace, Name: "s:" + name, UID: uid(record, name), ResourceVersion: record.ResourceVersion,
			CreationTimestamp: start, Annotations: map[string]string{"stream": "annotation"},
		}
		if len(more) > 0 {
			m.Annotations[OriginAnnotation] = more[0]
		}
		return m
	}
	origin := func(tag string) string {
		return fmt.Sprintf(`{"via":"Import","source":"quay.io/x/y:%s","by":{"user":"alice"}}`, tag)
	}
	cases := map[string]struct {
		reason string
		want   *imagev1.ImageTag
	}{
		"pending": {"A tag that is only in spec is there, without status and image.", &imagev1.ImageTag{ObjectMeta: meta("pending"), Spec: &record.Spec.Tags[0]}},
		"full": {"A tag in both shows all, and the image under the tag's pull spec.", &imagev1.ImageTag{
			ObjectMeta: meta("full", origin("full")), Spec: &record.Spec.Tags[1], Status: &record.Status.Tags[0],
			Image: &imagev1.Image{
				ObjectMeta:                 metav1.ObjectMeta{Name: "sha256:aaa", Annotations: map[string]string{"size": "small", "team": "image"}},
				DockerImageReference:       "quay.io/x/y@sha256:aaa",
				DockerImageMetadataVersion: "1.0",
			},
		}},
		"pruned": {"A tag whose image is gone is there without it.", &imagev1.ImageTag{ObjectMeta: meta("pruned", origin("pruned")), Status: &record.Status.Tags[1]}},
		"failed": {"A tag without any event has \"items\":null, as in OpenShift.", &imagev1.ImageTag{
			ObjectMeta: meta("failed"), Status: &imagev1.NamedTagEventList{Tag: "failed", Conditions: record.Status.Tags[2].Conditions},
		}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := tags.Get(in(t, "get"), "s:"+name, nil)
			if err != nil {
				t.Fatalf("%s\n%v", c.reason, err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("%s\n-want +got:\n%s", c.reason, diff)
			}
		})
	}
	for name, kind := range map[string]string{"s:none": "imagetags", "other:x": "imagestreams"} {
		if _, err := tags.Get(in(t, "get"), name, nil); status(t, err).Details.Kind != kind {
			t.Errorf("%s: want a 404 of kind %s, got %v", name, kind, err)
		}
	}
	if _, err := tags.Get(in(t, "get"), "s", nil); status(t, err).Message != "ImageTags must be retrieved with <name>:<tag>" {
		t.Errorf("a name without a tag: got %v", err)
	}
}

func TestForgedOriginIsNotShown(t *testing.T) {
	forged := stream("s", wanted("t", "quay.io/x/y:1", annotated(OriginAnnotation, "forged")), got("t", "sha256:aaa"))
	forged.Record.Origins = nil
	got, err := NewImageStreamTags(newFakeStreams(forged), fakeImages{}).Get(in(t, "get"), "s:t", nil)
	if err != nil {
		t.Fatal(err)
	}
	obj := got.(*imagev1.ImageStreamTag)
	if obj.Annotations[OriginAnnotation] != "" || obj.Image.Annotations[OriginAnnotation] != "" {
		t.Errorf("what a user wrote there is no origin; got %v and, on the image, %v", obj.Annotations, obj.Image.Annotations)
	}
}

func listed(t *testing.T, obj runtime.Object) (names []string, list metav1.ListInterface) {
	t.Helper()
	err := meta.EachListItem(obj, func(item runtime.Object) error {
		m, err := meta.Accessor(item)
		names = append(names, m.GetNamespace()+"/"+m.GetName())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	list, err = meta.ListAccessor(obj)
	if err != nil {
		t.Fatal(err)
	}
	return names, list
}

func TestList(t *testing.T) {
	elsewhere := stream("a", got("x", "sha256:bbb"))
	elsewhere.Namespace = "bazaar"
	s := newFakeStreams(
		stream("b", labelled("app", "web"), got("2", "sha256:aaa"), got("10", "sha256:aaa"), wanted("1", "quay.io/x/y:1")),
		stream("a", got("z", "sha256:aaa"), got("ref", "")),
		elsewhere,
	)
	images := fakeImages{"sha256:aaa": errRegistry}
	everywhere := request.WithNamespace(in(t, "list"), "")
	field := func(selector string) *metainternalversion.ListOptions {
		return &metainternalversion.ListOptions{FieldSelector: fields.ParseSelectorOrDie(selector)}
	}
	cases := map[string]struct {
		reason  string
		ctx     context.Context
		options *metainternalversion.ListOptions
		istags  []string
		itags   []string
	}{
		"Namespace": {
			reason: "Sorted by stream and tag; ImageStreamTags are those with an image, ImageTags all.",
			istags: []string{"shop/a:z", "shop/b:10", "shop/b:2"},
			itags:  []string{"shop/a:ref", "shop/a:z", "shop/b:1", "shop/b:10", "shop/b:2"},
		},
		"Everywhere": {
			reason: "Over all namespaces these come first.", ctx: everywhere, options: &metainternalversion.ListOptions{},
			istags: []string{"bazaar/a:x", "shop/a:z", "shop/b:10", "shop/b:2"},
			itags:  []string{"bazaar/a:x", "shop/a:ref", "shop/a:z", "shop/b:1", "shop/b:10", "shop/b:2"},
		},
		"Labels": {
			reason:  "Tags have the labels of their stream.",
			options: &metainternalversion.ListOptions{LabelSelector: labels.SelectorFromSet(labels.Set{"app": "web"})},
			istags:  []string{"shop/b:10", "shop/b:2"},
			itags:   []string{"shop/b:1", "shop/b:10", "shop/b:2"},
		},
		"Name":           {reason: "A name selects one tag.", options: field("metadata.name=b:2"), istags: []string{"shop/b:2"}, itags: []string{"shop/b:2"}},
		"NameOfPending":  {reason: "The name of a tag that is not shown selects none.", options: field("metadata.name=b:1"), itags: []string{"shop/b:1"}},
		"NotAName":       {reason: "What cannot be a name selects nothing, and is no error.", options: field("metadata.name=b")},
		"EveryNameBut":   {reason: "A selector can exclude.", options: field("metadata.name!=b:2"), istags: []string{"shop/a:z", "shop/b:10"}, itags: []string{"shop/a:ref", "shop/a:z", "shop/b:1", "shop/b:10"}},
		"TwoNames":       {reason: "Nothing has two names.", options: field("metadata.name=b:2,metadata.name=b:10")},
		"FieldNamespace": {reason: "The namespace can be selected by.", ctx: everywhere, options: field("metadata.namespace=bazaar"), istags: []string{"bazaar/a:x"}, itags: []string{"bazaar/a:x"}},
		"NotInNamespace": {reason: "The namespace can be excluded.", ctx: everywhere, options: field("metadata.namespace!=shop"), istags: []string{"bazaar/a:x"}, itags: []string{"bazaar/a:x"}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			ctx := c.ctx
			if ctx == nil {
				ctx = in(t, "list")
			}
			for want, lister := range map[*[]string]interface {
				List(context.Context, *metainternalversion.ListOptions) (runtime.Object, error)
			}{&c.istags: NewImageStreamTags(s, images), &c.itags: NewImageTags(s, images)} {
				obj, err := lister.List(ctx, c.options)
				if err != nil {
					t.Fatalf("%s\n%v", c.reason, err)
				}
				names, list := listed(t, obj)
				if diff := cmp.Diff(*want, names); diff != "" {
					t.Errorf("%s %T\n-want +got:\n%s", c.reason, lister, diff)
				}
				if list.GetResourceVersion() != s.version() {
					t.Errorf("a list has the resource version of the streams' list, %s; got %q", s.version(), list.GetResourceVersion())
				}
			}
		})
	}
}

func TestListShowsNoImages(t *testing.T) {
	s := newFakeStreams(stream("s", got("t", "sha256:aaa")))
	images := fakeImages{"sha256:aaa": errRegistry}
	istags, err := NewImageStreamTags(s, images).List(in(t, "list"), nil)
	if err != nil {
		t.Fatalf("a list of any number of tags must not read their images: %v", err)
	}
	want := imagev1.Image{ObjectMeta: metav1.ObjectMeta{Name: "sha256:aaa"}, DockerImageReference: "quay.io/x/y@sha256:aaa"}
	if diff := cmp.Diff(want, istags.(*imagev1.ImageStreamTagList).Items[0].Image); diff != "" {
		t.Errorf("a list has the name and the pull spec of images, and no more\n-want +got:\n%s", diff)
	}
	itags, err := NewImageTags(s, images).List(in(t, "list"), nil)
	if err != nil || itags.(*imagev1.ImageTagList).Items[0].Image != nil {
		t.Errorf("a list of ImageTags has no images; got %v, %v", itags, err)
	}
	empty, err := NewImageStreamTags(newFakeStreams(), images).List(in(t, "list"), nil)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(empty)
	if err != nil || string(text) != `{"metadata":{"resourceVersion":"0"},"items":[]}` {
		t.Errorf("an empty list has an empty list of items, not null; got %s, %v", text, err)
	}
}

func TestListPages(t *testing.T) {
	s := newFakeStreams(stream("a", got("1", "sha256:a"), got("2", "sha256:a"), got("3", "sha256:a")), stream("b"), stream("c", got("1", "sha256:a")))
	tags := NewImageStreamTags(s, fakeImages{})
	var names []string
	options := metainternalversion.ListOptions{Limit: 1}
	for pages := 0; ; pages++ {
		obj, err := tags.List(in(t, "list"), &options)
		if err != nil {
			t.Fatal(err)
		}
		page, list := listed(t, obj)
		names = append(names, page...)
		if list.GetRemainingItemCount() != nil {
			t.Errorf("how many streams remain is not how many tags do; got %d", *list.GetRemainingItemCount())
		}
		if options.Continue = list.GetContinue(); options.Continue == "" {
			break
		}
		if pages > 5 {
			t.Fatal("the pages do not end")
		}
	}
	if diff := cmp.Diff([]string{"shop/a:1", "shop/a:2", "shop/a:3", "shop/c:1"}, names); diff != "" {
		t.Errorf("pages of whole streams lose nothing\n-want +got:\n%s", diff)
	}
}

func TestListOptions(t *testing.T) {
	s := newFakeStreams(stream("s", got("t", "sha256:a")))
	tags := NewImageStreamTags(s, fakeImages{})
	given := metainternalversion.ListOptions{
		ResourceVersion: "1", ResourceVersionMatch: metav1.ResourceVersionMatchExact, Limit: 7,
		FieldSelector: fields.ParseSelectorOrDie("metadata.name=s:t,metadata.namespace=shop"),
	}
	if _, err := tags.List(in(t, "list"), &given); err != nil {
		t.Fatal(err)
	}
	want := given
	want.FieldSelector = nil
	got := s.listed
	selector := got.FieldSelector.String()
	got.FieldSelector = nil
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("every option goes on to the streams\n-want +got:\n%s", diff)
	}
	if selector != "metadata.name=s,metadata.namespace=shop" {
		t.Errorf("one tag's name narrows the list to its stream; got %q", selector)
	}
	if given.FieldSelector.String() != "metadata.name=s:t,metadata.namespace=shop" {
		t.Error("the caller's options were changed")
	}
	for _, selector := range []string{"status.phase=x", "metadata.uid!=x"} {
		_, err := tags.List(in(t, "list"), &metainternalversion.ListOptions{FieldSelector: fields.ParseSelectorOrDie(selector)})
		if got := status(t, err); got.Code != 400 {
			t.Errorf("%s: an unknown field must be a 400, since ignoring it would select everything; got %v", selector, err)
		}
	}
}
