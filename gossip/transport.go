package gossip

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/dramnode/dramnode"
)

// A transport carries memberlist's packets over UDP and its streams over TCP. Unlike memberlist's own it
// returns clear bind errors, limits inbound streams, and on Shutdown ends every dial and connection, so
// that none of memberlist's goroutines stays behind in the network.
type transport struct {
	tcp       *net.TCPListener
	udp       *net.UDPConn
	advertise netip.AddrPort

	packets chan *memberlist.Packet
	streams chan net.Conn

	ctx    context.Context // ends with Shutdown
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu    sync.Mutex
	conns map[*conn]bool // guarded by mu; nil after Shutdown
}

const maxConns = 256

var _ memberlist.NodeAwareTransport = (*transport)(nil)

// listen binds both sockets to one port. It starts nothing.
func listen(ctx context.Context, bind string) (*transport, error) {
	host, port, err := net.SplitHostPort(bind)
	if err != nil {
		return nil, fmt.Errorf("gossip: listen %s: %w", bind, err)
	}
	var lc net.ListenConfig
	for attempt := 0; ; attempt++ {
		ln, err := lc.Listen(ctx, "tcp", bind)
		if err != nil {
			return nil, listenError(bind, err)
		}
		tcp := ln.(*net.TCPListener)
		_, bound, _ := net.SplitHostPort(tcp.Addr().String())
		pc, err := lc.ListenPacket(ctx, "udp", net.JoinHostPort(host, bound))
		if err == nil {
			t := &transport{tcp: tcp, udp: pc.(*net.UDPConn), packets: make(chan *memberlist.Packet), streams: make(chan net.Conn), conns: map[*conn]bool{}}
			t.ctx, t.cancel = context.WithCancel(context.Background())
			return t, nil
		}
		tcp.Close()
		// A free TCP port may be taken for UDP; when any port will do, the next one may be free.
		if port != "0" || attempt == 9 {
			return nil, listenError(bind, err)
		}
	}
}

// listenError leaves out the words that net adds around the cause.
func listenError(bind string, err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		err = errno
	}
	return fmt.Errorf("gossip: listen %s: %w", bind, err)
}

// start starts the two receivers; Shutdown ends and joins them.
func (t *transport) start() {
	t.wg.Go(t.accept)
	t.wg.Go(t.receive)
}

func (t *transport) bound() netip.AddrPort {
	ap := t.tcp.Addr().(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// FinalAdvertiseAddr returns what the Config said, which was resolved before memberlist was created.
func (t *transport) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return t.advertise.Addr().AsSlice(), int(t.advertise.Port()), nil
}

func (t *transport) PacketCh() <-chan *memberlist.Packet { return t.packets }

func (t *transport) StreamCh() <-chan net.Conn { return t.streams }

func (t *transport) WriteTo(b []byte, addr string) (time.Time, error) {
	to, err := netip.ParseAddrPort(addr)
	if err != nil {
		return time.Time{}, err
	}
	_, err = t.udp.WriteToUDPAddrPort(b, to)
	return time.Now(), err
}

func (t *transport) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	return t.WriteTo(b, a.Addr)
}

func (t *transport) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	c, err := (&net.Dialer{Timeout: timeout}).DialContext(t.ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return t.track(c)
}

func (t *transport) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	return t.DialTimeout(a.Addr, timeout)
}

// interrupt ends every dial and connection, and refuses new ones.
func (t *transport) interrupt() {
	t.cancel()
	t.mu.Lock()
	conns := t.conns
	t.conns = nil
	t.mu.Unlock()
	for c := range conns {
		c.Conn.Close()
	}
}

// Shutdown interrupts, closes both sockets and waits for the receivers.
func (t *transport) Shutdown() error {
	t.interrupt()
	err := errors.Join(t.tcp.Close(), t.udp.Close())
	t.wg.Wait()
	return err
}

// A conn is known to its transport until it is closed.
type conn struct {
	net.Conn
	t *transport
}

func (c *conn) Close() error {
	c.t.mu.Lock()
	delete(c.t.conns, c)
	c.t.mu.Unlock()
	return c.Conn.Close()
}

// track returns c in such a form that Shutdown closes it. It closes c when it cannot.
func (t *transport) track(c net.Conn) (net.Conn, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.conns == nil {
		return nil, errors.Join(fmt.Errorf("gossip: %w", dramnode.ErrClosed), c.Close())
	}
	if len(t.conns) >= maxConns {
		return nil, errors.Join(fmt.Errorf("gossip: %w: %d connections", dramnode.ErrBusy, maxConns), c.Close())
	}
	tracked := &conn{c, t}
	t.conns[tracked] = true
	return tracked, nil
}

func (t *transport) accept() {
	for {
		c, err := t.tcp.AcceptTCP()
		if err != nil {
			if !t.pause() {
				return
			}
			continue
		}
		tracked, err := t.track(c)
		if err != nil {
			continue
		}
		select {
		case t.streams <- tracked:
		case <-t.ctx.Done():
			tracked.Close()
			return
		}
	}
}

func (t *transport) receive() {
	buf := make([]byte, 65536)
	for {
		n, from, err := t.udp.ReadFrom(buf)
		now := time.Now()
		if err != nil {
			if !t.pause() {
				return
			}
			continue
		}
		if n == 0 {
			continue // memberlist expects a byte at least
		}
		select {
		case t.packets <- &memberlist.Packet{Buf: append([]byte(nil), buf[:n]...), From: from, Timestamp: now}:
		case <-t.ctx.Done():
			return
		}
	}
}

// pause keeps a failing socket, such as one without free descriptors, from spinning. It reports
// whether to go on.
func (t *transport) pause() bool {
	select {
	case <-t.ctx.Done():
		return false
	case <-time.After(20 * time.Millisecond):
		return true
	}
}
