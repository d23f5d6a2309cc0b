package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"istag.dev/store"
	storev1 "istag.dev/store/v1"
	"istag.dev/webhook/scope"
)

const (
	// moves are a minute of ten a second.
	moves      = 600
	movesEvery = 100 * time.Millisecond
	movingTags = 5
)

// placements are the labels of namespaces in which templates, or pods, are pinned.
var placements = map[string][]string{
	"template": {enforced},
	"pod":      {enforced, label(scope.PlacementLabel, "pod")},
}

// TestNoLoopWhileTagsMove has every kind of workload live through a minute of tags that move ten times a second.
func TestNoLoopWhileTagsMove(t *testing.T) {
	t.Parallel()
	for name, labels := range placements {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPlace(t, labels...)
			var tags []string
			for i := range movingTags {
				tags = append(tags, fmt.Sprintf("t%d=%s:20.0.2", i, keycloak))
			}
			p.stream("keycloak", local, tags...)
			seen := newWitness(p)
			p.apply(strings.Join(everyWorkload(), "\n---\n"))
			p.moveTags()
			p.rests(seen)
			seen.stop()
			seen.judge(name == "template")
		})
	}
}

// everyWorkload is one of every kind that follows nothing, and one of every kind that a trigger can roll out that follows a tag.
func everyWorkload() []string {
	var all []string
	add := func(k kind, name string, s spec) {
		manifest := strings.ReplaceAll(k.write(name, s), "app: x", "app: "+name)
		all = append(all, strings.ReplaceAll(manifest, "0 3 * * *", "* * * * *"))
	}
	for i, k := range kinds {
		tag := fmt.Sprintf("keycloak:t%d", i%movingTags)
		add(k, "plain-"+k.resource, spec{main: tag, init: tag})
	}
	for i, name := range []string{"Deployment", "StatefulSet", "DaemonSet", "CronJob"} {
		k, tag := kindNamed(name), fmt.Sprintf("keycloak:t%d", i)
		add(k, "follows-"+k.resource, spec{main: tag, annotations: following(triggers(k.base, "main", tag))})
	}
	return all
}

// moveTags moves the tags of the stream there and back, one after the other, by what an import writes.
func (p *place) moveTags() {
	p.t.Helper()
	itself, err := env.Store()
	p.check(err)
	record := &storev1.StreamRecord{}
	p.check(itself.Client().Get(p.t.Context(), client.ObjectKey{Namespace: p.name, Name: store.RecordName("keycloak")}, record))
	between := []string{served(p.t, keycloak+":20.0.3"), served(p.t, keycloak+":20.0.2")}
	begun := time.Now()
	tick := time.NewTicker(movesEvery)
	defer tick.Stop()
	for i := range moves {
		select {
		case <-tick.C:
		case <-p.t.Context().Done():
			p.t.Fatal(context.Cause(p.t.Context()))
		}
		to := between[i/movingTags%2]
		_, digest, _ := strings.Cut(to, "@")
		if !store.RecordImport(record, fmt.Sprintf("t%d", i%movingTags), store.Import{Reference: to, Image: digest}, metav1.Now().Rfc3339Copy()) {
			p.t.Fatalf("move %d moves nothing", i)
		}
		store.Trim(record, 2, func(string) bool { return false })
		p.check(itself.Client().Update(p.t.Context(), record))
	}
	p.t.Logf("tags moved %.1f times a second", moves/time.Since(begun).Seconds())
}

