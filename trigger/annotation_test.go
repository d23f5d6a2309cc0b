package trigger

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestParse(t *testing.T) {
	web := Trigger{From: From{Kind: "ImageStreamTag", Name: "keycloak:20.0"}, FieldPath: "p"}
	pausedWeb := web
	pausedWeb.Paused = true
	cases := map[string]struct {
		reason     string
		annotation string
		want       []Trigger
		// wantErr holds what the error must tell: where, what, and what to do.
		wantErr []string
	}{
		"NoAnnotation": {
			reason: "no text is no triggers",
		},
		"Null": {
			reason:     "oc set triggers --remove-all writes null, which means no triggers",
			annotation: `null`,
		},
		"EmptyList": {
			reason:     "an empty list is no triggers",
			annotation: `[]`,
			want:       []Trigger{},
		},
		"One": {
			reason:     "the usual form",
			annotation: `[{"from":{"kind":"ImageStreamTag","name":"keycloak:20.0"},"fieldPath":"p"}]`,
			want:       []Trigger{web},
		},
		"AllKeys": {
			reason:     "every key of the format is read",
			annotation: `[{"from":{"kind":"ImageStreamTag","name":"keycloak:20.0","namespace":"other","apiVersion":"v1"},"fieldPath":"p","paused":true}]`,
			want:       []Trigger{{From: From{Kind: "ImageStreamTag", Name: "keycloak:20.0", Namespace: "other", APIVersion: "v1"}, FieldPath: "p", Paused: true}},
		},
		"KeysInAnyCase": {
			reason:     "as in OpenShift, which decodes with encoding/json, keys may be in any case",
			annotation: `[{"FROM":{"Kind":"ImageStreamTag","NAME":"keycloak:20.0"},"FieldPATH":"p","PAUSED":true}]`,
			want:       []Trigger{pausedWeb},
		},
		"UnknownKeys": {
			reason:     "unknown keys are ignored, as in OpenShift: \"pause\" pauses nothing",
			annotation: `[{"from":{"kind":"ImageStreamTag","name":"keycloak:20.0","uid":"x"},"fieldPath":"p","pause":true,"lastTriggeredImage":""}]`,
			want:       []Trigger{web},
		},
		"PausedFalse": {
			reason:     "paused may be said to be false",
			annotation: `[{"from":{"kind":"ImageStreamTag","name":"keycloak:20.0"},"fieldPath":"p","paused":false}]`,
			want:       []Trigger{web},
		},
		"PausedNull": {
			reason:     "null is as good as absent",
			annotation: `[{"from":{"kind":"ImageStreamTag","name":"keycloak:20.0"},"fieldPath":"p","paused":null}]`,
			want:       []Trigger{web},
		},
		"PausedTextFalse": {
			reason:     "OpenShift's console wrote the text \"false\", whose meaning is plain",
			annotation: `[{"from":{"kind":"ImageStreamTag","name":"keycloak:20.0"},"fieldPath":"p","paused":"false"}]`,
			want:       []Trigger{web},
		},
		"PausedTextTrue": {
			reason:     "the text \"true\" must pause, or the user gets what they asked us not to do",
			annotation: `[{"from":{"kind":"ImageStreamTag","name":"keycloak:20.0"},"fieldPath":"p","paused":"true"}]`,
			want:       []Trigger{pausedWeb},
		},
		"PausedOtherText": {
			reason:     "any other text has no plain meaning",
			annotation: `[{"fieldPath":"p"},{"fieldPath":"q","paused":"yes"}]`,
			wantErr:    []string{"byte 19", "entry 1", `paused is "yes"`, "true or false"},
		},
		"PausedNumber": {
			reason:     "a number is no answer to whether it is paused",
			annotation: `[{"paused":1}]`,
			wantErr:    []string{"byte 1", "entry 0", "paused is 1", "true or false"},
		},
		"NotJSON": {
			reason:     "text that is not JSON is refused, and the error says where it goes wrong",
			annotation: `[{"from":nonsense}]`,
			wantErr:    []string{"byte 11", "not JSON", `"kind":"ImageStreamTag"`},
		},
		"SingleQuotes": {
			reason:     "single quotes are not JSON",
			annotation: `[{'from':{}}]`,
			wantErr:    []string{"byte 3", "not JSON"},
		},
		"CutShort": {
			reason:     "half an annotation is not JSON",
			annotation: `[{"from":`,
			wantErr:    []string{"byte 9", "not JSON"},
		},
		"Blank": {
			reason:     "blanks are not JSON either",
			annotation: ` `,
			wantErr:    []string{"byte 1", "not JSON"},
		},
		"TextAfterIt": {
			reason:     "a second value after the list is refused",
			annotation: `[] []`,
			wantErr:    []string{"byte 4", "not JSON"},
		},
		"Object": {
			reason:     "a single trigger outside a list is the commonest mistake",
			annotation: `{"from":{"kind":"ImageStreamTag","name":"keycloak:20.0"},"fieldPath":"p"}`,
			wantErr:    []string{"JSON object, not a list", `[{"from":`},
		},
		"Text": {
			reason:     "a list that was encoded twice is a text",
			annotation: `"[]"`,
			wantErr:    []string{"JSON string, not a list"},
		},
		"EntryNotAnObject": {
			reason:     "the entry is named by its number and its place",
			annotation: `[{"fieldPath":"p"}, "keycloak:20.0"]`,
			wantErr:    []string{"byte 20", "entry 1", "JSON string, not an object"},
		},
		"NameIsANumber": {
			reason:     "one value of the wrong type spoils the annotation, and the error names the field",
			annotation: `[{"from":{"kind":"ImageStreamTag","name":20.0},"fieldPath":"p"}]`,
			wantErr:    []string{"entry 0", "from.name is a JSON number", "must be a JSON string"},
		},
		"FromIsText": {
			reason:     "the short form of a source is not OpenShift's",
			annotation: `[{"from":"keycloak:20.0","fieldPath":"p"}]`,
			wantErr:    []string{"entry 0", "from is a JSON string", "must be a JSON object"},
		},
		"NullEntry": {
			reason:     "null decodes to an entry without anything, which follows nothing",
			annotation: `[null]`,
			want:       []Trigger{{}},
		},
		"DuplicatePath": {
			reason:     "one container cannot follow two tags, so OpenShift refuses the whole annotation",
			annotation: `[{"fieldPath":"p"},{"fieldPath":"q"},{"fieldPath":"p","paused":true}]`,
			wantErr:    []string{"byte 37", "entry 2", `fieldPath "p" is that of entry 0`, "remove one"},
		},
		"SamePathInTwoSpellings": {
			reason:     "paths are compared as texts: an index and a name are not found to be the same",
			annotation: `[{"fieldPath":"spec.template.spec.containers[0].image"},{"fieldPath":"spec.template.spec.containers[?(@.name==\"web\")].image"}]`,
			want: []Trigger{
				{FieldPath: "spec.template.spec.containers[0].image"},
				{FieldPath: `spec.template.spec.containers[?(@.name=="web")].image`},
			},
		},
		"KeyTwice": {
			reason:     "of a key written twice the last counts, as in Go",
			annotation: `[{"fieldPath":"q","fieldPath":"p","from":{"kind":"ImageStreamTag","name":"keycloak:20.0"}}]`,
			want:       []Trigger{web},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := Parse(tc.annotation)
			if (err != nil) != (tc.wantErr != nil) {
				t.Fatalf("%s: error is %v", tc.reason, err)
			}
			for _, part := range tc.wantErr {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%s: error %q does not say %q", tc.reason, err, part)
				}
			}
			if diff := cmp.Diff(tc.want, got, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("%s: -want, +got:\n%s", tc.reason, diff)
			}
		})
	}
}

