package follower

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	imagev1 "github.com/openshift/api/image/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/workqueue"
	testingclock "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"istag.dev/store"
	storev1 "istag.dev/store/v1"
)

// digests of images, in the order of their release.
var digests = []string{
	"sha256:" + strings.Repeat("a", 64), "sha256:" + strings.Repeat("b", 64), "sha256:" + strings.Repeat("c", 64),
}

var t0 = metav1.NewTime(time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC))

// fixture is a cluster with a follower. Its writes reach the follower's queue as a watch would bring them.
type fixture struct {
	*Reconciler

	t       *testing.T
	api     client.Client
	clock   *testingclock.FakeClock
	events  *events.FakeRecorder
	handler handler.EventHandler
	queue   workqueue.TypedRateLimitingInterface[reconcile.Request]

	// denied names the rights that nobody has, as "user namespace/stream".
	denied map[string]bool
	// calls are what the follower did to the API server: "ask user namespace/stream", "write namespace/name".
	calls []string
	// read are the records that the current reconcile has read, as "namespace/name".
	read []string
	// fail is called before each write and each question for a right; an error is the call's.
	fail func(call string) error
}

func newFixture(t *testing.T, records ...*storev1.StreamRecord) *fixture {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{storev1.AddToScheme, authorizationv1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	f := &fixture{
		t:      t,
		api:    fake.NewClientBuilder().WithScheme(scheme).WithIndex(&storev1.StreamRecord{}, indexField, sources).Build(),
		clock:  testingclock.NewFakeClock(t0.Add(time.Hour + 500)),
		events: events.NewFakeRecorder(100),
		queue:  workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[reconcile.Request]()),
		denied: map[string]bool{},
		fail:   func(string) error { return nil },
	}
	t.Cleanup(f.queue.ShutDown)
	f.handler = onSource(f.api)
	intercepted := interceptor.NewClient(f.api.(client.WithWatch), interceptor.Funcs{Get: f.onGet, Update: f.onUpdate, Create: f.onCreate})
	f.Reconciler = New(intercepted, f.events, Options{Clock: f.clock})
	for _, record := range records {
		f.create(record)
	}
	return f
}

func (f *fixture) onGet(ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
	f.read = append(f.read, key.String())
	return c.Get(ctx, key, o, opts...)
}

func (f *fixture) onUpdate(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.UpdateOption) error {
	call := "write " + client.ObjectKeyFromObject(o).String()
	if err := f.fail(call); err != nil {
		return err
	}
	before := f.get(o.GetNamespace(), o.GetName())
	if err := c.Update(ctx, o, opts...); err != nil {
		return err
	}
	f.calls = append(f.calls, call)
	f.changed(before, o)
	return nil
}

func (f *fixture) onCreate(_ context.Context, _ client.WithWatch, o client.Object, _ ...client.CreateOption) error {
	review, ok := o.(*authorizationv1.SubjectAccessReview)
	if !ok {
		return fmt.Errorf("the follower creates a %T", o)
	}
	a := review.Spec.ResourceAttributes
	if a.Verb != "get" || a.Group != "image.openshift.io" || a.Resource != "imagestreams" || a.Subresource != "layers" {
		f.t.Errorf("asked for the wrong right: %+v", a)
	}
	right := fmt.Sprintf("%s %s/%s", review.Spec.User, a.Namespace, a.Name)
	// The first read is that of the record whose tags follow.
	if slices.Contains(f.read[1:], a.Namespace+"/"+store.RecordName(a.Name)) {
		f.t.Errorf("stream %s/%s was read before it was known that %s may", a.Namespace, a.Name, review.Spec.User)
	}
	f.calls = append(f.calls, "ask "+right)
	review.Status.Allowed = !f.denied[right]
	return f.fail("ask " + right)
}

// changed tells the follower's queue of a change as the watch does; before is nil for a new record.
func (f *fixture) changed(before, after client.Object) {
	ctx := f.t.Context()
	var own bool
	if before == nil {
		own = following{}.Create(event.CreateEvent{Object: after})
		f.handler.Create(ctx, event.CreateEvent{Object: after}, f.queue)
	} else {
		e := event.UpdateEvent{ObjectOld: before, ObjectNew: after}
		own = following{}.Update(e)
		f.handler.Update(ctx, e, f.queue)
	}
	if own {
		f.queue.Add(reconcile.Request{NamespacedName: client.ObjectKeyFromObject(after)})
	}
}

// settle reconciles what is in the queue, and what that brings into it, until it is empty, and returns
// what was done to the API server.
func (f *fixture) settle() []string {
	f.t.Helper()
	for range 1000 {
		if f.queue.Len() == 0 {
			calls := f.calls
			f.calls = nil
			return calls
		}
		req, _ := f.queue.Get()
		if _, err := f.try(req.Namespace, req.Name); err != nil {
			f.t.Fatal(err)
		}
		f.queue.Done(req)
	}
	f.t.Fatalf("the followers never come to rest; last calls: %v", f.calls[len(f.calls)-10:])
	return nil
}

// try reconciles one record.
func (f *fixture) try(namespace, name string) (reconcile.Result, error) {
	f.read = nil
	return f.Reconcile(f.t.Context(), reconcile.Request{NamespacedName: client.ObjectKey{Namespace: namespace, Name: name}})
}

