package e2e

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"istag.dev/config"
	"istag.dev/test/harness"
)

// The stories here break a part of istag, or what it stands on, while people work. They run one after the other and no other meanwhile.
// What people notice is the same in all of them, and a town sees to it: where istag enforces, names of streams are pinned or refused, by
// the guard if not by the webhook; nothing else is ever refused anywhere.

const (
	// enough is so many requests that each kind of object was among them.
	enough = 40
	// few are enough while some requests take a second.
	few = 10
)

func TestFaultAllReplicasKilled(t *testing.T) {
	town := newTown(t)
	second, err := env.AddWebhook(t.Context())
	town.check(err)
	t.Cleanup(func() { town.check(second.Stop()) })
	up := down(t, env.KillWebhook, env.StartWebhook)
	town.await("the guard refuses names of streams", guardedCount, enough)
	town.refused(town.try("run", "x", "--image", "keycloak:20.0"), guarded("keycloak:20.0", "keycloak")...)
	town.refused(town.try("create", "cronjob", "y", "--schedule", "0 3 * * *", "--image", "keycloak:20.0"), guarded("keycloak:20.0", "keycloak")...)
	town.kubectl("scale", "deployment/x", "--replicas", "2")
	town.kubectl("rollout", "status", "deployment/x", "--timeout", "60s")
	late := newPlace(t, enforced)
	late.stream("keycloak", local, "20.0="+keycloak+":20.0.2")
	late.wait("a stream that is made meanwhile is guarded", func(context.Context) error {
		if result := late.try("run", "x", "--image", "keycloak:20.0", "--dry-run=server"); !strings.Contains(result.Stderr, "never-leak.istag.dev") {
			return fmt.Errorf("%s%s", result.Stdout, result.Stderr)
		}
		return nil
	})
	up()
	town.await("it heals by itself", pinnedCount, enough)
	town.rest()
	late.kubectl("run", "x", "--image", "keycloak:20.0")
	late.runs("and all is known that was made meanwhile", "pod/x", town.pinned)
}

func TestFaultOneReplicaKilled(t *testing.T) {
	town := newTown(t)
	second, err := env.AddWebhook(t.Context())
	town.check(err)
	t.Cleanup(func() { town.check(second.Stop()) })
	victim := town.busiest()
	if victim != second { // the first one
		t.Cleanup(func() { town.check(env.StartWebhook(context.Background())) })
	}
	refusals := town.count(guardedCount)
	town.check(victim.Kill())
	town.await("the other replica goes on", pinnedCount, enough)
	instant := town.count(guardedCount) - refusals
	town.await("and on", pinnedCount, enough)
	if later := town.count(guardedCount) - refusals; refusals != 0 || later != instant || instant > 5 {
		t.Errorf("names of streams may be refused in the instant of the death, and never after it: %d were, then %d", instant, later)
	}
	town.rest()
}

// TestFaultCertificateExpired: the controller, which renews the certificate, was away for too long.
func TestFaultCertificateExpired(t *testing.T) {
	town := newTown(t)
	up := down(t, env.StopController, env.StartController)
	secret := &corev1.Secret{}
	town.check(env.Client().Get(t.Context(), client.ObjectKey{Namespace: env.Namespace, Name: "istag-tls"}, secret))
	good := secret.DeepCopy()
	expired := expire(t, secret)
	secret.Data["tls.crt"], secret.Data["tls.key"] = expired.certificate, expired.key
	town.check(env.Client().Update(t.Context(), secret))
	for name, address := range map[string]string{"webhook": env.WebhookURL, "API": env.APIServerURL()} {
		town.wait("the "+name+" serves the expired certificate", func(ctx context.Context) error {
			if got, err := presented(ctx, address); err != nil || !bytes.Equal(got, expired.certificate) {
				return errors.Join(errors.New("it serves another"), err)
			}
			return nil
		})
	}
	down(t, env.KillWebhook, env.StartWebhook)() // connections that were made before do not expire
	town.await("the guard refuses names of streams", guardedCount, enough)
	town.refused(town.try("run", "x", "--image", "keycloak:20.0"), guarded("keycloak:20.0", "keycloak")...)
	up()
	town.await("the controller renews it, and admission works", pinnedCount, enough)
	town.rest()
	town.check(env.Client().Get(t.Context(), client.ObjectKeyFromObject(good), secret))
	if !bytes.Equal(secret.Data["ca.crt"], good.Data["ca.crt"]) {
		t.Error("the CA had not expired: who trusts it goes on to")
	}
	town.tagMeans("keycloak", "20.0", town.pinned) // the API works too
}

