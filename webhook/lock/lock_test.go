package lock

import (
	"encoding/json"
	"maps"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/util/validation"

	"istag.dev/resolver"
)

const digest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// example is a lock of the names given.
func example(names ...string) Lock {
	l := Lock{}
	for _, name := range names {
		l[name] = resolver.Pin{Written: name, Istag: name, PullSpec: "quay.io/a/" + name + "@" + digest, Generation: 3}
	}
	return l
}

// written returns the labels and annotations of a revision that has a lock.
func written(l Lock) (labels, annotations map[string]string) {
	label, key, value := l.Text()
	return map[string]string{"app": "x", Label: label}, map[string]string{"a": "b", key: value}
}

func TestText(t *testing.T) {
	for reason, l := range map[string]Lock{
		"one name":                       example("keycloak:20.0"),
		"several":                        example("a:1", "b:2", "c:3"),
		"a name with what JSON escapes":  example(`<a&"b">`, "\u2028é"),
		"nothing is a lock to nothing":   {},
		"a name longer than any label":   example(strings.Repeat("n", 5000)),
		"no map, as one without entries": nil,
	} {
		label, key, value := l.Text()
		if wrong := validation.IsValidLabelValue(label); label == "" || len(wrong) > 0 {
			t.Errorf("%s: the API server refuses the label %q: %v", reason, label, wrong)
		}
		if wrong := validation.IsQualifiedName(key); len(wrong) > 0 {
			t.Errorf("%s: the API server refuses the annotation %q: %v", reason, key, wrong)
		}
		if !Stray(key) {
			t.Errorf("%s: %q is to be known as the annotation of a lock", reason, key)
		}
		got, ok := Read(map[string]string{Label: label}, map[string]string{key: value})
		if want := maps.Clone(l); !ok || !cmp.Equal(want, got) && len(want)+len(got) > 0 {
			t.Errorf("%s: what is read is not what was written: %v (-want +got):\n%s", reason, ok, cmp.Diff(want, got))
		}
	}
	// Revisions live longer than a version of istag: what one has written every later one must read.
	label, key, value := example("a:1").Text()
	want := []string{
		"55sq3rdiv5ymab2ydu454ivd65rw7o5r23wds4muewjkvxedkviq",
		"lock.istag.dev/55sq3rdiv5ymab2ydu454ivd65rw7o5r23wds4muewjkvxedkviq",
		`{"a:1":{"written":"a:1","istag":"a:1","pullSpec":"quay.io/a/a:1@` + digest + `","generation":3}}`,
	}
	if diff := cmp.Diff(want, []string{label, key, value}); diff != "" {
		t.Errorf("the form of a lock (-want +got):\n%s", diff)
	}
	first, _, _ := example("a:1", "b:2", "c:3", "d:4").Text()
	for range 100 {
		if again, _, _ := example("d:4", "c:3", "b:2", "a:1").Text(); again != first {
			t.Fatalf("equal locks must be one text, or revisions change for nothing: %q, %q", first, again)
		}
	}
	if other, _, _ := example("a:1", "b:2", "c:3", "d:5").Text(); other == first {
		t.Error("other locks must have other labels")
	}
}

