package storage

import "encoding/binary"

// Token stands for r where only an integer can travel; 0 is the zero Reservation.
func (r Reservation) Token() uint64 {
	if r.reserved > smallMax {
		return uint64(r.block) | 1 // its cell lies in the side table
	}
	return uint64(r.block)
}

// Resume returns the open reservation with this Token, Bytes and all.
func (s *Store) Resume(token uint64) Reservation {
	block := handle(token &^ 1)
	if block == none {
		return Reservation{}
	}
	reserved := int(binary.LittleEndian.Uint32(s.mem.cell(block, token&1 != 0)[4:]))
	return Reservation{Bytes: s.mem.payload(block, reserved), block: block, reserved: reserved}
}
