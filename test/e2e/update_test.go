package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestApplyingAgainChangesNothing(t *testing.T) {
	t.Parallel()
	p := newPlace(t, enforced)
	p.stream("keycloak", local, "20.0="+keycloak+":20.0.2")
	manifest := deployment("x", spec{main: "keycloak:20.0", init: "keycloak:20.0"})
	for name, flags := range map[string][]string{"client-side": nil, "server-side": {"--server-side", "--force-conflicts"}} {
		p.apply(manifest, flags...)
		before := p.get("deployment/x").Metadata
		for range 2 {
			p.apply(manifest, flags...)
		}
		after := p.get("deployment/x").Metadata
		if after.Generation != before.Generation {
			t.Errorf("%s apply: the manifest in Git says a name, the cluster holds its digest, and that is no difference: generation %d became %d", name, before.Generation, after.Generation)
		}
	}
	if n := p.replicaSets(); n != 1 {
		t.Errorf("nothing changed, so there is one ReplicaSet; got %d", n)
	}
}

func TestUnrelatedUpdatesLeaveImages(t *testing.T) {
	t.Parallel()
	p := newPlace(t, enforced)
	p.stream("keycloak", local, "20.0="+keycloak+":20.0.2")
	before := served(t, keycloak+":20.0.2")
	for _, k := range kinds {
		if k.name != "Pod" && k.name != "Job" { // whose specs cannot change
			p.apply(k.write("x", spec{main: "keycloak:20.0"}))
		}
	}
	p.kubectl("run", "x", "--image", "keycloak:20.0")
	p.stream("keycloak", local, "20.0="+keycloak+":20.0.3")
	for name, command := range map[string]string{
		"label":    "label deployment,statefulset,daemonset,cronjob,pod x changed=yes",
		"annotate": "annotate replicaset,replicationcontroller x changed=yes",
		"scale":    "scale deployment x --replicas 2",
		"env":      "set env deployment/x A=b",
		"limits":   "set resources statefulset/x --limits cpu=1",
	} {
		result := p.try(strings.Fields(command)...)
		if result.Code != 0 {
			t.Errorf("%s: nobody's unrelated update is refused: %v", name, result.Err())
		}
	}
	for _, k := range kinds {
		if k.name != "Job" {
			p.runs("without a trigger, a tag that moved reaches nothing that did not ask", k.resource+"/x", before)
		}
	}
}

func TestUpdatesOfWhatWasThereBefore(t *testing.T) {
	t.Parallel()
	p := newPlace(t, enforced)
	p.apply(deployment("early", spec{main: "keycloak:nope"}))
	p.stream("keycloak", local, "20.0="+keycloak+":20.0.2")
	p.kubectl("label", "deployment", "early", "changed=yes")
	p.kubectl("scale", "deployment", "early", "--replicas", "2")
	p.runs("an object from before the stream can still be changed otherwise", "deployment/early", "keycloak:nope")
	p.refused(p.try("set", "image", "deployment/early", "main=keycloak:nope2"), `has no tag "nope2"`)
	p.kubectl("set", "image", "deployment/early", "main=keycloak:20.0")
	p.runs("and gets its digest when its image changes", "deployment/early", served(t, keycloak+":20.0.2"))
}

func TestPods(t *testing.T) {
	t.Parallel()
	p := newPlace(t, enforced)
	p.stream("keycloak", local, "20.0="+keycloak+":20.0.2", "next="+keycloak+":20.0.3")
	p.kubectl("run", "x", "--image", "keycloak:20.0")
	p.kubectl("set", "image", "pod/x", "x=keycloak:next")
	p.runs("the image of a pod can be changed, and is pinned then", "pod/x", served(t, keycloak+":20.0.3"))
	created := env.KubectlStdin(t.Context(), `{apiVersion: v1, kind: Pod, metadata: {generateName: gen-}, spec: {containers: [{name: main, image: "keycloak:20.0"}]}}`,
		"create", "--namespace", p.name, "--output", "json", "-f", "-")
	p.check(created.Err())
	if got := decode(t, created.Stdout).images(); got[0] != served(t, keycloak+":20.0.2") {
		t.Errorf("a pod that has no name yet is pinned as well, got %q", got)
	}
	if records := p.audit("gen-"); len(records) != 1 {
		t.Errorf("and recorded under what its name is made of: %+v", records)
	}
	p.kubectl("run", "debugged", "--image", "keycloak:20.0")
	p.kubectl("annotate", "pod", "debugged", "istag.dev/pinned=nonsense", "--overwrite")
	p.kubectl("label", "pod", "debugged", "a=b")
	p.runs("nonsense in our own annotation harms nobody", "pod/debugged", served(t, keycloak+":20.0.2"))
}

func TestWhatControllersMakeIsLeftAlone(t *testing.T) {
	t.Parallel()
	p := newPlace(t, enforced)
	p.stream("keycloak", local, "20.0="+keycloak+":20.0.2", "next="+keycloak+":20.0.3")
	p.apply(deployment("x", spec{main: "keycloak:20.0"}))
	p.kubectl("rollout", "status", "deployment/x", "--timeout", "60s")
	p.kubectl("set", "image", "deployment/x", "main=keycloak:next")
	p.kubectl("rollout", "status", "deployment/x", "--timeout", "60s")
	p.kubectl("scale", "deployment/x", "--replicas", "3")
	p.kubectl("rollout", "status", "deployment/x", "--timeout", "60s")
	if n := p.replicaSets(); n != 2 {
		t.Errorf("two images were wanted, so there are two ReplicaSets: a controller that we fought would make more; got %d", n)
	}
	want := served(t, keycloak+":20.0.3")
	p.wait("three pods run the new image", func(context.Context) error {
		pods := strings.Fields(p.kubectl("get", "pods", "--field-selector", "status.phase=Running", "--output", "jsonpath={.items[*].spec.containers[0].image}"))
		if !slices.Equal(pods, []string{want, want, want}) {
			return fmt.Errorf("running are %q", pods)
		}
		return nil
	})
	records, err := env.AuditRecords()
	p.check(err)
	for _, r := range records {
		if r.Namespace == p.name && r.Kind != "Deployment.apps" {
			t.Errorf("what a controller made was decided on when its owner was written: %+v", r)
		}
	}
}
