package storage

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"sync/atomic"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/internal/invariant"
)

// A handle is the place of a block in the arena, in bytes; 0 is no block. Stored in the arena it is a ref:
// 32 bits that count the arena's unit, which is 8 bytes up to 32 GiB of arena and doubles with it beyond.
type handle uint64

const none handle = 0

const (
	arenaHead    = 4 << 10 // left alone at the start of the arena, so that no block has handle 0
	slabPagesMax = 16      // longest slab
	slotPagesMax = 8       // longest slot, in pages; longer blocks get pages of their own
	slotMin      = 16
	slotFineMax  = 256 // slots up to here come in every multiple of 8 bytes, longer ones eight to a doubling
	slotLink     = 8   // where a free slot links to the next one, behind what was a record's state
)

// A class is one length of slot that slabs are made of.
type class struct {
	slotBytes int
	pages     int // of a slab
	slots     int // of a slab
}

// memory is the arena and its allocator: pages in one pool, and lanes that cut slots from slabs of pages. Lanes
// have locks of their own, so that shards of different lanes meet only at the pool, once per slab.
//
// Field accesses need no lock: blocks belong to whoever allocated them.
type memory struct {
	arena     []byte
	words     []atomic.Uint64 // the same memory, or nil
	refShift  int
	linkBytes int // of a record: see linkNext
	pageBytes int
	pageShift int
	slotMax   int

	classes []class
	classOf []uint8 // by length in units of 8 bytes, rounded up
	pool    pool
	lanes   []lane

	reservations, reservedBytes atomic.Int64
}

func newMemory(c Config, lanes int) (*memory, error) {
	m := &memory{arena: c.Arena, words: c.Words, refShift: refShiftMin, pageBytes: c.PageBytes}
	m.pageShift = bits.TrailingZeros(uint(c.PageBytes))
	for len(c.Arena)>>m.refShift > 1<<32 {
		m.refShift++
	}
	if c.Eviction == EvictS3FIFO {
		m.linkBytes = linkBytes
	}
	count := (len(c.Arena) - arenaHead) / (c.PageBytes + pageEntryBytes)
	if count < 1 || count >= 1<<31 {
		return nil, fmt.Errorf("%w: an arena of %d bytes has %d pages", dramnode.ErrInvalid, len(c.Arena), count)
	}
	m.makeClasses()
	m.pool.init(count)
	m.lanes = make([]lane, lanes)
	for i := range m.lanes {
		m.lanes[i].init(m, i)
	}
	return m, nil
}

func (m *memory) makeClasses() {
	m.slotMax = slotPagesMax * m.pageBytes
	unit := 1 << m.refShift
	for bytes := slotMin; bytes <= m.slotMax; bytes = slotAfter(bytes) {
		slot := (bytes + unit - 1) &^ (unit - 1)
		if n := len(m.classes); n == 0 || m.classes[n-1].slotBytes < slot {
			m.classes = append(m.classes, makeClass(slot, m.pageBytes))
		}
	}
	for bytes, ci := 0, 0; bytes <= m.slotMax; bytes += 8 {
		if m.classes[ci].slotBytes < bytes {
			ci++
		}
		m.classOf = append(m.classOf, uint8(ci))
	}
}

// slotAfter is the next longer length of slot: 16 to 256 in steps of 8, then eight to a doubling.
func slotAfter(bytes int) int {
	if bytes < slotFineMax {
		return bytes + 8
	}
	return bytes + 1<<(bits.Len(uint(bytes))-4)
}

// makeClass picks the shortest slab that wastes less than 1/32 at its end, or else the least wasteful one.
func makeClass(slotBytes, pageBytes int) class {
	c := class{slotBytes: slotBytes}
	best := 1.0
	for n := 1; n <= slabPagesMax; n++ {
		span := n * pageBytes
		waste := float64(span%slotBytes) / float64(span)
		if span >= slotBytes && waste < best {
			best, c.pages, c.slots = waste, n, span/slotBytes
		}
		if best < 1.0/32 {
			break
		}
	}
	return c
}

func (m *memory) class(bytes int) int { return int(m.classOf[(bytes+7)/8]) }

// alloc returns a block for bytes > 0. It is not zeroed.
func (m *memory) alloc(lane, bytes int) (handle, error) {
	var page, slot int
	ok := false
	if bytes > m.slotMax {
		page, ok = m.pool.allocRun(m.pagesFor(bytes), bytes)
		if ok {
			return m.slotAt(page, 0, 0), nil
		}
	} else {
		ci := m.class(bytes)
		page, slot, ok = m.lanes[lane].alloc(ci, bytes, true)
		for i := 1; !ok && i < len(m.lanes); i++ { // no pages are left: a free slot of another lane will do
			page, slot, ok = m.lanes[(lane+i)%len(m.lanes)].alloc(ci, bytes, false)
		}
		if ok {
			return m.slotAt(page, slot, m.classes[ci].slotBytes), nil
		}
	}
	free, count := m.pool.free()
	return none, fmt.Errorf("%w: %d bytes, and %d of %d pages are free", dramnode.ErrNoMemory, bytes, free, count)
}

// free takes back a block of so many bytes. A block that is free already is a fault of ours that would
// corrupt somebody's value: it ends the process.
func (m *memory) free(h handle, bytes int) {
	i := m.pageOf(h)
	p := m.pool.page(i)
	if p.state == pageFree {
		panic(fmt.Sprintf("storage: block %#x is freed but its page is free", h))
	}
	invariant.Poison(m.arena[int(h)+min(slotMin, bytes) : int(h)+bytes])
	if p.state == pageRun {
		m.pool.freeRun(i, bytes)
		return
	}
	first := int(p.first)
	slot := (int(h) - int(m.slotAt(first, 0, 0))) / m.classes[p.class].slotBytes
	m.lanes[p.lane].free(first, slot, bytes)
}

func (m *memory) pagesFor(bytes int) int { return (bytes + m.pageBytes - 1) >> m.pageShift }

func (m *memory) pageOf(h handle) int { return (int(h) - arenaHead) >> m.pageShift }

func (m *memory) slotAt(page, slot, slotBytes int) handle {
	return handle(arenaHead + page<<m.pageShift + slot*slotBytes)
}

func (m *memory) u32(h handle, field int) uint32 {
	return binary.LittleEndian.Uint32(m.arena[int(h)+field:])
}

func (m *memory) u64(h handle, field int) uint64 {
	return binary.LittleEndian.Uint64(m.arena[int(h)+field:])
}

func (m *memory) setU32(h handle, field int, v uint32) {
	binary.LittleEndian.PutUint32(m.arena[int(h)+field:], v)
}

func (m *memory) setU64(h handle, field int, v uint64) {
	binary.LittleEndian.PutUint64(m.arena[int(h)+field:], v)
}

// link and setLink read and write a ref.
func (m *memory) link(h handle, field int) handle { return handle(m.u32(h, field)) << m.refShift }

func (m *memory) setLink(h handle, field int, to handle) {
	m.setU32(h, field, uint32(to>>m.refShift))
}

func (m *memory) bytes(h handle, count int) []byte {
	return m.arena[int(h) : int(h)+count : int(h)+count]
}