func TestFaultWrongCABundle(t *testing.T) {
	town := newTown(t)
	before := bundle(t)
	up := down(t, env.StopController, env.StartController)
	town.trustOnly(selfSigned(t).certificate)
	town.await("the guard refuses names of streams", guardedCount, enough)
	town.refused(town.try("run", "x", "--image", "keycloak:20.0"), guarded("keycloak:20.0", "keycloak")...)
	up()
	town.await("the controller mends it, and admission works", pinnedCount, enough)
	answered := allAnswered(t)
	town.await("and goes on to", pinnedCount, enough)
	answered() // by both webhooks

	ours, _, _ := strings.Cut(before, "-----END")
	town.trustOnly(selfSigned(t).certificate)
	town.wait("a controller that runs mends it at once", func(context.Context) error {
		if !strings.Contains(bundle(t), ours) {
			return errors.New("it has not")
		}
		return nil
	})
	town.await("and admission works", pinnedCount, enough)
	town.trustOnly([]byte(before)) // what a bundle holds besides a new CA is kept for a while, as it may be the CA before
	town.rest()
}

// TestFaultKubernetesAPIRestarts: for a few seconds nobody gets anything in. What the webhook has missed it makes up for.
func TestFaultKubernetesAPIRestarts(t *testing.T) {
	town := newTown(t)
	for _, one := range town.people {
		one.mu.Lock()
		one.excuses = func(err error) bool {
			// That the API server is away, or has not read everything yet, is no fault of istag's. But that it does not know what streams
			// are, at first, is felt where istag enforces.
			return !strings.Contains(err.Error(), "istag") || one.enforced && strings.Contains(err.Error(), "failed to configure policy")
		}
		one.mu.Unlock()
	}
	resume := env.HangAPI()
	defer resume()
	town.stream("fresh", local, "1="+keycloak+":20.0.3")
	town.stream("moved", local, "1="+keycloak+":20.0.2")
	town.check(env.RestartKubernetesAPI(t.Context()))
	resume()
	town.await("admission goes on", pinnedCount, enough)
	town.comesToPin("fresh:1", served(t, keycloak+":20.0.3"))
	town.stream("moved", local, "1="+keycloak+":20.0.3")
	town.comesToPin("moved:1", served(t, keycloak+":20.0.3"))
	answered := allAnswered(t)
	town.await("and on", pinnedCount, enough)
	answered()
	town.rest()
	town.apply(deployment("after", spec{main: "moved:1", annotations: following(triggers("spec.template.spec", "main", "moved:1"))}))
	town.stream("moved", local, "1="+keycloak+":20.0.1")
	town.comesToRun("deployment/after", served(t, keycloak+":20.0.1")) // the controller has survived it too
}

