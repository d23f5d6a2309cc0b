package e2e

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"istag.dev/resolver"
	"istag.dev/webhook/audit"
	"istag.dev/webhook/scope"
)

func TestEveryKindIsPinned(t *testing.T) {
	t.Parallel()
	p := newPlace(t, enforced)
	p.stream("keycloak", local, "20.0="+keycloak+":20.0.2", "init="+keycloak+":19.0")
	main, init := served(t, keycloak+":20.0.2"), served(t, keycloak+":19.0")
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			p := &place{t: t, name: p.name}
			p.apply(k.write("x", spec{main: "keycloak:20.0", init: "keycloak:init", volume: "keycloak:init"}))
			p.runs("the image that runs must be the one that the registry serves, whatever kind asks for it", k.resource+"/x", init, main, init)
			pins := resolver.ParsePins(p.get(k.resource + "/x").Metadata.Annotations[resolver.PinnedAnnotation])
			if pin := pins["main"]; pin.Written != "keycloak:20.0" || pin.Istag != "keycloak:20.0" || pin.PullSpec != main || pin.Generation == 0 {
				t.Errorf("anyone must see from the object what was written and what it became, not %+v", pin)
			}
			for _, name := range []string{"init", "volumes/data"} {
				if pin := pins[name]; pin.PullSpec != init || pin.Written != "keycloak:init" {
					t.Errorf("%s has provenance as well, not %+v", name, pin)
				}
			}
			p.refused(p.tryApply(k.write("typo", spec{main: "keycloak:20.0", volume: "keycloak:nope"})), `has no tag "nope"`, k.base+".volumes[0].image.reference")
		})
	}
}

func TestKubectlCommandsArePinned(t *testing.T) {
	t.Parallel()
	p := newPlace(t, enforced)
	p.stream("keycloak", local, "20.0="+keycloak+":20.0.2", "latest="+keycloak+":20.0.1")
	pinned := served(t, keycloak+":20.0.2")
	for object, command := range map[string]string{
		"deployment/a": "create deployment a --image keycloak:20.0",
		"pod/a":        "run a --image keycloak:20.0",
		"job/a":        "create job a --image keycloak:20.0",
		"cronjob/a":    "create cronjob a --image keycloak:20.0 --schedule @daily",
	} {
		p.kubectl(strings.Fields(command)...)
		p.runs("the commands that people know must do", object, pinned)
	}
	p.kubectl("run", "untagged", "--image", "keycloak")
	p.runs("a name without a tag means latest", "pod/untagged", served(t, keycloak+":20.0.1"))
	p.kubectl("set", "image", "deployment/a", "keycloak=keycloak:latest")
	p.runs("a name that comes with an update is pinned too", "deployment/a", served(t, keycloak+":20.0.1"))
}

func TestWhatIsLeftAlone(t *testing.T) {
	t.Parallel()
	enforcing, unlabelled := newPlace(t, enforced), newPlace(t)
	digest := served(t, keycloak+":20.0.1")
	for _, p := range []*place{enforcing, unlabelled} {
		p.stream("keycloak", local, "20.0="+keycloak+":20.0.2")
		p.stream("httpd", notLocal, "2.4=quay.io/redhattraining/httpd-24:2.4")
	}
	for name, c := range map[string]struct {
		reason, image string
		place         *place
	}{
		"namespace": {"a namespace that did not ask for admission must not notice it", "keycloak:20.0", unlabelled},
		"not-local": {"a stream without local lookup is for those who name it in full", "httpd:2.4", enforcing},
		"no-stream": {"a name with no stream means what it always meant", "busybox:1.36", enforcing},
		"registry":  {"a name with a registry is not a stream's", "docker.io/keycloak:20.0", enforcing},
		"path":      {"a name with a path is not a stream's", "library/keycloak:20.0", enforcing},
		"digest":    {"a digest is exact already", digest, enforcing},
		"short":     {"a digest is exact already, even on a stream's name", strings.TrimPrefix(digest, "quay.io/keycloak/"), enforcing},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := &place{t: t, name: c.place.name}
			p.kubectl("run", name, "--image", c.image)
			p.runs(c.reason, "pod/"+name, c.image)
			if got := p.get("pod/" + name).Metadata.Annotations[resolver.PinnedAnnotation]; got != "" {
				t.Errorf("what was not pinned has no provenance, got %q", got)
			}
		})
	}
}

