package importer

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	imagev1 "github.com/openshift/api/image/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrlconfig "sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/event"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"istag.dev/resolver/upstream"
	"istag.dev/store"
	storev1 "istag.dev/store/v1"
)

const keycloak = "quay.io/keycloak/keycloak"

func imageRecord(digest string) string { return store.ImageRecordName(digest) }

func check(t *testing.T, reason string, want, got any) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(seen{})); diff != "" {
		t.Errorf("%s (-want +got):\n%s", reason, diff)
	}
}

func TestLifeOfATag(t *testing.T) {
	f := newFixture(t, stream("keycloak", image("20.0", keycloak+":20.0"), from("stable", store.KindImageStreamTag, "20.0")))
	f.registry.serve(keycloak+":20.0", digests[0])
	f.beforeWrite = func(r *storev1.StreamRecord) error {
		if history(r, "20.0") != nil && !slices.Equal(history(r, "20.0"), history(r, "stable")) {
			t.Error("a tag that follows another moves in the same write")
		}
		return nil
	}

	check(t, "a new tag is imported: one HEAD, one fetch, one image, one event", seen{
		writes:  []string{"create " + imageRecord(digests[0]), "update keycloak"},
		heads:   []string{keycloak + ":20.0"},
		fetches: []string{digests[0]},
		events:  []string{fmt.Sprintf("Normal TagImported tag %q is now %s (from %s:20.0)", "20.0", digests[0], keycloak)},
	}, f.reconcile("keycloak"))
	event := store.Latest(&f.get("keycloak").Status, "20.0")
	check(t, "the pull spec is the user's repository with the digest", keycloak+"@"+digests[0], event.DockerImageReference)
	check(t, "who last changed the tag asked for its image", "alice", store.Origin(f.get("keycloak"), "20.0").By.User)

	check(t, "a stream that wants nothing costs nothing", seen{}, f.reconcile("keycloak"))

	f.registry.serve(keycloak+":20.0", digests[1])
	f.reimport("keycloak", "20.0")
	f.clock.SetTime(f.clock.Now().Add(time.Hour))
	f.reconcile("keycloak")
	check(t, "a tag that moved upstream moves here", []string{digests[1], digests[0]}, history(f.get("keycloak"), "stable"))

	f.registry.serve(keycloak+":20.0", digests[0])
	f.reimport("keycloak", "20.0")
	f.clock.SetTime(f.clock.Now().Add(time.Hour))
	check(t, "a tag that moved back is news as well, but its image is known", seen{
		writes: []string{"update keycloak"},
		heads:  []string{keycloak + ":20.0"},
		events: []string{fmt.Sprintf("Normal TagImported tag %q is now %s (from %s:20.0)", "20.0", digests[0], keycloak)},
	}, f.reconcile("keycloak"))
	check(t, "moving back is a new event", []string{digests[0], digests[1], digests[0]}, history(f.get("keycloak"), "20.0"))

	f.reimport("keycloak", "20.0")
	check(t, "asking again for what did not change costs one HEAD and tells nobody", seen{
		writes: []string{"update keycloak"}, heads: []string{keycloak + ":20.0"},
	}, f.reconcile("keycloak"))
	check(t, "and adds nothing to the history", []string{digests[0], digests[1], digests[0]}, history(f.get("keycloak"), "20.0"))
	check(t, "images are never written twice", []string{imageRecord(digests[0]), imageRecord(digests[1])}, f.images())
}

