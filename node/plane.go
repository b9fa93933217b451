package node

import (
	"context"
	"time"

	"github.com/dramnode/dramnode/control"
	"github.com/dramnode/dramnode/wire"
)

// A plane decides who owns what: control.Publisher where each partition has one copy, memberPlane where it
// has several.
type plane interface {
	// Run keeps the table current until ctx ends, or until this process must not go on under its
	// identity; then it returns control.ErrRetired or the reason why joining was refused.
	Run(ctx context.Context) error

	// Table returns the newest table known here, nil before the first.
	Table() *control.Table

	// Leave asks for our partitions to be given to others. It was heard when the table says that we are
	// leaving, and Run ends when it is done; asking again does no harm.
	Leave(ctx context.Context) error

	// Serve answers a control request of a peer. The reply is valid until the next table.
	Serve(kind wire.Kind, body []byte) (reply []byte, err error)

	// Hint says that a peer has seen table version v.
	Hint(v uint64)

	// Quorate reports whether this process may serve: others could not have taken its place. QuorateAt is
	// that for those who have just read the clock, and QuorateUntil the instant up to which it holds
	// whatever happens.
	Quorate() bool
	QuorateAt(now time.Time) bool
	QuorateUntil() time.Time

	// Events returns what an operator would want to know, oldest first.
	Events() []control.Event

	// Conflicts counts what came from other clusters, or from members that claim what is not theirs.
	Conflicts() uint64
}
