package pruner

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
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	testingclock "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	ctrlconfig "sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/event"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	storev1 "istag.dev/store/v1"
)

// limit of the tests' histories.
const limit = 3

var t0 = metav1.NewTime(time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC))

func check(t *testing.T, reason string, want, got any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", reason, diff)
	}
}

type fixture struct {
	*Reconciler

	t     *testing.T
	api   client.Client
	clock *testingclock.FakePassiveClock
	pods  []corev1.Pod
	// lists are the pages of pods that were asked for, by where they begin.
	lists  []string
	writes int
	// listErr is the answer to the page of pods that begins there.
	listErr map[string]error
	// writeErr is the answer to writes.
	writeErr error
}

func newFixture(t *testing.T, records ...client.Object) *fixture {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := errors.Join(storev1.AddToScheme(scheme), corev1.AddToScheme(scheme)); err != nil {
		t.Fatal(err)
	}
	f := &fixture{
		t:       t,
		api:     fake.NewClientBuilder().WithScheme(scheme).WithObjects(records...).Build(),
		clock:   testingclock.NewFakePassiveClock(t0.Time),
		listErr: map[string]error{},
	}
	intercepted := interceptor.NewClient(f.api.(client.WithWatch), interceptor.Funcs{
		List: f.list,
		Update: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.UpdateOption) error {
			if f.writeErr != nil {
				return f.writeErr
			}
			f.writes++
			return c.Update(ctx, o, opts...)
		},
	})
	f.Reconciler = New(intercepted, intercepted, Options{Limit: limit, Clock: f.clock})
	return f
}

// list answers in pages, as an API server does.
func (f *fixture) list(_ context.Context, _ client.WithWatch, list client.ObjectList, opts ...client.ListOption) error {
	var o client.ListOptions
	o.ApplyOptions(opts)
	f.lists = append(f.lists, o.Continue)
	if err := f.listErr[o.Continue]; err != nil {
		return err
	}
	begin, _ := strconv.Atoi(o.Continue)
	page, ok := list.(*corev1.PodList)
	if !ok || o.Limit == 0 || o.Namespace != "" {
		return fmt.Errorf("listed %T with %+v", list, o)
	}
	end := min(begin+int(o.Limit), len(f.pods))
	page.Items = f.pods[begin:end]
	if end < len(f.pods) {
		page.Continue = strconv.Itoa(end)
	}
	return nil
}

// seen is what one reconcile did.
type seen struct {
	Lists  []string
	Writes int
	After  time.Duration
}

func (f *fixture) reconcile() seen {
	f.t.Helper()
	s, err := f.try()
	if err != nil {
		f.t.Fatal(err)
	}
	return s
}

func (f *fixture) try() (seen, error) {
	f.t.Helper()
	result, err := f.Reconcile(f.t.Context(), reconcile.Request{NamespacedName: client.ObjectKey{Namespace: "shop", Name: "app"}})
	s := seen{f.lists, f.writes, result.RequeueAfter}
	f.lists, f.writes = nil, 0
	return s, err
}

// history returns which images a tag has, newest first, by their numbers.
func (f *fixture) history(tag string) []int {
	f.t.Helper()
	var record storev1.StreamRecord
	if err := f.api.Get(f.t.Context(), client.ObjectKey{Namespace: "shop", Name: "app"}, &record); err != nil {
		f.t.Fatal(err)
	}
	numbers := []int{}
	for _, list := range record.Status.Tags {
		for _, e := range list.Items {
			if list.Tag == tag {
				numbers = append(numbers, int(e.Generation))
			}
		}
	}
	return numbers
}

func digest(n int) string { return fmt.Sprintf("sha256:%064x", n) }

// stream makes stream "app" with a tag of each name that has so many events, the newest numbered highest.
func stream(tags map[string]int) *storev1.StreamRecord {
	r := &storev1.StreamRecord{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "app", UID: "u1"}}
	for tag, n := range tags {
		list := imagev1.NamedTagEventList{Tag: tag}
		for i := n; i > 0; i-- {
			list.Items = append(list.Items, imagev1.TagEvent{
				Created: metav1.NewTime(t0.Add(time.Duration(i) * time.Minute)), DockerImageReference: "quay.io/app@" + digest(i), Image: digest(i), Generation: int64(i),
			})
		}
		r.Status.Tags = append(r.Status.Tags, list)
	}
	slices.SortFunc(r.Status.Tags, func(a, b imagev1.NamedTagEventList) int { return strings.Compare(a.Tag, b.Tag) })
	return r
}

