package trigger

import (
	"fmt"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	toolscache "k8s.io/client-go/tools/cache"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"istag.dev/resolver"
	storev1 "istag.dev/store/v1"
)

// TestAdd composes the watcher as a process does, but for an API server.
func TestAdd(t *testing.T) {
	scheme := testScheme(t)
	// Names of controllers are unique in a process, and other tests add them too.
	skip := true
	mgr, err := ctrl.NewManager(&rest.Config{Host: "http://127.0.0.1:1"}, ctrl.Options{
		Scheme:     scheme,
		Metrics:    metricsserver.Options{BindAddress: "0"},
		Cache:      cache.Options{ByObject: CacheByObject()},
		Controller: config.Controller{SkipNameValidation: &skip},
		MapperProvider: func(*rest.Config, *http.Client) (meta.RESTMapper, error) {
			mapper := meta.NewDefaultRESTMapper(nil)
			for _, k := range kinds() {
				mapper.Add(k.gvk, meta.RESTScopeNamespace)
			}
			mapper.Add(storev1.GroupVersion.WithKind("StreamRecord"), meta.RESTScopeNamespace)
			return mapper, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := Add(mgr, Options{}); err != nil {
		t.Errorf("all controllers must be added: %v", err)
	}
	if err := Add(mgr, Options{}); err == nil {
		t.Error("adding them twice to one manager would write everything twice, so it must fail")
	}
}

func TestStrip(t *testing.T) {
	ours := metav1.ManagedFieldsEntry{Manager: FieldManager, Operation: metav1.ManagedFieldsOperationApply, FieldsV1: metav1.NewFieldsV1(`{}`)}
	full := func(annotations map[string]string) *appsv1.Deployment {
		d := &appsv1.Deployment{}
		d.Namespace, d.Name, d.UID, d.ResourceVersion = "demo", "w", "u", "4"
		d.Labels, d.Annotations = map[string]string{"a": "b"}, annotations
		withTime := ours
		withTime.Time, withTime.APIVersion = &metav1.Time{}, "apps/v1"
		d.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "kubectl", Operation: metav1.ManagedFieldsOperationApply}, withTime}
		d.Spec.Template.Labels = map[string]string{"a": "b"}
		d.Spec.Template.Spec.ServiceAccountName = "sa"
		d.Spec.Template.Spec.InitContainers = []corev1.Container{{Name: "i", Image: "x", Command: []string{"c"}}}
		d.Spec.Template.Spec.Containers = []corev1.Container{{Name: "c", Image: "y", Env: []corev1.EnvVar{{Name: "e"}}}}
		d.Status.Replicas = 3
		return d
	}
	bare := &appsv1.Deployment{}
	bare.Namespace, bare.Name, bare.UID, bare.ResourceVersion = "demo", "w", "u", "4"
	kept := bare.DeepCopy()
	kept.Annotations = map[string]string{Annotation: "[]", resolver.PinnedAnnotation: "{}"}
	kept.ManagedFields = []metav1.ManagedFieldsEntry{ours}
	kept.Spec.Template.Spec.InitContainers = []corev1.Container{{Name: "i", Image: "x"}}
	kept.Spec.Template.Spec.Containers = []corev1.Container{{Name: "c", Image: "y"}}
	cases := map[string]struct {
		reason string
		in     any
		want   any
	}{
		"Untriggered": {
			reason: "of a workload without triggers only its identity is kept",
			in:     full(map[string]string{resolver.PinnedAnnotation: "{}"}), want: bare,
		},
		"Triggered": {
			reason: "with triggers, what following them needs is kept, and nothing else",
			in:     full(map[string]string{Annotation: "[]", resolver.PinnedAnnotation: "{}", "other": "x"}), want: kept,
		},
		"Stripped": {
			reason: "stripping twice is stripping once",
			in:     kept.DeepCopy(), want: kept,
		},
		"Tombstone": {
			reason: "what is no workload passes as it is",
			in:     toolscache.DeletedFinalStateUnknown{Key: "demo/w"}, want: toolscache.DeletedFinalStateUnknown{Key: "demo/w"},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := deployment().transform(tc.in)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("%s: -want, +got:\n%s", tc.reason, diff)
			}
		})
	}
}

// BenchmarkIdleTrigger reports what a workload with one trigger costs while nothing happens: its
// object and its index entries in the cache.
func BenchmarkIdleTrigger(b *testing.B) {
	for _, stripped := range []bool{true, false} {
		b.Run(fmt.Sprintf("stripped=%t", stripped), func(b *testing.B) {
			k := deployment()
			indexer := toolscache.NewIndexer(toolscache.MetaNamespaceKeyFunc, toolscache.Indexers{
				toolscache.NamespaceIndex: toolscache.MetaNamespaceIndexFunc,
				// As controller-runtime indexes a field.
				indexField: func(obj any) ([]string, error) {
					var keys []string
					for _, key := range k.index(obj.(client.Object)) {
						keys = append(keys, "demo/"+key, "__all_namespaces/"+key)
					}
					return keys, nil
				},
			})
			before := heap()
			for i := range b.N {
				obj := typicalDeployment(i)
				if stripped {
					obj = k.strip(obj)
				}
				if err := indexer.Add(obj); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(heap()-before)/float64(b.N), "B/trigger")
			runtime.KeepAlive(indexer)
		})
	}
}

func heap() int64 {
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapAlloc)
}

// typicalDeployment is one that has followed a tag before; a hundred follow each tag.
func typicalDeployment(i int) client.Object {
	pullSpec := "quay.io/keycloak/keycloak@sha256:" + strings.Repeat("0a", 32)
	name := fmt.Sprintf("deployment-%06d", i)
	istag := fmt.Sprintf("stream-%05d:20.0", i/100)
	d := workload(deployment(), name, annotate(entry(istag, pathWeb)), "web="+strings.Clone(pullSpec)).(*appsv1.Deployment)
	d.UID, d.ResourceVersion = types.UID(fmt.Sprintf("01234567-89ab-cdef-0123-%012d", i)), strconv.Itoa(1000000+i)
	d.Annotations[resolver.PinnedAnnotation] = resolver.Pins{"web": {Written: istag, Istag: istag, PullSpec: pullSpec, Generation: 7}}.String()
	d.Annotations["deployment.kubernetes.io/revision"] = "3"
	fields := `{"f:metadata":{"f:annotations":{"f:istag.dev/pinned":{}}},"f:spec":{"f:template":{"f:spec":{"f:containers":{"k:{\"name\":\"web\"}":{".":{},"f:image":{},"f:name":{}}}}}}}`
	for _, manager := range []string{FieldManager, "kubectl", "kube-controller-manager"} {
		raw := strings.Clone(fields)
		if manager != FieldManager {
			raw = strings.Repeat(fields, 4)
		}
		d.ManagedFields = append(d.ManagedFields, metav1.ManagedFieldsEntry{Manager: manager, Operation: metav1.ManagedFieldsOperationApply, APIVersion: "apps/v1", Time: &metav1.Time{}, FieldsV1: metav1.NewFieldsV1(raw)})
	}
	return d
}
