package leader

import (
	"slices"

	"github.com/dramnode/dramnode/control/state"
	"github.com/dramnode/dramnode/internal/rule"
	"github.com/dramnode/dramnode/ring"
)

// repair gives a new configuration to each row of which a member has no lease, or does not answer its
// primary, or whose primary does not get it activated. A row with no member left stays as it is: offline,
// until one returns or all are lost.
func (d *decision) repair() {
	for p := range d.State.Rows {
		d.repairRow(ring.Partition(p))
	}
}

func (d *decision) repairRow(p ring.Partition) {
	r := &d.State.Rows[p]
	if r.Active() && r.Learner == 0 && len(d.doubts) == 0 && d.allServe(r.Sync) {
		return // as nearly all rows nearly always are
	}
	if r.Learner != 0 && (d.doubted(p, r.Learner) || !d.mayLearn(r.Learner)) {
		_ = d.try(state.Assign{Partition: p, Epoch: r.Epoch, AssignID: r.AssignID})
	}
	// What was only proposed never counted: every member of the activated set is a candidate.
	from := r.ActSync
	if rule.Off(rule.FromActivated) {
		from = r.Sync
	}
	candidates := slices.DeleteFunc(d.State.Serving(from), func(i state.Incarnation) bool { return d.doubted(p, i) })
	if len(candidates) == 0 {
		return
	}
	broken := slices.ContainsFunc(r.Sync, func(i state.Incarnation) bool { return !state.Has(candidates, i) })
	switch {
	case broken && state.Has(candidates, r.Primary):
		d.propose(p, candidates, r.Primary)
	case broken:
		d.propose(p, candidates, d.choose(candidates, 0))
	case d.stuck(p, r) && len(candidates) > 1:
		d.unfit[onRow{p, r.Primary}] = d.now + unfitLife
		d.propose(p, candidates, d.choose(candidates, r.Primary))
	}
}

func (d *decision) allServe(set []state.Incarnation) bool {
	for _, i := range set {
		if !d.State.Serves(i) {
			return false
		}
	}
	return true
}

// doubt turns the reports of present primaries into doubts.
func (d *decision) doubt() {
	for at, a := range d.reported {
		if int(at.partition) >= len(d.State.Rows) {
			continue
		}
		r := &d.State.Rows[at.partition]
		if a.From == r.Primary && a.Epoch == r.Epoch && at.node != r.Primary && (state.Has(r.Sync, at.node) || r.Learner == at.node) {
			d.doubts[at] = d.now + reportLife
		}
	}
	clear(d.reported)
}

// doubted reports whether the row's primary reported i lately. Nobody doubts the primary that way.
func (d *decision) doubted(p ring.Partition, i state.Incarnation) bool {
	until, ok := d.doubts[onRow{p, i}]
	return ok && d.now < until
}

func (d *decision) stuck(p ring.Partition, r *state.Row) bool {
	at, ok := d.inactive[p]
	return ok && !r.Active() && at.epoch == r.Epoch && d.now-at.since > stuckAfter
}

func (d *decision) mayLearn(i state.Incarnation) bool {
	n := d.State.Node(i)
	return n != nil && n.Status == state.Up
}

// lost starts partitions again whose copies are all lost: the processes are known to be dead, or were
// silent for LostAfter and are given up with this.
func (d *decision) lost() {
	for p := range d.State.Rows {
		r := &d.State.Rows[p]
		if d.State.Params.OnLoss == state.Refuse && !d.recreate[ring.Partition(p)] {
			continue
		}
		if slices.ContainsFunc(r.ActSync, d.State.Serves) || slices.ContainsFunc(r.ActSync, d.mayReturn) {
			continue
		}
		owner := d.ownerOf(ring.Partition(p))
		if owner == 0 {
			return
		}
		for _, i := range r.ActSync {
			if n := d.State.Node(i); n != nil && n.Status == state.Suspended {
				_ = d.try(state.Retire{Node: i})
			}
		}
		_ = d.try(state.DeclareLost{Partition: ring.Partition(p), Epoch: r.Epoch, NewEpoch: r.Epoch.Next(d.unixSeconds), Owner: owner})
	}
}

// mayReturn reports whether the memory of i is not given up yet.
func (d *decision) mayReturn(i state.Incarnation) bool {
	n := d.State.Node(i)
	if n == nil || n.Status == state.Gone {
		return false
	}
	since, known := d.suspended[i]
	return n.Serves() || !known || d.now-since < d.State.Params.LostAfter
}

// ownerOf returns who gets a partition that starts again, 0 when nobody can.
func (d *decision) ownerOf(p ring.Partition) state.Incarnation {
	if want := d.present.of(p); len(want) > 0 {
		return want[0]
	}
	return 0
}

// needed reports whether i, which is absent, may have the last copy of a partition that waits for it, or for an operator.
func (d *decision) needed(i state.Incarnation) bool {
	return slices.ContainsFunc(d.State.Rows, func(r state.Row) bool {
		return state.Has(r.ActSync, i) && !slices.ContainsFunc(r.ActSync, d.State.Serves)
	})
}

// retire ends nodes that have left and given everything away, their votes too, and those that are not expected any more.
func (d *decision) retire() {
	for _, n := range d.State.Nodes {
		since, known := d.suspended[n.Incarnation]
		if n.Status == state.Leaving && d.spares(d.State, n.Incarnation) || n.Status == state.Suspended && known && d.now-since >= d.State.Params.ForgetAfter && !d.needed(n.Incarnation) {
			_ = d.try(state.Retire{Node: n.Incarnation}) // rejected as long as it has something to give away
		}
	}
}
