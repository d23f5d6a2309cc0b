package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"istag.dev/config"
	"istag.dev/resolver"
)

// kind is a kind of workload and how one is written.
type kind struct {
	name, apiVersion, resource string
	// base is where its pod spec is.
	base string
	// spec wraps the metadata and spec of its pods, %s each.
	spec string
}

const labelled = `{app: x}`

var kinds = []kind{
	{"Pod", "v1", "pod", "spec", ""},
	{"PodTemplate", "v1", "podtemplate", "template.spec", ""},
	{"ReplicationController", "v1", "replicationcontroller", "spec.template.spec", `{selector: {app: x}, template: %s}`},
	{"Deployment", "apps/v1", "deployment", "spec.template.spec", `{selector: {matchLabels: {app: x}}, template: %s}`},
	{"ReplicaSet", "apps/v1", "replicaset", "spec.template.spec", `{selector: {matchLabels: {app: x}}, template: %s}`},
	{"StatefulSet", "apps/v1", "statefulset", "spec.template.spec", `{serviceName: x, selector: {matchLabels: {app: x}}, template: %s}`},
	{"DaemonSet", "apps/v1", "daemonset", "spec.template.spec", `{selector: {matchLabels: {app: x}}, template: %s}`},
	{"Job", "batch/v1", "job", "spec.template.spec", `{template: %s}`},
	{"CronJob", "batch/v1", "cronjob", "spec.jobTemplate.spec.template.spec", `{schedule: "0 3 * * *", jobTemplate: {spec: {template: %s}}}`},
}

func kindNamed(name string) kind {
	return kinds[slices.IndexFunc(kinds, func(k kind) bool { return k.name == name })]
}

// spec is what a workload of any kind is made of, in YAML's flow style.
type spec struct {
	// main is the image of the container "main"; init, if not empty, that of the init container "init".
	main, init string
	// side, if not empty, is the image of a second container, "side"; volume that of a volume, "data".
	side, volume string
	// annotations of the object, of its template; `{key: value}`.
	annotations, template string
	// more is added to the spec, ", key: value".
	more string
}

// write returns the manifest of a workload.
func (k kind) write(name string, s spec) string {
	containers := fmt.Sprintf(`{name: main, image: %q}`, s.main)
	if s.side != "" {
		containers += fmt.Sprintf(`, {name: side, image: %q}`, s.side)
	}
	pod := fmt.Sprintf(`{containers: [%s]`, containers)
	if s.init != "" {
		pod += fmt.Sprintf(`, initContainers: [{name: init, image: %q}]`, s.init)
	}
	if s.volume != "" {
		pod += fmt.Sprintf(`, volumes: [{name: data, image: {reference: %q}}]`, s.volume)
	}
	if k.name == "Job" || k.name == "CronJob" {
		pod += `, restartPolicy: Never`
	}
	pod += "}"
	labels := labelled
	if k.name == "Job" || k.name == "CronJob" {
		labels = `{}`
	}
	field, object := "spec", pod
	switch template := fmt.Sprintf(`{metadata: {labels: %s, annotations: %s}, spec: %s}`, labels, orEmpty(s.template), pod); k.name {
	case "Pod":
	case "PodTemplate":
		field, object = "template", template
	default:
		object = fmt.Sprintf(k.spec, template)
	}
	if s.more != "" {
		object = object[:len(object)-1] + s.more + "}"
	}
	return fmt.Sprintf("{apiVersion: %s, kind: %s, metadata: {name: %s, annotations: %s}, %s: %s}", k.apiVersion, k.name, name, orEmpty(s.annotations), field, object)
}

func orEmpty(annotations string) string {
	if annotations == "" {
		return "{}"
	}
	return annotations
}

// deployment writes the kind that most stories are about.
func deployment(name string, s spec) string { return kindNamed("Deployment").write(name, s) }

// triggers is the annotation by which containers, "main", follow tags: pairs of container and istag.
func triggers(base string, pairs ...string) string {
	var list []string
	for pair := range slices.Chunk(pairs, 2) {
		list = append(list, fmt.Sprintf(`{"from":{"kind":"ImageStreamTag","name":%q},"fieldPath":"%s.containers[?(@.name==\"%s\")].image"}`, pair[1], base, pair[0]))
	}
	return "[" + strings.Join(list, ",") + "]"
}

