package storage

import (
	"fmt"
	"math"

	"github.com/dramnode/dramnode"
)

// A Reservation is memory that nobody else sees: for a value that is still arriving, or one that only
// passes through. It counts against the arena. It ends by exactly one Abort, or as a blob of Versions by one successful
// Stage, Apply or Write, or one Free. A version's bytes must not be written any more. The zero
// Reservation is an empty value.
type Reservation struct {
	Bytes  []byte
	record handle
}

// ReserveScratch returns memory for bytes that are no value, such as a batch of entries: MaxValueBytes does not hold.
func (s *Store) ReserveScratch(scratchBytes int) (Reservation, error) {
	if scratchBytes < 0 || scratchBytes > math.MaxUint32 {
		return Reservation{}, fmt.Errorf("storage: %w: a reservation of %d bytes", dramnode.ErrInvalid, scratchBytes)
	}
	return s.reserve(0, scratchBytes)
}

// reserve takes memory of no shard in particular: they have their turns.
func (s *Store) reserve(keyBytes, valueBytes int) (Reservation, error) {
	if valueBytes == 0 {
		return Reservation{}, nil
	}
	sh := &s.shards[int(s.turn.Add(1)%uint32(len(s.shards)))]
	bytes := s.mem.sizeOf(keyBytes, valueBytes)
	for tries := 0; ; tries++ {
		rec, err := s.mem.newRecord(sh.lane, keyBytes, valueBytes)
		if err == nil {
			s.mem.countReservation(valueBytes)
			return Reservation{Bytes: s.mem.value(rec), record: rec}, nil
		}
		if !s.again(tries, err, bytes) {
			return Reservation{}, fmt.Errorf("storage: %w", err)
		}
	}
}

// Abort frees a reservation that no version has.
func (s *Store) Abort(r Reservation) {
	if r.record == none {
		return
	}
	s.mem.countReservation(-s.reservedBytes(r))
	s.mem.discard(r.record)
}

// reservedBytes is what was reserved, should the caller have cut r.Bytes.
func (s *Store) reservedBytes(r Reservation) int {
	if r.record == none {
		return 0
	}
	if state := s.mem.state(r.record); state&(stateVersion-1) != stateHeld {
		panic(fmt.Sprintf("storage: a reservation is used after it ended: its record's state is %#x", state))
	}
	return s.mem.valueBytes(r.record)
}

func (s *Store) checkValue(valueBytes int) error {
	if valueBytes < 0 {
		return fmt.Errorf("storage: %w: a value of %d bytes", dramnode.ErrInvalid, valueBytes)
	}
	if valueBytes > s.config.MaxValueBytes {
		return fmt.Errorf("storage: %w: %d bytes, want at most %d", dramnode.ErrTooLarge, valueBytes, s.config.MaxValueBytes)
	}
	return nil
}

// countReservation counts a reservation of so many bytes, or with a negative count its end.
func (m *memory) countReservation(bytes int) {
	m.reservedBytes.Add(int64(bytes))
	if bytes > 0 {
		m.reservations.Add(1)
	} else {
		m.reservations.Add(-1)
	}
}

// Token stands for r where only an integer can travel; 0 is the zero Reservation.
func (r Reservation) Token() uint64 { return uint64(r.record) }

// Resume returns the open reservation with this Token, Bytes and all.
func (s *Store) Resume(token uint64) Reservation {
	rec := handle(token)
	if rec == none {
		return Reservation{}
	}
	return Reservation{Bytes: s.mem.value(rec), record: rec}
}
