package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"istag.dev/resolver"
	"istag.dev/test/harness"
)

// change is what somebody else's webhook does to an object: the operations of a JSON patch, none if it is content.
type change func(object *workload, kind string) []string

// another is a webhook of somebody else's that sees a namespace's Pods and Deployments after ours.
type another struct {
	place  *place
	change change
	asked  atomic.Int64
}

// newAnother installs a webhook for the namespace alone and returns when it is asked.
func newAnother(p *place, change change) *another {
	p.t.Helper()
	a := &another{place: p, change: change}
	server := httptest.NewTLSServer(a)
	p.t.Cleanup(server.Close)
	url := server.URL
	configuration := &admissionregistrationv1.MutatingWebhookConfiguration{
		// In the order of their names they are asked.
		ObjectMeta: metav1.ObjectMeta{Name: "zz-" + p.name},
		Webhooks: []admissionregistrationv1.MutatingWebhook{{
			Name:                    "another.example.com",
			AdmissionReviewVersions: []string{"v1"},
			SideEffects:             new(admissionregistrationv1.SideEffectClassNone),
			TimeoutSeconds:          new(int32(30)),
			NamespaceSelector:       &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: p.name}},
			ClientConfig: admissionregistrationv1.WebhookClientConfig{
				URL:      &url,
				CABundle: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}),
			},
			Rules: []admissionregistrationv1.RuleWithOperations{{
				Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Create, admissionregistrationv1.Update},
				Rule:       admissionregistrationv1.Rule{APIGroups: []string{"", "apps"}, APIVersions: []string{"v1"}, Resources: []string{"pods", "deployments"}},
			}},
		}},
	}
	p.check(env.Client().Create(p.t.Context(), configuration))
	p.t.Cleanup(func() {
		if err := env.Client().Delete(context.Background(), configuration); err != nil {
			p.t.Error(err)
		}
	})
	p.wait("the other webhook is asked", func(context.Context) error {
		// Whatever the answer.
		p.try("run", "probe", "--image", "quay.io/any/thing:1", "--dry-run=server")
		if a.asked.Load() == 0 {
			return errors.New("it is not")
		}
		return nil
	})
	return a
}

// ServeHTTP answers a review.
func (a *another) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.asked.Add(1)
	var review admissionv1.AdmissionReview
	object := &workload{}
	body, err := io.ReadAll(r.Body)
	if err == nil {
		err = json.NewDecoder(bytes.NewReader(body)).Decode(&review)
	}
	if err == nil {
		err = json.Unmarshal(review.Request.Object.Raw, object)
	}
	if err != nil {
		a.place.t.Errorf("what the API server sends must be a review: %v", err)
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	review.Response = &admissionv1.AdmissionResponse{UID: review.Request.UID, Allowed: true}
	if operations := a.change(object, review.Request.Kind.Kind); len(operations) > 0 {
		review.Response.Patch, review.Response.PatchType = []byte("["+strings.Join(operations, ",")+"]"), new(admissionv1.PatchTypeJSONPatch)
	}
	review.Request = nil
	if err := json.NewEncoder(w).Encode(review); err != nil {
		a.place.t.Error(err)
	}
}

// withSidecar adds a container to a pod that has one.
func withSidecar(pod *workload, image string) []string {
	if len(pod.Spec.Containers) != 1 {
		return nil
	}
	return []string{fmt.Sprintf(`{"op":"add","path":"/spec/containers/-","value":{"name":"side","image":%q}}`, image)}
}

// replaced are the images that another webhook puts in the place of others, by the names of objects.
func replaced(by map[string]string) change {
	return func(object *workload, kind string) []string {
		image, ok := by[object.Metadata.Name]
		if !ok || object.images()[0] == image {
			return nil
		}
		path := "/spec/containers/0/image"
		if kind == "Deployment" {
			path = "/spec/template" + path
		}
		return []string{fmt.Sprintf(`{"op":"replace","path":%q,"value":%q}`, path, image)}
	}
}

func TestImageChangedAfterwardsIsRefused(t *testing.T) {
	t.Parallel()
	p := newPlace(t, enforced)
	p.stream("keycloak", local, "20.0="+keycloak+":20.0.2")
	pinned := served(t, keycloak+":20.0.2")
	by := map[string]string{
		"digest": "quay.io/keycloak/keycloak@sha256:" + strings.Repeat("0", 64),
		"tag":    "example.com/any/thing:1",
		"short":  "busybox:1.36",
		"other":  served(t, keycloak+":19.0"),
	}
	for name, image := range maps.Clone(by) {
		by["deployment-"+name] = image
		p.apply(deployment("updated-"+name, spec{main: "quay.io/any/thing:1"}))
		by["updated-"+name] = image
	}
	newAnother(p, replaced(by))
	for name, image := range by {
		var result harness.Result
		at := "spec.template.spec.containers[0].image"
		switch kind, _, _ := strings.Cut(name, "-"); kind {
		case "deployment":
			result = p.tryApply(deployment(name, spec{main: "keycloak:20.0"}))
		case "updated":
			result = p.try("set", "image", "deployment/"+name, "main=keycloak:20.0")
		default:
			at, result = "spec.containers[0].image", p.try("run", name, "--image", "keycloak:20.0")
		}
		p.refused(result, "it was changed to", image, pinned, at)
	}
	if there := p.kubectl("get", "pods,deployments", "--output", "jsonpath={.items[*]..image}"); strings.Contains(there, "keycloak") {
		t.Errorf("nothing of it must be there: %s", there)
	}
}

