package store

import (
	"errors"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation/field"
)

// maxHops bounds how far a chain of tags that follow each other is looked into when it is made.
const maxHops = 64

// loops refuses changed tags by which a tag would follow itself, over whatever streams. A loop is
// named once. One that no changed tag is part of is let be, so that the stream can still be changed.
func (a *acceptance) loops(changed []string) (field.ErrorList, error) {
	var errs field.ErrorList
	named := map[place]bool{}
	for _, name := range changed {
		start := place{a.record.Namespace, StreamName(a.record.Name), name}
		if named[start] {
			continue
		}
		chain, err := a.loopFrom(start)
		if err != nil {
			return nil, err
		}
		if chain == nil {
			continue
		}
		var names []string
		for _, p := range append(chain, start) {
			named[p] = true
			if p.streamOf(a.record) {
				names = append(names, p.part)
			} else {
				names = append(names, p.nameFor(a.record.Namespace, ":"))
			}
		}
		tag := SpecTag(&a.record.Spec, name)
		errs = append(errs, field.Invalid(tagPath(name).Child("from", "name"), tag.From.Name, "follows itself: "+strings.Join(names, " -> ")))
	}
	return errs, nil
}

// loopFrom returns the tags on the way from a tag back to itself, nil if there is no such way.
func (a *acceptance) loopFrom(start place) ([]place, error) {
	chain := []place{start}
	for len(chain) < maxHops {
		next, ok, err := a.followed(chain[len(chain)-1])
		switch {
		case err != nil:
			return nil, err
		case ok && next == start:
			return chain, nil
		case !ok || slices.Contains(chain, next):
			return nil, nil
		}
		chain = append(chain, next)
	}
	return nil, nil
}

// followed returns what a tag follows; ok is false if it follows nothing that its user may look at.
func (a *acceptance) followed(p place) (next place, ok bool, err error) {
	stream, err := a.sources.of(p)
	var forbidden *ForbiddenError
	switch {
	case errors.As(err, &forbidden):
		return place{}, false, nil
	case err != nil || stream == nil:
		return place{}, false, err
	}
	tag := SpecTag(&stream.Spec, p.part)
	if tag == nil {
		return place{}, false, nil
	}
	if target, ok := AliasTarget(stream, tag); ok {
		return place{p.namespace, p.stream, target}, true, nil
	}
	next.namespace, next.stream, next.part, ok = Follows(stream, tag)
	return next, ok, nil
}
