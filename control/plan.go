package control

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/ring"
)

// A Move names one handover of a partition: MoveID is the table version that ordered it.
type Move struct {
	Partition ring.Partition
	MoveID    uint64
}

// Input is what the publisher knows when it plans the next table. Planning is a pure function of it.
type Input struct {
	Self        uint64 // the publisher's incarnation
	UnixSeconds uint32
	Joins       []Member                 // processes that ask to become members and answered just now
	Leaves      []uint64                 // members that ask to leave
	Absent      map[uint64]time.Duration // members that nobody reaches, and for how long
	Done        []Move                   // moves whose target has everything
	Aborted     []Move                   // moves that the source gave up
}

// Limits bounds what a plan does at once.
type Limits struct {
	LostAfter      time.Duration // absence after which a member's partitions are given up
	AbortAfter     time.Duration // absence after which moves to a member are called off
	MovesPerMember int           // moves under way per source and per target
}

// DefaultLimits are the values of ARCHITECTURE.md.
func DefaultLimits() Limits {
	return Limits{LostAfter: 30 * time.Second, AbortAfter: 2 * time.Second, MovesPerMember: 32}
}

// WithDefaults fills the zero fields.
func (l Limits) WithDefaults() Limits {
	d := DefaultLimits()
	return Limits{
		LostAfter:      cmp.Or(l.LostAfter, d.LostAfter),
		AbortAfter:     cmp.Or(l.AbortAfter, d.AbortAfter),
		MovesPerMember: cmp.Or(l.MovesPerMember, d.MovesPerMember),
	}
}

// A Plan is the next table with the reasons, for the log and the event list.
type Plan struct {
	Table   *Table           // nil when nothing changes
	Events  []string         // one line each
	Refused map[uint64]error // joins that will never be accepted, by incarnation
}

// A Planner computes tables. It remembers the last placement, which takes milliseconds to compute.
type Planner struct {
	Limits Limits

	cachedFor string
	cached    [][]uint16
}

// Bootstrap is the first table of a new cluster: self owns everything.
func Bootstrap(self Member, clusterID uint64, settings ring.Config, maxValue uint32, unixSeconds uint32) *Table {
	self.JoinSeq, self.Leaving = 1, false
	t := &Table{
		ClusterID: clusterID, Version: 1, Publisher: self.Incarnation, MaxValue: maxValue,
		Settings: settings, Members: []Member{self}, Rows: make([]Row, settings.Count()),
	}
	for p := range t.Rows {
		t.Rows[p] = Row{Epoch: nextEpoch(0, unixSeconds), MoveTo: None, Backups: NoBackups}
	}
	return t
}

// nextEpoch keeps epochs, and so generations, growing even over a full restart of the cluster. The
// top bit stays clear: generations are int64 in some clients. A clock that is far ahead does not use
// up the epochs.
func nextEpoch(old, unixSeconds uint32) uint32 {
	return max(old+1, min(unixSeconds, math.MaxInt32-1<<24))
}

// NextPublisher returns the member that may publish the table after t: the first in (JoinSeq, Name) order
// that is not absent. It is None when all are.
func (t *Table) NextPublisher(absent func(incarnation uint64) bool) uint16 {
	for i := range t.Members {
		if !absent(t.Members[i].Incarnation) {
			return uint16(i)
		}
	}
	return None
}

// Next plans the table after t.
func (p *Planner) Next(t *Table, in Input) Plan {
	d := draft{Table: t.clone(), in: in, limits: p.Limits, plan: Plan{Refused: map[uint64]error{}}}
	d.Version++
	d.Table.Publisher = in.Self
	d.moved()
	d.leaves()
	d.joins()
	d.lost()
	d.callOff()
	if targets, err := p.targets(&d); err == nil {
		d.assign(targets)
	} else {
		d.event("no placement: %v", err)
	}
	d.removeDrained()
	if !d.changed {
		return Plan{Refused: d.plan.Refused}
	}
	d.order()
	d.plan.Table = d.Table
	return d.plan
}

// A draft is a table being changed. Members keep their index until order.
type draft struct {
	*Table
	in      Input
	limits  Limits
	plan    Plan
	changed bool
}

func (d *draft) event(format string, args ...any) {
	d.plan.Events = append(d.plan.Events, fmt.Sprintf(format, args...))
}

