package audit

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"

	"istag.dev/config"
)

// await returns when a condition holds.
func await(t *testing.T, what string, met func() bool) {
	t.Helper()
	if err := wait.PollUntilContextTimeout(t.Context(), time.Millisecond, time.Minute, true, func(context.Context) (bool, error) { return met(), nil }); err != nil {
		t.Fatalf("waiting until %s: %v", what, err)
	}
}

// files returns the log's files by their names, whole ones and the one that is written.
func files(t *testing.T, dir string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "audit*.log"))
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestRotate(t *testing.T) {
	const many = 12_000
	dir := t.TempDir()
	path := filepath.Join(dir, "audit.log")
	l := open(t, config.AuditLog{Path: path, MaxSizeMB: 1})
	for i := range many {
		if err := l.Write([]Record{record(strconv.Itoa(i))}); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	names := files(t, dir)
	if len(names) < 4 {
		t.Errorf("files are put aside by their size: %q", names)
	}
	seen := map[string]bool{}
	for _, name := range names {
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("nobody else may read who runs what: %s has %s", name, info.Mode())
		}
		if info.Size() > 1<<20+1000 {
			t.Errorf("%s has %d bytes", name, info.Size())
		}
		for _, uid := range uids(t, read(t, name)) {
			seen[uid] = true
		}
	}
	if len(seen) != many {
		t.Errorf("of %d records %d are in the files, and none but the administrator's limit takes any away", many, len(seen))
	}
}

// TestRotateAtOnce writes more in a moment than the names of the files can tell apart.
func TestRotateAtOnce(t *testing.T) {
	const rounds, each = 10, 3000
	dir := t.TempDir()
	l := open(t, config.AuditLog{Path: filepath.Join(dir, "audit.log"), MaxSizeMB: 1})
	records := make([]Record, each)
	for round := range rounds {
		for i := range records {
			records[i] = record(strconv.Itoa(round*each + i))
		}
		if err := l.Write(records); err != nil {
			t.Fatal(err)
		}
	}
	got := 0
	for _, name := range files(t, dir) {
		got += len(uids(t, read(t, name)))
	}
	if got != rounds*each {
		t.Errorf("of %d records %d are in the files", rounds*each, got)
	}
}

func TestRotateKeepsSome(t *testing.T) {
	const each = 3000 // records fill a file
	dir := t.TempDir()
	l := open(t, config.AuditLog{Path: filepath.Join(dir, "audit.log"), MaxSizeMB: 1, MaxFiles: 2})
	records := make([]Record, each)
	for i := range records {
		records[i] = record("x")
	}
	for range 6 {
		nextMilli(t)
		if err := l.Write(records); err != nil {
			t.Fatal(err)
		}
	}
	await(t, "no more are kept than were asked for", func() bool { return len(files(t, dir)) == 3 })
}

// nextMilli waits for the names of files to be others.
func nextMilli(t *testing.T) {
	t.Helper()
	now := time.Now().UnixMilli()
	await(t, "another millisecond began", func() bool { return time.Now().UnixMilli() != now })
}

// TestRemoved shows that a file which somebody took away is made again once it is full.
func TestRemoved(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	l := open(t, config.AuditLog{Path: path, MaxSizeMB: 1})
	if err := l.Write([]Record{record("1")}); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	l.out.(*rotated).size = 1 << 20
	if err := l.Write([]Record{record("2")}); err != nil {
		t.Error(err)
	}
	if got := uids(t, read(t, path)); len(got) != 1 || got[0] != "2" {
		t.Errorf("the new file has what came after: %q", got)
	}
}

// TestRotateFails shows that trouble with the files is told, and ends with its cause.
func TestRotateFails(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "logs")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	l := open(t, config.AuditLog{Path: filepath.Join(dir, "audit.log"), MaxSizeMB: 1})
	if err := l.Write([]Record{record("1")}); err != nil {
		t.Fatal(err)
	}
	// A file takes the folder's place: not even root can make another in it.
	for _, change := range []func() error{
		func() error { return os.RemoveAll(dir) },
		func() error { return os.WriteFile(dir, nil, 0o600) },
	} {
		if err := change(); err != nil {
			t.Fatal(err)
		}
	}
	r := l.out.(*rotated)
	r.size = 1 << 20
	if err := l.Write([]Record{record("2")}); err == nil {
		t.Error("an administrator is told that the file cannot be put aside")
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	if err := l.Write([]Record{record("3")}); err != nil {
		t.Errorf("once there is room again, the next record makes the file: %v", err)
	}
	if got := uids(t, read(t, filepath.Join(dir, "audit.log"))); len(got) != 1 {
		t.Errorf("the file is whole: %q", got)
	}
}

func TestOpen(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "audit.log")
	for _, uid := range []string{"1", "2"} {
		l := open(t, config.AuditLog{Path: path, MaxSizeMB: 1})
		if err := l.Write([]Record{record(uid)}); err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
	if got := uids(t, read(t, path)); len(got) != 2 {
		t.Errorf("a new process appends: %q", got)
	}
	if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	l := open(t, config.AuditLog{Path: path, MaxSizeMB: 1})
	if err := l.Write([]Record{record("3")}); err != nil {
		t.Fatal(err)
	}
	if got := uids(t, read(t, path)); len(got) != 1 {
		t.Errorf("a file that was full already is put aside: %q", got)
	}

	if l, err := Open(config.AuditLog{Path: "-"}); err != nil || l.out != (keepOpen{os.Stdout}) {
		t.Errorf("- is standard output: %v", err)
	}
	if _, err := Open(config.AuditLog{Path: filepath.Join(dir, "none", "audit.log")}); err == nil || !strings.Contains(err.Error(), "none") {
		t.Errorf("a file that cannot be made is told at the start: %v", err)
	}
	if l := open(t, config.AuditLog{Path: os.DevNull, MaxSizeMB: 1}); fmt.Sprintf("%T", l.out) != "*os.File" {
		t.Errorf("a device is not put aside: %T", l.out)
	}
}
