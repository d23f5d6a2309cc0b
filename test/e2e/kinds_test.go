package e2e

import (
	"fmt"
	"slices"
	"strings"
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
	// side, if not empty, is the image of a second container, "side".
	side string
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
	if k.name == "Job" || k.name == "CronJob" {
		pod += `, restartPolicy: Never`
	}
	pod += "}"
	object := pod
	if k.name != "Pod" {
		labels := labelled
		if k.name == "Job" || k.name == "CronJob" {
			labels = `{}`
		}
		object = fmt.Sprintf(k.spec, fmt.Sprintf(`{metadata: {labels: %s, annotations: %s}, spec: %s}`, labels, orEmpty(s.template), pod))
	}
	if s.more != "" {
		object = object[:len(object)-1] + s.more + "}"
	}
	return fmt.Sprintf("{apiVersion: %s, kind: %s, metadata: {name: %s, annotations: %s}, spec: %s}", k.apiVersion, k.name, name, orEmpty(s.annotations), object)
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
