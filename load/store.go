package load

import "context"

// A Store is what is measured. Any number of goroutines use one at once. Keys and values are the
// caller's, which leaves them unchanged until the operation has ended.
type Store interface {
	// Get returns the length of the value. It may use dst, which is long enough, to read it into.
	Get(ctx context.Context, key, dst []byte) (int, error)
	Put(ctx context.Context, key, value []byte) error
	// NewSlot returns a slot whose operations end with a call of done, on any goroutine, which must not
	// block and may start the slot's next operation.
	NewSlot(done func(n int, err error)) Slot
	// GetAll fills in the length of each value, and the error, of keys[i].
	GetAll(ctx context.Context, keys [][]byte, lengths []int, errs []error)
	// PutAll puts value under each key.
	PutAll(ctx context.Context, keys [][]byte, value []byte, errs []error)
	// Scan lists up to n keys that start with prefix, from key on, and returns how many there were.
	Scan(ctx context.Context, prefix, key []byte, n int) (int, error)
	// Clear deletes all keys that start with prefix.
	Clear(ctx context.Context, prefix []byte) error
}

// A Slot starts operations without waiting for them, one at a time. After an error nothing was started,
// and done does not run.
type Slot interface {
	Get(ctx context.Context, key []byte) error
	Put(ctx context.Context, key, value []byte) error
}
