package e2e

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	imagev1 "github.com/openshift/api/image/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"istag.dev/store"
	storev1 "istag.dev/store/v1"
	"istag.dev/test/harness"
)

func TestStreamIsCreatedImportedAndSeen(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	if got := p.apply(streamManifest("keycloak", local, "20.0="+keycloak+":20.0.2")); got != "imagestream.image.openshift.io/keycloak created\n" {
		t.Errorf("kubectl must say what was made: %q", got)
	}
	want := served(t, keycloak+":20.0.2")
	_, digest, _ := strings.Cut(want, "@")
	p.kubectl("wait", "imagestream/keycloak", "--for", "jsonpath={.status.tags[0].items[0].image}="+digest, "--timeout", "60s")
	p.kubectl("wait", "istag/keycloak:20.0", "--for", "jsonpath={.image.dockerImageReference}="+want, "--timeout", "60s")
	for name, c := range map[string]struct{ reason, command, pattern string }{
		"streams":    {"a stream is a line of its tags", "get is", `NAME +IMAGE REPOSITORY +TAGS +UPDATED\nkeycloak +20\.0 +.* ago\n`},
		"tags":       {"a tag is a line of what it means", "get istag", `NAME +IMAGE REFERENCE +UPDATED\nkeycloak:20\.0 +` + want + ` +.* ago\n`},
		"wide":       {"a wide table has the digest for itself", "get imagestreamtags -o wide", `IMAGE NAME *\n.* ` + digest + ` *\n`},
		"both":       {"what is asked for together is shown together", "get is,istag -o name", `imagestream\.image\.openshift\.io/keycloak\nimagestreamtag\.image\.openshift\.io/keycloak:20\.0\n`},
		"image tags": {"an image tag shows what was asked for and what came of it", "get itag keycloak:20.0", `NAME +SPEC +STATUS +HISTORY +UPDATED\nkeycloak:20\.0 +.*1 +`},
		"image":      {"an image is known by its digest", "get image " + digest, `NAME +IMAGE REFERENCE\n` + digest + ` +quay`},
		"stream image": {"an image of a stream can be named by the beginning of its digest", "get isimage keycloak@" + digest[:len("sha256:")+12],
			`NAME +UPDATED\nkeycloak@`},
		"describe": {"kubectl describes it without knowing it", "describe is keycloak", `Kind: +ImageStream\n`},
		"all":      {"a stream is one of all things", "get all -o name", `imagestream\.image\.openshift\.io/keycloak\n`},
	} {
		t.Run(name, func(t *testing.T) {
			p := &place{t: t, name: p.name}
			if got := p.kubectl(strings.Fields(c.command)...); !regexp.MustCompile(c.pattern).MatchString(got) {
				t.Errorf("%s: kubectl %s must match %q, says:\n%s", c.reason, c.command, c.pattern, got)
			}
		})
	}
	for _, field := range []string{"imagestream.spec", "is.spec.tags.importPolicy", "is.status.tags.items", "istag.tag", "imagestreamimport.spec.images", "image.dockerImageLayers"} {
		if out := p.kubectl("explain", field); !strings.Contains(out, "DESCRIPTION") || strings.Contains(out, "<empty>") {
			t.Errorf("kubectl explain %s must explain: %s", field, out)
		}
	}
}

