package crdstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	imagev1 "github.com/openshift/api/image/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/storage"

	storev1 "istag.dev/store/v1"
)

// TestStorage holds the promises of storage.Interface, against a real API server.
func TestStorage(t *testing.T) {
	cases := map[string]func(*testing.T, *backing){
		"what is created is got as it was given":                               testRoundTrip,
		"an image is stored by its digest":                                     testImage,
		"a name that is taken is refused":                                      testExists,
		"what cannot be there is not asked for":                                testNotFound,
		"no name leads to another object":                                      testForeignNames,
		"a namespace that is not there is named":                               testNoNamespace,
		"a read is at least as new as asked":                                   testGetVersion,
		"a list is cut into pages":                                             testPages,
		"a list keeps its place in time":                                       testListVersion,
		"a list selects by label, name and field":                              testListSelection,
		"a page that is filtered here may be short and loses nothing":          testShortPages,
		"what is remembered of a list is never outdated":                       testRemembered,
		"an update that changes nothing writes nothing":                        testNoOp,
		"an update that lost a race is made again":                             testRace,
		"an outdated suggestion is not the last word":                          testSuggestion,
		"an update creates what is not there, if it may":                       testUpdateCreates,
		"preconditions hold":                                                   testPreconditions,
		"an object goes when it is deleted":                                    testDelete,
		"finalizers are waited for":                                            testFinalizers,
		"a deletion passes on what is to become of dependents":                 testPropagation,
		"of 200 parallel updates none is lost":                                 testParallel,
		"an update whose time is over says so":                                 testUpdateTimeout,
		"what is refused although it was valid is no fault of the user's":      testRefused,
		"the current version and the number of objects are those of the store": testFigures,
	}
	for name, test := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, realBacking(t))
		})
	}
}

func testRoundTrip(t *testing.T, b *backing) {
	owned := metav1.ManagedFieldsEntry{
		Manager: "oc", Operation: metav1.ManagedFieldsOperationApply, APIVersion: "image.openshift.io/v1", FieldsType: "FieldsV1",
		FieldsV1: metav1.NewFieldsV1(`{"f:spec":{"f:tags":{"k:{\"name\":\"1\"}":{}}}}`),
		Time:     &metav1.Time{Time: time.Now().Truncate(time.Second)},
	}
	given := b.stream("a_b", label("x", "y"), func(r *storev1.StreamRecord) {
		r.UID, r.CreationTimestamp, r.Generation = "mine", metav1.NewTime(time.Unix(1, 0)), 7
		r.ManagedFields = []metav1.ManagedFieldsEntry{owned}
		r.Record.Generation = 3
	})
	before, created := given.DeepCopy(), &storev1.StreamRecord{}
	if err := b.streams.Create(t.Context(), b.key("a_b"), given, created, 0); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, given); diff != "" {
		t.Errorf("the given object changed (-before +after):\n%s", diff)
	}
	if diff := cmp.Diff(created, b.get(t, "a_b")); diff != "" {
		t.Errorf("got another object than was created (-created +got):\n%s", diff)
	}
	want := given.DeepCopy()
	want.Generation = 3
	want.Status.Tags[0].Items = []imagev1.TagEvent{}
	want.UID, want.ResourceVersion, want.CreationTimestamp = created.UID, created.ResourceVersion, created.CreationTimestamp
	if diff := cmp.Diff(want, created); diff != "" {
		t.Errorf("created (-want +got):\n%s", diff)
	}
	record := b.record(t, "a--b")
	if record.UID != created.UID || record.ResourceVersion != created.ResourceVersion || created.UID == "mine" || created.CreationTimestamp.Unix() == 1 {
		t.Errorf("UID %q, version %q, created %s: want the record's, %q, %q, %s", created.UID, created.ResourceVersion, created.CreationTimestamp,
			record.UID, record.ResourceVersion, record.CreationTimestamp)
	}
	if diff := cmp.Diff([]metav1.ManagedFieldsEntry{owned}, record.Record.ManagedFields); diff != "" {
		t.Errorf("managed fields of the stream in its record (-want +got):\n%s", diff)
	}
	if len(record.ManagedFields) != 1 || record.ManagedFields[0].Manager != fieldManager {
		t.Errorf("managed fields of the record itself are %v, want those of %q alone", record.ManagedFields, fieldManager)
	}
	updated, err := b.update(t.Context(), "a_b", func(r *storev1.StreamRecord) { r.Record.Generation = 4; r.ManagedFields = nil })
	if err != nil || updated.Generation != 4 || updated.ManagedFields != nil {
		t.Errorf("after an update: %v, generation %d, managed fields %v", err, updated.Generation, updated.ManagedFields)
	}
}

