package ucxnet

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/transport"
	"github.com/dramnode/dramnode/wire"
)

// A child is a server in a process of its own.
type child struct {
	cmd   *exec.Cmd
	stdin io.Closer
	addr  string
}

func startChild(t testing.TB, addr string, shm ShmMode) *child {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), "UCXNET_TEST_SERVER="+addr, "UCXNET_TEST_SHM="+shm.String())
	return runChild(t, cmd)
}

// runChild starts the process and waits for its first line.
func runChild(t testing.TB, cmd *exec.Cmd) *child {
	t.Helper()
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := &child{cmd: cmd, stdin: stdin}
	t.Cleanup(c.stop)
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if c.addr = strings.TrimSpace(line); err != nil || strings.HasPrefix(line, "error") {
		t.Fatalf("child says %q, %v", line, err)
	}
	return c
}

func (c *child) stop() {
	if c.cmd.ProcessState == nil {
		_ = c.stdin.Close()
		_ = c.cmd.Process.Signal(syscall.SIGCONT) // it may have been stopped when the test failed
		_ = c.cmd.Wait()
	}
}

func (c *child) kill(t testing.TB) {
	t.Helper()
	if err := c.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = c.cmd.Wait() // an error: it was killed
}

func client(t testing.TB, shm ShmMode) (*Network, []byte) {
	t.Helper()
	c := testConfig(transport.RoleClient)
	c.Shm = shm
	n := start(t, c)
	return n, region(t, n, 64<<20)
}

// load makes calls of all sizes until stop is closed and counts their ends.
type load struct {
	ok, unavailable, unknown, other atomic.Int64
	lastOther                       atomic.Value
	callers                         sync.WaitGroup
	stop                            chan struct{}
}

func startLoad(l transport.Link, mem []byte, callers int) *load {
	x := &load{stop: make(chan struct{})}
	for g := range callers {
		x.callers.Go(func() {
			w := newWaiter(mem[g<<20 : (g+1)<<20])
			for i := 0; ; i++ {
				select {
				case <-x.stop:
					return
				default:
				}
				n := []int{8, 500, 5000, 70_000, 300_000}[(i+g)%5]
				var err error
				if i%2 == 0 {
					err = w.get(l, n)
				} else {
					mem[g<<20] = byte(n)
					err = w.put(l, transport.Body{Bytes: mem[g<<20 : g<<20+n]})
				}
				x.count(err)
				if err != nil {
					<-time.After(time.Millisecond)
				}
			}
		})
	}
	return x
}

func (x *load) count(err error) {
	switch {
	case err == nil:
		x.ok.Add(1)
	case errors.Is(err, dramnode.ErrUnavailable):
		x.unavailable.Add(1)
	case errors.Is(err, dramnode.ErrUnknownOutcome):
		x.unknown.Add(1)
	default:
		x.other.Add(1)
		x.lastOther.Store(err.Error())
	}
}

func (x *load) end(t *testing.T) {
	t.Helper()
	close(x.stop)
	x.callers.Wait()
	if n := x.other.Load(); n > 0 {
		t.Errorf("%d calls ended otherwise, such as: %v", n, x.lastOther.Load())
	}
	t.Logf("ok %d, unavailable %d, unknown outcome %d", x.ok.Load(), x.unavailable.Load(), x.unknown.Load())
}

// awaitMoreOK waits until n more calls have succeeded, however slowly: each has the whole time.
func (x *load) awaitMoreOK(t *testing.T, n int64) {
	t.Helper()
	from := x.ok.Load()
	for want := range n {
		eventually(t, func() error {
			if got := x.ok.Load() - from; got <= want {
				return fmt.Errorf("%d calls succeeded, and then none; want %d more", got, n)
			}
			return nil
		})
	}
}

func TestPeerKilled(t *testing.T) {
	bothRails(t, func(t *testing.T, shm ShmMode) {
		c := startChild(t, "127.0.0.1:0", shm)
		n, mem := client(t, shm)
		l := dialOpen(t, n, c.addr)
		awaitTransport(t, l, shm)
		x := startLoad(l, mem, 8)
		for range 3 {
			x.awaitMoreOK(t, 100)
			c.kill(t)
			before := l.Info()
			killed := time.Now()
			awaitState(t, l, transport.LinkConnecting)
			t.Logf("noticed within %v: %v", time.Since(killed), l.Info().Err)
			c = startChild(t, c.addr, shm)
			awaitState(t, l, transport.LinkOpen)
			if after := l.Info(); after.Peer.Incarnation == before.Peer.Incarnation || after.Opened <= before.Opened {
				t.Errorf("after the restart the link says %+v, before %+v", after, before)
			}
		}
		x.awaitMoreOK(t, 100)
		x.end(t)
		eventually(t, func() error { return nothingLeft(n, 2) })
	})
}

