// Package group is one process's part in the control plane: the consensus group that keeps the table, the
// leader's decisions while it leads, and the lease that the node serves under.
//
// A Group is fed messages and time, and answers with messages: it has no clock, network or goroutine, and
// with the same seed it does the same. Every node is in the consensus group, up to five as voters and the
// rest as learners, so every node has the table. A process that restarts is another member; the group
// keeps nothing on disk.
package group

import (
	"errors"
	"fmt"
	"slices"
	"time"

	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/control/leader"
	"github.com/dramnode/dramnode/control/lease"
	"github.com/dramnode/dramnode/control/state"
	"github.com/dramnode/dramnode/internal/rule"
	"github.com/dramnode/dramnode/ring"
)

// A Config is what a Group needs to know of its process.
type Config struct {
	Self     state.Node // with a random incarnation
	Settings ring.Config
	MaxValue uint32
	Params   state.Params // of a cluster that it founds
	Timing   lease.Timing
	Seed     uint64 // spreads elections; together with the incarnation it decides them
	NewID    func() uint64

	// Seeds says whom to turn to, each time that a process without a cluster looks for one; nil: it founds one
	// alone, at once.
	Seeds func() Seeds
}

// Seeds are addresses.
type Seeds struct {
	// Members may have a cluster, and are asked to let this process in.
	Members []string
	// Founders all have to agree before one of them founds a cluster; this process is among them. Without any
	// it founds none.
	Founders []string
}

// The group's rhythm.
const (
	tickInterval = 30 * time.Millisecond
	standstill   = 5 * tickInterval // after which missed ticks are not made up for
	maxOut       = 1 << 14          // messages that wait to be taken; more are dropped, as a network would
	maxTextBytes = 1 << 10
)

// ErrRetired is returned when the cluster has given this incarnation up. The process may come back only as
// another one, with nothing in memory.
var ErrRetired = fmt.Errorf("%w: this incarnation is gone", dramnode.ErrPartitionLost)

// A Group is one process's part.
type Group struct {
	cfg     Config
	cluster uint64 // 0 before it has one
	Lease   *lease.Holder
	log     *log // nil before it has one

	lead      *leader.Leader // while this process leads
	term      uint64         // that it leads in
	proposal  uint64         // the tag of the batch under way, or 0
	tags      uint64
	decideAt  time.Duration // when the next decision is due
	decidedAt time.Duration // when the last one was made
	judged    *state.State  // that it looked at
	ticked    bool          // since the last turn
	asking    asking

	found    founding
	recovery recovery

	now       time.Duration
	unix      uint32
	nextTick  time.Duration
	strangers int // renewals without a leader
	wasMember bool
	out       []Message
	conflicts uint64
	err       error
}

// New returns a group that does nothing before the first Tick.
func New(cfg Config) (*Group, error) {
	err := errors.Join(cfg.Settings.Validate(), cfg.Params.Validate())
	if !cfg.Self.Incarnation.Valid() || cfg.Self.Name == "" || cfg.Self.Addr == "" {
		err = errors.Join(err, fmt.Errorf("%w: node %q at %q with incarnation %x", dramnode.ErrInvalid, cfg.Self.Name, cfg.Self.Addr, uint64(cfg.Self.Incarnation)))
	}
	if err != nil {
		return nil, err
	}
	cfg.Self.Status = state.Up
	return &Group{cfg: cfg, Lease: lease.NewHolder(cfg.Self.Incarnation, cfg.Timing)}, nil
}

// Table is the newest table known here, nil before the first.
func (g *Group) Table() *state.State { return g.Lease.Table() }

// Leading reports whether this process leads the control plane, as far as it knows.
func (g *Group) Leading() bool { return g.lead != nil }

// Leader is who leads as far as known here, or 0.
func (g *Group) Leader() state.Incarnation {
	if g.log == nil {
		return 0
	}
	return g.log.leader()
}

// Health is what the leader knows; ok is false elsewhere.
func (g *Group) Health() (h leader.Health, ok bool) {
	if g.lead == nil {
		return h, false
	}
	return g.lead.Health(g.log.state), true
}

