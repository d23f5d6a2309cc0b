package resolver

import (
	"fmt"
	"strings"
	"testing"

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
	return store.Snapshot{}.
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
		"Stale":       {reason: "the last good image stands while imports fail", image: "keycloak:stale", want: pinned(ReasonLocalLookup, "keycloak:stale")},
		"Moved":       {reason: "a pin says who moved the tag there", image: "keycloak:moved", want: moved},
		"Digest":      {reason: "a digest is never looked up", image: "keycloak@" + sha, want: left(ReasonDigest)},
		"TagAndDigest": {
			reason: "a digest is never looked up, whatever tag it has", image: "keycloak:20.0@" + sha, want: left(ReasonDigest),
		},
		"DigestOptIn": {reason: "asking for look-ups does not make a digest less exact", image: "keycloak@" + sha, optIn: true, want: left(ReasonDigest)},
		"Path":        {reason: "a path is no local name", image: "library/keycloak:20.0", want: left(ReasonNotLocalName)},
		"Registry":    {reason: "a registry is no local name", image: "docker.io/keycloak:20.0", want: left(ReasonNotLocalName)},
		"RegistryOnly": {
			reason: "one part with a dot is a registry", image: "key.cloak:20.0", want: left(ReasonNotLocalName),
		},
		"RegistryOnlyOptIn": {reason: "a registry alone names no stream", image: "localhost", optIn: true, want: left(ReasonNotLocalName)},
		"Placeholder":       {reason: "what is no name is not ours to judge", image: " ", want: left(ReasonNotAnImage)},
		"NoStream": {
			reason: "names without a stream are left", image: "mysql:5",
			want: Decision{Outcome: Left, Reason: ReasonNoStream, Istag: "mysql:5"},
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
			want: Decision{Outcome: Left, Reason: ReasonNoStream, Istag: "mysql:5"},
		},
		"NoTag": {
			reason: "a missing tag never leaks", image: "keycloak:absent",
			want: Decision{Outcome: Unresolved, Reason: ReasonNoTag, Istag: "keycloak:absent", Generation: 4},
			says: []string{`"keycloak"`, `"absent"`, "it has 20.0, failed, latest", "kubectl edit imagestream keycloak --namespace shop"},
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
			got := Resolve(shop(), Request{Namespace: "shop", Image: tc.image, OptIn: tc.optIn})
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

func TestPins(t *testing.T) {
	pins := Pins{"web": {Written: "keycloak:20.0", Istag: "keycloak:20.0", PullSpec: "quay.io/k@" + sha, Generation: 4}, "a": {}}
	if diff := cmp.Diff(pins, ParsePins(pins.String())); diff != "" {
		t.Errorf("pins survive the annotation: -want +got:\n%s", diff)
	}
	for _, text := range []string{"", "null", "[]", "x", `{"web":1}`} {
		if got := ParsePins(text); len(got) != 0 {
			t.Errorf("text that is not pins is none: ParsePins(%q) = %v", text, got)
		}
	}
}