// TestFaultIndexLostItsWatch: the webhook hears nothing of the API server, and nothing tells it so.
func TestFaultIndexLostItsWatch(t *testing.T) {
	town := newTown(t)
	town.stream("moves", local, "1="+keycloak+":20.0.2")
	town.stream("goes", local, "1="+keycloak+":20.0.2")
	town.comesToPin("moves:1", town.pinned)
	town.comesToPin("goes:1", town.pinned)
	answered := allAnswered(t)
	resume := env.HangAPI()
	defer resume()
	deaf := time.Now()
	town.stream("moves", local, "1="+keycloak+":20.0.3")
	town.stream("comes", local, "1="+keycloak+":20.0.3")
	town.kubectl("delete", "imagestream", "goes")
	town.pinsNow("what it knew last is what it knows", "moves:1", town.pinned)
	town.pinsNow("and what is gone is as it was", "goes:1", town.pinned)
	town.wait("the guard knows of a stream that the webhook cannot know of", func(context.Context) error {
		if result := town.try("run", "new", "--image", "comes:1", "--dry-run=server"); !strings.Contains(result.Stderr, "never-leak.istag.dev") {
			return fmt.Errorf("%s%s", result.Stdout, result.Stderr)
		}
		return nil
	})
	town.pinsNow("a name that no stream has is no stream's", "nonesuch:1", "nonesuch:1")
	town.await("people work", pinnedCount, few)
	town.wait("the index says how old it is", func(ctx context.Context) error {
		age, err := total(ctx, "webhook", "istag_index_age_seconds")
		if err != nil || age < 3 || age > time.Since(deaf).Seconds()+60 {
			return errors.Join(fmt.Errorf("it says %v, and has heard nothing for %s", age, time.Since(deaf)), err)
		}
		return nil
	})
	answered() // late perhaps, but in time
	young := newPlace(t, enforced)
	young.stream("keycloak", local, "20.0="+keycloak+":20.0.2")
	young.refused(young.try("create", "deployment", "x", "--image", "keycloak:20.0"), guarded("keycloak:20.0", "keycloak")...)
	young.pinsNow("a namespace that the webhook cannot know of is the guard's alone", "busybox:1.36", "busybox:1.36")
	resume()
	town.comesToPin("moves:1", served(t, keycloak+":20.0.3"))
	town.comesToPin("comes:1", served(t, keycloak+":20.0.3"))
	town.comesToPin("goes:1", "goes:1")
	young.comesToPin("keycloak:20.0", town.pinned)
	town.wait("the index is young again", func(ctx context.Context) error {
		if age, err := total(ctx, "webhook", "istag_index_age_seconds"); err != nil || age > time.Since(deaf).Seconds() {
			return errors.Join(fmt.Errorf("it is %v", age), err)
		}
		return nil
	})
	town.rest()
}

// TestFaultReviewsTakeTheirDeadline: everything that a review may wait for hangs.
func TestFaultReviewsTakeTheirDeadline(t *testing.T) {
	town := newTown(t)
	answered := allAnswered(t)
	resume, err := env.SuspendRegistries()
	town.check(err)
	wake := func() { town.check(resume()) }
	defer wake()
	town.apply(streamManifest("pending", local, "1="+keycloak+":20.0.3"))
	town.wait("the webhook knows of the stream", func(context.Context) error {
		if result := town.try("run", "wait", "--image", "pending:1", "--dry-run=server"); !strings.Contains(result.Stderr, "pending") {
			return fmt.Errorf("%s%s", result.Stdout, result.Stderr)
		}
		return nil
	})
	hears := env.HangAPI()
	defer hears()
	// A live read, then the wait for a first import; of each container another.
	slow := spec{main: "pending:1", side: "unknown-a:1", init: "unknown-b:1", volume: "keycloak:20.0"}
	town.refused(town.tryApply(deployment("slow", slow)), `tag "1" of image stream "pending" has no image yet`)
	slow.main = "keycloak:20.0"
	town.apply(deployment("slow", slow))
	town.runs("what the index knows is pinned, and what nobody can know is left", "deployment/slow", "unknown-b:1", town.pinned, "unknown-a:1", town.pinned)
	town.await("others do not notice", pinnedCount, few)
	answered()
	hears()
	wake()
	town.comesToPin("pending:1", served(t, keycloak+":20.0.3"))
	town.rest()
}

// TestFaultWebhookHangs: a webhook that takes requests and never answers costs those who need it their time, and nobody else anything.
func TestFaultWebhookHangs(t *testing.T) {
	p, other := newPlace(t, enforced), newPlace(t)
	for _, p := range []*place{p, other} {
		p.stream("keycloak", local, "20.0="+keycloak+":20.0.2")
	}
	pinned := served(t, keycloak+":20.0.2")
	p.apply(deployment("before", spec{main: "keycloak:20.0"}))
	p.kubectl("rollout", "status", "deployment/before", "--timeout", "60s")
	given, err := unanswered(t.Context())
	p.check(err)
	resume, err := env.Webhooks()[0].Suspend()
	p.check(err)
	wake := func() { p.check(resume()) }
	defer wake()
	other.kubectl("run", "x", "--image", "keycloak:20.0")
	p.kubectl("label", "deployment/before", "changed=yes")
	p.kubectl("scale", "deployment/before", "--replicas", "2")
	p.kubectl("rollout", "status", "deployment/before", "--timeout", "60s")
	if now, err := unanswered(t.Context()); err != nil || now != given {
		t.Errorf("where istag is not asked for, and of what does not touch images, nobody waits: %v", err)
	}
	var asking sync.WaitGroup
	var short, full, exact harness.Result
	asking.Go(func() { short = p.try("run", "x", "--image", "keycloak:20.0") })
	asking.Go(func() { full = p.try("run", "full", "--image", "quay.io/any/thing:1") })
	asking.Go(func() { exact = p.try("run", "exact", "--image", pinned) })
	asking.Wait()
	p.refused(short, guarded("keycloak:20.0", "keycloak")...)
	p.check(errors.Join(full.Err(), exact.Err())) // late
	if now, err := unanswered(t.Context()); err != nil || now == given {
		t.Errorf("the story is of a webhook that does not answer: %v", err)
	}
	wake()
	p.wait("it works again", func(context.Context) error { return p.try("run", "y", "--image", "keycloak:20.0").Err() })
	p.runs("and pins", "pod/y", pinned)
}

