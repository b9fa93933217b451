package transporttest

import (
	"bytes"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/transport"
)

func testInvalidAddress(t *testing.T, open Open) {
	client := start(t, open, Config{}, 4096, 1)
	for _, addr := range []string{"", "nowhere", "host:", ":1", "host:port", "host:0", "host:65536", "a:b:1"} {
		l, err := client.network.Dial(addr)
		if err == nil {
			l.Close()
		}
		if !errors.Is(err, dramnode.ErrInvalid) {
			t.Errorf("Dial(%q) returned %v, want ErrInvalid", addr, err)
		}
	}
}

func testInvalidFrames(t *testing.T, open Open) {
	h, held := hold(10)
	server, client, l := pair(t, open, h, 64<<10, 4)
	long := pattern(transport.CopyBytes+1, 1)
	foreign := server.pool.body(10000, 1, true)
	for name, c := range map[string]*call{
		"header too long":                   client.newCall(make([]byte, transport.MaxHeaderBytes+1), client.pool.body(10, 1, false), 0),
		"header too long, no body":          client.newCall(make([]byte, 70000), transport.Body{}, 0),
		"long body in no region":            client.newCall(nil, client.pool.lend(long, -1), 0),
		"long body in a region of the peer": client.newCall(nil, foreign, 0),
	} {
		c.start(l)
		if o := c.wait(); !errors.Is(o.err, dramnode.ErrInvalid) {
			t.Errorf("%s: got error %v, want ErrInvalid", name, o.err)
		}
	}
	for name, reply := range map[string]struct {
		header []byte
		body   transport.Body
	}{
		"header too long":        {make([]byte, transport.MaxHeaderBytes+1), server.pool.body(10000, 1, false)},
		"long body in no region": {nil, server.pool.lend(bytes.Clone(long), -1)},
	} {
		c := client.newCall(nil, transport.Body{}, reachable)
		c.start(l)
		if err := await(t, held, "request").Respond(reply.header, reply.body); !errors.Is(err, dramnode.ErrInvalid) {
			t.Errorf("reply with %s: got error %v, want ErrInvalid", name, err)
		}
		if o := c.wait(); o.err == nil {
			t.Errorf("reply with %s arrived", name)
		}
	}
}

func testRegions(t *testing.T, open Open) {
	_, client, l := pair(t, open, nil, 64<<10, 4)
	for _, n := range []int{0, -1} {
		if _, err := client.network.Alloc(n); !errors.Is(err, dramnode.ErrInvalid) {
			t.Errorf("Alloc(%d) returned %v, want ErrInvalid", n, err)
		}
	}
	const size = 30000
	region, err := client.network.Alloc(size)
	if err != nil {
		t.Fatal(err)
	}
	memory := region.Bytes()
	if len(memory) != size || !bytes.Equal(memory, make([]byte, size)) {
		t.Errorf("Alloc(%d) gave %d bytes, or not zeroed", size, len(memory))
	}
	copy(memory, pattern(size, 5))
	for _, part := range [][2]int{{0, size}, {0, 5000}, {1, 5001}, {size - 5000, size}, {12345, 20001}} {
		released := make(signal, 1)
		b := memory[part[0]:part[1]]
		o := client.call(l, []byte("part"), transport.Body{Bytes: b, Releaser: released})
		checkEcho(t, o, []byte("part"), pattern(size, 5)[part[0]:part[1]])
		await(t, released, "release")
	}
	if err := region.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	released := make(signal, 1)
	o := client.call(l, []byte("closed"), transport.Body{Bytes: memory[:5000], Releaser: released})
	wantError(t, o.err, dramnode.ErrInvalid)
	await(t, released, "release")
}

// A signal is a releaser that says so.
type signal chan struct{}

func (s signal) Release(uint64) { s <- struct{}{} }

// vacantAddr returns an address that nobody listens on any more.
func vacantAddr(t *testing.T, open Open) string {
	p := start(t, open, Config{Listen: true}, 4096, 1)
	p.stop()
	return p.network.Addr()
}

func testNobody(t *testing.T, open Open) {
	addr := vacantAddr(t, open)
	client := start(t, open, Config{}, 64<<10, 4)
	l := client.link(addr)
	for _, n := range []int{0, 100, 64 << 10} {
		c := client.newCall([]byte("anyone"), client.pool.body(n, 1, false), 10*time.Second)
		c.start(l)
		err := c.wait().err
		wantError(t, err, dramnode.ErrUnavailable)
		if errors.Is(err, dramnode.ErrUnknownOutcome) {
			t.Errorf("a call that nobody can have seen has an unknown outcome: %v", err)
		}
	}
	eventually(t, func() string {
		i := l.Info()
		if i.Addr != addr || i.State != transport.LinkConnecting || i.Err == nil || i.Opened != 0 || i.Peer.Incarnation != 0 || i.Pending != 0 || i.Since.IsZero() {
			return fmt.Sprintf("a link to nobody is %+v, want connecting with an error", i)
		}
		return ""
	})
}