// running makes a pod in a phase that was told to run an image.
func running(n int, phase corev1.PodPhase) corev1.Pod {
	var pod corev1.Pod
	pod.Spec.Containers = []corev1.Container{{Name: "a", Image: "quay.io/app@" + digest(n)}}
	pod.Status.Phase = phase
	return pod
}

func TestPrune(t *testing.T) {
	with := func(change func(*corev1.Pod)) corev1.Pod {
		var pod corev1.Pod
		change(&pod)
		return pod
	}
	status := func(id string) []corev1.ContainerStatus { return []corev1.ContainerStatus{{ImageID: id}} }
	cases := map[string]struct {
		reason string
		pod    corev1.Pod
		kept   []int
	}{
		"NoPods":    {"without pods the newest stay", corev1.Pod{}, []int{6, 5, 4}},
		"Running":   {"what a pod runs stays, and takes the place of a newer one", running(1, corev1.PodRunning), []int{6, 5, 1}},
		"Pending":   {"a pod that is not started yet will want its image", running(1, corev1.PodPending), []int{6, 5, 1}},
		"Unknown":   {"so may a pod that nobody can see", running(1, corev1.PodUnknown), []int{6, 5, 1}},
		"Succeeded": {"a pod that is done runs nothing", running(1, corev1.PodSucceeded), []int{6, 5, 4}},
		"Failed":    {"nor does one that failed", running(1, corev1.PodFailed), []int{6, 5, 4}},
		"Init": {"init containers count", with(func(p *corev1.Pod) {
			p.Spec.InitContainers = []corev1.Container{{Image: "quay.io/app:v1@" + digest(2)}}
		}), []int{6, 5, 2}},
		"Ephemeral": {"so do ephemeral ones", with(func(p *corev1.Pod) {
			p.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Image: "quay.io/app@" + digest(2)}}}
		}), []int{6, 5, 2}},
		"ByTag":   {"a tag says nothing of a digest", with(func(p *corev1.Pod) { p.Spec.Containers = []corev1.Container{{Image: "quay.io/app:v1"}} }), []int{6, 5, 4}},
		"ImageID": {"but the node says what it runs", with(func(p *corev1.Pod) { p.Status.ContainerStatuses = status("quay.io/app@" + digest(3)) }), []int{6, 5, 3}},
		"ImageIDInit": {"for init containers too", with(func(p *corev1.Pod) {
			p.Status.InitContainerStatuses = status("docker-pullable://quay.io/app@" + digest(3))
		}), []int{6, 5, 3}},
		"ImageIDEphem": {"and for ephemeral ones, in whatever form", with(func(p *corev1.Pod) { p.Status.EphemeralContainerStatuses = status(digest(3)) }), []int{6, 5, 3}},
		"ImageIDOther": {"whatever the runtime puts before it", with(func(p *corev1.Pod) { p.Status.ContainerStatuses = status("docker://" + digest(3)) }), []int{6, 5, 3}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, stream(map[string]int{"long": 6, "short": 3}))
			f.pods = []corev1.Pod{tc.pod}
			check(t, "one list, one write", seen{Lists: []string{""}, Writes: 1}, f.reconcile())
			check(t, tc.reason, tc.kept, f.history("long"))
			check(t, "a tag within the limit keeps all", []int{3, 2, 1}, f.history("short"))
			check(t, "what is short enough costs nothing", seen{}, f.reconcile())
		})
	}
}

func TestPages(t *testing.T) {
	f := newFixture(t, stream(map[string]int{"long": 5}))
	for range 2 * podsPerPage {
		f.pods = append(f.pods, running(5, corev1.PodRunning))
	}
	f.pods = append(f.pods, running(1, corev1.PodRunning))
	f.listErr["1000"] = apierrors.NewResourceExpired("too old")
	if _, err := f.try(); err == nil {
		t.Error("a list that breaks off is tried again")
	}
	check(t, "if not all pods are known nothing is dropped", []int{5, 4, 3, 2, 1}, f.history("long"))
	delete(f.listErr, "1000")
	check(t, "pods are listed in pages", seen{Lists: []string{"", "500", "1000"}, Writes: 1}, f.reconcile())
	check(t, "the last page counts", []int{5, 4, 1}, f.history("long"))
}

