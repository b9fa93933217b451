package replica

import (
	"bytes"
	"slices"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/internal/rule"
	"github.com/dramnode/dramnode/wire"
)

const (
	maxRanges    = 16 // delete-ranges of a partition at a time
	rangeFlying  = 64 // deletes of one of them at a time
	rangeStep    = 256
	rangeBusyPct = 50 // of Config.MaxWrites that deletes of ranges may take
)

// A rangeDelete deletes every entry from first to end whose generation is at most bound, the generation of
// a write of its own that comes first: the delete of the empty key, which no entry has. That write's record is what a
// retry finds on any primary, so a retry deletes nothing that the first attempt had not to delete.
type rangeDelete struct {
	bound    dramnode.Generation
	pending  [][]byte // keys with a version up to bound that was not committed when d began: an entry may only come of it
	from     []byte   // what is left: from here on, and before end
	end      []byte
	token    uint64
	origin   origin
	count    uint64
	flying   int // deletes under way
	scanned  bool
	running  bool
	answered bool
}

func newRange(r *Request) *rangeDelete {
	return &rangeDelete{from: bytes.Clone(r.Key), end: bytes.Clone(r.End), token: r.Token, origin: r.Origin.id()}
}

// startRange orders the write that fixes the bound.
func (p *Partition) startRange(now int64, w *write, out *Effects) {
	if len(p.lead.ranges) >= maxRanges {
		p.giveUp(w, wire.StatusBusy, out)
		p.drop(w)
		return
	}
	w.part = newRange(&w.Request)
	w.Key, w.End, w.IfMatch = nil, nil, false
	p.enqueue(now, w, out)
}

// resumeRange runs a retry under the first attempt's bound.
func (p *Partition) resumeRange(now int64, r *Request, bound dramnode.Generation, out *Effects) {
	for _, d := range p.lead.ranges {
		if d.origin == r.Origin.id() {
			p.supersede(d.token, out)
			d.token = r.Token
			return
		}
	}
	if len(p.lead.ranges) >= maxRanges {
		p.reject(r.Token, 0, wire.StatusBusy, out)
		return
	}
	p.runRange(now, newRange(r), bound, out)
}

func (p *Partition) runRange(now int64, d *rangeDelete, bound dramnode.Generation, out *Effects) {
	d.bound = bound
	if rule.Off(rule.RangeBound) {
		d.bound = ^bound
	}
	d.pending = p.pendingOf(d)
	p.lead.ranges = append(p.lead.ranges, d)
	p.advance(now, d, out)
}

// pendingOf returns the keys in d's range with versions that are at most its bound and not committed yet. Their writes come before d, although they are
// not answered: a retry of d, which has the same bound, would delete them whenever it comes.
func (p *Partition) pendingOf(d *rangeDelete) (keys [][]byte) {
	if rule.Off(rule.RangePending) {
		return nil
	}
	for _, w := range p.lead.window {
		if w.gen <= d.bound && !w.committed && !w.deleted && bytes.Compare(w.Key, d.from) >= 0 && (len(d.end) == 0 || bytes.Compare(w.Key, d.end) < 0) {
			keys = append(keys, w.Key)
		}
	}
	return keys
}

// advance starts the next deletes of d, and answers when all are done.
func (p *Partition) advance(now int64, d *rangeDelete, out *Effects) {
	if d.running || d.answered {
		return
	}
	d.running = true
	for _, key := range p.nextOfRange(d) {
		p.lead.writes++
		d.flying++
		p.enqueue(now, &write{Request: Request{Kind: wire.KindDelete, Key: key}, intent: rangePart, part: d}, out)
	}
	d.running = false
	if d.scanned && d.flying == 0 {
		d.answered = true
		out.Replies = append(out.Replies, Reply{Token: d.token, Gen: d.bound, Count: d.count, Epoch: p.row.Epoch})
		p.lead.ranges = slices.DeleteFunc(p.lead.ranges, func(o *rangeDelete) bool { return o == d })
	}
}

// nextOfRange moves d on and returns keys whose committed version is at most the bound.
func (p *Partition) nextOfRange(d *rangeDelete) (keys [][]byte) {
	room := min(rangeFlying-d.flying, p.node.Config.MaxWrites*rangeBusyPct/100-p.lead.writes)
	if d.scanned || room <= 0 {
		return nil
	}
	if n := min(room, len(d.pending)); n > 0 {
		keys, d.pending = d.pending[:n:n], d.pending[n:]
		return keys
	}
	d.from = p.store.List(d.from, d.end, min(room, rangeStep), func(key []byte, committed Version) {
		if committed.Gen <= d.bound {
			keys = append(keys, bytes.Clone(key))
		}
	})
	d.scanned = d.from == nil
	return keys
}

// partDone goes on after a delete that is part of something: a range, or the expiry of an entry.
func (p *Partition) partDone(now int64, w *write, deleted bool, out *Effects) {
	d := w.part
	if w.intent != rangePart {
		return
	}
	d.flying--
	if deleted {
		d.count++
	}
	if d.flying < rangeFlying/2 {
		p.advance(now, d, out)
	}
}

func (p *Partition) tickRanges(now int64, out *Effects) {
	for _, d := range slices.Clone(p.lead.ranges) {
		p.advance(now, d, out)
	}
}