func TestEveryWayToChangeAStream(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.stream("keycloak", local, "20.0="+keycloak+":20.0.2", "19.0="+keycloak+":19.0")
	tags := func(reason, want string) {
		t.Helper()
		got := p.kubectl("get", "is", "keycloak", "--output", `jsonpath={range .spec.tags[*]}{.name}={.from.name} {end}`)
		got = strings.ReplaceAll(strings.TrimSpace(got), keycloak, "")
		if got != want {
			t.Errorf("%s: want tags %q, got %q", reason, want, got)
		}
	}
	for _, c := range []struct{ reason, kind, patch, tags string }{
		{"a strategic merge knows tags by their names, as oc patches them", "strategic",
			`{"spec":{"tags":[{"name":"20.0","from":{"kind":"DockerImage","name":"` + keycloak + `:20.0.3"}}]}}`, "19.0=:19.0 20.0=:20.0.3"},
		{"a JSON patch names a place", "json", `[{"op":"remove","path":"/spec/tags/0"}]`, "20.0=:20.0.3"},
		{"a merge patch replaces the list", "merge",
			`{"spec":{"tags":[{"name":"1","from":{"kind":"DockerImage","name":"` + keycloak + `:20.0.1"}}]}}`, "1=:20.0.1"},
	} {
		p.kubectl("patch", "is", "keycloak", "--type", c.kind, "--patch", c.patch)
		tags(c.reason, c.tags)
	}
	p.tagMeans("keycloak", "1", served(t, keycloak+":20.0.1"))

	before := p.kubectl("get", "is", "keycloak", "--output", "jsonpath={.metadata.resourceVersion}")
	p.apply(streamManifest("keycloak", local, "3="+keycloak+":20.0.3"), "--server-side", "--field-manager", "git", "--dry-run=server")
	p.kubectl("delete", "is", "keycloak", "--dry-run=server")
	if after := p.kubectl("get", "is", "keycloak", "--output", "jsonpath={.metadata.resourceVersion}"); after != before {
		t.Errorf("a dry run changes nothing: resourceVersion %s became %s", before, after)
	}
	p.refused(p.tryApply(strings.Replace(streamOf("keycloak", local), "lookupPolicy", "lookupPolcy", 1)), `unknown field "spec.lookupPolcy"`)
}

func TestAppliersOwnTheirTags(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	apply := func(manager string, tags ...string) harness.Result {
		return p.tryApply(streamManifest("keycloak", local, tags...), "--server-side", "--field-manager", manager)
	}
	tags := func(reason, want string) {
		t.Helper()
		got := p.kubectl("get", "is", "keycloak", "--output", `jsonpath={range .spec.tags[*]}{.name}={.from.name} {end}`)
		if got = strings.ReplaceAll(strings.TrimSpace(got), keycloak, ""); got != want {
			t.Errorf("%s: want tags %q, got %q", reason, want, got)
		}
	}
	p.check(apply("git", "1="+keycloak+":20.0.2").Err())
	p.refused(apply("other", "1="+keycloak+":20.0.3"), "conflict", `"git"`)
	p.check(apply("other", "2="+keycloak+":20.0.3").Err())
	tags("two appliers own a tag each", "1=:20.0.2 2=:20.0.3")
	p.check(apply("git", "1="+keycloak+":20.0.1").Err())
	p.tagMeans("keycloak", "1", served(t, keycloak+":20.0.1"))
	tags("each changes its own, whatever imports wrote meanwhile", "1=:20.0.1 2=:20.0.3")
	p.check(apply("git").Err())
	tags("what its owner no longer applies is gone, and nothing else", "2=:20.0.3")
}

