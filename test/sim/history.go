package sim

import (
	"bytes"
	"cmp"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/dramnode/dramnode/control/state"
	"github.com/dramnode/dramnode/replica"
	"github.com/dramnode/dramnode/wire"
)

// never is later than every stamp.
const never = int64(1) << 60

// A history is what clients saw, and which generations the replicas gave to which writes.
type history struct {
	ops    []*op
	made   map[generation]*made
	losses []int64 // stamps: from then on all entries are gone
	active map[state.Epoch]uint64
}

// A made is one generation.
type made struct {
	gen       generation
	origin    replica.Origin
	key       []byte
	value     int
	deleted   bool
	committed bool
	ttl       bool
	at        int64 // tick: not before the write's deadline is reckoned from here
	life      int64
}

// made notes that a replica holds a generation, and that it is the same everywhere.
func (w *world) made(n *node, key []byte, v replica.Pending, value int) {
	m := w.history.made[v.Gen]
	if m == nil {
		m = &made{gen: v.Gen, origin: v.Origin, key: bytes.Clone(key), value: value, deleted: v.Deleted, at: w.now}
		if v.Deadline != 0 {
			m.ttl, m.life = true, v.Deadline-n.clock()
		}
		w.history.made[v.Gen] = m
		return
	}
	same := bytes.Equal(m.key, key) && m.origin.Client == v.Origin.Client && m.origin.Counter == v.Origin.Counter
	if !same || !v.Deleted && (m.deleted || m.value != value) {
		w.fault("generation %x is two writes: %+v and %s %+v value %d", v.Gen, *m, key, v, value)
	}
}

// Commit implements replica.Store.
func (s *watched) Commit(key []byte) {
	_, v := s.Get(key)
	if m := s.n.w.history.made[v.Gen]; m != nil {
		m.committed = true
	}
	s.Subject.Commit(key)
}

// recent returns a generation for a condition: one that a client saw under key, or none.
func (h *history) recent(w *world, key []byte) generation {
	if w.rng.IntN(4) == 0 {
		return 0
	}
	for i := len(h.ops) - 1; i >= 0; i-- {
		if o := h.ops[i]; o.done && !o.unknown && !o.failed && bytes.Equal(o.key, key) && o.kind != wire.KindDeleteRange && w.rng.IntN(4) > 0 {
			if o.kind == wire.KindDelete {
				return 0
			}
			return o.gen
		}
	}
	return 0
}

// watchActive notes who serves as primary of which epoch, and compares the replicas in sync when one begins to.
func (w *world) watchActive(n *node) {
	if !n.part.Active() {
		return
	}
	row := n.part.Row()
	if w.history.active == nil {
		w.history.active = map[state.Epoch]uint64{}
	}
	by, ok := w.history.active[row.Epoch]
	if ok && by != n.id {
		w.fault("epoch %d has primaries %d and %d", row.Epoch, by, n.id)
	}
	if ok {
		return
	}
	w.history.active[row.Epoch] = n.id
	w.logf("n%d(%d) ACTIVE in epoch %d, sync %v", n.slot, n.id, row.Epoch, row.Sync)
	for _, id := range row.Sync {
		if peer := w.node(uint64(id)); peer != nil && peer.part.Row().Epoch == row.Epoch {
			w.compare(n, peer, "at activation")
		}
	}
}

// compare reports keys whose newest version differs at two replicas in sync.
func (w *world) compare(a, b *node, when string) {
	for i := range w.keys {
		_, pending := a.store.Get(keyName(i))
		if pending.Gen != 0 && when == inTheEnd {
			continue // it expires right now
		}
		va, vb := newest(a, keyName(i)), newest(b, keyName(i))
		if va != vb {
			w.fault("%s replicas %d and %d hold %x and %x of %s", when, a.id, b.id, va, vb, keyName(i))
		}
	}
}

const inTheEnd = "in the end"

func newest(n *node, key []byte) generation {
	committed, pending := n.store.Get(key)
	v := committed
	if pending.Gen != 0 {
		v = pending.Version
	}
	if !v.Alive() {
		return 0
	}
	return v.Gen
}

// watchLog checks what the control plane decided.
func (w *world) watchLog(old, next *state.State, c state.Command) {
	a, b := &old.Rows[0], &next.Rows[0]
	if _, lost := c.(state.DeclareLost); lost && a.Epoch != b.Epoch {
		w.stats.losses++
		w.history.losses = append(w.history.losses, w.stamp())
		return
	}
	if a.ActEpoch != b.ActEpoch {
		if len(old.Serving(b.ActSync)) == 0 && w.living(b.ActSync, 0) == 0 && w.living(a.ActSync, 0) > 0 {
			w.fault("epoch %d is activated for the dead %v alone, while of %v some live", b.Epoch, b.ActSync, a.ActSync)
		}
		w.watchLoss(b)
	}
	if a.Epoch == b.Epoch {
		return
	}
	w.stats.epochs++
	for _, i := range b.Sync {
		if !state.Has(a.ActSync, i) && a.Learner != i {
			w.fault("epoch %d has %d, which is not in the activated set %v", b.Epoch, i, a.ActSync)
		}
	}
}

// check judges the history.
func (w *world) check() {
	w.once()
	for i := range w.keys {
		key := keyName(i)
		steps := w.stepsOf(key)
		w.oracle(key, steps)
		switch linearizable(steps) {
		case porcupine.Unknown: // it would take too long; the oracle has looked
			w.stats.undecided++
		case porcupine.Illegal:
			w.fault("the history of %s is not linearizable", key)
			for _, s := range steps {
				w.logf("  %+v", s)
			}
		}
	}
}

