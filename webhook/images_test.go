package webhook

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	imagev1 "github.com/openshift/api/image/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	k8sruntime "k8s.io/apimachinery/pkg/runtime"
	lru "k8s.io/apimachinery/pkg/util/cache"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	testingclock "k8s.io/utils/clock/testing"

	"istag.dev/store"
	storev1 "istag.dev/store/v1"
	"istag.dev/webhook/policy"
)

func imageDigest(letter string) string { return "sha256:" + strings.Repeat(letter, 64) }

// newImageRecord makes the record of an image as istag stores it, with the metadata given.
func newImageRecord(digest, metadata string) *storev1.ImageRecord {
	record := &storev1.ImageRecord{
		TypeMeta:   metav1.TypeMeta{APIVersion: storev1.GroupVersion.String(), Kind: "ImageRecord"},
		ObjectMeta: metav1.ObjectMeta{Name: store.ImageRecordName(digest), ResourceVersion: "7"},
		Image: imagev1.Image{
			ObjectMeta:           metav1.ObjectMeta{Name: digest},
			DockerImageReference: "quay.io/a/b@" + digest,
			DockerImageLayers:    []imagev1.ImageLayer{{Name: imageDigest("9")}},
			DockerImageManifest:  `{"schemaVersion":2}`,
		},
	}
	if metadata != "" {
		record.Image.DockerImageMetadata = k8sruntime.RawExtension{Raw: []byte(metadata)}
	}
	return record
}

// decoded is what is read of a record as the API server sends it.
func decoded(t *testing.T, record *storev1.ImageRecord) *imageRecord {
	t.Helper()
	text, err := json.Marshal(record)
	if err != nil {
		t.Fatal(err)
	}
	got := &imageRecord{}
	if err := json.Unmarshal(text, got); err != nil {
		t.Fatal(err)
	}
	return got
}

func TestImageRecordKnown(t *testing.T) {
	labels := map[string]string{"vendor": "Example"}
	cases := map[string]struct {
		reason string
		record func(*storev1.ImageRecord)
		want   policy.Known
	}{
		"Nothing":   {reason: "an image that says nothing of itself", record: func(*storev1.ImageRecord) {}},
		"NoLabels":  {reason: "an image without labels, as an index is", record: setMetadata(`{"Id":"sha256:0"}`)},
		"NullParts": {reason: "what is null is not there", record: setMetadata(`{"Config":null}`)},
		"Empty":     {reason: "no labels are no labels", record: setMetadata(`{"Config":{"Labels":{}}}`)},
		"Imported":  {reason: "an import writes OpenShift's capitals", record: setMetadata(`{"Id":"x","Config":{"Labels":{"vendor":"Example"}}}`), want: policy.Known{DockerLabels: labels}},
		"LowerCase": {reason: "a configuration itself has none", record: setMetadata(`{"config":{"labels":{"vendor":"Example"}}}`), want: policy.Known{DockerLabels: labels}},
		"Container": {reason: "what the image was built in is not what it is", record: setMetadata(`{"ContainerConfig":{"Labels":{"vendor":"Example"}}}`)},
		"NumberAsLabel": {
			reason: "labels that are not text cannot be read",
			record: setMetadata(`{"Config":{"Labels":{"vendor":1}}}`), want: policy.Known{Unreadable: true},
		},
		"NotAnObject": {reason: "a list is no configuration", record: setMetadata(`[1]`), want: policy.Known{Unreadable: true}},
		"OtherField":  {reason: "only the labels are read", record: setMetadata(`{"Created":"never","Config":{"Env":1,"Labels":{"vendor":"Example"}}}`), want: policy.Known{DockerLabels: labels}},
		"Pushed": {
			reason: "who pushes an image may send its configuration alone",
			record: func(r *storev1.ImageRecord) {
				r.Image.DockerImageConfig = `{"config":{"Labels":{"vendor":"Example"}}}`
			},
			want: policy.Known{DockerLabels: labels},
		},
		"PushedBoth": {
			reason: "what the API shows is what counts",
			record: func(r *storev1.ImageRecord) {
				setMetadata(`{"Config":{}}`)(r)
				r.Image.DockerImageConfig = `{"config":{"Labels":{"vendor":"Example"}}}`
			},
		},
		"PushedUnreadable": {
			reason: "a configuration that is not JSON cannot be read",
			record: func(r *storev1.ImageRecord) { r.Image.DockerImageConfig = `{` },
			want:   policy.Known{Unreadable: true},
		},
		"Annotated": {
			reason: "labels and annotations of an Image are its record's",
			record: func(r *storev1.ImageRecord) {
				r.Labels, r.Annotations = map[string]string{"tier": "gold"}, map[string]string{"images.openshift.io/deny-execution": "true"}
				r.Image.Labels = map[string]string{"not": "shown"}
			},
			want: policy.Known{
				Labels:      map[string]string{"tier": "gold"},
				Annotations: map[string]string{"images.openshift.io/deny-execution": "true"},
			},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			record := newImageRecord(imageDigest("a"), "")
			tc.record(record)
			read := decoded(t, record)
			if diff := cmp.Diff(&tc.want, read.known(nil)); diff != "" {
				t.Errorf("%s: -want +got:\n%s", tc.reason, diff)
			}
			if diff := cmp.Diff(&tc.want, read.known(map[string]string{})); diff != "" {
				t.Errorf("%s, with texts shared: -want +got:\n%s", tc.reason, diff)
			}
			if diff := cmp.Diff(read.known(nil), read.DeepCopyObject().(*imageRecord).known(nil)); diff != "" {
				t.Errorf("%s, in a copy: -want +got:\n%s", tc.reason, diff)
			}
		})
	}
}

