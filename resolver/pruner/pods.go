package pruner

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// podsPerPage bounds how many pods are in memory at once.
const podsPerPage = 500

// runningImages returns the digests of all images that pods of the cluster run, or are about to. The
// error leaves nothing to rely on: part of the pods is as good as none.
func runningImages(ctx context.Context, live client.Reader) (sets.Set[string], error) {
	running := sets.New[string]()
	for next := ""; ; {
		var page corev1.PodList
		if err := live.List(ctx, &page, client.Limit(podsPerPage), client.Continue(next)); err != nil {
			return nil, fmt.Errorf("listing the pods of the cluster: %w", err)
		}
		for i := range page.Items {
			if phase := page.Items[i].Status.Phase; phase != corev1.PodSucceeded && phase != corev1.PodFailed {
				addImages(running, &page.Items[i])
			}
		}
		if next = page.Continue; next == "" {
			return running, nil
		}
	}
}

// addImages adds the digests of a pod's images: those that its spec asks for, and those that a node
// says it runs.
func addImages(running sets.Set[string], pod *corev1.Pod) {
	asked := func(image string) {
		if _, digest, ok := strings.Cut(image, "@"); ok {
			running.Insert(digest)
		}
	}
	for i := range pod.Spec.InitContainers {
		asked(pod.Spec.InitContainers[i].Image)
	}
	for i := range pod.Spec.Containers {
		asked(pod.Spec.Containers[i].Image)
	}
	for i := range pod.Spec.EphemeralContainers {
		asked(pod.Spec.EphemeralContainers[i].Image)
	}
	for _, statuses := range [][]corev1.ContainerStatus{
		pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses, pod.Status.EphemeralContainerStatuses,
	} {
		for i := range statuses {
			// "repo@sha256:…", "docker-pullable://repo@sha256:…" or "sha256:…", by the runtime.
			id := statuses[i].ImageID
			running.Insert(id[strings.LastIndexAny(id, "@/")+1:])
		}
	}
}
