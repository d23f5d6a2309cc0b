package follower

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	imagev1 "github.com/openshift/api/image/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"istag.dev/store"
	storev1 "istag.dev/store/v1"
)

func check(t *testing.T, reason string, want, got any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", reason, diff)
	}
}

func TestLifeOfAFollower(t *testing.T) {
	f := newFixture(t, source("shop", "base"), asked(stream("shop", "app--x", follow("prod", "base:1"), copyOf("same", "prod"), copyOf("once", "base:1")), "alice"))
	check(t, "a new follower gets what its source means, in one write", []string{"write shop/app--x"}, f.settle())
	check(t, "and says so", []string{fmt.Sprintf("Normal TagFollowed tag %q is now %s (follows base:1)", "prod", digests[0])}, f.told())
	check(t, "the tag that follows the follower in its own stream moves in the same write", []int{0}, f.history("shop", "app--x", "same"))
	check(t, "a copy without the annotation is not the follower's business", []int{}, f.history("shop", "app--x", "once"))
	origin := store.Origin(f.get("shop", "app--x"), "prod")
	check(t, "the event says how it came", "Follow base:1 alice", fmt.Sprintf("%s %s %s", origin.Via, origin.Source, origin.By.User))

	f.move("shop", "base", "1", digests[1])
	check(t, "a source that moves moves its follower", []string{"write shop/app--x"}, f.settle())
	f.move("shop", "base", "1", digests[0])
	f.settle()
	check(t, "moving back is an event as well", []int{0, 1, 0}, f.history("shop", "app--x", "prod"))
	f.told()

	f.move("shop", "base", "other", digests[2])
	check(t, "another tag of the source costs no write", []string(nil), f.settle())
	f.edit("shop", "base", func(r *storev1.StreamRecord) { r.Labels = map[string]string{"a": "b"} })
	check(t, "labels of a source wake nobody", []string(nil), f.drain())

	f.edit("shop", "app--x", func(r *storev1.StreamRecord) { r.Spec.Tags[0].Annotations = nil })
	f.move("shop", "base", "1", digests[2])
	check(t, "a tag whose annotation is gone follows no more", []string(nil), f.settle())
	check(t, "and nothing was told", []string(nil), f.told())
}

func TestMissingSources(t *testing.T) {
	f := newFixture(t, source("shop", "base"), stream("shop", "app", follow("prod", "base:1")))
	f.settle()
	f.told()

	f.remove("shop", "base")
	check(t, "the end of a source is one write", []string{"write shop/app"}, f.settle())
	const gone = `NotFound: the tag follows "base:1", but there is no stream "base" in namespace "shop"`
	check(t, "it is the tag's condition", gone, f.failure("shop", "app", "prod"))
	check(t, "it is told", []string{`Warning FollowFailed tag "prod": ` + gone}, f.told())
	check(t, "what the tag meant it means still", []int{0}, f.history("shop", "app", "prod"))
	if _, err := f.try("shop", "app"); err != nil {
		t.Fatal(err)
	}
	check(t, "looking again writes nothing", []string(nil), f.settle())

	f.create(stream("shop", "base"))
	f.settle()
	check(t, "a stream without the tag is no better", `NotFound: the tag follows "base:1", but stream "base" has no tag "1"`, f.failure("shop", "app", "prod"))
	f.edit("shop", "base", func(r *storev1.StreamRecord) { r.Spec.Tags = []imagev1.TagReference{{Name: "1"}} })
	f.settle()
	check(t, "a tag that is still to be imported is waited for", `NotFound: "base:1", which the tag follows, has no image yet`, f.failure("shop", "app", "prod"))
	f.move("shop", "base", "1", digests[1])
	f.settle()
	check(t, "the condition goes when the image comes", "", f.failure("shop", "app", "prod"))
	check(t, "and the tag moves", []int{1, 0}, f.history("shop", "app", "prod"))
}

func TestRecordNameIsNoStreamName(t *testing.T) {
	f := newFixture(t, source("shop", "base--os"), stream("shop", "app", follow("prod", "base--os:1")))
	f.settle()
	check(t, "a stream goes by its own name only, for which rights are given", `NotFound: the tag follows "base--os:1", but there is no stream "base--os" in namespace "shop"`, f.failure("shop", "app", "prod"))
}

