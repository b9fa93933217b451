package client

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/control"
	"github.com/dramnode/dramnode/ring"
	"github.com/dramnode/dramnode/transport"
	"github.com/dramnode/dramnode/wire"
)

const (
	tableTimeout = time.Second            // of one attempt to fetch the table
	tablePause   = 100 * time.Millisecond // between two tables that nobody waits for
)

// keep fetches a newer table when somebody noticed that ours is old, at a limited rate.
func (c *Client) keep(ctx context.Context) {
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.stale:
		}
		select {
		case <-ctx.Done():
			return
		case <-pause.C:
		}
		if p := c.peers.other(nil); p != nil && c.view.Load() != nil {
			// Whoever needs the table learns by itself that it is still old.
			_ = c.fetch(ctx, p, time.Now().Add(tableTimeout))
		}
		pause.Reset(tablePause)
	}
}

func (c *Client) noteStale() {
	select {
	case c.stale <- struct{}{}:
	default:
	}
}

// refresh fetches the table of from unless a fetch under way meanwhile brought version or newer.
func (c *Client) refresh(ctx context.Context, from *peer, before *view, deadline time.Time) error {
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	select {
	case c.fetching <- struct{}{}:
		defer func() { <-c.fetching }()
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return context.DeadlineExceeded
	}
	if c.view.Load() != before {
		return nil
	}
	return c.fetch(ctx, from, earlier(deadline, time.Now().Add(tableTimeout)))
}

// fetch asks one node for its table, once.
func (c *Client) fetch(ctx context.Context, from *peer, deadline time.Time) error {
	o := op{kind: wire.KindTable, to: from, deadline: deadline}
	c.start(&o)
	defer o.end(c)
	if c.await(ctx, &o) != stepDone {
		return o.err
	}
	t, err := control.ParseTable(o.call.reply.body)
	if err != nil {
		return fmt.Errorf("client: the table of %s: %w: %w", from.addr, dramnode.ErrCorrupt, err)
	}
	return c.install(t)
}

// install makes t the current table if it is newer. Tables never get older, so that a write is never sent again for an earlier epoch:
// there a failure may be reported which the copy that waits in a later epoch knows nothing of (docs/consistency-mutations.md).
func (c *Client) install(t *control.Table) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.view.Load()
	if old != nil {
		if old.table.ClusterID == t.ClusterID && t.Version <= old.table.Version {
			return nil
		}
		if old.table.ClusterID != t.ClusterID && c.alive(old.table) {
			return fmt.Errorf("client: %w: a table of cluster %x came to a client of %x", dramnode.ErrClusterConflict, t.ClusterID, old.table.ClusterID)
		}
	}
	v := &view{table: t, members: make([]atomic.Pointer[peer], len(t.Members))}
	if old != nil && old.table.Settings.Digest() == t.Settings.Digest() {
		v.ring = old.ring
	} else {
		m, err := ring.New(t.Settings)
		if err != nil {
			return fmt.Errorf("client: %w", err)
		}
		v.ring = m
	}
	c.view.Store(v)
	c.peers.prune(t)
	return nil
}

// alive reports whether a process of t is reached. A cluster of which none is may have been started
// anew, under another id.
func (c *Client) alive(t *control.Table) bool {
	for _, p := range c.peers.all() {
		info := p.link.Info()
		if info.State == transport.LinkOpen && t.Index(info.Peer.Incarnation) != control.None {
			return true
		}
	}
	return false
}

// isMember reports whether the process behind p is in the table: if not, the table is from an earlier
// life of the cluster.
func (p *peer) isMember(t *control.Table) bool {
	return t.Index(p.link.Info().Peer.Incarnation) != control.None
}
