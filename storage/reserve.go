package storage

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/dramnode/dramnode"
)

// A Reservation is memory that nobody else sees: for a value that is still arriving, or one that only
// passes through. It counts against the arena. It ends by exactly one successful Commit or Apply, or one Abort;
// with Commit the bytes become the value, and must not be written any more. The zero
// Reservation is an empty value.
type Reservation struct {
	Bytes    []byte
	block    handle
	reserved int
}

// Reserve returns memory for a value. It is not zeroed.
func (s *Store) Reserve(valueBytes int) (Reservation, error) {
	if err := s.checkValue(valueBytes); err != nil {
		return Reservation{}, err
	}
	return s.ReserveScratch(valueBytes)
}

// ReserveScratch is Reserve for bytes that are no value, such as a batch of entries: MaxValueBytes does not hold.
func (s *Store) ReserveScratch(scratchBytes int) (Reservation, error) {
	if scratchBytes == 0 {
		return Reservation{}, nil
	}
	if scratchBytes < 0 || scratchBytes > math.MaxUint32 {
		return Reservation{}, fmt.Errorf("storage: %w: a reservation of %d bytes", dramnode.ErrInvalid, scratchBytes)
	}
	block, err := s.mem.alloc(scratchBytes)
	if err != nil {
		return Reservation{}, fmt.Errorf("storage: %w", err)
	}
	s.mem.countReservation(scratchBytes)
	return Reservation{Bytes: s.mem.payload(block, scratchBytes), block: block, reserved: scratchBytes}, nil
}

// Abort frees a reservation that was not committed.
func (s *Store) Abort(r Reservation) {
	if r.block == none {
		return
	}
	s.mem.countReservation(-s.reservedBytes(r))
	s.mem.free(r.block)
}

// reservedBytes is what was reserved, should the caller have cut r.Bytes.
func (s *Store) reservedBytes(r Reservation) int {
	if r.block == none {
		return 0
	}
	if c := binary.LittleEndian.Uint32(s.mem.cell(r.block, r.reserved > smallMax)); c != cellOwned {
		panic(fmt.Sprintf("storage: a reservation is used after it ended: its cell is %#x", c))
	}
	return r.reserved
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