func TestChains(t *testing.T) {
	chain := func(source string) []*storev1.StreamRecord {
		return []*storev1.StreamRecord{
			asked(stream("three", "c", follow("1", "two/b:out")), "carol"),
			asked(stream("two", "b", follow("in", source), copyOf("out", "in")), "bob"),
			stream("one", "other"),
		}
	}
	f := newFixture(t, append(chain("one/a:1"), source("one", "a"))...)
	writes := func() (writes []string) {
		for _, call := range f.settle() {
			if strings.HasPrefix(call, "write ") {
				writes = append(writes, call)
			}
		}
		slices.Sort(writes)
		return writes
	}
	check(t, "a chain that is made with all its streams there is written once for each", []string{"write three/c", "write two/b"}, writes())
	f.move("one", "a", "1", digests[1])
	check(t, "the whole chain settles with one write each", []string{"write three/c", "write two/b"}, writes())
	check(t, "with the root's image", []int{1, 0}, f.history("three", "c", "1"))

	f.move("one", "a", "1", digests[2])
	f.drain()
	if _, err := f.try("three", "c"); err != nil {
		t.Fatal(err)
	}
	check(t, "the last of a chain need not wait for those before it", []int{2, 1, 0}, f.history("three", "c", "1"))
	check(t, "which are still to be written", []int{1, 0}, f.history("two", "b", "out"))
	if _, err := f.try("two", "b"); err != nil {
		t.Fatal(err)
	}
	check(t, "and their write gives nobody another", []string{"write three/c", "write two/b"}, writes())

	f.remove("one", "a")
	f.settle()
	check(t, "where a chain is cut, who is cut off says so", `NotFound: the tag follows "one/a:1", but there is no stream "a" in namespace "one"`, f.failure("two", "b", "in"))
	check(t, "and those after it follow what that one has", "", f.failure("three", "c", "1"))
}

func TestManyFollowers(t *testing.T) {
	f := newFixture(t, source("shop", "s0"), stream("shop", "bystander", copyOf("1", "s0:1")))
	for i := range 12 {
		f.create(stream("shop", fmt.Sprintf("s%d", i+1), follow("1", fmt.Sprintf("s%d:1", i))))
	}
	f.settle()
	f.move("shop", "s0", "1", digests[1])
	check(t, "a chain of twelve settles with one write each", 12, len(f.settle()))
	check(t, "to its end", []int{1, 0}, f.history("shop", "s12", "1"))
}

func TestLoops(t *testing.T) {
	f := newFixture(t,
		source("one", "outside"),
		asked(stream("one", "a", follow("1", "two/b:in")), "alice"),
		asked(stream("two", "b", follow("in", "three/c:1"), copyOf("out", "in")), "bob"),
		asked(stream("three", "c", follow("1", "one/a:1")), "carol"),
		asked(stream("three", "tail", follow("1", "one/a:1")), "carol"),
	)
	f.edit("one", "a", func(r *storev1.StreamRecord) { setImage(r, "1", digests[0]) })
	f.edit("two", "b", func(r *storev1.StreamRecord) { setImage(r, "in", digests[1]) })
	f.settle()
	const message = "Invalid: the tag follows itself: %s; make one of these follow something else"
	check(t, "a loop over namespaces is named", fmt.Sprintf(message, "one/a:1 -> two/b:in -> three/c:1 -> one/a:1"), f.failure("one", "a", "1"))
	check(t, "on each of its tags", fmt.Sprintf(message, "two/b:in -> three/c:1 -> one/a:1 -> two/b:in"), f.failure("two", "b", "in"))
	check(t, "from where it stands", fmt.Sprintf(message, "three/c:1 -> one/a:1 -> two/b:in -> three/c:1"), f.failure("three", "c", "1"))
	check(t, "nothing on it moves", [][]int{{0}, {1}, {}}, [][]int{f.history("one", "a", "1"), f.history("two", "b", "in"), f.history("three", "c", "1")})
	check(t, "what follows a tag of a loop has what that tag has", []int{0}, f.history("three", "tail", "1"))
	check(t, "and is not itself at fault", "", f.failure("three", "tail", "1"))

	f.clock.Step(time.Hour)
	for _, name := range []string{"one/a", "two/b", "three/c"} {
		namespace, record, _ := strings.Cut(name, "/")
		if _, err := f.try(namespace, record); err != nil {
			t.Fatal(err)
		}
	}
	for _, call := range f.settle() {
		if strings.HasPrefix(call, "write ") {
			t.Errorf("a loop is at rest, but there was %q", call)
		}
	}

	f.edit("three", "c", func(r *storev1.StreamRecord) { r.Spec.Tags[0] = follow("1", "one/outside:1") })
	f.settle()
	for _, name := range []string{"one/a/1", "two/b/in", "three/c/1"} {
		part := strings.Split(name, "/")
		check(t, "a loop that is undone settles by itself", "", f.failure(part[0], part[1], part[2]))
		check(t, "to the new root's image", 0, f.history(part[0], part[1], part[2])[0])
	}
}

