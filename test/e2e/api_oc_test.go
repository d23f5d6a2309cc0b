package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	imagev1 "github.com/openshift/api/image/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// The stories here send, byte for byte, what OpenShift's client sends for a command, and look at what it
// reads of the answer.

// oc sends one request; the answer goes into an object if it is wanted.
func (p *place) oc(method, path, body string, into any, headers ...string) (code int) {
	p.t.Helper()
	path, query, _ := strings.Cut(path, "?")
	request := p.actor().Images().ImageV1().RESTClient().Verb(method).
		AbsPath("/apis/image.openshift.io/v1/namespaces/"+p.name+"/"+path).
		SetHeader("Accept", "application/json").SetHeader("Content-Type", "application/json")
	for _, header := range headers {
		key, value, _ := strings.Cut(header, "=")
		request.SetHeader(key, value)
	}
	for pair := range strings.SplitSeq(query, "&") {
		if key, value, ok := strings.Cut(pair, "="); ok {
			request.Param(key, value)
		}
	}
	if body != "" {
		request.Body([]byte(body))
	}
	// The answer to a failure is a Status, which Raw returns as well.
	answer, _ := request.Do(p.t.Context()).StatusCode(&code).Raw()
	if into != nil {
		if err := json.Unmarshal(answer, into); err != nil {
			p.t.Fatalf("%s %s: %d: %v: %s", method, path, code, err, answer)
		}
	}
	return code
}

// answers fails the test if a command's request was not answered with a code.
func (p *place) answers(reason string, got, want int) {
	p.t.Helper()
	if got != want {
		p.t.Errorf("%s: want %d, got %d", reason, want, got)
	}
}

func ocTag(name, namespace, from string) string {
	stream, tag, _ := strings.Cut(name, ":")
	return `{"kind":"ImageStreamTag","apiVersion":"image.openshift.io/v1","metadata":{"name":"` + stream + ":" + tag + `","namespace":"` + namespace + `"},` +
		`"tag":{"name":"` + tag + `","annotations":null,"from":` + from + `,"generation":0,"importPolicy":{"importMode":"Legacy"},"referencePolicy":{"type":"Source"}},` +
		`"generation":0,"lookupPolicy":{"local":false},"image":{"metadata":{},"dockerImageMetadata":null,"dockerImageLayers":null}}`
}

func TestOcTag(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	body := ocTag("keycloak:20.0", p.name, `{"kind":"DockerImage","name":"`+keycloak+`:20.0.2"}`)
	p.answers("oc tag makes the stream and the tag", p.oc(http.MethodPut, "imagestreamtags/keycloak:20.0", body, nil), http.StatusCreated)
	p.tagMeans("keycloak", "20.0", served(t, keycloak+":20.0.2"))

	// Without --alias, oc tag looks up the image and names it.
	is := &imagev1.ImageStream{}
	p.answers("it reads the source", p.oc(http.MethodGet, "imagestreams/keycloak", "", is), http.StatusOK)
	digest := is.Status.Tags[0].Items[0].Image
	promoted := ocTag("keycloak:prod", p.name, `{"kind":"ImageStreamImage","name":"keycloak@`+digest+`"}`)
	promoted = strings.Replace(promoted, `"generation":0,"importPolicy"`, `"generation":null,"importPolicy"`, 1)
	istag := &imagev1.ImageStreamTag{}
	p.answers("a new tag is created", p.oc(http.MethodPut, "imagestreamtags/keycloak:prod", promoted, istag), http.StatusCreated)
	if istag.Image.DockerImageReference != served(t, keycloak+":20.0.2") || istag.Tag.Generation == nil || *istag.Tag.Generation != istag.Generation {
		t.Errorf("and means the image at once: %+v", istag)
	}
	p.answers("the next time it is updated", p.oc(http.MethodPut, "imagestreamtags/keycloak:prod", promoted, istag), http.StatusOK)

	p.answers("oc tag -d", p.oc(http.MethodDelete, "imagestreamtags/keycloak:prod", "", nil), http.StatusOK)
	status := &metav1.Status{}
	p.answers("a tag that is gone", p.oc(http.MethodDelete, "imagestreamtags/keycloak:prod", "", status), http.StatusNotFound)
	want := &metav1.StatusDetails{Name: "keycloak:prod", Group: "image.openshift.io", Kind: "imagestreamtags"}
	if d := status.Details; d == nil || d.Name != want.Name || d.Group != want.Group || d.Kind != want.Kind {
		t.Errorf("is told from a stream that is gone: want %+v, got %+v", want, d)
	}
}

