package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"istag.dev/test/harness"
)

// TestAdmissionAsksNobody counts requests, so it runs while no other story does.
func TestAdmissionAsksNobody(t *testing.T) {
	p := newPlace(t, enforced)
	p.stream("keycloak", local, "20.0="+keycloak+":20.0.2")
	p.stream("httpd", notLocal, "2.4=quay.io/redhattraining/httpd-24:2.4")
	p.kubectl("run", "first", "--image", "keycloak:20.0") // the index has the streams now
	var all []string
	for _, k := range kinds {
		all = append(all, k.write("x", spec{main: "keycloak:20.0", init: "httpd:2.4", side: "quay.io/any/thing:1", volume: "keycloak:20.0"}))
	}
	registry, api := registryRequests(t), apiRequests(t)
	p.apply(strings.Join(all, "\n---\n"))
	// A dry run: of a refusal that counts there is an event.
	p.refused(p.try("run", "typo", "--image", "keycloak:nope", "--dry-run=server"), `has no tag "nope"`)
	if n := registryRequests(t) - registry; n != 0 {
		t.Errorf("admission never waits for a registry: it made %d requests", n)
	}
	if n := apiRequests(t) - api; n != 0 {
		t.Errorf("nor for the API server, on its normal path: it made %d requests", n)
	}
	want := served(t, keycloak+":20.0.2")
	p.runs("and yet it knows the digest", "deployment/x", "httpd:2.4", want, "quay.io/any/thing:1", want)
}

// registryRequests is how many requests the registries have answered. Imports of other stories that fail
// are tried again at any time; they do not count.
func registryRequests(t *testing.T) int {
	t.Helper()
	requests, err := env.RegistryRequests()
	if err != nil {
		t.Fatal(err)
	}
	return len(slices.DeleteFunc(requests, func(a harness.Access) bool {
		return strings.Contains(a.Path, "/nonesuch") || strings.Contains(a.Path, "/private.example.com/")
	}))
}

// apiRequests is how many requests the webhook says it has made of the API server.
func apiRequests(t *testing.T) int {
	t.Helper()
	requests, err := total(t.Context(), "webhook", "rest_client_requests_total")
	if err != nil || requests == 0 {
		t.Fatalf("the webhook has read all streams, so it has counted requests: %v", err)
	}
	return int(requests)
}

// metrics is what a role says at /metrics.
func metrics(ctx context.Context, role string) (string, error) {
	return metricsAt(ctx, env.Metrics(role))
}

// metricsAt is what is said at an address.
func metricsAt(ctx context.Context, address string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return "", err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return string(text), err
}

// total is the sum of a metric of a role.
func total(ctx context.Context, role, metric string, labels ...string) (float64, error) {
	text, err := metrics(ctx, role)
	if err != nil {
		return 0, err
	}
	return sum(text, metric, labels...)
}

// sum is that of a metric over all its series that have the labels given, `label="value"`.
func sum(text, metric string, labels ...string) (float64, error) {
	var sum float64
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		end := strings.LastIndex(line, " ")
		name, have, _ := strings.Cut(line[:max(end, 0)], "{")
		if name != metric || slices.ContainsFunc(labels, func(l string) bool { return !strings.Contains(have, l) }) {
			continue
		}
		n, err := strconv.ParseFloat(line[end+1:], 64)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", line, err)
		}
		sum += n
	}
	return sum, nil
}
