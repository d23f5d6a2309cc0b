package audit

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"

	"istag.dev/config"
)

func record(uid string) Record {
	return Record{
		APIVersion: APIVersion, Time: time.Date(2030, 1, 2, 3, 4, 5, 600, time.UTC), UID: types.UID(uid),
		User: "system:serviceaccount:argocd:argocd-application-controller", Namespace: "shop", Kind: "Deployment.apps", Name: "keycloak",
		Operation: "CREATE", Webhook: "pin", Mode: "enforce", Container: "keycloak", Written: "keycloak:20.0", Istag: "keycloak:20.0",
		PullSpec: "quay.io/keycloak/keycloak@sha256:" + strings.Repeat("a", 64), StreamGeneration: 4, MovedBy: "alice",
		Decision: "pinned", Reason: "LocalLookup", DurationMicros: 81,
	}
}

// uids returns the UIDs of the records in a text, in order; every line has to be one record.
func uids(t *testing.T, text []byte) []string {
	t.Helper()
	var got []string
	for line := range bytes.Lines(text) {
		var r Record
		if err := json.Unmarshal(bytes.TrimSuffix(line, []byte("\n")), &r, json.RejectUnknownMembers(true)); err != nil {
			t.Fatalf("a line is one whole record: %v in %q", err, line)
		}
		got = append(got, string(r.UID))
	}
	return got
}

// slow is a disk on which a write takes until it is let go.
type slow struct {
	begun chan []byte
	end   chan error
}

func (s slow) Write(p []byte) (int, error) {
	s.begun <- bytes.Clone(p)
	if err := <-s.end; err != nil {
		return 0, err
	}
	return len(p), nil
}

// TestBatch shows that those who come while somebody writes share the next write, and its error.
func TestBatch(t *testing.T) {
	const others = 31
	disk := slow{make(chan []byte), make(chan error)}
	l := NewLog(disk)
	first := make(chan error, 1)
	go func() { first <- l.Write([]Record{record("first")}) }()
	if got := uids(t, <-disk.begun); !cmp.Equal(got, []string{"first"}) {
		t.Errorf("who finds nobody writing writes at once: %q", got)
	}

	var answered atomic.Int32
	errs := make(chan error, others)
	for i := range others {
		go func() {
			err := l.Write([]Record{record(strconv.Itoa(i)), record(strconv.Itoa(i))})
			answered.Add(1)
			errs <- err
		}()
	}
	want := bytes.Count(encode(record("0"), record("0")), []byte{'\n'}) * others
	await(t, "all the others wait", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.pending != nil && bytes.Count(l.pending.lines, []byte{'\n'}) == want
	})
	disk.end <- nil
	if err := <-first; err != nil {
		t.Error(err)
	}
	together := uids(t, <-disk.begun)
	if len(together) != 2*others {
		t.Fatalf("one write takes all who waited: %d records", len(together))
	}
	for i := 0; i < len(together); i += 2 {
		if together[i] != together[i+1] {
			t.Errorf("the records of one review stay together: %q", together)
		}
	}
	if n := answered.Load(); n != 0 {
		t.Errorf("%d reviews were answered before they were recorded", n)
	}
	broken := errors.New("disk full")
	disk.end <- broken
	for range others {
		if err := <-errs; !errors.Is(err, broken) {
			t.Errorf("the error of a write is that of everyone in it: %v", err)
		}
	}

	go func() { errs <- l.Write([]Record{record("last")}) }()
	<-disk.begun
	disk.end <- nil
	if err := <-errs; err != nil {
		t.Errorf("an error is not remembered: %v", err)
	}
}

func TestClose(t *testing.T) {
	disk := slow{make(chan []byte), make(chan error)}
	closed := make(chan error, 1)
	l := newLog(closer{disk, func() error { return errors.New("closed") }})
	written := make(chan error, 1)
	go func() { written <- l.Write([]Record{record("1")}) }()
	<-disk.begun
	go func() { closed <- l.Close() }()
	await(t, "the log is closed", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.closed
	})
	if err := l.Write([]Record{record("2")}); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("a write after it fails: %v", err)
	}
	select {
	case err := <-closed:
		t.Errorf("what was begun is written first: %v", err)
	default:
	}
	disk.end <- nil
	if err := <-written; err != nil {
		t.Error(err)
	}
	if err := <-closed; err == nil {
		t.Error("the file's own error is told")
	}
}

type closer struct {
	io.Writer
	close func() error
}

func (c closer) Close() error { return c.close() }

// TestTorn shows that a line which broke off costs no other line.
func TestTorn(t *testing.T) {
	var out bytes.Buffer
	short := true
	l := NewLog(writer(func(p []byte) (int, error) {
		if short {
			short = false
			out.Write(p[:10])
			return 10, io.ErrShortWrite
		}
		return out.Write(p)
	}))
	if err := l.Write([]Record{record("1")}); !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("a record that is not whole is not recorded: %v", err)
	}
	for _, uid := range []string{"2", "3"} {
		if err := l.Write([]Record{record(uid)}); err != nil {
			t.Fatal(err)
		}
	}
	_, rest, _ := bytes.Cut(out.Bytes(), []byte{'\n'})
	if got := uids(t, rest); !cmp.Equal(got, []string{"2", "3"}) {
		t.Errorf("what follows a torn line has lines of its own: %q", got)
	}
}

type writer func([]byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

func TestWriteNothing(t *testing.T) {
	l := NewLog(writer(func([]byte) (int, error) { return 0, errors.New("written") }))
	if err := l.Write(nil); err != nil {
		t.Errorf("a review without images writes nothing: %v", err)
	}
}

func TestWriteParallel(t *testing.T) {
	const writers, each = 32, 200
	path := filepath.Join(t.TempDir(), "audit.log")
	l := open(t, config.AuditLog{Path: path, MaxSizeMB: 100})
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				if err := l.Write([]Record{record(strconv.Itoa(w*each + i))}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	next := map[int]int{}
	for _, uid := range uids(t, read(t, path)) {
		n, err := strconv.Atoi(uid)
		if err != nil || n%each != next[n/each] {
			t.Fatalf("everyone's records are there, in their order: %q after %d", uid, next[n/each])
		}
		next[n/each]++
	}
	for w := range writers {
		if next[w] != each {
			t.Errorf("writer %d wrote %d records, %d are there", w, each, next[w])
		}
	}
}

func BenchmarkWrite(b *testing.B) {
	for name, each := range map[string]int{"1": 0, "32": 16} {
		b.Run(name, func(b *testing.B) {
			l := open(b, config.AuditLog{Path: filepath.Join(b.TempDir(), "audit.log"), MaxSizeMB: 10_000})
			records := []Record{record("5c2f0c5e-8b1a-4c39-9df2-4f4c9a3b2d11")}
			b.ReportAllocs()
			if each == 0 {
				for b.Loop() {
					if err := l.Write(records); err != nil {
						b.Fatal(err)
					}
				}
				return
			}
			b.SetParallelism(each) // times the processors
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if err := l.Write(records); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}

func open(tb testing.TB, c config.AuditLog) *Log {
	tb.Helper()
	l, err := Open(c)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { l.Close() })
	return l
}

func read(tb testing.TB, path string) []byte {
	tb.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	return text
}

func encode(records ...Record) []byte {
	var lines []byte
	for i := range records {
		lines = appendRecord(lines, &records[i])
	}
	return lines
}
