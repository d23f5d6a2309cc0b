package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
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

func TestWebhookDown(t *testing.T) {
	p, other := newPlace(t, enforced), newPlace(t)
	p.stream("keycloak", local, "20.0="+keycloak+":20.0.2")
	other.stream("keycloak", local, "20.0="+keycloak+":20.0.2")
	p.apply(deployment("before", spec{main: "keycloak:20.0"}))
	p.kubectl("rollout", "status", "deployment/before", "--timeout", "60s")
	up := down(t, env.StopWebhook, env.StartWebhook)
	p.refused(p.try("run", "x", "--image", "keycloak:20.0"), "pin.istag.dev")
	other.kubectl("run", "x", "--image", "keycloak:20.0")
	other.runs("nobody else notices that istag is down", "pod/x", "keycloak:20.0")
	if got := p.kubectl("get", "pods", "--selector", "app=x", "--output", "jsonpath={.items[*].status.phase}"); got != "Running" {
		t.Errorf("what runs keeps running without istag, got %q", got)
	}
	up()
	p.wait("admission works again", func(context.Context) error { return p.try("run", "y", "--image", "keycloak:20.0").Err() })
	p.runs("and nothing was forgotten", "pod/y", served(t, keycloak+":20.0.2"))
}

// TestRestartsNeverLeak restarts the webhook while somebody creates pods all the time. Each is refused
// or pinned: none goes out with the name that Docker Hub would answer to.
func TestRestartsNeverLeak(t *testing.T) {
	p := newPlace(t, enforced)
	p.stream("keycloak", local, "20.0="+keycloak+":20.0.2")
	want := served(t, keycloak+":20.0.2")
	ctx, stop := context.WithCancel(t.Context())
	var admitted, refused int
	var leaked []string
	var creating sync.WaitGroup
	creating.Go(func() {
		for ctx.Err() == nil {
			pod := &corev1.Pod{
				ObjectMeta: metav1.ObjectMeta{Namespace: p.name, GenerateName: "x-"},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "keycloak:20.0"}}},
			}
			switch err := env.Client().Create(ctx, pod, client.DryRunAll); {
			case err != nil:
				refused++
			case pod.Spec.Containers[0].Image != want:
				leaked = append(leaked, pod.Spec.Containers[0].Image)
			default:
				admitted++
			}
		}
	})
	for range 2 {
		down(t, env.StopWebhook, env.StartWebhook)()
	}
	p.wait("admission works again", func(context.Context) error { return p.try("run", "y", "--image", "keycloak:20.0").Err() })
	stop()
	creating.Wait()
	if len(leaked) > 0 {
		t.Errorf("%d of %d pods leaked: %q", len(leaked), admitted+refused+len(leaked), leaked[0])
	}
	if admitted == 0 || refused == 0 {
		t.Errorf("the story must have seen both sides of an outage: %d admitted, %d refused", admitted, refused)
	}
}

func TestTagMovesWhileTheWebhookIsDown(t *testing.T) {
	p := newPlace(t, enforced)
	p.stream("keycloak", local, "20.0="+keycloak+":20.0.2")
	p.apply(deployment("x", spec{main: "keycloak:20.0", annotations: following(triggers("spec.template.spec", "main", "keycloak:20.0"))}))
	up := down(t, env.StopWebhook, env.StartWebhook)
	p.stream("keycloak", local, "20.0="+keycloak+":20.0.3")
	p.wait("the object says that it could not be rolled out", func(context.Context) error {
		events := p.kubectl("get", "events", "--field-selector", "involvedObject.name=x,type=Warning", "--output", "jsonpath={.items[*].message}")
		if !strings.Contains(events, "pin.istag.dev") {
			return fmt.Errorf("its warnings are %q", events)
		}
		return nil
	})
	up()
	p.comesToRun("deployment/x", served(t, keycloak+":20.0.3"))
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
	before := bundle(t)
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
	if now := bundle(t); !strings.Contains(now, strings.TrimSpace(before)) || len(now) <= len(before) {
		t.Error("for a while both CAs are trusted, or a slower replica would be refused")
	}
	api := &apiregistrationv1.APIService{}
	p.check(env.Client().Get(t.Context(), client.ObjectKey{Name: "v1.image.openshift.io"}, api))
	if string(api.Spec.CABundle) != bundle(t) {
		t.Error("the API and the webhook have one certificate, and whoever asks them trusts the same CAs")
	}
}
