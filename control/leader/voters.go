package leader

import (
	"cmp"
	"slices"
	"time"

	"github.com/dramnode/dramnode/control/state"
)

// Voters returns, ascending, who should vote in s: the largest odd number of the nodes that are up and known, at most
// Params.Voters, spread over zones, with as few changes as possible. ready says whether a node that does
// not vote yet has the log. The present voters stay when there is nothing better, and for shrinkDelay
// before there are fewer than three of them, or until others are known: who is missing may come back.
func (l *Leader) Voters(now time.Duration, s *state.State, present []state.Incarnation, ready func(state.Incarnation) bool) []state.Incarnation {
	var pool []*state.Node
	unknown := 0
	for i := range s.Nodes {
		switch n := &s.Nodes[i]; {
		case n.Status != state.Up:
		case slices.Contains(present, n.Incarnation) || n.Known && ready(n.Incarnation):
			pool = append(pool, n)
		case !n.Known:
			unknown++
		}
	}
	size := min(len(pool), int(s.Params.Voters))
	if size%2 == 0 {
		size--
	}
	if size < 1 {
		return present
	}
	if size < len(present) && size < 3 && (!l.mayShrink(now) || len(pool)+unknown >= 3) {
		return present
	}
	if size >= len(present) || size >= 3 {
		l.shrinkAt = 0
	}
	return l.elect(pool, present, size)
}

func (l *Leader) mayShrink(now time.Duration) bool {
	if l.shrinkAt == 0 {
		l.shrinkAt = now + shrinkDelay
	}
	return now >= l.shrinkAt
}

// elect picks size nodes of pool, one by one: this leader, then voters, then others, each time from a zone
// that has the fewest so far.
func (l *Leader) elect(pool []*state.Node, present []state.Incarnation, size int) []state.Incarnation {
	zones := map[string]int{}
	rank := func(n *state.Node) int {
		switch {
		case n.Incarnation == l.self:
			return 0
		case slices.Contains(present, n.Incarnation):
			return 1
		}
		return 2
	}
	var chosen []state.Incarnation
	for range size {
		best := slices.MinFunc(pool, func(a, b *state.Node) int {
			return cmp.Or(cmp.Compare(min(rank(a), 1), min(rank(b), 1)), cmp.Compare(zones[a.Zone], zones[b.Zone]),
				cmp.Compare(rank(a), rank(b)), cmp.Compare(a.Name, b.Name))
		})
		pool = slices.DeleteFunc(pool, func(n *state.Node) bool { return n == best })
		zones[best.Zone]++
		chosen = append(chosen, best.Incarnation)
	}
	slices.Sort(chosen)
	return chosen
}
