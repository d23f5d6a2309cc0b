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
	ReasonLocalLookup  Reason = "LocalLookup"  // the stream's lookup policy is local
	ReasonOptIn        Reason = "OptIn"        // the object asks for all its names to be looked up
	ReasonRegistryHost Reason = "RegistryHost" // the name states a host by which streams are named in full

	// Left:
	ReasonNotAnImage     Reason = "NotAnImage"     // the text is not an image name
	ReasonDigest         Reason = "Digest"         // a digest is exact already
	ReasonNotLocalName   Reason = "NotLocalName"   // a registry or a path is named
	ReasonNoStream       Reason = "NoStream"       // the namespace has no stream of that name
	ReasonNotLocalStream Reason = "NotLocalStream" // the stream's lookup policy is not local

	// Unresolved, or Left if the name states a host:
	ReasonNoTag        Reason = "NoTag"        // the stream has no such tag
	ReasonNotImported  Reason = "NotImported"  // the tag never had an image, and nothing failed
	ReasonImportFailed Reason = "ImportFailed" // the tag never had an image and its last import failed
	ReasonReference    Reason = "Reference"    // the tag is a reference, which has no digest
)

// Hosts knows the registry hosts by which streams are named in full: host/namespace/stream:tag.
type Hosts interface {
	// Integrated reports whether a host, with its port if it has one, is one of them.
	Integrated(host string) bool
}

// Request asks what an image name means.
type Request struct {
	// Namespace of the object that holds the name.
	Namespace string
	// Image as it is written.
	Image string
	// OptIn says that the object asks for all its names to be looked up, whatever the streams'
	// policies and whatever registry the names state (OpenShift's resolve-names annotation).
	OptIn bool
	// Hosts may be nil: there are none, then.
	Hosts Hosts
}

// Decision is what an image name means, and why.
type Decision struct {
	Outcome Outcome
	Reason  Reason
	// Namespace and Stream that were looked up; empty if none was.
	Namespace, Stream string
	// Tag of the stream that was looked up.
	Tag string
	// Istag is both, "stream:tag", or "namespace/stream:tag" if the stream is of another namespace;
	// empty if the name can mean no stream.
	Istag string
	// Absent says that there is no such stream in the snapshot. A newer one may have it.
	Absent bool
	// Awaited says that the name will mean an image once an import that goes on is done.
	Awaited bool
	// Local says that the name can mean a stream of the namespace alone: it is short, or the object opted in.
	Local bool
	// PullSpec takes the name's place; empty unless the outcome is Pinned.
	PullSpec string
	// Generation is the stream's; 0 if there is no stream.
	Generation int64
	// MovedBy is the user who moved the tag to what it means, empty if that is not known or the outcome
	// is not Pinned.
	MovedBy string
	// Failure is the message of the tag's last import if that failed and PullSpec is an older image's.
	Failure string
	// Message says to the user what is wrong and what to do; empty unless a stream was found that has no
	// image for the name.
	Message string
}

// Resolve decides what an image name means. The rules are those of OpenShift's image policy
// admission, but for two: a name of a stream with local lookup that has no image is Unresolved
// rather than left for a public registry to answer, and a stream whose name has dots can be named.
func Resolve(snapshot store.Snapshot, r Request) Decision {
	name, reason := nameOf(r)
	if reason != "" {
		return Decision{Outcome: Left, Reason: reason}
	}
	d := Decision{Namespace: name.namespace, Stream: name.stream, Tag: name.tag, Local: !name.full}
	stream, ok := snapshot.Stream(name.namespace, name.stream)
	if !ok {
		d.Outcome, d.Reason, d.Absent = Left, ReasonNoStream, true
		if name.dotted {
			// As OpenShift has it: a registry's name, and nothing else.
			d.Reason = ReasonNotLocalName
			return d
		}
	}
	d.Istag = store.TagName(name.stream, name.tag)
	if name.namespace != r.Namespace {
		d.Istag = name.namespace + "/" + d.Istag
	}
	if !ok {
		return d
	}
	d.Generation = stream.Generation
	if d.Local && !stream.Local && !r.OptIn {
		d.Outcome, d.Reason = Left, ReasonNotLocalStream
		return d
	}
	tag, ok := stream.Tag(name.tag)
	if !ok || tag.Image == "" {
		d.Outcome, d.Awaited = Unresolved, tag.Awaited
		if !d.Local {
			d.Outcome = Left // its host knows no other image by that name
		}
		d.Reason, d.Message = explain(stream, name.tag, tag, ok)
		return d
	}
	d.Outcome, d.Reason, d.PullSpec, d.MovedBy, d.Failure = Pinned, ReasonLocalLookup, tag.Pinned, tag.MovedBy, tag.Failure
	switch {
	case r.OptIn:
		d.Reason = ReasonOptIn
	case name.full:
		d.Reason = ReasonRegistryHost
	}
	return d
}

// streamName is the stream and the tag that an image name may mean.
type streamName struct {
	namespace, stream, tag string
	full                   bool // the name states a host and is no short one
	dotted                 bool // OpenShift takes the name for that of a registry
}

// nameOf returns what a name may mean, or the reason why it cannot mean any tag of a stream.
func nameOf(r Request) (streamName, Reason) {
	full := false
	// Most images name a registry. That they mean no stream is seen without taking them apart.
	if host, _, path := strings.Cut(r.Image, "/"); path && !r.OptIn {
		switch full = r.Hosts != nil && r.Hosts.Integrated(host); {
		case strings.Contains(r.Image, "@"):
			return streamName{}, ReasonDigest
		case !full:
			return streamName{}, ReasonNotLocalName
		}
	}
	ref, err := ParseReference(r.Image)
	switch {
	case err != nil:
		return streamName{}, ReasonNotAnImage
	case ref.ID != "":
		return streamName{}, ReasonDigest
	}
	name := streamName{namespace: r.Namespace, stream: ref.Name, tag: ref.Tag, full: full}
	if full && ref.Namespace != "" {
		name.namespace = ref.Namespace
	}
	if ref.Name == "" {
		name.stream, name.tag, _ = strings.Cut(ref.Registry, ":")
		name.dotted = true
	}
	if name.stream == "" || strings.Contains(name.stream, "/") { // no stream has such a name
		return streamName{}, ReasonNotLocalName
	}
	if name.tag == "" {
		name.tag = store.DefaultTag
	}
	return name, ""
}

// IsCandidate reports whether a name may mean a tag of a stream, as far as can be told without taking it apart
// and without knowing any stream. It errs on the side of yes.
func IsCandidate(r Request) bool {
	if r.Image == "" || strings.Contains(r.Image, "@") {
		return false
	}
	host, _, path := strings.Cut(r.Image, "/")
	return !path || r.OptIn || r.Hosts != nil && r.Hosts.Integrated(host)
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
