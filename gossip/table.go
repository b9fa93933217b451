package gossip

import (
	"cmp"
	"slices"
	"time"
)

// A table holds the nodes that memberlist told us of, this one not counted, and the addresses where
// nodes were seen. The caller locks.
type table struct {
	members map[string]*Member   // by Meta.key
	seen    map[string]time.Time // gossip address -> last news from there
}

func newTable() table {
	return table{members: map[string]*Member{}, seen: map[string]time.Time{}}
}

// put records what key says, and whether it lives. It reports whether that was news.
func (t *table) put(m Member) bool {
	key := m.key()
	t.remember(m.GossipAddr, m.Since)
	old, known := t.members[key]
	if !known && len(t.members) >= maxMembers && !t.dropOldestDead() {
		return false
	}
	if known && old.Alive == m.Alive {
		m.Since = old.Since
	}
	if known && *old == m {
		return false
	}
	t.members[key] = &m
	return true
}

// full reports whether there is room for no other node.
func (t *table) full() bool {
	if len(t.members) < maxMembers {
		return false
	}
	for _, m := range t.members {
		if !m.Alive {
			return false
		}
	}
	return true
}

func (t *table) dropOldestDead() bool {
	var oldest *Member
	for _, m := range t.members {
		if !m.Alive && (oldest == nil || m.Since.Before(oldest.Since)) {
			oldest = m
		}
	}
	if oldest == nil {
		return false
	}
	delete(t.members, oldest.key())
	return true
}

// remember keeps addr among the maxRemembered addresses with the latest news.
func (t *table) remember(addr string, now time.Time) {
	t.seen[addr] = now
	if len(t.seen) <= maxRemembered {
		return
	}
	oldest := addr
	for a, at := range t.seen {
		if at.Before(t.seen[oldest]) {
			oldest = a
		}
	}
	delete(t.seen, oldest)
}

// forget drops the nodes that died before then and reports whether there were any. Their addresses stay.
func (t *table) forget(then time.Time) bool {
	before := len(t.members)
	for key, m := range t.members {
		if !m.Alive && m.Since.Before(then) {
			delete(t.members, key)
		}
	}
	return len(t.members) != before
}

// aliveAddrs are the gossip addresses of the living.
func (t *table) aliveAddrs() map[string]bool {
	addrs := make(map[string]bool, len(t.members))
	for _, m := range t.members {
		if m.Alive {
			addrs[m.GossipAddr] = true
		}
	}
	return addrs
}

// conflicts reports whether two nodes hold tables of different clusters.
func conflicts(a, b uint64) bool { return a != 0 && b != 0 && a != b }

// split copies the members, sorted, into those of our cluster and those of others.
func (t *table) split(clusterID uint64) (ours, others []Member) {
	for _, m := range t.members {
		if conflicts(m.ClusterID, clusterID) {
			others = append(others, *m)
		} else {
			ours = append(ours, *m)
		}
	}
	sortMembers(ours)
	sortMembers(others)
	return ours, others
}

func sortMembers(members []Member) {
	slices.SortFunc(members, func(a, b Member) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Incarnation, b.Incarnation))
	})
}
