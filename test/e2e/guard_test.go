package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"istag.dev/test/harness"
	"istag.dev/webhook/scope"
)

// resolveNames is the annotation by which an object asks for all its names to be looked up.
const resolveNames = `{alpha.image.policy.openshift.io/resolve-names: "*"}`

// alone is what the stories about the guard happen to: places of every sort, made before the webhook is stopped.
type alone struct {
	enforced, pods, allowed, warned, audited, other *place
	// digest is an image that needs nobody.
	digest string
}

// newAlone makes the places, each with the streams "keycloak", "node.js" and "my_app" of local lookup, and "httpd" without.
func newAlone(t *testing.T) *alone {
	t.Helper()
	admission := func(value string) string { return label(harness.AdmissionLabel, value) }
	a := &alone{
		// It is to be labelled when there is something in it that nobody pinned.
		enforced: newPlace(t),
		pods:     newPlace(t, enforced, label(scope.PlacementLabel, "pod")),
		allowed:  newPlace(t, enforced, label(scope.OnUnresolvedLabel, "allow")),
		warned:   newPlace(t, admission("warn")),
		audited:  newPlace(t, admission("audit")),
		other:    newPlace(t),
		digest:   served(t, keycloak+":20.0.1"),
	}
	for _, p := range []*place{a.enforced, a.pods, a.allowed, a.warned, a.audited, a.other} {
		p.stream("keycloak", local, "20.0="+keycloak+":20.0.2")
		p.apply(streamOf("node.js", local))
		p.apply(streamOf("my_app", local))
		p.apply(streamOf("httpd", notLocal))
	}
	p := a.enforced
	p.apply(deployment("unpinned", spec{main: "keycloak:20.0", side: "busybox:1.36", volume: "keycloak:20.0"}))
	p.apply(deployment("pinned", spec{main: a.digest}))
	p.apply(deployment("asks-later", spec{main: "httpd:2.4"}))
	p.kubectl("run", "bare", "--image", a.digest)
	for _, name := range []string{"unpinned", "pinned"} {
		p.kubectl("rollout", "status", "deployment/"+name, "--timeout", "60s")
	}
	p.kubectl("label", "namespace", p.name, enforced)
	return a
}

// in is a place for a story of its own.
func (p *place) in(t *testing.T) *place {
	t.Helper()
	return &place{t: t, name: p.name, user: p.user}
}

// TestGuard stops the webhook and tries what the guard has to refuse, and what it must let pass.
func TestGuard(t *testing.T) {
	a := newAlone(t)
	up := down(t, env.StopWebhook, env.StartWebhook)
	a.enforced.wait("the API server has seen the label", func(context.Context) error {
		if a.enforced.try("run", "x", "--image", "keycloak:20.0", "--dry-run=server").Code == 0 {
			return errors.New("a name was let through")
		}
		return nil
	})
	t.Run("meanwhile", func(t *testing.T) {
		t.Run("kinds", func(t *testing.T) { t.Parallel(); a.kinds(t) })
		t.Run("names", func(t *testing.T) { t.Parallel(); a.names(t) })
		t.Run("namespaces", func(t *testing.T) { t.Parallel(); a.namespaces(t) })
		t.Run("updates", func(t *testing.T) { t.Parallel(); a.updates(t) })
		t.Run("ephemeral containers", func(t *testing.T) { t.Parallel(); a.ephemeral(t) })
		t.Run("pod placement", func(t *testing.T) { t.Parallel(); a.placement(t) })
	})
	up()
	p := a.pods
	p.wait("admission works again", func(context.Context) error {
		return p.try("run", "y", "--image", "keycloak:20.0", "--dry-run=server").Err()
	})
	p.kubectl("annotate", "deployment", "x", "about=anything") // or its ReplicaSet would try again only in a while
	p.kubectl("rollout", "status", "deployment/x", "--timeout", "100s")
	images := strings.Fields(p.kubectl("get", "pods", "--selector", "app=x", "--output", "jsonpath={.items[*].spec.containers[*].image}"))
	if want := served(t, keycloak+":20.0.2"); len(images) == 0 || slices.ContainsFunc(images, func(image string) bool { return image != want }) {
		t.Errorf("what was refused meanwhile is made up for, pinned: want %q, got %q", want, images)
	}
}

// kinds tries every kind of workload, with a name in every place that images have.
func (a *alone) kinds(t *testing.T) {
	for _, k := range kinds {
		for where, s := range map[string]spec{
			"container":      {main: "keycloak:20.0"},
			"second":         {main: "busybox:1.36", side: "keycloak:20.0"},
			"init container": {main: a.digest, init: "keycloak:20.0"},
			"volume":         {main: a.digest, volume: "keycloak:20.0"},
		} {
			t.Run(k.name+" "+where, func(t *testing.T) {
				t.Parallel()
				p := a.enforced.in(t)
				p.refused(p.tryApply(k.write("x", s), "--dry-run=server"), guarded("keycloak:20.0", "keycloak")...)
			})
		}
		t.Run(k.name+" exact", func(t *testing.T) {
			t.Parallel()
			a.enforced.in(t).apply(k.write("x", spec{main: a.digest, init: a.digest, side: "busybox:1.36", volume: a.digest}), "--dry-run=server")
		})
	}
}

