package crdstore

import (
	"context"
	"fmt"
	"net/http"
	"strconv"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/client-go/rest"
)

// GetList implements storage.Interface. The backing API server applies the label selector and the name;
// what it cannot apply is applied to its answer, so that a page may then have fewer objects than the limit
// and still a token for the next one.
func (s *crdStorage[T, P]) GetList(ctx context.Context, key string, opts storage.ListOptions, listObj runtime.Object) error {
	got, err := s.list(ctx, s.place(key), opts)
	if err != nil {
		return err
	}
	if !s.kind.fill(listObj, got.ListMeta, got.Items) {
		return fmt.Errorf("%T is no list of %ss", listObj, s.kind.record)
	}
	return nil
}

func (s *crdStorage[T, P]) list(ctx context.Context, p place, opts storage.ListOptions) (*list[T], error) {
	got, err := s.listKnown(ctx, p, opts)
	if got == nil && err == nil {
		got, err = s.listAll(ctx, p, opts)
	}
	if err != nil {
		return nil, s.failure(ctx, err, p)
	}
	if opts.Predicate.Empty() {
		return got, nil
	}
	kept := got.Items[:0]
	for i := range got.Items {
		ok, err := opts.Predicate.Matches(P(&got.Items[i]))
		if err != nil {
			return nil, err
		}
		if ok {
			kept = append(kept, got.Items[i])
		}
	}
	if got.Items, got.RemainingItemCount = kept, nil; got.Items == nil {
		got.Items = []T{}
	}
	return got, nil
}

// listAll lists objects by having them all sent, and remembers them.
func (s *crdStorage[T, P]) listAll(ctx context.Context, p place, opts storage.ListOptions) (*list[T], error) {
	var got list[T]
	size, err := fetch(ctx, s.listing(p, opts), &got)
	if err != nil {
		return nil, err
	}
	for i := range got.Items {
		s.kind.reveal(&got.Items[i])
	}
	if p.name == "" && len(got.Items) > 0 {
		s.known.add(got.Items, size)
	}
	return &got, nil
}

// maxUnknown is how many objects of a list are read one by one before all are.
const maxUnknown = 8

// listKnown lists objects by having only their metadata sent, which costs the backing API server a fifth
// and us less: all else is remembered, and is the same for as long as UID and resource version are. It
// returns nil if too much is not remembered.
func (s *crdStorage[T, P]) listKnown(ctx context.Context, p place, opts storage.ListOptions) (*list[T], error) {
	if p.name != "" || !s.known.any(p.namespace) {
		return nil, nil
	}
	meta, err := fetchMetadata(ctx, s.listing(p, opts))
	if err != nil {
		return nil, err
	}
	got := &list[T]{ListMeta: meta.ListMeta, Items: make([]T, len(meta.Items))}
	var unknown []int
	for i := range meta.Items {
		if object := s.known.get(meta.Items[i].UID, meta.Items[i].ResourceVersion); object != nil {
			got.Items[i] = *object
		} else if unknown = append(unknown, i); len(unknown) > maxUnknown {
			return nil, nil
		}
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, i := range unknown {
		group.Go(func() error {
			object, err := s.getExactly(ctx, &meta.Items[i], meta.ResourceVersion)
			if err == nil && object != nil {
				got.Items[i] = *object
			} else if err == nil {
				err = errUncertain
			}
			return err
		})
	}
	if err := group.Wait(); err == nil {
		return got, nil
	}
	return nil, nil // So all are read anew, and what is wrong is found again.
}

// getExactly reads an object as it was at the resource version of a list, nil if it was not there.
func (s *crdStorage[T, P]) getExactly(ctx context.Context, meta *metav1.PartialObjectMetadata, resourceVersion string) (*T, error) {
	var exactly storage.ListOptions
	exactly.ResourceVersion, exactly.ResourceVersionMatch = resourceVersion, metav1.ResourceVersionMatchExact
	request := s.selecting(place{namespace: meta.Namespace}, exactly).
		Param("fieldSelector", fields.OneTermEqualSelector(metav1.ObjectNameField, meta.Name).String())
	var got list[T]
	size, err := fetch(ctx, request, &got)
	if err != nil || len(got.Items) != 1 {
		return nil, err
	}
	s.kind.reveal(&got.Items[0])
	s.known.add(got.Items, size)
	return &got.Items[0], nil
}

// listing begins a list.
func (s *crdStorage[T, P]) listing(p place, opts storage.ListOptions) *rest.Request {
	request := s.selecting(p, opts)
	if opts.Predicate.Limit > 0 {
		request.Param("limit", strconv.FormatInt(opts.Predicate.Limit, 10))
	}
	set(request, "continue", opts.Predicate.Continue)
	return request
}

// selecting begins a list or a watch, with what both select by.
func (s *crdStorage[T, P]) selecting(p place, opts storage.ListOptions) *rest.Request {
	request := s.request(http.MethodGet, p)
	if p.name != "" {
		name, _ := s.kind.recordName(p.name) // another object of that record is selected away later
		request.Param("fieldSelector", fields.OneTermEqualSelector(metav1.ObjectNameField, name).String())
	}
	if opts.Predicate.Label != nil {
		set(request, "labelSelector", opts.Predicate.Label.String())
	}
	set(request, "resourceVersion", opts.ResourceVersion)
	set(request, "resourceVersionMatch", string(opts.ResourceVersionMatch))
	return request
}

// set gives a request a parameter unless it has no value, which means the same as none.
func set(request *rest.Request, name, value string) {
	if value != "" {
		request.Param(name, value)
	}
}
