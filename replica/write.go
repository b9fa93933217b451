package replica

import (
	"bytes"
	"slices"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/internal/rule"
	"github.com/dramnode/dramnode/wire"
)

// A phase is how far a primary has come in its epoch.
type phase uint8

const (
	sealing phase = iota // waiting for Sealed
	syncing              // waiting for SyncAck
	synced               // waiting for the control plane
	active
)

// A lead is what only a primary has, for one epoch.
type lead struct {
	phase  phase
	since  int64   // when sealing began
	asked  int64   // when something was last sent again
	sealed peerSet // who has
	dirty  []dirty // ascending by key
	orphan []*write

	counter uint32   // of the last generation given out
	window  []*write // ordered and not resolved, ascending by generation
	staging []*write // their values are on the way to the backups
	stage   uint64   // number of the last stage
	lowest  uint64   // stage that is not done with
	byKey   map[string]*write
	byID    map[origin]*write
	writes  int // in window, staging and the queues behind byKey
	ranges  []*rangeDelete
	learner learner
	floored peerSet // know the floor
}

// An origin is what identifies a write over its retries.
type origin struct{ client, counter uint64 }

func (o Origin) id() origin { return origin{o.Client, o.Counter} }

// An intent is what a queued write does once it is its turn.
type intent uint8

const (
	request   intent = iota // what its Request asks for
	expiry                  // delete the entry if it has expired
	rangePart               // delete the entry if it is older than the range's bound
)

// A write is an operation on one key on its way through the primary. A get waits among them when it meets
// an expired entry.
type write struct {
	Request
	intent intent
	part   *rangeDelete // of a rangePart

	gen       dramnode.Generation // 0: not ordered yet
	same      dramnode.Generation // a touch: the version whose value it keeps
	deleted   bool
	committed bool
	answered  bool   // there is nobody to reply to
	stage     uint64 // 0: the value travels in Prepare
	took      int64  // when it was ordered, or staged

	staged peerSet // have the value
	acked  peerSet // have acknowledged Prepare
	done   peerSet // have acknowledged Commit
	wants  peerSet // must be sent the value

	sent int64  // when it was last sent to those who miss it
	next *write // waits for the same key
}

func (l *lead) busy(all peerSet) bool {
	return l.phase != active || l.writes > 0 || len(l.ranges) > 0 || l.learner.id != 0 || l.floored&all != all
}

// write admits a put, delete, touch or delete-range.
func (p *Partition) write(now int64, r *Request, out *Effects) {
	if p.remembered(now, r, out) {
		return
	}
	l := p.lead
	if l.writes >= p.node.Config.MaxWrites || p.hasAll(r.Origin) {
		p.reject(r.Token, r.Value.Blob, wire.StatusBusy, out)
		return
	}
	if r.Kind == wire.KindPut && p.full() {
		p.reject(r.Token, r.Value.Blob, wire.StatusNoMemory, out)
		return
	}
	if !p.admit(now, r.Origin) {
		p.reject(r.Token, r.Value.Blob, wire.StatusBusy, out)
		out.Replies[len(out.Replies)-1].NoRecord = true
		return
	}
	if l.writes == 0 && p.Alone() && p.alone(now, r, out) {
		return
	}
	blob, err := p.store.Keep(r.Key, r.Value)
	if err != nil {
		p.reject(r.Token, r.Value.Blob, wire.StatusNoMemory, out)
		return
	}
	w := &write{Request: *r}
	w.Key, w.Value.Blob = bytes.Clone(r.Key), blob
	l.writes++
	if r.Origin.Client != 0 {
		if l.byID == nil {
			l.byID = map[origin]*write{}
		}
		l.byID[r.Origin.id()] = w
		p.hold(r.Origin)
	}
	if r.Kind == wire.KindDeleteRange {
		p.startRange(now, w, out)
		return
	}
	if r.Kind == wire.KindPut && r.Value.Bytes > p.node.Config.InlineBytes && len(p.peers) > 0 {
		p.startStage(now, w, out)
		return
	}
	p.enqueue(now, w, out)
}

