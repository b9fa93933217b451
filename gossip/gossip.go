package gossip

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/dramnode/dramnode"
)

const (
	leaveTimeout  = time.Second
	spreadTimeout = 500 * time.Millisecond
	forgetAfter   = 10 * time.Minute // how long the dead stay in Members
)

// Gossip is one node's part in the gossip of its cluster. All methods may be called at any time, from
// any goroutine, also from OnChange.
type Gossip struct {
	conf    Config
	started atomic.Bool
	ready   chan struct{} // closed when addr is set
	addr    string
	spread  chan struct{} // our meta changed; holds one signal
	changed chan struct{} // Members or Conflicts changed; holds one signal
	crash   bool          // tests set it: end without leaving

	mu        sync.Mutex
	ended     bool // memberlist is gone, though its timers may still call
	meta      Meta
	announced Meta // what memberlist spreads as our meta
	since     time.Time
	table     table
	seeds     []Seed             // in the order of Config.Seeds
	refusals  map[string]Refusal // by memberlist name
	refused   uint64
	conflicts uint64
	conflict  map[string]bool // keys of members that were logged as conflicts
}

// New checks c. It starts nothing.
func New(c Config) (*Gossip, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	c = c.withDefaults()
	c.Key, c.Seeds = bytes.Clone(c.Key), slices.Clone(c.Seeds)
	g := &Gossip{
		conf:     c,
		ready:    make(chan struct{}),
		spread:   make(chan struct{}, 1),
		changed:  make(chan struct{}, 1),
		meta:     c.Meta,
		since:    time.Now(),
		table:    newTable(),
		refusals: map[string]Refusal{},
		conflict: map[string]bool{},
	}
	for _, addr := range c.Seeds {
		g.seeds = append(g.seeds, Seed{Addr: addr})
	}
	return g, nil
}

// Run gossips until ctx ends. Then it leaves, for which it takes at most a second, waits for everything
// that it started, at worst a probe in flight of a few ProbeIntervals, and returns nil. Any other end, such as a port in use, is an error; a seed that cannot
// be reached is none, it is tried for ever. Run works once.
func (g *Gossip) Run(ctx context.Context) error {
	if g.started.Swap(true) {
		return fmt.Errorf("gossip: %w: Run was called before", dramnode.ErrInvalid)
	}
	t, err := listen(ctx, g.conf.Bind)
	if err != nil {
		return err
	}
	if t.advertise, err = g.advertised(ctx, t.bound()); err != nil {
		t.Shutdown()
		return err
	}
	t.start()
	ml, err := g.create(t)
	if err != nil {
		t.Shutdown()
		return err
	}
	g.addr = t.bound().String()
	close(g.ready)

	var wg sync.WaitGroup
	wg.Go(func() { g.notify(ctx) })
	wg.Go(func() { g.spreadMeta(ctx, ml) })
	wg.Go(func() { g.joinForEver(ctx, ml, t) })
	wg.Go(func() { g.forgetDead(ctx) })
	<-ctx.Done()
	g.leave(ml)
	t.interrupt() // so that no join waits for an answer any more
	wg.Wait()
	g.stop(ml)
	return nil
}

// label marks the goroutines of g's memberlist.
func (g *Gossip) label() string { return fmt.Sprintf("%s %p", g.conf.Meta.key(), g) }

// create starts memberlist on t. Its goroutines inherit g.label, by which stop finds them.
func (g *Gossip) create(t *transport) (ml *memberlist.Memberlist, err error) {
	conf, err := g.conf.memberlist(t, hooks{g})
	if err != nil {
		return nil, err
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		setLabel(g.label())
		ml, err = memberlist.Create(conf)
	})
	wg.Wait()
	if err != nil {
		return nil, fmt.Errorf("gossip: %w", err)
	}
	return ml, nil
}

// advertised resolves the address that others dial: memberlist spreads an IP address, no name.
func (g *Gossip) advertised(ctx context.Context, bound netip.AddrPort) (netip.AddrPort, error) {
	if g.conf.Advertise == "" {
		if bound.Addr().IsUnspecified() {
			return bound, fmt.Errorf("gossip: %w: bind address %q needs an address to advertise", dramnode.ErrInvalid, g.conf.Bind)
		}
		return bound, nil
	}
	addrs, err := resolve(ctx, g.conf.Advertise)
	if err != nil {
		return bound, fmt.Errorf("gossip: advertised address: %w", err)
	}
	// Of several addresses, such as those of localhost, take one that our sockets can serve.
	addr := addrs[0]
	for _, a := range addrs {
		if a.Addr() == bound.Addr() || a.Addr().Is4() && (bound.Addr().Is4() || bound.Addr().IsUnspecified()) {
			addr = a
			break
		}
	}
	if addr.Port() == 0 {
		addr = netip.AddrPortFrom(addr.Addr(), bound.Port())
	}
	return addr, nil
}

