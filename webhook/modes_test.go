package webhook

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	imagev1 "github.com/openshift/api/image/v1"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"istag.dev/config"
	"istag.dev/store"
	"istag.dev/webhook/audit"
	"istag.dev/webhook/scope"
)

// recordsOf decodes an audit log.
func recordsOf(tb testing.TB, log *bytes.Buffer) []audit.Record {
	tb.Helper()
	var records []audit.Record
	for line := range strings.Lines(log.String()) {
		var a audit.Record
		if err := json.Unmarshal([]byte(line), &a); err != nil {
			tb.Fatalf("each line is one JSON object: %v", err)
		}
		records = append(records, a)
	}
	return records
}

// denials collects what is said of refusals.
type denials []string

func (d *denials) Denied(object corev1.ObjectReference, message string) {
	*d = append(*d, fmt.Sprintf("%s/%s in %s: %s", object.Kind, object.Name, object.Namespace, message))
}

func TestModes(t *testing.T) {
	const good, bad = "keycloak:1", "keycloak:absent"
	dry := request("pods", podOf(bad, ""), "")
	dry.DryRun = ptr.To(true)
	cases := map[string]struct {
		reason   string
		settings scope.Settings
		request  admissionv1.AdmissionRequest
		allowed  bool
		patched  bool
		warnings []string // part of each
		decision string   // in the audit log; empty means that it says nothing
		events   int
	}{
		"Off":            {reason: "a namespace that did not ask is left alone", request: request("pods", podOf(bad, ""), ""), allowed: true},
		"Enforce":        {reason: "names are replaced", settings: scope.Settings{Mode: scope.Enforce}, request: request("pods", podOf(good, ""), ""), allowed: true, patched: true, decision: "pinned"},
		"EnforceRefuses": {reason: "what cannot be resolved is refused", settings: scope.Settings{Mode: scope.Enforce}, request: request("pods", podOf(bad, ""), ""), decision: "denied", events: 1},
		"EnforceDryRun":  {reason: "a dry run gets the same answer, and leaves no event", settings: scope.Settings{Mode: scope.Enforce}, request: dry, decision: "denied"},
		"EnforceAllows": {
			reason: "a namespace can take names that do not resolve", settings: scope.Settings{Mode: scope.Enforce, AllowUnresolved: true},
			request: request("pods", podOf(bad, ""), ""), allowed: true, decision: "left", warnings: []string{`container "a": "keycloak:absent" is left as it is written`},
		},
		"Warn": {
			reason: "the user is told what would be done", settings: scope.Settings{Mode: scope.Warn},
			request: request("pods", podOf(good, ""), ""), allowed: true, decision: "pinned", warnings: []string{`would replace "keycloak:1" in container "a" by ` + pulled},
		},
		"WarnRefuses": {
			reason: "of refusals too", settings: scope.Settings{Mode: scope.Warn},
			request: request("pods", podOf(bad, ""), ""), allowed: true, decision: "denied", warnings: []string{`would refuse "keycloak:absent" in container "a": image stream "keycloak" has no tag`},
		},
		"Audit":        {reason: "nobody is told anything", settings: scope.Settings{Mode: scope.Audit}, request: request("pods", podOf(good, ""), ""), allowed: true, decision: "pinned"},
		"AuditRefuses": {reason: "nor is anything refused", settings: scope.Settings{Mode: scope.Audit, AllowUnresolved: true}, request: request("pods", podOf(bad, ""), ""), allowed: true, decision: "left"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			var events denials
			p := newPinner(t, func(o *Options) {
				o.Scopes, o.Audit, o.Events = settings(tc.settings), audit.NewLog(&log), &events
			})
			response := ask(t, p, tc.request)
			if response.Allowed != tc.allowed || (response.Patch != nil) != tc.patched || len(events) != tc.events {
				t.Errorf("%s: allowed %v, patch %s, events %v", tc.reason, response.Allowed, response.Patch, events)
			}
			if len(response.Warnings) != len(tc.warnings) {
				t.Fatalf("%s: warnings %q", tc.reason, response.Warnings)
			}
			for i, want := range tc.warnings {
				if !strings.Contains(response.Warnings[i], want) || len(response.Warnings[i]) > maxWarning {
					t.Errorf("%s: warning %q, want %q", tc.reason, response.Warnings[i], want)
				}
			}
			records := recordsOf(t, &log)
			if tc.decision == "" && len(records) == 0 {
				return
			}
			if len(records) != 1 || records[0].Decision != tc.decision || records[0].Mode != tc.settings.Mode {
				t.Errorf("%s: records %+v", tc.reason, records)
			}
		})
	}
}

