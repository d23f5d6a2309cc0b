package e2e

import (
	"fmt"
	"strings"
	"testing"

	imagev1 "github.com/openshift/api/image/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestFailedImportKeepsTheLastDigest(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ reason, from, condition, text string }{
		"missing": {"a tag that the registry does not have", direct(keycloak) + ":nonesuch", "NotFound", keycloak + ":nonesuch"},
		"private": {"a repository that asks for a password", direct("private.example.com/team/app") + ":1.0", "Unauthorized", "wants credentials"},
		"down":    {"a registry that does not answer", "127.0.0.1:1/team/app:1.0", "InternalError", "127.0.0.1:1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPlace(t, enforced)
			p.stream("keycloak", local, "20.0="+keycloak+":20.0.2")
			p.apply(streamManifest("keycloak", local, "20.0="+c.from))
			reason, message := p.tagFails("keycloak", "20.0")
			if reason != c.condition || !strings.Contains(message, c.text) {
				t.Errorf("%s: want condition %s with %q, got %s: %s", c.reason, c.condition, c.text, reason, message)
			}
			p.kubectl("run", "still", "--image", "keycloak:20.0")
			p.runs(c.reason+" never takes away what worked", "pod/still", served(t, keycloak+":20.0.2"))
			p.stream("keycloak", local, "20.0="+keycloak+":20.0.3")
			p.kubectl("run", "mended", "--image", "keycloak:20.0")
			p.runs("a corrected tag is imported at once", "pod/mended", served(t, keycloak+":20.0.3"))
		})
	}
}

func TestMultiArchImages(t *testing.T) {
	t.Parallel()
	p := newPlace(t, enforced)
	p.apply(streamOf("multi", local,
		`{name: legacy, from: {kind: DockerImage, name: "`+multi+`:1.0"}}`,
		`{name: whole, from: {kind: DockerImage, name: "`+multi+`:1.0"}, importPolicy: {importMode: PreserveOriginal}}`))
	image, err := env.Image(multi + ":1.0")
	p.check(err)
	for tag, want := range map[string]string{
		"legacy": multi + "@" + image.Platforms["linux/amd64"],
		"whole":  served(t, multi+":1.0"),
	} {
		p.tagMeans("multi", tag, want)
		p.kubectl("run", tag, "--image", "multi:"+tag)
		p.runs("OpenShift's import modes: one platform's image, or the index as it is", "pod/"+tag, want)
	}
	if platform := multi + "@" + image.Platforms["linux/amd64"]; platform == served(t, multi+":1.0") {
		t.Fatal("the two must differ, or this story shows nothing")
	}
}

func TestAliasFollowsItsTag(t *testing.T) {
	t.Parallel()
	p := newPlace(t, enforced)
	manifest := func(version string) string {
		return streamOf("keycloak", local,
			`{name: stable, from: {kind: ImageStreamTag, name: "20.0"}}`,
			`{name: prod, from: {kind: ImageStreamTag, name: "keycloak:stable"}}`,
			`{name: "20.0", from: {kind: DockerImage, name: "`+keycloak+":"+version+`"}}`)
	}
	for _, version := range []string{"20.0.2", "20.0.3", "20.0.2"} {
		p.apply(manifest(version))
		want := served(t, keycloak+":"+version)
		for _, tag := range []string{"20.0", "stable", "prod"} {
			p.tagMeans("keycloak", tag, want)
		}
	}
	p.kubectl("run", "alias", "--image", "keycloak:prod")
	p.runs("an alias of an alias is as good a name as any", "pod/alias", served(t, keycloak+":20.0.2"))
}

func TestCopiesFromAnotherStream(t *testing.T) {
	t.Parallel()
	p := newPlace(t, enforced)
	p.stream("keycloak", local, "20.0="+keycloak+":20.0.2")
	want := served(t, keycloak+":20.0.2")
	_, digest, _ := strings.Cut(want, "@")
	from := func(tag, kind, name string) string {
		return fmt.Sprintf("{name: %s, from: {kind: %s, name: %q}}", tag, kind, name)
	}
	p.apply(streamOf("copy", local,
		from("tag", "ImageStreamTag", "keycloak:20.0"),
		from("image", "ImageStreamImage", "keycloak@"+digest),
		from("short", "ImageStreamImage", "keycloak@"+digest[:len("sha256:")+12])))
	for _, tag := range []string{"tag", "image", "short"} {
		p.tagMeans("copy", tag, want)
	}
	p.stream("keycloak", local, "20.0="+keycloak+":20.0.3")
	p.kubectl("run", "copy", "--image", "copy:tag")
	p.runs("a copy from another stream is a copy: it stays when its source moves", "pod/copy", want)
}

func TestStreamNameWithUnderscore(t *testing.T) {
	t.Parallel()
	p := newPlace(t, enforced)
	p.stream("key_cloak", local, "20.0="+keycloak+":20.0.2")
	p.kubectl("run", "x", "--image", "key_cloak:20.0")
	p.runs("OpenShift's stream names may hold what a record's may not", "pod/x", served(t, keycloak+":20.0.2"))
	p.refused(p.try("run", "y", "--image", "key_cloak:1"), `image stream "key_cloak" has no tag "1"`, "kubectl edit imagestream key_cloak")
}

