package node

import (
	"cmp"
	"slices"

	"github.com/dramnode/dramnode/control"
	"github.com/dramnode/dramnode/control/state"
)

// project returns what routers, clients and people see of s. It depends on nothing else, so all nodes show the
// same at a version. It returns nil when s has no member left.
func project(s *state.State) *control.Table {
	members := slices.DeleteFunc(slices.Clone(s.Nodes), func(n state.Node) bool { return n.Status == state.Gone })
	if len(members) == 0 {
		return nil
	}
	slices.SortFunc(members, func(a, b state.Node) int { return cmp.Or(cmp.Compare(a.Joined, b.Joined), cmp.Compare(a.Name, b.Name)) })
	t := &control.Table{
		ClusterID: s.ClusterID, Version: uint64(s.Era)<<control.EraShift | s.Version,
		MaxValue: s.MaxValue, Replicas: s.Params.Replicas, Settings: s.Settings,
		Members: make([]control.Member, len(members)), Rows: make([]control.Row, len(s.Rows)),
	}
	seats := make(seats, len(members))
	for i, n := range members {
		seats[n.Incarnation] = seat{uint16(i), n.Status != state.Suspended}
		t.Members[i] = control.Member{
			Name: n.Name, Incarnation: uint64(n.Incarnation), Addr: n.Addr, Zone: n.Zone, JoinSeq: n.Joined, Leaving: n.Status == state.Leaving,
		}
	}
	for p := range s.Rows {
		t.Rows[p] = seats.row(&s.Rows[p])
	}
	return t
}

// seats are where the members are in the table.
type seats map[state.Incarnation]seat

type seat struct {
	index  uint16
	serves bool // it is not suspended
}

func (s seats) row(r *state.Row) control.Row {
	row := control.Row{Epoch: uint32(r.Epoch), Owner: s.owner(r), MoveTo: control.None, Losses: r.LossCount + r.Doubts, Backups: control.NoBackups}
	backups := row.Backups[:0]
	for _, i := range r.Sync {
		if at, ok := s[i]; ok && at.serves && at.index != row.Owner && len(backups) < len(row.Backups) {
			backups = append(backups, at.index)
		}
	}
	if at, ok := s[r.Learner]; ok && at.index != row.Owner {
		row.MoveTo, row.MoveID = at.index, r.AssignID
	}
	return row
}

// owner is the primary. When that is gone, and the row has yet to follow, another one stands there,
// who will refuse.
func (s seats) owner(r *state.Row) uint16 {
	if at, ok := s[r.Primary]; ok {
		return at.index
	}
	for _, set := range [][]state.Incarnation{r.Sync, r.ActSync} {
		for _, i := range set {
			if at, ok := s[i]; ok {
				return at.index
			}
		}
	}
	return 0
}
