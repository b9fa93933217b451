package storage

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"sync"
	"sync/atomic"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/internal/invariant"
)

// A handle is the place of a block's payload in the arena; 0 is no block.
type handle uint64

const none handle = 0

const (
	granuleBytes  = 2048 // no two blocks longer than smallMax start in one granule
	cellBytes     = 8    // what every block has beside its payload
	smallMax      = 1792 // longest payload whose cell lies right before it; longer ones have it in the side table
	slabPagesMax  = 8    // longest slab
	classPagesMax = 4    // longest payload that is held in slabs, in pages; longer ones get pages of their own
	runSearchMax  = 32   // free runs of a fitting bin that are tried before a longer run is cut
	binsMax       = 33
)

// A cell counts who holds a block: 1 for its owner plus 2 for each lease. A block is freed when
// its cell falls to 0; then cellFree is set and the low bits link to the next free slot of the slab.
const (
	cellOwned uint32 = 1
	cellLease uint32 = 2
	cellFree  uint32 = 1 << 31
)

type pageState uint8

const (
	pageFree pageState = iota
	pageSlab
	pageRun
)

// A page says what a page is part of. Of a span (pages held, or free, together) the first page
// carries the counts. state, class and first are set on every page of a slab, and on the first and
// the last page of any other span. They do not change while a block lives there, so that who holds
// the block may read them without the lock.
type page struct {
	first      uint32 // first page of the span
	pages      uint32 // length of the span
	next, prev uint32 // page+1, in the list of a bin or of a class's slabs with free slots; 0 ends it
	used       uint32 // slots in use
	fresh      uint32 // slots from here on were never used
	freeSlot   uint32 // slot+1 of the first freed one; 0: none
	class      uint8
	state      pageState
}

// A class is one payload size that slabs are made of.
type class struct {
	payloadBytes, slotBytes int
	pages, slots            int    // of one slab
	partial                 uint32 // page+1 of the first slab with a free slot

	slabs, used    int
	requestedBytes int64
}

// memory is the arena and its allocator. The arena is a side table with one cell per granule, then pages.
//
// Field accesses need no lock: blocks belong to whoever allocated them.
type memory struct {
	arena     []byte
	base      int // where page 0 starts
	pageBytes int
	pageShift int

	reservations, reservedBytes atomic.Int64

	mu        sync.Mutex // guards everything below, and the cells of free blocks
	pages     []page
	classes   []class
	bins      [binsMax]uint32 // free runs by bits.Len(pages): page+1 of the first
	freePages int

	heapBytes int64 // Go heap that counts against the arena; its pages stay free
	usedBytes int64 // payload that the live blocks asked for
	runs      int
	runBytes  int64 // payload asked for by the live runs
	runPages  int
}

func newMemory(arena []byte, pageBytes int) (*memory, error) {
	shift := bits.TrailingZeros(uint(pageBytes))
	side := len(arena) / granuleBytes * cellBytes
	base := (side + granuleBytes - 1) / granuleBytes * granuleBytes
	count := (len(arena) - base) / pageBytes
	if count < 1 || count >= 1<<31 {
		return nil, fmt.Errorf("%w: an arena of %d bytes has %d pages", dramnode.ErrInvalid, len(arena), count)
	}
	m := &memory{arena: arena, base: base, pageBytes: pageBytes, pageShift: shift, pages: make([]page, count)}
	for i := 0; classPayload(i) <= classPagesMax*pageBytes; i++ {
		m.classes = append(m.classes, makeClass(classPayload(i), pageBytes))
	}
	m.putRunLocked(0, count)
	m.heapBytes = int64(count) * pageEntryBytes
	return m, nil
}

// classPayload and classOf number the payload sizes: 16 to 64 in steps of 8, then four per doubling.
func classPayload(i int) int {
	if i < 7 {
		return 16 + 8*i
	}
	return (5 + (i-7)%4) << (4 + (i-7)/4)
}

func classOf(payloadBytes int) int {
	if payloadBytes <= 64 {
		return max(0, (payloadBytes+7)/8-2)
	}
	k := bits.Len(uint(payloadBytes - 1))
	return 7 + (k-7)*4 + (payloadBytes-1)>>(k-3) - 4
}

// makeClass picks the shortest slab that wastes less than 1/16 at its end, or else the least wasteful one.
func makeClass(payloadBytes, pageBytes int) class {
	c := class{payloadBytes: payloadBytes, slotBytes: payloadBytes}
	if payloadBytes <= smallMax {
		c.slotBytes += cellBytes
	}
	best := 1.0
	for n := 1; n <= slabPagesMax; n++ {
		span := n * pageBytes
		waste := float64(span%c.slotBytes) / float64(span)
		if span >= c.slotBytes && waste < best {
			best, c.pages, c.slots = waste, n, span/c.slotBytes
		}
		if best < 1.0/16 {
			break
		}
	}
	return c
}

