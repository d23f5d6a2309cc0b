package audit

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/jsonschema-go/jsonschema"
)

func schema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	var s jsonschema.Schema
	if err := json.Unmarshal([]byte(Schema), &s); err != nil {
		t.Fatal(err)
	}
	return &s
}

// TestSchemaIsRecord compares the schema with the type: both say the same fields, of the same types.
func TestSchemaIsRecord(t *testing.T) {
	written := schema(t)
	fromType, err := jsonschema.For[Record](nil)
	if err != nil {
		t.Fatal(err)
	}
	shape := func(s *jsonschema.Schema) map[string]string {
		types := map[string]string{}
		for name, property := range s.Properties {
			types[name] = property.Type
			if property.Type == "" {
				types[name] = "string" // an enumeration, or a reference to a text
			}
		}
		return types
	}
	if diff := cmp.Diff(shape(fromType), shape(written)); diff != "" {
		t.Errorf("properties: -type +schema:\n%s", diff)
	}
	if diff := cmp.Diff(slices.Sorted(slices.Values(fromType.Required)), slices.Sorted(slices.Values(written.Required))); diff != "" {
		t.Errorf("required: -type +schema:\n%s", diff)
	}
	for name, property := range written.Properties {
		if property.Description == "" {
			t.Errorf("property %q has no description", name)
		}
	}
	if got := *written.Properties["apiVersion"].Const; got != APIVersion {
		t.Errorf("the schema is that of %s: %v", APIVersion, got)
	}
}

func TestSchema(t *testing.T) {
	resolved, err := schema(t).Resolve(nil)
	if err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("x", 3<<20)
	least := Record{APIVersion: APIVersion, Time: time.Now().UTC(), Operation: "UPDATE", Webhook: "check", Mode: "audit", Decision: "left", Reason: "Digest"}
	edit := func(change func(*Record)) Record {
		r := record("1")
		change(&r)
		return r
	}
	cases := map[string]struct {
		reason string
		record Record
		refuse bool
	}{
		"Pinned":    {reason: "a usual record", record: record("1")},
		"Least":     {reason: "a record of which all that can be empty is", record: least},
		"Refused":   {reason: "a rule is named", record: edit(func(r *Record) { r.Rule, r.Decision, r.Reason = "no-latest", "denied", "ExecutionRule" })},
		"Long":      {reason: "texts are cut to what the schema allows", record: edit(func(r *Record) { r.Written, r.Container, r.User = long, long, long })},
		"Version":   {reason: "another version has another schema", record: edit(func(r *Record) { r.APIVersion = "audit.istag.dev/v2" }), refuse: true},
		"Decision":  {reason: "there are three decisions", record: edit(func(r *Record) { r.Decision = "forgotten" }), refuse: true},
		"Mode":      {reason: "a namespace that is none of ours has no record", record: edit(func(r *Record) { r.Mode = "" }), refuse: true},
		"Operation": {reason: "nothing else has images to decide on", record: edit(func(r *Record) { r.Operation = "DELETE" }), refuse: true},
		"NoReason":  {reason: "every decision has a reason", record: edit(func(r *Record) { r.Reason = "" }), refuse: true},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			var line map[string]any
			if err := json.Unmarshal(encode(tc.record), &line); err != nil {
				t.Fatal(err)
			}
			if err := resolved.Validate(line); (err != nil) != tc.refuse {
				t.Errorf("%s: %v", tc.reason, err)
			}
			line["extra"] = "1"
			if err := resolved.Validate(line); err == nil {
				t.Error("a field that is not known is not valid")
			}
			delete(line, "extra")
			for _, name := range slices.Sorted(maps.Keys(line)) {
				if slices.Contains(schema(t).Required, name) {
					delete(line, name)
					break
				}
			}
			if err := resolved.Validate(line); err == nil {
				t.Error("a record without one of its fields is not valid")
			}
		})
	}
}
