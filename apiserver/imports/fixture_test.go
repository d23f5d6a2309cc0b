package imports

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	imagev1 "github.com/openshift/api/image/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/request"

	"istag.dev/apiserver/streams"
	"istag.dev/resolver/upstream"
	"istag.dev/store"
	storev1 "istag.dev/store/v1"
)

const ns = "shop"

// fakeStreams is a registry of streams in memory.
type fakeStreams struct {
	mu      sync.Mutex
	records map[string]*storev1.StreamRecord
	version int
	writes  int
	now     time.Time
	// meanwhile runs once before the next update, as if someone else came first.
	meanwhile func()
	// refuse is what the next update fails with.
	refuse error
}

func (s *fakeStreams) Get(_ context.Context, name string) (*storev1.StreamRecord, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	record, ok := s.records[name]
	if !ok {
		return nil, apierrors.NewNotFound(imagev1.Resource("imagestreams"), name)
	}
	return record.DeepCopy(), nil
}

func (s *fakeStreams) Update(_ context.Context, name string, o streams.UpdateOptions, change func(*storev1.StreamRecord, store.Change) error) (*storev1.StreamRecord, bool, error) {
	s.mu.Lock()
	meanwhile := s.meanwhile
	s.meanwhile = nil
	s.mu.Unlock()
	if meanwhile != nil {
		meanwhile()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	old, exists := s.records[name]
	switch {
	case s.refuse != nil:
		return nil, false, s.refuse
	case !exists && !o.Create:
		return nil, false, apierrors.NewNotFound(imagev1.Resource("imagestreams"), name)
	case exists && o.UID != "" && o.UID != old.UID:
		return nil, false, apierrors.NewConflict(imagev1.Resource("imagestreams"), name, fmt.Errorf("uid"))
	}
	record := &storev1.StreamRecord{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}}
	if exists {
		record = old.DeepCopy()
	}
	c := store.Change{By: storev1.Requester{User: "alice", Verb: "create", Resource: "imagestreamimports"}, Now: metav1.NewTime(s.now)}
	if err := change(record, c); err != nil {
		return nil, false, err
	}
	if exists && cmp.Equal(old, record) {
		return record, false, nil
	}
	if len(o.DryRun) == 0 {
		s.put(record)
	}
	return record.DeepCopy(), !exists, nil
}

// put stores a record; the caller holds the lock, or is alone.
func (s *fakeStreams) put(record *storev1.StreamRecord) {
	s.version++
	s.writes++
	record.ResourceVersion = strconv.Itoa(s.version)
	if record.UID == "" {
		record.UID = types.UID(fmt.Sprintf("uid-%d", s.version))
	}
	s.records[record.Name] = record.DeepCopy()
}

// fakeImages is a registry of images in memory.
type fakeImages struct {
	mu     sync.Mutex
	images map[string]*imagev1.Image
	// refuse is what creating fails with.
	refuse error
}

func (s *fakeImages) Image(_ context.Context, digest string) (*imagev1.Image, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if image, ok := s.images[digest]; ok {
		return image, nil
	}
	return nil, apierrors.NewNotFound(imagev1.Resource("images"), digest)
}

func (s *fakeImages) Create(_ context.Context, image *imagev1.Image) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refuse != nil {
		return s.refuse
	}
	if _, ok := s.images[image.Name]; !ok {
		stored := image.DeepCopy()
		stored.UID = types.UID("uid of " + image.Name)
		s.images[image.Name] = stored
	}
	return nil
}

// fixture is a server in memory and a real registry in this process.
type fixture struct {
	*testing.T
	streams *fakeStreams
	images  *fakeImages
	options Options
	// host is the registry's.
	host string

	mu       sync.Mutex
	requests []string
	fault    func(http.ResponseWriter, *http.Request) bool
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{
		T:       t,
		streams: &fakeStreams{records: map[string]*storev1.StreamRecord{}, now: time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)},
		images:  &fakeImages{images: map[string]*imagev1.Image{}},
	}
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		f.requests = append(f.requests, r.Method+" "+r.URL.Path)
		fault := f.fault
		f.mu.Unlock()
		if fault == nil || !fault(w, r) {
			inner.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	f.host = strings.TrimPrefix(server.URL, "http://")
	client, err := upstream.New(upstream.Options{})
	if err != nil {
		t.Fatal(err)
	}
	f.options = Options{
		Streams: f.streams, Images: f.images, Upstream: client, MaxTagsPerRepository: 50,
		Authorizer: authorizer.AuthorizerFunc(func(context.Context, authorizer.Attributes) (authorizer.Decision, string, error) {
			return authorizer.DecisionNoOpinion, "", nil
		}),
	}
	return f
}

