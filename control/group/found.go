package group

import (
	"fmt"
	"slices"
	"time"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/control/leader"
	"github.com/dramnode/dramnode/control/state"
)

// A process founds a cluster together with others only when all of them are up and blank,
// it has the lowest name of them, and each has granted it: a majority is not enough, since seeds that
// restart are blank again. Whoever has granted founds nothing itself, and grants nobody else, for a while.

// A Hello asks a seed what it is, or answers.
type Hello struct {
	Reply   bool
	Claim   bool              // the sender wants to found a cluster
	Grants  state.Incarnation // reply: the claim that the sender has granted, or 0
	Blank   bool              // the sender has no cluster
	Name    string
	Addr    string        // of the sender
	Asked   string        // the address that was asked: the answer tells whose it is
	Version uint64        // of the sender's table
	Sent    time.Duration // the asking process's clock: an answer counts from then
}

const (
	helloInterval  = 200 * time.Millisecond
	helloFreshness = 3 * time.Second  // many processes may start on one machine
	grantLife      = 10 * time.Second // of a claim; the claimant uses it for helloFreshness at most
)

type founding struct {
	founders  []string         // the latest
	at        map[string]heard // by the address that was asked
	granted   state.Incarnation
	grantedAt time.Duration
	next      time.Duration
}

type heard struct {
	Hello
	from state.Incarnation
	at   time.Duration // when it was asked
}

// enter founds a cluster, or looks for one to join.
func (g *Group) enter() {
	if g.cfg.Seeds == nil {
		g.establish()
		return
	}
	if g.now < g.found.next {
		return
	}
	g.found.next = g.now + helloInterval
	seeds := g.cfg.Seeds()
	g.askToJoin(seeds.Members)
	if g.found.founders = seeds.Founders; len(seeds.Founders) == 0 {
		return
	}
	claim := g.mayClaim()
	if claim && g.claimGranted() {
		g.establish()
		return
	}
	for _, addr := range g.found.founders {
		g.send(Message{Kind: KindHello, Addr: addr, Hello: Hello{Claim: claim, Blank: true, Name: g.cfg.Self.Name, Asked: addr, Sent: g.now}})
	}
}

func (g *Group) askToJoin(members []string) {
	a := leader.Ask{Kind: leader.AskJoin, From: g.cfg.Self.Incarnation, Node: g.cfg.Self, Params: g.cfg.Params}
	for _, addr := range members {
		g.send(Message{Kind: KindAsk, Addr: addr, Ask: a, Settings: g.cfg.Settings.Append(nil), MaxValue: g.cfg.MaxValue, Lease: g.cfg.Timing.Length})
	}
}

// establish founds a cluster of this process.
func (g *Group) establish() {
	s := state.Found(g.cfg.NewID(), g.cfg.Settings, g.cfg.MaxValue, g.cfg.Params, g.cfg.Self, g.unix)
	g.start(s.ClusterID, s, []state.Incarnation{g.cfg.Self.Incarnation})
	if g.log != nil {
		g.fail(g.guard(g.log.campaign)) // it is the only voter
	}
	g.turn()
}

// others returns what the other seeds said lately; all is false while one is missing or not blank.
func (g *Group) others() (seeds []heard, all bool) {
	for _, addr := range g.found.founders {
		h, ok := g.found.at[addr]
		switch {
		case addr == g.cfg.Self.Addr:
		case !ok || g.now-h.at > helloFreshness || !h.Blank:
			return nil, false
		case h.from != g.cfg.Self.Incarnation:
			seeds = append(seeds, h)
		}
	}
	return seeds, true
}

// mayClaim reports whether this process has the lowest name of the seeds, which are all blank.
func (g *Group) mayClaim() bool {
	seeds, all := g.others()
	lower := func(h heard) bool { return h.Name <= g.cfg.Self.Name }
	return all && !slices.ContainsFunc(seeds, lower) && !g.bound()
}

// bound reports whether this process has granted another's claim.
func (g *Group) bound() bool { return g.found.granted != 0 && g.now-g.found.grantedAt < grantLife }

func (g *Group) claimGranted() bool {
	seeds, all := g.others()
	return all && !slices.ContainsFunc(seeds, func(h heard) bool { return h.Grants != g.cfg.Self.Incarnation })
}

func (g *Group) hello(m Message) {
	if len(m.Hello.Name) == 0 {
		return
	}
	h := m.Hello
	if h.Reply {
		if slices.Contains(g.found.founders, h.Asked) && h.Sent <= g.now {
			if g.found.at == nil {
				g.found.at = map[string]heard{}
			}
			g.found.at[h.Asked] = heard{h, m.From, h.Sent}
		}
		g.heardOf(m)
		return
	}
	blank := g.log == nil
	if h.Claim && blank && (!g.bound() || g.found.granted == m.From) && h.Name < g.cfg.Self.Name {
		g.found.granted, g.found.grantedAt = m.From, g.now
	}
	reply := Hello{Reply: true, Blank: blank, Name: g.cfg.Self.Name, Asked: h.Asked, Sent: h.Sent}
	if t := g.Table(); t != nil {
		reply.Version = t.Version
	}
	if g.bound() {
		reply.Grants = g.found.granted
	}
	g.send(Message{Kind: KindHello, To: m.From, Addr: m.Reply, Hello: reply})
}

// refused says why the cluster will never let this process in.
func (g *Group) refused(m Message) {
	if g.log == nil {
		g.fail(fmt.Errorf("%w: %w: the cluster refuses us: %.*s", dramnode.ErrInvalid, dramnode.ErrClusterConflict, maxTextBytes, m.Text))
	}
}

func (h *Hello) encode(e *encoder) {
	var flags uint64
	for i, on := range []bool{h.Reply, h.Claim, h.Blank} {
		if on {
			flags |= 1 << i
		}
	}
	e.u64(flags, uint64(h.Grants), h.Version, uint64(h.Sent))
	e.bytes([]byte(h.Name))
	e.bytes([]byte(h.Asked))
}

func (d *decoder) hello() Hello {
	flags := d.number(7)
	h := Hello{Reply: flags&1 != 0, Claim: flags&2 != 0, Blank: flags&4 != 0, Grants: state.Incarnation(d.u64()), Version: d.u64(), Sent: time.Duration(d.number(1 << 62))}
	h.Name, h.Asked = string(d.bytes()), string(d.bytes())
	return h
}