// alloc returns a block for payloadBytes > 0, owned by the caller. It is not zeroed.
func (m *memory) alloc(payloadBytes int) (handle, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var h handle
	if payloadBytes > m.classes[len(m.classes)-1].payloadBytes {
		h = m.allocRunLocked(payloadBytes)
	} else {
		h = m.allocSlotLocked(classOf(payloadBytes), payloadBytes)
	}
	if h == none {
		return none, fmt.Errorf("%w: %d bytes, and %d of %d pages are free", dramnode.ErrNoMemory, payloadBytes, m.freePages, len(m.pages))
	}
	cell := m.cell(h, payloadBytes > smallMax)
	binary.LittleEndian.PutUint32(cell, cellOwned)
	binary.LittleEndian.PutUint32(cell[4:], uint32(payloadBytes))
	m.usedBytes += int64(payloadBytes)
	return h, nil
}

func (m *memory) allocRunLocked(payloadBytes int) handle {
	count := (payloadBytes + m.pageBytes - 1) >> m.pageShift
	first, ok := m.takeRunLocked(count, pageRun)
	if !ok {
		return none
	}
	span := page{first: uint32(first), pages: uint32(count), used: 1, state: pageRun}
	m.pages[first], m.pages[first+count-1] = span, span
	m.runs++
	m.runPages += count
	m.runBytes += int64(payloadBytes)
	return handle(m.base + first<<m.pageShift)
}

func (m *memory) allocSlotLocked(ci, payloadBytes int) handle {
	c := &m.classes[ci]
	if c.partial == 0 && !m.addSlabLocked(ci) {
		return none
	}
	first := int(c.partial - 1)
	p := &m.pages[first]
	var slot int
	if p.freeSlot != 0 {
		slot = int(p.freeSlot - 1)
	} else {
		slot = int(p.fresh)
		p.fresh++
	}
	h := m.slotPayload(first, slot, c)
	if p.freeSlot != 0 {
		p.freeSlot = binary.LittleEndian.Uint32(m.cell(h, c.payloadBytes > smallMax)) &^ cellFree
	}
	p.used++
	c.used++
	c.requestedBytes += int64(payloadBytes)
	if int(p.used) == c.slots {
		m.unlinkLocked(&c.partial, first)
	}
	return h
}

func (m *memory) slotPayload(first, slot int, c *class) handle {
	return handle(m.base + first<<m.pageShift + slot*c.slotBytes + c.slotBytes - c.payloadBytes)
}

func (m *memory) addSlabLocked(ci int) bool {
	c := &m.classes[ci]
	first, ok := m.takeRunLocked(c.pages, pageSlab)
	if !ok {
		return false
	}
	for i := first; i < first+c.pages; i++ {
		m.pages[i] = page{first: uint32(first), class: uint8(ci), state: pageSlab}
	}
	m.pages[first].pages = uint32(c.pages)
	m.linkLocked(&c.partial, first)
	c.slabs++
	return true
}

// free takes a block back whose cell fell to 0, or that only its owner holds. A block that is free
// already is a fault of ours that would corrupt somebody's value: it ends the process.
func (m *memory) free(h handle) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.freeLocked(h)
}

func (m *memory) freeLocked(h handle) {
	i := (int(h) - m.base) >> m.pageShift
	p := m.pages[i]
	if p.state == pageFree {
		panic(fmt.Sprintf("storage: block %#x is freed but its page is free", h))
	}
	side := p.state == pageRun || m.classes[p.class].payloadBytes > smallMax
	cell := m.cell(h, side)
	if c := binary.LittleEndian.Uint32(cell); c > cellOwned {
		panic(fmt.Sprintf("storage: block %#x is freed with cell %#x", h, c))
	}
	bytes := int(binary.LittleEndian.Uint32(cell[4:]))
	invariant.Poison(m.arena[h : int(h)+bytes])
	m.usedBytes -= int64(bytes)
	if p.state == pageRun {
		binary.LittleEndian.PutUint32(cell, cellFree)
		m.runs--
		m.runPages -= int(p.pages)
		m.runBytes -= int64(bytes)
		m.putRunLocked(i, int(p.pages))
		return
	}
	m.freeSlotLocked(int(p.first), h, cell)
}

func (m *memory) freeSlotLocked(first int, h handle, cell []byte) {
	p := &m.pages[first]
	c := &m.classes[p.class]
	slot := (int(h) - m.base - first<<m.pageShift) / c.slotBytes
	c.requestedBytes -= int64(binary.LittleEndian.Uint32(cell[4:]))
	binary.LittleEndian.PutUint32(cell, cellFree|p.freeSlot)
	p.freeSlot = uint32(slot) + 1
	if int(p.used) == c.slots {
		m.linkLocked(&c.partial, first)
	}
	p.used--
	c.used--
	if p.used == 0 {
		m.unlinkLocked(&c.partial, first)
		c.slabs--
		m.putRunLocked(first, c.pages)
	}
}

