package ucxnet

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/transport"
)

// A link keeps a connection to one address, and a second one by shared memory where that is wanted.
// Calls travel by current. Fields without a remark are the poller's.
type link struct {
	n    *Network
	addr string
	host string
	port uint16

	carriers    [carriers]carrier
	current     *endpoint // open; nil when calls cannot be sent
	pending     int
	unavailable error    // what calls end with while current is nil
	unshared    unshared // why the peer, on this host, is not reached by shared memory
	removed     bool

	closing   atomic.Bool
	calls     atomic.Int64 // mirrors pending
	roundTrip atomic.Int64 // nanoseconds

	mu   sync.Mutex
	info transport.LinkInfo // guarded by mu
}

// A carrier is a link's connection by one rail. One attempt to connect is made at a time.
type carrier struct {
	ep      *endpoint // dialling or open
	next    nanos     // when to try next; never when not wanted
	fails   int       // in a row
	late    int       // attempts in a row that ran out of time
	refused bool      // by the last handshake
	looking bool      // up the name
	port    uint16    // by shared memory: of the peer's lobby
	opened  nanos     // by shared memory: when, last; 0: not in this attempt
}

var (
	errConnecting   = errors.New("not connected yet")
	errNotShared    = errors.New("no shared memory with the peer on this host")
	errOtherProcess = errors.New("another process answers")
)

func newLink(n *Network, addr, host string, port uint16) *link {
	l := &link{n: n, addr: addr, host: host, port: port}
	l.carriers[1].next = never
	l.unavailable = fmt.Errorf("%w: link to %s: %w", dramnode.ErrUnavailable, addr, errConnecting)
	l.info = transport.LinkInfo{Addr: addr, Since: time.Now(), Err: l.unavailable}
	return l
}

// Info implements transport.Link.
func (l *link) Info() transport.LinkInfo {
	l.mu.Lock()
	i := l.info
	l.mu.Unlock()
	i.Pending = int(l.calls.Load())
	i.RoundTrip = time.Duration(l.roundTrip.Load())
	return i
}

// Close implements transport.Link.
func (l *link) Close() {
	if l.closing.CompareAndSwap(false, true) {
		l.n.inbox.do(l, func(p *poller) { p.removeLink(l) })
	}
}

// discarded is what becomes of a link when there is no poller any more.
func (l *link) discarded() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.info.State != transport.LinkClosed {
		l.info.State, l.info.Since = transport.LinkClosed, time.Now()
		l.info.Err = fmt.Errorf("%w: link to %s: %w", dramnode.ErrUnavailable, l.addr, dramnode.ErrClosed)
	}
}

func (l *link) countPending(d int) {
	l.pending += d
	l.calls.Store(int64(l.pending))
}

func (p *poller) addLink(l *link) {
	if p.stopping.Load() {
		p.removeLink(l)
		return
	}
	p.links = append(p.links, l)
	l.carriers[0].next = p.now
	p.reconnect(l)
}

func (p *poller) removeLink(l *link) {
	if l.removed {
		return
	}
	l.removed = true
	for i, x := range p.links {
		if x == l {
			p.links = append(p.links[:i], p.links[i+1:]...)
			break
		}
	}
	for i := range l.carriers {
		if ep := l.carriers[i].ep; ep != nil {
			p.closeEndpoint(ep, "link closed", dramnode.ErrClosed)
		}
	}
	p.setLink(l, nil, transport.LinkClosed, dramnode.ErrClosed)
}

// reconnect makes the attempts that are due.
func (p *poller) reconnect(l *link) {
	for i := range l.carriers {
		c := &l.carriers[i]
		if l.removed || c.ep != nil || c.looking || p.now < c.next {
			continue
		}
		if i > 0 {
			p.dialShm(l)
		} else if ip, err := netip.ParseAddr(l.host); err == nil && c.fails == 0 {
			c.ep = p.dial(p.tcp, l, netip.AddrPortFrom(ip, l.port))
		} else {
			p.lookUp(l)
		}
	}
}

// lookUp resolves the link's host name beside the poller, once per attempt. After a failed attempt it
// also knocks: as long as nobody listens, UCX is left alone. Its connection manager keeps events by
// descriptor number, and each failed connection is a chance that one reaches the number's next owner.
func (p *poller) lookUp(l *link) {
	c := &l.carriers[0]
	c.looking = true
	fails, limit := c.fails, p.n.timing.Connect
	p.lookups.Go(func() {
		addr, err := resolve(p.ctx, l.host, l.port, fails)
		if err == nil && fails > 0 {
			err = knock(p.ctx, addr, limit)
		}
		p.n.inbox.do(l, func(p *poller) {
			c.looking = false
			switch {
			case l.removed || c.ep != nil:
			case err != nil:
				p.attemptFailed(l, c, err)
			default:
				c.ep = p.dial(p.tcp, l, addr)
			}
		})
	})
}

