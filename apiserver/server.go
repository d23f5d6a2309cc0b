// Package apiserver serves image.openshift.io/v1 as an aggregated API over the records of the store.
package apiserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"time"

	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apiserver/pkg/admission/plugin/policy/mutating"
	apiopenapi "k8s.io/apiserver/pkg/endpoints/openapi"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/healthz"
	"k8s.io/apiserver/pkg/server/options"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"
	"k8s.io/component-base/compatibility"
	baseversion "k8s.io/component-base/version"

	"istag.dev/apiserver/openapi"
	"istag.dev/certs"
	"istag.dev/config"
	"istag.dev/resolver/upstream"
)

const (
	// maxRequests bounds what one replica works on at once. Fairness between users is the business of the API
	// server in front, through which every request comes.
	maxRequests = 1000
	// deniedFor is how long a refusal is remembered. It is short for those who were just given the right that they lacked.
	deniedFor = time.Second
	// watchGrace is how long open watches have to end when the server stops.
	watchGrace = 5 * time.Second
)

// Server serves the API. It is a Runnable of a controller-runtime manager, for every replica.
type Server struct {
	// Cluster is where the records are.
	Cluster *rest.Config
	// Kubeconfig is the file that Cluster was read from, empty in a pod.
	Kubeconfig string
	// Config is istag's configuration.
	Config *config.Configuration
	// Upstream asks registries.
	Upstream *upstream.Client
}

// NeedLeaderElection says that every replica serves.
func (s *Server) NeedLeaderElection() bool { return false }

// Start serves until ctx ends, once the certificate is there.
func (s *Server) Start(ctx context.Context) error {
	if !certs.AwaitFiles(ctx, s.Config.APIServer.CertDir) {
		return nil
	}
	server, err := s.build()
	if err != nil {
		return fmt.Errorf("setting up the API server: %w", err)
	}
	return server.PrepareRun().RunWithContext(ctx)
}

func (s *Server) build() (*genericapiserver.GenericAPIServer, error) {
	scheme, err := newScheme()
	if err != nil {
		return nil, err
	}
	codecs := serializer.NewCodecFactory(scheme)
	generic, err := s.genericConfig(codecs)
	if err != nil {
		return nil, err
	}
	server, err := generic.Complete().New("istag", genericapiserver.NewEmptyDelegate())
	if err != nil {
		return nil, err
	}
	group, err := s.group(scheme, codecs, generic)
	if err != nil {
		return nil, err
	}
	return server, errors.Join(server.AddReadyzChecks(frontProxy(generic)), server.InstallAPIGroup(group))
}

// frontProxy is ready when the server knows the authority that signs the certificate of the API server in
// front: until then every request would be a stranger's.
func frontProxy(c *genericapiserver.RecommendedConfig) healthz.HealthChecker {
	return healthz.NamedCheck("front-proxy-ca", func(*http.Request) error {
		if h := c.Authentication.RequestHeaderConfig; h == nil || len(h.CAContentProvider.CurrentCABundleContent()) == 0 {
			return errors.New("the front proxy's authority, in ConfigMap kube-system/extension-apiserver-authentication, has not been read yet")
		}
		return nil
	})
}

func (s *Server) genericConfig(codecs serializer.CodecFactory) (*genericapiserver.RecommendedConfig, error) {
	o, err := s.options()
	if err != nil {
		return nil, err
	}
	c := genericapiserver.NewRecommendedConfig(codecs)
	c.EffectiveVersion = compatibility.NewEffectiveVersionFromString(baseversion.DefaultKubeBinaryVersion, "", "")
	c.MaxRequestsInFlight, c.MaxMutatingRequestsInFlight = maxRequests, maxRequests
	c.ShutdownWatchTerminationGracePeriod = watchGrace
	if err := describe(c); err != nil {
		return nil, err
	}
	return c, o.ApplyTo(c)
}

// options are those of every aggregated API server, but for what the configuration says.
func (s *Server) options() (*options.RecommendedOptions, error) {
	o := options.NewRecommendedOptions("", nil)
	o.Etcd, o.EgressSelector, o.Traces = nil, nil, nil
	host, port, err := net.SplitHostPort(s.Config.APIServer.Address)
	if err != nil {
		return nil, fmt.Errorf("apiserver.address %q: %w", s.Config.APIServer.Address, err)
	}
	if o.SecureServing.BindPort, err = strconv.Atoi(port); err != nil {
		return nil, fmt.Errorf("apiserver.address %q: the port must be a number: %w", s.Config.APIServer.Address, err)
	}
	if host != "" {
		if o.SecureServing.BindAddress = net.ParseIP(host); o.SecureServing.BindAddress == nil {
			return nil, fmt.Errorf("apiserver.address %q: the host must be an IP address, or empty for all", s.Config.APIServer.Address)
		}
	}
	o.SecureServing.ServerCert.CertKey.CertFile = filepath.Join(s.Config.APIServer.CertDir, "tls.crt")
	o.SecureServing.ServerCert.CertKey.KeyFile = filepath.Join(s.Config.APIServer.CertDir, "tls.key")
	o.Authentication.RemoteKubeConfigFile = s.Kubeconfig
	o.Authorization.RemoteKubeConfigFile = s.Kubeconfig
	o.CoreAPI.CoreAPIKubeconfigPath = s.Kubeconfig
	o.Authorization.DenyCacheTTL = deniedFor
	o.Features.EnableProfiling = false
	// The API server in front has judged every request already, and knows all of the cluster's load.
	o.Features.EnablePriorityAndFairness = false
	if err := s.choosePlugins(o.Admission); err != nil {
		return nil, err
	}
	return o, errors.Join(o.Validate()...)
}

// choosePlugins leaves out the admission plugin whose resources an older cluster does not have: the server
// would wait for them for ever before it is ready.
func (s *Server) choosePlugins(admission *options.AdmissionOptions) error {
	client, err := discovery.NewDiscoveryClientForConfig(s.Cluster)
	if err != nil {
		return err
	}
	resources, err := client.ServerResourcesForGroupVersion("admissionregistration.k8s.io/v1")
	if err != nil {
		return fmt.Errorf("asking which admission policies the cluster has: %w", err)
	}
	for i := range resources.APIResources {
		if resources.APIResources[i].Name == "mutatingadmissionpolicies" {
			return nil
		}
	}
	admission.DisablePlugins = append(admission.DisablePlugins, mutating.PluginName)
	return nil
}

// describe makes the API known to kubectl explain and server-side apply.
func describe(c *genericapiserver.RecommendedConfig) error {
	wire, err := newWireScheme()
	if err != nil {
		return err
	}
	namer := apiopenapi.NewDefinitionNamer(wire)
	c.OpenAPIConfig = genericapiserver.DefaultOpenAPIConfig(openapi.Definitions, namer)
	c.OpenAPIV3Config = genericapiserver.DefaultOpenAPIV3Config(openapi.Definitions, namer)
	c.OpenAPIConfig.GetDefinitionName = definitionNames(namer.GetDefinitionName)
	c.OpenAPIV3Config.GetDefinitionName = definitionNames(namer.GetDefinitionName)
	// They were made with the other names, and are made again when they are needed.
	c.OpenAPIV3Config.Definitions = nil
	c.OpenAPIConfig.Info.Title, c.OpenAPIV3Config.Info.Title = "istag", "istag"
	return nil
}
