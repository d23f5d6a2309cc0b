package crdstore

import (
	"fmt"
	"strings"

	imagev1 "github.com/openshift/api/image/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"

	"istag.dev/store"
	storev1 "istag.dev/store/v1"
)

// object is a pointer to a record.
type object[T any] interface {
	*T
	runtime.Object
	metav1.Object
	DeepCopy() *T
}

// kind is what the two kinds of records differ in.
type kind[T any, P object[T]] struct {
	resource   string           // of the records
	record     string           // is their kind
	shown      schema.GroupKind // is what users know them as
	namespaced bool

	// toRecord and toShown translate names. toShown need only know the names that toRecord gives.
	toRecord, toShown func(string) string
	// conceal turns what is shown of an object into what is stored, and open turns it back. Names and
	// what all objects have are none of theirs. conceal gets a shallow copy.
	conceal, open func(P)
	// fill fills a list, which fails if the list is of another kind.
	fill func(out runtime.Object, meta metav1.ListMeta, items []T) bool
}

var streams = kind[storev1.StreamRecord, *storev1.StreamRecord]{
	resource:   "streamrecords",
	record:     "StreamRecord",
	shown:      schema.GroupKind{Group: imagev1.GroupName, Kind: "ImageStream"},
	namespaced: true,
	toRecord:   store.RecordName,
	toShown:    store.StreamName,
	conceal: func(r *storev1.StreamRecord) {
		r.Record.ManagedFields = r.ManagedFields
		r.Status.Tags = withItems(r.Status.Tags)
	},
	open: func(r *storev1.StreamRecord) {
		r.Generation = r.Record.Generation
		r.ManagedFields, r.Record.ManagedFields = r.Record.ManagedFields, nil
	},
	fill: func(out runtime.Object, meta metav1.ListMeta, items []storev1.StreamRecord) bool {
		l, ok := out.(*storev1.StreamRecordList)
		if ok {
			l.ListMeta, l.Items = meta, items
		}
		return ok
	},
}

var images = kind[storev1.ImageRecord, *storev1.ImageRecord]{
	resource: "imagerecords",
	record:   "ImageRecord",
	shown:    schema.GroupKind{Group: imagev1.GroupName, Kind: "Image"},
	toRecord: store.ImageRecordName,
	toShown:  func(record string) string { return strings.Replace(record, "-", ":", 1) },
	conceal: func(r *storev1.ImageRecord) {
		// The record's own name is already the stored one.
		r.Image.TypeMeta = metav1.TypeMeta{}
		r.Image.ObjectMeta = metav1.ObjectMeta{Name: strings.Replace(r.Name, "-", ":", 1)}
	},
	open: func(r *storev1.ImageRecord) {
		r.Generation, r.ManagedFields = 0, nil
		r.Image.ObjectMeta = metav1.ObjectMeta{Name: r.Name}
	},
	fill: func(out runtime.Object, meta metav1.ListMeta, items []storev1.ImageRecord) bool {
		l, ok := out.(*storev1.ImageRecordList)
		if ok {
			l.ListMeta, l.Items = meta, items
		}
		return ok
	},
}

// withItems returns the tags with no list of items nil, so that what is read back is what was written.
func withItems(tags []imagev1.NamedTagEventList) []imagev1.NamedTagEventList {
	var mended []imagev1.NamedTagEventList
	for i := range tags {
		if tags[i].Items != nil {
			continue
		}
		if mended == nil {
			mended = append(mended, tags...)
		}
		mended[i].Items = []imagev1.TagEvent{}
	}
	if mended == nil {
		return tags
	}
	return mended
}

// of returns an object of the kind as what it is.
func (k *kind[T, P]) of(obj runtime.Object) (P, error) {
	if p, ok := obj.(P); ok && p != nil {
		return p, nil
	}
	return nil, fmt.Errorf("%T is no %s", obj, k.record)
}

// recordName returns the name under which an object is stored, and whether there can be one. A name that
// the stored one does not lead back to is another object's.
func (k *kind[T, P]) recordName(name string) (string, bool) {
	record := k.toRecord(name)
	return record, k.toShown(record) == name && len(validation.IsDNS1123Subdomain(record)) == 0
}

// stored returns what is stored of an object. It shares memory with it.
func (k *kind[T, P]) stored(obj P) P {
	copied := *obj
	record := P(&copied)
	record.SetName(k.toRecord(obj.GetName()))
	record.SetGenerateName(k.toRecord(obj.GetGenerateName()))
	k.conceal(record)
	record.SetManagedFields(nil)
	record.SetGeneration(0)
	record.GetObjectKind().SetGroupVersionKind(storev1.GroupVersion.WithKind(k.record))
	return record
}

// reveal turns what is stored of an object into the object, in place.
func (k *kind[T, P]) reveal(record P) {
	record.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	record.SetName(k.toShown(record.GetName()))
	record.SetGenerateName(k.toShown(record.GetGenerateName()))
	k.open(record)
}

// forget takes from a record what only the backing API server gives.
func forget(record metav1.Object) {
	record.SetUID(types.UID(""))
	record.SetResourceVersion("")
	record.SetCreationTimestamp(metav1.Time{})
	record.SetDeletionTimestamp(nil)
	record.SetDeletionGracePeriodSeconds(nil)
}

// list is how a list of records is sent.
type list[T any] struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata"`
	Items           []T `json:"items"`
}
