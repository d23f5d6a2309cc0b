package store

import (
	"encoding/json"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	imagev1 "github.com/openshift/api/image/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	storev1 "istag.dev/store/v1"
)

// FuzzAccept writes one spec after the other, as the API server does, and checks what must hold after
// each write that is not refused.
func FuzzAccept(f *testing.F) {
	f.Add([]byte(`[{"tags":[{"name":"a","from":{"kind":"DockerImage","name":"quay.io/a/b:1"}}]},
		{"tags":[{"name":"a","from":{"kind":"DockerImage","name":"quay.io/a/b:1"},"generation":0},{"name":"b","from":{"kind":"ImageStreamTag","name":"a"}}]}]`))
	f.Add([]byte(`[{"tags":[{"name":"z","from":{"kind":"ImageStreamTag","name":"other:t"}},{"name":"a","from":{"kind":"ImageStreamTag","name":"s:z"}}]},
		{"tags":[{"name":"z","from":{"kind":"ImageStreamImage","name":"other@bbbb"}},{"name":"a","from":{"kind":"ImageStreamTag","name":"z"}}]},{}]`))
	f.Add([]byte(`[{"tags":[{"name":"a","from":{"kind":"ImageStreamTag","name":"b"}},{"name":"b","from":{"kind":"ImageStreamTag","name":"a"}}]}]`))
	f.Add([]byte(`[{"tags":[{"name":"a","annotations":{"istag.dev/follow":"true"},"from":{"kind":"ImageStreamTag","name":"other:t","namespace":"elsewhere"}}],
		"dockerImageRepository":"quay.io/a/b"},{"tags":[{"name":"a","reference":true,"from":{"kind":"DockerImage","name":"x"}}]}]`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var specs []imagev1.ImageStreamSpec
		if json.Unmarshal(data, &specs) != nil || len(specs) > 8 {
			t.Skip()
		}
		write(t, specs)
	})
}

// TestAcceptRandomSpecs does the same with specs that are seldom refused.
func TestAcceptRandomSpecs(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	pick := func(words ...string) string { return words[random.IntN(len(words))] }
	for range 500 {
		specs := make([]imagev1.ImageStreamSpec, 6)
		for i := range specs {
			for range random.IntN(5) {
				tag := imagev1.TagReference{Name: pick("a", "b", "c", "d"), Reference: random.IntN(4) == 0}
				if random.IntN(8) == 0 {
					tag.Generation = ptr.To(random.Int64N(2))
				}
				if random.IntN(3) == 0 {
					tag.Annotations = map[string]string{FollowAnnotation: "true"}
				}
				switch random.IntN(5) {
				case 0:
					tag.From = &corev1.ObjectReference{Kind: KindDockerImage, Name: pick("quay.io/a/b:1", "quay.io/a/b:2")}
				case 1, 2:
					tag.From = &corev1.ObjectReference{Kind: KindImageStreamTag, Name: pick("a", "b", "s:c", "d", "other:t", "other:absent")}
				case 3:
					tag.From = &corev1.ObjectReference{Kind: KindImageStreamImage, Name: pick("other@aaaa", "other@bbbb", "aaaa")}
				}
				specs[i].Tags = append(specs[i].Tags, tag)
			}
		}
		write(t, specs)
		if t.Failed() {
			t.Fatalf("specs %+v", specs)
		}
	}
}

// write writes specs one after the other, with an import after each, and leaves out what is refused.
func write(t *testing.T, specs []imagev1.ImageStreamSpec) {
	t.Helper()
	c := otherStreams(t, "alice")
	var record *storev1.StreamRecord
	for i := range specs {
		next := recordOf("s")
		var old *imagev1.ImageStreamSpec
		if record != nil {
			next, old = record.DeepCopy(), record.Spec.DeepCopy()
		}
		next.Spec = *specs[i].DeepCopy()
		errs, err := Accept(next, old, c)
		if err != nil {
			t.Fatalf("only a Source can fail: %v", err)
		}
		if len(errs) > 0 || len(Validate(next, record, onlyQuay)) > 0 {
			continue
		}
		checkInvariants(t, next)
		for _, image := range []string{digestA, digestB}[:i%3%2+1] {
			if i := slices.IndexFunc(next.Spec.Tags, func(tag imagev1.TagReference) bool { return Pending(next, &tag) }); i >= 0 {
				RecordImport(next, next.Spec.Tags[i].Name, Import{Reference: "quay.io/x@" + image, Image: image}, c.Now)
				checkInvariants(t, next)
			}
		}
		record = next
	}
}

func checkInvariants(t *testing.T, r *storev1.StreamRecord) {
	t.Helper()
	again := r.DeepCopy()
	if errs, err := Accept(again, r.Spec.DeepCopy(), by("bob")); err != nil || len(errs) > 0 {
		t.Errorf("what was accepted is accepted: %v, %v", errs, err)
	}
	again.Generation = r.Generation // The importer leaves it to the storage.
	if diff := cmp.Diff(r, again); diff != "" {
		t.Errorf("accepting twice changes once: -first +second:\n%s", diff)
	}
	byName := func(a, b imagev1.TagReference) int { return strings.Compare(a.Name, b.Name) }
	if !slices.IsSortedFunc(r.Spec.Tags, byName) {
		t.Errorf("tags are sorted: %+v", r.Spec.Tags)
	}
	for i := range r.Spec.Tags {
		tag := &r.Spec.Tags[i]
		if tag.Generation == nil || *tag.Generation < 1 || *tag.Generation > r.Record.Generation {
			t.Errorf("tag %q: generation %v, the stream's is %d", tag.Name, tag.Generation, r.Record.Generation)
		}
		target, ok := AliasTarget(r, tag)
		if !ok {
			continue
		}
		want, got := Latest(&r.Status, target), Latest(&r.Status, tag.Name)
		if want != nil && (got == nil || got.Image != want.Image || got.DockerImageReference != want.DockerImageReference) {
			t.Errorf("tag %q means what %q means: %+v, %+v", tag.Name, target, got, want)
		}
	}
	for _, list := range r.Status.Tags {
		if list.Items == nil || len(list.Items)+len(list.Conditions) == 0 {
			t.Errorf("a status entry says something: %+v", list)
		}
		if len(list.Items) > 0 && Origin(r, list.Tag) == nil {
			t.Errorf("tag %q: an event has an origin", list.Tag)
		}
	}
	if len(r.Record.Requests) != len(r.Spec.Tags) {
		t.Errorf("each tag of spec has a request: %d, %d", len(r.Record.Requests), len(r.Spec.Tags))
	}
}
