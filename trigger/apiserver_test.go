package trigger

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	imagev1 "github.com/openshift/api/image/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	logf "sigs.k8s.io/controller-runtime/pkg/log"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"istag.dev/resolver"
)

// TestAPIServer runs the whole watcher against a real API server, whose server-side apply, unlike the
// fake client's, validates, defaults and keeps preconditions.
func TestAPIServer(t *testing.T) {
	c := startAPIServer(t)
	ctx := t.Context()
	for _, name := range []string{"keycloak", "sidecar"} {
		if err := c.Create(ctx, record(name, tagged("20.0", name+"@sha256:1"))); err != nil {
			t.Fatal(err)
		}
	}
	for i, k := range kinds() {
		obj := workload(k, "w", annotate(
			entry("keycloak:20.0", k.base+`.containers[?(@.name=="web")].image`),
			entry("sidecar:20.0", k.base+`.containers[?(@.name=="sidecar")].image`),
		), "web= ", "sidecar=sidecar:20.0", "other=other:1")
		obj.SetUID("")
		obj.SetResourceVersion("")
		k.podSpec(obj).RestartPolicy = corev1.RestartPolicyAlways
		completeSpec(obj)
		if err := c.Create(ctx, obj); err != nil {
			t.Fatal(err)
		}
		t.Run(k.gvk.Kind, func(t *testing.T) { testFollowing(t, c, k, int64(10*(i+1))) })
	}
	t.Run("Preconditions", func(t *testing.T) { testPreconditions(t, c) })
}

func testFollowing(t *testing.T, c client.Client, k *kind, digest int64) {
	t.Helper()
	ctx := t.Context()
	key := client.ObjectKey{Namespace: "demo", Name: "w"}
	images := func() []string {
		obj := k.newObject()
		if err := c.Get(ctx, key, obj); err != nil {
			t.Fatal(err)
		}
		return containerImages(k.podSpec(obj))
	}
	edit := func(mutate func(client.Object)) {
		t.Helper()
		for {
			obj := k.newObject()
			if err := c.Get(ctx, key, obj); err != nil {
				t.Fatal(err)
			}
			mutate(obj)
			err := c.Update(ctx, obj)
			if err == nil {
				return
			}
			if !apierrors.IsConflict(err) {
				t.Fatal(err)
			}
		}
	}
	expect := func(reason string, want ...string) {
		t.Helper()
		if !eventually(ctx, func() bool { return slices.Equal(images(), want) }) {
			t.Fatalf("%s: images are %q, want %q", reason, images(), want)
		}
	}
	web, side := currentPullSpec(t, c, "keycloak"), currentPullSpec(t, c, "sidecar")
	expect("a new workload's placeholders are filled", web, side, "other:1")

	start := time.Now()
	web = move(t, c, "keycloak", digest)
	expect("the tag moved", web, side, "other:1")
	t.Logf("tag written to workload seen patched: %s", time.Since(start))

	edit(func(o client.Object) {
		paused := entry("sidecar:20.0", k.base+`.containers[?(@.name=="sidecar")].image`)
		paused["paused"] = true
		o.SetAnnotations(map[string]string{Annotation: annotate(entry("keycloak:20.0", k.base+`.containers[?(@.name=="web")].image`), paused)})
	})
	move(t, c, "sidecar", digest+1)
	web = move(t, c, "keycloak", digest+1)
	expect("a paused trigger's image, which only we own, stays while another moves", web, side, "other:1")

	edit(func(o client.Object) {
		o.SetAnnotations(map[string]string{Annotation: annotate(entry("keycloak:20.0", k.base+`.containers[0].image`))})
	})
	web = move(t, c, "keycloak", digest+2)
	expect("a removed trigger's image stays while another moves", web, side, "other:1")

	edit(func(o client.Object) {
		spec := k.podSpec(o)
		spec.Containers = slices.Delete(spec.Containers, 1, 2)
	})
	web = move(t, c, "keycloak", digest+3)
	expect("a container that is removed stays away", web, "other:1")

	obj := k.newObject()
	if err := c.Get(ctx, key, obj); err != nil {
		t.Fatal(err)
	}
	pin := resolver.ParsePins(obj.GetAnnotations()[resolver.PinnedAnnotation])["web"]
	if want := (resolver.Pin{Written: "keycloak:20.0", Istag: "keycloak:20.0", PullSpec: web, Generation: digest + 3}); pin != want {
		t.Errorf("pin is %+v, want %+v", pin, want)
	}

	edit(func(o client.Object) { o.SetAnnotations(map[string]string{Annotation: `[{"from":`}) })
	var events eventsv1.EventList
	found := eventually(ctx, func() bool {
		if err := c.List(ctx, &events, client.InNamespace("demo")); err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(events.Items, func(e eventsv1.Event) bool {
			return e.Regarding.Kind == k.gvk.Kind && e.Reason == reasonInvalidAnnotation
		})
	})
	if !found {
		t.Errorf("no event says that the annotation is wrong; events: %v", events.Items)
	}
	web = move(t, c, "keycloak", digest+4)
	edit(func(o client.Object) {
		o.SetAnnotations(map[string]string{Annotation: annotate(entry("keycloak:20.0", k.base+`.containers[0].image`))})
	})
	expect("mending the annotation heals at once", web, "other:1")
}

