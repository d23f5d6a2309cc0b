package resolver

import (
	"fmt"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	imagev1 "github.com/openshift/api/image/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"istag.dev/store"
	storev1 "istag.dev/store/v1"
)

// shop is a namespace with one stream of each sort.
func shop() store.Snapshot {
	pinned := []imagev1.TagEvent{{DockerImageReference: "quay.io/keycloak/keycloak@" + sha, Image: sha}}
	record := func(name string, local bool, tags ...imagev1.NamedTagEventList) *store.Stream {
		r := &storev1.StreamRecord{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}}
		r.Spec.LookupPolicy.Local = local
		r.Record.Generation = 4
		r.Status.Tags = tags
		return store.NewStream(r)
	}
	keycloak := &storev1.StreamRecord{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "keycloak"}}
	keycloak.Spec.LookupPolicy.Local = true
	keycloak.Record.Generation = 4
	keycloak.Spec.Tags = []imagev1.TagReference{{Name: "pending"}}
	keycloak.Status.Tags = []imagev1.NamedTagEventList{
		{Tag: "20.0", Items: pinned},
		{Tag: "latest", Items: pinned},
		{Tag: "reference", Items: []imagev1.TagEvent{{DockerImageReference: "quay.io/a/b:1"}}},
		{Tag: "failed", Conditions: []imagev1.TagEventCondition{{Type: imagev1.ImportSuccess, Status: corev1.ConditionFalse, Message: "no such image"}}},
		{Tag: "moved", Items: pinned},
		{Tag: "stale", Items: pinned, Conditions: []imagev1.TagEventCondition{{Type: imagev1.ImportSuccess, Status: corev1.ConditionFalse, Message: "gone"}}},
	}
	keycloak.Record.Origins = []storev1.TagEventOrigin{{Tag: "moved", Image: sha, Via: storev1.ViaCopy, By: &storev1.Requester{User: "alice"}}}
	var many []imagev1.NamedTagEventList
	for i := range 30 {
		many = append(many, imagev1.NamedTagEventList{Tag: fmt.Sprintf("v%02d", i), Items: pinned})
	}
	dotted := record("node.js", true, imagev1.NamedTagEventList{Tag: "18", Items: pinned}, imagev1.NamedTagEventList{Tag: "latest", Items: pinned})
	elsewhere := record("base", false, imagev1.NamedTagEventList{Tag: "1", Items: pinned})
	elsewhere.Namespace = "elsewhere"
	keycloak.Spec.Tags = append(keycloak.Spec.Tags, imagev1.TagReference{Name: "awaited", From: &corev1.ObjectReference{Kind: "DockerImage", Name: "quay.io/a/b:1"}})
	return store.Snapshot{}.
		With(dotted).
		With(elsewhere).
		With(store.NewStream(keycloak)).
		With(record("global", false, imagev1.NamedTagEventList{Tag: "1", Items: pinned})).
		With(record("empty", true)).
		With(record("many", true, many...))
}

