package e2e

import (
	"bufio"
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
		all = append(all, k.write("x", spec{main: "keycloak:20.0", init: "httpd:2.4", side: "quay.io/any/thing:1"}))
	}
	registry, api := registryRequests(t), apiRequests(t)
	p.apply(strings.Join(all, "\n---\n"))
	p.refused(p.try("run", "typo", "--image", "keycloak:nope"), `has no tag "nope"`)
	if n := registryRequests(t) - registry; n != 0 {
		t.Errorf("admission never waits for a registry: it made %d requests", n)
	}
	if n := apiRequests(t) - api; n != 0 {
		t.Errorf("nor for the API server, on its normal path: it made %d requests", n)
	}
	p.runs("and yet it knows the digest", "deployment/x", "httpd:2.4", served(t, keycloak+":20.0.2"), "quay.io/any/thing:1")
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
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, env.Metrics("webhook"), nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	total, found := 0, false
	for lines := bufio.NewScanner(response.Body); lines.Scan(); {
		if !strings.HasPrefix(lines.Text(), "rest_client_requests_total{") {
			continue
		}
		found = true
		value := lines.Text()[strings.LastIndex(lines.Text(), " ")+1:]
		n, err := strconv.ParseFloat(value, 64)
		if err != nil {
			t.Fatal(err)
		}
		total += int(n)
	}
	if !found {
		t.Fatal("the webhook has read all streams, so it has counted requests")
	}
	return total
}
