package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strconv"
	"strings"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"istag.dev/test/harness"
)

const (
	rounds      = 8
	roundLength = 2 * time.Second
	warmUp      = time.Second

	// webhookProcess is what the harness calls it.
	webhookProcess = "istag serve webhook"
)

// admissions measures the webhook against one that allows everything: the same requests over the same
// TLS, in turns, so that whatever else the machine does meets both.
func admissions(ctx context.Context, env *harness.Env, out io.Writer) error {
	ca, err := authority(env)
	if err != nil {
		return err
	}
	bodies, err := reviews()
	if err != nil {
		return err
	}
	ours := newTarget(env.WebhookURL, ca, bodies, pinned)

	empty, err := residentAfterLoad(ctx, env, newTarget(env.WebhookURL, ca, bodies, anything))
	if err != nil {
		return err
	}
	note("filling the store with %d streams of %d tags", streamCount, tagCount)
	itself, err := env.Store()
	if err != nil {
		return err
	}
	if err := fill(ctx, itself.Client()); err != nil {
		return err
	}
	full, err := residentAfterLoad(ctx, env, ours)
	if err != nil {
		return err
	}
	figure(out, "index_memory_mb_100k_tags", (full-empty)/1e6, "MB")

	reference, err := startNoop(ctx, env)
	if err != nil {
		return err
	}
	defer reference.stop()
	if err := separate(env, reference); err != nil {
		return err
	}
	noop := newTarget(reference.url, ca, bodies, anything)
	// Its own work on tags that move is not what is measured here.
	if err := env.StopController(); err != nil {
		return err
	}
	begun, moves := time.Now(), startMoving(ctx, itself.Client())
	if err := underMoves(ctx, env, out, ours, noop); err != nil {
		_, _ = moves.rate(begun) // the first error says more
		return err
	}
	rate, err := moves.rate(begun)
	if err != nil {
		return err
	}
	figure(out, "admission_tag_moves_per_s", rate, "1/s")
	if err := blackHoled(ctx, env, out, ours, noop); err != nil {
		return err
	}
	return env.StartController(ctx)
}

// underMoves measures while tags move.
func underMoves(ctx context.Context, env *harness.Env, out io.Writer, ours, noop *target) error {
	before, err := requestsMade(ctx, env)
	if err != nil {
		return err
	}
	asked := ours.next.Load()
	for _, clients := range []int{1, 32, 256} {
		if err := compare(ctx, out, "", clients, ours, noop); err != nil {
			return err
		}
	}
	after, err := requestsMade(ctx, env)
	if err != nil {
		return err
	}
	figure(out, "admission_registry_requests", after.registry-before.registry, "requests")
	figure(out, "admission_api_requests", after.api-before.api, "requests")
	figure(out, "admission_allocs_per_request", (after.allocs-before.allocs)/float64(ours.next.Load()-asked), "allocs")
	return nil
}

// blackHoled measures while every registry takes connections and answers none.
func blackHoled(ctx context.Context, env *harness.Env, out io.Writer, ours, noop *target) error {
	resume, err := env.SuspendRegistries()
	if err != nil {
		return err
	}
	return errors.Join(compare(ctx, out, "_black_holed", 32, ours, noop), resume())
}

// separate gives the webhooks, of which one is asked at a time, a core, and the load another.
func separate(env *harness.Env, reference *noop) error {
	ours, ok := env.Processes()[webhookProcess]
	if !ok {
		return errors.New("the webhook does not run")
	}
	if goruntime.NumCPU() < 2 {
		return nil
	}
	return errors.Join(runOn(0, ours), runOn(0, reference.pid), runOn(1, os.Getpid()))
}

// compare prints what the webhook's answers take over those of the reference, in some circumstance that
// is part of the figures' names.
func compare(ctx context.Context, out io.Writer, circumstance string, clients int, ours, noop *target) error {
	note("admission with %d clients%s", clients, strings.ReplaceAll(circumstance, "_", " "))
	ours.latencies, noop.latencies = nil, nil
	for _, t := range []*target{ours, noop} {
		if err := t.closedLoop(ctx, clients, warmUp, false); err != nil {
			return err
		}
	}
	for range rounds {
		for _, t := range []*target{ours, noop} {
			if err := t.closedLoop(ctx, clients, roundLength, true); err != nil {
				return err
			}
		}
	}
	for _, p := range []float64{50, 99} {
		a, b := percentile(ours.latencies, p), percentile(noop.latencies, p)
		figure(out, fmt.Sprintf("admission_p%.0f_over_noop_c%d%s", p, clients, circumstance), float64(a)/float64(b), "ratio")
		figure(out, fmt.Sprintf("admission_p%.0f_c%d%s", p, clients, circumstance), float64(a.Microseconds()), "µs")
	}
	throughput := float64(len(ours.latencies)) / float64(len(noop.latencies))
	figure(out, fmt.Sprintf("admission_throughput_over_noop_c%d%s", clients, circumstance), throughput, "ratio")
	return nil
}

