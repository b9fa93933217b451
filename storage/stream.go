package storage

import (
	"bytes"
	"cmp"
	"fmt"
	"math"
	"slices"
	"sync"

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
//
// No order of generations is kept while there is no stream. A stream finds it by scans of the shard's index, each of which
// picks the max lowest generations that are still to be sent, and writes add themselves.
type Stream struct {
	store     *Store
	partition uint16
	turn      sync.Mutex // one Next at a time

	// Guarded by the partition's shard lock. window holds all versions in [floor, ceiling) that were not sent, and perhaps some
	// that are no more; from the end of a scan on in order.
	window  []pending
	floor   dramnode.Generation
	ceiling dramnode.Generation // endless: there is nothing beyond the window
	sorted  bool
	closed  bool

	max int // windowMax, less in tests
}

const (
	windowMax = 64 << 10
	endless   = dramnode.Generation(math.MaxUint64)
)

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
	st := &Stream{store: s, partition: p, sorted: true, max: windowMax}
	pt.streams = append(pt.streams, st)
	return st, nil
}

// add puts a version where it belongs, unless a later scan will find it. One that is late, from a partition
// that is received out of order, is sent as soon as it can be.
func (st *Stream) add(v pending) {
	switch n := len(st.window); {
	case v.generation >= st.ceiling:
		return
	case !st.sorted || n == 0 || v.generation > st.window[n-1].generation:
		st.window = append(st.window, v)
	default:
		at, found := slices.BinarySearchFunc(st.window, v, comparePending)
		if !found {
			st.window = slices.Insert(st.window, at, v)
		}
	}
	if len(st.window) >= 2*st.max {
		st.trim()
	}
}

func comparePending(a, b pending) int { return cmp.Compare(a.generation, b.generation) }

// trim sorts the window and leaves what is beyond windowMax to a later scan.
func (st *Stream) trim() {
	slices.SortFunc(st.window, comparePending)
	st.window = slices.Compact(st.window)
	if len(st.window) > st.max {
		st.ceiling = st.window[st.max].generation
		st.window = st.window[:st.max]
	}
}

// Next appends to dst the next items: at most maxItems (and 256), and no more after their keys and values reached
// budgetBytes. The caller releases their leases. caughtUp says that there is nothing after them at the moment.
// Entries that expired by now are sent as deleted.
func (st *Stream) Next(dst []Item, maxItems, budgetBytes int, now int64) (items []Item, caughtUp bool, err error) {
	st.turn.Lock()
	defer st.turn.Unlock()
	st.refill()
	s, sh := st.store, st.store.shard(st.partition)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if st.closed {
		return dst, false, fmt.Errorf("storage: %w: stream of partition %d", dramnode.ErrClosed, st.partition)
	}
	steps, count := min(maxItems, stepRecords), 0
	for ; steps > 0 && budgetBytes > 0 && count < min(len(st.window), stepRecords); count++ {
		rec := sh.index.findVersion(st.partition, st.window[count])
		if rec == none {
			continue // a later version is in the window, or will be
		}
		it := s.itemLocked(sh, rec, now)
		budgetBytes -= len(it.Key) + len(it.Value)
		dst = append(dst, it)
		steps--
	}
	st.window = st.window[count:]
	if len(st.window) == 0 {
		st.window = nil
	}
	return dst, len(st.window) == 0 && st.ceiling == endless, nil
}

// refill scans for the next window when this one is empty and not the last. It holds the lock in short steps.
func (st *Stream) refill() {
	s, sh := st.store, st.store.shard(st.partition)
	sh.mu.Lock()
	if st.closed || len(st.window) > 0 || st.ceiling == endless {
		sh.mu.Unlock()
		return
	}
	st.floor, st.ceiling, st.sorted = st.ceiling, endless, false
	sh.index.scans++
	sh.mu.Unlock()
	for bucket, done := 0, false; !done; {
		sh.mu.Lock()
		bucket, done = sh.index.step(bucket, func(rec handle) {
			if g := s.mem.generation(rec); s.mem.partition(rec) == st.partition && g >= st.floor {
				st.add(pending{g, sh.index.hashOf(rec)})
			}
		})
		done = done || st.closed
		sh.mu.Unlock()
	}
	sh.mu.Lock()
	st.trim()
	st.sorted = true
	sh.index.scans--
	sh.mu.Unlock()
	s.shrinkIndex(sh)
}

// shrinkIndex makes up for the joins that a scan put off.
func (s *Store) shrinkIndex(sh *shard) {
	for more := true; more; {
		sh.mu.Lock()
		more = sh.index.shrink(stepRecords)
		sh.mu.Unlock()
	}
}

func (s *Store) itemLocked(sh *shard, rec handle, now int64) Item {
	it := Item{Key: bytes.Clone(s.mem.key(rec)), Generation: s.mem.generation(rec)}
	if !s.mem.alive(rec, now) {
		it.Deleted = true
		return it
	}
	it.CRC, it.Deadline = s.mem.u32(rec, recCRC), s.mem.deadline(rec)
	it.Value, it.Lease = s.mem.value(rec), s.leaseLocked(sh, rec)
	return it
}

