package deploy_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
)

const (
	digest = "quay.io/a/b@sha256:0000000000000000000000000000000000000000000000000000000000000000"

	deployments, replicasets = "deployments.v1.apps", "replicasets.v1.apps"
	pods, ephemeral          = "pods.v1.", "pods.v1./ephemeralcontainers"
	revisions                = "controllerrevisions.v1.apps"
)

// The entries that send requests, for short.
const (
	pin, check                 = "pin.istag.dev", "check.istag.dev"
	revisionPin, revisionCheck = "revision.pin.istag.dev", "revision.check.istag.dev"
)

// containers is a pod spec with containers c0, c1 and so on.
func containers(images ...string) string {
	var all []string
	for i, image := range images {
		all = append(all, fmt.Sprintf("{name: c%d, image: %q}", i, image))
	}
	return "{containers: [" + strings.Join(all, ", ") + "]}"
}

// templated is a workload of metadata, if any, and the metadata and spec of its pods.
func templated(metadata, template, spec string) string {
	object := fmt.Sprintf("spec: {selector: {}, template: {metadata: {%s}, spec: %s}}", template, spec)
	if metadata != "" {
		object = fmt.Sprintf("metadata: {name: x, %s}, ", metadata) + object
	}
	return "{" + object + "}"
}

// pod is a pod of metadata, if any, and a spec.
func pod(metadata, spec string) string {
	object := "spec: " + spec
	if metadata != "" {
		object = fmt.Sprintf("metadata: {name: x, %s}, ", metadata) + object
	}
	return "{" + object + "}"
}

const (
	owner  = `ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: x, uid: x, controller: true}]`
	guest  = `ownerReferences: [{apiVersion: v1, kind: ConfigMap, name: x, uid: x}]`
	optIn  = `annotations: {alpha.image.policy.openshift.io/resolve-names: "*"}`
	pinned = `annotations: {istag.dev/pinned: "{}"}`
	asks   = `annotations: {istag.dev/explain: "true"}`
	stray  = `annotations: {lock.istag.dev/abc: "{}"}`
	locked = `labels: {istag.dev/lock: abc}, ` + owner
)

// sending says which webhooks see a request.
type sending struct {
	reason string
	request
	// to are the entries whose conditions are met, of those whose rules have the resource.
	to []string
}

