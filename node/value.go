package node

import (
	"time"

	"github.com/dramnode/dramnode/storage"
	"github.com/dramnode/dramnode/wire"
)

// placeFor is a record's place for those who asked for it.
func placeFor(r *request, place uint64) uint64 {
	if r.h.Flags&wire.FlagPlace == 0 {
		return 0
	}
	return place
}

// ttlOf turns an instant of this node's clock into a remaining life: 0 is for ever in both, and what has a deadline has at least 1 ms.
func ttlOf(now, deadline int64) uint64 {
	if deadline == 0 {
		return 0
	}
	return uint64(max((deadline-now)/int64(time.Millisecond), 1))
}

// found makes a, which is empty, the answer to a get with the part of v that it asks for. The lease is the answer's, or ends.
func (n *Node) found(a *answer, r *request, e *wire.ReadExt, v *storage.Value, now int64) {
	a.ext.Generation, a.ext.Size = v.Generation, uint64(v.ValueBytes)
	a.ext.TTLMillis, a.ext.Place = ttlOf(now, v.Deadline), placeFor(r, v.Place)
	a.hasExt, a.crc = true, v.CRC
	if r.h.Flags&wire.FlagIfMatch != 0 && v.Generation != e.IfGeneration || r.h.Flags&wire.FlagIfNotMatch != 0 && v.Generation == e.IfNotGeneration {
		n.store.Release(v.Lease)
		a.status = wire.StatusGenerationMismatch
		return
	}
	from, to, ok := span(r.h.Flags, e, int64(v.ValueBytes))
	if !ok {
		n.store.Release(v.Lease)
		a.status = wire.StatusOutOfRange
		return
	}
	if from == to {
		n.store.Release(v.Lease)
		return
	}
	a.body.Bytes = v.Bytes[from:to]
	if v.Lease != 0 {
		a.body.Releaser, a.body.Token = leases{n.store}, uint64(v.Lease)
	}
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
func span(flags uint16, e *wire.ReadExt, bytes int64) (from, to int64, ok bool) {
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
