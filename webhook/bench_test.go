package webhook

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"
)

// BenchmarkServe compares the webhooks with controller-runtime's, which allows everything: the same request, no network.
func BenchmarkServe(b *testing.B) {
	object := strings.Replace(deploymentOf("keycloak:1", `"labels":{"app":"web"}`), `"containers":[`,
		`"containers":[{"name":"b","image":"keycloak:1","env":[{"name":"MODE","value":"production"}],"ports":[{"containerPort":8080}]},{"name":"c","image":"quay.io/x/y:1"},`, 1)
	body := reviewBody(b, request("deployments", object, ""))
	p := newPinner(b, nil)
	noop := &admission.Webhook{Handler: admission.HandlerFunc(
		func(context.Context, admission.Request) admission.Response { return admission.Allowed("") })}
	for name, handler := range map[string]http.Handler{"Pinner": p.Pin(), "Check": p.Check(), "Noop": noop} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				r := httptest.NewRequestWithContext(b.Context(), http.MethodPost, PinPath, strings.NewReader(body))
				r.Header.Set("Content-Type", "application/json")
				handler.ServeHTTP(httptest.NewRecorder(), r)
			}
		})
	}
}
