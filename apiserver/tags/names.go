package tags

import (
	"strings"

	"github.com/google/uuid"
	"k8s.io/apimachinery/pkg/types"

	"istag.dev/store"
	storev1 "istag.dev/store/v1"
)

// splitName takes the name of a tag, "stream:tag", apart. As in OpenShift there is exactly one ":" with
// something on either side, and no "@", which would make it the name of an image.
func splitName(name string) (stream, tag string, ok bool) {
	stream, tag, ok = strings.Cut(name, ":")
	if !ok || stream == "" || tag == "" || strings.ContainsAny(name, "@") || strings.Contains(tag, ":") {
		return "", "", false
	}
	return stream, tag, true
}

// uid returns the UID of a stream's tag, which has no record and so none of its own. It is not the
// stream's, since the garbage collector takes things of one UID for one thing and would see the stream
// go with a tag of its. A stream that is not stored yet has no UID, and neither have its tags.
func uid(record *storev1.StreamRecord, tag string) types.UID {
	if record.UID == "" {
		return ""
	}
	space, err := uuid.Parse(string(record.UID))
	if err != nil {
		space = uuid.NewSHA1(uuid.Nil, []byte(record.UID))
	}
	return types.UID(uuid.NewSHA1(space, []byte(tag)).String())
}

// isUID reports whether a client that gives a UID means this tag: by its own, or by its stream's, which
// is the one that OpenShift shows.
func isUID(record *storev1.StreamRecord, tag string, given types.UID) bool {
	return given == record.UID || given == uid(record, tag)
}

// fullName returns the name of a record's tag.
func fullName(record *storev1.StreamRecord, tag string) string {
	return store.TagName(record.Name, tag)
}
