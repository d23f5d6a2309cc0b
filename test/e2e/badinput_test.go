package e2e

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// bundle is what the API server trusts of the webhook.
func bundle(t *testing.T) string {
	t.Helper()
	configuration := &admissionregistrationv1.MutatingWebhookConfiguration{}
	if err := env.Client().Get(t.Context(), client.ObjectKey{Name: "istag"}, configuration); err != nil {
		t.Fatal(err)
	}
	return string(configuration.Webhooks[0].ClientConfig.CABundle)
}

// trust is a client's trust in the webhook, as the API server has it.
func trust(t *testing.T) *tls.Config {
	t.Helper()
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(bundle(t))) {
		t.Fatal("the CA bundle holds no certificate")
	}
	return &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
}

// servedCertificate is the certificate that is served at an address now, as PEM.
func servedCertificate(t *testing.T, at string) string {
	t.Helper()
	address, err := url.Parse(at)
	if err != nil {
		t.Fatal(err)
	}
	connection, err := (&tls.Dialer{Config: trust(t)}).DialContext(t.Context(), "tcp", address.Host)
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	served, ok := connection.(*tls.Conn)
	if !ok {
		t.Fatalf("%T is no connection over TLS", connection)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: served.ConnectionState().PeerCertificates[0].Raw}))
}

// pod is a pod of so many containers, as JSON.
func pod(containers int, image string) string {
	text, _ := json.Marshal(image) // a string always encodes
	all := make([]string, containers)
	for i := range all {
		all[i] = fmt.Sprintf(`{"name":"c%d","image":%s}`, i, text)
	}
	return `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"x"},"spec":{"containers":[` + strings.Join(all, ",") + `]}}`
}

// review is an AdmissionReview of the creation of a pod.
func review(version, namespace, object string) string {
	return fmt.Sprintf(`{"apiVersion":"admission.k8s.io/%s","kind":"AdmissionReview","request":{"uid":"u","operation":"CREATE","namespace":%q,`+
		`"kind":{"group":"","version":"v1","kind":"Pod"},"resource":{"group":"","version":"v1","resource":"pods"},"name":"x","object":%s}}`, version, namespace, object)
}

func TestBadInput(t *testing.T) {
	t.Parallel()
	p := newPlace(t, enforced)
	p.stream("keycloak", local, "20.0="+keycloak+":20.0.2")
	p.kubectl("run", "known", "--image", "keycloak:20.0")
	hello := review("v1", p.name, pod(1, "keycloak:20.0"))
	for name, c := range map[string]struct {
		reason, contentType, body string
		allowed                   bool
		code                      int32 // of the answer, if it is no
		patches                   int   // of the answer, if it is yes
	}{
		"good":            {reason: "this is what the API server sends", body: hello, allowed: true, patches: 2},
		"empty":           {reason: "no body at all", body: "", code: 400},
		"text":            {reason: "no JSON", body: "hello", code: 400},
		"half":            {reason: "JSON that ends too early", body: hello[:len(hello)/2], code: 400},
		"no review":       {reason: "JSON of another kind", body: pod(1, "keycloak:20.0"), code: 400},
		"no request":      {reason: "a review that asks nothing", body: `{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview"}`, code: 400},
		"list":            {reason: "JSON of another shape", body: `[]`, code: 400},
		"content type":    {reason: "another content type", contentType: "text/plain", body: hello, code: 400},
		"version":         {reason: "a version that nobody speaks", body: review("v9", p.name, pod(1, "keycloak:20.0")), code: 400},
		"10 MiB":          {reason: "more than is read", body: review("v1", p.name, pod(1, strings.Repeat("a", 10<<20))), code: 413},
		"object":          {reason: "an object that is none", body: review("v1", p.name, `"hello"`), code: 400},
		"containers":      {reason: "containers that are none", body: review("v1", p.name, `{"spec":{"containers":"hello"}}`), code: 400},
		"no object":       {reason: "a creation of nothing has nothing to pin", body: review("v1", p.name, "null"), allowed: true},
		"no containers":   {reason: "a pod without containers is for the API server to refuse", body: review("v1", p.name, `{"spec":{}}`), allowed: true},
		"1000":            {reason: "a thousand containers are many and no more", body: review("v1", p.name, pod(1000, "keycloak:20.0")), allowed: true, patches: 1001},
		"no image name":   {reason: "what is no image name is for the API server to refuse", body: review("v1", p.name, pod(3, "Key Cloak::@")), allowed: true},
		"unicode":         {reason: "nor is this one", body: review("v1", p.name, pod(1, "kéycloak:20.0")), allowed: true},
		"control":         {reason: "nor this", body: review("v1", p.name, pod(1, "keycloak:20.0\x00\n")), allowed: true},
		"twice":           {reason: "an object that can be read in two ways", body: review("v1", p.name, `{"spec":{"containers":[]},"spec":{"containers":[]}}`), code: 400},
		"case":            {reason: "names in another case are other names, as for the API server", body: review("v1", p.name, `{"Spec":{"Containers":[{"Name":"a","Image":"keycloak:20.0"}]}}`), allowed: true},
		"deep":            {reason: "JSON nested too deep", body: review("v1", p.name, strings.Repeat(`{"a":`, 100_000)+"1"+strings.Repeat("}", 100_000)), code: 400},
		"thousand denied": {reason: "a thousand reasons to refuse are one answer", body: review("v1", p.name, pod(1000, "keycloak:nope")), code: 422},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			answer := post(t, env.WebhookURL, c.contentType, c.body)
			answers(t, c.reason, answer, c.allowed, c.code)
			// What is no review is none for the other webhook either; what it says of the rest is its own.
			if c.code == 400 || c.code == 413 {
				answers(t, "validating: "+c.reason, post(t, env.CheckURL(), c.contentType, c.body), c.allowed, c.code)
			}
			var patches []any
			if len(answer.Patch) > 0 {
				if err := json.Unmarshal(answer.Patch, &patches); err != nil {
					t.Fatal(err)
				}
			}
			if len(patches) != c.patches {
				t.Errorf("%s: want %d patches, got %d", c.reason, c.patches, len(patches))
			}
		})
	}
	t.Cleanup(func() {
		if err := env.Err(); err != nil {
			t.Errorf("the process must survive it all: %v", err)
		}
	})
}

// answers fails unless a webhook said yes, or no with a code and a message.
func answers(t *testing.T, reason string, answer *admissionv1.AdmissionResponse, allowed bool, code int32) {
	t.Helper()
	switch {
	case answer.Allowed != allowed:
		t.Fatalf("%s: want allowed %t, got %s", reason, allowed, short(answer))
	case !allowed && (answer.Result == nil || answer.Result.Code != code || answer.Result.Message == ""):
		t.Errorf("%s: want code %d and a message, got %s", reason, code, short(answer))
	}
}

// post sends a body to a webhook, past the API server, and returns the answer, which must be one.
func post(t *testing.T, at, contentType, body string) *admissionv1.AdmissionResponse {
	t.Helper()
	if contentType == "" {
		contentType = "application/json"
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, at, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", contentType)
	transport := &http.Transport{TLSClientConfig: trust(t)}
	defer transport.CloseIdleConnections()
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	var answer admissionv1.AdmissionReview
	if err := json.NewDecoder(bytes.NewReader(text)).Decode(&answer); err != nil || answer.Response == nil {
		t.Fatalf("the answer must be an AdmissionReview: %s: %v: %.300s", response.Status, err, text)
	}
	return answer.Response
}

func short(answer *admissionv1.AdmissionResponse) string {
	text, _ := json.Marshal(answer)
	return fmt.Sprintf("%.500s", text)
}