func TestTriggerIstag(t *testing.T) {
	cases := map[string]struct {
		reason  string
		from    From
		want    Istag
		wantErr string
	}{
		"StreamTag": {
			reason: "a tag without a namespace is of the workload's",
			from:   From{Kind: "ImageStreamTag", Name: "keycloak:20.0"},
			want:   Istag{Namespace: "demo", Stream: "keycloak", Tag: "20.0"},
		},
		"OwnNamespace": {
			reason: "naming the workload's own namespace changes nothing",
			from:   From{Kind: "ImageStreamTag", Name: "keycloak:20.0", Namespace: "demo"},
			want:   Istag{Namespace: "demo", Stream: "keycloak", Tag: "20.0"},
		},
		"EmptyTag": {
			reason: "nothing after the colon means latest",
			from:   From{Kind: "ImageStreamTag", Name: "keycloak:"},
			want:   Istag{Namespace: "demo", Stream: "keycloak", Tag: "latest"},
		},
		"NoColon": {
			reason:  "a name without a colon is refused, not taken as latest: OpenShift's index and retriever do so",
			from:    From{Kind: "ImageStreamTag", Name: "keycloak"},
			wantErr: "write stream:tag",
		},
		"NoStream": {
			reason:  "a tag of no stream is nothing",
			from:    From{Kind: "ImageStreamTag", Name: ":20.0"},
			wantErr: "write stream:tag",
		},
		"OtherKind": {
			reason:  "only ImageStreamTags move",
			from:    From{Kind: "ImageStreamImage", Name: "keycloak@sha256:1"},
			wantErr: `only "ImageStreamTag"`,
		},
		"DockerImage": {
			reason:  "an image of a registry is not followed either",
			from:    From{Kind: "DockerImage", Name: "quay.io/keycloak/keycloak:20.0"},
			wantErr: `only "ImageStreamTag"`,
		},
		"KindInOtherCase": {
			reason:  "values, unlike keys, are compared exactly",
			from:    From{Kind: "imagestreamtag", Name: "keycloak:20.0"},
			wantErr: `only "ImageStreamTag"`,
		},
		"NoKind": {
			reason:  "the kind is not guessed",
			from:    From{Name: "keycloak:20.0"},
			wantErr: `only "ImageStreamTag"`,
		},
		"APIVersion": {
			reason:  "OpenShift never fires a trigger with an apiVersion, even the right one",
			from:    From{Kind: "ImageStreamTag", Name: "keycloak:20.0", APIVersion: "image.openshift.io/v1"},
			wantErr: "remove it",
		},
		"OtherNamespace": {
			reason:  "following a tag tells its pull specs, and nobody has checked who asks for another tenant's",
			from:    From{Kind: "ImageStreamTag", Name: "keycloak:20.0", Namespace: "other"},
			wantErr: `its own namespace "demo" only`,
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			trigger := Trigger{From: tc.from}
			got, err := trigger.Istag("demo")
			if (err != nil) != (tc.wantErr != "") || (err != nil && !strings.Contains(err.Error(), tc.wantErr)) {
				t.Errorf("%s: error is %v, want one with %q", tc.reason, err, tc.wantErr)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("%s: -want, +got:\n%s", tc.reason, diff)
			}
		})
	}
}