// resolve returns an address of the host, another one at every attempt.
func resolve(ctx context.Context, host string, port uint16, attempt int) (netip.AddrPort, error) {
	if ip, err := netip.ParseAddr(host); err == nil {
		return netip.AddrPortFrom(ip, port), nil
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return netip.AddrPort{}, err
	}
	return netip.AddrPortFrom(ips[attempt%len(ips)].Unmap(), port), nil
}

// knock says why nobody can be reached at addr, in the kernel's words; nil when somebody can.
func knock(ctx context.Context, addr netip.AddrPort, limit time.Duration) error {
	d := net.Dialer{Timeout: limit}
	conn, err := d.DialContext(ctx, "tcp", addr.String())
	if err == nil {
		return conn.Close()
	}
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}

// linkOpened takes a connection that is through the handshake into use.
func (p *poller) linkOpened(ep *endpoint) {
	l := ep.link
	c := &l.carriers[carrierOf(ep.rail)]
	c.refused, c.late = false, 0
	tcp := l.carriers[0].ep
	switch {
	case !ep.rail.shm:
		c.fails = 0
		p.offerShm(l, ep)
	case tcp != nil && tcp.peer != nil && tcp.peer.Incarnation != ep.peer.Incarnation:
		p.closeEndpoint(ep, "other incarnation", errOtherProcess)
		return
	case !strings.HasPrefix(ep.peer.Transport, "sysv"):
		p.closeEndpoint(ep, "not shared", errUnshared{sharedTCP})
		p.unshare(l, sharedTCP)
		c.next = p.whenBarred(l, never)
		return
	default:
		l.unshared, c.opened = shared, p.now
	}
	p.choose(l, nil)
}

// offerShm decides, when the connection by tcp is open, whether the peer is to be reached by shared memory too.
func (p *poller) offerShm(l *link, tcp *endpoint) {
	c := &l.carriers[1]
	why := tcp.intro.unshared
	switch {
	case p.n.config.Shm == ShmOff:
		why = sharedOff
	case place(p.n.intro, tcp.intro) != shared:
		why = place(p.n.intro, tcp.intro)
	case p.n.intro.unshared != shared:
		why = p.n.intro.unshared
	case why == shared && tcp.intro.shmPort == 0:
		why = sharedBroken
	}
	if why != shared {
		p.unshare(l, why)
		if c.ep != nil {
			p.closeEndpoint(c.ep, "not wanted", dramnode.ErrClosed)
		}
		if why.passes() && why == tcp.intro.unshared {
			c.next = p.whenBarred(l, never)
		}
		return
	}
	c.port = tcp.intro.shmPort
	if c.ep == nil {
		c.next, c.fails, l.unshared = p.now, 0, sharedSoon
		if p.n.config.Listen == "" && p.n.config.Shm != ShmOn && !tcp.intro.required {
			c.next += shmAfter
		}
	}
}

// dialShm starts to connect by shared memory, if there is room for one more.
func (p *poller) dialShm(l *link) {
	c, tcp := &l.carriers[1], l.carriers[0].ep
	if tcp == nil || tcp.state != epOpen {
		c.next = never // until it is open
		return
	}
	if why := tcp.intro.unshared; why != shared { // the peer may say otherwise now, in another introduction
		c.next = never
		p.closeEndpoint(tcp, "asked again", errUnshared{why})
		return
	}
	why := p.room(tcp.intro.pid)
	if why == shared {
		r, err := p.openShmRail()
		if err == nil {
			c.ep = p.dial(r, l, netip.AddrPortFrom(loopback, c.port))
			return
		}
		p.log.Warn().Err(err).Str("link", l.addr).Msg("UCX opens no shared memory")
		why = sharedBroken
	}
	p.unshare(l, why)
	c.next = p.whenBarred(l, p.now+shmRest)
}

// unshare notes that a peer is reached by tcp only, and why. It is no news with peers on other hosts,
// and where this side does not want it.
func (p *poller) unshare(l *link, why unshared) {
	l.carriers[1].next = never
	if why == sharedElsewhere || p.n.config.Shm == ShmOff {
		why = shared
	}
	if why != shared {
		p.countUnshared(why)
		p.log.Warn().Str("link", l.addr).Stringer("reason", why).Msg("a peer on this host is not reached by shared memory")
	}
	l.unshared = why
	p.choose(l, errUnshared{why})
}