// names tries names of all sorts.
func (a *alone) names(t *testing.T) {
	asks := func(image string) spec { return spec{main: image, annotations: resolveNames} }
	for name, c := range map[string]struct {
		reason string
		spec   spec
		stream string // that the guard is to name; empty if the image is to pass
	}{
		"tag":              {"a name of a local stream", spec{main: "keycloak:20.0"}, "keycloak"},
		"no tag":           {"it means a tag as well", spec{main: "keycloak"}, "keycloak"},
		"missing tag":      {"a typo is not for a public registry to correct", spec{main: "keycloak:nope"}, "keycloak"},
		"dot":              {"a name may hold a dot, as no other admission sees it", spec{main: "node.js:18"}, "node.js"},
		"underscore":       {"a name may hold an underscore, and its record may not", spec{main: "my_app:1"}, "my_app"},
		"digest":           {"a digest is exact", spec{main: a.digest}, ""},
		"short digest":     {"even on a stream's name", spec{main: "keycloak@" + strings.SplitN(a.digest, "@", 2)[1]}, ""},
		"no stream":        {"a name with no stream means what it always meant", spec{main: "busybox:1.36"}, ""},
		"not local":        {"a stream without local lookup is for those who name it in full", spec{main: "httpd:2.4"}, ""},
		"registry":         {"a name with a registry is not a stream's", spec{main: "docker.io/keycloak:20.0"}, ""},
		"path":             {"a name with a path is not a stream's", spec{main: "library/keycloak:20.0"}, ""},
		"longer":           {"nor is one that begins like it", spec{main: "keycloak-x:1"}, ""},
		"asks":             {"who asks has all names looked up", asks("httpd:2.4"), "httpd"},
		"template asks":    {"the template may ask, too", spec{main: "httpd:2.4", template: resolveNames}, "httpd"},
		"asks by registry": {"the registry does not count then", asks("docker.io/library/httpd:2.4"), "httpd"},
		"asks by path":     {"nor does the path", asks("library/httpd"), "httpd"},
		"asks too deep":    {"a path of two parts is no namespace", asks("a/b/httpd:2.4"), ""},
		"asks for digest":  {"a digest is exact", asks("docker.io/library/httpd@" + strings.SplitN(a.digest, "@", 2)[1]), ""},
		"asks otherwise":   {"only * asks", spec{main: "httpd:2.4", annotations: `{alpha.image.policy.openshift.io/resolve-names: "yes"}`}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := a.enforced.in(t)
			result := p.tryApply(deployment("x", c.spec), "--dry-run=server")
			if c.stream != "" {
				p.refused(result, guarded(c.spec.main, c.stream)...)
			} else if err := result.Err(); err != nil {
				t.Errorf("%s: %v", c.reason, err)
			}
		})
	}
}

// namespaces tries what is refused in one namespace in those where nothing may be.
func (a *alone) namespaces(t *testing.T) {
	for name, c := range map[string]struct {
		reason string
		place  *place
	}{
		"allow": {"this one asked for names to be left", a.allowed},
		"warn":  {"this one asked to be told, and is not", a.warned},
		"audit": {"this one asked for a record, and has none", a.audited},
		"other": {"this one did not ask for anything", a.other},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := c.place.in(t)
			p.kubectl("run", "x", "--image", "keycloak:20.0")
			p.apply(deployment("x", spec{main: "keycloak:20.0"}))
			p.runs(c.reason, "pod/x", "keycloak:20.0")
			p.kubectl("rollout", "status", "deployment/x", "--timeout", "60s")
		})
	}
	for _, name := range []string{metav1.NamespaceSystem, env.Namespace} {
		t.Run(name, func(t *testing.T) {
			p := &place{t: t, name: name}
			p.kubectl("label", "namespace", name, enforced)
			t.Cleanup(func() {
				if err := unlabel(name); err != nil {
					t.Error(err)
				}
			})
			p.apply(streamOf("guarded", local))
			if err := p.try("create", "deployment", "x", "--image", "guarded:1", "--dry-run=server").Err(); err != nil {
				t.Errorf("a cluster must be able to start without us, whatever the label says: %v", err)
			}
			p.kubectl("delete", "imagestream", "guarded")
		})
	}
}

