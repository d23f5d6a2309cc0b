package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"istag.dev/config"
	"istag.dev/resolver"
	"istag.dev/webhook/audit"
	"istag.dev/webhook/scope"
)

// The stories here change the rules of the whole cluster, so they run one after the other and no other meanwhile.

// reload changes the webhook's configuration by a function and returns when that was heard, with a result.
func reload(ctx context.Context, result string, change func() error) error {
	heard := func(ctx context.Context) (float64, error) {
		return total(ctx, "webhook", "istag_policy_reloads_total", `result="`+result+`"`)
	}
	before, err := heard(ctx)
	if err != nil {
		return err
	}
	was, err := env.ConfigText()
	if err != nil {
		return err
	}
	if err := change(); err != nil {
		return err
	}
	if is, err := env.ConfigText(); err != nil || bytes.Equal(was, is) {
		return err
	}
	return env.Wait(ctx, "the webhook has read its configuration: "+result, func(ctx context.Context) error {
		if now, err := heard(ctx); err != nil || now <= before {
			return errors.Join(fmt.Errorf("it had done so %v times before, and %v times now", before, now), err)
		}
		return nil
	})
}

// usePolicy puts a policy in force until the story is over.
func usePolicy(t *testing.T, policy config.Policy) {
	t.Helper()
	t.Cleanup(func() {
		err := reload(context.Background(), "ok", func() error {
			return env.SetConfig(func(*config.Configuration) {})
		})
		if err != nil {
			t.Error(err)
		}
	})
	if err := reload(t.Context(), "ok", func() error {
		return env.SetConfig(func(c *config.Configuration) { c.Policy = policy })
	}); err != nil {
		t.Fatal(err)
	}
}

// anywhere are the resources that rules of the stories are about.
func anywhere(resources ...string) []config.GroupResource {
	all := []config.GroupResource{{Resource: "pods"}, {Group: "apps", Resource: "deployments"}}
	for _, r := range resources {
		group, resource, _ := strings.Cut(r, "/")
		all = append(all, config.GroupResource{Group: group, Resource: resource})
	}
	return all
}

// digestOf is the digest alone of what the registry serves under an upstream name.
func digestOf(t *testing.T, upstream string) string {
	t.Helper()
	_, digest, _ := strings.Cut(served(t, upstream), "@")
	return digest
}

func TestImagesThatMustNotRun(t *testing.T) {
	p := newPlace(t, enforced)
	p.stream("keycloak", local, "20.0="+keycloak+":20.0.2", "bad="+keycloak+":20.0.1")
	usePolicy(t, config.Policy{ResolveImages: config.Attempt, ExecutionRules: []config.ExecutionRule{{
		Name: "deny-execution", OnResources: anywhere(), Reject: true, SkipOnResolutionFailure: true,
		MatchImageAnnotations: []config.ValueCondition{{Key: "images.openshift.io/deny-execution", Value: "true"}},
	}}})
	image := "image/" + digestOf(t, keycloak+":20.0.1")
	p.kubectl("run", "before", "--image", "keycloak:bad")
	p.kubectl("annotate", image, "images.openshift.io/deny-execution=true")
	clean := func(ctx context.Context) error {
		return env.Kubectl(ctx, "annotate", image, "images.openshift.io/deny-execution-").Err()
	}
	t.Cleanup(func() {
		if err := clean(context.Background()); err != nil {
			t.Error(err)
		}
	})
	p.wait("the image is refused", func(context.Context) error {
		if p.try("run", "x", "--image", "keycloak:bad", "--dry-run=server").Code == 0 {
			return errors.New("it is admitted")
		}
		return nil
	})
	p.refused(p.try("run", "x", "--image", "keycloak:bad"), "deny-execution", served(t, keycloak+":20.0.1"), "spec.containers[0].image")
	p.refused(p.try("create", "deployment", "x", "--image", "keycloak:bad"), "deny-execution")
	p.refused(p.try("run", "x", "--image", served(t, keycloak+":20.0.1")), "deny-execution")
	p.kubectl("run", "good", "--image", "keycloak:20.0")
	p.runs("other images run", "pod/good", served(t, keycloak+":20.0.2"))
	p.kubectl("label", "pod", "before", "changed=yes")
	p.runs("what runs already is left to run", "pod/before", served(t, keycloak+":20.0.1"))
	if !slices.ContainsFunc(p.auditBy("check", "x"), func(r audit.Record) bool {
		return r.Decision == "denied" && r.Rule == "deny-execution" && !r.DryRun
	}) {
		t.Errorf("the audit log names the rule: %+v", p.auditBy("check", "x"))
	}
	p.check(clean(t.Context()))
	p.wait("the image may run again", func(context.Context) error { return p.try("run", "x", "--image", "keycloak:bad").Err() })
}

