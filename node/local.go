package node

import (
	"fmt"
	"math"
	"time"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/router"
	"github.com/dramnode/dramnode/storage"
	"github.com/dramnode/dramnode/wire"
)

// serveHere runs an operation on a partition that the table gives to this node.
func (n *Node) serveHere(v *router.View, d router.Decision, r *request) {
	now := r.now()
	if !n.plane.QuorateAt(now) {
		n.drop(r)
		n.reply(r, failed(errNotQuorate))
		return
	}
	if r.h.Kind == wire.KindPut && n.damaged(r) {
		n.drop(r)
		n.reply(r, failed(fmt.Errorf("%w: the value of %q arrived damaged", dramnode.ErrCorrupt, r.h.Key)))
		return
	}
	part := &n.parts[d.Partition]
	part.mu.RLock()
	switch {
	case part.epoch == 0:
		part.mu.RUnlock()
		n.drop(r)
		n.reply(r, failed(errNotServing))
	case r.h.Flags&wire.FlagFence != 0 && r.h.Epoch != part.epoch:
		part.mu.RUnlock()
		n.drop(r)
		n.refuse(r, d)
	case part.blocks(r.h.Kind):
		part.mu.RUnlock()
		n.park(part, r)
	default:
		a := n.execute(uint16(d.Partition), part.epoch, n.at(now), r)
		part.mu.RUnlock()
		n.drop(r)
		n.reply(r, a)
	}
}

// execute runs with the partition's lock held for reading, so that the phase cannot change meanwhile.
func (n *Node) execute(p uint16, epoch uint32, now int64, r *request) (a answer) {
	switch r.h.Kind {
	case wire.KindGet:
		a = n.get(p, now, r)
	case wire.KindPut:
		a = n.write(r, epoch, now, func(w storage.Write) (storage.Result, error) {
			if r.value.Bytes == nil {
				return n.store.Put(p, r.h.Key, r.body, w)
			}
			res, err := n.store.Commit(p, r.h.Key, r.value, w)
			if err == nil {
				r.value = storage.Reservation{} // the store's now
			}
			return res, err
		})
	case wire.KindDelete:
		a = n.write(r, epoch, now, func(w storage.Write) (storage.Result, error) { return n.store.Delete(p, r.h.Key, w) })
	case wire.KindTouch:
		a = n.write(r, epoch, now, func(w storage.Write) (storage.Result, error) { return n.store.Touch(p, r.h.Key, w) })
	}
	a.epoch = epoch
	return a
}

func (n *Node) write(r *request, epoch uint32, now int64, do func(storage.Write) (storage.Result, error)) answer {
	e, err := wire.ParseWriteExt(r.h.Ext)
	if err != nil {
		return failed(fmt.Errorf("%w: %w", dramnode.ErrInvalid, err))
	}
	res, err := do(storage.Write{
		IfMatch:      r.h.Flags&wire.FlagIfMatch != 0,
		IfGeneration: e.IfGeneration,
		Epoch:        epoch,
		CRC:          r.h.CRC,
		Deadline:     deadlineOf(now, e.TTLMillis),
		Now:          now,
	})
	if err != nil {
		return failed(err)
	}
	return answer{ext: wire.ReplyExt{Generation: res.Generation, Place: placeFor(r, res.Place)}, hasExt: true}
}

// placeFor is a record's place for those who asked for it.
func placeFor(r *request, place uint64) uint64 {
	if r.h.Flags&wire.FlagPlace == 0 {
		return 0
	}
	return place
}

// deadlineOf turns a remaining life into an instant of this node's clock; 0 is for ever in both.
func deadlineOf(now int64, ttlMillis uint64) int64 {
	if ttlMillis == 0 {
		return 0
	}
	if ttlMillis > uint64(math.MaxInt64-now)/uint64(time.Millisecond) {
		return math.MaxInt64
	}
	return now + int64(ttlMillis)*int64(time.Millisecond)
}

// ttlOf is the inverse of deadlineOf: at least 1 ms for what has a deadline.
func ttlOf(now, deadline int64) uint64 {
	if deadline == 0 {
		return 0
	}
	return uint64(max((deadline-now)/int64(time.Millisecond), 1))
}

func (n *Node) get(p uint16, now int64, r *request) answer {
	e, err := wire.ParseReadExt(r.h.Ext)
	if err != nil {
		return failed(fmt.Errorf("%w: %w", dramnode.ErrInvalid, err))
	}
	v, ok := n.store.GetInto(r.room(), p, r.h.Key, now)
	if !ok {
		return answer{status: wire.StatusNotFound}
	}
	return n.found(r, e, v, now)
}

// found answers a get with the part of v that it asks for. The lease is the answer's, or ends.
func (n *Node) found(r *request, e wire.ReadExt, v storage.Value, now int64) answer {
	a := answer{ext: wire.ReplyExt{Generation: v.Generation, Size: uint64(v.ValueBytes), TTLMillis: ttlOf(now, v.Deadline), Place: placeFor(r, v.Place)}, hasExt: true, crc: v.CRC}
	if r.h.Flags&wire.FlagIfMatch != 0 && v.Generation != e.IfGeneration || r.h.Flags&wire.FlagIfNotMatch != 0 && v.Generation == e.IfNotGeneration {
		n.store.Release(v.Lease)
		a.status = wire.StatusGenerationMismatch
		return a
	}
	from, to, ok := span(r.h.Flags, e, int64(v.ValueBytes))
	if !ok {
		n.store.Release(v.Lease)
		a.status = wire.StatusOutOfRange
		return a
	}
	if from == to {
		n.store.Release(v.Lease)
		return a
	}
	a.body.Bytes = v.Bytes[from:to]
	if v.Lease != 0 {
		a.body.Releaser, a.body.Token = leases{n.store}, uint64(v.Lease)
	}
	return a
}

// room is memory for a short value that the network copies before it takes the next request: behind the
// reply's header. A copy costs less than a lease, which is two holds of the shard's lock.
func (r *request) room() []byte {
	if r.from == nil {
		return nil
	}
	return r.from.Scratch[wire.HeaderBytes+wire.ReplyExtBytes:]
}

// leases returns a value's lease when the network has sent it.
type leases struct{ store *storage.Store }

// Release implements transport.Releaser.
func (l leases) Release(token uint64) { l.store.Release(storage.Lease(token)) }

// reservations returns memory in which a value only passed through.
type reservations struct{ store *storage.Store }

// Release implements transport.Releaser.
func (r reservations) Release(token uint64) { r.store.Abort(r.store.Resume(token)) }

// span resolves the byte range of a read against a value of so many bytes: [from, to).
func span(flags uint16, e wire.ReadExt, bytes int64) (from, to int64, ok bool) {
	if flags&wire.FlagRange == 0 {
		return 0, bytes, true
	}
	clip := flags&wire.FlagClip != 0
	from, to = e.Start, e.End
	if flags&wire.FlagSuffix != 0 {
		from, to = bytes-e.Start, bytes
		if e.Start < 0 {
			return 0, 0, false
		}
	} else if to == -1 {
		to = bytes
	}
	if clip {
		from, to = min(max(from, 0), bytes), min(to, bytes)
		if e.Start > bytes && flags&wire.FlagSuffix == 0 {
			to = from
		}
	}
	if from < 0 || to > bytes || from > to {
		return 0, 0, false
	}
	return from, to, true
}