// Conflicts counts messages of other clusters.
func (g *Group) Conflicts() uint64 { return g.conflicts }

// Err says why this process must not go on under its identity, or nil.
func (g *Group) Err() error { return g.err }

// Take returns the messages to send since the last call.
func (g *Group) Take() []Message {
	g.sendAsks()
	out := g.out
	g.out = nil
	return out
}

// Tick lets time pass; call it when Next says, or more often. The wall clock only makes epochs grow.
func (g *Group) Tick(now time.Duration, unixSeconds uint32) {
	g.now, g.unix = now, unixSeconds
	if g.err != nil {
		return
	}
	if g.log == nil {
		g.enter()
		return
	}
	g.pass()
	if r, due := g.Lease.Due(now); due {
		g.renew(r)
	}
	g.turn()
	g.tend()
}

// Next returns when Tick is to be called, if no message comes before. What is due earlier than that is due at once.
func (g *Group) Next() time.Duration {
	switch {
	case g.log == nil:
		return g.found.next
	case g.waiting() || !g.Lease.Valid(g.now):
		return g.now + tickInterval // it tries all sorts of things
	}
	next := min(g.nextTick+time.Duration(g.log.quiet()-1)*tickInterval, g.Lease.Next())
	if g.recovery.founded != nil && g.now < g.recovery.until {
		next = min(next, g.recovery.next)
	}
	if g.lead != nil && g.log.established() {
		if next = min(next, g.lead.Grants.Next()); g.proposal == 0 {
			next = min(next, g.decideAt)
		}
	}
	return next
}

// pass lets the ticks pass that are due.
func (g *Group) pass() {
	if g.now-g.nextTick > standstill {
		g.nextTick = g.now // this process stood still: what would have kept it quiet is yet to be read
	}
	for g.nextTick <= g.now && g.err == nil {
		g.nextTick += tickInterval
		g.ticked = true
		if !g.waiting() {
			g.fail(g.guard(g.log.tick))
		}
	}
}

// guard runs f, and turns a panic of the consensus library, which may be what a peer's nonsense leads to,
// into an error that ends this process's part.
func (g *Group) guard(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: consensus: %v", dramnode.ErrCorrupt, p)
		}
	}()
	return f()
}

func (g *Group) fail(err error) {
	if g.err == nil && err != nil {
		g.err = err
	}
}

// start begins this process's log of an era.
func (g *Group) start(cluster uint64, first *state.State, voters []state.Incarnation) {
	var err error
	if g.log, err = newLog(g.cfg.Self.Incarnation, g.cfg.Seed, first, voters); err != nil {
		g.fail(err)
		return
	}
	g.cluster, g.lead, g.proposal, g.nextTick = cluster, nil, 0, g.now+tickInterval
	g.recovery.since = g.now
	g.Lease.Install(first)
}

// era is that of the log, 0 as long as that is empty and no table is known.
func (g *Group) era() uint32 {
	if t := g.Table(); t != nil {
		return t.Era
	}
	return 0
}

// send queues m, with the header filled in.
func (g *Group) send(m Message) {
	m.Cluster, m.Era, m.From, m.Reply = g.cluster, g.era(), g.cfg.Self.Incarnation, g.cfg.Self.Addr
	if m.Addr == "" {
		m.Addr = g.addrOf(m.To)
	}
	if m.Addr != "" && len(g.out) < maxOut {
		g.out = append(g.out, m)
	}
}

func (g *Group) addrOf(i state.Incarnation) string {
	for _, s := range []*state.State{g.Table(), g.logState()} {
		if s != nil {
			if n := s.Node(i); n != nil {
				return n.Addr
			}
		}
	}
	return ""
}

func (g *Group) logState() *state.State {
	if g.log == nil {
		return nil
	}
	return g.log.state
}

