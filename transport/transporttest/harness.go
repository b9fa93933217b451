package transporttest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dramnode/dramnode/transport"
)

// patience is how long a case waits for what must happen before it calls it lost.
const patience = 30 * time.Second

// reachable is a deadline within which a request surely reaches its peer, also on a loaded machine, and which a
// case can wait for.
const reachable = time.Second

var timing = transport.Timing{
	Heartbeat: 100 * time.Millisecond,
	Dead:      3 * time.Second,
	Connect:   3 * time.Second,
	RetryMin:  5 * time.Millisecond,
	RetryMax:  50 * time.Millisecond,
}

// A process is one network that runs, with memory for its bodies.
type process struct {
	t       *testing.T
	network transport.Network
	pool    *pool
	stop    func() // ends Run and waits for it; may be called again
}

var incarnations atomic.Uint64

// start opens and runs a network. Zero fields of the identity are filled, and a nil handler echoes.
func start(t *testing.T, open Open, c Config, slotBytes, slots int) *process {
	t.Helper()
	id := &c.Identity
	if id.Role == 0 {
		id.Role = transport.RoleNode
	}
	if id.Incarnation == 0 {
		id.Incarnation = incarnations.Add(1)
	}
	if id.Name == "" {
		id.Name = fmt.Sprintf("process-%d", id.Incarnation)
	}
	if id.Cluster == "" {
		id.Cluster = "transporttest"
	}
	c.Timing = timing
	p := &process{t: t, pool: &pool{t: t, slotBytes: slotBytes}}
	if c.Handler == nil {
		c.Handler = echo{p.pool}
	}
	if h, ok := c.Handler.(interface{ lend(*pool) }); ok {
		h.lend(p.pool)
	}
	p.network = open(t, c)
	region, err := p.network.Alloc(slotBytes * slots)
	if err != nil {
		t.Fatalf("Alloc(%d): %v", slotBytes*slots, err)
	}
	p.pool.fill(region, slots)
	p.run()
	t.Cleanup(func() {
		p.stop()
		p.pool.check()
		if err := region.Close(); err != nil {
			t.Errorf("closing a region after Run: %v", err)
		}
	})
	return p
}

func (p *process) run() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.network.Run(ctx) }()
	p.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil && !errors.Is(err, context.Canceled) {
				p.t.Errorf("Run: %v", err)
			}
		case <-time.After(patience):
			p.t.Fatalf("Run did not return within %v after its context ended", patience)
		}
	})
}

// dial returns a link that is open.
func (p *process) dial(addr string) transport.Link {
	p.t.Helper()
	l := p.link(addr)
	p.awaitState(l, transport.LinkOpen)
	return l
}

func (p *process) link(addr string) transport.Link {
	p.t.Helper()
	l, err := p.network.Dial(addr)
	if err != nil {
		p.t.Fatalf("Dial(%q): %v", addr, err)
	}
	return l
}

func (p *process) awaitState(l transport.Link, want transport.LinkState) {
	p.t.Helper()
	eventually(p.t, func() string {
		if i := l.Info(); i.State != want {
			return fmt.Sprintf("the link to %s is %v (%v), want %v", i.Addr, i.State, i.Err, want)
		}
		return ""
	})
}

// eventually waits until fault returns "".
func eventually(t *testing.T, fault func() string) {
	t.Helper()
	limit := time.NewTimer(patience)
	defer limit.Stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		f := fault()
		if f == "" {
			return
		}
		select {
		case <-tick.C:
		case <-limit.C:
			t.Fatalf("after %v: %s", patience, f)
		}
	}
}

// await returns what arrives on c.
func await[T any](t *testing.T, c <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatalf("no %s within %v", what, patience)
		panic("unreachable")
	}
}

// A pool lends slots of one region, and heap memory for short bodies. It notices what is not released
// exactly once.
type pool struct {
	t         *testing.T
	slotBytes int

	mu     sync.Mutex
	memory []byte
	free   []int
	leases int // not released yet
}

func (p *pool) fill(r transport.Region, slots int) {
	p.memory = r.Bytes()
	for i := range slots {
		p.free = append(p.free, i)
	}
}

