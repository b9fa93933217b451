package ucxnet

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/transport"
)

// A ShmMode says whether peers on the same host are reached by shared memory.
type ShmMode uint8

const (
	ShmOff  ShmMode = iota
	ShmOn           // required for peers on the same host
	ShmAuto         // used where both sides can, tcp otherwise; Info and Counters say why
)

func (m ShmMode) String() string { return [...]string{"off", "on", "auto", "?"}[m&3] }

// ParseShmMode parses "off", "on" or "auto".
func ParseShmMode(s string) (ShmMode, error) {
	for m := ShmOff; m <= ShmAuto; m++ {
		if s == m.String() {
			return m, nil
		}
	}
	return ShmOff, fmt.Errorf("%w: shared memory mode %q, want off, on or auto", dramnode.ErrInvalid, s)
}

// Limits bounds what peers and callers can make a network hold; zero fields mean the defaults.
type Limits struct {
	MaxBodyBytes   int // of one frame; default 64 MiB and 1 MiB of slack
	Calls          int // without reply, per link; default 65536
	SendBytes      int // of messages on their way out, of all endpoints; default 32 MiB (budget.go)
	QueuedBytes    int // of them, per endpoint, before calls are refused; default 16 MiB
	BulkTransfers  int // separate bodies under way, per endpoint; default 8 by rendezvous
	BulkBytes      int // of them with UCX, ahead of a small message; default 4 MiB, though one piece always may go
	QueuedBulk     int // bodies waiting for the two limits above, per endpoint; default 65536
	Endpoints      int // inbound; default 4096
	Handshakes     int // inbound endpoints that have not introduced themselves; default 256
	InboundReceive int // bodies being received, per inbound endpoint; default 64
	ShmPeers       int // connections by shared memory; default 64
}

func (l Limits) withDefaults() Limits {
	set := func(n *int, v int) {
		if *n == 0 {
			*n = v
		}
	}
	set(&l.MaxBodyBytes, dramnode.DefaultMaxValueBytes+1<<20)
	set(&l.Calls, 65536)
	set(&l.SendBytes, 32<<20)
	set(&l.QueuedBytes, 16<<20)
	set(&l.BulkTransfers, 8)
	set(&l.BulkBytes, 4<<20)
	set(&l.QueuedBulk, 65536)
	set(&l.Endpoints, 4096)
	set(&l.Handshakes, 256)
	set(&l.InboundReceive, 64)
	set(&l.ShmPeers, 64)
	return l
}

// Config describes a network.
type Config struct {
	Identity  transport.Identity
	Listen    string            // "host:port", "" to dial only; port 0: any free one
	Advertise string            // what peers are told to dial; "" for the bound address
	Handler   transport.Handler // serves inbound peers; nil refuses their requests
	Events    transport.Events  // may be nil
	Timing    transport.Timing
	Shm       ShmMode
	Limits    Limits
	Build     string // version of this build, told to peers
	Log       zerolog.Logger
}

func (c *Config) validate() error {
	var errs []error
	bad := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("%w: "+format, append([]any{dramnode.ErrInvalid}, args...)...))
	}
	if r := c.Identity.Role; r != transport.RoleNode && r != transport.RoleClient {
		bad("role %d", r)
	}
	if len(c.Identity.Name) > maxNameBytes {
		bad("name of %d bytes, want at most %d", len(c.Identity.Name), maxNameBytes)
	}
	if len(c.Advertise) > maxAddrBytes {
		bad("advertised address of %d bytes, want at most %d", len(c.Advertise), maxAddrBytes)
	}
	if c.Identity.Incarnation == 0 {
		bad("incarnation 0")
	}
	if c.Shm > ShmAuto {
		bad("shared memory mode %d", c.Shm)
	}
	return errors.Join(errs...)
}

// A Network implements transport.Network over UCX.
type Network struct {
	config Config
	timing transport.Timing
	limits Limits
	intro  intro
	addr   string
	nonce  func() [nonceBytes]byte

	longestSleep nanos // of the poller, when nothing is due

	inbox   inbox
	sleeper *sleeper
	pending sync.Pool // of *pending
	answers sync.Pool // of *answer
	regions atomic.Pointer[[]*Region]

	mu       sync.Mutex
	contexts []*ucpContext // for tcp, then for shared memory; guarded by mu for memory mapping; nil once closed
	rails    []*rail       // for tcp, then the lobby; the others are the poller's
	running  bool          // guarded by mu
	stats    Stats         // guarded by mu; the poller's copy is newer
}

var _ transport.Network = (*Network)(nil)

