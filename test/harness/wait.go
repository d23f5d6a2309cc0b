package harness

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const (
	// waitTimeout is for a machine with much else to do; what is waited for takes milliseconds.
	waitTimeout  = 2 * time.Minute
	pollInterval = 50 * time.Millisecond
)

// Wait returns when met does without an error. If that takes too long, or the context ends, or a
// process of the environment dies, the error says what was waited for and what met last said.
func (e *Env) Wait(ctx context.Context, what string, met func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, waitTimeout, fmt.Errorf("not within %s", waitTimeout))
	defer cancel()
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	var last error
	for {
		err := met(ctx)
		if err == nil {
			return nil
		}
		// The end of the context is no news of the condition.
		if ctx.Err() == nil || last == nil {
			last = err
		}
		select {
		case <-ticker.C:
		case <-e.Dead():
			return errors.Join(fmt.Errorf("waiting until %s: %w", what, last), e.Err())
		case <-ctx.Done():
			return fmt.Errorf("waiting until %s: %w; last seen: %w", what, context.Cause(ctx), last)
		}
	}
}
