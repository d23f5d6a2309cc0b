package webhook

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	admissionv1 "k8s.io/api/admission/v1"

	"istag.dev/resolver"
	"istag.dev/webhook/audit"
	"istag.dev/webhook/lock"
	"istag.dev/webhook/scope"
)

// lockOf is a lock of names to one image.
func lockOf(pullSpec string, names ...string) lock.Lock {
	l := lock.Lock{}
	for _, name := range names {
		l[name] = resolver.Pin{Written: name, Istag: name, PullSpec: pullSpec, Generation: 4}
	}
	return l
}

// lockedAs makes the metadata of a revision that has a lock, without its braces.
func lockedAs(l lock.Lock) string {
	label, key, value := l.Text()
	return fmt.Sprintf(`"labels":{"app":"web","istag.dev/lock":%q},"annotations":{"x":"y",%q:%q}`, label, key, value)
}

// revisionOf makes a revision's object with containers, "name=image".
func revisionOf(resource, metadata string, containers ...string) string {
	pod := strings.TrimPrefix(podWith("", containers...), `{"metadata":{},`)
	if resource == "controllerrevisions" {
		return `{"metadata":{` + metadata + `},"data":{"spec":{"template":{` + pod + `,"$patch":"replace"}}}`
	}
	return `{"metadata":{` + metadata + `},"spec":{"template":{` + pod + `}}`
}

// marksOf returns what an answer does to labels and annotations, as "op path value".
func marksOf(response *admissionv1.AdmissionResponse) []string {
	var out []string
	for _, p := range decodePatch(response) {
		parts := []string{p.Op, p.Path}
		switch value := p.Value.(type) {
		case string:
			parts = append(parts, value)
		case map[string]any:
			for key, v := range value {
				parts = append(parts, fmt.Sprintf("%s=%v", key, v))
			}
		}
		out = append(out, strings.Join(parts, " "))
	}
	return out
}

func podPlacement(o *Options) { o.Scopes = settings{Mode: scope.Enforce, PodPlacement: true} }

