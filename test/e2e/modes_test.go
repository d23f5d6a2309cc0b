package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"istag.dev/resolver"
	"istag.dev/test/harness"
	"istag.dev/webhook/scope"
)

// label is a label as newPlace and kubectl take it.
func label(key, value string) string { return key + "=" + value }

// warned fails unless a command warned of all the texts, in one warning.
func (p *place) warned(reason string, result harness.Result, texts ...string) {
	p.t.Helper()
	p.check(result.Err())
	for line := range strings.Lines(result.Stderr) {
		missing := func(text string) bool { return !strings.Contains(line, text) }
		if strings.HasPrefix(line, "Warning:") && !slices.ContainsFunc(texts, missing) {
			return
		}
	}
	p.t.Errorf("%s: %s must warn with %q, says: %s", reason, result.Command, texts, result.Stderr)
}

// quiet fails if a command failed or said anything on its standard error.
func (p *place) quiet(reason string, result harness.Result) {
	p.t.Helper()
	p.check(result.Err())
	if result.Stderr != "" {
		p.t.Errorf("%s: %s must say nothing, says: %s", reason, result.Command, result.Stderr)
	}
}

// untouched fails unless an object has the images that were written and nothing of ours.
func (p *place) untouched(reason, object string, images ...string) {
	p.t.Helper()
	p.runs(reason, object, images...)
	for key := range p.get(object).Metadata.Annotations {
		if strings.Contains(key, "istag.dev") {
			p.t.Errorf("%s: %s has the annotation %s", reason, object, key)
		}
	}
}

func TestWarnTellsAndChangesNothing(t *testing.T) {
	t.Parallel()
	p := newPlace(t, label(scope.AdmissionLabel, string(scope.Warn)))
	p.stream("keycloak", local, "20.0="+keycloak+":20.0.2")
	pinned := served(t, keycloak+":20.0.2")
	p.warned("the user reads what enforce would do", p.try("run", "x", "--image", "keycloak:20.0"), "keycloak:20.0", pinned)
	p.untouched("and it is not done", "pod/x", "keycloak:20.0")
	p.warned("and what it would refuse, with the reason", p.try("create", "deployment", "typo", "--image", "keycloak:nope"), `has no tag "nope"`)
	p.untouched("and it is not refused", "deployment/typo", "keycloak:nope")
	p.quiet("there is nothing to say of other images", p.try("run", "other", "--image", "quay.io/any/thing:1"))
	p.quiet("nor of an update that leaves the image", p.try("label", "deployment", "typo", "changed=yes"))
	for object, decision := range map[string]string{"x": "pinned", "typo": "denied"} {
		if records := p.audit(object); len(records) == 0 || records[0].Mode != scope.Warn || records[0].Decision != decision {
			t.Errorf("the audit log has the decision and that it was not carried out: %+v", records)
		}
	}
}

func TestAuditOnlyRecords(t *testing.T) {
	t.Parallel()
	p := newPlace(t, label(scope.AdmissionLabel, string(scope.Audit)))
	p.stream("keycloak", local, "20.0="+keycloak+":20.0.2")
	for name, c := range map[string]struct{ image, decision, pullSpec string }{
		"x":    {"keycloak:20.0", "pinned", served(t, keycloak+":20.0.2")},
		"typo": {"keycloak:nope", "denied", ""},
	} {
		p.quiet("the user notices nothing", p.try("create", "deployment", name, "--image", c.image))
		p.untouched("and nothing is changed", "deployment/"+name, c.image)
		records := p.audit(name)
		if len(records) != 1 || records[0].Mode != scope.Audit || records[0].Decision != c.decision || records[0].PullSpec != c.pullSpec {
			t.Errorf("the audit log has what enforce would have done with %s: %+v", c.image, records)
		}
	}
}

func TestModeChangesWithTheLabel(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.stream("keycloak", local, "20.0="+keycloak+":20.0.2")
	pinned := served(t, keycloak+":20.0.2")
	for _, c := range []struct {
		reason, label, image string
		warns                bool
	}{
		{"without a label nothing happens", scope.AdmissionLabel + "-", "keycloak:20.0", false},
		{"enforce pins", enforced, pinned, false},
		{"warn tells", label(scope.AdmissionLabel, string(scope.Warn)), "keycloak:20.0", true},
		{"enforce pins again", enforced, pinned, false},
		{"audit does nothing that shows", label(scope.AdmissionLabel, string(scope.Audit)), "keycloak:20.0", false},
		{"a value that means nothing does nothing", label(scope.AdmissionLabel, "always"), "keycloak:20.0", false},
		{"enforce pins a third time", enforced, pinned, false},
		{"and to take the label off ends it", scope.AdmissionLabel + "-", "keycloak:20.0", false},
	} {
		p.kubectl("label", "namespace", p.name, "--overwrite", c.label)
		p.wait(c.reason, func(context.Context) error {
			result := p.try("run", "x", "--image", "keycloak:20.0", "--dry-run=server", "--output", "json")
			if err := result.Err(); err != nil {
				return err
			}
			if got := decode(t, result.Stdout).images(); !slices.Equal(got, []string{c.image}) {
				return fmt.Errorf("the image is %q", got)
			}
			if warns := strings.Contains(result.Stderr, "Warning:"); warns != c.warns {
				return fmt.Errorf("it says %q", result.Stderr)
			}
			return nil
		})
	}
}

