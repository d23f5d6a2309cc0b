package audit

import _ "embed" // of the schema

// Schema is the JSON Schema (draft 2020-12) of Record.
//
//go:embed schema.json
var Schema string
