package harness

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"

	imagev1 "github.com/openshift/api/image/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/discovery"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	apiServiceKind = "APIService"
	serviceKind    = "Service"
)

// pointServiceHere lets the API server reach our API server by its Service, without a network: as a name that means this machine.
// Ports of such a Service mean nothing, so that the APIService has to name ours.
func (e *Env) pointServiceHere(object *unstructured.Unstructured) error {
	if object.GetKind() == serviceKind {
		object.Object["spec"] = map[string]any{"type": string(corev1.ServiceTypeExternalName), "externalName": "localhost"}
		return nil
	}
	_, text, err := net.SplitHostPort(e.roles[apiserverRole].config.APIServer.Address)
	if err != nil {
		return err
	}
	port, err := strconv.ParseInt(text, 10, 32)
	if err != nil {
		return err
	}
	return unstructured.SetNestedField(object.Object, port, "spec", "service", "port")
}

// APIServerURL is where the API server answers, past the cluster's own.
func (e *Env) APIServerURL() string {
	_, port, _ := net.SplitHostPort(e.roles[apiserverRole].config.APIServer.Address)
	return "https://localhost:" + port
}

// apiIsReady says why users cannot use the API yet: whether the server is ready, the cluster's API server passes requests on to it, and
// clients that look around find it.
func (e *Env) apiIsReady(ctx context.Context) error {
	if err := e.apiServerIsReady(ctx); err != nil {
		return err
	}
	service := &apiregistrationv1.APIService{}
	if err := e.Client().Get(ctx, client.ObjectKey{Name: "v1." + imagev1.GroupName}, service); err != nil {
		return err
	}
	for _, condition := range service.Status.Conditions {
		if condition.Type == apiregistrationv1.Available && condition.Status != apiregistrationv1.ConditionTrue {
			return fmt.Errorf("APIService: %s: %s", condition.Reason, condition.Message)
		}
	}
	if _, err := e.Images().ImageV1().ImageStreams(metav1.NamespaceAll).List(ctx, metav1.ListOptions{Limit: 1}); err != nil {
		return err
	}
	return e.apiIsFound()
}

// apiIsFound says what of the API kubectl cannot find: the cluster's API server collects that from time to time.
func (e *Env) apiIsFound() error {
	looking, err := discovery.NewDiscoveryClientForConfig(e.Config())
	if err != nil {
		return err
	}
	_, resources, failed, err := looking.GroupsAndMaybeResources()
	if err != nil {
		return err
	}
	if err := failed[imagev1.GroupVersion]; err != nil {
		return err
	}
	if found := resources[imagev1.GroupVersion]; found == nil || !slices.ContainsFunc(found.APIResources, func(r metav1.APIResource) bool { return r.Name == "imagestreams" }) {
		return errors.New("the API is not in what the API server says it serves")
	}
	paths, err := looking.OpenAPIV3().Paths()
	if err != nil {
		return err
	}
	if paths["apis/"+imagev1.GroupVersion.String()] == nil {
		return errors.New("the API is not in what the API server says of its schemas")
	}
	return nil
}

// apiServerIsReady asks the server itself, by a connection that is as the cluster's API server makes it.
func (e *Env) apiServerIsReady(ctx context.Context) error {
	roots := x509.NewCertPool()
	secret := &corev1.Secret{}
	conf := e.roles[apiserverRole].config
	if err := e.Client().Get(ctx, client.ObjectKey{Namespace: conf.Namespace, Name: conf.Certificates.Secret}, secret); err != nil {
		return err
	}
	if !roots.AppendCertsFromPEM(secret.Data["ca.crt"]) {
		return errors.New("the certificate's Secret holds no CA yet")
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}
	defer transport.CloseIdleConnections()
	return ok(ctx, &http.Client{Transport: transport}, e.APIServerURL()+"/readyz")
}
