package leader

import (
	"cmp"
	"slices"
	"time"

	"github.com/dramnode/dramnode/control/state"
	"github.com/dramnode/dramnode/ring"
)

// A placement holds the wanted nodes of each partition. They take milliseconds to compute, and change only
// with the nodes that count.
type placement struct {
	members  []ring.Member
	nodes    []state.Incarnation // in the order of members
	replicas uint8
	want     [][]state.Incarnation
}

// of returns the wanted nodes of p, primary first; none when no node counts.
func (c *placement) of(p ring.Partition) []state.Incarnation {
	if c.want == nil {
		return nil
	}
	return c.want[p]
}

func (c *placement) update(s *state.State, targets func([]ring.Member, int) ([][]uint16, error), counts func(*state.Node) bool) {
	if c.fits(s, counts) {
		return
	}
	var members []ring.Member
	var nodes []state.Incarnation
	for i := range s.Nodes {
		if n := &s.Nodes[i]; !n.Witness && counts(n) {
			members = append(members, ring.Member{Name: n.Name, Zone: n.Zone})
			nodes = append(nodes, n.Incarnation)
		}
	}
	*c = placement{members: members, nodes: nodes, replicas: s.Params.Replicas}
	rows, err := targets(members, int(s.Params.Replicas))
	if err != nil || len(members) == 0 {
		return // more members than partitions are not admitted
	}
	c.want = make([][]state.Incarnation, len(rows))
	for p, row := range rows {
		for _, at := range row {
			c.want[p] = append(c.want[p], nodes[at])
		}
	}
}

// fits reports whether c is of the nodes that count, which is so nearly always.
func (c *placement) fits(s *state.State, counts func(*state.Node) bool) bool {
	k := 0
	for i := range s.Nodes {
		n := &s.Nodes[i]
		if n.Witness || !counts(n) {
			continue
		}
		if k == len(c.nodes) || c.nodes[k] != n.Incarnation || c.members[k] != (ring.Member{Name: n.Name, Zone: n.Zone}) {
			return false
		}
		k++
	}
	return k == len(c.nodes) && c.replicas == s.Params.Replicas
}

// A bucket of bytes fills at the rebuild budget up to one second of it. A move may start while something
// is in it, and takes its bytes: large partitions make it negative, and the next move wait.
type bucket struct {
	bytes float64
	at    time.Duration
}

func (l *Leader) bucketOf(now time.Duration, i state.Incarnation, budget uint64) *bucket {
	b := l.buckets[i]
	if b == nil {
		b = &bucket{bytes: float64(budget), at: now}
		l.buckets[i] = b
	}
	b.bytes = min(float64(budget), b.bytes+(now-b.at).Seconds()*float64(budget))
	b.at = now
	return b
}

// A step is the next one of a row towards its wanted nodes.
type step struct {
	partition ring.Partition
	copies    int
	learner   state.Incarnation // to assign, or
	drop      state.Incarnation // to leave out, or 0 for
	primary   state.Incarnation // to hand over only
}

// A move of a partition that was small when it was last measured costs its nodes little but time: so many of them count
// as one.
const (
	smallBytes = 1 << 20
	smallMoves = 16
)

// weight is what a move of p takes of a node's limit, which is smallMoves for each of Params.MovesPerNode.
func (d *decision) weight(p ring.Partition) int {
	if d.sized[p] && d.bytes[p] < smallBytes {
		return 1
	}
	return smallMoves
}

// maxHandovers rows at once stop their writes for a configuration that only tidies up.
const maxHandovers = 32

// move takes rows one step towards their wanted nodes: learner, promoted, primary handed over, dropped.
// Those with the fewest copies come first, and no node takes or gives more than it may.
func (d *decision) move() {
	var steps []step
	in, out := map[state.Incarnation]int{}, map[state.Incarnation]int{}
	handovers := 0
	for p := range d.State.Rows {
		r := &d.State.Rows[p]
		switch {
		case !r.Active():
			handovers++
		case r.Learner != 0:
			in[r.Learner] += d.weight(ring.Partition(p))
			out[r.Primary] += d.weight(ring.Partition(p))
		default:
			if s, ok := d.stepOf(ring.Partition(p), r); ok {
				steps = append(steps, s)
			}
		}
	}
	d.moving = len(steps)+len(in) > 0
	slices.SortStableFunc(steps, func(a, b step) int { return cmp.Compare(a.copies, b.copies) })
	limit := int(d.State.Params.MovesPerNode) * smallMoves
	for _, s := range steps {
		r := &d.State.Rows[s.partition]
		if s.learner == 0 {
			if handovers < maxHandovers {
				handovers++
				d.propose(s.partition, state.Without(r.Sync, s.drop), s.primary)
			}
			continue
		}
		from, cost := r.Primary, d.weight(s.partition)
		if in[s.learner]+cost <= limit && out[from]+cost <= limit && d.pay(from, s.learner, d.bytes[s.partition]) &&
			d.try(state.Assign{Partition: s.partition, Epoch: r.Epoch, Learner: s.learner}) == nil {
			in[s.learner] += cost
			out[from] += cost
		}
	}
}

