package imports

import (
	"context"
	"errors"
	"strings"
	"testing"

	imagev1 "github.com/openshift/api/image/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	storev1 "istag.dev/store/v1"
)

var pushedDigest = "sha256:" + strings.Repeat("ab", 32)

func mapping(edit func(*imagev1.ImageStreamMapping)) *imagev1.ImageStreamMapping {
	m := &imagev1.ImageStreamMapping{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Tag:        "latest",
		Image:      imagev1.Image{ObjectMeta: metav1.ObjectMeta{Name: pushedDigest}, DockerImageReference: "r.example.com/shop/web@" + pushedDigest},
	}
	if edit != nil {
		edit(m)
	}
	return m
}

func (f *fixture) stream(repository string) {
	f.streams.put(&storev1.StreamRecord{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "web"},
		Spec:       imagev1.ImageStreamSpec{DockerImageRepository: repository},
		Status:     imagev1.ImageStreamStatus{DockerImageRepository: repository},
		Record:     storev1.StreamEnvelope{Generation: 1},
	})
}

func (f *fixture) mapImage(m *imagev1.ImageStreamMapping, options *metav1.CreateOptions) (runtime.Object, error) {
	return NewMappings(f.streams, f.images).Create(f.context(), m, nil, options)
}

func TestMapping(t *testing.T) {
	withoutReference := func(m *imagev1.ImageStreamMapping) { m.Image.DockerImageReference = "" }
	managed := &imagev1.Image{
		ObjectMeta:           metav1.ObjectMeta{Name: pushedDigest, UID: "1", Annotations: map[string]string{imagev1.ManagedByOpenShiftAnnotation: "true"}},
		DockerImageReference: "local/other/app@" + pushedDigest,
	}
	cases := map[string]struct {
		reason     string
		repository string
		known      *imagev1.Image
		edit       func(*imagev1.ImageStreamMapping)
		want       string
	}{
		"Given":        {reason: "the pull spec is the one that was given", want: "r.example.com/shop/web@" + pushedDigest},
		"Filled":       {reason: "without one it is the stream's own repository", repository: "local/shop/web", edit: withoutReference, want: "local/shop/web@" + pushedDigest},
		"Managed":      {reason: "an image of the cluster's registry is in the stream's own repository", repository: "local/shop/web", known: managed, want: "local/shop/web@" + pushedDigest},
		"ManagedNoOwn": {reason: "unless the stream has none", known: managed, want: "r.example.com/shop/web@" + pushedDigest},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.stream(tc.repository)
			if tc.known != nil {
				f.images.images[pushedDigest] = tc.known
			}
			got, err := f.mapImage(mapping(tc.edit), &metav1.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			check(t, "the answer is a status, which the server makes a 201", runtime.Object(&metav1.Status{Status: "Success"}), got)
			event := f.streams.records["web"].Status.Tags[0].Items[0]
			check(t, tc.reason, []string{tc.want, pushedDigest}, []string{event.DockerImageReference, event.Image})
			if f.images.images[pushedDigest] == nil {
				t.Error("the image is kept")
			}
		})
	}
}

func TestMappingRefused(t *testing.T) {
	cases := map[string]struct {
		reason string
		edit   func(*imagev1.ImageStreamMapping)
		want   metav1.StatusReason
		field  string
	}{
		"NoStream":    {"the stream is made first", func(m *imagev1.ImageStreamMapping) { m.Name = "absent" }, metav1.StatusReasonNotFound, ""},
		"Name":        {"a stream's name has rules", func(m *imagev1.ImageStreamMapping) { m.Name = "Web" }, metav1.StatusReasonInvalid, "metadata.name"},
		"NoTag":       {"an image is pushed for a tag", func(m *imagev1.ImageStreamMapping) { m.Tag = "" }, metav1.StatusReasonInvalid, "tag"},
		"Tag":         {"a tag's name has rules", func(m *imagev1.ImageStreamMapping) { m.Tag = "a/b" }, metav1.StatusReasonInvalid, "tag"},
		"NoImage":     {"an image has a digest", func(m *imagev1.ImageStreamMapping) { m.Image.Name = "" }, metav1.StatusReasonInvalid, "image.metadata.name"},
		"NoDigest":    {"an image's name is its digest", func(m *imagev1.ImageStreamMapping) { m.Image.Name = "web" }, metav1.StatusReasonInvalid, "image.metadata.name"},
		"Reference":   {"a pull spec must be one", func(m *imagev1.ImageStreamMapping) { m.Image.DockerImageReference = "A b" }, metav1.StatusReasonInvalid, "image.dockerImageReference"},
		"NoReference": {"an image is somewhere", func(m *imagev1.ImageStreamMapping) { m.Image.DockerImageReference = "" }, metav1.StatusReasonInvalid, "image.dockerImageReference"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.stream("")
			_, err := f.mapImage(mapping(tc.edit), &metav1.CreateOptions{})
			if err == nil {
				t.Fatalf("%s: it was accepted", tc.reason)
			}
			reason, causes := statusOfError(t, err)
			check(t, tc.reason, tc.want, reason)
			if tc.field != "" && (len(causes) != 1 || !strings.HasPrefix(causes[0], tc.field+": ")) {
				t.Errorf("%s: the error names %q: %q", tc.reason, tc.field, causes)
			}
			check(t, "nothing is kept", 0, len(f.images.images))
		})
	}
}

func TestMappingConflict(t *testing.T) {
	f := newFixture(t)
	f.stream("")
	other := "sha256:" + strings.Repeat("cd", 32)
	another := func(tag string) func() {
		return func() {
			m := mapping(func(m *imagev1.ImageStreamMapping) {
				m.Tag, m.Image.Name, m.Image.DockerImageReference = tag, other, "r.example.com/shop/web@"+other
			})
			if _, err := f.mapImage(m, &metav1.CreateOptions{}); err != nil {
				t.Error(err)
			}
		}
	}
	f.streams.meanwhile = another("other")
	if _, err := f.mapImage(mapping(nil), &metav1.CreateOptions{}); err != nil {
		t.Errorf("a push to another tag is no matter: %v", err)
	}
	f.streams.meanwhile = another("v2")
	_, err := f.mapImage(mapping(func(m *imagev1.ImageStreamMapping) { m.Tag = "v2" }), &metav1.CreateOptions{})
	if !apierrors.IsConflict(err) {
		t.Errorf("a push to the same tag is a conflict: %v", err)
	}
	check(t, "and the first one stays", []string{other}, f.history("v2"))
}

func TestMappingDryRunAndPolicies(t *testing.T) {
	f := newFixture(t)
	f.stream("")
	if _, err := f.mapImage(mapping(nil), &metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}); err != nil {
		t.Fatal(err)
	}
	check(t, "a dry run writes nothing", []int{1, 0}, []int{f.streams.writes, len(f.images.images)})
	refused := errors.New("policy")
	_, err := NewMappings(f.streams, f.images).Create(f.context(), mapping(nil), func(context.Context, runtime.Object) error { return refused }, &metav1.CreateOptions{})
	check(t, "what a policy refuses is refused", true, errors.Is(err, refused))
	f.images.refuse = apierrors.NewServiceUnavailable("etcd is away")
	if _, err := f.mapImage(mapping(nil), &metav1.CreateOptions{}); err != f.images.refuse { //nolint:errorlint // What is wrapped becomes a 500.
		t.Errorf("an error of the store is returned as it is: %v", err)
	}
}
