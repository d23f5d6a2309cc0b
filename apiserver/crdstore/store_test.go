package crdstore

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"

	imagev1 "github.com/openshift/api/image/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/generic"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/names"

	storev1 "istag.dev/store/v1"
)

// strategy is the least that genericregistry.Store asks for.
type strategy struct {
	runtime.ObjectTyper
	names.NameGenerator
}

func (strategy) NamespaceScoped() bool                                            { return true }
func (strategy) AllowCreateOnUpdate(context.Context) bool                         { return false }
func (strategy) AllowUnconditionalUpdate(context.Context) bool                    { return true }
func (strategy) PrepareForCreate(context.Context, runtime.Object)                 {}
func (strategy) PrepareForUpdate(context.Context, runtime.Object, runtime.Object) {}
func (strategy) Canonicalize(runtime.Object)                                      {}
func (strategy) Validate(context.Context, runtime.Object) field.ErrorList         { return nil }
func (strategy) WarningsOnCreate(context.Context, runtime.Object) []string        { return nil }
func (strategy) WarningsOnUpdate(context.Context, runtime.Object, runtime.Object) []string {
	return nil
}
func (strategy) ValidateUpdate(context.Context, runtime.Object, runtime.Object) field.ErrorList {
	return nil
}

func (b *backing) registry(t *testing.T) (*genericregistry.Store, context.Context) {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := storev1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	resource := schema.GroupResource{Group: imagev1.GroupName, Resource: "imagestreams"}
	s := strategy{scheme, names.SimpleNameGenerator}
	registry := &genericregistry.Store{
		NewFunc:                   func() runtime.Object { return &storev1.StreamRecord{} },
		NewListFunc:               func() runtime.Object { return &storev1.StreamRecordList{} },
		DefaultQualifiedResource:  resource,
		SingularQualifiedResource: schema.GroupResource{Group: imagev1.GroupName, Resource: "imagestream"},
		CreateStrategy:            s,
		UpdateStrategy:            s,
		DeleteStrategy:            s,
		TableConvertor:            rest.NewDefaultTableConvertor(resource),
		ShouldDeleteDuringUpdate:  func(context.Context, string, runtime.Object, runtime.Object) bool { return false },
	}
	if err := registry.CompleteWithOptions(&generic.StoreOptions{RESTOptions: Streams(b.client, testCodec(t))}); err != nil {
		t.Fatal(err)
	}
	return registry, request.WithNamespace(t.Context(), b.namespace)
}

