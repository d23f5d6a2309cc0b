package tags

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	imagev1 "github.com/openshift/api/image/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"istag.dev/store"
)

func imageTag(name string, spec *imagev1.TagReference) *imagev1.ImageTag {
	return &imagev1.ImageTag{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace}, Spec: spec}
}

func TestCreateImageTag(t *testing.T) {
	s := newFakeStreams(stream("s", wanted("there", "quay.io/x/y:1")))
	tags := NewImageTags(s, fakeImages{})
	spec := &imagev1.TagReference{From: docker("quay.io/a/b:1"), Annotations: map[string]string{"a": "b", OriginAnnotation: "forged"}}
	obj, err := tags.Create(in(t, "create"), imageTag("n:v1", spec), nil, nil)
	if err != nil {
		t.Fatalf("a tag of a stream that is not there makes the stream: %v", err)
	}
	got := obj.(*imagev1.ImageTag)
	if got.Spec.Name != "v1" || cmp.Diff(map[string]string{"a": "b"}, got.Spec.Annotations) != "" || got.Status != nil || got.Image != nil || got.UID == "" {
		t.Errorf("a tag without a name has that of its object; got %+v", got)
	}
	cases := map[string]struct {
		reason string
		obj    *imagev1.ImageTag
		code   int32
		kind   string
		causes []string
	}{
		"NoSpec":    {"A tag cannot be created without saying what it is.", imageTag("s:new", nil), 422, "ImageTag", []string{"spec"}},
		"OtherName": {"The tag's name is half of its object's.", imageTag("s:new", &imagev1.TagReference{Name: "other"}), 422, "ImageTag", []string{"spec.name"}},
		"Exists":    {"A tag in spec is a conflict.", imageTag("s:there", &imagev1.TagReference{From: docker("a/b")}), 409, "imagetags", nil},
		"Mistake":   {"What is wrong in the tag is named as the user wrote it.", imageTag("s:new", &imagev1.TagReference{From: docker("")}), 422, "ImageTag", []string{"spec.from.name"}},
		"BadName":   {"A name that is not that of a tag is an invalid name.", imageTag("s", &imagev1.TagReference{From: docker("a/b")}), 422, "ImageTag", []string{"metadata.name"}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := tags.Create(in(t, "create"), c.obj, nil, nil)
			refused(t, c.reason, err, c.code, c.kind, c.causes...)
		})
	}
}