func TestSystemNamespacesAreNeverTouched(t *testing.T) {
	t.Parallel()
	for _, namespace := range []string{"kube-system", "kube-public", "kube-node-lease", env.Namespace} {
		t.Run(namespace, func(t *testing.T) {
			p := &place{t: t, name: namespace}
			p.kubectl("label", "namespace", namespace, enforced)
			t.Cleanup(func() {
				if err := unlabel(namespace); err != nil {
					t.Error(err)
				}
			})
			p.apply(streamManifest("never", local, "1="+keycloak+":20.0.2"))
			p.tagMeans("never", "1", served(t, keycloak+":20.0.2"))
			got := decode(t, p.kubectl("create", "deployment", "never", "--image", "never:1", "--dry-run=server", "--output", "json")).images()
			if got[0] != "never:1" {
				t.Errorf("a cluster must be able to start without us, whatever the label says; got %q", got)
			}
			p.kubectl("delete", "imagestream", "never")
		})
	}
}

func TestOptInByAnnotation(t *testing.T) {
	t.Parallel()
	const optIn = `{alpha.image.policy.openshift.io/resolve-names: "*"}`
	p := newPlace(t, enforced)
	p.stream("httpd", notLocal, "2.4=quay.io/redhattraining/httpd-24:2.4")
	pinned := served(t, "quay.io/redhattraining/httpd-24:2.4")
	for name, c := range map[string]struct {
		reason string
		spec   spec
		want   string
	}{
		"object":   {"an object may ask for all its names to be looked up", spec{main: "httpd:2.4", annotations: optIn}, pinned},
		"template": {"its template may ask as well, as `oc set image-lookup` does", spec{main: "httpd:2.4", template: optIn}, pinned},
		"registry": {"with the annotation the registry and path of a name do not count, as in OpenShift", spec{main: "docker.io/library/httpd:2.4", annotations: optIn}, pinned},
		"other":    {"only the value * asks", spec{main: "httpd:2.4", annotations: `{alpha.image.policy.openshift.io/resolve-names: "true"}`}, "httpd:2.4"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := &place{t: t, name: p.name}
			p.apply(deployment(name, c.spec))
			p.runs(c.reason, "deployment/"+name, c.want)
		})
	}
	p.apply(deployment("later", spec{main: "httpd:2.4"}))
	p.kubectl("annotate", "deployment", "later", "alpha.image.policy.openshift.io/resolve-names=*")
	p.runs("to ask later is to ask for what is there already", "deployment/later", pinned)
}

func TestUnresolvedNamesAreRefused(t *testing.T) {
	t.Parallel()
	p := newPlace(t, enforced)
	p.stream("keycloak", local, "20.0="+keycloak+":20.0.2")
	p.apply(streamManifest("broken", local, "1="+direct(keycloak)+":nonesuch"))
	p.tagFails("broken", "1")
	p.apply(streamOf("empty", local, `{name: "1"}`))
	for name, c := range map[string]struct {
		reason, image string
		texts         []string
	}{
		"missing":  {"a typo must not go to Docker Hub", "keycloak:20.1", []string{`has no tag "20.1"`, "it has 20.0", "kubectl edit imagestream keycloak"}},
		"failed":   {"why there is no image must be said where it is missed", "broken:1", []string{"its import failed", keycloak + ":nonesuch", "kubectl edit imagestream broken"}},
		"unfilled": {"a tag that nothing was imported for has nothing to run", "empty:1", []string{"has no image yet", "kubectl get imagestream empty"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := &place{t: t, name: p.name}
			result := p.try("create", "deployment", name, "--image", c.image)
			p.refused(result, append(c.texts, `Deployment.apps "`+name+`" is invalid`, "spec.template.spec.containers[0].image")...)
			verbose := p.try("create", "deployment", name, "--image", c.image, "--v=8")
			if !strings.Contains(verbose.Stderr, `"code":422`) && !strings.Contains(verbose.Stderr, "422") {
				t.Errorf("%s: clients tell by the code 422 that it is the object that is wrong: %s", c.reason, verbose.Stderr)
			}
			p.try("get", "deployment", name)
			records := p.audit(name)
			if len(records) != 2 || records[0].Decision != "denied" {
				t.Errorf("%s: a refusal is a decision, which the audit log has: %+v", c.reason, records)
			}
		})
	}
}

