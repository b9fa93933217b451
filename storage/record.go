package storage

import (
	"bytes"
	"encoding/binary"
	"math"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/wire"
)

// A record is one block: a header, the key, the value, and in a store that evicts the links of its queue. Who maps the arena
// can read and check it alone, by the order of steps that recState tells. All
// numbers are little-endian; records begin at multiples of 8 bytes.
//
// Everything but state, generation, deadline, CRC and chain is written before the record is published and stays as
// it is until its memory is free; a short value may be overwritten in place, which recState shows. The shard's lock guards it.
const (
	recState      = wire.RecordState      // u64, see below
	recGeneration = wire.RecordGeneration // u64
	recDeadline   = wire.RecordDeadline   // i64, nanoseconds on the clock of the store's callers; 0: for ever
	recValueBytes = wire.RecordValueBytes // u32
	recCRC        = wire.RecordCRC        // u32, CRC32C of the value
	recKeyBytes   = wire.RecordKeyBytes   // u16
	recPartition  = wire.RecordPartition  // u16
	recChain      = 36                    // u32, ref of the next record of the index bucket; nothing to a reader
	recKey        = wire.RecordKey        // the value follows the key
	recordHeader  = recKey

	linkNext    = 0 // refs of the neighbours in the queue of a store that evicts
	linkPrev    = 4
	linkQueue   = 8 // u16: which queue
	linkHits    = 10
	linkBytes   = 12
	hitsMax     = 3
	refShiftMin = 3
)

// The state word of a record is written by one 8-byte store, atomically where Config.Words is given.
//
//	bit 0        live: the record is the current version of its key, and stands still
//	bit 1        held: the store, or a reservation, owns the block
//	bits 2-31    leases
//	bits 32-63   version: grows whenever live changes
//
// A reader without the lock loads the word, wants live, copies what it needs, and loads the word again: when live and
// version are the same as before, and partition and key are those that it looked for, what it copied was the current version of the key
// at the second load (its deadline is the reader's to check). live is cleared before anything of the record
// changes, before the write that replaced or deleted it is answered, and so before its memory can be used again. Whoever
// remembers a record by its place compares the generation and the key too, since by then the place may lie inside another
// record: a key never has the same generation twice.
const (
	stateLive    = wire.RecordLive
	stateHeld    = 2
	stateLease   = 4
	stateLeases  = 1<<32 - stateLease
	stateVersion = 1 << 32
)

func (m *memory) state(rec handle) uint64 { return m.u64(rec, recState) }

func (m *memory) setState(rec handle, state uint64) {
	if m.words != nil {
		m.words[rec/8].Store(state)
		return
	}
	m.setU64(rec, recState, state)
}

func (m *memory) live(rec handle) bool   { return m.state(rec)&stateLive != 0 }
func (m *memory) leased(rec handle) bool { return m.state(rec)&stateLeases != 0 }

// revive and kill set and clear live.
func (m *memory) revive(rec handle) {
	m.setState(rec, m.state(rec)&^stateLive+stateVersion|stateLive)
}

func (m *memory) kill(rec handle) { m.setState(rec, m.state(rec)&^stateLive+stateVersion) }

// newRecord returns a block for a key and a value of these lengths, held by the caller and not live. Only
// the lengths are set.
func (m *memory) newRecord(lane, keyBytes, valueBytes int) (handle, error) {
	rec, err := m.alloc(lane, m.sizeOf(keyBytes, valueBytes))
	if err != nil {
		return none, err
	}
	m.setState(rec, m.state(rec)&^(stateVersion-1)+stateVersion|stateHeld)
	clear(m.arena[rec+8 : rec+recordHeader])
	m.setU32(rec, recValueBytes, uint32(valueBytes))
	binary.LittleEndian.PutUint16(m.arena[rec+recKeyBytes:], uint16(keyBytes))
	return rec, nil
}

// sizeOf is the length of a record.
func (m *memory) sizeOf(keyBytes, valueBytes int) int {
	return recordHeader + keyBytes + valueBytes + m.linkBytes
}

func (m *memory) size(rec handle) int { return m.sizeOf(m.keyBytes(rec), m.valueBytes(rec)) }

// freeRecord frees a record that nobody holds.
func (m *memory) freeRecord(rec handle) { m.free(rec, m.size(rec)) }

// discard frees a record that was never published.
func (m *memory) discard(rec handle) {
	m.setState(rec, m.state(rec)&^stateHeld)
	m.freeRecord(rec)
}

func (m *memory) setKey(rec handle, id *identity) {
	binary.LittleEndian.PutUint16(m.arena[rec+recPartition:], id.partition)
	copy(m.key(rec), id.key)
}

func (m *memory) keyBytes(rec handle) int {
	return int(binary.LittleEndian.Uint16(m.arena[rec+recKeyBytes:]))
}

func (m *memory) partition(rec handle) uint16 {
	return binary.LittleEndian.Uint16(m.arena[rec+recPartition:])
}

func (m *memory) valueBytes(rec handle) int { return int(m.u32(rec, recValueBytes)) }

func (m *memory) key(rec handle) []byte { return m.bytes(rec+recKey, m.keyBytes(rec)) }

func (m *memory) value(rec handle) []byte {
	return m.bytes(rec+recKey+handle(m.keyBytes(rec)), m.valueBytes(rec))
}

func (m *memory) generation(rec handle) dramnode.Generation {
	return dramnode.Generation(m.u64(rec, recGeneration))
}

func (m *memory) deadline(rec handle) int64 { return int64(m.u64(rec, recDeadline)) }

// alive reports whether rec holds a value at now; none and tombstones do not.
func (m *memory) alive(rec handle, now int64) bool {
	return rec != none && m.live(rec) && now < m.expiry(rec)
}

// expiry is the deadline with for ever at the far end.
func (m *memory) expiry(rec handle) int64 {
	if d := m.deadline(rec); d != 0 {
		return d
	}
	return math.MaxInt64
}

func (m *memory) info(rec handle) Info {
	return Info{
		Generation: m.generation(rec),
		ValueBytes: m.valueBytes(rec),
		CRC:        m.u32(rec, recCRC),
		Deadline:   m.deadline(rec),
	}
}

// recordIs reports whether rec is the record of id.
func (m *memory) recordIs(rec handle, id *identity) bool {
	return m.keyBytes(rec) == len(id.key) && m.partition(rec) == id.partition && bytes.Equal(m.key(rec), id.key)
}

// An identity is what a record is found by.
type identity struct {
	partition uint16
	hash      uint64
	key       []byte
}