func TestEventsAreShownWhereSomebodyLooks(t *testing.T) {
	var events denials
	p := newPinner(t, func(o *Options) {
		o.Events = &events
		o.Scopes = settings{Mode: scope.Enforce, PodPlacement: true}
	})
	ask(t, p, request("pods", podOf("keycloak:absent", ""), ""))
	ask(t, p, request("pods", podOf("keycloak:absent", `"generateName":"web-",`+owned), ""))
	ask(t, p, request("pods", podOf("keycloak:absent", owned), podOf("x/y", owned)))
	want := []string{"Deployment/web in shop", "ReplicaSet/web-1 in shop", "Deployment/web in shop"}
	for i := range events {
		events[i], _, _ = strings.Cut(events[i], ":")
	}
	if diff := cmp.Diff(want, []string(events)); diff != "" {
		t.Errorf("an object that is still to be shows nothing, what made it does: -want +got:\n%s", diff)
	}
}

func TestWarningsOfStaleImages(t *testing.T) {
	stale := stream("keycloak", true)
	stale.Status.Tags[0].Conditions = []imagev1.TagEventCondition{{Type: imagev1.ImportSuccess, Status: corev1.ConditionFalse, Message: "gone:\n404"}}
	for mode, want := range map[scope.Mode]int{scope.Enforce: 1, scope.Audit: 0} {
		p := newPinner(t, func(o *Options) {
			o.Scopes = settings{Mode: mode}
			if err := o.Index.Update(stale); err != nil {
				t.Fatal(err)
			}
		})
		response := ask(t, p, request("pods", podOf("keycloak:1", ""), ""))
		if len(response.Warnings) != want {
			t.Errorf("mode %s: the user is told that the image is older than the tag's last import: %q", mode, response.Warnings)
		}
		for _, warning := range response.Warnings {
			if !strings.HasSuffix(warning, "gone: 404") {
				t.Errorf("a warning has no control characters: %q", warning)
			}
		}
	}
}

func TestWarningsAreFew(t *testing.T) {
	var list []string
	for i := range 50 {
		list = append(list, fmt.Sprintf(`{"name":"c%d","image":"keycloak:%s%d"}`, i, strings.Repeat("ä", i*10), i), fmt.Sprintf(`{"name":"d%d","image":"keycloak:%d"}`, i, i+2))
	}
	p := newPinner(t, func(o *Options) { o.Scopes = settings{Mode: scope.Warn} })
	response := ask(t, p, request("pods", `{"spec":{"containers":[`+strings.Join(list, ",")+`]}}`, ""))
	if len(response.Warnings) != maxWarnings {
		t.Errorf("the API server has room for few: %d", len(response.Warnings))
	}
}

func TestExplainAnnotation(t *testing.T) {
	const asks = `"annotations":{"istag.dev/explain":"true"}`
	const object = `{"metadata":{` + asks + `},"spec":{"containers":[
		{"name":"a","image":"keycloak:1"},{"name":"b","image":"quay.io/x/y:1"},{"name":"c","image":"keycloak:absent"},{"name":"d","image":"mysql"}],
		"volumes":[{"name":"v","image":{"reference":"keycloak:1"}},{"name":"w","emptyDir":{}}]}}`
	want := []string{
		`container "a": "keycloak:1" is pinned (LocalLookup) to ` + pulled + `, of tag keycloak:1`,
		`container "b": "quay.io/x/y:1" is left (NotLocalName): it names a registry or a path, and no image stream`,
		`container "c": "keycloak:absent" is denied (NoTag): image stream "keycloak" has no tag "absent" (it has 1, pending); add the tag with: kubectl edit imagestream keycloak --namespace shop`,
		`container "d": "mysql" is left (Unchanged): it is what it was`,
		`volume "v": "keycloak:1" is pinned (LocalLookup) to ` + pulled + `, of tag keycloak:1`,
	}
	for _, mode := range []scope.Mode{scope.Enforce, scope.Audit} {
		p := newPinner(t, func(o *Options) { o.Scopes = settings{Mode: mode} })
		response := ask(t, p, request("pods", object, `{"spec":{"containers":[{"name":"d","image":"mysql"}]}}`))
		if diff := cmp.Diff(want, response.Warnings); diff != "" {
			t.Errorf("%s: every image is explained to who asks: -want +got:\n%s", mode, diff)
		}
	}
}

