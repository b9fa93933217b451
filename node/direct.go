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

// share gets memory that processes of this host may read by themselves, as long as publishLocked and vouch say so.
func (n *Node) share(c *storage.Config) error {
	sharer, ok := n.network.(transport.Sharer)
	if !ok {
		return fmt.Errorf("%w: direct reads over a network that cannot share memory", dramnode.ErrInvalid)
	}
	arena, err := sharer.Share(transport.ShareConfig{Bytes: int(n.cfg.MemoryBytes), Partitions: n.cfg.Settings.Count(), Clock: func() int64 { return int64(n.boot()) }})
	if err != nil {
		return err
	}
	n.shared, n.regions = arena, append(n.regions, arena)
	c.Arena, c.Words = arena.Bytes(), arena.Words()
	return nil
}

// publishLocked tells who reads our memory in which epoch this node is the partition's primary, if it is. It comes before
// anything that follows from a step, such as a message by which another node may serve, so readers know first.
func (rs *replicas) publishLocked(part *replicaPart) {
	if rs.n.shared == nil {
		return
	}
	epoch := uint32(0)
	if part.engine.Active() && !rs.retired.Load() {
		epoch = uint32(part.engine.Row().Epoch)
	}
	if epoch != part.published {
		part.published = epoch
		rs.n.shared.SetPartition(part.number, epoch, epoch != 0)
	}
}

// vouch says again and again that what the memory holds is current: for a moment, and not beyond this node's lease.
func (n *Node) vouch(ctx context.Context) {
	if n.shared == nil {
		return
	}
	ticker := time.NewTicker(vouchInterval)
	defer ticker.Stop()
	for {
		now := n.shared.Now() // first: whatever stops us after it makes the term shorter, not longer
		if left := n.plane.member.Until() - n.boot(); left > 0 {
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
		n.fail(r, fmt.Errorf("%w: this node's memory is not open to direct reads", dramnode.ErrNotFound))
		return
	}
	n.reply(r, &answer{body: transport.Body{Bytes: n.shared.Ticket()}})
}
