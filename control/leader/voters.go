package leader

import (
	"cmp"
	"slices"
	"time"

	"github.com/dramnode/dramnode/control/state"
)

// Voting notes who votes; settled is false while that changes. Until it is said, nobody who leaves is let go.
func (l *Leader) Voting(present []state.Incarnation, settled bool) {
	l.voters, l.settled = present, settled
}

// spares reports whether the voters can do without n: the rest of them who are there must be a majority. Who has left or was replaced
// votes until the next change of the voters, although nobody is there any more.
func (l *Leader) spares(s *state.State, n state.Incarnation) bool {
	if !l.settled || !slices.Contains(l.voters, n) {
		return l.settled
	}
	there := 0
	for _, v := range l.voters {
		if o := s.Node(v); v != n && o != nil && o.Serves() {
			there++
		}
	}
	return there > len(l.voters)/2
}

// Voters returns, ascending, who should vote in s: the largest odd number of the nodes that are up and known, at most
// Params.Voters, spread over zones, with as few changes as possible. ready says whether a node that does
// not vote yet has the log. The present voters stay when there is nothing better, and for shrinkDelay
// before there are fewer than three of them, or until others are known: who is missing may come back. They do not stay
// when one of them waits to leave and they could not do without it.
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
	if size < len(present) && size < 3 && !l.holdsBack(s, present) && (!l.mayShrink(now) || len(pool)+unknown >= 3) {
		return present
	}
	if size >= len(present) || size >= 3 {
		l.shrinkAt = 0
	}
	return l.elect(pool, present, size)
}

// holdsBack reports whether one of the present voters could leave but for its vote.
func (l *Leader) holdsBack(s *state.State, present []state.Incarnation) bool {
	return slices.ContainsFunc(present, func(i state.Incarnation) bool {
		n := s.Node(i)
		return n != nil && n.Status == state.Leaving && !l.spares(s, i)
	})
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
