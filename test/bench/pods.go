package main

import (
	"context"
	"fmt"
	"io"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"istag.dev/test/harness"
)

// podCount is how many pods are created in each of the two namespaces.
const podCount = 1000

// pods measures what admission adds to the creation of a pod through the API server: the same pod is
// created in turns in a namespace that istag pins in and in one that it has nothing to do with.
func pods(ctx context.Context, env *harness.Env, out io.Writer) error {
	note("creating %d pods with the webhooks and as many without", podCount)
	itself, err := env.Store()
	if err != nil {
		return err
	}
	without, with := stream{"bench-pods-without", "app"}, stream{"bench-pods-with", "app"}
	labels := map[string]map[string]string{with.namespace: {harness.AdmissionLabel: harness.Enforce}}
	for _, s := range []stream{without, with} {
		namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: s.namespace, Labels: labels[s.namespace]}}
		if err := env.Client().Create(ctx, namespace); err != nil {
			return err
		}
		record, err := newRecord(s, "live")
		if err != nil {
			return err
		}
		importAll(record, 0)
		if err := itself.Client().Create(ctx, record); err != nil {
			return err
		}
		if err := env.Wait(ctx, "pods can be created in "+s.namespace, func(ctx context.Context) error {
			return env.Client().Create(ctx, pausedPod(s, "probe"), client.DryRunAll)
		}); err != nil {
			return err
		}
	}
	took := map[stream][]time.Duration{}
	for i := range podCount {
		for _, s := range []stream{without, with} {
			pod := pausedPod(s, fmt.Sprintf("pod-%04d", i))
			begun := time.Now()
			if err := env.Client().Create(ctx, pod); err != nil {
				return err
			}
			took[s] = append(took[s], time.Since(begun))
			if pinned := pod.Spec.Containers[0].Image != s.name+":live"; pinned != (s == with) {
				return fmt.Errorf("pod %s/%s has image %s", pod.Namespace, pod.Name, pod.Spec.Containers[0].Image)
			}
		}
	}
	for _, p := range []float64{50, 99} {
		added := percentile(took[with], p) - percentile(took[without], p)
		figure(out, fmt.Sprintf("admission_added_latency_p%.0f_ms", p), added.Seconds()*1000, "ms")
		figure(out, fmt.Sprintf("admission_without_p%.0f_ms", p), percentile(took[without], p).Seconds()*1000, "ms")
	}
	return nil
}

// pausedPod makes a pod that nobody schedules.
func pausedPod(s stream, name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: name},
		Spec: corev1.PodSpec{
			SchedulerName:                "nobody",
			AutomountServiceAccountToken: ptr.To(false),
			Containers:                   []corev1.Container{{Name: "app", Image: s.name + ":live"}},
		},
	}
}
