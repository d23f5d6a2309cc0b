package harness

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"istag.dev/webhook/audit"
)

func (e *Env) auditLog(role string) string { return filepath.Join(e.Dir, "istag", role+"-audit.jsonl") }

// AuditLines returns the lines of the webhook's audit log, oldest first. Those of replicas that were added are not among them.
func (e *Env) AuditLines() ([]string, error) { return lines(e.auditLog(webhookRole)) }

// AuditRecords returns every decision in the audit logs of all replicas of the webhook, oldest first.
func (e *Env) AuditRecords() ([]audit.Record, error) {
	var all []audit.Record
	for _, replica := range e.replicas {
		records, err := decodeLines[audit.Record](replica.role.config.Webhook.AuditLog.Path)
		if err != nil {
			return nil, err
		}
		all = append(all, records...)
	}
	slices.SortStableFunc(all, func(a, b audit.Record) int { return a.Time.Compare(b.Time) })
	return all, nil
}

// Access is one request that a registry answered.
type Access struct {
	Method string `json:"method"`
	Path   string `json:"path"`
	Status int    `json:"status"`
}

// RegistryRequests returns every request that the registries answered since they were filled.
func (e *Env) RegistryRequests() ([]Access, error) {
	open, err := decodeLines[Access](e.Cluster.RegistryAccessLog)
	if err != nil {
		return nil, err
	}
	private, err := decodeLines[Access](e.Cluster.PrivateRegistry.AccessLog)
	return append(open, private...), err
}

func decodeLines[T any](path string) ([]T, error) {
	texts, err := lines(path)
	if err != nil {
		return nil, err
	}
	values := make([]T, len(texts))
	for i, text := range texts {
		if err := json.Unmarshal([]byte(text), &values[i]); err != nil {
			return nil, fmt.Errorf("%s, line %d: %w", path, i+1, err)
		}
	}
	return values, nil
}

// lines returns the whole lines of a file. One that is being written is left for the next time, and a
// file that is not there has none.
func lines(path string) ([]string, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var texts []string
	for {
		line, rest, whole := bytes.Cut(data, []byte("\n"))
		if !whole {
			return texts, nil
		}
		texts, data = append(texts, string(line)), rest
	}
}