func TestLoopThroughTheTagsOfOneStream(t *testing.T) {
	f := newFixture(t, stream("shop", "a", follow("in", "b:1"), copyOf("out", "in")), stream("shop", "b", follow("1", "a:out")))
	f.settle()
	check(t, "a loop may go through tags of one stream that follow each other", "Invalid: the tag follows itself: shop/b:1 -> shop/a:out -> shop/a:in -> shop/b:1; make one of these follow something else", f.failure("shop", "b", "1"))
}

func TestLongLoop(t *testing.T) {
	f := newFixture(t)
	const length = 25
	for i := range length {
		f.create(stream("shop", fmt.Sprintf("s%02d", i), follow("1", fmt.Sprintf("s%02d:1", (i+1)%length))))
	}
	f.settle()
	want := "Invalid: the tag follows itself: shop/s00:1 -> shop/s01:1 -> shop/s02:1 -> shop/s03:1 -> shop/s04:1 -> shop/s05:1 -> shop/s06:1 -> shop/s07:1 -> shop/s08:1 -> shop/s09:1 -> 15 more -> shop/s00:1; make one of these follow something else"
	check(t, "a long loop is found, and its message stays readable", want, f.failure("shop", "s00", "1"))
}

func TestRights(t *testing.T) {
	f := newFixture(t, source("base", "os--x"), asked(stream("shop", "app", follow("prod", "base/os_x:1")), "alice"))
	f.denied["alice base/os_x"] = true
	check(t, "a right is asked for before the source is looked at, and a no is not kept", []string{"ask alice base/os_x", "write shop/app", "ask alice base/os_x"}, f.settle())
	const denied = `Forbidden: the tag follows "base/os_x:1" for user "alice", who may not use stream "os_x" of namespace "base": that needs "get" on imagestreams/layers there; have it granted, or set the tag as a user who has it`
	check(t, "a right that is missing is the tag's condition", denied, f.failure("shop", "app", "prod"))
	f.remove("base", "os--x")
	f.settle()
	check(t, "who has no right does not learn whether the stream is there", denied, f.failure("shop", "app", "prod"))
	f.create(source("base", "os--x"))
	f.settle()

	result, err := f.try("shop", "app")
	if err != nil {
		t.Fatal(err)
	}
	check(t, "it is asked for again later", recheckEvery, result.RequeueAfter)
	f.denied["alice base/os_x"] = false
	f.calls = nil
	if _, err = f.try("shop", "app"); err != nil {
		t.Fatal(err)
	}
	check(t, "a right given counts the next time", []string{"ask alice base/os_x", "write shop/app"}, f.settle())
	check(t, "and brings the image", []int{0}, f.history("shop", "app", "prod"))

	f.denied["alice base/os_x"] = true
	f.clock.Step(allowedFor / 2)
	f.move("base", "os--x", "1", digests[1])
	check(t, "a right is good for a moment without asking", []string{"write shop/app"}, f.settle())
	f.clock.Step(allowedFor)
	f.move("base", "os--x", "1", digests[2])
	check(t, "and no longer", []string{"ask alice base/os_x", "write shop/app", "ask alice base/os_x"}, f.settle())
	check(t, "a right taken away becomes the condition", denied, f.failure("shop", "app", "prod"))
	check(t, "and what the tag meant it means still", []int{1, 0}, f.history("shop", "app", "prod"))
}