func TestFailureAndRecovery(t *testing.T) {
	f := newFixture(t, stream("app", image("1", "r.io/app:1")))
	f.registry.serve("r.io/app:1", digests[0])
	f.reconcile("app")

	f.registry.fail("r.io/app:1", errUnreachable())
	f.reimport("app", "1")
	s := f.reconcile("app")
	check(t, "a failure is told", []string{`Warning ImportFailed tag "1": InternalError: no answer`}, s.events)
	check(t, "it becomes the tag's condition", "InternalError: no answer", failure(f.get("app"), "1"))
	check(t, "and takes the last good image from nobody", []string{digests[0]}, history(f.get("app"), "1"))

	for i, seconds := range []int{10, 20, 40, 80, 160, 320, 640, 750, 750} {
		base := time.Duration(seconds) * time.Second
		if s.after < base || s.after > min(base*6/5, 15*time.Minute) {
			t.Errorf("retry %d is after %s, not %s to a fifth more: back-off doubles from 10 s up to 15 min", i, s.after, base)
		}
		f.clock.SetTime(f.clock.Now().Add(s.after - time.Second))
		check(t, "no retry comes early, whoever wakes the reconciler", seen{after: time.Second}, f.reconcile("app"))
		f.clock.SetTime(f.clock.Now().Add(time.Second))
		s = f.reconcile("app")
		check(t, "the same failure again costs one HEAD, no write, no event", seen{heads: []string{"r.io/app:1"}, after: s.after}, s)
	}

	f.registry.fail("r.io/app:1", errNotFound("r.io/app:1"))
	f.clock.SetTime(f.clock.Now().Add(s.after))
	s = f.reconcile("app")
	check(t, "another failure is told again", []string{`Warning ImportFailed tag "1": NotFound: r.io/app:1: no such image`}, s.events)

	f.registry.serve("r.io/app:1", digests[1])
	f.clock.SetTime(f.clock.Now().Add(s.after))
	s = f.reconcile("app")
	check(t, "a success ends the retries", time.Duration(0), s.after)
	check(t, "and clears the condition", "", failure(f.get("app"), "1"))
	check(t, "and moves the tag", []string{digests[1], digests[0]}, history(f.get("app"), "1"))

	f.registry.fail("r.io/app:1", errUnreachable())
	f.reimport("app", "1")
	if s = f.reconcile("app"); s.after > 12*time.Second {
		t.Errorf("a success forgets earlier failures: next retry after %s", s.after)
	}
}

func TestRetryAfterRestart(t *testing.T) {
	f := newFixture(t, stream("app", image("1", "r.io/app:1")))
	f.reconcile("app")
	f.Reconciler = New(f.client, f.live, f.recorder, Options{Upstream: f.registry, Clock: f.clock})
	if !(needed{}).Create(event.CreateEvent{Object: f.get("app")}) {
		t.Error("a failing tag is among what the first list brings")
	}
	f.registry.serve("r.io/app:1", digests[0])
	f.reconcile("app")
	check(t, "failing tags are tried again after a restart", []string{digests[0]}, history(f.get("app"), "1"))
}

func TestChangedQuestionDoesNotWait(t *testing.T) {
	f := newFixture(t, stream("app", image("1", "r.io/app:1")))
	f.reconcile("app")
	f.edit("app", func(r *storev1.StreamRecord) { r.Spec.Tags[0].ImportPolicy.Insecure = true })
	if s := f.reconcile("app"); len(s.heads) != 1 {
		t.Error("a user who sets the insecure flag, as the message says, need not wait for the next retry")
	}
}

func TestTagsAreIndependent(t *testing.T) {
	f := newFixture(t, stream("app",
		image("bad", "r.io/bad:1"), image("good", "r.io/good:1"), image("same", "r.io/good:1"), image("twin", "r.io/good:2"),
		image("malformed", "Not A Name"),
	))
	f.registry.serve("r.io/good:1", digests[0])
	f.registry.serve("r.io/good:2", digests[0])
	f.registry.fail("Not A Name", &upstream.Error{Kind: upstream.Invalid, Message: `"Not A Name" is not a pull spec`})
	s := f.reconcile("app")
	slices.Sort(s.heads)
	check(t, "equal questions are asked once", []string{"Not A Name", "r.io/bad:1", "r.io/good:1", "r.io/good:2"}, s.heads)
	check(t, "equal images are fetched once", []string{digests[0]}, s.fetches)
	check(t, "all results make one write", []string{"create " + imageRecord(digests[0]), "update app"}, s.writes)
	record := f.get("app")
	for _, tag := range []string{"good", "same", "twin"} {
		check(t, "a failing tag does not stop the others", []string{digests[0]}, history(record, tag))
	}
	check(t, "each tag has its own condition", "NotFound: r.io/bad:1: no such image", failure(record, "bad"))
	check(t, "a pull spec that makes no sense is Invalid", `Invalid: "Not A Name" is not a pull spec`, failure(record, "malformed"))
}

func TestNewFailureDoesNotInheritBackOff(t *testing.T) {
	f := newFixture(t, stream("app", image("old", "r.io/old:1"), image("new", "r.io/new:1")))
	f.registry.serve("r.io/new:1", digests[0])
	s := f.reconcile("app")
	for range 8 {
		f.clock.SetTime(f.clock.Now().Add(s.after))
		s = f.reconcile("app")
	}
	f.registry.fail("r.io/new:1", errUnreachable())
	f.reimport("app", "new")
	s = f.reconcile("app")
	if s.after > 12*time.Second {
		t.Errorf("a tag that failed once is tried soon, whatever its neighbours did: after %s", s.after)
	}
	check(t, "and its neighbour is left in peace", []string{"r.io/new:1"}, s.heads)
}

