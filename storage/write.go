package storage

import (
	"errors"
	"fmt"

	"github.com/dramnode/dramnode"
)

// A Write says how an entry is written.
type Write struct {
	// IfMatch makes the write conditional: the key's generation must be IfGeneration, where
	// dramnode.Absent means that the key has no value. Otherwise the write fails with a
	// *dramnode.GenerationError and changes nothing.
	IfMatch      bool
	IfGeneration dramnode.Generation

	Epoch    uint32 // of the partition's row, at most 1<<31 - 1
	CRC      uint32 // of the value; Touch keeps the old one
	Deadline int64  // from when on the entry is missing; 0: never
	Now      int64
}

// check compares the condition with the current generation.
func (w *Write) check(current dramnode.Generation) error {
	if w.IfMatch && w.IfGeneration != current {
		return &dramnode.GenerationError{Current: current}
	}
	return nil
}

// A Result tells what a write did. Generation is dramnode.Absent after a delete that found nothing.
type Result struct {
	Generation dramnode.Generation // of the write
	Previous   dramnode.Generation // before it; dramnode.Absent when the key had no value
	Place      uint64              // of the record in the arena; 0 after a delete
}

// A version is what a write gives a record beside its value.
type version struct {
	generation dramnode.Generation
	crc        uint32
	deadline   int64
}

// Commit makes r the value of key, which must be as long as the key that it was reserved for. After an error r is
// still the caller's.
func (s *Store) Commit(p uint16, key []byte, r Reservation, w Write) (Result, error) {
	if err := s.checkWrite(p, key, w.Epoch); err != nil {
		return Result{}, err
	}
	if err := s.checkReservation(key, r); err != nil {
		return Result{}, err
	}
	if r.record == none {
		return s.put(p, key, nil, w)
	}
	id, sh := s.identify(p, key), s.shard(p)
	for tries := 0; ; tries++ {
		res, err := s.commit(sh, &id, r, w)
		if !s.again(tries, err, nodeBytes) {
			return res, err
		}
	}
}

func (s *Store) checkReservation(key []byte, r Reservation) error {
	if r.record == none {
		return nil
	}
	if reserved := s.mem.keyBytes(r.record); reserved != len(key) {
		return fmt.Errorf("storage: %w: a key of %d bytes with memory reserved for one of %d", dramnode.ErrInvalid, len(key), reserved)
	}
	return s.checkValue(s.reservedBytes(r))
}

func (s *Store) commit(sh *shard, id *identity, r Reservation, w Write) (Result, error) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	rec := sh.index.find(id)
	current := s.currentLocked(rec, w.Now)
	if err := w.check(current); err != nil {
		return Result{}, err
	}
	v := version{s.partitions[id.partition].next(w.Epoch), w.CRC, w.Deadline}
	s.mem.setKey(r.record, id)
	if err := s.publishLocked(sh, id, rec, r.record, v); err != nil {
		return Result{}, err
	}
	s.mem.countReservation(-s.mem.valueBytes(r.record))
	return Result{v.generation, current, uint64(r.record)}, nil
}

// Put copies value and makes it the value of key.
func (s *Store) Put(p uint16, key, value []byte, w Write) (Result, error) {
	if err := s.checkWrite(p, key, w.Epoch); err != nil {
		return Result{}, err
	}
	if err := s.checkValue(len(value)); err != nil {
		return Result{}, err
	}
	if len(value) <= inPlaceMax {
		return s.put(p, key, value, w)
	}
	r, err := s.Reserve(key, len(value)) // so that it is copied without the lock
	if err != nil {
		return Result{}, err
	}
	copy(r.Bytes, value)
	res, err := s.Commit(p, key, r, w)
	if err != nil {
		s.Abort(r)
	}
	return res, err
}