// triggersAnnotation is OpenShift's.
const triggersAnnotation = "image.openshift.io/triggers"

// following is the annotation with a list of triggers, in YAML's flow style.
func following(list string) string { return fmt.Sprintf(`{%q: %q}`, triggersAnnotation, list) }

func TestEphemeralContainersArePinned(t *testing.T) {
	t.Parallel()
	p := newPlace(t, enforced)
	p.stream("keycloak", local, "20.0="+keycloak+":20.0.2", "debug="+keycloak+":19.0")
	main, debug := served(t, keycloak+":20.0.2"), served(t, keycloak+":19.0")
	p.kubectl("run", "bare", "--image", "keycloak:20.0")
	p.apply(deployment("x", spec{main: "keycloak:20.0"}))
	p.kubectl("rollout", "status", "deployment/x", "--timeout", "60s")
	owned := strings.TrimSpace(p.kubectl("get", "pods", "--selector", "app=x", "--output", "name"))
	for _, pod := range []string{"pod/bare", owned} {
		p.kubectl("debug", pod, "--image", "keycloak:debug", "--container", "first")
		p.runs("who debugs a pod writes a name, whoever made the pod", pod, main, debug)
		p.refused(p.try("debug", pod, "--image", "keycloak:nope", "--container", "typo"), `has no tag "nope"`, "spec.ephemeralContainers[1].image")
	}
	p.stream("keycloak", local, "20.0="+keycloak+":20.0.2", "debug="+keycloak+":20.0.3")
	for _, pod := range []string{"pod/bare", owned} {
		p.kubectl("debug", pod, "--image", "quay.io/any/thing:1", "--container", "second")
		p.runs("what was there stays", pod, main, debug, "quay.io/any/thing:1")
		p.wait("the webhook has heard that the tag moved", func(context.Context) error {
			dry := decode(t, p.kubectl("run", "y", "--image", "keycloak:debug", "--dry-run=server", "--output", "json"))
			if got := dry.images()[0]; got != served(t, keycloak+":20.0.3") {
				return fmt.Errorf("it pins %s", got)
			}
			return nil
		})
		p.kubectl("debug", pod, "--image", "keycloak:debug", "--container", "third")
		p.runs("a new one is what the tag means now", pod, main, debug, "quay.io/any/thing:1", served(t, keycloak+":20.0.3"))
	}
}

func TestDottedStreamNames(t *testing.T) {
	t.Parallel()
	p := newPlace(t, enforced)
	p.stream("node.js", local, "18="+keycloak+":20.0.2", "latest="+keycloak+":20.0.1")
	for name, c := range map[string]struct{ reason, image, want string }{
		"tag":       {"a dot is part of a stream's name", "node.js:18", served(t, keycloak+":20.0.2")},
		"no-tag":    {"also without a tag", "node.js", served(t, keycloak+":20.0.1")},
		"registry":  {"what goes on after a slash is a registry", "node.js/any/thing:1", "node.js/any/thing:1"},
		"port":      {"and so is what has a port", "node.js:5000/any/thing:1", "node.js:5000/any/thing:1"},
		"no-stream": {"a name with a dot that no stream has is left", "node.ts:18", "node.ts:18"},
	} {
		p.kubectl("create", "deployment", name, "--image", c.image)
		p.runs(c.reason, "deployment/"+name, c.want)
	}
	p.refused(p.try("create", "deployment", "typo", "--image", "node.js:20"), `image stream "node.js" has no tag "20"`)
}

// rollout writes a Rollout of Argo's.
func rollout(name string, s spec) string {
	k := kindNamed("Deployment")
	k.name, k.apiVersion = "Rollout", "argoproj.io/v1alpha1"
	return k.write(name, s)
}

// reinstall applies other manifests, and starts the webhook again with another configuration.
func reinstall(ctx context.Context, kustomization string, change func(*config.Configuration)) error {
	return errors.Join(env.Install(ctx, kustomization), env.SetConfig(change), env.StopWebhook(), env.StartWebhook(ctx))
}