func TestRead(t *testing.T) {
	mine, theirs := example("a:1"), example("b:2")
	label, key, value := mine.Text()
	other, otherKey, otherValue := theirs.Text()
	hashed := func(text string) (string, string) { return labelOf(text), annotationPrefix + labelOf(text) }
	null, nullKey := hashed("null")
	list, listKey := hashed("[]")
	twice, twiceKey := hashed(`{"a":{},"a":{}}`)
	newer, newerKey := hashed(`{"a":{"pullSpec":"x@y","new":1}}`)
	type texts = map[string]string
	cases := []struct {
		reason              string
		labels, annotations texts
		want                Lock
		ok                  bool
	}{
		{"a lock", texts{Label: label}, texts{key: value}, mine, true},
		{"nothing", nil, nil, nil, false},
		{"an annotation that was copied here is another revision's", nil, texts{key: value}, nil, false},
		{"it does not matter beside our own", texts{Label: label}, texts{key: value, otherKey: otherValue}, mine, true},
		{"our own that was lost is not replaced by it", texts{Label: label}, texts{otherKey: otherValue}, nil, false},
		{"a label that came from the template says nothing", texts{Label: "yes"}, texts{annotationPrefix + "yes": value}, nil, false},
		{"an empty one neither", texts{Label: ""}, texts{annotationPrefix: value}, nil, false},
		{"what was changed is no lock", texts{Label: label}, texts{key: strings.Replace(value, "a:1", "a:2", 1)}, nil, false},
		{"what was cut is no lock", texts{Label: label}, texts{key: value[:len(value)-1]}, nil, false},
		{"one lock in the place of another is no lock", texts{Label: label}, texts{key: otherValue}, nil, false},
		{"under its own key it is one", texts{Label: other}, texts{otherKey: otherValue}, theirs, true},
		{"a hash does not make a lock of what is none", texts{Label: null}, texts{nullKey: "null"}, nil, false},
		{"whatever it is", texts{Label: list}, texts{listKey: "[]"}, nil, false},
		{"there is one way to read a lock", texts{Label: twice}, texts{twiceKey: `{"a":{},"a":{}}`}, nil, false},
		{"a newer istag may say more", texts{Label: newer}, texts{newerKey: `{"a":{"pullSpec":"x@y","new":1}}`}, Lock{"a": {PullSpec: "x@y"}}, true},
	}
	for _, tc := range cases {
		got, ok := Read(tc.labels, tc.annotations)
		if diff := cmp.Diff(tc.want, got); ok != tc.ok || ok && diff != "" {
			t.Errorf("%s: Read = %v (-want +got):\n%s", tc.reason, ok, diff)
		}
	}
}

func TestStray(t *testing.T) {
	for key, want := range map[string]bool{
		"lock.istag.dev/abc":     true,
		"lock.istag.dev/":        true, // the API server refuses it anyway
		"istag.dev/pinned":       false,
		"istag.dev/lock":         false,
		"xlock.istag.dev/abc":    false,
		"lock.istag.dev.x/a":     false,
		"example.com/lock.istag": false,
	} {
		if got := Stray(key); got != want {
			t.Errorf("Stray(%q) = %v", key, got)
		}
	}
}

// FuzzRead reads what whoever may write a revision can put on it, with the right hash and with another.
func FuzzRead(f *testing.F) {
	_, _, value := example("a:1", "b:2").Text()
	for _, text := range []string{value, "{}", "null", "[]", "", `{"a":1}`, `{"a":{},"a":{}}`, `{"a":{"generation":1e400}}`, "{\"\xff\":{}}", `{"\ud800":{}}`} {
		f.Add(text, "x")
	}
	f.Fuzz(func(t *testing.T, text, label string) {
		right := labelOf(text)
		if wrong := validation.IsValidLabelValue(right); len(wrong) > 0 {
			t.Fatalf("label %q: %v", right, wrong)
		}
		if l, ok := Read(map[string]string{Label: right}, map[string]string{annotationPrefix + right: text}); ok {
			if !json.Valid([]byte(text)) {
				t.Errorf("%q is not JSON, and was read as %v", text, l)
			}
			again, ok := Read(written(l))
			if !ok || !cmp.Equal(l, again) {
				t.Errorf("%q does not stay what it is (-first +second):\n%s", text, cmp.Diff(l, again))
			}
		}
		if label == right {
			t.Skip()
		}
		if l, ok := Read(map[string]string{Label: label}, map[string]string{annotationPrefix + label: text}); ok {
			t.Errorf("label %q is not made from %q, and was read as %v", label, text, l)
		}
	})
}
