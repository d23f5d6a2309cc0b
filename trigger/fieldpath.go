package trigger

import (
	"fmt"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// slot is the place of one container in a pod spec.
type slot struct {
	init  bool
	index int
}

// below returns what of a field path comes after a pod spec's own path; ok is false if the path does
// not lead into that pod spec, which is how a trigger for another kind looks.
func below(base, fieldPath string) (rest string, ok bool) {
	return strings.CutPrefix(fieldPath, base+".")
}

// locate finds the container whose image a path below a pod spec names. The grammar is OpenShift's:
//
//	containers[SEL].image | initContainers[SEL].image
//	SEL = decimal index | ?(@.name=="NAME")
//
// An index counts in the list that the path names. A name is looked for among the init containers
// first and then among the containers, whichever list the path names: `oc set triggers` always
// writes "containers" and relies on that.
func locate(spec *corev1.PodSpec, rest string) (slot, error) {
	list, selector, ok := strings.Cut(rest, "[")
	if !ok || (list != "containers" && list != "initContainers") {
		return slot{}, fmt.Errorf("it must go on with containers[...].image or initContainers[...].image, not %q", abbreviate(rest, 80))
	}
	selector, ok = strings.CutSuffix(selector, "].image")
	if !ok {
		return slot{}, fmt.Errorf("it must end in ].image: only the image of a container can follow a tag")
	}
	if isDecimal(selector) {
		return locateIndex(spec, list == "initContainers", selector)
	}
	name, ok := strings.CutPrefix(selector, `?(@.name=="`)
	if ok {
		name, ok = strings.CutSuffix(name, `")`)
	}
	if !ok {
		return slot{}, fmt.Errorf(`selector [%s] must be an index, as in [0], or [?(@.name=="NAME")] with two equals signs, double quotes and no spaces`, abbreviate(selector, 80))
	}
	return locateName(spec, name)
}

func isDecimal(text string) bool {
	return text != "" && strings.Trim(text, "0123456789") == ""
}

func locateIndex(spec *corev1.PodSpec, init bool, selector string) (slot, error) {
	list, length := "containers", len(spec.Containers)
	if init {
		list, length = "initContainers", len(spec.InitContainers)
	}
	index, err := strconv.Atoi(selector)
	if err != nil || index >= length {
		return slot{}, fmt.Errorf("%s has no index %s: it has %d, counted from 0", list, abbreviate(selector, 20), length)
	}
	return slot{init: init, index: index}, nil
}

func locateName(spec *corev1.PodSpec, name string) (slot, error) {
	for i := range spec.InitContainers {
		if spec.InitContainers[i].Name == name {
			return slot{init: true, index: i}, nil
		}
	}
	for i := range spec.Containers {
		if spec.Containers[i].Name == name {
			return slot{index: i}, nil
		}
	}
	return slot{}, fmt.Errorf("no container is named %q; use the name of one that is there", abbreviate(name, 80))
}