// nothingLeft reports what a network without calls still holds, beyond the endpoints that it may.
func nothingLeft(n *Network, endpoints int) error {
	if s := n.Stats(); s.Calls != 0 || s.Endpoints > endpoints {
		return fmt.Errorf("left: %d calls, %d transfers, %d UCX requests, %d endpoints", s.Calls, s.Transfers, s.Outstanding, s.Endpoints)
	}
	return nil
}

// A peer that stops for longer than Timing.Dead is given up, and found again when it continues.
func TestPeerStopped(t *testing.T) {
	bothRails(t, func(t *testing.T, shm ShmMode) {
		c := startChild(t, "127.0.0.1:0", shm)
		n, mem := client(t, shm)
		l := dialOpen(t, n, c.addr)
		awaitTransport(t, l, shm)
		x := startLoad(l, mem, 4)
		x.awaitMoreOK(t, 100)
		signal(t, c, syscall.SIGSTOP)
		awaitState(t, l, transport.LinkConnecting)
		w := newWaiter(nil)
		if err := w.do(l, nil, transport.Body{}, time.Second); err == nil {
			t.Error("a call to a stopped peer succeeds")
		}
		<-time.After(2 * time.Second)
		signal(t, c, syscall.SIGCONT)
		x.awaitMoreOK(t, 100)
		x.end(t)
	})
}

func signal(t *testing.T, c *child, s syscall.Signal) {
	t.Helper()
	if err := c.cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// A process that was not scheduled must not take its own silence for its peers'.
func TestStoppedProcessKeepsItsPeers(t *testing.T) {
	sc := testConfig(transport.RoleNode)
	sc.Listen, sc.Handler, sc.Timing.Dead = "127.0.0.1:0", &store{}, time.Minute
	server := start(t, sc)
	t.Setenv("UCXNET_TEST_DEAD", "600ms")
	t.Setenv("UCXNET_TEST_DIAL", server.Addr())
	c := startChild(t, "127.0.0.1:0", ShmOff)
	cc := testConfig(transport.RoleClient)
	cc.Timing.Dead = time.Minute
	l := dialOpen(t, start(t, cc), c.addr)
	eventually(t, func() error { // an introduction and a heartbeat: the child's link is open
		if n := server.Stats().FramesIn; n < 2 {
			return fmt.Errorf("%d frames from the child", n)
		}
		return nil
	})
	w := newWaiter(nil)
	for range 3 {
		signal(t, c, syscall.SIGSTOP)
		<-time.After(time.Second)
		signal(t, c, syscall.SIGCONT)
		if err := w.get(l, 8); err != nil {
			t.Fatal(err)
		}
		<-time.After(100 * time.Millisecond)
	}
	if i := l.Info(); i.Opened != 1 || i.State != transport.LinkOpen {
		t.Errorf("the link to the child is %v and was opened %d times, want open, once", i.State, i.Opened)
	}
	if s := server.Stats(); s.Inbound != 1 || len(s.ClosedByReason) != 0 {
		t.Errorf("the child's link: %d connections, closed %v, want 1, none closed", s.Inbound, s.ClosedByReason)
	}
}

func TestDeadline(t *testing.T) {
	c := testConfig(transport.RoleNode)
	c.Listen, c.Handler = "127.0.0.1:0", muteHandler{}
	n, _ := client(t, ShmOff)
	l := dialOpen(t, n, start(t, c).Addr())
	w := newWaiter(nil)
	began := time.Now()
	err := w.do(l, nil, transport.Body{}, 100*time.Millisecond)
	if !errors.Is(err, dramnode.ErrUnknownOutcome) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the call ends with %v, want ErrUnknownOutcome and DeadlineExceeded", err)
	}
	if d := time.Since(began); d < 100*time.Millisecond || d > 2*time.Second {
		t.Errorf("the call ends after %v, want 100 ms", d)
	}
	w.call = transport.Call{Completer: w, Deadline: time.Now().Add(-time.Second)}
	l.Call(&w.call)
	if <-w.done; !errors.Is(w.err, dramnode.ErrUnavailable) || !errors.Is(w.err, context.DeadlineExceeded) {
		t.Errorf("a call after its deadline ends with %v, want ErrUnavailable and DeadlineExceeded", w.err)
	}
}

// A muteHandler never answers.
type muteHandler struct{}

