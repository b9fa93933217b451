// Package lease says when a node may serve, and when nobody else may still believe that it does.
//
// A Holder is the node's side, Grants the leader's. The node counts its lease from when it sent the
// renewal, the leader from when it received it, and a little longer: the node always stops first, however
// long a message took and whatever the clocks show, as long as their rates differ by no more than Drift.
// A lease comes only with the table: who has one has applied every change that was decided before.
//
// All times are readings of one machine's CLOCK_BOOTTIME, which goes on while the machine is suspended;
// they are never compared with another machine's. Nothing here reads a clock.
package lease

import (
	"time"

	"github.com/dramnode/dramnode/control/state"
	"github.com/dramnode/dramnode/internal/rule"
)

// Timing is the same at all nodes of a cluster.
type Timing struct {
	Length time.Duration // of a lease
	Renew  time.Duration // between renewals
	Batch  time.Duration // that the leader collects renewals before it asks the voters
	Drift  float64       // by which fraction the rates of two clocks may differ
	Margin time.Duration // on top, for what a clock reading costs
}

// DefaultTiming is that of the product.
func DefaultTiming() Timing {
	return Timing{Length: time.Second, Renew: 200 * time.Millisecond, Batch: 25 * time.Millisecond, Drift: 0.01, Margin: 50 * time.Millisecond}
}

// Hold is how long after the receipt of a renewal the leader takes its lease for valid.
func (t Timing) Hold() time.Duration {
	if rule.Off(rule.DriftAllowed) {
		return t.Length
	}
	return t.Length + time.Duration(float64(t.Length)*t.Drift) + t.Margin
}

// A Renewal asks for a lease.
type Renewal struct {
	Node    state.Incarnation
	Era     uint32        // of the table that the node has
	Applied uint64        // its version
	Sent    time.Duration // the node's clock
}

// A Grant is the answer, with what is new in the table.
type Grant struct {
	Era    uint32
	Sent   time.Duration // as in the renewal
	Length time.Duration
	Table  []byte // for State.Merge
}
