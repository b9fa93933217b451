package storage

// A partition is the part of the entries that moves between nodes as one. Its shard's lock guards it.
type partition struct {
	entries    int
	tombstones int
	keyBytes   int64 // of entries
	valueBytes int64
	staged     int // notes

	oldest, newest handle // of the tombstones
	opened         bool   // by Versions
	evictable      bool
	pins           []handle // what Get and Committed have told of since the last Settle, where entries may be evicted
}

// count adds an entry with this record, or with sign -1 takes it away.
func (p *partition) count(m *memory, rec handle, sign int) {
	p.entries += sign
	p.keyBytes += int64(sign * m.keyBytes(rec))
	p.valueBytes += int64(sign * m.valueBytes(rec))
}
