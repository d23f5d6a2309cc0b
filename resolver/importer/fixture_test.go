package importer

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	imagev1 "github.com/openshift/api/image/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/events"
	testingclock "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"istag.dev/resolver/upstream"
	"istag.dev/store"
	storev1 "istag.dev/store/v1"
)

const namespace = "demo"

// digests of images, in the order of their release.
var digests = []string{
	"sha256:" + strings.Repeat("a", 64), "sha256:" + strings.Repeat("b", 64), "sha256:" + strings.Repeat("c", 64),
}

// fakeUpstream is what registries would say, by pull spec.
type fakeUpstream struct {
	mu      sync.Mutex
	tags    map[string]string
	errs    map[string]error
	during  func(ctx context.Context, pullSpec string)
	heads   []string
	fetches []string
}

func (f *fakeUpstream) Digest(ctx context.Context, req upstream.Request) (upstream.Descriptor, error) {
	f.mu.Lock()
	f.heads = append(f.heads, req.PullSpec)
	digest, err, during := f.tags[req.PullSpec], f.errs[req.PullSpec], f.during
	f.mu.Unlock()
	if during != nil {
		during(ctx, req.PullSpec)
	}
	if err := ctx.Err(); err != nil {
		return upstream.Descriptor{}, err
	}
	if err == nil && digest == "" {
		err = errNotFound(req.PullSpec)
	}
	if err != nil {
		return upstream.Descriptor{}, err
	}
	repository := req.PullSpec
	if i := strings.LastIndexByte(repository, ':'); i > strings.LastIndexByte(repository, '/') {
		repository = repository[:i]
	}
	return upstream.Descriptor{Reference: repository + "@" + digest, Digest: digest}, nil
}

func (f *fakeUpstream) Fetch(_ context.Context, req upstream.Request, digest string) (*imagev1.Image, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fetches = append(f.fetches, digest)
	if err := f.errs[digest]; err != nil {
		return nil, err
	}
	repository, _, _ := strings.Cut(req.PullSpec, ":")
	return &imagev1.Image{ObjectMeta: metav1.ObjectMeta{Name: digest}, DockerImageReference: repository + "@" + digest}, nil
}

// serve makes a pull spec mean a digest.
func (f *fakeUpstream) serve(pullSpec, digest string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tags[pullSpec] = digest
	delete(f.errs, pullSpec)
}

// fail makes a pull spec, or the fetching of a digest, fail.
func (f *fakeUpstream) fail(what string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.errs[what] = err
}

func errNotFound(pullSpec string) error {
	return &upstream.Error{Kind: upstream.NotFound, Message: pullSpec + ": no such image"}
}

func errUnreachable() error {
	return &upstream.Error{Kind: upstream.Unreachable, Message: "no answer", Cause: errors.New("from port 41234")}
}

type fixture struct {
	*Reconciler

	t        *testing.T
	api      client.Client
	clock    *testingclock.FakePassiveClock
	registry *fakeUpstream
	events   *events.FakeRecorder
	writes   []string
	// beforeWrite is called before each write of a record; an error is the write's.
	beforeWrite func(*storev1.StreamRecord) error
	// beforeCreate is called before each creation of an ImageRecord; an error is the creation's.
	beforeCreate func() error
}

func newFixture(t *testing.T, objects ...client.Object) *fixture {
	t.Helper()
	for _, o := range objects {
		if record, ok := o.(*storev1.StreamRecord); ok {
			accept(t, record, nil)
		}
	}
	scheme := runtime.NewScheme()
	if err := storev1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	f := &fixture{
		t:        t,
		api:      fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).Build(),
		clock:    testingclock.NewFakePassiveClock(time.Date(2030, 1, 1, 0, 0, 0, 500, time.UTC)),
		registry: &fakeUpstream{tags: map[string]string{}, errs: map[string]error{}},
		events:   events.NewFakeRecorder(100),
	}
	counting := interceptor.NewClient(f.api.(client.WithWatch), interceptor.Funcs{
		Update: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.UpdateOption) error {
			if f.beforeWrite != nil {
				if err := f.beforeWrite(o.(*storev1.StreamRecord)); err != nil {
					return err
				}
			}
			err := c.Update(ctx, o, opts...)
			if err == nil {
				f.writes = append(f.writes, "update "+o.GetName())
			}
			return err
		},
		Create: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.CreateOption) error {
			if f.beforeCreate != nil {
				if err := f.beforeCreate(); err != nil {
					return err
				}
			}
			err := c.Create(ctx, o, opts...)
			if err == nil {
				f.writes = append(f.writes, "create "+o.GetName())
			}
			return err
		},
	})
	f.Reconciler = New(counting, f.api, f.events, Options{Upstream: f.registry, Clock: f.clock, Timeout: 5 * time.Second})
	return f
}

