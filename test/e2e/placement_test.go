package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"istag.dev/webhook/lock"
	"istag.dev/webhook/scope"
)

// podsPinned are the labels of a namespace in which pods are pinned, and templates stay as they are written.
var podsPinned = []string{enforced, label(scope.PlacementLabel, "pod")}

// revisionsOf are the resources that revisions are, by the kind of what has them.
var revisionsOf = map[string]string{
	"Deployment": "replicasets", "ReplicaSet": "replicasets", "ReplicationController": "replicationcontrollers",
	"StatefulSet": "controllerrevisions", "DaemonSet": "controllerrevisions",
}

// keycloaks moves both tags of the stream keycloak to versions of it, and returns what a pod with the init
// container keycloak:init and the container keycloak:20.0 runs by them.
func (p *place) keycloaks(init, main string) []string {
	p.t.Helper()
	p.stream("keycloak", local, "init="+keycloak+":"+init, "20.0="+keycloak+":"+main)
	return []string{served(p.t, keycloak+":"+init), served(p.t, keycloak+":"+main)}
}

// pods returns the pods of the namespace that nobody has deleted.
func (p *place) pods(ctx context.Context) ([]corev1.Pod, error) {
	var list corev1.PodList
	if err := env.Client().List(ctx, &list, client.InNamespace(p.name)); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(list.Items, func(pod corev1.Pod) bool { return pod.DeletionTimestamp != nil }), nil
}

// imagesOf returns the images of a pod, init containers first.
func imagesOf(pod *corev1.Pod) []string {
	var images []string
	for i := range pod.Spec.InitContainers {
		images = append(images, pod.Spec.InitContainers[i].Image)
	}
	for i := range pod.Spec.Containers {
		images = append(images, pod.Spec.Containers[i].Image)
	}
	return images
}

// podsRun waits until so many pods run, and fails unless all have exactly the images wanted.
func (p *place) podsRun(reason string, n int, want []string) {
	p.t.Helper()
	var pods []corev1.Pod
	p.wait(fmt.Sprintf("%d pods run", n), func(ctx context.Context) error {
		var err error
		if pods, err = p.pods(ctx); err != nil {
			return err
		}
		running := 0
		for i := range pods {
			if pods[i].Status.Phase == corev1.PodRunning {
				running++
			}
		}
		if len(pods) != n || running != n {
			return fmt.Errorf("%d of %d do", running, len(pods))
		}
		return nil
	})
	for i := range pods {
		if got := imagesOf(&pods[i]); !slices.Equal(got, want) {
			p.t.Errorf("%s: pod %s must have images %q, has %q", reason, pods[i].Name, want, got)
		}
	}
}

// comesAfter waits until there is a pod that was not there before something was done.
func (p *place) comesAfter(what string, done func(before []corev1.Pod)) {
	p.t.Helper()
	before, err := p.pods(p.t.Context())
	p.check(err)
	done(before)
	known := map[types.UID]bool{}
	for i := range before {
		known[before[i].UID] = true
	}
	p.wait("a pod comes after "+what, func(ctx context.Context) error {
		after, err := p.pods(ctx)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(after, func(pod corev1.Pod) bool { return !known[pod.UID] }) {
			return fmt.Errorf("there are %d, all known", len(after))
		}
		return nil
	})
}

// evict asks for a pod to go, as who drains a node does.
func (p *place) evict(pod string) {
	p.t.Helper()
	eviction := fmt.Sprintf(`{"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": %q, "namespace": %q}}`, pod, p.name)
	path := fmt.Sprintf("/api/v1/namespaces/%s/pods/%s/eviction", p.name, pod)
	p.check(p.actor().KubectlStdin(p.t.Context(), eviction, "create", "--raw", path, "-f", "-").Err())
}

// witnessPods returns what tells which images the pods of each revision have had from now on, whether they are
// still there or not.
func (p *place) witnessPods() func() map[string]map[string]bool {
	p.t.Helper()
	watcher, err := env.Client().Watch(p.t.Context(), &corev1.PodList{}, client.InNamespace(p.name))
	p.check(err)
	had := map[string]map[string]bool{}
	var watching sync.WaitGroup
	watching.Go(func() {
		for event := range watcher.ResultChan() {
			if pod, ok := event.Object.(*corev1.Pod); ok {
				add(had, pod.Labels["pod-template-hash"]+pod.Labels["controller-revision-hash"], strings.Join(imagesOf(pod), " "))
			}
		}
	})
	return func() map[string]map[string]bool {
		watcher.Stop()
		watching.Wait()
		return had
	}
}

