package webhook

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// step is one part of the path to the pod spec of a custom resource.
type step struct {
	name string
	each bool // every element of the list or map
}

// parsePath takes a config.Workload's path apart, as in "spec.workerGroups[*].template.spec".
func parsePath(path string) []step {
	var steps []step
	for part := range strings.SplitSeq(path, ".") {
		name, each := strings.CutSuffix(part, "[*]")
		steps = append(steps, step{name, each})
	}
	return steps
}

// customWorkloads reads the object of a review again, without any idea of what is in it but the path.
func (k kind) customWorkloads(body []byte) (current, old *workload, err error) {
	var review struct {
		Request struct {
			Object    jsontext.Value `json:"object"`
			OldObject jsontext.Value `json:"oldObject"`
		} `json:"request"`
	}
	if err := json.Unmarshal(body, &review); err != nil {
		return nil, nil, err
	}
	if current, err = k.customWorkload(review.Request.Object); err != nil {
		return nil, nil, fmt.Errorf("the object: %w", err)
	}
	if old, err = k.customWorkload(review.Request.OldObject); err != nil {
		return nil, nil, fmt.Errorf("the old object: %w", err)
	}
	return current, old, nil
}

func (k kind) customWorkload(raw jsontext.Value) (*workload, error) {
	if raw.Kind() != '{' {
		return &workload{bare: true}, nil
	}
	var o struct {
		Metadata *metadata `json:"metadata"`
	}
	if err := json.Unmarshal(raw, &o); err != nil {
		return nil, err
	}
	w := newWorkload(o.Metadata)
	return w, w.find(raw, k.path, place{}, "")
}

// find adds the images of every pod spec that a path leads to. What does not lead on is none: whether it may be
// like that is for the resource's own schema to say. prefix tells elements of lists and maps apart.
func (w *workload) find(raw jsontext.Value, path []step, at place, prefix string) error {
	if raw.Kind() != '{' {
		return nil
	}
	if len(path) == 0 {
		var spec podSpec
		if err := json.Unmarshal(raw, &spec); err != nil {
			return fmt.Errorf("%s: %w", at.field, err)
		}
		w.add(&spec, &at, prefix, false)
		return nil
	}
	var fields map[string]jsontext.Value
	if err := json.Unmarshal(raw, &fields); err != nil {
		return err
	}
	next, rest := path[0], path[1:]
	value, at := fields[next.name], at.child(next.name)
	switch {
	case !next.each:
		if len(rest) == 0 && value.Kind() == '{' {
			w.optIn = w.optIn || templateOptsIn(fields["metadata"])
		}
		return w.find(value, rest, at, prefix)
	case value.Kind() == '[':
		return w.findInList(value, rest, at, prefix)
	case value.Kind() == '{':
		return w.findInMap(value, rest, at, prefix)
	default:
		return nil
	}
}

func (w *workload) findInList(raw jsontext.Value, path []step, at place, prefix string) error {
	var elements []jsontext.Value
	if err := json.Unmarshal(raw, &elements); err != nil {
		return err
	}
	for i, element := range elements {
		key := strconv.Itoa(i)
		if err := w.find(element, path, at.element(key), prefix+key+"/"); err != nil {
			return err
		}
	}
	return nil
}

func (w *workload) findInMap(raw jsontext.Value, path []step, at place, prefix string) error {
	var elements map[string]jsontext.Value
	if err := json.Unmarshal(raw, &elements); err != nil {
		return err
	}
	for _, key := range slices.Sorted(maps.Keys(elements)) {
		if err := w.find(elements[key], path, at.element(key), prefix+key+"/"); err != nil {
			return err
		}
	}
	return nil
}

// templateOptsIn reads the metadata beside a pod spec, which is that of a template if there is one.
func templateOptsIn(raw jsontext.Value) bool {
	var m templateMetadata
	return raw.Kind() == '{' && json.Unmarshal(raw, &m) == nil && m.optsIn()
}
