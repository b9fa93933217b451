// Package sim runs the replication protocol in a world of its own: one goroutine, one seed, no clock.
//
// Nodes run the product's replica engine, lease holders and control state; messages between them are lost, doubled and
// late, links fail in one direction, clocks drift, processes pause and crash with amnesia, and the control plane's
// leader changes. Clients write and read a few keys and retry as the product's do. What they saw is checked with
// porcupine and with a linear oracle over generations, and the replicas are compared whenever they must agree. A seed
// decides everything: a failure replays exactly.
package sim

import (
	"fmt"
	"math/rand/v2"
	"strings"

	"github.com/dramnode/dramnode/control/lease"
	"github.com/dramnode/dramnode/control/state"
)

// Times are in ticks of the world's clock, about a millisecond of the product.
const (
	slots       = 4    // processes that are alive at a time
	voters      = 3    // the first of them vote in the control plane
	leaseTicks  = 1000 // in most worlds
	requestLife = 1500 // no copy of a request lives longer
	raftOneIn   = 16   // worlds have the product's consensus, which costs more; the others model it
)

// A world is one run.
type world struct {
	seed  uint64
	rng   *rand.Rand
	now   int64
	order int64 // of observations: calls, returns and captures
	arena bool  // entries are kept by package storage
	queue events
	nodes [slots]*node
	cut   [slots][slots]bool
	vote  consensus
	traits
	timing    lease.Timing
	nextID    uint64
	nextValue int
	callers   []*client
	history   history
	healed    bool
	calm      int64    // no crash before, in worlds with the real consensus
	faults    []string // what was found wrong
	trace     *strings.Builder
	stats     stats
}

// traits are what a seed gives its world: few worlds have all kinds of trouble, and so each kind is met in quiet too.
type traits struct {
	keys                      int
	drop, dup, tail           float64 // of messages: lost, doubled, very late
	latency                   int64
	tailLatency               int64
	drift                     float64
	length                    int64
	crash, pause, part, elect float64 // per hundred ticks
	oneWay, isolate           float64 // of cuts: in one direction, of a node from all
	move                      float64
	slowConfirm               float64
	slowLog                   float64
	ttl, big, touch, ranges   float64
	cas, reads, deletes       float64
	clients, window           int
	hurry                     int64   // between the operations of a client
	rest                      float64 // that a client is silent for long after an operation
	stand, backlog            int64   // the longest that a process stands still, and reads afterwards what came meanwhile
	patience                  int64   // the longest that a client waits for an answer to a write
	full                      float64
	loss                      bool
	copies                    int
	lease, lostAfter          int64
	spread                    float64 // of the log, beside leases
	flap                      float64 // that a learner is given up before it is promoted
	mend                      float64 // of all cuts, per hundred ticks
	extreme                   bool    // clocks are as fast or as slow as they may be
	raft                      bool    // the control plane is the product's, with its consensus
}

type stats struct {
	events, ops, acked, reads, epochs, losses, leaderless, undecided int
}

// some returns p in half of the worlds, else 0.
func (w *world) some(p float64) float64 {
	if w.rng.IntN(2) == 0 {
		return 0
	}
	return p * (0.2 + w.rng.Float64())
}

func (w *world) chance(p float64) bool { return p > 0 && w.rng.Float64() < p }

// between returns a number from lo to hi.
func (w *world) between(lo, hi int64) int64 { return lo + w.rng.Int64N(hi-lo+1) }

func newTraits(w *world) traits {
	t := traits{
		keys: int(w.between(1, 3)), drop: w.some(0.05), dup: w.some(0.25), tail: w.some(0.1),
		latency: w.between(1, 8), tailLatency: w.between(50, 700), drift: 0.01, length: w.between(5000, 9000),
		crash: w.some(0.04), pause: w.some(0.1), part: w.some(0.15), elect: w.some(0.05), oneWay: w.some(0.5), isolate: w.some(0.6),
		move: w.some(0.05), slowConfirm: w.some(0.4), ttl: w.some(0.4), big: w.some(0.4), touch: w.some(0.2), ranges: w.some(0.08),
		cas: w.some(0.5), reads: 0.3 + 0.4*w.rng.Float64(), deletes: w.some(0.4), clients: int(w.between(2, 4)), window: int(w.between(1, 2)),
		hurry: w.between(40, 400), full: w.some(0.02), loss: w.rng.IntN(8) == 0,
	}
	if w.rng.IntN(3) == 0 {
		t.drift = 0.3
	}
	if w.rng.IntN(4) == 0 {
		t.move = 0.5
	}
	t.slowLog = w.some(0.5)
	t.copies, t.lease, t.spread, t.mend, t.rest, t.patience, t.backlog = 3, leaseTicks, 0.67, 0.08, 0.025, 500, 3
	t.raft = w.rng.IntN(raftOneIn) == 0
	if t.theme(w); t.raft {
		t.lease = leaseTicks
	}
	if t.stand == 0 {
		t.stand = 2 * t.lease
	}
	t.lostAfter = 4 * t.lease
	if w.rng.IntN(4) == 0 {
		t.lostAfter = 1
	}
	return t
}

