package transporttest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/transport"
)

var bodySizes = []int{0, 1, 64, 1000, transport.CopyBytes, transport.CopyBytes + 1, 8 << 10, 64 << 10, 1 << 20, 8 << 20}

// pair starts a server with handler h (nil echoes) and a client with a link to it.
func pair(t *testing.T, open Open, h transport.Handler, slotBytes, slots int) (server, client *process, l transport.Link) {
	t.Helper()
	server = start(t, open, Config{Listen: true, Handler: h}, slotBytes, slots)
	client = start(t, open, Config{Identity: transport.Identity{Role: transport.RoleClient}}, slotBytes, slots)
	return server, client, client.dial(server.network.Addr())
}

func checkEcho(t *testing.T, o outcome, header, body []byte) {
	t.Helper()
	switch {
	case o.err != nil:
		t.Errorf("echo of %d bytes: %v", len(body), o.err)
	case !bytes.Equal(o.header, header):
		t.Errorf("echo of %d bytes: the header came back as %.40q, want %.40q", len(body), o.header, header)
	case !bytes.Equal(o.body, body):
		t.Errorf("echo of %d bytes: %d bytes came back, first difference at %d", len(body), len(o.body), difference(o.body, body))
	}
}

func difference(a, b []byte) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

func testEcho(t *testing.T, open Open) {
	_, client, l := pair(t, open, nil, 8<<20, 3)
	for _, n := range bodySizes {
		for _, inSlot := range []bool{false, true} {
			header := fmt.Appendf(nil, "%d %v", n, inSlot)
			o := client.call(l, header, client.pool.body(n, 7, inSlot))
			checkEcho(t, o, header, pattern(n, 7))
		}
	}
	if i := l.Info(); i.Pending != 0 || i.Opened != 1 || i.Err != nil {
		t.Errorf("after the echoes: %+v, want no pending call, opened once, no error", i)
	}
}

// testOneWayBodies has a body in the request alone, then in the reply alone.
func testOneWayBodies(t *testing.T, open Open) {
	h := &scripted{}
	h.serve = func(r *transport.Request) {
		n := int(binary.LittleEndian.Uint32(r.Header))
		if n == 0 {
			r.Reply(r.Header, transport.Body{})
			return
		}
		b := pattern(n, 9)
		body, ok := h.pool.copyOf(b)
		if !ok {
			t.Errorf("the server has no slot for %d bytes", n)
		}
		r.Reply(r.Header, body)
	}
	_, client, l := pair(t, open, h, 8<<20, 3)
	for _, n := range bodySizes {
		header := make([]byte, 4)
		checkEcho(t, client.call(l, header, client.pool.body(n, 8, false)), header, nil)
		binary.LittleEndian.PutUint32(header, uint32(n))
		checkEcho(t, client.call(l, header, transport.Body{}), header, pattern(n, 9)[:n])
	}
}

func testHeaders(t *testing.T, open Open) {
	_, client, l := pair(t, open, nil, 64<<10, 4)
	for _, headerBytes := range []int{0, 1, 31, 255, 4096, transport.MaxHeaderBytes} {
		for _, n := range []int{0, 1, transport.CopyBytes, 64 << 10} {
			header := pattern(headerBytes, 3)
			checkEcho(t, client.call(l, header, client.pool.body(n, 4, false)), header, pattern(n, 4))
		}
	}
}

func testConcurrentCallers(t *testing.T, open Open) {
	const callers, callsEach = 16, 60
	_, client, l := pair(t, open, nil, 64<<10, 2*callers)
	var wg sync.WaitGroup
	for caller := range callers {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(1, uint64(caller)))
			for i := range callsEach {
				n := bodySizes[random.IntN(8)]
				seed := uint64(caller*callsEach + i)
				header := fmt.Appendf(nil, "%d/%d", caller, i)
				for {
					o := client.call(l, header, client.pool.body(n, seed, false))
					if o.err == nil && !bytes.Equal(o.header, busyHeader) || o.err != nil && !errors.Is(o.err, errNoSlot) && !errors.Is(o.err, dramnode.ErrBusy) {
						checkEcho(t, o, header, pattern(n, seed))
						break
					}
				}
			}
		})
	}
	wg.Wait()
}

// testOrder sends more than a batch of small calls from one goroutine.
func testOrder(t *testing.T, open Open) {
	const calls = 500
	next := 0 // the poller's
	h := &scripted{serve: func(r *transport.Request) {
		if got := int(binary.LittleEndian.Uint32(r.Header)); got != next {
			t.Errorf("call %d arrived as number %d", got, next)
		}
		if n := len(r.Body); n != next%200 {
			t.Errorf("call %d has a body of %d bytes, want %d", next, n, next%200)
		}
		next++
		r.Reply(nil, transport.Body{})
	}}
	_, client, l := pair(t, open, h, 64<<10, 4)
	var started []*call
	for i := range calls {
		c := client.newCall(binary.LittleEndian.AppendUint32(nil, uint32(i)), client.pool.body(i%200, 1, false), 0)
		c.start(l)
		started = append(started, c)
	}
	for i, c := range started {
		if o := c.wait(); o.err != nil {
			t.Errorf("call %d: %v", i, o.err)
		}
	}
}

// testCallFromComplete uses one Call again and again, from inside its own Complete.
func testCallFromComplete(t *testing.T, open Open) {
	_, client, l := pair(t, open, nil, 64<<10, 4)
	c := client.newCall([]byte("again"), client.pool.body(100, 1, false), 0)
	left := 300
	c.chained = func(c *call, o outcome) bool {
		if left--; left == 0 || o.err != nil {
			return false
		}
		c.Header, c.Body = []byte("again"), client.pool.lend(pattern(100, 1), -1)
		c.start(l)
		return true
	}
	c.start(l)
	checkEcho(t, c.wait(), []byte("again"), pattern(100, 1))
	if left != 0 {
		t.Errorf("%d calls were not made", left)
	}
}