// reviews makes requests for Deployments of three containers, two of whose images are short names of
// streams all over the index.
func reviews() ([][]byte, error) {
	var bodies [][]byte
	for i := 0; i < streamCount; i += 20 {
		s := streamAt(i)
		deployment := appsv1.Deployment{
			TypeMeta:   metav1.TypeMeta{APIVersion: "apps/v1", Kind: "Deployment"},
			ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: "web", Labels: map[string]string{"app": "web"}},
		}
		deployment.Spec.Selector = &metav1.LabelSelector{MatchLabels: deployment.Labels}
		deployment.Spec.Template.Labels = deployment.Labels
		for j, image := range []string{s.name + ":t3", s.name + ":t7", "quay.io/other/sidecar:1.0"} {
			deployment.Spec.Template.Spec.Containers = append(deployment.Spec.Template.Spec.Containers, corev1.Container{
				Name: fmt.Sprintf("c%d", j), Image: image, ImagePullPolicy: corev1.PullIfNotPresent,
				Env:                    []corev1.EnvVar{{Name: "MODE", Value: "production"}, {Name: "PORT", Value: "8080"}},
				Ports:                  []corev1.ContainerPort{{ContainerPort: 8080, Protocol: corev1.ProtocolTCP}},
				TerminationMessagePath: "/dev/termination-log",
			})
		}
		raw, err := json.Marshal(deployment)
		if err != nil {
			return nil, err
		}
		body, err := json.Marshal(admissionv1.AdmissionReview{
			TypeMeta: metav1.TypeMeta{APIVersion: "admission.k8s.io/v1", Kind: "AdmissionReview"},
			Request: &admissionv1.AdmissionRequest{
				UID:       types.UID(fmt.Sprintf("00000000-0000-0000-0000-%012d", i)),
				Kind:      metav1.GroupVersionKind{Group: "apps", Version: "v1", Kind: "Deployment"},
				Resource:  metav1.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"},
				Namespace: s.namespace, Name: "web", Operation: admissionv1.Create,
				Object: runtime.RawExtension{Raw: raw},
			},
		})
		if err != nil {
			return nil, err
		}
		bodies = append(bodies, body)
	}
	return bodies, nil
}

func anything([]byte) error { return nil }

// pinned checks that an answer patches the object: two images and the annotation.
func pinned(answer []byte) error {
	if !bytes.Contains(answer, []byte(`"patch":"`)) || !bytes.Contains(answer, []byte(`"allowed":true`)) {
		return fmt.Errorf("the webhook did not pin: %s", answer)
	}
	return nil
}

// authority reads who signed the webhook's certificate from the configuration that the API server uses.
func authority(env *harness.Env) (*x509.CertPool, error) {
	got := env.Kubectl(context.Background(), "get", "mutatingwebhookconfiguration", "istag", "-o", "jsonpath={.webhooks[0].clientConfig.caBundle}")
	if err := got.Err(); err != nil {
		return nil, err
	}
	var bundle []byte
	if err := json.Unmarshal([]byte(strconv.Quote(strings.TrimSpace(got.Stdout))), &bundle); err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(bundle) {
		return nil, errors.New("the webhook configuration holds no CA")
	}
	return pool, nil
}

// residentAfterLoad restarts the webhook, puts it under load and returns its resident memory in bytes.
func residentAfterLoad(ctx context.Context, env *harness.Env, t *target) (float64, error) {
	if err := env.StopWebhook(); err != nil {
		return 0, err
	}
	if err := env.StartWebhook(ctx); err != nil {
		return 0, err
	}
	if err := t.closedLoop(ctx, 8, 3*time.Second, false); err != nil {
		return 0, err
	}
	return resident(env, webhookProcess)
}

// resident returns a process's resident memory in bytes.
func resident(env *harness.Env, process string) (float64, error) {
	pid, ok := env.Processes()[process]
	if !ok {
		return 0, fmt.Errorf("%q does not run", process)
	}
	status, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if value, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kilobytes, err := strconv.ParseFloat(strings.Fields(value)[0], 64)
			return kilobytes * 1024, err
		}
	}
	return 0, fmt.Errorf("process %d states no resident memory", pid)
}

// made counts what the webhook and the importer asked of others, and what the webhook allocated.
type made struct{ registry, api, allocs float64 }

// requestsMade counts the requests that the registry answered, those that the webhook sent to the API
// server, and the webhook's allocations, so far.
func requestsMade(ctx context.Context, env *harness.Env) (made, error) {
	asked, err := env.RegistryRequests()
	if err != nil {
		return made{}, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, env.Metrics("webhook"), nil)
	if err != nil {
		return made{}, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return made{}, err
	}
	defer response.Body.Close()
	m := made{registry: float64(len(asked))}
	found := false
	for lines := bufio.NewScanner(response.Body); lines.Scan(); {
		requests, mallocs := strings.HasPrefix(lines.Text(), "rest_client_requests_total{"), strings.HasPrefix(lines.Text(), "go_memstats_mallocs_total ")
		if !requests && !mallocs {
			continue
		}
		fields := strings.Fields(lines.Text())
		value, err := strconv.ParseFloat(fields[len(fields)-1], 64)
		if err != nil {
			return made{}, err
		}
		if mallocs {
			m.allocs = value
			continue
		}
		m.api, found = m.api+value, true
	}
	if !found {
		return made{}, errors.New("the webhook's metrics do not count its requests to the API server")
	}
	return m, nil
}
