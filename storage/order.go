package storage

import (
	"bytes"
	"sync"
)

// probe stands for a key that need not have a record.
const probe = ^handle(0)

// An order keeps the records of one lane's shards that have a value, expired or not, by key. Its lock is taken
// inside a shard's lock and is held for one insert or removal, or for a chunk of a listing. A listing merges the orders.
type order struct {
	mem *memory

	mu              sync.Mutex
	tree            tree
	wanted          []byte // the key that probe stands for
	wantedPartition int    // and its partition
}

func (o *order) init(mem *memory, lane int) {
	o.mem = mem
	o.tree = tree{mem: mem, lane: lane, less: o.less}
}

// less reads only what never changes while a record is in the tree.
func (o *order) less(a, b handle) bool {
	c := bytes.Compare(o.key(a), o.key(b))
	return c < 0 || c == 0 && o.partition(a) < o.partition(b)
}

func (o *order) key(rec handle) []byte {
	if rec == probe {
		return o.wanted
	}
	return o.mem.key(rec)
}

func (o *order) partition(rec handle) int {
	if rec == probe {
		return o.wantedPartition
	}
	return int(o.mem.partition(rec))
}

// put adds rec, or puts it in the place of the same key's record, which needs no memory.
func (o *order) put(rec handle) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.tree.put(rec)
}

func (o *order) remove(rec handle) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.tree.delete(rec)
}

// earlier orders the records of a shard that have a deadline. Those of one key with one deadline are equal, so that the
// one takes the other's place without memory.
func (m *memory) earlier(a, b handle) bool {
	if x, y := m.deadline(a), m.deadline(b); x != y {
		return x < y
	}
	c := bytes.Compare(m.key(a), m.key(b))
	return c < 0 || c == 0 && m.partition(a) < m.partition(b)
}
