package sim

import (
	"fmt"
	"slices"

	"github.com/dramnode/dramnode/control/state"
	"github.com/dramnode/dramnode/replica"
	"github.com/dramnode/dramnode/wire"
)

// A Result is what a run came to.
type Result struct {
	Seed   uint64
	Faults []string
	Trace  string
	stats
}

// Run runs a seed, with entries kept by package storage or on the heap. Where a rule was removed, a panic is a fault
// like any other. The trace is kept on demand.
func Run(seed uint64, arena, removed, trace bool) (r Result) {
	w := newWorld(seed, arena, trace)
	defer func() {
		if p := recover(); p != nil {
			if !removed {
				panic(fmt.Sprintf("seed %d: %v", seed, p))
			}
			w.fault("panic: %v", p)
		}
		r = Result{Seed: seed, Faults: w.faults, stats: w.stats}
		if w.trace != nil {
			r.Trace = w.trace.String()
		}
	}()
	w.after(100, w.nemesis)
	w.run(w.length)
	w.heal()
	if w.settle() {
		w.finalReads()
	}
	w.check()
	return r
}

// nemesis makes trouble every hundred ticks.
func (w *world) nemesis() {
	if w.healed {
		return
	}
	w.after(100, w.nemesis)
	if w.chance(w.crash) {
		w.crashOne(w.rng.IntN(slots))
	}
	if w.loss && !w.raft && w.rng.IntN(60) == 0 {
		w.massacre()
	}
	if w.loss && !w.raft && w.rng.IntN(3) == 0 {
		w.strand()
	}
	if w.chance(w.traits.pause) {
		n := w.nodes[w.rng.IntN(slots)]
		w.pause(n, w.now+w.between(20, w.stand))
		w.logf("n%d(%d) is paused until %d", n.slot, n.id, n.paused)
	}
	if w.chance(w.part) {
		w.cutSome()
	}
	if w.chance(w.mend) {
		w.cut = [slots][slots]bool{}
	}
	w.elections()
}

// massacre kills every replica of the activated set: only who was one before, if anybody, has old entries.
func (w *world) massacre() {
	for _, i := range w.vote.state.Rows[0].ActSync {
		if n := w.node(uint64(i)); n != nil {
			w.kill(n.slot)
		}
	}
}

// strand kills a primary that waits, alone in its row, for its activation, and lets everybody else stand still until they are
// given up: all of them at once, since the control plane's leader stands still too.
func (w *world) strand() {
	row := &w.vote.state.Rows[0]
	n := w.node(uint64(row.Primary))
	if row.Active() || len(row.Sync) > 1 || n == nil || n.slot == w.vote.leader {
		return
	}
	w.kill(n.slot)
	for _, other := range w.nodes {
		if other.slot == w.vote.leader {
			w.pause(other, w.now+w.lease/2)
		} else {
			w.pause(other, w.now+3*w.lease)
		}
	}
}

// cutSome breaks a link or all links of a process, in one direction or both.
func (w *world) cutSome() {
	a, b := w.rng.IntN(slots), w.rng.IntN(slots)
	both := !w.chance(w.oneWay)
	alone := w.chance(w.isolate)
	for k := range slots {
		if k != a && (alone || k == b) {
			w.cut[a][k] = true
			w.cut[k][a] = w.cut[k][a] || both
		}
	}
	w.logf("cut n%d alone %v n%d both %v", a, alone, b, both)
}

// elections replaces a leader that is gone, and sometimes one that is not.
func (w *world) elections() {
	if w.raft {
		return
	}
	l := w.nodes[w.vote.leader]
	fine := l.leader != nil && l.leader.term == w.vote.term && l.paused <= w.now && w.vote.reaches(w.vote.leader)
	if fine && !w.chance(w.traits.elect) || !fine && w.rng.IntN(4) > 0 {
		return
	}
	slot := w.rng.IntN(voters)
	if n := w.nodes[slot]; n.paused <= w.now && w.vote.reaches(slot) {
		w.vote.elect(slot)
	}
}

// crashOne kills a process; another of its name starts. Unless the world has losses, one replica of the last
// activated set always survives.
func (w *world) crashOne(slot int) {
	old := w.nodes[slot]
	row := &w.vote.state.Rows[0]
	last := w.living(row.ActSync, old.id) == 0 || w.living(row.Sync, old.id) == 0 // the proposed set may be activated soon
	if last && !w.loss || w.raft && (!w.steady() || w.now < w.calm) {
		return
	}
	w.calm = w.now + 3*w.lease
	w.kill(slot)
}

// kill ends a process and starts another of its name.
func (w *world) kill(slot int) {
	old := w.nodes[slot]
	old.dead = true
	w.watchLoss(&w.vote.state.Rows[0])
	n := w.birth(slot)
	w.logf("n%d(%d) crashed, now it is %d", slot, old.id, n.id)
	if n.id == old.id && !w.raft {
		n.install(w.vote.state)
	}
}

