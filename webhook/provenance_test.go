package webhook

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	admissionv1 "k8s.io/api/admission/v1"

	"istag.dev/resolver"
	"istag.dev/webhook/scope"
)

const (
	oldDigest = "sha256:bbbb000000000000000000000000000000000000000000000000000000000000"
	oldPulled = "quay.io/keycloak/keycloak@" + oldDigest
)

// pinnedAs makes the provenance annotation of pins, as the inside of a metadata object.
func pinnedAs(pins resolver.Pins, more ...string) string {
	annotations := append([]string{fmt.Sprintf(`"istag.dev/pinned":%q`, pins.String())}, more...)
	return `"annotations":{` + strings.Join(annotations, ",") + `}`
}

// podWith makes a Pod with containers, "name=image".
func podWith(metadata string, containers ...string) string {
	var list []string
	for _, c := range containers {
		name, image, _ := strings.Cut(c, "=")
		list = append(list, fmt.Sprintf(`{"name":%q,"image":%q}`, name, image))
	}
	return fmt.Sprintf(`{"metadata":{%s},"spec":{"containers":[%s]}}`, metadata, strings.Join(list, ","))
}

// TestSameObject: equal names in one object are one digest, whoever adds them, and when.
func TestSameObject(t *testing.T) {
	pins := resolver.Pins{"a": {Written: "keycloak:1", Istag: "keycloak:1", PullSpec: oldPulled, Generation: 2}}
	gone := resolver.Pins{"a": {Written: "keycloak:absent", Istag: "keycloak:absent", PullSpec: oldPulled, Generation: 2}}
	global := resolver.Pins{"a": {Written: "global:1", Istag: "global:1", PullSpec: oldPulled, Generation: 2}}
	empty := resolver.Pins{"a": {Written: "keycloak:1", Istag: "keycloak:1"}}
	cases := map[string]struct {
		reason  string
		request admissionv1.AdmissionRequest
		want    []string
	}{
		"Reinvocation": {
			"a container that another webhook adds gets what the others have",
			request("pods", podWith(pinnedAs(pins), "a="+oldPulled, "b=keycloak:1"), ""), []string{"/spec/containers/1/image=" + oldPulled},
		},
		"Added": {
			"one that is added later too",
			request("pods", podWith(pinnedAs(pins), "a="+oldPulled, "b=keycloak:1"), podWith(pinnedAs(pins), "a="+oldPulled)), []string{"/spec/containers/1/image=" + oldPulled},
		},
		"AnnotationLost": {
			"even by a client that lost the annotation",
			request("pods", podWith("", "a="+oldPulled, "b=keycloak:1"), podWith(pinnedAs(pins), "a="+oldPulled)), []string{"/spec/containers/1/image=" + oldPulled},
		},
		"SpelledOtherwise": {
			"names that mean the same tag are equal",
			request("pods", podWith(pinnedAs(pins, `"alpha.image.policy.openshift.io/resolve-names":"*"`), "a="+oldPulled, "b=quay.io/x/keycloak:1"), ""), []string{"/spec/containers/1/image=" + oldPulled},
		},
		"TagGone": {
			"the image that the object has is good enough where the tag has none",
			request("pods", podWith(pinnedAs(gone), "a="+oldPulled, "b=keycloak:absent"), ""), []string{"/spec/containers/1/image=" + oldPulled},
		},
		"StreamQuiet": {
			"a stream that is no longer for local use is left", request("pods", podWith(pinnedAs(global), "a="+oldPulled, "b=global:1"), ""), nil,
		},
		"Replaced": {
			"a pin whose image is not in place does not count",
			request("pods", podWith(pinnedAs(pins), "a=x/y", "b=keycloak:1"), ""), []string{"/spec/containers/1/image=" + pulled},
		},
		"Reapplied": {
			"a manifest that is applied again resolves all its names anew",
			request("pods", podWith("", "a=keycloak:1", "b=keycloak:1"), podWith(pinnedAs(pins), "a="+oldPulled)),
			[]string{"/spec/containers/0/image=" + pulled, "/spec/containers/1/image=" + pulled},
		},
		"OtherTag": {
			"another tag is another image",
			request("pods", podWith(pinnedAs(gone), "a="+oldPulled, "b=keycloak:1"), ""), []string{"/spec/containers/1/image=" + pulled},
		},
		"Name": {
			"a pin to no digest is none", request("pods", podWith(pinnedAs(resolver.Pins{"a": {Istag: "keycloak:1", PullSpec: "mysql"}}), "a=mysql", "b=keycloak:1"), ""),
			[]string{"/spec/containers/1/image=" + pulled},
		},
		"Empty": {
			"a pin to nothing is none", request("pods", podWith(pinnedAs(empty), "a=", "b=keycloak:1"), ""), []string{"/spec/containers/1/image=" + pulled},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			response := ask(t, newPinner(t, nil), tc.request)
			if diff := cmp.Diff(tc.want, patchesOf(response)); diff != "" || !response.Allowed {
				t.Errorf("%s: allowed %v: -want +got:\n%s", tc.reason, response.Allowed, diff)
			}
		})
	}
}