func testPreconditions(t *testing.T, c client.Client) {
	t.Helper()
	ctx := t.Context()
	k := kinds()[0]
	obj := k.newObject()
	if err := c.Get(ctx, client.ObjectKey{Namespace: "demo", Name: "w"}, obj); err != nil {
		t.Fatal(err)
	}
	p := &plan{
		follows: map[slot]follow{{}: {image: image{pullSpec: "x"}}},
		changes: []change{{container: "web", follow: follow{image: image{pullSpec: "x"}}}},
	}
	cases := map[string]struct {
		reason string
		mutate func(client.Object)
	}{
		"Changed": {
			reason: "a workload that changed since it was read may have lost the container",
			mutate: func(o client.Object) { o.SetResourceVersion("1") },
		},
		"Gone": {
			reason: "a workload that is gone must not be made again",
			mutate: func(o client.Object) { o.SetName("gone") },
		},
		"MadeAnew": {
			reason: "a workload of the same name is another one",
			mutate: func(o client.Object) { o.SetUID("other"); o.SetResourceVersion("1") },
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			stale := obj.DeepCopyObject().(client.Object)
			tc.mutate(stale)
			u := k.configuration(stale, p)
			err := c.Apply(ctx, client.ApplyConfigurationFromUnstructured(u), client.FieldOwner(FieldManager), client.ForceOwnership)
			if !apierrors.IsConflict(err) {
				t.Errorf("%s: apply gave %v, want a conflict", tc.reason, err)
			}
		})
	}
}

// startAPIServer starts an API server and a manager with the watcher, and returns a client that
// reads from the API server itself.
// assets returns the folder of etcd and kube-apiserver: the one that KUBEBUILDER_ASSETS names, or the
// local cluster's, which are built if need be.
func assets(t *testing.T) string {
	t.Helper()
	if given := os.Getenv("KUBEBUILDER_ASSETS"); given != "" {
		return given
	}
	build := exec.CommandContext(t.Context(), "go", "run", "-C", filepath.Join("..", "test", "cluster"), ".", "build")
	build.Stderr = os.Stderr
	folder, err := build.Output()
	if err != nil {
		t.Fatalf("building the API server: %v", err)
	}
	return strings.TrimSpace(string(folder))
}

func startAPIServer(t *testing.T) client.Client {
	t.Helper()
	logf.SetLogger(logr.Discard())
	environment := &envtest.Environment{
		BinaryAssetsDirectory: assets(t),
		CRDDirectoryPaths:     []string{filepath.Join("..", "deploy", "crds")},
		ErrorIfCRDPathMissing: true,
	}
	restConfig, err := environment.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := environment.Stop(); err != nil {
			t.Error(err)
		}
	})
	scheme := testScheme(t)
	restConfig.QPS = -1
	skip := true // names of controllers are unique in a process, and other tests add them too
	mgr, err := ctrl.NewManager(restConfig, ctrl.Options{
		Scheme:     scheme,
		Metrics:    metricsserver.Options{BindAddress: "0"},
		Cache:      cache.Options{ByObject: CacheByObject()},
		Controller: config.Controller{SkipNameValidation: &skip},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := Add(mgr, Options{}); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- mgr.Start(t.Context()) }()
	t.Cleanup(func() {
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	c, err := client.New(restConfig, client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "demo"}}); err != nil {
		t.Fatal(err)
	}
	return c
}

// completeSpec gives a workload what the API server asks of its kind.
func completeSpec(obj client.Object) {
	labels := map[string]string{"app": obj.GetName()}
	selector := &metav1.LabelSelector{MatchLabels: labels}
	switch o := obj.(type) {
	case *appsv1.Deployment:
		o.Spec.Selector, o.Spec.Template.Labels = selector, labels
	case *appsv1.StatefulSet:
		o.Spec.Selector, o.Spec.Template.Labels = selector, labels
	case *appsv1.DaemonSet:
		o.Spec.Selector, o.Spec.Template.Labels = selector, labels
	default:
		setCronJob(obj)
	}
}

// move makes the tag 20.0 of a stream mean another image and returns its pull spec.
func move(t *testing.T, c client.Client, stream string, digest int64) string {
	t.Helper()
	r := record(stream)
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(r), r); err != nil {
		t.Fatal(err)
	}
	pullSpec := fmt.Sprintf("%s@sha256:%d", stream, digest)
	r.Record.Generation = digest
	r.Status.Tags[0].Items = slices.Insert(r.Status.Tags[0].Items, 0, imagev1.TagEvent{
		Created: metav1.Now(), DockerImageReference: pullSpec, Image: fmt.Sprintf("sha256:%d", digest), Generation: digest,
	})
	if err := c.Update(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	return pullSpec
}

func currentPullSpec(t *testing.T, c client.Client, stream string) string {
	t.Helper()
	r := record(stream)
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(r), r); err != nil {
		t.Fatal(err)
	}
	return r.Status.Tags[0].Items[0].DockerImageReference
}

// eventually waits until something holds, and reports whether it came to.
func eventually(ctx context.Context, ok func() bool) bool {
	return wait.PollUntilContextTimeout(ctx, 2*time.Millisecond, 20*time.Second, true, func(context.Context) (bool, error) {
		return ok(), nil
	}) == nil
}
