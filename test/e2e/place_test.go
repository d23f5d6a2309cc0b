package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	imagev1 "github.com/openshift/api/image/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"istag.dev/test/harness"
	"istag.dev/webhook/audit"
)

const (
	keycloak = "quay.io/keycloak/keycloak"
	multi    = "quay.io/istag/multiarch"
	enforced = harness.AdmissionLabel + "=" + harness.Enforce
)

var places atomic.Int64

// place is a namespace of a story's own.
type place struct {
	t    *testing.T
	name string
	// user is who acts here; nil is the administrator.
	user *harness.Actor
}

// as is the same namespace for a user, who has nothing but the cluster roles named: here, not elsewhere.
func (p *place) as(user string, roles ...string) *place {
	p.t.Helper()
	for _, role := range roles {
		p.kubectl("create", "rolebinding", user+"-"+strings.ReplaceAll(role, ":", "-"), "--clusterrole", role, "--user", user)
	}
	actor, err := env.As(user)
	p.check(err)
	return &place{t: p.t, name: p.name, user: actor}
}

// actor is who acts.
func (p *place) actor() *harness.Actor {
	if p.user == nil {
		return env.Actor
	}
	return p.user
}

// newPlace makes a namespace with the labels given, "key=value".
func newPlace(t *testing.T, labels ...string) *place {
	t.Helper()
	p := &place{t: t, name: fmt.Sprintf("story-%d", places.Add(1))}
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: p.name, Labels: map[string]string{}}}
	for _, label := range labels {
		key, value, _ := strings.Cut(label, "=")
		namespace.Labels[key] = value
	}
	p.check(env.Client().Create(t.Context(), namespace))
	return p
}