// New opens UCX and binds the listener. It starts nothing: links and peers are served by Run.
func New(c Config) (*Network, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	if len(c.Build) > maxBuildBytes {
		c.Build = c.Build[:maxBuildBytes]
	}
	n := &Network{config: c, timing: c.Timing.WithDefaults(), limits: c.Limits.withDefaults(), nonce: randomNonce, longestSleep: nanos(time.Second)}
	n.regions.Store(&[]*Region{})
	n.pending.New = func() any { return &pending{} }
	n.answers.New = func() any { return &answer{} }
	if err := n.open(); err != nil {
		n.destroy()
		return nil, err
	}
	return n, nil
}

func randomNonce() (b [nonceBytes]byte) {
	_, _ = rand.Read(b[:]) // never fails: it crashes the program instead
	return b
}

func (n *Network) open() (err error) {
	var bind netip.AddrPort
	var device string
	if n.config.Listen != "" {
		if bind, device, err = resolveListen(n.config.Listen); err != nil {
			return err
		}
	}
	known := inheritedFDs()
	defer func() { known.closeOnExec() }()
	if n.sleeper, err = newSleeper(); err != nil {
		return err
	}
	n.sleeper.inherited = known
	n.inbox.sleeper = n.sleeper
	if err := n.openTCP(bind, device); err != nil {
		return err
	}
	n.intro = intro{name: n.config.Identity.Name, addr: n.addr, build: n.config.Build, pid: uint32(os.Getpid()), required: n.config.Shm == ShmOn}
	n.intro.host, n.intro.domain = hostIDs()
	if n.config.Shm == ShmOff {
		n.intro.unshared = sharedOff
		return nil
	}
	if err := n.openShm(); err != nil {
		if n.config.Shm == ShmOn {
			return fmt.Errorf("shared memory: %w", err)
		}
		n.intro.unshared = sharedBroken
		if why := (errUnshared{}); errors.As(err, &why) {
			n.intro.unshared = why.why
		}
		n.config.Log.Warn().Err(err).Msg("no shared memory: peers on this host are reached by tcp")
	}
	return nil
}

func (n *Network) openTCP(bind netip.AddrPort, device string) error {
	x, err := openContext(false, device)
	if err != nil {
		return err
	}
	n.contexts = append(n.contexts, x)
	r, err := x.openRail()
	if err != nil {
		return err
	}
	n.rails = append(n.rails, r)
	if need := transport.MaxHeaderBytes + 64; int(r.c.max_head) < need {
		return fmt.Errorf("ucxnet: UCX allows headers of %d bytes, want %d", r.c.max_head, need)
	}
	if !bind.IsValid() {
		return nil
	}
	if err := r.listen(bind); err != nil {
		return err
	}
	if r.unguarded != nil {
		n.config.Log.Warn().Err(r.unguarded).Msg("the UCX port is not guarded against strays: a malformed connection request may end this process")
	}
	n.addr = netip.AddrPortFrom(bind.Addr(), r.port).String()
	if n.config.Advertise != "" {
		n.addr = n.config.Advertise
	}
	return nil
}

// Addr implements transport.Network.
func (n *Network) Addr() string { return n.addr }

// Dial implements transport.Network. Host names are looked up at every attempt to connect.
func (n *Network) Dial(addr string) (transport.Link, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("%w: address %q: %w", dramnode.ErrInvalid, addr, err)
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil || number == 0 || host == "" {
		return nil, fmt.Errorf("%w: address %q, want host:port", dramnode.ErrInvalid, addr)
	}
	l := newLink(n, addr, host, uint16(number))
	n.inbox.do(l, func(p *poller) { p.addLink(l) })
	return l, nil
}

// Run implements transport.Network. It may be called once.
func (n *Network) Run(ctx context.Context) error {
	n.mu.Lock()
	if n.running || n.contexts == nil {
		n.mu.Unlock()
		return fmt.Errorf("%w: network", dramnode.ErrClosed)
	}
	n.running = true
	n.mu.Unlock()
	defer n.destroy()
	p, err := newPoller(n)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, p.stop)
	p.run()
	stop()
	return nil
}

// Close releases a network that never ran. After Run it does nothing.
func (n *Network) Close() error {
	n.mu.Lock()
	idle := !n.running
	n.running = true
	n.mu.Unlock()
	if idle {
		n.destroy()
	}
	return nil
}

// destroy takes UCX down in the one order that it survives. Regions stay readable until their Close.
func (n *Network) destroy() {
	n.inbox.close()
	n.mu.Lock()
	for _, r := range *n.regions.Load() {
		n.unmapLocked(r)
	}
	contexts := n.contexts
	n.contexts = nil
	n.mu.Unlock()
	if n.sleeper != nil {
		n.sleeper.close()
	}
	for _, r := range n.rails {
		r.close()
	}
	for _, x := range contexts {
		x.close()
	}
}
