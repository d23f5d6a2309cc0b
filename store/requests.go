package store

import (
	"slices"
	"strings"

	imagev1 "github.com/openshift/api/image/v1"

	storev1 "istag.dev/store/v1"
)

// requester returns who asked, nil if nobody is known to have.
func requester(by storev1.Requester) *storev1.Requester {
	if by.User == "" {
		return nil
	}
	return &by
}

// requestedBy returns who last changed a tag of spec, nil if that is not known.
func requestedBy(record *storev1.StreamRecord, tag string) *storev1.Requester {
	for i := range record.Record.Requests {
		if record.Record.Requests[i].Tag == tag {
			return requester(record.Record.Requests[i].By)
		}
	}
	return nil
}

// setRequest notes who changed a tag of spec. The whole identity is kept only where it is needed to ask
// again what that user may do: with a tag that follows a tag of another namespace.
func setRequest(record *storev1.StreamRecord, tag *imagev1.TagReference, c Change) {
	i, found := slices.BinarySearchFunc(record.Record.Requests, tag.Name, func(r storev1.TagRequest, tag string) int {
		return strings.Compare(r.Tag, tag)
	})
	if found {
		record.Record.Requests = slices.Delete(record.Record.Requests, i, i+1)
	}
	if c.By.User == "" {
		return
	}
	request := storev1.TagRequest{Tag: tag.Name, By: c.By}
	if namespace, _, _, ok := Follows(record, tag); ok && namespace != record.Namespace {
		request.Identity = c.Identity.DeepCopy()
	}
	record.Record.Requests = slices.Insert(record.Record.Requests, i, request)
}
