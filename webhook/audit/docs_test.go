package audit

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const page = "../../docs/audit-log.md"

// table returns the rows of the page's table with a heading, by their first cells.
func table(t *testing.T, heading string) map[string][]string {
	t.Helper()
	_, text, ok := strings.Cut(string(read(t, page)), "\n| "+heading+" |\n|---|---|---|\n")
	if !ok {
		t.Fatalf("%s has no table with heading %q", page, heading)
	}
	rows := map[string][]string{}
	for line := range strings.Lines(text) {
		cells := strings.Split(strings.TrimSuffix(strings.TrimPrefix(line, "| "), " |\n"), " | ")
		if !strings.HasPrefix(line, "|") || len(cells) != 3 {
			break
		}
		rows[strings.Trim(cells[0], "`")] = cells[1:]
	}
	return rows
}

// TestDocumentedFields compares the table of fields with the schema, which says the same as the Go type.
func TestDocumentedFields(t *testing.T) {
	s := schema(t)
	want := map[string][]string{}
	for name, property := range s.Properties {
		always := "no"
		if slices.Contains(s.Required, name) {
			always = "yes"
		}
		want[name] = []string{always, property.Description}
	}
	if diff := cmp.Diff(want, table(t, "field | always | what it says")); diff != "" {
		t.Errorf("fields: -schema +docs:\n%s", diff)
	}
}

// TestDocumentedReasons compares the table of reasons with the constants that there are.
func TestDocumentedReasons(t *testing.T) {
	want := map[string]bool{}
	for _, dir := range []string{"../../resolver", ".."} {
		files, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			maps.Copy(want, reasons(t, file))
		}
	}
	got := map[string]bool{}
	for reason, cells := range table(t, "reason | decision | when") {
		got[reason] = true
		if !slices.Contains(schema(t).Properties["decision"].Enum, any(cells[0])) {
			t.Errorf("reason %s has decision %q", reason, cells[0])
		}
		if !regexp.MustCompile(schema(t).Properties["reason"].Pattern).MatchString(reason) {
			t.Errorf("reason %q is none by the schema", reason)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("reasons: -code +docs:\n%s", diff)
	}
}

// reasons returns the values of the exported constants of a file that are reasons.
func reasons(t *testing.T, file string) map[string]bool {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	ast.Inspect(parsed, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || !strings.HasPrefix(spec.Names[0].Name, "Reason") || len(spec.Values) != 1 {
			return true
		}
		if literal, ok := spec.Values[0].(*ast.BasicLit); ok && literal.Kind == token.STRING {
			value, err := strconv.Unquote(literal.Value)
			if err != nil {
				t.Fatal(err)
			}
			found[value] = true
		}
		return true
	})
	return found
}

// TestDocumentedLine checks the line that the page shows.
func TestDocumentedLine(t *testing.T) {
	_, text, _ := strings.Cut(string(read(t, page)), "\n```json\n")
	line, _, ok := strings.Cut(text, "\n")
	if !ok {
		t.Fatal("the page shows a line")
	}
	var r Record
	var fields map[string]any
	for _, into := range []any{&r, &fields} {
		if err := json.Unmarshal([]byte(line), into); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
	}
	resolved, err := schema(t).Resolve(nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := resolved.Validate(fields); err != nil {
		t.Errorf("%v: %s", err, line)
	}
	if diff := cmp.Diff(line+"\n", string(encode(r))); diff != "" {
		t.Errorf("a line is shown as it is written: -docs +ours:\n%s", diff)
	}
}