func TestResolve(t *testing.T) {
	pinned := func(reason Reason, istag string) Decision {
		return Decision{Outcome: Pinned, Reason: reason, Istag: istag, PullSpec: "quay.io/keycloak/keycloak@" + sha, Generation: 4}
	}
	moved := pinned(ReasonLocalLookup, "keycloak:moved")
	moved.MovedBy = "alice"
	stale := pinned(ReasonLocalLookup, "keycloak:stale")
	stale.Failure = "gone"
	left := func(reason Reason) Decision { return Decision{Outcome: Left, Reason: reason} }
	cases := map[string]struct {
		reason string
		image  string
		optIn  bool
		want   Decision
		says   []string // what the message must say
	}{
		"Pinned":      {reason: "a tag of a local stream", image: "keycloak:20.0", want: pinned(ReasonLocalLookup, "keycloak:20.0")},
		"NoTagLatest": {reason: "no tag means latest", image: "keycloak", want: pinned(ReasonLocalLookup, "keycloak:latest")},
		"Stale":       {reason: "the last good image stands while imports fail", image: "keycloak:stale", want: stale},
		"Moved":       {reason: "a pin says who moved the tag there", image: "keycloak:moved", want: moved},
		"Digest":      {reason: "a digest is never looked up", image: "keycloak@" + sha, want: left(ReasonDigest)},
		"TagAndDigest": {
			reason: "a digest is never looked up, whatever tag it has", image: "keycloak:20.0@" + sha, want: left(ReasonDigest),
		},
		"DigestOptIn": {reason: "asking for look-ups does not make a digest less exact", image: "keycloak@" + sha, optIn: true, want: left(ReasonDigest)},
		"Path":        {reason: "a path is no local name", image: "library/keycloak:20.0", want: left(ReasonNotLocalName)},
		"Registry":    {reason: "a registry is no local name", image: "docker.io/keycloak:20.0", want: left(ReasonNotLocalName)},
		"Dotted": {
			reason: "a stream whose name has dots is found by it", image: "node.js:18", want: pinned(ReasonLocalLookup, "node.js:18"),
		},
		"DottedNoTag": {reason: "no tag means latest, dots or not", image: "node.js", want: pinned(ReasonLocalLookup, "node.js:latest")},
		"DottedNoStream": {
			reason: "one part with a dot is a registry, unless a stream has that name", image: "key.cloak:20.0",
			want: Decision{Outcome: Left, Reason: ReasonNotLocalName, Namespace: "shop", Stream: "key.cloak", Tag: "20.0", Local: true, Absent: true},
		},
		"DottedDigest": {reason: "a digest is never looked up, dots or not", image: "node.js@" + sha, want: left(ReasonDigest)},
		"Localhost": {
			reason: "one part that begins with localhost is a registry", image: "localhost", optIn: true,
			want: Decision{Outcome: Left, Reason: ReasonNotLocalName, Namespace: "shop", Stream: "localhost", Tag: "latest", Local: true, Absent: true},
		},
		"Placeholder": {reason: "what is no name is not ours to judge", image: " ", want: left(ReasonNotAnImage)},
		"NoStream": {
			reason: "names without a stream are left", image: "mysql:5",
			want: Decision{Outcome: Left, Reason: ReasonNoStream, Istag: "mysql:5", Absent: true},
		},
		"NotLocal": {
			reason: "a stream without local lookup is left", image: "global:1",
			want: Decision{Outcome: Left, Reason: ReasonNotLocalStream, Istag: "global:1", Generation: 4},
		},
		"NotLocalNoTag": {
			reason: "a stream without local lookup is left, whatever tags it has", image: "global:absent",
			want: Decision{Outcome: Left, Reason: ReasonNotLocalStream, Istag: "global:absent", Generation: 4},
		},
		"NotLocalOptIn": {reason: "the object's wish beats the stream's policy", image: "global:1", optIn: true, want: pinned(ReasonOptIn, "global:1")},
		"OptInDiscardsTheRegistry": {
			reason: "an object that opts in means the local stream, whatever registry and namespace it names",
			image:  "docker.io/library/keycloak:20.0", optIn: true, want: pinned(ReasonOptIn, "keycloak:20.0"),
		},
		"OptInDiscardsAnIntegratedRegistry": {
			reason: "even a stream of another namespace is looked for here",
			image:  "image-registry.svc:5000/other/keycloak:20.0", optIn: true, want: pinned(ReasonOptIn, "keycloak:20.0"),
		},
		"OptInPath": {reason: "a path of more than one part is no stream's name", image: "quay.io/a/b/c:1", optIn: true, want: left(ReasonNotLocalName)},
		"OptInNoStream": {
			reason: "an object that opts in keeps the names that no stream has", image: "quay.io/a/mysql:5", optIn: true,
			want: Decision{Outcome: Left, Reason: ReasonNoStream, Istag: "mysql:5", Absent: true},
		},
		"NoTag": {
			reason: "a missing tag never leaks", image: "keycloak:absent",
			want: Decision{Outcome: Unresolved, Reason: ReasonNoTag, Istag: "keycloak:absent", Generation: 4},
			says: []string{`"keycloak"`, `"absent"`, "it has 20.0, awaited, failed, latest", "kubectl edit imagestream keycloak --namespace shop"},
		},
		"NoTags": {
			reason: "a stream without tags says so", image: "empty",
			want: Decision{Outcome: Unresolved, Reason: ReasonNoTag, Istag: "empty:latest", Generation: 4},
			says: []string{"it has none"},
		},
		"NoTagOfMany": {
			reason: "a message stays readable", image: "many",
			want: Decision{Outcome: Unresolved, Reason: ReasonNoTag, Istag: "many:latest", Generation: 4},
			says: []string{"v09 and 20 more"},
		},
		"NotImported": {
			reason: "a tag before its first import never leaks", image: "keycloak:pending",
			want: Decision{Outcome: Unresolved, Reason: ReasonNotImported, Istag: "keycloak:pending", Generation: 4},
			says: []string{"has no image yet", "kubectl get imagestream keycloak --namespace shop"},
		},
		"Awaited": {
			reason: "a tag whose import goes on is worth waiting for", image: "keycloak:awaited",
			want: Decision{Outcome: Unresolved, Reason: ReasonNotImported, Istag: "keycloak:awaited", Generation: 4, Awaited: true},
		},
		"ImportFailed": {
			reason: "a tag that could never be imported says why", image: "keycloak:failed",
			want: Decision{Outcome: Unresolved, Reason: ReasonImportFailed, Istag: "keycloak:failed", Generation: 4},
			says: []string{"no such image", "kubectl edit imagestream"},
		},
		"Reference": {
			reason: "a reference tag has no digest to pin", image: "keycloak:reference",
			want: Decision{Outcome: Unresolved, Reason: ReasonReference, Istag: "keycloak:reference", Generation: 4},
			says: []string{"is a reference"},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if tc.want.Istag != "" {
				tc.want.Namespace, tc.want.Local = "shop", true
				tc.want.Stream, tc.want.Tag, _ = store.SplitTagName(tc.want.Istag)
			}
			got := Resolve(shop(), Request{Namespace: "shop", Image: tc.image, OptIn: tc.optIn, Hosts: hosts{}})
			if diff := cmp.Diff(tc.want, got, cmpopts.IgnoreFields(Decision{}, "Message")); diff != "" {
				t.Errorf("%s: -want +got:\n%s", tc.reason, diff)
			}
			if (got.Message != "") != (tc.want.Outcome == Unresolved) {
				t.Errorf("a message comes with what cannot be resolved, and only with that: %q", got.Message)
			}
			for _, text := range tc.says {
				if !strings.Contains(got.Message, text) {
					t.Errorf("%s: message %q does not say %q", tc.reason, got.Message, text)
				}
			}
		})
	}
	if got := Resolve(shop(), Request{Namespace: "elsewhere", Image: "keycloak:20.0"}); got.Reason != ReasonNoStream {
		t.Errorf("a stream serves its own namespace only: %+v", got)
	}
}

