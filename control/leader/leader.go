// Package leader decides what the control plane does next: whom to suspend, which configuration a row gets,
// what moves where, who votes.
//
// A Leader lives for one term. It looks at the applied state, at the leases and at what nodes ask for, and
// returns commands; it changes nothing itself, so a decision that comes too late is only rejected. What it
// remembers besides is volatile: a new leader finds it out again, since nodes repeat what they ask until
// the table shows the answer. No clock, network or goroutine is in here.
package leader

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/control/lease"
	"github.com/dramnode/dramnode/control/state"
	"github.com/dramnode/dramnode/internal/rule"
	"github.com/dramnode/dramnode/ring"
)

// An AskKind is what a node wants.
type AskKind uint8

const (
	AskActivate AskKind = 1 // From, the primary: the row's members have adopted Epoch and agree
	AskPromote  AskKind = 2 // From, the primary: the learner Peer of AssignID has everything and counts from now on
	AskReport   AskKind = 3 // From, the primary: Peer, in sync or the learner, does not answer
	AskEpoch    AskKind = 4 // From, the primary: the generations of Epoch are used up
	AskJoin     AskKind = 5 // Node wants to become one
	AskLeave    AskKind = 6 // From wants to give its copies away
	AskAccept   AskKind = 7 // an operator acknowledges the losses of Partition, which are Count; one that is lost by now may start again
	AskParams   AskKind = 8 // an operator sets Params, having seen those of version AssignID
)

// An Ask is one wish of a node. It is repeated until the table shows the answer, so it may get lost.
type Ask struct {
	Kind      AskKind
	From      state.Incarnation
	Partition ring.Partition
	Epoch     state.Epoch
	Peer      state.Incarnation
	AssignID  uint64
	Count     uint32
	Node      state.Node
	Params    state.Params
}

// The leader's patience.
const (
	reportLife  = 5 * time.Second  // how long a report keeps its node out of the row
	stuckAfter  = 5 * time.Second  // an inactive row whose primary lives gets another one
	unfitLife   = time.Minute      // before that node is made the row's primary again, without need
	joinLife    = 2 * time.Second  // a join that is not repeated is dropped
	nameGrace   = 3 * time.Second  // on top of a lease, before a join is refused for its name: a restart is quicker
	shrinkDelay = 30 * time.Second // before there are fewer than three voters
	holdDelay   = 2 * time.Second  // likewise, where one of them waits to leave
	maxAsks     = 1 << 17

	// RecoverWithin is how long after the end of its lease a node may still take part in a recovery.
	// A node that was suspended for knowAfter has passed that time on any clock, the few seconds that a
	// recovery takes included, so nodes that it never heard of may vote.
	RecoverWithin = 2 * time.Minute
	knowAfter     = RecoverWithin + 15*time.Second
)

type onRow struct {
	partition ring.Partition
	node      state.Incarnation
}

type join struct {
	node      state.Node
	since, at time.Duration // first and last heard
}

// A Leader is the volatile part of one term.
type Leader struct {
	self   state.Incarnation
	timing lease.Timing
	Grants *lease.Grants

	asks        map[ring.Partition]map[AskKind]Ask // of primaries; the latest of a kind
	reported    map[onRow]Ask                      // not looked at yet
	doubts      map[onRow]time.Duration            // reports that held, and when each ends
	unfit       map[onRow]time.Duration            // primaries that got stuck, and until when it counts
	joins       map[state.Incarnation]join
	refused     map[state.Incarnation]error
	leaves      map[state.Incarnation]bool
	operator    []Ask
	suspended   map[state.Incarnation]time.Duration // since when this leader knows
	inactive    map[ring.Partition]pause
	voters      []state.Incarnation
	settled     bool          // no change of the voters is under way
	shrinkSince time.Duration // there is reason to have fewer than three voters; 0: there is none
	forgotten   uint64        // State.Forgotten, and since when this leader knows
	forgotAt    time.Duration

	moving  bool     // the last decision left something to do that others or budgets delay
	bytes   []uint64 // of each partition, as its primary said
	sized   []bool   // it did
	buckets map[state.Incarnation]*bucket
	target  placement // over the nodes that count
	present placement // over those that are up

	// Targets is ring.Config.Targets of the cluster's settings. A simulator may remember what it returned.
	Targets func(members []ring.Member, replicas int) ([][]uint16, error)
}

type pause struct {
	epoch state.Epoch
	since time.Duration
}