// TestFaultConfigurationBroken: a file that cannot be used changes nothing while the webhook runs. A webhook that has nothing else
// does not start, and is missed as if it were down.
func TestFaultConfigurationBroken(t *testing.T) {
	p := newPlace(t, enforced)
	p.stream("keycloak", local, "20.0="+keycloak+":20.0.2")
	usePolicy(t, config.Policy{ResolveImages: config.Attempt, ExecutionRules: []config.ExecutionRule{
		{Name: "no-docker-hub", Reject: true, MatchRegistries: []string{"docker.io"}},
	}})
	good, err := env.ConfigText()
	p.check(err)
	unchanged := func() {
		t.Helper()
		p.refused(p.try("run", "x", "--image", "busybox:1.36"), "no-docker-hub")
		p.pinsNow("names mean what they meant", "keycloak:20.0", served(t, keycloak+":20.0.2"))
	}
	broken := bytes.Replace(good, []byte("name: no-docker-hub"), []byte("named: no-docker-hub"), 1)
	cut := good[:bytes.Index(good, []byte("matchRegistries"))+len("match")]
	for _, text := range [][]byte{broken, cut, {}} {
		p.check(reload(t.Context(), "failed", func() error { return env.WriteConfig(text) }))
		unchanged()
	}
	p.check(os.Remove(env.ConfigFile()))
	p.wait("the webhook says that its file is gone", func(context.Context) error {
		if said, err := os.ReadFile(env.Log("webhook")); err != nil || !bytes.Contains(said, []byte("the configuration file cannot be read; the policy stays as it is")) {
			return errors.Join(errors.New("it does not"), err)
		}
		return nil
	})
	unchanged()

	up := down(t, env.StopWebhook, env.StartWebhook)
	file := filepath.Join(t.TempDir(), "config.yaml")
	p.check(os.WriteFile(file, broken, 0o600))
	output, err := env.Istag(t.Context(), "serve", "webhook", "--config", file).CombinedOutput()
	if err == nil || !strings.Contains(string(output), "named") || !strings.Contains(string(output), file) {
		t.Errorf("a webhook does not start with a file that it cannot use, and says which field of it is wrong: %v: %s", err, output)
	}
	p.refused(p.try("run", "x", "--image", "keycloak:20.0"), guarded("keycloak:20.0", "keycloak")...)
	up()
	p.wait("it starts with the file as it was", func(context.Context) error {
		if result := p.try("run", "x", "--image", "busybox:1.36", "--dry-run=server"); !strings.Contains(result.Stderr, "no-docker-hub") {
			return fmt.Errorf("%s%s", result.Stdout, result.Stderr)
		}
		return nil
	})
	unchanged()
}

// pinsNow fails unless a name is replaced, or left, so in a Deployment that is not made.
func (p *place) pinsNow(reason, name, want string) {
	p.t.Helper()
	made := decode(p.t, p.kubectl("create", "deployment", "asked", "--image", name, "--dry-run=server", "--output", "json"))
	if got := made.images()[0]; got != want {
		p.t.Errorf("%s: %q must become %q, becomes %q", reason, name, want, got)
	}
}

// comesToPin waits until a name is replaced, or left, so.
func (p *place) comesToPin(name, want string) {
	p.t.Helper()
	p.wait(fmt.Sprintf("%q becomes %q", name, want), func(context.Context) error {
		result := p.try("create", "deployment", "asked", "--image", name, "--dry-run=server", "--output", "json")
		if err := result.Err(); err != nil {
			return err
		}
		if got := decode(p.t, result.Stdout).images()[0]; got != want {
			return fmt.Errorf("it becomes %q", got)
		}
		return nil
	})
}

