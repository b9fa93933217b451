package lease

import (
	"math"
	"slices"
	"time"

	"github.com/dramnode/dramnode/control/state"
	"github.com/dramnode/dramnode/internal/rule"
)

// Limits of one leader's memory.
const (
	maxWaiting = 4096 // renewals, one per node
	maxRounds  = 64   // under way at once; the oldest is given up, its nodes have long asked again
)

const never = time.Duration(math.MaxInt64)

// Grants is what one leader knows of leases, for one term. What earlier leaders granted it does not know,
// and so it judges nobody before those leases have ended.
type Grants struct {
	timing Timing
	era    uint32

	since time.Duration // when the term began here, or when this process last stood still
	last  time.Duration // the last turn

	nodes   map[state.Incarnation]*lease
	waiting []renewal // for the next round, at most one per node
	rounds  []round   // with the voters, oldest first
	roundID uint64
	nextAt  time.Duration // when the next round is due, if any wait
}

type lease struct {
	heard     time.Duration // the last renewal
	until     time.Duration // the end of what was granted
	applied   uint64
	condemned bool
}

type renewal struct {
	Renewal
	received time.Duration
}

type round struct {
	id       uint64
	renewals []renewal
}

// NewGrants begins a term in an era.
func NewGrants(era uint32, timing Timing, now time.Duration) *Grants {
	return &Grants{era: era, timing: timing, since: now, last: now, nodes: map[state.Incarnation]*lease{}}
}

// Turn notes that this process is running. If it stood still, messages that would have renewed leases may
// still be on their way, so it judges nobody for a while.
func (g *Grants) Turn(now time.Duration) {
	if now-g.last > g.timing.Length/4 {
		g.since = now
	}
	g.last = now
}

func (g *Grants) of(node state.Incarnation) *lease {
	l := g.nodes[node]
	if l == nil {
		l = &lease{}
		g.nodes[node] = l
	}
	return l
}

// Renew notes a renewal. The lease follows when the voters have confirmed, in a round that starts later,
// that this leader is the leader.
func (g *Grants) Renew(now time.Duration, r Renewal) {
	if len(g.nodes) >= maxWaiting && g.nodes[r.Node] == nil {
		return
	}
	l := g.of(r.Node)
	l.heard = max(l.heard, now)
	if r.Era == g.era { // versions of another era say nothing
		l.applied = max(l.applied, r.Applied)
	}
	if len(g.waiting) == 0 {
		g.nextAt = max(g.nextAt, now+g.timing.Batch)
	}
	at := slices.IndexFunc(g.waiting, func(w renewal) bool { return w.Node == r.Node })
	switch {
	case at < 0:
		g.waiting = append(g.waiting, renewal{r, now})
	case g.waiting[at].Sent < r.Sent:
		g.waiting[at] = renewal{r, now}
	}
}

// Round starts a round for the renewals that wait, if it is time for one: the caller asks the voters and
// comes back with Confirmed.
func (g *Grants) Round(now time.Duration) (id uint64, start bool) {
	if len(g.waiting) == 0 || now < g.nextAt {
		return 0, false
	}
	if len(g.rounds) == maxRounds {
		g.rounds = g.rounds[1:]
	}
	g.roundID++
	g.rounds = append(g.rounds, round{id: g.roundID, renewals: g.waiting})
	g.waiting = nil
	return g.roundID, true
}

// Next returns when the next round is due; it is far away while nobody waits for one.
func (g *Grants) Next() time.Duration {
	if len(g.waiting) == 0 {
		return never
	}
	return g.nextAt
}

// Confirmed grants the renewals of a round, and of those before it, to the nodes that may have a lease. The
// caller must have applied everything that was committed when the round was confirmed, and send its table
// of now with each grant.
func (g *Grants) Confirmed(id uint64, may func(state.Incarnation) bool) []Renewal {
	var granted []Renewal
	for len(g.rounds) > 0 && g.rounds[0].id <= id {
		for _, r := range g.rounds[0].renewals {
			l := g.of(r.Node)
			if l.condemned || !may(r.Node) {
				continue
			}
			l.until = max(l.until, r.received+g.timing.Hold())
			granted = append(granted, r.Renewal)
		}
		g.rounds = g.rounds[1:]
	}
	return granted
}

// Judges reports whether this leader has seen enough to call a lease ended.
func (g *Grants) Judges(now time.Duration) bool {
	return rule.Off(rule.NewLeaderWaits) || now >= g.since+g.timing.Hold()
}

// Ended reports whether node certainly has no lease at now, nor will get one before it has the present
// table.
func (g *Grants) Ended(now time.Duration, node state.Incarnation) bool {
	l := g.nodes[node]
	return g.Judges(now) && (l == nil || now >= l.until)
}

// Silent reports whether node, which should renew, was not heard for so long that its lease has ended. A
// node that is heard and only cannot be answered, for want of voters, is not silent.
func (g *Grants) Silent(now time.Duration, node state.Incarnation) bool {
	l := g.nodes[node]
	return g.Ended(now, node) && (l == nil || now >= l.heard+g.timing.Hold())
}

// NextSilent returns when the first of nodes falls silent, if none of them is heard before.
func (g *Grants) NextSilent(nodes []state.Node) time.Duration {
	next := never
	for i := range nodes {
		if !nodes[i].Serves() {
			continue
		}
		at := g.since + g.timing.Hold()
		if l := g.nodes[nodes[i].Incarnation]; l != nil {
			at = max(at, l.until, l.heard+g.timing.Hold())
		}
		next = min(next, at)
	}
	return next
}

// Heard returns for how long node was not heard, counted at most from the beginning of the term.
func (g *Grants) Heard(now time.Duration, node state.Incarnation) time.Duration {
	heard := g.since
	if l := g.nodes[node]; l != nil {
		heard = max(heard, l.heard)
	}
	return now - heard
}

// Holds reports whether node has a lease that this leader granted.
func (g *Grants) Holds(now time.Duration, node state.Incarnation) bool {
	l := g.nodes[node]
	return l != nil && now < l.until
}

// Applied is the newest version that node said it has applied.
func (g *Grants) Applied(node state.Incarnation) uint64 {
	if l := g.nodes[node]; l != nil {
		return l.applied
	}
	return 0
}

// Condemn stops grants to node from before its suspension is proposed until the log has decided.
func (g *Grants) Condemn(node state.Incarnation) {
	g.of(node).condemned = !rule.Off(rule.CondemnedNoLease)
}

// Absolve ends that for all: what was proposed is decided.
func (g *Grants) Absolve() {
	for _, l := range g.nodes {
		l.condemned = false
	}
}

// Forget drops nodes that the table does not know any more.
func (g *Grants) Forget(known func(state.Incarnation) bool) {
	for node := range g.nodes {
		if !known(node) {
			delete(g.nodes, node)
		}
	}
}

// Greet notes that node was heard, by another message than a renewal.
func (g *Grants) Greet(now time.Duration, node state.Incarnation) {
	l := g.of(node)
	l.heard = max(l.heard, now)
}
