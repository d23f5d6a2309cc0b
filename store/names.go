// Package store holds what istag remembers: the records in the cluster, the rules by which their
// history grows, and the in-memory index that everything else reads.
package store

import (
	"strings"
)

// Kinds that a tag's "from" can name (image.openshift.io/v1, TagReference.From.Kind).
const (
	KindDockerImage      = "DockerImage"
	KindImageStreamTag   = "ImageStreamTag"
	KindImageStreamImage = "ImageStreamImage"
)

// DefaultTag is the tag that a name without one means.
const DefaultTag = "latest"

// RecordName returns the name of the StreamRecord that stores a stream. A stream's name may hold
// "_", which the name of a custom resource may not, so "_" is written "--". Stream names never
// hold "--" themselves, so nothing is lost.
func RecordName(stream string) string {
	return strings.ReplaceAll(stream, "_", "--")
}

// StreamName returns the name of the stream that a StreamRecord of the given name stores.
func StreamName(record string) string {
	return strings.ReplaceAll(record, "--", "_")
}

// ImageRecordName returns the name of the ImageRecord of a digest: "sha256:<hex>" is stored as
// "sha256-<hex>".
func ImageRecordName(digest string) string {
	return strings.ReplaceAll(digest, ":", "-")
}

// TagName joins the two parts of an image stream tag's name, as in "keycloak:20.0".
func TagName(stream, tag string) string {
	return stream + ":" + tag
}

// SplitTagName takes an image stream tag's name apart. A name that ends in ":" means DefaultTag;
// ok is false if there is no ":" at all or nothing before it.
func SplitTagName(name string) (stream, tag string, ok bool) {
	stream, tag, ok = strings.Cut(name, ":")
	if !ok || stream == "" {
		return "", "", false
	}
	if tag == "" {
		tag = DefaultTag
	}
	return stream, tag, true
}

// Repository returns the repository of a pull spec, as it is spelled: its digest and its tag taken off.
func Repository(pullSpec string) string {
	pullSpec, _, _ = strings.Cut(pullSpec, "@")
	if colon := strings.LastIndex(pullSpec, ":"); colon > strings.LastIndex(pullSpec, "/") {
		pullSpec = pullSpec[:colon]
	}
	return pullSpec
}
