package e2e

import (
	"context"
	"fmt"
	"testing"

	"istag.dev/webhook/scope"
)

// waysToApply are the flags of the ways in which people apply manifests.
var waysToApply = map[string][]string{"client-side": nil, "server-side": {"--server-side", "--force-conflicts"}}

var hold = label(scope.OnReapplyLabel, "hold")

func TestReapplyResolvesAgain(t *testing.T) {
	t.Parallel()
	for name, flags := range waysToApply {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPlace(t, enforced)
			p.stream("keycloak", local, "20.0="+keycloak+":20.0.2")
			manifest := deployment("x", spec{main: "keycloak:20.0"})
			p.apply(manifest, flags...)
			p.kubectl("rollout", "status", "deployment/x", "--timeout", "60s")
			p.stream("keycloak", local, "20.0="+keycloak+":20.0.3")
			p.apply(manifest, flags...)
			p.runs("as in OpenShift, to apply a name is to ask what it means now", "deployment/x", served(t, keycloak+":20.0.3"))
			p.kubectl("rollout", "status", "deployment/x", "--timeout", "60s")
			if n := p.replicaSets(); n != 2 {
				t.Errorf("it was rolled out once: want 2 ReplicaSets, got %d", n)
			}
		})
	}
}

func TestReapplyHolds(t *testing.T) {
	t.Parallel()
	for _, k := range []kind{kindNamed("Deployment"), kindNamed("StatefulSet"), kindNamed("DaemonSet"), kindNamed("CronJob")} {
		for name, flags := range waysToApply {
			t.Run(k.name+"/"+name, func(t *testing.T) {
				t.Parallel()
				p := newPlace(t, enforced, hold)
				p.stream("keycloak", local, "20.0="+keycloak+":20.0.2", "next="+keycloak+":19.0")
				object, written := k.resource+"/x", spec{main: "keycloak:20.0", init: "keycloak:next"}
				init, before, after := served(t, keycloak+":19.0"), served(t, keycloak+":20.0.2"), served(t, keycloak+":20.0.3")
				p.apply(k.write("x", written), flags...)
				generation := p.get(object).Metadata.Generation
				p.stream("keycloak", local, "20.0="+keycloak+":20.0.3", "next="+keycloak+":19.0")
				for range 2 {
					p.apply(k.write("x", written), flags...)
				}
				p.runs("who applies what was applied before asks for nothing new", object, init, before)
				if got := p.get(object).Metadata.Generation; got != generation {
					t.Errorf("so nothing changes: generation %d became %d", generation, got)
				}
				written.side = "quay.io/any/thing:1"
				p.apply(k.write("x", written), flags...)
				p.runs("what changes beside it changes nothing of it", object, init, before, written.side)
				written.main = "keycloak:next"
				p.apply(k.write("x", written), flags...)
				p.runs("another name asks what it means", object, init, init, written.side)
				written.main = "keycloak:20.0"
				p.apply(k.write("x", written), flags...)
				p.runs("and so does the first name after it", object, init, after, written.side)
			})
		}
	}
}

func TestHeldDeploymentIsNotRolledOut(t *testing.T) {
	t.Parallel()
	p := newPlace(t, enforced, hold)
	p.stream("keycloak", local, "20.0="+keycloak+":20.0.2")
	manifest := deployment("x", spec{main: "keycloak:20.0"})
	p.apply(manifest)
	p.kubectl("rollout", "status", "deployment/x", "--timeout", "60s")
	p.stream("keycloak", local, "20.0="+keycloak+":20.0.3")
	p.apply(manifest)
	p.kubectl("rollout", "restart", "deployment/x")
	p.kubectl("rollout", "status", "deployment/x", "--timeout", "60s")
	p.runs("a restart is no new image", "deployment/x", served(t, keycloak+":20.0.2"))
	if n := p.replicaSets(); n != 2 {
		t.Errorf("the restart is the one roll-out: want 2 ReplicaSets, got %d", n)
	}
	p.kubectl("set", "image", "deployment/x", "main=keycloak:20.0")
	p.runs("the same name, however it comes, asks for nothing new", "deployment/x", served(t, keycloak+":20.0.2"))
	p.kubectl("label", "namespace", p.name, scope.OnReapplyLabel+"-")
	p.wait("without the label it asks again", func(context.Context) error {
		p.apply(manifest)
		if got, want := p.get("deployment/x").images(), served(t, keycloak+":20.0.3"); got[0] != want {
			return fmt.Errorf("it has %q", got)
		}
		return nil
	})
}
