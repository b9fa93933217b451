package replica

import (
	"maps"
	"slices"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/internal/rule"
	"github.com/dramnode/dramnode/wire"
)

// How often in the life of a record it is looked for what need not be kept: always, and at most while there is little room.
const (
	lookParts  = 8
	tightParts = 256
)

// A memory holds what became of the writes whose clients may still retry them.
type memory struct {
	clients  map[uint64]*history
	most     int // clients since the map was made: maps do not shrink
	recent   *history
	recentOf uint64 // whose recent is: the client that was looked up last
	look     int64  // when to look for silent clients again
	bytes    int64  // what it has on Records
}

// A history is one client's part of it.
type history struct {
	first  uint64 // every counter below is answered, or was given up
	seen   int64  // when the client last wrote
	memos  []memo // ascending by counter
	epoch  Epoch  // of flying
	flying uint32 // writes that this primary was given in epoch and has not memorised: each has room among memos
}

// A memo is the outcome of one write. That of a definite failure is known to one primary only, and holds in its
// epoch: in another, copies of the request that were sent before are refused for their epoch.
type memo struct {
	counter uint64
	gen     dramnode.Generation
	status  wire.Status
	epoch   Epoch // 0: a committed write
}

// A Memo is a remembered write on its way to a learner.
type Memo struct {
	Origin Origin
	Gen    dramnode.Generation
	Age    int64 // nanoseconds since the client last wrote
}

// of returns the history of a client, nil if there is none.
func (m *memory) of(client uint64) *history {
	if m == nil {
		return nil
	}
	if m.recent == nil || m.recentOf != client {
		m.recent, m.recentOf = m.clients[client], client
	}
	return m.recent
}

// hasAll reports whether o's client has as many records as it may.
func (p *Partition) hasAll(o Origin) bool {
	h := p.memory.of(o.Client)
	return h != nil && len(h.memos)+h.underway(p.row.Epoch) >= p.node.Config.MaxRecords
}

// remembered answers a write that is being, was or may have been executed already.
func (p *Partition) remembered(now int64, r *Request, out *Effects) bool {
	if r.Origin.Client == 0 || rule.Off(rule.DedupLocal) {
		return false
	}
	if w := p.lead.running(r.Origin); w != nil {
		if w.answered { // only without rule.TimeoutIsUnknown
			p.reject(r.Token, r.Value.Blob, wire.StatusUnavailable, out)
			return true
		}
		p.supersede(w.Token, out)
		w.Token = r.Token
		p.store.Free(r.Value.Blob)
		return true
	}
	h := p.memory.of(r.Origin.Client)
	var first uint64
	if h != nil {
		first = h.first
	} else {
		first = p.node.Records.acknowledged(r.Origin.Client)
	}
	if r.Origin.Counter < first && !rule.Off(rule.DedupRefused) {
		p.reject(r.Token, r.Value.Blob, wire.StatusUnknownOutcome, out)
		return true
	}
	if h == nil {
		return false
	}
	h.seen = now
	h.acknowledge(r.Origin.FirstUnacked)
	i, ok := h.find(r.Origin.Counter)
	if !ok || h.memos[i].epoch != 0 && h.memos[i].epoch != p.row.Epoch {
		return false
	}
	return p.recall(now, r, h.memos[i], out)
}

// running returns the write that o identifies while it is not committed, or nil.
func (l *lead) running(o Origin) *write {
	if len(l.byID) == 0 {
		return nil
	}
	if w := l.byID[o.id()]; w != nil && !w.committed {
		return w
	}
	return nil
}

// recall answers a retry with the outcome of the first attempt.
func (p *Partition) recall(now int64, r *Request, m memo, out *Effects) bool {
	if r.Kind == wire.KindDeleteRange {
		if rule.Off(rule.RangeRecorded) {
			return false
		}
		p.resumeRange(now, r, m.gen, out)
		return true
	}
	p.store.Free(r.Value.Blob)
	reply := Reply{Token: r.Token, Gen: m.gen, Epoch: p.row.Epoch}
	if m.epoch != 0 || p.ackSet() == 0 {
		reply = p.observed(r.Token)
		reply.Gen, reply.Status = m.gen, m.status
	}
	if m.epoch == 0 {
		reply.Otherwise = wire.StatusUnknownOutcome
	}
	out.Replies = append(out.Replies, reply)
	return true
}