// locks returns the locks of all revisions of the namespace, by their names; an error names one that has none.
func (p *place) locks(resource string) (map[string]lock.Lock, error) {
	p.t.Helper()
	locks := map[string]lock.Lock{}
	for _, name := range strings.Fields(p.kubectl("get", resource, "--output", "name")) {
		revision := p.get(name).Metadata
		locked, ok := lock.Read(revision.Labels, revision.Annotations)
		if !ok {
			return nil, fmt.Errorf("%s is not locked: labels %v, annotations %v", name, revision.Labels, revision.Annotations)
		}
		locks[name] = locked
	}
	return locks, nil
}

// asWritten fails unless every field of a manifest is in the object as it is written, which is what tools ask that
// keep a cluster equal to Git, and unless kubectl has nothing to change either.
func (p *place) asWritten(reason, object, manifest string) {
	p.t.Helper()
	var written, live any
	p.check(yaml.Unmarshal([]byte(manifest), &written))
	p.check(yaml.Unmarshal([]byte(p.kubectl("get", object, "--output", "json")), &live))
	for _, difference := range differences("", written, live) {
		p.t.Errorf("%s: %s is not as it was written: %s", reason, object, difference)
	}
	p.wait("kubectl has nothing to change of "+object, func(ctx context.Context) error { // its controllers may just do so
		return p.actor().KubectlStdin(ctx, manifest, "--namespace", p.name, "diff", "-f", "-").Err()
	})
	generation := func() string { return p.kubectl("get", object, "--output", "jsonpath={.metadata.generation}") }
	before := generation()
	p.apply(manifest)
	if after := generation(); after != before {
		p.t.Errorf("%s: %s is what was applied before, but was generation %s and is %s", reason, object, before, after)
	}
}

// differences says where what is written is not what there is. What is there besides was filled in by others.
func differences(at string, written, live any) []string {
	var all []string
	switch w := written.(type) {
	case map[string]any:
		l, ok := live.(map[string]any)
		if !ok && len(w) > 0 {
			return []string{fmt.Sprintf("%s is not there", at)}
		}
		for _, key := range slices.Sorted(maps.Keys(w)) {
			all = append(all, differences(at+"."+key, w[key], l[key])...)
		}
	case []any:
		l, ok := live.([]any)
		if !ok || len(l) != len(w) {
			return []string{fmt.Sprintf("%s has %d entries, not %d", at, len(l), len(w))}
		}
		for i := range w {
			all = append(all, differences(fmt.Sprintf("%s[%d]", at, i), w[i], l[i])...)
		}
	default:
		if !reflect.DeepEqual(written, live) {
			all = append(all, fmt.Sprintf("%s is %v, not %v", at, live, written))
		}
	}
	return all
}

func TestOneDigestForEveryPodOfARevision(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		kind          string
		scales, rolls bool
	}{
		{"Deployment", true, true}, {"StatefulSet", true, true}, {"DaemonSet", false, true}, // a pod for the one node there is
		{"ReplicaSet", true, false}, {"ReplicationController", true, false},
	} {
		t.Run(c.kind, func(t *testing.T) {
			t.Parallel()
			k, p := kindNamed(c.kind), newPlace(t, podsPinned...)
			object, manifest := k.resource+"/x", k.write("x", spec{init: "keycloak:init", main: "keycloak:20.0"})
			first := p.keycloaks("19.0", "20.0.2")
			had := p.witnessPods()
			p.apply(manifest)
			p.podsRun("pods run what the names mean when their revision is made", 1, first)
			second := p.keycloaks("20.0.1", "20.0.3")
			n := 1
			if c.scales {
				n = 3
				p.kubectl("scale", object, "--replicas", "3")
			}
			p.podsRun("more pods are more of the same, wherever the tags have gone", n, first)
			p.comesAfter("one was deleted", func(pods []corev1.Pod) { p.kubectl("delete", "pod", pods[0].Name) })
			p.podsRun("a pod in the place of one that was deleted is the same", n, first)
			p.comesAfter("one was evicted", func(pods []corev1.Pod) { p.evict(pods[0].Name) })
			p.podsRun("so is one in the place of one that was evicted", n, first)
			p.asWritten("what the pods run is nowhere in the template", object, manifest)
			if c.rolls {
				p.rollAndUndo(c.kind, manifest, n, first, second)
			}
			for revision, images := range had() {
				if len(images) != 1 {
					t.Errorf("the pods of revision %q have had several images: %q", revision, slices.Sorted(maps.Keys(images)))
				}
			}
		})
	}
}

