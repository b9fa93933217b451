package ucxnet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/transport"
)

// pair is a server with a store and a client with a link to it, over tcp or shared memory.
type pair struct {
	server, client *Network
	store          *store
	link           transport.Link
	mem            []byte // of the client
}

func newPair(t testing.TB, shm ShmMode) *pair {
	t.Helper()
	p := &pair{store: &store{}}
	sc := testConfig(transport.RoleNode)
	sc.Listen, sc.Handler, sc.Shm = "127.0.0.1:0", p.store, shm
	p.server = start(t, sc)
	p.store.mem = region(t, p.server, 64<<20)
	cc := testConfig(transport.RoleClient)
	cc.Shm = shm
	p.client = start(t, cc)
	p.mem = region(t, p.client, 64<<20)
	p.link = dialOpen(t, p.client, p.server.Addr())
	awaitTransport(t, p.link, shm)
	return p
}

// awaitTransport waits until l goes by shared memory, if it may.
func awaitTransport(t testing.TB, l transport.Link, shm ShmMode) {
	t.Helper()
	want := "tcp/lo"
	if shm != ShmOff {
		want = "sysv+cma"
	}
	eventually(t, func() error {
		if i := l.Info(); i.Peer.Transport != want {
			return fmt.Errorf("the link is %v by %q, want %q; %w, fallback %q, dialler %v", i.State, i.Peer.Transport, want, i.Err, i.Fallback, l.(*link).n.Counters())
		}
		return nil
	})
}

// bothRails runs a test over tcp and over shared memory.
func bothRails(t *testing.T, f func(t *testing.T, shm ShmMode)) {
	t.Run("tcp", func(t *testing.T) { f(t, ShmOff) })
	t.Run("shm", func(t *testing.T) { f(t, ShmAuto) })
}

func TestEcho(t *testing.T) {
	bothRails(t, func(t *testing.T, shm ShmMode) {
		p := newPair(t, shm)
		w := newWaiter(p.mem[32<<20:])
		for _, n := range []int{8, 100, 2048, 2049, 4096, 4097, 8192, 8193, 65535, 65536, 1 << 20, 16 << 20} {
			for i := range p.store.mem[:n] {
				p.store.mem[i] = byte(i * 7)
			}
			if err := w.get(p.link, n); err != nil {
				t.Fatalf("get of %d bytes: %v", n, err)
			}
			for i, b := range w.body {
				if b != byte(i*7) {
					t.Fatalf("get of %d bytes: byte %d is %#x", n, i, b)
				}
			}
			p.mem[0] = byte(n) ^ 0x5A
			r := &released{}
			if err := w.put(p.link, transport.Body{Bytes: p.mem[:n], Releaser: r}); err != nil {
				t.Fatalf("put of %d bytes: %v", n, err)
			}
			eventually(t, func() error {
				if got := r.n.Load(); got != 1 {
					return fmt.Errorf("body of %d bytes released %d times", n, got)
				}
				return nil
			})
		}
	})
}

func TestConcurrentCallers(t *testing.T) {
	bothRails(t, func(t *testing.T, shm ShmMode) {
		p := newPair(t, shm)
		for _, detach := range []bool{false, true} {
			p.store.detach.Store(detach)
			var callers sync.WaitGroup
			for g := range 16 {
				callers.Go(func() {
					w := newWaiter(p.mem[g<<20 : (g+1)<<20])
					for i := range 200 {
						n := []int{8, 64, 3000, 100_000}[(g+i)%4]
						if err := w.get(p.link, n); err != nil {
							t.Errorf("get of %d bytes: %v", n, err)
							return
						}
					}
				})
			}
			callers.Wait()
		}
		if s := p.client.Stats(); s.LateReplies != 0 || s.GivenUp != 0 {
			t.Errorf("late replies %d, given up %d", s.LateReplies, s.GivenUp)
		}
	})
}

func TestNobodyThere(t *testing.T) {
	c := start(t, testConfig(transport.RoleClient))
	l := dial(t, c, "127.0.0.1:1")
	eventually(t, func() error {
		if err := l.Info().Err; err == nil || err.Error() != "dramnode: unavailable: link to 127.0.0.1:1: connection refused" {
			return fmt.Errorf("the link says %w", err)
		}
		return nil
	})
	w := newWaiter(nil)
	if err := w.do(l, nil, transport.Body{}, time.Second); !errors.Is(err, dramnode.ErrUnavailable) {
		t.Errorf("call ends with %v, want ErrUnavailable", err)
	}
}

// A listener that takes connections and says nothing is no node.
func TestSilentListener(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	c := testConfig(transport.RoleClient)
	c.Timing.Connect = 200 * time.Millisecond
	l := dial(t, start(t, c), silent.Addr().String())
	eventually(t, func() error {
		if err := l.Info().Err; !errors.Is(err, errConnectTime) {
			return fmt.Errorf("the link says %w, want %w", err, errConnectTime)
		}
		return nil
	})
}