// TestHold: a manifest that says what it said is not a change, where the namespace says so.
func TestHold(t *testing.T) {
	pins := resolver.Pins{"a": {Written: "keycloak:1", Istag: "keycloak:1", PullSpec: oldPulled, Generation: 2}}
	old := podWith(pinnedAs(pins), "a="+oldPulled)
	optedIn := podWith(pinnedAs(pins, `"alpha.image.policy.openshift.io/resolve-names":"*"`), "a=keycloak:1")
	cases := map[string]struct {
		reason   string
		hold     bool
		request  admissionv1.AdmissionRequest
		want     []string
		decision resolver.Reason
	}{
		"Hold":    {"the image stays", true, request("pods", podWith("", "a=keycloak:1"), old), []string{"/spec/containers/0/image=" + oldPulled}, ReasonHeld},
		"Resolve": {"by default it is looked up, as in OpenShift", false, request("pods", podWith("", "a=keycloak:1"), old), []string{"/spec/containers/0/image=" + pulled}, resolver.ReasonLocalLookup},
		"Added": {
			"a container of the same name's tag gets the same image", true, request("pods", podWith("", "b=keycloak:1", "a=keycloak:1"), old),
			[]string{"/spec/containers/0/image=" + oldPulled, "/spec/containers/1/image=" + oldPulled}, ReasonSameObject,
		},
		"OtherName": {"a name that changed is looked up", true, request("pods", podWith("", "a=keycloak:absent"), old), nil, resolver.ReasonNoTag},
		"OtherImage": {
			"an image that somebody else has put there is not what was pinned", true,
			request("pods", podWith("", "a=keycloak:1"), podWith(pinnedAs(pins), "a=x/y")), []string{"/spec/containers/0/image=" + pulled}, resolver.ReasonLocalLookup,
		},
		"OptedIn": {"who changes what names mean wants to know", true, request("pods", optedIn, old), []string{"/spec/containers/0/image=" + pulled}, resolver.ReasonOptIn},
		"New":     {"a new object holds nothing", true, request("pods", podWith(pinnedAs(pins), "a=keycloak:1"), ""), []string{"/spec/containers/0/image=" + pulled}, resolver.ReasonLocalLookup},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			response := ask(t, newPinner(t, func(o *Options) {
				o.Scopes = settings{Mode: scope.Enforce, HoldOnReapply: tc.hold}
			}), tc.request)
			if diff := cmp.Diff(tc.want, patchesOf(response)); diff != "" {
				t.Errorf("%s: -want +got:\n%s", tc.reason, diff)
			}
			for _, key := range []string{"b", "a"} {
				if got, ok := response.AuditAnnotations[key]; ok {
					if !strings.Contains(got, string(tc.decision)) {
						t.Errorf("%s: decided %q, want %s", tc.reason, got, tc.decision)
					}
					break
				}
			}
		})
	}
	held := ask(t, newPinner(t, func(o *Options) { o.Scopes = settings{Mode: scope.Enforce, HoldOnReapply: true} }), request("pods", podWith("", "a=keycloak:1"), old))
	if got := fmt.Sprint(decodePatch(held)); !strings.Contains(got, pins.String()) {
		t.Errorf("what is held keeps its provenance, generation and all: %s", got)
	}
}