// full reports whether a replica in sync has no room for another value: what is prepared cannot be refused any more, and who
// cannot comply would have to leave the set.
func (p *Partition) full() bool {
	if p.node.Full == nil || len(p.peers) == 0 { // alone, the store itself says it
		return false
	}
	own, others := p.node.Full(p.node.ID), p.lacks(p.node.Full)
	return own || others
}

// lacks reports whether a backup in sync is short of something, and has those that are sent the floor: their answers say
// how short they are by then.
func (p *Partition) lacks(short func(ID) bool) (any bool) {
	if short == nil {
		return false
	}
	for i, id := range p.peers {
		if short(id) {
			any = true
			p.lead.floored &^= 1 << i
		}
	}
	return any
}

// alone executes a put or delete that nobody else must hold, while nothing is under way, and reports whether it did. Such a write is
// committed in the step that orders it: it is never pending, and neither the window nor a queue ever has it. Its delete leaves no tombstone, since
// nobody has the value.
func (p *Partition) alone(now int64, r *Request, out *Effects) bool {
	if r.Kind != wire.KindPut && r.Kind != wire.KindDelete {
		return false
	}
	committed := p.store.Committed(r.Key)
	if committed.expired(now) {
		return false // its delete comes first
	}
	current := committed.Gen
	if !committed.Alive() {
		current = dramnode.Absent
	}
	if p.observes(r, current) {
		out.Replies = append(out.Replies, p.observe(now, r, committed, current))
		return true
	}
	v := Pending{Version: Version{Gen: p.nextGen(), Value: r.Value, Deleted: r.Kind == wire.KindDelete}, Origin: r.Origin}
	if r.TTL != 0 && !v.Deleted {
		v.Deadline = now + r.TTL
	}
	if v.Gen == 0 || p.store.Write(r.Key, committed.Value.Blob, v) != nil {
		p.unordered(now, &write{Request: *r}, v.Gen, out)
		return true
	}
	if !rule.Off(rule.DedupLocal) {
		p.memorise(now, r.Origin, memo{gen: v.Gen})
	}
	p.written(r.Token, v.Gen, out)
	p.resolve()
	return true
}

// reject answers a request whose blob nobody wants with a definite failure.
func (p *Partition) reject(token uint64, b Blob, s wire.Status, out *Effects) {
	p.store.Free(b)
	out.Replies = append(out.Replies, Reply{Token: token, Status: s, Epoch: p.row.Epoch})
}

// enqueue makes w the operation on its key, or lets it wait for those before it.
func (p *Partition) enqueue(now int64, w *write, out *Effects) {
	l := p.lead
	if head := l.byKey[string(w.Key)]; head != nil {
		for head.next != nil {
			head = head.next
		}
		head.next = w
		return
	}
	if l.byKey == nil {
		l.byKey = map[string]*write{}
	}
	l.byKey[string(w.Key)] = w
	p.turn(now, w, out)
}

// turn gives w, the first of its key's queue, and those behind it their turn, until one of them is pending.
func (p *Partition) turn(now int64, w *write, out *Effects) {
	for w != nil {
		if p.order(now, w, out) {
			return
		}
		w = p.leave(w)
	}
}

// leave takes w, which is first of its key, out of the queue and returns the next.
func (p *Partition) leave(w *write) *write {
	next := w.next
	w.next = nil
	if next == nil {
		delete(p.lead.byKey, string(w.Key))
	} else {
		p.lead.byKey[string(w.Key)] = next
	}
	if w.gen == 0 {
		p.drop(w)
	}
	return next
}

// drop forgets a write that is nowhere any more.
func (p *Partition) drop(w *write) {
	p.lead.writes--
	if w.Origin.Client != 0 && p.lead.byID[w.Origin.id()] == w {
		delete(p.lead.byID, w.Origin.id())
	}
	if !w.committed {
		p.unhold(w.Origin)
	}
	if w.stage != 0 {
		p.lead.lowest, p.lead.floored = p.lead.lowestStage(), 0 // the next Floor lets the backups forget its value
	}
}