func TestScopesThatCannotBeTold(t *testing.T) {
	p := newPinner(t, func(o *Options) {
		o.Scopes = scopesFunc(func(string) (scope.Settings, error) { return scope.Settings{}, errors.New("down") })
		o.Policy = policyOf(t, nil, func(c *config.Policy) { c.RegistryHosts = []string{internal} })
	})
	cases := map[string]struct {
		reason  string
		request admissionv1.AdmissionRequest
		allowed bool
	}{
		"Candidate": {"a short name may be one of ours", request("pods", podOf("mysql", ""), ""), false},
		"FullName":  {"so may one of our registry's", request("pods", podOf(internal+"/a/b", ""), ""), false},
		"OptIn":     {"so may any, if the object says so", request("deployments", deploymentOf("quay.io/x/y", optIn), ""), false},
		"Other":     {"what names a registry is none of ours", request("pods", podOf("quay.io/x/y", ""), ""), true},
		"Digest":    {"a digest is exact", request("pods", podOf("keycloak@"+digest, ""), ""), true},
		"Unchanged": {"what was there stays", request("pods", podOf("mysql", ""), podOf("mysql", "")), true},
		"Owned":     {"the pods of controllers may be what is pinned", request("pods", podOf("mysql", owned), ""), false},
	}
	for name, tc := range cases {
		response := ask(t, p, tc.request)
		if response.Allowed != tc.allowed || !tc.allowed && (response.Result.Status != noAnswer || !strings.Contains(response.Result.Message, `namespace "shop"`)) {
			t.Errorf("%s: %s: allowed %v, %+v", name, tc.reason, response.Allowed, response.Result)
		}
	}
}

func TestIndexThatIsNotRead(t *testing.T) {
	for mode, want := range map[scope.Mode]bool{scope.Enforce: false, scope.Warn: true, scope.Audit: true} {
		p := newPinner(t, func(o *Options) {
			o.Index = store.NewIndex()
			o.Scopes = settings{Mode: mode}
		})
		if got := ask(t, p, request("pods", podOf("mysql", ""), "")); got.Allowed != want || !want && got.Result.Status != noAnswer {
			t.Errorf("mode %s: only where decisions count must a webhook not guess, and the guard knows better what to refuse: %+v", mode, got)
		}
		if got := ask(t, p, request("pods", podOf("quay.io/x/y", ""), "")); !got.Allowed {
			t.Errorf("mode %s: what cannot be a stream's needs no streams: %+v", mode, got.Result)
		}
	}
}

func TestObjectsWithTooManyImages(t *testing.T) {
	for mode, want := range map[scope.Mode]bool{scope.Enforce: false, scope.Warn: true, scope.Audit: true} {
		var log bytes.Buffer
		p := newPinner(t, func(o *Options) { o.Scopes, o.Audit = settings{Mode: mode}, audit.NewLog(&log) })
		response := ask(t, p, request("pods", containers(maxImages+1), ""))
		if response.Allowed != want || !want && response.Result.Code != 413 {
			t.Errorf("mode %s: allowed %v, %+v", mode, response.Allowed, response.Result)
		}
		if n := strings.Count(log.String(), "\n"); n > maxImages {
			t.Errorf("mode %s: one request writes %d records", mode, n)
		}
	}
}

func TestEphemeralContainers(t *testing.T) {
	const spec = `{"metadata":{%s},"spec":{"containers":[{"name":"a","image":%q}],"ephemeralContainers":[%s]}}`
	debug := `{"name":"debug","image":"keycloak:1"}`
	other := `{"name":"other","image":"keycloak:absent"}`
	pinned := `"annotations":{"istag.dev/pinned":"{\"a\":{\"istag\":\"keycloak:1\",\"pullSpec\":\"` + oldPulled + `\"}}"}`
	attach := func(object, old string) admissionv1.AdmissionRequest {
		r := request("pods", object, old)
		r.SubResource = ephemeralSubresource
		return r
	}
	cases := map[string]struct {
		reason  string
		request admissionv1.AdmissionRequest
		want    []string
		allowed bool
	}{
		"New": {
			"a new one is pinned", attach(fmt.Sprintf(spec, "", "x/y", debug), fmt.Sprintf(spec, "", "x/y", "")),
			[]string{"/spec/ephemeralContainers/0/image=" + pulled}, true,
		},
		"Owned": {
			"whoever made the pod, a user wrote the container", attach(fmt.Sprintf(spec, owned, "x/y", debug), fmt.Sprintf(spec, owned, "x/y", "")),
			[]string{"/spec/ephemeralContainers/0/image=" + pulled}, true,
		},
		"Unresolved": {
			"and what cannot be resolved is refused", attach(fmt.Sprintf(spec, owned, "x/y", other), fmt.Sprintf(spec, owned, "x/y", "")), nil, false,
		},
		"There": {
			"those that are there stay", attach(fmt.Sprintf(spec, "", "x/y", other+","+debug), fmt.Sprintf(spec, "", "x/y", other)),
			[]string{"/spec/ephemeralContainers/1/image=" + pulled}, true,
		},
		"Containers": {
			"nothing else can be changed there", attach(fmt.Sprintf(spec, "", "keycloak:1", ""), fmt.Sprintf(spec, "", "x/y", "")), nil, true,
		},
		"SameObject": {
			"a tag that the pod has already is the same image", attach(fmt.Sprintf(spec, pinned, oldPulled, debug), fmt.Sprintf(spec, pinned, oldPulled, "")),
			[]string{"/spec/ephemeralContainers/0/image=" + oldPulled}, true,
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			response := ask(t, newPinner(t, nil), tc.request)
			var got []string
			for _, p := range decodePatch(response) {
				got = append(got, fmt.Sprintf("%s=%v", p.Path, p.Value))
			}
			if diff := cmp.Diff(tc.want, got); diff != "" || response.Allowed != tc.allowed {
				t.Errorf("%s: allowed %v: -want +got:\n%s", tc.reason, response.Allowed, diff)
			}
		})
	}
}

