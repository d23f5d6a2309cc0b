package certs

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/open-policy-agent/cert-controller/pkg/rotator"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"
)

func TestMain(m *testing.M) {
	log.SetLogger(klog.Logger{}) // Discard: what matters is what the tests assert.
	os.Exit(m.Run())
}

var testSecret = types.NamespacedName{Namespace: "istag-system", Name: "istag-tls"}

func testOptions() Options {
	return Options{
		Namespace:         testSecret.Namespace,
		Secret:            testSecret.Name,
		Services:          []string{"istag-webhook", "istag-apiserver"},
		MutatingWebhook:   "istag",
		ValidatingWebhook: "istag",
		APIService:        "v1.image.openshift.io",
		CertDir:           "/var/run/istag/tls",
		ExtraDNSNames:     []string{"localhost"},
	}
}

// newCA makes a CA as the library does, as if it did so at the time given.
func newCA(t *testing.T, at time.Time) *rotator.KeyPairArtifacts {
	t.Helper()
	ca, err := newRotator(testOptions()).CreateCACert(at.Add(-backdating), at.Add(caValidity))
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// newPair makes a serving certificate as the library does.
func newPair(t *testing.T, ca *rotator.KeyPairArtifacts) pair {
	t.Helper()
	now := time.Now()
	cert, key, err := newRotator(testOptions()).CreateCertPEM(ca, now.Add(-backdating), now.Add(certValidity))
	if err != nil {
		t.Fatal(err)
	}
	return pair{certKey: cert, keyKey: key}
}

// eventually fails the test unless ok holds before long.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	err := wait.PollUntilContextTimeout(t.Context(), 10*time.Millisecond, 20*time.Second, true, func(context.Context) (bool, error) {
		return ok(), nil
	})
	if err != nil {
		t.Fatalf("waiting for %s: %v", what, err)
	}
}

// secretServer serves list and watch of one Secret over HTTP, as the API server does for a client that may read this name and no other.
type secretServer struct {
	*httptest.Server

	mu       sync.Mutex
	version  int
	secret   *corev1.Secret
	watchers map[chan metav1.WatchEvent]bool
	requests int
	refused  []string
	down     bool
}

func newSecretServer(t *testing.T) *secretServer {
	t.Helper()
	s := &secretServer{watchers: map[chan metav1.WatchEvent]bool{}, version: 1}
	s.Server = httptest.NewServer(http.HandlerFunc(s.serve))
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return s
}

// client returns a real client of the server.
func (s *secretServer) client(t *testing.T) client.WithWatch {
	t.Helper()
	mapper := meta.NewDefaultRESTMapper(nil)
	mapper.Add(corev1.SchemeGroupVersion.WithKind("Secret"), meta.RESTScopeNamespace)
	c, err := client.NewWithWatch(&rest.Config{Host: s.URL}, client.Options{Scheme: scheme.Scheme, Mapper: mapper})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// set creates or changes the Secret; nil deletes it.
func (s *secretServer) set(data map[string][]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version++
	kind, object := "MODIFIED", &corev1.Secret{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"},
		ObjectMeta: metav1.ObjectMeta{Namespace: testSecret.Namespace, Name: testSecret.Name, ResourceVersion: strconv.Itoa(s.version)},
		Data:       data,
	}
	switch {
	case data == nil:
		kind = "DELETED"
		s.secret = nil
	case s.secret == nil:
		kind = "ADDED"
		s.secret = object
	default:
		s.secret = object
	}
	for w := range s.watchers {
		w <- event(kind, object)
	}
}

// setDown makes the server refuse requests and end the watches that it has, or serve again.
func (s *secretServer) setDown(t *testing.T, down bool) {
	t.Helper()
	s.mu.Lock()
	s.down = down
	s.mu.Unlock()
	if down {
		s.CloseClientConnections()
		eventually(t, "the lost connections", func() bool { return s.watching() == 0 })
	}
}

func (s *secretServer) watching() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.watchers)
}

func (s *secretServer) counts() (requests int, refused []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests, append([]string(nil), s.refused...)
}

func event(kind string, object *corev1.Secret) metav1.WatchEvent {
	e := metav1.WatchEvent{Type: kind}
	e.Object.Raw, _ = json.Marshal(object)
	return e
}

func (s *secretServer) serve(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	query := r.URL.Query()
	s.mu.Lock()
	if s.down {
		s.mu.Unlock()
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	s.requests++
	if r.URL.Path != "/api/v1/namespaces/"+testSecret.Namespace+"/secrets" || query.Get("fieldSelector") != "metadata.name="+testSecret.Name {
		s.refused = append(s.refused, r.URL.String())
		s.mu.Unlock()
		w.WriteHeader(http.StatusForbidden)
		return
	}
	if query.Get("watch") == "" {
		list := corev1.SecretList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "SecretList"}}
		list.ResourceVersion = strconv.Itoa(s.version)
		if s.secret != nil {
			list.Items = append(list.Items, *s.secret)
		}
		s.mu.Unlock()
		_ = json.NewEncoder(w).Encode(list)
		return
	}

	events := make(chan metav1.WatchEvent, 16)
	from, _ := strconv.Atoi(query.Get("resourceVersion"))
	if s.secret != nil && s.version > from {
		events <- event("ADDED", s.secret)
	}
	if query.Get("sendInitialEvents") == "true" {
		end := &corev1.Secret{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"}}
		end.ResourceVersion = strconv.Itoa(s.version)
		end.Annotations = map[string]string{metav1.InitialEventsAnnotationKey: "true"}
		events <- event("BOOKMARK", end)
	}
	s.watchers[events] = true
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.watchers, events)
	}()

	out := json.NewEncoder(w)
	for {
		_ = http.NewResponseController(w).Flush()
		select {
		case e := <-events:
			if out.Encode(e) != nil {
				return
			}
		case <-r.Context().Done():
			return
		}
	}
}

func poolOf(cas ...*x509.Certificate) *x509.CertPool {
	pool := x509.NewCertPool()
	for _, ca := range cas {
		pool.AddCert(ca)
	}
	return pool
}
