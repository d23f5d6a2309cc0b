// Package audit is the log of what admission decided.
package audit

import (
	"time"

	"k8s.io/apimachinery/pkg/types"

	"istag.dev/resolver"
	"istag.dev/webhook/scope"
)

// APIVersion is the version of Schema, which Record is written by: another one if a field goes, or changes its
// type or its meaning. Fields that can be absent, and reasons, are added without.
const APIVersion = "audit.istag.dev/v1"

// Record is one line of the audit log: what became of one image of one object under review. Whoever adds a
// field adds it to appendRecord, to schema.json and to docs/audit-log.md; tests compare them. Texts of any
// length can be given, and are cut when they are written.
type Record struct {
	// APIVersion of the record's schema, APIVersion.
	APIVersion string `json:"apiVersion"`
	// Time of the decision, RFC 3339 with nanoseconds, UTC.
	Time time.Time `json:"time"`
	// UID of the admission request. All records of one review have the same.
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
	// Webhook is "pin", which replaces names, or "check", which has the last word on images.
	Webhook string `json:"webhook"`
	// Mode of the namespace: "enforce"; "warn" and "audit" if the decision was not carried out.
	Mode scope.Mode `json:"mode"`
	// Container whose image was decided, or "volumes/" and the name of an image volume.
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
	// Rule is the execution rule that refused the image; absent unless one did.
	Rule string `json:"rule,omitempty"`
	// Decision is "pinned", "left" or "denied".
	Decision string `json:"decision"`
	// Reason is why: one of the resolver's or of the webhook's.
	Reason resolver.Reason `json:"reason"`
	// DurationMicros is how long the review had taken by then, in microseconds.
	DurationMicros int64 `json:"durationMicros"`
}
