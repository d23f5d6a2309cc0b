package trigger

import (
	"encoding/json"
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/sets"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"istag.dev/resolver"
)

// FieldManager is the field manager of every write to a workload, and the source of its events.
const FieldManager = "istag-trigger"

// configuration returns what is applied to a workload so that it is as planned.
//
// The identity of the object is part of it: with its uid an object that is gone is not made anew, and
// with its resource version one that was made anew, or that lost a container meanwhile, is a conflict.
// Without them server-side apply would create whatever it does not find.
//
// Server-side apply takes a field away if its manager owned it alone and does not send it again. So
// every apply holds all containers that follow a tag, changed or not, and also every container whose
// image we still own without following its tag now, because its trigger is paused or removed, or its
// tag has lost its image: that one is sent with the image it has. Otherwise the container
// would lose its image, which the API server refuses, and no trigger of the object would work again.
// Ownership of such an image is never given up for its own sake: whoever writes another image gets it.
// The price is that a container which its maker takes away by server-side apply stays, with nothing but
// its image, because we own that; kubectl edit, or any other update, takes it away. To let go of what
// nobody else owns would be worse: tools that adopt an object drop the old owners first and
// claim the fields afterwards, and between the two every container of it looks forsaken.
//
// Containers that we neither follow nor own are left out: to send them would be to claim
// their images too, and then the next server-side apply of their real owner would conflict.
func (k *kind) configuration(obj client.Object, p *plan) *unstructured.Unstructured {
	spec := k.podSpec(obj)
	owned := ownedImages(obj, k.path())
	var initContainers, mainContainers []any
	for at, container := range containers(spec) {
		image := container.Image
		if f, ok := p.follows[at]; ok {
			image = f.image.pullSpec
		} else if !owned.Has(container.Name) {
			continue
		}
		entry := map[string]any{"name": container.Name, "image": image}
		if at.init {
			initContainers = append(initContainers, entry)
		} else {
			mainContainers = append(mainContainers, entry)
		}
	}
	podSpec := map[string]any{}
	if len(initContainers) > 0 {
		podSpec["initContainers"] = initContainers
	}
	if len(mainContainers) > 0 {
		podSpec["containers"] = mainContainers
	}
	u := &unstructured.Unstructured{Object: map[string]any{}}
	u.SetGroupVersionKind(k.gvk)
	u.SetNamespace(obj.GetNamespace())
	u.SetName(obj.GetName())
	u.SetUID(obj.GetUID())
	u.SetResourceVersion(obj.GetResourceVersion())
	u.SetAnnotations(map[string]string{resolver.PinnedAnnotation: k.pins(obj, p).String()})
	var content any = podSpec
	path := k.path()
	for i := len(path) - 1; i > 0; i-- {
		content = map[string]any{path[i]: content}
	}
	u.Object[path[0]] = content
	return u
}

// pins returns what the annotation is to say: what it said of the containers that are there, and the
// changes. What the user wrote is kept over all moves of the tag.
func (k *kind) pins(obj client.Object, p *plan) resolver.Pins {
	before := resolver.ParsePins(obj.GetAnnotations()[resolver.PinnedAnnotation])
	pins := resolver.Pins{}
	for _, container := range containers(k.podSpec(obj)) {
		if pin, ok := before[container.Name]; ok {
			pins[container.Name] = pin
		}
	}
	for _, c := range p.changes {
		written := pins[c.container].Written
		if written == "" {
			written = c.follow.istag.Name()
		}
		pins[c.container] = resolver.Pin{
			Written:    written,
			Istag:      c.follow.istag.Name(),
			PullSpec:   c.follow.image.pullSpec,
			Generation: c.follow.image.generation,
		}
	}
	return pins
}

// ownEntry returns the managed fields of what we applied to an object, or nil.
func ownEntry(obj client.Object) *metav1.ManagedFieldsEntry {
	entries := obj.GetManagedFields()
	for i := range entries {
		e := &entries[i]
		if e.Manager == FieldManager && e.Operation == metav1.ManagedFieldsOperationApply && e.Subresource == "" {
			return e
		}
	}
	return nil
}

// ownedImages returns the names of the containers whose image we own. Fields in a form that we do
// not know count as not owned: the API server then refuses to take an image away, nothing is lost.
func ownedImages(obj client.Object, path []string) sets.Set[string] {
	owned := sets.New[string]()
	entry := ownEntry(obj)
	if entry == nil || entry.FieldsV1 == nil {
		return owned
	}
	fields := json.RawMessage(entry.FieldsV1.GetRawBytes())
	for _, name := range path {
		fields = ownedField(fields, "f:"+name)
	}
	for _, list := range []string{"f:containers", "f:initContainers"} {
		var items map[string]map[string]json.RawMessage
		if json.Unmarshal(ownedField(fields, list), &items) != nil {
			continue
		}
		for key, item := range items {
			var container struct{ Name string }
			text, ok := strings.CutPrefix(key, "k:")
			if _, image := item["f:image"]; !ok || !image || json.Unmarshal([]byte(text), &container) != nil {
				continue
			}
			owned.Insert(container.Name)
		}
	}
	return owned
}

func ownedField(fields json.RawMessage, name string) json.RawMessage {
	var children map[string]json.RawMessage
	if json.Unmarshal(fields, &children) != nil {
		return nil
	}
	return children[name]
}

// check compares what the API server made of an apply with what was planned. Another admission
// webhook may have changed an image on its way in; to write it again would change nothing.
func (k *kind) check(applied *unstructured.Unstructured, p *plan) error {
	images := map[string]string{}
	for _, list := range []string{"initContainers", "containers"} {
		items, _, _ := unstructured.NestedSlice(applied.Object, append(k.path(), list)...)
		for _, item := range items {
			container, _ := item.(map[string]any)
			name, _, _ := unstructured.NestedString(container, "name")
			images[name], _, _ = unstructured.NestedString(container, "image")
		}
	}
	for _, c := range p.changes {
		if got := images[c.container]; got != c.follow.image.pullSpec {
			return &userError{reasonImageRewritten, actionUpdateImage, fmt.Errorf("container %q: tag %q means %s, but on its way into the cluster that became %q; another admission webhook changes it: let it leave the images of field manager %s alone", c.container, c.follow.istag.Name(), c.follow.image.pullSpec, got, FieldManager)}
		}
	}
	return nil
}
