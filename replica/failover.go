package replica

import (
	"bytes"
	"cmp"
	"slices"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/internal/rule"
	"github.com/dramnode/dramnode/wire"
)

// A dirty key has, or had, a pending version at some replica when the epoch began.
type dirty struct {
	key   []byte
	acked peerSet // hold what the primary holds
}

// seal begins a primary's epoch.
func (p *Partition) seal(now int64, out *Effects) {
	p.sendSeals(p.syncSet(), out)
	p.lead.asked = now
	p.trySealed(now, out)
}

func (p *Partition) sendSeals(set peerSet, out *Effects) {
	p.each(set, func(id ID, _ uint64, _ peerSet) {
		out.Sends = append(out.Sends, Message{Kind: Seal, From: p.node.ID, To: id, Epoch: p.row.Epoch, Row: p.row})
	})
}

// onSeal adopts the row of a new primary and tells it the keys that are dirty here.
func (p *Partition) onSeal(now int64, m *Message, out *Effects) {
	if m.Row == nil || m.Row.Epoch != m.Epoch || m.Row.Primary != m.From || !slices.Contains(m.Row.Sync, m.From) || m.Epoch < p.row.Epoch {
		return
	}
	p.Adopt(now, m.Row, out)
	if p.lead != nil || p.heard || !p.inSync() || m.Epoch != p.row.Epoch || m.From != p.row.Primary {
		return
	}
	reply := Message{Kind: Sealed}
	p.store.Pendings(func(key []byte, _ Version, pending Pending) {
		reply.Items = append(reply.Items, Item{Key: bytes.Clone(key), Pending: pending.Gen})
	})
	p.answer(m, reply, out)
}

func (p *Partition) onSealed(now int64, m *Message, from peerSet, out *Effects) {
	l := p.lead
	if l.phase != sealing || from == learnerBit {
		return
	}
	for i := range m.Items {
		l.soil(m.Items[i].Key)
	}
	l.sealed |= from
	p.trySealed(now, out)
}

// soil notes that key is dirty somewhere.
func (l *lead) soil(key []byte) {
	i, ok := slices.BinarySearchFunc(l.dirty, key, func(d dirty, k []byte) int { return bytes.Compare(d.key, k) })
	if !ok {
		l.dirty = slices.Insert(l.dirty, i, dirty{key: bytes.Clone(key)})
	}
}

// trySealed goes on when everybody has sealed: no older epoch can commit anything any more.
func (p *Partition) trySealed(now int64, out *Effects) {
	l, all := p.lead, p.syncSet()
	if l.sealed&all != all && !rule.Off(rule.SealFirst) {
		return
	}
	l.phase = syncing
	p.store.Pendings(func(key []byte, _ Version, _ Pending) { l.soil(key) })
	if rule.Off(rule.ResolveDirty) {
		l.dirty = nil
	}
	p.sendSyncs(now, out)
	p.trySynced(now, out)
}

// sendSyncs sends what this primary holds under each dirty key to those who have not said that they do.
func (p *Partition) sendSyncs(now int64, out *Effects) {
	for i := range p.lead.dirty {
		p.each(p.syncSet()&^p.lead.dirty[i].acked, func(id ID, _ uint64, _ peerSet) { p.sendSync(now, i, id, 0, out) })
	}
}

// sendSync sends the i-th dirty key, with the value of version carried.
func (p *Partition) sendSync(now int64, i int, to ID, carried dramnode.Generation, out *Effects) {
	key := p.lead.dirty[i].key
	committed, pending := p.store.Get(key)
	m := Message{Kind: Sync, From: p.node.ID, To: to, Epoch: p.row.Epoch, Key: key, Number: uint64(i)}
	m.Base, m.Version = travel(now, committed), travel(now, pending.Version)
	m.Version.Origin = pending.Origin
	for _, c := range []*Copy{&m.Base, &m.Version} {
		c.Carried = carried != 0 && c.Gen == carried && !c.Deleted
	}
	out.Sends = append(out.Sends, m)
}

// travel makes a version ready for its way, without its value.
func travel(now int64, v Version) Copy {
	c := Copy{Gen: v.Gen, Deleted: v.Deleted, Value: v.Value}
	if v.Deadline != 0 {
		c.TTL = max(1, v.Deadline-now)
	}
	return c
}

// onSync makes this replica hold what the new primary holds: the primary's state wins. A replica that is ahead has committed
// what is pending at the primary and will be committed there.
func (p *Partition) onSync(now int64, m *Message, out *Effects) {
	if p.heard && !rule.Off(rule.SyncBeforeActive) {
		p.refuse(m)
		return
	}
	committed, pending := p.store.Get(m.Key)
	if committed.Gen <= m.Base.Gen && !p.syncBase(now, m, committed, pending, out) {
		return
	}
	if !p.syncPending(now, m, out) {
		return
	}
	p.answer(m, Message{Kind: SyncAck, Number: m.Number}, out)
}

