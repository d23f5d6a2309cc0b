package lock

import (
	"testing"
	"time"
	"unsafe"

	lru "k8s.io/apimachinery/pkg/util/cache"
)

// machineClock is the clock of a machine as Go reads it: it goes on by itself, and somebody sets it. What is compared is the time
// that has gone by, which nobody sets; what is shown is what was set.
type machineClock struct {
	start     time.Time // by time.Now
	gone, set time.Duration
}

// Now reads the clock.
func (c *machineClock) Now() time.Time {
	now := c.start.Add(c.gone)
	// The seconds that a Time shows begin at bit 30 of its first word; the time gone by is another.
	*(*uint64)(unsafe.Pointer(&now)) += uint64(c.set/time.Second) << 30
	return now
}

// TestIndexClockJumps: what a live read found is remembered for a moment of the time that goes by, however the clock is set
// meanwhile. A revision is never taken for what it was an hour ago, and its pods do not each ask the API server.
func TestIndexClockJumps(t *testing.T) {
	for _, jump := range []time.Duration{time.Hour, -time.Hour, 365 * 24 * time.Hour, -365 * 24 * time.Hour} {
		t.Run(jump.String(), func(t *testing.T) {
			c := newCluster(t)
			c.set(replicaSetsPath, object("web-1", "u1"))
			x, clock := c.index(t), &machineClock{start: time.Now()}
			x.recent = lru.NewLRUExpireCacheWithClock(recentMost, clock)
			before := clock.Now()
			want := func(reason string, locked bool, reads int32) {
				t.Helper()
				had := c.reads.Load()
				_, ok, err := x.Lock(t.Context(), Revision{Resource: replicaSets, Namespace: "shop", Name: "web-1", UID: "u1"})
				if err != nil || ok != locked || c.reads.Load()-had != reads {
					t.Errorf("%s: locked %t after %d reads, want %t after %d: %v", reason, ok, c.reads.Load()-had, locked, reads, err)
				}
			}
			want("at first it is read", false, 1)
			clock.set = jump
			if shown := clock.Now().Round(0).Sub(before.Round(0)); shown != jump || clock.Now().Sub(before) != 0 {
				t.Fatalf("the clock shows %s, and %s went by", shown, clock.Now().Sub(before))
			}
			want("in the same moment it is not read again", false, 0)
			c.set(replicaSetsPath, locked("web-1", "u1", example("a:1")))
			clock.gone = recentFor + 1
			want("in time it is", true, 1)
		})
	}
}
