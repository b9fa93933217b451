package storage

import (
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
}

// A version is what a write gives a record.
type version struct {
	generation dramnode.Generation
	value      handle
	valueBytes uint32
	crc        uint32
	deadline   int64
}

// Commit makes r the value of key. After an error r is still the caller's.
func (s *Store) Commit(p uint16, key []byte, r Reservation, w Write) (Result, error) {
	if err := s.checkWrite(p, key, w.Epoch); err != nil {
		return Result{}, err
	}
	valueBytes := s.reservedBytes(r)
	if err := s.checkValue(valueBytes); err != nil {
		return Result{}, err
	}
	id, sh, pt := s.identify(p, key), s.shard(p), &s.partitions[p]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	rec := sh.index.find(&id)
	current := s.currentLocked(rec, w.Now)
	if err := w.check(current); err != nil {
		return Result{}, err
	}
	v := version{pt.next(w.Epoch), r.block, uint32(valueBytes), w.CRC, w.Deadline}
	if err := s.storeLocked(sh, &id, rec, v); err != nil {
		return Result{}, err
	}
	if r.block != none {
		s.mem.countReservation(-valueBytes)
	}
	return Result{v.generation, current}, nil
}

// Put copies value and makes it the value of key.
func (s *Store) Put(p uint16, key, value []byte, w Write) (Result, error) {
	r, err := s.Reserve(len(value))
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

// Touch gives the entry of key a new generation and w's deadline. A key without value is dramnode.ErrNotFound,
// whatever the condition.
func (s *Store) Touch(p uint16, key []byte, w Write) (Result, error) {
	if err := s.checkWrite(p, key, w.Epoch); err != nil {
		return Result{}, err
	}
	id, sh, pt := s.identify(p, key), s.shard(p), &s.partitions[p]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	rec := sh.index.find(&id)
	current := s.currentLocked(rec, w.Now)
	if current == dramnode.Absent {
		return Result{}, dramnode.ErrNotFound
	}
	if err := w.check(current); err != nil {
		return Result{}, err
	}
	v := version{
		generation: pt.next(w.Epoch),
		value:      s.mem.link(rec, recValue),
		valueBytes: s.mem.u32(rec, recValueBytes),
		crc:        s.mem.u32(rec, recCRC),
		deadline:   w.Deadline,
	}
	if err := s.storeLocked(sh, &id, rec, v); err != nil {
		return Result{}, err
	}
	return Result{v.generation, current}, nil
}

// Delete removes the entry of key. A key without value is no error, and changes nothing.
func (s *Store) Delete(p uint16, key []byte, w Write) (Result, error) {
	if err := s.checkWrite(p, key, w.Epoch); err != nil {
		return Result{}, err
	}
	id, sh, pt := s.identify(p, key), s.shard(p), &s.partitions[p]
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
	g := pt.next(w.Epoch)
	s.deleteLocked(sh, rec, g)
	return Result{g, current}, nil
}

// currentLocked is the generation that conditions compare with.
func (s *Store) currentLocked(rec handle, now int64) dramnode.Generation {
	if !s.mem.alive(rec, now) {
		return dramnode.Absent
	}
	return s.mem.generation(rec)
}

// storeLocked gives key the version v, whose value it takes over unless it fails; then nothing has changed.
// rec is the key's record or none.
func (s *Store) storeLocked(sh *shard, id *identity, rec handle, v version) error {
	had := s.treeBytes(rec)
	needs := int64(treeEntryBytes)
	if v.deadline != 0 {
		needs += treeEntryBytes
	}
	if needs > had {
		if err := s.mem.charge(needs - had); err != nil {
			return err
		}
	}
	pt := &s.partitions[id.partition]
	if rec == none {
		var err error
		if rec, err = s.newRecordLocked(sh, id); err != nil {
			return s.uncharge(needs, err)
		}
	} else {
		pt.unplace(s.mem, rec)
	}
	switch {
	case had == 0 && s.mem.deleted(rec):
		pt.unbury(s.mem, rec)
	case had != 0:
		s.forgetVersionLocked(sh, rec, v.value)
	}
	s.setVersionLocked(sh, rec, v)
	if had == 0 {
		s.order.insert(rec)
	}
	if needs < had {
		return s.uncharge(had-needs, nil)
	}
	return nil
}

// treeBytes is what rec counts for in the trees; tombstones are in none.
func (s *Store) treeBytes(rec handle) int64 {
	switch {
	case rec == none || s.mem.deleted(rec):
		return 0
	case s.mem.deadline(rec) != 0:
		return 2 * treeEntryBytes
	}
	return treeEntryBytes
}

// uncharge gives heap bytes back and returns err.
func (s *Store) uncharge(bytes int64, err error) error {
	if bytes > 0 {
		_ = s.mem.charge(-bytes) // giving back does not fail
	}
	return err
}

// newRecordLocked returns a record that is in the index but in no list: with an empty value, and no deadline.
func (s *Store) newRecordLocked(sh *shard, id *identity) (handle, error) {
	rec, err := s.mem.alloc(recordBytes(id.key))
	if err != nil {
		return none, err
	}
	if err := sh.index.prepare(); err != nil {
		s.mem.free(rec)
		return none, err
	}
	clear(s.mem.payload(rec, recKey))
	s.mem.setU64(rec, recHash, id.hash)
	s.mem.setU16(rec, recKeyBytes, uint16(len(id.key)))
	s.mem.setU16(rec, recPartition, id.partition)
	copy(s.mem.payload(rec+recKey, len(id.key)), id.key)
	sh.index.insert(rec)
	return rec, nil
}

// forgetVersionLocked undoes setVersionLocked, save for the place in the list. A value that is kept stays.
func (s *Store) forgetVersionLocked(sh *shard, rec, kept handle) {
	pt := &s.partitions[s.mem.u16(rec, recPartition)]
	if s.mem.deadline(rec) != 0 {
		sh.ttl.Delete(rec)
	}
	pt.entries--
	pt.keyBytes -= int64(s.mem.u16(rec, recKeyBytes))
	pt.valueBytes -= int64(s.mem.u32(rec, recValueBytes))
	if kept == none || kept != s.mem.link(rec, recValue) {
		s.dropValueLocked(rec)
	}
}

func (s *Store) setVersionLocked(sh *shard, rec handle, v version) {
	pt := &s.partitions[s.mem.u16(rec, recPartition)]
	s.mem.setLink(rec, recValue, v.value)
	s.mem.setU32(rec, recValueBytes, v.valueBytes)
	s.mem.setU32(rec, recCRC, v.crc)
	s.mem.setU64(rec, recDeadline, uint64(v.deadline))
	if v.deadline != 0 {
		sh.ttl.Set(rec)
	}
	pt.place(s.mem, rec, v.generation)
	pt.entries++
	pt.keyBytes += int64(s.mem.u16(rec, recKeyBytes))
	pt.valueBytes += int64(v.valueBytes)
}

// deleteLocked removes the value of rec as generation g, and leaves a tombstone where one is needed.
func (s *Store) deleteLocked(sh *shard, rec handle, g dramnode.Generation) {
	pt := &s.partitions[s.mem.u16(rec, recPartition)]
	if !pt.keepsTombstones() {
		s.removeLocked(sh, rec)
		pt.last = max(pt.last, g)
		return
	}
	s.order.remove(rec)
	charged := s.treeBytes(rec)
	s.forgetVersionLocked(sh, rec, none)
	_ = s.uncharge(charged, nil)
	pt.bury(s.mem, rec)
	if g != s.mem.generation(rec) { // an expired entry keeps its generation and its place
		pt.unplace(s.mem, rec)
		pt.place(s.mem, rec, g)
	}
}

// removeLocked frees rec, be it an entry or a tombstone.
func (s *Store) removeLocked(sh *shard, rec handle) {
	pt := &s.partitions[s.mem.u16(rec, recPartition)]
	charged := s.treeBytes(rec)
	if charged == 0 {
		pt.unbury(s.mem, rec)
	} else {
		s.order.remove(rec)
		s.forgetVersionLocked(sh, rec, none)
		_ = s.uncharge(charged, nil)
	}
	pt.unplace(s.mem, rec)
	sh.index.remove(rec)
	s.mem.free(rec)
}
