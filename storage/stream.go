package storage

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/dramnode/dramnode"
)

// streamsMax limits the streams of one partition: every write looks at each of them.
const streamsMax = 8

// An Item is one entry on its way to another node. Its Key is the item's own; Value is stored
// memory until Release(Lease).
type Item struct {
	Key        []byte
	Generation dramnode.Generation
	CRC        uint32
	Deadline   int64
	Deleted    bool // a tombstone, without value
	Value      []byte
	Lease      Lease
}

// A Stream sends the entries of one partition in order of generation: first those there are, then what is
// written meanwhile. As long as it is open, deletes leave tombstones, so that a store which had
// nothing of the partition and applied every item has what this one has.
type Stream struct {
	store     *Store
	partition uint16

	// Guarded by the partition's shard lock.
	next   handle // none: caught up
	closed bool
}

// StartStream opens a stream of p from its first entry on. Close it.
func (s *Store) StartStream(p uint16) (*Stream, error) {
	if err := s.checkPartition(p); err != nil {
		return nil, err
	}
	sh, pt := s.shard(p), &s.partitions[p]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if len(pt.streams) >= streamsMax {
		return nil, fmt.Errorf("storage: %w: partition %d has %d streams", dramnode.ErrBusy, p, streamsMax)
	}
	st := &Stream{store: s, partition: p, next: pt.head}
	pt.streams = append(pt.streams, st)
	return st, nil
}

// Next appends to dst the next items: at most maxItems (and 256), and no more after their keys and values reached
// budgetBytes. The caller releases their leases. caughtUp says that there is nothing after them at the moment.
// Entries that expired by now are sent as deleted.
func (st *Stream) Next(dst []Item, maxItems, budgetBytes int, now int64) (items []Item, caughtUp bool, err error) {
	s, sh := st.store, st.store.shard(st.partition)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if st.closed {
		return dst, false, fmt.Errorf("storage: %w: stream of partition %d", dramnode.ErrClosed, st.partition)
	}
	for n := min(maxItems, stepRecords); n > 0 && budgetBytes > 0 && st.next != none; n-- {
		it := s.itemLocked(sh, st.next, now)
		budgetBytes -= len(it.Key) + len(it.Value)
		dst = append(dst, it)
		st.next = s.mem.link(st.next, recNext)
	}
	return dst, st.next == none, nil
}

func (s *Store) itemLocked(sh *shard, rec handle, now int64) Item {
	it := Item{Key: bytes.Clone(s.mem.key(rec)), Generation: s.mem.generation(rec)}
	if !s.mem.alive(rec, now) {
		it.Deleted = true
		return it
	}
	it.CRC, it.Deadline = s.mem.u32(rec, recCRC), s.mem.deadline(rec)
	it.Value = s.mem.payload(s.mem.link(rec, recValue), int(s.mem.u32(rec, recValueBytes)))
	it.Lease = s.leaseLocked(sh, rec)
	return it
}

// Close ends the stream. The last one of a partition to close frees its tombstones, in short steps.
func (st *Stream) Close() {
	s, sh, pt := st.store, st.store.shard(st.partition), &st.store.partitions[st.partition]
	sh.mu.Lock()
	st.closed = true
	pt.streams = slices.DeleteFunc(pt.streams, func(o *Stream) bool { return o == st })
	sh.mu.Unlock()
	s.forgetTombstones(st.partition)
}

func (s *Store) forgetTombstones(p uint16) {
	for s.forgetSomeTombstones(s.shard(p), &s.partitions[p]) {
	}
}

func (s *Store) forgetSomeTombstones(sh *shard, pt *partition) (more bool) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	for range stepRecords {
		if pt.tombs == none || pt.keepsTombstones() {
			return false
		}
		s.removeLocked(sh, pt.tombs)
	}
	return true
}

// StartReceive makes p keep a tombstone for every delete until EndReceive, so that items may be applied in
// any order and more than once. Nothing may be left of p from an earlier time: see DropPartition.
func (s *Store) StartReceive(p uint16) error {
	if err := s.checkPartition(p); err != nil {
		return err
	}
	sh := s.shard(p)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	s.partitions[p].receiving = true
	return nil
}

