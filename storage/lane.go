package storage

import "sync"

// A lane holds slabs of every class, and their free slots. Lock order: lane, pool.
type lane struct {
	mem    *memory
	number uint8

	mu      sync.Mutex // guards everything below, and of the pages of its slabs the lists and counts
	classes []laneClass
}

type laneClass struct {
	partial uint32 // page+1 of the first slab with a free slot
	slabs   int
	used    int
	bytes   int64 // asked for by the blocks
}

func (l *lane) init(m *memory, number int) {
	l.mem, l.number = m, uint8(number)
	l.classes = make([]laneClass, len(m.classes))
}

// alloc returns a slot; with grow from a new slab if need be.
func (l *lane) alloc(ci, bytes int, grow bool) (page, slot int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := &l.classes[ci]
	if c.partial == 0 && (!grow || !l.addSlabLocked(ci)) {
		return 0, 0, false
	}
	shape := &l.mem.classes[ci]
	first := int(c.partial - 1)
	p := l.mem.pool.page(first)
	if p.freeSlot != 0 {
		slot = int(p.freeSlot - 1)
		p.freeSlot = l.mem.u32(l.mem.slotAt(first, slot, shape.slotBytes), slotLink)
	} else {
		slot = int(p.fresh)
		p.fresh++
	}
	p.used++
	c.used++
	c.bytes += int64(bytes)
	if int(p.used) == shape.slots {
		l.mem.pool.unlink(&c.partial, first)
	}
	return first, slot, true
}

func (l *lane) addSlabLocked(ci int) bool {
	first, ok := l.mem.pool.takeSlab(l.mem.classes[ci].pages, uint8(ci), l.number)
	if !ok {
		return false
	}
	c := &l.classes[ci]
	l.mem.pool.linkTo(&c.partial, first)
	c.slabs++
	return true
}

// free takes a slot back, and gives a slab that falls empty to the pool.
func (l *lane) free(first, slot, bytes int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.mem.pool.page(first)
	c, shape := &l.classes[p.class], &l.mem.classes[p.class]
	l.mem.setU32(l.mem.slotAt(first, slot, shape.slotBytes), slotLink, p.freeSlot)
	p.freeSlot = uint32(slot) + 1
	if int(p.used) == shape.slots {
		l.mem.pool.linkTo(&c.partial, first)
	}
	p.used--
	c.used--
	c.bytes -= int64(bytes)
	if p.used == 0 {
		l.mem.pool.unlink(&c.partial, first)
		c.slabs--
		l.mem.pool.put(first, shape.pages)
	}
}
