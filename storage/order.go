package storage

import (
	"bytes"
	"cmp"
	"sync"

	"github.com/tidwall/btree"
)

// Go heap bytes that an entry of a tree, and a page, count for against the arena. A tree node holds 31 to
// 63 handles of 8 bytes, some of them in slack that a split left; TestHeapEstimates measures it.
const (
	treeEntryBytes = 24
	pageEntryBytes = 32
)

// probe stands for a key that need not have a record.
const probe = ^handle(0)

// An order keeps the records that have a value, expired or not, of all partitions by key. Its lock is taken
// inside a shard's lock and is held for one insert or removal, or for a chunk of a listing.
type order struct {
	mem *memory

	mu              sync.Mutex
	tree            *btree.BTreeG[handle]
	wanted          []byte // the key that probe stands for
	wantedPartition int    // and its partition
}

func newOrder(mem *memory) *order {
	o := &order{mem: mem}
	o.tree = btree.NewBTreeGOptions(o.less, btree.Options{NoLocks: true})
	return o
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
	return int(o.mem.u16(rec, recPartition))
}

func (o *order) insert(rec handle) {
	o.mu.Lock()
	o.tree.Set(rec)
	o.mu.Unlock()
}

func (o *order) remove(rec handle) {
	o.mu.Lock()
	o.tree.Delete(rec)
	o.mu.Unlock()
}

// newTTL returns the order of a shard's records that have a deadline, by deadline. The shard's lock guards it.
func newTTL(mem *memory) *btree.BTreeG[handle] {
	return btree.NewBTreeGOptions(func(a, b handle) bool {
		c := cmp.Compare(mem.deadline(a), mem.deadline(b))
		return c < 0 || c == 0 && a < b
	}, btree.Options{NoLocks: true})
}