func TestRulesAboutRegistriesAndLabels(t *testing.T) {
	p, exempt := newPlace(t, enforced), newPlace(t, enforced)
	for _, p := range []*place{p, exempt} {
		p.stream("keycloak", local, "20.0="+keycloak+":20.0.2", "old="+keycloak+":19.0")
	}
	exempt.kubectl("annotate", "namespace", exempt.name, scope.IgnoreRulesAnnotation+"=no-docker-hub,no-old,no-evil")
	usePolicy(t, config.Policy{ResolveImages: config.Attempt, ExecutionRules: []config.ExecutionRule{
		{Name: "no-docker-hub", OnResources: anywhere(), Reject: true, MatchRegistries: []string{"docker.io"}},
		{Name: "no-old", OnResources: anywhere(), Reject: true, MatchDockerImageLabels: []config.ValueCondition{{Key: "version", Value: "19.0"}}},
		{Name: "no-evil", OnResources: anywhere(), Reject: true, IgnoreNamespaceOverride: true, MatchRegistries: []string{"evil.example.com"}},
		{Name: "only-quay", OnResources: []config.GroupResource{{Group: "batch", Resource: "cronjobs"}}, Reject: true, InvertMatch: true, MatchRegistries: []string{"quay.io"}},
		{Name: "quay", OnResources: []config.GroupResource{{Group: "batch", Resource: "jobs"}}, MatchRegistries: []string{"quay.io"}},
	}})
	exempt.wait("the exemption is heard", func(context.Context) error {
		return exempt.try("run", "x", "--image", "busybox:1.36", "--dry-run=server").Err()
	})
	for name, c := range map[string]struct {
		reason, command string
		place           *place
		rule            string // that refuses it, if one does
	}{
		"docker hub":        {"a name without a registry is Docker Hub's", "run a --image busybox:1.36", p, "no-docker-hub"},
		"docker hub named":  {"in full as well", "run b --image docker.io/library/busybox:1.36", p, "no-docker-hub"},
		"deployment":        {"in every kind that the rule names", "create deployment c --image busybox:1.36", p, "no-docker-hub"},
		"other registry":    {"other registries do", "run d --image quay.io/any/thing:1", p, ""},
		"stream":            {"a stream's name is what it becomes, and that is of quay.io", "run e --image keycloak:20.0", p, ""},
		"label":             {"what the image says of itself counts", "run f --image keycloak:old", p, "no-old"},
		"exempt":            {"a namespace can exempt itself", "run g --image docker.io/library/busybox:1.36", exempt, ""},
		"exempt by label":   {"from any rule", "run h --image keycloak:old", exempt, ""},
		"not exempt":        {"but for those that say otherwise", "run i --image evil.example.com/a:1", exempt, "no-evil"},
		"inverted":          {"an inverted rule is about all the others", "create cronjob j --schedule @daily --image ghcr.io/any/thing:1", p, "only-quay"},
		"inverted, but not": {"and not about those it names", "create cronjob k --schedule @daily --image keycloak:20.0", p, ""},
		"no rule accepts":   {"where a rule accepts, the rest is refused", "create job l --image ghcr.io/any/thing:1", p, "no execution rule"},
		"a rule accepts":    {"and what it accepts is not", "create job m --image keycloak:20.0", p, ""},
		"not its resource":  {"a kind that no rule names has no rules", "create -f testdata/replicaset.yaml", p, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := &place{t: t, name: c.place.name}
			result := p.try(strings.Fields(c.command)...)
			switch {
			case c.rule != "":
				p.refused(result, c.rule)
			case result.Code != 0:
				t.Errorf("%s: %v", c.reason, result.Err())
			}
		})
	}
}

func TestRulesLeaveWhatControllersMake(t *testing.T) {
	p := newPlace(t, enforced)
	p.stream("keycloak", local, "20.0="+keycloak+":20.0.2")
	p.apply(deployment("before", spec{main: "busybox:1.36"}))
	p.kubectl("rollout", "status", "deployment/before", "--timeout", "60s")
	usePolicy(t, config.Policy{ResolveImages: config.Attempt, ExecutionRules: []config.ExecutionRule{
		{Name: "no-docker-hub", OnResources: anywhere("apps/replicasets"), Reject: true, MatchRegistries: []string{"docker.io"}},
	}})
	p.refused(p.try("run", "x", "--image", "busybox:1.36"), "no-docker-hub")
	p.kubectl("scale", "deployment", "before", "--replicas", "3")
	p.kubectl("rollout", "status", "deployment/before", "--timeout", "60s")
	p.runs("a workload that runs is scaled whatever the rules say now", "deployment/before", "busybox:1.36")
	p.refused(p.try("set", "image", "deployment/before", "main=busybox:1.37"), "no-docker-hub")
}

