package store

import (
	"strings"
	"testing"
	"time"
)

// TestIndexHeardGoesByTheTimeThatGoesBy: the age of the index must not jump with the clock, or somebody who sets that by an hour is told that
// the index is an hour old, or that it heard from the future. Go shows in a time's text that it has the reading of a clock that nobody
// sets, and then compares by that.
func TestIndexHeardGoesByTheTimeThatGoesBy(t *testing.T) {
	for name, hear := range map[string]func(*Index) error{
		"change":   func(x *Index) error { return x.Add(recordOf("keycloak")) },
		"list":     func(x *Index) error { return x.Replace(nil, "1") },
		"bookmark": func(x *Index) error { return x.Bookmark("1") },
	} {
		x, before := NewIndex(), time.Now()
		if err := hear(x); err != nil {
			t.Fatal(err)
		}
		if at := x.Heard(); !strings.Contains(at.String(), " m=") || at.Before(before) || at.After(time.Now()) {
			t.Errorf("%s: heard at %s, which must be after %s and by a clock that nobody sets", name, at, before)
		}
	}
}
