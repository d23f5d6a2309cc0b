package certs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/controller-runtime/pkg/certwatcher"
)

func read(t *testing.T, dir string) pair {
	t.Helper()
	out := pair{}
	for _, name := range []string{certKey, keyKey} {
		content, err := os.ReadFile(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		out[name] = content
	}
	return out
}

func TestPairWriteTo(t *testing.T) {
	old, next := pair{certKey: []byte("cert 1"), keyKey: []byte("key 1")}, pair{certKey: []byte("cert 2"), keyKey: []byte("key 2")}
	mustWrite := func(t *testing.T, p pair, dir string) {
		t.Helper()
		if _, err := p.writeTo(dir); err != nil {
			t.Fatal(err)
		}
	}

	cases := map[string]struct {
		reason  string
		before  func(t *testing.T, dir string)
		changed bool
		err     bool
		want    pair
	}{
		"NewDirectory": {
			reason:  "A first start has no directory.",
			before:  func(*testing.T, string) {},
			changed: true,
			want:    next,
		},
		"Replace": {
			reason:  "A renewed certificate takes the place of the old one.",
			before:  func(t *testing.T, dir string) { mustWrite(t, old, dir) },
			changed: true,
			want:    next,
		},
		"Same": {
			reason: "A label on the Secret is no reason to reload.",
			before: func(t *testing.T, dir string) { mustWrite(t, next, dir) },
			want:   next,
		},
		"KilledBeforeSwap": {
			reason: "A process killed half-way leaves a directory and a link, and the next must neither trip over them nor leave them.",
			before: func(t *testing.T, dir string) {
				mustWrite(t, old, dir)
				if err := os.Mkdir(filepath.Join(dir, dataPrefix+"left"), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.Symlink(dataPrefix+"left", filepath.Join(dir, dataLink+".next")); err != nil {
					t.Fatal(err)
				}
			},
			changed: true,
			want:    next,
		},
		"SomebodysKey": {
			reason: "A plain file was not made here, and may be the only copy of a key.",
			before: func(t *testing.T, dir string) {
				if err := os.MkdirAll(dir, 0o750); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(dir, keyKey), []byte("precious"), 0o600); err != nil {
					t.Fatal(err)
				}
			},
			err:  true,
			want: pair{keyKey: []byte("precious")},
		},
		"SomebodysLink": {
			reason: "Nor was a link to elsewhere.",
			before: func(t *testing.T, dir string) {
				if err := os.MkdirAll(dir, 0o750); err != nil {
					t.Fatal(err)
				}
				if err := os.Symlink("/nowhere/tls.crt", filepath.Join(dir, certKey)); err != nil {
					t.Fatal(err)
				}
			},
			err:  true,
			want: pair{},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "a", "tls")
			tc.before(t, dir)
			changed, err := next.writeTo(dir)
			if (err != nil) != tc.err {
				t.Fatalf("%s\nerror: %v, want one: %t", tc.reason, err, tc.err)
			}
			if changed != tc.changed {
				t.Errorf("%s\nchanged: %t, want %t", tc.reason, changed, tc.changed)
			}
			if diff := cmp.Diff(tc.want, read(t, dir)); diff != "" {
				t.Errorf("%s\nfiles (-want, +got):\n%s", tc.reason, diff)
			}
			if tc.err {
				return
			}
			entries, err := os.ReadDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			// ..data, ..pair-<one>, tls.crt, tls.key
			if len(entries) != 4 {
				t.Errorf("%s\nleft behind: %v", tc.reason, entries)
			}
			info, err := os.Stat(filepath.Join(dir, keyKey))
			if err != nil {
				t.Fatal(err)
			}
			if info.Mode().Perm() != 0o600 {
				t.Errorf("a private key must be readable by its owner only, not %s", info.Mode().Perm())
			}
		})
	}
}

// TestPairIsSwappedAtOnce reads both files through one look at the link, as a process that opens the directory does, while they
// change as fast as they can.
func TestPairIsSwappedAtOnce(t *testing.T) {
	dir := t.TempDir()
	stop := make(chan struct{})
	var writer sync.WaitGroup
	writer.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			text := strings.Repeat("x", i%2+1)
			if _, err := (pair{certKey: []byte(text), keyKey: []byte(text)}).writeTo(dir); err != nil {
				t.Error(err)
				return
			}
		}
	})
	defer writer.Wait()
	defer close(stop)

	seen := 0
	for deadline := time.Now().Add(20 * time.Second); seen < 500 && time.Now().Before(deadline); {
		data, err := os.Readlink(filepath.Join(dir, dataLink))
		if err != nil {
			continue // The first pair is not there yet.
		}
		cert, certErr := os.ReadFile(filepath.Join(dir, data, certKey))
		key, keyErr := os.ReadFile(filepath.Join(dir, data, keyKey))
		if certErr != nil || keyErr != nil {
			continue // Removed since the link was read: a reader tries again, and gets the next pair.
		}
		if string(cert) != string(key) {
			t.Fatalf("certificate %q with key %q", cert, key)
		}
		seen++
	}
	if seen < 500 {
		t.Fatalf("saw only %d pairs", seen)
	}
}

// startMount runs a Mount until the test ends, and fails the test if it ends before.
func startMount(t *testing.T, m *Mount) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- m.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Start must return nil when it was asked to stop: %v", err)
		}
	})
}

