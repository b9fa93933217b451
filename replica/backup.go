package replica

import "github.com/dramnode/dramnode/internal/rule"

// hear notes that the primary is active, and what it is done with.
func (p *Partition) hear(m *Message) {
	p.heard = true
	if m.Stages > p.staged {
		p.staged = m.Stages
		p.dropStagesBelow(m.Stages)
	}
	if m.Floor > p.floor {
		p.floor = m.Floor
		if p.inSync() {
			p.store.DropTombstones(m.Floor)
		}
	}
}

// onPrepare makes a version pending and acknowledges it. It cannot refuse: what it cannot do for want of a value
// it asks for (Need); when it has no memory it stays silent, until the primary has it removed.
func (p *Partition) onPrepare(now int64, m *Message, out *Effects) {
	p.hear(m)
	committed, pending := p.store.Get(m.Key)
	below := m.Gen < p.floor && !rule.Off(rule.FloorOnPrepare)
	if (m.Gen <= committed.Gen || m.Gen < pending.Gen) && !rule.Off(rule.DedupOvertaken) {
		// A learner may have been given the value, or the key's next write, before its Prepare: the primary had committed it.
		p.memorise(now, m.Version.Origin, memo{gen: m.Gen})
	}
	if below || m.Gen <= committed.Gen || pending.Gen != 0 && m.Gen <= pending.Gen {
		p.refuse(m)
		p.answer(m, Message{Kind: Ack, Gen: m.Gen}, out)
		return
	}
	if pending.Gen != 0 && !rule.Off(rule.CommitByPrepare) {
		// The primary orders a key's next write after it committed the one before.
		p.commitLocal(now, m.Key, pending)
		committed = pending.Version
	}
	value, ok := p.valueOf(m, committed)
	if !ok {
		p.answer(m, Message{Kind: Need, Gen: m.Gen}, out)
		return
	}
	v := Pending{Version: Version{Gen: m.Gen, Deleted: m.Version.Deleted, Value: value, Deadline: deadline(now, m.Version.TTL)}, Origin: m.Version.Origin}
	if p.store.Prepare(m.Key, v) != nil {
		if value.Blob != committed.Value.Blob {
			p.store.Free(value.Blob)
		}
		return
	}
	p.answer(m, Message{Kind: Ack, Gen: m.Gen}, out)
}

// valueOf finds the value of the version that m prepares.
func (p *Partition) valueOf(m *Message, committed Version) (Value, bool) {
	switch v := &m.Version; {
	case v.Deleted:
		return Value{}, true
	case v.Carried:
		return v.Value, true
	case v.Same != 0:
		// A learner may have a delete in place of a version that was superseded.
		return committed.Value, committed.Gen == v.Same && committed.Alive()
	}
	return p.takeStage(m.Staged)
}

// deadline turns a remaining ttl into an instant of the local clock.
func deadline(now, ttl int64) int64 {
	if ttl == 0 {
		return 0
	}
	return now + ttl
}

// commitLocal commits the pending version of key on the primary's word.
func (p *Partition) commitLocal(now int64, key []byte, pending Pending) {
	p.store.Commit(key)
	if !rule.Off(rule.DedupReplicated) {
		p.memorise(now, pending.Origin, memo{gen: pending.Gen})
	}
	if rule.Off(rule.TombstoneToFloor) && p.inSync() || rule.Off(rule.TombstoneOnLearner) && !p.inSync() {
		p.store.DropTombstones(^pending.Gen)
	}
}

// onCommit commits. A learner may get a commit before its Prepare: it stays silent, and is sent both again.
func (p *Partition) onCommit(now int64, m *Message, out *Effects) {
	p.hear(m)
	committed, pending := p.store.Get(m.Key)
	switch {
	case pending.Gen == m.Gen:
		p.commitLocal(now, m.Key, pending)
	case committed.Gen < m.Gen && m.Gen >= p.floor:
		return
	}
	p.answer(m, Message{Kind: CommitAck, Gen: m.Gen}, out)
}
