package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"testing"

	imagev1 "github.com/openshift/api/image/v1"
	imagescheme "github.com/openshift/client-go/image/clientset/versioned/scheme"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
)

// wants fails the test unless an error is the API's, for a reason and with a text that the user can act on.
func wants(t *testing.T, why string, err error, reason metav1.StatusReason, says string) {
	t.Helper()
	if got := apierrors.ReasonForError(err); err == nil || got != reason || !strings.Contains(err.Error(), says) {
		t.Errorf("%s: want %s with %q, got %s: %v", why, reason, says, got, err)
	}
	if err != nil && strings.Contains(err.Error(), "Internal error") {
		t.Errorf("%s: a user's mistake is no internal error: %v", why, err)
	}
}

// from is where a tag comes from.
func from(kind, name string) *corev1.ObjectReference {
	return &corev1.ObjectReference{Kind: kind, Name: name}
}

// tag puts a tag as `oc tag` does: whatever was there before, and without a version.
func (p *place) tag(ctx context.Context, name string, from *corev1.ObjectReference, annotations ...string) error {
	_, tag, _ := strings.Cut(name, ":")
	istag := &imagev1.ImageStreamTag{
		ObjectMeta: metav1.ObjectMeta{Namespace: p.name, Name: name},
		Tag: &imagev1.TagReference{
			Name:            tag,
			From:            from,
			ImportPolicy:    imagev1.TagImportPolicy{ImportMode: imagev1.ImportModeLegacy},
			ReferencePolicy: imagev1.TagReferencePolicy{Type: imagev1.SourceTagReferencePolicy},
		},
	}
	if from.Kind == "DockerImage" {
		istag.Tag.Generation = new(int64)
	}
	for _, annotation := range annotations {
		key, value, _ := strings.Cut(annotation, "=")
		metav1.SetMetaDataAnnotation(&istag.ObjectMeta, key, value)
	}
	_, err := p.actor().Images().ImageV1().ImageStreamTags(p.name).Update(ctx, istag, metav1.UpdateOptions{})
	return err
}

func TestTagIsMovedLikeOcTag(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.check(p.tag(t.Context(), "keycloak:20.0", from("DockerImage", keycloak+":20.0.2")))
	p.tagMeans("keycloak", "20.0", served(t, keycloak+":20.0.2"))
	before, err := p.is(t.Context(), "keycloak")
	p.check(err)
	first := before.Status.Tags[0].Items[0]

	p.check(p.tag(t.Context(), "keycloak:prod", from("ImageStreamImage", "keycloak@"+first.Image)))
	p.tagMeans("keycloak", "prod", served(t, keycloak+":20.0.2"))
	p.check(p.tag(t.Context(), "keycloak:alias", from("ImageStreamTag", "keycloak:20.0")))
	p.check(p.tag(t.Context(), "keycloak:20.0", from("DockerImage", keycloak+":20.0.3")))
	p.tagMeans("keycloak", "20.0", served(t, keycloak+":20.0.3"))
	p.tagMeans("keycloak", "alias", served(t, keycloak+":20.0.3"))
	p.tagMeans("keycloak", "prod", served(t, keycloak+":20.0.2"))

	p.check(p.tag(t.Context(), "keycloak:20.0", from("ImageStreamImage", "keycloak@"+first.Image)))
	p.tagMeans("keycloak", "20.0", served(t, keycloak+":20.0.2"))
	after, err := p.is(t.Context(), "keycloak")
	p.check(err)
	for _, status := range after.Status.Tags {
		if status.Tag == "20.0" && len(status.Items) != 3 {
			t.Errorf("the history has there and back: %+v", status.Items)
		}
	}

	p.kubectl("delete", "istag", "keycloak:alias")
	_, err = p.istag(t.Context(), "keycloak:alias")
	wants(t, "a tag that was deleted is gone from spec and status", err, metav1.StatusReasonNotFound, "keycloak:alias")
	var status apierrors.APIStatus
	if !errors.As(err, &status) || status.Status().Details == nil || status.Status().Details.Kind != "imagestreamtags" {
		t.Errorf("clients tell a tag that is missing from a stream that is by the kind in the details: %+v", err)
	}
}

