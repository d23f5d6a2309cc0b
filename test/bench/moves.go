package main

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"istag.dev/store"
	storev1 "istag.dev/store/v1"
)

const (
	// movesPerSecond is how often a tag moves while admission is measured.
	movesPerSecond = 100
	movers         = 4
	// moving streams are so few that each moves again and again, and are among those that are asked for.
	moving = 100
)

// mover moves tags of the filled index all the time.
type mover struct {
	done atomic.Int64
	stop context.CancelCauseFunc
	end  sync.WaitGroup
	// failed is the first error, once end has been waited for.
	failed error
	once   sync.Once
}

// startMoving begins to move tags. The client is istag's own.
func startMoving(ctx context.Context, c client.Client) *mover {
	ctx, cancel := context.WithCancelCause(ctx)
	m := &mover{stop: cancel}
	for first := range movers {
		m.end.Go(func() {
			if err := m.run(ctx, c, first); err != nil && ctx.Err() == nil {
				m.once.Do(func() { m.failed = err })
				cancel(err)
			}
		})
	}
	return m
}

// run moves one tag of one stream at every tick; each mover has streams of its own.
func (m *mover) run(ctx context.Context, c client.Client, first int) error {
	var records []*storev1.StreamRecord
	for i := first; i < moving; i += movers {
		s := streamAt(i * (streamCount / moving))
		record := &storev1.StreamRecord{}
		if err := c.Get(ctx, client.ObjectKey{Namespace: s.namespace, Name: store.RecordName(s.name)}, record); err != nil {
			return err
		}
		records = append(records, record)
	}
	tick := time.NewTicker(time.Second * movers / movesPerSecond)
	defer tick.Stop()
	for version := 1; ; version++ {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		record := records[version%len(records)]
		importTag(record, version/len(records)%len(record.Spec.Tags), version)
		store.Trim(record, 2, func(string) bool { return false })
		if err := c.Update(ctx, record); err != nil {
			return err
		}
		m.done.Add(1)
	}
}

// rate ends the moves and returns how many there were a second.
func (m *mover) rate(since time.Time) (float64, error) {
	m.stop(nil)
	m.end.Wait()
	return float64(m.done.Load()) / time.Since(since).Seconds(), m.failed
}
