package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// pollInterval is how often a condition is looked at.
const pollInterval = 50 * time.Millisecond

// waitForPods waits until pods can be created and will run. In a folder that
// held a cluster before, the node is Ready and the ServiceAccount there from
// the start; so every component is asked for a sign of life of its own too.
func (c *cluster) waitForPods(ctx context.Context, client kubernetes.Interface, begun time.Time) error {
	https, err := rest.HTTPClientFor(&rest.Config{TLSClientConfig: rest.TLSClientConfig{CAFile: c.pki.ca.certFile}})
	if err != nil {
		return err
	}
	for _, wanted := range []struct {
		what string
		is   func(context.Context) (bool, error)
	}{
		{"the controller manager is healthy", func(ctx context.Context) (bool, error) {
			return answers(ctx, https, "https://"+address(c.ports.controllerManager)+"/healthz", http.StatusOK)
		}},
		{"the scheduler is ready", func(ctx context.Context) (bool, error) {
			return answers(ctx, https, "https://"+address(c.ports.scheduler)+"/readyz", http.StatusOK)
		}},
		{"the default ServiceAccount exists", func(ctx context.Context) (bool, error) {
			_, err := client.CoreV1().ServiceAccounts(metav1.NamespaceDefault).Get(ctx, "default", metav1.GetOptions{})
			return err == nil, err
		}},
		{"kwok keeps the node's lease", func(ctx context.Context) (bool, error) { return leaseRenewed(ctx, client, begun) }},
		{"the node is Ready", func(ctx context.Context) (bool, error) { return nodeReady(ctx, client) }},
	} {
		if err := until(ctx, wanted.what, wanted.is); err != nil {
			return err
		}
	}
	return nil
}

// until waits for a condition. An error of the condition's is one more "not
// yet", and is told if the wait ends without it.
func until(ctx context.Context, what string, condition func(context.Context) (bool, error)) error {
	var last error
	err := wait.PollUntilContextCancel(ctx, pollInterval, true, func(ctx context.Context) (bool, error) {
		done, err := condition(ctx)
		if err != nil && ctx.Err() == nil {
			last = err
		}
		return done && err == nil, nil
	})
	if err != nil {
		return fmt.Errorf("wait until %s: %w", what, errors.Join(context.Cause(ctx), last))
	}
	return nil
}

// answers tells whether a GET of url is answered with status.
func answers(ctx context.Context, client *http.Client, url string, status int) (bool, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false, err
	}
	response, err := client.Do(request)
	if err != nil {
		return false, err
	}
	defer response.Body.Close()
	if response.StatusCode != status {
		return false, fmt.Errorf("GET %s: %s", url, response.Status)
	}
	return true, nil
}
