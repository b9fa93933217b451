package sim

import (
	"fmt"
	"sync"

	control "github.com/dramnode/dramnode/control/leader"
	"github.com/dramnode/dramnode/control/lease"
	"github.com/dramnode/dramnode/control/state"
	"github.com/dramnode/dramnode/internal/rule"
	"github.com/dramnode/dramnode/ring"
)

// A consensus is what the control plane's log promises, and no more: one order of batches, each accepted from the
// leader of the present term only, while it reaches a majority of voters.
type consensus struct {
	w      *world
	state  *state.State
	term   int
	leader int  // slot
	known  bool // in worlds with the product's consensus: state is of its log
}

// reaches reports whether a slot can talk with a majority of the voters, in both directions.
func (c *consensus) reaches(slot int) bool {
	n := 0
	for v := range voters {
		up := !c.w.nodes[v].dead && c.w.nodes[v].paused <= c.w.now
		if up && (v == slot || !c.w.cut[slot][v] && !c.w.cut[v][slot]) {
			n++
		}
	}
	return 2*n > voters
}

// elect makes the process in a slot the leader of a new term. The one before is not told.
func (c *consensus) elect(slot int) {
	c.term++
	c.leader = slot
	n := c.w.nodes[slot]
	c.w.logf("n%d(%d) leads term %d", slot, n.id, c.term)
	l := &leader{n: n, term: c.term, table: c.state}
	if rule.Off(rule.LeaderCaughtUp) && n.table != nil {
		l.table, l.behind = n.table, true
		c.w.on(n, c.w.between(50, 500), func() { l.catchUp() })
	}
	l.Leader = control.New(state.Incarnation(n.id), l.table, c.w.timing, n.time())
	l.Voting(nil, true) // the vote here is no matter of nodes
	l.Targets = targets
	n.leader = l
}

// propose puts a batch in the log once the leader reaches a majority, if its term is not over by then, and tells it.
func (c *consensus) propose(l *leader, batch []state.Command) {
	w := c.w
	var try func()
	try = func() {
		switch {
		case c.term != l.term || l.n.dead:
		case !c.reaches(l.n.slot):
			w.after(w.between(20, 60), try)
		default:
			c.accept(l, batch)
			w.on(l.n, w.travel(), func() { l.decided() })
		}
	}
	delay := w.travel()
	if !w.healed && w.chance(w.slowLog) {
		delay += w.between(0, 400)
	}
	w.after(delay, try)
}

// accept applies a batch, one command after the other to see each.
func (c *consensus) accept(l *leader, batch []state.Command) {
	w, old := c.w, c.state
	for _, command := range batch {
		next, errs := c.state.Apply([]state.Command{command})
		if w.trace != nil {
			w.logf("log %d: %T %+v: %v", next.Version, command, command, errs[0])
		}
		w.watchLog(c.state, next, command)
		c.state = next
	}
	if c.state != old {
		c.spread(l.n.slot)
	}
}

// spread lets the other processes learn of the log, in their time.
func (c *consensus) spread(from int) {
	s := c.state
	for slot, n := range c.w.nodes {
		if c.w.chance(c.w.traits.spread) || c.w.healed || n.table == nil {
			c.w.send(from, slot, func() { c.w.wake(n, func() { n.install(s) }) })
		}
	}
}

// confirm asks the voters whether l still leads; done is called with a table as new as the log was then.
func (c *consensus) confirm(l *leader, done func()) {
	w := c.w
	var ask func()
	ask = func() {
		if !rule.Off(rule.QuorumRound) && (c.term != l.term || l.n.dead) {
			return
		}
		if !rule.Off(rule.QuorumRound) && !c.reaches(l.n.slot) {
			w.after(w.between(20, 60), ask) // the next heartbeat asks again
			return
		}
		seen := c.state
		if l.behind {
			return // the log answers with what it has applied, and that is too little
		}
		w.on(l.n, w.travel(), func() {
			if !rule.Off(rule.QuorumRound) && seen.Newer(l.table) {
				l.learn(seen)
			}
			done()
		})
	}
	w.after(w.travel(), ask)
}

