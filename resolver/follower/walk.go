package follower

import (
	"context"
	"fmt"
	"slices"
	"strings"

	imagev1 "github.com/openshift/api/image/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"istag.dev/store"
	storev1 "istag.dev/store/v1"
)

// istag names a tag of a stream.
type istag struct{ namespace, stream, tag string }

func (t istag) String() string { return t.namespace + "/" + store.TagName(t.stream, t.tag) }

// seenFrom returns the name that a tag has in a namespace.
func (t istag) seenFrom(namespace string) string {
	if t.namespace == namespace {
		return store.TagName(t.stream, t.tag)
	}
	return t.String()
}

func (t istag) record() types.NamespacedName {
	return types.NamespacedName{Namespace: t.namespace, Name: store.RecordName(t.stream)}
}

// hop leads from a tag to the one that it follows.
type hop struct {
	from, to istag
	// identity is whose rights the hop needs; nil if that is not known.
	identity *authenticationv1.UserInfo
}

// followedBy returns the hops that lead out of a stream, one for each of its tags that follows.
func followedBy(record *storev1.StreamRecord) []hop {
	var hops []hop
	for i := range record.Spec.Tags {
		if h, ok := hopFrom(record, &record.Spec.Tags[i]); ok {
			hops = append(hops, h)
		}
	}
	return hops
}

func hopFrom(record *storev1.StreamRecord, tag *imagev1.TagReference) (hop, bool) {
	namespace, stream, name, ok := store.Follows(record, tag)
	if !ok {
		return hop{}, false
	}
	return hop{
		from:     istag{record.Namespace, store.StreamName(record.Name), tag.Name},
		to:       istag{namespace, stream, name},
		identity: request(record, tag.Name).Identity,
	}, true
}

// request returns who last changed a tag of spec; it is empty if that is not known.
func request(record *storev1.StreamRecord, tag string) storev1.TagRequest {
	for i := range record.Record.Requests {
		if record.Record.Requests[i].Tag == tag {
			return record.Record.Requests[i]
		}
	}
	return storev1.TagRequest{}
}

// refusal is why a tag does not get what it follows: the reason and message of its condition.
type refusal struct {
	reason  metav1.StatusReason
	message string
}

// walker follows chains for the tags of one stream. It reads each stream once, so that all tags see the
// same, and asks for each right once.
type walker struct {
	cache   client.Reader
	access  *access
	asked   map[string]bool
	records map[types.NamespacedName]*storev1.StreamRecord // nil where there is none
}

func newWalker(cache client.Reader, access *access, record *storev1.StreamRecord) *walker {
	own := map[types.NamespacedName]*storev1.StreamRecord{client.ObjectKeyFromObject(record): record}
	return &walker{cache: cache, access: access, asked: map[string]bool{}, records: own}
}

// read returns the record of a tag's stream, which must not be changed; nil if there is none.
func (w *walker) read(ctx context.Context, t istag) (*storev1.StreamRecord, error) {
	key := t.record()
	if store.StreamName(key.Name) != t.stream {
		return nil, nil // So there is no such stream: the name is how the record of another is called.
	}
	if record, ok := w.records[key]; ok {
		return record, nil
	}
	record := &storev1.StreamRecord{}
	err := w.cache.Get(ctx, key, record, client.UnsafeDisableDeepCopy)
	switch {
	case apierrors.IsNotFound(err):
		record = nil
	case err != nil:
		return nil, fmt.Errorf("reading stream record %q: %w", key, err)
	}
	w.records[key] = record
	return record, nil
}

// walk returns what the tag should mean that a hop leads from: the newest event of the tag that its
// chain begins with. Where the chain is cut, because a follower on the way may not use what it follows
// or there is no such tag, it begins with that follower, which keeps what it has. So does a follower
// on a loop; a chain that runs into one begins there. Only the first hop's own trouble is a refusal.
func (w *walker) walk(ctx context.Context, first hop) (*imagev1.TagEvent, *refusal, error) {
	if wrong, err := w.check(ctx, first); wrong != nil || err != nil {
		return nil, wrong, err
	}
	path := []istag{first.from, first.to}
	for {
		next, err := w.next(ctx, path[len(path)-1])
		if err != nil {
			return nil, nil, err
		}
		if next == nil {
			break
		}
		at := slices.Index(path, *next)
		if at == 0 {
			return nil, &refusal{metav1.StatusReasonInvalid, fmt.Sprintf("the tag follows itself: %s; make one of these follow something else", loop(path))}, nil
		}
		if at > 0 {
			path = path[:at+1]
			break
		}
		path = append(path, *next)
	}
	for _, t := range slices.Backward(path[1:]) {
		record, err := w.read(ctx, t)
		if err != nil {
			return nil, nil, err
		}
		if record == nil {
			continue
		}
		if event := store.Latest(&record.Status, t.tag); event != nil {
			return event, nil, nil
		}
	}
	return nil, &refusal{metav1.StatusReasonNotFound, fmt.Sprintf("%q, which the tag follows, has no image yet", first.to.seenFrom(first.from.namespace))}, nil
}