// theme makes most worlds more of one kind, for what takes several troubles at once.
func (t *traits) theme(w *world) {
	switch w.rng.IntN(8) {
	case 0, 1: // learners come and go among messages that are lost and late, and the primary changes
		t.copies, t.lease = int(w.between(1, 3)), 300
		t.flap, t.move = w.some(0.4), 0.2+0.5*w.rng.Float64()
		t.drop, t.dup, t.tail, t.latency, t.tailLatency = w.some(0.15), w.some(0.4), w.some(0.3), w.between(1, 30), w.between(50, 400)
		t.hurry = w.between(30, 100)
	case 2: // nodes are cut off and do not hear of it, and clocks disagree
		t.lease, t.keys, t.clients, t.extreme = w.between(300, 600), 1, 4, true
		t.drift, t.spread, t.part, t.isolate, t.mend = 0.3, w.some(0.3), 0.05+0.2*w.rng.Float64(), 1, 0.04
		t.hurry, t.reads = w.between(30, 60), 0.6
		if w.rng.IntN(2) == 0 { // time enough for others to go on before the slowest clock has shown the end of a lease
			t.lease, t.spread, t.slowLog, t.drop, t.tail, t.elect = w.between(1500, 2500), 1, 0, 0, 0, 0
			t.part, t.mend = 0.03+0.03*w.rng.Float64(), 0.03
		}
	case 3: // everything is lost now and then
		t.copies, t.lease, t.loss = int(w.between(1, 2)), 300, true
		t.crash, t.move, t.mend = 0.02+0.1*w.rng.Float64(), w.some(0.5), 0.03
		t.hurry = w.between(30, 100)
	case 4: // leaders follow one another, and nobody hears soon of what was decided
		t.lease, t.keys, t.part, t.isolate, t.mend = w.between(600, 1500), 1, 0.1+0.2*w.rng.Float64(), 0, 0.1
		t.elect, t.spread, t.slowLog, t.move = 0.05+0.4*w.rng.Float64(), w.some(0.2), 0.5, 0.5
		t.hurry, t.reads = w.between(30, 60), 0.6
	case 5: // doubles of requests come late: to a process that stood still, or after writes that were pending
		t.dup, t.rest, t.crash, t.ranges = 0.3+0.5*w.rng.Float64(), 0.1, 0, 0.3
		if w.rng.IntN(4) == 0 {
			t.copies, t.stand, t.backlog, t.pause, t.part = 1, 4*t.lease, 100, 0.03, 0
			break
		}
		t.keys, t.clients, t.hurry, t.drop, t.tail, t.tailLatency = 3, 6, w.between(20, 60), 0.2, 0.2, 300
		t.reads, t.deletes, t.cas, t.touch, t.ttl, t.pause, t.part, t.move = 0.4, 0, 0, 0, 0, 0, 0, 0
	case 6: // the primary changes often, clients hear of it before nodes do, and some requests are late
		t.lease, t.spread, t.move, t.slowLog = w.between(1500, 2500), w.some(0.1), 0.3+0.5*w.rng.Float64(), 0
		t.crash, t.pause, t.part, t.ttl, t.ranges = 0, 0, 0, 0, 0
		t.keys, t.clients, t.hurry, t.deletes, t.reads = 1, 4, w.between(30, 60), 0.5, 0.5
		t.dup, t.drop, t.tail, t.tailLatency, t.patience = 0.5, 0.2, 0.2, 700, 120
	}
}

// newWorld makes the world of a seed.
func newWorld(seed uint64, arena, trace bool) *world {
	w := &world{seed: seed, arena: arena, rng: rand.New(rand.NewPCG(seed, 0x5eed))}
	if trace {
		w.trace = &strings.Builder{}
	}
	w.traits = newTraits(w)
	w.timing = lease.Timing{Length: ticks(w.lease), Renew: ticks(w.lease / 10), Batch: ticks(w.lease / 40), Drift: w.drift, Margin: 50 * tick}
	w.history.made = map[generation]*made{}
	w.calm = 2 * w.lease
	w.populate()
	return w
}