// resolve returns at least one address, or an error that names addr.
func resolve(ctx context.Context, addr string) ([]netip.AddrPort, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	number, err := net.DefaultResolver.LookupPort(ctx, "tcp", port)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", addr, err)
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", addr, err)
	}
	if len(ips) == 0 {
		return nil, fmt.Errorf("%w: %s has no address", dramnode.ErrUnavailable, addr)
	}
	out := make([]netip.AddrPort, len(ips))
	for i, ip := range ips {
		out[i] = netip.AddrPortFrom(ip.Unmap(), uint16(number))
	}
	return out, nil
}

// leave says goodbye. A last spreadMeta or join may run beside it.
func (g *Gossip) leave(ml *memberlist.Memberlist) {
	if g.crash {
		return
	}
	if err := ml.Leave(leaveTimeout); err != nil {
		g.conf.Log.Debug().Err(err).Msg("gossip: left without telling all")
	}
}

// stop ends memberlist and waits for its goroutines.
func (g *Gossip) stop(ml *memberlist.Memberlist) {
	g.mu.Lock()
	g.ended = true
	g.mu.Unlock()
	if err := ml.Shutdown(); err != nil {
		g.conf.Log.Warn().Err(err).Msg("gossip: shutdown")
	}
	// The slowest is a probe in flight.
	if left := awaitLabelled(g.label(), (maxProbeStretch+1)*g.conf.Profile.ProbeInterval); left > 0 {
		g.conf.Log.Warn().Int("goroutines", left).Msg("gossip: memberlist did not end in time")
	}
}

// notify calls OnChange, outside of all locks.
func (g *Gossip) notify(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-g.changed:
			if g.conf.OnChange != nil {
				g.conf.OnChange()
			}
		}
	}
}

// spreadMeta hands changes of our Meta to memberlist, one at a time.
func (g *Gossip) spreadMeta(ctx context.Context, ml *memberlist.Memberlist) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-g.spread:
			// A timeout is no loss: the news is queued, and a full exchange carries it too.
			if err := ml.UpdateNode(spreadTimeout); err != nil {
				g.conf.Log.Debug().Err(err).Msg("gossip: spread our metadata")
			}
			// memberlist drops the update, silently, when it refuted a suspicion at the same moment.
			if !g.announcedIsCurrent() {
				signal(g.spread)
			}
		}
	}
}

func (g *Gossip) announcedIsCurrent() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.announced == g.meta
}

func (g *Gossip) forgetDead(ctx context.Context) {
	ticker := time.NewTicker(time.Minute)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-ticker.C:
			g.forget(now)
		}
	}
}

func (g *Gossip) forget(now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.table.forget(now.Add(-forgetAfter)) {
		g.signalChange()
	}
	for key, r := range g.refusals {
		if r.Since.Before(now.Add(-forgetAfter)) {
			delete(g.refusals, key)
		}
	}
	for key := range g.conflict {
		if g.table.members[key] == nil {
			delete(g.conflict, key)
		}
	}
}

// signal leaves one signal in c, which never blocks.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (g *Gossip) signalChange() { signal(g.changed) }

// Ready is closed once Run listens.
func (g *Gossip) Ready() <-chan struct{} { return g.ready }

// Addr is the address that Run listens on, "" before.
func (g *Gossip) Addr() string {
	select {
	case <-g.ready:
		return g.addr
	default:
		return ""
	}
}

// Members returns a copy of our table: this node, and all others seen alive in the last ten minutes but
// for conflicts. It is sorted by name and incarnation. A name may occur with several incarnations, even
// alive ones.
func (g *Gossip) Members() []Member {
	g.mu.Lock()
	defer g.mu.Unlock()
	ours, _ := g.table.split(g.meta.ClusterID)
	self := Member{Meta: g.meta, Alive: !g.ended, Since: g.since, GossipAddr: g.Addr()}
	ours = append(ours, self)
	sortMembers(ours)
	return ours
}

// Conflicts returns the members whose ClusterID contradicts ours. They are not in Members.
func (g *Gossip) Conflicts() []Member {
	g.mu.Lock()
	defer g.mu.Unlock()
	_, others := g.table.split(g.meta.ClusterID)
	return others
}

// Update lets change alter our own Meta, but for its name and incarnation, and spreads the result soon.
// change must not call g. A Meta that is not valid or too long is an error and changes nothing.
func (g *Gossip) Update(change func(*Meta)) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	meta := g.meta
	change(&meta)
	meta.Name, meta.Incarnation = g.meta.Name, g.meta.Incarnation
	if _, err := meta.Append(nil); err != nil {
		return err
	}
	if meta == g.meta {
		return nil
	}
	g.meta = meta
	for _, m := range g.table.members {
		g.noteConflictLocked(m)
	}
	signal(g.spread)
	g.signalChange()
	return nil
}