func TestRevisionsAreLocked(t *testing.T) {
	fresh, old := lockOf(pulled, "keycloak:1"), lockOf(oldPulled, "keycloak:1")
	mixed := lockOf(oldPulled, "keycloak:1")
	mixed["again:1"] = resolver.Pin{Written: "again:1", Istag: "again:1", PullSpec: pulled, Generation: 4}
	locks := func(l lock.Lock) []string {
		label, key, value := l.Text()
		return []string{"add /metadata/annotations " + key + "=" + value, "add /metadata/labels istag.dev/lock=" + label}
	}
	relocks := func(to, from lock.Lock) []string {
		label, key, value := to.Text()
		_, gone, _ := from.Text()
		marks := []string{"remove /metadata/annotations/" + escape(gone), "add /metadata/annotations/" + escape(key) + " " + value}
		if key < gone {
			slices.Reverse(marks)
		}
		return append(marks, "add /metadata/labels/istag.dev~1lock "+label)
	}
	_, oldKey, _ := old.Text()
	rs := func(metadata string, containers ...string) string {
		return revisionOf("replicasets", metadata, containers...)
	}
	cases := map[string]struct {
		reason  string
		request admissionv1.AdmissionRequest
		want    []string
	}{
		"New":        {"a new revision is locked", request("replicasets", rs(owned, "a=keycloak:1", "b=x/y"), ""), locks(fresh)},
		"Bare":       {"whoever made it", request("replicasets", rs("", "a=keycloak:1", "b=keycloak:1"), ""), locks(fresh)},
		"NoNames":    {"one without names needs no lock", request("replicasets", rs(owned, "a=x/y"), ""), nil},
		"NoStreams":  {"one whose names are no streams' is locked to nothing, so that nobody has to look for its lock", request("replicasets", rs(owned, "a=x/y", "b=mysql"), ""), locks(lock.Lock{})},
		"Reinvoked":  {"once is enough", request("replicasets", rs(lockedAs(old), "a=keycloak:1"), ""), nil},
		"AddedTo":    {"a container that another webhook adds is locked too", request("replicasets", rs(lockedAs(old), "a=keycloak:1", "b=again:1"), ""), relocks(mixed, old)},
		"Unchanged":  {"a locked revision stays as it is", request("replicasets", rs(lockedAs(old), "a=keycloak:1"), rs(lockedAs(old), "a=keycloak:1")), nil},
		"Unlocked":   {"one that comes by without a lock is locked", request("replicasets", rs("", "a=keycloak:1"), rs("", "a=keycloak:1")), locks(fresh)},
		"Half":       {"but not by half: nobody is refused for that", request("replicasets", rs("", "a=keycloak:1", "b=keycloak:absent"), rs("", "a=keycloak:1", "b=keycloak:absent")), nil},
		"Dropped":    {"a client that leaves the lock out did not mean to", request("replicasets", rs("", "a=keycloak:1"), rs(lockedAs(old), "a=keycloak:1")), locks(old)},
		"Changed":    {"new names are looked up, others stay", request("replicasets", rs(lockedAs(old), "a=keycloak:1", "b=again:1"), rs(lockedAs(old), "a=keycloak:1", "b=x/y")), relocks(mixed, old)},
		"ComesAgain": {"a name that was not there is looked up, whatever a lock says", request("replicasets", rs(lockedAs(old), "a=keycloak:1"), rs(lockedAs(old), "a=x/y")), relocks(fresh, old)},
		"Gone":       {"a lock of nothing goes", request("replicasets", rs(lockedAs(old), "a=x/y"), rs(lockedAs(old), "a=keycloak:1")), []string{"remove /metadata/annotations/" + escape(oldKey), "remove /metadata/labels/istag.dev~1lock"}},
		"Forged":     {"a lock that is not what its label says is none", request("replicasets", rs(strings.Replace(lockedAs(old), oldDigest, digest, 1), "a=keycloak:1"), ""), relocks(fresh, old)},
		"JobUpdate":  {"of a Job that exists only the metadata can be changed, and is", request("jobs", rs("", "a=keycloak:1"), rs("", "a=keycloak:1")), locks(fresh)},
		"OptedIn":    {"annotations that come and go change no lock", request("replicasets", rs(strings.Replace(lockedAs(old), `"x":"y"`, `"alpha.image.policy.openshift.io/resolve-names":"*"`, 1), "a=keycloak:1"), rs(lockedAs(old), "a=keycloak:1")), nil},
		"NoData":     {"what other controllers keep is none of ours", request("controllerrevisions", `{"metadata":{},"data":{"spec":"text"}}`, ""), nil},
		"ListData":   {"whatever it is", request("controllerrevisions", `{"metadata":{},"data":[1,{"spec":{}}]}`, ""), nil},
	}
	for _, resource := range []string{"replicasets", "controllerrevisions", "jobs", "replicationcontrollers"} {
		cases["Kind/"+resource] = struct {
			reason  string
			request admissionv1.AdmissionRequest
			want    []string
		}{"every kind of revision is locked", request(resource, revisionOf(resource, owned, "a=keycloak:1"), ""), locks(fresh)}
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			p := newPinner(t, func(o *Options) {
				podPlacement(o)
				if err := o.Index.Add(stream("again", true)); err != nil {
					t.Fatal(err)
				}
			})
			response := ask(t, p, tc.request)
			if diff := cmp.Diff(tc.want, marksOf(response)); diff != "" || !response.Allowed {
				t.Errorf("%s: allowed %v %+v: -want +got:\n%s", tc.reason, response.Allowed, response.Result, diff)
			}
		})
	}
}

func TestRevisionsAreRefused(t *testing.T) {
	rs := revisionOf("replicasets", owned, "a=keycloak:absent")
	if got := ask(t, newPinner(t, podPlacement), request("replicasets", rs, "")); got.Allowed || got.Patch != nil || !strings.Contains(got.Result.Message, "no tag") {
		t.Errorf("a revision that cannot be locked is refused, and its controller says so: %+v", got)
	}
	p := newPinner(t, func(o *Options) {
		o.Scopes = settings{Mode: scope.Enforce, PodPlacement: true, AllowUnresolved: true}
	})
	if got := ask(t, p, request("replicasets", rs, "")); !got.Allowed {
		t.Errorf("unless the namespace takes such names: %+v", got)
	}
	p = newPinner(t, func(o *Options) { o.Scopes = settings{Mode: scope.Warn, PodPlacement: true} })
	if got := ask(t, p, request("replicasets", revisionOf("replicasets", owned, "a=keycloak:1"), "")); !got.Allowed || got.Patch != nil || len(got.Warnings) != 1 {
		t.Errorf("where decisions are not carried out nothing is locked: %+v", got)
	}
	bare := request("replicasets", revisionOf("replicasets", "", "a=keycloak:absent"), revisionOf("replicasets", "", "a=x/y"))
	if got := ask(t, newPinner(t, podPlacement), bare); got.Allowed {
		t.Errorf("names that somebody writes into a revision are refused as anywhere")
	}
}