// drain empties the queue and returns what was in it.
func (f *fixture) drain() []string {
	var names []string
	for f.queue.Len() > 0 {
		req, _ := f.queue.Get()
		names = append(names, req.String())
		f.queue.Done(req)
	}
	slices.Sort(names)
	return names
}

// told returns the events since the last call.
func (f *fixture) told() []string {
	var told []string
	for len(f.events.Events) > 0 {
		told = append(told, <-f.events.Events)
	}
	return told
}

func (f *fixture) create(record *storev1.StreamRecord) {
	f.t.Helper()
	if err := f.api.Create(f.t.Context(), record); err != nil {
		f.t.Fatal(err)
	}
	f.changed(nil, record)
}

func (f *fixture) remove(namespace, name string) {
	f.t.Helper()
	record := f.get(namespace, name)
	if err := f.api.Delete(f.t.Context(), record); err != nil {
		f.t.Fatal(err)
	}
	f.handler.Delete(f.t.Context(), event.DeleteEvent{Object: record}, f.queue)
}

// edit changes a record as someone else would.
func (f *fixture) edit(namespace, name string, change func(*storev1.StreamRecord)) {
	f.t.Helper()
	before := f.get(namespace, name)
	after := before.DeepCopy()
	change(after)
	if err := f.api.Update(f.t.Context(), after); err != nil {
		f.t.Fatal(err)
	}
	f.changed(before, after)
}

// move makes a tag mean another image, as an import would.
func (f *fixture) move(namespace, name, tag, digest string) {
	f.t.Helper()
	f.edit(namespace, name, func(r *storev1.StreamRecord) { setImage(r, tag, digest) })
}

func (f *fixture) get(namespace, name string) *storev1.StreamRecord {
	f.t.Helper()
	var record storev1.StreamRecord
	if err := f.api.Get(f.t.Context(), client.ObjectKey{Namespace: namespace, Name: name}, &record); err != nil {
		f.t.Fatal(err)
	}
	return &record
}

// history returns the images of a tag, newest first, as indices of digests.
func (f *fixture) history(namespace, name, tag string) []int {
	f.t.Helper()
	images := []int{}
	for _, list := range f.get(namespace, name).Status.Tags {
		if list.Tag == tag {
			for _, e := range list.Items {
				images = append(images, slices.Index(digests, e.Image))
			}
		}
	}
	return images
}

// failure returns the reason and message of a tag's failure, "" if it has none.
func (f *fixture) failure(namespace, name, tag string) string {
	f.t.Helper()
	c := store.ImportFailure(&f.get(namespace, name).Status, tag)
	if c == nil {
		return ""
	}
	return c.Reason + ": " + c.Message
}

// stream makes a stream with spec tags.
func stream(namespace, name string, tags ...imagev1.TagReference) *storev1.StreamRecord {
	r := &storev1.StreamRecord{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	r.Spec.Tags = tags
	r.Record.Generation = 1
	for i := range tags {
		r.Spec.Tags[i].Generation = ptr.To[int64](1)
	}
	return r
}

// source makes a stream whose tag "1" has the first image.
func source(namespace, name string) *storev1.StreamRecord {
	r := stream(namespace, name)
	setImage(r, "1", digests[0])
	return r
}

func setImage(r *storev1.StreamRecord, tag, digest string) {
	item := imagev1.TagEvent{Created: t0, DockerImageReference: "quay.io/app@" + digest, Image: digest, Generation: 1}
	for i := range r.Status.Tags {
		if list := &r.Status.Tags[i]; list.Tag == tag {
			item.Created = metav1.NewTime(list.Items[0].Created.Add(time.Minute))
			list.Items = slices.Insert(list.Items, 0, item)
			return
		}
	}
	r.Status.Tags = append(r.Status.Tags, imagev1.NamedTagEventList{Tag: tag, Items: []imagev1.TagEvent{item}})
}

// follow makes a tag that follows another: "stream:tag" or "namespace/stream:tag".
func follow(tag, name string) imagev1.TagReference {
	t := copyOf(tag, name)
	t.Annotations = map[string]string{store.FollowAnnotation: "true"}
	return t
}

func copyOf(tag, name string) imagev1.TagReference {
	from := &corev1.ObjectReference{Kind: store.KindImageStreamTag, Name: name}
	if namespace, rest, ok := strings.Cut(name, "/"); ok {
		from.Namespace, from.Name = namespace, rest
	}
	return imagev1.TagReference{Name: tag, From: from}
}

// asked says who made a stream's tags what they are.
func asked(r *storev1.StreamRecord, user string) *storev1.StreamRecord {
	r.Record.Requests = nil
	for i := range r.Spec.Tags {
		r.Record.Requests = append(r.Record.Requests, storev1.TagRequest{
			Tag:      r.Spec.Tags[i].Name,
			By:       storev1.Requester{User: user, Verb: "update", Resource: "imagestreamtags"},
			Identity: &authenticationv1.UserInfo{Username: user, UID: "u-" + user, Groups: []string{"team"}},
		})
	}
	return r
}