func (d *draft) absentFor(member uint16) time.Duration {
	return d.in.Absent[d.Members[member].Incarnation]
}

func (d *draft) leaves() {
	for _, incarnation := range d.in.Leaves {
		if i := d.Index(incarnation); i != None && !d.Members[i].Leaving {
			d.Members[i].Leaving, d.changed = true, true
			d.event("%s leaves", d.Members[i].Name)
		}
	}
}

func (d *draft) joins() {
	joins := slices.Clone(d.in.Joins)
	slices.SortFunc(joins, func(a, b Member) int { return strings.Compare(a.Name, b.Name) })
	for _, m := range joins {
		if d.Index(m.Incarnation) != None {
			continue
		}
		m.Leaving, m.JoinSeq = false, d.nextJoinSeq()
		switch old := d.Named(m.Name); {
		case old == None:
			d.admit(m)
		case d.absentFor(old) > 0:
			d.replace(old, m)
		default:
			d.plan.Refused[m.Incarnation] = fmt.Errorf("%w: the name %q is in use by %s", dramnode.ErrClusterConflict, m.Name, d.Members[old].Addr)
		}
	}
}

func (d *draft) nextJoinSeq() (seq uint64) {
	for i := range d.Members {
		seq = max(seq, d.Members[i].JoinSeq)
	}
	return seq + 1
}

func (d *draft) admit(m Member) {
	placed := len(d.Rows) - len(d.Settings.Rules) // rules name their nodes
	if len(d.Members) >= placed || len(d.Members) >= maxMembers {
		d.plan.Refused[m.Incarnation] = fmt.Errorf("%w: %d members are too many for %d partitions, at most %d", dramnode.ErrInvalid, len(d.Members)+1, placed, maxMembers)
		return
	}
	d.Members = append(d.Members, m)
	d.changed = true
	d.event("%s joins at %s", m.Name, m.Addr)
}

// replace retires a dead life of a name: the new process has none of its entries.
func (d *draft) replace(old uint16, m Member) {
	d.Members[old] = m
	d.changed = true
	lost := 0
	for p := range d.Rows {
		r := &d.Rows[p]
		if r.MoveTo == old {
			r.MoveTo, r.MoveID = None, 0
		}
		if r.Owner == old {
			d.lose(r, old)
			lost++
		}
	}
	d.event("%s is back at %s as a new process: %d partitions lost and recreated empty", m.Name, m.Addr, lost)
}

func (d *draft) lose(r *Row, owner uint16) {
	*r = Row{Epoch: nextEpoch(r.Epoch, d.in.UnixSeconds), Owner: owner, MoveTo: None, Losses: r.Losses + 1, Backups: NoBackups}
}

// lost gives up members that were absent for too long. Their rows stay without owner until assign.
func (d *draft) lost() {
	for i := range d.Members {
		gone := uint16(i)
		if d.absentFor(gone) < d.limits.LostAfter {
			continue
		}
		lost := 0
		for p := range d.Rows {
			r := &d.Rows[p]
			if r.MoveTo == gone {
				r.MoveTo, r.MoveID = None, 0
			}
			if r.Owner == gone {
				d.lose(r, None)
				lost++
			}
		}
		d.Members[i].Leaving, d.changed = true, true
		d.event("%s was absent for %v: %d partitions lost", d.Members[i].Name, d.absentFor(gone).Round(time.Second), lost)
	}
}

// moving returns the row that m is about, nil when another plan decided first.
func (d *draft) moving(m Move) *Row {
	if int(m.Partition) < len(d.Rows) && d.Rows[m.Partition].MoveTo != None && d.Rows[m.Partition].MoveID == m.MoveID {
		return &d.Rows[m.Partition]
	}
	return nil
}

// moved commits moves, before their sources may count as lost. A target that died since it had
// everything gets nothing: the source has everything too.
func (d *draft) moved() {
	for _, m := range d.in.Done {
		if r := d.moving(m); r != nil && d.absentFor(r.MoveTo) == 0 {
			*r = Row{Epoch: r.Epoch + 1, Owner: r.MoveTo, MoveTo: None, Assigned: r.MoveID, Losses: r.Losses, Backups: NoBackups}
			d.changed = true
		}
	}
}