func TestTemplatesStayAsTheyAreWritten(t *testing.T) {
	var log bytes.Buffer
	pins := resolver.Pins{"a": {Written: "keycloak:1", Istag: "keycloak:1", PullSpec: oldPulled}}
	_, stray, _ := lockOf(pulled, "keycloak:1").Text()
	p := newPinner(t, func(o *Options) {
		podPlacement(o)
		o.Audit = audit.NewLog(&log)
	})
	object := revisionOf("deployments", fmt.Sprintf(`"annotations":{%q:"{}","istag.dev/pinned":%q}`, stray, pins.String()), "a=keycloak:1", "b=mysql")
	response := ask(t, p, request("deployments", object, ""))
	want := []string{"remove /metadata/annotations/istag.dev~1pinned", "remove /metadata/annotations/" + escape(stray)}
	if diff := cmp.Diff(want, marksOf(response)); diff != "" || !response.Allowed {
		t.Errorf("no image is replaced and nothing refused, and annotations that are not true go: -want +got:\n%s", diff)
	}
	var got []string
	for _, a := range recordsOf(t, &log) {
		got = append(got, a.Decision+" "+string(a.Reason)+" "+a.PullSpec)
	}
	if diff := cmp.Diff([]string{"left PodPlacement ", "left NoStream "}, got); diff != "" {
		t.Errorf("the record says that they were left: -want +got:\n%s", diff)
	}
	for _, resource := range []string{"statefulsets", "daemonsets", "cronjobs", "podtemplates"} {
		object := map[string]string{
			"cronjobs":     `{"metadata":{},"spec":{"jobTemplate":` + revisionOf("", "", "a=keycloak:1") + `}}`,
			"podtemplates": `{"metadata":{},"template":` + podWith("", "a=keycloak:1") + `}`,
		}[resource]
		if object == "" {
			object = revisionOf(resource, "", "a=keycloak:1")
		}
		if got := ask(t, p, request(resource, object, "")); !got.Allowed || got.Patch != nil {
			t.Errorf("%s stay as they are written: %s", resource, got.Patch)
		}
	}
}

func TestTemplatesAreRefused(t *testing.T) {
	response := ask(t, newPinner(t, podPlacement), request("deployments", revisionOf("deployments", "", "a=keycloak:1", "b=keycloak:absent"), ""))
	if response.Allowed || !strings.Contains(response.Result.Message, `spec.template.spec.containers[1].image: Forbidden: image stream "keycloak" has no tag "absent"`) {
		t.Errorf("the deployment controller gives up on a revision that is refused, so the user is told at once: %+v", response)
	}
}

func TestStrayLocksGo(t *testing.T) {
	_, stray, _ := lockOf(pulled, "keycloak:1").Text()
	metadata := fmt.Sprintf(`"annotations":{%q:"{}"}`, stray)
	p := newPinner(t, nil)
	want := []string{"remove /metadata/annotations/" + escape(stray)}
	if diff := cmp.Diff(want, marksOf(ask(t, p, request("deployments", revisionOf("deployments", metadata, "a=x/y"), "")))); diff != "" {
		t.Errorf("a workload hands its annotations on, so it must have no lock, wherever pins are: -want +got:\n%s", diff)
	}
	if got := ask(t, p, request("replicasets", revisionOf("replicasets", metadata, "a=x/y"), "")); got.Patch != nil {
		t.Errorf("a revision may have been locked before the namespace changed its mind: %s", got.Patch)
	}
	if got := ask(t, p, request("deployments", revisionOf("deployments", metadata+","+owned, "a=x/y"), "")); got.Patch != nil {
		t.Errorf("what has a controller is its controller's: %s", got.Patch)
	}
}