func (p *place) check(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

// try runs kubectl in the namespace.
func (p *place) try(args ...string) harness.Result {
	p.t.Helper()
	return p.actor().Kubectl(p.t.Context(), append([]string{"--namespace", p.name}, args...)...)
}

// kubectl runs kubectl in the namespace; it must succeed.
func (p *place) kubectl(args ...string) string {
	p.t.Helper()
	result := p.try(args...)
	p.check(result.Err())
	return result.Stdout
}

// tryApply applies a manifest to the namespace.
func (p *place) tryApply(manifest string, flags ...string) harness.Result {
	p.t.Helper()
	args := append([]string{"--namespace", p.name, "apply", "-f", "-"}, flags...)
	return p.actor().KubectlStdin(p.t.Context(), manifest, args...)
}

// apply applies a manifest to the namespace; that must succeed.
func (p *place) apply(manifest string, flags ...string) string {
	p.t.Helper()
	result := p.tryApply(manifest, flags...)
	p.check(result.Err())
	return result.Stdout
}

// refused fails unless a command was refused with a message that holds all the texts.
func (p *place) refused(result harness.Result, texts ...string) {
	p.t.Helper()
	if result.Code == 0 {
		p.t.Fatalf("%s: it must be refused, got: %s", result.Command, result.Stdout)
	}
	for _, text := range texts {
		if !strings.Contains(result.Stderr, text) {
			p.t.Errorf("%s: the message must hold %q, got: %s", result.Command, text, result.Stderr)
		}
	}
}

// wait fails the test if a condition is not met in time.
func (p *place) wait(what string, met func(context.Context) error) {
	p.t.Helper()
	p.check(env.Wait(p.t.Context(), what, met))
}

// Where the stream's short name may be used.
const (
	local    = true
	notLocal = false
)

// streamManifest is a stream with tags, each "tag=pull spec".
func streamManifest(name string, lookup bool, tags ...string) string {
	var all []string
	for _, tag := range tags {
		name, from, _ := strings.Cut(tag, "=")
		all = append(all, fmt.Sprintf("{name: %q, from: {kind: DockerImage, name: %q}, importPolicy: {insecure: %t}}", name, from, strings.HasPrefix(from, "127.0.0.1:")))
	}
	return streamOf(name, lookup, all...)
}

// streamOf is a stream with tags as they are written in YAML.
func streamOf(name string, lookup bool, tags ...string) string {
	return fmt.Sprintf("{apiVersion: image.openshift.io/v1, kind: ImageStream, metadata: {name: %s}, spec: {lookupPolicy: {local: %t}, tags: [\n%s]}}",
		name, lookup, strings.Join(tags, ",\n"))
}

// direct is an upstream name as the local registry itself serves it. Stories of imports that fail use
// it: istag asks a registry that a mirror stands for when the mirror has no answer, and no story may
// depend on what the internet says.
func direct(upstream string) string {
	host, rest, _ := strings.Cut(upstream, "/")
	return env.Cluster.Mirrors[host] + "/" + rest
}

// stream applies a stream and waits until each of its tags means what the registry itself serves.
func (p *place) stream(name string, lookup bool, tags ...string) {
	p.t.Helper()
	p.apply(streamManifest(name, lookup, tags...))
	for _, tag := range tags {
		tag, from, _ := strings.Cut(tag, "=")
		p.tagMeans(name, tag, served(p.t, from))
	}
}

// is reads a stream.
func (p *place) is(ctx context.Context, stream string) (*imagev1.ImageStream, error) {
	return p.actor().Images().ImageV1().ImageStreams(p.name).Get(ctx, stream, metav1.GetOptions{})
}

// istag reads what a tag means, "stream:tag".
func (p *place) istag(ctx context.Context, istag string) (*imagev1.ImageStreamTag, error) {
	return p.actor().Images().ImageV1().ImageStreamTags(p.name).Get(ctx, istag, metav1.GetOptions{})
}

// failure returns why a tag could not be imported, or nil.
func failure(conditions []imagev1.TagEventCondition) *imagev1.TagEventCondition {
	for i := range conditions {
		if c := &conditions[i]; c.Type == imagev1.ImportSuccess && c.Status == corev1.ConditionFalse {
			return c
		}
	}
	return nil
}

// tagMeans waits until a tag has a pull spec and nothing is wrong with it.
func (p *place) tagMeans(stream, tag, pullSpec string) {
	p.t.Helper()
	p.wait(fmt.Sprintf("%s:%s means %s", stream, tag, pullSpec), func(ctx context.Context) error {
		istag, err := p.istag(ctx, stream+":"+tag)
		if err != nil {
			return err
		}
		if failed := failure(istag.Conditions); failed != nil {
			return errors.New(failed.Message)
		}
		if got := istag.Image.DockerImageReference; got != pullSpec {
			return fmt.Errorf("it means %q", got)
		}
		return nil
	})
}

// tagFails waits until a tag's import has failed and returns the condition.
func (p *place) tagFails(stream, tag string) (reason, message string) {
	p.t.Helper()
	p.wait(fmt.Sprintf("the import of %s:%s fails", stream, tag), func(ctx context.Context) error {
		is, err := p.is(ctx, stream)
		if err != nil {
			return err
		}
		for _, status := range is.Status.Tags {
			if failed := failure(status.Conditions); status.Tag == tag && failed != nil {
				reason, message = failed.Reason, failed.Message
				return nil
			}
		}
		return fmt.Errorf("it has not; status: %+v", is.Status)
	})
	return reason, message
}

// image is what a container of an object runs.
type image struct{ Name, Image string }

// workload is what the stories look at of an object of any kind.
type workload struct {
	Metadata metav1.ObjectMeta `json:"metadata"`
	// Template is where a PodTemplate has its pod spec.
	Template struct{ Spec podSpec } `json:"template"`
	Spec     struct {
		podSpec
		Template    struct{ Spec podSpec } `json:"template"`
		JobTemplate struct {
			Spec struct{ Template struct{ Spec podSpec } }
		} `json:"jobTemplate"`
	} `json:"spec"`
}

type podSpec struct {
	InitContainers, Containers, EphemeralContainers []image
	Volumes                                         []struct{ Image *struct{ Reference string } }
}

// images returns the images: those of init containers, of containers, of ephemeral containers and of volumes.
func (w *workload) images() []string {
	var all []string
	for _, spec := range []podSpec{w.Spec.podSpec, w.Template.Spec, w.Spec.Template.Spec, w.Spec.JobTemplate.Spec.Template.Spec} {
		for _, c := range slices.Concat(spec.InitContainers, spec.Containers, spec.EphemeralContainers) {
			all = append(all, c.Image)
		}
		for _, volume := range spec.Volumes {
			if volume.Image != nil {
				all = append(all, volume.Image.Reference)
			}
		}
	}
	return all
}

// get reads an object, "kind/name", with kubectl.
func (p *place) get(object string) *workload {
	p.t.Helper()
	return decode(p.t, p.kubectl("get", object, "--output", "json"))
}

func decode(t *testing.T, text string) *workload {
	t.Helper()
	w := &workload{}
	if err := json.Unmarshal([]byte(text), w); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return w
}

// runs fails unless an object, "kind/name", has exactly the images wanted, in the order of images.
func (p *place) runs(reason, object string, want ...string) {
	p.t.Helper()
	if got := p.get(object).images(); !slices.Equal(got, want) {
		p.t.Errorf("%s: %s must have images %q, has %q", reason, object, want, got)
	}
}

// comesToRun waits until an object has exactly the images wanted.
func (p *place) comesToRun(object string, want ...string) {
	p.t.Helper()
	p.wait(fmt.Sprintf("%s has images %q", object, want), func(context.Context) error {
		if got := p.get(object).images(); !slices.Equal(got, want) {
			return fmt.Errorf("it has %q", got)
		}
		return nil
	})
}

// audit returns what the audit log has of an object of the namespace: what became of the names that were written.
func (p *place) audit(name string) []audit.Record {
	p.t.Helper()
	return p.auditBy("pin", name)
}

// auditBy returns what the audit log has of an object of the namespace by one of the webhooks, "pin" or "check".
func (p *place) auditBy(webhook, name string) []audit.Record {
	p.t.Helper()
	all, err := env.AuditRecords()
	p.check(err)
	return slices.DeleteFunc(all, func(r audit.Record) bool {
		return r.Namespace != p.name || r.Name != name || r.Webhook != webhook
	})
}

// replicaSets returns how many ReplicaSets a Deployment has had.
func (p *place) replicaSets() int {
	p.t.Helper()
	return len(strings.Fields(p.kubectl("get", "replicasets", "--output", "name")))
}

// served is the pull spec of what the registry itself serves under an upstream name.
func served(t *testing.T, upstream string) string {
	t.Helper()
	digest, err := env.ServedDigest(t.Context(), upstream)
	if err != nil {
		t.Fatal(err)
	}
	repository, _, _ := strings.Cut(upstream, ":")
	return repository + "@" + digest
}

// unlabel takes the admission label off a namespace, after a test's own context has ended.
func unlabel(namespace string) error {
	return env.Kubectl(context.Background(), "label", "namespace", namespace, harness.AdmissionLabel+"-").Err()
}