func (w *world) logf(format string, args ...any) {
	if w.trace != nil {
		fmt.Fprintf(w.trace, "%6d ", w.now)
		fmt.Fprintf(w.trace, format+"\n", args...)
	}
}

// fault notes that something is wrong.
func (w *world) fault(format string, args ...any) {
	w.logf("FAULT "+format, args...)
	if len(w.faults) < 20 {
		w.faults = append(w.faults, fmt.Sprintf(format, args...))
	}
}

// stamp orders observations strictly.
func (w *world) stamp() int64 {
	w.order++
	return w.order
}

// An event is something that happens later.
type event struct {
	at, seq int64
	do      func()
}

// events is a heap, the earliest first. Package container/heap would allocate for each.
type events struct {
	list []event
	seq  int64
}

func (q *events) less(i, j int) bool {
	a, b := &q.list[i], &q.list[j]
	return a.at < b.at || a.at == b.at && a.seq < b.seq
}

func (q *events) push(e event) {
	q.seq++
	e.seq = q.seq
	q.list = append(q.list, e)
	for i := len(q.list) - 1; i > 0; {
		up := (i - 1) / 2
		if !q.less(i, up) {
			return
		}
		q.list[i], q.list[up] = q.list[up], q.list[i]
		i = up
	}
}

func (q *events) pop() event {
	first, last := q.list[0], len(q.list)-1
	q.list[0], q.list[last] = q.list[last], event{}
	q.list = q.list[:last]
	for i := 0; ; {
		down := 2*i + 1
		if down+1 < last && q.less(down+1, down) {
			down++
		}
		if down >= last || !q.less(down, i) {
			return first
		}
		q.list[i], q.list[down] = q.list[down], q.list[i]
		i = down
	}
}

// after does something delay ticks later.
func (w *world) after(delay int64, do func()) {
	w.queue.push(event{at: w.now + delay, do: do})
}

// run lets the world happen until the clock shows end.
func (w *world) run(end int64) {
	for len(w.queue.list) > 0 && w.queue.list[0].at <= end {
		e := w.queue.pop()
		w.now = e.at
		w.stats.events++
		e.do()
	}
	w.now = end
}

// on does something at a node, when it is not paused, in this life.
func (w *world) on(n *node, delay int64, do func()) {
	w.after(delay, func() { w.wake(n, do) })
}

func (w *world) wake(n *node, do func()) {
	switch {
	case n.dead:
	case n.paused > w.now:
		n.waiting = append(n.waiting, do)
	default:
		do()
	}
}

// pause stops a process: its clock and its leases go on.
func (w *world) pause(n *node, until int64) {
	n.paused = max(n.paused, until)
	w.after(until-w.now, func() { w.resume(n) })
}

func (w *world) resume(n *node) {
	if n.paused > w.now {
		return
	}
	waiting := n.waiting
	n.waiting = nil
	for _, do := range waiting {
		w.on(n, w.between(0, w.backlog), do)
	}
}

// travel is how long a message is on its way.
func (w *world) travel() int64 {
	if !w.healed && w.chance(w.tail) {
		return w.between(0, w.tailLatency)
	}
	if w.rng.IntN(4) == 0 {
		return 0
	}
	return w.between(0, w.latency)
}

// send brings something from slot to slot, or not, or twice.
func (w *world) send(from, to int, arrive func()) {
	times := 1
	if !w.healed {
		if w.cut[from][to] || w.chance(w.drop) {
			times = 0
		} else if w.chance(w.dup) {
			times = 2
		}
	}
	for range times {
		delay := w.travel()
		if from == to {
			delay = 0
		}
		w.after(delay, arrive)
	}
}

// populate starts the processes and the clients.
func (w *world) populate() {
	var s *state.State
	for slot := range slots {
		n := w.birth(slot)
		about := state.Node{Incarnation: state.Incarnation(n.id), Name: n.name(), Addr: n.addr(), Status: state.Up}
		if s == nil {
			s = state.Found(1, settings, 1<<20, w.params(), about, 0)
		} else {
			s, _ = s.Apply([]state.Command{state.Join{Node: about}})
		}
	}
	row := &s.Rows[0]
	row.Sync = []state.Incarnation{1, 2, 3}[:w.copies]
	row.ActSync = row.Sync
	w.vote = consensus{w: w, state: s}
	if !w.raft {
		w.vote.elect(0)
		for _, n := range w.nodes {
			n.install(s)
		}
	}
	for i := range w.traits.clients {
		c := &client{w: w, id: uint64(i + 1)}
		w.callers = append(w.callers, c)
		c.start()
	}
}