// updates changes what was there before.
func (a *alone) updates(t *testing.T) {
	p := a.enforced.in(t)
	for reason, args := range map[string][]string{
		"something else is changed":      {"label", "deployment", "unpinned", "a=b"},
		"something of a pod is changed":  {"set", "env", "deployment/unpinned", "A=1"},
		"another image is changed":       {"set", "image", "deployment/unpinned", "side=busybox:1.37"},
		"an image is made exact":         {"set", "image", "deployment/pinned", "main=" + served(t, keycloak+":20.0.3")},
		"somebody asks, of exact images": {"annotate", "deployment", "pinned", "alpha.image.policy.openshift.io/resolve-names=*"},
	} {
		if err := p.try(args...).Err(); err != nil {
			t.Errorf("the guard must let pass that %s: %v", reason, err)
		}
	}
	p.kubectl("scale", "deployment/unpinned", "--replicas", "3")
	p.kubectl("rollout", "status", "deployment/unpinned", "--timeout", "60s")
	p.runs("what controllers make is what was admitted once", "deployment/unpinned", "keycloak:20.0", "busybox:1.37", "keycloak:20.0")
	for reason, c := range map[string]struct {
		image, stream string
		args          []string
	}{
		"an image becomes a name":         {"keycloak:20.0", "keycloak", []string{"set", "image", "deployment/pinned", "main=keycloak:20.0"}},
		"a name becomes another":          {"keycloak:21.0", "keycloak", []string{"set", "image", "deployment/unpinned", "main=keycloak:21.0"}},
		"a name comes to another place":   {"keycloak:20.0", "keycloak", []string{"set", "image", "deployment/unpinned", "side=keycloak:20.0"}},
		"a pod's image becomes a name":    {"keycloak:20.0", "keycloak", []string{"set", "image", "pod/bare", "bare=keycloak:20.0"}},
		"somebody asks, of what is there": {"httpd:2.4", "httpd", []string{"annotate", "deployment", "asks-later", "alpha.image.policy.openshift.io/resolve-names=*"}},
	} {
		t.Logf("the guard must refuse that %s", reason)
		p.refused(p.try(c.args...), guarded(c.image, c.stream)...)
	}
}

// ephemeral adds containers to a bare pod and to one that a controller made.
func (a *alone) ephemeral(t *testing.T) {
	p := a.enforced.in(t)
	owned := p.kubectl("get", "pods", "--selector", "app=x", "--output", "jsonpath={.items[0].metadata.name}")
	for _, pod := range []string{"bare", owned} {
		p.refused(p.try("debug", pod, "--image", "keycloak:20.0", "--container", "debug"), guarded("keycloak:20.0", "keycloak")...)
		p.kubectl("debug", pod, "--image", "busybox:1.36", "--container", "other")
		p.kubectl("label", "pod", pod, "debugged=yes")
	}
}

// placement is about a namespace that pins pods.
func (a *alone) placement(t *testing.T) {
	p := a.pods.in(t)
	p.refused(p.try("run", "x", "--image", "keycloak:20.0"), guarded("keycloak:20.0", "keycloak")...)
	for _, k := range kinds {
		if k.name != "Pod" {
			p.apply(k.write("z", spec{main: "keycloak:20.0"}), "--dry-run=server")
		}
	}
	p.apply(deployment("x", spec{main: "keycloak:20.0"}))
	p.runs("workloads stay as they are written", "deployment/x", "keycloak:20.0")
	p.wait("its pods are refused", func(context.Context) error {
		events := p.kubectl("get", "events", "--field-selector", "reason=FailedCreate", "--output", "jsonpath={.items[*].message}")
		for _, text := range guarded("keycloak:20.0", "keycloak") {
			if !strings.Contains(events, text) {
				return fmt.Errorf("no event holds %q: %s", text, events)
			}
		}
		return nil
	})
	if pods := p.kubectl("get", "pods", "--output", "name"); pods != "" {
		t.Errorf("no pod may have got in, got %s", pods)
	}
}

// entries are the webhooks as the API server knows them.
var entries = []string{"pin.istag.dev", "check.istag.dev", "revision.pin.istag.dev", "revision.check.istag.dev"}

// asked is how often the API server has asked each of the webhooks since it was started.
func asked(ctx context.Context) (map[string]float64, error) {
	result := env.Kubectl(ctx, "get", "--raw", "/metrics")
	if err := result.Err(); err != nil {
		return nil, err
	}
	all := map[string]float64{}
	for _, name := range entries {
		n, err := sum(result.Stdout, "apiserver_admission_webhook_request_total", fmt.Sprintf("name=%q", name))
		if err != nil {
			return nil, err
		}
		all[name] = n
	}
	return all, nil
}