// hosts are the one that the tests know.
type hosts struct{}

func (hosts) Integrated(host string) bool {
	return strings.EqualFold(host, "registry.example.com:5000")
}

func TestResolveFullNames(t *testing.T) {
	const host = "registry.example.com:5000/"
	cases := map[string]struct {
		reason, image string
		want          Decision
	}{
		"Other": {
			"a stream of another namespace is named in full, whatever its lookup policy", host + "elsewhere/base:1",
			Decision{Outcome: Pinned, Reason: ReasonRegistryHost, Namespace: "elsewhere", Stream: "base", Tag: "1", Istag: "elsewhere/base:1", PullSpec: "quay.io/keycloak/keycloak@" + sha, Generation: 4},
		},
		"Own": {
			"so is one of the object's own namespace", "REGISTRY.example.com:5000/shop/global:1",
			Decision{Outcome: Pinned, Reason: ReasonRegistryHost, Namespace: "shop", Stream: "global", Tag: "1", Istag: "global:1", PullSpec: "quay.io/keycloak/keycloak@" + sha, Generation: 4},
		},
		"NoNamespace": {
			"without a namespace it is the object's own", host + "global:1",
			Decision{Outcome: Pinned, Reason: ReasonRegistryHost, Namespace: "shop", Stream: "global", Tag: "1", Istag: "global:1", PullSpec: "quay.io/keycloak/keycloak@" + sha, Generation: 4},
		},
		"NoTag": {
			"a full name cannot leak: its host answers for it", host + "elsewhere/base:2",
			Decision{Outcome: Left, Reason: ReasonNoTag, Namespace: "elsewhere", Stream: "base", Tag: "2", Istag: "elsewhere/base:2", Generation: 4},
		},
		"NoStream": {
			"nor can one of no stream", host + "elsewhere/mysql",
			Decision{Outcome: Left, Reason: ReasonNoStream, Namespace: "elsewhere", Stream: "mysql", Tag: "latest", Istag: "elsewhere/mysql:latest", Absent: true},
		},
		"Digest":   {"a digest is never looked up", host + "elsewhere/base@" + sha, Decision{Outcome: Left, Reason: ReasonDigest}},
		"LongPath": {"no stream has such a name", host + "elsewhere/a/b:1", Decision{Outcome: Left, Reason: ReasonNotLocalName}},
		"Port":     {"another port is another host", "registry.example.com/elsewhere/base:1", Decision{Outcome: Left, Reason: ReasonNotLocalName}},
		"NotAName": {"what is no name is not ours to judge", host + "elsewhere//base:1", Decision{Outcome: Left, Reason: ReasonNotAnImage}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			r := Request{Namespace: "shop", Image: tc.image, Hosts: hosts{}}
			if diff := cmp.Diff(tc.want, Resolve(shop(), r), cmpopts.IgnoreFields(Decision{}, "Message")); diff != "" {
				t.Errorf("%s: -want +got:\n%s", tc.reason, diff)
			}
		})
	}
}

