package certs

import (
	"context"
	"crypto/tls"
	"net"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/webhook"
)

// TestAwait starts controller-runtime's own server before its files exist.
func TestAwait(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := listener.Addr().(*net.TCPAddr).Port
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "tls")
	server := Await(webhook.NewServer(webhook.Options{Host: "127.0.0.1", Port: port, CertDir: dir}), dir)
	if server.NeedLeaderElection() {
		t.Error("every replica serves")
	}

	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- server.Start(ctx) }()

	select {
	case err := <-done:
		t.Fatalf("the server must wait for its files, and not give up: %v", err)
	case <-time.After(2 * awaitEvery):
	}
	if server.StartedChecker()(nil) == nil {
		t.Error("a server without a certificate must not be ready: the Service would send it reviews")
	}

	ca := newCA(t, time.Now())
	if _, err := (pair{certKey: newPair(t, ca)[certKey], keyKey: newPair(t, ca)[keyKey]}).writeTo(dir); err != nil {
		t.Fatal(err)
	}
	if server.StartedChecker()(nil) == nil {
		t.Error("a certificate with another's key is no certificate to start with")
	}

	if _, err := newPair(t, ca).writeTo(dir); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the server", func() bool { return server.StartedChecker()(nil) == nil })
	conn, err := tls.Dial("tcp", net.JoinHostPort("localhost", strconv.Itoa(port)), &tls.Config{
		RootCAs: poolOf(ca.Cert), MinVersion: tls.VersionTLS12,
	})
	if err != nil {
		t.Fatalf("a local run is dialled by the name localhost, verified: %v", err)
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}

	cancel()
	if err := <-done; err != nil {
		t.Errorf("stopping on request is no failure: %v", err)
	}
}

func TestAwaitIsStoppedWhileWaiting(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Await(webhook.NewServer(webhook.Options{}), t.TempDir()).Start(ctx); err != nil {
		t.Errorf("a manager that stops early must not report a failure: %v", err)
	}
}
