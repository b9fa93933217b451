package replica

import "sync/atomic"

// Records is the account of what the partitions of a node remember writes in. That is memory of Go's heap, so it is counted, by what
// is allocated, and has a limit of its own. Nothing that a retry may ask for is dropped to stay within it: a primary
// takes the room of a record before it takes on the write, or refuses the write. Safe for concurrent use.
type Records struct {
	Limit int64 // bytes

	used    atomic.Int64
	refused atomic.Uint64
}

// Used returns the bytes that are taken.
func (r *Records) Used() int64 { return r.used.Load() }

// Refused returns how many writes found no room for their record, here or with a backup.
func (r *Records) Refused() uint64 { return r.refused.Load() }

// Full reports whether this node wants no records of others any more: what they have ordered it has to remember, and the last
// eighth is for what is under way to it.
func (r *Records) Full() bool { return r != nil && r.Used() >= r.Limit-r.Limit/8 }

// take counts n bytes, if they fit.
func (r *Records) take(n int64) bool {
	if r == nil || r.used.Add(n) <= r.Limit {
		return true
	}
	r.used.Add(-n)
	return false
}

// give returns n bytes.
func (r *Records) give(n int64) {
	if r != nil {
		r.used.Add(-n)
	}
}

func (r *Records) refuse() {
	if r != nil {
		r.refused.Add(1)
	}
}

// idleMemos is the room for records that a client may keep unused.
const idleMemos = 4

// What things take on a 64-bit machine.
const (
	recordBytes  = 24
	historyBytes = 48
	slotBytes    = 40 // of a map from ids to histories, at its emptiest
)

// charge counts n bytes of what p remembers, whether they fit or not.
func (p *Partition) charge(n int64) {
	p.memory.bytes += n
	p.node.Records.give(-n)
}

// admit takes room for the record of a write of o, and reports whether there is some. A client that stays within the room
// that it has, since it acknowledges what it was answered, is never refused.
func (p *Partition) admit(now int64, o Origin) bool {
	if o.Client == 0 {
		return true
	}
	h, want, need := p.memory.of(o.Client), 1, int64(historyBytes+slotBytes+recordBytes)
	if h != nil {
		if want = len(h.memos) + h.underway(p.row.Epoch) + 1; want <= cap(h.memos) {
			return true
		}
		need = recordBytes * int64(longer(want)-cap(h.memos))
	}
	r := p.node.Records
	if p.lacks(p.node.Crowded) || !r.take(need) {
		r.refuse()
		return false
	}
	if h == nil {
		h = p.open(now, o.Client)
	}
	p.extend(h, want)
	r.give(need) // it is charged by now
	return true
}

// open begins the history of a client.
func (p *Partition) open(now int64, client uint64) *history {
	if p.memory == nil {
		p.memory = &memory{clients: map[uint64]*history{}, look: now + p.node.Config.DedupLife/lookParts}
	}
	m, h := p.memory, &history{seen: now}
	m.clients[client], m.recent, m.recentOf = h, h, client
	p.charge(historyBytes)
	if n := len(m.clients); n > m.most {
		p.charge(slotBytes * int64(n-m.most))
		m.most = n
	}
	return h
}

// longer is the room that is made where n records need more.
func longer(n int) int { return n + (n-1)/2 }

// extend makes room in h for n records.
func (p *Partition) extend(h *history, n int) {
	if n > cap(h.memos) {
		p.resize(h, longer(n))
	}
}

// shrink gives back room that h has not used for a while.
func (p *Partition) shrink(h *history) {
	if n := max(1, len(h.memos)+h.underway(p.row.Epoch)); cap(h.memos) > 2*n+idleMemos {
		p.resize(h, n)
	}
}

func (p *Partition) resize(h *history, room int) {
	p.charge(recordBytes * int64(room-cap(h.memos)))
	h.memos = append(make([]memo, 0, room), h.memos...)
}

// underway returns how many writes of the client the primary of epoch has yet to memorise.
func (h *history) underway(epoch Epoch) int {
	if h.epoch != epoch {
		return 0
	}
	return int(h.flying)
}

// hold notes that a write of o, whose room is taken, is under way and has no record yet.
func (p *Partition) hold(o Origin) {
	if h := p.memory.of(o.Client); h != nil {
		h.flying, h.epoch = uint32(h.underway(p.row.Epoch)+1), p.row.Epoch
	}
}

// unhold notes that it has, or will never have.
func (p *Partition) unhold(o Origin) {
	if o.Client == 0 {
		return
	}
	if h := p.memory.of(o.Client); h != nil && h.underway(p.row.Epoch) > 0 {
		h.flying--
	}
}

// unremember forgets all records, with the entries that they are about.
func (p *Partition) unremember() {
	if p.memory != nil {
		p.charge(-p.memory.bytes)
		p.memory = nil
	}
}