// supersede ends the attempt before a retry: the retry has taken its place.
func (p *Partition) supersede(token uint64, out *Effects) {
	out.Replies = append(out.Replies, Reply{Token: token, Status: wire.StatusUnknownOutcome, Epoch: p.row.Epoch})
}

// memorise records the outcome of o's write.
func (p *Partition) memorise(now int64, o Origin, m memo) {
	if o.Client == 0 {
		return
	}
	h := p.memory.of(o.Client)
	if h == nil {
		h = p.open(now, o)
	}
	h.seen = max(h.seen, now)
	h.acknowledge(o.FirstUnacked)
	m.counter = o.Counter
	if m.counter < h.first {
		return
	}
	if i, ok := h.find(m.counter); ok {
		h.memos[i] = m
	} else {
		p.extend(h, len(h.memos)+1)
		h.memos = slices.Insert(h.memos, i, m)
	}
}

func (h *history) find(counter uint64) (int, bool) {
	if n := len(h.memos); n == 0 || h.memos[n-1].counter < counter {
		return n, false // as most that are looked for: new ones
	}
	return slices.BinarySearchFunc(h.memos, counter, func(m memo, c uint64) int {
		switch {
		case m.counter < c:
			return -1
		case m.counter > c:
			return 1
		}
		return 0
	})
}

// acknowledge forgets the records that no retry can ask for.
func (h *history) acknowledge(first uint64) {
	if first <= h.first {
		return
	}
	h.first = first
	i, _ := h.find(first)
	h.memos = slices.Delete(h.memos, 0, i)
}

// forget drops what is left of clients that were silent for life, or are done with all that is remembered here, and room that the
// others do not use. What a client is done with is known to the node by then.
func (p *Partition) forget(now, life int64) {
	if rule.Off(rule.DedupKept) {
		life = 0
	}
	m, records := p.memory, p.node.Records
	late := lateness(now, m.look, life)
	m.look, m.recent = now+life/lookParts, nil
	for id, h := range m.clients {
		h.seen = min(h.seen+late, now)
		h.acknowledge(records.acknowledge(id, h.first, h.seen))
		if now-h.seen >= life || len(h.memos)+h.underway(p.row.Epoch) == 0 {
			p.charge(-historyBytes - recordBytes*int64(cap(h.memos)))
			delete(m.clients, id)
			continue
		}
		p.shrink(h)
	}
	records.forget(now, life)
	if n := len(m.clients); 2*n < m.most {
		p.charge(-slotBytes * int64(m.most-n))
		clients := make(map[uint64]*history, n)
		maps.Copy(clients, m.clients)
		m.clients, m.most = clients, n
	}
}

// lateness is how long nobody looked though it was time to. This process stood still then, and copies of requests which came
// meanwhile have yet to be read: records do not age by it.
func lateness(now, look, life int64) int64 {
	if late := now - look; late >= life/lookParts && !rule.Off(rule.DedupPaused) {
		return late
	}
	return 0
}

// page returns the records of the clients after after, about limit of them.
func (m *memory) page(now int64, after uint64, limit int) (memos []Memo, last uint64, end bool) {
	if m == nil {
		return nil, after, true
	}
	var ids []uint64
	for id := range m.clients {
		if id > after {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	last = after
	for _, id := range ids {
		if len(memos) >= limit {
			return memos, last, false
		}
		h := m.clients[id]
		for _, r := range h.memos {
			if r.epoch == 0 {
				memos = append(memos, Memo{Origin: Origin{id, r.counter, h.first}, Gen: r.gen, Age: now - h.seen})
			}
		}
		last = id
	}
	return memos, last, true
}