// testBothWays has two listeners that call each other at the same time.
func testBothWays(t *testing.T, open Open) {
	a := start(t, open, Config{Listen: true}, 64<<10, 16)
	b := start(t, open, Config{Listen: true}, 64<<10, 16)
	ab, ba := a.dial(b.network.Addr()), b.dial(a.network.Addr())
	var wg sync.WaitGroup
	each := func(p *process, l transport.Link, seed uint64) {
		for _, n := range []int{10, 5000, 64 << 10, 0, 300, 20000} {
			checkEcho(t, p.call(l, []byte("h"), p.pool.body(n, seed, false)), []byte("h"), pattern(n, seed))
		}
	}
	for seed := range uint64(3) {
		wg.Go(func() { each(a, ab, seed) })
		wg.Go(func() { each(b, ba, seed) })
	}
	wg.Wait()
}

// testIdentity checks how each side sees the other.
func testIdentity(t *testing.T, open Open) {
	peers := make(chan *transport.Peer, 10)
	h := &scripted{serve: func(r *transport.Request) {
		peers <- r.Peer
		r.Reply(nil, transport.Body{})
	}}
	serverID := transport.Identity{Role: transport.RoleNode, Name: "server", Incarnation: 77, Key: []byte("secret")}
	server := start(t, open, Config{Identity: serverID, Listen: true, Handler: h}, 4096, 1)
	addr := server.network.Addr()
	id := transport.Identity{Role: transport.RoleClient, Name: "me", Incarnation: 0xFEDCBA9876543210, Key: []byte("secret")}
	client := start(t, open, Config{Identity: id}, 4096, 1)
	if got := client.network.Addr(); got != "" {
		t.Errorf("a network that only dials has the address %q", got)
	}
	l := client.dial(addr)
	for range 3 {
		client.call(l, nil, transport.Body{})
	}
	p := await(t, peers, "request")
	if p.Role != id.Role || p.Name != id.Name || p.Incarnation != id.Incarnation || p.Addr != "" || p.Transport == "" {
		t.Errorf("the server sees %+v, want %+v and some transport", *p, id)
	}
	if again := await(t, peers, "request"); again != p {
		t.Errorf("two requests of one connection have different peers")
	}
	got := l.Info().Peer
	if got.Role != transport.RoleNode || got.Name != "server" || got.Incarnation != 77 || got.Addr != addr || got.Transport == "" {
		t.Errorf("the client sees %+v, want the server at %s", got, addr)
	}
}

// testCookie checks that Serve sees what Place left, and the same memory.
func testCookie(t *testing.T, open Open) {
	h := &scripted{}
	seen := make(chan string, 100)
	h.place = func(r *transport.Request, n int) ([]byte, error) {
		seen <- fmt.Sprintf("place %s %d", r.Header, n)
		return echo{h.pool}.Place(r, n)
	}
	h.serve = func(r *transport.Request) {
		seen <- fmt.Sprintf("serve %s %d %v", r.Header, len(r.Body), &r.Body[0] == &h.pool.slot(int(r.Cookie))[0])
		r.Reply(nil, transport.Body{})
	}
	_, client, l := pair(t, open, h, 1<<20, 4)
	for i := range 5 {
		n := 100<<10 + i
		client.call(l, fmt.Appendf(nil, "h%d", i), client.pool.body(n, 1, false))
		for _, want := range []string{fmt.Sprintf("place h%d %d", i, n), fmt.Sprintf("serve h%d %d true", i, n)} {
			if got := await(t, seen, "callback"); got != want {
				t.Errorf("got callback %q, want %q", got, want)
			}
		}
	}
}

func testRefusedPlace(t *testing.T, open Open) {
	responders := make(chan transport.Responder, 10)
	h := &scripted{}
	h.place = func(r *transport.Request, n int) ([]byte, error) {
		switch string(r.Header) {
		case "reply":
			r.Reply([]byte("no room"), h.pool.lend([]byte("details"), -1))
		case "detach":
			responders <- r.Detach()
		default:
			return echo{h.pool}.Place(r, n)
		}
		return nil, transport.ErrRefused
	}
	h.serve = func(r *transport.Request) {
		if r.Placed && string(r.Header) != "take" {
			t.Errorf("Serve runs for a refused body")
		}
		r.Reply([]byte("taken"), transport.Body{})
	}
	_, client, l := pair(t, open, h, 1<<20, 4)
	for i := range 20 {
		n := 100<<10 + i
		checkEcho(t, client.call(l, []byte("reply"), client.pool.body(n, 1, false)), []byte("no room"), []byte("details"))
		c := client.newCall([]byte("detach"), client.pool.body(n, 1, false), 0)
		c.start(l)
		if err := await(t, responders, "refused request").Respond([]byte("later"), transport.Body{}); err != nil {
			t.Errorf("Respond: %v", err)
		}
		checkEcho(t, c.wait(), []byte("later"), nil)
		checkEcho(t, client.call(l, []byte("take"), client.pool.body(n, 1, false)), []byte("taken"), nil)
	}
}

func testRefusedReplyBody(t *testing.T, open Open) {
	_, client, l := pair(t, open, nil, 1<<20, 4)
	refusal := errors.New("not today")
	for i := range 10 {
		n := 100<<10 + i
		c := client.newCall([]byte("h"), client.pool.body(n, 1, false), 0)
		c.refuse = refusal
		c.start(l)
		wantError(t, c.wait().err, refusal)
		checkEcho(t, client.call(l, []byte("h"), client.pool.body(n, 2, false)), []byte("h"), pattern(n, 2))
	}
}
