// Package e2e holds the user stories, told with the users' own commands: real kubectl, a real API
// server with its real controllers, a real registry, and istag as it is installed.
package e2e

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"testing"

	"github.com/go-logr/logr"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"

	"istag.dev/test/harness"
)

// env is shared by all stories; each has namespaces of its own. Stories that stop a part of it do not
// run in parallel: Go runs all of those before the parallel ones.
var env *harness.Env

func TestMain(m *testing.M) { os.Exit(runAll(m)) }

func runAll(m *testing.M) int {
	// The libraries' own lines are no part of the stories.
	ctrl.SetLogger(logr.Discard())
	klog.SetLogger(logr.Discard())
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// Not t.TempDir: the logs are wanted after a failure.
	dir, err := os.MkdirTemp("", "istag-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	env, err = harness.Start(ctx, harness.Options{Dir: dir, Log: os.Stderr})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	// An interrupted run ends what it started.
	interrupted := context.AfterFunc(ctx, func() {
		_ = env.Stop()
		os.Exit(1)
	})
	code := m.Run()
	interrupted()
	if err := env.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	if code != 0 {
		fmt.Fprintf(os.Stderr, "all logs are in %s\n", dir)
		return code
	}
	if err := os.RemoveAll(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}