func testLinkClose(t *testing.T, open Open) {
	const calls = 10
	h, held := hold(2 * calls)
	server, client, l := pair(t, open, h, 64<<10, 2*calls)
	other := client.dial(server.network.Addr())
	var started []*call
	for i := range calls {
		c := client.newCall([]byte("held"), client.pool.body(i*5000, 1, false), 0)
		c.start(l)
		started = append(started, c)
	}
	for range calls {
		await(t, held, "request")
	}
	l.Close()
	l.Close()
	for _, c := range started {
		err := c.wait().err
		wantError(t, err, dramnode.ErrClosed)
		wantError(t, err, dramnode.ErrUnknownOutcome)
	}
	client.awaitState(l, transport.LinkClosed)
	err := client.call(l, []byte("closed"), client.pool.body(20000, 1, false)).err
	wantError(t, err, dramnode.ErrClosed)
	wantError(t, err, dramnode.ErrUnavailable)

	c := client.newCall([]byte("other"), transport.Body{}, 0)
	c.start(other)
	await(t, held, "request").Respond([]byte("other"), transport.Body{})
	checkEcho(t, c.wait(), []byte("other"), nil)

	never := client.link(vacantAddr(t, open))
	never.Close()
	client.awaitState(never, transport.LinkClosed)
}

// testPeerCloses has calls of all sizes at a server that ends without answering.
func testPeerCloses(t *testing.T, open Open) {
	const calls = 20
	h, held := hold(calls)
	server, client, l := pair(t, open, h, 100<<10, 2*calls)
	var started []*call
	for i := range calls {
		c := client.newCall([]byte("held"), client.pool.body(i*5000, 1, false), 0)
		c.start(l)
		started = append(started, c)
	}
	for range calls {
		await(t, held, "request")
	}
	server.stop()
	for _, c := range started {
		err := c.wait().err
		wantError(t, err, dramnode.ErrUnknownOutcome)
		if errors.Is(err, dramnode.ErrUnavailable) {
			t.Errorf("a call that the peer has seen is said to be not applied: %v", err)
		}
	}
	err := client.call(l, nil, client.pool.body(64, 1, false)).err
	wantError(t, err, dramnode.ErrUnavailable, dramnode.ErrUnknownOutcome)
}

// testStopUnderLoad stops one side while both have bodies under way. Every placed body is served, once,
// with or without an error, and every call ends.
func testStopUnderLoad(t *testing.T, open Open) {
	for _, victim := range []string{"server", "client"} {
		t.Run(victim, func(t *testing.T) {
			const callers = 8
			server, client, l := pair(t, open, nil, 1<<20, 2*callers)
			var wg sync.WaitGroup
			started := make(chan struct{}, callers)
			for caller := range callers {
				wg.Go(func() {
					var lost error
					for i := 0; lost == nil; i++ {
						if i == 5 {
							started <- struct{}{}
						}
						n := bodySizes[(caller+i)%9]
						o := client.call(l, []byte("load"), client.pool.body(n, 1, false))
						if errors.Is(o.err, errNoSlot) || errors.Is(o.err, dramnode.ErrBusy) || bytes.Equal(o.header, busyHeader) {
							continue
						}
						if lost = o.err; lost == nil {
							checkEcho(t, o, []byte("load"), pattern(n, 1))
						}
					}
					wantError(t, lost, dramnode.ErrUnavailable, dramnode.ErrUnknownOutcome)
					if errors.Is(lost, dramnode.ErrUnavailable) && errors.Is(lost, dramnode.ErrUnknownOutcome) {
						t.Errorf("both not applied and unknown: %v", lost)
					}
				})
			}
			for range callers {
				await(t, started, "call")
			}
			if victim == "server" {
				server.stop()
			} else {
				client.stop()
			}
			wg.Wait()
			server.stop()
			client.stop()
			for _, p := range []*pool{server.pool, client.pool} {
				if len(p.free) != 2*callers {
					t.Errorf("%d of %d slots came back", len(p.free), 2*callers)
				}
			}
		})
	}
}

// An eventLog remembers LinkUp and LinkDown.
type eventLog chan string

func (e eventLog) LinkUp(l transport.Link, p transport.Peer) {
	e <- fmt.Sprintf("up %s %d %v", p.Name, p.Incarnation, l.Info().State)
}

func (e eventLog) LinkDown(l transport.Link, err error) {
	e <- fmt.Sprintf("down %v %v", err != nil, l.Info().State)
}

