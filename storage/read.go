package storage

import (
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
	Place uint64 // of the record in the arena
}

// A Lease keeps the bytes of a value in place, whatever happens to its entry. 0 is no lease.
//
// It is the place of the record, and the shard from bit 48 on.
type Lease uint64

func (s *Store) leaseLocked(sh *shard, rec handle) Lease {
	state, valueBytes := s.mem.state(rec), s.mem.valueBytes(rec)
	if valueBytes == 0 {
		return 0
	}
	if state&stateLeases == 0 {
		sh.leasedBytes += int64(valueBytes)
	}
	s.mem.setState(rec, state+stateLease)
	sh.leases++
	return Lease(rec) | Lease(sh.number)<<48
}

func (l Lease) record() handle { return handle(l & (1<<48 - 1)) }

// Release ends a lease. Each lease is released exactly once; Release(0) does nothing. A second release would
// free memory that somebody reads, so where it is noticed it ends the process.
func (s *Store) Release(l Lease) {
	if l == 0 {
		return
	}
	sh, rec := &s.shards[l>>48], l.record()
	sh.mu.Lock()
	defer sh.mu.Unlock()
	state := s.mem.state(rec)
	if state&stateLeases == 0 {
		panic(fmt.Sprintf("storage: lease %#x is released twice: its record's state is %#x", uint64(l), state))
	}
	state -= stateLease
	s.mem.setState(rec, state)
	sh.leases--
	if state&stateLeases != 0 {
		return
	}
	sh.leasedBytes -= int64(s.mem.valueBytes(rec))
	if state&stateHeld == 0 {
		s.mem.freeRecord(rec)
	}
}

// dropLocked gives up the store's hold on a record that is not live; the last lease, if there is one, frees it.
func (s *Store) dropLocked(rec handle) {
	state := s.mem.state(rec) &^ stateHeld
	s.mem.setState(rec, state)
	if state&stateLeases == 0 {
		s.mem.freeRecord(rec)
	}
}