func TestResolutionIsRequired(t *testing.T) {
	p, relaxed := newPlace(t, enforced), newPlace(t, label(scope.AdmissionLabel, string(scope.Warn)))
	for _, p := range []*place{p, relaxed} {
		p.stream("keycloak", local, "20.0="+keycloak+":20.0.2")
		p.stream("httpd", notLocal, "2.4=quay.io/redhattraining/httpd-24:2.4")
	}
	unknown := "quay.io/any/thing@sha256:" + strings.Repeat("0", 64)
	usePolicy(t, config.Policy{ResolveImages: config.Required})
	for name, c := range map[string]struct {
		reason, image, becomes string // becomes is empty if it is refused
	}{
		"local":          {"a stream's name is resolved", "keycloak:20.0", served(t, keycloak+":20.0.2")},
		"known":          {"a digest that was imported is known", served(t, keycloak+":20.0.2"), served(t, keycloak+":20.0.2")},
		"unknown-digest": {"another is not", unknown, ""},
		"docker-hub":     {"what no stream has cannot be resolved", "busybox:1.36", ""},
		"registry":       {"whatever registry it is of", "quay.io/keycloak/keycloak:20.0.2", ""},
		"not-local":      {"nor what a stream does not give away", "httpd:2.4", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, relaxed := &place{t: t, name: p.name}, &place{t: t, name: relaxed.name}
			result := p.try("create", "deployment", name, "--image", c.image)
			if c.becomes == "" {
				p.refused(result, "spec.template.spec.containers[0].image", c.image)
				relaxed.warned("where nothing is refused, it is said", relaxed.try("create", "deployment", name, "--image", c.image), c.image)
				return
			}
			p.check(result.Err())
			p.runs(c.reason, "deployment/"+name, c.becomes)
		})
	}
}

// registryHost is one by which streams are named in full. Nothing answers there.
const registryHost = "image-registry.example.com:5000"

func TestStreamsNamedInFull(t *testing.T) {
	p, other := newPlace(t, enforced), newPlace(t)
	for _, p := range []*place{p, other} {
		p.stream("keycloak", notLocal, "20.0="+keycloak+":20.0.2")
	}
	here, there := registryHost+"/"+p.name+"/keycloak:20.0", registryHost+"/"+other.name+"/keycloak:20.0"
	pinned := served(t, keycloak+":20.0.2")
	alice, bob := p.as("alice", "edit"), p.as("bob", "edit")
	other.kubectl("create", "rolebinding", "bob-pulls", "--clusterrole", "system:image-puller", "--user", "bob")
	asked := func(p *place, name, image string) string {
		p.t.Helper()
		result := p.try("create", "deployment", name, "--image", image, "--dry-run=server", "--output", "json")
		p.check(result.Err())
		return decode(p.t, result.Stdout).images()[0]
	}
	for _, user := range []*place{alice, bob} {
		user.wait("they may edit", func(context.Context) error {
			return user.try("create", "deployment", "may", "--image", "quay.io/any/thing:1", "--dry-run=server").Err()
		})
	}
	if got := asked(p, "before", here); got != here {
		t.Errorf("a host that the configuration does not name is any host: got %q", got)
	}
	usePolicy(t, config.Policy{ResolveImages: config.AttemptRewrite, ResolutionRules: []config.ResolutionRule{}, RegistryHosts: []string{registryHost}})
	for name, c := range map[string]struct {
		reason      string
		who         *place
		image, want string
	}{
		"here":            {"a stream of the namespace, local or not", alice, here, pinned},
		"there, allowed":  {"a stream of another namespace, for those who may pull its images", bob, there, pinned},
		"there, not":      {"for others it stays what it is, and its digest a secret", alice, there, there},
		"nowhere":         {"a stream that is not there", bob, registryHost + "/" + other.name + "/nonesuch:1", registryHost + "/" + other.name + "/nonesuch:1"},
		"not a namespace": {"a name that has too many parts", bob, registryHost + "/" + other.name + "/a/keycloak:20.0", registryHost + "/" + other.name + "/a/keycloak:20.0"},
		"other port":      {"another port is another host", bob, "image-registry.example.com:5001/" + p.name + "/keycloak:20.0", "image-registry.example.com:5001/" + p.name + "/keycloak:20.0"},
		"digest":          {"a digest is exact already", bob, registryHost + "/" + p.name + "/keycloak@" + digestOf(t, keycloak+":20.0.2"), registryHost + "/" + p.name + "/keycloak@" + digestOf(t, keycloak+":20.0.2")},
		"elsewhere":       {"another registry's names stay as they are", bob, "quay.io/any/thing:1", "quay.io/any/thing:1"},
	} {
		t.Run(name, func(t *testing.T) {
			p := &place{t: t, name: c.who.name, user: c.who.user}
			if got := asked(p, "x", c.image); got != c.want {
				t.Errorf("%s: want %q, got %q", c.reason, c.want, got)
			}
		})
	}
	usePolicy(t, config.Policy{ResolveImages: config.RequiredRewrite, ResolutionRules: []config.ResolutionRule{}, RegistryHosts: []string{registryHost}})
	if got := asked(bob, "required", there); got != pinned {
		t.Errorf("where names must be resolved it is no other: got %q", got)
	}
	alice.refused(alice.try("create", "deployment", "refused", "--image", there), there, "alice", "imagestreams/layers", other.name)
	if records := p.audit("refused"); len(records) != 1 || records[0].Decision != "denied" || records[0].PullSpec != "" {
		t.Errorf("the refusal gives the digest away to nobody: %+v", records)
	}
}