// FuzzParse holds Parse against encoding/json itself, whose reading is OpenShift's, and everything
// that is done with a trigger against texts that nobody thought of.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		``, `null`, `[]`, `[null,null]`, `{}`, `[{`, "[{\"from\":\xff}]",
		annotate(entry("keycloak:20.0", `spec.template.spec.containers[?(@.name=="web")].image`)),
		annotate(entry("keycloak:", `spec.template.spec.initContainers[1].image`), entry(":", `spec.template.spec.containers[99999999999999999999].image`)),
		`[{"from":{"kind":"ImageStreamTag","name":"a:b","namespace":"x","apiVersion":"v1"},"fieldPath":"","paused":"false"}]`,
		`[{"FROM":{"NAME":"a:b"},"paused":"\u0074rue"}]`,
	} {
		f.Add(seed)
	}
	k := deployment()
	f.Fuzz(func(t *testing.T, annotation string) {
		triggers, err := Parse(annotation)
		checkAgainstJSON(t, annotation, triggers, err)
		obj := workload(k, "w", annotation, "init:setup=a", "web=b")
		keys := k.index(obj)
		if err != nil && keys != nil {
			t.Errorf("an annotation that cannot be read has keys %q", keys)
		}
		for _, key := range keys {
			if !strings.HasPrefix(key, "demo/") || !strings.Contains(key, ":") {
				t.Errorf("key %q is no tag of the workload's namespace", key)
			}
		}
		p, err := k.plan(obj, func(Istag) (image, bool, error) { return image{pullSpec: "c"}, true, nil })
		var user *userError
		if err != nil && !errors.As(err, &user) {
			t.Errorf("error %v is nobody's", err)
		}
		if err == nil && len(p.changes) > 0 {
			k.configuration(obj, p)
		}
	})
}

// checkAgainstJSON decodes an annotation as OpenShift does. What OpenShift reads we must read as it
// does, and the rest we must refuse, but for paused given as text and for duplicate paths.
func checkAgainstJSON(t *testing.T, annotation string, got []Trigger, err error) {
	t.Helper()
	var plain []struct {
		From      From   `json:"from"`
		FieldPath string `json:"fieldPath"`
		Paused    bool   `json:"paused"`
	}
	if annotation == "" {
		return
	}
	if json.Unmarshal([]byte(annotation), &plain) != nil {
		if err == nil && !strings.Contains(strings.ToLower(annotation), "paused") {
			t.Errorf("Parse(%q) reads what encoding/json refuses", annotation)
		}
		return
	}
	paths := map[string]bool{}
	var want []Trigger
	for _, p := range plain {
		paths[p.FieldPath] = true
		want = append(want, Trigger{From: p.From, FieldPath: p.FieldPath, Paused: p.Paused})
	}
	if duplicate := len(paths) < len(plain); duplicate != (err != nil) {
		t.Errorf("Parse(%q) gave error %v, duplicate paths: %t", annotation, err, duplicate)
	}
	if err != nil {
		return
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("Parse(%q): -encoding/json, +got:\n%s", annotation, diff)
	}
}
