package webhook

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"k8s.io/apimachinery/pkg/types"

	"istag.dev/resolver"
)

// AuditRecord is one line of the audit log: what became of one image of one object under review.
type AuditRecord struct {
	// Time of the decision, RFC 3339 with nanoseconds, UTC.
	Time time.Time `json:"time"`
	// UID of the admission request; the API server's own audit log has it too.
	UID types.UID `json:"uid"`
	// User who made the request.
	User string `json:"user"`
	// Namespace, Kind ("Deployment.apps") and Name of the object. Name is the generateName of an
	// object that has no name yet.
	Namespace string `json:"namespace"`
	Kind      string `json:"kind"`
	Name      string `json:"name"`
	// Operation is CREATE or UPDATE.
	Operation string `json:"operation"`
	// DryRun says that the API server will not persist the object.
	DryRun bool `json:"dryRun"`
	// Container whose image was decided.
	Container string `json:"container"`
	// Written is the image as the request has it.
	Written string `json:"written"`
	// Istag is the image stream tag that was looked up, "stream:tag"; absent if none was.
	Istag string `json:"istag,omitempty"`
	// PullSpec is the image that took its place; absent unless the decision is "pinned".
	PullSpec string `json:"pullSpec,omitempty"`
	// StreamGeneration is the stream's generation; absent if there is no stream.
	StreamGeneration int64 `json:"streamGeneration,omitzero"`
	// MovedBy is the user who moved the tag to that image; absent if that is not known, or unless the
	// decision is "pinned".
	MovedBy string `json:"movedBy,omitempty"`
	// Decision is "pinned", "left" or "denied".
	Decision string `json:"decision"`
	// Reason is the resolver's.
	Reason resolver.Reason `json:"reason"`
	// DurationMicros is how long the review had taken by then, in microseconds.
	DurationMicros int64 `json:"durationMicros"`
}

// AuditLog writes audit records as JSON lines.
type AuditLog struct {
	mu    sync.Mutex
	out   io.Writer
	lines bytes.Buffer // of the review being written
}

// NewAuditLog returns a log that writes to out.
func NewAuditLog(out io.Writer) *AuditLog { return &AuditLog{out: out} }

// OpenAuditLog returns a log that appends to a file, which is made if need be; "-" is standard output.
// The file stays open for as long as the process lives.
func OpenAuditLog(path string) (*AuditLog, error) {
	if path == "-" {
		return NewAuditLog(os.Stdout), nil
	}
	file, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening audit log: %w", err)
	}
	return NewAuditLog(file), nil
}

// Write writes the records of one review, in one write so that lines are never torn or mixed.
func (l *AuditLog) Write(records []AuditRecord) error {
	if len(records) == 0 {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines.Reset()
	for i := range records {
		if err := json.MarshalWrite(&l.lines, &records[i]); err != nil {
			return fmt.Errorf("encoding audit record: %w", err)
		}
		l.lines.WriteByte('\n')
	}
	if _, err := l.out.Write(l.lines.Bytes()); err != nil {
		return fmt.Errorf("writing audit log: %w", err)
	}
	return nil
}
