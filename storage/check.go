package storage

import (
	"errors"
	"fmt"
	"math/bits"
)

// Check walks everything under all locks and reports what does not agree. It is for tests.
func (s *Store) Check() error {
	for i := range s.shards {
		s.shards[i].mu.Lock()
		defer s.shards[i].mu.Unlock()
	}
	for i := range s.orders {
		s.orders[i].mu.Lock()
		defer s.orders[i].mu.Unlock()
	}
	for i := range s.mem.lanes {
		s.mem.lanes[i].mu.Lock()
		defer s.mem.lanes[i].mu.Unlock()
	}
	s.mem.pool.mu.Lock()
	defer s.mem.pool.mu.Unlock()
	c := &checker{Store: s, owned: map[handle]int{}, plain: map[handle]bool{}, notes: map[handle]bool{}, timed: map[int]int{}, found: make([]partition, len(s.partitions))}
	for i := range s.shards {
		c.index(&s.shards[i], &s.shards[i].index, c.record)
		c.index(&s.shards[i], &s.shards[i].staged, c.note)
		c.queues(&s.shards[i])
	}
	for p := range s.partitions {
		c.partition(p)
	}
	c.trees()
	c.blocks()
	c.runs()
	c.partials()
	return errors.Join(c.faults...)
}

type checker struct {
	*Store
	owned   map[handle]int  // length of the blocks that an index or a tree names
	plain   map[handle]bool // those of them that are no records
	notes   map[handle]bool // staged versions
	timed   map[int]int     // by shard: notes among the deadlines
	found   []partition     // as found in the index
	entries int             // that are ordered
	faults  []error
}

func (c *checker) expect(ok bool, format string, args ...any) {
	if !ok && len(c.faults) < 20 {
		c.faults = append(c.faults, fmt.Errorf(format, args...))
	}
}

// own notes that somebody owns h, which must not be owned yet.
func (c *checker) own(h handle, bytes int, what string) {
	c.expect(c.owned[h] == 0, "%s %#x is owned twice", what, h)
	c.owned[h] = bytes
}

func (c *checker) index(sh *shard, x *index, look func(*shard, handle)) {
	count := 0
	for _, seg := range x.segments {
		c.own(seg, segmentBytes, "segment")
		c.plain[seg] = true
	}
	for b := range x.buckets {
		for rec := x.head(b); rec != none; rec = c.mem.link(rec, recChain) {
			count++
			look(sh, rec)
			c.expect(x.bucketOf(x.hashOf(rec)) == b, "record %#x is in bucket %d", rec, b)
		}
	}
	c.expect(count == x.records, "shard %d has %d records, counts %d", sh.number, count, x.records)
	c.expect(x.buckets <= max(x.records+x.promised, 1) || x.scans > 0, "shard %d has %d buckets for %d records", sh.number, x.buckets, x.records)
}

func (c *checker) record(sh *shard, rec handle) {
	m, p := c.mem, int(c.mem.partition(rec))
	c.own(rec, m.size(rec), "record")
	c.expect(c.shard(uint16(p)) == sh, "record %#x is in shard %d", rec, sh.number)
	c.expect(m.state(rec)&stateHeld != 0, "record %#x is indexed with state %#x", rec, m.state(rec))
	got := &c.found[p]
	if m.live(rec) {
		got.count(m, rec, 1)
		c.entries++
	} else {
		got.tombstones++
		c.expect(m.deadline(rec) == 0, "tombstone %#x has a deadline", rec)
	}
}

func (c *checker) partition(p int) {
	pt, got := &c.partitions[p], &c.found[p]
	c.expect(got.entries == pt.entries && got.tombstones == pt.tombstones && got.keyBytes == pt.keyBytes && got.valueBytes == pt.valueBytes,
		"partition %d has %+v, counts %+v", p, *got, *pt)
	c.expect(pt.opened || got.entries+got.tombstones+got.staged == 0, "partition %d is not open and has %+v", p, *got)
	c.expect(got.staged == pt.staged, "partition %d has %d staged versions, counts %d", p, got.staged, pt.staged)
	c.tombstones(p, pt)
}

// tombstones checks that the list of a partition's tombstones is whole and in order.
func (c *checker) tombstones(p int, pt *partition) {
	count, before := 0, none
	for tomb := pt.oldest; tomb != none && count <= pt.tombstones; tomb = handle(c.mem.noteWord(tomb, tombNext)) {
		count++
		c.expect(handle(c.mem.noteWord(tomb, tombPrev)) == before, "tombstone %#x has a wrong predecessor", tomb)
		c.expect(before == none || c.mem.generation(before) <= c.mem.generation(tomb), "tombstone %#x is out of order", tomb)
		before = tomb
	}
	c.expect(count == pt.tombstones && pt.newest == before, "partition %d lists %d tombstones, counts %d", p, count, pt.tombstones)
}