func testImage(t *testing.T, b *backing) {
	digest := "sha256:" + strings.Repeat("0", 40) + b.namespace
	given := &storev1.ImageRecord{ObjectMeta: metav1.ObjectMeta{Name: digest, Labels: map[string]string{"x": b.namespace}, Annotations: map[string]string{"a": "b"}}}
	given.Image = imagev1.Image{
		ObjectMeta:           metav1.ObjectMeta{Name: "other", Labels: map[string]string{"not": "kept"}},
		DockerImageReference: "quay.io/a/b@" + digest,
		DockerImageMetadata:  runtime.RawExtension{Raw: []byte(`{"Config":{"Cmd":["sh"]},"Size":7}`)},
	}
	created, got := &storev1.ImageRecord{}, &storev1.ImageRecord{}
	if err := b.images.Create(t.Context(), "/images/"+digest, given, created, 0); err != nil {
		t.Fatal(err)
	}
	if err := b.images.Get(t.Context(), "/images/"+digest, storage.GetOptions{}, got); err != nil {
		t.Fatal(err)
	}
	want := given.DeepCopy()
	want.Image.ObjectMeta = metav1.ObjectMeta{Name: digest}
	want.UID, want.ResourceVersion, want.CreationTimestamp = created.UID, created.ResourceVersion, created.CreationTimestamp
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("image (-want +got):\n%s", diff)
	}
	list := &storev1.ImageRecordList{}
	selector := labels.SelectorFromSet(labels.Set{"x": b.namespace})
	if err := b.images.GetList(t.Context(), "/images", storage.ListOptions{Recursive: true, Predicate: predicate(selector, nil)}, list); err != nil {
		t.Fatal(err)
	}
	if len(list.Items) != 1 || list.Items[0].Name != digest {
		t.Errorf("list has %d images", len(list.Items))
	}
	err := b.images.Get(t.Context(), "/images/sha256-"+digest[len("sha256:"):], storage.GetOptions{}, got)
	if !storage.IsNotFound(err) {
		t.Errorf("the record's name is no image's, but gave %v", err)
	}
}

func testExists(t *testing.T, b *backing) {
	b.create(t, "a")
	err := b.streams.Create(t.Context(), b.key("a"), b.stream("a"), &storev1.StreamRecord{}, 0)
	if !storage.IsExist(err) {
		t.Errorf("got %v", err)
	}
	versioned := b.stream("b", func(r *storev1.StreamRecord) { r.ResourceVersion = "7" })
	if err := b.streams.Create(t.Context(), b.key("b"), versioned, &storev1.StreamRecord{}, 0); !apierrors.IsBadRequest(err) {
		t.Errorf("an object with a resource version: got %v", err)
	}
}

func testNotFound(t *testing.T, b *backing) {
	for _, name := range []string{"a", "A", strings.Repeat("a", 254), strings.Repeat("a", 250) + "_b_b"} {
		err := b.streams.Get(t.Context(), b.key(name), storage.GetOptions{}, &storev1.StreamRecord{})
		if !storage.IsNotFound(err) {
			t.Errorf("%q: got %v", name, err)
		}
	}
	if asked := b.requests.all.Load(); asked != 1 {
		t.Errorf("%d requests for one name that is possible", asked)
	}
	out := b.stream("left")
	if err := b.streams.Get(t.Context(), b.key("a"), storage.GetOptions{IgnoreNotFound: true}, out); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(&storev1.StreamRecord{}, out); diff != "" {
		t.Errorf("what is not there is not empty:\n%s", diff)
	}
	long := strings.Repeat("a", 250) + "_b_b"
	err := b.streams.Create(t.Context(), b.key(long), b.stream(long), nil, 0)
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "metadata.name") || !strings.Contains(err.Error(), "ImageStream.image.openshift.io") {
		t.Errorf("creating a name too long to store: got %v", err)
	}
}

func testForeignNames(t *testing.T, b *backing) {
	b.create(t, "a_b")
	if err := b.streams.Get(t.Context(), b.key("a--b"), storage.GetOptions{}, &storev1.StreamRecord{}); !storage.IsNotFound(err) {
		t.Errorf("get: %v", err)
	}
	list := b.list(t, "a--b", storage.ListOptions{Predicate: predicate(nil, fields.OneTermEqualSelector("metadata.name", "a--b"))})
	if len(list.Items) != 0 {
		t.Errorf("list has %q", namesOf(list))
	}
}