func TestModesOfSingleResources(t *testing.T) {
	p := newPlace(t, enforced)
	p.stream("keycloak", local, "20.0="+keycloak+":20.0.2")
	usePolicy(t, config.Policy{ResolveImages: config.DoNotAttempt, ResolutionRules: []config.ResolutionRule{
		{TargetResource: config.GroupResource{Group: "apps", Resource: "deployments"}, LocalNames: true},
	}})
	p.apply(deployment("x", spec{main: "keycloak:20.0"}))
	p.runs("a rule with local names replaces them", "deployment/x", served(t, keycloak+":20.0.2"))
	if pin := resolver.ParsePins(p.get("deployment/x").Metadata.Annotations[resolver.PinnedAnnotation])["main"]; pin.Istag != "keycloak:20.0" {
		t.Errorf("and says so: %+v", pin)
	}
}

func TestRulesAreReadAnew(t *testing.T) {
	p := newPlace(t, enforced)
	p.stream("keycloak", local, "20.0="+keycloak+":20.0.2")
	process := env.Processes()["istag serve webhook"]
	usePolicy(t, config.Policy{ResolveImages: config.Attempt, ExecutionRules: []config.ExecutionRule{
		{Name: "no-docker-hub", Reject: true, MatchRegistries: []string{"docker.io"}},
	}})
	p.refused(p.try("run", "x", "--image", "busybox:1.36"), "no-docker-hub")
	text, err := env.ConfigText()
	p.check(err)
	for name, broken := range map[string]struct{ text, says string }{
		"no YAML":       {"{{", "yaml"},
		"unknown field": {string(text) + "\nresolvImages: Attempt\n", "resolvImages"},
		"unknown mode":  {strings.Replace(string(text), "resolveImages: Attempt", "resolveImages: Sometimes", 1), "Sometimes"},
		"no name":       {strings.Replace(string(text), "name: no-docker-hub", `name: ""`, 1), "executionRules"},
	} {
		if err := reload(t.Context(), "failed", func() error { return env.WriteConfig([]byte(broken.text)) }); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		p.refused(p.try("run", "x", "--image", "busybox:1.36"), "no-docker-hub")
		said, err := os.ReadFile(env.Log("webhook"))
		p.check(err)
		lines := strings.Split(strings.TrimSpace(string(said)), "\n")
		if !slices.ContainsFunc(lines, func(line string) bool {
			return strings.Contains(line, `"ERROR"`) && strings.Contains(line, broken.says)
		}) {
			t.Errorf("%s: the log says that the rules in force are the old ones, and why; it ends: %s", name, strings.Join(lines[max(0, len(lines)-3):], "\n"))
		}
	}
	usePolicy(t, config.DefaultPolicy())
	p.kubectl("run", "x", "--image", "busybox:1.36")
	if now := env.Processes()["istag serve webhook"]; now != process {
		t.Errorf("nothing was restarted: process %d became %d", process, now)
	}
}