// testReconnect has a server that goes and comes back as another incarnation, twice.
func testReconnect(t *testing.T, open Open) {
	events := make(eventLog, 100)
	client := start(t, open, Config{Events: events}, 64<<10, 4)
	id := transport.Identity{Name: "phoenix"}
	var l transport.Link
	var addr string
	for round := uint64(1); round <= 3; round++ {
		id.Incarnation = 1000 + round
		server := start(t, open, Config{Identity: id, Listen: true, Addr: addr}, 64<<10, 4)
		if addr == "" {
			addr = server.network.Addr()
			l = client.link(addr)
		} else if got := server.network.Addr(); got != addr {
			t.Fatalf("the server came back at %s, want %s", got, addr)
		}
		want := fmt.Sprintf("up phoenix %d open", id.Incarnation)
		if got := await(t, events, "event"); got != want {
			t.Errorf("round %d: got event %q, want %q", round, got, want)
		}
		if i := l.Info(); i.State != transport.LinkOpen || i.Opened != round || i.Peer.Incarnation != id.Incarnation || i.Err != nil {
			t.Errorf("round %d: the link is %+v", round, i)
		}
		for _, n := range []int{10, 64 << 10} {
			checkEcho(t, client.call(l, []byte("r"), client.pool.body(n, round, false)), []byte("r"), pattern(n, round))
		}
		server.stop()
		if got := await(t, events, "event"); got != "down true connecting" {
			t.Errorf("round %d: got event %q, want down", round, got)
		}
		client.awaitState(l, transport.LinkConnecting)
	}
	l.Close()
	client.stop()
	if len(events) != 0 {
		t.Errorf("unexpected event %q", <-events)
	}
}

// testRefused has peers that do not belong together.
func testRefused(t *testing.T, open Open) {
	key, other := []byte("key"), []byte("other key")
	for _, c := range []struct {
		name           string
		server, client transport.Identity
		cause          error
	}{
		{"other cluster", transport.Identity{Cluster: "one"}, transport.Identity{Cluster: "two"}, nil},
		{"other cluster, same key", transport.Identity{Cluster: "one", Key: key}, transport.Identity{Cluster: "two", Key: key}, nil},
		{"other key", transport.Identity{Key: key}, transport.Identity{Key: other}, dramnode.ErrNotAuthorised},
		{"key on the server only", transport.Identity{Key: key}, transport.Identity{}, dramnode.ErrNotAuthorised},
		{"key on the client only", transport.Identity{}, transport.Identity{Key: key}, dramnode.ErrNotAuthorised},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := &scripted{serve: func(r *transport.Request) {
				t.Errorf("a request of a refused peer is served")
				r.Reply(nil, transport.Body{})
			}}
			events := make(eventLog, 10)
			server := start(t, open, Config{Identity: c.server, Listen: true, Handler: h}, 4096, 1)
			client := start(t, open, Config{Identity: c.client, Events: events}, 64<<10, 2)
			l := client.link(server.network.Addr())
			client.awaitState(l, transport.LinkRefused)
			if err := l.Info().Err; err == nil || c.cause != nil && !errors.Is(err, c.cause) {
				t.Errorf("the link's error is %v, want %v", err, c.cause)
			}
			err := client.call(l, []byte("let me in"), client.pool.body(64<<10, 1, false)).err
			wantError(t, err, dramnode.ErrNotAuthorised, dramnode.ErrUnavailable)
			if errors.Is(err, dramnode.ErrUnknownOutcome) {
				t.Errorf("a call to a peer that refused us has an unknown outcome: %v", err)
			}
			client.stop()
			if len(events) != 0 {
				t.Errorf("unexpected event %q", <-events)
			}
		})
	}
}

// testRunEnds stops a client with calls in every state.
func testRunEnds(t *testing.T, open Open) {
	const calls = 10
	h, held := hold(calls)
	nobody := vacantAddr(t, open)
	server, client, l := pair(t, open, h, 100<<10, 2*calls)
	var sent, unsent []*call
	for i := range calls {
		c := client.newCall([]byte("held"), client.pool.body(i*5000, 1, false), 0)
		c.start(l)
		sent = append(sent, c)
	}
	for range calls {
		await(t, held, "request")
	}
	fresh := client.link(nobody)
	for range calls {
		c := client.newCall([]byte("never"), client.pool.body(100, 1, false), 0)
		c.start(fresh)
		unsent = append(unsent, c)
	}
	client.stop()
	for _, c := range append(sent, unsent...) {
		if len(c.done) != 1 {
			t.Fatalf("Run returned before all calls completed")
		}
	}
	for _, c := range sent {
		err := c.wait().err
		wantError(t, err, dramnode.ErrClosed)
		wantError(t, err, dramnode.ErrUnknownOutcome)
	}
	for _, c := range unsent {
		wantError(t, c.wait().err, dramnode.ErrUnavailable)
	}
	client.pool.check()
	for _, link := range []transport.Link{l, fresh} {
		if s := link.Info().State; s != transport.LinkClosed {
			t.Errorf("after Run a link is %v, want closed", s)
		}
		err := client.call(link, []byte("after"), client.pool.body(100, 1, false)).err
		wantError(t, err, dramnode.ErrClosed)
		wantError(t, err, dramnode.ErrUnavailable)
		link.Close()
	}
	server.stop()
	server.stop()
}
