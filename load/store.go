package load

import "context"

// A Store is what is measured. Any number of goroutines use one at once. Keys and values are the
// caller's, which leaves them unchanged until the operation has ended.
type Store interface {
	// Get returns the length of the value. It may use dst, which is long enough, to read it into.
	Get(ctx context.Context, key, dst []byte) (int, error)
	Put(ctx context.Context, key, value []byte) error
	// StartGet and StartPut return as soon as the operation is under way.
	StartGet(ctx context.Context, key []byte) Pending
	StartPut(ctx context.Context, key, value []byte) Pending
	// GetAll fills in the length of each value, and the error, of keys[i].
	GetAll(ctx context.Context, keys [][]byte, lengths []int, errs []error)
	// PutAll puts value under each key.
	PutAll(ctx context.Context, keys [][]byte, value []byte, errs []error)
	// Scan lists up to n keys that start with prefix, from key on, and returns how many there were.
	Scan(ctx context.Context, prefix, key []byte, n int) (int, error)
	// Clear deletes all keys that start with prefix.
	Clear(ctx context.Context, prefix []byte) error
}

// Pending is an operation under way. Wait is called once; it returns the length of what was read.
type Pending interface{ Wait() (int, error) }