// Report passes the sizes of this node's partitions on to the leader.
func (g *Group) Report(usage []Usage) {
	if g.lead != nil {
		g.used(usage)
	} else if to := g.Leader(); to != 0 {
		g.send(Message{Kind: KindUsage, To: to, Usage: usage})
	}
}

func (g *Group) used(usage []Usage) {
	for _, u := range usage {
		g.lead.Usage(u.Partition, u.Bytes)
	}
}

// renew asks the leader for a lease. Without a leader, or an answer from it, each renewal goes to another
// node: that one may know that this process is gone, or that its era is over.
func (g *Group) renew(r lease.Renewal) {
	if g.lead != nil {
		g.lead.Grants.Renew(g.now, r)
		return
	}
	to := g.Leader() // a learner may take a dead one for the leader for ever
	if !g.Lease.Valid(g.now) {
		nodes := g.Table().Nodes
		if g.strangers++; to == 0 || g.strangers%2 == 0 {
			to = nodes[g.strangers/2%len(nodes)].Incarnation
		}
	}
	if to != 0 && to != g.cfg.Self.Incarnation {
		g.send(Message{Kind: KindRenew, To: to, Renewal: r})
	}
}

// Step takes messages that have come by now.
func (g *Group) Step(now time.Duration, messages ...Message) {
	g.now = now
	if g.err == nil && g.log != nil {
		g.pass() // before they came
	}
	for i := range messages {
		g.step(messages[i])
	}
	g.turn()
}

func (g *Group) step(m Message) {
	if g.err != nil || m.To != 0 && m.To != g.cfg.Self.Incarnation {
		return // for another life of this address
	}
	switch {
	case m.Kind == KindHello:
		g.hello(m) // also from itself: a seed may be another name of this host
	case m.From == g.cfg.Self.Incarnation:
	case m.Kind == KindRefuse:
		g.refused(m)
	case m.Kind == KindSeal:
		g.seal(m)
	case m.Kind == KindAsk && m.Ask.Kind == leader.AskJoin:
		g.joining(m)
	case m.Cluster != g.cluster && g.cluster != 0:
		g.conflicts++
	case g.waiting() && m.Era < g.recovery.sealed: // this process has left that era
	case g.log == nil || m.Era > g.era():
		g.follow(m)
	case m.Era < g.era():
		g.send(Message{Kind: KindTable, To: m.From, Addr: m.Reply, Table: g.Table().Append(nil)})
	default:
		g.take(m)
	}
}

// take handles a message of our cluster and era.
func (g *Group) take(m Message) {
	switch m.Kind {
	case KindRaft:
		g.raft(m.Raft)
		if m.From == g.Leader() {
			if r, due := g.Lease.DueSoon(g.now); due {
				g.renew(r) // with the answer, and when the others do
			}
		}
	case KindRenew:
		g.renewed(m)
	case KindGrant:
		_ = g.Lease.Granted(g.now, m.Grant) // of no use: the next renewal tells the leader what we have
	case KindAsk:
		if g.lead != nil && m.Ask.From == m.From {
			g.asked(m.Ask)
		}
	case KindAsks:
		for i := range m.Asks {
			if g.lead != nil {
				g.asked(m.Asks[i])
			}
		}
	case KindUsage:
		if g.lead != nil {
			g.used(m.Usage)
		}
	case KindTable:
		g.follow(m)
	}
}

// renewed hears a node. One that is gone is told: it may have missed that.
func (g *Group) renewed(m Message) {
	n := g.Table().Node(m.From)
	switch {
	case m.Renewal.Node != m.From:
	case n == nil || n.Status == state.Gone:
		g.send(Message{Kind: KindTable, To: m.From, Addr: m.Reply, Table: g.Table().Append(nil)})
	case g.lead != nil:
		g.lead.Grants.Renew(g.now, m.Renewal)
		if r, due := g.Lease.DueSoon(g.now); due {
			g.renew(r) // for one round
		}
		if n.Status != state.Up || !n.Known {
			g.decideAt = min(g.decideAt, max(g.now, g.decidedAt+askPause)) // it may have waited for this
		}
	}
}

