package transport

import (
	"fmt"
	"sync/atomic"
	"time"
)

// A Sharer is a Network that lets other processes of this host read a region by themselves, without
// asking the process that owns it.
type Sharer interface {
	// Share is Alloc for such a region. Nothing in it is valid before the first Renew.
	Share(c ShareConfig) (SharedRegion, error)

	// OpenShare maps the region that a ticket stands for, read-only. It fails with dramnode.ErrUnavailable
	// when the owner is on another host, and with dramnode.ErrNotAuthorised when it is another user's.
	OpenShare(ticket []byte) (SharedView, error)
}

// ShareConfig describes a SharedRegion.
type ShareConfig struct {
	Bytes      int
	Partitions int

	// Clock is the clock of the records' expiry, in nanoseconds. It must not run ahead of CLOCK_BOOTTIME.
	Clock func() int64
}

// A SharedRegion is the owner's side. What its methods publish is seen by a reader that looks after they
// returned; every reader looks again after it has read.
type SharedRegion interface {
	Region

	// Words is the same memory as Bytes, to be written where readers look while it changes.
	Words() []atomic.Uint64

	// Ticket is what a process of this host opens the region with. It is opaque to all but the network.
	Ticket() []byte

	// SetPartition says by which epoch a partition's records may be read; serving false: they may not.
	SetPartition(partition uint16, epoch uint32, serving bool)

	// Renew lets the region be read until an instant of Now's clock, unless SetPartition says otherwise earlier.
	Renew(until int64)

	// Now is CLOCK_BOOTTIME in nanoseconds, which all processes of a host share and which goes on while the
	// machine is suspended.
	Now() int64
}

// A SharedView is the reader's side.
type SharedView interface {
	// Read copies the value of key to dst if p still is the place of its record. Unless the outcome is
	// SharedRead it says why the caller must ask the owner. No allocation, no lock, no system call.
	Read(p Place, key, dst []byte) (SharedValue, SharedOutcome)

	// Alive reports whether the owner's process lives and has the region open.
	Alive() bool

	// Close gives the owner's memory back. A Read under way, or a later one, finds the owner gone.
	Close()
}

// A Place is where the owner keeps the record of a key, as it said in a reply.
type Place struct {
	At         uint64 // from the region's start; a multiple of 8
	Generation uint64
	Epoch      uint32
	Partition  uint16
}

// A SharedValue is what Read found. With SharedTooLong only Bytes is set.
type SharedValue struct {
	Bytes int
	CRC   uint32
	Life  time.Duration // what is left; 0: for ever
}

// A SharedOutcome says how a Read ended.
type SharedOutcome uint8

const (
	SharedRead       SharedOutcome = iota
	SharedStale                    // the record is not there any more: overwritten, deleted, or moved
	SharedExpired                  // its time to live is over
	SharedNotServing               // the partition is changing hands, or has changed
	SharedNotValid                 // the owner has not renewed: it stands still, or is cut off
	SharedOwnerGone                // the owner has ended; it never comes back
	SharedTooLong                  // dst is too short
	SharedOutcomes
)

// String returns the reason, in words for counters.
func (o SharedOutcome) String() string {
	if o >= SharedOutcomes {
		return fmt.Sprintf("outcome %d", uint8(o))
	}
	return [...]string{"read", "stale", "expired", "not serving", "not valid", "owner gone", "too long"}[o]
}
