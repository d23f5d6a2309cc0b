package harness

import (
	"bytes"
	"context"
	"errors"
	"os/exec"
	"strings"
	"time"

	imageclient "github.com/openshift/client-go/image/clientset/versioned"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	storev1 "istag.dev/store/v1"
)

// Actor is somebody who uses the cluster, by clients of Go and by kubectl.
type Actor struct {
	env    *Env
	config *rest.Config
	client client.WithWatch
	images imageclient.Interface
}

// newActor makes the clients of the administrator, or of whom they impersonate.
func (e *Env) newActor(as rest.ImpersonationConfig) (*Actor, error) {
	cfg, err := clientcmd.BuildConfigFromFlags("", e.Cluster.Kubeconfig)
	if err != nil {
		return nil, err
	}
	cfg.QPS, cfg.Impersonate = -1, as
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), storev1.AddToScheme(scheme), apiregistrationv1.AddToScheme(scheme)); err != nil {
		return nil, err
	}
	a := &Actor{env: e, config: cfg}
	if a.client, err = client.NewWithWatch(cfg, client.Options{Scheme: scheme}); err != nil {
		return nil, err
	}
	a.images, err = imageclient.NewForConfig(cfg)
	return a, err
}

// As acts as a user, who is in the groups given and in system:authenticated.
func (e *Env) As(user string, groups ...string) (*Actor, error) {
	return e.newActor(rest.ImpersonationConfig{UserName: user, Groups: groups})
}

// Store acts as istag itself, which alone may write records.
func (e *Env) Store() (*Actor, error) {
	return e.newActor(e.itself())
}

// itself is one of the accounts that may write records, with every right besides.
func (e *Env) itself() rest.ImpersonationConfig {
	return rest.ImpersonationConfig{
		UserName: "system:serviceaccount:" + e.Namespace + ":istag-" + controllerRole,
		Groups:   []string{"system:masters"},
	}
}

// Config is what a client of one's own is made of. It is the caller's.
func (a *Actor) Config() *rest.Config { return rest.CopyConfig(a.config) }

// Client is a client of Kubernetes' own kinds and of records.
func (a *Actor) Client() client.WithWatch { return a.client }

// Images is a client of image.openshift.io.
func (a *Actor) Images() imageclient.Interface { return a.images }

// Kubectl runs kubectl.
func (a *Actor) Kubectl(ctx context.Context, args ...string) Result {
	return a.KubectlStdin(ctx, "", args...)
}

// KubectlStdin runs kubectl with text on its standard input.
func (a *Actor) KubectlStdin(ctx context.Context, stdin string, args ...string) Result {
	if as := a.config.Impersonate; as.UserName != "" {
		for _, group := range as.Groups {
			args = append([]string{"--as-group", group}, args...)
		}
		args = append([]string{"--as", as.UserName}, args...)
	}
	command := exec.CommandContext(ctx, a.env.Cluster.Kubectl, args...)
	command.Env = append(a.env.environment(), "KUBECONFIG="+a.env.Cluster.Kubeconfig)
	command.WaitDelay = time.Second
	var stdout, stderr bytes.Buffer
	command.Stdin, command.Stdout, command.Stderr = strings.NewReader(stdin), &stdout, &stderr
	err := command.Run()
	result := Result{
		Command: "kubectl " + strings.Join(args, " "),
		Stdout:  stdout.String(),
		Stderr:  stderr.String(),
		Code:    command.ProcessState.ExitCode(),
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		result.Code, result.Stderr = -1, result.Stderr+err.Error()+"\n"
	}
	return result
}
