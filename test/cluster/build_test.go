package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestFind(t *testing.T) {
	put := func(t *testing.T, dir string, names ...string) string {
		t.Helper()
		for _, name := range names {
			if err := os.WriteFile(filepath.Join(dir, name), nil, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		return dir
	}
	cases := map[string]struct {
		reason         string
		built, assets  []string
		missing        []string
		fromAssetsOnly []string
	}{
		"nothing":       {reason: "everything is to be built", missing: binaries},
		"all built":     {reason: "nothing is built twice", built: binaries},
		"assets":        {reason: "what the user has is used", built: binaries, assets: []string{"etcd", "kubectl"}, fromAssetsOnly: []string{"etcd", "kubectl"}},
		"assets alone":  {reason: "only the rest is built", assets: binaries, missing: []string{"registry"}, fromAssetsOnly: []string{"etcd"}},
		"half finished": {reason: "an unfinished binary is none", built: []string{".etcd.unfinished"}, missing: binaries},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			dir, assets := put(t, t.TempDir(), tc.built...), put(t, t.TempDir(), tc.assets...)
			b := &Built{Dir: dir, Paths: map[string]string{}}
			if missing := b.find(assets); !slices.Equal(missing, tc.missing) {
				t.Errorf("%s: missing %v, want %v", tc.reason, missing, tc.missing)
			}
			for _, name := range tc.fromAssetsOnly {
				if got, want := b.Paths[name], filepath.Join(assets, name); got != want {
					t.Errorf("%s: %s is %q, want %q", tc.reason, name, got, want)
				}
			}
		})
	}
}

func TestLockIsExclusive(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	release, err := lock(t.Context(), path, nil)
	if err != nil {
		t.Fatal(err)
	}
	taken := errors.New("taken")
	ctx, cancel := context.WithCancelCause(t.Context())
	if _, err := lock(ctx, path, func() { cancel(taken) }); !errors.Is(err, taken) {
		t.Errorf("a second holder must wait until its context ends, and say why: %v", err)
	}
	release()
	release, err = lock(t.Context(), path, func() { t.Error("nobody holds the lock any more") })
	if err != nil {
		t.Fatal(err)
	}
	release()
}