func TestOcCreateImageStreamTag(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	body := `{"kind":"ImageStreamTag","apiVersion":"image.openshift.io/v1","metadata":{"name":"ruby:tip"},"tag":{"name":"","annotations":null,` +
		`"from":{"kind":"DockerImage","name":"` + keycloak + `:20.0.2"},"generation":null,"importPolicy":{},"referencePolicy":{"type":""}},` +
		`"generation":0,"lookupPolicy":{"local":false},"image":{"metadata":{},"dockerImageMetadata":null}}`
	istag := &imagev1.ImageStreamTag{}
	p.answers("oc create istag", p.oc(http.MethodPost, "imagestreamtags", body, istag), http.StatusCreated)
	if istag.Tag == nil || istag.Tag.Name != "tip" || istag.Tag.ReferencePolicy.Type != "Source" || istag.Tag.ImportPolicy.ImportMode != "Legacy" {
		t.Errorf("what is empty is what is not said: %+v", istag.Tag)
	}
	status := &metav1.Status{}
	p.answers("a tag that exists", p.oc(http.MethodPost, "imagestreamtags", body, status), http.StatusConflict)
	if status.Reason != metav1.StatusReasonAlreadyExists || status.Details.Kind != "imagestreamtag" {
		t.Errorf("is said to exist: %+v", status)
	}
	// A tag that is not imported yet can be deleted.
	pending := strings.NewReplacer("ruby:tip", "pending:1", keycloak+":20.0.2", direct(keycloak)+":nonesuch").Replace(body)
	p.answers("a tag that will never be imported", p.oc(http.MethodPost, "imagestreamtags", pending, nil), http.StatusCreated)
	p.answers("is not found", p.oc(http.MethodGet, "imagestreamtags/pending:1", "", nil), http.StatusNotFound)
	p.answers("and can be deleted all the same", p.oc(http.MethodDelete, "imagestreamtags/pending:1", "", nil), http.StatusOK)
}

func TestOcImportImage(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.answers("oc import-image looks for the stream", p.oc(http.MethodGet, "imagestreams/ruby", "", nil), http.StatusNotFound)
	body := func(version, tag string) string {
		return `{"kind":"ImageStreamImport","apiVersion":"image.openshift.io/v1","metadata":{"name":"ruby","namespace":"` + p.name + `"` + version + `},` +
			`"spec":{"import":true,"images":[{"from":{"kind":"DockerImage","name":"` + keycloak + ":" + tag + `"},"to":{"name":"latest"},` +
			`"importPolicy":{"importMode":"Legacy"},"referencePolicy":{"type":"Source"}}]},"status":{}}`
	}
	isi := &imagev1.ImageStreamImport{}
	p.answers("and makes it with --confirm", p.oc(http.MethodPost, "imagestreamimports", body("", "20.0.2"), isi), http.StatusCreated)
	if isi.Status.Import == nil || len(isi.Status.Import.Status.Tags) != 1 || isi.Status.Images[0].Tag != "20.0.2" ||
		len(isi.Status.Images[0].Image.DockerImageMetadata.Raw) == 0 {
		t.Errorf("it prints the stream and describes the image of the answer: %+v", isi.Status)
	}
	version := fmt.Sprintf(`,"resourceVersion":%q`, isi.Status.Import.ResourceVersion)
	p.answers("then it says which version it has seen", p.oc(http.MethodPost, "imagestreamimports", body(version, "20.0.3"), isi), http.StatusCreated)
	p.tagMeans("ruby", "latest", served(t, keycloak+":20.0.3"))
	p.answers("and is told if that is old", p.oc(http.MethodPost, "imagestreamimports", body(version, "20.0.2"), nil), http.StatusConflict)
}

func TestOcSetImageLookup(t *testing.T) {
	t.Parallel()
	p := newPlace(t, enforced)
	p.answers("oc create imagestream", p.oc(http.MethodPost, "imagestreams",
		`{"kind":"ImageStream","apiVersion":"image.openshift.io/v1","metadata":{"name":"keycloak"},"spec":{"lookupPolicy":{"local":false}},"status":{"dockerImageRepository":""}}`, nil), http.StatusCreated)
	p.check(p.tag(t.Context(), "keycloak:20.0", from("DockerImage", keycloak+":20.0.2")))
	p.tagMeans("keycloak", "20.0", served(t, keycloak+":20.0.2"))
	p.kubectl("run", "before", "--image", "keycloak:20.0")
	p.runs("without lookup the name is somebody else's", "pod/before", "keycloak:20.0")
	patch := "Content-Type=" + string(types.StrategicMergePatchType)
	p.answers("oc set image-lookup", p.oc(http.MethodPatch, "imagestreams/keycloak?fieldManager=kubectl-set", `{"spec":{"lookupPolicy":{"local":true}}}`, nil, patch), http.StatusOK)
	want := served(t, keycloak+":20.0.2")
	p.wait("the name is the stream's", func(context.Context) error {
		got := decode(t, p.kubectl("run", "after", "--image", "keycloak:20.0", "--dry-run=server", "--output", "json")).images()
		if got[0] != want {
			return fmt.Errorf("it means %q", got[0])
		}
		return nil
	})
	istag := &imagev1.ImageStreamTag{}
	p.oc(http.MethodGet, "imagestreamtags/keycloak:20.0", "", istag)
	if !istag.LookupPolicy.Local {
		t.Error("and its tags say so")
	}
}

