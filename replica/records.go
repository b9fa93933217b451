package replica

import (
	"maps"
	"sync"
	"sync/atomic"

	"github.com/dramnode/dramnode/internal/rule"
)

// Records is the account of what the partitions of a node remember writes in. That is memory of Go's heap, so it is counted, by what
// is allocated, and has a limit of its own. Nothing that a retry may ask for is dropped to stay within it: a primary
// takes the room of a record before it takes on the write, or refuses the write. Safe for concurrent use.
//
// It also holds what is true of a client in every partition: which of its writes are answered for good. So what a partition keeps of
// a client goes with its last record there, and clients that wrote everywhere and went cost each node as much as one record.
type Records struct {
	Limit int64 // bytes

	used    atomic.Int64
	refused atomic.Uint64

	mu   sync.Mutex
	acks map[uint64]ack // by client
	most int            // clients since the map was made
	look int64          // when to look for silent clients again
}

// An ack is a client's word that all its writes below first are answered, or given up. A copy of one that comes now is not executed.
type ack struct {
	first uint64
	seen  int64 // when the client last wrote in a partition that keeps nothing of it any more, or later
}

// Used returns the bytes that are taken.
func (r *Records) Used() int64 { return r.used.Load() }

// Refused returns how many writes found no room for their record, here or with a backup.
func (r *Records) Refused() uint64 { return r.refused.Load() }

// Full reports whether this node wants no records of others any more: what they have ordered it has to remember, and the last
// eighth is for what is under way to it.
func (r *Records) Full() bool { return r.Used() >= r.Limit-r.Limit/8 }

// Tight reports whether partitions should see soon, by their Tick, what they need not keep.
func (r *Records) Tight() bool { return r.Used() >= r.Limit/2 }

// take counts n bytes, if they fit.
func (r *Records) take(n int64) bool {
	if r.used.Add(n) <= r.Limit {
		return true
	}
	r.used.Add(-n)
	return false
}

// give returns n bytes.
func (r *Records) give(n int64) { r.used.Add(-n) }

// acknowledge notes that a client, which wrote at seen, is done with its writes below first, and returns below which it is by what it
// told any partition of the node.
func (r *Records) acknowledge(client, first uint64, seen int64) uint64 {
	if rule.Off(rule.DedupFolded) {
		return first
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.acks == nil {
		r.acks, r.look = map[uint64]ack{}, seen
	}
	was := r.acks[client]
	is := ack{max(was.first, first), max(was.seen, seen)}
	if is != was {
		r.acks[client] = is
	}
	if n := len(r.acks); n > r.most {
		r.give(-ackBytes)
		r.most = n
	}
	return is.first
}

// acknowledged returns below which counter a client is done.
func (r *Records) acknowledged(client uint64) uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.acks[client].first
}

// forget drops the clients that were silent for life, as Partition.forget does and after it.
func (r *Records) forget(now, life int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now < r.look {
		return
	}
	late := lateness(now, r.look, life)
	r.look = now + life/lookParts
	for client, a := range r.acks {
		a.seen = min(a.seen+late, now)
		if r.acks[client] = a; now-a.seen >= life {
			delete(r.acks, client)
		}
	}
	if n := len(r.acks); 2*n < r.most {
		r.give(ackBytes * int64(r.most-n))
		acks := make(map[uint64]ack, n)
		maps.Copy(acks, r.acks)
		r.acks, r.most = acks, n
	}
}

// idleMemos is the room for records that a client may keep unused.
const idleMemos = 4

// What things take on a 64-bit machine.
const (
	recordBytes  = 24
	historyBytes = 48
	slotBytes    = 40 // of a map from ids to histories, at its emptiest
	ackBytes     = 56 // likewise, to acks
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
	h, want, need := p.memory.of(o.Client), 1, int64(historyBytes+slotBytes+ackBytes+recordBytes)
	if h == nil {
		p.relieve(now)
	} else {
		if want = len(h.memos) + h.underway(p.row.Epoch) + 1; want <= cap(h.memos) {
			return true
		}
		need = recordBytes * int64(longer(want)-cap(h.memos))
	}
	r := p.node.Records
	if p.lacks(p.node.Crowded) || !r.take(need) {
		r.refused.Add(1)
		return false
	}
	if h == nil {
		h = p.open(now, o)
	}
	p.extend(h, want)
	r.give(need) // it is charged by now
	return true
}

// open begins the history of o's client here.
func (p *Partition) open(now int64, o Origin) *history {
	p.relieve(now)
	if p.memory == nil {
		p.memory = &memory{clients: map[uint64]*history{}, look: now + p.node.Config.DedupLife/lookParts}
	}
	m, h := p.memory, &history{seen: now, first: p.node.Records.acknowledge(o.Client, o.FirstUnacked, now)}
	m.clients[o.Client], m.recent, m.recentOf = h, h, o.Client
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

// tickRecords looks for what need not be kept when it is time to.
func (p *Partition) tickRecords(now int64) {
	if p.memory == nil {
		return
	}
	if now >= p.memory.look {
		p.forget(now, p.node.Config.DedupLife)
	} else {
		p.relieve(now)
	}
}

// relieve looks for what need not be kept where there is little room.
func (p *Partition) relieve(now int64) {
	if m, life := p.memory, p.node.Config.DedupLife; m != nil && p.node.Records.Tight() && now >= m.look-life/lookParts+life/tightParts {
		p.forget(now, life)
	}
}

// unremember forgets all records, with the entries that they are about.
func (p *Partition) unremember() {
	if p.memory != nil {
		p.charge(-p.memory.bytes)
		p.memory = nil
	}
}
