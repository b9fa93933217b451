package storage

import (
	"encoding/binary"
	"fmt"

	"github.com/dramnode/dramnode"
)

// Info describes an entry.
type Info struct {
	Generation dramnode.Generation
	ValueBytes int
	CRC        uint32 // as it was committed; the store does not compute it
	Deadline   int64  // on the clock of now; 0: for ever
}

// A Value is an entry with its bytes. Unless Lease is 0, Bytes is the stored memory itself: read it only, and
// until Release(Lease). An empty value has no bytes and no lease.
type Value struct {
	Info
	Bytes []byte
	Lease Lease
}

// A Lease keeps the bytes of a value in place, whatever happens to its entry. 0 is no lease.
//
// It is the place of the block, bit 0 set when its cell lies in the side table, and the shard from bit 48 on.
type Lease uint64

// Get returns the value of key with a lease on it. ok is false when there is none, or it expired by now.
func (s *Store) Get(p uint16, key []byte, now int64) (v Value, ok bool) {
	return s.GetInto(nil, p, key, now)
}

// GetInto is Get, except that a value of at most len(dst) bytes is copied to dst and needs no lease:
// Bytes is then dst's beginning, and Lease 0.
func (s *Store) GetInto(dst []byte, p uint16, key []byte, now int64) (v Value, ok bool) {
	if int(p) >= len(s.partitions) {
		return Value{}, false
	}
	id, sh := s.identify(p, key), s.shard(p)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	rec := sh.index.find(&id)
	if !s.mem.alive(rec, now) {
		return Value{}, false
	}
	v.Info = s.mem.info(rec)
	stored := s.mem.payload(s.mem.link(rec, recValue), v.ValueBytes)
	if len(stored) <= len(dst) {
		v.Bytes = dst[:copy(dst, stored)]
		return v, true
	}
	v.Bytes, v.Lease = stored, s.leaseLocked(sh, rec)
	return v, true
}

// Stat describes the entry of key. ok is false when there is none, or it expired by now.
func (s *Store) Stat(p uint16, key []byte, now int64) (info Info, ok bool) {
	if int(p) >= len(s.partitions) {
		return Info{}, false
	}
	id, sh := s.identify(p, key), s.shard(p)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	rec := sh.index.find(&id)
	if !s.mem.alive(rec, now) {
		return Info{}, false
	}
	return s.mem.info(rec), true
}

func (s *Store) leaseLocked(sh *shard, rec handle) Lease {
	value := s.mem.link(rec, recValue)
	if value == none {
		return 0
	}
	l := Lease(value) | Lease(sh.number)<<48
	if s.mem.u32(rec, recValueBytes) > smallMax {
		l |= 1
	}
	cell := s.leaseCell(l)
	count := binary.LittleEndian.Uint32(cell)
	if count < cellLease {
		sh.leasedBytes += int64(binary.LittleEndian.Uint32(cell[4:]))
	}
	binary.LittleEndian.PutUint32(cell, count+cellLease)
	sh.leases++
	return l
}

func (l Lease) block() handle { return handle(l & (arenaMax - 1) &^ 1) }

func (s *Store) leaseCell(l Lease) []byte { return s.mem.cell(l.block(), l&1 != 0) }

// Release ends a lease. Each lease is released exactly once; Release(0) does nothing. A second release would
// free memory that somebody reads, so where it is noticed it ends the process.
func (s *Store) Release(l Lease) {
	if l == 0 {
		return
	}
	sh := &s.shards[l>>48]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	cell := s.leaseCell(l)
	count := binary.LittleEndian.Uint32(cell)
	if count < cellLease || count&cellFree != 0 {
		panic(fmt.Sprintf("storage: lease %#x is released twice: its cell is %#x", uint64(l), count))
	}
	count -= cellLease
	binary.LittleEndian.PutUint32(cell, count)
	sh.leases--
	if count < cellLease {
		sh.leasedBytes -= int64(binary.LittleEndian.Uint32(cell[4:]))
	}
	if count == 0 {
		s.mem.free(l.block())
	}
}

// dropValueLocked gives up a record's hold on its value; the last lease, if there is one, frees it.
func (s *Store) dropValueLocked(rec handle) {
	value := s.mem.link(rec, recValue)
	if value == none {
		return
	}
	cell := s.mem.cell(value, s.mem.u32(rec, recValueBytes) > smallMax)
	count := binary.LittleEndian.Uint32(cell) - cellOwned
	binary.LittleEndian.PutUint32(cell, count)
	if count == 0 {
		s.mem.free(value)
	}
	s.mem.setLink(rec, recValue, none)
}