func TestKindsThatNeedNoRegistry(t *testing.T) {
	f := newFixture(t, stream("app",
		from("alias", store.KindImageStreamTag, "1"),
		imagev1.TagReference{Name: "reference", Reference: true, From: image("", "r.io/x:1").From},
		imagev1.TagReference{Name: "bare"},
	))
	check(t, "tags of other kinds ask no registry and cost no write", seen{}, f.reconcile("app"))
}

func TestStreamWithAnUnderscore(t *testing.T) {
	f := newFixture(t, stream("src--name", image("1", "r.io/src:1")))
	f.registry.serve("r.io/src:1", digests[0])
	check(t, "a stream whose name has an underscore is imported as any other", 1, len(f.reconcile("src--name").events))
}

func TestConflictWhileImporting(t *testing.T) {
	cases := map[string]struct {
		reason string
		change func(*storev1.StreamRecord)
		want   map[string][]string
		writes []string
	}{
		"OtherTag": {
			reason: "results go on the newer version, and what is new in it is imported next",
			change: func(r *storev1.StreamRecord) { r.Spec.Tags = append(r.Spec.Tags, image("2", "r.io/app:2")) },
			want:   map[string][]string{"1": {digests[0]}, "2": {digests[1]}},
		},
		"From": {
			reason: "the result for a tag that now asks something else is dropped",
			change: func(r *storev1.StreamRecord) { r.Spec.Tags[0].From.Name = "r.io/app:2" },
			want:   map[string][]string{"1": {digests[1]}},
		},
		"Reimport": {
			reason: "a result from before the user asked anew is dropped",
			change: func(r *storev1.StreamRecord) { *r.Spec.Tags[0].Generation = 0 },
			want:   map[string][]string{"1": {digests[0]}},
		},
		"Removed": {
			reason: "a tag that is gone is not brought back",
			change: func(r *storev1.StreamRecord) { r.Spec.Tags = nil },
			want:   map[string][]string{"1": nil},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, stream("app", image("1", "r.io/app:1")))
			f.registry.serve("r.io/app:1", digests[0])
			f.registry.serve("r.io/app:2", digests[1])
			done := false
			f.registry.during = func(context.Context, string) {
				if !done {
					done = true
					f.edit("app", tc.change)
				}
			}
			s := f.reconcile("app")
			told := 0
			for _, e := range s.events {
				if strings.Contains(e, "TagImported") {
					told++
				}
			}
			record := f.get("app")
			if wants(record) {
				s = f.reconcile("app")
				told += len(s.events)
			}
			record = f.get("app")
			all := 0
			for tag, want := range tc.want {
				check(t, tc.reason, want, history(record, tag))
				all += len(want)
			}
			check(t, "each import is told once", all, told)
			check(t, "nothing is left to do", false, wants(record))
		})
	}
}

func TestConflictsWithoutEnd(t *testing.T) {
	f := newFixture(t, stream("app", image("1", "r.io/app:1")))
	f.registry.serve("r.io/app:1", digests[0])
	writes := 0
	f.beforeWrite = func(*storev1.StreamRecord) error {
		writes++
		return apierrors.NewConflict(storev1.GroupVersion.WithResource("streamrecords").GroupResource(), "app", errors.New("changed"))
	}
	s := f.reconcile("app")
	check(t, "a worker does not fight for ever", writeAttempts, writes)
	check(t, "and comes back", conflictDelay, s.after)
	check(t, "what was not written is not told", []string(nil), s.events)
}

// staleReader is a cache that lags behind.
type staleReader struct {
	client.Client

	stale *storev1.StreamRecord
}

func (s staleReader) Get(_ context.Context, _ client.ObjectKey, o client.Object, _ ...client.GetOption) error {
	s.stale.DeepCopyInto(o.(*storev1.StreamRecord))
	return nil
}

func TestStaleCache(t *testing.T) {
	f := newFixture(t, stream("app", image("1", "r.io/app:1")))
	f.registry.serve("r.io/app:1", digests[0])
	stale := f.get("app")
	f.reconcile("app")
	f.client = staleReader{f.client, stale}
	check(t, "a cache that does not show our own write yet makes us do nothing twice", seen{}, f.reconcile("app"))
}

func TestDeletedRecord(t *testing.T) {
	f := newFixture(t, stream("app", image("1", "r.io/app:1")))
	check(t, "a record that never was is nothing to do", seen{}, f.reconcile("nosuch"))

	f.registry.during = func(context.Context, string) {
		if err := f.api.Delete(t.Context(), f.get("app")); err != nil {
			t.Fatal(err)
		}
	}
	s := f.reconcile("app")
	check(t, "one that is deleted during its import is let go", seen{heads: []string{"r.io/app:1"}}, s)
	check(t, "and nothing is remembered of it", 0, len(f.retries.due))
}