// take returns n bytes of a slot, or false when none is free.
func (p *pool) take(n int) (slot int, b []byte, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n > p.slotBytes || len(p.free) == 0 {
		return 0, nil, false
	}
	slot = p.free[len(p.free)-1]
	p.free = p.free[:len(p.free)-1]
	return slot, p.slot(slot)[:n:n], true
}

func (p *pool) slot(i int) []byte { return p.memory[i*p.slotBytes : (i+1)*p.slotBytes] }

func (p *pool) put(slot int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	scribble(p.slot(slot))
	p.free = append(p.free, slot)
}

// lend makes a body of bytes that lie in slot, or anywhere with slot -1.
func (p *pool) lend(b []byte, slot int) transport.Body {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.leases++
	return transport.Body{Bytes: b, Releaser: &lease{pool: p, bytes: b, slot: slot}, Token: 0xD0D0}
}

// body lends n bytes of pattern, in a slot when they must be or when inSlot says so. It waits for one.
func (p *pool) body(n int, seed uint64, inSlot bool) transport.Body {
	if n <= transport.CopyBytes && !inSlot {
		return p.lend(pattern(n, seed), -1)
	}
	var slot int
	var b []byte
	eventually(p.t, func() string {
		var ok bool
		if slot, b, ok = p.take(n); !ok {
			return fmt.Sprintf("no slot for %d bytes is free", n)
		}
		return ""
	})
	copy(b, pattern(n, seed))
	return p.lend(b, slot)
}

// copyOf lends a copy of b, and reports false when no slot is free for a long one.
func (p *pool) copyOf(b []byte) (transport.Body, bool) {
	if len(b) <= transport.CopyBytes {
		return p.lend(bytes.Clone(b), -1), true
	}
	slot, into, ok := p.take(len(b))
	if !ok {
		return transport.Body{}, false
	}
	copy(into, b)
	return p.lend(into, slot), true
}

// check runs after Run returned: nothing may be lent any more.
func (p *pool) check() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.leases != 0 {
		p.t.Errorf("%d bodies were not released", p.leases)
	}
}

// A lease is one body that was lent.
type lease struct {
	pool     *pool
	bytes    []byte
	slot     int
	released atomic.Bool
}

// Release gets the memory back and overwrites it.
func (l *lease) Release(token uint64) {
	if token != 0xD0D0 {
		l.pool.t.Errorf("a body came back with token %#x", token)
	}
	if l.released.Swap(true) {
		l.pool.t.Errorf("a body of %d bytes was released twice", len(l.bytes))
		return
	}
	if l.slot >= 0 {
		l.pool.put(l.slot)
	} else {
		scribble(l.bytes)
	}
	l.pool.mu.Lock()
	l.pool.leases--
	l.pool.mu.Unlock()
}

// scribble overwrites memory that is no longer lent.
func scribble(b []byte) {
	if len(b) == 0 {
		return
	}
	b[0] = 0xEE
	for n := 1; n < len(b); n *= 2 {
		copy(b[n:], b[:n])
	}
}

// pattern returns n bytes that depend on seed at every position.
func pattern(n int, seed uint64) []byte {
	b := make([]byte, 0, n+8)
	for x := seed*0x9E3779B97F4A7C15 + uint64(n) + 1; len(b) < n; {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		b = binary.LittleEndian.AppendUint64(b, x)
	}
	return b[:n:n]
}

// An outcome is the end of a call, copied.
type outcome struct {
	header, body []byte
	err          error
}

// A call is a transport.Call that checks what its network does with it.
type call struct {
	transport.Call
	pool    *pool
	refuse  error // for a reply body that asks for a place
	live    atomic.Bool
	slot    int
	placed  []byte
	done    chan outcome
	chained func(*call, outcome) bool // in Complete: reports whether it started c again
}

func (p *process) newCall(header []byte, body transport.Body, limit time.Duration) *call {
	c := &call{pool: p.pool, slot: -1, done: make(chan outcome, 1)}
	c.Header, c.Body, c.Completer = bytes.Clone(header), body, c
	if limit > 0 {
		c.Deadline = time.Now().Add(limit)
	}
	return c
}

// start hands c to l. The header may be overwritten at once.
func (c *call) start(l transport.Link) {
	c.live.Store(true)
	header := c.Header
	l.Call(&c.Call)
	scribble(header)
}

