package webhook

import (
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	admissionv1 "k8s.io/api/admission/v1"

	"istag.dev/resolver"
	"istag.dev/webhook/lock"
)

// readPins reads the provenance annotations, and gathers the pins whose images are in place: names that mean the
// same tag get the same image, whether another webhook adds a container after us, or a user does a year later.
func (r *review) readPins() {
	r.known = resolver.ParsePins(r.current.Annotations[resolver.PinnedAnnotation])
	r.before = resolver.ParsePins(r.old.Annotations[resolver.PinnedAnnotation])
	if len(r.known)+len(r.before) == 0 {
		return
	}
	for i := range r.current.images {
		if pin, ok := r.held(&r.current.images[i]); ok {
			r.placed = append(r.placed, pin)
		}
	}
	for i := range r.current.images {
		if pin, ok := r.placedPin(&r.current.images[i]); ok && isExact(pin) {
			r.placed = append(r.placed, pin)
		}
	}
}

// isExact reports whether a pin is to a digest. Users can write annotations too, and must not get names past us.
func isExact(pin resolver.Pin) bool { return digestOf(pin.PullSpec) != "" }

// digestOf returns the digest of an image, empty if it states none.
func digestOf(image string) string {
	_, digest, _ := strings.Cut(image, "@")
	return digest
}

// placedPin returns the pin of an image that is in place: by this name, or by another that has the same digest, as
// webhooks make it that send pulls to a mirror. A client that replaced the object without the annotation did not mean to
// lose it, so the old object's counts too.
func (r *review) placedPin(image *image) (resolver.Pin, bool) {
	if image.written == "" {
		return resolver.Pin{}, false
	}
	digest := digestOf(image.written)
	for _, pins := range []resolver.Pins{r.known, r.before} {
		pin, ok := pins[image.key]
		if !ok || pin.PullSpec != image.written && (digest == "" || digestOf(pin.PullSpec) != digest) {
			continue
		}
		pin.PullSpec = image.written
		return pin, true
	}
	return resolver.Pin{}, false
}

// contradicts returns the pin that an image is not, though we have made it for this very request: another webhook
// changed the image after us. What the old object's annotation has already, users may change, and who copies an object with
// its annotation may write another image into it.
func (r *review) contradicts(image *image) (resolver.Pin, bool) {
	pin, ok := r.known[image.key]
	if !ok || r.before[image.key] == pin {
		return resolver.Pin{}, false
	}
	if _, placed := r.placedPin(image); placed {
		return resolver.Pin{}, false
	}
	return pin, r.request.Operation != admissionv1.Create || !annotatedByUser(r.buffers.body.Bytes())
}

// annotatedByUser reports whether whoever creates an object wrote its provenance annotation: the API server notes who has
// written which fields before it asks any webhook.
func annotatedByUser(body []byte) bool {
	var review struct {
		Request struct {
			Object struct {
				Metadata struct {
					ManagedFields []struct {
						FieldsV1 struct {
							Metadata struct {
								Annotations map[string]jsontext.Value `json:"f:annotations"`
							} `json:"f:metadata"`
						} `json:"fieldsV1"`
					} `json:"managedFields"`
				} `json:"metadata"`
			} `json:"object"`
		} `json:"request"`
	}
	if json.Unmarshal(body, &review) != nil {
		return false
	}
	for _, entry := range review.Request.Object.Metadata.ManagedFields {
		if _, wrote := entry.FieldsV1.Metadata.Annotations["f:"+resolver.PinnedAnnotation]; wrote {
			return true
		}
	}
	return false
}

// held returns the pin that an image had before a manifest was applied again, if the namespace asks to hold it: the
// manifest says what it said when the image was pinned.
func (r *review) held(image *image) (resolver.Pin, bool) {
	if !r.settings.HoldOnReapply || r.reprocess {
		return resolver.Pin{}, false
	}
	pin, ok := r.before[image.key]
	return pin, ok && isExact(pin) && pin.Written == image.written && r.old.has(image.key, pin.PullSpec, -1)
}

// replaceImages makes the pins of the review, and the patch that they need.
func (r *review) replaceImages() {
	for i := range r.verdicts {
		v := &r.verdicts[i]
		if v.outcome != outcomePinned {
			continue
		}
		d := &v.decision
		r.buffers.patch = appendOperation(r.buffers.patch, "replace", v.image.pointer(), d.PullSpec)
		r.pinAs(v.image.key, resolver.Pin{Written: v.image.written, Istag: d.Istag, PullSpec: d.PullSpec, Generation: d.Generation})
	}
}

func (r *review) pinAs(key string, pin resolver.Pin) {
	if r.pins == nil {
		r.pins = resolver.Pins{}
	}
	r.pins[key] = pin
}

// keepProvenance keeps the provenance annotation true: it has the pins of this review, and those of before whose
// image is still in place. What another webhook has changed stays in it, for the check to see.
func (r *review) keepProvenance() {
	for i := range r.current.images {
		image := &r.current.images[i]
		if _, decided := r.pins[image.key]; decided {
			continue
		}
		if pin, ok := r.placedPin(image); ok {
			r.pinAs(image.key, pin)
		} else if pin, ok := r.contradicts(image); ok && r.role == rolePinned {
			r.pinAs(image.key, pin)
		}
	}
	text, present := r.current.Annotations[resolver.PinnedAnnotation]
	if len(r.pins) == 0 {
		if present {
			r.marks.unannotate(resolver.PinnedAnnotation)
		}
		return
	}
	if want := r.pins.String(); want != text {
		r.marks.annotate(resolver.PinnedAnnotation, want)
	}
}

// dropStrayLocks takes locks off an object that is no revision: whatever undoes a rollout copies the annotations of
// an old revision to the workload, which would hand them on to the next.
func (r *review) dropStrayLocks() {
	if r.kind.revision {
		return
	}
	for key := range r.current.Annotations {
		if lock.Stray(key) {
			r.marks.unannotate(key)
		}
	}
}
