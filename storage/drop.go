package storage

// purge removes the entries and tombstones of p, which has no staged version, leased values at their last release. It
// holds the lock in short steps.
func (s *Store) purge(p uint16) {
	sh, pt := s.shard(p), &s.partitions[p]
	some := func() bool { return pt.entries+pt.tombstones > 0 }
	sh.mu.Lock()
	if !some() {
		sh.mu.Unlock()
		return
	}
	sh.index.scans++
	sh.mu.Unlock()
	for bucket, done := 0, false; !done; {
		sh.mu.Lock()
		bucket, done = sh.index.step(bucket, func(rec handle) {
			if s.mem.partition(rec) == p {
				s.removeLocked(sh, rec, sh.index.hashOf(rec))
			}
		})
		done = done || !some()
		sh.mu.Unlock()
	}
	sh.mu.Lock()
	sh.index.scans--
	sh.mu.Unlock()
	s.shrinkIndex(sh)
}

// shrinkIndex makes up for the joins that purge put off.
func (s *Store) shrinkIndex(sh *shard) {
	for more := true; more; {
		sh.mu.Lock()
		more = sh.index.shrink(stepRecords)
		sh.mu.Unlock()
	}
}
