package storage

import "github.com/dramnode/dramnode"

// A partition is the part of the entries that moves between nodes as one. Its shard's lock guards it.
type partition struct {
	last dramnode.Generation // highest ever given out or applied; survives everything

	entries    int
	tombstones int
	keyBytes   int64 // of entries
	valueBytes int64

	// With Versions.
	replicated     bool
	staged         int    // notes
	oldest, newest handle // of the tombstones
	evictable      bool
	pins           []handle // what Get and Committed have told of since the last Settle, where entries may be evicted
}

// next returns the generation of the next write.
func (p *partition) next(epoch uint32) dramnode.Generation {
	return max(p.last+1, dramnode.Generation(epoch)<<32|1)
}

// wrote notes the generation of a version that is in the index now, or was deleted.
func (p *partition) wrote(g dramnode.Generation) { p.last = max(p.last, g) }

// count adds an entry with this record, or with sign -1 takes it away.
func (p *partition) count(m *memory, rec handle, sign int) {
	p.entries += sign
	p.keyBytes += int64(sign * m.keyBytes(rec))
	p.valueBytes += int64(sign * m.valueBytes(rec))
}
