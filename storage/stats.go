package storage

import "github.com/dramnode/dramnode"

// Stats describes the memory and what it holds. Its parts are read one after the other, so
// they may disagree by the writes of that moment.
type Stats struct {
	TotalBytes       int64 // the arena
	UsedBytes        int64 // what new blocks cannot have: side table, held pages, and HeapBytes
	FreeBytes        int64 // the rest
	LongestFreeBytes int64 // longest value that fits without breaking up a slab
	RequestedBytes   int64 // payload asked for by all blocks; the rest of UsedBytes is overhead
	HeapBytes        int64 // Go heap that counts against the arena (an estimate)

	Entries    int // expired ones too, until Expire
	Tombstones int
	KeyBytes   int64
	ValueBytes int64

	Leases        int
	LeasedBytes   int64 // of values with a lease
	Reservations  int
	ReservedBytes int64

	Classes []ClassStats // that hold memory
	Runs    ClassStats   // blocks with pages of their own; PayloadBytes is 0
}

// ClassStats describes the blocks of one size.
type ClassStats struct {
	PayloadBytes   int
	HeldBytes      int64
	RequestedBytes int64
	Blocks, Slots  int // Slots counts the free ones too
}

// PartitionStats describes a partition.
type PartitionStats struct {
	Entries    int // expired ones too, until Expire
	Tombstones int
	KeyBytes   int64
	ValueBytes int64
	Last       dramnode.Generation // highest ever given out or applied
}

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
	return PartitionStats{pt.entries, pt.tombstones, pt.keyBytes, pt.valueBytes, pt.last}, nil
}

func (m *memory) stats() Stats {
	m.mu.Lock()
	defer m.mu.Unlock()
	st := Stats{
		TotalBytes:     int64(len(m.arena)),
		FreeBytes:      max(0, int64(m.freePages)<<m.pageShift-m.heapBytes),
		RequestedBytes: m.usedBytes,
		HeapBytes:      m.heapBytes,
		Reservations:   int(m.reservations.Load()),
		ReservedBytes:  m.reservedBytes.Load(),
		Runs: ClassStats{
			HeldBytes:      int64(m.runPages) << m.pageShift,
			RequestedBytes: m.runBytes,
			Blocks:         m.runs,
			Slots:          m.runs,
		},
	}
	st.UsedBytes = st.TotalBytes - st.FreeBytes
	allowed := max(0, m.freePages-m.chargedPages(m.heapBytes))
	st.LongestFreeBytes = int64(min(m.longestRunLocked(), allowed)) << m.pageShift
	for i := range m.classes {
		c := &m.classes[i]
		if c.slabs > 0 {
			held := int64(c.slabs*c.pages) << m.pageShift
			st.Classes = append(st.Classes, ClassStats{c.payloadBytes, held, c.requestedBytes, c.used, c.slabs * c.slots})
		}
	}
	return st
}

func (m *memory) longestRunLocked() (pages int) {
	for b := binsMax - 1; b >= 0 && pages == 0; b-- {
		for n := m.bins[b]; n != 0; n = m.pages[n-1].next {
			pages = max(pages, int(m.pages[n-1].pages))
		}
	}
	return pages
}