// raft gives the consensus library a message.
func (g *Group) raft(b []byte) {
	var m pb.Message
	if err := proto.Unmarshal(b, &m); err != nil {
		return
	}
	g.fail(g.guard(func() error { return g.log.step(&m) }))
}

// follow takes this process into a cluster that has admitted it, or into a later era of its own, of which
// it has no log. The table is what it needs first: it says who is where.
func (g *Group) follow(m Message) {
	switch {
	case m.Cluster == 0:
	case m.Kind == KindTable:
		t, err := g.Table().Merge(m.Table)
		if err != nil || t.ClusterID != m.Cluster || t.Era < g.recovery.sealed {
			return
		}
		if g.log == nil || t.Era > g.era() {
			g.start(m.Cluster, nil, nil)
		}
		g.Lease.Install(t)
	case g.log != nil: // a later era: the sender answers an early message with its table
		g.send(Message{Kind: KindRenew, To: m.From, Renewal: lease.Renewal{Node: g.cfg.Self.Incarnation, Era: g.era()}})
	}
}

// joining passes a join on to the leader, or refuses it at once when the process cannot belong here.
func (g *Group) joining(m Message) {
	s := g.logState()
	if s == nil {
		return
	}
	refuse := func(text string) {
		g.send(Message{Kind: KindRefuse, To: m.Ask.Node.Incarnation, Addr: m.Ask.Node.Addr, Text: text})
	}
	if diff := g.differs(&m, s); diff != "" {
		refuse("settings differ: " + diff)
		return
	}
	g.stranger(m.Ask.From, m.Ask.Node.Addr)
	switch to := g.Leader(); {
	case m.Ask.Node.Incarnation != m.Ask.From:
	case s.Node(m.Ask.From) != nil:
		g.send(Message{Kind: KindTable, To: m.Ask.From, Table: s.Append(nil)})
	case g.lead != nil:
		g.asked(m.Ask)
	case to != 0 && m.From == m.Ask.From: // not passed on yet
		g.send(Message{Kind: KindAsk, To: to, Ask: m.Ask, Settings: m.Settings, MaxValue: m.MaxValue, Lease: m.Lease})
	}
}

// differs says what a joining process was told that is not so in the cluster, "" for nothing. "Here" is the
// newcomer, who reads it. Leases above all must be equal: a leader waits for those that others granted.
func (g *Group) differs(m *Message, s *state.State) string {
	theirs, err := ring.ParseConfig(m.Settings)
	if err != nil {
		return err.Error()
	}
	if diff := theirs.Diff(s.Settings); diff != "" {
		return diff
	}
	for _, d := range []struct {
		name        string
		here, there any
	}{
		{"max-value", m.MaxValue, s.MaxValue},
		{"mode", m.Ask.Params.Mode, s.Params.Mode},
		{"replicas", m.Ask.Params.Replicas, s.Params.Replicas},
		{"min-sync", m.Ask.Params.MinSync, s.Params.MinSync},
		{"on-loss", m.Ask.Params.OnLoss, s.Params.OnLoss},
		{"lost-after", m.Ask.Params.LostAfter, s.Params.LostAfter},
		{"lease", m.Lease, g.cfg.Timing.Length},
	} {
		if d.here != d.there {
			return fmt.Sprintf("%s %v here, %v there", d.name, d.here, d.there)
		}
	}
	return ""
}

// turn does what follows from what has happened, and collects what the log wants sent.
func (g *Group) turn() {
	if g.log == nil || g.err != nil || g.waiting() {
		return
	}
	g.leadership()
	if g.lead != nil && (g.log.established() || rule.Off(rule.LeaderCaughtUp)) {
		g.grant()
		if decided := g.decide(); decided || g.ticked {
			g.members()
		}
		g.ticked = false
	}
	g.Lease.Install(g.log.state)
	for _, m := range g.log.out {
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
		if err != nil {
			g.fail(err)
			return
		}
		g.send(Message{Kind: KindRaft, To: state.Incarnation(m.GetTo()), Raft: b})
	}
	g.log.out = nil
	g.checkRetired()
}