func (muteHandler) Place(*transport.Request, int) ([]byte, error) { return nil, transport.ErrRefused }
func (muteHandler) Serve(r *transport.Request)                    { r.Detach() }

func TestRefusalReasons(t *testing.T) {
	sc := testConfig(transport.RoleNode)
	sc.Listen, sc.Handler, sc.Identity.Key = "127.0.0.1:0", &store{}, []byte("right")
	server := start(t, sc)
	for _, c := range []struct{ cluster, key, want string }{
		{"other", "right", "another cluster name"},
		{"default", "wrong", "the cluster keys differ"},
		{"default", "", "the cluster keys differ"},
	} {
		cc := testConfig(transport.RoleClient)
		cc.Identity.Cluster, cc.Identity.Key = c.cluster, []byte(c.key)
		l := dial(t, start(t, cc), server.Addr())
		awaitState(t, l, transport.LinkRefused)
		w := newWaiter(nil)
		err := w.do(l, nil, transport.Body{}, time.Second)
		if !errors.Is(err, dramnode.ErrNotAuthorised) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("cluster %q, key %q: the call ends with %v, want %q", c.cluster, c.key, err, c.want)
		}
	}
}

func TestAddressInUse(t *testing.T) {
	c := testConfig(transport.RoleNode)
	c.Listen = "127.0.0.1:0"
	first := start(t, c)
	c.Listen = first.Addr()
	n, err := New(c)
	if err == nil {
		_ = n.Close()
		t.Fatal("two networks listen on one address")
	}
	if want := "address already in use: " + first.Addr(); err.Error() != want {
		t.Errorf("New says %q, want %q", err, want)
	}
}

// Bytes that are not UCX's, from strangers on the port, must neither kill the server nor stay.
func TestGarbageOnThePort(t *testing.T) {
	p := newPair(t, ShmOff)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 40 {
		conn, err := net.Dial("tcp", p.server.Addr())
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 1+r.IntN(5000))
		for j := range b {
			b[j] = byte(r.Uint32())
		}
		if i%4 == 0 { // a plausible length in front
			binary.LittleEndian.PutUint64(b[:8:8], uint64(len(b)))
		}
		switch i % 8 {
		case 1: // a length that overflows, on which UCX 1.13.1 aborts
			copy(b, "\xff\xff\xff\xff\xff\xff\xff\xff")
		case 2: // one that is too short
			copy(b, make([]byte, 16))
		}
		_, _ = conn.Write(b)
		_ = conn.Close()
	}
	w := newWaiter(p.mem)
	if err := w.get(p.link, 100_000); err != nil {
		t.Errorf("after the garbage: %v", err)
	}
	eventually(t, func() error {
		if s := p.server.Stats(); s.Inbound != 1 {
			return fmt.Errorf("the server holds %d endpoints, want 1", s.Inbound)
		}
		return nil
	})
}

// evil speaks UCX but not our protocol: it sends the given messages as a client that is through the
// handshake (or not) would, and expects to be closed for the reason.
func TestProtocolViolations(t *testing.T) {
	message := func(frames ...wire.Frame) []byte {
		b := wire.AppendMessage(nil, clusterHash("default"))
		for _, f := range frames {
			b = wire.AppendFrame(b, &f)
		}
		wire.SealMessage(b, len(frames))
		return b
	}
	request := wire.Frame{ID: 1, Kind: wire.FrameRequest, Header: []byte("12345678")}
	changed := func(b []byte, at int) []byte { b[at] ^= 0x40; return b }
	for _, c := range []struct {
		name   string
		open   bool // after a proper handshake and introduction
		bytes  []byte
		reason string
	}{
		{"request first", false, message(request), "protocol"},
		{"introduction first", false, message(wire.Frame{Kind: wire.FrameIntro}), "protocol"},
		{"garbage", true, []byte("garbage that is no message at all"), "malformed"},
		{"one byte", true, []byte{1}, "malformed"},
		{"half a frame", true, func() []byte { b := message(request); return b[:len(b)-8] }(), "checksum"},
		{"bit flipped", true, changed(message(request), 30), "checksum"},
		{"other cluster", true, changed(message(request), 9), "cluster"},
		{"other version", true, changed(message(request), 4), "version"},
		{"second introduction", true, message(wire.Frame{Kind: wire.FrameIntro, Header: appendIntro(nil, intro{})}), "protocol"},
	} {
		t.Run(c.name, func(t *testing.T) {
			sc := testConfig(transport.RoleNode)
			sc.Listen, sc.Handler = "127.0.0.1:0", &store{}
			server := start(t, sc)
			evil := start(t, testConfig(transport.RoleClient))
			var l transport.Link
			if c.open {
				l = dialOpen(t, evil, server.Addr())
			} else {
				l = dial(t, evil, server.Addr())
			}
			evil.inbox.do(l.(*link), func(p *poller) { p.inject(l.(*link), c.bytes) })
			eventually(t, func() error {
				if n := server.Stats().ClosedByReason[c.reason]; n == 0 {
					return fmt.Errorf("closed by reason: %v, want %q", server.Stats().ClosedByReason, c.reason)
				}
				return nil
			})
			dialOpen(t, start(t, testConfig(transport.RoleClient)), server.Addr()) // others are served
		})
	}
}