func (c *call) wait() outcome {
	c.pool.t.Helper()
	return await(c.pool.t, c.done, "end of a call")
}

// call makes one call and waits for its end.
func (p *process) call(l transport.Link, header []byte, body transport.Body) outcome {
	p.t.Helper()
	c := p.newCall(header, body, 0)
	c.start(l)
	return c.wait()
}

// PlaceReply names a slot.
func (c *call) PlaceReply(tc *transport.Call, header []byte, n int) ([]byte, error) {
	if tc != &c.Call || !c.live.Load() || c.placed != nil {
		c.pool.t.Errorf("PlaceReply for another call, after the end, or again")
	}
	if c.refuse != nil {
		return nil, c.refuse
	}
	slot, b, ok := c.pool.take(n)
	if !ok {
		return nil, errNoSlot
	}
	c.slot, c.placed = slot, b
	return b, nil
}

var errNoSlot = errors.New("transporttest: no slot for the reply's body")

// Complete checks and hands on the end.
func (c *call) Complete(tc *transport.Call, header, body []byte, err error) {
	if tc != &c.Call || !c.live.Swap(false) {
		c.pool.t.Errorf("Complete for another call, or again (%v)", err)
		return
	}
	if err == nil && c.placed != nil && (len(body) != len(c.placed) || &body[0] != &c.placed[0]) {
		c.pool.t.Errorf("Complete has %d bytes that are not the %d placed", len(body), len(c.placed))
	}
	if err != nil && (header != nil || body != nil) {
		c.pool.t.Errorf("Complete has a reply and the error %v", err)
	}
	o := outcome{bytes.Clone(header), bytes.Clone(body), err}
	if c.placed != nil {
		c.pool.put(c.slot)
		c.slot, c.placed = -1, nil
	}
	if c.chained != nil && c.chained(c, o) {
		return
	}
	c.done <- o
}

var busyHeader = []byte("\xffbusy")

// echo answers with what it got.
type echo struct{ pool *pool }

func (e echo) Place(r *transport.Request, n int) ([]byte, error) {
	slot, b, ok := e.pool.take(n)
	if !ok {
		r.Reply(busyHeader, transport.Body{})
		return nil, transport.ErrRefused
	}
	r.Cookie = uint64(slot)
	return b, nil
}

func (e echo) Serve(r *transport.Request) {
	if r.Err != nil {
		if !r.Placed {
			e.pool.t.Errorf("Serve has the error %v for a body that was not placed", r.Err)
			return
		}
		e.pool.put(int(r.Cookie))
		return
	}
	if r.Placed {
		r.Reply(r.Header, e.pool.lend(r.Body, int(r.Cookie)))
		return
	}
	body, ok := e.pool.copyOf(r.Body)
	if !ok {
		r.Reply(busyHeader, transport.Body{})
		return
	}
	r.Reply(r.Header, body)
}

// A scripted handler does what a case says, and what echo does otherwise.
type scripted struct {
	pool  *pool
	place func(r *transport.Request, n int) ([]byte, error)
	serve func(r *transport.Request)
}

// lend gives the handler its process's pool, unless a case gave it another.
func (s *scripted) lend(p *pool) {
	if s.pool == nil {
		s.pool = p
	}
}

func (s *scripted) Place(r *transport.Request, n int) ([]byte, error) {
	if s.place != nil {
		return s.place(r, n)
	}
	return echo{s.pool}.Place(r, n)
}

// Serve takes placed memory back before a script runs, which therefore sees no placed body.
func (s *scripted) Serve(r *transport.Request) {
	if s.serve == nil {
		echo{s.pool}.Serve(r)
		return
	}
	if r.Placed {
		s.pool.put(int(r.Cookie))
	}
	if r.Err == nil {
		s.serve(r)
	}
}

// hold is a handler that detaches every request and keeps the responder.
func hold(limit int) (*scripted, chan transport.Responder) {
	held := make(chan transport.Responder, limit)
	return &scripted{serve: func(r *transport.Request) { held <- r.Detach() }}, held
}

// wantError checks a call's error: one of want, and never both "not applied" and "unknown".
func wantError(t *testing.T, err error, want ...error) {
	t.Helper()
	for _, w := range want {
		if errors.Is(err, w) {
			return
		}
	}
	t.Errorf("got error %v, want one of %v", err, want)
}