// next returns the tag that a tag follows, in its own stream or another; nil if it follows none, or
// none that it may use or that there is.
func (w *walker) next(ctx context.Context, t istag) (*istag, error) {
	record, err := w.read(ctx, t)
	if record == nil || err != nil {
		return nil, err
	}
	tag := store.SpecTag(&record.Spec, t.tag)
	if tag == nil {
		return nil, nil // So the chain begins here.
	}
	if target, ok := store.AliasTarget(record, tag); ok {
		return &istag{t.namespace, t.stream, target}, nil
	}
	h, ok := hopFrom(record, tag)
	if !ok {
		return nil, nil // So the chain begins here.
	}
	if wrong, err := w.check(ctx, h); wrong != nil || err != nil {
		return nil, err
	}
	return &h.to, nil
}

// check returns why a hop cannot be made, nil if it can. Nothing about a stream of another namespace is
// looked at before it is known that it may be.
func (w *walker) check(ctx context.Context, h hop) (*refusal, error) {
	if h.to.namespace != h.from.namespace {
		wrong, err := w.authorize(ctx, h)
		if wrong != nil || err != nil {
			return wrong, err
		}
	}
	record, err := w.read(ctx, h.to)
	if err != nil {
		return nil, err
	}
	name := h.to.seenFrom(h.from.namespace)
	switch {
	case record == nil:
		return &refusal{metav1.StatusReasonNotFound, fmt.Sprintf("the tag follows %q, but there is no stream %q in namespace %q", name, h.to.stream, h.to.namespace)}, nil
	case !has(record, h.to.tag):
		return &refusal{metav1.StatusReasonNotFound, fmt.Sprintf("the tag follows %q, but stream %q has no tag %q", name, h.to.stream, h.to.tag)}, nil
	default:
		return nil, nil
	}
}

// authorize returns why the follower of a hop may not use the stream it follows, nil if it may.
func (w *walker) authorize(ctx context.Context, h hop) (*refusal, error) {
	name := h.to.seenFrom(h.from.namespace)
	if h.identity == nil || h.identity.Username == "" {
		return &refusal{metav1.StatusReasonForbidden, fmt.Sprintf(
			"the tag follows %q of another namespace, and it is not known who made it do so; set the tag's \"from\" again, as a user who may get imagestreams/layers there", name)}, nil
	}
	allowed, err := w.access.allowed(ctx, w.asked, h.identity, h.to.namespace, h.to.stream)
	if err != nil || allowed {
		return nil, err
	}
	return &refusal{metav1.StatusReasonForbidden, fmt.Sprintf(
		"the tag follows %q for user %q, who may not use stream %q of namespace %q: that needs \"get\" on imagestreams/layers there; have it granted, or set the tag as a user who has it",
		name, h.identity.Username, h.to.stream, h.to.namespace)}, nil
}

// has reports whether a stream has a tag, in spec or status.
func has(record *storev1.StreamRecord, tag string) bool {
	return store.SpecTag(&record.Spec, tag) != nil || slices.ContainsFunc(record.Status.Tags, func(l imagev1.NamedTagEventList) bool {
		return l.Tag == tag
	})
}

// mostNames bounds how many tags of a loop a message names.
const mostNames = 10

// loop writes down the tags of a loop, which ends where it begins.
func loop(path []istag) string {
	names := make([]string, 0, len(path)+1)
	for _, t := range path {
		names = append(names, t.String())
	}
	if more := len(names) - mostNames; more > 0 {
		names = append(names[:mostNames], fmt.Sprintf("%d more", more))
	}
	return strings.Join(append(names, path[0].String()), " -> ")
}
