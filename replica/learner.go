package replica

import (
	"bytes"
	"slices"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/internal/rule"
)

// A learner is what a primary knows of the replica that it brings in sync. The zero learner is none.
type learner struct {
	id        ID
	assign    uint64
	part      Part   // 0: all are done
	from      uint64 // where its next page begins
	remove    []Item // PartHeld: of the page before, what the learner must not have
	last      bool   // PartHeld: that page was the last
	promoting bool   // it counts, and its promotion is asked for

	filling []dramnode.Generation // values on the way to it
	sent    int64
	since   int64 // of the last progress
}

// attach begins with the row's learner, or drops the one before. A promotion that was asked for under an older
// assignment can no longer be accepted, so that learner need not count any more.
func (p *Partition) attach(now int64, out *Effects) {
	l := p.lead
	l.learner = learner{}
	l.floored &^= learnerBit
	for _, w := range l.staging {
		w.staged &^= learnerBit
	}
	for _, w := range l.window {
		w.acked, w.done, w.staged, w.wants = w.acked&^learnerBit, w.done&^learnerBit, w.staged&^learnerBit, w.wants&^learnerBit
	}
	if id := p.row.Learner; id != 0 && !slices.Contains(p.row.Sync, id) {
		l.learner = learner{id: id, assign: p.row.AssignID, since: now, part: firstPart()}
		p.sendChunk(now, out)
		p.tryPromote(now, out)
	}
	p.resolve()
	p.tryAll(now, out)
}

func firstPart() Part {
	switch {
	case rule.Off(rule.ScanBeforePromote):
		return 0
	case rule.Off(rule.DedupScanned):
		return PartHeld
	}
	return PartMemory
}

// sendChunk sends the page that is due as it is now.
func (p *Partition) sendChunk(now int64, out *Effects) {
	f := &p.lead.learner
	f.sent, f.filling = now, nil
	m := Message{Kind: Chunk, From: p.node.ID, To: f.id, Epoch: p.row.Epoch, Assign: f.assign, Floor: p.floor, Stages: p.lead.lowest}
	m.Page = Page{Part: f.part, From: f.from}
	switch limit := p.node.Config.PageItems; f.part {
	case PartMemory:
		m.Memory, m.Page.Next, m.Page.End = p.memory.page(now, f.from, limit)
	case PartHeld:
		m.Items, m.Page.End = f.remove, f.last
	case PartNames:
		m.Page.AsOf = p.lastGen()
		m.Page.Next = uint64(p.store.Scan(Cursor(f.from), limit, func(key []byte, committed Version, pending Pending) {
			m.Items = append(m.Items, Item{Key: bytes.Clone(key), Version: travel(now, committed), Pending: pending.Gen})
		}))
		m.Page.End = m.Page.Next == 0
	default:
		return
	}
	out.Sends = append(out.Sends, m)
}

// onChunk goes through a page.
func (p *Partition) onChunk(now int64, m *Message, out *Effects) {
	p.hear(m)
	reply := Message{Kind: ChunkAck, Page: m.Page}
	switch m.Page.Part {
	case PartMemory:
		if p.node.Records.Full() {
			return // there is no room for them, as there may be none for values
		}
		for _, r := range m.Memory {
			p.memorise(now-r.Age, r.Origin, memo{gen: r.Gen})
		}
	case PartHeld:
		p.removeItems(m.Items)
		if !m.Page.End {
			reply.Items, reply.Page.Next = p.held(m.Page.From)
			reply.Page.End = reply.Page.Next == 0
		}
	case PartNames:
		for i := range m.Items {
			if !p.compare(now, &m.Items[i], m.Page.AsOf) {
				reply.Items = append(reply.Items, m.Items[i])
			}
		}
	}
	p.answer(m, reply, out)
}

// held names values that are here.
func (p *Partition) held(from uint64) (items []Item, next uint64) {
	cursor := p.store.Scan(Cursor(from), p.node.Config.PageItems, func(key []byte, committed Version, _ Pending) {
		if committed.Alive() {
			items = append(items, Item{Key: bytes.Clone(key), Version: Copy{Gen: committed.Gen}})
		}
	})
	return items, uint64(cursor)
}

// removeItems removes values that the primary does not have: those of an earlier time in sync. What has another
// generation by now is a later write's.
func (p *Partition) removeItems(items []Item) {
	if rule.Off(rule.ScanRemoves) {
		return
	}
	for i := range items {
		if committed := p.store.Committed(items[i].Key); committed.Gen == items[i].Version.Gen {
			_ = p.store.Apply(items[i].Key, Version{}) // removing needs no memory
		}
	}
}

// compare makes the committed version of one key that of the primary, and reports whether it is: otherwise the
// value is missing. A version that the primary committed after it made the page is newer, and stays.
func (p *Partition) compare(now int64, it *Item, asOf dramnode.Generation) bool {
	committed, pending := p.store.Get(it.Key)
	v := &it.Version
	newer := committed.Gen > v.Gen && (committed.Gen > asOf || committed.Gen == it.Pending)
	switch {
	case committed.Gen == v.Gen, newer && !rule.Off(rule.ScanKeepsNewer):
		return true
	}
	if pending.Gen != 0 && pending.Gen <= v.Gen {
		// The primary has committed it, or what came after it.
		p.commitLocal(now, it.Key, pending)
		if pending.Gen == v.Gen {
			return true
		}
	}
	if v.Deleted {
		return p.store.Apply(it.Key, Version{Gen: v.Gen, Deleted: true}) == nil
	}
	if committed.Gen > v.Gen { // it was given up in a recovery of the control plane
		_ = p.store.Apply(it.Key, Version{})
	}
	return false
}