// inject sends raw bytes, if need be instead of the hello.
func (p *poller) inject(l *link, b []byte) {
	ep := l.carriers[0].ep
	if ep == nil || ep.state == epCreating {
		p.n.inbox.do(l, func(p *poller) { p.inject(l, b) })
		return
	}
	buf := p.buffer(largeBufferBytes)
	buf.used = append(buf.used, b...)
	p.submitMessage(ep, buf, 1)
}

// With one call outstanding and both pollers going to sleep again and again, a lost wake-up is a hang:
// nothing else would wake them here.
func TestNoLostWakeUp(t *testing.T) {
	sleepy := func(c Config) *Network {
		c.Timing = transport.Timing{Heartbeat: time.Hour, Dead: time.Hour}
		n, err := New(c)
		if err != nil {
			t.Fatal(err)
		}
		n.longestSleep = nanos(time.Hour)
		run(t, n)
		return n
	}
	bothRails(t, func(t *testing.T, shm ShmMode) {
		sc, cc := testConfig(transport.RoleNode), testConfig(transport.RoleClient)
		s := &store{}
		sc.Listen, sc.Handler, sc.Shm, cc.Shm = "127.0.0.1:0", s, shm, shm
		server, client := sleepy(sc), sleepy(cc)
		s.mem = region(t, server, 1<<20)
		l := dialOpen(t, client, server.Addr())
		awaitTransport(t, l, shm)
		w := newWaiter(region(t, client, 1<<20))
		var calls int
		var worst time.Duration
		timer := time.NewTimer(0)
		defer timer.Stop()
		for end := time.Now().Add(3 * time.Second); time.Now().Before(end); calls++ {
			if calls%2 == 1 { // long enough to fall asleep, on either side of the spin
				timer.Reset(time.Duration(rand.IntN(400)) * time.Microsecond)
				<-timer.C
			}
			began := time.Now()
			if err := w.do(l, binary.LittleEndian.AppendUint64(nil, 8), transport.Body{}, 0); err != nil {
				t.Fatalf("call %d: %v", calls, err)
			}
			worst = max(worst, time.Since(began))
		}
		t.Logf("%d calls, the longest %v", calls, worst)
		if worst > 700*time.Millisecond { // UCX's own keepalive wakes after 1 s
			t.Errorf("a call took %v", worst)
		}
	})
}

// A listener goes while peers connect to it: UCX itself does not survive that (see quiesce). The server
// is a process of its own, as in life.
func TestRestartsUnderAttempts(t *testing.T) {
	bothRails(t, func(t *testing.T, shm ShmMode) {
		addr := fixedAddr(t)
		cc := testConfig(transport.RoleClient)
		cc.Shm, cc.Timing.RetryMin, cc.Timing.RetryMax = shm, 2*time.Millisecond, 5*time.Millisecond
		n := start(t, cc)
		var links []transport.Link
		for range 4 {
			links = append(links, dial(t, n, addr))
		}
		for i := range 12 {
			c := startChild(t, addr, shm)
			if i%3 != 0 { // else at once, in the middle of it
				awaitState(t, links[i%len(links)], transport.LinkOpen)
			}
			c.stop()
			if !c.cmd.ProcessState.Success() {
				t.Fatalf("restart %d: the server ended with %v", i, c.cmd.ProcessState)
			}
		}
	})
}

// Networks of one process come and go on one address while others connect to it. UCX serves them all on
// one thread, by descriptor number, and confuses owners of a number that follow each other (close.c).
func TestNetworksComeAndGo(t *testing.T) {
	bothRails(t, func(t *testing.T, shm ShmMode) {
		addr := fixedAddr(t)
		var links []transport.Link
		for range 3 {
			cc := testConfig(transport.RoleClient)
			cc.Shm, cc.Timing.RetryMin, cc.Timing.RetryMax = shm, 2*time.Millisecond, 5*time.Millisecond
			n := start(t, cc)
			for range 4 {
				links = append(links, dial(t, n, addr))
			}
		}
		for i := range 20 {
			sc := testConfig(transport.RoleNode)
			sc.Shm, sc.Listen = shm, addr
			n, err := New(sc)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(context.Background())
			done := make(chan error, 1)
			go func() { done <- n.Run(ctx) }()
			if i%3 != 0 { // else at once, in the middle of it
				awaitState(t, links[i%len(links)], transport.LinkOpen)
			}
			cancel()
			if err := <-done; err != nil {
				t.Fatal(err)
			}
		}
	})
}

