package notice

import (
	"strings"
	"testing"
)

func TestClip(t *testing.T) {
	got := clip(strings.Repeat("é", maxNote))
	if len(got) > maxNote || !strings.HasSuffix(got, "é…") {
		t.Errorf("the API server refuses events with a note over %d bytes: %d", maxNote, len(got))
	}
	if got := clip("short"); got != "short" {
		t.Errorf("a note that fits is left as it is: %q", got)
	}
}
