package replica

import (
	"slices"

	"github.com/dramnode/dramnode/wire"
)

// A staged is a value that waits at a backup for its Prepare.
type staged struct {
	number uint64
	value  Value
}

// startStage sends a large value to everybody before its write is ordered: until all have it, the write may fail
// freely and its key is not taken.
func (p *Partition) startStage(now int64, w *write, out *Effects) {
	l := p.lead
	if committed := p.store.Committed(w.Key); l.byKey[string(w.Key)] == nil && !committed.expired(now) {
		current := committed.Gen
		if !committed.Alive() {
			current = 0
		}
		if p.observes(&w.Request, current) {
			out.Replies = append(out.Replies, p.observe(now, &w.Request, committed, current))
			p.drop(w)
			return
		}
	}
	l.stage++
	w.stage, w.took, w.sent = l.stage, now, now
	l.staging = append(l.staging, w)
	p.each(p.audience(), func(id ID, assign uint64, _ peerSet) { p.sendStage(w, id, assign, out) })
}

func (p *Partition) sendStage(w *write, id ID, assign uint64, out *Effects) {
	m := Message{Kind: Stage, From: p.node.ID, To: id, Epoch: p.row.Epoch, Assign: assign, Floor: p.floor, Stages: p.lead.lowest, Staged: w.stage, Key: w.Key}
	m.Version = Copy{Carried: true, Value: w.Value}
	out.Sends = append(out.Sends, m)
}

// lowestStage returns the lowest stage that the primary is not done with.
func (l *lead) lowestStage() uint64 {
	lowest := l.stage + 1
	consider := func(w *write) {
		if w.stage != 0 {
			lowest = min(lowest, w.stage)
		}
	}
	for _, w := range l.staging {
		consider(w)
	}
	for _, w := range l.window {
		consider(w)
	}
	for _, w := range l.byKey {
		for ; w != nil; w = w.next {
			consider(w)
		}
	}
	return lowest
}

func (p *Partition) onStageAck(now int64, m *Message, from peerSet, out *Effects) {
	l := p.lead
	if i := slices.IndexFunc(l.staging, func(w *write) bool { return w.stage == m.Staged }); i >= 0 {
		l.staging[i].staged |= from
		p.tryStaged(now, out)
		return
	}
	for _, w := range l.window {
		if w.stage == m.Staged && w.staged&from == 0 {
			w.staged |= from
			p.sendPrepare(now, w, from, out)
		}
	}
}

// tryStaged orders the writes whose values are with everybody who counts.
func (p *Partition) tryStaged(now int64, out *Effects) {
	need := p.ackSet()
	for i := 0; i < len(p.lead.staging); {
		w := p.lead.staging[i]
		if w.staged&need != need {
			i++
			continue
		}
		p.lead.staging = slices.Delete(p.lead.staging, i, i+1)
		p.enqueue(now, w, out)
	}
}

// onStageRefuse: no backup has room for less than every backup. After its order a write cannot fail any more:
// then the backup must go, as a learner must at any time.
func (p *Partition) onStageRefuse(now int64, m *Message, from peerSet, out *Effects) {
	i := slices.IndexFunc(p.lead.staging, func(w *write) bool { return w.stage == m.Staged })
	if i < 0 || from == learnerBit {
		out.Asks = append(out.Asks, Ask{Kind: AskReport, Epoch: p.row.Epoch, Peer: m.From})
		return
	}
	p.abortStage(p.lead.staging[i], wire.StatusNoMemory, out)
}

// abortStage ends a write that is not ordered, and lets the backups forget its value.
func (p *Partition) abortStage(w *write, s wire.Status, out *Effects) {
	l := p.lead
	l.staging = slices.DeleteFunc(l.staging, func(o *write) bool { return o == w })
	p.giveUp(w, s, out)
	p.drop(w)
}

// tickStages sends again what was not acknowledged, gives up what takes too long, and returns for whom.
func (p *Partition) tickStages(now int64, out *Effects) (silent peerSet) {
	p.tryStaged(now, out)
	for _, w := range slices.Clone(p.lead.staging) {
		missing := p.audience() &^ w.staged
		if now-w.took >= p.node.Config.StageTimeout {
			silent |= missing
			p.abortStage(w, wire.StatusUnavailable, out)
			continue
		}
		if now-w.sent >= p.node.Config.Report {
			w.sent = now
			p.each(missing, func(id ID, assign uint64, _ peerSet) { p.sendStage(w, id, assign, out) })
		}
	}
	return silent
}

// onStage keeps a value for its Prepare. One that does not come Carried found no room.
func (p *Partition) onStage(m *Message, out *Effects) {
	p.hear(m)
	switch {
	case !m.Version.Carried && m.Version.Value.Bytes > 0:
		p.answer(m, Message{Kind: StageRefuse, Staged: m.Staged}, out)
		return
	case m.Staged < p.staged || slices.ContainsFunc(p.stages, func(s staged) bool { return s.number == m.Staged }):
		p.store.Free(m.Version.Value.Blob)
	default:
		p.stages = append(p.stages, staged{m.Staged, m.Version.Value})
	}
	p.answer(m, Message{Kind: StageAck, Staged: m.Staged}, out)
}

// takeStage hands out a staged value.
func (p *Partition) takeStage(number uint64) (Value, bool) {
	i := slices.IndexFunc(p.stages, func(s staged) bool { return s.number == number })
	if i < 0 {
		return Value{}, false
	}
	v := p.stages[i].value
	p.stages = slices.Delete(p.stages, i, i+1)
	return v, true
}

// dropStages forgets the values of writes that will never be ordered.
func (p *Partition) dropStages() { p.dropStagesBelow(^uint64(0)) }

func (p *Partition) dropStagesBelow(number uint64) {
	p.stages = slices.DeleteFunc(p.stages, func(s staged) bool {
		if s.number < number {
			p.store.Free(s.value.Blob)
		}
		return s.number < number
	})
}