// rollAndUndo makes another revision, whose pods run second, and goes back to that which runs first.
func (p *place) rollAndUndo(kind, manifest string, n int, first, second []string) {
	p.t.Helper()
	object := kindNamed(kind).resource + "/x"
	before, err := p.locks(revisionsOf[kind])
	p.check(err)
	p.kubectl("rollout", "restart", object)
	p.kubectl("rollout", "status", object, "--timeout", "60s")
	p.podsRun("another revision is locked to what the names mean when it is made", n, second)
	p.asWritten("whatever the revision", object, manifest)
	p.keycloaks("20.0.3", "20.0.1")
	p.comesAfter("the rollout was undone", func([]corev1.Pod) {
		p.kubectl("rollout", "undo", object)
		for key := range p.get(object).Metadata.Annotations {
			if lock.Stray(key) {
				p.t.Errorf("the lock of a revision is none of the workload's, which has %s", key)
			}
		}
	})
	p.kubectl("rollout", "status", object, "--timeout", "60s")
	p.podsRun("to undo is to get what was there before, and not what the names mean now", n, first)
	p.asWritten("after all that", object, manifest)
	after, err := p.locks(revisionsOf[kind])
	p.check(err)
	if len(after) != 2 {
		p.t.Errorf("a revision was made, and one used again: there are %d", len(after))
	}
	for name, was := range before {
		if diff := cmp.Diff(was, after[name]); diff != "" {
			p.t.Errorf("the lock of %s has changed (-before +after):\n%s", name, diff)
		}
	}
}

func TestTemplatesStayAsWritten(t *testing.T) {
	t.Parallel()
	p := newPlace(t, podsPinned...)
	images := p.keycloaks("19.0", "20.0.2")
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			p := &place{t: t, name: p.name}
			manifest := k.write("x", spec{init: "keycloak:init", main: "keycloak:20.0", volume: "keycloak:20.0"})
			p.apply(manifest)
			if k.name == "Pod" {
				p.runs("a pod is where pods are pinned", "pod/x", images[0], images[1], images[1])
				return
			}
			p.asWritten("Git must not see that istag is there", k.resource+"/x", manifest)
		})
	}
}

func TestUnresolvedNamesWherePodsArePinned(t *testing.T) {
	t.Parallel()
	p := newPlace(t, podsPinned...)
	p.keycloaks("19.0", "20.0.2")
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			p := &place{t: t, name: p.name}
			p.refused(p.tryApply(k.write("typo", spec{main: "keycloak:nope"})), `has no tag "nope"`)
		})
	}
}

func TestRetriesOfAJobRunTheSame(t *testing.T) {
	t.Parallel()
	const broken = "quay.io/istag/broken"
	p := newPlace(t, podsPinned...)
	p.stream("app", local, "1="+broken+":1.0")
	p.apply(kindNamed("Job").write("x", spec{main: "app:1"}))
	p.wait("the first try has failed", func(ctx context.Context) error {
		pods, err := p.pods(ctx)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(pods, func(pod corev1.Pod) bool { return pod.Status.Phase == corev1.PodFailed }) {
			return fmt.Errorf("there are %d pods, none failed", len(pods))
		}
		return nil
	})
	p.stream("app", local, "1="+keycloak+":20.0.2")
	p.comesAfter("the tag has moved", func([]corev1.Pod) {})
	pods, err := p.pods(t.Context())
	p.check(err)
	for i := range pods {
		if got, want := imagesOf(&pods[i]), served(t, broken+":1.0"); !slices.Equal(got, []string{want}) {
			t.Errorf("a Job is one revision, however often it tries: %s must have image %s, has %q", pods[i].Name, want, got)
		}
	}
}