// seen is what one reconcile did.
type seen struct {
	writes, heads, fetches, events []string
	after                          time.Duration
}

// reconcile runs one reconcile of a record, which must not fail, and returns what it did.
func (f *fixture) reconcile(name string) seen {
	f.t.Helper()
	s, err := f.tryReconcile(name)
	if err != nil {
		f.t.Fatalf("reconciling %q: %v", name, err)
	}
	return s
}

func (f *fixture) tryReconcile(name string) (seen, error) {
	f.t.Helper()
	result, err := f.Reconcile(f.t.Context(), reconcile.Request{NamespacedName: client.ObjectKey{Namespace: namespace, Name: name}})
	s := seen{writes: f.writes, heads: f.registry.heads, fetches: f.registry.fetches, after: result.RequeueAfter}
	f.writes, f.registry.heads, f.registry.fetches = nil, nil, nil
	for len(f.events.Events) > 0 {
		s.events = append(s.events, <-f.events.Events)
	}
	return s, err
}

func (f *fixture) get(name string) *storev1.StreamRecord {
	f.t.Helper()
	var record storev1.StreamRecord
	if err := f.api.Get(f.t.Context(), client.ObjectKey{Namespace: namespace, Name: name}, &record); err != nil {
		f.t.Fatal(err)
	}
	return &record
}

// accept takes a spec in as the API server does.
func accept(t *testing.T, record *storev1.StreamRecord, old *imagev1.ImageStreamSpec) {
	t.Helper()
	none := func(string, string) (*storev1.StreamRecord, error) { return nil, nil }
	c := store.Change{By: storev1.Requester{User: "alice"}, Source: none, Now: metav1.Unix(0, 0)}
	if errs, err := store.Accept(record, old, c); err != nil || len(errs) > 0 {
		t.Fatalf("accepting the spec of %q: %v, %v", record.Name, errs, err)
	}
}

// edit changes a record as a user would.
func (f *fixture) edit(name string, change func(*storev1.StreamRecord)) {
	f.t.Helper()
	record := f.get(name)
	old := record.Spec.DeepCopy()
	change(record)
	accept(f.t, record, old)
	if err := f.api.Update(f.t.Context(), record); err != nil {
		f.t.Fatal(err)
	}
}

// reimport asks for another import of a tag.
func (f *fixture) reimport(name, tag string) {
	f.t.Helper()
	f.edit(name, func(r *storev1.StreamRecord) { store.SpecTag(&r.Spec, tag).Generation = ptr.To[int64](0) })
}

func (f *fixture) images() []string {
	f.t.Helper()
	var list storev1.ImageRecordList
	if err := f.api.List(f.t.Context(), &list); err != nil {
		f.t.Fatal(err)
	}
	var names []string
	for i := range list.Items {
		names = append(names, list.Items[i].Name)
	}
	return names
}

// history returns the images of a tag, newest first.
func history(record *storev1.StreamRecord, tag string) []string {
	var images []string
	for _, list := range record.Status.Tags {
		if list.Tag == tag {
			for _, e := range list.Items {
				images = append(images, e.Image)
			}
		}
	}
	return images
}

func failure(record *storev1.StreamRecord, tag string) string {
	c := store.ImportFailure(&record.Status, tag)
	if c == nil {
		return ""
	}
	return fmt.Sprintf("%s: %s", c.Reason, c.Message)
}

func stream(name string, tags ...imagev1.TagReference) *storev1.StreamRecord {
	return &storev1.StreamRecord{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec:       imagev1.ImageStreamSpec{Tags: tags},
	}
}

func from(tag, kind, name string) imagev1.TagReference {
	return imagev1.TagReference{Name: tag, From: &corev1.ObjectReference{Kind: kind, Name: name}}
}

func image(tag, pullSpec string) imagev1.TagReference {
	return from(tag, store.KindDockerImage, pullSpec)
}