func setMetadata(text string) func(*storev1.ImageRecord) {
	return func(r *storev1.ImageRecord) { r.Image.DockerImageMetadata = k8sruntime.RawExtension{Raw: []byte(text)} }
}

func TestParseDigest(t *testing.T) {
	cases := map[string]struct {
		reason, digest string
		ok             bool
	}{
		"Digest":    {"a digest", imageDigest("a"), true},
		"Capitals":  {"a digest means the same in capitals", "sha256:" + strings.Repeat("A", 64), true},
		"Short":     {"a digest is whole", imageDigest("a")[:70], false},
		"Long":      {"a digest is no longer than it is", imageDigest("a") + "a", false},
		"NotHex":    {"a digest is hexadecimal", imageDigest("g"), false},
		"Algorithm": {"no other algorithm is stored", "sha512:" + strings.Repeat("a", 128), false},
		"Path":      {"nobody leads us elsewhere", "sha256:../../../../api/v1/secrets", false},
		"Empty":     {"nothing is no digest", "", false},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			key, ok := parseDigest(tc.digest)
			if ok != tc.ok {
				t.Errorf("%s: got %v, %t", tc.reason, key, ok)
			}
			if want := store.ImageRecordName(strings.ToLower(tc.digest)); ok && key.recordName() != want {
				t.Errorf("%s: its record is %q, got %q", tc.reason, want, key.recordName())
			}
		})
	}
}

// imageServer is an API server of ImageRecords.
type imageServer struct {
	*httptest.Server
	lists, gets atomic.Int32
	broken      atomic.Bool
	events      chan watch.Event

	mu      sync.Mutex
	records []*storev1.ImageRecord // those that a list and a read show
}

func newImageServer(t *testing.T, records ...*storev1.ImageRecord) *imageServer {
	t.Helper()
	s := &imageServer{records: records, events: make(chan watch.Event)}
	s.Server = httptest.NewServer(http.HandlerFunc(s.serve))
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return s
}

func (s *imageServer) set(records ...*storev1.ImageRecord) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.records = records
}

func (s *imageServer) serve(w http.ResponseWriter, r *http.Request) {
	const all = "/apis/store.istag.dev/v1/imagerecords"
	w.Header().Set("Content-Type", "application/json")
	switch {
	case r.URL.Path == all && r.URL.Query().Get("watch") != "":
		s.watch(w, r)
	case r.URL.Path == all:
		s.lists.Add(1)
		list := storev1.ImageRecordList{TypeMeta: metav1.TypeMeta{APIVersion: storev1.GroupVersion.String(), Kind: "ImageRecordList"}, ListMeta: metav1.ListMeta{ResourceVersion: "7"}}
		for _, record := range s.known() {
			list.Items = append(list.Items, *record)
		}
		_ = json.NewEncoder(w).Encode(list)
	default:
		s.gets.Add(1)
		s.get(w, strings.TrimPrefix(r.URL.Path, all+"/"))
	}
}

func (s *imageServer) known() []*storev1.ImageRecord {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.records
}

