package storage

import "github.com/dramnode/dramnode"

// Stats describes the memory and what it holds. Its parts are read one after the other, so
// they may disagree by the writes of that moment.
type Stats struct {
	TotalBytes       int64 // the arena
	UsedBytes        int64 // what new slabs and long values cannot have: held pages, and HeapBytes
	FreeBytes        int64 // the rest
	LongestFreeBytes int64 // longest value that fits without breaking up a slab, whatever its key
	RequestedBytes   int64 // asked for by all blocks; the rest of UsedBytes is rounding and free slots
	HeapBytes        int64 // Go heap for the pages' descriptors, for which as much of the arena is never used

	Entries    int // expired ones too, until they are removed
	Tombstones int
	KeyBytes   int64
	ValueBytes int64

	Leases        int
	LeasedBytes   int64 // of values with a lease
	Reservations  int
	ReservedBytes int64

	Evictions    uint64 // entries that made room for others
	EvictedBytes uint64 // of their keys and values

	Classes []ClassStats // that hold memory
	Runs    ClassStats   // blocks with pages of their own; SlotBytes is 0
}

// ClassStats describes the blocks of one size.
type ClassStats struct {
	SlotBytes      int
	HeldBytes      int64
	RequestedBytes int64
	Blocks, Slots  int // Slots counts the free ones too
}

// PartitionStats describes a partition.
type PartitionStats struct {
	Entries    int // expired ones too, until they are removed
	Tombstones int
	KeyBytes   int64
	ValueBytes int64
}

// Used is how much of the arena nothing more can be put into, in percent. Free slots of slabs count as room as long as there are
// pages for slabs of other lengths too. It is cheap while there is much of that.
func (s *Store) Used() int { return s.mem.used() }

// Stats takes every lock, one at a time.
func (s *Store) Stats() Stats {
	st := s.mem.stats()
	for p := range s.partitions {
		ps, _ := s.PartitionStats(uint16(p))
		st.Entries += ps.Entries
		st.Tombstones += ps.Tombstones
		st.KeyBytes += ps.KeyBytes
		st.ValueBytes += ps.ValueBytes
	}
	for i := range s.shards {
		sh := &s.shards[i]
		sh.mu.Lock()
		st.Leases += sh.leases
		st.LeasedBytes += sh.leasedBytes
		st.Evictions += sh.queues.evictions
		st.EvictedBytes += sh.queues.evictedBytes
		sh.mu.Unlock()
	}
	return st
}

// PartitionStats reads counters only.
func (s *Store) PartitionStats(p uint16) (PartitionStats, error) {
	if err := s.checkPartition(p); err != nil {
		return PartitionStats{}, err
	}
	sh, pt := s.shard(p), &s.partitions[p]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return PartitionStats{pt.entries, pt.tombstones, pt.keyBytes, pt.valueBytes}, nil
}

func (m *memory) stats() Stats {
	st := Stats{
		TotalBytes:    int64(len(m.arena)),
		HeapBytes:     int64(m.pool.count) * pageEntryBytes,
		Reservations:  int(m.reservations.Load()),
		ReservedBytes: m.reservedBytes.Load(),
	}
	m.pool.mu.Lock()
	st.FreeBytes = int64(m.pool.freePages) << m.pageShift
	st.LongestFreeBytes = max(0, int64(m.pool.longestLocked())<<m.pageShift-int64(m.sizeOf(dramnode.MaxKeyBytes, 0)))
	st.Runs = ClassStats{
		HeldBytes:      int64(m.pool.runPages) << m.pageShift,
		RequestedBytes: m.pool.runBytes,
		Blocks:         m.pool.runs,
		Slots:          m.pool.runs,
	}
	m.pool.mu.Unlock()
	st.UsedBytes = st.TotalBytes - st.FreeBytes
	st.RequestedBytes = st.Runs.RequestedBytes
	sums := make([]laneClass, len(m.classes))
	for i := range m.lanes {
		m.lanes[i].sum(sums)
	}
	for i, c := range sums {
		shape := &m.classes[i]
		if c.slabs > 0 {
			held := int64(c.slabs*shape.pages) << m.pageShift
			st.Classes = append(st.Classes, ClassStats{shape.slotBytes, held, c.bytes, c.used, c.slabs * shape.slots})
			st.RequestedBytes += c.bytes
		}
	}
	return st
}

func (m *memory) used() int {
	free, count := m.pool.free()
	if free <= count/spareShare {
		return 100
	}
	room := free << m.pageShift
	if free < count/4 {
		sums := make([]laneClass, len(m.classes))
		for i := range m.lanes {
			m.lanes[i].sum(sums)
		}
		for i, c := range sums {
			room += (c.slabs*m.classes[i].slots - c.used) * m.classes[i].slotBytes
		}
	}
	return 100 - 100*room/(count<<m.pageShift)
}

// sum adds the counts of each class.
func (l *lane) sum(sums []laneClass) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.classes {
		c := &l.classes[i]
		sums[i].slabs += c.slabs
		sums[i].used += c.used
		sums[i].bytes += c.bytes
	}
}
