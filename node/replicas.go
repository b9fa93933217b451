package node

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/control/group"
	"github.com/dramnode/dramnode/control/leader"
	"github.com/dramnode/dramnode/control/state"
	"github.com/dramnode/dramnode/replica"
	"github.com/dramnode/dramnode/replica/arena"
	"github.com/dramnode/dramnode/ring"
	"github.com/dramnode/dramnode/storage"
	"github.com/dramnode/dramnode/wire"
)

const (
	replicaTick  = 5 * time.Millisecond   // of partitions in which something is under way
	replicaIdle  = time.Second            // of the others
	replicaTight = 250 * time.Millisecond // of these while there is little room for records
	replicaBatch = 250 * time.Millisecond // they are looked for, while all are idle: each look wakes an idle process
	idleLooks    = 40                     // in a row that find nothing under way, before looks become rarer
	keepRemoved  = 30 * time.Second       // a replica that was dropped may be wanted again, as a base
	stepAnswers  = 4                      // of a step to requests, as a rule
	answerInline = 512                    // bytes of a list that may travel in a transport's reply
)

// replicas are this node's replicas of all partitions. Each is a state machine that is stepped under its lock by whoever
// brings it something: a poller with a request, a message or an acknowledgement, the plane with a row, or the ticker. What a step
// wants sent is sent under the lock, so that messages leave in the order of the steps; what it wants answered is answered after
// it, since a caller in this process may go on from there with the same partition.
type replicas struct {
	n       *Node
	shared  replica.Node
	parts   []replicaPart
	due     []atomic.Int64 // when Tick of each is to be called next, on the boot clock, 0: soon. Together, since run looks at all of them often
	timer   *time.Timer    // run's; who finds it resting sets it
	resting atomic.Bool    // run takes all partitions for idle
	table   atomic.Pointer[addresses]
	retired atomic.Bool

	memory fullness

	bulkMu sync.Mutex
	bulk   map[parcel]struct{} // long values on their way
}

// addresses are what messages need of the table.
type addresses struct {
	cluster uint64
	era     uint32
	of      map[replica.ID]string
}

// A replicaPart is this node's replica of one partition.
type replicaPart struct {
	// mu is held for writing around each step, and for reading around a get that needs none. What both look at is next to it, since a
	// node has a thousand of these: what an operation touches of one is seldom in the processor's nearest cache.
	mu      sync.RWMutex
	engine  *replica.Partition
	store   arena.Store
	token   uint64            // the last one
	waiting map[uint64]waiter // requests under way in the engine, by token
	number  uint16
	gets    bool // Serves, after the last step
	dirty   bool // likewise

	evictable bool   // Evictable, likewise
	published uint32 // the epoch that publishLocked told last; 0: none
	unused    int64  // since when the entries are of no use; 0: they are
	effects   replica.Effects
}

// A waiter waits for a reply of the engine: a request, or the part that one partition has in a range.
type waiter struct {
	r    *request
	part *rangeJob
}

// An ended is a request with its answer, to be given without the lock.
type ended struct {
	waiter
	a answer
}

func newReplicas(n *Node) (*replicas, error) {
	rs := &replicas{n: n, parts: make([]replicaPart, n.cfg.Settings.Count()), due: make([]atomic.Int64, n.cfg.Settings.Count()), timer: time.NewTimer(0), bulk: map[parcel]struct{}{}}
	rs.shared = replica.Node{
		ID: replica.ID(n.self.Incarnation), Config: replica.Default, Full: rs.isFull,
		Records: &replica.Records{Limit: n.cfg.RecordBytes}, Crowded: rs.isCrowded,
		Until: func() int64 { return int64(n.plane.member.Until()) },
	}
	rs.shared.Config.MinSync = max(1, n.cfg.MinSync)
	// A backup that is only slow must not be left out sooner than one that is dead: each that is brings its partitions closer
	// to a single copy, and a machine with much to do lets all of them be slow at once.
	rs.shared.Config.Report = max(rs.shared.Config.Report, int64(n.cfg.Lease))
	for p := range rs.parts {
		part := &rs.parts[p]
		store, err := arena.Open(n.store, uint16(p))
		if err != nil {
			return nil, err
		}
		part.number, part.store = uint16(p), store
		part.engine = replica.New(&rs.shared, store)
		part.waiting = map[uint64]waiter{}
	}
	return rs, nil
}

func (rs *replicas) now() int64 { return int64(rs.n.boot()) }

// adopt hands every partition whose row is new, since the table old, that row. It returns when all have it.
func (rs *replicas) adopt(old, t *state.State) {
	a := &addresses{cluster: t.ClusterID, era: t.Era, of: make(map[replica.ID]string, len(t.Nodes))}
	for i := range t.Nodes {
		a.of[t.Nodes[i].Incarnation] = t.Nodes[i].Addr
	}
	rs.table.Store(a)
	for p := range t.Rows {
		row := &t.Rows[p]
		if old != nil && old.Era == t.Era && old.Rows[p].Modified == row.Modified {
			continue
		}
		rs.step(&rs.parts[p], func(part *replicaPart, now int64) { part.engine.Adopt(now, row, &part.effects) })
	}
}

// step runs do with the partition's lock, and then does what the engine wants.
func (rs *replicas) step(part *replicaPart, do func(part *replicaPart, now int64)) {
	var room [stepAnswers]ended
	part.mu.Lock()
	do(part, rs.now())
	all := rs.effectsLocked(part, nil, room[:0])
	part.mu.Unlock()
	rs.give(all)
}