func TestShutdown(t *testing.T) {
	f := newFixture(t, stream("app", image("1", "r.io/app:1")))
	ctx, cancel := context.WithCancel(t.Context())
	f.registry.during = func(context.Context, string) { cancel() }
	_, err := f.Reconcile(ctx, reconcile.Request{NamespacedName: client.ObjectKey{Namespace: namespace, Name: "app"}})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	check(t, "our end is not the registry's failure", "", failure(f.get("app"), "1"))
}

func TestTimeout(t *testing.T) {
	f := newFixture(t, stream("app", image("1", "r.io/app:1")))
	f.timeout = 10 * time.Millisecond
	f.registry.during = func(ctx context.Context, _ string) { <-ctx.Done() }
	s := f.reconcile("app")
	if s.after == 0 || !strings.HasPrefix(failure(f.get("app"), "1"), "InternalError: ") {
		t.Errorf("a registry that hangs fails the tag at the timeout: %+v, %q", s, failure(f.get("app"), "1"))
	}
}

func TestManySlowTags(t *testing.T) {
	var tags []imagev1.TagReference
	for i := range 3 * parallelTags {
		tags = append(tags, image(fmt.Sprintf("t%02d", i), fmt.Sprintf("r.io/slow:%02d", i)))
	}
	f := newFixture(t, stream("app", tags...))
	f.registry.during = func(context.Context, string) { f.clock.SetTime(f.clock.Now().Add(f.timeout)) }
	asked := 0
	for range 3 * parallelTags {
		s := f.reconcile("app")
		if s.heads == nil {
			break
		}
		asked += len(s.heads)
		if s.after == 0 {
			t.Error("what was not asked is asked next")
		}
		f.registry.during = nil
		if got := len(failing(f.get("app"))); got != asked {
			t.Errorf("%d tags asked, %d results shown: a stream does not wait for all its slow tags", asked, got)
		}
		if asked >= len(tags) {
			break
		}
	}
	check(t, "every tag has its turn, once", len(tags), asked)
}

func TestAPIServerTrouble(t *testing.T) {
	f := newFixture(t, stream("app", image("1", "r.io/app:1"), image("2", "r.io/app:2")))
	f.registry.serve("r.io/app:1", digests[0])
	f.beforeCreate = func() error { return apierrors.NewTimeoutError("etcd", 1) }
	_, err := f.tryReconcile("app")
	if !apierrors.IsTimeout(err) {
		t.Errorf("trouble of the API server is an error of the reconcile: %v", err)
	}
	record := f.get("app")
	check(t, "and not the tag's fault", "", failure(record, "1"))
	check(t, "results of other tags are kept", "NotFound: r.io/app:2: no such image", failure(record, "2"))

	f.beforeCreate = nil
	f.reconcile("app")
	check(t, "the tag is still to be imported", []string{digests[0]}, history(f.get("app"), "1"))
}

func TestImageThatCannotBeStored(t *testing.T) {
	f := newFixture(t, stream("app", image("1", "r.io/app:1")))
	f.registry.serve("r.io/app:1", digests[0])
	f.beforeCreate = func() error { return apierrors.NewRequestEntityTooLargeError("limit is 3145728") }
	f.reconcile("app")
	if got := failure(f.get("app"), "1"); !strings.HasPrefix(got, "Invalid: ") {
		t.Errorf("an image that the API server does not take fails its tag: %q", got)
	}
}

func TestImageAlreadyThere(t *testing.T) {
	known := &storev1.ImageRecord{
		ObjectMeta: metav1.ObjectMeta{Name: imageRecord(digests[0])},
		Image:      imagev1.Image{ObjectMeta: metav1.ObjectMeta{Name: digests[0]}, DockerImageReference: "r.io/app@" + digests[0]},
	}
	cases := map[string]struct {
		reason  string
		spec    string
		fetches []string
		err     error
		want    []string
	}{
		"SameRepository": {"an image that its repository was seen to have costs no fetch", "r.io/app:1", nil, nil, []string{digests[0]}},
		"Other":          {"another repository has to show that it holds the image", "evil.io/app:1", []string{digests[0]}, nil, []string{digests[0]}},
		"OtherWithout":   {"else a HEAD would give a stream a look at someone else's image", "evil.io/app:1", []string{digests[0]}, errNotFound("evil.io/app:1"), nil},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, stream("app", image("1", tc.spec)), known.DeepCopy())
			f.registry.serve(tc.spec, digests[0])
			if tc.err != nil {
				f.registry.fail(digests[0], tc.err)
			}
			s := f.reconcile("app")
			check(t, tc.reason, tc.fetches, s.fetches)
			check(t, tc.reason, tc.want, history(f.get("app"), "1"))
			check(t, "a record that exists is left alone", []string{"update app"}, s.writes)

			f.reimport("app", "1")
			if s := f.reconcile("app"); tc.err == nil && s.fetches != nil {
				t.Error("what a repository has once shown is not asked for again")
			}
		})
	}
}