// A handshake that takes longer than the limit, as on a machine with much to do, succeeds in the end.
func TestSlowHandshake(t *testing.T) {
	timing := transport.Timing{Connect: 500 * time.Millisecond}
	sc, cc := testConfig(transport.RoleNode), testConfig(transport.RoleClient)
	sc.Listen, sc.Handler, sc.Timing, cc.Timing = "127.0.0.1:0", &store{}, timing, timing
	addr := detour(t, netip.MustParseAddrPort(start(t, sc).Addr()), func(int) bool { return true }, 2*timing.Connect)
	n := start(t, cc)
	dialOpen(t, n, addr.String())
	if late := n.Stats().ClosedByReason["connect timeout"]; late == 0 {
		t.Error("no attempt ran out of time: the detour was not taken")
	}
}

// A detour listens in front of a listener of UCX. It hangs up at once or, for the connections that pass
// names, counted from 1, carries what is said, after the delay.
func detour(t *testing.T, to netip.AddrPort, pass func(i int) bool, delay time.Duration) netip.AddrPort {
	t.Helper()
	front, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var threads sync.WaitGroup
	carry := func(from, to net.Conn) {
		defer context.AfterFunc(ctx, func() { _ = from.Close() })()
		_, _ = io.Copy(to, from) // an error: either side has gone
		_ = to.Close()
	}
	threads.Go(func() {
		for i := 1; ; i++ {
			in, err := front.Accept()
			if err != nil {
				return
			}
			if !pass(i) {
				_ = in.Close()
				continue
			}
			threads.Go(func() {
				defer in.Close()
				select {
				case <-ctx.Done():
					return
				case <-time.After(delay):
				}
				out, err := net.Dial("tcp", to.String())
				if err != nil {
					return
				}
				defer out.Close()
				threads.Go(func() { carry(out, in) })
				carry(in, out)
			})
		}
	})
	t.Cleanup(func() {
		stop()
		_ = front.Close()
		threads.Wait()
	})
	return front.Addr().(*net.TCPAddr).AddrPort()
}

// With shared memory on, a peer on this host that offers none is not reached at all.
func TestShmRequired(t *testing.T) {
	for _, c := range []struct {
		server ShmMode
		want   transport.LinkState
	}{{ShmOn, transport.LinkOpen}, {ShmAuto, transport.LinkOpen}, {ShmOff, transport.LinkConnecting}} {
		sc, cc := testConfig(transport.RoleNode), testConfig(transport.RoleClient)
		sc.Listen, sc.Handler, sc.Shm, cc.Shm = "127.0.0.1:0", &store{}, c.server, ShmOn
		l := dial(t, start(t, cc), start(t, sc).Addr())
		eventually(t, func() error {
			i := l.Info()
			if i.State != c.want || c.want == transport.LinkOpen && i.Peer.Transport != "sysv+cma" || c.want != transport.LinkOpen && !errors.Is(i.Err, errNotShared) {
				return fmt.Errorf("server with shm %v: the link is %v by %q, %w", c.server, i.State, i.Peer.Transport, i.Err)
			}
			return nil
		})
	}
}

// Calls to a peer that does not read are refused once so many bytes wait, and end when it reads again.
func TestStoppedReaderIsBounded(t *testing.T) {
	child := startChild(t, "127.0.0.1:0", ShmOff)
	c := testConfig(transport.RoleClient)
	c.Timing = transport.Timing{Dead: time.Minute}
	c.Limits = Limits{QueuedBytes: 1 << 20, Calls: 1 << 20}
	n := start(t, c)
	l := dialOpen(t, n, child.addr)
	signal(t, child, syscall.SIGSTOP)
	var busy, done atomic.Int64
	const calls = 40_000
	for range calls {
		f := &flood{busy: &busy, done: &done}
		f.call = transport.Call{Header: make([]byte, 8), Body: transport.Body{Bytes: make([]byte, 1000)}, Completer: f}
		l.Call(&f.call)
	}
	eventually(t, func() error {
		if busy.Load() == 0 {
			return fmt.Errorf("no call was refused; %d ended", done.Load())
		}
		return nil
	})
	s := n.Stats()
	t.Logf("%d of %d calls refused; %.1f frames in a message", busy.Load(), calls, float64(s.FramesSent)/float64(s.MessagesSent))
	signal(t, child, syscall.SIGCONT)
	eventually(t, func() error {
		if done.Load() != calls {
			return fmt.Errorf("%d of %d calls ended", done.Load(), calls)
		}
		return nil
	})
}

type flood struct {
	call       transport.Call
	busy, done *atomic.Int64
}

func (f *flood) PlaceReply(*transport.Call, []byte, int) ([]byte, error) {
	return nil, dramnode.ErrInvalid
}
func (f *flood) Complete(_ *transport.Call, _, _ []byte, err error) {
	if errors.Is(err, dramnode.ErrBusy) {
		f.busy.Add(1)
	}
	f.done.Add(1)
}