func TestAllInUse(t *testing.T) {
	f := newFixture(t, stream(map[string]int{"long": 5}))
	for n := range 5 {
		f.pods = append(f.pods, running(n+1, corev1.PodRunning))
	}
	check(t, "if all is in use nothing is written", seen{Lists: []string{""}, After: inUsePause}, f.reconcile())
	f.clock.SetTime(t0.Add(inUsePause / 3))
	check(t, "and pods are not listed again for a while, whoever wakes us", seen{After: inUsePause * 2 / 3}, f.reconcile())
	f.clock.SetTime(t0.Add(inUsePause))
	f.pods = f.pods[1:]
	check(t, "after it they are", seen{Lists: []string{""}, Writes: 1}, f.reconcile())
	check(t, "and what is free goes", []int{5, 4, 3, 2}, f.history("long"))
	check(t, "the rest is looked at again", seen{Lists: []string{""}, After: inUsePause}, f.reconcile())

	var record storev1.StreamRecord
	if err := f.api.Get(t.Context(), client.ObjectKey{Namespace: "shop", Name: "app"}, &record); err != nil {
		t.Fatal(err)
	}
	if err := f.api.Delete(t.Context(), &record); err != nil {
		t.Fatal(err)
	}
	again := stream(map[string]int{"long": 5})
	again.UID = "u2"
	if err := f.api.Create(t.Context(), again); err != nil {
		t.Fatal(err)
	}
	check(t, "another stream of the name does not wait for the first", seen{Lists: []string{""}, Writes: 1}, f.reconcile())
}

func TestErrors(t *testing.T) {
	records := schema.GroupResource{Group: storev1.GroupVersion.Group, Resource: "streamrecords"}
	cases := map[string]struct {
		reason            string
		listErr, writeErr error
		after             time.Duration
		fails             bool
	}{
		"Pods":     {reason: "pods that cannot be listed are tried again with back-off", listErr: errors.New("down"), fails: true},
		"Conflict": {reason: "someone else wrote meanwhile: look again soon", writeErr: apierrors.NewConflict(records, "app", errors.New("newer")), after: conflictDelay},
		"NotFound": {reason: "the record is gone: nothing to do", writeErr: apierrors.NewNotFound(records, "app")},
		"Down":     {reason: "anything else is tried again with back-off", writeErr: errors.New("down"), fails: true},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, stream(map[string]int{"long": 5}))
			f.listErr[""], f.writeErr = tc.listErr, tc.writeErr
			s, err := f.try()
			if s.After != tc.after || (err != nil) != tc.fails {
				t.Errorf("%s: got %+v, %v", tc.reason, s, err)
			}
			check(t, "nothing is dropped", []int{5, 4, 3, 2, 1}, f.history("long"))
		})
	}
	check(t, "a record that is gone wants nothing", seen{}, newFixture(t).reconcile())
}

func TestWhatIsLookedAt(t *testing.T) {
	p := tooLong{limit}
	long, short := stream(map[string]int{"a": limit + 1}), stream(map[string]int{"a": limit})
	newer := long.DeepCopy()
	newer.ResourceVersion = "2"
	for reason, ok := range map[string]bool{
		"a stream that is too long is looked at after a restart":  p.Create(event.CreateEvent{Object: long}),
		"a stream within the limit never is":                      !p.Create(event.CreateEvent{Object: short}),
		"a stream that got too long is":                           p.Update(event.UpdateEvent{ObjectOld: short, ObjectNew: newer}),
		"a resync is not":                                         !p.Update(event.UpdateEvent{ObjectOld: newer, ObjectNew: newer}),
		"the end of a stream that may wait is, to forget it":      p.Delete(event.DeleteEvent{Object: long}),
		"other objects are none of ours":                          !p.Create(event.CreateEvent{Object: &corev1.Pod{}}),
		"the limit is 50 unless the configuration says otherwise": New(nil, nil, Options{}).limit == 50,
	} {
		if !ok {
			t.Error(reason)
		}
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
	if err := Add(mgr, Options{}); err != nil {
		t.Error(err)
	}
}
