package harness

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"testing"
	"time"
)

// shouter answers each line with its name and the line, until its listener is closed.
func shouter(t *testing.T, name string) net.Listener {
	t.Helper()
	listener := listen(t)
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer connection.Close()
				for lines := bufio.NewScanner(connection); lines.Scan(); {
					fmt.Fprintln(connection, name, lines.Text())
				}
			}()
		}
	}()
	return listener
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", address(0))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	return listener
}

// caller is one connection through a relay.
type caller struct {
	*testing.T
	net.Conn
	lines *bufio.Reader
}

func call(t *testing.T, r *relay) *caller {
	t.Helper()
	connection, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", r.address())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = connection.Close() })
	return &caller{t, connection, bufio.NewReader(connection)}
}

func (c *caller) say(line string) *caller {
	c.Helper()
	if _, err := fmt.Fprintln(c.Conn, line); err != nil {
		c.Fatal(err)
	}
	return c
}

func (c *caller) hears(reason, want string) {
	c.Helper()
	if got, err := c.lines.ReadString('\n'); err != nil || got != want+"\n" {
		c.Errorf("%s: want %q, got %q: %v", reason, want, got, err)
	}
}

// silent fails unless nothing comes for a moment.
func (c *caller) silent(reason string) {
	c.Helper()
	if err := c.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		c.Fatal(err)
	}
	if text, err := c.lines.ReadString('\n'); !errors.Is(err, os.ErrDeadlineExceeded) {
		c.Errorf("%s: %q, %v", reason, text, err)
	}
	if err := c.SetReadDeadline(time.Time{}); err != nil {
		c.Fatal(err)
	}
}

// ends fails unless the connection is at its end.
func (c *caller) ends(reason string) {
	c.Helper()
	if text, err := c.lines.ReadString('\n'); err == nil {
		c.Errorf("%s: it goes on with %q", reason, text)
	}
}

func startTestRelay(t *testing.T, targets func() []string) *relay {
	t.Helper()
	r := startRelay(listen(t), targets)
	t.Cleanup(r.stop)
	return r
}

func TestRelayTakesTurns(t *testing.T) {
	a, b, gone := shouter(t, "a"), shouter(t, "b"), listen(t)
	_ = gone.Close()
	services := &turns{}
	r := startTestRelay(t, services.next)
	call(t, r).ends("nobody is there yet")
	for _, one := range []net.Listener{a, gone, b} {
		services.add(one.Addr().String())
	}
	heard := map[string]int{}
	for range 6 {
		text, err := call(t, r).say("x").lines.ReadString('\n')
		if err != nil {
			t.Fatalf("one that is gone is skipped: %v", err)
		}
		heard[text]++
	}
	if heard["a x\n"] == 0 || heard["b x\n"] == 0 {
		t.Errorf("all take turns: %v", heard)
	}
	services.remove(a.Addr().String())
	for range 3 {
		call(t, r).say("x").hears("who was taken out gets no turn", "b x")
	}
	if got := services.next(); len(got) != 2 || slices.Contains(got, a.Addr().String()) {
		t.Errorf("the others stay: %v", got)
	}
}

func TestRelayHolds(t *testing.T) {
	target := shouter(t, "a").Addr().String()
	r := startTestRelay(t, func() []string { return []string{target} })
	old := call(t, r)
	old.say("1").hears("bytes pass", "a 1")
	resume, second := r.hold(), r.hold()
	old.say("2").silent("no byte passes")
	late := call(t, r).say("3")
	late.silent("a new connection is taken, and nobody answers")
	resume()
	resume()
	old.silent("somebody else still holds")
	second()
	old.hears("what was held up passes", "a 2")
	late.hears("of a new connection too", "a 3")
	old.say("4").hears("and it goes on", "a 4")
}

func TestRelayCuts(t *testing.T) {
	target := shouter(t, "a").Addr().String()
	r := startTestRelay(t, func() []string { return []string{target} })
	old := call(t, r)
	old.say("1").hears("bytes pass", "a 1")
	restore := r.cut()
	old.ends("it is cut")
	connection, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", r.address())
	if err == nil { // or it was reset already
		if _, err := io.ReadAll(connection); err == nil {
			t.Error("a new connection is reset, not ended in order")
		}
		_ = connection.Close()
	}
	restore()
	call(t, r).say("2").hears("it is as before", "a 2")
}

func TestRelayPassesOnTheEnd(t *testing.T) {
	target := listen(t)
	r := startTestRelay(t, func() []string { return []string{target.Addr().String()} })
	for name, fromServer := range map[string]bool{"the server": true, "the client": false} {
		client := call(t, r)
		server, err := target.Accept()
		if err != nil {
			t.Fatal(err)
		}
		ends := map[bool]io.ReadWriteCloser{true: server, false: client.Conn}
		resume := r.hold()
		_ = ends[fromServer].Close()
		resume()
		if n, err := ends[!fromServer].Read(make([]byte, 1)); err == nil {
			t.Errorf("%s has gone, and the other end reads %d bytes", name, n)
		}
		_ = ends[!fromServer].Close()
	}
	held := call(t, r)
	r.hold()
	r.stop()
	held.ends("nothing outlives the relay, held up or not")
}
