package trigger

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"

	imagev1 "github.com/openshift/api/image/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"istag.dev/store"
	storev1 "istag.dev/store/v1"
)

func testScheme(t *testing.T) *runtime.Scheme {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, storev1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	return scheme
}

// deployment returns the kind that most tests use.
func deployment() *kind { return kinds()[0] }

func kindNamed(t *testing.T, name string) *kind {
	t.Helper()
	for _, k := range kinds() {
		if k.gvk.Kind == name {
			return k
		}
	}
	t.Fatalf("no kind %q", name)
	return nil
}

// entry returns one entry of the annotation.
func entry(istag, fieldPath string) map[string]any {
	return map[string]any{"from": map[string]any{"kind": "ImageStreamTag", "name": istag}, "fieldPath": fieldPath}
}

// annotate returns the annotation of the entries.
func annotate(entries ...map[string]any) string {
	text, _ := json.Marshal(entries) // maps of plain values always encode
	return string(text)
}

// workload makes an object in namespace demo. Containers are written "name=image", init containers
// "init:name=image".
func workload(k *kind, name, annotation string, containers ...string) client.Object {
	obj := k.newObject()
	obj.SetNamespace("demo")
	obj.SetName(name)
	obj.SetUID(types.UID("uid-" + name))
	if annotation != "" {
		obj.SetAnnotations(map[string]string{Annotation: annotation})
	}
	spec := k.podSpec(obj)
	for _, c := range containers {
		rest, isInit := strings.CutPrefix(c, "init:")
		container, image, _ := strings.Cut(rest, "=")
		if isInit {
			spec.InitContainers = append(spec.InitContainers, corev1.Container{Name: container, Image: image})
		} else {
			spec.Containers = append(spec.Containers, corev1.Container{Name: container, Image: image})
		}
	}
	return obj
}

// containerImages returns the images of a pod spec, init containers first.
func containerImages(spec *corev1.PodSpec) []string {
	var images []string
	for _, c := range containers(spec) {
		images = append(images, c.Image)
	}
	return images
}

func setCronJob(obj client.Object) {
	job := obj.(*batchv1.CronJob)
	job.Spec.Schedule = "@daily"
	job.Spec.JobTemplate.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyOnFailure
}

// record makes a stream of namespace demo.
func record(stream string, options ...func(*storev1.StreamRecord)) *storev1.StreamRecord {
	r := &storev1.StreamRecord{
		ObjectMeta: metav1.ObjectMeta{Namespace: "demo", Name: store.RecordName(stream)},
		Record:     storev1.StreamEnvelope{Generation: 7},
	}
	for _, option := range options {
		option(r)
	}
	return r
}

// tagged gives a stream a tag that means a pull spec, whose digest is what comes after "@".
func tagged(tag, pullSpec string) func(*storev1.StreamRecord) {
	return func(r *storev1.StreamRecord) {
		_, digest, _ := strings.Cut(pullSpec, "@")
		r.Status.Tags = append(r.Status.Tags, imagev1.NamedTagEventList{
			Tag:   tag,
			Items: []imagev1.TagEvent{{Created: metav1.Now(), DockerImageReference: pullSpec, Image: digest, Generation: 1}},
		})
	}
}

// local sets the reference policy of the tag 20.0 to Local, and the stream's repository.
func local(repository string) func(*storev1.StreamRecord) {
	return func(r *storev1.StreamRecord) {
		r.Spec.Tags = append(r.Spec.Tags, imagev1.TagReference{
			Name: "20.0", ReferencePolicy: imagev1.TagReferencePolicy{Type: imagev1.LocalTagReferencePolicy},
		})
		r.Status.DockerImageRepository = repository
	}
}

// withVersion sets the resource version.
func withVersion(version string) func(*storev1.StreamRecord) {
	return func(r *storev1.StreamRecord) { r.ResourceVersion = version }
}

// recorder keeps events as "type reason object: note".
type recorder struct {
	mu     sync.Mutex
	events []string
}

func (r *recorder) Eventf(regarding, _ runtime.Object, eventType, reason, _, note string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	obj := regarding.(client.Object)
	r.events = append(r.events, fmt.Sprintf("%s %s %s: %s", eventType, reason, obj.GetName(), fmt.Sprintf(note, args...)))
}

// take returns the events recorded since it was last called.
func (r *recorder) take() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	events := r.events
	r.events = nil
	return events
}
