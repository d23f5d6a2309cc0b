package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"istag.dev/resolver"
	"istag.dev/test/harness"
)

// The stories here stop a part of istag, so they run one after the other and no other meanwhile.

// down stops a part of istag and returns what starts it again. That happens at the latest when the story
// is over, and its own context with it.
func down(t *testing.T, stop func() error, start func(context.Context) error) (up func()) {
	t.Helper()
	var once sync.Once
	restore := func(ctx context.Context) {
		t.Helper()
		once.Do(func() {
			if err := start(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(func() { restore(context.Background()) })
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	return func() { t.Helper(); restore(t.Context()) }
}

// guarded are what a refusal by the guard holds: who refuses, why, and what to do.
func guarded(image, stream string) []string {
	return []string{
		"never-leak.istag.dev", fmt.Sprintf("image %q of ", image), fmt.Sprintf("means image stream %q of this namespace", stream),
		"webhook seems to be down", "kubectl get pods --namespace " + env.Namespace,
	}
}

// unanswered is how many calls of istag's webhooks the API server has given up since it was started: what those were about has
// passed without us.
func unanswered(ctx context.Context) (float64, error) {
	result := env.Kubectl(ctx, "get", "--raw", "/metrics")
	if err := result.Err(); err != nil {
		return 0, err
	}
	return sum(result.Stdout, "apiserver_admission_webhook_fail_open_count", "istag.dev\"")
}

// allAnswered fails the test, when it is called, if a webhook was not answered since allAnswered was.
func allAnswered(t *testing.T) (judge func()) {
	t.Helper()
	before, err := unanswered(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		if now, err := unanswered(t.Context()); err != nil || now != before {
			t.Errorf("the API server gave up %v calls of istag's webhooks: %v", now-before, err)
		}
	}
}

func TestWebhookDown(t *testing.T) {
	p, other := newPlace(t, enforced), newPlace(t)
	p.stream("keycloak", local, "20.0="+keycloak+":20.0.2")
	other.stream("keycloak", local, "20.0="+keycloak+":20.0.2")
	pinned := served(t, keycloak+":20.0.2")
	p.apply(deployment("before", spec{main: "keycloak:20.0"}))
	p.kubectl("rollout", "status", "deployment/before", "--timeout", "60s")
	up := down(t, env.StopWebhook, env.StartWebhook)
	p.refused(p.try("run", "x", "--image", "keycloak:20.0"), guarded("keycloak:20.0", "keycloak")...)
	p.kubectl("run", "exact", "--image", pinned)
	p.kubectl("run", "full", "--image", keycloak+":20.0.2")
	p.kubectl("run", "elsewhere", "--image", "busybox:1.36")
	p.runs("what no stream is named by needs nobody", "pod/elsewhere", "busybox:1.36")
	other.kubectl("run", "x", "--image", "keycloak:20.0")
	other.runs("nobody else notices that istag is down", "pod/x", "keycloak:20.0")
	if got := p.kubectl("get", "pods", "--selector", "app=x", "--output", "jsonpath={.items[*].status.phase}"); got != "Running" {
		t.Errorf("what runs keeps running without istag, got %q", got)
	}
	p.kubectl("scale", "deployment/before", "--replicas", "2")
	p.kubectl("rollout", "status", "deployment/before", "--timeout", "60s")
	p.kubectl("set", "env", "deployment/before", "A=1")
	p.kubectl("rollout", "status", "deployment/before", "--timeout", "60s")
	p.runs("and can be scaled and changed, because it is pinned", "deployment/before", pinned)
	up()
	p.wait("admission works again", func(context.Context) error { return p.try("run", "y", "--image", "keycloak:20.0").Err() })
	p.runs("and nothing was forgotten", "pod/y", pinned)
}

// TestRestartsNeverLeak restarts the webhook while people create objects all the time. What needs a digest is refused
// or pinned: nothing goes out with the name that Docker Hub would answer to.
func TestRestartsNeverLeak(t *testing.T) {
	town := newTown(t)
	for range 2 {
		up := down(t, env.StopWebhook, env.StartWebhook)
		town.await("the guard refuses", guardedCount, 3)
		up()
		town.await("admission works again", pinnedCount, 3)
	}
	town.rest()
}

// TestTagMovesWhileTheWebhookIsDown: a roll-out replaces a digest by another, for which nobody needs the webhook.
func TestTagMovesWhileTheWebhookIsDown(t *testing.T) {
	p := newPlace(t, enforced)
	p.stream("keycloak", local, "20.0="+keycloak+":20.0.2")
	p.apply(deployment("x", spec{main: "keycloak:20.0", annotations: following(triggers("spec.template.spec", "main", "keycloak:20.0"))}))
	up := down(t, env.StopWebhook, env.StartWebhook)
	p.stream("keycloak", local, "20.0="+keycloak+":20.0.3")
	p.comesToRun("deployment/x", served(t, keycloak+":20.0.3"))
	p.kubectl("rollout", "status", "deployment/x", "--timeout", "60s")
	up()
	p.wait("admission works again", func(context.Context) error {
		return p.try("run", "y", "--image", "keycloak:20.0", "--dry-run=server").Err()
	})
	p.kubectl("annotate", "deployment", "x", "about=something-else")
	p.runs("what was changed meanwhile is not held against anybody", "deployment/x", served(t, keycloak+":20.0.3"))
	p.stream("keycloak", local, "20.0="+keycloak+":20.0.1")
	p.comesToRun("deployment/x", served(t, keycloak+":20.0.1"))
	pins := p.get("deployment/x").Metadata.Annotations[resolver.PinnedAnnotation]
	if pin, ok := resolver.ParsePins(pins)["main"]; ok && pin.PullSpec != served(t, keycloak+":20.0.1") {
		t.Errorf("the object does not say what is not true: %s", pins)
	}
}

func TestControllerDown(t *testing.T) {
	p := newPlace(t, enforced)
	p.stream("keycloak", local, "20.0="+keycloak+":20.0.2")
	p.apply(deployment("x", spec{main: "keycloak:20.0", annotations: following(triggers("spec.template.spec", "main", "keycloak:20.0"))}))
	up := down(t, env.StopController, env.StartController)
	p.apply(streamManifest("keycloak", local, "20.0="+keycloak+":20.0.3"))
	p.kubectl("run", "meanwhile", "--image", "keycloak:20.0")
	p.runs("admission does not need the controller", "pod/meanwhile", served(t, keycloak+":20.0.2"))
	p.runs("nothing rolls meanwhile", "deployment/x", served(t, keycloak+":20.0.2"))
	up()
	p.tagMeans("keycloak", "20.0", served(t, keycloak+":20.0.3"))
	p.comesToRun("deployment/x", served(t, keycloak+":20.0.3"))
	p.kubectl("rollout", "status", "deployment/x", "--timeout", "60s")
	if n := p.replicaSets(); n != 2 {
		t.Errorf("what was missed is made up for once: want 2 ReplicaSets, got %d", n)
	}
}

func TestEveryRoleInOneProcess(t *testing.T) {
	p := newPlace(t, enforced)
	down(t, env.StopWebhook, env.StartWebhook)
	down(t, env.StopAPIServer, env.StartAPIServer)
	down(t, env.StopController, env.StartController)
	p.check(env.StartAll(t.Context()))
	t.Cleanup(func() {
		if err := env.StopAll(); err != nil {
			t.Error(err)
		}
	})
	p.stream("keycloak", local, "20.0="+keycloak+":20.0.2")
	p.wait("admission works", func(context.Context) error { return p.try("run", "x", "--image", "keycloak:20.0").Err() })
	p.runs("`istag serve --all` is all of istag", "pod/x", served(t, keycloak+":20.0.2"))
}

func TestAPIServerDown(t *testing.T) {
	p, leaving := newPlace(t, enforced), newPlace(t)
	p.stream("keycloak", local, "20.0="+keycloak+":20.0.2")
	leaving.stream("keycloak", local, "20.0="+keycloak+":20.0.2")
	up := down(t, env.StopAPIServer, env.StartAPIServer)
	p.wait("users are told", func(ctx context.Context) error {
		if _, err := p.is(ctx, "keycloak"); !apierrors.IsServiceUnavailable(err) {
			return fmt.Errorf("want that the service is unavailable, got %w", err)
		}
		return nil
	})
	p.kubectl("run", "x", "--image", "keycloak:20.0")
	p.runs("pinning does not need the API", "pod/x", served(t, keycloak+":20.0.2"))
	p.refused(p.try("run", "typo", "--image", "keycloak:nope"), `has no tag "nope"`)
	p.apply(deployment("follows", spec{main: "example.com/nothing:yet", annotations: following(triggers("spec.template.spec", "main", "keycloak:20.0"))}))
	p.comesToRun("deployment/follows", served(t, keycloak+":20.0.2")) // nor does rolling out
	leaving.kubectl("delete", "namespace", leaving.name, "--wait=false")
	up()
	p.tagMeans("keycloak", "20.0", served(t, keycloak+":20.0.2"))
	p.check(env.Kubectl(t.Context(), "wait", "namespace/"+leaving.name, "--for", "delete", "--timeout", "90s").Err())
}

// TestCertificateIsReplacedUnnoticed deletes the Secret of the certificate and ships it anew, as
// applying the manifests again would. The CA and the certificate are new then, for the webhook and for the API.
func TestCertificateIsReplacedUnnoticed(t *testing.T) {
	p := newPlace(t, enforced)
	p.stream("keycloak", local, "20.0="+keycloak+":20.0.2")
	before, answered := bundle(t), allAnswered(t)
	admits := func(when string) {
		t.Helper()
		if err := p.try("run", "x", "--image", "keycloak:20.0", "--dry-run=server").Err(); err != nil {
			t.Fatalf("admission must never notice (%s): %v", when, err)
		}
		if _, err := p.is(t.Context(), "keycloak"); err != nil {
			t.Fatalf("users of the API must never notice (%s): %v", when, err)
		}
	}
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: env.Namespace, Name: "istag-tls"}}
	old := &corev1.Secret{}
	p.check(env.Client().Get(t.Context(), client.ObjectKeyFromObject(secret), old))
	p.check(env.Client().Delete(t.Context(), secret.DeepCopy()))
	admits("without the Secret")
	p.check(env.KubectlStdin(t.Context(), fmt.Sprintf("{apiVersion: v1, kind: Secret, type: Opaque, metadata: {name: %s, namespace: %s}}", secret.Name, secret.Namespace), "apply", "-f", "-").Err())
	p.wait("the Secret is filled anew", func(ctx context.Context) error {
		admits("while it is filled")
		now := &corev1.Secret{}
		if err := env.Client().Get(ctx, client.ObjectKeyFromObject(secret), now); err != nil {
			return err
		}
		if len(now.Data["tls.crt"]) == 0 || string(now.Data["tls.crt"]) == string(old.Data["tls.crt"]) {
			return errors.New("it has no new certificate")
		}
		return nil
	})
	for name, address := range map[string]string{"webhook": env.WebhookURL, "API": env.APIServerURL()} {
		p.wait("the "+name+" serves the new certificate", func(ctx context.Context) error {
			admits("while it is brought to the " + name)
			now := &corev1.Secret{}
			if err := env.Client().Get(ctx, client.ObjectKeyFromObject(secret), now); err != nil {
				return err
			}
			if serving := servedCertificate(t, address); !strings.Contains(string(now.Data["tls.crt"]), serving) {
				return fmt.Errorf("it serves another")
			}
			return nil
		})
	}
	admits("at the end")
	answered() // the name was pinned each time, but the other webhook has to be reached too
	if now := bundle(t); !strings.Contains(now, strings.TrimSpace(before)) || len(now) <= len(before) {
		t.Error("for a while both CAs are trusted, or a slower replica would be refused")
	}
	api := &apiregistrationv1.APIService{}
	p.check(env.Client().Get(t.Context(), client.ObjectKey{Name: "v1.image.openshift.io"}, api))
	check := &admissionregistrationv1.ValidatingWebhookConfiguration{}
	p.check(env.Client().Get(t.Context(), client.ObjectKey{Name: "istag"}, check))
	for name, trusts := range map[string][]byte{"API": api.Spec.CABundle, "check": check.Webhooks[0].ClientConfig.CABundle} {
		if string(trusts) != bundle(t) {
			t.Errorf("all have one certificate, and whoever asks them trusts the same CAs: those of the %s are others", name)
		}
	}
}

// town is people who create and change objects of every kind all the time: in a namespace that enforces, in one that is warned, and in one
// that istag has nothing to do with. Where istag does not enforce, nobody must ever notice it; where it does, only names of
// streams may be refused, and never may one get in.
type town struct {
	*place // that enforces
	pinned string
	people []*person
	stop   func()
}

// person works in one namespace.
type person struct {
	place    *place
	enforced bool
	orders   []order
	// excuses may say that an error is nobody's fault.
	excuses func(error) bool

	mu sync.Mutex
	// passed, pinned and guarded are how many requests were let through that need nobody, were let through pinned, and
	// were refused by the guard.
	passed, pinned, guarded int
	wrong                   []string
}

// order is one request: an object as it is written, with the images that it has then, and those that it has to get.
type order struct {
	object       *unstructured.Unstructured
	written, due []string
	// patch, if not empty, is made to the object of that name, which is there already.
	patch string
}

func (o order) needsUs() bool { return !slices.Equal(o.written, o.due) }

// newTown makes the namespaces, with the streams "keycloak" of local lookup and "httpd" without, and lets people begin. What they
// do are dry runs: they are admitted, or not, as others are.
func newTown(t *testing.T) *town {
	t.Helper()
	town := &town{place: newPlace(t, enforced), pinned: served(t, keycloak+":20.0.2")}
	for _, p := range []*place{town.place, newPlace(t, label(harness.AdmissionLabel, "warn")), newPlace(t)} {
		p.stream("keycloak", local, "20.0="+keycloak+":20.0.2")
		p.stream("httpd", notLocal, "2.4=quay.io/redhattraining/httpd-24:2.4")
		p.apply(deployment("x", spec{main: "keycloak:20.0"}))
		p.kubectl("rollout", "status", "deployment/x", "--timeout", "60s") // pods can be made there, then
		one := &person{place: p, enforced: p == town.place}
		one.orders = orders(t, town.pinned, one.enforced)
		town.people = append(town.people, one)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var working sync.WaitGroup
	for _, one := range town.people {
		working.Go(func() { one.work(ctx) })
	}
	town.stop = sync.OnceFunc(func() { cancel(); working.Wait() })
	t.Cleanup(town.stop)
	town.await("people have begun", pinnedCount, 1)
	return town
}

// orders are what people ask for, again and again.
func orders(t *testing.T, pinned string, enforced bool) []order {
	t.Helper()
	due := func(images ...string) []string {
		for i, image := range images {
			if enforced && image == "keycloak:20.0" {
				images[i] = pinned
			}
		}
		return images
	}
	var all []order
	for _, k := range kinds {
		for _, s := range []spec{
			{main: "keycloak:20.0"},
			{main: "quay.io/any/thing:1", side: "keycloak:20.0", init: "keycloak:20.0", volume: "keycloak:20.0"},
			{main: "busybox:1.36", init: "quay.io/any/thing:1"},
			{main: "httpd:2.4", side: pinned},
		} {
			w := decode(t, toJSON(t, k.write("made", s)))
			all = append(all, order{object: object(t, k.write("made", s)), written: w.images(), due: due(w.images()...)})
		}
	}
	there := object(t, "{apiVersion: apps/v1, kind: Deployment, metadata: {name: x}}")
	is := due("keycloak:20.0")
	return append(all,
		order{object: there, patch: `{"metadata":{"labels":{"changed":"yes"}}}`, written: is, due: is},
		order{object: there, patch: `{"spec":{"replicas":2,"template":{"metadata":{"annotations":{"changed":"yes"}}}}}`, written: is, due: is},
	)
}

func toJSON(t *testing.T, manifest string) string {
	t.Helper()
	text, err := yaml.YAMLToJSON([]byte(manifest))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func object(t *testing.T, manifest string) *unstructured.Unstructured {
	t.Helper()
	o := &unstructured.Unstructured{}
	if err := o.UnmarshalJSON([]byte(toJSON(t, manifest))); err != nil {
		t.Fatal(err)
	}
	return o
}

// work sends one order after the other until ctx ends, not faster than people do.
func (p *person) work(ctx context.Context) {
	pace := time.NewTicker(5 * time.Millisecond)
	defer pace.Stop()
	for {
		for _, o := range p.orders {
			select {
			case <-ctx.Done():
				return
			case <-pace.C:
			}
			result := o.object.DeepCopy()
			result.SetNamespace(p.place.name)
			var err error
			if o.patch == "" {
				err = env.Client().Create(ctx, result, client.DryRunAll)
			} else {
				err = env.Client().Patch(ctx, result, client.RawPatch(types.MergePatchType, []byte(o.patch)), client.DryRunAll)
			}
			if ctx.Err() != nil {
				return
			}
			p.judge(o, result, err)
		}
	}
}

// judge says whether a request has ended as it may.
func (p *person) judge(o order, result *unstructured.Unstructured, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil {
		switch {
		case p.enforced && o.needsUs() && strings.Contains(err.Error(), "never-leak.istag.dev"):
			p.guarded++
		case p.excuses != nil && p.excuses(err):
		default:
			p.wrong = append(p.wrong, fmt.Sprintf("%s with %q is refused: %v", o.object.GetKind(), o.written, err))
		}
		return
	}
	text, err := result.MarshalJSON()
	w := &workload{}
	if err == nil {
		err = json.Unmarshal(text, w)
	}
	switch got := w.images(); {
	case err != nil:
		p.wrong = append(p.wrong, err.Error())
	case !slices.Equal(got, o.due):
		p.wrong = slices.Insert(p.wrong, 0, fmt.Sprintf("%s with %q gets in with %q", o.object.GetKind(), o.written, got)) // the worst first
	case o.needsUs():
		p.pinned++
	default:
		p.passed++
	}
}

// pinnedCount and guardedCount count what became of names that need us, passedCount what became of all else.
func pinnedCount(p *person) int  { return p.pinned }
func guardedCount(p *person) int { return p.guarded }
func passedCount(p *person) int  { return p.passed }

// await waits until so many more requests have ended in one way where istag enforces, and as many in all namespaces went on that need nobody.
func (w *town) await(what string, count func(*person) int, more int) {
	w.t.Helper()
	counts := func() (all []int) {
		for _, one := range w.people {
			one.mu.Lock()
			all = append(all, passedCount(one))
			if one.enforced {
				all = append(all, count(one))
			}
			one.mu.Unlock()
		}
		return all
	}
	before := counts()
	w.wait(what, func(context.Context) error {
		for i, now := range counts() {
			if now < before[i]+more {
				return fmt.Errorf("%v requests had ended so, and now %v; wrong: %q", before, counts(), w.wrongs())
			}
		}
		return nil
	})
}

// wrongs is what must not have happened, the first of it.
func (w *town) wrongs() []string {
	var all []string
	for _, one := range w.people {
		one.mu.Lock()
		all = append(all, one.wrong[:min(3, len(one.wrong))]...)
		one.mu.Unlock()
	}
	return all
}

// rest ends the work, and fails the test for what must not have happened.
func (w *town) rest() {
	w.t.Helper()
	w.stop()
	for _, one := range w.people {
		if len(one.wrong) > 0 {
			w.t.Errorf("namespace %s, that enforces: %t: %d requests have not ended as they must, the first: %s", one.place.name, one.enforced, len(one.wrong), one.wrong[0])
		}
		if one.passed == 0 || one.enforced && one.pinned == 0 {
			w.t.Errorf("namespace %s: the story is of people who work: %d passed, %d pinned", one.place.name, one.passed, one.pinned)
		}
	}
}
