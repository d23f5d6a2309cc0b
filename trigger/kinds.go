package trigger

import (
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"istag.dev/resolver"
)

// kind is what the one implementation needs to know of each kind of workload.
type kind struct {
	gvk schema.GroupVersionKind
	// base is the path of the pod spec, as field paths of triggers begin.
	base      string
	newObject func() client.Object
	newList   func() client.ObjectList
	// podSpec returns the pod spec inside an object that newObject made.
	podSpec func(client.Object) *corev1.PodSpec
}

// templateBase is the path of the pod spec in every kind of apps/v1.
const templateBase = "spec.template.spec"

// kinds returns every kind of workload that can have triggers.
func kinds() []*kind {
	return []*kind{
		{
			gvk:       appsv1.SchemeGroupVersion.WithKind("Deployment"),
			base:      templateBase,
			newObject: func() client.Object { return &appsv1.Deployment{} },
			newList:   func() client.ObjectList { return &appsv1.DeploymentList{} },
			podSpec:   func(o client.Object) *corev1.PodSpec { return &o.(*appsv1.Deployment).Spec.Template.Spec },
		},
		{
			gvk:       appsv1.SchemeGroupVersion.WithKind("StatefulSet"),
			base:      templateBase,
			newObject: func() client.Object { return &appsv1.StatefulSet{} },
			newList:   func() client.ObjectList { return &appsv1.StatefulSetList{} },
			podSpec:   func(o client.Object) *corev1.PodSpec { return &o.(*appsv1.StatefulSet).Spec.Template.Spec },
		},
		{
			gvk:       appsv1.SchemeGroupVersion.WithKind("DaemonSet"),
			base:      templateBase,
			newObject: func() client.Object { return &appsv1.DaemonSet{} },
			newList:   func() client.ObjectList { return &appsv1.DaemonSetList{} },
			podSpec:   func(o client.Object) *corev1.PodSpec { return &o.(*appsv1.DaemonSet).Spec.Template.Spec },
		},
		{
			gvk:       batchv1.SchemeGroupVersion.WithKind("CronJob"),
			base:      "spec.jobTemplate.spec.template.spec",
			newObject: func() client.Object { return &batchv1.CronJob{} },
			newList:   func() client.ObjectList { return &batchv1.CronJobList{} },
			podSpec: func(o client.Object) *corev1.PodSpec {
				return &o.(*batchv1.CronJob).Spec.JobTemplate.Spec.Template.Spec
			},
		},
	}
}

// path returns the names of the fields that lead to the pod spec.
func (k *kind) path() []string { return strings.Split(k.base, ".") }

// triggered reports whether an object has the annotation, be it good or bad.
func triggered(obj client.Object) bool { return obj.GetAnnotations()[Annotation] != "" }

// CacheByObject returns how a manager's cache should hold the workloads that triggers are about: with
// only what this package reads (see [kind.strip]). Without it everything works, at several times the
// memory. It is for a process in which nothing else reads these kinds from the cache: what it holds
// must never be written back whole.
func CacheByObject() map[client.Object]cache.ByObject {
	byObject := map[client.Object]cache.ByObject{}
	for _, k := range kinds() {
		byObject[k.newObject()] = cache.ByObject{Transform: k.transform}
	}
	return byObject
}

func (k *kind) transform(obj any) (any, error) {
	if workload, ok := obj.(client.Object); ok {
		return k.strip(workload), nil
	}
	return obj, nil
}

// strip returns a copy of a workload with its identity and, if it has triggers, what is needed to
// follow them: our two annotations, the names and images of its containers, and which fields we own.
// Stripping twice is stripping once.
func (k *kind) strip(full client.Object) client.Object {
	obj := k.newObject()
	obj.SetNamespace(full.GetNamespace())
	obj.SetName(full.GetName())
	obj.SetUID(full.GetUID())
	obj.SetResourceVersion(full.GetResourceVersion())
	obj.SetDeletionTimestamp(full.GetDeletionTimestamp())
	if !triggered(full) {
		return obj
	}
	annotations := map[string]string{}
	for _, name := range []string{Annotation, resolver.PinnedAnnotation} {
		if text, ok := full.GetAnnotations()[name]; ok {
			annotations[name] = text
		}
	}
	obj.SetAnnotations(annotations)
	if entry := ownEntry(full); entry != nil {
		obj.SetManagedFields([]metav1.ManagedFieldsEntry{{Manager: entry.Manager, Operation: entry.Operation, FieldsV1: entry.FieldsV1}})
	}
	from, to := k.podSpec(full), k.podSpec(obj)
	to.InitContainers = stripContainers(from.InitContainers)
	to.Containers = stripContainers(from.Containers)
	return obj
}

func stripContainers(full []corev1.Container) []corev1.Container {
	if len(full) == 0 {
		return nil
	}
	containers := make([]corev1.Container, len(full))
	for i := range full {
		containers[i] = corev1.Container{Name: full[i].Name, Image: full[i].Image}
	}
	return containers
}