// order decides on w by the committed version, and reports whether it became pending. Otherwise it was answered.
func (p *Partition) order(now int64, w *write, out *Effects) bool {
	committed := p.store.Committed(w.Key)
	if committed.expired(now) && w.intent == request && !rule.Off(rule.ExpireByDelete) {
		return p.expireFirst(now, w, out)
	}
	current := committed.Gen
	if !committed.Alive() || committed.expired(now) && w.intent == request {
		current = dramnode.Absent
	}
	switch {
	case w.intent == expiry && !committed.expired(now),
		w.intent == rangePart && (current == 0 || current > w.part.bound):
		p.partDone(now, w, false, out)
		return false
	case w.intent == request && p.observes(&w.Request, current):
		if r := p.observe(now, &w.Request, committed, current); !w.answered {
			out.Replies = append(out.Replies, r)
		}
		return false
	}
	v := Pending{Version: Version{Gen: p.nextGen(), Value: w.Value}, Origin: w.Origin}
	switch w.Kind {
	case wire.KindTouch:
		w.same, w.Value = committed.Gen, committed.Value
		v.Value = committed.Value
	case wire.KindDelete, wire.KindDeleteRange:
		v.Deleted, w.deleted = true, true
	}
	if w.TTL != 0 && !v.Deleted {
		v.Deadline = now + w.TTL
	}
	if v.Gen == 0 || p.store.Prepare(w.Key, v) != nil {
		p.unordered(now, w, v.Gen, out)
		return false
	}
	w.gen, w.took, w.sent = v.Gen, now, now
	p.lead.window = append(p.lead.window, w)
	p.sendPrepare(now, w, p.audience(), out)
	p.tryCommit(now, w, out)
	return true
}

// observes reports whether r changes nothing when the key's generation is current.
func (p *Partition) observes(r *Request, current dramnode.Generation) bool {
	switch r.Kind {
	case wire.KindGet:
		return true
	case wire.KindDelete, wire.KindTouch:
		if current == dramnode.Absent {
			return true
		}
	}
	return r.IfMatch && r.IfGen != current
}

// observe returns the answer to r by what it met. It is remembered: a late copy of the request must not do what
// its client was told is not done.
func (p *Partition) observe(now int64, r *Request, committed Version, current dramnode.Generation) Reply {
	reply := p.observed(r.Token)
	reply.Gen = current
	switch {
	case r.Kind == wire.KindGet:
		p.fetched(&reply, committed, current)
	case r.IfMatch && r.IfGen != current && !(r.Kind == wire.KindTouch && current == dramnode.Absent):
		reply.Status = wire.StatusGenerationMismatch
	case r.Kind == wire.KindTouch:
		reply.Status = wire.StatusNotFound
	}
	if r.Kind != wire.KindGet && r.Origin.Client != 0 && !rule.Off(rule.DedupObserved) {
		p.memorise(now, r.Origin, memo{gen: current, status: reply.Status, epoch: p.row.Epoch})
	}
	if r.Kind == wire.KindPut {
		p.store.Free(r.Value.Blob)
	}
	return reply
}

// unordered answers a write that found no memory or no generation.
func (p *Partition) unordered(now int64, w *write, gen dramnode.Generation, out *Effects) {
	if w.Kind == wire.KindPut {
		p.store.Free(w.Value.Blob)
	}
	status := wire.StatusNoMemory
	if gen == 0 {
		status = wire.StatusUnavailable
		out.Asks = append(out.Asks, Ask{Kind: AskEpoch, Epoch: p.row.Epoch})
	}
	if w.intent != request {
		p.partDone(now, w, false, out)
		return
	}
	if !w.answered {
		out.Replies = append(out.Replies, Reply{Token: w.Token, Status: status, Epoch: p.row.Epoch})
	}
}

// nextGen returns the generation of the next write, 0 when the epoch has no more.
func (p *Partition) nextGen() dramnode.Generation {
	l := p.lead
	if l.counter == 1<<32-1 {
		return 0
	}
	l.counter++
	return dramnode.Generation(p.row.Epoch)<<32 | dramnode.Generation(l.counter)
}

