package resolver

import (
	"github.com/go-json-experiment/json"
)

// PinnedAnnotation is the annotation of a workload that says what was written and what it became:
// Pins as JSON text.
const PinnedAnnotation = "istag.dev/pinned"

// Pin says what one container's image was written as and what it became.
type Pin struct {
	// Written is the image as the user wrote it.
	Written string `json:"written"`
	// Istag is the image stream tag that it meant, "stream:tag", in the workload's namespace.
	Istag string `json:"istag"`
	// PullSpec is the image that took its place.
	PullSpec string `json:"pullSpec"`
	// Generation is the stream's at that time.
	Generation int64 `json:"generation"`
}

// Pins maps the names of containers to their pins.
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

// String returns the text of a PinnedAnnotation; equal pins give equal text.
func (p Pins) String() string {
	text, err := json.Marshal(p, json.Deterministic(true))
	if err != nil {
		return "" // a map of plain strings and numbers always encodes
	}
	return string(text)
}
