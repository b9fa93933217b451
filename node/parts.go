package node

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/wire"
)

// A phase says which operations a partition takes.
type phase uint8

const (
	serving  phase = iota // all
	frozen                // reads; writes wait: the tail of the partition is on its way to its next owner
	handover              // none: the next owner may serve already, as soon as the table says so
)

// A part is what this node does for one partition.
type part struct {
	// mu is held for reading around each operation and for writing around each change below, so a
	// change waits for the operations under way and none slips in between.
	mu     sync.RWMutex
	epoch  uint32 // of the row by which this node serves the partition; 0: it does not
	phase  phase
	parked []*request // waiting for the phase to end

	// cleaning serialises what empties the partition, so that a late clean-up cannot take entries that
	// arrived after it was ordered. It is taken before mu.
	cleaning sync.Mutex

	// As the source of a move.
	moveID     uint64
	cancelMove context.CancelFunc

	// As its target.
	receiving uint64 // MoveID of the move under way; 0: none
	received  uint64 // MoveID of the last move that was received whole
}

const (
	parkedPerPart = 1024
	parkedTotal   = 16384
)

// blocks reports whether an operation must wait for the phase to end.
func (p *part) blocks(k wire.Kind) bool {
	return p.phase == handover || p.phase == frozen && k != wire.KindGet && k != wire.KindList
}

// park keeps r until the partition's move is decided.
func (n *Node) park(p *part, r *request) {
	r.detach()
	if n.parkedCount.Add(1) > parkedTotal {
		n.parkedCount.Add(-1)
		n.drop(r)
		n.reply(r, failed(fmt.Errorf("%w: %d operations wait for partitions to move", dramnode.ErrBusy, parkedTotal)))
		return
	}
	kept := *r
	p.mu.Lock()
	switch {
	case p.epoch == 0 || !p.blocks(r.h.Kind): // decided while we came
		p.mu.Unlock()
		n.parkedCount.Add(-1)
		n.again(&kept)
	case len(p.parked) >= parkedPerPart:
		p.mu.Unlock()
		n.parkedCount.Add(-1)
		n.drop(&kept)
		n.reply(&kept, failed(fmt.Errorf("%w: %d operations wait for this partition to move", dramnode.ErrBusy, parkedPerPart)))
	default:
		p.parked = append(p.parked, &kept)
		p.mu.Unlock()
	}
}

// unpark routes again what waited. Those whose senders gave up are only answered.
func (n *Node) unpark(waiting []*request) {
	now := time.Now()
	for _, r := range waiting {
		n.parkedCount.Add(-1)
		if !r.until.IsZero() && now.After(r.until) {
			n.drop(r)
			n.reply(r, failed(fmt.Errorf("%w: the partition was moving for longer than the operation could wait", dramnode.ErrUnavailable)))
			continue
		}
		n.again(r)
	}
}

// again serves a request that has waited, from the start.
func (n *Node) again(r *request) {
	switch r.h.Kind {
	case wire.KindList, wire.KindDeleteRange:
		n.later(r, n.serveRange)
	default:
		n.serveKey(r)
	}
}

// takeParkedLocked empties the waiting list.
func (p *part) takeParkedLocked() []*request {
	waiting := p.parked
	p.parked = nil
	return waiting
}