// New begins a term at now.
func New(self state.Incarnation, s *state.State, timing lease.Timing, now time.Duration) *Leader {
	return &Leader{
		self: self, timing: timing, Grants: lease.NewGrants(s.Era, timing, now),
		asks: map[ring.Partition]map[AskKind]Ask{}, reported: map[onRow]Ask{}, doubts: map[onRow]time.Duration{}, unfit: map[onRow]time.Duration{},
		joins: map[state.Incarnation]join{}, refused: map[state.Incarnation]error{}, leaves: map[state.Incarnation]bool{},
		suspended: map[state.Incarnation]time.Duration{}, inactive: map[ring.Partition]pause{},
		bytes: make([]uint64, len(s.Rows)), sized: make([]bool, len(s.Rows)), buckets: map[state.Incarnation]*bucket{},
		Targets: s.Settings.Targets,
	}
}

// Ask notes what a node wants. The error, for joins, says why it will never get it.
func (l *Leader) Ask(now time.Duration, a Ask) error {
	switch a.Kind {
	case AskActivate, AskPromote, AskReport, AskEpoch:
		l.askRow(a)
	case AskJoin:
		return l.askJoin(now, a.Node)
	case AskLeave:
		if len(l.leaves) < ring.MaxMembers {
			l.leaves[a.From] = true
		}
	case AskAccept, AskParams:
		if len(l.operator) < ring.MaxPartitions {
			l.operator = append(l.operator, a)
		}
	default:
		return fmt.Errorf("%w: ask of kind %d", dramnode.ErrInvalid, a.Kind)
	}
	return nil
}

func (l *Leader) askRow(a Ask) {
	if int(a.Partition) >= len(l.bytes) {
		return
	}
	if a.Kind == AskReport {
		if len(l.reported) < maxAsks {
			l.reported[onRow{a.Partition, a.Peer}] = a
		}
		return
	}
	if l.asks[a.Partition] == nil {
		l.asks[a.Partition] = map[AskKind]Ask{}
	}
	l.asks[a.Partition][a.Kind] = a
}

func (l *Leader) askJoin(now time.Duration, n state.Node) error {
	if err := l.refused[n.Incarnation]; err != nil {
		return err
	}
	j, known := l.joins[n.Incarnation]
	if !known {
		if len(l.joins) >= ring.MaxMembers {
			return fmt.Errorf("%w: %d processes are joining", dramnode.ErrBusy, len(l.joins))
		}
		j.since = now
	}
	j.node, j.at = n, now
	l.joins[n.Incarnation] = j
	l.Grants.Greet(now, n.Incarnation)
	return nil
}

// Usage notes how large a partition is, as its primary says.
func (l *Leader) Usage(p ring.Partition, bytes uint64) {
	if int(p) < len(l.bytes) {
		l.bytes[p], l.sized[p] = bytes, true
	}
}

// Decide returns the commands to propose next, as one batch. Nothing else may be proposed before Decided.
func (l *Leader) Decide(now time.Duration, unixSeconds uint32, s *state.State) []state.Command {
	d := &decision{Leader: l, Draft: s.Draft(), now: now, unixSeconds: unixSeconds, recreate: map[ring.Partition]bool{}}
	l.tidy(now, s)
	d.suspend()
	d.comeAndGo()
	d.target.update(d.State, l.Targets, d.counts)
	d.present.update(d.State, l.Targets, d.mayServe)
	d.doubt()
	d.repair()
	d.answer()
	d.lost()
	d.move()
	d.retire()
	l.moving = l.moving || len(l.asks)+len(l.inactive) > 0
	return d.batch
}

// How long after a decision the next one is due, when nothing has happened.
const (
	movingPause  = 25 * time.Millisecond  // while rows wait for leases, acknowledgements or budgets
	waitingPause = 250 * time.Millisecond // while something waits for a time that lies seconds ahead
)

// Next returns when to decide again after the last decision, at now on s, if nothing happens before: no message, no new
// state. A cluster at rest only waits for somebody to fall silent.
func (l *Leader) Next(now time.Duration, s *state.State) time.Duration {
	silent := l.Grants.NextSilent(s.Nodes)
	switch {
	case l.moving:
		return min(silent, now+movingPause)
	case len(l.joins)+len(l.leaves)+len(l.suspended)+len(l.doubts)+len(l.unfit) > 0,
		slices.ContainsFunc(s.Nodes, func(n state.Node) bool { return n.Status != state.Gone && (n.Status != state.Up || !n.Known) }):
		return min(silent, now+waitingPause)
	}
	return silent
}

// Decided says that the last batch was applied, or that it was dropped and never will be.
func (l *Leader) Decided() { l.Grants.Absolve() }

