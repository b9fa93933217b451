package storage

// DropPartition frees every entry and tombstone that p has when it is called, leased values at their last
// release, and returns how many. It holds the lock in short steps. The generations of p go on where they were.
func (s *Store) DropPartition(p uint16) (records int, err error) {
	if err := s.checkPartition(p); err != nil {
		return 0, err
	}
	sh, pt := s.shard(p), &s.partitions[p]
	sh.mu.Lock()
	last := pt.last
	sh.mu.Unlock()
	return s.purge(p, func() bool { return pt.entries+pt.tombstones > 0 }, func(rec handle) bool { return s.mem.generation(rec) <= last }), nil
}

// purge removes the records of p that match, as long as wanted says that there are any. It holds the lock in short
// steps; both functions run under it.
func (s *Store) purge(p uint16, wanted func() bool, match func(rec handle) bool) (removed int) {
	sh := s.shard(p)
	sh.mu.Lock()
	if !wanted() {
		sh.mu.Unlock()
		return 0
	}
	sh.index.scans++
	sh.mu.Unlock()
	for bucket, done := 0, false; !done; {
		sh.mu.Lock()
		bucket, done = sh.index.step(bucket, func(rec handle) {
			if s.mem.partition(rec) == p && wanted() && match(rec) {
				s.removeLocked(sh, rec, sh.index.hashOf(rec))
				removed++
			}
		})
		done = done || !wanted()
		sh.mu.Unlock()
	}
	sh.mu.Lock()
	sh.index.scans--
	sh.mu.Unlock()
	s.shrinkIndex(sh)
	return removed
}

// shrinkIndex makes up for the joins that purge put off.
func (s *Store) shrinkIndex(sh *shard) {
	for more := true; more; {
		sh.mu.Lock()
		more = sh.index.shrink(stepRecords)
		sh.mu.Unlock()
	}
}
