package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"

	"github.com/dramnode/dramnode"
)

// Check walks everything under all locks and reports what does not agree. It is for tests.
func (s *Store) Check() error {
	for i := range s.shards {
		s.shards[i].mu.Lock()
		defer s.shards[i].mu.Unlock()
	}
	s.order.mu.Lock()
	defer s.order.mu.Unlock()
	s.mem.mu.Lock()
	defer s.mem.mu.Unlock()
	c := &checker{Store: s, owned: map[handle]bool{}}
	for i := range s.shards {
		c.index(&s.shards[i])
	}
	for p := range s.partitions {
		c.partition(uint16(p))
	}
	c.trees()
	c.blocks()
	c.runs()
	c.partials()
	return errors.Join(c.faults...)
}

type checker struct {
	*Store
	owned   map[handle]bool // blocks that a record or index names
	entries int
	ttls    int
	faults  []error
}

func (c *checker) expect(ok bool, format string, args ...any) {
	if !ok && len(c.faults) < 20 {
		c.faults = append(c.faults, fmt.Errorf(format, args...))
	}
}

// own notes that somebody owns h, which must not be owned yet.
func (c *checker) own(h handle, what string) {
	c.expect(!c.owned[h], "%s %#x is owned twice", what, h)
	c.owned[h] = true
}

func (c *checker) index(sh *shard) {
	x, count := &sh.index, 0
	for _, seg := range x.segments {
		c.own(seg, "segment")
	}
	for b := range x.buckets {
		for rec := x.head(b); rec != none; rec = c.mem.link(rec, recChain) {
			count++
			c.own(rec, "record")
			c.expect(x.bucketOf(c.mem.u64(rec, recHash)) == b, "record %#x is in bucket %d", rec, b)
			c.expect(c.shard(c.mem.u16(rec, recPartition)) == sh, "record %#x is in shard %d", rec, sh.number)
		}
	}
	c.expect(count == x.records, "shard %d has %d records, counts %d", sh.number, count, x.records)
	c.expect(x.buckets <= 2*x.records+1, "shard %d has %d buckets for %d records", sh.number, x.buckets, x.records)
}

func (c *checker) partition(p uint16) {
	pt, m := &c.partitions[p], c.mem
	var got partition
	var previous handle
	var generation dramnode.Generation
	for rec := pt.head; rec != none; previous, rec = rec, m.link(rec, recNext) {
		c.expect(c.owned[rec] && m.u16(rec, recPartition) == p, "record %#x of partition %d is not indexed", rec, p)
		c.expect(m.link(rec, recPrev) == previous, "record %#x has a wrong predecessor", rec)
		c.expect(m.generation(rec) > generation, "record %#x has generation %d after %d", rec, m.generation(rec), generation)
		generation = m.generation(rec)
		if m.deleted(rec) {
			got.tombstones++
			continue
		}
		got.entries++
		got.keyBytes += int64(len(m.key(rec)))
		got.valueBytes += int64(m.u32(rec, recValueBytes))
		if v := m.link(rec, recValue); v != none {
			c.own(v, "value")
		}
		if m.deadline(rec) != 0 {
			c.ttls++
		}
	}
	c.entries += got.entries
	c.expect(pt.tail == previous, "partition %d ends at %#x, its tail is %#x", p, previous, pt.tail)
	c.expect(pt.last >= generation, "partition %d has generation %d, last is %d", p, generation, pt.last)
	got.last, got.head, got.tail, got.tombs, got.streams, got.receiving = pt.last, pt.head, pt.tail, pt.tombs, pt.streams, pt.receiving
	c.expect(got.entries == pt.entries && got.tombstones == pt.tombstones && got.keyBytes == pt.keyBytes && got.valueBytes == pt.valueBytes,
		"partition %d has %+v, counts %+v", p, got, *pt)
	c.expect(pt.tombstones == 0 || pt.keepsTombstones(), "partition %d keeps %d tombstones", p, pt.tombstones)
	tombs := 0
	for rec := pt.tombs; rec != none; rec = m.link(rec, recTombNext) {
		tombs++
		c.expect(m.deleted(rec), "tombstone %#x has a value", rec)
	}
	c.expect(tombs == pt.tombstones, "partition %d lists %d of %d tombstones", p, tombs, pt.tombstones)
}

func (c *checker) trees() {
	previous, count, ttls := none, 0, 0
	c.order.tree.Scan(func(rec handle) bool {
		count++
		c.expect(c.owned[rec] && !c.mem.deleted(rec), "record %#x is ordered and has no value", rec)
		c.expect(previous == none || c.order.less(previous, rec), "record %#x is out of order", rec)
		previous = rec
		return true
	})
	c.expect(count == c.entries, "%d of %d entries are ordered", count, c.entries)
	for i := range c.shards {
		ttls += c.shards[i].ttl.Len()
		c.shards[i].ttl.Scan(func(rec handle) bool {
			c.expect(c.owned[rec] && !c.mem.deleted(rec) && c.mem.deadline(rec) != 0, "record %#x has no deadline", rec)
			return true
		})
	}
	c.expect(ttls == c.ttls, "%d of %d deadlines are ordered", ttls, c.ttls)
	heap := int64(len(c.mem.pages)*pageEntryBytes + (count+ttls)*treeEntryBytes)
	c.expect(c.mem.heapBytes == heap, "%d bytes of heap are charged, want %d", c.mem.heapBytes, heap)
}