// whatIsSent are requests of users.
func whatIsSent() map[string]sending {
	volume := func(image string) string {
		return "{containers: [{name: a, image: " + digest + "}], volumes: [{name: v, image: {reference: " + image + "}}]}"
	}
	both := []string{pin, check}
	return map[string]sending{
		"Name":             {"A name may be a stream's.", request{resource: deployments, object: templated("", "", containers("keycloak:20"))}, both},
		"OneOfTwo":         {"One name is enough.", request{resource: deployments, object: templated("", "", containers(digest, "keycloak:20"))}, both},
		"Digests":          {"There is nothing to replace, but rules are about digests too.", request{resource: deployments, object: templated("", "", containers(digest, digest))}, []string{check}},
		"Pinned":           {"What we wrote on it has to keep up with its images.", request{resource: deployments, object: templated(pinned, "", containers(digest))}, both},
		"Asks":             {"Whoever wants an explanation gets one.", request{resource: deployments, object: templated(asks, "", containers(digest))}, both},
		"StrayLock":        {"The lock of a revision has no place elsewhere.", request{resource: deployments, object: templated(stray, "", containers(digest))}, both},
		"InitName":         {"An init container runs as well.", request{resource: deployments, object: templated("", "", "{containers: [], initContainers: [{name: i, image: keycloak}]}")}, both},
		"NoContainers":     {"An object that is refused for it later, unless somebody adds one.", request{resource: deployments, object: templated("", "", "{}")}, []string{check}},
		"NoImage":          {"So is this one.", request{resource: deployments, object: templated("", "", "{containers: [{name: a}]}")}, both},
		"Volume":           {"An image volume is pulled as well.", request{resource: deployments, object: templated("", "", volume("keycloak:20"))}, both},
		"VolumeDigest":     {"A digest is exact.", request{resource: deployments, object: templated("", "", volume(digest))}, []string{check}},
		"OtherVolume":      {"Most volumes have no image.", request{resource: deployments, object: templated("", "", "{containers: [], volumes: [{name: v, emptyDir: {}}]}")}, []string{check}},
		"Owned":            {"The owner would put it back.", request{resource: replicasets, object: templated(owner, "", containers("keycloak"))}, nil},
		"OwnedByNobody":    {"An owner that is no controller is only for the garbage collector.", request{resource: replicasets, object: templated(guest, "", containers("keycloak"))}, both},
		"Pod":              {"A bare pod is what its user wrote.", request{resource: pods, object: pod("", containers("keycloak"))}, both},
		"OwnedPod":         {"A controller made it.", request{resource: pods, object: pod(owner, containers("keycloak"))}, nil},
		"PodTemplate":      {"Its pod spec is elsewhere.", request{resource: "podtemplates.v1.", object: "{template: {spec: " + containers("keycloak") + "}}"}, both},
		"TemplateDigest":   {"There too a digest is exact.", request{resource: "podtemplates.v1.", object: "{template: {spec: " + containers(digest) + "}}"}, []string{check}},
		"RC":               {"The oldest of the workloads.", request{resource: "replicationcontrollers.v1.", object: "{spec: {template: {spec: " + containers("keycloak") + "}}}"}, both},
		"RCNoTemplate":     {"It may have none until it is checked.", request{resource: "replicationcontrollers.v1.", object: "{spec: {replicas: 1}}"}, []string{check}},
		"StatefulSet":      {"Every kind of workload.", request{resource: "statefulsets.v1.apps", object: templated("", "", containers("keycloak"))}, both},
		"DaemonSet":        {"Every kind of workload.", request{resource: "daemonsets.v1.apps", object: templated("", "", containers("keycloak"))}, both},
		"Job":              {"Every kind of workload.", request{resource: "jobs.v1.batch", object: templated("", "", containers("keycloak"))}, both},
		"CronJob":          {"Its pod spec is deepest.", request{resource: "cronjobs.v1.batch", object: "{spec: {jobTemplate: {spec: {template: {spec: " + containers("keycloak") + "}}}}}"}, both},
		"CronJobDigest":    {"There too a digest is exact.", request{resource: "cronjobs.v1.batch", object: "{spec: {jobTemplate: {spec: {template: {spec: " + containers(digest) + "}}}}}"}, []string{check}},
		"Unchanged":        {"An update of something else.", request{deployments, templated("labels: {a: b}", "", containers("keycloak", "b")), templated("", "", containers("keycloak", "b"))}, nil},
		"UnchangedPinned":  {"What we wrote keeps up already.", request{deployments, templated(pinned, "", containers(digest)), templated(pinned, "", containers(digest))}, nil},
		"UnchangedAsks":    {"Whoever asks later gets an answer.", request{deployments, templated(asks, "", containers("keycloak")), templated("", "", containers("keycloak"))}, []string{pin}},
		"UndoneWithLock":   {"A rollback brings the annotations of a revision along.", request{deployments, templated(stray, "", containers("keycloak")), templated("", "", containers("keycloak"))}, []string{pin}},
		"LockStays":        {"A revision keeps its lock.", request{replicasets, templated(stray, "", containers("keycloak")), templated(stray, "", containers("keycloak"))}, nil},
		"Moved":            {"The order of containers says nothing.", request{deployments, templated("", "", "{containers: [{name: b, image: x}, {name: a, image: z}]}"), templated("", "", "{containers: [{name: a, image: z}, {name: b, image: x}]}")}, nil},
		"ToInit":           {"Nor does the list.", request{deployments, templated("", "", "{containers: [], initContainers: [{name: a, image: x}]}"), templated("", "", "{containers: [{name: a, image: x}]}")}, nil},
		"Removed":          {"What is gone need not be looked at.", request{deployments, templated("", "", containers("x")), templated("", "", containers("x", "y"))}, nil},
		"Changed":          {"A new image is looked up.", request{deployments, templated("", "", containers("keycloak:21")), templated("", "", containers("keycloak:20"))}, both},
		"ChangedBack":      {"A name in a digest's place is, too.", request{deployments, templated(pinned, "", containers("keycloak:20")), templated(pinned, "", containers(digest))}, both},
		"ChangedToDigest":  {"Rules are about digests too.", request{deployments, templated("", "", containers(digest)), templated("", "", containers("keycloak:20"))}, []string{check}},
		"Renamed":          {"A container of a new name is a new container.", request{deployments, templated("", "", "{containers: [{name: b, image: x}]}"), templated("", "", "{containers: [{name: a, image: x}]}")}, both},
		"Swapped":          {"Two containers that swap their images both changed.", request{deployments, templated("", "", containers("y", "x")), templated("", "", containers("x", "y"))}, both},
		"VolumeUnchanged":  {"So with volumes.", request{deployments, templated("labels: {a: b}", "", volume("x")), templated("", "", volume("x"))}, nil},
		"VolumeChanged":    {"So with volumes.", request{deployments, templated("", "", volume("z")), templated("", "", volume("x"))}, both},
		"OptInObject":      {"All names are to be looked up from now on.", request{deployments, templated(optIn, "", containers("x")), templated("", "", containers("x"))}, both},
		"OptInTemplate":    {"The template can say so, too.", request{deployments, templated("", optIn, containers("x")), templated("", "", containers("x"))}, both},
		"OptOut":           {"Or no longer.", request{deployments, templated("", "", containers("x")), templated("", optIn, containers("x"))}, both},
		"OptInMoved":       {"It is one question, wherever it is answered.", request{deployments, templated(optIn, "", containers("x")), templated("", optIn, containers("x"))}, nil},
		"OptInNot":         {"Only * says so.", request{deployments, templated(`annotations: {alpha.image.policy.openshift.io/resolve-names: "true"}`, "", containers("x")), templated("", "", containers("x"))}, nil},
		"OptInPodTemplate": {"A PodTemplate's template is elsewhere.", request{"podtemplates.v1.", "{template: {metadata: {" + optIn + "}, spec: " + containers("x") + "}}", "{template: {spec: " + containers("x") + "}}"}, both},
		"OptInCronJob":     {"A CronJob's is deeper.", request{"cronjobs.v1.batch", "{spec: {jobTemplate: {spec: {template: {metadata: {" + optIn + "}, spec: " + containers("x") + "}}}}}", "{spec: {jobTemplate: {spec: {template: {spec: " + containers("x") + "}}}}}"}, both},
		"Ephemeral": {
			"Ephemeral containers are added to the pods of controllers too.",
			request{ephemeral, pod(owner, "{containers: [{name: a, image: x}], ephemeralContainers: [{name: e, image: keycloak}]}"), pod(owner, containers("x"))}, both,
		},
		"EphemeralStays": {
			"Those that are there stay as they are.",
			request{ephemeral, pod("", "{containers: [], ephemeralContainers: [{name: e, image: x}]}"), pod("", "{containers: [], ephemeralContainers: [{name: e, image: x}]}")}, nil,
		},
		"VeryMany": {
			"Too many to compare inside the API server: it is asked.",
			request{deployments, templated("", "", containers(slices.Repeat([]string{"x"}, 1001)...)), templated("", "", containers(slices.Repeat([]string{"x"}, 1000)...))}, both,
		},
		"VeryManyUnchanged": {
			"If nothing at all changed, that is seen at once.",
			request{deployments, templated("labels: {a: b}", "", containers(slices.Repeat([]string{"x"}, 1000)...)), templated("", "", containers(slices.Repeat([]string{"x"}, 1000)...))}, nil,
		},
		"VeryLong": {
			"Nobody gets by with a name that takes long to look at.",
			request{resource: deployments, object: templated("", "", containers(strings.Repeat("@", 1<<20), "keycloak"))}, both,
		},
		"EndlessDigests": {
			"Nor with more digests than can be looked at.",
			request{resource: deployments, object: templated("", "", containers(slices.Repeat([]string{"@"}, 20_000)...))}, both,
		},
		"EndlessChanges": {
			"Nor with more changes than can be looked at.",
			request{deployments, templated("", "", containers(slices.Repeat([]string{"x"}, 20_000)...)), templated("", "", containers("y"))}, both,
		},
	}
}

