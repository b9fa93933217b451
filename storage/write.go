package storage

import (
	"errors"

	"github.com/dramnode/dramnode"
)

// storeLocked makes a copy of the value that is lent the committed one of a key without a staged version: in place where
// nobody holds a lease and the length is the same, else in a new record. After an error nothing has changed.
func (v *Versions) storeLocked(id *identity, old handle, to *Version) error {
	m := v.store.mem
	if v.inPlaceLocked(old) {
		return v.overwriteLocked(old, to)
	}
	rec, err := m.newRecord(v.shard.lane, len(id.key), len(v.lent))
	if err != nil {
		return err
	}
	m.setKey(rec, id)
	copy(m.value(rec), v.lent)
	if err = v.shard.index.prepare(); err == nil {
		err = v.publishLocked(id, rec, to, old, none)
	}
	if err != nil {
		m.discard(rec)
	}
	return err
}

// inPlaceLocked reports whether the value that is lent may be written over that of rec.
func (v *Versions) inPlaceLocked(rec handle) bool {
	m := v.store.mem
	return rec != none && m.live(rec) && !m.leased(rec) && m.valueBytes(rec) == len(v.lent)
}

// overwriteLocked gives the live record rec another version where it is.
func (v *Versions) overwriteLocked(rec handle, to *Version) error {
	m := v.store.mem
	m.kill(rec)
	err := v.setDeadlineLocked(rec, to.Deadline)
	if err == nil {
		copy(m.value(rec), v.lent)
		m.setU32(rec, recCRC, to.CRC)
		m.setU64(rec, recGeneration, uint64(to.Generation))
		v.shard.queues.hit(rec)
	}
	m.revive(rec)
	return err
}

// setDeadlineLocked changes the deadline of a record that is an entry.
func (v *Versions) setDeadlineLocked(rec handle, deadline int64) error {
	m, ttl := v.store.mem, &v.shard.ttl
	old := m.deadline(rec)
	set := func(d int64) { m.setU64(rec, recDeadline, uint64(d)) }
	switch {
	case old == deadline:
		return nil
	case old == 0:
		set(deadline)
		err := ttl.put(rec)
		if err != nil {
			set(0)
		}
		return err
	case deadline == 0:
		ttl.delete(rec)
		set(0)
		return nil
	}
	return ttl.move(rec, func() { set(deadline) }, func() { set(old) })
}

// publishLocked makes rec, whose key and value are set, the committed record of its key in the place of old, beside a note; old and
// note may be none. The index is prepared. After an error nothing has changed.
func (v *Versions) publishLocked(id *identity, rec handle, to *Version, old, note handle) error {
	m := v.store.mem
	m.setU64(rec, recGeneration, uint64(to.Generation))
	m.setU64(rec, recDeadline, uint64(to.Deadline))
	m.setU32(rec, recCRC, to.CRC)
	if err := v.rankLocked(v.pairLocked(old, note), pair{rec, note}); err != nil {
		return err
	}
	v.replaceLocked(id, old, rec, true)
	return nil
}

// again reports whether a write that failed should be tried again because entries were evicted for it.
func (s *Store) again(tries int, err error, bytes int) bool {
	return errors.Is(err, dramnode.ErrNoMemory) && tries < evictTries && s.evict(bytes)
}

// removeLocked removes rec, be it an entry or a tombstone, of a key without a staged version.
func (s *Store) removeLocked(sh *shard, rec handle, hash uint64) {
	pt := &s.partitions[s.mem.partition(rec)]
	if s.mem.live(rec) {
		s.mem.kill(rec)
		sh.order.remove(rec)
		if s.mem.deadline(rec) != 0 {
			sh.ttl.delete(rec)
		}
		sh.queues.leave(rec)
		pt.count(s.mem, rec, -1)
	} else {
		pt.unbury(s.mem, rec)
	}
	sh.index.remove(rec, hash)
	s.dropLocked(rec)
}
