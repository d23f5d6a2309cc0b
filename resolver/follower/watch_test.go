package follower

import (
	"net/http"
	"testing"

	imagev1 "github.com/openshift/api/image/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	ctrlconfig "sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/event"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	storev1 "istag.dev/store/v1"
)

func TestSources(t *testing.T) {
	r := stream("shop", "app", follow("a", "base_x:1"), follow("b", "base_x:2"), follow("c", "far/os:1"), follow("d", "app:a"), copyOf("e", "other:1"))
	check(t, "each stream that is followed once, whatever tags; not the stream itself, nor what is copied", []string{"far/os", "shop/base_x"}, sources(r))
	check(t, "nothing else is indexed", []string(nil), sources(&storev1.ImageRecord{}))
}

func TestWhoIsWoken(t *testing.T) {
	cases := map[string]struct {
		reason string
		change func(*storev1.StreamRecord)
		want   []string
	}{
		"Moved":     {"a tag that moved wakes near and far followers", func(r *storev1.StreamRecord) { setImage(r, "1", digests[1]) }, []string{"far/c", "shop/b"}},
		"Added":     {"so does a new tag", func(r *storev1.StreamRecord) { setImage(r, "2", digests[0]) }, []string{"far/c", "shop/b"}},
		"Removed":   {"so does a tag that is gone", func(r *storev1.StreamRecord) { r.Status.Tags = nil }, []string{"far/c", "shop/b"}},
		"Retargets": {"so does a tag that follows something now", func(r *storev1.StreamRecord) { r.Spec.Tags = []imagev1.TagReference{follow("1", "x:1")} }, []string{"far/c", "shop/a", "shop/b"}},
		"Aliases":   {"or another tag of its stream", func(r *storev1.StreamRecord) { r.Spec.Tags = []imagev1.TagReference{copyOf("1", "2")} }, []string{"far/c", "shop/b"}},
		"Identity": {"so does another user, who may have other rights", func(r *storev1.StreamRecord) {
			r.Record.Requests = []storev1.TagRequest{{Tag: "1", Identity: &authenticationv1.UserInfo{Username: "eve"}}}
		}, []string{"far/c", "shop/b"}},
		"Generation": {"counting up changes nothing for followers", func(r *storev1.StreamRecord) { r.Record.Generation++ }, nil},
		"Condition": {"nor do conditions", func(r *storev1.StreamRecord) {
			r.Status.Tags[0].Conditions = []imagev1.TagEventCondition{{Type: imagev1.ImportSuccess}}
		}, nil},
		"Lookup": {"nor does the lookup policy", func(r *storev1.StreamRecord) { r.Spec.LookupPolicy.Local = true }, nil},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, source("shop", "a"), stream("shop", "b", follow("1", "a:1")), stream("far", "c", follow("1", "shop/b:1")), source("far", "d"))
			f.drain()
			f.edit("shop", "a", tc.change)
			check(t, tc.reason, tc.want, f.drain())
		})
	}
}

func TestFirstList(t *testing.T) {
	f := newFixture(t, source("shop", "a"), stream("shop", "b", follow("1", "a:1")))
	f.drain()
	f.handler.Create(t.Context(), event.CreateEvent{Object: f.get("shop", "a"), IsInInitialList: true}, f.queue)
	check(t, "the first list wakes no followers: they are in it themselves", []string(nil), f.drain())
	if !(following{}).Create(event.CreateEvent{Object: f.get("shop", "b"), IsInInitialList: true}) {
		t.Error("a record that follows is looked at after a restart")
	}
	if (following{}).Create(event.CreateEvent{Object: f.get("shop", "a"), IsInInitialList: true}) {
		t.Error("a record that follows nothing is not looked at")
	}
	b := f.get("shop", "b")
	if (following{}).Update(event.UpdateEvent{ObjectOld: b, ObjectNew: b}) {
		t.Error("a resync costs nothing")
	}
}

func TestAdd(t *testing.T) {
	f := newFixture(t)
	mapper := meta.NewDefaultRESTMapper(nil)
	mapper.Add(storev1.GroupVersion.WithKind("StreamRecord"), meta.RESTScopeNamespace)
	mgr, err := ctrl.NewManager(&rest.Config{Host: "localhost:1"}, ctrl.Options{
		Scheme: f.api.Scheme(), Metrics: metricsserver.Options{BindAddress: "0"},
		// The name is taken after the first of several runs in one process.
		Controller:     ctrlconfig.Controller{SkipNameValidation: ptr.To(true)},
		MapperProvider: func(*rest.Config, *http.Client) (meta.RESTMapper, error) { return mapper, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := Add(mgr, Options{}); err != nil {
		t.Error(err)
	}
}