func TestRightsOfEachHop(t *testing.T) {
	f := newFixture(t, source("one", "a"),
		asked(stream("two", "b", follow("1", "one/a:1")), "bob"),
		asked(stream("three", "c", follow("1", "two/b:1")), "carol"),
	)
	f.settle()
	check(t, "nobody needs a right to what they follow only through others", []int{0}, f.history("three", "c", "1"))
	f.denied["bob one/a"] = true
	f.clock.Step(time.Minute)
	f.move("one", "a", "1", digests[1])
	f.settle()
	check(t, "a chain is cut at the follower who lost the right", []int{0}, f.history("three", "c", "1"))
	check(t, "where it is told", "Forbidden", f.failure("two", "b", "1")[:len("Forbidden")])
	check(t, "and only there", "", f.failure("three", "c", "1"))
}

func TestNobodyKnownToHaveAsked(t *testing.T) {
	f := newFixture(t, source("base", "os"), stream("shop", "app", follow("prod", "base/os:1")))
	check(t, "without an identity nothing is asked", []string{"write shop/app"}, f.settle())
	check(t, "and nothing followed", `Forbidden: the tag follows "base/os:1" of another namespace, and it is not known who made it do so; set the tag's "from" again, as a user who may get imagestreams/layers there`, f.failure("shop", "app", "prod"))
}

func TestManyTagsAskOnce(t *testing.T) {
	r := stream("shop", "app", follow("1", "base/os:1"), follow("2", "base/os:1"), follow("3", "base/os:1"))
	f := newFixture(t, source("base", "os"), asked(r, "alice"))
	f.denied["alice base/os"] = true
	check(t, "tags that need the same right share the question, also when the answer is no", []string{"ask alice base/os", "write shop/app", "ask alice base/os"}, f.settle())
}

func TestOneQuestionFails(t *testing.T) {
	r := stream("shop", "app", follow("far", "base/os:1"), follow("near", "here:1"))
	f := newFixture(t, source("base", "os"), source("shop", "here"), asked(r, "alice"))
	f.fail = func(call string) error {
		if strings.HasPrefix(call, "ask ") {
			return errors.New("the authorizer is down")
		}
		return nil
	}
	if _, err := f.try("shop", "app"); err == nil || !strings.Contains(err.Error(), `asking whether user "alice" may use stream "os" of namespace "base": the authorizer is down`) {
		t.Errorf("what could not be asked is tried again: %v", err)
	}
	check(t, "the other tags need not wait", []int{0}, f.history("shop", "app", "near"))
	check(t, "and nothing is said of the one", "", f.failure("shop", "app", "far"))
}

func TestWritesThatFail(t *testing.T) {
	records := schema.GroupResource{Group: storev1.GroupVersion.Group, Resource: "streamrecords"}
	cases := map[string]struct {
		reason string
		err    error
		after  time.Duration
		fails  bool
	}{
		"Conflict": {reason: "someone else wrote meanwhile: look again soon", err: apierrors.NewConflict(records, "app", errors.New("newer")), after: conflictDelay},
		"NotFound": {reason: "the record is gone: nothing to do", err: apierrors.NewNotFound(records, "app")},
		"Down":     {reason: "anything else is tried again with back-off", err: apierrors.NewGenericServerResponse(http.StatusBadGateway, "PUT", records, "app", "", 0, false), fails: true},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, source("shop", "base"), stream("shop", "app", follow("prod", "base:1")))
			f.fail = func(string) error { return tc.err }
			result, err := f.try("shop", "app")
			if result.RequeueAfter != tc.after || (err != nil) != tc.fails {
				t.Errorf("%s: got %+v, %v", tc.reason, result, err)
			}
			check(t, "what was not written is not told", []string(nil), f.told())
		})
	}
	f := newFixture(t)
	if result, err := f.try("shop", "gone"); err != nil || !result.IsZero() {
		t.Errorf("a record that is gone wants nothing: %+v, %v", result, err)
	}
}
