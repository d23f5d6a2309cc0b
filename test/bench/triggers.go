package main

import (
	"context"
	"fmt"
	"io"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/util/retry"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"istag.dev/store"
	storev1 "istag.dev/store/v1"
	"istag.dev/test/harness"
)

// moves is how often the tag moves.
const moves = 100

// triggers measures how long after a tag event was written the first workload that follows the tag is
// patched, as a watcher of the workload sees it.
func triggers(ctx context.Context, env *harness.Env, out io.Writer) error {
	note("moving a tag %d times", moves)
	itself, err := env.Store()
	if err != nil {
		return err
	}
	c := itself.Client()
	s := stream{"bench-triggers", "app"}
	if err := c.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: s.namespace}}); err != nil {
		return err
	}
	record, err := newRecord(s, "live")
	if err != nil {
		return err
	}
	importAll(record, 0)
	if err := c.Create(ctx, record); err != nil {
		return err
	}
	if err := c.Create(ctx, follower(s)); err != nil {
		return err
	}
	seen, err := c.Watch(ctx, &appsv1.DeploymentList{}, client.InNamespace(s.namespace))
	if err != nil {
		return err
	}
	defer seen.Stop()
	if err := awaitImage(ctx, seen, record); err != nil {
		return err
	}
	var took []time.Duration
	for version := range moves {
		if err := move(ctx, c, record, version+1); err != nil {
			return err
		}
		written := time.Now()
		if err := awaitImage(ctx, seen, record); err != nil {
			return err
		}
		took = append(took, time.Since(written))
	}
	for _, p := range []float64{50, 99} {
		figure(out, fmt.Sprintf("trigger_first_patch_p%.0f_ms", p), percentile(took, p).Seconds()*1000, "ms")
	}
	return nil
}

// move makes the tags of a stored record mean other images. Histories are trimmed meanwhile.
func move(ctx context.Context, c client.Client, record *storev1.StreamRecord, version int) error {
	return retry.RetryOnConflict(retry.DefaultRetry, func() error {
		if err := c.Get(ctx, client.ObjectKeyFromObject(record), record); err != nil {
			return err
		}
		importAll(record, version)
		return c.Update(ctx, record)
	})
}

// follower makes a Deployment without pods whose container follows the stream's tag.
func follower(s stream) *appsv1.Deployment {
	labels := map[string]string{"app": "app"}
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{
		Namespace: s.namespace, Name: "app",
		Annotations: map[string]string{"image.openshift.io/triggers": `[{"from":{"kind":"ImageStreamTag","name":"app:live"},` +
			`"fieldPath":"spec.template.spec.containers[?(@.name==\"app\")].image"}]`},
	}}
	d.Spec.Replicas = ptr.To[int32](0)
	d.Spec.Selector = &metav1.LabelSelector{MatchLabels: labels}
	d.Spec.Template.Labels = labels
	d.Spec.Template.Spec.Containers = []corev1.Container{{Name: "app", Image: " "}}
	return d
}

// awaitImage returns when the watched Deployment has the image that the record's tag means.
func awaitImage(ctx context.Context, seen watch.Interface, record *storev1.StreamRecord) error {
	want, _ := store.PullSpec(record, "live")
	deadline := time.After(30 * time.Second)
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-deadline:
			return fmt.Errorf("the Deployment did not get %s", want)
		case event, ok := <-seen.ResultChan():
			if !ok {
				return fmt.Errorf("the watch ended while waiting for %s", want)
			}
			if d, ok := event.Object.(*appsv1.Deployment); ok && d.Spec.Template.Spec.Containers[0].Image == want {
				return nil
			}
		}
	}
}