// rests waits until no controller changes anything any more. Between two looks each of them has made and rolled out something else, so
// that they had their turn; a CronJob and what it makes go on by the clock.
func (p *place) rests(seen *witness) {
	p.t.Helper()
	round := 0
	p.wait("every CronJob has had its minute", func(context.Context) error {
		if n := seen.jobs("plain-cronjob") * seen.jobs("follows-cronjob"); n == 0 {
			return errors.New("one has not")
		}
		return nil
	})
	p.wait("all controllers rest", func(context.Context) error {
		before := seen.versions()
		round++
		barrier := fmt.Sprintf("barrier-%d", round)
		for _, name := range []string{"Deployment", "StatefulSet", "DaemonSet"} {
			k := kindNamed(name)
			p.apply(strings.ReplaceAll(k.write(barrier, spec{main: "quay.io/any/thing:1"}), "app: x", "app: "+barrier))
		}
		for _, resource := range []string{"deployment", "statefulset", "daemonset"} {
			p.kubectl("rollout", "status", resource+"/"+barrier, "--timeout", "60s")
		}
		after := seen.versions()
		p.kubectl("delete", "deployment,statefulset,daemonset", barrier)
		for object, version := range after {
			if before[object] != version {
				return fmt.Errorf("%s has just changed: version %s became %s", object, before[object], version)
			}
		}
		return nil
	})
}

// witness has seen every object that was ever in a namespace.
type witness struct {
	place *place
	stop  func()
	ended atomic.Bool

	mu sync.Mutex
	// current are the resource versions of what is there, by kind and name.
	current map[string]string
	// made are the UIDs of the objects that were made for an owner, by the owner's and their own kind.
	made map[owned]map[string]bool
	// names are those of the objects, so that what was made twice is seen.
	names map[owned]map[string]bool
	// templates are the images that an owner's template has had.
	templates map[string]map[string]bool
}

// owned are objects of a kind that have an owner, "Deployment/name".
type owned struct{ owner, kind string }

// newWitness begins to watch.
func newWitness(p *place) *witness {
	p.t.Helper()
	w := &witness{
		place: p, current: map[string]string{}, made: map[owned]map[string]bool{}, names: map[owned]map[string]bool{}, templates: map[string]map[string]bool{},
	}
	var watching sync.WaitGroup
	var watches []watch.Interface
	for _, list := range []client.ObjectList{
		&appsv1.DeploymentList{}, &appsv1.StatefulSetList{}, &appsv1.DaemonSetList{}, &appsv1.ReplicaSetList{}, &appsv1.ControllerRevisionList{},
		&batchv1.CronJobList{}, &batchv1.JobList{}, &corev1.ReplicationControllerList{}, &corev1.PodList{},
	} {
		watcher, err := env.Client().Watch(p.t.Context(), list, client.InNamespace(p.name))
		p.check(err)
		watches = append(watches, watcher)
		watching.Go(func() {
			for event := range watcher.ResultChan() {
				w.see(event)
			}
		})
	}
	w.stop = sync.OnceFunc(func() {
		w.ended.Store(true)
		for _, watcher := range watches {
			watcher.Stop()
		}
		watching.Wait()
	})
	p.t.Cleanup(w.stop)
	return w
}

func (w *witness) see(event watch.Event) {
	object, ok := event.Object.(client.Object)
	if !ok {
		if !w.ended.Load() {
			w.place.t.Errorf("the watch broke: %+v", event.Object)
		}
		return
	}
	kind := strings.TrimPrefix(fmt.Sprintf("%T", object), "*v1.")
	w.mu.Lock()
	defer w.mu.Unlock()
	itself := kind + "/" + object.GetName()
	if event.Type == watch.Deleted {
		delete(w.current, itself)
		return
	}
	w.current[itself] = object.GetResourceVersion()
	if template := templateOf(object); template != nil {
		add(w.templates, itself, template.Spec.Containers[0].Image)
	}
	if owner := metav1.GetControllerOf(object); owner != nil {
		key := owned{owner.Kind + "/" + owner.Name, kind}
		add(w.made, key, string(object.GetUID()))
		add(w.names, key, object.GetName())
	}
}

func add[K comparable](sets map[K]map[string]bool, key K, value string) {
	if sets[key] == nil {
		sets[key] = map[string]bool{}
	}
	sets[key][value] = true
}

