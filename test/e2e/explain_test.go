package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"istag.dev/resolver"
	"istag.dev/test/harness"
	"istag.dev/webhook"
	"istag.dev/webhook/scope"
)

// account makes a ServiceAccount with cluster roles, in the namespace, and returns a token of it.
func (p *place) account(name string, roles ...string) (token string) {
	p.t.Helper()
	p.kubectl("create", "serviceaccount", name)
	for _, role := range roles {
		p.kubectl("create", "rolebinding", name+"-"+role, "--clusterrole", role, "--serviceaccount", p.name+":"+name)
	}
	return strings.TrimSpace(p.kubectl("create", "token", name))
}

// explain asks what an image would become. Query has "name=value" parameters beside the namespace, as has header.
func (p *place) explain(token string, query []string, header ...string) (code int, answer webhook.Answer, status metav1.Status) {
	p.t.Helper()
	values := url.Values{"namespace": {p.name}}
	for _, parameter := range query {
		name, value, _ := strings.Cut(parameter, "=")
		values.Set(name, value)
	}
	request, err := http.NewRequestWithContext(p.t.Context(), http.MethodGet, env.ExplainURL()+"?"+values.Encode(), nil)
	p.check(err)
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	for _, h := range header {
		name, value, _ := strings.Cut(h, "=")
		request.Header.Add(name, value)
	}
	transport := &http.Transport{TLSClientConfig: trust(p.t)}
	defer transport.CloseIdleConnections()
	response, err := (&http.Client{Transport: transport}).Do(request)
	p.check(err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	p.check(err)
	into := any(&answer)
	if response.StatusCode != http.StatusOK {
		into = &status
	}
	if err := json.Unmarshal(text, into); err != nil {
		p.t.Fatalf("%s: the answer must be JSON: %v: %s", response.Status, err, text)
	}
	return response.StatusCode, answer, status
}

func TestExplainSaysWhatWouldBe(t *testing.T) {
	t.Parallel()
	p := newPlace(t, enforced)
	p.stream("keycloak", local, "20.0="+keycloak+":20.0.2")
	p.stream("httpd", notLocal, "2.4=quay.io/redhattraining/httpd-24:2.4")
	viewer := p.account("viewer", "view")
	p.wait("the viewer may ask", func(context.Context) error {
		if code, _, status := p.explain(viewer, []string{"image=keycloak:20.0"}); code != http.StatusOK {
			return fmt.Errorf("%d: %s", code, status.Message)
		}
		return nil
	})
	pinned, httpd := served(t, keycloak+":20.0.2"), served(t, "quay.io/redhattraining/httpd-24:2.4")
	for name, c := range map[string]struct {
		reason            string
		query             []string
		decision, becomes string
		why               resolver.Reason
		says              string
	}{
		"pinned":   {"a tag of a local stream", []string{"image=keycloak:20.0"}, "pinned", pinned, resolver.ReasonLocalLookup, ""},
		"denied":   {"a tag that is not there", []string{"image=keycloak:nope"}, "denied", "", resolver.ReasonNoTag, `has no tag "nope"`},
		"left":     {"a stream that is not local", []string{"image=httpd:2.4"}, "left", "", resolver.ReasonNotLocalStream, ""},
		"opt-in":   {"for an object that asks for it", []string{"image=httpd:2.4", "optIn=true"}, "pinned", httpd, resolver.ReasonOptIn, ""},
		"foreign":  {"an image of a registry", []string{"image=quay.io/any/thing:1"}, "left", "", resolver.ReasonNotLocalName, ""},
		"resource": {"in a workload", []string{"image=keycloak:20.0", "resource=deployments.apps"}, "pinned", pinned, resolver.ReasonLocalLookup, ""},
	} {
		code, answer, status := p.explain(viewer, c.query)
		if code != http.StatusOK {
			t.Errorf("%s: %s: %d: %s", name, c.reason, code, status.Message)
			continue
		}
		// What is left becomes what it is, whether that is said or not.
		becomes := answer.Becomes == c.becomes || c.decision == "left" && "image="+answer.Becomes == c.query[0]
		if answer.Decision != c.decision || !becomes || answer.Reason != c.why || answer.Mode != scope.Enforce || !strings.Contains(answer.Message, c.says) {
			t.Errorf("%s: %s: got %+v", name, c.reason, answer)
		}
	}
	for name, query := range map[string][]string{"no image": {}, "no namespace": {"image=a", "namespace="}, "unknown": {"image=a", "imagee=b"}, "resource": {"image=a", "resource=."}} {
		if code, _, status := p.explain(viewer, query); code != http.StatusBadRequest || status.Message == "" {
			t.Errorf("%s: who asks wrongly is told how to ask: %d %+v", name, code, status)
		}
	}
	records, err := env.AuditRecords()
	p.check(err)
	for _, r := range records {
		if r.Namespace == p.name {
			t.Errorf("a question is no decision: %+v", r)
		}
	}
	if events := p.kubectl("get", "events", "--field-selector", "reason=ImageRefused", "--output", "name"); events != "" {
		t.Errorf("nor is it news: %s", events)
	}
}

func TestExplainIsForThoseWhoMayKnow(t *testing.T) {
	t.Parallel()
	p, other := newPlace(t, enforced), newPlace(t, enforced)
	p.stream("keycloak", local, "20.0="+keycloak+":20.0.2")
	viewer, nobody, boss := p.account("viewer", "view"), p.account("nobody"), p.account("boss")
	binding := "boss-" + p.name
	p.kubectl("create", "clusterrolebinding", binding, "--clusterrole", "cluster-admin", "--serviceaccount", p.name+":boss")
	t.Cleanup(func() {
		if err := env.Kubectl(context.Background(), "delete", "clusterrolebinding", binding).Err(); err != nil {
			t.Error(err)
		}
	})
	ask := []string{"image=keycloak:20.0"}
	for _, token := range []string{viewer, boss} {
		p.wait("they may ask", func(context.Context) error {
			if code, _, status := p.explain(token, ask); code != http.StatusOK {
				return errors.New(status.Message)
			}
			return nil
		})
	}
	account := "Impersonate-User=system:serviceaccount:" + p.name + ":"
	for name, c := range map[string]struct {
		reason, token string
		query, header []string
		code          int
		says          string
	}{
		"no token":             {"a stranger learns nothing", "", ask, nil, http.StatusUnauthorized, "Bearer"},
		"rubbish":              {"nor does who makes a token up", "rubbish", ask, nil, http.StatusUnauthorized, "Bearer"},
		"no right":             {"nor an account without rights", nobody, ask, nil, http.StatusForbidden, "imagestreamtags"},
		"elsewhere":            {"nor one whose rights are elsewhere", viewer, append([]string{"namespace=" + other.name}, ask...), nil, http.StatusForbidden, other.name},
		"not a namespace":      {"nor of what is not there", viewer, append([]string{"namespace=nonesuch"}, ask...), nil, http.StatusForbidden, "nonesuch"},
		"boss":                 {"the administrator may ask", boss, ask, nil, http.StatusOK, ""},
		"boss for viewer":      {"also for somebody", boss, ask, []string{account + "viewer"}, http.StatusOK, ""},
		"boss for nobody":      {"and is told what they are told", boss, ask, []string{account + "nobody"}, http.StatusForbidden, "nobody"},
		"viewer for boss":      {"others may not", viewer, ask, []string{account + "boss"}, http.StatusForbidden, ""},
		"viewer for masters":   {"nor for a group", viewer, ask, []string{account + "viewer", "Impersonate-Group=system:masters"}, http.StatusForbidden, ""},
		"group without a user": {"nor for a group alone", boss, ask, []string{"Impersonate-Group=system:masters"}, http.StatusBadRequest, "system:masters"},
	} {
		code, _, status := p.explain(c.token, c.query, c.header...)
		if code != c.code || !strings.Contains(status.Message, c.says) {
			t.Errorf("%s: %s: want %d with %q, got %d: %s", name, c.reason, c.code, c.says, code, status.Message)
		}
	}
}

func TestExplainAnnotation(t *testing.T) {
	t.Parallel()
	p := newPlace(t, enforced)
	p.stream("keycloak", local, "20.0="+keycloak+":20.0.2")
	p.stream("httpd", notLocal, "2.4=quay.io/redhattraining/httpd-24:2.4")
	ask := func(name, image string) []string {
		return []string{"run", name, "--image", image, "--annotations", "istag.dev/explain=true"}
	}
	for name, c := range map[string]struct {
		reason, image string
		says          []string
	}{
		"pinned":    {"what it becomes, and why", "keycloak:20.0", []string{"keycloak:20.0", served(t, keycloak+":20.0.2"), "pinned"}},
		"not-local": {"why it is left", "httpd:2.4", []string{"httpd:2.4", "httpd", "left"}},
		"no-stream": {"that no stream has it", "busybox:1.36", []string{"busybox:1.36", "busybox", "left"}},
		"registry":  {"that it names a registry", "quay.io/any/thing:1", []string{"quay.io/any/thing:1", "left"}},
		"digest":    {"that it is exact", served(t, keycloak+":20.0.2"), []string{served(t, keycloak+":20.0.2"), "left"}},
	} {
		p.warned(c.reason, p.try(append(ask(name, c.image), "--dry-run=server")...), c.says...)
		if p.try("get", "pod", name).Code == 0 {
			t.Errorf("%s: a dry run leaves nothing behind", name)
		}
		p.warned("and the same when it is done", p.try(ask(name, c.image)...), c.says...)
	}
	p.refused(p.try(append(ask("typo", "keycloak:nope"), "--dry-run=server")...), `has no tag "nope"`)
	p.quiet("who does not ask is not told", p.try("run", "quiet", "--image", "keycloak:20.0"))
}

// refusals are the events about what was refused in the namespace, a line each.
func (p *place) refusals() string {
	p.t.Helper()
	return p.kubectl("get", "events", "--field-selector", "reason=ImageRefused", "--output",
		`jsonpath={range .items[*]}{.type} {.involvedObject.kind}/{.involvedObject.name} {.message}{"\n"}{end}`)
}

func TestRefusalsAreEvents(t *testing.T) {
	t.Parallel()
	p := newPlace(t, enforced)
	p.stream("keycloak", local, "20.0="+keycloak+":20.0.2")
	p.refused(p.try("create", "deployment", "dry", "--image", "keycloak:nope", "--dry-run=server"), `has no tag "nope"`)
	p.refused(p.try("create", "deployment", "typo", "--image", "keycloak:nope"), `has no tag "nope"`)
	p.refused(p.try("run", "pod", "--image", "keycloak:nope"), `has no tag "nope"`)
	p.wait("the events of the namespace tell of it", func(context.Context) error {
		all := p.refusals()
		for _, object := range []string{"Warning Deployment/typo ", "Warning Pod/pod "} {
			if line, rest, found := strings.Cut(all, object); !found || !strings.Contains(rest, `has no tag "nope"`) {
				return fmt.Errorf("of %s there is nothing: %s%s", object, line, rest)
			}
		}
		return nil
	})
	if strings.Contains(p.refusals(), "/dry ") {
		t.Errorf("a dry run is no news: %s", p.refusals())
	}
}

func TestDryRunLeavesNoTrace(t *testing.T) {
	t.Parallel()
	p := newPlace(t, enforced)
	p.stream("keycloak", local, "20.0="+keycloak+":20.0.2")
	before, err := p.is(t.Context(), "keycloak")
	p.check(err)
	p.kubectl("run", "x", "--image", "keycloak:20.0", "--dry-run=server")
	p.refused(p.try("run", "x", "--image", "keycloak:nope", "--dry-run=server"), `has no tag "nope"`)
	p.refused(p.try("run", "barrier", "--image", "keycloak:nope"), `has no tag "nope"`)
	p.wait("what came after it is told", func(context.Context) error {
		if all := p.refusals(); !strings.Contains(all, "Pod/barrier") {
			return fmt.Errorf("there are: %s", all)
		}
		return nil
	})
	if all := p.refusals(); strings.Contains(all, "Pod/x") {
		t.Errorf("a dry run makes no event: %s", all)
	}
	after, err := p.is(t.Context(), "keycloak")
	p.check(err)
	if after.ResourceVersion != before.ResourceVersion {
		t.Errorf("it writes no stream: version %s became %s", before.ResourceVersion, after.ResourceVersion)
	}
	for _, r := range p.audit("x") {
		if !r.DryRun {
			t.Errorf("the audit log, which has every decision, says that it was one: %+v", r)
		}
	}
}

func TestMetricsNameNobody(t *testing.T) {
	t.Parallel()
	p := newPlace(t, enforced)
	p.stream("canary-stream", local, "20.0="+keycloak+":20.0.2")
	canary := p.as("canary-user", "edit")
	run := func(name, image string) harness.Result { return canary.try("run", name, "--image", image) }
	p.wait("the user may edit", func(context.Context) error { return run("canary-pod", "canary-stream:20.0").Err() })
	p.check(run("canary-other", "canary-image:canary-tag").Err())
	p.refused(run("canary-typo", "canary-stream:canary-nope"), "canary-nope")
	p.refused(run("canary-host", "canary.example.com/a b:c"), "canary")
	all, err := metrics(t.Context(), "webhook")
	p.check(err)
	for _, series := range []string{
		`istag_admission_decisions_total{mode="enforce",outcome="pinned",reason="LocalLookup",webhook="pin"}`,
		`istag_admission_decisions_total{mode="enforce",outcome="denied",reason="NoTag",webhook="pin"}`,
		`istag_admission_decisions_total{mode="enforce",outcome="left",reason="NoStream",webhook="pin"}`,
		`istag_admission_duration_seconds_bucket{webhook="pin",`,
		`istag_admission_duration_seconds_bucket{webhook="check",`,
		"istag_index_age_seconds ",
		"istag_index_streams ",
		`istag_policy_reloads_total{result="failed"}`,
	} {
		if !strings.Contains(all, "\n"+series) {
			t.Errorf("there must be %s", series)
		}
	}
	for line := range strings.Lines(all) {
		for _, theirs := range []string{"canary", "story-", "keycloak"} {
			if strings.Contains(line, theirs) {
				t.Errorf("what users choose must not become a series: %s", line)
			}
		}
	}
}
