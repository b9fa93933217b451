package group

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/control/leader"
	"github.com/dramnode/dramnode/control/state"
)

// When the voters have lost their majority for good, the nodes that are left found the control plane anew,
// in the next era. That is safe only if nothing of the old one can go on anywhere. A list of voters does not
// tell: voters that are dead now may have let others vote without us. So every node of the newest table
// must take part, or be proven dead; and no node votes before all who may recover know of it (State.Know).
//
//   - Proven dead is an incarnation whose name another process answers to, now. Names are unique, and an
//     answer counts from when it was asked for. An operator may assert it instead.
//   - Alive nodes are sealed: from then on they serve nothing and take no part in an earlier era. Each has
//     been without lease for a while, and not for so long that it may have been forgotten.
//   - Who sealed them founds the era from the newest table among them.
//
// A node that is sealed and never hears what came of it only follows others from then on.

// A Seal is one step of that.
type Seal struct {
	Step   SealStep
	Era    uint32              // to be founded
	Sent   time.Duration       // the founder's clock; an answer has that of its question
	Table  []byte              // answer: of the sender; found: the first of the era
	Voters []state.Incarnation // found: those of the era
}

// A SealStep is the kind of a Seal.
type SealStep uint8

const (
	SealAsk    SealStep = 1
	SealAnswer SealStep = 2
	SealFound  SealStep = 3
	SealOrder  SealStep = 4 // an ask on an operator's word: it counts however long the receiver has been without lease
)

const (
	recoverAfter    = 2                      // leases without one, before anybody recovers
	recoverInterval = 200 * time.Millisecond // between questions
	aliveFor        = time.Second            // after an answer was asked for
	sealedFor       = 5 * time.Second        // likewise: until then an era may be founded on it
	wordFor         = 5 * time.Second        // an operator's word counts, unless others were sealed on it
	maxProcesses    = 4 * 256
)

type recovery struct {
	next     time.Duration
	since    time.Duration                       // this process became a member of the era, or its lease was seen to have ended
	leased   bool                                // at the last look
	alive    map[state.Incarnation]time.Duration // when its last answer was asked for
	newer    map[state.Incarnation]bool          // has a newer table than we, or an equal one and a lower incarnation
	others   map[state.Incarnation]string        // addresses of processes that ask to join
	dead     map[state.Incarnation]bool          // proven, for good
	hopeless time.Duration                       // since when the old era is known to be unable to go on; 0: it may
	asserted time.Duration                       // an operator has started this, and until when the word counts; 0: nobody has
	word     []state.Incarnation                 // who is in dead for that alone
	sealed   uint32                              // the era that this process waits for
	sealer   state.Incarnation                   // who founds it
	answers  map[state.Incarnation]time.Duration // to our question: when it was asked
	tables   map[state.Incarnation]*state.State  // of the answers
	founded  []byte                              // the table that we founded the era with, while others may have missed it
	voters   []state.Incarnation                 // of that
	until    time.Duration                       // how long it is told
}

func (r *recovery) init() {
	if r.alive == nil {
		r.newer = map[state.Incarnation]bool{}
		r.alive, r.others, r.dead = map[state.Incarnation]time.Duration{}, map[state.Incarnation]string{}, map[state.Incarnation]bool{}
		r.answers, r.tables = map[state.Incarnation]time.Duration{}, map[state.Incarnation]*state.State{}
	}
}

// waiting reports whether this process has left its era and not reached the next.
func (g *Group) waiting() bool { return g.recovery.sealed > g.era() }

