package crdstore

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/client-go/rest"

	storev1 "istag.dev/store/v1"
)

var records = schema.GroupResource{Group: storev1.GroupVersion.Group, Resource: "streamrecords"}

// fakeBacking is a storage over an API server that answers as a test wants it to.
func fakeBacking(t *testing.T, answer http.HandlerFunc) *backing {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		answer(w, r)
	}))
	t.Cleanup(server.Close)
	client, err := NewClient(&rest.Config{Host: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	return &backing{namespace: "ns", client: client, streams: open(t, streams, client, "/imagestreams")}
}

func say(w http.ResponseWriter, err *apierrors.StatusError) {
	if err.ErrStatus.Details != nil && err.ErrStatus.Details.RetryAfterSeconds > 0 {
		w.Header().Set("Retry-After", "1")
	}
	status := err.ErrStatus
	status.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}
	w.WriteHeader(int(status.Code))
	_ = json.NewEncoder(w).Encode(status)
}

func show(w http.ResponseWriter, name, version string) {
	_ = json.NewEncoder(w).Encode(&storev1.StreamRecord{
		TypeMeta:   metav1.TypeMeta{APIVersion: storev1.GroupVersion.String(), Kind: "StreamRecord"},
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "ns", UID: "u", ResourceVersion: version},
	})
}