func TestPutImageTag(t *testing.T) {
	event := stream("s", labelled("app", "web"), wanted("v1", "quay.io/x/y:1"), got("v1", "sha256:aaa"), got("pushed", "sha256:bbb"), wanted("pending", "quay.io/x/y:1"))
	event.Annotations = map[string]string{"stream": "annotation"}
	cases := map[string]struct {
		reason  string
		name    string
		change  func(*imagev1.ImageTag)
		created bool
		code    int32
		kind    string
		causes  []string
		check   func(*imagev1.ImageTag) bool
	}{
		"Changed": {
			reason: "Sent back as it was but for spec, the tag is changed.", name: "s:v1",
			change: func(o *imagev1.ImageTag) { o.Spec.From.Name = "quay.io/x/y:2" },
			check:  func(o *imagev1.ImageTag) bool { return o.Spec.From.Name == "quay.io/x/y:2" && o.Image != nil },
		},
		"Removed": {
			reason: "A spec that is null takes the tag out of spec and keeps its history.", name: "s:v1",
			change: func(o *imagev1.ImageTag) { o.Spec = nil },
			check: func(o *imagev1.ImageTag) bool {
				return o.Spec == nil && len(o.Status.Items) == 1 && o.Image.Name == "sha256:aaa"
			},
		},
		"RemovedPending": {
			reason: "Of a tag without history nothing is left.", name: "s:pending",
			change: func(o *imagev1.ImageTag) { o.Spec = nil },
			check:  func(o *imagev1.ImageTag) bool { return o.Spec == nil && o.Status == nil },
		},
		"AddedToPushed": {
			reason: "A tag that was only pushed gets a spec.", name: "s:pushed", created: true,
			change: func(o *imagev1.ImageTag) {
				o.Spec = &imagev1.TagReference{Name: "pushed", From: docker("quay.io/x/y:2")}
			},
			check: func(o *imagev1.ImageTag) bool { return o.Spec != nil && o.Image.Name == "sha256:bbb" },
		},
		"NothingToRemove": {
			reason: "A tag that has no spec can be sent without.", name: "s:pushed", change: func(*imagev1.ImageTag) {},
			check: func(o *imagev1.ImageTag) bool { return o.Spec == nil && o.Status != nil },
		},
		"Status": {
			reason: "The history is not the client's.", name: "s:v1",
			change: func(o *imagev1.ImageTag) { o.Status.Items = nil }, code: 422, kind: "ImageTag", causes: []string{"status"},
		},
		"NoStatus": {
			reason: "Nor may it be left out, as in OpenShift.", name: "s:v1",
			change: func(o *imagev1.ImageTag) { o.Status = nil }, code: 422, kind: "ImageTag", causes: []string{"status"},
		},
		"Metadata": {
			reason: "The metadata is the stream's.", name: "s:v1",
			change: func(o *imagev1.ImageTag) { o.Annotations["new"] = "x" }, code: 422, kind: "ImageTag", causes: []string{"metadata"},
		},
		"NoOrigin": {
			reason: "What is only shown need not be sent.", name: "s:v1",
			change: func(o *imagev1.ImageTag) { delete(o.Annotations, OriginAnnotation) },
			check:  func(o *imagev1.ImageTag) bool { return o.Annotations[OriginAnnotation] != "" },
		},
		"OtherName": {
			reason: "The tag's name is half of its object's.", name: "s:v1",
			change: func(o *imagev1.ImageTag) { o.Spec.Name = "other" }, code: 422, kind: "ImageTag", causes: []string{"spec.name"},
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			s := newFakeStreams(event.DeepCopy())
			tags := NewImageTags(s, fakeImages{})
			read, err := tags.Get(in(t, "get"), c.name, nil)
			if err != nil {
				t.Fatal(err)
			}
			sent := read.DeepCopyObject().(*imagev1.ImageTag)
			c.change(sent)
			// Another tag and a label of the stream change meanwhile, which is no affair of this tag's.
			record, _ := s.Get(in(t, "get"), "s")
			labelled("app", "db")(record)
			got("sibling", "sha256:ccc")(record)
			s.put(record)

			obj, created, err := tags.Update(in(t, "update"), c.name, put(sent), nil, nil, false, nil)
			if c.code != 0 {
				refused(t, c.reason, err, c.code, c.kind, c.causes...)
				return
			}
			if err != nil || created != c.created || !c.check(obj.(*imagev1.ImageTag)) {
				t.Errorf("%s\ngot created=%t, %+v, %v", c.reason, created, obj, err)
			}
		})
	}
}

func TestPutImageTagThatIsNotThere(t *testing.T) {
	s := newFakeStreams(stream("s"))
	tags := NewImageTags(s, fakeImages{})
	spec := &imagev1.TagReference{From: docker("quay.io/x/y:1")}
	for _, name := range []string{"s:v1", "n:v1"} {
		if _, created, err := tags.Update(in(t, "update"), name, put(imageTag(name, spec.DeepCopy())), nil, nil, false, nil); err != nil || !created {
			t.Errorf("%s: a PUT makes the tag and its stream; got created=%t, %v", name, created, err)
		}
	}
	_, _, err := tags.Update(in(t, "update"), "s:v2", put(imageTag("s:v2", nil)), nil, nil, false, nil)
	refused(t, "there is nothing to take out of spec", err, 404, "imagetags")
	_, _, err = tags.Update(in(t, "update"), "m:v1", put(imageTag("m:v1", nil)), nil, nil, false, nil)
	refused(t, "nor is a stream made for that", err, 422, "ImageTag", "spec")
}

