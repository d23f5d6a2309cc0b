package trigger

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// verdict is what one trigger asks for now.
type verdict string

const (
	// verdictPaused triggers change nothing.
	verdictPaused verdict = "Paused"
	// verdictOtherPath triggers have a field path that leads into no pod spec of this kind.
	verdictOtherPath verdict = "OtherPath"
	// verdictRefused triggers name something that cannot be followed.
	verdictRefused verdict = "Refused"
	// verdictUnresolved triggers follow a tag that has no image, or no longer any.
	verdictUnresolved verdict = "Unresolved"
	// verdictFollowed triggers say what their container's image is to be.
	verdictFollowed verdict = "Followed"
)

// image is what a tag means.
type image struct {
	pullSpec   string
	generation int64 // of the stream
}

// lookup returns what a tag means; ok is false if it means nothing (yet). An error is the store's own.
type lookup func(Istag) (found image, ok bool, err error)

// follow is what one container's image is to be.
type follow struct {
	istag Istag
	image image
}

// change is one container whose image is to be another.
type change struct {
	container string
	from      string
	follow    follow
}

// plan is what the triggers of one workload ask for, before anything is written.
type plan struct {
	// verdicts says what came of each trigger, in the annotation's order.
	verdicts []verdict
	// refused says why, for the triggers of that verdict.
	refused []string
	// follows holds every container that follows a tag which has an image, changed or not.
	follows map[slot]follow
	// changes are the containers whose image differs, init containers first; none means that there is
	// nothing to write.
	changes []change
}

// userError is an error that only a change of the workload can heal.
type userError struct {
	reason, action string // of the event that reports it
	err            error
}

func (e *userError) Error() string { return e.err.Error() }
func (e *userError) Unwrap() error { return e.err }

// plan decides on the triggers of a workload as OpenShift does: each on its own, so that one whose
// tag has no image holds nothing up; but a field path that leads nowhere, found once its tag has an
// image, stops them all. Two triggers that name one container in two ways are not noticed: the last
// one wins. The desired state is always "image equals what the tag means now"; nothing is remembered.
func (k *kind) plan(obj client.Object, find lookup) (*plan, error) {
	triggers, err := Parse(obj.GetAnnotations()[Annotation])
	if err != nil {
		return nil, &userError{reasonInvalidAnnotation, actionReadTriggers, fmt.Errorf("annotation %s: %w", Annotation, err)}
	}
	spec := k.podSpec(obj)
	p := &plan{follows: map[slot]follow{}}
	for i := range triggers {
		v, err := p.decide(k.base, spec, obj.GetNamespace(), i, &triggers[i], find)
		if err != nil {
			return nil, err
		}
		p.verdicts = append(p.verdicts, v)
	}
	p.compare(spec)
	return p, nil
}

func (p *plan) decide(base string, spec *corev1.PodSpec, namespace string, index int, t *Trigger, find lookup) (verdict, error) {
	if t.Paused {
		return verdictPaused, nil
	}
	rest, ok := below(base, t.FieldPath)
	if !ok {
		return verdictOtherPath, nil
	}
	istag, err := t.Istag(namespace)
	if err != nil {
		p.refused = append(p.refused, fmt.Sprintf("entry %d: %s", index, err))
		return verdictRefused, nil
	}
	found, ok, err := find(istag)
	if err != nil {
		return "", err
	}
	if !ok {
		return verdictUnresolved, nil
	}
	at, err := locate(spec, rest)
	if err != nil {
		return "", &userError{reasonInvalidPath, actionReadTriggers, fmt.Errorf("annotation %s: entry %d: fieldPath %q: %w; no image is changed until it is right", Annotation, index, abbreviate(t.FieldPath, 200), err)}
	}
	p.follows[at] = follow{istag: istag, image: found}
	return verdictFollowed, nil
}

// compare finds the containers whose image differs from what they follow.
func (p *plan) compare(spec *corev1.PodSpec) {
	for at, container := range containers(spec) {
		if f, ok := p.follows[at]; ok && f.image.pullSpec != container.Image {
			p.changes = append(p.changes, change{container: container.Name, from: container.Image, follow: f})
		}
	}
}

// containers goes through the containers of a pod spec, init containers first.
func containers(spec *corev1.PodSpec) func(yield func(slot, *corev1.Container) bool) {
	return func(yield func(slot, *corev1.Container) bool) {
		for i := range spec.InitContainers {
			if !yield(slot{init: true, index: i}, &spec.InitContainers[i]) {
				return
			}
		}
		for i := range spec.Containers {
			if !yield(slot{index: i}, &spec.Containers[i]) {
				return
			}
		}
	}
}