// once checks that no write was executed twice, not even when its record was lost, and none that failed.
func (w *world) once() {
	seen := map[[2]uint64]generation{}
	var all []*made
	for _, m := range w.history.made {
		if m.committed && m.origin.Client != 0 {
			all = append(all, m)
		}
	}
	slices.SortFunc(all, func(a, b *made) int { return cmp.Compare(a.gen, b.gen) })
	for _, m := range all {
		id := [2]uint64{m.origin.Client, m.origin.Counter}
		if first, twice := seen[id]; twice {
			w.fault("write %v is committed as %x and as %x", id, first, m.gen)
		}
		seen[id] = m.gen
	}
	for _, o := range w.history.ops {
		gen, committed := seen[[2]uint64{o.origin.Client, o.origin.Counter}]
		observed := o.done && !o.unknown && !o.failed && o.kind != wire.KindGet && (o.status != wire.StatusOK || o.gen == 0)
		if committed && (o.failed || observed) {
			w.fault("%v did nothing and is committed as %x", o, gen)
		}
	}
}

// A step is an operation on one key as the model sees it.
type step struct {
	kind      wire.Kind // KindGet also for every definite failure
	gen       generation
	ifMatch   bool
	ifGen     generation
	unknown   bool
	all       bool // a delete of whatever there is: a range, or a loss
	call, ret int64
	retAt     int64
	value     int
	made      map[generation]*made
	drift     float64
}

// stepsOf returns what happened to key.
func (w *world) stepsOf(key []byte) []step {
	var steps []step
	committed := map[[2]uint64]generation{}
	for _, m := range w.history.made {
		if m.committed {
			committed[[2]uint64{m.origin.Client, m.origin.Counter}] = m.gen
		}
	}
	for _, o := range w.history.ops {
		in := bytes.Equal(o.key, key) && o.kind != wire.KindDeleteRange ||
			o.kind == wire.KindDeleteRange && bytes.Compare(o.key, key) <= 0 && (o.end == nil || bytes.Compare(key, o.end) < 0)
		if !in || o.failed {
			continue
		}
		s := step{kind: o.kind, gen: o.gen, ifMatch: o.ifMatch, ifGen: o.ifGen, call: o.call, ret: o.ret, retAt: o.retAt, value: o.seen, made: w.history.made, drift: w.drift}
		switch {
		case o.unknown || !o.done:
			gen, ok := committed[[2]uint64{o.origin.Client, o.origin.Counter}]
			if !ok || o.kind == wire.KindGet {
				continue
			}
			s.unknown, s.gen, s.ret, s.retAt = true, gen, never, never
		case o.status != wire.StatusOK || o.kind == wire.KindDelete && o.gen == 0:
			s.kind, s.ifMatch = wire.KindGet, false
		}
		steps = append(steps, s)
	}
	for _, at := range w.history.losses {
		steps = append(steps, step{kind: wire.KindDelete, all: true, gen: 1 << 62, unknown: true, call: at, ret: never, retAt: never, made: w.history.made})
	}
	return steps
}

// mayExpire reports whether the value of generation g may be missing for its ttl by the end of s.
func (s *step) mayExpire(g generation) bool {
	m := s.made[g]
	if m == nil || !m.ttl {
		return false
	}
	return float64(s.retAt) >= float64(m.at)+float64(m.life)/(1+s.drift)-2
}

// apply is the sequential model: the state is the generation of the key's value, 0 for none.
func (s *step) apply(g generation) (ok bool, next generation) {
	holds := !s.ifMatch || s.ifGen == g
	if s.ifMatch && s.ifGen == 0 && s.mayExpire(g) {
		holds = true
	}
	switch {
	case s.kind == wire.KindGet:
		return s.gen == g || s.gen == 0 && s.mayExpire(g), s.gen
	case s.kind == wire.KindDeleteRange || s.all:
		if g <= s.gen {
			return true, 0
		}
		return true, g
	case !holds || s.kind != wire.KindPut && g == 0:
		return s.unknown, g
	case s.kind == wire.KindDelete:
		return true, 0
	}
	return true, s.gen
}

var model = porcupine.Model{
	Init:  func() any { return generation(0) },
	Equal: func(a, b any) bool { return a == b },
	Step: func(at, in, _ any) (bool, any) {
		ok, next := in.(*step).apply(at.(generation))
		return ok, next
	},
}

func linearizable(steps []step) porcupine.CheckResult {
	ops := make([]porcupine.Operation, len(steps))
	for i := range steps {
		ops[i] = porcupine.Operation{Input: &steps[i], Call: steps[i].call, Return: steps[i].ret}
	}
	return porcupine.CheckOperationsTimeout(model, ops, 2*time.Second)
}

// oracle checks in linear time, but for sorting, that generations agree with real time and with values.
func (w *world) oracle(key []byte, steps []step) {
	byCall := make([]*step, 0, len(steps))
	for i := range steps {
		if !steps[i].all && steps[i].kind != wire.KindDeleteRange {
			byCall = append(byCall, &steps[i])
		}
	}
	byRet := slices.Clone(byCall)
	slices.SortFunc(byCall, func(a, b *step) int { return cmp.Compare(a.call, b.call) })
	slices.SortFunc(byRet, func(a, b *step) int { return cmp.Compare(a.ret, b.ret) })
	var newest generation
	next := 0
	for _, s := range byCall {
		for next < len(byRet) && byRet[next].ret < s.call {
			newest = max(newest, byRet[next].gen)
			next++
		}
		if s.gen == 0 || s.unknown {
			continue
		}
		if s.gen < newest || s.gen == newest && s.kind != wire.KindGet {
			w.fault("%s: %+v after generation %x was seen", key, *s, newest)
		}
		m := w.history.made[s.gen]
		if m == nil || s.value != 0 && m.value != s.value {
			w.fault("%s: %+v does not match what was written: %+v", key, *s, m)
		}
	}
}
