package imports

import (
	"encoding/json"
	"strings"
	"testing"

	imagev1 "github.com/openshift/api/image/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"istag.dev/resolver/upstream"
	storev1 "istag.dev/store/v1"
)

func TestBadInput(t *testing.T) {
	docker := func(name string) corev1.ObjectReference {
		return corev1.ObjectReference{Kind: "DockerImage", Name: name}
	}
	one := func(edit func(*imagev1.ImageImportSpec)) func(*imagev1.ImageStreamImport) {
		return func(isi *imagev1.ImageStreamImport) { edit(&isi.Spec.Images[0]) }
	}
	repository := func(edit func(*imagev1.RepositoryImportSpec)) func(*imagev1.ImageStreamImport) {
		return func(isi *imagev1.ImageStreamImport) {
			isi.Spec.Repository = &imagev1.RepositoryImportSpec{From: docker("quay.io/a/b")}
			edit(isi.Spec.Repository)
		}
	}
	cases := map[string]struct {
		reason string
		edit   func(*imagev1.ImageStreamImport)
		field  string
	}{
		"NoName":         {"an import is into a stream", func(i *imagev1.ImageStreamImport) { i.Name = "" }, "metadata.name"},
		"Name":           {"a stream's name has rules", func(i *imagev1.ImageStreamImport) { i.Name = "Web" }, "metadata.name"},
		"NamePath":       {"a name is no path", func(i *imagev1.ImageStreamImport) { i.Name = "a/b" }, "metadata.name"},
		"NameLong":       {"a name is bounded with its namespace", func(i *imagev1.ImageStreamImport) { i.Name = strings.Repeat("a", 252) }, "metadata.name"},
		"Nothing":        {"there must be something to import", func(i *imagev1.ImageStreamImport) { i.Spec.Images = nil }, "spec"},
		"NoFrom":         {"an image comes from somewhere", one(func(i *imagev1.ImageImportSpec) { i.From = docker("") }), "spec.images[0].from.name"},
		"NoKind":         {"a source has a kind", one(func(i *imagev1.ImageImportSpec) { i.From.Kind = "" }), "spec.images[0].from.kind"},
		"IstagFrom":      {"an istag is tagged, not imported", one(func(i *imagev1.ImageImportSpec) { i.From.Kind = "ImageStreamTag" }), "spec.images[0].from.kind"},
		"IsimageFrom":    {"so is an image of a stream", one(func(i *imagev1.ImageImportSpec) { i.From.Kind = "ImageStreamImage" }), "spec.images[0].from.kind"},
		"UpperCase":      {"what cannot be pulled cannot be imported", one(func(i *imagev1.ImageImportSpec) { i.From = docker("quay.io/A/b") }), "spec.images[0].from.name"},
		"Star":           {"a pattern is no pull spec", one(func(i *imagev1.ImageImportSpec) { i.From = docker("*") }), "spec.images[0].from.name"},
		"Scheme":         {"a URL is no pull spec", one(func(i *imagev1.ImageImportSpec) { i.From = docker("https://quay.io/a") }), "spec.images[0].from.name"},
		"SHA512":         {"images are known by sha256", one(func(i *imagev1.ImageImportSpec) { i.From = docker("a@sha512:" + strings.Repeat("0", 128)) }), "spec.images[0].from.name"},
		"EmptyTo":        {"a target has a name", one(func(i *imagev1.ImageImportSpec) { i.To = &corev1.LocalObjectReference{} }), "spec.images[0].to.name"},
		"BadTo":          {"a tag's name has rules", one(func(i *imagev1.ImageImportSpec) { i.To = &corev1.LocalObjectReference{Name: "Bad Tag!"} }), "spec.images[0].to.name"},
		"ImportMode":     {"there are two modes", one(func(i *imagev1.ImageImportSpec) { i.ImportPolicy.ImportMode = "Best" }), "spec.images[0].importPolicy.importMode"},
		"Reference":      {"there are two policies", one(func(i *imagev1.ImageImportSpec) { i.ReferencePolicy.Type = "local" }), "spec.images[0].referencePolicy.type"},
		"RepositoryTag":  {"a repository has no tag", repository(func(r *imagev1.RepositoryImportSpec) { r.From = docker("quay.io/a/b:1") }), "spec.repository.from.name"},
		"RepositoryID":   {"a repository has no digest", repository(func(r *imagev1.RepositoryImportSpec) { r.From = docker("a@sha256:" + strings.Repeat("0", 64)) }), "spec.repository.from.name"},
		"RepositoryNone": {"a repository has a name", repository(func(r *imagev1.RepositoryImportSpec) { r.From = docker("") }), "spec.repository.from.name"},
		"RepositoryKind": {"a repository is of container images", repository(func(r *imagev1.RepositoryImportSpec) { r.From.Kind = "ImageStream" }), "spec.repository.from.kind"},
		"RepositoryMode": {"there are two modes", repository(func(r *imagev1.RepositoryImportSpec) { r.ImportPolicy.ImportMode = "x" }), "spec.repository.importPolicy.importMode"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			isi := f.request(f.from("a/b:1", "latest"))
			tc.edit(isi)
			_, err := f.create(isi)
			if err == nil {
				t.Fatalf("%s: it was accepted", tc.reason)
			}
			reason, causes := statusOfError(t, err)
			check(t, tc.reason, metav1.StatusReasonInvalid, reason)
			if len(causes) != 1 || !strings.HasPrefix(causes[0], tc.field+": ") {
				t.Errorf("%s: the error names %q alone: %q", tc.reason, tc.field, causes)
			}
			if !strings.HasPrefix(err.Error(), "ImageStreamImport.image.openshift.io ") {
				t.Errorf("the error names what the user sent: %v", err)
			}
			check(t, "nothing is asked", 0, len(f.seen()))
		})
	}
}

// FuzzPlan feeds what a client may send: whatever is accepted can be asked for.
func FuzzPlan(f *testing.F) {
	f.Add([]byte(`{"metadata":{"name":"ruby"},"spec":{"import":true,"images":[{"from":{"kind":"DockerImage","name":"quay.io/a/b:1"},"to":{"name":"latest"}}]}}`))
	f.Add([]byte(`{"metadata":{"name":"a"},"spec":{"repository":{"from":{"kind":"DockerImage","name":"nginx"},"importPolicy":{"importMode":"PreserveOriginal"}}}}`))
	f.Add([]byte(`{"metadata":{"name":"a"},"spec":{"images":[{"from":{"kind":"DockerImage","name":"a:1@sha256:0000000000000000000000000000000000000000000000000000000000000000"}}]}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var isi imagev1.ImageStreamImport
		if json.Unmarshal(text, &isi) != nil {
			return
		}
		isi.Namespace = ns
		setDefaults(&isi)
		if len(validate(&isi)) > 0 {
			return
		}
		list := planImages(&isi, &storev1.StreamRecord{})
		if len(list) != len(isi.Spec.Images) {
			t.Fatalf("%d images, %d plans", len(isi.Spec.Images), len(list))
		}
		if isi.Spec.Repository != nil {
			tags, _ := planRepository(isi.Spec.Repository, []string{"latest", "1.0"}, -1)
			list = append(list, tags...)
		}
		for _, w := range list {
			if err := upstream.Check(w.request.PullSpec); err != nil {
				t.Errorf("%q cannot be asked for: %v", w.request.PullSpec, err)
			}
			if w.tag != "" && !tagName.MatchString(w.tag) || w.remote != "" && !tagName.MatchString(w.remote) {
				t.Errorf("%q: no tag is named %q or %q", w.request.PullSpec, w.tag, w.remote)
			}
		}
	})
}