// effectsLocked sends and asks what the last step wants, and appends to all what is to be answered once the lock is free. in
// is the message that was stepped, if it was one: the first short answer to it is left to the caller.
func (rs *replicas) effectsLocked(part *replicaPart, in *incoming, all []ended) []ended {
	rs.publishLocked(part)
	out := &part.effects
	for i := range out.Replies {
		if e, ok := rs.endedLocked(part, &out.Replies[i]); ok {
			all = append(all, e)
		}
	}
	for i := range out.Sends {
		if m := &out.Sends[i]; in == nil || !in.answer(rs, part, m) {
			rs.sendLocked(part, m)
		}
	}
	for _, a := range out.Asks {
		rs.ask(part.number, a)
	}
	out.Reset()
	part.store.Settle()
	part.gets, part.dirty = part.engine.Serves()
	if rs.n.cfg.Eviction != storage.EvictNone && part.engine.Evictable() != part.evictable {
		part.evictable = !part.evictable
		part.store.Evictable(part.evictable)
	}
	if part.engine.Busy() {
		rs.due[part.number].Store(0)
		if rs.resting.Load() && rs.resting.CompareAndSwap(true, false) {
			rs.timer.Reset(replicaTick)
		}
	}
	return all
}

func (rs *replicas) give(all []ended) {
	for i := range all {
		if e := &all[i]; e.part != nil {
			e.part.add(e.a)
		} else {
			rs.n.reply(e.r, &e.a)
		}
	}
}

var askKinds = map[replica.AskKind]leader.AskKind{
	replica.AskActivate: leader.AskActivate, replica.AskPromote: leader.AskPromote,
	replica.AskReport: leader.AskReport, replica.AskEpoch: leader.AskEpoch,
}

// ask passes on what the engine wants of the control plane. What is lost it asks again.
func (rs *replicas) ask(p uint16, a replica.Ask) {
	_ = rs.n.plane.member.Ask(leader.Ask{
		Kind: askKinds[a.Kind], From: rs.shared.ID, Partition: ring.Partition(p), Epoch: a.Epoch, Peer: a.Peer, AssignID: a.Assign,
	})
}

// run lets time pass for the partitions until ctx ends: often while something is under way in one of them, and not
// much longer.
func (rs *replicas) run(ctx context.Context) error {
	defer rs.timer.Stop()
	for idle := 0; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-rs.timer.C:
		}
		// The timer and the flag come before the look: who makes a partition busy after it finds the flag.
		pause := replicaTick
		if rest := idle >= idleLooks; rest {
			pause = replicaBatch
			rs.resting.Store(true)
		}
		rs.timer.Reset(pause)
		if idle++; rs.look() {
			idle = 0
			if rs.resting.CompareAndSwap(true, false) {
				rs.timer.Reset(replicaTick)
			}
		}
	}
}

// look calls Tick of the partitions that are due, and reports whether something is under way in any.
func (rs *replicas) look() (busy bool) {
	now := rs.now()
	for p := range rs.due {
		if rs.due[p].Load() <= now {
			rs.tick(&rs.parts[p])
			busy = busy || rs.due[p].Load() == 0
		}
	}
	return busy
}

func (rs *replicas) tick(part *replicaPart) {
	rs.step(part, func(part *replicaPart, now int64) {
		idle := replicaIdle
		if rs.shared.Records.Tight() {
			idle = replicaTight
		}
		rs.due[part.number].Store(now + int64(idle))
		part.engine.Tick(now, &part.effects)
		rs.tidyLocked(part, now)
	})
}

// tidyLocked frees the entries of a replica that the table does without, after a while.
func (rs *replicas) tidyLocked(part *replicaPart, now int64) {
	switch stats := part.store.Stats(); {
	case !part.engine.Removable() || stats.Entries+stats.Tombstones+stats.Staged == 0:
		part.unused = 0
	case part.unused == 0:
		part.unused = now
	case now-part.unused >= int64(keepRemoved):
		part.engine.Remove()
	}
}

// usage tells the sizes of the partitions that this node is the primary of.
func (rs *replicas) usage() (all []group.Usage) {
	for p := range rs.parts {
		part := &rs.parts[p]
		part.mu.RLock()
		active := part.engine.Active()
		part.mu.RUnlock()
		if !active {
			continue
		}
		if stats, err := rs.n.store.PartitionStats(uint16(p)); err == nil {
			all = append(all, group.Usage{Partition: ring.Partition(p), Bytes: uint64(stats.ValueBytes)})
		}
	}
	return all
}

// retire answers what waits, since nothing will be stepped any more.
func (rs *replicas) retire() {
	rs.retired.Store(true)
	for p := range rs.parts {
		part := &rs.parts[p]
		part.mu.Lock()
		waiting := part.waiting
		part.waiting, part.gets = map[uint64]waiter{}, false
		rs.publishLocked(part)
		part.mu.Unlock()
		for _, w := range waiting {
			err := fmt.Errorf("%w: this node is leaving", dramnode.ErrUnknownOutcome)
			if w.r != nil && w.r.h.Kind == wire.KindGet {
				err = errNotServing
			}
			rs.give([]ended{{w, failed(err)}})
		}
	}
}