func (s *Store) put(p uint16, key, value []byte, w Write) (Result, error) {
	id, sh := s.identify(p, key), s.shard(p)
	for tries := 0; ; tries++ {
		res, err := s.putShort(sh, &id, value, w)
		if !s.again(tries, err, s.mem.sizeOf(len(key), len(value))) {
			return res, err
		}
	}
}

func (s *Store) putShort(sh *shard, id *identity, value []byte, w Write) (Result, error) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	rec := sh.index.find(id)
	current := s.currentLocked(rec, w.Now)
	if err := w.check(current); err != nil {
		return Result{}, err
	}
	v := version{s.partitions[id.partition].next(w.Epoch), w.CRC, w.Deadline}
	rec, err := s.storeLocked(sh, id, rec, value, v)
	if err != nil {
		return Result{}, err
	}
	return Result{v.generation, current, uint64(rec)}, nil
}

// storeLocked gives key a version with a copy of value: in place where nobody holds a lease and the length is the
// same, else in a new record. It returns the record.
func (s *Store) storeLocked(sh *shard, id *identity, rec handle, value []byte, v version) (handle, error) {
	if s.inPlace(rec, len(value)) {
		return rec, s.changeLocked(sh, id, rec, value, v)
	}
	fresh, err := s.mem.newRecord(sh.lane, len(id.key), len(value))
	if err != nil {
		return none, err
	}
	s.mem.setKey(fresh, id)
	copy(s.mem.value(fresh), value)
	if err := s.publishLocked(sh, id, rec, fresh, v); err != nil {
		s.mem.discard(fresh)
		return none, err
	}
	return fresh, nil
}

// inPlace reports whether a value of so many bytes may be written over that of rec.
func (s *Store) inPlace(rec handle, valueBytes int) bool {
	return rec != none && s.mem.live(rec) && !s.mem.leased(rec) && s.mem.valueBytes(rec) == valueBytes
}

// changeLocked gives the live record rec another version where it is; value is as long as the old one, or nil to keep that.
func (s *Store) changeLocked(sh *shard, id *identity, rec handle, value []byte, v version) error {
	s.mem.kill(rec)
	err := s.setDeadlineLocked(sh, rec, v.deadline)
	if err == nil {
		copy(s.mem.value(rec), value)
		s.mem.setU32(rec, recCRC, v.crc)
		s.mem.setU64(rec, recGeneration, uint64(v.generation))
		s.partitions[id.partition].wrote(v.generation)
		sh.queues.hit(rec)
	}
	s.mem.revive(rec)
	return err
}

// setDeadlineLocked changes the deadline of a record that is an entry.
func (s *Store) setDeadlineLocked(sh *shard, rec handle, deadline int64) error {
	old := s.mem.deadline(rec)
	set := func(d int64) { s.mem.setU64(rec, recDeadline, uint64(d)) }
	switch {
	case old == deadline:
		return nil
	case old == 0:
		set(deadline)
		err := sh.ttl.put(rec)
		if err != nil {
			set(0)
		}
		return err
	case deadline == 0:
		sh.ttl.delete(rec)
		set(0)
		return nil
	}
	return sh.ttl.move(rec, func() { set(deadline) }, func() { set(old) })
}

// Touch gives the entry of key a new generation and w's deadline. A key without value is dramnode.ErrNotFound,
// whatever the condition.
func (s *Store) Touch(p uint16, key []byte, w Write) (Result, error) {
	if err := s.checkWrite(p, key, w.Epoch); err != nil {
		return Result{}, err
	}
	id, sh := s.identify(p, key), s.shard(p)
	for tries := 0; ; tries++ {
		res, err := s.touch(sh, &id, w)
		if !s.again(tries, err, nodeBytes) {
			return res, err
		}
	}
}

func (s *Store) touch(sh *shard, id *identity, w Write) (Result, error) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	rec := sh.index.find(id)
	current := s.currentLocked(rec, w.Now)
	if current == dramnode.Absent {
		return Result{}, dramnode.ErrNotFound
	}
	if err := w.check(current); err != nil {
		return Result{}, err
	}
	v := version{s.partitions[id.partition].next(w.Epoch), s.mem.u32(rec, recCRC), w.Deadline}
	if err := s.changeLocked(sh, id, rec, nil, v); err != nil {
		return Result{}, err
	}
	return Result{v.generation, current, uint64(rec)}, nil
}