// fixedAddr returns an address that no connection takes as its own end by chance: its port is below
// the range of those.
func fixedAddr(t *testing.T) string {
	t.Helper()
	for port := 20000 + os.Getpid()%5000; port < 30000; port++ {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		defer l.Close()
		return l.Addr().String()
	}
	t.Fatal("no free port")
	return ""
}

func TestConnectDisconnectCycles(t *testing.T) {
	bothRails(t, func(t *testing.T, shm ShmMode) {
		p := newPair(t, shm)
		cycle := func() {
			l := dialOpen(t, p.client, p.server.Addr())
			w := newWaiter(p.mem)
			if err := w.get(l, 100); err != nil {
				t.Fatal(err)
			}
			l.Close()
			awaitState(t, l, transport.LinkClosed)
		}
		endpoints := 1
		if shm != ShmOff {
			endpoints = 2
		}
		settled := func() {
			eventually(t, func() error {
				if s := p.server.Stats(); s.Inbound > endpoints {
					return fmt.Errorf("the server holds %d endpoints", s.Inbound)
				}
				if s := p.client.Stats(); s.Resting > 0 {
					return fmt.Errorf("%d descriptor numbers still rest", s.Resting)
				}
				return nothingLeft(p.client, endpoints)
			})
		}
		for range 20 {
			cycle()
		}
		eventually(t, func() error {
			if p.client.Stats().Resting == 0 {
				return errors.New("no descriptor number rests: UCX does not call our close")
			}
			return nil
		})
		settled()
		fds, goroutines, rss := len(openFDs()), runtime.NumGoroutine(), residentKB(t)
		for range 200 {
			cycle()
		}
		settled()
		eventually(t, func() error {
			if n := len(openFDs()); n > fds+2 {
				return fmt.Errorf("%d descriptors after the cycles, %d before", n, fds)
			}
			return nil
		})
		if n := runtime.NumGoroutine(); n > goroutines+1 {
			t.Errorf("%d goroutines after the cycles, %d before", n, goroutines)
		}
		if after := residentKB(t); after > rss+30<<10 {
			t.Errorf("%d KiB resident after the cycles, %d before", after, rss)
		} else {
			t.Logf("resident: %d KiB, then %d; descriptors: %d, then %d", rss, after, fds, len(openFDs()))
		}
		if s := p.client.Stats(); s.Transfers != 0 || s.Outstanding != 0 || s.GivenUp != 0 {
			t.Errorf("left: %d transfers, %d UCX requests; given up %d", s.Transfers, s.Outstanding, s.GivenUp)
		}
	})
}

func residentKB(t *testing.T) (kb int) {
	t.Helper()
	runtime.GC()
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "VmRSS:")
	if _, err := fmt.Sscan(rest, &kb); err != nil {
		t.Fatal(err)
	}
	return kb
}

// Descriptors that leak into a child would keep our connections alive after our death.
func TestCloseOnExec(t *testing.T) {
	bothRails(t, func(t *testing.T, shm ShmMode) {
		p := newPair(t, shm)
		eventually(t, func() error {
			for _, fd := range openFDs() {
				flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
				if err == nil && flags&unix.FD_CLOEXEC == 0 && !p.client.sleeper.inherited[fd] {
					name, _ := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
					return fmt.Errorf("descriptor %d (%s) would be inherited", fd, name)
				}
			}
			return nil
		})
	})
}

func TestIdleCostsLittle(t *testing.T) {
	p := newPair(t, ShmAuto)
	w := newWaiter(p.mem)
	if err := w.get(p.link, 8); err != nil {
		t.Fatal(err)
	}
	before := cpuTime(t)
	began := time.Now()
	<-time.After(2 * time.Second)
	share := float64(cpuTime(t)-before) / float64(time.Since(began))
	t.Logf("two idle networks with two rails each: %.2f %% of a core", 100*share)
	if share > 0.05 {
		t.Errorf("two idle networks take %.1f %% of a core; client %v, server %v", 100*share, p.client.Counters(), p.server.Counters())
	}
}

func cpuTime(t *testing.T) time.Duration {
	t.Helper()
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		t.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}
