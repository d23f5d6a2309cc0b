package resolver

import (
	"slices"
	"strconv"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// PinnedAnnotation is the annotation of a workload that says what was written and what it became:
// Pins as JSON text.
const PinnedAnnotation = "istag.dev/pinned"

// Pin says what one container's image was written as and what it became.
type Pin struct {
	// Written is the image as the user wrote it.
	Written string `json:"written"`
	// Istag is the image stream tag that it meant: "stream:tag", or "namespace/stream:tag" if the stream is
	// of another namespace than the workload.
	Istag string `json:"istag"`
	// PullSpec is the image that took its place.
	PullSpec string `json:"pullSpec"`
	// Generation is the stream's at that time.
	Generation int64 `json:"generation"`
}

// Pins maps the names of containers, and those of image volumes as "volumes/name", to their pins.
type Pins map[string]Pin

// ParsePins reads the text of a PinnedAnnotation. Users can write annotations too, so text that is
// not Pins counts as none.
func ParsePins(annotation string) Pins {
	if annotation == "" {
		return nil
	}
	var pins Pins
	if json.Unmarshal([]byte(annotation), &pins) != nil {
		return nil
	}
	return pins
}

// String returns the text of a PinnedAnnotation; equal pins give equal text. Reviews wait for it, so it is
// written by hand.
func (p Pins) String() string {
	keys := make([]string, 0, len(p))
	size := 2
	for key, pin := range p {
		keys = append(keys, key)
		size += len(key) + len(pin.Written) + len(pin.Istag) + len(pin.PullSpec) + 80
	}
	slices.Sort(keys)
	text := append(make([]byte, 0, size), '{')
	for i, key := range keys {
		if i > 0 {
			text = append(text, ',')
		}
		pin := p[key]
		text = append(appendText(text, key), `:{"written":`...)
		text = append(appendText(text, pin.Written), `,"istag":`...)
		text = append(appendText(text, pin.Istag), `,"pullSpec":`...)
		text = append(appendText(text, pin.PullSpec), `,"generation":`...)
		text = append(strconv.AppendInt(text, pin.Generation, 10), '}')
	}
	return string(append(text, '}'))
}

// appendText appends a text as JSON. What is not UTF-8 is replaced.
func appendText(dst []byte, text string) []byte {
	dst, _ = jsontext.AppendQuote(dst, text)
	return dst
}
