package trigger

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"istag.dev/store"
)

// Annotation is where a workload says which image stream tags its containers follow. It is
// OpenShift's, byte for byte: a JSON list, as `oc set triggers` writes it.
const Annotation = "image.openshift.io/triggers"

// form is what the annotation should look like; it ends messages to users.
const form = `[{"from":{"kind":"ImageStreamTag","name":"stream:tag"},"fieldPath":"spec.template.spec.containers[?(@.name==\"NAME\")].image"}]`

// Trigger is one entry of the annotation: the container at FieldPath follows From.
type Trigger struct {
	From      From
	FieldPath string
	// Paused triggers change nothing until they are resumed.
	Paused bool
}

// From names what a trigger follows.
type From struct {
	Kind       string `json:"kind"`
	Name       string `json:"name"`
	Namespace  string `json:"namespace"`
	APIVersion string `json:"apiVersion"`
}

// Parse reads the text of the annotation. An empty text and null are no triggers.
//
// It decodes as OpenShift does, with the rules of encoding/json: keys in any case, unknown keys
// ignored, one entry of the wrong type or two with the same fieldPath make the whole annotation
// useless. It is more lenient in one thing: paused may be the text "true" or "false", which some
// consoles write. An error says where the annotation is wrong and what would be right.
//
// Whether a trigger can be followed is for its tag to say, not for Parse.
func Parse(annotation string) ([]Trigger, error) {
	if annotation == "" {
		return nil, nil
	}
	var entries []json.RawMessage
	if err := json.Unmarshal([]byte(annotation), &entries); err != nil {
		return nil, decodeError(err, 0, "")
	}
	triggers := make([]Trigger, len(entries))
	first := make(map[string]int, len(entries))
	for i, entry := range entries {
		at := fmt.Sprintf("entry %d: ", i)
		if err := decodeEntry(entry, &triggers[i]); err != nil {
			return nil, decodeError(err, entryOffset(annotation, i), at)
		}
		path := triggers[i].FieldPath
		if other, ok := first[path]; ok {
			return nil, fmt.Errorf("byte %d: %sfieldPath %q is that of entry %d as well; a container can follow one tag only, so remove one of the two", entryOffset(annotation, i), at, path, other)
		}
		first[path] = i
	}
	return triggers, nil
}

// entryOffset returns at which byte of a valid list an entry begins.
func entryOffset(list string, index int) int64 {
	decoder := json.NewDecoder(strings.NewReader(list))
	_, _ = decoder.Token() // the list has been decoded once: nothing here can fail
	var entry json.RawMessage
	for range index + 1 {
		_ = decoder.Decode(&entry)
	}
	return decoder.InputOffset() - int64(len(entry))
}

func decodeEntry(entry []byte, trigger *Trigger) error {
	var wire struct {
		From      From            `json:"from"`
		FieldPath string          `json:"fieldPath"`
		Paused    json.RawMessage `json:"paused"`
	}
	if err := json.Unmarshal(entry, &wire); err != nil {
		return err
	}
	*trigger = Trigger{From: wire.From, FieldPath: wire.FieldPath}
	switch string(wire.Paused) {
	case "", "null", `false`, `"false"`:
	case `true`, `"true"`:
		trigger.Paused = true
	default:
		return fmt.Errorf("paused is %s; it must be true or false", abbreviate(string(wire.Paused), 40))
	}
	return nil
}

// decodeError turns an error of encoding/json into one that a user can act on. Offsets that it
// states count from the start of the annotation.
func decodeError(err error, start int64, at string) error {
	var wrongType *json.UnmarshalTypeError
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &wrongType) && at == "":
		return fmt.Errorf("it is a JSON %s, not a list; write %s", wrongType.Value, form)
	case errors.As(err, &wrongType) && wrongType.Field == "":
		return fmt.Errorf("byte %d: %sit is a JSON %s, not an object; write %s", start, at, wrongType.Value, form)
	case errors.As(err, &wrongType):
		return fmt.Errorf("byte %d: %s%s is a JSON %s; it must be a JSON %s", start+wrongType.Offset, at, wrongType.Field, wrongType.Value, jsonKind(wrongType))
	case errors.As(err, &syntax):
		return fmt.Errorf("byte %d: it is not JSON: %w; write %s", start+syntax.Offset, err, form)
	default:
		return fmt.Errorf("byte %d: %s%w", start, at, err)
	}
}

func jsonKind(err *json.UnmarshalTypeError) string {
	if err.Field == "from" {
		return "object"
	}
	return "string"
}

// Istag is one image stream tag of one namespace.
type Istag struct {
	Namespace, Stream, Tag string
}

// Name returns the tag's name within its namespace, "stream:tag".
func (i Istag) Name() string { return store.TagName(i.Stream, i.Tag) }

// String returns "namespace/stream:tag".
func (i Istag) String() string { return i.Namespace + "/" + i.Name() }

// Istag returns the image stream tag that a trigger of a workload in the given namespace follows.
// The error says why it follows none.
//
// The namespace of another tenant is refused: nobody has yet checked that the annotation's writer
// may read the streams there, and following one tells its pull specs.
func (t *Trigger) Istag(namespace string) (Istag, error) {
	from := &t.From
	if from.Kind != store.KindImageStreamTag {
		return Istag{}, fmt.Errorf("from.kind is %q; only %q can be followed", from.Kind, store.KindImageStreamTag)
	}
	if from.APIVersion != "" {
		return Istag{}, fmt.Errorf("from.apiVersion is %q; remove it, as OpenShift follows no tag with an apiVersion", from.APIVersion)
	}
	stream, tag, ok := store.SplitTagName(from.Name)
	if !ok {
		return Istag{}, fmt.Errorf("from.name is %q; write stream:tag, as in %q", from.Name, "keycloak:20.0")
	}
	if from.Namespace != "" && from.Namespace != namespace {
		return Istag{}, fmt.Errorf("from.namespace is %q; a workload can follow image streams of its own namespace %q only, so make a stream here whose tag is imported from the same image", from.Namespace, namespace)
	}
	return Istag{Namespace: namespace, Stream: stream, Tag: tag}, nil
}

// abbreviate cuts a text that is longer than a limit of bytes.
func abbreviate(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	return strings.ToValidUTF8(text[:limit-3], "") + "..."
}