// TestRegistry stands genericregistry.Store on the storage, as the API server does.
func TestRegistry(t *testing.T) {
	b := realBacking(t)
	registry, ctx := b.registry(t)
	create := func(r *storev1.StreamRecord, dryRun ...string) (*storev1.StreamRecord, error) {
		obj, err := registry.Create(ctx, r, rest.ValidateAllObjectFunc, &metav1.CreateOptions{DryRun: dryRun})
		if err != nil {
			return nil, err
		}
		return obj.(*storev1.StreamRecord), nil
	}
	update := func(r *storev1.StreamRecord, dryRun ...string) (*storev1.StreamRecord, error) {
		obj, _, err := registry.Update(ctx, r.Name, rest.DefaultUpdatedObjectInfo(r), rest.ValidateAllObjectFunc, rest.ValidateAllObjectUpdateFunc, false,
			&metav1.UpdateOptions{DryRun: dryRun})
		if err != nil {
			return nil, err
		}
		return obj.(*storev1.StreamRecord), nil
	}
	t.Run("errors speak of streams", func(t *testing.T) {
		made, err := create(b.stream("a_b"))
		if err != nil {
			t.Fatal(err)
		}
		_, again := create(b.stream("a_b"))
		_, missing := registry.Get(ctx, "c_d", &metav1.GetOptions{})
		stale := made.DeepCopy()
		stale.ResourceVersion = "1"
		_, outdated := update(stale)
		for want, err := range map[string]error{
			`imagestreams.image.openshift.io "a_b" already exists`:                            again,
			`imagestreams.image.openshift.io "c_d" not found`:                                 missing,
			`Operation cannot be fulfilled on imagestreams.image.openshift.io "a_b": the obj`: outdated,
		} {
			if err == nil || !strings.HasPrefix(err.Error(), want) {
				t.Errorf("got %v, want %q", err, want)
			}
		}
	})
	t.Run("a generated name may hold an underscore", func(t *testing.T) {
		made, err := create(b.stream("", func(r *storev1.StreamRecord) { r.GenerateName = "gen_x_" }))
		if err != nil || made.GenerateName != "gen_x_" || !strings.HasPrefix(made.Name, "gen_x_") {
			t.Errorf("got %v, %v", made, err)
		}
	})
	t.Run("a dry run changes nothing", func(t *testing.T) {
		if _, err := create(b.stream("dry"), metav1.DryRunAll); err != nil {
			t.Error(err)
		}
		before := b.get(t, "a_b")
		changed := before.DeepCopy()
		label("x", "1")(changed)
		if got, err := update(changed, metav1.DryRunAll); err != nil || got.Labels["x"] != "1" {
			t.Errorf("got %v, %v", got, err)
		}
		if _, _, err := registry.Delete(ctx, "a_b", rest.ValidateAllObjectFunc, &metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}}); err != nil {
			t.Error(err)
		}
		if after := b.get(t, "a_b"); after.ResourceVersion != before.ResourceVersion {
			t.Error("the stream changed")
		}
		if _, err := registry.Get(ctx, "dry", &metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Errorf("the new one is there: %v", err)
		}
	})
	t.Run("finalizers", func(t *testing.T) {
		if _, err := create(b.stream("final_1", func(r *storev1.StreamRecord) { r.Finalizers = []string{finalizer} })); err != nil {
			t.Fatal(err)
		}
		if _, gone, err := registry.Delete(ctx, "final_1", rest.ValidateAllObjectFunc, &metav1.DeleteOptions{}); err != nil || gone {
			t.Fatalf("gone %t, %v", gone, err)
		}
		left := b.get(t, "final_1")
		if left.DeletionTimestamp == nil {
			t.Error("its deletion has no time")
		}
		left.Finalizers = nil
		if _, err := update(left); err != nil {
			t.Error(err)
		}
		if _, err := registry.Get(ctx, "final_1", &metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Errorf("it is still there: %v", err)
		}
	})
	t.Run("dependents are orphaned by the controller that sees the record", func(t *testing.T) {
		if _, err := create(b.stream("owner")); err != nil {
			t.Fatal(err)
		}
		orphan := metav1.DeletePropagationOrphan
		if _, gone, err := registry.Delete(ctx, "owner", rest.ValidateAllObjectFunc, &metav1.DeleteOptions{PropagationPolicy: &orphan}); err != nil || gone {
			t.Fatalf("gone %t, %v", gone, err)
		}
		if got := b.record(t, "owner"); got.DeletionTimestamp == nil || len(got.Finalizers) != 1 || got.Finalizers[0] != metav1.FinalizerOrphanDependents {
			t.Errorf("the record has %v", got.ObjectMeta)
		}
	})
	t.Run("a collection is deleted", func(t *testing.T) {
		_, err := registry.DeleteCollection(ctx, rest.ValidateAllObjectFunc, &metav1.DeleteOptions{}, &metainternalversion.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		list := b.list(t, "", storage.ListOptions{Recursive: true, Predicate: predicate(nil, nil)})
		if len(list.Items) != 1 || list.Items[0].Name != "owner" { // which waits for its finalizer
			t.Errorf("%q are left", namesOf(list))
		}
	})
}

// TestExpired makes etcd forget, which clients must be told in the way that makes them list again.
func TestExpired(t *testing.T) {
	b := realBacking(t)
	latest := b.create(t, "a").ResourceVersion
	compact(t, latest)
	opts := storage.ListOptions{Recursive: true, ResourceVersion: "1", ResourceVersionMatch: metav1.ResourceVersionMatchExact, Predicate: predicate(nil, nil)}
	if err := b.streams.GetList(t.Context(), b.key(""), opts, &storev1.StreamRecordList{}); !apierrors.IsResourceExpired(err) {
		t.Errorf("a list: got %v", err)
	}
	opts.ResourceVersionMatch, opts.Predicate.Field = "", fields.ParseSelectorOrDie("spec.dockerImageRepository=r")
	if _, err := b.streams.Watch(t.Context(), b.key(""), opts); !apierrors.IsResourceExpired(err) {
		t.Errorf("a watch that must know what matched: got %v", err)
	}
}

// compact makes etcd forget all versions before one.
func compact(t *testing.T, version string) {
	t.Helper()
	url := cluster.environment.ControlPlane.Etcd.URL.JoinPath("v3", "kv", "compaction")
	response, err := http.Post(url.String(), "application/json", bytes.NewBufferString(fmt.Sprintf(`{"revision":%q,"physical":true}`, version)))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		t.Fatalf("etcd answered %s", response.Status)
	}
}
