package group

import (
	"slices"
	"testing"
	"time"

	"github.com/dramnode/dramnode/control/state"
)

// failover returns how long, in virtual time, it takes from the death of a node until every row is active
// without it.
func failover(t *testing.T, seed uint64, leader bool) time.Duration {
	w := cluster(t, seed, 5)
	victim := w.leader()
	for _, a := range w.addrs() {
		if p := w.procs[a]; !leader && p != w.leader() {
			victim = p
			break
		}
	}
	w.run(time.Duration(w.r.Int64N(int64(200 * ms))))
	died := w.now
	delete(w.procs, victim.addr)
	served := func(r state.Row) bool { return r.Active() && !state.Has(r.Sync, victim.inc) }
	for w.now-died < 10*time.Second {
		w.run(5 * ms)
		if !slices.ContainsFunc(w.newest.Rows, func(r state.Row) bool { return !served(r) }) {
			return w.now - died
		}
	}
	t.Fatalf("seed %d: rows are not active 10 s after the death of %s", seed, victim.addr)
	return 0
}

// TestFailoverTimes: 1.5 s after a node's death, and 2 s after the leader's, its rows serve again.
func TestFailoverTimes(t *testing.T) {
	for _, c := range []struct {
		name   string
		leader bool
		limit  time.Duration
	}{{"node", false, 1500 * ms}, {"leader", true, 2 * time.Second}} {
		var times []time.Duration
		for seed := range uint64(40) {
			times = append(times, failover(t, 100+seed, c.leader))
		}
		slices.Sort(times)
		t.Logf("%s: median %v, worst of %d %v", c.name, times[len(times)/2], len(times), times[len(times)-1])
		if worst := times[len(times)-1]; worst > c.limit {
			t.Errorf("%s: %v, want at most %v", c.name, worst, c.limit)
		}
	}
}
