package storage

// Expire frees at most budget entries whose deadline has come by now, and returns how many.
//
// It goes on with the shard after the one where the last call ended. Partitions with Versions are left alone, and
// whatever else is in a shard with them: a store has all of its partitions so, or none.
func (s *Store) Expire(now int64, budget int) (expired int) {
	for range s.shards {
		sh := &s.shards[int(s.expireAt.Add(1))%len(s.shards)]
		for expired < budget {
			step := min(budget-expired, stepRecords)
			n := s.expireSome(sh, now, step)
			expired += n
			if n < step {
				break
			}
		}
		if expired >= budget {
			break
		}
	}
	return expired
}

func (s *Store) expireSome(sh *shard, now int64, budget int) (expired int) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	for expired < budget {
		rec := sh.ttl.first()
		if rec == none || s.mem.deadline(rec) > now || s.partitions[s.mem.partition(rec)].replicated {
			break
		}
		s.removeLocked(sh, rec, sh.index.hashOf(rec))
		expired++
	}
	return expired
}
