package storage

import (
	"bytes"
	"math"

	"github.com/dramnode/dramnode"
)

// Fields of a key record: a block that stays where it is from the key's first write until the key
// and its tombstone are gone, so that writes do not move it in the index or the order. All but hash,
// key and partition, which never change, are guarded by the shard's lock.
const (
	recHash       = 0
	recGeneration = 8
	recValue      = 16 // handle of the value's block; none when the value is empty
	recValueBytes = 24 // u32
	recCRC        = 28 // u32
	recDeadline   = 32 // nanoseconds; 0: for ever
	recChain      = 40 // next record of the index bucket
	recNext       = 48 // neighbours in the partition's list, in order of generation
	recPrev       = 56
	recKeyBytes   = 64 // u16
	recPartition  = 66 // u16
	recDeleted    = 68 // u32; 1: a tombstone
	recKey        = 72

	// A tombstone has no value and no deadline, and links its partition's tombstones instead.
	recTombNext = recValue
	recTombPrev = recDeadline
)

// recordBytes is the payload of the record of a key.
func recordBytes(key []byte) int { return recKey + len(key) }

func (m *memory) link(h handle, field int) handle { return handle(m.u64(h, field)) }

func (m *memory) setLink(h handle, field int, to handle) { m.setU64(h, field, uint64(to)) }

func (m *memory) key(rec handle) []byte {
	return m.payload(rec+recKey, int(m.u16(rec, recKeyBytes)))
}

func (m *memory) generation(rec handle) dramnode.Generation {
	return dramnode.Generation(m.u64(rec, recGeneration))
}

func (m *memory) deadline(rec handle) int64 { return int64(m.u64(rec, recDeadline)) }

func (m *memory) deleted(rec handle) bool { return m.u32(rec, recDeleted) != 0 }

// alive reports whether rec holds a value at now; none does not.
func (m *memory) alive(rec handle, now int64) bool {
	return rec != none && !m.deleted(rec) && now < m.expiry(rec)
}

// expiry is the deadline of a record that is no tombstone, with for ever at the far end.
func (m *memory) expiry(rec handle) int64 {
	if d := m.deadline(rec); d != 0 {
		return d
	}
	return math.MaxInt64
}

func (m *memory) info(rec handle) Info {
	return Info{
		Generation: m.generation(rec),
		ValueBytes: int(m.u32(rec, recValueBytes)),
		CRC:        m.u32(rec, recCRC),
		Deadline:   m.deadline(rec),
	}
}

// recordIs reports whether rec is the record of id.
func (m *memory) recordIs(rec handle, id *identity) bool {
	return m.u64(rec, recHash) == id.hash && m.u16(rec, recPartition) == id.partition && bytes.Equal(m.key(rec), id.key)
}

// An identity is what a record is found by.
type identity struct {
	partition uint16
	hash      uint64
	key       []byte
}
