package client

import "math/bits"

// A buddy hands out blocks of 2^k units from a row of units and joins them again when they come back.
// It is not safe for concurrent use.
type buddy struct {
	order      []int8  // of the free block that starts at a unit; -1 when none does
	next, prev []int32 // neighbours in the list of free blocks of one order; -1 ends it
	heads      []int32 // by order
}

const noUnit int32 = -1

func newBuddy(units int) *buddy {
	b := &buddy{
		order: make([]int8, units),
		next:  make([]int32, units),
		prev:  make([]int32, units),
		heads: make([]int32, bits.Len(uint(units))),
	}
	for i := range b.order {
		b.order[i] = -1
	}
	for i := range b.heads {
		b.heads[i] = noUnit
	}
	for at := 0; at < units; { // the longest aligned blocks that fit
		k := bits.Len(uint(units-at)) - 1
		if at != 0 {
			k = min(k, bits.TrailingZeros(uint(at)))
		}
		b.push(int32(at), k)
		at += 1 << k
	}
	return b
}

// orderFor returns the order of the shortest block of at least n units.
func orderFor(n int) int { return bits.Len(uint(max(n, 1) - 1)) }

// fits reports whether a block of order k could exist at all.
func (b *buddy) fits(k int) bool { return k < len(b.heads) }

// take returns the first unit of a free block of order k.
func (b *buddy) take(k int) (unit int32, ok bool) {
	from := k
	for from < len(b.heads) && b.heads[from] == noUnit {
		from++
	}
	if from >= len(b.heads) {
		return 0, false
	}
	unit = b.heads[from]
	b.remove(unit)
	for from > k {
		from--
		b.push(unit+1<<from, from)
	}
	return unit, true
}

// give returns a block that take(k) gave.
func (b *buddy) give(unit int32, k int) {
	for k+1 < len(b.heads) {
		other := unit ^ 1<<k
		if int(other) >= len(b.order) || b.order[other] != int8(k) {
			break
		}
		b.remove(other)
		unit = min(unit, other)
		k++
	}
	b.push(unit, k)
}

func (b *buddy) push(unit int32, k int) {
	head := b.heads[k]
	b.order[unit], b.next[unit], b.prev[unit] = int8(k), head, noUnit
	if head != noUnit {
		b.prev[head] = unit
	}
	b.heads[k] = unit
}

func (b *buddy) remove(unit int32) {
	next, prev := b.next[unit], b.prev[unit]
	if prev == noUnit {
		b.heads[b.order[unit]] = next
	} else {
		b.next[prev] = next
	}
	if next != noUnit {
		b.prev[next] = prev
	}
	b.order[unit] = -1
}
