// Package storetest holds what every replica.Store must do, and test doubles of values for the stores there are.
package storetest

import (
	"encoding/binary"
	"fmt"

	"github.com/dramnode/dramnode/replica"
	"github.com/dramnode/dramnode/replica/arena"
	"github.com/dramnode/dramnode/replica/memstore"
	"github.com/dramnode/dramnode/storage"
)

// A Subject is a Store whose values stand for numbers.
type Subject interface {
	replica.Store

	// New makes a blob that stands for value, of so many bytes, 8 or more, for a key of keyBytes. It is the
	// caller's until a version has it. ok is false when there is no room.
	New(keyBytes int, value int, bytes uint32) (b replica.Blob, ok bool)

	// Lend makes a blob that is lent.
	Lend(value int, bytes uint32) replica.Blob

	// Value returns what b stands for; 0 for the empty value. It panics when b was freed, if that can be told.
	Value(b replica.Blob) int

	// Settle ends a step.
	Settle()

	// Blobs counts the blobs that were not freed and Used those that versions have. In one that is shared they may
	// count it twice, both of them.
	Blobs() int
	Used() int
	Tombstones() int

	// Check reports what does not agree within the store.
	Check() error
}

// Mem returns a memstore that scans in an order of its own.
func Mem(salt uint64) Subject { return mem{&memstore.Store{Salt: salt}} }

type mem struct{ *memstore.Store }

func (m mem) New(_, value int, _ uint32) (replica.Blob, bool) { return m.Store.New(value), true }
func (m mem) Lend(value int, _ uint32) replica.Blob           { return m.Store.New(value) }

func (m mem) Check() error { return nil }

// Arena returns a partition of a new store with so many bytes.
func Arena(arenaBytes int) Subject {
	s, err := storage.New(storage.Config{Arena: make([]byte, arenaBytes), Partitions: 1})
	if err != nil {
		panic(err)
	}
	return ArenaOf(s, 0)
}

// ArenaOf returns a partition of s, in which nothing else may be reserved or leased.
func ArenaOf(s *storage.Store, p uint16) Subject {
	of, err := arena.Open(s, p)
	if err != nil {
		panic(err)
	}
	return offHeap{of, s}
}

type offHeap struct {
	arena.Store
	storage *storage.Store
}

func (o offHeap) New(keyBytes, value int, bytes uint32) (replica.Blob, bool) {
	r, err := o.Reserve(keyBytes, int(bytes), true)
	if err != nil {
		return 0, false
	}
	fill(r.Bytes, value)
	return replica.Blob(r.Token()), true
}

func (o offHeap) Lend(value int, bytes uint32) replica.Blob {
	b := make([]byte, bytes)
	fill(b, value)
	return replica.Blob(o.Store.Lend(b))
}

// fill repeats value.
func fill(b []byte, value int) {
	for i := range b {
		b[i] = byte(value >> (8 * (i % 8)))
	}
}

func (o offHeap) Value(b replica.Blob) int {
	if b == 0 {
		return 0
	}
	stored := o.Bytes(uint64(b))
	value := int(binary.LittleEndian.Uint64(stored))
	for i := range stored {
		if stored[i] != byte(value>>(8*(i%8))) {
			panic(fmt.Sprintf("storetest: the bytes of blob %#x are of several values: % x", b, stored))
		}
	}
	return value
}

func (o offHeap) Used() int {
	st := o.Stats()
	return st.Entries + st.Staged
}

func (o offHeap) Blobs() int {
	st := o.storage.Stats()
	return o.Used() + st.Reservations + st.Leases
}

func (o offHeap) Tombstones() int { return o.Stats().Tombstones }
func (o offHeap) Check() error    { return o.storage.Check() }