func TestImportAgainOnRequest(t *testing.T) {
	t.Parallel()
	p := newPlace(t, enforced)
	const upstream = multi + ":moving"
	p.check(env.Retag(t.Context(), multi+":1.0", upstream))
	p.apply(streamOf("multi", local, `{name: "1", from: {kind: DockerImage, name: "`+upstream+`"}, importPolicy: {importMode: PreserveOriginal}}`))
	p.tagMeans("multi", "1", served(t, upstream))
	image, err := env.Image(multi + ":1.0")
	p.check(err)
	p.check(env.Retag(t.Context(), multi+"@"+image.Platforms["linux/arm64"], upstream))
	moved := served(t, upstream)
	p.kubectl("run", "before", "--image", "multi:1")
	p.runs("what a tag means changes when it is imported, not when somebody pushes", "pod/before", served(t, multi+":1.0"))
	p.kubectl("patch", "imagestream", "multi", "--type", "json", "--patch", `[{"op": "replace", "path": "/spec/tags/0/generation", "value": 0}]`)
	p.tagMeans("multi", "1", moved)
	p.kubectl("run", "after", "--image", "multi:1")
	p.runs("generation 0 asks for another import, as in OpenShift", "pod/after", moved)
	is, err := p.is(t.Context(), "multi")
	p.check(err)
	if n := len(is.Status.Tags[0].Items); n != 2 {
		t.Errorf("a tag's history has every image that it meant: want 2, got %d", n)
	}
}

func TestStreamsTakeWhatGoWrites(t *testing.T) {
	t.Parallel()
	p := newPlace(t, enforced)
	streams := env.Images().ImageV1().ImageStreams(p.name)
	// Go's types write null for what is empty: tags, annotations, generation, items.
	_, err := streams.Create(t.Context(), &imagev1.ImageStream{ObjectMeta: metav1.ObjectMeta{Name: "go"}}, metav1.CreateOptions{})
	p.check(err)
	_, err = streams.Create(t.Context(), &imagev1.ImageStream{
		ObjectMeta: metav1.ObjectMeta{Name: "full"},
		Spec: imagev1.ImageStreamSpec{
			LookupPolicy: imagev1.ImageLookupPolicy{Local: true},
			Tags: []imagev1.TagReference{
				{Name: "1", From: &corev1.ObjectReference{Kind: "DockerImage", Name: keycloak + ":20.0.2"}},
				{Name: "none"},
			},
		},
	}, metav1.CreateOptions{})
	p.check(err)
	p.tagMeans("full", "1", served(t, keycloak+":20.0.2"))
	image, err := env.Image(keycloak + ":20.0.2")
	p.check(err)
	if got := p.kubectl("get", "image", image.Digest, "--output", "jsonpath={.dockerImageMetadata}"); !strings.Contains(got, "20.0.2") {
		t.Errorf("what was imported is described by an Image, with its labels; got %s", got)
	}
}

func TestManyStreamsAtOnce(t *testing.T) {
	t.Parallel()
	p := newPlace(t, enforced)
	var manifests []string
	for i := range 30 {
		manifests = append(manifests, streamManifest(fmt.Sprintf("s%d", i), local, "a="+keycloak+":20.0.1", "b="+keycloak+":20.0.2", "c="+keycloak+":20.0.3"))
	}
	p.apply(strings.Join(manifests, "\n---\n"))
	for i := range 30 {
		for tag, version := range map[string]string{"a": "20.0.1", "b": "20.0.2", "c": "20.0.3"} {
			p.tagMeans(fmt.Sprintf("s%d", i), tag, served(t, keycloak+":"+version))
		}
	}
}

func TestDeletedStream(t *testing.T) {
	t.Parallel()
	p := newPlace(t, enforced)
	p.stream("keycloak", local, "20.0="+keycloak+":20.0.2")
	p.apply(deployment("x", spec{main: "keycloak:20.0"}))
	p.kubectl("delete", "imagestream", "keycloak")
	p.kubectl("scale", "deployment", "x", "--replicas", "2")
	p.kubectl("rollout", "status", "deployment/x", "--timeout", "60s")
	p.runs("what was pinned runs on without its stream", "deployment/x", served(t, keycloak+":20.0.2"))
}

func TestStreamAndWorkloadInOneManifest(t *testing.T) {
	t.Parallel()
	p := newPlace(t, enforced)
	want := served(t, keycloak+":20.0.2")
	for i := range 10 {
		name := fmt.Sprintf("s%d", i)
		both := streamManifest(name, local, "1="+keycloak+":20.0.2") + "\n---\n" + kindNamed("Pod").write(name, spec{main: name + ":1"})
		if result := p.tryApply(both); result.Code != 0 {
			p.refused(result, "has no image yet")
			p.tagMeans(name, "1", want)
			p.apply(both)
		}
		p.runs("a name never goes out unpinned because its stream is too new", "pod/"+name, want)
	}
}
