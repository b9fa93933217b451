package ucxnet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/transport"
)

const testBudget = 4 << 20

func TestCrowded(t *testing.T) {
	p := &poller{n: &Network{limits: Limits{SendBytes: testBudget}}}
	for _, c := range []struct {
		held, queued int
		want         bool
	}{
		{testBudget / 4 * 3, testBudget / 4 * 3, false},
		{testBudget/4*3 + 1, shortQueue, false},
		{testBudget/4*3 + 1, shortQueue + 1, true},
		{0, shortQueue + 1, false},
	} {
		p.held = c.held
		if got := p.crowded(&endpoint{queued: c.queued}); got != c.want {
			t.Errorf("with %d bytes held, %d of them by the endpoint, it is crowded: %v, want %v", c.held, c.queued, got, c.want)
		}
	}
}

// withinBudget fails if the network holds too much.
func withinBudget(t *testing.T, n *Network) {
	t.Helper()
	if got := n.Stats().SendBytes; got > testBudget {
		t.Fatalf("messages on their way out hold %d bytes, want at most %d", got, testBudget)
	}
}

// However many peers do not read, what waits for them keeps within one budget, and those that read are served.
func TestStoppedReadersShareABudget(t *testing.T) {
	c := testConfig(transport.RoleClient)
	c.Timing = transport.Timing{Dead: time.Minute}
	c.Limits = Limits{SendBytes: testBudget, Calls: 1 << 20}
	n := start(t, c)
	sc := testConfig(transport.RoleNode)
	s := &store{}
	sc.Listen, sc.Handler, sc.Timing = "127.0.0.1:0", s, c.Timing
	server := start(t, sc)
	s.mem = region(t, server, 1<<20)
	healthy := dialOpen(t, n, server.Addr())
	const peers, calls = 3, 30_000
	var children [peers]*child
	var busy, done [peers]atomic.Int64
	for i := range children {
		children[i] = startChild(t, "127.0.0.1:0", ShmOff)
		l := dialOpen(t, n, children[i].addr)
		signal(t, children[i], syscall.SIGSTOP)
		body := transport.Body{Bytes: make([]byte, 1000)}
		for range calls {
			f := &flood{busy: &busy[i], done: &done[i]}
			f.call = transport.Call{Header: make([]byte, 8), Body: body, Completer: f}
			l.Call(&f.call)
		}
	}
	for i := range children {
		eventually(t, func() error {
			if busy[i].Load() == 0 {
				return fmt.Errorf("no call to peer %d was refused; %d ended", i, done[i].Load())
			}
			return nil
		})
	}
	w := newWaiter(nil)
	for range 100 {
		if err := w.get(healthy, 1000); err != nil {
			t.Fatalf("a peer that reads is not served: %v", err)
		}
		withinBudget(t, n)
	}
	t.Logf("%d bytes wait to be sent", n.Stats().SendBytes)
	for i, child := range children {
		signal(t, child, syscall.SIGCONT)
		eventually(t, func() error {
			if got := done[i].Load(); got != calls {
				return fmt.Errorf("%d of %d calls to peer %d ended", got, calls, i)
			}
			return nil
		})
	}
}

// A stuck client does not read: its poller waits in the first completion until it is released.
type stuck struct {
	gate                 chan struct{}
	ok, refused, unknown atomic.Int64
}

func (s *stuck) PlaceReply(*transport.Call, []byte, int) ([]byte, error) {
	return nil, dramnode.ErrInvalid
}

func (s *stuck) Complete(_ *transport.Call, _, _ []byte, err error) {
	switch {
	case err == nil:
		s.ok.Add(1)
	case errors.Is(err, dramnode.ErrUnavailable):
		s.refused.Add(1)
	default:
		s.unknown.Add(1)
	}
	<-s.gate
}

func (s *stuck) calls(n, replyBytes int) []*transport.Call {
	header := binary.LittleEndian.AppendUint64(nil, uint64(replyBytes))
	calls := make([]*transport.Call, n)
	for i := range calls {
		calls[i] = &transport.Call{Header: header, Completer: s}
	}
	return calls
}