// TestEveryJobOfACronJobIsLockedAnew takes two minutes of the CronJob's.
func TestEveryJobOfACronJobIsLockedAnew(t *testing.T) {
	t.Parallel()
	p := newPlace(t, podsPinned...)
	first := p.keycloaks("19.0", "20.0.2")
	manifest := strings.ReplaceAll(kindNamed("CronJob").write("x", spec{init: "keycloak:init", main: "keycloak:20.0"}), "0 3 * * *", "* * * * *")
	p.comesAfter("the CronJob was made", func([]corev1.Pod) { p.apply(manifest) })
	old, err := p.pods(t.Context())
	p.check(err)
	second := p.keycloaks("20.0.1", "20.0.3")
	made := p.kubectl("get", "jobs", "--output", "name")
	var next *corev1.Pod
	p.wait("the next Job has a pod", func(ctx context.Context) error {
		pods, err := p.pods(ctx)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(pods, func(pod corev1.Pod) bool { return !strings.Contains(made, pod.Labels["batch.kubernetes.io/job-name"]) })
		if i < 0 {
			return fmt.Errorf("all %d are of: %s", len(pods), made)
		}
		next = &pods[i]
		return nil
	})
	if got := imagesOf(&old[0]); !slices.Equal(got, first) {
		t.Errorf("a Job runs what the names mean when it is made: want %q, got %q", first, got)
	}
	if got := imagesOf(next); !slices.Equal(got, second) {
		t.Errorf("and so does the next one: want %q, got %q", second, got)
	}
	if _, err := p.locks("jobs"); err != nil {
		t.Errorf("each Job has a lock of its own: %v", err)
	}
	p.asWritten("the schedule goes on", "cronjob/x", manifest)
}

func TestRevisionComesWhenItsTagHasAnImage(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"Deployment", "StatefulSet", "DaemonSet"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k, p := kindNamed(name), newPlace(t, podsPinned...)
			p.stream("app", local, "1="+keycloak+":20.0.2")
			p.apply(k.write("x", spec{main: "app:1"}))
			p.podsRun("it runs what the tag means", 1, []string{served(t, keycloak+":20.0.2")})
			p.kubectl("delete", "imagestreamtag", "app:1")
			p.kubectl("rollout", "restart", strings.ToLower(name)+"/x")
			p.wait("an event tells of it, for who comes later", func(context.Context) error {
				events := p.kubectl("get", "events", "--field-selector", "involvedObject.kind="+k.name+",involvedObject.name=x,reason=ImageRefused", "--output", "jsonpath={.items[*].message}")
				if !strings.Contains(events, `has no tag "1"`) {
					return fmt.Errorf("there is: %q", events)
				}
				return nil
			})
			if name == "Deployment" {
				p.wait("its status tells of it as well", p.cannotProgress)
			}
			p.stream("app", local, "1="+keycloak+":20.0.3")
			p.wait("the new revision comes, and nobody has to do anything about the workload", func(ctx context.Context) error {
				pods, err := p.pods(ctx)
				if err != nil || len(pods) != 1 {
					return errors.Join(err, fmt.Errorf("there are %d pods", len(pods)))
				}
				if got, want := imagesOf(&pods[0]), []string{served(t, keycloak+":20.0.3")}; !slices.Equal(got, want) {
					return fmt.Errorf("pod %s has images %q, not yet %q", pods[0].Name, got, want)
				}
				return nil
			})
		})
	}
}

// cannotProgress is nil if Deployment x says in its status that a tag has no image. While it has no ReplicaSet there
// is no ReplicaFailure either: that is about pods.
func (p *place) cannotProgress(context.Context) error {
	p.t.Helper()
	conditions := p.kubectl("get", "deployment", "x", "--output", `jsonpath={range .status.conditions[*]}{.type}={.status} {.reason} {.message}{"\n"}{end}`)
	for line := range strings.Lines(conditions) {
		if strings.HasPrefix(line, "Progressing=False ReplicaSetCreateError ") && strings.Contains(line, `has no tag "1"`) {
			return nil
		}
	}
	return errors.New(conditions)
}

func TestRevisionIsLockedWhenItIsTouched(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"Deployment", "StatefulSet", "DaemonSet"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k, p := kindNamed(name), newPlace(t) // none of ours yet
			first := p.keycloaks("19.0", "20.0.2")
			manifest := k.write("x", spec{init: "keycloak:init", main: "keycloak:20.0"})
			p.apply(manifest)
			p.podsRun("this revision was made without us", 1, []string{"keycloak:init", "keycloak:20.0"})
			p.kubectl(append([]string{"label", "namespace", p.name}, podsPinned...)...)
			touches := 0
			p.wait("a write of its metadata gives the revision its lock", func(context.Context) error {
				touches++
				p.kubectl("annotate", revisionsOf[name], "--all", "--overwrite", fmt.Sprintf("touched=%d", touches))
				_, err := p.locks(revisionsOf[name])
				return err
			})
			p.keycloaks("20.0.1", "20.0.3")
			p.comesAfter("the old one was deleted", func(pods []corev1.Pod) { p.kubectl("delete", "pod", pods[0].Name) })
			p.podsRun("from then on its pods are the same", 1, first)
			p.asWritten("it is still what was applied", k.resource+"/x", manifest)
		})
	}
}
