package main

import (
	"maps"
	"runtime"
	"strings"
	"testing"
)

func TestVersionsAreThoseOfGoMod(t *testing.T) {
	found, err := versions()
	if err != nil {
		t.Fatal(err)
	}
	for part := range parts {
		if !strings.HasPrefix(found[part], "v") {
			t.Errorf("%s has version %q", part, found[part])
		}
	}
}

func TestBuildKey(t *testing.T) {
	base, err := versions()
	if err != nil {
		t.Fatal(err)
	}
	key := func(versions map[string]string) string {
		key, err := buildKey(versions)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	if key(base) != key(maps.Clone(base)) {
		t.Error("equal versions must share a folder, or each run would build anew")
	}
	for part := range parts {
		changed := maps.Clone(base)
		changed[part] = "v0.0.1"
		if key(changed) == key(base) {
			t.Errorf("another version of %s must not use the binaries of this one", part)
		}
	}
	for _, want := range []string{runtime.Version(), runtime.GOARCH} {
		if !strings.Contains(key(base), want) {
			t.Errorf("key %q does not name %q", key(base), want)
		}
	}
	if strings.ContainsAny(key(base), "/ \\") {
		t.Errorf("key %q is not the name of one folder", key(base))
	}
}

func TestLinkerFlagsSetTheVersion(t *testing.T) {
	flags := linkerFlags(map[string]string{"kubernetes": "v1.36.3"})
	for _, want := range []string{"version.gitVersion=v1.36.3", "version.gitMajor=1", "version.gitMinor=36"} {
		if !strings.Contains(flags, want) {
			t.Errorf("linker flags lack %q: %s", want, flags)
		}
	}
}
