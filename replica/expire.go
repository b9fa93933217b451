package replica

import (
	"bytes"

	"github.com/dramnode/dramnode/wire"
)

// expireStep limits the entries that one Tick lets expire.
const expireStep = 64

// expire deletes entries whose time has come.
func (p *Partition) expire(now int64, out *Effects) {
	var keys [][]byte
	p.store.Expired(now, func(key []byte) bool {
		if p.lead.byKey[string(key)] == nil {
			keys = append(keys, bytes.Clone(key))
		}
		return len(keys) < expireStep
	})
	for _, key := range keys {
		p.expireKey(now, key, out)
	}
}

// expireKey deletes the entry of key if it has expired, unless a write is under way, which sees to it itself.
func (p *Partition) expireKey(now int64, key []byte, out *Effects) {
	if p.lead.byKey[string(key)] != nil || p.lead.writes >= p.node.Config.MaxWrites {
		return
	}
	p.lead.writes++
	p.enqueue(now, &write{Request: Request{Kind: wire.KindDelete, Key: bytes.Clone(key)}, intent: expiry}, out)
}

// expireFirst has the expired entry deleted before w, the first of its key's queue, gets its turn. It reports
// whether a write of that key is pending now, like order.
func (p *Partition) expireFirst(now int64, w *write, out *Effects) bool {
	e := &write{Request: Request{Kind: wire.KindDelete, Key: w.Key}, intent: expiry, next: w}
	p.lead.writes++
	p.lead.byKey[string(w.Key)] = e
	if p.order(now, e, out) {
		return true
	}
	p.leave(e)
	p.giveUp(w, wire.StatusNoMemory, out)
	return false
}

// expireAlone is what a backup must not do: forget an entry by its own clock.
func (p *Partition) expireAlone(now int64) {
	var keys [][]byte
	p.store.Expired(now, func(key []byte) bool {
		keys = append(keys, bytes.Clone(key))
		return true
	})
	for _, key := range keys {
		_ = p.store.Apply(key, Version{})
	}
}
