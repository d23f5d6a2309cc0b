package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	ctrlwebhook "sigs.k8s.io/controller-runtime/pkg/webhook"

	"istag.dev/apiserver"
	"istag.dev/certs"
	"istag.dev/config"
	"istag.dev/resolver/follower"
	"istag.dev/resolver/importer"
	"istag.dev/resolver/pruner"
	"istag.dev/resolver/upstream"
	storev1 "istag.dev/store/v1"
	"istag.dev/trigger"
	"istag.dev/webhook/audit"
)

// roles are what one process can be, in the order in which they are set up.
var roles = []string{roleWebhook, roleAPIServer, roleController}

const (
	roleWebhook    = "webhook"
	roleAPIServer  = "apiserver"
	roleController = "controller"

	leaderElectionID = "istag-controller"
	// shutdownTimeout leaves the slowest request that is under way, an import, its whole deadline.
	shutdownTimeout = 40 * time.Second
)

func newServeCommand() *cobra.Command {
	var (
		configPath, kubeconfig string
		all                    bool
	)
	cmd := &cobra.Command{
		Use:   "serve {" + strings.Join(roles, " | ") + " | --all}",
		Short: "Run one role, or all of them in one process for development",
		Long: `Run one role of istag:

  webhook      answers the API server's admission requests
  apiserver    serves image.openshift.io/v1, the API of image streams
  controller   imports tags, rolls workloads out and keeps the certificate of the other two

With --all they run in one process, which also keeps the certificate's files, as a kubelet
would: this is meant for development.`,
		ValidArgs: roles,
		Args:      cobra.MatchAll(cobra.MaximumNArgs(1), cobra.OnlyValidArgs),
		RunE: func(cmd *cobra.Command, args []string) error {
			if all == (len(args) == 1) {
				return fmt.Errorf("give one role (%s) or --all", strings.Join(roles, ", "))
			}
			c, err := config.Load(configPath)
			if err != nil {
				return err
			}
			if all {
				args = roles
			}
			return serve(cmd.Context(), c, configPath, kubeconfig, args)
		},
	}
	cmd.Flags().StringVar(&configPath, "config", "", `configuration file (see "istag config")`)
	cmd.Flags().StringVar(&kubeconfig, "kubeconfig", "", "kubeconfig file; without it $KUBECONFIG, the pod's service account or ~/.kube/config")
	cmd.Flags().BoolVar(&all, "all", false, "run every role in this process")
	return cmd
}

// serve runs the given roles until ctx ends.
func serve(ctx context.Context, c *config.Configuration, configPath, kubeconfig string, run []string) error {
	logger := slog.NewJSONHandler(os.Stderr, nil)
	ctrl.SetLogger(logr.FromSlogHandler(logger))
	klog.SetLogger(logr.FromSlogHandler(logger))

	cluster, err := clusterConfig(kubeconfig)
	if err != nil {
		return fmt.Errorf("finding the cluster: %w", err)
	}
	mgr, err := newManager(cluster, c, slices.Contains(run, roleController))
	if err != nil {
		return err
	}
	if err := errors.Join(mgr.AddHealthzCheck("ping", healthz.Ping), mgr.AddReadyzCheck("ping", healthz.Ping)); err != nil {
		return err
	}
	registries, err := upstream.New(upstream.Options{Registries: c.Registries, Platform: c.Imports.Platform, UserAgent: "istag/" + version})
	if err != nil {
		return err
	}
	log, err := openAuditLog(c, run)
	if err != nil {
		return err
	}
	add := map[string]func() error{
		roleWebhook:    func() error { return addWebhook(mgr, c, configPath, log) },
		roleController: func() error { return addController(mgr, c, registries) },
		roleAPIServer: func() error {
			return mgr.Add(&apiserver.Server{Cluster: mgr.GetConfig(), Kubeconfig: kubeconfigFile(kubeconfig), Config: c, Upstream: registries})
		},
	}
	for _, role := range run {
		if err := add[role](); err != nil {
			return fmt.Errorf("setting up role %s: %w", role, err)
		}
	}
	if len(run) == len(roles) {
		if err := addMount(mgr, c); err != nil {
			return fmt.Errorf("setting up the certificate's files: %w", err)
		}
	}
	// Reviews that are under way when the end comes are recorded as well.
	return errors.Join(mgr.Start(ctx), log.Close())
}

// openAuditLog opens the audit log, if one of the roles writes it.
func openAuditLog(c *config.Configuration, run []string) (*audit.Log, error) {
	if !slices.Contains(run, roleWebhook) {
		return audit.NewLog(io.Discard), nil
	}
	return audit.Open(c.Webhook.AuditLog)
}