func TestMount(t *testing.T) {
	ca := newCA(t, time.Now())
	first, second := newPair(t, ca), newPair(t, ca)
	mixed := pair{certKey: second[certKey], keyKey: first[keyKey]}

	s := newSecretServer(t)
	dir := filepath.Join(t.TempDir(), "tls")
	startMount(t, &Mount{Client: s.client(t), Secret: testSecret, Dir: dir})
	eventually(t, "the watch", func() bool { return s.watching() == 1 })

	steps := []struct {
		name, reason string
		do           func()
		want         pair
	}{
		{
			name:   "Missing",
			reason: "A Secret that does not exist yet is waited for.",
			do:     func() {},
			want:   pair{},
		},
		{
			name:   "Empty",
			reason: "The Secret is shipped empty: half a pair, or none, must not reach the disk.",
			do:     func() { s.set(map[string][]byte{}) },
			want:   pair{},
		},
		{
			name:   "Filled",
			reason: "What the rotator wrote appears.",
			do:     func() { s.set(first) },
			want:   first,
		},
		{
			name:   "Mixed",
			reason: "A certificate with another's key would take the server down at its next start; the last good pair stays.",
			do:     func() { s.set(mixed) },
			want:   first,
		},
		{
			name:   "Renewed",
			reason: "A renewed pair takes the place of the old one.",
			do:     func() { s.set(second) },
			want:   second,
		},
		{
			name:   "Deleted",
			reason: "The kubelet keeps the files of a deleted Secret, and serving on is better than not.",
			do:     func() { s.set(nil) },
			want:   second,
		},
		{
			name:   "Recreated",
			reason: "A restored Secret is followed again.",
			do:     func() { s.set(first) },
			want:   first,
		},
		{
			name:   "AfterLostConnection",
			reason: "An API server that restarts ends every watch; what changed meanwhile must still arrive.",
			do: func() {
				s.setDown(t, true)
				s.set(second)
				s.setDown(t, false)
			},
			want: second,
		},
	}
	for _, step := range steps {
		step.do()
		eventually(t, step.name+": "+step.reason, func() bool { return equal(step.want, read(t, dir)) })
	}

	requests, refused := s.counts()
	if len(refused) > 0 {
		t.Errorf("only this Secret may be asked for, so that a role can grant it by name; asked for %q", refused)
	}
	if requests > 10 {
		t.Errorf("%d requests for %d steps: the Secret is to be watched, not polled", requests, len(steps))
	}
}

func equal(a, b pair) bool { return cmp.Equal(a, b) }

func TestMountCannotWrite(t *testing.T) {
	s := newSecretServer(t)
	s.set(newPair(t, newCA(t, time.Now())))
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, certKey), []byte("somebody's"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := (&Mount{Client: s.client(t), Secret: testSecret, Dir: dir}).Start(t.Context()); err == nil {
		t.Error("a directory that cannot be written must be an error, or the server would wait for ever without a word")
	}
}

// TestHotReload changes the Secret under a running TLS server and looks at what clients are shown. Nothing is restarted, and no
// handshake fails on the way, also when the CA changes with the certificate.
func TestHotReload(t *testing.T) {
	oldCA, newerCA := newCA(t, time.Now().Add(-time.Hour)), newCA(t, time.Now())
	s := newSecretServer(t)
	s.set(newPair(t, oldCA))
	dir := filepath.Join(t.TempDir(), "tls")
	startMount(t, &Mount{Client: s.client(t), Secret: testSecret, Dir: dir})
	eventually(t, "the first pair", func() bool { return len(read(t, dir)) == 2 })

	watcher, err := certwatcher.New(filepath.Join(dir, certKey), filepath.Join(dir, keyKey))
	if err != nil {
		t.Fatal(err)
	}
	// Only the change of the files may cause a reload: the periodic look is put off beyond the test.
	watcher.WithWatchInterval(time.Hour)
	go func() {
		if err := watcher.Start(t.Context()); err != nil {
			t.Error(err)
		}
	}()
	server := httptest.NewUnstartedServer(http.NotFoundHandler())
	server.TLS = &tls.Config{GetCertificate: watcher.GetCertificate, MinVersion: tls.VersionTLS12}
	server.StartTLS()
	t.Cleanup(server.Close)

	// shown dials as the API server does: verified, by name, with the bundle.
	shown := func(roots []byte) *x509.Certificate {
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(roots)
		conn, err := tls.Dial("tcp", server.Listener.Addr().String(), &tls.Config{RootCAs: pool, ServerName: "istag-webhook.istag-system.svc", MinVersion: tls.VersionTLS12})
		if err != nil {
			t.Fatalf("a client that trusts the bundle must always get through: %v", err)
		}
		defer func() { _ = conn.Close() }()
		return conn.ConnectionState().PeerCertificates[0]
	}

	steps := []struct {
		name, reason string
		roots        []byte
		next         pair
	}{
		{
			name:   "Renewed",
			reason: "A renewed certificate of the same CA needs no change of trust.",
			roots:  oldCA.CertPEM,
			next:   newPair(t, oldCA),
		},
		{
			name:   "CAReplaced",
			reason: "With the overlapping bundle, clients verify the old certificate and the new one.",
			roots:  pemOf(bundle(certificates(oldCA.CertPEM), certificates(newerCA.CertPEM), time.Now())),
			next:   newPair(t, newerCA),
		},
		{
			name:   "RenewedAgain",
			reason: "The watch of the files must survive every swap, not only the first.",
			roots:  newerCA.CertPEM,
			next:   newPair(t, newerCA),
		},
	}
	for _, step := range steps {
		shown(step.roots) // The API server's trust is changed before the files.
		s.set(step.next)
		want := certificates(step.next[certKey])
		eventually(t, step.name+": "+step.reason, func() bool {
			return slices.ContainsFunc(want, shown(step.roots).Equal)
		})
	}
}

func pemOf(b []byte, _ time.Duration) []byte { return b }
