package tags

import (
	"encoding/json"
	"maps"
	"slices"

	imagev1 "github.com/openshift/api/image/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"istag.dev/store"
	storev1 "istag.dev/store/v1"
)

// OriginAnnotation shows on a tag, as compact JSON, where its newest event came from:
//
//	{"via":"Copy","source":"a:b","by":{"user":"alice","verb":"update","resource":"imagestreamtags"}}
//
// It is never stored: what clients send back is dropped.
const OriginAnnotation = "istag.dev/origin"

type origin struct {
	Via    storev1.TagEventVia `json:"via"`
	Source string              `json:"source,omitempty"`
	By     *storev1.Requester  `json:"by,omitempty"`
}

// object is one of the two kinds that show a tag.
type object interface {
	runtime.Object
	metav1.Object
}

// part is a record narrowed to one of its tags.
type part struct {
	tag    string
	record *storev1.StreamRecord
}

// parts narrows a record to each of its tags in turn, sorted by their names. In a narrowed record what
// the store says of the tag is found at once, so a stream of thousands of tags is shown in one pass.
// The parts share what they hold with the record.
func parts(record *storev1.StreamRecord) []part {
	byTag := make(map[string]*storev1.StreamRecord, max(len(record.Spec.Tags), len(record.Status.Tags)))
	of := func(tag string) *storev1.StreamRecord {
		narrow, ok := byTag[tag]
		if !ok {
			narrow = &storev1.StreamRecord{ObjectMeta: record.ObjectMeta}
			narrow.Spec.LookupPolicy = record.Spec.LookupPolicy
			narrow.Status.DockerImageRepository = record.Status.DockerImageRepository
			byTag[tag] = narrow
		}
		return narrow
	}
	for i := range record.Spec.Tags {
		of(record.Spec.Tags[i].Name).Spec.Tags = record.Spec.Tags[i : i+1]
	}
	for i := range record.Status.Tags {
		of(record.Status.Tags[i].Tag).Status.Tags = record.Status.Tags[i : i+1]
	}
	for i := range record.Record.Origins {
		if narrow, ok := byTag[record.Record.Origins[i].Tag]; ok {
			narrow.Record.Origins = append(narrow.Record.Origins, record.Record.Origins[i])
		}
	}
	out := make([]part, 0, len(byTag))
	for _, tag := range slices.Sorted(maps.Keys(byTag)) {
		out = append(out, part{tag: tag, record: byTag[tag]})
	}
	return out
}

// history returns what status says of a tag, or nil if it says nothing.
func history(record *storev1.StreamRecord, tag string) *imagev1.NamedTagEventList {
	for i := range record.Status.Tags {
		if record.Status.Tags[i].Tag == tag {
			return &record.Status.Tags[i]
		}
	}
	return nil
}

// tagMeta returns the metadata that both kinds have in common. Virtual tags have no owners, no
// finalizers and no managed fields: those are the stream's.
func tagMeta(record *storev1.StreamRecord, tag string, annotations map[string]string) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Namespace:         record.Namespace,
		Name:              fullName(record, tag),
		UID:               uid(record, tag),
		ResourceVersion:   record.ResourceVersion,
		CreationTimestamp: record.CreationTimestamp,
		Labels:            maps.Clone(record.Labels),
		Annotations:       withOrigin(annotations, store.Origin(record, tag)),
	}
}

// withOrigin returns a copy of annotations that tells the origin, and only the true one.
func withOrigin(annotations map[string]string, from *storev1.TagEventOrigin) map[string]string {
	annotations = stored(annotations)
	if from == nil {
		return annotations
	}
	text, err := json.Marshal(origin{Via: from.Via, Source: from.Source, By: from.By})
	if err != nil {
		return annotations // Three strings always can be marshalled.
	}
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[OriginAnnotation] = string(text)
	return annotations
}

// stored returns a copy of the annotations that are kept: those that are only shown are left out.
func stored(annotations map[string]string) map[string]string {
	annotations = maps.Clone(annotations)
	delete(annotations, OriginAnnotation)
	if len(annotations) == 0 {
		return nil
	}
	return annotations
}

// names are what a resource and its kind are called.
type names struct {
	// resource, singular, short and kind are as in discovery.
	resource, singular, short, kind string
	// taken is the resource that the error names if the tag exists already. OpenShift's are not alike.
	taken string
	// field holds the spec tag.
	field string
}

// kind is what sets the two resources apart. Objects that a view returns share what they hold with the record.
type kind[T object] interface {
	names() names
	empty() T
	list(meta metav1.ListMeta, items []T) runtime.Object
	// shown reports whether GET, LIST and WATCH show the tag at all.
	shown(record *storev1.StreamRecord, tag string) bool
	// view shows what there is of a tag, even if that is nothing, as LIST and WATCH do.
	view(record *storev1.StreamRecord, tag string) T
	// fill adds what GET shows beyond that.
	fill(obj T, record *storev1.StreamRecord, tag string, image *imagev1.Image)
	// needsImage says that there is no object without an image.
	needsImage() bool
	// own returns the tag without what it shows of its stream.
	own(obj T) T
	// create returns the spec tag that obj asks for where there was no tag, and brings obj into the form
	// that it will have. It is nil if obj asks for none.
	create(obj T, tag string) (*imagev1.TagReference, error)
	// update does the same where obj was made from seen and the tag is still so, in what is now. There
	// nil means that there should be no spec tag.
	update(obj, seen, now T, tag string) (*imagev1.TagReference, error)
}