// A leader is the product's, with a wire to the consensus.
type leader struct {
	*control.Leader
	n         *node
	term      int
	table     *state.State
	proposing bool
	behind    bool // it has not applied what leaders before it proposed
}

func (l *leader) learn(s *state.State) {
	if s.Newer(l.table) {
		l.table = s
	}
}

// catchUp lets a leader know all that is in the log.
func (l *leader) catchUp() {
	l.learn(l.n.w.vote.state)
	l.behind = false
}

// decided is called when the last proposal is in the log.
func (l *leader) decided() {
	l.catchUp()
	l.proposing = false
	l.Decided()
	l.n.install(l.table)
}

// renewed hears a node. One that is gone is told: it may have missed that.
func (l *leader) renewed(n *node, r lease.Renewal) {
	if known(l.table, n.id) {
		l.Grants.Renew(l.n.time(), r)
	} else {
		l.tell(n)
	}
}

func (l *leader) tell(n *node) {
	s := l.table
	l.n.w.send(l.n.slot, n.slot, func() { l.n.w.wake(n, func() { n.install(s) }) })
}

// joins hears a process without a table, or one that knows nothing of it.
func (l *leader) joins(n *node) {
	if known(l.table, n.id) {
		l.tell(n)
		return
	}
	about := state.Node{Incarnation: state.Incarnation(n.id), Name: n.name(), Addr: n.addr(), Status: state.Up}
	_ = l.Ask(l.n.time(), control.Ask{Kind: control.AskJoin, Node: about})
}

// tick grants leases and decides the next batch.
func (l *leader) tick() {
	w := l.n.w
	now := l.n.time()
	l.Grants.Turn(now)
	if id, start := l.Grants.Round(now); start {
		w.vote.confirm(l, func() { l.grant(id) })
	}
	if l.proposing {
		return
	}
	batch := l.Decide(now, w.unix(), l.table)
	switch {
	case len(batch) > 0 || w.healed:
	case l.table.Rows[0].Learner != 0 && w.chance(w.flap), w.chance(w.move / 4):
		batch = l.whim()
	}
	if len(batch) > 0 {
		l.proposing = true
		w.vote.propose(l, batch)
	}
}

// whim is a change that nobody needs: another primary, a learner more or less.
func (l *leader) whim() []state.Command {
	row, rng := &l.table.Rows[0], l.n.w.rng
	some := state.Incarnation(l.n.w.nodes[rng.IntN(slots)].id)
	switch {
	case !row.Active():
		return nil
	case row.Learner != 0:
		return []state.Command{state.Assign{Epoch: row.Epoch, AssignID: row.AssignID}}
	case !state.Has(row.Sync, some):
		return []state.Command{state.Assign{Epoch: row.Epoch, AssignID: row.AssignID, Learner: some}}
	case rng.IntN(3) == 0 && len(row.Sync) > 1:
		sync := state.Without(row.Sync, some)
		return []state.Command{state.Reconfigure{Epoch: row.Epoch, NewEpoch: row.Epoch + 1, Primary: sync[rng.IntN(len(sync))], Sync: sync}}
	}
	return []state.Command{state.Reconfigure{Epoch: row.Epoch, NewEpoch: row.Epoch + 1, Primary: some, Sync: row.Sync}}
}

func (l *leader) grant(round uint64) {
	w := l.n.w
	for _, r := range l.Grants.Confirmed(round, l.table.Serves) {
		to := w.node(uint64(r.Node))
		if to == nil {
			continue
		}
		g := lease.Grant{Era: l.table.Era, Sent: r.Sent, Length: w.timing.Length, Table: l.table.Delta(r.Applied)}
		w.send(l.n.slot, to.slot, func() { w.wake(to, func() { to.granted(g) }) })
	}
}

var targetsOf sync.Map // what targets returned before, by its arguments: it takes half of all time

// targets is what the control plane wants for the only ring of all worlds.
func targets(members []ring.Member, replicas int) ([][]uint16, error) {
	key := fmt.Sprint(members, replicas)
	if rows, ok := targetsOf.Load(key); ok {
		return rows.([][]uint16), nil
	}
	rows, err := settings.Targets(members, replicas)
	if err == nil {
		targetsOf.Store(key, rows)
	}
	return rows, err
}