func clusterConfig(kubeconfig string) (*rest.Config, error) {
	if kubeconfig != "" {
		return clientcmd.BuildConfigFromFlags("", kubeconfig)
	}
	return ctrl.GetConfig()
}

// kubeconfigFile returns the file that clusterConfig reads, empty in a pod.
func kubeconfigFile(given string) string {
	if _, err := rest.InClusterConfig(); err == nil && given == "" && os.Getenv("KUBECONFIG") == "" {
		return ""
	}
	return cmp.Or(given, os.Getenv("KUBECONFIG"), clientcmd.RecommendedHomeFile)
}

func newManager(cluster *rest.Config, c *config.Configuration, elect bool) (manager.Manager, error) {
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), storev1.AddToScheme(scheme)); err != nil {
		return nil, err
	}
	cluster = rest.CopyConfig(cluster)
	cluster.QPS = -1 // the API server's priority and fairness decides
	host, port, err := net.SplitHostPort(c.Webhook.Address)
	if err != nil {
		return nil, fmt.Errorf("webhook.address %q: %w", c.Webhook.Address, err)
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		return nil, fmt.Errorf("webhook.address %q: the port must be a number: %w", c.Webhook.Address, err)
	}
	server := ctrlwebhook.NewServer(ctrlwebhook.Options{Host: host, Port: number, CertDir: c.Webhook.CertDir})
	timeout := shutdownTimeout
	return ctrl.NewManager(cluster, ctrl.Options{
		Scheme: scheme,
		Cache: cache.Options{
			ByObject:         trigger.CacheByObject(),
			DefaultTransform: cache.TransformStripManagedFields(),
		},
		Metrics:                       metricsserver.Options{BindAddress: c.MetricsAddress},
		HealthProbeBindAddress:        c.HealthAddress,
		WebhookServer:                 certs.Await(server, c.Webhook.CertDir),
		LeaderElection:                elect,
		LeaderElectionID:              leaderElectionID,
		LeaderElectionNamespace:       c.Namespace,
		LeaderElectionReleaseOnCancel: true,
		GracefulShutdownTimeout:       &timeout,
	})
}

// addController adds imports, tags that follow others, the bound of histories, rollouts and, if istag
// manages it, the certificate.
func addController(mgr manager.Manager, c *config.Configuration, registries *upstream.Client) error {
	if c.Certificates.Mode == config.SelfManaged {
		if _, err := certs.AddRotator(mgr, certs.Options{
			Namespace:         c.Namespace,
			Secret:            c.Certificates.Secret,
			Services:          c.Certificates.Services,
			MutatingWebhook:   c.Certificates.MutatingWebhook,
			ValidatingWebhook: c.Certificates.ValidatingWebhook,
			APIService:        c.Certificates.APIService,
			CertDir:           c.Webhook.CertDir,
			ExtraDNSNames:     c.Certificates.ExtraNames,
		}); err != nil {
			return err
		}
	}
	return errors.Join(
		importer.Add(mgr, importer.Options{
			Upstream: registries,
			Workers:  c.Imports.Workers,
			Timeout:  c.Imports.Timeout.Duration,
		}),
		follower.Add(mgr, follower.Options{}),
		pruner.Add(mgr, pruner.Options{Limit: c.Streams.HistoryLimit}),
		trigger.Add(mgr, trigger.Options{}),
	)
}

// addMount keeps the certificate's files where no kubelet does.
func addMount(mgr manager.Manager, c *config.Configuration) error {
	secrets, err := client.NewWithWatch(mgr.GetConfig(), client.Options{Scheme: mgr.GetScheme()})
	if err != nil {
		return err
	}
	dirs := []string{c.Webhook.CertDir, c.APIServer.CertDir}
	slices.Sort(dirs)
	for _, dir := range slices.Compact(dirs) {
		if err := mgr.Add(&certs.Mount{
			Client: secrets,
			Secret: types.NamespacedName{Namespace: c.Namespace, Name: c.Certificates.Secret},
			Dir:    dir,
		}); err != nil {
			return err
		}
	}
	return nil
}

// everyReplica is a Runnable that does not wait to be elected.
type everyReplica func(context.Context) error

// Start runs the function.
func (f everyReplica) Start(ctx context.Context) error { return f(ctx) }

// NeedLeaderElection says that it does not.
func (everyReplica) NeedLeaderElection() bool { return false }
