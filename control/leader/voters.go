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
// not vote yet has the log. A voter that leaves still counts where there would be fewer than three. Before there are,
// the present voters stay for shrinkDelay, or until others are known: who is missing may come back.
// They stay for a moment only when one of them waits to leave and they cannot do without it.
func (l *Leader) Voters(now time.Duration, s *state.State, present []state.Incarnation, ready func(state.Incarnation) bool) []state.Incarnation {
	var pool, leaving []*state.Node
	unknown := 0
	for i := range s.Nodes {
		switch n := &s.Nodes[i]; {
		case n.Status == state.Leaving && slices.Contains(present, n.Incarnation):
			leaving = append(leaving, n)
		case n.Status != state.Up:
		case slices.Contains(present, n.Incarnation) || n.Known && ready(n.Incarnation):
			pool = append(pool, n)
		case !n.Known:
			unknown++
		}
	}
	if missing := 3 - len(pool); missing > 0 && missing <= len(leaving) {
		pool = append(pool, leaving[:missing]...)
	}
	size := min(len(pool), int(s.Params.Voters))
	if size%2 == 0 {
		size--
	}
	switch {
	case size < 1:
		return present
	case size >= 3 || size >= len(present):
		l.shrinkSince = 0
	case l.holdsBack(s, present):
		if !l.shrinksFor(now, holdDelay) {
			return present
		}
	case len(pool)+unknown >= 3 || !l.shrinksFor(now, shrinkDelay):
		return present
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

// shrinksFor reports whether there has been reason to have fewer than three voters for so long.
func (l *Leader) shrinksFor(now, delay time.Duration) bool {
	if l.shrinkSince == 0 {
		l.shrinkSince = now
	}
	return now-l.shrinkSince >= delay
}

// elect picks size nodes of pool, one by one: this leader, then voters, then others, each time from a zone
// that has the fewest so far. Who leaves comes last.
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
			return cmp.Or(cmp.Compare(a.Status, b.Status), cmp.Compare(min(rank(a), 1), min(rank(b), 1)), cmp.Compare(zones[a.Zone], zones[b.Zone]),
				cmp.Compare(rank(a), rank(b)), cmp.Compare(a.Name, b.Name))
		})
		pool = slices.DeleteFunc(pool, func(n *state.Node) bool { return n == best })
		zones[best.Zone]++
		chosen = append(chosen, best.Incarnation)
	}
	slices.Sort(chosen)
	return chosen
}