// whatIsSentOfRevisions are requests of controllers, in namespaces that pin pods.
func whatIsSentOfRevisions() map[string]sending {
	data := func(spec string) string { return "{revision: 1, data: {spec: {template: {spec: " + spec + "}}}}" }
	return map[string]sending{
		"OwnedReplicaSet":      {"A revision is locked when it is made.", request{resource: replicasets, object: templated(owner, "", containers("keycloak"))}, []string{revisionPin}},
		"OwnedDigests":         {"Nothing is left to lock.", request{resource: replicasets, object: templated(owner, "", containers(digest))}, nil},
		"BareReplicaSet":       {"It goes to the other entry.", request{resource: replicasets, object: templated("", "", containers("keycloak"))}, []string{pin, check}},
		"Locked":               {"A lock stays.", request{replicasets, templated(locked, "", containers("keycloak")), templated(locked, "", containers("keycloak"))}, nil},
		"Missed":               {"A lock that was missed is made up for.", request{replicasets, templated(owner, "", containers("keycloak")), templated(owner, "", containers("keycloak"))}, []string{revisionPin}},
		"MissedBare":           {"On what users wrote, too.", request{replicasets, templated("", "", containers("keycloak")), templated("", "", containers("keycloak"))}, []string{revisionPin}},
		"LockedChanged":        {"With other images it is another revision.", request{replicasets, templated(locked, "", containers("keycloak:21")), templated(locked, "", containers("keycloak:20"))}, []string{revisionPin}},
		"OwnedJob":             {"A Job is a revision of its own.", request{resource: "jobs.v1.batch", object: templated(owner, "", containers("keycloak"))}, []string{revisionPin}},
		"OwnedRC":              {"So is this.", request{resource: "replicationcontrollers.v1.", object: "{metadata: {name: x, " + owner + "}, spec: {template: {spec: " + containers("keycloak") + "}}}"}, []string{revisionPin}},
		"OwnedPod":             {"It takes the images of its revision, and is looked at again afterwards.", request{resource: pods, object: pod(owner, containers("keycloak"))}, []string{revisionPin, revisionCheck}},
		"OwnedPodDigest":       {"Rules are about digests too.", request{resource: pods, object: pod(owner, containers(digest))}, []string{revisionCheck}},
		"OwnedPodUnchanged":    {"Its images are looked at once.", request{pods, pod(owner+", labels: {a: b}", containers("keycloak")), pod(owner, containers("keycloak"))}, nil},
		"OwnedPodChanged":      {"The image of a pod can be changed.", request{pods, pod(owner, containers("keycloak:21")), pod(owner, containers("keycloak:20"))}, []string{revisionPin, revisionCheck}},
		"BarePodUnchanged":     {"A pod has no lock that it could miss.", request{pods, pod("labels: {a: b}", containers("keycloak")), pod("", containers("keycloak"))}, nil},
		"ControllerRevision":   {"It stands for a revision of a StatefulSet or a DaemonSet.", request{resource: revisions, object: data(containers("keycloak"))}, []string{revisionPin}},
		"RevisionDigest":       {"Nothing is left to lock.", request{resource: revisions, object: data(containers(digest))}, nil},
		"RevisionMissed":       {"A lock that was missed is made up for.", request{revisions, data(containers("keycloak")), data(containers("keycloak"))}, []string{revisionPin}},
		"RevisionVolume":       {"An image volume is pulled as well.", request{resource: revisions, object: data("{volumes: [{name: v, image: {reference: keycloak}}]}")}, []string{revisionPin}},
		"RevisionNoData":       {"The data can be anything.", request{resource: revisions, object: "{revision: 1}"}, nil},
		"RevisionText":         {"The data can be anything.", request{resource: revisions, object: "{data: text}"}, nil},
		"RevisionList":         {"The data can be anything.", request{resource: revisions, object: "{data: [{}]}"}, nil},
		"RevisionNull":         {"The data can be anything.", request{resource: revisions, object: "{data: null}"}, nil},
		"RevisionNumber":       {"The data can be anything.", request{resource: revisions, object: "{data: {spec: 7}}"}, nil},
		"RevisionSpecList":     {"The data can be anything.", request{resource: revisions, object: "{data: {spec: [7]}}"}, nil},
		"RevisionTemplateList": {"The data can be anything.", request{resource: revisions, object: "{data: {spec: {template: [7]}}}"}, nil},
		"RevisionPodSpecList":  {"The data can be anything.", request{resource: revisions, object: data("[7]")}, nil},
		"RevisionPodSpecNull":  {"The data can be anything.", request{resource: revisions, object: data("null")}, nil},
		"RevisionPodSpecText":  {"The data can be anything.", request{resource: revisions, object: data("text")}, nil},
		"RevisionContainers":   {"The data can be anything.", request{resource: revisions, object: data("{containers: text}")}, nil},
		"RevisionContainer":    {"What holds something, we can say.", request{resource: revisions, object: data("{containers: [[7], 7]}")}, []string{revisionPin}},
		"RevisionImage":        {"What holds something, we can say.", request{resource: revisions, object: data("{containers: [{image: 7}, {image: {}}]}")}, []string{revisionPin}},
		"RevisionVolumes":      {"What holds something, we can say.", request{resource: revisions, object: data("{volumes: [7, {image: {reference: 7}}]}")}, []string{revisionPin}},
		"RevisionVolumeNull":   {"A volume without an image has none.", request{resource: revisions, object: data("{volumes: [{image: null}, {image: {}}, {image: text}]}")}, nil},
	}
}

