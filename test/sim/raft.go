package sim

import (
	"github.com/dramnode/dramnode/control/group"
	"github.com/dramnode/dramnode/control/state"
)

// join starts a process's part in the product's control plane. The first process of the world founds it.
func (w *world) join(n *node) *group.Group {
	cfg := group.Config{
		Self:     state.Node{Incarnation: state.Incarnation(n.id), Name: n.name(), Addr: n.addr()},
		Settings: settings, MaxValue: 1 << 20, Params: w.params(), Timing: w.timing, Seed: w.seed,
		NewID: func() uint64 { return 1 },
	}
	if n.id > 1 {
		var seeds group.Seeds
		for slot := range slots {
			if slot != n.slot {
				seeds.Members = append(seeds.Members, addrs[slot])
			}
		}
		cfg.Seeds = func() group.Seeds { return seeds }
	}
	g, err := group.New(cfg)
	if err != nil {
		panic(err)
	}
	return g
}

// turn sends what the group wants sent, and follows its table and lease.
func (n *node) turn() {
	w := n.w
	for _, m := range n.group.Take() {
		to := slotOf(m.Addr)
		w.send(n.slot, to, func() {
			at := w.nodes[to]
			w.wake(at, func() {
				at.group.Step(at.time(), m)
				at.turn()
			})
		})
	}
	if err := n.group.Err(); err != nil {
		w.logf("n%d(%d) ends: %v", n.slot, n.id, err)
		w.kill(n.slot)
		return
	}
	w.learn(n.group.Table())
	n.follow(n.group.Lease)
}

// learn keeps the newest table that any process has: in a world with the product's consensus, what its log says.
func (w *world) learn(t *state.State) {
	if t == nil || !t.Newer(w.vote.state) && w.vote.known {
		return
	}
	old := &w.vote.state.Rows[0]
	known := w.vote.known
	w.vote.state, w.vote.known = t, true
	row := &t.Rows[0]
	if !known || row.Epoch == old.Epoch && row.ActEpoch == old.ActEpoch {
		return
	}
	w.logf("table %d: %+v", t.Version, *row)
	if row.Epoch != old.Epoch {
		w.stats.epochs++
	}
	if row.LossCount > old.LossCount {
		w.stats.losses++
		w.history.losses = append(w.history.losses, w.stamp())
	} else {
		w.watchLoss(row)
	}
}

// steady reports whether every process is a member that is up, so that one may crash without
// taking a majority of the voters.
func (w *world) steady() bool {
	for _, n := range w.nodes {
		if s := w.vote.state.Node(state.Incarnation(n.id)); s == nil || s.Status != state.Up {
			return false
		}
	}
	return true
}
