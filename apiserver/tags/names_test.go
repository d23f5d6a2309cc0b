package tags

import (
	"strings"
	"testing"

	"github.com/google/uuid"
	"k8s.io/apimachinery/pkg/types"

	"istag.dev/store"
	storev1 "istag.dev/store/v1"
)

func TestSplitName(t *testing.T) {
	for name, want := range map[string][2]string{
		"s:t": {"s", "t"}, "a_b:1.0-x": {"a_b", "1.0-x"},
		"": {}, "s": {}, ":t": {}, "s:": {}, ":": {}, "s:t:u": {}, "s::t": {}, "s@sha256:abc": {}, "s:t@x": {},
	} {
		stream, tag, ok := splitName(name)
		if stream != want[0] || tag != want[1] || ok != (want[0] != "") {
			t.Errorf("splitName(%q) = %q, %q, %t: want %q, with exactly one \":\", something on either side of it, and no \"@\"", name, stream, tag, ok, want)
		}
	}
}

func FuzzSplitName(f *testing.F) {
	for _, seed := range []string{"s:t", "s", ":", "s:t:u", "s@sha256:0", "é:\x00"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, name string) {
		stream, tag, ok := splitName(name)
		if !ok {
			if stream != "" || tag != "" {
				t.Errorf("%q was refused and still gave %q and %q", name, stream, tag)
			}
			return
		}
		if store.TagName(stream, tag) != name || stream == "" || tag == "" || strings.ContainsAny(stream+tag, ":@") {
			t.Errorf("%q was taken apart into %q and %q", name, stream, tag)
		}
	})
}

func TestUID(t *testing.T) {
	const streamUID = "0b5a4d1c-7a0e-4b53-9a65-3d1f6d4f1a11"
	record := &storev1.StreamRecord{}
	if got := uid(record, "t"); got != "" {
		t.Errorf("the tag of a stream that is not stored has the UID %q: handlers would take it for an object that exists", got)
	}
	record.UID = streamUID
	got := uid(record, "t")
	if want := types.UID(uuid.NewSHA1(uuid.MustParse(streamUID), []byte("t")).String()); got != want {
		t.Errorf("got %q, want the UUIDv5 of the stream's UID and the tag, %q: it is the same on every replica", got, want)
	}
	if got == uid(record, "u") {
		t.Error("two tags have one UID: the garbage collector takes them for one object")
	}
	record.UID = "not a UUID"
	if a, b := uid(record, "t"), uid(record, "u"); a == b || uuid.Validate(string(a)) != nil {
		t.Errorf("with a stream whose UID is not a UUID, got %q and %q: want two UUIDs", a, b)
	}
	if !isUID(record, "t", "not a UUID") || !isUID(record, "t", uid(record, "t")) || isUID(record, "t", uid(record, "u")) {
		t.Error("a tag is meant by its own UID and, as in OpenShift, by its stream's, and by no other")
	}
}
