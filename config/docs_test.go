package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestDocs reads every configuration file that the documentation shows.
func TestDocs(t *testing.T) {
	pages, err := filepath.Glob("../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	shown := 0
	for _, page := range append(pages, "../README.md") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for i, block := range strings.Split(string(text), "\n```yaml\n")[1:] {
			block, _, closed := strings.Cut(block, "\n```")
			if !closed {
				t.Errorf("%s: YAML block %d is not closed", page, i+1)
			}
			if !strings.HasPrefix(block, "apiVersion: "+APIVersion+"\n") {
				continue
			}
			shown++
			if _, err := Parse([]byte(block)); err != nil {
				t.Errorf("%s: YAML block %d: a configuration that is shown can be used: %v", page, i+1, err)
			}
		}
	}
	if shown == 0 {
		t.Error("the documentation shows configurations")
	}
}
