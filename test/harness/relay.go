package harness

import (
	"context"
	"net"
	"slices"
	"sync"
)

// relay passes the bytes of connections on as they are, so that a test can have them held up or broken.
type relay struct {
	listener net.Listener
	// targets are the addresses that a new connection may go to, in the order in which they are tried.
	targets func() []string
	cancel  context.CancelFunc
	running sync.WaitGroup

	mu sync.Mutex
	// open is closed while bytes may pass.
	open chan struct{}
	// holds and cuts are how many hold and cut are in force. More than one counts as one.
	holds, cuts int
	connections map[net.Conn]bool
}

// startRelay starts a relay on a listener, which becomes the relay's. It runs until its stop.
func startRelay(listener net.Listener, targets func() []string) *relay {
	ctx, cancel := context.WithCancel(context.Background())
	r := &relay{listener: listener, targets: targets, cancel: cancel, open: make(chan struct{}), connections: map[net.Conn]bool{}}
	close(r.open)
	r.running.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return // stop has closed it
			}
			r.running.Go(func() { r.serve(ctx, client) })
		}
	})
	return r
}

func (r *relay) address() string { return r.listener.Addr().String() }

// stop ends the relay and every connection, and returns when nothing of them runs. A nil relay has ended.
func (r *relay) stop() {
	if r == nil {
		return
	}
	r.cancel()
	_ = r.listener.Close()
	r.mu.Lock()
	r.cuts++ // for good
	r.closeAll()
	r.mu.Unlock()
	r.running.Wait()
}

// hold lets no byte and no end of a connection pass until it is called off: connections stay open, and new ones are taken and
// get no answer. What was held up passes then.
func (r *relay) hold() (resume func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.holds++; r.holds == 1 {
		r.open = make(chan struct{})
	}
	return sync.OnceFunc(func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.holds--; r.holds == 0 {
			close(r.open)
		}
	})
}

// cut resets all connections, and new ones, until it is called off.
func (r *relay) cut() (restore func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cuts++
	r.closeAll()
	return sync.OnceFunc(func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.cuts--
	})
}

// closeAll resets all connections. The caller holds mu.
func (r *relay) closeAll() {
	for connection := range r.connections {
		reset(connection)
	}
}

// reset closes a connection at once, and lets the other end know that this is no orderly end.
func reset(connection net.Conn) {
	if tcp, ok := connection.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = connection.Close()
}

// keep makes a connection one that can be cut. It is reset at once, and the answer is false, if it has been.
func (r *relay) keep(connection net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cuts > 0 {
		reset(connection)
		return false
	}
	r.connections[connection] = true
	return true
}

// end closes connections.
func (r *relay) end(connections ...net.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, connection := range connections {
		delete(r.connections, connection)
		_ = connection.Close()
	}
}

// wait returns when bytes may pass.
func (r *relay) wait(ctx context.Context) {
	r.mu.Lock()
	open := r.open
	r.mu.Unlock()
	select {
	case <-open:
	case <-ctx.Done():
	}
}

// serve passes on one connection, and ends it if nobody takes it.
func (r *relay) serve(ctx context.Context, client net.Conn) {
	if !r.keep(client) {
		return
	}
	defer r.end(client)
	r.wait(ctx)
	server := r.dial(ctx)
	if server == nil || !r.keep(server) {
		return
	}
	// Whichever end is the first to go, the other one goes at once.
	var both sync.WaitGroup
	for to, from := range map[net.Conn]net.Conn{client: server, server: client} {
		both.Go(func() {
			defer r.end(client, server)
			r.pass(ctx, to, from)
		})
	}
	both.Wait()
}

// dial connects to the first of the targets that takes it, nil if none does.
func (r *relay) dial(ctx context.Context) net.Conn {
	for _, target := range r.targets() {
		if server, err := (&net.Dialer{}).DialContext(ctx, "tcp", target); err == nil {
			return server
		}
	}
	return nil
}

// pass writes what it reads, until one of the two ends.
func (r *relay) pass(ctx context.Context, to, from net.Conn) {
	buffer := make([]byte, 32<<10)
	for {
		n, ended := from.Read(buffer)
		r.wait(ctx)
		if _, err := to.Write(buffer[:n]); err != nil || ended != nil {
			return
		}
	}
}

// turns are addresses that take turns, as the endpoints of a Service do.
type turns struct {
	mu        sync.Mutex
	addresses []string
}

// add lets an address have its turn, after all others.
func (t *turns) add(address string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.addresses = append(t.addresses, address)
}

func (t *turns) remove(address string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.addresses = slices.DeleteFunc(t.addresses, func(a string) bool { return a == address })
}

// next returns all addresses, first the one whose turn it is.
func (t *turns) next() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := slices.Clone(t.addresses)
	if len(now) > 0 {
		t.addresses = append(t.addresses[1:], t.addresses[0])
	}
	return now
}