// onChunkAck goes on to the next page, or sends the values that are missing in this one.
func (p *Partition) onChunkAck(now int64, m *Message, from peerSet, out *Effects) {
	f := &p.lead.learner
	if from != learnerBit || m.Page.Part != f.part || m.Page.From != f.from {
		return
	}
	end := m.Page.End
	switch f.part {
	case PartHeld:
		if f.last && !end {
			return // a late double
		}
		f.remove = p.notHere(m.Items)
		f.last = end
		end = end && len(f.remove) == 0
	case PartNames:
		if len(m.Items) > 0 {
			if len(f.filling) == 0 {
				p.sendFills(now, m, out)
			}
			return
		}
	}
	f.since, f.from = now, m.Page.Next
	if end {
		p.nextPart(now, out)
		return
	}
	p.sendChunk(now, out)
}

// nextPart goes on to the next part, or after the last to the promotion.
func (p *Partition) nextPart(now int64, out *Effects) {
	f := &p.lead.learner
	f.from, f.remove, f.filling, f.last = 0, nil, nil, false
	if f.part == PartNames {
		f.part = 0
		p.tryPromote(now, out)
		return
	}
	f.part++
	p.sendChunk(now, out)
}

// notHere returns those of the learner's items whose keys have no value here. The primary had committed each before
// the learner did, so what has no value now was deleted.
func (p *Partition) notHere(items []Item) (gone []Item) {
	for i := range items {
		if committed := p.store.Committed(items[i].Key); !committed.Alive() {
			gone = append(gone, Item{Key: bytes.Clone(items[i].Key), Version: Copy{Gen: items[i].Version.Gen}})
		}
	}
	return gone
}

// sendFills sends the values that the learner lacks, as far as they are still the committed ones: what was written since
// it is sent anyway.
func (p *Partition) sendFills(now int64, m *Message, out *Effects) {
	f := &p.lead.learner
	for i := range m.Items {
		it := &m.Items[i]
		committed := p.store.Committed(it.Key)
		if !committed.Alive() || committed.Gen != it.Version.Gen || len(f.filling) >= p.node.Config.PageItems {
			continue
		}
		c := travel(now, committed)
		c.Carried = true
		f.filling = append(f.filling, c.Gen)
		out.Sends = append(out.Sends, Message{Kind: Fill, From: p.node.ID, To: f.id, Epoch: p.row.Epoch, Assign: f.assign, Floor: p.floor, Stages: p.lead.lowest, Key: bytes.Clone(it.Key), Version: c})
	}
	f.sent = now
	if len(f.filling) == 0 {
		p.sendChunk(now, out)
	}
}

// onFill takes a value that was missing, unless the key has a newer version by now, a tombstone perhaps.
func (p *Partition) onFill(now int64, m *Message, out *Effects) {
	p.hear(m)
	v := &m.Version
	if !v.Carried && v.Value.Bytes > 0 {
		return // there was no room for it
	}
	committed, pending := p.store.Get(m.Key)
	if pending.Gen != 0 && pending.Gen <= v.Gen {
		p.commitLocal(now, m.Key, pending)
		committed = pending.Version
	}
	if committed.Gen >= v.Gen {
		p.refuse(m)
	} else if p.store.Apply(m.Key, Version{Gen: v.Gen, Value: v.Value, Deadline: deadline(now, v.TTL)}) != nil {
		p.refuse(m)
		return
	}
	p.answer(m, Message{Kind: Filled, Gen: v.Gen}, out)
}

func (p *Partition) onFilled(now int64, m *Message, from peerSet, out *Effects) {
	f := &p.lead.learner
	i := slices.Index(f.filling, m.Gen)
	if from != learnerBit || i < 0 {
		return
	}
	f.filling = slices.Delete(f.filling, i, i+1)
	f.since = now
	if len(f.filling) == 0 {
		p.sendChunk(now, out)
	}
}

// tryPromote asks for the promotion of a learner that has everything. From this instant it counts, before the control
// plane has heard of it: it may accept at any time.
func (p *Partition) tryPromote(now int64, out *Effects) {
	f := &p.lead.learner
	if f.id == 0 || f.part != 0 || f.promoting {
		return
	}
	lacks := func(w *write) bool { return w.committed && w.acked&learnerBit == 0 }
	if slices.ContainsFunc(p.lead.window, lacks) && !rule.Off(rule.LearnerAcksCommitted) {
		return
	}
	f.promoting, f.sent = true, now
	p.askPromote(out)
}

func (p *Partition) askPromote(out *Effects) {
	f := &p.lead.learner
	out.Asks = append(out.Asks, Ask{Kind: AskPromote, Epoch: p.row.Epoch, Peer: f.id, Assign: f.assign})
}

// tickLearner sends again what the learner has not answered, and reports one that makes no progress.
func (p *Partition) tickLearner(now int64, out *Effects) {
	f := &p.lead.learner
	if f.id == 0 || now-f.sent < p.node.Config.Resend {
		return
	}
	switch {
	case f.promoting:
		f.sent = now
		p.askPromote(out)
	case f.part == 0:
		p.tryPromote(now, out)
	case len(f.filling) == 0 || now-f.sent >= p.node.Config.Report:
		p.sendChunk(now, out)
	}
	if !f.promoting && now-f.since >= p.node.Config.StageTimeout {
		f.since = now
		out.Asks = append(out.Asks, Ask{Kind: AskReport, Epoch: p.row.Epoch, Peer: f.id})
	}
}
