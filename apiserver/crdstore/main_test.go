package crdstore

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/go-logr/logr"
	imagev1 "github.com/openshift/api/image/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	logf "sigs.k8s.io/controller-runtime/pkg/log"

	storev1 "istag.dev/store/v1"
)

// cluster is the one API server of these tests, started by the first that needs it.
var cluster struct {
	sync.Once
	environment envtest.Environment
	config      *rest.Config
	namespaces  kubernetes.Interface
	err         error
}

func TestMain(m *testing.M) {
	// The libraries' own lines are no part of the tests.
	logf.SetLogger(logr.Discard())
	klog.SetLogger(logr.Discard())
	code := m.Run()
	if cluster.config != nil {
		if err := cluster.environment.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// assets returns the folder of etcd and kube-apiserver: the one that KUBEBUILDER_ASSETS names, or the
// local cluster's, which are built if need be.
func assets(ctx context.Context) (string, error) {
	if given := os.Getenv("KUBEBUILDER_ASSETS"); given != "" {
		return given, nil
	}
	build := exec.CommandContext(ctx, "go", "run", "-C", filepath.Join("..", "..", "test", "cluster"), ".", "build")
	build.Stderr = os.Stderr
	folder, err := build.Output()
	return strings.TrimSpace(string(folder)), err
}

func startCluster(ctx context.Context) error {
	folder, err := assets(ctx)
	if err != nil {
		return fmt.Errorf("building the API server: %w", err)
	}
	cluster.environment = envtest.Environment{
		BinaryAssetsDirectory: folder,
		CRDDirectoryPaths:     []string{filepath.Join("..", "..", "deploy", "crds")},
		ErrorIfCRDPathMissing: true,
	}
	config, err := cluster.environment.Start()
	if err != nil {
		return errors.Join(err, cluster.environment.Stop())
	}
	config.QPS = -1
	cluster.config = config
	cluster.namespaces, err = kubernetes.NewForConfig(config)
	return err
}

// requests counts what was asked of the backing API server.
type requests struct {
	all, conflicts atomic.Int64
}

func (r *requests) wrap(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(request *http.Request) (*http.Response, error) {
		r.all.Add(1)
		response, err := next.RoundTrip(request)
		if err == nil && response.StatusCode == http.StatusConflict {
			r.conflicts.Add(1)
		}
		return response, err
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(request *http.Request) (*http.Response, error) { return f(request) }

// backing is a namespace of the real API server, and storages over it.
type backing struct {
	namespace string
	requests  *requests
	client    rest.Interface
	streams   *crdStorage[storev1.StreamRecord, *storev1.StreamRecord]
	images    *crdStorage[storev1.ImageRecord, *storev1.ImageRecord]
}

func realBacking(t testing.TB) *backing {
	t.Helper()
	cluster.Do(func() { cluster.err = startCluster(t.Context()) })
	if cluster.err != nil {
		t.Fatal(cluster.err)
	}
	namespace, err := cluster.namespaces.CoreV1().Namespaces().Create(t.Context(),
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "test-"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	b := &backing{namespace: namespace.Name, requests: &requests{}}
	config := rest.CopyConfig(cluster.config)
	config.Wrap(b.requests.wrap)
	if b.client, err = NewClient(config); err != nil {
		t.Fatal(err)
	}
	b.streams, b.images = open(t, streams, b.client, "/imagestreams"), open(t, images, b.client, "/images")
	return b
}

// open returns the storage of a kind as genericregistry.Store would get it.
func open[T any, P object[T]](t testing.TB, k kind[T, P], client rest.Interface, prefix string) *crdStorage[T, P] {
	t.Helper()
	options, err := newGetter(k, client, testCodec(t)).GetRESTOptions(schema.GroupResource{Group: imagev1.GroupName, Resource: prefix[1:]}, nil)
	if err != nil {
		t.Fatal(err)
	}
	s, destroy, err := options.Decorator(options.StorageConfig, prefix, nil, nil, nil, nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(destroy)
	return s.(*crdStorage[T, P])
}

// testCodec copies records, for dry runs.
func testCodec(t testing.TB) runtime.Codec {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := storev1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	return serializer.NewCodecFactory(scheme).LegacyCodec(storev1.GroupVersion)
}

func (b *backing) key(name string) string {
	if name == "" {
		return "/imagestreams/" + b.namespace
	}
	return "/imagestreams/" + b.namespace + "/" + name
}

// stream is one with a tag, as the API server would make it.
func (b *backing) stream(name string, edits ...func(*storev1.StreamRecord)) *storev1.StreamRecord {
	r := &storev1.StreamRecord{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: b.namespace}}
	r.Record.Generation = 1
	r.Spec.Tags = []imagev1.TagReference{{Name: "1", From: &corev1.ObjectReference{Kind: "DockerImage", Name: "quay.io/a/b:1"}}}
	r.Status.Tags = []imagev1.NamedTagEventList{{Tag: "1"}}
	for _, edit := range edits {
		edit(r)
	}
	return r
}

func (b *backing) create(t testing.TB, name string, edits ...func(*storev1.StreamRecord)) *storev1.StreamRecord {
	t.Helper()
	out := &storev1.StreamRecord{}
	if err := b.streams.Create(t.Context(), b.key(name), b.stream(name, edits...), out, 0); err != nil {
		t.Fatal(err)
	}
	return out
}

func (b *backing) get(t testing.TB, name string) *storev1.StreamRecord {
	t.Helper()
	out := &storev1.StreamRecord{}
	if err := b.streams.Get(t.Context(), b.key(name), storage.GetOptions{}, out); err != nil {
		t.Fatal(err)
	}
	return out
}

// update changes a stream in the way of GuaranteedUpdate.
func (b *backing) update(ctx context.Context, name string, edit func(*storev1.StreamRecord)) (*storev1.StreamRecord, error) {
	out := &storev1.StreamRecord{}
	err := b.streams.GuaranteedUpdate(ctx, b.key(name), out, false, nil, editing(edit), nil)
	return out, err
}

func editing(edit func(*storev1.StreamRecord)) storage.UpdateFunc {
	return storage.SimpleUpdate(func(obj runtime.Object) (runtime.Object, error) {
		edit(obj.(*storev1.StreamRecord))
		return obj, nil
	})
}

// record returns what is stored.
func (b *backing) record(t testing.TB, name string) *storev1.StreamRecord {
	t.Helper()
	out := &storev1.StreamRecord{}
	if err := b.client.Get().Namespace(b.namespace).Resource("streamrecords").Name(name).Do(t.Context()).Into(out); err != nil {
		t.Fatal(err)
	}
	return out
}

func label(key, value string) func(*storev1.StreamRecord) {
	return func(r *storev1.StreamRecord) {
		if r.Labels == nil {
			r.Labels = map[string]string{}
		}
		r.Labels[key] = value
	}
}

func repository(name string) func(*storev1.StreamRecord) {
	return func(r *storev1.StreamRecord) { r.Spec.DockerImageRepository = name }
}
