package client

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/control"
	"github.com/dramnode/dramnode/ring"
	"github.com/dramnode/dramnode/transport"
	"github.com/dramnode/dramnode/wire"
)

// Info asks the node at addr about itself.
func (c *Client) Info(ctx context.Context, addr string) (info control.NodeInfo, err error) {
	p, err := c.peers.dial(addr)
	if err != nil {
		return info, err
	}
	err = c.ask(ctx, p, wire.KindInfo, nil, &info)
	return info, err
}

// AcceptLosses acknowledges, as an operator, all losses of partitions so far, and returns of how many. Where lost
// partitions wait for that, they start again, empty.
func (c *Client) AcceptLosses(ctx context.Context) (partitions int, err error) {
	p := c.peers.other(nil)
	if p == nil {
		return 0, c.nobody(nil)
	}
	err = c.ask(ctx, p, wire.KindAccept, nil, &partitions)
	return partitions, err
}

// Recover tells the node at addr, as an operator, that these nodes are dead, which have so many of the voters that the others cannot go on,
// and has it found the control plane anew with the others. ErrInvalid: it is no such case, and nothing was done.
func (c *Client) Recover(ctx context.Context, addr string, dead []string) (r control.Recovery, err error) {
	p, err := c.peers.dial(addr)
	if err != nil {
		return r, err
	}
	names, err := json.Marshal(dead)
	if err != nil {
		return r, fmt.Errorf("%w: names: %w", dramnode.ErrInvalid, err)
	}
	err = c.ask(ctx, p, wire.KindRecover, names, &r)
	return r, err
}

// ask sends p a question about the cluster, and decodes what it answers in JSON.
func (c *Client) ask(ctx context.Context, p *peer, kind wire.Kind, body []byte, answer any) error {
	o := op{kind: kind, to: p, body: body, deadline: c.deadline(ctx)}
	defer o.end(c)
	if err := c.do(ctx, &o); err != nil {
		return err
	}
	if err := json.Unmarshal(o.call.reply.body, answer); err != nil {
		return fmt.Errorf("client: the answer of %s: %w: %w", p.addr, dramnode.ErrCorrupt, err)
	}
	return nil
}

// A Node is one member of the cluster.
type Node struct {
	control.Member
	Owned  int              // partitions by the client's table
	Copies int              // partitions of which it has a copy in sync, those too, by the client's table
	Info   control.NodeInfo // what the node says of itself
	Err    error            // why it said nothing
}

// Nodes asks every member about itself. A node that does not answer is listed with its error.
func (c *Client) Nodes(ctx context.Context) []Node {
	t := c.Table()
	owned, copies := t.Owned(), t.Copies()
	nodes := make([]Node, len(t.Members))
	var wg sync.WaitGroup
	for i := range nodes {
		nodes[i] = Node{Member: t.Members[i], Owned: owned[i], Copies: copies[i]}
		wg.Go(func() { nodes[i].Info, nodes[i].Err = c.Info(ctx, nodes[i].Addr) })
	}
	wg.Wait()
	return nodes
}

// A Location says who has a key.
type Location struct {
	Partition ring.Partition
	Row       control.Row
	Owner     control.Member
	Backups   []control.Member // answer gets too
	MovesTo   *control.Member  // nil when the partition is not on the move
}

// Locate looks a key up in the client's table. It asks nobody.
func (c *Client) Locate(key []byte) (Location, error) {
	if err := dramnode.CheckKey(key); err != nil {
		return Location{}, err
	}
	v := c.view.Load()
	l := Location{Partition: v.ring.Partition(key)}
	l.Row = v.table.Rows[l.Partition]
	l.Owner = v.table.Members[l.Row.Owner]
	for _, b := range l.Row.Backups {
		if b != control.None {
			l.Backups = append(l.Backups, v.table.Members[b])
		}
	}
	if l.Row.MoveTo != control.None {
		to := v.table.Members[l.Row.MoveTo]
		l.MovesTo = &to
	}
	return l, nil
}

// Refresh fetches the table anew from any node that is reached.
func (c *Client) Refresh(ctx context.Context) error {
	p := c.peers.other(nil)
	if p == nil {
		return c.nobody(nil)
	}
	return c.fetch(ctx, p, c.deadline(ctx))
}

// Links describes the links that are in use, by address.
func (c *Client) Links() []transport.LinkInfo {
	var infos []transport.LinkInfo
	for _, p := range c.peers.all() {
		infos = append(infos, p.link.Info())
	}
	return infos
}