func TestOcNewApp(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	isi := &imagev1.ImageStreamImport{}
	p.answers("oc new-app --image looks at the image", p.oc(http.MethodPost, "imagestreamimports",
		`{"kind":"ImageStreamImport","apiVersion":"image.openshift.io/v1","metadata":{"name":"newapp"},"spec":{"import":false,"images":[{"from":{"kind":"DockerImage","name":"`+keycloak+`:20.0.2"},`+
			`"importPolicy":{},"referencePolicy":{"type":""}}]},"status":{}}`, isi), http.StatusCreated)
	if len(isi.Status.Images) != 1 || isi.Status.Images[0].Status.Status != metav1.StatusSuccess || !strings.Contains(string(isi.Status.Images[0].Image.DockerImageMetadata.Raw), `"ExposedPorts"`) {
		t.Errorf("and reads its ports: %+v", isi.Status)
	}
	p.answers("nothing is made", p.oc(http.MethodGet, "imagestreams/newapp", "", nil), http.StatusNotFound)
	p.answers("then it makes a stream", p.oc(http.MethodPost, "imagestreams",
		`{"kind":"ImageStream","apiVersion":"image.openshift.io/v1","metadata":{"name":"keycloak","labels":{"app":"keycloak"},"annotations":{"openshift.io/generated-by":"OpenShiftNewApp"}},`+
			`"spec":{"lookupPolicy":{"local":false},"tags":[{"name":"20.0.2","annotations":{"openshift.io/imported-from":"`+keycloak+`:20.0.2"},"from":{"kind":"DockerImage","name":"`+keycloak+`:20.0.2"},`+
			`"generation":null,"importPolicy":{"importMode":"Legacy"},"referencePolicy":{"type":""}}]},"status":{"dockerImageRepository":""}}`, nil), http.StatusCreated)
	p.tagMeans("keycloak", "20.0.2", served(t, keycloak+":20.0.2"))

	// oc new-app -i keycloak
	list := &imagev1.ImageStreamList{}
	p.answers("it looks for a stream", p.oc(http.MethodGet, "imagestreams", "", list), http.StatusOK)
	if len(list.Items) != 1 || len(list.Items[0].Status.Tags) != 1 {
		t.Fatalf("there is one: %+v", list.Items)
	}
	digest := list.Items[0].Status.Tags[0].Items[0].Image
	isimage := &imagev1.ImageStreamImage{}
	p.answers("and for its image", p.oc(http.MethodGet, "imagestreamimages/keycloak@"+digest, "", isimage), http.StatusOK)
	if !strings.Contains(string(isimage.Image.DockerImageMetadata.Raw), `"ExposedPorts"`) {
		t.Errorf("which tells its ports: %s", isimage.Image.DockerImageMetadata.Raw)
	}
}

func TestRegistryAndPruner(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.stream("keycloak", local, "20.0="+keycloak+":20.0.2")
	layers := &imagev1.ImageStreamLayers{}
	p.answers("a registry asks what may be pulled", p.oc(http.MethodGet, "imagestreams/keycloak/layers", "", layers), http.StatusOK)
	image, err := env.Image(keycloak + ":20.0.2")
	p.check(err)
	if _, ok := layers.Images[image.Digest]; !ok || len(layers.Blobs) == 0 {
		t.Errorf("the images of the stream and their blobs: %+v", layers)
	}

	is, err := p.is(t.Context(), "keycloak")
	p.check(err)
	is.Status.Tags = nil
	is.Spec.Tags = nil
	pruned, err := env.Images().ImageV1().ImageStreams(p.name).UpdateStatus(t.Context(), is, metav1.UpdateOptions{})
	p.check(err)
	if len(pruned.Status.Tags) != 0 || len(pruned.Spec.Tags) != 1 {
		t.Errorf("a pruner writes the status, and the status alone: %+v %+v", pruned.Spec, pruned.Status)
	}
}
