package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"istag.dev/resolver"
)

func TestTriggersRollOutAndBack(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"Deployment", "StatefulSet", "DaemonSet", "CronJob"} {
		for _, c := range []struct {
			reason string
			labels []string
		}{
			{"enforced", []string{enforced}},
			{"unlabelled", nil}, // a trigger is asked for by its annotation, whatever admission does
		} {
			t.Run(name+"/"+c.reason, func(t *testing.T) {
				t.Parallel()
				k, p := kindNamed(name), newPlace(t, c.labels...)
				p.stream("keycloak", local, "20.0="+keycloak+":20.0.2", "tools="+keycloak+":19.0")
				// Any image to begin with; the trigger sees to the rest.
				p.apply(k.write("x", spec{
					main: "example.com/nothing:yet", init: "example.com/nothing:yet", side: "example.com/other:1",
					annotations: following(triggers(k.base, "main", "keycloak:20.0", "init", "keycloak:tools")),
				}))
				tools := served(t, keycloak+":19.0")
				p.comesToRun(k.resource+"/x", tools, served(t, keycloak+":20.0.2"), "example.com/other:1")
				for _, version := range []string{"20.0.3", "20.0.2"} {
					p.stream("keycloak", local, "20.0="+keycloak+":"+version, "tools="+keycloak+":19.0")
					p.comesToRun(k.resource+"/x", tools, served(t, keycloak+":"+version), "example.com/other:1")
					if name != "CronJob" {
						p.kubectl("rollout", "status", k.resource+"/x", "--timeout", "60s")
					}
				}
			})
		}
	}
}

func TestTriggerKeepsProvenance(t *testing.T) {
	t.Parallel()
	p := newPlace(t, enforced)
	p.stream("keycloak", local, "20.0="+keycloak+":20.0.2")
	p.apply(deployment("x", spec{
		main:        "keycloak:20.0",
		annotations: following(triggers("spec.template.spec", "main", "keycloak:20.0")),
	}))
	p.stream("keycloak", local, "20.0="+keycloak+":20.0.3")
	p.comesToRun("deployment/x", served(t, keycloak+":20.0.3"))
	text := p.get("deployment/x").Metadata.Annotations[resolver.PinnedAnnotation]
	if pin := resolver.ParsePins(text)["main"]; pin.PullSpec != served(t, keycloak+":20.0.3") || pin.Istag != "keycloak:20.0" {
		t.Errorf("provenance tells of the image that is there now: %s", text)
	}
	if owner := p.kubectl("get", "events", "--field-selector", "involvedObject.name=x,reason=ImageUpdated", "--output", "jsonpath={.items[*].message}{.items[*].note}"); !strings.Contains(owner, "keycloak:20.0") {
		t.Errorf("a roll-out that nobody typed says on the object whence it came, got %q", owner)
	}
}

func TestOneRolloutForSeveralContainers(t *testing.T) {
	t.Parallel()
	p := newPlace(t, enforced)
	p.stream("keycloak", local, "20.0="+keycloak+":20.0.2")
	p.apply(deployment("x", spec{
		main: "keycloak:20.0", init: "keycloak:20.0", side: "keycloak:20.0",
		annotations: following(triggers("spec.template.spec", "main", "keycloak:20.0", "side", "keycloak:20.0", "init", "keycloak:20.0")),
	}))
	p.kubectl("rollout", "status", "deployment/x", "--timeout", "60s")
	p.stream("keycloak", local, "20.0="+keycloak+":20.0.3")
	want := served(t, keycloak+":20.0.3")
	p.comesToRun("deployment/x", want, want, want)
	p.kubectl("rollout", "status", "deployment/x", "--timeout", "60s")
	if n := p.replicaSets(); n != 2 {
		t.Errorf("one move of a tag is one roll-out, however many containers follow it: want 2 ReplicaSets, got %d", n)
	}
}

func TestTagThatFlaps(t *testing.T) {
	t.Parallel()
	p := newPlace(t, enforced)
	p.stream("keycloak", local, "20.0="+keycloak+":20.0.2")
	p.apply(deployment("x", spec{main: "keycloak:20.0", annotations: following(triggers("spec.template.spec", "main", "keycloak:20.0"))}))
	for range 5 {
		p.apply(streamManifest("keycloak", local, "20.0="+keycloak+":20.0.3"))
		p.apply(streamManifest("keycloak", local, "20.0="+keycloak+":20.0.2"))
	}
	p.stream("keycloak", local, "20.0="+keycloak+":20.0.3")
	p.comesToRun("deployment/x", served(t, keycloak+":20.0.3"))
	p.kubectl("rollout", "status", "deployment/x", "--timeout", "60s")
	p.runs("whatever happened between, the last word counts", "deployment/x", served(t, keycloak+":20.0.3"))
	if n := p.replicaSets(); n != 2 {
		t.Errorf("two images make two ReplicaSets, however often they change places; got %d", n)
	}
}

