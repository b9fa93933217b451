package dramnode

import (
	"errors"
	"fmt"
)

// Each error is defined once, here, and travels up wrapped by %w and over the wire as a status,
// so errors.Is holds at every layer. They fall in two groups: after ErrUnknownOutcome a write may
// have been applied, or may still be; after any other error of this file nothing has changed.
var (
	// ErrInvalid is returned when an argument is malformed, such as a key of 0 or 4097 bytes.
	ErrInvalid = errors.New("dramnode: invalid argument")

	// ErrNotFound is returned when the key has no value.
	ErrNotFound = errors.New("dramnode: not found")

	// ErrGenerationMismatch is returned when a condition on the key's generation does not hold.
	// The error is then a *GenerationError, which carries the current generation.
	ErrGenerationMismatch = errors.New("dramnode: generation mismatch")

	// ErrOutOfRange is returned when a byte range lies outside the value and clipping was not asked for.
	ErrOutOfRange = errors.New("dramnode: range out of bounds")

	// ErrTooLarge is returned when a value is longer than the cluster's limit.
	ErrTooLarge = errors.New("dramnode: value too large")

	// ErrNoMemory is returned when the owner's memory limit leaves no room for the value.
	ErrNoMemory = errors.New("dramnode: no memory")

	// ErrBusy is returned when a queue on the way is full.
	ErrBusy = errors.New("dramnode: busy")

	// ErrUnavailable is returned when the operation was certainly not applied because its owner
	// cannot be reached or does not serve; it may be retried.
	ErrUnavailable = errors.New("dramnode: unavailable")

	// ErrUnknownOutcome is returned when a write may have been applied, or may still be. Nodes remember writes, so
	// after a lost answer the client asks again, and the error is left for when time ran out (the deadline,
	// the context, or 30 s) and for when the partition, and with it the record, was lost meanwhile.
	ErrUnknownOutcome = errors.New("dramnode: outcome unknown")

	// ErrNoQuorum is returned when this side of a partition is, or may be, the minority: nothing was done, and the client
	// has tried until its deadline.
	ErrNoQuorum = errors.New("dramnode: no quorum")

	// ErrDegraded is returned when fewer copies are in sync than the operation requires.
	ErrDegraded = errors.New("dramnode: degraded")

	// ErrPartitionLost is returned when all copies of the key's partition were lost and the loss is not accepted yet.
	ErrPartitionLost = errors.New("dramnode: partition lost")

	// ErrClusterConflict is returned when two clusters, or two tables of one version, claim the same members.
	ErrClusterConflict = errors.New("dramnode: cluster conflict")

	// ErrNotAuthorised is returned when a peer does not prove that it knows the cluster key.
	ErrNotAuthorised = errors.New("dramnode: not authorised")

	// ErrCorrupt is returned when bytes do not match their checksum.
	ErrCorrupt = errors.New("dramnode: checksum mismatch")

	// ErrClosed is returned when the client, node or transport was closed.
	ErrClosed = errors.New("dramnode: closed")
)

// A Generation is one version of one key: opaque, strictly increasing per key, and never used
// again, also not after the key was deleted and written anew. Absent (0) stands for no value.
type Generation uint64

// Absent is the generation of a key that has no value.
const Absent Generation = 0

// A GenerationError is an ErrGenerationMismatch with the key's current generation.
type GenerationError struct{ Current Generation }

func (e *GenerationError) Error() string {
	if e.Current == Absent {
		return ErrGenerationMismatch.Error() + ": the key has no value"
	}
	return fmt.Sprintf("%v: current is %d", ErrGenerationMismatch, e.Current)
}

// Is reports whether target is ErrGenerationMismatch.
func (e *GenerationError) Is(target error) bool { return target == ErrGenerationMismatch }

// Limits that hold for every cluster.
const (
	MaxKeyBytes          = 4096
	DefaultMaxValueBytes = 64 << 20
)

// CheckKey reports an ErrInvalid that names the fault when key cannot be a key.
func CheckKey(key []byte) error {
	if len(key) == 0 {
		return fmt.Errorf("%w: the key is empty, want 1 to %d bytes", ErrInvalid, MaxKeyBytes)
	}
	if len(key) > MaxKeyBytes {
		return fmt.Errorf("%w: the key has %d bytes, want 1 to %d", ErrInvalid, len(key), MaxKeyBytes)
	}
	return nil
}