func TestDryRunTellsTheSame(t *testing.T) {
	t.Parallel()
	p := newPlace(t, enforced)
	p.stream("keycloak", local, "20.0="+keycloak+":20.0.2")
	manifest := deployment("dry", spec{main: "keycloak:20.0"})
	got := decode(t, p.apply(manifest, "--dry-run=server", "--output", "json")).images()
	if want := served(t, keycloak+":20.0.2"); len(got) != 1 || got[0] != want {
		t.Errorf("a dry run must show what would be: want %q, got %q", want, got)
	}
	if result := p.try("get", "deployment", "dry"); result.Code == 0 {
		t.Error("a dry run must leave nothing behind")
	}
	p.refused(p.tryApply(deployment("dry", spec{main: "keycloak:nope"}), "--dry-run=server"), `has no tag "nope"`)
	p.apply(manifest)
	records := p.audit("dry")
	if len(records) != 3 || !records[0].DryRun || !records[1].DryRun || records[2].DryRun {
		t.Fatalf("the audit log must tell a dry run from the real thing: %+v", records)
	}
}

func TestAuditLogTellsWhoAndWhat(t *testing.T) {
	t.Parallel()
	p := newPlace(t, enforced)
	p.stream("keycloak", local, "20.0="+keycloak+":20.0.2")
	p.kubectl("create", "rolebinding", "alice", "--clusterrole", "edit", "--user", "alice")
	before := time.Now().Add(-time.Second)
	p.kubectl("--as", "alice", "create", "deployment", "audited", "--image", "keycloak:20.0")
	records := p.audit("audited")
	if len(records) != 1 {
		t.Fatalf("one image, one line; got %+v", records)
	}
	got := records[0]
	if got.Time.Before(before) || got.UID == "" || got.StreamGeneration == 0 || got.DurationMicros <= 0 {
		t.Errorf("when, under which request, against which generation and how fast must be told: %+v", got)
	}
	want := got
	want.User, want.Namespace, want.Kind, want.Name, want.Operation = "alice", p.name, "Deployment.apps", "audited", "CREATE"
	want.Container, want.Written, want.Istag, want.PullSpec = "keycloak", "keycloak:20.0", "keycloak:20.0", served(t, keycloak+":20.0.2")
	want.APIVersion, want.Webhook, want.Mode = audit.APIVersion, "pin", scope.Enforce
	want.Decision, want.Reason = "pinned", resolver.ReasonLocalLookup
	if got != want {
		t.Errorf("who did what to what, and what became of it:\n got %+v\nwant %+v", got, want)
	}
	lines, err := env.AuditLines()
	p.check(err)
	for _, line := range lines {
		var fields map[string]any
		if err := json.Unmarshal([]byte(line), &fields); err != nil {
			t.Errorf("every line is JSON of its own: %v: %q", err, line)
		}
		for _, field := range []string{"apiVersion", "webhook", "mode", "time", "uid", "user", "namespace", "kind", "name", "operation", "dryRun", "container", "written", "decision", "reason", "durationMicros"} {
			if _, ok := fields[field]; !ok {
				t.Errorf("every line has %q: %s", field, line)
			}
		}
	}
}
