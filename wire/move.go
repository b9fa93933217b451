package wire

import (
	"encoding/binary"

	"github.com/dramnode/dramnode"
)

// A MoveStep says what one KindMove request does at the target of a move.
type MoveStep uint8

const (
	MoveBegin  MoveStep = 1 // forget what is left of an earlier attempt and expect entries
	MoveValue  MoveStep = 2 // key, body and CRC are an entry
	MoveDelete MoveStep = 3 // key was deleted at Generation
	MoveEnd    MoveStep = 4 // everything was sent; Generation is the partition's last
)

// MoveExtBytes is the length of a MoveExt.
const MoveExtBytes = 32

// MoveExt is the extension of a KindMove request: one step in handing a partition over.
type MoveExt struct {
	MoveID     uint64 // the table version that ordered the move
	Generation dramnode.Generation
	TTLMillis  uint64 // remaining life; 0: for ever
	Partition  uint16
	Step       MoveStep
}

// AppendMoveExt appends e: move id u64, generation u64, ttl u64, partition u16, step u8, 5 reserved bytes.
func AppendMoveExt(dst []byte, e MoveExt) []byte {
	dst = binary.LittleEndian.AppendUint64(dst, e.MoveID)
	dst = binary.LittleEndian.AppendUint64(dst, uint64(e.Generation))
	dst = binary.LittleEndian.AppendUint64(dst, e.TTLMillis)
	dst = binary.LittleEndian.AppendUint16(dst, e.Partition)
	return append(dst, byte(e.Step), 0, 0, 0, 0, 0)
}

// ParseMoveExt parses what AppendMoveExt wrote.
func ParseMoveExt(b []byte) (e MoveExt, err error) {
	if len(b) != MoveExtBytes {
		return e, malformed("move extension of %d bytes, want %d", len(b), MoveExtBytes)
	}
	e = MoveExt{
		MoveID:     binary.LittleEndian.Uint64(b),
		Generation: dramnode.Generation(binary.LittleEndian.Uint64(b[8:])),
		TTLMillis:  binary.LittleEndian.Uint64(b[16:]),
		Partition:  binary.LittleEndian.Uint16(b[24:]),
		Step:       MoveStep(b[26]),
	}
	if e.Step < MoveBegin || e.Step > MoveEnd {
		return e, malformed("move step %d", e.Step)
	}
	for _, b := range b[27:] {
		if b != 0 {
			return e, malformed("reserved bytes of the move extension are not zero")
		}
	}
	return e, nil
}