func TestPodsTakeTheImagesOfTheirRevision(t *testing.T) {
	locked := func(want lock.Revision) locksFunc {
		return func(r lock.Revision) (lock.Lock, bool, error) {
			if r != want {
				return nil, false, fmt.Errorf("asked for %+v, want %+v", r, want)
			}
			return lockOf(oldPulled, "keycloak:1"), true, nil
		}
	}
	rs := lock.Revision{Resource: "replicasets", Namespace: "shop", Name: "web-1", UID: "u"}
	unlocked := locksFunc(func(lock.Revision) (lock.Lock, bool, error) { return nil, false, nil })
	failing := locksFunc(func(lock.Revision) (lock.Lock, bool, error) { return nil, false, errors.New("down") })
	const statefulSet = `"labels":{"controller-revision-hash":"web-5"},"ownerReferences":[{"apiVersion":"apps/v1","kind":"StatefulSet","name":"web","uid":"u","controller":true}]`
	const operator = `"ownerReferences":[{"apiVersion":"example.com/v1","kind":"Thing","name":"web","uid":"u","controller":true}]`
	at := func(i int, image string) string { return fmt.Sprintf("/spec/containers/%d/image=%s", i, image) }
	cases := map[string]struct {
		reason  string
		locks   lock.Reader
		request admissionv1.AdmissionRequest
		want    []string
		code    int32
	}{
		"ReplicaSet":  {"by the name that is written", locked(rs), request("pods", podWith(owned, "a=keycloak:1", "b=x/y"), ""), []string{at(0, oldPulled)}, 0},
		"Injected":    {"what is not in the lock means what it means now", locked(rs), request("pods", podWith(owned, "a=keycloak:1", "b=again:1"), ""), []string{at(0, oldPulled), at(1, pulled)}, 0},
		"StatefulSet": {"the revision that the pod's label names", locked(lock.Revision{Resource: "controllerrevisions", Namespace: "shop", Name: "web-5", Controller: "u"}), request("pods", podWith(statefulSet, "a=keycloak:1"), ""), []string{at(0, oldPulled)}, 0},
		"Unlocked":    {"an unlocked revision locks nothing", unlocked, request("pods", podWith(owned, "a=keycloak:1"), ""), []string{at(0, pulled)}, 0},
		"Unknown":     {"revisions of such an owner are not known", failing, request("pods", podWith(operator, "a=keycloak:1"), ""), []string{at(0, pulled)}, 0},
		"Bare":        {"a bare pod is of no revision", failing, request("pods", podWith("", "a=keycloak:1"), ""), []string{at(0, pulled)}, 0},
		"Unresolved":  {"what means nothing is refused", unlocked, request("pods", podWith(owned, "a=keycloak:absent"), ""), nil, 422},
		"Failing":     {"a digest that cannot be told must not be guessed", failing, request("pods", podWith(owned, "a=keycloak:1"), ""), nil, 503},
		"NoCandidate": {"where no name could be locked nobody is asked", failing, request("pods", podWith(owned, "a=x/y", "b=keycloak@"+digest), ""), nil, 0},
		"Unchanged":   {"nor about images that stay", failing, request("pods", podWith(owned, "a=keycloak:1"), podWith(owned, "a=keycloak:1")), nil, 0},
		"Empty": {"a lock to nothing is none", locksFunc(func(lock.Revision) (lock.Lock, bool, error) { return lockOf("", "keycloak:1"), true, nil }),
			request("pods", podWith(owned, "a=keycloak:1"), ""), []string{at(0, pulled)}, 0},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			p := newPinner(t, func(o *Options) {
				podPlacement(o)
				o.Locks = tc.locks
				if err := o.Index.Add(stream("again", true)); err != nil {
					t.Fatal(err)
				}
			})
			response := ask(t, p, tc.request)
			code := int32(0)
			if response.Result != nil {
				code = response.Result.Code
			}
			if diff := cmp.Diff(tc.want, patchesOf(response)); diff != "" || code != tc.code {
				t.Errorf("%s: code %d, %+v: -want +got:\n%s", tc.reason, code, response.Result, diff)
			}
		})
	}
	p := newPinner(t, func(o *Options) { o.Scopes, o.Locks = settings{Mode: scope.Warn, PodPlacement: true}, failing })
	if got := ask(t, p, request("pods", podWith(owned, "a=keycloak:1"), "")); !got.Allowed {
		t.Errorf("nothing is refused where decisions are not carried out: %+v", got.Result)
	}
}