// note checks a staged version, which stands in the order for a key without a value.
func (c *checker) note(sh *shard, note handle) {
	m := c.mem
	id := c.identify(m.partition(note), m.key(note))
	rec, value := sh.index.find(&id), m.noteValue(note)
	c.own(note, m.size(note), "note")
	c.notes[note] = true
	c.found[id.partition].staged++
	c.expect(m.state(note)&(stateVersion-1) == stateHeld, "note %#x has state %#x", note, m.state(note))
	if value != none && value != rec {
		c.own(value, m.size(value), "staged value")
		c.expect(m.state(value)&(stateLive|stateHeld) == stateHeld, "staged value %#x has state %#x", value, m.state(value))
	}
	live := rec != none && m.live(rec)
	if !live {
		c.entries++ // in the order
	}
	if d := m.deadline(note); d != 0 && !(live && m.deadline(rec) == d) {
		c.timed[sh.number]++
	}
}

func (c *checker) queues(sh *shard) {
	if sh.queues.mem == nil {
		return
	}
	for number, f := range map[uint16]*fifo{queueSmall: &sh.queues.small, queueMain: &sh.queues.main} {
		var got fifo
		for rec := f.head; rec != none; rec = c.mem.link(rec, c.mem.links(rec)+linkNext) {
			c.expect(c.owned[rec] > 0 && c.mem.live(rec) && c.mem.queue(rec) == number, "record %#x is in queue %d", rec, number)
			c.expect(c.mem.link(rec, c.mem.links(rec)+linkPrev) == got.tail, "record %#x has a wrong predecessor", rec)
			got.tail = rec
			got.count++
			got.bytes += int64(c.mem.size(rec))
		}
		c.expect(got.tail == f.tail && got.count == f.count && got.bytes == f.bytes, "queue %d has %+v, counts %+v", number, got, *f)
	}
}

func (c *checker) trees() {
	entries := 0
	for i := range c.orders {
		o := &c.orders[i]
		for _, rec := range c.tree(&o.tree) {
			c.expect(&c.orders[c.shard(c.mem.partition(rec)).lane] == o, "record %#x is in order %d", rec, i)
			entries++
		}
	}
	c.expect(entries == c.entries, "%d of %d entries are ordered", entries, c.entries)
	for i := range c.shards {
		sh, want := &c.shards[i], 0
		for b := range sh.index.buckets {
			for rec := sh.index.head(b); rec != none; rec = c.mem.link(rec, recChain) {
				if c.mem.live(rec) && c.mem.deadline(rec) != 0 {
					want++
				}
			}
		}
		for _, rec := range c.tree(&sh.ttl) {
			c.expect(c.mem.deadline(rec) != 0, "record %#x has no deadline", rec)
			want--
		}
		want += c.timed[i]
		c.expect(want == 0, "shard %d: %d deadlines are not ordered", i, want)
	}
}

// tree checks the shape of t and returns its records.
func (c *checker) tree(t *tree) (records []handle) {
	if t.root != none {
		c.node(t, t.root, t.height, &records)
	}
	c.expect(len(records) == t.count, "a tree has %d records, counts %d", len(records), t.count)
	c.expect(len(t.spares) == 0, "a tree keeps %d nodes", len(t.spares))
	for i, rec := range records {
		c.expect(c.owned[rec] > 0 && (c.mem.live(rec) || c.notes[rec]), "record %#x is ordered and has no value", rec)
		c.expect(i == 0 || t.less(records[i-1], rec), "record %#x is out of order", rec)
	}
	return records
}

func (c *checker) node(t *tree, node handle, level int, records *[]handle) {
	c.own(node, nodeBytes, "node")
	c.plain[node] = true
	_, full := widthOf(level)
	count := t.items(node)
	c.expect(count > 0 && count <= full, "node %#x of level %d has %d items", node, level, count)
	for at := range min(count, full) {
		before := len(*records)
		if level == 0 {
			*records = append(*records, t.least(node, 0, at))
			continue
		}
		c.node(t, t.child(node, at), level-1, records)
		c.expect(len(*records) > before && (*records)[before] == t.least(node, level, at), "node %#x has a wrong least record at %d", node, at)
	}
}

