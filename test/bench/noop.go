package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"

	ctrlwebhook "sigs.k8s.io/controller-runtime/pkg/webhook"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"istag.dev/test/harness"
	"istag.dev/webhook"
)

const noopCommand = "noop"

// serveNoop is the reference: controller-runtime's webhook server with a handler that allows everything.
func serveNoop(ctx context.Context, address, certDir string) error {
	host, text, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	port, err := strconv.Atoi(text)
	if err != nil {
		return err
	}
	server := ctrlwebhook.NewServer(ctrlwebhook.Options{Host: host, Port: port, CertDir: certDir})
	server.Register(webhook.PinPath, &admission.Webhook{Handler: admission.HandlerFunc(
		func(context.Context, admission.Request) admission.Response { return admission.Allowed("") })})
	return server.Start(ctx)
}

// noop is the reference webhook as a process of its own, as ours is one.
type noop struct {
	url  string
	pid  int
	stop func()
}

// startNoop runs the reference with the certificate that ours has.
func startNoop(ctx context.Context, env *harness.Env) (*noop, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	address := listener.Addr().String()
	if err := listener.Close(); err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	process := exec.CommandContext(ctx, self, noopCommand, address, env.WebhookCertDir())
	process.Stderr = os.Stderr
	if err := process.Start(); err != nil {
		cancel()
		return nil, err
	}
	stop := func() {
		cancel()
		_ = process.Wait() // it was killed
	}
	_, port, _ := net.SplitHostPort(address)
	err = env.Wait(ctx, "the reference webhook listens", func(ctx context.Context) error {
		connection, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
		if err != nil {
			return err
		}
		return connection.Close()
	})
	if err != nil {
		stop()
		return nil, fmt.Errorf("starting the reference webhook: %w", err)
	}
	return &noop{"https://localhost:" + port + webhook.PinPath, process.Process.Pid, stop}, nil
}
