package replica

import "github.com/dramnode/dramnode"

// A Blob is a handle to the bytes of a value at this node; the engine never looks at them. 0 is the empty value.
type Blob uint64

// A Value is an immutable value. Whoever is handed a Value frees its blob or hands it on.
type Value struct {
	Blob  Blob
	Bytes uint32
	CRC   uint32
}

// A Version is one version of a key; the zero Version is none.
type Version struct {
	Gen      dramnode.Generation
	Value    Value
	Deadline int64 // nanoseconds of the local clock; 0: never
	Deleted  bool  // a tombstone, or a delete that is pending
}

// Alive reports whether v is a value, expired or not.
func (v *Version) Alive() bool { return v.Gen != 0 && !v.Deleted }

// expired reports whether v is a value whose deadline has passed.
func (v *Version) expired(now int64) bool { return v.Alive() && v.Deadline != 0 && v.Deadline <= now }

// A Pending is a version that is not committed yet, with the write it came from.
type Pending struct {
	Version
	Origin Origin
}

// A Cursor is a place in the order in which a Store scans; 0 is its beginning. It means nothing to another Store.
type Cursor uint64

// A Store keeps the entries of one partition: per key a committed version and beside it at most one pending one.
// It copies the keys it keeps. It owns the blobs it was given and frees them when their version goes, at the last
// reader's release, and not before the effects of the step are done with: a step may send, or answer with, a value that
// it then replaces. A blob may also be lent: its bytes are the caller's and valid until the step's effects are done with.
type Store interface {
	// Get returns both versions of key. The committed one may be a tombstone.
	Get(key []byte) (committed Version, pending Pending)

	// Committed returns only the committed version.
	Committed(key []byte) Version

	// Write makes v the committed version of key, which has no pending one: Prepare and Commit in one, but a delete leaves no tombstone. over is
	// the blob of the committed version, as Committed has told in this step, so that nobody has to look for it again. That
	// blob may not come again as the one of v. A lent one is copied, perhaps over the committed value, which this step must not send
	// or answer with. An error, dramnode.ErrNoMemory, changes nothing and leaves the blob.
	Write(key []byte, over Blob, v Pending) error

	// Keep returns what is to be used in place of v's blob: the same, or a copy of one that is lent, which only Write and Free take.
	// An error, dramnode.ErrNoMemory, changes nothing.
	Keep(key []byte, v Value) (Blob, error)

	// Prepare makes v the pending version of key, in place of what was pending. The committed value's own blob may
	// come again: then both versions share it. An error, dramnode.ErrNoMemory, changes nothing and leaves the blob.
	Prepare(key []byte, v Pending) error

	// Commit makes the pending version of key the committed one; it needs no memory. A delete leaves a tombstone.
	Commit(key []byte)

	// Apply makes v, with a blob of its own, the committed version of key and leaves what is pending. The zero Version
	// removes the committed one. After an error nothing has changed and the blob is still the caller's.
	Apply(key []byte, v Version) error

	// Forget drops the pending version of key, if there is one.
	Forget(key []byte)

	// Scan calls visit for keys with a committed version, tombstones too, in an order of the store's own, and returns
	// where the next call goes on, 0 at the end. It visits about limit keys, in places more, and fewer or none where it
	// had to look at too many others. A key that has a committed version all the time from the first call to the last is visited
	// at least once. visit must not use the store, nor keep key.
	Scan(from Cursor, limit int, visit func(key []byte, committed Version, pending Pending)) (next Cursor)

	// List calls visit for keys with a committed value from start on and before end (nil: no bound), in order of keys,
	// at most limit of them, and returns the key from which the next call goes on, nil when there is none. It may
	// stop early, like Scan. visit must not use the store, nor keep key.
	List(start, end []byte, limit int, visit func(key []byte, committed Version)) (next []byte)

	// Pendings calls visit for each key with a pending version, in order of keys. visit may change that key.
	Pendings(visit func(key []byte, committed Version, pending Pending))

	// DropTombstones forgets the tombstones below gen.
	DropTombstones(gen dramnode.Generation)

	// Expired calls visit for keys whose committed value's deadline is at most now, the longest overdue first,
	// until it returns false. visit must not use the store, nor keep key.
	Expired(now int64, visit func(key []byte) bool)

	// Free gives up a blob that no version has; 0 is fine.
	Free(Blob)

	// Clear forgets everything.
	Clear()
}