func (s *stuck) await(t *testing.T, calls int) {
	t.Helper()
	eventually(t, func() error {
		if got := s.ok.Load() + s.refused.Load() + s.unknown.Load(); got != int64(calls) {
			return fmt.Errorf("%d of %d calls ended", got, calls)
		}
		return nil
	})
	t.Logf("%d calls succeeded, %d were refused, %d have an unknown outcome", s.ok.Load(), s.refused.Load(), s.unknown.Load())
}

// stuckClient returns a link of a client that is going to be stuck, and its server with the handler.
func stuckClient(t *testing.T, h transport.Handler) (server *Network, l transport.Link) {
	t.Helper()
	sc, cc := testConfig(transport.RoleNode), testConfig(transport.RoleClient)
	sc.Listen, sc.Handler, sc.Limits.SendBytes = "127.0.0.1:0", h, testBudget
	sc.Timing.Dead, cc.Timing.Dead = time.Minute, time.Minute
	server = start(t, sc)
	return server, dialOpen(t, start(t, cc), server.Addr())
}

// Requests of a peer that does not read the replies are refused, and its connection lives on.
func TestUnreadRepliesAreBounded(t *testing.T) {
	s := &store{}
	server, l := stuckClient(t, s)
	s.mem = region(t, server, 1<<20)
	const calls = 40_000
	x := &stuck{gate: make(chan struct{})}
	release := sync.OnceFunc(func() { close(x.gate) })
	t.Cleanup(release)
	l.CallAll(x.calls(calls, inlineBytes))
	eventually(t, func() error {
		if server.Stats().Refused == 0 {
			return fmt.Errorf("no request was refused: %v", server.Counters())
		}
		return nil
	})
	withinBudget(t, server)
	release()
	x.await(t, calls)
	if closed := server.Stats().ClosedByReason; len(closed) > 0 || x.refused.Load() == 0 || x.unknown.Load() > 0 {
		t.Errorf("connections closed: %v", closed)
	}
}

// A hoard answers all requests at once, when it is told to.
type hoard struct {
	mu   sync.Mutex
	held []transport.Responder // guarded by mu
}

func (h *hoard) Place(*transport.Request, int) ([]byte, error) { return nil, transport.ErrRefused }
func (h *hoard) Serve(r *transport.Request) {
	h.mu.Lock()
	h.held = append(h.held, r.Detach())
	h.mu.Unlock()
}

func (h *hoard) len() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.held)
}

// Replies cannot be refused: with too many of them the connection that holds the most goes, and only that.
func TestTooManyRepliesCloseTheLongestQueue(t *testing.T) {
	h := &hoard{}
	server, l := stuckClient(t, h)
	cc := testConfig(transport.RoleClient)
	other := dialOpen(t, start(t, cc), server.Addr())
	const calls = 40_000
	x := &stuck{gate: make(chan struct{})}
	release := sync.OnceFunc(func() { close(x.gate) })
	t.Cleanup(release)
	l.CallAll(x.calls(calls, 0))
	eventually(t, func() error {
		if got := h.len(); got != calls {
			return fmt.Errorf("%d of %d requests came", got, calls)
		}
		return nil
	})
	header := make([]byte, 1000)
	for _, r := range h.held { // far more than the budget and what the kernel buffers, while nobody reads
		_ = r.Respond(header, transport.Body{}) // an error: lost with the connection
	}
	eventually(t, func() error {
		if server.Stats().ClosedByReason["slow reader"] == 0 {
			return fmt.Errorf("nothing was closed: %v", server.Counters())
		}
		return nil
	})
	release()
	x.await(t, calls)
	eventually(t, func() error {
		if got := server.Stats().SendBytes; got > testBudget {
			return fmt.Errorf("messages on their way out hold %d bytes, want at most %d", got, testBudget)
		}
		return nil
	})
	if i := other.Info(); i.Opened != 1 || i.State != transport.LinkOpen {
		t.Errorf("a bystander's link is %v, opened %d times", i.State, i.Opened)
	}
}
