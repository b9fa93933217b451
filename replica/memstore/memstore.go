// Package memstore is the reference implementation of replica.Store: sorted slices on the heap, for tests and
// simulations. It counts what it holds, so that a test sees a blob that is lost or freed twice.
package memstore

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/replica"
)

// A Store holds one partition. Its blobs stand for the integers given to New.
type Store struct {
	entries []entry // ascending by key
	blobs   map[replica.Blob]*blob
	last    replica.Blob
	freed   []replica.Blob // in the present step

	// Full makes Prepare and Apply fail for values, as a store without memory does.
	Full bool

	// Salt makes the order of Scan another one.
	Salt uint64
}

type entry struct {
	key       []byte
	committed replica.Version
	pending   replica.Pending
}

// A blob counts the versions that have it; 0 is one that the engine still holds.
type blob struct {
	value int
	refs  int
	freed bool
}

// New makes a blob of value, which belongs to the caller until a version has it.
func (s *Store) New(value int) replica.Blob {
	if s.blobs == nil {
		s.blobs = map[replica.Blob]*blob{}
	}
	s.last++
	s.blobs[s.last] = &blob{value: value}
	return s.last
}

// Value returns what b stands for; 0 is the empty value.
func (s *Store) Value(b replica.Blob) int {
	if b == 0 {
		return 0
	}
	return s.must(b).value
}

// Blobs counts the blobs that were not freed.
func (s *Store) Blobs() int { return len(s.blobs) - len(s.freed) }

// Used counts the blobs that versions have.
func (s *Store) Used() int {
	used := map[replica.Blob]bool{}
	for i := range s.entries {
		used[s.entries[i].committed.Value.Blob] = true
		used[s.entries[i].pending.Value.Blob] = true
	}
	delete(used, 0)
	return len(used)
}

// Tombstones counts the committed deletes that are kept.
func (s *Store) Tombstones() (n int) {
	for i := range s.entries {
		if s.entries[i].committed.Deleted {
			n++
		}
	}
	return n
}

// Write implements replica.Store.
func (s *Store) Write(key []byte, _ replica.Blob, v replica.Pending) error {
	if v.Deleted {
		return s.Apply(key, replica.Version{})
	}
	return s.Apply(key, v.Version)
}

// Keep implements replica.Store: no blob is lent.
func (s *Store) Keep(_ []byte, v replica.Value) (replica.Blob, error) { return v.Blob, nil }

func (s *Store) must(b replica.Blob) *blob {
	found := s.blobs[b]
	if found == nil {
		panic(fmt.Sprintf("memstore: blob %d was freed", b))
	}
	return found
}

func (s *Store) take(b replica.Blob) {
	if b == 0 {
		return
	}
	found := s.must(b)
	if found.freed {
		panic(fmt.Sprintf("memstore: blob %d is used after it was freed", b))
	}
	found.refs++
}

func (s *Store) drop(b replica.Blob) {
	if b == 0 {
		return
	}
	found := s.must(b)
	if found.freed {
		panic(fmt.Sprintf("memstore: blob %d is freed twice", b))
	}
	if found.refs > 1 {
		found.refs--
		return
	}
	found.freed = true
	s.freed = append(s.freed, b)
}

// Settle ends a step whose effects are done: what it freed can no longer be read.
func (s *Store) Settle() {
	for _, b := range s.freed {
		delete(s.blobs, b)
	}
	s.freed = s.freed[:0]
}

// Free implements replica.Store.
func (s *Store) Free(b replica.Blob) {
	if b != 0 && s.must(b).refs > 0 {
		panic(fmt.Sprintf("memstore: blob %d is freed while a version has it", b))
	}
	s.drop(b)
}

func (s *Store) find(key []byte) (int, bool) {
	return slices.BinarySearchFunc(s.entries, key, func(e entry, k []byte) int { return bytes.Compare(e.key, k) })
}

// at returns the entry of key, a new one if there is none.
func (s *Store) at(key []byte) *entry {
	i, ok := s.find(key)
	if !ok {
		s.entries = slices.Insert(s.entries, i, entry{key: bytes.Clone(key)})
	}
	return &s.entries[i]
}

// tidy removes the entry of key if it has no version.
func (s *Store) tidy(key []byte) {
	if i, ok := s.find(key); ok && s.entries[i].committed.Gen == 0 && s.entries[i].pending.Gen == 0 {
		s.entries = slices.Delete(s.entries, i, i+1)
	}
}

// Get implements replica.Store.
func (s *Store) Get(key []byte) (replica.Version, replica.Pending) {
	if i, ok := s.find(key); ok {
		return s.entries[i].committed, s.entries[i].pending
	}
	return replica.Version{}, replica.Pending{}
}

// Committed implements replica.Store.
func (s *Store) Committed(key []byte) replica.Version {
	committed, _ := s.Get(key)
	return committed
}