// Recover is an operator's word that the processes that now have, or last had, these names are dead. Said at one node it founds the
// control plane anew, if all others can be reached. ErrInvalid says that this is no such case: there is a lease, or one of
// the dead answers. With ErrUnavailable it may be one in a moment. That nobody else has such a name's memory cannot be checked.
// The word is forgotten soon: say it again until the era is another one.
func (g *Group) Recover(assertDead []string) error {
	t, r := g.Table(), &g.recovery
	if t == nil {
		return fmt.Errorf("%w: this node has no table", dramnode.ErrUnavailable)
	}
	r.init()
	r.retract()
	switch silent := g.now - r.since; {
	case g.Lease.Valid(g.now):
		return fmt.Errorf("%w: this node has a lease: most voters live, there is nothing to recover", dramnode.ErrInvalid)
	case silent < recoverAfter*g.cfg.Timing.Length+aliveFor:
		return fmt.Errorf("%w: this node has been without a lease for %v only, too short to know who is alive", dramnode.ErrUnavailable, silent.Round(time.Millisecond))
	}
	var word []state.Incarnation
	for _, name := range assertDead {
		n := t.Named(name)
		if n == nil || n.Incarnation == g.cfg.Self.Incarnation {
			return fmt.Errorf("%w: no other node is called %q", dramnode.ErrInvalid, name)
		}
		if asked, ok := r.alive[n.Incarnation]; ok && g.now-asked <= 2*aliveFor {
			return fmt.Errorf("%w: %s is alive: it answers at %s", dramnode.ErrInvalid, name, n.Addr)
		}
		word = append(word, n.Incarnation)
	}
	var silent []string
	for i := range t.Nodes {
		n := &t.Nodes[i]
		if n.Status != state.Gone && n.Incarnation != g.cfg.Self.Incarnation && !r.dead[n.Incarnation] && !slices.Contains(word, n.Incarnation) && !r.isAlive(g.now, n.Incarnation) {
			silent = append(silent, n.Name)
		}
	}
	if len(silent) > 0 {
		return fmt.Errorf("%w: no answer from %s: whoever is not dead must be reached, and whoever is must be named", dramnode.ErrUnavailable, strings.Join(silent, ", "))
	}
	for _, i := range word {
		if !r.dead[i] {
			r.dead[i], r.word = true, append(r.word, i)
		}
	}
	r.asserted = g.now + wordFor
	return nil
}

// retract forgets an operator's word.
func (r *recovery) retract() {
	for _, i := range r.word {
		delete(r.dead, i)
	}
	r.word, r.asserted = nil, 0
}

// heardOf notes an answer to a question of ours: a process that is alive, and a name that is therefore not
// any other process's.
func (g *Group) heardOf(m Message) {
	t, name, i, asked := g.Table(), m.Hello.Name, m.From, m.Hello.Sent
	if t == nil || asked > g.now || g.now-asked > aliveFor {
		return
	}
	r := &g.recovery
	r.init()
	if len(r.alive) < maxProcesses || r.alive[i] != 0 {
		r.alive[i] = max(r.alive[i], asked)
		r.newer[i] = m.Era > t.Era || m.Era == t.Era && (m.Hello.Version > t.Version || m.Hello.Version == t.Version && i < g.cfg.Self.Incarnation)
	}
	if n := t.Named(name); n != nil && n.Incarnation != i && n.Incarnation != g.cfg.Self.Incarnation && g.now-r.alive[n.Incarnation] > 2*aliveFor {
		r.dead[n.Incarnation] = true
	}
}

// stranger notes where a process listens that would join: it may be the proof that another is dead.
func (g *Group) stranger(i state.Incarnation, addr string) {
	g.recovery.init()
	if len(g.recovery.others) < maxProcesses {
		g.recovery.others[i] = addr
	}
}

func (r *recovery) isAlive(now time.Duration, i state.Incarnation) bool {
	asked, ok := r.alive[i]
	return ok && now-asked <= aliveFor && !r.dead[i]
}

// tend does what a node without lease can do about it.
func (g *Group) tend() {
	r := &g.recovery
	leased := g.Lease.Valid(g.now)
	if leased || r.leased {
		r.since = g.now
	}
	r.leased = leased
	if leased {
		r.retract()
		g.tell()
		return
	}
	if r.asserted != 0 && g.now > r.asserted && !g.waiting() {
		r.retract()
	}
	if g.now < r.next || g.now-r.since < recoverAfter*g.cfg.Timing.Length {
		return
	}
	r.init()
	r.next = g.now + recoverInterval
	g.tell()
	g.lookAround()
	if g.waiting() && r.sealer != g.cfg.Self.Incarnation || !g.mayRecover() {
		return
	}
	if !g.waiting() {
		r.sealed, r.sealer = g.era()+1, g.cfg.Self.Incarnation
		clear(r.answers)
		clear(r.tables)
		g.leave()
	}
	g.askSeals()
	g.foundEra()
}