// lastGen returns the generation of the last write, or one that is as low as all of this epoch.
func (p *Partition) lastGen() dramnode.Generation {
	return dramnode.Generation(p.row.Epoch)<<32 | dramnode.Generation(p.lead.counter)
}

// sendPrepare sends w to the peers in set, as Prepare, or as a Stage to who lacks a staged value.
func (p *Partition) sendPrepare(now int64, w *write, set peerSet, out *Effects) {
	p.each(set, func(id ID, assign uint64, bit peerSet) {
		if w.stage != 0 && w.staged&bit == 0 {
			p.sendStage(w, id, assign, out)
			return
		}
		m := Message{Kind: Prepare, From: p.node.ID, To: id, Epoch: p.row.Epoch, Assign: assign, Floor: p.floor, Stages: p.lead.lowest, Key: w.Key, Gen: w.gen, Staged: w.stage}
		m.Version = Copy{Gen: w.gen, Deleted: w.deleted, Same: w.same, Origin: w.Origin, Value: w.Value}
		if w.wants&bit != 0 {
			m.Version.Same = 0
		}
		m.Version.Carried = !w.deleted && w.stage == 0 && m.Version.Same == 0
		m.Version.TTL = p.remaining(now, w)
		out.Sends = append(out.Sends, m)
	})
}

// remaining is what is left of the ttl of w, at least 1 if it has one.
func (p *Partition) remaining(now int64, w *write) int64 {
	if w.TTL == 0 {
		return w.TTL
	}
	return max(1, w.took+w.TTL-now)
}

func (p *Partition) sendCommit(w *write, set peerSet, out *Effects) {
	p.each(set, func(id ID, assign uint64, _ peerSet) {
		out.Sends = append(out.Sends, Message{Kind: Commit, From: p.node.ID, To: id, Epoch: p.row.Epoch, Assign: assign, Floor: p.floor, Key: w.Key, Gen: w.gen})
	})
}

// ordered returns the unresolved write of generation gen, or nil.
func (l *lead) ordered(gen dramnode.Generation) *write {
	i, ok := slices.BinarySearchFunc(l.window, gen, func(w *write, g dramnode.Generation) int {
		switch {
		case w.gen < g:
			return -1
		case w.gen > g:
			return 1
		}
		return 0
	})
	if !ok {
		return nil
	}
	return l.window[i]
}

func (p *Partition) onAck(now int64, m *Message, from peerSet, out *Effects) {
	w := p.lead.ordered(m.Gen)
	if w == nil || w.acked&from != 0 {
		return
	}
	w.acked |= from
	if w.committed {
		p.sendCommit(w, from, out)
		p.tryPromote(now, out)
		return
	}
	p.tryCommit(now, w, out)
}

// onNeed sends a value again to a peer that lacks it: a touch of a version that it does not have.
func (p *Partition) onNeed(now int64, m *Message, from peerSet, out *Effects) {
	if p.lead.phase != active {
		p.syncNeeded(now, m, out)
		return
	}
	w := p.lead.ordered(m.Gen)
	if w == nil || w.acked&from != 0 || w.deleted {
		return
	}
	p.revalue(w)
	w.wants |= from
	if w.Value.Bytes > p.node.Config.InlineBytes && w.stage == 0 {
		p.lead.stage++
		w.stage, w.staged = p.lead.stage, 0
		w.staged = p.audience() &^ w.wants // the others keep their own copy
	}
	w.staged &^= from
	p.sendPrepare(now, w, from, out)
}

// tryCommit commits w when everybody who counts has acknowledged it.
func (p *Partition) tryCommit(now int64, w *write, out *Effects) {
	need := p.ackSet()
	if rule.Off(rule.AllAck) && majority(w.acked&need, need) {
		need = 0
	}
	if w.committed || w.acked&need != need {
		return
	}
	// Alone, nobody's refusal could tell this primary that it was replaced.
	if need == 0 && !p.leased(now) && !rule.Off(rule.LeaseWhenAlone) {
		return
	}
	p.commit(now, w, out)
}