func (s *imageServer) get(w http.ResponseWriter, name string) {
	if s.broken.Load() {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	for _, record := range s.known() {
		if record.Name == name {
			_ = json.NewEncoder(w).Encode(record)
			return
		}
	}
	status := apierrors.NewNotFound(storev1.GroupVersion.WithResource(imageRecords).GroupResource(), name).Status()
	w.WriteHeader(http.StatusNotFound)
	_ = json.NewEncoder(w).Encode(status)
}

// watch sends the events of the test. A client that wants the initial list as events is told to list.
func (s *imageServer) watch(w http.ResponseWriter, r *http.Request) {
	if r.URL.Query().Get("sendInitialEvents") == "true" {
		status := apierrors.NewInvalid(storev1.GroupVersion.WithKind("ListOptions").GroupKind(), "", nil).Status()
		w.WriteHeader(http.StatusUnprocessableEntity)
		_ = json.NewEncoder(w).Encode(status)
		return
	}
	w.WriteHeader(http.StatusOK)
	w.(http.Flusher).Flush()
	for {
		select {
		case <-r.Context().Done():
			return
		case event := <-s.events:
			_ = json.NewEncoder(w).Encode(map[string]any{"type": event.Type, "object": event.Object})
			w.(http.Flusher).Flush()
		}
	}
}

// feedImages runs Images against the server until the test ends.
func feedImages(t *testing.T, s *imageServer) *Images {
	t.Helper()
	images, err := NewImages(&rest.Config{Host: s.URL})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		images.Feed(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return images
}

func awaitSynced(t *testing.T, images *Images) {
	t.Helper()
	select {
	case <-images.Synced():
	case <-t.Context().Done():
		t.Fatal("the images were not read")
	}
}

// eventually waits until the index, without asking the API server, has what is wanted of an image.
func eventually(t *testing.T, images *Images, digest string, want *policy.Known) {
	t.Helper()
	key, _ := parseDigest(digest)
	err := wait.PollUntilContextTimeout(t.Context(), time.Millisecond, 30*time.Second, true, func(context.Context) (bool, error) {
		return cmp.Equal(want, images.index.get(key)), nil
	})
	if err != nil {
		t.Fatalf("the index follows the store: %s: -want +got:\n%s", digest, cmp.Diff(want, images.index.get(key)))
	}
}

func TestImagesAreReadWhenNeeded(t *testing.T) {
	server := newImageServer(t, newImageRecord(imageDigest("a"), `{"Config":{"Labels":{"a":"b"}}}`))
	images := feedImages(t, server)
	if _, err := images.Image(t.Context(), imageDigest("a")); !errors.Is(err, ErrImagesNotReady) {
		t.Errorf("before all images were read, one that is not known is not unknown: got %v", err)
	}
	if server.lists.Load()+server.gets.Load() != 0 {
		t.Error("images that nobody needs are not read")
	}
	images.Need()
	images.Need()
	awaitSynced(t, images)
	got, err := images.Image(t.Context(), imageDigest("a"))
	if diff := cmp.Diff(&policy.Known{DockerLabels: map[string]string{"a": "b"}}, got); err != nil || diff != "" {
		t.Errorf("images that are needed are read: %v, -want +got:\n%s", err, diff)
	}
	if server.lists.Load() != 1 || server.gets.Load() != 0 {
		t.Errorf("what is in the index is not asked for: %d lists, %d reads", server.lists.Load(), server.gets.Load())
	}
}

func TestImagesEndBeforeTheyAreNeeded(t *testing.T) {
	images, err := NewImages(&rest.Config{Host: "http://127.0.0.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	images.Feed(ctx) // returns
}

func TestImagesFollow(t *testing.T) {
	a, b := imageDigest("a"), imageDigest("b")
	stranger := newImageRecord(a, "")
	stranger.Name = "not-a-digest"
	server := newImageServer(t, newImageRecord(a, ""), stranger)
	images := feedImages(t, server)
	images.Need()
	awaitSynced(t, images)
	eventually(t, images, a, &policy.Known{})

	denied := newImageRecord(a, "")
	denied.Annotations = map[string]string{"images.openshift.io/deny-execution": "true"}
	server.events <- watch.Event{Type: watch.Modified, Object: denied}
	eventually(t, images, a, &policy.Known{Annotations: denied.Annotations})

	server.events <- watch.Event{Type: watch.Added, Object: newImageRecord(b, `{"Config":{"Labels":{"a":"b"}}}`)}
	eventually(t, images, b, &policy.Known{DockerLabels: map[string]string{"a": "b"}})

	server.events <- watch.Event{Type: watch.Added, Object: stranger}
	server.events <- watch.Event{Type: watch.Deleted, Object: stranger}
	server.events <- watch.Event{Type: watch.Deleted, Object: newImageRecord(b, "")}
	eventually(t, images, b, nil)
}

// TestImagesAsk asks for images that the index has not heard of.
func TestImagesAsk(t *testing.T) {
	server := newImageServer(t)
	images := feedImages(t, server)
	clock := testingclock.NewFakeClock(time.Now())
	images.absent = lru.NewLRUExpireCacheWithClock(absentMost, clock)
	images.Need()
	awaitSynced(t, images)
	late := newImageRecord(imageDigest("a"), `{"Config":{"Labels":{"a":"b"}}}`)
	server.set(late)
	cases := []struct {
		reason, digest string
		found, fails   bool
		asked          int32
	}{
		{"an image of this instant is found", imageDigest("a"), true, false, 1},
		{"an image that is not there is no error", imageDigest("c"), false, false, 1},
		{"what is not there is not asked for again at once", imageDigest("c"), false, false, 0},
		{"what cannot be an image is not asked for", "sha256:../c", false, false, 0},
		{"what cannot be told is an error", imageDigest("d"), false, true, 1},
		{"an error is not remembered", imageDigest("d"), false, true, 1},
	}
	for _, tc := range cases {
		server.broken.Store(tc.fails)
		before := server.gets.Load()
		got, err := images.Image(t.Context(), tc.digest)
		if (got != nil) != tc.found || (err != nil) != tc.fails || server.gets.Load()-before != tc.asked {
			t.Errorf("%s: Image(%q) = %+v, %v, after %d requests, want %d", tc.reason, tc.digest, got, err, server.gets.Load()-before, tc.asked)
		}
	}
	server.broken.Store(false)
	clock.Step(absentFor + 1)
	before := server.gets.Load()
	if _, err := images.Image(t.Context(), imageDigest("c")); err != nil || server.gets.Load() != before+1 {
		t.Errorf("what is not there may come, so it is asked for again in time: %v, %d requests", err, server.gets.Load()-before)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := images.Image(ctx, imageDigest("e")); !errors.Is(err, context.Canceled) {
		t.Errorf("nobody waits longer than the review lasts: got %v", err)
	}
}

func TestImageIndexReplace(t *testing.T) {
	index := &imageIndex{synced: make(chan struct{})}
	text := `{"Config":{"Labels":{"vendor":"Example"}}}`
	if err := index.Replace([]any{decoded(t, newImageRecord(imageDigest("a"), text)), decoded(t, newImageRecord(imageDigest("b"), text))}, "1"); err != nil {
		t.Fatal(err)
	}
	if err := index.Replace([]any{decoded(t, newImageRecord(imageDigest("b"), text))}, "2"); err != nil {
		t.Fatal(err)
	}
	if len(index.images) != 1 {
		t.Errorf("what is not in a list any more is gone: %v", index.images)
	}
	for _, change := range []func(any) error{index.Add, index.Update, index.Delete, func(obj any) error { return index.Replace([]any{obj}, "") }} {
		if err := change(&storev1.ImageRecord{}); err == nil {
			t.Error("the index takes its own type only")
		}
	}
	if err := index.Resync(); err != nil {
		t.Error(err)
	}
}

func TestImageIndexReadsWithoutAllocation(t *testing.T) {
	images := &Images{index: imageIndex{synced: make(chan struct{})}}
	digest := imageDigest("a")
	if err := images.index.Replace([]any{decoded(t, newImageRecord(digest, ""))}, ""); err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	if allocated := testing.AllocsPerRun(100, func() { _, _ = images.Image(ctx, digest) }); allocated > 0 {
		t.Errorf("admission reads on its hot path: %v allocations", allocated)
	}
}

// BenchmarkImageIndex says what one image costs, with the labels that images usually have.
func BenchmarkImageIndex(b *testing.B) {
	records := make([]any, 0, 20_000)
	for i := range cap(records) {
		record := &imageRecord{}
		record.Name = fmt.Sprintf("sha256-%064x", i)
		record.Image.Metadata = readLabels(fmt.Appendf(nil, `{"Config":{"Labels":{"architecture":"x86_64","com.example.component":"app-container",
"description":"An application as many teams build one","io.k8s.display-name":"App","maintainer":"The App team","name":"app-%d","release":"%d",
"summary":"An application","url":"https://example.com/app","vcs-ref":"%040d","vcs-type":"git","vendor":"Example, Inc.","version":"2.0"}}}`, i%100, i%10, i))
		records = append(records, record)
	}
	var before, after runtime.MemStats
	for b.Loop() {
		index := &imageIndex{synced: make(chan struct{})}
		runtime.GC()
		runtime.ReadMemStats(&before)
		if err := index.Replace(records, ""); err != nil {
			b.Fatal(err)
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		runtime.KeepAlive(index)
	}
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(len(records)), "bytes/image")
}

func FuzzReadLabels(f *testing.F) {
	f.Add([]byte(`{"Config":{"Labels":{"a":"b"}}}`))
	f.Add([]byte(`{"config":{"Labels":null},"Config":[]}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, text []byte) {
		got := readLabels(text)
		if got.unreadable && (got.labels != nil || !got.there) {
			t.Errorf("what cannot be read has no labels, and is there: %+v", got)
		}
		if !got.unreadable && !json.Valid(text) {
			t.Errorf("what is no JSON cannot be read: %+v", got)
		}
		record := &imageRecord{}
		if err := json.Unmarshal(append(append([]byte(`{"image":{"dockerImageMetadata":`), text...), "}}"...), record); err != nil && json.Valid(text) {
			t.Errorf("one image that cannot be read must not hide all others: %v", err)
		}
	})
}