// whatIsSentOfRollouts are requests about a custom resource, whose fields are what its own schema says.
func whatIsSentOfRollouts() map[string]sending {
	const rollouts = "rollouts.v1alpha1.argoproj.io"
	both := []string{pin, check}
	return map[string]sending{
		"Name":       {"Its pod spec is where a Deployment's is.", request{resource: rollouts, object: templated("", "", containers("keycloak:20"))}, both},
		"Digest":     {"A digest is exact.", request{resource: rollouts, object: templated("", "", containers(digest))}, []string{check}},
		"Unchanged":  {"An update of something else.", request{rollouts, templated("labels: {a: b}", "", containers("keycloak")), templated("", "", containers("keycloak"))}, nil},
		"Changed":    {"A new image is looked up.", request{rollouts, templated("", "", containers("keycloak:21")), templated("", "", containers("keycloak:20"))}, both},
		"Elsewhere":  {"It may have no pod spec of its own.", request{resource: rollouts, object: "{spec: {workloadRef: {name: x}}}"}, []string{check}},
		"NoSpec":     {"Its fields may be anything.", request{resource: rollouts, object: "{metadata: {name: x}}"}, []string{check}},
		"Null":       {"Its fields may be anything.", request{rollouts, templated("", "", "{containers: null, volumes: null}"), "{spec: null}"}, nil},
		"Text":       {"Its fields may be anything.", request{rollouts, templated("", "", "{containers: text}"), "{spec: text}"}, nil},
		"Containers": {"What holds something, we can say.", request{rollouts, templated("", "", "{containers: [text, 7, {image: 7}]}"), "{spec: {template: text}}"}, both},
		"Volumes":    {"What holds something, we can say.", request{rollouts, templated("", "", "{volumes: [text, {image: text}, {image: {reference: 7}}]}"), "{spec: {template: null}}"}, both},
	}
}