// tryAll commits what waited for a learner that is gone, or for the lease.
func (p *Partition) tryAll(now int64, out *Effects) {
	for _, w := range slices.Clone(p.lead.window) {
		p.tryCommit(now, w, out)
	}
}

func (p *Partition) commit(now int64, w *write, out *Effects) {
	w.committed = true
	p.store.Commit(w.Key)
	if !rule.Off(rule.DedupLocal) {
		p.memorise(now, w.Origin, memo{gen: w.gen})
	}
	p.unhold(w.Origin)
	switch {
	case w.intent != request:
		p.partDone(now, w, true, out)
	case w.Kind == wire.KindDeleteRange:
		w.part.token = w.Token
		p.runRange(now, w.part, w.gen, out)
	case !w.answered:
		p.written(w.Token, w.gen, out)
	}
	w.answered = true
	p.sendCommit(w, p.audience()&w.acked, out)
	next := p.leave(w)
	p.resolve()
	p.turn(now, next, out)
	p.tryPromote(now, out)
}

// written answers a write that is committed. Alone, a primary that was replaced in the meantime would not know: so the
// answer rests on the lease, although the write stays.
func (p *Partition) written(token uint64, gen dramnode.Generation, out *Effects) {
	r := Reply{Token: token, Gen: gen, Epoch: p.row.Epoch}
	if p.ackSet() == 0 && !rule.Off(rule.LeaseWhenAlone) {
		r.Observed, r.Otherwise = true, wire.StatusUnknownOutcome
	}
	out.Replies = append(out.Replies, r)
}

func (p *Partition) onCommitAck(m *Message, from peerSet) {
	if w := p.lead.ordered(m.Gen); w != nil && w.committed {
		w.done |= from
		p.resolve()
	}
}

// resolve takes from the window's front what is committed everywhere, and raises the floor.
func (p *Partition) resolve() {
	l, all := p.lead, p.audience()
	n := 0
	for n < len(l.window) && l.window[n].committed && l.window[n].done&all == all {
		p.drop(l.window[n])
		n++
	}
	l.window = slices.Delete(l.window, 0, n)
	if l.stage != 0 {
		l.lowest = l.lowestStage()
	}
	floor := p.lastGen() + 1
	if len(l.window) > 0 {
		floor = l.window[0].gen
	}
	if floor > p.floor {
		p.floor, l.floored = floor, 0
		p.store.DropTombstones(floor)
	}
}

// sendFloor tells backups the floor when no write will: they may keep tombstones and staged values for it.
func (p *Partition) sendFloor(set peerSet, out *Effects) {
	p.each(set, func(id ID, assign uint64, _ peerSet) {
		out.Sends = append(out.Sends, Message{Kind: Floor, From: p.node.ID, To: id, Epoch: p.row.Epoch, Assign: assign, Floor: p.floor, Stages: p.lead.lowest})
	})
}

// tickLead sends again, reports and expires.
func (p *Partition) tickLead(now int64, out *Effects) {
	l := p.lead
	if l.phase != active {
		p.tickFailover(now, out)
		return
	}
	if p.ackSet() == 0 {
		p.tryAll(now, out) // the lease may be back
	}
	var silent peerSet
	for _, w := range l.window {
		silent |= p.resend(now, w, out)
	}
	silent |= p.tickStages(now, out)
	p.each(silent&p.audience(), func(id ID, _ uint64, bit peerSet) { p.report(id, bit, out) })
	if len(l.window) == 0 {
		p.sendFloor(p.audience()&^l.floored, out)
	}
	if l.writes == 0 {
		l.byKey, l.byID, l.window = nil, nil, nil
	}
	p.tickRanges(now, out)
	p.tickLearner(now, out)
	p.expire(now, out)
}

// resend sends w to those who miss it, and returns who has missed it for too long.
func (p *Partition) resend(now int64, w *write, out *Effects) (silent peerSet) {
	all := p.audience()
	missing := all &^ w.acked
	uncommitted := w.acked & all &^ w.done
	if !w.committed {
		uncommitted = 0
	}
	if now-w.sent >= p.node.Config.Resend {
		w.sent = now
		if missing != 0 {
			p.revalue(w)
			p.sendPrepare(now, w, missing, out)
		}
		p.sendCommit(w, uncommitted, out)
	}
	if now-w.took < p.node.Config.Report {
		return 0
	}
	return missing | uncommitted
}