// TestFailures says what users are told when the backing API server fails.
func TestFailures(t *testing.T) {
	cases := map[string]struct {
		reason string
		answer http.HandlerFunc
		want   func(error) bool
		says   string
	}{
		"too large": {
			reason: "Store tries again without managed fields only if it sees the 413 itself",
			answer: func(w http.ResponseWriter, _ *http.Request) {
				say(w, apierrors.NewRequestEntityTooLargeError("limit is 3145728"))
			},
			want: apierrors.IsRequestEntityTooLargeError,
		},
		"too large for etcd": {
			reason: "which says so in words only",
			answer: func(w http.ResponseWriter, _ *http.Request) {
				say(w, apierrors.NewInternalError(errors.New("etcdserver: request is too large")))
			},
			want: apierrors.IsRequestEntityTooLargeError,
			says: "leave out tags or annotations",
		},
		"too many": {
			reason: "the client is told when to come back, and is not kept waiting here",
			answer: func(w http.ResponseWriter, _ *http.Request) { say(w, apierrors.NewTooManyRequests("later", 1)) },
			want: func(err error) bool {
				seconds, ok := apierrors.SuggestsClientDelay(err)
				return apierrors.IsTooManyRequests(err) && ok && seconds == 1
			},
		},
		"forbidden": {
			reason: "quotas on the records are the administrator's, who wants them named",
			answer: func(w http.ResponseWriter, _ *http.Request) {
				say(w, apierrors.NewForbidden(records, "a", errors.New("exceeded quota: q")))
			},
			want: apierrors.IsForbidden,
			says: "exceeded quota: q",
		},
		"expired": {
			reason: "clients list again when they see a 410",
			answer: func(w http.ResponseWriter, _ *http.Request) { say(w, apierrors.NewResourceExpired("too old")) },
			want:   apierrors.IsResourceExpired,
		},
		"not found": {
			reason: "Store words it for users",
			answer: func(w http.ResponseWriter, _ *http.Request) { say(w, apierrors.NewNotFound(records, "a")) },
			want:   storage.IsNotFound,
		},
		"not served": {
			reason: "no object is missing where the resource is",
			answer: func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "404 page not found", http.StatusNotFound) },
			want:   apierrors.IsServiceUnavailable,
			says:   "install the custom resource definitions",
		},
		"cut short": {
			reason: "an answer that breaks off says nothing about the object",
			answer: func(w http.ResponseWriter, _ *http.Request) {
				_, _ = w.Write([]byte(`{"metadata":{"name":"a","creationTimestamp":"2026`))
			},
			want: apierrors.IsServiceUnavailable,
		},
		"dropped": {
			reason: "users cannot do anything with the URL of the backing API server",
			answer: func(w http.ResponseWriter, _ *http.Request) {
				if connection, _, err := http.NewResponseController(w).Hijack(); err == nil {
					connection.Close()
				}
			},
			want: func(err error) bool {
				return apierrors.IsServiceUnavailable(err) && !strings.Contains(err.Error(), "http")
			},
			says: "did not answer",
		},
		"unreadable": {
			reason: "a record that is not what its type says is a defect, and not the user's",
			answer: func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"metadata":{"labels":7}}`)) },
			want:   apierrors.IsInternalError,
			says:   "/metadata/labels",
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			var asked atomic.Int64
			b := fakeBacking(t, func(w http.ResponseWriter, r *http.Request) { asked.Add(1); tc.answer(w, r) })
			got := &storev1.StreamRecord{}
			err := b.streams.Get(t.Context(), b.key("a"), storage.GetOptions{}, got)
			if !tc.want(err) || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("%s: got %T %v", tc.reason, err, err)
			}
			if got.Name != "" {
				t.Errorf("%s: got an object with the error", tc.reason)
			}
			if asked.Load() > 2 {
				t.Errorf("%s: asked %d times", tc.reason, asked.Load())
			}
		})
	}
}

// TestConflicts says how writes end when every one of them is a conflict, or slow.
func TestConflicts(t *testing.T) {
	var written atomic.Int64
	storm := func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			show(w, "a", "1")
			return
		}
		written.Add(1)
		say(w, apierrors.NewConflict(records, "a", errors.New("modified")))
	}
	b := fakeBacking(t, storm)
	writes := map[string]func(context.Context) error{
		"update": func(ctx context.Context) error {
			_, err := b.update(ctx, "a", label("x", "1"))
			return err
		},
		"delete": func(ctx context.Context) error {
			return b.streams.Delete(ctx, b.key("a"), &storev1.StreamRecord{}, nil, storage.ValidateAllObjectFunc, nil, storage.DeleteOptions{})
		},
	}
	for name, write := range writes {
		t.Run(name, func(t *testing.T) {
			written.Store(0)
			ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
			defer cancel()
			if err := write(ctx); !apierrors.IsTimeout(err) {
				t.Errorf("got %v, want a timeout", err)
			}
			if n := written.Load(); n < 5 || n > 100 {
				t.Errorf("%d attempts in half a second", n)
			}
		})
	}
}

func TestSlow(t *testing.T) {
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	b := fakeBacking(t, func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	done := make(chan error, 3)
	go func() { done <- b.streams.Get(ctx, b.key("a"), storage.GetOptions{}, &storev1.StreamRecord{}) }()
	// One of these has the turn, the other waits for it.
	for range 2 {
		go func() { _, err := b.update(ctx, "a", label("x", "1")); done <- err }()
	}
	for range 3 {
		if err := <-done; !apierrors.IsTimeout(err) {
			t.Errorf("got %v, want a timeout", err)
		}
	}
	if len(b.streams.locks.all) != 0 {
		t.Errorf("%d locks are left", len(b.streams.locks.all))
	}
}

// TestTooLargeWrite says that nothing is tried again that cannot succeed.
func TestTooLargeWrite(t *testing.T) {
	var asked atomic.Int64
	b := fakeBacking(t, func(w http.ResponseWriter, r *http.Request) {
		if asked.Add(1); r.Method == http.MethodGet {
			show(w, "a", "1")
			return
		}
		say(w, apierrors.NewRequestEntityTooLargeError("etcdserver: request is too large"))
	})
	if _, err := b.update(t.Context(), "a", label("x", "1")); !apierrors.IsRequestEntityTooLargeError(err) || asked.Load() != 2 {
		t.Errorf("got %v after %d requests", err, asked.Load())
	}
}

// TestAuditID says that a write carries the id of the request that it serves.
func TestAuditID(t *testing.T) {
	ids := make(chan string, 2)
	b := fakeBacking(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet {
			ids <- r.Header.Get("Audit-ID")
		}
		show(w, "a", "1")
	})
	ctx := audit.WithAuditContext(t.Context())
	audit.WithAuditID(ctx, types.UID("the-users"))
	for _, c := range []context.Context{ctx, t.Context()} {
		if _, err := b.update(c, "a", label("x", "1")); err != nil {
			t.Fatal(err)
		}
	}
	if with, without := <-ids, <-ids; with != "the-users" || without != "" {
		t.Errorf("ids are %q and %q", with, without)
	}
}

// TestWatchStream says what becomes of a stream of events that no API server should send, and that
// nothing is left of a watch that ended.
func TestWatchStream(t *testing.T) {
	object := `{"apiVersion":"store.istag.dev/v1","kind":"StreamRecord","metadata":{"name":"a--b","namespace":"ns","resourceVersion":"7"}}`
	cases := map[string]struct {
		reason string
		stream string
		want   []string
	}{
		"ends":      {"a stream that ends is no error: clients begin anew", `{"type":"ADDED","object":` + object + "}\n", []string{"ADDED a_b"}},
		"breaks":    {"nor is one that breaks off", `{"type":"ADDED","object":` + object + "}\n" + `{"type":"MODIF`, []string{"ADDED a_b"}},
		"an error":  {"an error of the backing API server is the client's", `{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","code":410,"reason":"Expired"}}`, []string{"ERROR Expired"}},
		"a novelty": {"an event that cannot be understood may be one that matters", `{"type":"ADDED","object":{"metadata":{"labels":7}}}`, []string{"ERROR InternalError"}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			b := fakeBacking(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(tc.stream)) })
			w, err := b.streams.Watch(t.Context(), b.key(""), storage.ListOptions{Recursive: true, Predicate: predicate(nil, nil)})
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for event := range w.ResultChan() {
				if status, ok := event.Object.(*metav1.Status); ok && event.Type == watch.Error {
					got = append(got, "ERROR "+string(status.Reason))
					continue
				}
				got = append(got, told(event))
			}
			if strings.Join(got, ", ") != strings.Join(tc.want, ", ") {
				t.Errorf("%s: got %q, want %q", tc.reason, got, tc.want)
			}
		})
	}
}

func TestWatchLeavesNothing(t *testing.T) {
	b := fakeBacking(t, func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	running := func() int {
		buffer := make([]byte, 1<<20)
		return strings.Count(string(buffer[:runtime.Stack(buffer, true)]), "crdstore.(*watcher[...]).run(")
	}
	ctx, cancel := context.WithCancel(t.Context())
	var all []watch.Interface
	for range 10 {
		w, err := b.streams.Watch(ctx, b.key(""), storage.ListOptions{Recursive: true, Predicate: predicate(nil, nil)})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, w)
	}
	awaitCount(t, running, 10)
	all[0].Stop()
	cancel()
	for _, w := range all {
		for range w.ResultChan() {
			t.Error("an event came of nothing")
		}
	}
	awaitCount(t, running, 0)
}

// awaitCount lets goroutines run until there are as many as there should be.
func awaitCount(t *testing.T, running func() int, want int) {
	t.Helper()
	for deadline := time.Now().Add(patience); running() != want; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("%d watches run, want %d", running(), want)
		}
	}
}
