package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"runtime/debug"

	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"istag.dev/config"
	"istag.dev/store"
	"istag.dev/webhook"
	"istag.dev/webhook/audit"
	"istag.dev/webhook/lock"
	"istag.dev/webhook/policy"
	"istag.dev/webhook/scope"
)

// collectAt is how far the heap of the webhook may grow over what lives, in percent, before it is
// collected. The index is large and hardly changes: with the usual 100, to mark it again and again was a
// tenth of the webhook's work under load.
const collectAt = 300

// feed keeps something in memory equal to what the API server has.
type feed struct {
	name   string
	run    func(context.Context)
	synced <-chan struct{}
}

// addWebhook adds admission: what it answers from, and the webhooks. log is theirs until the manager has ended.
func addWebhook(mgr manager.Manager, c *config.Configuration, configPath string, log *audit.Log) error {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(collectAt)
	}
	index := store.NewIndex()
	options := webhook.Options{
		Index:           index,
		Audit:           log,
		Metrics:         webhook.NewMetrics(metrics.Registry, index),
		Workloads:       c.Webhook.Workloads,
		FirstImportWait: c.Webhook.FirstImportWait.Duration,
	}
	if err := errors.Join(
		addReaders(mgr, c, index, &options),
		addPolicy(mgr, c, configPath, &options),
	); err != nil {
		return err
	}
	access, err := webhook.NewAccess(mgr.GetConfig())
	if err != nil {
		return err
	}
	events, err := webhook.NewEvents(mgr.GetConfig(), metrics.Registry)
	if err != nil {
		return err
	}
	options.Access, options.Events = access, events
	pinner := webhook.New(options)
	explain, err := webhook.NewExplain(mgr.GetConfig(), pinner)
	if err != nil {
		return err
	}
	server := mgr.GetWebhookServer()
	server.Register(webhook.PinPath, pinner.Pin())
	server.Register(webhook.CheckPath, pinner.Check())
	server.Register(webhook.ExplainPath, explain)
	return errors.Join(mgr.Add(events), mgr.AddReadyzCheck("webhook", server.StartedChecker()))
}

// addReaders adds what admission knows of the cluster.
func addReaders(mgr manager.Manager, c *config.Configuration, index *store.Index, options *webhook.Options) error {
	streams, err := webhook.NewStreams(mgr.GetConfig())
	if err != nil {
		return err
	}
	scopes, err := scope.NewNamespaces(mgr.GetConfig(), c.Namespace)
	if err != nil {
		return err
	}
	locks, err := lock.NewIndex(mgr.GetConfig())
	if err != nil {
		return err
	}
	options.Streams, options.Scopes, options.Locks = streams, scopes, locks
	for _, f := range []feed{
		{"streams", func(ctx context.Context) { streams.Feed(ctx, index) }, index.Synced()},
		{"namespaces", scopes.Feed, scopes.Synced()},
		{"locks", locks.Feed, locks.Synced()},
	} {
		if err := f.add(mgr); err != nil {
			return err
		}
	}
	return nil
}

// addPolicy adds the rules of the configuration file, which are followed, and what they need to know of images.
func addPolicy(mgr manager.Manager, c *config.Configuration, configPath string, options *webhook.Options) error {
	images, err := webhook.NewImages(mgr.GetConfig())
	if err != nil {
		return err
	}
	var current *policy.Current
	needImages := func() bool {
		if !current.Get().NeedsImages() {
			return false
		}
		images.Need()
		return true
	}
	if current, err = policy.Follow(configPath, c, func(result string) {
		options.Metrics.PolicyReloaded(result)
		needImages()
	}); err != nil {
		return err
	}
	options.Images, options.Policy = images, current.Get
	if needImages() {
		return errors.Join(mgr.Add(current), feed{"images", images.Feed, images.Synced()}.add(mgr))
	}
	// Rules that need them may come later. Until they are read, then, what the rules are about is refused.
	return errors.Join(mgr.Add(current), mgr.Add(everyReplica(func(ctx context.Context) error {
		images.Feed(ctx)
		return nil
	})))
}

// add keeps the feed running, and the process unready until everything was read once.
func (f feed) add(mgr manager.Manager) error {
	return errors.Join(
		mgr.Add(everyReplica(func(ctx context.Context) error {
			go func() {
				select {
				case <-f.synced:
					// The first list was many times what is kept of it.
					debug.FreeOSMemory()
				case <-ctx.Done():
				}
			}()
			f.run(ctx)
			return nil
		})),
		mgr.AddReadyzCheck(f.name, func(*http.Request) error {
			select {
			case <-f.synced:
				return nil
			default:
				return fmt.Errorf("the %s have not been read yet", f.name)
			}
		}),
	)
}