func testNoNamespace(t *testing.T, b *backing) {
	err := b.streams.Create(t.Context(), "/imagestreams/missing/a", b.stream("a", func(r *storev1.StreamRecord) { r.Namespace = "missing" }), nil, 0)
	if !apierrors.IsNotFound(err) || err.Error() != `namespaces "missing" not found` {
		t.Errorf("got %v", err)
	}
}

func testGetVersion(t *testing.T, b *backing) {
	created := b.create(t, "a")
	got := &storev1.StreamRecord{}
	if err := b.streams.Get(t.Context(), b.key("a"), storage.GetOptions{ResourceVersion: created.ResourceVersion}, got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(created, got); diff != "" {
		t.Errorf("(-created +got):\n%s", diff)
	}
	err := b.streams.Get(t.Context(), b.key("a"), storage.GetOptions{ResourceVersion: "999999999"}, got)
	if !storage.IsTooLargeResourceVersion(err) {
		t.Errorf("a version that is not there yet: got %v", err)
	}
}

func testPages(t *testing.T, b *backing) {
	for i := range 5 {
		b.create(t, fmt.Sprintf("s_%d", i))
	}
	var pages [][]string
	var remaining []int64
	opts := storage.ListOptions{Recursive: true, Predicate: predicate(nil, nil)}
	opts.Predicate.Limit = 2
	for {
		list := b.list(t, "", opts)
		pages = append(pages, namesOf(list))
		if list.RemainingItemCount != nil {
			remaining = append(remaining, *list.RemainingItemCount)
		}
		if opts.Predicate.Continue = list.Continue; list.Continue == "" {
			break
		}
	}
	if diff := cmp.Diff([][]string{{"s_0", "s_1"}, {"s_2", "s_3"}, {"s_4"}}, pages); diff != "" {
		t.Errorf("pages (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]int64{3, 1}, remaining); diff != "" {
		t.Errorf("remaining (-want +got):\n%s", diff)
	}
	opts.Predicate.Continue = "nonsense"
	if err := b.streams.GetList(t.Context(), b.key(""), opts, &storev1.StreamRecordList{}); !apierrors.IsBadRequest(err) {
		t.Errorf("a token that is none: got %v", err)
	}
}

func testListVersion(t *testing.T, b *backing) {
	b.create(t, "a")
	then := b.list(t, "", storage.ListOptions{Recursive: true, Predicate: predicate(nil, nil)})
	last := b.create(t, "b")
	exact := storage.ListOptions{Recursive: true, ResourceVersion: then.ResourceVersion, ResourceVersionMatch: metav1.ResourceVersionMatchExact, Predicate: predicate(nil, nil)}
	if got := b.list(t, "", exact); !slices.Equal(namesOf(got), []string{"a"}) || got.ResourceVersion != then.ResourceVersion {
		t.Errorf("exactly then: %q at %s, want %s", namesOf(got), got.ResourceVersion, then.ResourceVersion)
	}
	young := storage.ListOptions{Recursive: true, ResourceVersion: last.ResourceVersion, ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan, Predicate: predicate(nil, nil)}
	if got := b.list(t, "", young); !slices.Equal(namesOf(got), []string{"a", "b"}) {
		t.Errorf("not older than the last: %q", namesOf(got))
	}
}

func testListSelection(t *testing.T, b *backing) {
	b.create(t, "a", label("x", "1"))
	b.create(t, "b_c", label("x", "1"), repository("r"))
	b.create(t, "d", repository("r"))
	cases := map[string]struct {
		name  string
		label string
		field string
		want  []string
	}{
		"everything":         {want: []string{"a", "b_c", "d"}},
		"by label":           {label: "x=1", want: []string{"a", "b_c"}},
		"by the key's name":  {name: "b_c", want: []string{"b_c"}},
		"by name, not equal": {field: "metadata.name!=b_c", want: []string{"a", "d"}},
		"by field":           {field: "spec.dockerImageRepository=r", want: []string{"b_c", "d"}},
		"by field and label": {field: "spec.dockerImageRepository=r", label: "x", want: []string{"b_c"}},
		"none":               {field: "spec.dockerImageRepository=none"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			l, err := labels.Parse(tc.label)
			if err != nil {
				t.Fatal(err)
			}
			list := b.list(t, tc.name, storage.ListOptions{Recursive: tc.name == "", Predicate: predicate(l, fields.ParseSelectorOrDie(tc.field))})
			if diff := cmp.Diff(tc.want, namesOf(list)); diff != "" || list.Items == nil || list.ResourceVersion == "" {
				t.Errorf("at %q (-want +got):\n%s", list.ResourceVersion, diff)
			}
		})
	}
}

func testShortPages(t *testing.T, b *backing) {
	for i := range 7 {
		b.create(t, fmt.Sprint("s", i), repository([]string{"even", "odd"}[i%2]))
	}
	opts := storage.ListOptions{Recursive: true, Predicate: predicate(nil, fields.ParseSelectorOrDie("spec.dockerImageRepository=odd"))}
	opts.Predicate.Limit = 3
	var all []string
	for {
		list := b.list(t, "", opts)
		all = append(all, namesOf(list)...)
		if list.RemainingItemCount != nil {
			t.Errorf("how many remain that match is not known, but %d are said to", *list.RemainingItemCount)
		}
		if opts.Predicate.Continue = list.Continue; list.Continue == "" {
			break
		}
	}
	if diff := cmp.Diff([]string{"s1", "s3", "s5"}, all); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func testNoOp(t *testing.T, b *backing) {
	created := b.create(t, "a_b")
	before := b.requests.all.Load()
	updated, err := b.update(t.Context(), "a_b", func(r *storev1.StreamRecord) {
		r.Status.Tags[0].Items = nil // means the same as none
		r.Kind = "ImageStream"
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(created, updated); diff != "" {
		t.Errorf("(-created +updated):\n%s", diff)
	}
	if asked := b.requests.all.Load() - before; asked != 1 {
		t.Errorf("%d requests, want one read", asked)
	}
}

func testRace(t *testing.T, b *backing) {
	b.create(t, "a")
	raced := 0
	updated, err := b.update(t.Context(), "a", func(r *storev1.StreamRecord) {
		if raced++; raced < 4 { // another process writes meanwhile
			record := b.record(t, "a")
			label(fmt.Sprint("other", raced), "")(record)
			if err := b.client.Put().Namespace(b.namespace).Resource("streamrecords").Name("a").Body(record).Do(t.Context()).Error(); err != nil {
				t.Error(err)
			}
		}
		label("mine", "")(r)
	})
	want := map[string]string{"mine": "", "other1": "", "other2": "", "other3": ""}
	if diff := cmp.Diff(want, updated.Labels); err != nil || diff != "" {
		t.Errorf("%v, labels (-want +got):\n%s", err, diff)
	}
}

func testSuggestion(t *testing.T, b *backing) {
	outdated := b.create(t, "a")
	if _, err := b.update(t.Context(), "a", label("x", "1")); err != nil {
		t.Fatal(err)
	}
	refusal := errors.New("x is missing")
	cases := map[string]storage.UpdateFunc{
		"a refusal": storage.SimpleUpdate(func(obj runtime.Object) (runtime.Object, error) {
			if r := obj.(*storev1.StreamRecord); r.Labels["x"] != "1" {
				return nil, refusal
			}
			return obj, nil
		}),
		"a write":   editing(label("y", "1")),
		"no change": editing(func(*storev1.StreamRecord) {}),
	}
	for name, update := range cases {
		t.Run(name, func(t *testing.T) {
			out := &storev1.StreamRecord{}
			if err := b.streams.GuaranteedUpdate(t.Context(), b.key("a"), out, false, nil, update, outdated); err != nil {
				t.Fatal(err)
			}
			if out.Labels["x"] != "1" {
				t.Errorf("labels are %v", out.Labels)
			}
		})
	}
	latest, before := b.get(t, "a"), b.requests.all.Load()
	if err := b.streams.GuaranteedUpdate(t.Context(), b.key("a"), &storev1.StreamRecord{}, false, nil, editing(label("z", "1")), latest); err != nil {
		t.Fatal(err)
	}
	if asked := b.requests.all.Load() - before; asked != 1 {
		t.Errorf("%d requests with a suggestion that holds, want the write alone", asked)
	}
}

func testUpdateCreates(t *testing.T, b *backing) {
	if _, err := b.update(t.Context(), "a", label("x", "1")); !storage.IsNotFound(err) {
		t.Errorf("if it may not: got %v", err)
	}
	out := &storev1.StreamRecord{}
	err := b.streams.GuaranteedUpdate(t.Context(), b.key("a"), out, true, nil, func(obj runtime.Object, meta storage.ResponseMeta) (runtime.Object, *uint64, error) {
		if obj.(*storev1.StreamRecord).Name != "" || meta.ResourceVersion != 0 {
			t.Errorf("what is not there is not empty: %v", obj)
		}
		return b.stream("a", label("x", "1")), nil, nil
	}, nil)
	if err != nil || out.UID == "" || out.Labels["x"] != "1" {
		t.Errorf("got %v, %v", err, out)
	}
}

func testPreconditions(t *testing.T, b *backing) {
	created := b.create(t, "a")
	other, outdated := types.UID("other"), created.ResourceVersion
	if _, err := b.update(t.Context(), "a", label("x", "1")); err != nil {
		t.Fatal(err)
	}
	for name, preconditions := range map[string]*storage.Preconditions{
		"of another UID":     {UID: &other},
		"of another version": {ResourceVersion: &outdated},
	} {
		t.Run(name, func(t *testing.T) {
			err := b.streams.GuaranteedUpdate(t.Context(), b.key("a"), &storev1.StreamRecord{}, false, preconditions, editing(label("y", "1")), nil)
			if !storage.IsInvalidObj(err) {
				t.Errorf("update: got %v", err)
			}
			err = b.streams.Delete(t.Context(), b.key("a"), &storev1.StreamRecord{}, preconditions, storage.ValidateAllObjectFunc, created, storage.DeleteOptions{})
			if !storage.IsInvalidObj(err) {
				t.Errorf("delete: got %v", err)
			}
		})
	}
	if _, changed := b.get(t, "a").Labels["y"]; changed {
		t.Error("the object changed")
	}
}

func testDelete(t *testing.T, b *backing) {
	created := b.create(t, "a_b")
	refusal := errors.New("not yet")
	remove := func(validate storage.ValidateObjectFunc) (*storev1.StreamRecord, error) {
		out := &storev1.StreamRecord{}
		err := b.streams.Delete(t.Context(), b.key("a_b"), out, nil, validate, nil, storage.DeleteOptions{})
		return out, err
	}
	if _, err := remove(func(context.Context, runtime.Object) error { return refusal }); !errors.Is(err, refusal) {
		t.Errorf("a validation that fails: got %v", err)
	}
	raced := false
	deleted, err := remove(func(context.Context, runtime.Object) error {
		if !raced { // another process writes meanwhile
			raced = true
			record := b.record(t, "a--b")
			label("x", "1")(record)
			return b.client.Put().Namespace(b.namespace).Resource("streamrecords").Name("a--b").Body(record).Do(t.Context()).Error()
		}
		return nil
	})
	if err != nil || deleted.UID != created.UID || deleted.Labels["x"] != "1" {
		t.Errorf("got %v, %v", err, deleted)
	}
	if _, err := remove(storage.ValidateAllObjectFunc); !storage.IsNotFound(err) {
		t.Errorf("once more: got %v", err)
	}
}

func testParallel(t *testing.T, b *backing) {
	const writers = 200
	b.create(t, "a")
	before, start := b.requests.all.Load(), time.Now()
	var group sync.WaitGroup
	for i := range writers {
		group.Go(func() {
			if _, err := b.update(t.Context(), "a", label(fmt.Sprint("writer", i), "")); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	took, asked := time.Since(start), b.requests.all.Load()-before
	if kept := len(b.get(t, "a").Labels); kept != writers {
		t.Errorf("%d of %d updates were kept", kept, writers)
	}
	if conflicts := b.requests.conflicts.Load(); conflicts != 0 {
		t.Errorf("%d conflicts between writers of one process", conflicts)
	}
	if asked > 2*writers {
		t.Errorf("%d requests for %d updates", asked, writers)
	}
	if len(b.streams.locks.all) != 0 {
		t.Errorf("%d locks are left", len(b.streams.locks.all))
	}
	t.Logf("%d updates in %s with %d requests", writers, took.Round(time.Millisecond), asked)
}

func testUpdateTimeout(t *testing.T, b *backing) {
	b.create(t, "a")
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	out := &storev1.StreamRecord{}
	attempts := 0
	err := b.streams.GuaranteedUpdate(ctx, b.key("a"), out, false, nil, editing(func(r *storev1.StreamRecord) {
		attempts++ // another process is always faster
		record := b.record(t, "a")
		label("other", strconv.Itoa(attempts))(record)
		if err := b.client.Put().Namespace(b.namespace).Resource("streamrecords").Name("a").Body(record).Do(t.Context()).Error(); err != nil {
			t.Error(err)
		}
		label("mine", "")(r)
	}), nil)
	if !apierrors.IsTimeout(err) || out.Name != "" || attempts < 2 {
		t.Errorf("after %d attempts: got %v, %q", attempts, err, out.Name)
	}
}

func testRefused(t *testing.T, b *backing) {
	bad := b.stream("a_b", func(r *storev1.StreamRecord) {
		r.Labels = map[string]string{"no": "such value!"}
	})
	err := b.streams.Create(t.Context(), b.key("a_b"), bad, nil, 0)
	if !apierrors.IsInternalError(err) || !strings.Contains(err.Error(), `ImageStream "a_b"`) || !strings.Contains(err.Error(), "metadata.labels") {
		t.Errorf("got %v", err)
	}
	for _, internal := range []string{"StreamRecord", "streamrecords", "a--b"} {
		if err != nil && strings.Contains(err.Error(), internal) {
			t.Errorf("%q is in %q", internal, err)
		}
	}
}

func testFigures(t *testing.T, b *backing) {
	created := b.create(t, "a")
	b.create(t, "b")
	version, err := b.streams.GetCurrentResourceVersion(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if first, _ := b.streams.Versioner().ParseResourceVersion(created.ResourceVersion); version <= first {
		t.Errorf("the current version is %d, that of an older object %d", version, first)
	}
	if stats, err := b.streams.Stats(t.Context()); err != nil || stats.ObjectCount < 2 {
		t.Errorf("got %v, %v", stats, err)
	}
	if err := b.streams.ReadinessCheck(); err != nil {
		t.Error(err)
	}
}

// predicate is one as genericregistry.Store makes it for streams.
func predicate(l labels.Selector, f fields.Selector) storage.SelectionPredicate {
	if l == nil {
		l = labels.Everything()
	}
	if f == nil {
		f = fields.Everything()
	}
	return storage.SelectionPredicate{Label: l, Field: f, GetAttrs: func(obj runtime.Object) (labels.Set, fields.Set, error) {
		r, ok := obj.(*storev1.StreamRecord)
		if !ok {
			return storage.DefaultClusterScopedAttr(obj)
		}
		return r.Labels, fields.Set{"metadata.name": r.Name, "metadata.namespace": r.Namespace, "spec.dockerImageRepository": r.Spec.DockerImageRepository}, nil
	}}
}

func (b *backing) list(t *testing.T, name string, opts storage.ListOptions) *storev1.StreamRecordList {
	t.Helper()
	list := &storev1.StreamRecordList{}
	if err := b.streams.GetList(t.Context(), b.key(name), opts, list); err != nil {
		t.Fatal(err)
	}
	return list
}

func namesOf(list *storev1.StreamRecordList) []string {
	var all []string
	for i := range list.Items {
		all = append(all, list.Items[i].Name)
	}
	return all
}

// testRemembered lists again and again what other clients change, and compares with a storage that has
// never listed anything.
func testRemembered(t *testing.T, b *backing) {
	for i := range 2 * maxUnknown {
		b.create(t, fmt.Sprintf("s%02d", i), label("x", "y"))
	}
	options := storage.ListOptions{Predicate: storage.Everything, Recursive: true}
	forgetful := func() *storev1.StreamRecordList {
		fresh := *b
		fresh.streams = open(t, streams, b.client, "/imagestreams")
		return fresh.list(t, "", options)
	}
	relabel := func(from, to int, value string) {
		for i := from; i < to; i++ {
			b.change(t, fmt.Sprintf("s%02d", i), label("x", value))
		}
	}
	steps := []struct {
		what string
		do   func()
	}{
		{"nothing is remembered yet", func() {}},
		{"nothing changed", func() {}},
		{"few changed", func() { relabel(0, 2, "few") }},
		{"many changed", func() { relabel(0, maxUnknown+1, "many") }},
		{"one went", func() { b.remove(t, "s03") }},
		{"one came back as another", func() { b.create(t, "s03") }},
		{"one came", func() { b.create(t, "new") }},
	}
	for _, step := range steps {
		step.do()
		got, want := b.list(t, "", options), forgetful()
		got.ListMeta, want.ListMeta = metav1.ListMeta{}, metav1.ListMeta{}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", step.what, diff)
		}
	}
}