// living counts the processes of a set that live, but for one.
func (w *world) living(set []state.Incarnation, except uint64) (n int) {
	for _, i := range set {
		if uint64(i) != except && w.node(uint64(i)) != nil {
			n++
		}
	}
	return n
}

// watchLoss notes that no process of the activated set is left.
func (w *world) watchLoss(row *state.Row) {
	if w.living(row.ActSync, 0) == 0 {
		w.history.losses = append(w.history.losses, w.stamp())
		w.logf("all replicas are lost")
	}
}

// heal ends all trouble.
func (w *world) heal() {
	w.healed = true
	w.cut = [slots][slots]bool{}
	for _, n := range w.nodes {
		n.paused = min(n.paused, w.now)
		n.shared.Records.Limit = w.recordLimit()
		w.resume(n)
	}
	w.replaceLeader()
	w.logf("HEALED")
}

// replaceLeader elects one where there is none. One may end after all trouble: it retires itself if it was given up.
func (w *world) replaceLeader() {
	if l := w.nodes[w.vote.leader]; !w.raft && (l.leader == nil || l.leader.term != w.vote.term) {
		w.vote.elect(0)
	}
}

// settle waits until the partition has all its copies, and they agree. It is false when the control plane lost a
// majority of its voters, which a world with the product's consensus does not always prevent.
func (w *world) settle() bool {
	for range 80 {
		w.run(w.now + 200)
		w.replaceLeader()
		if why := w.unsettled(); why == "" {
			return true
		}
	}
	if w.raft && !slices.ContainsFunc(w.nodes[:], func(n *node) bool { return n.group.Leading() }) {
		w.stats.leaderless++
		return false
	}
	w.fault("after healing: %s", w.unsettled())
	return true
}

// unsettled says what is not as it must become.
func (w *world) unsettled() string {
	row := &w.vote.state.Rows[0]
	if !row.Active() || len(row.Sync) != w.copies || row.Learner != 0 {
		return fmt.Sprintf("the row is %+v", *row)
	}
	for _, c := range w.callers {
		if len(c.open) > 0 || !c.idle {
			return fmt.Sprintf("client %d waits for %v", c.id, c.open)
		}
	}
	for _, i := range row.Sync {
		n := w.node(uint64(i))
		switch {
		case n == nil:
			return fmt.Sprintf("replica %d is gone", i)
		case n.part.Row().Epoch != row.Epoch || !n.part.Confirm(n.clock(), row.Epoch):
			return fmt.Sprintf("replica %d has no lease or another epoch", i)
		case i == row.Primary && !n.part.Active():
			return "the primary does not serve"
		case n.store.Check() != nil:
			return fmt.Sprintf("the store of replica %d: %v", i, n.store.Check())
		case n.part.Busy() || n.store.Used() != n.store.Blobs() || n.store.Tombstones() > 0:
			return fmt.Sprintf("replica %d is busy, or holds %d blobs for %d versions and %d tombstones", i, n.store.Blobs(), n.store.Used(), n.store.Tombstones())
		}
	}
	return ""
}

// finalReads reads every key at every replica in sync.
func (w *world) finalReads() {
	row := &w.vote.state.Rows[0]
	reader := &client{w: w, id: 99}
	primary := w.node(uint64(row.Primary))
	for _, i := range row.Sync {
		n := w.node(uint64(i))
		if n == nil || primary == nil {
			continue
		}
		if now := &w.vote.state.Rows[0]; len(w.faults) == 0 && now.Epoch == row.Epoch {
			w.compare(primary, n, inTheEnd)
		}
		for k := range w.keys {
			w.finalRead(reader, n, keyName(k), row)
		}
	}
}

func (w *world) finalRead(reader *client, n *node, key []byte, row *state.Row) {
	o := &op{kind: wire.KindGet, key: key}
	reader.counter++
	o.origin.Client, o.origin.Counter = reader.id, reader.counter
	o.call, o.callAt = w.stamp(), w.now
	w.history.ops = append(w.history.ops, o)
	for range 5 {
		if !state.Has(w.vote.state.Rows[0].Sync, state.Incarnation(n.id)) {
			o.failed = true // the copy moved away meanwhile
			return
		}
		o.attempts++
		n.request(n.clock(), &attempt{op: o, number: o.attempts, client: reader}, requestOf(o, row))
		for range 10 {
			if w.run(w.now + 30); o.done {
				return
			}
		}
	}
	if len(w.faults) == 0 {
		w.fault("a read after healing has no answer")
	}
}

func requestOf(o *op, row *state.Row) replica.Request {
	return replica.Request{Kind: o.kind, Key: o.key, Epoch: row.Epoch}
}