// leave stops this process's part in its era, for good.
func (g *Group) leave() {
	g.Lease.Drop()
	g.lead, g.proposal = nil, 0
}

// lookAround asks every node, and every process that would join, who it is.
func (g *Group) lookAround() {
	hello := Hello{Name: g.cfg.Self.Name, Blank: g.log == nil, Sent: g.now}
	for _, n := range g.Table().Nodes {
		if n.Status != state.Gone && n.Incarnation != g.cfg.Self.Incarnation {
			g.send(Message{Kind: KindHello, Addr: n.Addr, Hello: hello})
		}
	}
	for _, i := range slices.Sorted(maps.Keys(g.recovery.others)) {
		g.send(Message{Kind: KindHello, Addr: g.recovery.others[i], Hello: hello})
	}
}

// mayRecover reports whether this process should found the next era: the old one cannot go on, everybody
// is accounted for, and nobody who is alive has a newer table.
func (g *Group) mayRecover() bool {
	r, self := &g.recovery, g.cfg.Self.Incarnation
	t := g.Table()
	n := t.Node(self)
	if n == nil || n.Status == state.Gone || r.asserted == 0 && g.now-r.since > leader.RecoverWithin {
		return false
	}
	alone := true
	for _, n := range t.Nodes {
		switch i := n.Incarnation; {
		case i == self || n.Status == state.Gone || r.dead[i]:
			continue
		case !r.isAlive(g.now, i):
			return false
		case r.newer[i] && r.asserted == 0:
			return false
		}
		alone = false
	}
	newcomer := alone && g.log.state == nil // does not know the voters, but they are all dead
	if r.asserted == 0 && !newcomer && !g.noMajority(g.log.conf.GetVoters()) && !g.noMajority(g.log.conf.GetVotersOutgoing()) {
		r.hopeless = 0
		return false
	}
	// The dead may have granted leases until they died, to nodes that we have never heard of.
	if r.hopeless == 0 {
		r.hopeless = g.now
	}
	return g.now-r.hopeless >= g.cfg.Timing.Hold()
}

// noMajority reports whether voters can never decide anything: with those that are dead or gone there is
// none without us, and those that are gone, whom we cannot ask, are none by themselves.
func (g *Group) noMajority(voters []uint64) bool {
	dead, gone := 0, 0
	for _, v := range voters {
		n := g.Table().Node(state.Incarnation(v))
		switch {
		case n == nil || n.Status == state.Gone:
			gone++
		case g.recovery.dead[n.Incarnation]:
			dead++
		}
	}
	majority := len(voters)/2 + 1
	return len(voters) > 0 && len(voters)-dead-gone < majority && gone < majority
}

func (g *Group) askSeals() {
	step := SealAsk
	if g.recovery.asserted != 0 {
		step = SealOrder
	}
	for _, n := range g.Table().Nodes {
		if n.Incarnation != g.cfg.Self.Incarnation && g.recovery.isAlive(g.now, n.Incarnation) {
			g.send(Message{Kind: KindSeal, To: n.Incarnation, Seal: Seal{Step: step, Era: g.recovery.sealed, Sent: g.now}})
		}
	}
}

// foundEra founds the next era once everybody who is alive is sealed.
func (g *Group) foundEra() {
	r, self := &g.recovery, g.cfg.Self.Incarnation
	alive := []state.Incarnation{self}
	for _, n := range g.Table().Nodes {
		if n.Status == state.Gone || r.dead[n.Incarnation] || n.Incarnation == self {
			continue
		}
		if asked, ok := r.answers[n.Incarnation]; !ok || g.now-asked > sealedFor {
			return
		}
		alive = append(alive, n.Incarnation)
	}
	slices.Sort(alive)
	newest := g.Table()
	for _, t := range r.tables {
		if t.Newer(newest) {
			newest = t
		}
	}
	if newest != g.Table() { // it may name others: look again
		g.Lease.Install(newest)
		return
	}
	first := newest.Recover(r.sealed, alive, g.unix)
	r.founded, r.voters, r.until = first.Append(nil), firstVoters(first), g.now+sealedFor
	g.begin(first, r.voters)
	g.tell()
	g.fail(g.guard(g.log.campaign))
	g.turn()
}