// seen returns the registry's requests since the last call.
func (f *fixture) seen() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	requests := f.requests
	f.requests = nil
	return requests
}

func (f *fixture) breakWith(fault func(http.ResponseWriter, *http.Request) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fault = fault
}

// hang makes requests whose path holds a text wait until the client gives up.
func (f *fixture) hang(text string) {
	f.breakWith(func(_ http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, text) {
			return false
		}
		<-r.Context().Done()
		return true
	})
}

// push puts an image or index under names and returns its digest.
func (f *fixture) push(what remote.Taggable, names ...string) string {
	f.Helper()
	for _, n := range names {
		ref, err := name.ParseReference(f.host+"/"+n, name.Insecure)
		if err != nil {
			f.Fatal(err)
		}
		if err := remote.Push(ref, what); err != nil {
			f.Fatal(err)
		}
	}
	f.seen()
	digest, err := what.(interface{ Digest() (v1.Hash, error) }).Digest()
	if err != nil {
		f.Fatal(err)
	}
	return digest.String()
}

// image returns an image with a configuration to look at.
func (f *fixture) image() v1.Image {
	f.Helper()
	image, err := random.Image(64, 2)
	if err != nil {
		f.Fatal(err)
	}
	image, err = mutate.Config(image, v1.Config{Env: []string{"A=b"}, ExposedPorts: map[string]struct{}{"8080/tcp": {}}})
	if err != nil {
		f.Fatal(err)
	}
	return image
}

func (f *fixture) index(platforms ...string) (v1.ImageIndex, []string) {
	f.Helper()
	var index v1.ImageIndex = empty.Index
	var digests []string
	for _, p := range platforms {
		platform, err := v1.ParsePlatform(p)
		if err != nil {
			f.Fatal(err)
		}
		image := f.image()
		digest, err := image.Digest()
		if err != nil {
			f.Fatal(err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{Platform: platform}})
		digests = append(digests, digest.String())
	}
	return index, digests
}

// request is one for the stream "web" with the given images.
func (f *fixture) request(images ...imagev1.ImageImportSpec) *imagev1.ImageStreamImport {
	return &imagev1.ImageStreamImport{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec:       imagev1.ImageStreamImportSpec{Import: true, Images: images},
	}
}

// from is an image of the fixture's registry, for a tag unless that is empty.
func (f *fixture) from(pullSpec, to string) imagev1.ImageImportSpec {
	spec := imagev1.ImageImportSpec{
		From:         corev1.ObjectReference{Kind: "DockerImage", Name: f.host + "/" + pullSpec},
		ImportPolicy: imagev1.TagImportPolicy{Insecure: true},
	}
	if to != "" {
		spec.To = &corev1.LocalObjectReference{Name: to}
	}
	return spec
}

func (f *fixture) context() context.Context {
	ctx := request.WithNamespace(f.Context(), ns)
	return request.WithUser(ctx, &user.DefaultInfo{Name: "alice"})
}

func (f *fixture) create(isi *imagev1.ImageStreamImport) (*imagev1.ImageStreamImport, error) {
	f.Helper()
	obj, err := New(f.options).Create(f.context(), isi, nil, &metav1.CreateOptions{})
	if err != nil {
		return nil, err
	}
	return obj.(*imagev1.ImageStreamImport), nil
}

func (f *fixture) mustCreate(isi *imagev1.ImageStreamImport) *imagev1.ImageStreamImport {
	f.Helper()
	created, err := f.create(isi)
	if err != nil {
		f.Fatal(err)
	}
	return created
}

// history returns the images that a stored tag meant, newest first.
func (f *fixture) history(tag string) []string {
	record, ok := f.streams.records["web"]
	if !ok {
		return nil
	}
	var images []string
	for _, list := range record.Status.Tags {
		if list.Tag != tag {
			continue
		}
		for _, event := range list.Items {
			images = append(images, event.Image)
		}
	}
	return images
}

func check[T any](t *testing.T, reason string, want, got T) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", reason, diff)
	}
}

// statusOfError returns the reason of an error and its causes, as "field: message".
func statusOfError(t *testing.T, err error) (metav1.StatusReason, []string) {
	t.Helper()
	status, ok := err.(apierrors.APIStatus)
	if !ok {
		t.Fatalf("not a bare StatusError: %v", err)
	}
	var causes []string
	if details := status.Status().Details; details != nil {
		for _, cause := range details.Causes {
			causes = append(causes, cause.Field+": "+cause.Message)
		}
	}
	return status.Status().Reason, causes
}