// revalue looks up the value of w for those who still miss it. When a newer write has taken its place there is none, and
// they are sent a delete of that generation instead, for its record: the newer write follows, and only a learner can
// miss a write that is committed.
func (p *Partition) revalue(w *write) {
	if w.deleted {
		return
	}
	committed, pending := p.store.Get(w.Key)
	switch w.gen {
	case pending.Gen:
		w.Value = pending.Value
	case committed.Gen:
		w.Value = committed.Value
	default:
		w.Value, w.deleted, w.same, w.stage = Value{}, true, 0, 0
	}
}

// report asks for a configuration without a silent peer.
func (p *Partition) report(id ID, bit peerSet, out *Effects) {
	out.Asks = append(out.Asks, Ask{Kind: AskReport, Epoch: p.row.Epoch, Peer: id})
	if rule.Off(rule.AckSetFromControl) {
		for _, w := range p.lead.window {
			w.acked |= bit
		}
	}
	if rule.Off(rule.TimeoutIsUnknown) {
		for _, w := range p.lead.window {
			if !w.committed && !w.answered {
				w.answered = true
				out.Replies = append(out.Replies, Reply{Token: w.Token, Status: wire.StatusUnavailable, Epoch: p.row.Epoch})
			}
		}
	}
	if rule.Off(rule.NeverAbort) {
		for _, w := range slices.Clone(p.lead.window) {
			if !w.committed {
				p.store.Forget(w.Key)
				w.answered, w.committed = true, true
				w.acked, w.done = ^peerSet(0), ^peerSet(0)
				p.leave(w)
			}
		}
	}
}

// abdicate ends what the primary of an older epoch had not finished. Pending versions stay: if this replica is
// primary again they are committed with their requests still waiting, otherwise nobody here knows what becomes of them.
func (p *Partition) abdicate(old *lead, out *Effects) {
	for _, w := range old.staging {
		p.giveUp(w, wire.StatusUnavailable, out)
	}
	for _, head := range old.queued() {
		for w := head; w != nil; w = w.next {
			if w.gen == 0 {
				p.giveUp(w, wire.StatusUnavailable, out)
			}
		}
	}
	for _, r := range old.ranges {
		if !r.answered {
			out.Replies = append(out.Replies, Reply{Token: r.token, Status: wire.StatusUnknownOutcome, Epoch: p.row.Epoch})
		}
	}
	for _, w := range old.orphan {
		old.window = append(old.window, w)
	}
	for _, w := range old.window {
		switch {
		case w.committed || w.answered || w.intent != request:
		case p.lead != nil && w.Kind != wire.KindDeleteRange:
			p.lead.orphan = append(p.lead.orphan, w)
		default:
			out.Replies = append(out.Replies, Reply{Token: w.Token, Status: wire.StatusUnknownOutcome, Epoch: p.row.Epoch})
		}
	}
}

// giveUp ends a write that was not ordered.
func (p *Partition) giveUp(w *write, s wire.Status, out *Effects) {
	if w.Kind == wire.KindPut {
		p.store.Free(w.Value.Blob)
	}
	if w.intent == request && !w.answered {
		out.Replies = append(out.Replies, Reply{Token: w.Token, Status: s, Epoch: p.row.Epoch})
	}
}

// queued returns the heads of the queues, in the order of their window where they have one, so that effects do
// not depend on the order of a map.
func (l *lead) queued() []*write {
	heads := make([]*write, 0, len(l.byKey))
	for _, w := range l.byKey {
		heads = append(heads, w)
	}
	slices.SortFunc(heads, func(a, b *write) int { return slices.Compare(a.Key, b.Key) })
	return heads
}

// majority reports whether this replica and those in acked are most of it and those in all.
func majority(acked, all peerSet) bool { return 2*(acked.count()+1) > all.count()+1 }