func TestTagIsAppliedLikeAnyObject(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	manifest := func(version string) string {
		return `{apiVersion: image.openshift.io/v1, kind: ImageStreamTag, metadata: {name: "keycloak:20.0", annotations: {team: shop}}, tag: {from: {kind: DockerImage, name: "` + keycloak + ":" + version + `"}}}`
	}
	for _, version := range []string{"20.0.2", "20.0.3"} {
		p.apply(manifest(version))
		p.tagMeans("keycloak", "20.0", served(t, keycloak+":"+version))
	}
	if got := p.apply(manifest("20.0.3")); !strings.Contains(got, "unchanged") {
		t.Errorf("to apply what is there changes nothing: %s", got)
	}
	p.kubectl("patch", "istag", "keycloak:20.0", "--type", "merge", "--patch", `{"tag":{"from":{"name":"`+keycloak+`:20.0.1"}}}`)
	p.tagMeans("keycloak", "20.0", served(t, keycloak+":20.0.1"))
	p.kubectl("annotate", "istag", "keycloak:20.0", "team=store", "--overwrite")
	if got := p.kubectl("get", "is", "keycloak", "--output", "jsonpath={.spec.tags[0].annotations.team}"); got != "store" {
		t.Errorf("a tag's annotations are kept with the tag, got %q", got)
	}
}

// TestManyTagsAtOnce writes different tags of one stream in parallel, as a release of many images does.
func TestManyTagsAtOnce(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.stream("keycloak", local, "20.0="+keycloak+":20.0.2")
	const many = 200
	var writing errgroup.Group
	writing.SetLimit(50)
	for i := range many {
		writing.Go(func() error {
			return p.tag(t.Context(), fmt.Sprintf("keycloak:t%d", i), from("ImageStreamTag", "20.0"))
		})
	}
	if err := writing.Wait(); err != nil {
		t.Errorf("whoever writes a tag of their own is not told of conflicts: %v", err)
	}
	want := served(t, keycloak+":20.0.2")
	tags, err := env.Images().ImageV1().ImageStreamTags(p.name).List(t.Context(), metav1.ListOptions{})
	p.check(err)
	if len(tags.Items) != many+1 {
		t.Errorf("none is lost: want %d tags, got %d", many+1, len(tags.Items))
	}
	for _, tag := range tags.Items {
		if tag.Image.DockerImageReference != want {
			t.Errorf("each means what 20.0 does: %s means %q", tag.Name, tag.Image.DockerImageReference)
		}
	}
}

// watchTags watches tags, for which OpenShift's own client has no method.
func (p *place) watchTags(options metav1.ListOptions) (watch.Interface, error) {
	options.Watch = true
	return p.actor().Images().ImageV1().RESTClient().Get().Namespace(p.name).Resource("imagestreamtags").
		VersionedParams(&options, imagescheme.ParameterCodec).Watch(p.t.Context())
}

// TestWatchLosesNothing follows tags over connections that are cut after one event, after two, and so on: a connection that begins at
// the version of an event has all tags of that version again.
func TestWatchLosesNothing(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.stream("keycloak", local, "0="+keycloak+":20.0.2", "1="+keycloak+":20.0.3")
	client := env.Images().ImageV1().ImageStreamTags(p.name)
	list, err := client.List(t.Context(), metav1.ListOptions{})
	p.check(err)
	seen := map[string]string{}
	for _, istag := range list.Items {
		seen[istag.Name] = istag.Image.Name
	}
	var changing errgroup.Group
	changing.Go(func() error {
		for i := range 30 {
			name := fmt.Sprintf("keycloak:t%d", i%4)
			if i%7 == 6 {
				if err := client.Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
					return err
				}
				continue
			}
			if err := p.tag(t.Context(), name, from("ImageStreamTag", strconv.Itoa(i%2))); err != nil {
				return err
			}
		}
		return p.tag(t.Context(), "keycloak:last", from("ImageStreamTag", "0"))
	})
	version := list.ResourceVersion
	for connection := 1; seen["keycloak:last"] == ""; connection++ {
		watching, err := p.watchTags(metav1.ListOptions{ResourceVersion: version})
		p.check(err)
		for range connection {
			event := <-watching.ResultChan()
			istag, ok := event.Object.(*imagev1.ImageStreamTag)
			if !ok {
				t.Fatalf("an event is of a tag: %s %+v", event.Type, event.Object)
			}
			version = istag.ResourceVersion
			if event.Type == watch.Deleted {
				delete(seen, istag.Name)
			} else {
				seen[istag.Name] = istag.Image.Name
			}
		}
		watching.Stop()
	}
	p.check(changing.Wait())
	list, err = client.List(t.Context(), metav1.ListOptions{})
	p.check(err)
	want := map[string]string{}
	for _, istag := range list.Items {
		want[istag.Name] = istag.Image.Name
	}
	if !maps.Equal(seen, want) {
		t.Errorf("over all connections the watcher must know what is there: want %v, got %v", want, seen)
	}
}