// tidy keeps what is remembered in step with s.
func (l *Leader) tidy(now time.Duration, s *state.State) {
	l.Grants.Forget(func(i state.Incarnation) bool { _, joining := l.joins[i]; return joining || s.Node(i) != nil })
	for _, m := range []map[onRow]time.Duration{l.doubts, l.unfit} {
		maps.DeleteFunc(m, func(_ onRow, until time.Duration) bool { return now >= until })
	}
	maps.DeleteFunc(l.joins, func(i state.Incarnation, j join) bool { return now-j.at > joinLife || s.Node(i) != nil })
	maps.DeleteFunc(l.leaves, func(i state.Incarnation, _ bool) bool { return s.Node(i) == nil })
	maps.DeleteFunc(l.buckets, func(i state.Incarnation, _ *bucket) bool { return s.Node(i) == nil })
	if len(l.refused) > ring.MaxMembers {
		clear(l.refused)
	}
	for i := range s.Nodes {
		n := &s.Nodes[i]
		if _, known := l.suspended[n.Incarnation]; n.Status == state.Suspended && !known {
			l.suspended[n.Incarnation] = now
		}
	}
	maps.DeleteFunc(l.suspended, func(i state.Incarnation, _ time.Duration) bool {
		n := s.Node(i)
		return n == nil || n.Status != state.Suspended
	})
	if s.Forgotten != l.forgotten {
		l.forgotten, l.forgotAt = s.Forgotten, now
	}
	for p := range s.Rows {
		at, r := ring.Partition(p), &s.Rows[p]
		if r.Active() {
			delete(l.inactive, at)
		} else if l.inactive[at].epoch != r.Epoch {
			l.inactive[at] = pause{r.Epoch, now}
		}
	}
}

// A decision is a batch being made. Its draft shows the state with the commands so far.
type decision struct {
	*Leader
	*state.Draft
	now         time.Duration
	unixSeconds uint32
	batch       []state.Command
	primaries   map[state.Incarnation]int // of each node, once counted
	recreate    map[ring.Partition]bool   // whose loss an operator accepts
}

// maxBatch commands keep an entry of the log small; the next batch follows at once.
const maxBatch = 4096

// try adds c unless it would be rejected.
func (d *decision) try(c state.Command) error {
	if len(d.batch) >= maxBatch {
		return fmt.Errorf("%w: the batch is full", dramnode.ErrBusy)
	}
	err := d.Do(c)
	if err == nil {
		d.batch = append(d.batch, c)
	}
	return err
}

// suspend takes the status of nodes that are silent. From here on they get no lease until that is decided.
func (d *decision) suspend() {
	for _, n := range d.State.Nodes {
		if n.Serves() && d.Grants.Silent(d.now, n.Incarnation) && d.try(state.Suspend{Node: n.Incarnation}) == nil {
			d.Grants.Condemn(n.Incarnation)
		}
	}
}

// comeAndGo returns nodes that are heard again, admits new ones and notes who leaves.
func (d *decision) comeAndGo() {
	for _, n := range d.State.Nodes {
		if n.Status == state.Suspended && d.suspendedHeard(n.Incarnation) {
			_ = d.try(state.Return{Node: n.Incarnation}) // it may be gone by now: see the next table
		}
	}
	for _, i := range slices.Sorted(maps.Keys(d.joins)) {
		d.admit(d.joins[i])
	}
	d.know()
	for _, i := range slices.Sorted(maps.Keys(d.leaves)) {
		if n := d.State.Node(i); n != nil && n.Status == state.Up {
			_ = d.try(state.Leave{Node: i})
		}
	}
}

// know lets nodes vote that all others know of.
func (d *decision) know() {
	if d.forgotten != 0 && d.now-d.forgotAt < knowAfter {
		return // who was retired may not know it, and recover
	}
	for _, n := range d.State.Nodes {
		if n.Status == state.Up && !n.Known && !slices.ContainsFunc(d.State.Nodes, func(o state.Node) bool { return d.mayNotKnow(&o, n.Joined) }) {
			_ = d.try(state.Know{Node: n.Incarnation})
		}
	}
}

// mayNotKnow reports whether o may take part in a recovery with a table from before version.
func (d *decision) mayNotKnow(o *state.Node, version uint64) bool {
	since, known := d.suspended[o.Incarnation]
	switch {
	case o.Status == state.Gone || o.Incarnation == d.self || d.Grants.Applied(o.Incarnation) >= version:
		return false
	case o.Status == state.Suspended && known:
		return d.now-since < knowAfter
	}
	return o.Joined < version
}

// suspendedHeard reports whether a suspended node renews again.
func (d *decision) suspendedHeard(i state.Incarnation) bool {
	since, known := d.suspended[i]
	return known && d.Grants.Heard(d.now, i) < min(d.timing.Length/2, d.now-since)
}

