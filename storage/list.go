package storage

import "bytes"

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
	merge := newMerge(s, &l)
	count, listedBytes, stopped := 0, 0, false
	for {
		key, p, ok := merge.next()
		if !ok {
			return false
		}
		if l.Include != nil && !l.Include(p) {
			continue
		}
		info, ok := s.stat(p, key, l.Now)
		if !ok {
			continue
		}
		listedBytes += len(key) + EntryBytes
		full := l.Limit > 0 && count == l.Limit || l.BudgetBytes > 0 && count > 0 && listedBytes > l.BudgetBytes
		if stopped || full {
			return true
		}
		stopped = !yield(Entry{Key: key, Partition: p, Info: info})
		count++
	}
}

// stat describes the entry of key. ok is false when there is none, or it expired by now.
func (s *Store) stat(p uint16, key []byte, now int64) (info Info, ok bool) {
	id, sh := s.identify(p, key), s.shard(p)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	rec := sh.index.find(&id)
	if !s.mem.alive(rec, now) {
		return Info{}, false
	}
	return s.mem.info(rec), true
}

// A merge goes through all orders at once.
type merge struct {
	store   *Store
	end     []byte
	cursors []cursor // by order
}

func newMerge(s *Store, l *Listing) *merge {
	c := cursor{key: l.Start}
	if l.After != nil && bytes.Compare(l.After, l.Start) >= 0 {
		c = cursor{key: l.After, partition: partitionMax}
	}
	m := &merge{store: s, end: l.End, cursors: make([]cursor, len(s.orders))}
	for i := range m.cursors {
		m.cursors[i] = c
	}
	return m
}

// next returns the next key and its partition. The key is valid until the call after the next.
func (m *merge) next() (key []byte, p uint16, ok bool) {
	best := -1
	for i := range m.cursors {
		c := &m.cursors[i]
		if len(c.found) == 0 && !c.done {
			m.store.orders[i].read(c, m.end)
		}
		if len(c.found) > 0 && (best < 0 || c.before(&m.cursors[best])) {
			best = i
		}
	}
	if best < 0 {
		return nil, 0, false
	}
	c := &m.cursors[best]
	key, p = c.next(), c.found[0].partition
	c.found = c.found[1:]
	return key, p, true
}

// A cursor is a place in an order, and the keys that were found just before it and not listed yet.
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

func (c *cursor) next() []byte { return c.keys[c.found[0].start:c.found[0].end] }

func (c *cursor) before(o *cursor) bool {
	d := bytes.Compare(c.next(), o.next())
	return d < 0 || d == 0 && c.found[0].partition < o.found[0].partition
}

// read finds the next keys from c on and below end, and moves c behind them.
func (o *order) read(c *cursor, end []byte) {
	from := c.key
	c.keys, c.found, c.done = make([]byte, 0, cap(c.keys)), make([]found, 0, listStepRecords), true
	o.mu.Lock()
	defer o.mu.Unlock()
	o.wanted, o.wantedPartition = from, c.partition
	o.tree.ascend(probe, func(rec handle) bool {
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
		c.found = append(c.found, found{start, len(c.keys), o.mem.partition(rec)})
		return true
	})
	o.wanted = nil
	if n := len(c.found); n > 0 {
		f := c.found[n-1]
		c.key, c.partition = c.keys[f.start:f.end], int(f.partition)+1
	}
}