func (g *Group) checkRetired() {
	t := g.Table()
	if t == nil {
		return
	}
	n := t.Node(g.cfg.Self.Incarnation)
	switch {
	case n != nil && n.Status != state.Gone:
		g.wasMember = true
	case g.wasMember || n != nil:
		g.fail(ErrRetired)
	}
}

// leadership begins and ends terms.
func (g *Group) leadership() {
	switch leading := g.log.leading(); {
	case !leading:
		g.lead, g.proposal = nil, 0
	case g.lead == nil || g.term != g.log.term():
		g.lead = leader.New(g.cfg.Self.Incarnation, g.log.state, g.cfg.Timing, g.now)
		g.term, g.proposal, g.decideAt, g.judged = g.log.term(), 0, g.now, nil
	}
}

// grant answers renewals once the voters have confirmed, after their receipt, that this process leads.
func (g *Group) grant() {
	grants := g.lead.Grants
	grants.Turn(g.now)
	id, start := grants.Round(g.now)
	if start {
		g.fail(g.guard(func() error { g.log.ask(id); return g.log.settle() }))
	}
	confirmed := g.log.confirmed()
	if rule.Off(rule.QuorumRound) && start {
		confirmed = id
	}
	if confirmed == 0 {
		return
	}
	s := g.log.state
	for _, r := range grants.Confirmed(confirmed, s.Serves) {
		grant := lease.Grant{Era: s.Era, Sent: r.Sent, Length: g.cfg.Timing.Length}
		if grant.Table = s.Delta(r.Applied); r.Era != s.Era || r.Applied > s.Version {
			grant.Table = s.Append(nil)
		}
		if r.Node == g.cfg.Self.Incarnation {
			_ = g.Lease.Granted(g.now, grant) // its table is the log's
		} else {
			g.send(Message{Kind: KindGrant, To: r.Node, Grant: grant})
		}
	}
}

// decide has one batch under way at a time. It reports whether it looked.
func (g *Group) decide() bool {
	if g.proposal != 0 && g.log.decided(g.proposal) {
		g.proposal, g.judged = 0, nil
		g.lead.Decided()
	}
	if g.proposal != 0 || g.now < g.decideAt && g.judged == g.log.state {
		return false
	}
	g.lead.Voting(g.log.voters())
	batch := g.lead.Decide(g.now, g.unix, g.log.state)
	g.judged, g.decidedAt, g.decideAt = g.log.state, g.now, g.lead.Next(g.now, g.log.state)
	if len(batch) == 0 {
		g.lead.Decided()
		return true
	}
	g.tags++
	g.proposal = g.tags
	taken := false
	g.fail(g.guard(func() error {
		taken = g.log.propose(g.proposal, batch)
		return g.log.settle()
	}))
	if !taken {
		g.proposal, g.decideAt = 0, g.now+tickInterval
		g.lead.Decided()
	}
	return true
}

// members keeps voters and learners in step with the table. A leader that leaves hands over first.
func (g *Group) members() {
	present, settled := g.log.voters()
	if !settled {
		return
	}
	s := g.log.state
	near := g.log.upToDate()
	voters := g.lead.Voters(g.now, s, present, func(i state.Incarnation) bool { return near[i] })
	if n := s.Node(g.cfg.Self.Incarnation); n != nil && n.Status != state.Up {
		for _, v := range voters {
			if o := s.Node(v); o != nil && o.Status == state.Up && slices.Contains(present, v) && near[v] {
				g.fail(g.guard(func() error { g.log.raw.TransferLeader(uint64(v)); return g.log.settle() }))
				return
			}
		}
	}
	var learners []state.Incarnation
	for _, n := range s.Nodes {
		if n.Status != state.Gone && !slices.Contains(voters, n.Incarnation) {
			learners = append(learners, n.Incarnation)
		}
	}
	g.fail(g.guard(func() error { g.log.reconfigure(voters, learners); return g.log.settle() }))
}