func TestDeleteImageTag(t *testing.T) {
	tags := NewImageTags(newFakeStreams(stream("s", got("v1", "sha256:aaa"))), fakeImages{})
	if _, _, err := tags.Delete(in(t, "delete"), "s:v1", nil, nil); err != nil {
		t.Error(err)
	}
	_, _, err := tags.Delete(in(t, "delete"), "s:v1", nil, nil)
	refused(t, "a tag is deleted once", err, 404, "imagetags")
}

// ago makes an event of some age.
func ago(now time.Time, age time.Duration, image string, generation int64) imagev1.TagEvent {
	return imagev1.TagEvent{Created: metav1.NewTime(now.Add(-age)), Image: image, DockerImageReference: "quay.io/x/y:1", Generation: generation}
}

func TestImageTagCells(t *testing.T) {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	const day = 24 * time.Hour
	from := func(kind, name string, more ...func(*imagev1.TagReference)) *imagev1.TagReference {
		spec := &imagev1.TagReference{From: &corev1.ObjectReference{Kind: kind, Name: name}, Generation: ptr.To[int64](2)}
		for _, m := range more {
			m(spec)
		}
		return spec
	}
	reference := func(s *imagev1.TagReference) { s.Reference = true }
	scheduled := func(s *imagev1.TagReference) { s.ImportPolicy.Scheduled = true }
	elsewhere := func(s *imagev1.TagReference) { s.From.Namespace = "a" }
	history := func(events ...imagev1.TagEvent) *imagev1.NamedTagEventList {
		return &imagev1.NamedTagEventList{Items: events}
	}
	condition := func(list *imagev1.NamedTagEventList, status corev1.ConditionStatus) *imagev1.NamedTagEventList {
		list.Conditions = []imagev1.TagEventCondition{{
			Type: imagev1.ImportSuccess, Status: status, Reason: "NotFound", LastTransitionTime: metav1.NewTime(now.Add(-time.Hour)),
		}}
		return list
	}
	cases := map[string]struct {
		reason string
		spec   *imagev1.TagReference
		status *imagev1.NamedTagEventList
		want   []any
	}{
		"Empty":       {"An empty object, as in a bookmark, has empty cells.", nil, nil, []any{"", "", nil, ""}},
		"NoFrom":      {"A tag that only carries annotations is not \"Tag\".", &imagev1.TagReference{}, nil, []any{"", "", nil, ""}},
		"BadKind":     {"A kind that is none is told.", from("Pod", "x"), nil, []any{"Tag", "InvalidRefKind", nil, ""}},
		"Docker":      {"A tag to be imported shows from where.", from(store.KindDockerImage, "quay.io/x/y:1"), nil, []any{"Tag", "quay.io/x/y:1", nil, ""}},
		"Reference":   {"A reference shows what it is.", from(store.KindDockerImage, "a/b:c", reference), nil, []any{"Ref", "a/b:c", nil, ""}},
		"Scheduled":   {"So does a scheduled import.", from(store.KindDockerImage, "a/b:c", scheduled), nil, []any{"Scheduled", "a/b:c", nil, ""}},
		"OtherStream": {"A tag of a stream is shown as one.", from(store.KindImageStreamTag, "b:c"), nil, []any{"Tag", "istag/b:c", nil, ""}},
		"OtherSpace":  {"And with its namespace.", from(store.KindImageStreamTag, "b:c", elsewhere), nil, []any{"Tag", "istag a/b:c", nil, ""}},
		"Image":       {"An image is shown by its digest.", from(store.KindImageStreamImage, "b@sha256:0"), nil, []any{"Tag", "image/sha256:0", nil, ""}},
		"BadImage":    {"An image without a stream is told.", from(store.KindImageStreamImage, "sha256:0"), nil, []any{"Tag", "InvalidRefName", nil, ""}},
		"Imported":    {"What was imported is shown by its digest, with how often it was.", from(store.KindDockerImage, "a/b:c"), history(ago(now, 2*day, "sha256:0", 2), ago(now, 3*day, "sha256:1", 1)), []any{"Tag", "image/sha256:0", int64(2), "2 days ago"}},
		"Importing":   {"A tag whose spec is newer waits.", from(store.KindDockerImage, "a/b:c"), history(ago(now, 2*day, "sha256:0", 1)), []any{"Tag", "Importing", int64(1), "2 days ago"}},
		"Failed":      {"A failure says why, and when.", from(store.KindDockerImage, "a/b:c"), condition(history(ago(now, 2*day, "sha256:0", 1)), corev1.ConditionFalse), []any{"Tag", "ImportFailed (NotFound)", int64(1), "About an hour ago"}},
		"Succeeded":   {"That an import found nothing new is no update.", from(store.KindDockerImage, "a/b:c"), condition(history(ago(now, 2*day, "sha256:0", 2)), corev1.ConditionTrue), []any{"Tag", "image/sha256:0", int64(1), "2 days ago"}},
		"Pushed":      {"Without a spec the tag was pushed.", nil, history(ago(now, 2*day, "sha256:0", 1)), []any{"Push", "image/sha256:0", int64(1), "2 days ago"}},
		"PushedOver":  {"An event newer than the spec was pushed over it.", from(store.KindDockerImage, "a/b:c"), history(ago(now, 2*day, "sha256:0", 3)), []any{"Push", "image/sha256:0", int64(1), "2 days ago"}},
		"NoDigest":    {"An event without a digest shows its pull spec.", nil, history(ago(now, 2*day, "", 1)), []any{"Push", "quay.io/x/y:1", int64(1), "2 days ago"}},
		"Tracking":    {"A tag that follows one of its own stream tracks it, whatever the generations say.", from(store.KindImageStreamTag, "other"), history(ago(now, 2*day, "sha256:0", 9)), []any{"Track", "image/sha256:0", int64(1), "2 days ago"}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			obj := &imagev1.ImageTag{Spec: c.spec, Status: c.status}
			obj.Name = "s:" + name
			if diff := cmp.Diff(append([]any{obj.Name}, c.want...), itag{}.cells(obj, now)); diff != "" {
				t.Errorf("%s\n-want +got:\n%s", c.reason, diff)
			}
		})
	}
}

