// Package arena keeps a partition's entries in package storage: it translates between replica.Store and
// storage.Versions, whose memory and locks they are.
package arena

import (
	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/replica"
	"github.com/dramnode/dramnode/storage"
)

// A Store is a replica.Store. Reserve, Lend, Bytes, Lease and Settle of its Versions are for whoever steps the
// partition: a value that arrives lands in a reservation, whose Token is the blob that the engine is given, or is lent.
type Store struct{ *storage.Versions }

// Open opens the partition p of s, which must be empty, for good.
func Open(s *storage.Store, p uint16) (Store, error) {
	v, err := s.Versions(p)
	return Store{v}, err
}

// version translates what the store has.
func version(v *storage.Version) replica.Version {
	return replica.Version{
		Gen: v.Generation, Deadline: v.Deadline, Deleted: v.Deleted,
		Value: replica.Value{Blob: replica.Blob(v.Blob), Bytes: uint32(v.ValueBytes), CRC: v.CRC},
	}
}

func pending(s *storage.Staged) replica.Pending {
	return replica.Pending{Version: version(&s.Version), Origin: replica.Origin{Client: s.Tag[0], Counter: s.Tag[1], FirstUnacked: s.Tag[2]}}
}

// stored translates what the engine has. The length of a value is its blob's.
func stored(v *replica.Version) storage.Version {
	return storage.Version{
		Info:    storage.Info{Generation: v.Gen, CRC: v.Value.CRC, Deadline: v.Deadline},
		Blob:    uint64(v.Value.Blob),
		Deleted: v.Deleted,
	}
}

// Get implements replica.Store.
func (s Store) Get(key []byte) (replica.Version, replica.Pending) {
	committed, staged := s.Versions.Get(key)
	return version(&committed), pending(&staged)
}

// Committed implements replica.Store.
func (s Store) Committed(key []byte) replica.Version {
	committed := s.Versions.Committed(key)
	return version(&committed)
}

// Write implements replica.Store.
func (s Store) Write(key []byte, over replica.Blob, v replica.Pending) error {
	return s.Versions.Write(key, uint64(over), stored(&v.Version))
}

// Keep implements replica.Store.
func (s Store) Keep(key []byte, v replica.Value) (replica.Blob, error) {
	blob, err := s.Versions.Keep(len(key), uint64(v.Blob))
	return replica.Blob(blob), err
}

// Prepare implements replica.Store.
func (s Store) Prepare(key []byte, v replica.Pending) error {
	return s.Stage(key, storage.Staged{
		Version: stored(&v.Version),
		Tag:     storage.Tag{v.Origin.Client, v.Origin.Counter, v.Origin.FirstUnacked},
	})
}

// Apply implements replica.Store.
func (s Store) Apply(key []byte, v replica.Version) error {
	return s.Versions.Apply(key, stored(&v))
}

// Scan implements replica.Store.
func (s Store) Scan(from replica.Cursor, limit int, visit func([]byte, replica.Version, replica.Pending)) (next replica.Cursor) {
	return replica.Cursor(s.Versions.Scan(uint64(from), limit, func(key []byte, committed storage.Version, staged storage.Staged) {
		visit(key, version(&committed), pending(&staged))
	}))
}

// List implements replica.Store.
func (s Store) List(start, end []byte, limit int, visit func([]byte, replica.Version)) (next []byte) {
	return s.Versions.List(start, end, limit, func(key []byte, committed storage.Version) { visit(key, version(&committed)) })
}

// Pendings implements replica.Store.
func (s Store) Pendings(visit func([]byte, replica.Version, replica.Pending)) {
	s.EachStaged(func(key []byte, committed storage.Version, staged storage.Staged) {
		visit(key, version(&committed), pending(&staged))
	})
}

// DropTombstones implements replica.Store.
func (s Store) DropTombstones(gen dramnode.Generation) { s.Versions.DropTombstones(gen) }

// Free implements replica.Store.
func (s Store) Free(b replica.Blob) { s.Versions.Free(uint64(b)) }
