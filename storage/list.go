package storage

import (
	"bytes"
	"slices"
)

const (
	listStepRecords = 64 // keys that are copied under one hold of the order's lock

	// EntryBytes is what a listed entry counts for beside its key.
	EntryBytes = 32
)

// A Listing asks for entries in order of key. Its slices are the caller's.
type Listing struct {
	Start, End []byte // Start <= key < End; nil is open
	After      []byte // key > After; nil: no such bound

	Limit       int // entries; 0: no limit
	BudgetBytes int // of keys, and EntryBytes for each; 0: no limit. One entry always fits

	Include func(p uint16) bool // which partitions; nil: all
	Now     int64
}

// An Entry is a listed entry. Key is valid until yield returns.
type Entry struct {
	Key       []byte
	Partition uint16
	Info
}

// List calls yield for the entries that l asks for, until it returns false. more says that List stopped early, at a limit
// or because of yield, and that there is another entry. An entry that is there all the time is listed; one that is
// written or deleted meanwhile may be. No lock is held while Include and yield run.
func (s *Store) List(l Listing, yield func(Entry) bool) (more bool) {
	c := cursor{key: l.Start}
	if l.After != nil && bytes.Compare(l.After, l.Start) >= 0 {
		c = cursor{key: l.After, partition: partitionMax}
	}
	count, listedBytes, stopped := 0, 0, false
	for !c.done {
		s.order.read(&c, l.End)
		for _, f := range c.found {
			if l.Include != nil && !l.Include(f.partition) {
				continue
			}
			key := c.keys[f.start:f.end]
			info, ok := s.Stat(f.partition, key, l.Now)
			if !ok {
				continue
			}
			listedBytes += len(key) + EntryBytes
			full := l.Limit > 0 && count == l.Limit || l.BudgetBytes > 0 && count > 0 && listedBytes > l.BudgetBytes
			if stopped || full {
				return true
			}
			stopped = !yield(Entry{Key: key, Partition: f.partition, Info: info})
			count++
		}
	}
	return false
}

// A cursor is a place in the order, and the keys that were found just before it.
type cursor struct {
	key       []byte
	partition int
	done      bool

	keys  []byte
	found []found
}

type found struct {
	start, end int // of the key in cursor.keys
	partition  uint16
}

// read finds the next keys from c on and below end, and moves c behind them.
func (o *order) read(c *cursor, end []byte) {
	from := c.key
	c.keys, c.found, c.done = make([]byte, 0, cap(c.keys)), slices.Grow(c.found[:0], listStepRecords), true
	o.mu.Lock()
	defer o.mu.Unlock()
	o.wanted, o.wantedPartition = from, c.partition
	o.tree.Ascend(probe, func(rec handle) bool {
		key := o.mem.key(rec)
		if end != nil && bytes.Compare(key, end) >= 0 {
			return false
		}
		if len(c.found) == listStepRecords {
			c.done = false
			return false
		}
		start := len(c.keys)
		c.keys = append(c.keys, key...)
		c.found = append(c.found, found{start, len(c.keys), uint16(o.partition(rec))})
		return true
	})
	o.wanted = nil
	if n := len(c.found); n > 0 {
		f := c.found[n-1]
		c.key, c.partition = c.keys[f.start:f.end], int(f.partition)+1
	}
}