// TestCustomResource installs istag as somebody does who has Rollouts, so it runs while no other story does.
func TestCustomResource(t *testing.T) {
	p := newPlace(t, enforced)
	p.stream("keycloak", local, "20.0="+keycloak+":20.0.2", "next="+keycloak+":20.0.3")
	p.kubectl("apply", "-f", "testdata/rollout-crd.yaml")
	t.Cleanup(func() {
		if err := env.Kubectl(context.Background(), "delete", "-f", "testdata/rollout-crd.yaml").Err(); err != nil {
			t.Error(err)
		}
	})
	p.kubectl("wait", "--for", "condition=Established", "crd/rollouts.argoproj.io", "--timeout", "60s")
	p.apply(rollout("before", spec{main: "keycloak:20.0"}))
	p.runs("a kind that nobody told istag of is left alone", "rollout/before", "keycloak:20.0")
	t.Cleanup(func() {
		if err := reinstall(context.Background(), "../../deploy/base", func(*config.Configuration) {}); err != nil {
			t.Error(err)
		}
	})
	p.check(reinstall(t.Context(), "testdata/with-rollouts", func(c *config.Configuration) {
		c.Webhook.Workloads = []config.Workload{{Group: "argoproj.io", Resource: "rollouts", PodSpec: "spec.template.spec"}}
	}))
	p.wait("the API server asks for Rollouts", func(context.Context) error {
		dry := decode(t, p.apply(rollout("x", spec{main: "keycloak:20.0"}), "--dry-run=server", "--output", "json"))
		if got := dry.images(); got[0] == "keycloak:20.0" {
			return errors.New("it is left alone")
		}
		return nil
	})
	p.apply(rollout("x", spec{main: "keycloak:20.0", init: "keycloak:next", volume: "keycloak:next"}))
	pinned, next := served(t, keycloak+":20.0.2"), served(t, keycloak+":20.0.3")
	p.runs("its template is pinned like any other", "rollout/x", next, pinned, next)
	if pin := resolver.ParsePins(p.get("rollout/x").Metadata.Annotations[resolver.PinnedAnnotation])["main"]; pin.PullSpec != pinned {
		t.Errorf("with provenance: %+v", pin)
	}
	p.refused(p.tryApply(rollout("typo", spec{main: "keycloak:nope"})), `has no tag "nope"`, "spec.template.spec.containers[0].image")
	p.kubectl("label", "rollout", "before", "changed=yes")
	p.runs("what does not change is left", "rollout/before", "keycloak:20.0")
	p.apply(rollout("before", spec{main: "keycloak:next"}))
	p.runs("what changes is pinned", "rollout/before", next)
	p.kubectl("run", "y", "--image", "keycloak:20.0")
	p.runs("and all else is as ever", "pod/y", pinned)
}

// TestEqualNamesAreOneImage asks while the tag moves as fast as it can.
func TestEqualNamesAreOneImage(t *testing.T) {
	t.Parallel()
	p := newPlace(t, enforced)
	p.stream("keycloak", local, "20.0="+keycloak+":20.0.2", "a="+keycloak+":20.0.2", "b="+keycloak+":20.0.3")
	moving, done := context.WithCancel(t.Context())
	defer done()
	moved := make(chan error, 1)
	go func() {
		for i := 0; moving.Err() == nil; i++ {
			if err := p.tag(moving, "keycloak:20.0", from("ImageStreamTag", []string{"a", "b"}[i%2])); err != nil && moving.Err() == nil {
				moved <- err
				return
			}
		}
		moved <- nil
	}()
	seen := map[string]int{}
	p.wait("both images were seen", func(ctx context.Context) error {
		object := &appsv1.Deployment{}
		p.check(yaml.Unmarshal([]byte(deployment("x", spec{main: "keycloak:20.0", init: "keycloak:20.0", side: "keycloak:20.0", volume: "keycloak:20.0"})), object))
		object.Namespace = p.name
		if err := env.Client().Create(ctx, object, client.DryRunAll); err != nil {
			return err
		}
		text, err := json.Marshal(object)
		p.check(err)
		images := decode(t, string(text)).images()
		if len(images) != 4 || len(slices.Compact(slices.Clone(images))) != 1 {
			t.Fatalf("one name is one image in one object, got %q", images)
		}
		seen[images[0]]++
		if len(seen) < 2 || seen[images[0]] < 20 {
			return fmt.Errorf("seen so far: %v", seen)
		}
		return nil
	})
	done()
	p.check(<-moved)
}