func TestTables(t *testing.T) {
	s := newFakeStreams(stream("s", got("v1", "sha256:aaa")))
	istags, itags := NewImageStreamTags(s, fakeImages{}), NewImageTags(s, fakeImages{})
	list, err := istags.List(in(t, "list"), nil)
	if err != nil {
		t.Fatal(err)
	}
	table, err := istags.ConvertToTable(in(t, "list"), list, nil)
	if err != nil {
		t.Fatal(err)
	}
	var columns []string
	for _, c := range table.ColumnDefinitions {
		columns = append(columns, c.Name)
	}
	if diff := cmp.Diff([]string{"Name", "Image Reference", "Updated", "Image Name"}, columns); diff != "" || table.ColumnDefinitions[3].Priority != 1 {
		t.Errorf("the columns are OpenShift's, the last only in wide tables\n%s", diff)
	}
	cells := table.Rows[0].Cells
	if cells[0] != "s:v1" || cells[1] != "quay.io/x/y@sha256:aaa" || cells[2] == "" || cells[3] != "sha256:aaa" {
		t.Errorf("got cells %v", cells)
	}
	obj, err := itags.Get(in(t, "get"), "s:v1", nil)
	if err != nil {
		t.Fatal(err)
	}
	table, err = itags.ConvertToTable(in(t, "get"), obj, nil)
	if err != nil || len(table.ColumnDefinitions) != len(table.Rows[0].Cells) {
		t.Errorf("as many cells as columns; got %+v, %v", table, err)
	}
	for _, convert := range []func() (*metav1.Table, error){
		func() (*metav1.Table, error) { return istags.ConvertToTable(in(t, "watch"), istags.New(), nil) },
		func() (*metav1.Table, error) { return itags.ConvertToTable(in(t, "watch"), itags.New(), nil) },
	} {
		if table, err = convert(); err != nil || len(table.Rows) != 1 {
			t.Errorf("an empty object, which a bookmark is, has a row; got %+v, %v", table, err)
		}
	}
}
