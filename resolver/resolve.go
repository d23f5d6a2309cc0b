package resolver

import (
	"fmt"
	"strings"

	"istag.dev/store"
)

// Outcome is what becomes of an image name.
type Outcome string

const (
	// Pinned names become the pull spec of an image stream tag.
	Pinned Outcome = "pinned"
	// Left names stay as they are written.
	Left Outcome = "left"
	// Unresolved names mean a stream of the namespace that has no image for them. They must not
	// reach a node, which would look for them at a public registry.
	Unresolved Outcome = "unresolved"
)

// Reason is why a name has its outcome.
type Reason string

// Reasons, by outcome.
const (
	// Pinned:
	ReasonLocalLookup Reason = "LocalLookup" // the stream's lookup policy is local
	ReasonOptIn       Reason = "OptIn"       // the object asks for all its names to be looked up

	// Left:
	ReasonNotAnImage     Reason = "NotAnImage"     // the text is not an image name
	ReasonDigest         Reason = "Digest"         // a digest is exact already
	ReasonNotLocalName   Reason = "NotLocalName"   // a registry or a path is named
	ReasonNoStream       Reason = "NoStream"       // the namespace has no stream of that name
	ReasonNotLocalStream Reason = "NotLocalStream" // the stream's lookup policy is not local

	// Unresolved:
	ReasonNoTag        Reason = "NoTag"        // the stream has no such tag
	ReasonNotImported  Reason = "NotImported"  // the tag never had an image, and nothing failed
	ReasonImportFailed Reason = "ImportFailed" // the tag never had an image and its last import failed
	ReasonReference    Reason = "Reference"    // the tag is a reference, which has no digest
)

// Request asks what an image name means.
type Request struct {
	// Namespace of the object that holds the name.
	Namespace string
	// Image as it is written.
	Image string
	// OptIn says that the object asks for all its names to be looked up, whatever the streams'
	// policies and whatever registry the names state (OpenShift's resolve-names annotation).
	OptIn bool
}

// Decision is what an image name means, and why.
type Decision struct {
	Outcome Outcome
	Reason  Reason
	// Istag is the image stream tag that was looked up, "stream:tag"; empty if none was.
	Istag string
	// PullSpec takes the name's place; empty unless the outcome is Pinned.
	PullSpec string
	// Generation is the stream's; 0 if there is no stream.
	Generation int64
	// MovedBy is the user who moved the tag to what it means, empty if that is not known or the outcome
	// is not Pinned.
	MovedBy string
	// Message says to the user what is wrong and what to do; empty unless the outcome is Unresolved.
	Message string
}

// Resolve decides what an image name means. The rules are those of OpenShift's image policy
// admission, but for one: a name of a stream with local lookup that has no image is Unresolved
// rather than left for a public registry to answer.
func Resolve(snapshot store.Snapshot, r Request) Decision {
	ref, reason := localName(r)
	if reason != "" {
		return Decision{Outcome: Left, Reason: reason}
	}
	d := Decision{Istag: store.TagName(ref.Name, ref.Tag)}
	stream, ok := snapshot.Stream(r.Namespace, ref.Name)
	if !ok {
		d.Outcome, d.Reason = Left, ReasonNoStream
		return d
	}
	d.Generation = stream.Generation
	if !stream.Local && !r.OptIn {
		d.Outcome, d.Reason = Left, ReasonNotLocalStream
		return d
	}
	tag, ok := stream.Tag(ref.Tag)
	if !ok || tag.Image == "" {
		d.Outcome = Unresolved
		d.Reason, d.Message = explain(stream, ref.Tag, tag, ok)
		return d
	}
	d.Outcome, d.Reason, d.PullSpec, d.MovedBy = Pinned, ReasonLocalLookup, tag.Pinned, tag.MovedBy
	if r.OptIn {
		d.Reason = ReasonOptIn
	}
	return d
}

// localName returns the stream and tag that a name may mean, as Name and Tag of its reference, or the
// reason why it cannot mean any.
func localName(r Request) (Reference, Reason) {
	// Most images name a registry. That they mean no stream is seen without taking them apart.
	if !r.OptIn && strings.Contains(r.Image, "/") {
		if strings.Contains(r.Image, "@") {
			return Reference{}, ReasonDigest
		}
		return Reference{}, ReasonNotLocalName
	}
	ref, err := ParseReference(r.Image)
	switch {
	case err != nil:
		return ref, ReasonNotAnImage
	case ref.ID != "":
		return ref, ReasonDigest
	case ref.Name == "" || strings.Contains(ref.Name, "/"): // no stream has such a name
		return ref, ReasonNotLocalName
	case ref.Tag == "":
		ref.Tag = store.DefaultTag
	}
	return ref, ""
}

// mostNames bounds how many tags an error message lists.
const mostNames = 10

func explain(stream *store.Stream, name string, tag store.Tag, exists bool) (Reason, string) {
	look := fmt.Sprintf("kubectl get imagestream %s --namespace %s --output yaml", stream.Name, stream.Namespace)
	edit := fmt.Sprintf("kubectl edit imagestream %s --namespace %s", stream.Name, stream.Namespace)
	switch {
	case !exists:
		has := "it has none"
		switch names := stream.TagNames(); {
		case len(names) > mostNames:
			has = fmt.Sprintf("it has %s and %d more", strings.Join(names[:mostNames], ", "), len(names)-mostNames)
		case len(names) > 0:
			has = "it has " + strings.Join(names, ", ")
		}
		return ReasonNoTag, fmt.Sprintf("image stream %q has no tag %q (%s); add the tag with: %s", stream.Name, name, has, edit)
	case tag.Reference:
		return ReasonReference, fmt.Sprintf("tag %q of image stream %q is a reference, which is never imported and so has no digest; take \"reference\" off it with: %s", name, stream.Name, edit)
	case tag.Failure != "":
		return ReasonImportFailed, fmt.Sprintf("tag %q of image stream %q has no image, its import failed: %s; correct the tag with: %s", name, stream.Name, tag.Failure, edit)
	default:
		return ReasonNotImported, fmt.Sprintf("tag %q of image stream %q has no image yet: its first import is not done, or it follows nothing that has one; try again in a moment, or see its spec and status with: %s", name, stream.Name, look)
	}
}
