package tags

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/selection"

	"istag.dev/store"
	storev1 "istag.dev/store/v1"
)

const (
	fieldName      = "metadata.name"
	fieldNamespace = "metadata.namespace"
)

// List returns tags without their images' contents, sorted by namespace, stream and tag within a page.
// Its resource version is that of a list of the streams.
//
// A page holds whole streams: limit counts those, so that a page can hold more tags than the limit, or
// fewer, or none, and never splits or loses any. How many items remain is not told.
func (r *resource[T]) List(ctx context.Context, options *metainternalversion.ListOptions) (runtime.Object, error) {
	narrow, err := narrowed(options)
	if err != nil {
		return nil, err
	}
	list, err := r.streams.List(ctx, narrow.options)
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(list.Items, func(a, b storev1.StreamRecord) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
	var items []T
	for i := range list.Items {
		items = append(items, r.project(&list.Items[i], narrow)...)
	}
	return r.kind.list(metav1.ListMeta{ResourceVersion: list.ResourceVersion, Continue: list.Continue}, items), nil
}

// project returns the tags that a record shows and a request selects, sorted by their names.
func (r *resource[T]) project(record *storev1.StreamRecord, narrow narrowing) []T {
	if !narrow.wants(fieldNamespace, record.Namespace) {
		return nil
	}
	if narrow.name != "" {
		stream, tag, ok := splitName(narrow.name)
		if !ok || stream != record.Name || !r.kind.shown(record, tag) || !narrow.wants(fieldName, narrow.name) {
			return nil
		}
		return []T{r.kind.view(record, tag)}
	}
	var out []T
	for _, p := range parts(record) {
		if r.kind.shown(p.record, p.tag) && narrow.wants(fieldName, store.TagName(record.Name, p.tag)) {
			out = append(out, r.kind.view(p.record, p.tag))
		}
	}
	return out
}

// narrowing is what of the streams a request needs to see.
type narrowing struct {
	// options are the request's own, but with selectors that streams understand.
	options *metainternalversion.ListOptions
	// name is that of the only tag that is wanted, if only one is.
	name string

	terms []fields.Requirement
}

// narrowed turns the options of a list or watch of tags into those of one of streams. Tags have the
// labels of their stream, so the label selector needs no turning.
func narrowed(options *metainternalversion.ListOptions) (narrowing, error) {
	if options == nil {
		options = &metainternalversion.ListOptions{}
	}
	copied := *options
	narrow := narrowing{options: &copied}
	if options.FieldSelector == nil || options.FieldSelector.Empty() {
		return narrow, nil
	}
	var forStreams []fields.Selector
	narrow.terms = options.FieldSelector.Requirements()
	for _, term := range narrow.terms {
		if term.Field != fieldName && term.Field != fieldNamespace {
			return narrowing{}, apierrors.NewBadRequest(fmt.Sprintf("%q is not a field that tags can be selected by: those are %s and %s", term.Field, fieldName, fieldNamespace))
		}
		if term.Operator == selection.NotEquals {
			continue
		}
		value := term.Value
		if term.Field == fieldName {
			narrow.name = value
			value, _, _ = strings.Cut(value, ":")
		}
		forStreams = append(forStreams, fields.OneTermEqualSelector(term.Field, value))
	}
	copied.FieldSelector = fields.AndSelectors(forStreams...)
	return narrow, nil
}

// wants reports whether the request selects tags whose field has the value.
func (n narrowing) wants(name, value string) bool {
	for _, term := range n.terms {
		if term.Field == name && (term.Value == value) == (term.Operator == selection.NotEquals) {
			return false
		}
	}
	return true
}