// Delete removes the entry of key. A key without value is no error, and changes nothing.
func (s *Store) Delete(p uint16, key []byte, w Write) (Result, error) {
	if err := s.checkWrite(p, key, w.Epoch); err != nil {
		return Result{}, err
	}
	id, sh := s.identify(p, key), s.shard(p)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	rec := sh.index.find(&id)
	current := s.currentLocked(rec, w.Now)
	if err := w.check(current); err != nil {
		return Result{}, err
	}
	if current == dramnode.Absent {
		return Result{}, nil
	}
	g := s.partitions[p].next(w.Epoch)
	s.removeLocked(sh, rec, id.hash)
	s.partitions[p].wrote(g)
	return Result{Generation: g, Previous: current}, nil
}

// currentLocked is the generation that conditions compare with.
func (s *Store) currentLocked(rec handle, now int64) dramnode.Generation {
	if !s.mem.alive(rec, now) {
		return dramnode.Absent
	}
	return s.mem.generation(rec)
}

// again reports whether a write that failed should be tried again because entries were evicted for it.
func (s *Store) again(tries int, err error, bytes int) bool {
	return errors.Is(err, dramnode.ErrNoMemory) && tries < evictTries && s.evict(bytes)
}

// publishLocked makes rec, whose key, partition and value are set, the record of its key, in the place of old, which may be none, an
// entry or a tombstone. After an error nothing has changed.
func (s *Store) publishLocked(sh *shard, id *identity, old, rec handle, v version) error {
	m, pt := s.mem, &s.partitions[id.partition]
	m.setU64(rec, recGeneration, uint64(v.generation))
	m.setU64(rec, recDeadline, uint64(v.deadline))
	m.setU32(rec, recCRC, v.crc)
	if err := sh.index.prepare(); err != nil {
		return err
	}
	if v.deadline != 0 {
		if err := sh.ttl.put(rec); err != nil {
			return err
		}
	}
	if err := sh.order.put(rec); err != nil {
		if v.deadline != 0 {
			sh.ttl.delete(rec)
		}
		return err
	}
	switch {
	case old == none:
		sh.index.insert(rec, id.hash)
		sh.queues.enter(rec, id.hash)
	case m.live(old):
		m.kill(old)
		if d := m.deadline(old); d != 0 && d != v.deadline { // else rec has taken its place
			sh.ttl.delete(old)
		}
		pt.count(m, old, -1)
		sh.index.replace(old, rec, id.hash)
		sh.queues.replace(old, rec)
	default:
		pt.unbury(m, old)
		sh.index.replace(old, rec, id.hash)
		sh.queues.enter(rec, id.hash)
	}
	m.revive(rec)
	pt.count(m, rec, 1)
	pt.wrote(v.generation)
	if old != none {
		s.dropLocked(old)
	}
	return nil
}

// retireLocked takes an entry out of everything but the index.
func (s *Store) retireLocked(sh *shard, rec handle) {
	s.mem.kill(rec)
	sh.order.remove(rec)
	if s.mem.deadline(rec) != 0 {
		sh.ttl.delete(rec)
	}
	sh.queues.leave(rec)
	s.partitions[s.mem.partition(rec)].count(s.mem, rec, -1)
}

// removeLocked removes rec, be it an entry or a tombstone.
func (s *Store) removeLocked(sh *shard, rec handle, hash uint64) {
	if s.mem.live(rec) {
		s.retireLocked(sh, rec)
	} else {
		s.partitions[s.mem.partition(rec)].unbury(s.mem, rec)
	}
	sh.index.remove(rec, hash)
	s.dropLocked(rec)
}