// callOff ends moves whose source gave up or whose target cannot take them.
func (d *draft) callOff() {
	for _, m := range d.in.Aborted {
		if r := d.moving(m); r != nil {
			r.MoveTo, r.MoveID = None, 0
			d.changed = true
		}
	}
	for p := range d.Rows {
		r := &d.Rows[p]
		if r.MoveTo != None && (d.absentFor(r.MoveTo) >= d.limits.AbortAfter || d.Members[r.MoveTo].Leaving) {
			d.event("partition %d stays with %s: %s cannot take it", p, d.Members[r.Owner].Name, d.Members[r.MoveTo].Name)
			r.MoveTo, r.MoveID = None, 0
			d.changed = true
		}
	}
}

// targets returns the wanted owner of each partition as an index into the draft's members.
func (p *Planner) targets(d *draft) ([]uint16, error) {
	var members []ring.Member
	var index []uint16
	for i, m := range d.Members {
		if !m.Leaving {
			members = append(members, ring.Member{Name: m.Name, Zone: m.Zone})
			index = append(index, uint16(i))
		}
	}
	if len(members) == 0 {
		return nil, fmt.Errorf("%w: every member is leaving", dramnode.ErrUnavailable)
	}
	if key := fmt.Sprintf("%x %q", d.Settings.Digest(), members); key != p.cachedFor {
		targets, err := d.Settings.Targets(members, 1)
		if err != nil {
			return nil, err
		}
		p.cachedFor, p.cached = key, targets
	}
	wanted := make([]uint16, len(d.Rows))
	for i := range wanted {
		wanted[i] = index[p.cached[i][0]]
	}
	return wanted, nil
}

// assign gives ownerless rows to their targets and orders moves towards the targets, a few at a time.
func (d *draft) assign(wanted []uint16) {
	out, in := make([]int, len(d.Members)), make([]int, len(d.Members))
	self := d.Index(d.in.Self)
	for p := range d.Rows {
		if r := &d.Rows[p]; r.Owner == None {
			r.Owner, d.changed = wanted[p], true
			if d.absentFor(r.Owner) > 0 && self != None {
				r.Owner = self // there is nothing to lose a second time
			}
		} else if r.MoveTo != None {
			out[r.Owner]++
			in[r.MoveTo]++
		}
	}
	for p := range d.Rows {
		r := &d.Rows[p]
		to := wanted[p]
		if r.MoveTo != None || r.Owner == to || d.absentFor(r.Owner) > 0 || d.absentFor(to) > 0 {
			continue
		}
		if out[r.Owner] >= d.limits.MovesPerMember || in[to] >= d.limits.MovesPerMember {
			continue
		}
		r.MoveTo, r.MoveID, d.changed = to, d.Version, true
		out[r.Owner]++
		in[to]++
	}
}

// removeDrained drops leaving members that no row names.
func (d *draft) removeDrained() {
	named := make([]bool, len(d.Members))
	for _, r := range d.Rows {
		if r.Owner == None { // no placement: keep everything as it was until somebody stays
			d.changed = false
			return
		}
		named[r.Owner] = true
		if r.MoveTo != None {
			named[r.MoveTo] = true
		}
	}
	kept := d.Members[:0:0]
	position := make([]uint16, len(d.Members))
	for i, m := range d.Members {
		if m.Leaving && !named[i] {
			d.event("%s has left", m.Name)
			d.changed = true
			continue
		}
		position[i] = uint16(len(kept))
		kept = append(kept, m)
	}
	if len(kept) == 0 {
		d.changed = false
		return
	}
	d.Members = kept
	d.renumber(position)
}

// order sorts the members by (JoinSeq, Name), as a table must have them.
func (d *draft) order() {
	by := make([]int, len(d.Members))
	for i := range by {
		by[i] = i
	}
	slices.SortFunc(by, func(a, b int) int {
		if before(&d.Members[a], &d.Members[b]) {
			return -1
		}
		return 1
	})
	sorted, position := make([]Member, len(by)), make([]uint16, len(by))
	for to, from := range by {
		sorted[to], position[from] = d.Members[from], uint16(to)
	}
	d.Members = sorted
	d.renumber(position)
}

func (d *draft) renumber(position []uint16) {
	for p := range d.Rows {
		r := &d.Rows[p]
		r.Owner = position[r.Owner]
		if r.MoveTo != None {
			r.MoveTo = position[r.MoveTo]
		}
	}
}
