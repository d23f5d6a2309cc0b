package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// target is a webhook under load.
type target struct {
	url    string
	client *http.Client
	bodies [][]byte
	next   atomic.Int64
	check  func(answer []byte) error

	latencies []time.Duration
}

// newTarget makes a target that is asked as the API server asks: HTTP/2 over TLS, few connections.
func newTarget(url string, ca *x509.CertPool, bodies [][]byte, check func([]byte) error) *target {
	transport := &http.Transport{
		TLSClientConfig:   &tls.Config{RootCAs: ca, MinVersion: tls.VersionTLS12},
		ForceAttemptHTTP2: true,
	}
	return &target{url: url, client: &http.Client{Transport: transport, Timeout: 10 * time.Second}, bodies: bodies, check: check}
}

// closedLoop keeps the given number of clients asking, each its next question when it has the answer,
// for as long as said, and adds what each answer took to the target's latencies.
func (t *target) closedLoop(ctx context.Context, clients int, long time.Duration, record bool) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	end := time.Now().Add(long)
	var mu sync.Mutex
	var group sync.WaitGroup
	for range clients {
		group.Go(func() {
			var took []time.Duration
			for time.Now().Before(end) && ctx.Err() == nil {
				begun := time.Now()
				if err := t.ask(ctx); err != nil {
					cancel(err)
					return
				}
				took = append(took, time.Since(begun))
			}
			mu.Lock()
			defer mu.Unlock()
			if record {
				t.latencies = append(t.latencies, took...)
			}
		})
	}
	group.Wait()
	return context.Cause(ctx)
}

func (t *target) ask(ctx context.Context) error {
	body := t.bodies[int(t.next.Add(1))%len(t.bodies)]
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, t.url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := t.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("POST %s: %s: %s", t.url, response.Status, answer)
	}
	return t.check(answer)
}

// percentile returns the p-th percentile (0 to 100) of durations, which it sorts.
func percentile(durations []time.Duration, p float64) time.Duration {
	if len(durations) == 0 {
		return 0
	}
	slices.Sort(durations)
	return durations[min(len(durations)-1, int(float64(len(durations))*p/100))]
}
