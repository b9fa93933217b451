package state

// recoveryGap is what epochs jump by, over those of configurations that nobody remembers.
const recoveryGap = 1 << 10

// Recover is the first state of another era, for when the voters have lost their majority: alive are the
// processes that are left, ascending; every other node is known to be dead. Each partition goes on with the
// members of its activated set that are alive, and notes a doubt: a later configuration may have been lost
// with the voters, and writes that only it has acknowledged. Partitions without such a member are lost,
// and left to DeclareLost.
func (s *State) Recover(era uint32, alive []Incarnation, unixSeconds uint32) *State {
	next := s.clone()
	next.Era, next.Version = era, s.Version+1
	for i := range next.Nodes {
		switch n := &next.Nodes[i]; {
		case !Has(alive, n.Incarnation):
			n.Status = Gone
		case n.Status == Suspended:
			n.Status = Up
		}
	}
	next.NodesVersion = next.Version
	for p := range next.Rows {
		r := &next.Rows[p]
		var left []Incarnation
		for _, i := range r.ActSync {
			if n := next.Node(i); n.Serves() {
				left = append(left, i)
			}
		}
		if len(left) == 0 {
			left = r.Sync
		} else {
			r.ActSync = left
			if r.ActEpoch != 0 {
				r.Doubts++
				next.noted(r)
			}
		}
		primary := r.Primary
		if !Has(left, primary) {
			primary = left[p%len(left)]
		}
		r.propose(min(maxEpoch, (r.Epoch+recoveryGap).Next(unixSeconds)), primary, left, next.Version)
	}
	next.prune()
	return next
}