// blocks holds every live block against who owns it: a record, an index, a lease or a reservation.
func (c *checker) blocks() {
	var used, leased int64
	leases, reservations, named := 0, 0, 0
	c.eachBlock(func(h handle, cell []byte) {
		count, bytes := binary.LittleEndian.Uint32(cell), int64(binary.LittleEndian.Uint32(cell[4:]))
		used += bytes
		leases += int(count / cellLease)
		if count >= cellLease {
			leased += bytes
		}
		switch {
		case c.owned[h]:
			named++
			c.expect(count&cellOwned != 0, "block %#x is owned, its cell is %#x", h, count)
		case count&cellOwned != 0:
			reservations++
			c.expect(count == cellOwned, "nobody owns block %#x, its cell is %#x", h, count)
		default:
			c.expect(count >= cellLease, "block %#x is live, its cell is %#x", h, count)
		}
	})
	c.expect(named == len(c.owned), "%d of %d owned blocks are live", named, len(c.owned))
	c.expect(used == c.mem.usedBytes, "blocks hold %d bytes, counted are %d", used, c.mem.usedBytes)
	c.expect(reservations == int(c.mem.reservations.Load()), "%d blocks have no owner, %d reservations", reservations, c.mem.reservations.Load())
	countedLeases, countedBytes := 0, int64(0)
	for i := range c.shards {
		countedLeases += c.shards[i].leases
		countedBytes += c.shards[i].leasedBytes
	}
	c.expect(leases == countedLeases && leased == countedBytes, "%d leases on %d bytes, counted are %d on %d", leases, leased, countedLeases, countedBytes)
}

func (c *checker) eachBlock(visit func(h handle, cell []byte)) {
	m := c.mem
	for i := 0; i < len(m.pages); i += int(m.pages[i].pages) {
		p := m.pages[i]
		switch p.state {
		case pageRun:
			h := handle(m.base + i<<m.pageShift)
			visit(h, m.cell(h, true))
		case pageSlab:
			cl, live := &m.classes[p.class], 0
			for slot := range int(p.fresh) {
				h := m.slotPayload(i, slot, cl)
				if cell := m.cell(h, cl.payloadBytes > smallMax); binary.LittleEndian.Uint32(cell)&cellFree == 0 {
					live++
					visit(h, cell)
				}
			}
			c.expect(live == int(p.used), "slab %d has %d live slots, counts %d", i, live, p.used)
		}
	}
}

// runs checks that free pages are joined, counted and found.
func (c *checker) runs() {
	m, free, listed, wasFree := c.mem, 0, 0, false
	for i := 0; i < len(m.pages); i += int(m.pages[i].pages) {
		p := m.pages[i]
		last := m.pages[i+int(p.pages)-1]
		c.expect(int(p.first) == i && int(last.first) == i && last.state == p.state, "span at page %d has bad ends", i)
		c.expect(p.state != pageFree || !wasFree, "free run at page %d is not joined", i)
		if wasFree = p.state == pageFree; wasFree {
			free += int(p.pages)
		}
	}
	for b := range m.bins {
		for n := m.bins[b]; n != 0; n = m.pages[n-1].next {
			p := m.pages[n-1]
			c.expect(p.state == pageFree && bits.Len(uint(p.pages)) == b, "bin %d lists page %d", b, n-1)
			listed += int(p.pages)
		}
	}
	c.expect(free == m.freePages && listed == free, "%d pages are free, %d listed, %d counted", free, listed, m.freePages)
	c.expect(m.chargedPages(m.heapBytes) <= m.freePages, "%d bytes of heap exceed %d free pages", m.heapBytes, m.freePages)
}

// partials checks that the slabs with a free slot are those that their class lists.
func (c *checker) partials() {
	m, want, listed := c.mem, 0, 0
	for i := 0; i < len(m.pages); i += int(m.pages[i].pages) {
		if p := m.pages[i]; p.state == pageSlab && int(p.used) < m.classes[p.class].slots {
			want++
		}
	}
	for ci := range m.classes {
		for n := m.classes[ci].partial; n != 0; n = m.pages[n-1].next {
			p := m.pages[n-1]
			c.expect(p.state == pageSlab && int(p.class) == ci && int(p.used) < m.classes[ci].slots, "class %d lists page %d", ci, n-1)
			listed++
		}
	}
	c.expect(want == listed, "%d slabs have a free slot, %d are listed", want, listed)
}