// sends makes a request so often that it cannot be mistaken for somebody else's, and returns who was asked about it.
func sends(t *testing.T, request func(context.Context) error) []string {
	t.Helper()
	const often = 20
	before, err := asked(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for range often {
		if err := request(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	after, err := asked(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var to []string
	for name := range maps.Keys(after) {
		if after[name]-before[name] >= often {
			to = append(to, name)
		}
	}
	return slices.Sorted(slices.Values(to))
}

// TestWhatIsNotSent counts the API server's requests, so it runs while no other story does. It is about dry runs, which are
// sent as others are.
func TestWhatIsNotSent(t *testing.T) {
	p, pods := newPlace(t, enforced), newPlace(t, enforced, label(scope.PlacementLabel, "pod"))
	other := newPlace(t)
	for _, place := range []*place{p, pods} {
		place.stream("keycloak", local, "20.0="+keycloak+":20.0.2")
		place.apply(deployment("x", spec{main: "keycloak:20.0"}))
		place.kubectl("rollout", "status", "deployment/x", "--timeout", "60s")
	}
	digest := served(t, keycloak+":20.0.1")
	create := func(in *place, kind, image string, owned bool) func(context.Context) error {
		manifest := object(t, kindNamed(kind).write("z", spec{main: image}))
		manifest.SetNamespace(in.name)
		if owned {
			yes := true
			manifest.SetOwnerReferences([]metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "Deployment", Name: "x", UID: in.get("deployment/x").Metadata.UID, Controller: &yes}})
		}
		return func(ctx context.Context) error {
			return env.Client().Create(ctx, manifest.DeepCopy(), client.DryRunAll)
		}
	}
	patch := func(in *place, change string) func(context.Context) error {
		found := object(t, in.kubectl("get", "deployment/x", "--output", "json"))
		return func(ctx context.Context) error {
			return env.Client().Patch(ctx, found.DeepCopy(), client.RawPatch(types.StrategicMergePatchType, []byte(change)), client.DryRunAll)
		}
	}
	annotate := func(key, value string) string {
		text, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]string{key: value}}})
		p.check(err)
		return string(text)
	}
	image := func(name string) string {
		return fmt.Sprintf(`{"spec":{"template":{"spec":{"containers":[{"name":"main","image":%q}]}}}}`, name)
	}
	const pin, check, revisionPin, revisionCheck = "pin.istag.dev", "check.istag.dev", "revision.pin.istag.dev", "revision.check.istag.dev"
	for name, c := range map[string]struct {
		reason  string
		request func(context.Context) error
		to      []string
	}{
		"name":              {"what we are here for", create(p, "Deployment", "keycloak:20.0", false), []string{check, pin}},
		"digest":            {"there is nothing to replace, but rules are about digests too", create(p, "Deployment", digest, false), []string{check}},
		"owned":             {"a controller made it", create(p, "ReplicaSet", "keycloak:20.0", true), nil},
		"owned pod":         {"a controller made it", create(p, "Pod", "keycloak:20.0", true), nil},
		"elsewhere":         {"nobody asked for us", create(other, "Deployment", "keycloak:20.0", false), nil},
		"label":             {"no image changes", patch(p, `{"metadata":{"labels":{"a":"b"}}}`), nil},
		"replicas":          {"no image changes", patch(p, `{"spec":{"replicas":3}}`), nil},
		"environment":       {"no image changes", patch(p, `{"spec":{"template":{"spec":{"containers":[{"name":"main","env":[{"name":"A","value":"1"}]}]}}}}`), nil},
		"image":             {"an image changes, and what we wrote of it has to", patch(p, image(digest)), []string{check, pin}},
		"image to name":     {"a name takes the place of what it means, and nothing comes of it", patch(p, image("keycloak:20.0")), []string{pin}},
		"asks":              {"all names are to be looked up", patch(p, annotate("alpha.image.policy.openshift.io/resolve-names", "*")), []string{check, pin}},
		"explain":           {"somebody wants to know", patch(p, annotate("istag.dev/explain", "true")), []string{pin}},
		"revision":          {"it is to be locked", create(pods, "ReplicaSet", "keycloak:20.0", true), []string{revisionPin}},
		"exact revision":    {"there is nothing to lock", create(pods, "ReplicaSet", digest, true), nil},
		"pod of a revision": {"it is to be pinned", create(pods, "Pod", "keycloak:20.0", true), []string{revisionCheck, revisionPin}},
		"exact pod":         {"rules are about digests too", create(pods, "Pod", digest, true), []string{revisionCheck}},
		"label there":       {"no image changes", patch(pods, `{"metadata":{"labels":{"a":"b"}}}`), nil},
	} {
		t.Run(name, func(t *testing.T) {
			if got := sends(t, c.request); !slices.Equal(got, c.to) {
				t.Errorf("%s: asked are %q, want %q", c.reason, got, c.to)
			}
		})
	}
}