func TestPausedTrigger(t *testing.T) {
	t.Parallel()
	p := newPlace(t, enforced)
	p.stream("keycloak", local, "20.0="+keycloak+":20.0.2")
	annotation := triggers("spec.template.spec", "main", "keycloak:20.0")
	paused := strings.Replace(annotation, "}]", `,"paused":true}]`, 1)
	p.apply(deployment("paused", spec{main: "keycloak:20.0", annotations: following(paused)}))
	p.apply(deployment("running", spec{main: "keycloak:20.0", annotations: following(annotation)}))
	p.stream("keycloak", local, "20.0="+keycloak+":20.0.3")
	p.comesToRun("deployment/running", served(t, keycloak+":20.0.3"))
	p.runs("a paused trigger does nothing", "deployment/paused", served(t, keycloak+":20.0.2"))
	p.kubectl("annotate", "deployment", "paused", "--overwrite", triggersAnnotation+"="+annotation)
	p.comesToRun("deployment/paused", served(t, keycloak+":20.0.3"))
}

func TestBrokenTriggersAreReported(t *testing.T) {
	t.Parallel()
	p := newPlace(t, enforced)
	p.stream("keycloak", local, "20.0="+keycloak+":20.0.2")
	for name, c := range map[string]struct{ reason, annotation, event, text string }{
		"not-json":   {"text that is no JSON", `{{`, "InvalidTriggers", "it is not JSON"},
		"not-a-list": {"JSON of another shape", `{"from":{}}`, "InvalidTriggers", "not a list"},
		"path":       {"a container that is not there", triggers("spec.template.spec", "nonesuch", "keycloak:20.0"), "InvalidTriggerPath", "nonesuch"},
		"foreign":    {"a tag of another namespace", strings.Replace(triggers("spec.template.spec", "main", "keycloak:20.0"), `"name":"keyc`, `"namespace":"kube-system","name":"keyc`, 1), "TriggerNotFollowed", "kube-system"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := &place{t: t, name: p.name}
			p.apply(deployment(name, spec{main: "example.com/a:1", annotations: following(c.annotation)}))
			p.wait("an event on deployment "+name+" tells of "+c.reason, func(context.Context) error {
				events := p.kubectl("get", "events", "--field-selector", "involvedObject.name="+name, "--output", `jsonpath={range .items[*]}{.type} {.reason} {.message}{"\n"}{end}`)
				for line := range strings.Lines(events) {
					if strings.HasPrefix(line, "Warning "+c.event) && strings.Contains(line, c.text) {
						return nil
					}
				}
				return fmt.Errorf("there are: %s", events)
			})
			p.runs(c.reason+" changes nothing", "deployment/"+name, "example.com/a:1")
		})
	}
}

func TestTriggeredWorkloadRestsWhenNothingMoved(t *testing.T) {
	t.Parallel()
	p := newPlace(t, enforced)
	p.stream("keycloak", local, "20.0="+keycloak+":20.0.2", "next="+keycloak+":20.0.2")
	write := func(name, tag string) {
		p.apply(deployment(name, spec{main: "keycloak:" + tag, annotations: following(triggers("spec.template.spec", "main", "keycloak:"+tag))}))
		p.kubectl("rollout", "status", "deployment/"+name, "--timeout", "60s")
	}
	write("resting", "20.0")
	write("moving", "next")
	before := p.get("deployment/resting").Metadata
	p.stream("keycloak", local, "20.0="+keycloak+":20.0.2", "next="+keycloak+":20.0.3")
	p.kubectl("label", "imagestream", "keycloak", "changed=yes")
	p.comesToRun("deployment/moving", served(t, keycloak+":20.0.3"))
	p.kubectl("rollout", "status", "deployment/moving", "--timeout", "60s")
	if after := p.get("deployment/resting").Metadata; after.ResourceVersion != before.ResourceVersion {
		t.Errorf("a workload whose tag did not move is not written: resourceVersion %s became %s", before.ResourceVersion, after.ResourceVersion)
	}
	p.kubectl("scale", "deployment", "resting", "--replicas", "3")
	p.kubectl("rollout", "status", "deployment/resting", "--timeout", "60s")
	p.runs("to scale is not to roll out", "deployment/resting", served(t, keycloak+":20.0.2"))
	if after := p.get("deployment/resting").Metadata; after.Generation != before.Generation+1 {
		t.Errorf("the scaling is the one change: generation %d became %d", before.Generation, after.Generation)
	}
}

func TestTriggeredManifestCanBeAppliedAgain(t *testing.T) {
	t.Parallel()
	p := newPlace(t, enforced)
	p.stream("keycloak", local, "20.0="+keycloak+":20.0.2")
	manifest := deployment("x", spec{main: "keycloak:20.0", annotations: following(triggers("spec.template.spec", "main", "keycloak:20.0"))})
	p.apply(manifest)
	p.stream("keycloak", local, "20.0="+keycloak+":20.0.3")
	p.comesToRun("deployment/x", served(t, keycloak+":20.0.3"))
	before := p.get("deployment/x").Metadata.Generation
	p.apply(manifest)
	p.runs("the short name in Git means what the trigger has set already", "deployment/x", served(t, keycloak+":20.0.3"))
	if after := p.get("deployment/x").Metadata.Generation; after != before {
		t.Errorf("nothing changed, so nothing rolls: generation %d became %d", before, after)
	}
	if result := p.tryApply(manifest, "--server-side", "--field-manager", "git"); result.Code != 0 && !strings.Contains(result.Stderr, "conflict") {
		p.check(result.Err())
	}
	p.runs("with server-side apply as well", "deployment/x", served(t, keycloak+":20.0.3"))
}
