package harness

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
)

const loopback = "127.0.0.1"

// Ports are chosen below the range that the kernel takes those of clients from, so that none of the
// thousands of connections on loopback can take one before, or between two runs of, its server.
const (
	lowestPort  = 20000
	highestPort = 32000
)

// ports are free ports of loopback, held until their servers start.
type ports struct {
	listeners []net.Listener
}

func choosePorts(ctx context.Context, n int) (*ports, error) {
	p := &ports{}
	var last error
	for range 50 * n {
		listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address(lowestPort+rand.IntN(highestPort-lowestPort)))
		if err != nil {
			last = err
			continue
		}
		if p.listeners = append(p.listeners, listener); len(p.listeners) == n {
			return p, nil
		}
	}
	p.release()
	return nil, fmt.Errorf("finding %d free ports: %w", n, last)
}

// address is that of one of the ports.
func (p *ports) address(i int) string { return p.listeners[i].Addr().String() }

// release lets the servers have their ports.
func (p *ports) release() {
	for _, listener := range p.listeners {
		_ = listener.Close()
	}
}

func address(port int) string { return net.JoinHostPort(loopback, strconv.Itoa(port)) }
