package certs

import (
	"context"
	"crypto/tls"
	"path/filepath"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/webhook"
)

// awaitEvery is how often Await looks at the files. They are local, and there before the process starts wherever a kubelet mounts them.
const awaitEvery = 200 * time.Millisecond

// Await returns a server whose Start waits until dir holds a certificate and its key. controller-runtime's server gives up at once
// without them, and a manager starts it before anything that could make them. Until then the server's StartedChecker
// reports that it has not been started.
func Await(server webhook.Server, dir string) webhook.Server {
	return &awaiting{Server: server, dir: dir}
}

type awaiting struct {
	webhook.Server
	dir string
}

// Start returns nil, without having served, if ctx ends while waiting.
func (a *awaiting) Start(ctx context.Context) error {
	if !AwaitFiles(ctx, a.dir) {
		return nil
	}
	return a.Server.Start(ctx)
}

// AwaitFiles waits until dir holds a certificate and its key, and says so; false means that ctx ended first.
func AwaitFiles(ctx context.Context, dir string) bool {
	logger, said := log.FromContext(ctx), ""
	err := wait.PollUntilContextCancel(ctx, awaitEvery, true, func(context.Context) (bool, error) {
		_, err := tls.LoadX509KeyPair(filepath.Join(dir, certKey), filepath.Join(dir, keyKey))
		if err != nil && err.Error() != said {
			said = err.Error()
			logger.Info("waiting for the serving certificate", "dir", dir, "reason", said)
		}
		return err == nil, nil
	})
	return err == nil
}
