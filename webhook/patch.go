package webhook

import (
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// appendOperation adds an operation to a JSON patch (RFC 6902) whose value is a text. The closing bracket
// is the reader's.
func appendOperation(dst []byte, operation, path, value string) []byte {
	dst = appendText(append(beginOperation(dst, operation, path), `,"value":`...), value)
	return append(dst, '}')
}

func beginOperation(dst []byte, operation, path string) []byte {
	separator := byte(',')
	if len(dst) == 0 {
		separator = '['
	}
	dst = appendText(append(append(dst, separator), `{"op":`...), operation)
	return appendText(append(dst, `,"path":`...), path)
}

// appendText appends a text as JSON. What is not UTF-8 is replaced.
func appendText(dst []byte, text string) []byte {
	dst, _ = jsontext.AppendQuote(dst, text)
	return dst
}

// marks are the annotations and labels that a review changes.
type marks struct {
	annotations, labels []mark
}

type mark struct {
	key, value string
	gone       bool
}

func (m *marks) annotate(key, value string) {
	m.annotations = append(m.annotations, mark{key: key, value: value})
}

func (m *marks) unannotate(key string) {
	m.annotations = append(m.annotations, mark{key: key, gone: true})
}

func (m *marks) label(key, value string) { m.labels = append(m.labels, mark{key: key, value: value}) }

func (m *marks) unlabel(key string) { m.labels = append(m.labels, mark{key: key, gone: true}) }

// appendTo adds what the marks need to a patch of a workload.
func (m *marks) appendTo(dst []byte, w *workload) []byte {
	if len(m.annotations)+len(m.labels) == 0 {
		return dst
	}
	if w.bare {
		dst = append(beginOperation(dst, "add", "/metadata"), `,"value":{}}`...)
	}
	dst = appendMarks(dst, "/metadata/annotations", m.annotations, len(w.Annotations) == 0)
	if len(m.labels) > 0 {
		dst = appendMarks(dst, "/metadata/labels", m.labels, len(w.labels()) == 0)
	}
	return dst
}

// appendMarks patches one map, which is made if it is empty: it may not be there at all.
func appendMarks(dst []byte, path string, list []mark, empty bool) []byte {
	slices.SortFunc(list, func(a, b mark) int { return strings.Compare(a.key, b.key) })
	if empty && len(list) > 0 {
		dst = beginOperation(dst, "add", path)
		for i, m := range list {
			dst = appendText(append(dst, separator(i, `,"value":{`)...), m.key)
			dst = appendText(append(dst, ':'), m.value)
		}
		return append(dst, "}}"...)
	}
	for _, m := range list {
		at := path + "/" + escape(m.key)
		if m.gone {
			dst = append(beginOperation(dst, "remove", at), '}')
			continue
		}
		dst = appendOperation(dst, "add", at, m.value)
	}
	return dst
}