func TestWhatIsSent(t *testing.T) {
	set := render(t, "testdata/argo-rollouts") // the base, and more
	entries, senders := entriesOf(t, set), map[string]sender{}
	for _, entry := range entries {
		senders[entry.name] = newSender(t, entry.conditions)
	}
	for kind, cases := range map[string]map[string]sending{"Users": whatIsSent(), "Revisions": whatIsSentOfRevisions(), "Rollouts": whatIsSentOfRollouts()} {
		for name, tc := range cases {
			t.Run(kind+"/"+name, func(t *testing.T) {
				t.Parallel()
				for _, typed := range []bool{true, false} {
					var got []string
					for _, entry := range entries {
						if !rulesHave(entry.rules, tc.resource) || kind == "Users" && strings.HasPrefix(entry.name, "revision.") {
							continue
						}
						if senders[entry.name].sends(t, tc.attributes(t, typed)) {
							got = append(got, entry.name)
						}
					}
					if !slices.Equal(got, tc.to) {
						t.Errorf("%s\nsent to %q, want %q (Go types: %t)", tc.reason, got, tc.to, typed)
					}
				}
			})
		}
	}
}

// rulesHave says whether rules have a resource, "deployments.v1.apps".
func rulesHave(rules []admissionregistrationv1.RuleWithOperations, resource string) bool {
	want, sub, _ := strings.Cut(resource, "/")
	name, group, _ := strings.Cut(want, ".")
	_, group, _ = strings.Cut(group, ".")
	if sub != "" {
		name += "/" + sub
	}
	return slices.ContainsFunc(rules, func(r admissionregistrationv1.RuleWithOperations) bool {
		return slices.Contains(r.APIGroups, group) && slices.Contains(r.Resources, name)
	})
}
