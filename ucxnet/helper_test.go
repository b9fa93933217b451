package ucxnet

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/dramnode/dramnode/transport"
)

func TestMain(m *testing.M) {
	if addr := os.Getenv("UCXNET_TEST_SERVER"); addr != "" {
		childServer(addr)
		return
	}
	if addr := os.Getenv("UCXNET_TEST_CLIENT"); addr != "" {
		childClient(addr)
		return
	}
	if os.Getenv("UCXNET_TEST_SHARER") != "" {
		childSharer()
		return
	}
	goleak.VerifyTestMain(m)
}

var lastIncarnation atomic.Uint64

func testConfig(role transport.Role) Config {
	return Config{
		Identity: transport.Identity{Role: role, Name: "test", Incarnation: lastIncarnation.Add(1), Cluster: "default"},
		Log:      zerolog.Nop(),
	}
}

// start runs a network until the test ends.
func start(t testing.TB, c Config) *Network {
	t.Helper()
	n, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	run(t, n)
	return n
}

func run(t testing.TB, n *Network) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(20 * time.Second):
			t.Error("Run did not return")
		}
	})
}

func region(t testing.TB, n *Network, bytes int) []byte {
	t.Helper()
	r, err := n.Alloc(bytes)
	if err != nil {
		t.Fatal(err)
	}
	return r.Bytes()
}

// A store serves "get" (header: u64 n; reply body: n bytes of its region) and "put" (a body; the reply
// header is its length and first byte). It takes any number of requests, one placed body at a time per 16 MiB slot.
type store struct {
	mem    []byte
	placed atomic.Int64 // bodies that were placed and not served yet
	failed atomic.Int64 // that did not arrive
	refuse atomic.Bool
	slots  atomic.Int64
	detach atomic.Bool
}

func (s *store) Place(r *transport.Request, n int) ([]byte, error) {
	if s.refuse.Load() {
		r.Reply([]byte("refused"), transport.Body{})
		return nil, transport.ErrRefused
	}
	s.placed.Add(1)
	r.Cookie = 77
	if n > 1<<20 {
		return s.mem[:n], nil
	}
	at := (16 + s.slots.Add(1)%48) << 20 // far more slots than the tests have calls
	return s.mem[at : at+int64(n)], nil
}

func (s *store) Serve(r *transport.Request) {
	if r.Placed {
		s.placed.Add(-1)
		if r.Cookie != 77 {
			panic("cookie lost")
		}
	}
	if r.Err != nil {
		s.failed.Add(1)
		return
	}
	var reply [8]byte
	var body transport.Body
	if len(r.Body) > 0 {
		binary.LittleEndian.PutUint64(reply[:], uint64(len(r.Body))<<8|uint64(r.Body[0]))
	} else if len(r.Header) >= 8 {
		n := binary.LittleEndian.Uint64(r.Header)
		body.Bytes = s.mem[:n]
	}
	if s.detach.Load() {
		d := r.Detach()
		go func() {
			if err := d.Respond(reply[:], body); err != nil {
				panic(err)
			}
			if d.Respond(reply[:], transport.Body{}) == nil {
				panic("second Respond succeeds")
			}
		}()
		return
	}
	r.Reply(reply[:], body)
}

// A waiter makes a call blocking.
type waiter struct {
	call   transport.Call
	place  []byte
	done   chan struct{}
	header []byte
	body   []byte
	placed bool
	err    error
}

func newWaiter(place []byte) *waiter { return &waiter{place: place, done: make(chan struct{}, 1)} }

func (w *waiter) PlaceReply(_ *transport.Call, _ []byte, n int) ([]byte, error) {
	w.placed = true
	return w.place[:n], nil
}

func (w *waiter) Complete(_ *transport.Call, header, body []byte, err error) {
	w.header = append(w.header[:0], header...)
	if w.placed {
		w.body = body
	} else {
		w.body = append([]byte(nil), body...)
	}
	w.err = err
	w.done <- struct{}{}
}

func (w *waiter) do(l transport.Link, header []byte, body transport.Body, timeout time.Duration) error {
	w.placed = false
	w.call = transport.Call{Header: header, Body: body, Completer: w}
	if timeout > 0 {
		w.call.Deadline = time.Now().Add(timeout)
	}
	l.Call(&w.call)
	<-w.done
	return w.err
}

func (w *waiter) get(l transport.Link, n int) error {
	err := w.do(l, binary.LittleEndian.AppendUint64(nil, uint64(n)), transport.Body{}, 10*time.Second)
	if err == nil && len(w.body) != n {
		return fmt.Errorf("got %d bytes, want %d", len(w.body), n)
	}
	return err
}

func (w *waiter) put(l transport.Link, body transport.Body) error {
	first := body.Bytes[0]
	n := len(body.Bytes)
	if err := w.do(l, nil, body, 10*time.Second); err != nil {
		return err
	}
	if got := binary.LittleEndian.Uint64(w.header); got != uint64(n)<<8|uint64(first) {
		return fmt.Errorf("the reply says %#x, want %#x", got, uint64(n)<<8|uint64(first))
	}
	return nil
}

func dial(t testing.TB, n *Network, addr string) transport.Link {
	t.Helper()
	l, err := n.Dial(addr)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func dialOpen(t testing.TB, n *Network, addr string) transport.Link {
	t.Helper()
	l := dial(t, n, addr)
	awaitState(t, l, transport.LinkOpen)
	return l
}

func awaitState(t testing.TB, l transport.Link, want transport.LinkState) {
	t.Helper()
	eventually(t, func() error {
		if i := l.Info(); i.State != want {
			return fmt.Errorf("link is %v (%v), want %v", i.State, i.Err, want)
		}
		return nil
	})
}

// eventually polls until check passes.
func eventually(t testing.TB, check func() error) {
	t.Helper()
	timeout := time.After(15 * time.Second)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-timeout:
			t.Fatal(err)
		case <-tick.C:
		}
	}
}

// A released counts what a network gave back.
type released struct{ n atomic.Int64 }

func (r *released) Release(uint64) { r.n.Add(1) }

func childServer(addr string) {
	c := testConfig(transport.RoleNode)
	c.Identity.Incarnation = uint64(time.Now().UnixNano())
	c.Listen = addr
	shm, err := ParseShmMode(os.Getenv("UCXNET_TEST_SHM"))
	if err != nil {
		shm = ShmOff
	}
	c.Shm = shm
	s, checks := &store{}, newChecker()
	c.Handler = s
	if os.Getenv("UCXNET_TEST_CHECK") != "" {
		c.Handler = checks
	}
	if d, err := time.ParseDuration(os.Getenv("UCXNET_TEST_DEAD")); err == nil {
		c.Timing.Dead = d
	}
	n, err := New(c)
	if err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
	force(n, os.Getenv("UCXNET_TEST_WAY"))
	r, err := n.Alloc(checkSlots * checkSlot)
	if err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
	s.mem, checks.mem = r.Bytes(), r.Bytes()
	if to := os.Getenv("UCXNET_TEST_DIAL"); to != "" {
		if _, err := n.Dial(to); err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
	}
	fmt.Println(n.Addr())
	ctx, cancel := context.WithCancel(context.Background())
	go func() { // the parent's death ends the child
		var b [1]byte
		_, _ = os.Stdin.Read(b[:])
		cancel()
	}()
	if err := n.Run(ctx); err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
}