func templateOf(object client.Object) *corev1.PodTemplateSpec {
	switch o := object.(type) {
	case *appsv1.Deployment:
		return &o.Spec.Template
	case *appsv1.StatefulSet:
		return &o.Spec.Template
	case *appsv1.DaemonSet:
		return &o.Spec.Template
	case *appsv1.ReplicaSet:
		return &o.Spec.Template
	case *batchv1.CronJob:
		return &o.Spec.JobTemplate.Spec.Template
	case *batchv1.Job:
		return &o.Spec.Template
	case *corev1.ReplicationController:
		return o.Spec.Template
	}
	return nil
}

// versions are the resource versions of what does not change by the clock, nor by those who look.
func (w *witness) versions() map[string]string {
	w.mu.Lock()
	defer w.mu.Unlock()
	versions := maps.Clone(w.current)
	maps.DeleteFunc(versions, func(object, _ string) bool {
		return strings.HasPrefix(object, "CronJob/") || strings.Contains(object, "-cronjob-") || strings.Contains(object, "/barrier-")
	})
	return versions
}

// jobs is how many a CronJob has made.
func (w *witness) jobs(cronJob string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.made[owned{"CronJob/" + cronJob, "Job"}])
}

// judge fails the test for every revision that no write of a user or of a trigger caused.
func (w *witness) judge(templatesPinned bool) {
	t := w.place.t
	t.Helper()
	for _, c := range []struct{ owner, kind string }{
		{"Deployment", "ReplicaSet"}, {"StatefulSet", "ControllerRevision"}, {"DaemonSet", "ControllerRevision"},
	} {
		resource := strings.ToLower(c.owner)
		plain, follows := c.owner+"/plain-"+resource, c.owner+"/follows-"+resource
		if n := len(w.made[owned{plain, c.kind}]); n != 1 {
			t.Errorf("%s was written once and follows nothing, so that it has had one %s, not %d", plain, c.kind, n)
		}
		if n, images := len(w.made[owned{follows, c.kind}]), w.templates[follows]; n == 0 || n > len(images) {
			t.Errorf("%s has had the images %q, so that it has had that many of %s at most, not %d", follows, slices.Sorted(maps.Keys(images)), c.kind, n)
		}
		if n := len(w.templates[follows]); n < 2 {
			t.Errorf("the story is of tags that move: %s has had %d images", follows, n)
		}
	}
	for _, owner := range []string{"plain-cronjob", "follows-cronjob"} {
		jobs := owned{"CronJob/" + owner, "Job"}
		if n, names := len(w.made[jobs]), len(w.names[jobs]); n != names {
			t.Errorf("a CronJob makes one Job a minute: %s made %d of %d names", owner, n, names)
		}
	}
	w.judgePlain(templatesPinned)
}

// judgePlain fails the test for what happened to workloads that nobody has changed.
func (w *witness) judgePlain(templatesPinned bool) {
	t := w.place.t
	t.Helper()
	for _, object := range []string{
		"Deployment/plain-deployment", "StatefulSet/plain-statefulset", "DaemonSet/plain-daemonset",
		"ReplicaSet/plain-replicaset", "ReplicationController/plain-replicationcontroller", "Job/plain-job",
	} {
		images := slices.Collect(maps.Keys(w.templates[object]))
		if len(images) != 1 || strings.Contains(images[0], "@sha256:") != templatesPinned {
			t.Errorf("nobody has changed the template of %s: it has had %q", object, images)
		}
		pods := len(w.made[owned{object, "Pod"}])
		for key, made := range w.made {
			if key.kind == "Pod" && strings.HasPrefix(key.owner, "ReplicaSet/plain-deployment-") && object == "Deployment/plain-deployment" {
				pods += len(made)
			}
		}
		if pods != 1 {
			t.Errorf("%s wants one pod, and nothing happened to it, so that it has had one, not %d", object, pods)
		}
	}
}