func (d *decision) admit(j join) {
	n := j.node
	n.Status = state.Up
	c := state.Join{Node: n}
	if old := d.State.Named(n.Name); old != nil {
		c.Replaces = old.Incarnation
		if old.Serves() {
			// Names are unique, so the old process should be dead, and its lease will end. If it lives on,
			// the newcomer has taken its name.
			if d.now-j.since > nameGrace+d.timing.Hold() && d.Grants.Holds(d.now, old.Incarnation) {
				d.refused[n.Incarnation] = fmt.Errorf("%w: the name %q is in use by %s", dramnode.ErrClusterConflict, n.Name, old.Addr)
			}
			return
		}
	}
	if err := d.try(c); err != nil {
		d.refused[n.Incarnation] = fmt.Errorf("%w: %w", dramnode.ErrInvalid, err)
		return
	}
	d.Grants.Greet(d.now, n.Incarnation)
}

// answer does what primaries and operators ask, where it still applies and is safe.
func (d *decision) answer() {
	for _, p := range slices.Sorted(maps.Keys(d.asks)) {
		asks := d.asks[p]
		for _, kind := range []AskKind{AskPromote, AskEpoch, AskActivate} {
			if a, ok := asks[kind]; ok && d.answerRow(p, &d.State.Rows[p], a) {
				delete(asks, kind)
			}
		}
		if len(asks) == 0 {
			delete(d.asks, p)
		}
	}
	for _, a := range d.operator {
		if a.Kind == AskAccept {
			_ = d.try(state.AcceptLoss{Partition: a.Partition, Count: a.Count})
			d.recreate[a.Partition] = true
		} else {
			_ = d.try(state.SetParams{ParamsVersion: a.AssignID, Params: a.Params})
		}
	}
	d.operator = nil
}

// answerRow reports whether a is done with.
func (d *decision) answerRow(p ring.Partition, r *state.Row, a Ask) bool {
	if a.From != r.Primary || a.Epoch != r.Epoch && !rule.Off(rule.EpochMatches) {
		return true
	}
	switch a.Kind {
	case AskPromote:
		if !d.Grants.Holds(d.now, r.Learner) && r.Learner == a.Peer {
			return false // wait for its lease, or its suspension
		}
		if d.try(state.Promote{Partition: p, Epoch: a.Epoch, NewEpoch: r.Epoch.Next(d.unixSeconds), AssignID: a.AssignID}) == nil {
			d.replace(p)
		}
	case AskEpoch:
		if r.Active() {
			d.propose(p, r.Sync, r.Primary)
		}
	case AskActivate:
		if !d.fenceClear(r) {
			return false
		}
		_ = d.try(state.Activate{Partition: p, Epoch: a.Epoch, Primary: a.From})
	}
	return true
}

// fenceClear reports whether none of those that the row leaves out can still serve: each has applied the
// row, or has no lease and will get none before it has. A node that is suspended had none when that was
// decided, and returns only with the table.
func (d *decision) fenceClear(r *state.Row) bool {
	if rule.Off(rule.Fence) {
		return true
	}
	for _, i := range r.Fence() {
		if d.State.Serves(i) && !d.Grants.Ended(d.now, i) && d.Grants.Applied(i) < r.EpochVersion {
			return false
		}
	}
	return true
}

// propose gives a row its next epoch.
func (d *decision) propose(p ring.Partition, sync []state.Incarnation, primary state.Incarnation) {
	r := &d.State.Rows[p]
	old := r.Primary
	c := state.Reconfigure{Partition: p, Epoch: r.Epoch, NewEpoch: r.Epoch.Next(d.unixSeconds), Primary: primary, Sync: sync}
	if d.try(c) == nil && d.primaries != nil {
		d.primaries[old]--
		d.primaries[primary]++
	}
}

// choose returns the member of set with the fewest primaries, other than not.
func (d *decision) choose(set []state.Incarnation, not state.Incarnation) state.Incarnation {
	if d.primaries == nil {
		d.primaries = map[state.Incarnation]int{}
		for p := range d.State.Rows {
			d.primaries[d.State.Rows[p].Primary]++
		}
	}
	others := slices.DeleteFunc(slices.Clone(set), func(i state.Incarnation) bool { return i == not })
	if len(others) == 0 {
		return not
	}
	return slices.MinFunc(others, func(a, b state.Incarnation) int {
		return cmp.Or(cmp.Compare(d.leaving(a), d.leaving(b)), cmp.Compare(d.primaries[a], d.primaries[b]), cmp.Compare(a, b))
	})
}

func (d *decision) leaving(i state.Incarnation) int {
	if n := d.State.Node(i); n != nil && n.Status == state.Up {
		return 0
	}
	return 1
}