// pay takes bytes from the budgets of both ends of a move, if there is any left.
func (d *decision) pay(from, to state.Incarnation, bytes uint64) bool {
	budget := d.State.Params.RebuildBudget
	a, b := d.bucketOf(d.now, from, budget), d.bucketOf(d.now, to, budget)
	if a.bytes <= 0 || b.bytes <= 0 {
		return false
	}
	a.bytes -= float64(bytes)
	b.bytes -= float64(bytes)
	return true
}

// counts reports whether n has a place in the target: a node that was just suspended keeps its own, since
// a restart usually brings the same name back.
func (d *decision) counts(n *state.Node) bool {
	since, known := d.suspended[n.Incarnation]
	return n.Status == state.Up || n.Status == state.Suspended && (!known || d.now-since < d.State.Params.Rereplicate)
}

// stepOf returns what an active row without learner needs next.
func (d *decision) stepOf(p ring.Partition, r *state.Row) (step, bool) {
	want := d.target.of(p)
	s := step{partition: p, copies: len(r.Sync), primary: r.Primary}
	if !d.allServe(r.Sync) || len(want) == 0 {
		return s, false // offline, or nobody can take anything
	}
	// One copy too many goes before the next one comes: nodes that join one after the other would
	// otherwise fill the row.
	if s.drop = d.surplus(r, want); s.drop == 0 {
		if s.learner = d.missing(p, r, want); s.learner == 0 && len(r.Sync) == 1 && len(want) > 1 {
			// The last copy does not wait for a node to come back.
			s.learner = d.missing(p, r, d.present.of(p))
		}
		if s.learner != 0 {
			return s, true
		}
	}
	_, unfit := d.unfit[onRow{p, want[0]}]
	if state.Has(r.Sync, want[0]) && d.mayLearn(want[0]) && !unfit {
		s.primary = want[0]
	}
	if s.drop == s.primary {
		s.primary = d.choose(state.Without(r.Sync, s.drop), s.drop)
	}
	return s, s.drop != 0 || s.primary != r.Primary
}

// replace leaves out the copy that one just promoted takes the place of, so that a move costs its writers one
// configuration. The newcomer has everything, or it would not be in the activated set.
func (d *decision) replace(p ring.Partition) {
	r, want := &d.State.Rows[p], d.target.of(p)
	drop := d.surplus(r, want)
	if drop == 0 {
		return
	}
	sync, primary := state.Without(r.Sync, drop), r.Primary
	if primary == drop {
		primary = d.choose(sync, 0)
		if state.Has(sync, want[0]) {
			primary = want[0]
		}
	}
	d.propose(p, sync, primary)
}

func (d *decision) mayServe(n *state.Node) bool { return n.Status == state.Up }

// missing returns the first wanted node that is up and not in the row.
func (d *decision) missing(p ring.Partition, r *state.Row, want []state.Incarnation) state.Incarnation {
	for _, i := range want {
		if !state.Has(r.Sync, i) && d.mayLearn(i) && !d.doubted(p, i) {
			return i
		}
	}
	return 0
}

// surplus returns the copy to drop, leaving nodes first: one beyond the wanted number.
func (d *decision) surplus(r *state.Row, want []state.Incarnation) state.Incarnation {
	if len(r.Sync) <= len(want) || len(want) == 0 {
		return 0
	}
	others := slices.DeleteFunc(slices.Clone(r.Sync), func(i state.Incarnation) bool { return slices.Contains(want, i) })
	if len(others) == 0 {
		return 0
	}
	return slices.MaxFunc(others, func(a, b state.Incarnation) int {
		return cmp.Or(cmp.Compare(d.leaving(a), d.leaving(b)), cmp.Compare(a, b))
	})
}

// Health is what an operator wants to see of a table.
type Health struct {
	Partitions      int
	Inactive        int    // configurations that do not serve yet, with those that are offline
	Offline         int    // no copy has a lease
	UnderReplicated int    // fewer copies with a lease than wanted
	MissingBytes    uint64 // of the copies that are missing
	Moves           int
	Losses          uint64
	Unaccepted      int // partitions with losses that no operator has acknowledged
}

// Health looks at s. Copies are wanted for as many nodes as are not gone.
func (l *Leader) Health(s *state.State) Health {
	h := Health{Partitions: len(s.Rows), Losses: s.Losses()}
	members := 0
	for i := range s.Nodes {
		if n := &s.Nodes[i]; !n.Witness && (n.Status == state.Up || n.Status == state.Suspended) {
			members++
		}
	}
	wanted := min(int(s.Params.Replicas), max(members, 1))
	for p := range s.Rows {
		r := &s.Rows[p]
		live := len(s.Serving(r.ActSync))
		if !r.Active() {
			h.Inactive++
		}
		if live == 0 {
			h.Offline++
		}
		if live < wanted {
			h.UnderReplicated++
			h.MissingBytes += uint64(wanted-live) * l.bytes[p]
		}
		if r.Learner != 0 {
			h.Moves++
		}
		if r.Unaccepted() > 0 {
			h.Unaccepted++
		}
	}
	return h
}