// syncBase makes the primary's committed version the committed one here.
func (p *Partition) syncBase(now int64, m *Message, committed Version, pending Pending, out *Effects) bool {
	b := &m.Base
	switch {
	case committed.Gen == b.Gen:
	case pending.Gen == b.Gen:
		p.commitLocal(now, m.Key, pending)
	case b.Gen != 0 && !b.Deleted && !b.Carried:
		p.refuse(m)
		p.answer(m, Message{Kind: Need, Gen: b.Gen, Number: m.Number}, out)
		return false
	default:
		v := Version{Gen: b.Gen, Deleted: b.Deleted, Deadline: deadline(now, b.TTL)}
		if !b.Deleted {
			v.Value = b.Value
		}
		if p.store.Apply(m.Key, v) != nil {
			p.refuse(m)
			return false
		}
		b.Carried = false // the store has the blob
	}
	if b.Carried {
		p.store.Free(b.Value.Blob)
		b.Carried = false
	}
	return true
}

// syncPending makes the primary's pending version the pending one here, or what is committed already.
func (p *Partition) syncPending(now int64, m *Message, out *Effects) bool {
	committed, pending := p.store.Get(m.Key)
	v := &m.Version
	switch {
	case v.Gen == 0 || committed.Gen >= v.Gen:
		p.store.Forget(m.Key)
	case pending.Gen == v.Gen:
	case !v.Deleted && !v.Carried:
		p.refuse(m)
		p.answer(m, Message{Kind: Need, Gen: v.Gen, Number: m.Number}, out)
		return false
	default:
		n := Pending{Version: Version{Gen: v.Gen, Deleted: v.Deleted, Deadline: deadline(now, v.TTL)}, Origin: v.Origin}
		if !v.Deleted {
			n.Value = v.Value
		}
		if p.store.Prepare(m.Key, n) != nil {
			p.refuse(m)
			return false
		}
		v.Carried = false
	}
	p.refuse(m)
	return true
}

// syncNeeded sends a Sync again with a value that the backup lacks.
func (p *Partition) syncNeeded(now int64, m *Message, out *Effects) {
	if p.lead.phase == syncing && m.Number < uint64(len(p.lead.dirty)) {
		p.sendSync(now, int(m.Number), m.From, m.Gen, out)
	}
}

func (p *Partition) onSyncAck(now int64, m *Message, from peerSet, out *Effects) {
	l := p.lead
	if l.phase != syncing || m.Number >= uint64(len(l.dirty)) {
		return
	}
	l.dirty[m.Number].acked |= from
	p.trySynced(now, out)
}

// trySynced asks for activation when everybody holds the same under every dirty key.
func (p *Partition) trySynced(now int64, out *Effects) {
	l, all := p.lead, p.syncSet()
	if slices.ContainsFunc(l.dirty, func(d dirty) bool { return d.acked&all != all }) {
		return
	}
	l.phase, l.dirty, l.asked = synced, nil, now
	out.Asks = append(out.Asks, Ask{Kind: AskActivate, Epoch: p.row.Epoch})
	if p.row.ActEpoch == p.row.Epoch || rule.Off(rule.ActivateByControl) {
		p.activate(now, out)
	}
}

// activate begins to serve: what is pending is committed, since everybody in sync holds it.
func (p *Partition) activate(now int64, out *Effects) {
	l := p.lead
	l.phase = active
	var writes []*write
	p.store.Pendings(func(key []byte, _ Version, pending Pending) {
		writes = append(writes, l.adoptOrphan(key, pending))
	})
	slices.SortFunc(writes, func(a, b *write) int { return cmp.Compare(a.gen, b.gen) })
	for _, w := range writes {
		_, pending := p.store.Get(w.Key)
		p.store.Commit(w.Key)
		p.memorise(now, w.Origin, memo{gen: w.gen})
		w.committed, w.acked, w.took, w.sent = true, p.syncSet(), now, now
		if pending.Deadline != 0 {
			w.TTL = max(1, pending.Deadline-now)
		}
		if !w.answered {
			w.answered = true
			p.written(w.Token, w.gen, out)
		}
	}
	l.window, l.writes, l.orphan = writes, len(writes), nil
	p.resolve()
	for _, w := range writes {
		p.sendCommit(w, p.syncSet(), out)
	}
	p.attach(now, out)
}

// adoptOrphan returns the write of a pending version: with its request, when that waits here from an epoch before.
func (l *lead) adoptOrphan(key []byte, v Pending) *write {
	for _, w := range l.orphan {
		if w.gen == v.Gen {
			w.next, w.same, w.stage, w.staged, w.wants, w.done = nil, 0, 0, 0, 0, 0
			return w
		}
	}
	kind := wire.KindPut
	if v.Deleted {
		kind = wire.KindDelete
	}
	return &write{Request: Request{Kind: kind, Key: bytes.Clone(key), Origin: v.Origin, Value: v.Value}, gen: v.Gen, deleted: v.Deleted, answered: true}
}

// tickFailover sends again what is not answered, and reports who stays silent.
func (p *Partition) tickFailover(now int64, out *Effects) {
	l := p.lead
	if now-l.asked < p.node.Config.Resend {
		return
	}
	l.asked = now
	silent := p.syncSet() &^ l.sealed
	switch l.phase {
	case sealing:
		p.sendSeals(silent, out)
	case syncing:
		p.sendSyncs(now, out)
		for i := range l.dirty {
			silent |= p.syncSet() &^ l.dirty[i].acked
		}
	case synced:
		out.Asks = append(out.Asks, Ask{Kind: AskActivate, Epoch: p.row.Epoch})
		return
	}
	if now-l.since >= p.node.Config.Report {
		p.each(silent, func(id ID, _ uint64, _ peerSet) {
			out.Asks = append(out.Asks, Ask{Kind: AskReport, Epoch: p.row.Epoch, Peer: id})
		})
	}
}
