package node

import (
	"context"
	"fmt"
	"time"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/storage"
	"github.com/dramnode/dramnode/transport"
)

const (
	vouchFor      = 250 * time.Millisecond // a stopped node's memory is read for at most this long
	vouchInterval = 40 * time.Millisecond
)

// share gets memory that processes of this host may read by themselves, as long as becomeLocked and vouch say so.
func (n *Node) share(c *storage.Config) error {
	sharer, ok := n.network.(transport.Sharer)
	if !ok {
		return fmt.Errorf("%w: direct reads over a network that cannot share memory", dramnode.ErrInvalid)
	}
	arena, err := sharer.Share(transport.ShareConfig{Bytes: int(n.cfg.MemoryBytes), Partitions: len(n.parts), Clock: n.now})
	if err != nil {
		return err
	}
	n.shared, n.regions = arena, append(n.regions, arena)
	c.Arena, c.Words = arena.Bytes(), arena.Words()
	return nil
}

// becomeLocked changes the epoch by which partition p is served here, 0 for not, and the phase. Who reads our memory
// is told before anybody can act on the change: part.mu is held for writing, and what follows from it, such as
// asking the publisher to commit a move, or dropping the entries, comes after.
func (n *Node) becomeLocked(p uint16, epoch uint32, ph phase) {
	part := &n.parts[p]
	part.epoch, part.phase = epoch, ph
	if n.shared != nil {
		n.shared.SetPartition(p, epoch, epoch != 0 && ph != handover)
	}
}

// vouch says again and again that what the memory holds is current: for a moment, and not for longer than this node
// may take itself for the owner without hearing from the others.
func (n *Node) vouch(ctx context.Context) {
	if n.shared == nil {
		return
	}
	ticker := time.NewTicker(vouchInterval)
	defer ticker.Stop()
	for {
		now := n.shared.Now() // first: whatever stops us after it makes the term shorter, not longer
		if left := time.Until(n.plane.QuorateUntil()); left > 0 {
			n.shared.Renew(now + int64(min(left, vouchFor)))
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// serveShare tells a process of this host how to map our memory. Only who has the cluster's key gets to ask, and the
// kernel lets only our own user do it.
func (n *Node) serveShare(r *request) {
	if n.shared == nil {
		n.reply(r, failed(fmt.Errorf("%w: this node's memory is not open to direct reads", dramnode.ErrNotFound)))
		return
	}
	n.reply(r, answer{body: transport.Body{Bytes: n.shared.Ticket()}})
}