// cell returns the cell of a block; side says whether it is longer than smallMax.
func (m *memory) cell(h handle, side bool) []byte {
	at := int(h) - cellBytes
	if side {
		at = (int(h) - m.base) / granuleBytes * cellBytes
	}
	return m.arena[at : at+cellBytes : at+cellBytes]
}

// takeRunLocked cuts count pages from a free run. What it leaves free covers heapBytes. Slabs are cut from the end and
// large blocks from the beginning, so that slabs do not come to lie between large blocks.
func (m *memory) takeRunLocked(count int, use pageState) (first int, ok bool) {
	if m.freePages-count < m.chargedPages(m.heapBytes) {
		return 0, false
	}
	i := m.findRunLocked(count)
	if i < 0 {
		return 0, false
	}
	length := int(m.pages[i].pages)
	m.unlinkLocked(&m.bins[bits.Len(uint(length))], i)
	m.freePages -= length
	if length > count && use == pageSlab {
		m.addRunLocked(i, length-count)
		return i + length - count, true
	}
	if length > count {
		m.addRunLocked(i+count, length-count)
	}
	return i, true
}

func (m *memory) findRunLocked(count int) int {
	own := bits.Len(uint(count))
	if i := m.searchBinLocked(own, count, runSearchMax); i >= 0 {
		return i
	}
	for b := own + 1; b < binsMax; b++ {
		if m.bins[b] != 0 {
			return int(m.bins[b] - 1)
		}
	}
	return m.searchBinLocked(own, count, len(m.pages)) // nearly full: look at every run that may fit
}

// searchBinLocked returns the shortest fitting run among the first tries of a bin, or -1.
func (m *memory) searchBinLocked(bin, count, tries int) int {
	best := -1
	for n := m.bins[bin]; n != 0 && tries > 0; n, tries = m.pages[n-1].next, tries-1 {
		if l := int(m.pages[n-1].pages); l >= count && (best < 0 || l < int(m.pages[best].pages)) {
			best = int(n - 1)
		}
	}
	return best
}

// putRunLocked frees count pages and joins them with their free neighbours.
func (m *memory) putRunLocked(first, count int) {
	if first > 0 && m.pages[first-1].state == pageFree {
		before := int(m.pages[first-1].first)
		count += m.dropRunLocked(before)
		first = before
	}
	if next := first + count; next < len(m.pages) && m.pages[next].state == pageFree {
		count += m.dropRunLocked(next)
	}
	m.addRunLocked(first, count)
}

func (m *memory) dropRunLocked(first int) int {
	length := int(m.pages[first].pages)
	m.unlinkLocked(&m.bins[bits.Len(uint(length))], first)
	m.freePages -= length
	return length
}

func (m *memory) addRunLocked(first, count int) {
	span := page{first: uint32(first), pages: uint32(count)}
	m.pages[first], m.pages[first+count-1] = span, span
	m.linkLocked(&m.bins[bits.Len(uint(count))], first)
	m.freePages += count
}

func (m *memory) linkLocked(list *uint32, i int) {
	p := &m.pages[i]
	p.next, p.prev = *list, 0
	if p.next != 0 {
		m.pages[p.next-1].prev = uint32(i) + 1
	}
	*list = uint32(i) + 1
}

func (m *memory) unlinkLocked(list *uint32, i int) {
	p := &m.pages[i]
	if p.prev == 0 {
		*list = p.next
	} else {
		m.pages[p.prev-1].next = p.next
	}
	if p.next != 0 {
		m.pages[p.next-1].prev = p.prev
	}
	p.next, p.prev = 0, 0
}

func (m *memory) chargedPages(heapBytes int64) int {
	return int((heapBytes + int64(m.pageBytes) - 1) >> m.pageShift)
}

// charge counts bytes of Go heap against the arena; a negative count gives them back.
func (m *memory) charge(bytes int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if bytes > 0 && m.chargedPages(m.heapBytes+bytes) > m.freePages {
		return fmt.Errorf("%w: no page is free for the index", dramnode.ErrNoMemory)
	}
	m.heapBytes += bytes
	return nil
}

func (m *memory) u16(h handle, field int) uint16 {
	return binary.LittleEndian.Uint16(m.arena[int(h)+field:])
}

func (m *memory) u32(h handle, field int) uint32 {
	return binary.LittleEndian.Uint32(m.arena[int(h)+field:])
}

func (m *memory) u64(h handle, field int) uint64 {
	return binary.LittleEndian.Uint64(m.arena[int(h)+field:])
}

func (m *memory) setU16(h handle, field int, v uint16) {
	binary.LittleEndian.PutUint16(m.arena[int(h)+field:], v)
}

func (m *memory) setU32(h handle, field int, v uint32) {
	binary.LittleEndian.PutUint32(m.arena[int(h)+field:], v)
}

func (m *memory) setU64(h handle, field int, v uint64) {
	binary.LittleEndian.PutUint64(m.arena[int(h)+field:], v)
}

func (m *memory) payload(h handle, bytes int) []byte {
	if h == none {
		return nil
	}
	return m.arena[int(h) : int(h)+bytes : int(h)+bytes]
}
