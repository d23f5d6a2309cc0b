// Command registry is distribution's registry, served from its Go module with
// an access log that a test can read: one JSON object per request.
//
// It takes distribution's own configuration file. Unlike upstream's command it
// opens no debug port, which would listen beside the registry.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/distribution/distribution/v3/configuration"
	_ "github.com/distribution/distribution/v3/registry/auth/htpasswd"
	"github.com/distribution/distribution/v3/registry/handlers"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/filesystem"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/inmemory"
)

func main() {
	config := flag.String("config", "", "distribution's configuration `file`")
	accessLog := flag.String("access-log", "", "`file` to append one JSON object per request to")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := serve(ctx, *config, *accessLog); err != nil {
		fmt.Fprintln(os.Stderr, "registry:", err)
		os.Exit(1)
	}
}

// serve answers requests until ctx is done.
func serve(ctx context.Context, configFile, accessLogFile string) error {
	file, err := os.Open(configFile)
	if err != nil {
		return err
	}
	config, err := configuration.Parse(file)
	if err := errors.Join(err, file.Close()); err != nil {
		return fmt.Errorf("read %q: %w", configFile, err)
	}
	// Appending, so that a test may truncate the file between two counts.
	log, err := os.OpenFile(accessLogFile, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	listener, err := net.Listen("tcp", config.HTTP.Addr)
	if err != nil {
		return err
	}

	server := &http.Server{
		Handler:           logRequests(handlers.NewApp(ctx, config), log),
		ReadHeaderTimeout: 10 * time.Second,
	}
	stopped := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stopped()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