func TestWatchOfOneTag(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.stream("keycloak", local, "20.0="+keycloak+":20.0.2", "19.0="+keycloak+":19.0")
	watching, err := p.watchTags(metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector("metadata.name", "keycloak:20.0").String(),
	})
	p.check(err)
	defer watching.Stop()
	next := func() string {
		event := <-watching.ResultChan()
		istag, ok := event.Object.(*imagev1.ImageStreamTag)
		if !ok {
			t.Fatalf("an event is of a tag: %s %+v", event.Type, event.Object)
		}
		return fmt.Sprintf("%s %s %s", event.Type, istag.Name, istag.Image.DockerImageReference)
	}
	if got, want := next(), "ADDED keycloak:20.0 "+served(t, keycloak+":20.0.2"); got != want {
		t.Errorf("a watch begins with what is there: want %q, got %q", want, got)
	}
	p.stream("keycloak", local, "20.0="+keycloak+":20.0.2", "19.0="+keycloak+":20.0.1")
	p.stream("keycloak", local, "20.0="+keycloak+":20.0.3", "19.0="+keycloak+":20.0.1")
	// That its spec is another already, before the import, may be an event of its own.
	for want := "MODIFIED keycloak:20.0 " + served(t, keycloak+":20.0.3"); ; {
		got := next()
		if got == want {
			break
		}
		if got != "MODIFIED keycloak:20.0 "+served(t, keycloak+":20.0.2") {
			t.Fatalf("and goes on with what changes of that tag, and of no other: got %q", got)
		}
	}
}

func TestWhoAndWhyIsShown(t *testing.T) {
	t.Parallel()
	p := newPlace(t, enforced)
	alice := p.as("alice", "edit")
	p.wait("alice may edit", func(ctx context.Context) error {
		return alice.tag(ctx, "keycloak:20.0", from("DockerImage", keycloak+":20.0.2"))
	})
	p.tagMeans("keycloak", "20.0", served(t, keycloak+":20.0.2"))
	p.check(alice.tag(t.Context(), "keycloak:prod", from("ImageStreamTag", "20.0"), `istag.dev/origin={"via":"Import","by":{"user":"mallory"}}`))
	for name, c := range map[string]struct{ reason, istag, via, verb string }{
		"import": {"an import tells who asked for it", "keycloak:20.0", "Import", "update"},
		"alias":  {"and so does a tag of a tag; what a client writes there counts for nothing", "keycloak:prod", "Alias", "update"},
	} {
		t.Run(name, func(t *testing.T) {
			istag, err := p.istag(t.Context(), c.istag)
			if err != nil {
				t.Fatal(err)
			}
			var origin struct {
				Via, Source string
				By          struct{ User, Verb, Resource string }
			}
			text := istag.Annotations["istag.dev/origin"]
			if err := json.Unmarshal([]byte(text), &origin); err != nil {
				t.Fatalf("%v: %q", err, text)
			}
			if origin.By.User != "alice" || origin.By.Verb != c.verb || origin.By.Resource != "imagestreamtags" || origin.Via != c.via || origin.Source == "" {
				t.Errorf("%s: %s", c.reason, text)
			}
		})
	}
	is, err := p.is(t.Context(), "keycloak")
	p.check(err)
	p.kubectl("patch", "is", "keycloak", "--type", "merge", "--patch", `{"spec":{"lookupPolicy":{"local":true}}}`)
	p.wait("the audit log tells whose image a pod runs", func(context.Context) error {
		p.kubectl("run", "x", "--image", "keycloak:prod", "--dry-run=server")
		records := p.audit("x")
		if last := records[len(records)-1]; last.Decision != "pinned" || last.MovedBy != "alice" {
			return fmt.Errorf("its last line is %+v", last)
		}
		return nil
	})
	for _, tag := range is.Spec.Tags {
		if tag.Annotations["istag.dev/origin"] != "" {
			t.Errorf("it is shown and never kept: %+v", tag)
		}
	}
}