func TestImageVolumes(t *testing.T) {
	const volumes = `"volumes":[{"name":"plain","emptyDir":{}},{"name":"later","image":{}},{"name":"data","image":{"reference":"keycloak:1"}}]`
	object := `{"metadata":{},"spec":{"template":{"spec":{"containers":[{"name":"data","image":"x/y"}],` + volumes + `}}}}`
	response := ask(t, newPinner(t, nil), request("deployments", object, ""))
	if diff := cmp.Diff([]string{"/spec/template/spec/volumes/2/image/reference=" + pulled}, patchesOf(response)); diff != "" {
		t.Errorf("image volumes are pinned: -want +got:\n%s", diff)
	}
	if got := response.AuditAnnotations["volumes.data"]; !strings.HasPrefix(got, "pinned LocalLookup: keycloak:1 ") {
		t.Errorf("the API server's audit log takes no key with two slashes: %v", response.AuditAnnotations)
	}
	if pins := fmt.Sprint(decodePatch(response)); !strings.Contains(pins, `"volumes/data":{"written":"keycloak:1"`) {
		t.Errorf("the provenance annotation tells volumes from containers: %s", pins)
	}
	refused := strings.Replace(object, "keycloak:1", "keycloak:absent", 1)
	response = ask(t, newPinner(t, nil), request("deployments", refused, ""))
	if response.Allowed || !strings.Contains(response.Result.Message, "spec.template.spec.volumes[2].image.reference: Forbidden") {
		t.Errorf("a refusal names the field: %+v", response.Result)
	}
	if response := ask(t, newPinner(t, nil), request("deployments", refused, refused)); !response.Allowed {
		t.Errorf("one that stays is left alone: %+v", response.Result)
	}
}

func TestDottedStreamThatIsNew(t *testing.T) {
	live := func(_ context.Context, _, name string) (*store.Stream, error) {
		if name == "node.js" {
			return store.NewStream(stream("node.js", true)), nil
		}
		return nil, nil
	}
	p := newPinner(t, func(o *Options) { o.Streams = liveFunc(live) })
	if got := patchesOf(ask(t, p, request("pods", podOf("node.js:1", ""), ""))); len(got) != 1 {
		t.Errorf("a stream whose name has dots is found by a live read, too: %v", got)
	}
	if got := patchesOf(ask(t, p, request("pods", podOf("quay.io", ""), ""))); len(got) != 0 {
		t.Errorf("without a stream it is a registry's name: %v", got)
	}
}

func TestDecisionsAreCounted(t *testing.T) {
	m := NewMetrics(prometheus.NewRegistry(), store.NewIndex())
	p := newPinner(t, func(o *Options) { o.Metrics = m })
	ask(t, p, request("pods", podWith("", "a=keycloak:1", "b=keycloak:absent", "c=x/y"), ""))
	askCheck(t, p, request("pods", podOf("x/y", ""), ""))
	for _, want := range [][]string{
		{"pin", "enforce", "pinned", "LocalLookup"},
		{"pin", "enforce", "denied", "NoTag"},
		{"pin", "enforce", "left", "NotLocalName"},
		{"check", "enforce", "allowed", "Accepted"},
	} {
		if got := testutil.ToFloat64(m.decisions.WithLabelValues(want...)); got != 1 {
			t.Errorf("%v is counted %v times", want, got)
		}
	}
	if got := testutil.CollectAndCount(m.durations); got != 2 {
		t.Errorf("the time of both webhooks is measured: %d", got)
	}
}