// Prepare implements replica.Store.
func (s *Store) Prepare(key []byte, v replica.Pending) error {
	if s.Full && !v.Deleted {
		return fmt.Errorf("memstore: %w", dramnode.ErrNoMemory)
	}
	e := s.at(key)
	s.take(v.Value.Blob)
	s.drop(e.pending.Value.Blob)
	e.pending = v
	return nil
}

// Commit implements replica.Store.
func (s *Store) Commit(key []byte) {
	i, ok := s.find(key)
	if !ok || s.entries[i].pending.Gen == 0 {
		panic(fmt.Sprintf("memstore: nothing is pending under %q", key))
	}
	e := &s.entries[i]
	s.drop(e.committed.Value.Blob)
	e.committed, e.pending = e.pending.Version, replica.Pending{}
}

// Apply implements replica.Store.
func (s *Store) Apply(key []byte, v replica.Version) error {
	if s.Full && v.Alive() {
		return fmt.Errorf("memstore: %w", dramnode.ErrNoMemory)
	}
	e := s.at(key)
	s.take(v.Value.Blob)
	s.drop(e.committed.Value.Blob)
	e.committed = v
	s.tidy(key)
	return nil
}

// Forget implements replica.Store.
func (s *Store) Forget(key []byte) {
	if i, ok := s.find(key); ok {
		s.drop(s.entries[i].pending.Value.Blob)
		s.entries[i].pending = replica.Pending{}
		s.tidy(key)
	}
}

// Scan implements replica.Store: in order of a hash of the key, which differs from store to store.
func (s *Store) Scan(from replica.Cursor, limit int, visit func([]byte, replica.Version, replica.Pending)) (next replica.Cursor) {
	byPlace := map[replica.Cursor][]*entry{}
	var places []replica.Cursor
	for i := range s.entries {
		if e := &s.entries[i]; e.committed.Gen != 0 && s.place(e.key) >= from {
			at := s.place(e.key)
			byPlace[at] = append(byPlace[at], e)
			places = append(places, at)
		}
	}
	slices.Sort(places)
	visited := 0
	for _, at := range slices.Compact(places) {
		if visited >= limit {
			return at
		}
		visited += len(byPlace[at])
		for _, e := range byPlace[at] {
			visit(e.key, e.committed, e.pending)
		}
	}
	return 0
}

// place is where key is visited. There are few places, so that keys share them.
func (s *Store) place(key []byte) replica.Cursor {
	hash := s.Salt
	for _, c := range key {
		hash = (hash ^ uint64(c)) * 1099511628211
	}
	return replica.Cursor(hash & 0x3ff)
}

// List implements replica.Store.
func (s *Store) List(start, end []byte, limit int, visit func([]byte, replica.Version)) (next []byte) {
	i, _ := s.find(start)
	for ; i < len(s.entries); i++ {
		e := &s.entries[i]
		switch {
		case end != nil && bytes.Compare(e.key, end) >= 0:
			return nil
		case !e.committed.Alive():
			continue
		case limit == 0:
			return bytes.Clone(e.key)
		}
		limit--
		visit(e.key, e.committed)
	}
	return nil
}

// Pendings implements replica.Store.
func (s *Store) Pendings(visit func([]byte, replica.Version, replica.Pending)) {
	for i := 0; i < len(s.entries); i++ {
		e := s.entries[i]
		if e.pending.Gen == 0 {
			continue
		}
		visit(e.key, e.committed, e.pending)
		if i < len(s.entries) && !bytes.Equal(s.entries[i].key, e.key) {
			i-- // visit removed the entry
		}
	}
}

// DropTombstones implements replica.Store.
func (s *Store) DropTombstones(gen dramnode.Generation) {
	kept := s.entries[:0]
	for i := range s.entries {
		e := s.entries[i]
		if e.committed.Deleted && e.committed.Gen < gen {
			e.committed = replica.Version{}
		}
		if e.committed.Gen != 0 || e.pending.Gen != 0 {
			kept = append(kept, e)
		}
	}
	clear(s.entries[len(kept):])
	s.entries = kept
}

// Expired implements replica.Store.
func (s *Store) Expired(now int64, visit func([]byte) bool) {
	var due []entry
	for i := range s.entries {
		if e := &s.entries[i]; e.committed.Alive() && e.committed.Deadline != 0 && e.committed.Deadline <= now {
			due = append(due, *e)
		}
	}
	slices.SortStableFunc(due, func(a, b entry) int { return int(a.committed.Deadline - b.committed.Deadline) })
	for i := range due {
		if !visit(due[i].key) {
			return
		}
	}
}

// Clear implements replica.Store.
func (s *Store) Clear() {
	for i := range s.entries {
		s.drop(s.entries[i].committed.Value.Blob)
		s.drop(s.entries[i].pending.Value.Blob)
	}
	s.entries = nil
}