func TestImageCreatedByAnother(t *testing.T) {
	f := newFixture(t, stream("app", image("1", "r.io/app:1")))
	f.registry.serve("r.io/app:1", digests[0])
	f.beforeCreate = func() error {
		return apierrors.NewAlreadyExists(storev1.GroupVersion.WithResource("imagerecords").GroupResource(), imageRecord(digests[0]))
	}
	f.reconcile("app")
	check(t, "an image that appears meanwhile is as good as ours", []string{digests[0]}, history(f.get("app"), "1"))
}

func TestNeeded(t *testing.T) {
	f := newFixture(t, stream("app", image("1", "r.io/app:1")))
	f.registry.serve("r.io/app:1", digests[0])
	f.reconcile("app")
	idle := f.get("app")
	changed := func(change func(*storev1.StreamRecord)) *storev1.StreamRecord {
		r := idle.DeepCopy()
		r.ResourceVersion = "next"
		change(r)
		return r
	}
	cases := map[string]struct {
		reason string
		record *storev1.StreamRecord
		want   bool
	}{
		"Resync":  {"a resync brings nothing new", idle, false},
		"Label":   {"labels are nobody's import", changed(func(r *storev1.StreamRecord) { r.Labels = map[string]string{"a": "b"} }), false},
		"Lookup":  {"the lookup policy is nobody's import", changed(func(r *storev1.StreamRecord) { r.Spec.LookupPolicy.Local = true }), false},
		"Again":   {"a tag that is asked for again", changed(func(r *storev1.StreamRecord) { *r.Spec.Tags[0].Generation = 9 }), true},
		"Pending": {"a tag without a result", changed(func(r *storev1.StreamRecord) { r.Status.Tags = nil }), true},
		"Failing": {"a tag that someone else found failing", changed(func(r *storev1.StreamRecord) {
			store.RecordImportFailure(r, "1", "NotFound", "gone", metav1.Now())
		}), true},
		"Deleted": {"a record on its way out", changed(func(r *storev1.StreamRecord) {
			r.Spec.Tags = nil
			r.DeletionTimestamp = &metav1.Time{Time: f.clock.Now()}
		}), false},
	}
	for name, tc := range cases {
		if got := (needed{}).Update(event.UpdateEvent{ObjectOld: idle, ObjectNew: tc.record}); got != tc.want {
			t.Errorf("%s: %s: got %t, want %t", name, tc.reason, got, tc.want)
		}
		if got := (needed{}).Create(event.CreateEvent{Object: tc.record}); got != tc.want {
			t.Errorf("%s: %s: at start: got %t, want %t", name, tc.reason, got, tc.want)
		}
	}
	if !(needed{}).Delete(event.DeleteEvent{Object: idle}) {
		t.Error("what is known of a record goes with it")
	}
}

func TestAdd(t *testing.T) {
	f := newFixture(t)
	mgr, err := ctrl.NewManager(&rest.Config{Host: "localhost:1"}, ctrl.Options{
		Scheme: f.api.Scheme(), Metrics: metricsserver.Options{BindAddress: "0"},
		// The name is taken after the first of several runs in one process.
		Controller:     ctrlconfig.Controller{SkipNameValidation: ptr.To(true)},
		MapperProvider: func(*rest.Config, *http.Client) (meta.RESTMapper, error) { return f.api.RESTMapper(), nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := Add(mgr, Options{Upstream: f.registry}); err != nil {
		t.Error(err)
	}
}

func BenchmarkIdleResync(b *testing.B) {
	record := stream("app")
	for i := range 10 {
		record.Spec.Tags = append(record.Spec.Tags, image(strconv.Itoa(i), fmt.Sprintf("r.io/app:%d", i)))
	}
	now := metav1.Now()
	if errs, err := store.Accept(record, nil, store.Change{Now: now}); err != nil || len(errs) > 0 {
		b.Fatal(errs, err)
	}
	for i := range 10 {
		store.RecordImport(record, strconv.Itoa(i), store.Import{Reference: "r.io/app@" + digests[0], Image: digests[0]}, now)
	}
	for b.Loop() {
		if wants(record) {
			b.Fatal("an idle stream wants nothing")
		}
	}
}