// FuzzResolve checks what everything else relies on, for any name.
func FuzzResolve(f *testing.F) {
	for _, s := range []string{"keycloak:20.0", "keycloak@" + sha, "node.js:18", "a.b", "localhost:1", "registry.example.com:5000/elsewhere/base:1", "quay.io/a/b/c", "keycloak:failed", " "} {
		f.Add(s, false)
		f.Add(s, true)
	}
	snapshot := shop()
	f.Fuzz(func(t *testing.T, image string, optIn bool) {
		r := Request{Namespace: "shop", Image: image, OptIn: optIn, Hosts: hosts{}}
		d := Resolve(snapshot, r)
		if (d.PullSpec != "") != (d.Outcome == Pinned) || d.Reason == "" {
			t.Errorf("a pull spec comes with a pin, and a reason with everything: %q is %+v", image, d)
		}
		if d.Stream != "" && !IsCandidate(r) {
			t.Errorf("what may mean a stream is a candidate: %q is %+v", image, d)
		}
		if d.Outcome == Unresolved && !d.Local {
			t.Errorf("only local names are unresolved: %q is %+v", image, d)
		}
	})
}

func TestPins(t *testing.T) {
	pins := Pins{"web": {Written: "keycloak:20.0", Istag: "keycloak:20.0", PullSpec: "quay.io/k@" + sha, Generation: 4}, "a": {}}
	if diff := cmp.Diff(pins, ParsePins(pins.String())); diff != "" {
		t.Errorf("pins survive the annotation: -want +got:\n%s", diff)
	}
	pins[`a"\x00<ü`] = Pin{Written: "\u2028", Generation: -1}
	for _, pins := range []Pins{pins, {}} {
		if want, err := json.Marshal(pins, json.Deterministic(true)); err != nil || pins.String() != string(want) {
			t.Errorf("pins are JSON like any other: %s, want %s, %v", pins, want, err)
		}
	}
	for _, text := range []string{"", "null", "[]", "x", `{"web":1}`} {
		if got := ParsePins(text); len(got) != 0 {
			t.Errorf("text that is not pins is none: ParsePins(%q) = %v", text, got)
		}
	}
}