func TestNamesThatAreNone(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	images := env.Images().ImageV1()
	stream := func(name string) func() error {
		return func() error {
			_, err := images.ImageStreams(p.name).Create(t.Context(), &imagev1.ImageStream{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
			return err
		}
	}
	tag := func(name string, from *corev1.ObjectReference) func() error {
		return func() error {
			_, err := images.ImageStreamTags(p.name).Create(t.Context(),
				&imagev1.ImageStreamTag{ObjectMeta: metav1.ObjectMeta{Name: name}, Tag: &imagev1.TagReference{From: from}}, metav1.CreateOptions{})
			return err
		}
	}
	pullSpec := &corev1.ObjectReference{Kind: "DockerImage", Name: keycloak + ":20.0.2"}
	for name, c := range map[string]struct {
		reason string
		do     func() error
		want   metav1.StatusReason
		says   string
	}{
		"capital":       {"streams are written small", stream("Keycloak"), metav1.StatusReasonInvalid, `metadata.name`},
		"slash":         {"a stream is no path", stream("a/b"), metav1.StatusReasonInvalid, `metadata.name`},
		"dots":          {"nor a folder", stream(".."), metav1.StatusReasonInvalid, `metadata.name`},
		"colon":         {"nor a tag", stream("a:b"), metav1.StatusReasonInvalid, `metadata.name`},
		"long":          {"with its namespace it fits into an image's name", stream(strings.Repeat("a", 254)), metav1.StatusReasonInvalid, `metadata.name`},
		"no tag":        {"a tag of a stream names both", tag("keycloak", pullSpec), metav1.StatusReasonInvalid, "<stream>:<tag>"},
		"empty tag":     {"and neither is empty", tag("keycloak:", pullSpec), metav1.StatusReasonInvalid, "<stream>:<tag>"},
		"two colons":    {"there are two parts", tag("a:b:c", pullSpec), metav1.StatusReasonInvalid, "<stream>:<tag>"},
		"bad tag":       {"a tag must be one for registries too", tag("keycloak:Bad Tag!", pullSpec), metav1.StatusReasonInvalid, "tag.name"},
		"bad stream":    {"the stream of a tag is a stream", tag("Key:1", pullSpec), metav1.StatusReasonInvalid, "metadata.name"},
		"pull spec":     {"a pull spec can be parsed", tag("k:1", &corev1.ObjectReference{Kind: "DockerImage", Name: "quay.io/Not/An:Image:1"}), metav1.StatusReasonInvalid, "tag.from.name"},
		"from kind":     {"there are three kinds to come from", tag("k:1", &corev1.ObjectReference{Kind: "Pod", Name: "x"}), metav1.StatusReasonInvalid, "tag.from.kind"},
		"from nothing":  {"a source has a name", tag("k:1", &corev1.ObjectReference{Kind: "DockerImage"}), metav1.StatusReasonInvalid, "tag.from.name"},
		"no stream":     {"a source exists", tag("k:1", &corev1.ObjectReference{Kind: "ImageStreamTag", Name: "nonesuch:1"}), metav1.StatusReasonInvalid, "nonesuch"},
		"no such tag":   {"what is not there is not found", func() error { _, err := p.istag(t.Context(), "nonesuch:1"); return err }, metav1.StatusReasonNotFound, "nonesuch"},
		"half a name":   {"half a name is nobody's", func() error { _, err := p.istag(t.Context(), "keycloak"); return err }, metav1.StatusReasonBadRequest, "<name>:<tag>"},
		"no such image": {"nor is this", func() error { _, err := images.Images().Get(t.Context(), "sha256:0", metav1.GetOptions{}); return err }, metav1.StatusReasonNotFound, "sha256:0"},
	} {
		t.Run(name, func(t *testing.T) {
			wants(t, c.reason, c.do(), c.want, c.says)
		})
	}
	if left, err := images.ImageStreams(p.name).List(t.Context(), metav1.ListOptions{}); err != nil || len(left.Items) > 0 {
		t.Errorf("what is refused leaves nothing behind: %v, %d streams", err, len(left.Items))
	}
}

func TestWhatCannotChange(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.apply(streamOf("s", local, "{name: '1'}"))
	is, err := p.is(t.Context(), "s")
	p.check(err)
	streams := env.Images().ImageV1().ImageStreams(p.name)
	patched := func(name, patch string) error {
		_, err := streams.Patch(t.Context(), name, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
		return err
	}
	unversioned := is.DeepCopy()
	unversioned.ResourceVersion = ""
	_, err = streams.Update(t.Context(), unversioned, metav1.UpdateOptions{})
	wants(t, "a PUT says which version it is of, as in OpenShift", err, metav1.StatusReasonInvalid, "metadata.resourceVersion")
	wants(t, "a name is for ever", patched("s", `{"metadata":{"name":"other"}}`), metav1.StatusReasonBadRequest, "name")
	wants(t, "so is a uid", patched("s", `{"metadata":{"uid":"other"}}`), metav1.StatusReasonInvalid, "metadata.uid")
	wants(t, "an old version is too late", patched("s", `{"metadata":{"resourceVersion":"1"},"spec":{"lookupPolicy":{"local":false}}}`), metav1.StatusReasonConflict, "modified")
	wants(t, "what is too large is refused before it is read", patched("s", `{"metadata":{"annotations":{"a":"`+strings.Repeat("a", 4<<20)+`"}}}`), metav1.StatusReasonRequestEntityTooLarge, "")
	after, err := p.is(t.Context(), "s")
	p.check(err)
	if after.ResourceVersion != is.ResourceVersion {
		t.Errorf("none of that wrote anything: resourceVersion %s became %s", is.ResourceVersion, after.ResourceVersion)
	}
}

// TestRecordsAreNotForHands tries what a backup tool, or somebody who remembers the first release, would.
func TestRecordsAreNotForHands(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.apply(streamOf("s", local, "{name: '1'}"))
	record := &storev1.StreamRecord{ObjectMeta: metav1.ObjectMeta{Namespace: p.name, Name: "by-hand"}}
	wants(t, "a record says who did what, so that nobody may write it", env.Client().Create(t.Context(), record), metav1.StatusReasonForbidden, "image.openshift.io/v1")
	wants(t, "the same goes for images", env.Client().Create(t.Context(), &storev1.ImageRecord{ObjectMeta: metav1.ObjectMeta{Name: "sha256-" + strings.Repeat("0", 64)}}),
		metav1.StatusReasonForbidden, "image.openshift.io/v1")
	p.refused(p.try("label", "streamrecord", "s", "changed=yes"), "image.openshift.io/v1", "ImageStreams")
	p.kubectl("delete", "streamrecord", store.RecordName("s"))
	if result := p.try("get", "is", "s"); result.Code == 0 {
		t.Error("deletion is for RBAC to allow: a stream is gone with its record")
	}
}

func TestStreamsArePagedSelectedAndSorted(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	var manifests, want []string
	for i := range 5 {
		name := fmt.Sprintf("s%d", i)
		manifest := streamManifest(name, local, "b="+keycloak+":20.0.1", "a="+keycloak+":20.0.2")
		manifests = append(manifests, strings.Replace(manifest, "metadata: {", fmt.Sprintf(`metadata: {labels: {odd: "%t"}, `, i%2 == 1), 1))
		want = append(want, name+":a", name+":b")
	}
	p.apply(strings.Join(manifests, "\n---\n"))
	for _, istag := range want {
		stream, tag, _ := strings.Cut(istag, ":")
		p.tagMeans(stream, tag, served(t, map[string]string{"a": keycloak + ":20.0.2", "b": keycloak + ":20.0.1"}[tag]))
	}
	list := func(flags ...string) []string {
		t.Helper()
		names := strings.Fields(p.kubectl(append([]string{"get", "istag", "--output", "name"}, flags...)...))
		for i := range names {
			names[i] = strings.TrimPrefix(names[i], "imagestreamtag.image.openshift.io/")
		}
		return names
	}
	for reason, c := range map[string]struct {
		flags []string
		want  []string
	}{
		"tags are in order": {nil, want},
		"pages lose nothing, which they do in OpenShift":    {[]string{"--chunk-size", "3"}, want},
		"a tag has its stream's labels":                     {[]string{"--selector", "odd=true"}, []string{"s1:a", "s1:b", "s3:a", "s3:b"}},
		"a tag is found by its name, which OpenShift lacks": {[]string{"--field-selector", "metadata.name=s2:b"}, []string{"s2:b"}},
	} {
		if got := list(c.flags...); !slices.Equal(got, c.want) {
			t.Errorf("%s: want %q, got %q", reason, c.want, got)
		}
	}
	p.kubectl("delete", "is", "--selector", "odd=false")
	if got := list(); !slices.Equal(got, []string{"s1:a", "s1:b", "s3:a", "s3:b"}) {
		t.Errorf("with a stream its tags are gone: %q are left", got)
	}
}