// linkLost notes that a connection of l has ended.
func (p *poller) linkLost(ep *endpoint, cause error) {
	l := ep.link
	c := &l.carriers[carrierOf(ep.rail)]
	if c.ep != ep {
		return
	}
	c.ep = nil
	if l.removed {
		return
	}
	if c.opened != 0 && p.now-c.opened > shmTrusted {
		c.fails = 0
	}
	c.opened = 0
	if ep.rail.shm && l.unshared == shared {
		l.unshared = sharedSoon
	}
	p.attemptFailed(l, c, cause)
}

func (p *poller) attemptFailed(l *link, c *carrier, cause error) {
	c.refused = errors.Is(cause, dramnode.ErrNotAuthorised)
	if errors.Is(cause, errConnectTime) {
		c.late++
	}
	switch {
	case c == &l.carriers[0]:
		c.fails++
		c.next = p.now + nanos(pause(p.n.timing, c.fails, c.refused, rand.Int64N))
	case c.next != never:
		c.fails++
		c.next = p.now + nanos(pause(p.n.timing, c.fails, c.refused, rand.Int64N))
		if c.fails >= shmFails && !p.barred(l) {
			p.unshare(l, sharedBroken)
			c.next = p.now + shmRest
		}
	}
	p.choose(l, cause)
}

// barred reports that l's connection by tcp is open and must not carry calls: a side requires shared memory.
func (p *poller) barred(l *link) bool {
	tcp := l.carriers[0].ep
	return tcp != nil && tcp.state == epOpen && (p.n.config.Shm == ShmOn || tcp.intro.required) &&
		tcp.intro.host != 0 && tcp.intro.host == p.n.intro.host
}

// whenBarred is when to try shared memory again after it was not to be had: soon if nothing else may carry
// l's calls, otherwise at the time given.
func (p *poller) whenBarred(l *link, otherwise nanos) nanos {
	if !p.barred(l) {
		return otherwise
	}
	return p.now + nanos(pause(p.n.timing, 0, true, rand.Int64N))
}

// choose picks the connection that carries l's calls from now on: shared memory before tcp, which does
// not carry them where a side requires shared memory on one host.
func (p *poller) choose(l *link, cause error) {
	tcp, shm := l.carriers[0].ep, l.carriers[1].ep
	open := func(ep *endpoint) bool { return ep != nil && ep.state == epOpen }
	switch {
	case open(shm):
		p.setLink(l, shm, transport.LinkOpen, nil)
	case open(tcp) && !p.barred(l):
		p.setLink(l, tcp, transport.LinkOpen, nil)
	case open(tcp) && (cause == nil || errors.Is(cause, errNotShared)):
		why := errUnshared{l.unshared}
		if p.n.config.Shm == ShmOff {
			why.why = sharedRequired
		}
		p.setLink(l, nil, transport.LinkConnecting, why)
	case l.carriers[0].refused:
		p.setLink(l, nil, transport.LinkRefused, cause)
	default:
		p.setLink(l, nil, transport.LinkConnecting, cause)
	}
}

// A connection by shared memory that fails so often in a row, while tcp works, is not tried for a while,
// unless tcp may not carry calls.
// One that lived shorter than shmTrusted has failed.
const (
	shmFails   = 5
	shmRest    = nanos(time.Minute)
	shmTrusted = nanos(5 * time.Second)
	shmAfter   = nanos(50 * time.Millisecond) // of a client: one that asks once and goes is not worth a worker
)

// setLink publishes the link's state and tells of ups and downs.
func (p *poller) setLink(l *link, current *endpoint, state transport.LinkState, cause error) {
	wasUp := l.current != nil
	l.current = current
	if current == nil {
		l.unavailable = unavailable(l, state, cause)
	}
	l.mu.Lock()
	i := &l.info
	if i.State != state {
		i.State, i.Since = state, time.Now()
	}
	i.Err = nil
	if current != nil {
		i.Peer = *current.peer
		if !wasUp {
			i.Opened++
		}
	} else {
		i.Err = l.unavailable
	}
	i.Fallback = ""
	if current != nil && !current.rail.shm {
		i.Fallback = l.unshared.String()
	}
	l.mu.Unlock()
	events := p.n.config.Events
	switch {
	case events == nil:
	case !wasUp && current != nil:
		events.LinkUp(l, *current.peer)
	case wasUp && current == nil:
		events.LinkDown(l, l.unavailable)
	}
}

func unavailable(l *link, state transport.LinkState, cause error) error {
	if cause == nil {
		cause = errConnecting
	}
	class := dramnode.ErrUnavailable
	if state == transport.LinkRefused {
		class = dramnode.ErrNotAuthorised
	}
	return fmt.Errorf("%w: link to %s: %w", class, l.addr, cause)
}