// count is how many requests have ended in a way where istag enforces.
func (w *town) count(count func(*person) int) int {
	one := w.people[0]
	one.mu.Lock()
	defer one.mu.Unlock()
	return count(one)
}

// busiest is the replica that answers: the API server keeps its connections, so it is one and the same.
func (w *town) busiest() *harness.Replica {
	w.t.Helper()
	reviews := func() map[*harness.Replica]float64 {
		all := map[*harness.Replica]float64{}
		for _, replica := range env.Webhooks() {
			text, err := metricsAt(w.t.Context(), replica.Metrics())
			w.check(err)
			all[replica], err = sum(text, "istag_admission_duration_seconds_count")
			w.check(err)
		}
		return all
	}
	before := reviews()
	w.await("somebody answers", pinnedCount, 1)
	var busiest *harness.Replica
	most := 0.0
	for replica, n := range reviews() {
		if done := n - before[replica]; done > most {
			busiest, most = replica, done
		}
	}
	if busiest == nil {
		w.t.Fatal("no replica has answered anything")
	}
	return busiest
}

// trustOnly makes the API server trust another CA than istag's, with both webhooks.
func (w *town) trustOnly(bundle []byte) {
	w.t.Helper()
	ctx, key := w.t.Context(), client.ObjectKey{Name: "istag"}
	pin, check := &admissionregistrationv1.MutatingWebhookConfiguration{}, &admissionregistrationv1.ValidatingWebhookConfiguration{}
	w.check(errors.Join(env.Client().Get(ctx, key, pin), env.Client().Get(ctx, key, check)))
	for i := range pin.Webhooks {
		pin.Webhooks[i].ClientConfig.CABundle = bundle
	}
	for i := range check.Webhooks {
		check.Webhooks[i].ClientConfig.CABundle = bundle
	}
	w.check(errors.Join(env.Client().Update(ctx, pin), env.Client().Update(ctx, check)))
}

// pair is a certificate and its key, as PEM.
type pair struct{ certificate, key []byte }

// sign makes a certificate by a template, signed by the CA given, or by itself.
func sign(t *testing.T, template, ca *x509.Certificate, signer any) pair {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if ca == nil {
		ca, signer = template, key
	}
	certificate, err := x509.CreateCertificate(rand.Reader, template, ca, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	text, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pair{
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: text}),
	}
}

// expire makes a certificate for the same names and of the same CA as the one in a Secret, that was valid until an hour ago.
func expire(t *testing.T, secret *corev1.Secret) pair {
	t.Helper()
	var parsed []*x509.Certificate
	for _, name := range []string{"ca.crt", "tls.crt"} {
		block, _ := pem.Decode(secret.Data[name])
		if block == nil {
			t.Fatalf("%s of the Secret is no PEM", name)
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		parsed = append(parsed, certificate)
	}
	ca, err := tls.X509KeyPair(secret.Data["ca.crt"], secret.Data["ca.key"])
	if err != nil {
		t.Fatal(err)
	}
	old := *parsed[1]
	old.SerialNumber, old.PublicKey, old.PublicKeyAlgorithm, old.SignatureAlgorithm = big.NewInt(1), nil, 0, 0
	old.NotBefore, old.NotAfter = time.Now().Add(-48*time.Hour), time.Now().Add(-time.Hour)
	return sign(t, &old, parsed[0], ca.PrivateKey)
}

// selfSigned is a CA that has signed nothing.
func selfSigned(t *testing.T) pair {
	t.Helper()
	return sign(t, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "somebody-else"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}, nil, nil)
}

// presented is the certificate that is served at an address, as PEM, whether anybody would trust it or not.
func presented(ctx context.Context, at string) ([]byte, error) {
	address, err := url.Parse(at)
	if err != nil {
		return nil, err
	}
	connection, err := (&tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}}).DialContext(ctx, "tcp", address.Host) //nolint:gosec // it is looked at, not trusted
	if err != nil {
		return nil, err
	}
	defer connection.Close()
	served, ok := connection.(*tls.Conn)
	if !ok {
		return nil, fmt.Errorf("%T is no connection over TLS", connection)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: served.ConnectionState().PeerCertificates[0].Raw}), nil
}
