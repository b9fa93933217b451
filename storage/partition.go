package storage

import "github.com/dramnode/dramnode"

// A partition is the part of the entries that moves between nodes as one. Its shard's lock guards it.
type partition struct {
	last       dramnode.Generation // highest ever given out or applied; survives everything
	head, tail handle              // all records, tombstones too, in order of generation
	tombs      handle              // tombstones, newest first

	entries    int
	tombstones int
	keyBytes   int64 // of entries
	valueBytes int64

	streams   []*Stream
	receiving bool
}

func (p *partition) keepsTombstones() bool { return p.receiving || len(p.streams) > 0 }

// next returns the generation of the next write.
func (p *partition) next(epoch uint32) dramnode.Generation {
	return max(p.last+1, dramnode.Generation(epoch)<<32|1)
}

// place puts rec, which is in no list, where generation belongs: at the tail, save when a partition is
// received out of order, which costs a step for each record in between. A stream that is past that place goes back to it, so it may send entries twice.
func (p *partition) place(m *memory, rec handle, generation dramnode.Generation) {
	after := p.tail
	for after != none && m.generation(after) > generation {
		after = m.link(after, recPrev)
	}
	before := p.head
	if after != none {
		before = m.link(after, recNext)
	}
	m.setU64(rec, recGeneration, uint64(generation))
	p.join(m, after, rec)
	p.join(m, rec, before)
	p.last = max(p.last, generation)
	for _, st := range p.streams {
		if st.next == none || generation < m.generation(st.next) {
			st.next = rec
		}
	}
}

// unplace takes rec out of the list; streams that would send it next go on behind it.
func (p *partition) unplace(m *memory, rec handle) {
	next := m.link(rec, recNext)
	for _, st := range p.streams {
		if st.next == rec {
			st.next = next
		}
	}
	p.join(m, m.link(rec, recPrev), next)
}

// join makes a and b neighbours; none stands for the ends.
func (p *partition) join(m *memory, a, b handle) {
	if a == none {
		p.head = b
	} else {
		m.setLink(a, recNext, b)
	}
	if b == none {
		p.tail = a
	} else {
		m.setLink(b, recPrev, a)
	}
}

// bury makes rec, which has no value any more, a tombstone.
func (p *partition) bury(m *memory, rec handle) {
	m.setU32(rec, recDeleted, 1)
	m.setU32(rec, recValueBytes, 0)
	m.setU32(rec, recCRC, 0)
	m.setLink(rec, recTombNext, p.tombs)
	m.setLink(rec, recTombPrev, none)
	if p.tombs != none {
		m.setLink(p.tombs, recTombPrev, rec)
	}
	p.tombs = rec
	p.tombstones++
}

// unbury takes a tombstone out of the list of tombstones; it then has an empty value and no deadline.
func (p *partition) unbury(m *memory, rec handle) {
	next, prev := m.link(rec, recTombNext), m.link(rec, recTombPrev)
	if prev == none {
		p.tombs = next
	} else {
		m.setLink(prev, recTombNext, next)
	}
	if next != none {
		m.setLink(next, recTombPrev, prev)
	}
	m.setU32(rec, recDeleted, 0)
	m.setLink(rec, recValue, none)
	m.setU64(rec, recDeadline, 0)
	p.tombstones--
}