func TestImportAnswersForEachImage(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	asked := &imagev1.ImageStreamImport{
		ObjectMeta: metav1.ObjectMeta{Name: "keycloak"},
		Spec: imagev1.ImageStreamImportSpec{Import: true, Images: []imagev1.ImageImportSpec{
			{From: *from("DockerImage", keycloak+":20.0.2"), To: &corev1.LocalObjectReference{Name: "good"}},
			{From: *from("DockerImage", direct(keycloak)+":nonesuch"), To: &corev1.LocalObjectReference{Name: "bad"}, ImportPolicy: imagev1.TagImportPolicy{Insecure: true}},
		}},
	}
	var code int
	got := &imagev1.ImageStreamImport{}
	err := env.Images().ImageV1().RESTClient().Post().Namespace(p.name).Resource("imagestreamimports").Body(asked).Do(t.Context()).StatusCode(&code).Into(got)
	p.check(err)
	if code != http.StatusCreated || len(got.Status.Images) != 2 || got.Status.Import == nil {
		t.Fatalf("one image that fails is no failure of the request: %d %+v", code, got.Status)
	}
	good, bad := got.Status.Images[0], got.Status.Images[1]
	if good.Status.Status != metav1.StatusSuccess || good.Image == nil || good.Image.DockerImageReference != served(t, keycloak+":20.0.2") || good.Tag != "20.0.2" {
		t.Errorf("what was found is in the answer: %+v", good)
	}
	if bad.Status.Status != metav1.StatusFailure || bad.Status.Reason != metav1.StatusReasonNotFound || bad.Status.Code != http.StatusNotFound || bad.Image != nil {
		t.Errorf("and so is why the other was not: %+v", bad)
	}
	p.tagMeans("keycloak", "good", served(t, keycloak+":20.0.2"))
	if reason, _ := p.tagFails("keycloak", "bad"); reason != "NotFound" {
		t.Errorf("the stream has both, got %s", reason)
	}

	before, err := p.is(t.Context(), "keycloak")
	p.check(err)
	asked.Spec.Images = asked.Spec.Images[:1]
	_, err = env.Images().ImageV1().ImageStreamImports(p.name).Create(t.Context(), asked, metav1.CreateOptions{})
	p.check(err)
	after, err := p.is(t.Context(), "keycloak")
	p.check(err)
	if after.ResourceVersion != before.ResourceVersion {
		t.Errorf("to import what is there already writes nothing: resourceVersion %s became %s", before.ResourceVersion, after.ResourceVersion)
	}
	asked.ResourceVersion = "1"
	_, err = env.Images().ImageV1().ImageStreamImports(p.name).Create(t.Context(), asked, metav1.CreateOptions{})
	wants(t, "an import of a stream that has changed since is a conflict", err, metav1.StatusReasonConflict, "keycloak")

	asked.ResourceVersion, asked.Spec.Import, asked.Name = "", false, "look"
	looked, err := env.Images().ImageV1().ImageStreamImports(p.name).Create(t.Context(), asked, metav1.CreateOptions{})
	p.check(err)
	if looked.Status.Images[0].Image == nil {
		t.Errorf("to look without importing shows the image: %+v", looked.Status)
	}
	_, err = p.is(t.Context(), "look")
	wants(t, "and makes no stream", err, metav1.StatusReasonNotFound, "look")
}

func TestImportOfARepository(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	repository := direct(keycloak) // as in OpenShift, mirrors are not asked for a repository's tags
	got, err := env.Images().ImageV1().ImageStreamImports(p.name).Create(t.Context(), &imagev1.ImageStreamImport{
		ObjectMeta: metav1.ObjectMeta{Name: "keycloak"},
		Spec: imagev1.ImageStreamImportSpec{Import: true, Repository: &imagev1.RepositoryImportSpec{
			From: *from("DockerImage", repository), ImportPolicy: imagev1.TagImportPolicy{Insecure: true},
		}},
	}, metav1.CreateOptions{})
	p.check(err)
	if got.Status.Repository == nil || len(got.Status.Repository.Images) < 3 {
		t.Fatalf("every tag of the repository is asked for: %+v", got.Status.Repository)
	}
	for _, version := range []string{"20.0.1", "20.0.2", "20.0.3"} {
		_, digest, _ := strings.Cut(served(t, keycloak+":"+version), "@")
		p.tagMeans("keycloak", version, repository+"@"+digest)
	}
}