// Close ends the stream. The last one of a partition to close frees its tombstones, in short steps.
func (st *Stream) Close() {
	s, sh, pt := st.store, st.store.shard(st.partition), &st.store.partitions[st.partition]
	sh.mu.Lock()
	st.closed, st.window = true, nil
	pt.streams = slices.DeleteFunc(pt.streams, func(o *Stream) bool { return o == st })
	sh.mu.Unlock()
	s.forgetTombstones(st.partition)
}

// forgetTombstones frees the tombstones of p once nothing needs them any more, in short steps.
func (s *Store) forgetTombstones(p uint16) {
	pt := &s.partitions[p]
	s.purge(p, func() bool { return pt.tombstones > 0 && !pt.keepsTombstones() }, func(rec handle) bool { return !s.mem.live(rec) })
}

// purge removes the records of p that match, as long as wanted says that there are any. It holds the lock in short
// steps; both functions run under it.
func (s *Store) purge(p uint16, wanted func() bool, match func(rec handle) bool) (removed int) {
	sh := s.shard(p)
	sh.mu.Lock()
	if !wanted() {
		sh.mu.Unlock()
		return 0
	}
	sh.index.scans++
	sh.mu.Unlock()
	for bucket, done := 0, false; !done; {
		sh.mu.Lock()
		bucket, done = sh.index.step(bucket, func(rec handle) {
			if s.mem.partition(rec) == p && wanted() && match(rec) {
				s.removeLocked(sh, rec, sh.index.hashOf(rec))
				removed++
			}
		})
		done = done || !wanted()
		sh.mu.Unlock()
	}
	sh.mu.Lock()
	sh.index.scans--
	sh.mu.Unlock()
	s.shrinkIndex(sh)
	return removed
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
	if err := s.checkItem(p, &it); err != nil {
		return false, err
	}
	if err := s.checkValue(len(it.Value)); err != nil {
		return false, err
	}
	r, err := s.Reserve(it.Key, len(it.Value))
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
	if err := s.checkItem(p, &it); err != nil {
		return false, err
	}
	if it.Deleted && r.record != none {
		return false, fmt.Errorf("storage: %w: a deleted item with a value", dramnode.ErrInvalid)
	}
	if err := s.checkReservation(it.Key, r); err != nil {
		return false, err
	}
	id, sh := s.identify(p, it.Key), s.shard(p)
	for tries := 0; ; tries++ {
		applied, err = s.apply(sh, &id, &it, r)
		if !s.again(tries, err, nodeBytes) {
			return applied, err
		}
	}
}

func (s *Store) apply(sh *shard, id *identity, it *Item, r Reservation) (applied bool, err error) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	rec := sh.index.find(id)
	if rec != none && s.mem.generation(rec) >= it.Generation {
		return false, nil
	}
	if it.Deleted {
		return s.applyDeleteLocked(sh, id, rec, it.Generation)
	}
	v := version{it.Generation, it.CRC, it.Deadline}
	if r.record == none {
		_, err = s.storeLocked(sh, id, rec, nil, v)
	} else {
		s.mem.setKey(r.record, id)
		err = s.publishLocked(sh, id, rec, r.record, v)
	}
	if err == nil && r.record != none {
		s.mem.countReservation(-s.mem.valueBytes(r.record))
	}
	return err == nil, err
}

func (s *Store) checkItem(p uint16, it *Item) error {
	if err := s.checkWrite(p, it.Key, 0); err != nil {
		return err
	}
	if it.Generation == dramnode.Absent || it.Generation>>63 != 0 {
		return fmt.Errorf("storage: %w: an item of generation %d", dramnode.ErrInvalid, it.Generation)
	}
	return nil
}

func (s *Store) applyDeleteLocked(sh *shard, id *identity, rec handle, g dramnode.Generation) (bool, error) {
	pt, v := &s.partitions[id.partition], pending{g, id.hash}
	switch {
	case rec == none && !pt.keepsTombstones():
		pt.last = max(pt.last, g)
	case rec == none:
		if err := sh.index.prepare(); err != nil {
			return false, err
		}
		rec, err := s.mem.newRecord(sh.lane, len(id.key), 0)
		if err != nil {
			return false, err
		}
		s.mem.setKey(rec, id)
		s.mem.setU64(rec, recGeneration, uint64(g))
		sh.index.insert(rec, id.hash)
		pt.bury(s.mem, rec)
		pt.wrote(v)
	case !s.mem.live(rec):
		s.mem.setU64(rec, recGeneration, uint64(g))
		pt.wrote(v)
	default:
		s.deleteLocked(sh, rec, v)
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
	return s.dropUpTo(p, last), nil
}

// dropUpTo frees the records of p up to a generation.
func (s *Store) dropUpTo(p uint16, last dramnode.Generation) (records int) {
	pt := &s.partitions[p]
	return s.purge(p, func() bool { return pt.entries+pt.tombstones > 0 }, func(rec handle) bool { return s.mem.generation(rec) <= last })
}