// blocks holds every live block against who owns it: an index, a tree, a lease or a reservation.
func (c *checker) blocks() {
	var leased int64
	leases, reservations, named := 0, 0, 0
	classes := make([]laneClass, len(c.mem.classes))
	c.eachBlock(func(h handle, ci int) {
		bytes, owned := c.owned[h]
		if owned {
			named++
		} else {
			bytes = c.mem.size(h)
		}
		if !c.plain[h] {
			state := c.mem.state(h)
			held := int(state & stateLeases / stateLease)
			leases += held
			if held > 0 {
				leased += int64(c.mem.valueBytes(h))
			}
			if !owned && state&stateHeld != 0 {
				reservations++
				c.expect(state&stateLive == 0, "nobody owns record %#x, its state is %#x", h, state)
			}
			c.expect(owned || held > 0 || state&stateHeld != 0, "block %#x is in use, its state is %#x", h, state)
		}
		if ci >= 0 {
			classes[ci].used++
			classes[ci].bytes += int64(bytes)
		}
	})
	c.expect(named == len(c.owned), "%d of %d owned blocks are in use", named, len(c.owned))
	c.expect(reservations == int(c.mem.reservations.Load()), "%d records have no owner, %d reservations", reservations, c.mem.reservations.Load())
	countedLeases, countedBytes := 0, int64(0)
	for i := range c.shards {
		countedLeases += c.shards[i].leases
		countedBytes += c.shards[i].leasedBytes
	}
	c.expect(leases == countedLeases && leased == countedBytes, "%d leases on %d bytes, counted are %d on %d", leases, leased, countedLeases, countedBytes)
	for i := range c.mem.lanes {
		for ci, lc := range c.mem.lanes[i].classes {
			classes[ci].used -= lc.used
			classes[ci].bytes -= lc.bytes
		}
	}
	for ci, d := range classes {
		c.expect(d.used == 0 && d.bytes == 0, "class %d: %d blocks of %d bytes are not counted", ci, d.used, d.bytes)
	}
}

// eachBlock visits the blocks in use; class is -1 for long ones.
func (c *checker) eachBlock(visit func(h handle, class int)) {
	m := c.mem
	for i := 0; i < m.pool.count; i += int(m.pool.page(i).pages) {
		p := *m.pool.page(i)
		switch p.state {
		case pageRun:
			visit(m.slotAt(i, 0, 0), -1)
		case pageSlab:
			shape, free := &m.classes[p.class], map[int]bool{}
			for n := p.freeSlot; n != 0 && len(free) <= shape.slots; n = m.u32(m.slotAt(i, int(n-1), shape.slotBytes), slotLink) {
				free[int(n-1)] = true
			}
			for slot := range int(p.fresh) {
				if !free[slot] {
					visit(m.slotAt(i, slot, shape.slotBytes), int(p.class))
				}
			}
			c.expect(int(p.fresh)-len(free) == int(p.used), "slab %d has %d used slots, counts %d", i, int(p.fresh)-len(free), p.used)
		}
	}
}

// runs checks that free pages are joined, counted and found.
func (c *checker) runs() {
	o, free, listed, wasFree := &c.mem.pool, 0, 0, false
	for i := 0; i < o.count; i += int(o.page(i).pages) {
		p := *o.page(i)
		last := *o.page(i + int(p.pages) - 1)
		c.expect(int(p.first) == i && int(last.first) == i && last.state == p.state, "span at page %d has bad ends", i)
		c.expect(p.state != pageFree || !wasFree, "free run at page %d is not joined", i)
		if wasFree = p.state == pageFree; wasFree {
			free += int(p.pages)
		}
	}
	for b := range o.bins {
		for n := o.bins[b]; n != 0; n = o.page(int(n - 1)).next {
			p := *o.page(int(n - 1))
			c.expect(p.state == pageFree && bits.Len(uint(p.pages)) == b, "bin %d lists page %d", b, n-1)
			listed += int(p.pages)
		}
	}
	c.expect(free == o.freePages && listed == free, "%d pages are free, %d listed, %d counted", free, listed, o.freePages)
}

// partials checks that the slabs with a free slot are those that their lane lists.
func (c *checker) partials() {
	m, want, listed := c.mem, 0, 0
	for i := 0; i < m.pool.count; i += int(m.pool.page(i).pages) {
		if p := *m.pool.page(i); p.state == pageSlab && int(p.used) < m.classes[p.class].slots {
			want++
		}
	}
	for l := range m.lanes {
		for ci := range m.lanes[l].classes {
			for n := m.lanes[l].classes[ci].partial; n != 0; n = m.pool.page(int(n - 1)).next {
				p := *m.pool.page(int(n - 1))
				c.expect(p.state == pageSlab && int(p.class) == ci && int(p.lane) == l && int(p.used) < m.classes[ci].slots, "class %d lists page %d", ci, n-1)
				listed++
			}
		}
	}
	c.expect(want == listed, "%d slabs have a free slot, %d are listed", want, listed)
}