func TestImageServedElsewhereIsNotAnotherImage(t *testing.T) {
	t.Parallel()
	p := newPlace(t, enforced)
	p.stream("keycloak", local, "20.0="+keycloak+":20.0.2")
	pinned := served(t, keycloak+":20.0.2")
	mirrored := strings.Replace(pinned, "quay.io", "mirror.example.com", 1)
	newAnother(p, replaced(map[string]string{"x": mirrored, "y": pinned, "z": "quay.io/any/other:1"}))
	for _, pod := range []string{"x", "y"} {
		p.kubectl("run", pod, "--image", "keycloak:20.0")
	}
	p.runs("a webhook that names a mirror leaves the digest, which is the image", "pod/x", mirrored)
	if pin := resolver.ParsePins(p.get("pod/x").Metadata.Annotations[resolver.PinnedAnnotation])["x"]; pin.PullSpec != mirrored || pin.Written != "keycloak:20.0" {
		t.Errorf("and provenance knows: %+v", pin)
	}
	p.runs("one that leaves the image does no harm", "pod/y", pinned)
	p.kubectl("run", "z", "--image", "quay.io/any/thing:1")
	p.runs("what we did not pin may be changed", "pod/z", "quay.io/any/other:1")
}

func TestSidecarAddedAfterwardsIsPinned(t *testing.T) {
	t.Parallel()
	p := newPlace(t, enforced)
	p.stream("keycloak", local, "20.0="+keycloak+":20.0.2", "side="+keycloak+":19.0")
	images := map[string]string{"local": "keycloak:side", "typo": "keycloak:nope", "other": "quay.io/any/thing:1"}
	newAnother(p, func(pod *workload, _ string) []string {
		if image, ok := images[pod.Metadata.Name]; ok {
			return withSidecar(pod, image)
		}
		return nil
	})
	main, side := served(t, keycloak+":20.0.2"), served(t, keycloak+":19.0")
	p.kubectl("run", "local", "--image", "keycloak:20.0")
	p.runs("a name that another webhook brings is a name", "pod/local", main, side)
	pins := resolver.ParsePins(p.get("pod/local").Metadata.Annotations[resolver.PinnedAnnotation])
	if pins["local"].PullSpec != main || pins["local"].Written != "keycloak:20.0" || pins["side"].PullSpec != side {
		t.Errorf("and provenance knows both: %+v", pins)
	}
	p.refused(p.try("run", "typo", "--image", "keycloak:20.0"), `has no tag "nope"`, "spec.containers[1].image")
	p.kubectl("run", "other", "--image", "keycloak:20.0")
	p.runs("and a foreign sidecar is a foreign image", "pod/other", main, "quay.io/any/thing:1")
}

// TestOneImageForEqualNames has a tag move while an object is under review, between the first look at it and the second.
func TestOneImageForEqualNames(t *testing.T) {
	t.Parallel()
	p := newPlace(t, enforced)
	p.stream("keycloak", local, "20.0="+keycloak+":20.0.2")
	before, after := served(t, keycloak+":20.0.2"), served(t, keycloak+":20.0.3")
	newAnother(p, func(pod *workload, _ string) []string {
		if pod.Metadata.Name != "x" || len(pod.Spec.Containers) != 1 {
			return nil
		}
		p.stream("keycloak", local, "20.0="+keycloak+":20.0.3")
		p.wait("the webhook has heard of it", func(context.Context) error {
			dry := decode(t, p.kubectl("run", "y", "--image", "keycloak:20.0", "--dry-run=server", "--output", "json"))
			if got := dry.images()[0]; got != after {
				return fmt.Errorf("it pins %s", got)
			}
			return nil
		})
		return withSidecar(pod, "keycloak:20.0")
	})
	p.kubectl("run", "x", "--image", "keycloak:20.0")
	p.runs("one name is one image in one object", "pod/x", before, before)
}

func TestCopiedObjects(t *testing.T) {
	t.Parallel()
	p, other := newPlace(t, enforced), newPlace(t, enforced)
	p.stream("keycloak", local, "20.0="+keycloak+":20.0.2")
	other.stream("keycloak", local, "20.0="+keycloak+":20.0.3")
	p.apply(deployment("x", spec{main: "keycloak:20.0"}))
	pinned := served(t, keycloak+":20.0.2")
	copied := p.get("deployment/x")
	annotation, err := json.Marshal(map[string]string{resolver.PinnedAnnotation: copied.Metadata.Annotations[resolver.PinnedAnnotation]})
	p.check(err)
	for name, c := range map[string]struct{ reason, image, want string }{
		"same":    {"what was pinned elsewhere stays", pinned, pinned},
		"changed": {"whoever copies an object and writes another image means that image", "quay.io/any/thing:1", "quay.io/any/thing:1"},
		"short":   {"or a name of the stream that is here", "keycloak:20.0", served(t, keycloak+":20.0.3")},
	} {
		other.apply(deployment(name, spec{main: c.image, annotations: string(annotation)}))
		other.runs(c.reason, "deployment/"+name, c.want)
		pin, ok := resolver.ParsePins(other.get("deployment/" + name).Metadata.Annotations[resolver.PinnedAnnotation])["main"]
		if ok && pin.PullSpec != c.want {
			t.Errorf("%s: provenance does not tell of another image: %+v", c.reason, pin)
		}
		other.kubectl("set", "image", "deployment/"+name, "main=quay.io/any/thing:2")
		other.runs("and the next image is as free", "deployment/"+name, "quay.io/any/thing:2")
	}
}