// EndReceive forgets the tombstones of p, unless a stream still needs them, in short steps. After it
// an item that was deleted must not come again.
func (s *Store) EndReceive(p uint16) error {
	if err := s.checkPartition(p); err != nil {
		return err
	}
	sh := s.shard(p)
	sh.mu.Lock()
	s.partitions[p].receiving = false
	sh.mu.Unlock()
	s.forgetTombstones(p)
	return nil
}

// Apply stores an item of another node's stream, copying its value. It does nothing, and applied is false,
// when the key has that generation or a higher one. After an error nothing has changed.
func (s *Store) Apply(p uint16, it Item) (applied bool, err error) {
	if it.Deleted {
		return s.ApplyReserved(p, it, Reservation{})
	}
	r, err := s.Reserve(len(it.Value))
	if err != nil {
		return false, err
	}
	copy(r.Bytes, it.Value)
	if applied, err = s.ApplyReserved(p, it, r); !applied {
		s.Abort(r)
	}
	return applied, err
}

// ApplyReserved is Apply with r as the item's value; it.Value and it.Lease are ignored. Unless applied, r is still
// the caller's.
func (s *Store) ApplyReserved(p uint16, it Item, r Reservation) (applied bool, err error) {
	valueBytes, err := s.checkItem(p, &it, r)
	if err != nil {
		return false, err
	}
	id, sh, pt := s.identify(p, it.Key), s.shard(p), &s.partitions[p]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	rec := sh.index.find(&id)
	if rec != none && s.mem.generation(rec) >= it.Generation {
		return false, nil
	}
	if it.Deleted {
		return s.applyDeleteLocked(sh, &id, rec, it.Generation)
	}
	v := version{it.Generation, r.block, uint32(valueBytes), it.CRC, it.Deadline}
	if err := s.storeLocked(sh, &id, rec, v); err != nil {
		return false, err
	}
	if r.block != none {
		s.mem.countReservation(-valueBytes)
	}
	pt.last = max(pt.last, it.Generation)
	return true, nil
}

func (s *Store) checkItem(p uint16, it *Item, r Reservation) (valueBytes int, err error) {
	if err := s.checkWrite(p, it.Key, 0); err != nil {
		return 0, err
	}
	if it.Generation == dramnode.Absent || it.Generation>>63 != 0 {
		return 0, fmt.Errorf("storage: %w: an item of generation %d", dramnode.ErrInvalid, it.Generation)
	}
	if it.Deleted && r.block != none {
		return 0, fmt.Errorf("storage: %w: a deleted item with a value", dramnode.ErrInvalid)
	}
	valueBytes = s.reservedBytes(r)
	return valueBytes, s.checkValue(valueBytes)
}

func (s *Store) applyDeleteLocked(sh *shard, id *identity, rec handle, g dramnode.Generation) (bool, error) {
	pt := &s.partitions[id.partition]
	switch {
	case rec == none && !pt.keepsTombstones():
		pt.last = max(pt.last, g)
		return true, nil
	case rec == none:
		rec, err := s.newRecordLocked(sh, id)
		if err != nil {
			return false, err
		}
		pt.bury(s.mem, rec)
		pt.place(s.mem, rec, g)
	case s.mem.deleted(rec):
		pt.unplace(s.mem, rec)
		pt.place(s.mem, rec, g)
	default:
		s.deleteLocked(sh, rec, g)
	}
	return true, nil
}

// DropPartition frees every entry and tombstone that p has when it is called, leased values at their last
// release, and returns how many. It holds the lock in short steps. The generations of p go on where they were.
func (s *Store) DropPartition(p uint16) (records int, err error) {
	if err := s.checkPartition(p); err != nil {
		return 0, err
	}
	sh, pt := s.shard(p), &s.partitions[p]
	sh.mu.Lock()
	last := pt.last
	sh.mu.Unlock()
	for {
		n := s.dropSome(sh, pt, last)
		records += n
		if n < stepRecords {
			return records, nil
		}
	}
}

// dropSome frees records from the front of the list up to generation last.
func (s *Store) dropSome(sh *shard, pt *partition, last dramnode.Generation) (records int) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	for records < stepRecords && pt.head != none && s.mem.generation(pt.head) <= last {
		s.removeLocked(sh, pt.head)
		records++
	}
	return records
}