func TestUnresolvedNamesMayBeAllowed(t *testing.T) {
	t.Parallel()
	p := newPlace(t, enforced, label(scope.OnUnresolvedLabel, "allow"))
	p.stream("keycloak", local, "20.0="+keycloak+":20.0.2")
	p.kubectl("run", "typo", "--image", "keycloak:nope")
	p.runs("what cannot be resolved is left as it is written", "pod/typo", "keycloak:nope")
	if records := p.audit("typo"); len(records) != 1 || records[0].Decision != "left" || records[0].Reason != resolver.ReasonNoTag {
		t.Errorf("the audit log says that it was left, and why it has no image: %+v", records)
	}
	p.kubectl("run", "x", "--image", "keycloak:20.0")
	p.runs("what can be is pinned as ever", "pod/x", served(t, keycloak+":20.0.2"))
}

func TestStaleTagWarns(t *testing.T) {
	t.Parallel()
	p := newPlace(t, enforced)
	p.apply(streamManifest("keycloak", local, "20.0="+direct(keycloak)+":20.0.2"))
	_, digest, _ := strings.Cut(served(t, keycloak+":20.0.2"), "@")
	want := direct(keycloak) + "@" + digest
	p.tagMeans("keycloak", "20.0", want)
	p.quiet("a tag that is as it should be needs no words", p.try("run", "before", "--image", "keycloak:20.0"))
	p.apply(streamManifest("keycloak", local, "20.0="+direct(keycloak)+":nonesuch"))
	p.tagFails("keycloak", "20.0")
	p.wait("the webhook has heard of it", func(context.Context) error {
		if result := p.try("run", "x", "--image", "keycloak:20.0", "--dry-run=server"); result.Stderr == "" {
			return errors.New("it says nothing")
		}
		return nil
	})
	p.warned("the last good image stands, and the user is told that it is not what the tag says", p.try("run", "x", "--image", "keycloak:20.0"), "keycloak:20.0", "nonesuch")
	p.runs("it stands", "pod/x", want)
}

// gate is a registry that answers when it is opened.
type gate struct {
	// host takes the place of the registry's own.
	host   string
	held   atomic.Int64
	opened chan struct{}
	once   sync.Once
}

func (g *gate) open() { g.once.Do(func() { close(g.opened) }) }

// newGate stands before the local registry.
func newGate(t *testing.T) *gate {
	t.Helper()
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: env.Cluster.Registry})
	g := &gate{opened: make(chan struct{})}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/manifests/") {
			g.held.Add(1)
			select {
			case <-g.opened:
			case <-r.Context().Done():
				return
			}
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(func() {
		g.open()
		server.Close()
	})
	g.host = server.Listener.Addr().String()
	return g
}

// behind is an upstream name as it is served behind the gate.
func (g *gate) behind(upstream string) string {
	return strings.Replace(direct(upstream), env.Cluster.Registry, g.host, 1)
}

// TestStreamAndPodTogether counts the reviews under way, so it runs while no other story does.
func TestStreamAndPodTogether(t *testing.T) {
	p := newPlace(t, enforced)
	registry := newGate(t)
	// The namespace's own ServiceAccount is there, and what makes it has nothing more to say.
	p.wait("pods can be made", func(context.Context) error {
		return p.try("run", "probe", "--image", "quay.io/any/thing:1", "--dry-run=server").Err()
	})
	both := streamManifest("keycloak", local, "20.0="+registry.behind(keycloak)+":20.0.2") + "\n---\n" + kindNamed("Pod").write("x", spec{main: "keycloak:20.0"})
	applied := make(chan harness.Result, 1)
	go func() { applied <- p.tryApply(both) }()
	p.wait("the pod is under review while the import is under way", func(ctx context.Context) error {
		select {
		case result := <-applied:
			t.Fatalf("it must be waited for, got: %v%s", result.Err(), result.Stdout)
		default:
		}
		reviews, err := total(ctx, "webhook", "controller_runtime_webhook_requests_in_flight", `webhook="/pin"`)
		if imports := registry.held.Load(); reviews == 0 || imports == 0 {
			return errors.Join(fmt.Errorf("there are %v reviews and %d imports", reviews, imports), err)
		}
		return nil
	})
	registry.open()
	p.check((<-applied).Err())
	_, digest, _ := strings.Cut(served(t, keycloak+":20.0.2"), "@")
	p.runs("what was applied together works together", "pod/x", registry.behind(keycloak)+"@"+digest)
}

func TestImportThatHangs(t *testing.T) {
	t.Parallel()
	p := newPlace(t, enforced)
	registry := newGate(t)
	p.apply(streamManifest("keycloak", local, "20.0="+registry.behind(keycloak)+":20.0.2"))
	p.refused(p.try("create", "deployment", "x", "--image", "keycloak:20.0"), `tag "20.0" of image stream "keycloak"`, "has no image yet", "import", "try again", "kubectl get imagestream keycloak")
	registry.open()
	_, digest, _ := strings.Cut(served(t, keycloak+":20.0.2"), "@")
	p.tagMeans("keycloak", "20.0", registry.behind(keycloak)+"@"+digest)
	p.wait("to try again helps", func(context.Context) error {
		return p.try("create", "deployment", "x", "--image", "keycloak:20.0").Err()
	})
	p.runs("and the image is that of the tag", "deployment/x", registry.behind(keycloak)+"@"+digest)
}