// firstVoters is the largest odd number of the nodes, at most Params.Voters, known ones first.
func firstVoters(s *state.State) []state.Incarnation {
	var nodes []state.Node
	for _, n := range s.Nodes {
		if n.Serves() {
			nodes = append(nodes, n)
		}
	}
	slices.SortStableFunc(nodes, func(a, b state.Node) int {
		if a.Known != b.Known {
			return cmp.Compare(b2i(b.Known), b2i(a.Known))
		}
		return cmp.Compare(a.Incarnation, b.Incarnation)
	})
	size := min(len(nodes), int(s.Params.Voters))
	if size%2 == 0 {
		size--
	}
	var voters []state.Incarnation
	for _, n := range nodes[:max(size, 0)] {
		voters = append(voters, n.Incarnation)
	}
	slices.Sort(voters)
	return voters
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// begin starts this process's part in a new era, as a voter if it is one.
func (g *Group) begin(first *state.State, voters []state.Incarnation) {
	if slices.Contains(voters, g.cfg.Self.Incarnation) {
		g.start(g.cluster, first, voters)
	} else {
		g.start(g.cluster, nil, nil)
		g.Lease.Install(first)
	}
}

// tell repeats what was founded, for a while: who misses it has no part in it.
func (g *Group) tell() {
	r := &g.recovery
	if r.founded == nil || g.now > r.until || g.now < r.next && g.Lease.Valid(g.now) {
		return
	}
	r.next = g.now + recoverInterval
	for _, n := range g.Table().Nodes {
		if n.Incarnation != g.cfg.Self.Incarnation && n.Status != state.Gone {
			g.send(Message{Kind: KindSeal, To: n.Incarnation, Seal: Seal{Step: SealFound, Era: r.sealed, Table: r.founded, Voters: r.voters}})
		}
	}
}

// seal takes a step of a recovery.
func (g *Group) seal(m Message) {
	if g.log == nil || m.Cluster != g.cluster {
		return
	}
	r := &g.recovery
	r.init()
	switch s := m.Seal; s.Step {
	case SealAsk, SealOrder:
		if s.Era <= g.era() {
			g.send(Message{Kind: KindTable, To: m.From, Table: g.Table().Append(nil)})
			return
		}
		if g.maySeal(m) {
			r.sealed, r.sealer = s.Era, m.From
			g.leave()
			g.send(Message{Kind: KindSeal, To: m.From, Addr: m.Reply, Seal: Seal{Step: SealAnswer, Era: s.Era, Sent: s.Sent, Table: g.Table().Append(nil)}})
		}
	case SealAnswer:
		t, err := state.Parse(s.Table)
		if err != nil || t.ClusterID != g.cluster || s.Era != r.sealed || r.sealer != g.cfg.Self.Incarnation || !g.waiting() || s.Sent > g.now {
			return
		}
		r.answers[m.From], r.tables[m.From] = s.Sent, t
	case SealFound:
		t, err := state.Parse(s.Table)
		if err == nil && t.ClusterID == g.cluster && t.Era == s.Era && g.waiting() && s.Era == r.sealed && m.From == r.sealer {
			g.begin(t, s.Voters)
			g.turn()
		}
	}
}

// maySeal reports whether this process gives up its era for m's: it has no lease either, for some time, and
// has promised itself to nobody else.
func (g *Group) maySeal(m Message) bool {
	r := &g.recovery
	lapsed := g.now - r.since
	return !g.Lease.Valid(g.now) && !r.leased && lapsed >= g.cfg.Timing.Length && (lapsed <= leader.RecoverWithin || m.Seal.Step == SealOrder) &&
		(!g.waiting() || r.sealer == m.From && m.Seal.Era >= r.sealed)
}

func (s *Seal) encode(e *encoder) {
	e.u64(uint64(s.Step), uint64(s.Era), uint64(s.Sent), uint64(len(s.Voters)))
	for _, v := range s.Voters {
		e.u64(uint64(v))
	}
	e.rest(s.Table)
}

const maxVoters = 32

func (d *decoder) seal() Seal {
	s := Seal{Step: SealStep(d.number(255)), Era: uint32(d.number(1<<32 - 1)), Sent: time.Duration(d.number(1 << 62))}
	for range d.number(maxVoters) {
		s.Voters = append(s.Voters, state.Incarnation(d.u64()))
	}
	s.Table = d.rest()
	return s
}
