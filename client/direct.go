package client

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/transport"
	"github.com/dramnode/dramnode/wire"
)

// direct reads values where their owners keep them, in the memory of nodes on this host. It is a short cut that may
// always be refused: then the owner is asked. What a read needs to be right it finds in that memory
// (transport.SharedView); what the client remembers only says where to look.
type direct struct {
	sharer transport.Sharer
	places *places
	counts [countStripes]directCounts
}

// directCounts are counted apart for different keys, so that processors do not wait for each other.
type directCounts struct {
	outcomes [transport.SharedOutcomes]atomic.Uint64
	unknown  atomic.Uint64
	corrupt  atomic.Uint64
	_        [64]byte
}

const (
	countStripes  = 16
	shareInterval = 100 * time.Millisecond
)

// A share is one node's memory.
type share struct {
	view transport.SharedView
}

// DirectStats counts the reads of whole values with Config.Direct. Reads with options are not counted.
type DirectStats struct {
	Hits      uint64            // read from the owner's memory
	Fallbacks map[string]uint64 // the owner was asked, by reason
	Refused   map[string]error  // by address: why a node's memory is not read
}

// DirectStats returns what was counted so far.
func (c *Client) DirectStats() DirectStats {
	s := DirectStats{Fallbacks: map[string]uint64{}, Refused: map[string]error{}}
	add := func(reason string, n *atomic.Uint64) {
		if v := n.Load(); v > 0 {
			s.Fallbacks[reason] += v
		}
	}
	if c.direct == nil {
		return s
	}
	for i := range c.direct.counts {
		counts := &c.direct.counts[i]
		s.Hits += counts.outcomes[transport.SharedRead].Load()
		for o := transport.SharedRead + 1; o < transport.SharedOutcomes; o++ {
			add(o.String(), &counts.outcomes[o])
		}
		add("unknown place", &counts.unknown)
		add("corrupt", &counts.corrupt)
	}
	for _, p := range c.peers.all() {
		if err := p.shareErr.Load(); err != nil {
			s.Refused[p.addr] = *err
		}
	}
	return s
}

// read reads the value of key into memory that room returns for so many bytes; nil stands for no room. ok is false when the
// owner must be asked; the memory may hold anything then.
func (d *direct) read(key []byte, verify bool, room func(bytes int) []byte) (v Value, ok bool) {
	p := d.places.find(key)
	counts := &d.counts[key[len(key)-1]%countStripes]
	if p == nil {
		counts.unknown.Add(1)
		return Value{}, false
	}
	var dst []byte
	found, outcome := transport.SharedValue{}, transport.SharedTooLong
	if p.bytes > transport.CopyBytes { // memory is dear: is there something to read at all?
		found, outcome = p.share.view.Read(p.at, key, nil)
	}
	if outcome == transport.SharedTooLong {
		if dst = room(p.bytes); dst != nil || p.bytes == 0 {
			found, outcome = p.share.view.Read(p.at, key, dst)
		}
	}
	if outcome != transport.SharedRead {
		counts.outcomes[outcome].Add(1)
		if outcome == transport.SharedStale || outcome == transport.SharedOwnerGone {
			d.places.forget(key, p)
		}
		return Value{}, false
	}
	dst = dst[:found.Bytes]
	if verify && wire.Checksum(dst) != found.CRC {
		counts.corrupt.Add(1) // the owner's answer will tell
		return Value{}, false
	}
	counts.outcomes[transport.SharedRead].Add(1)
	return Value{Bytes: dst, Meta: Meta{Generation: dramnode.Generation(p.at.Generation), Size: int64(found.Bytes), TTL: found.Life}}, true
}

// readDirect is a read without options; room as in direct.read.
func (c *Client) readDirect(ctx context.Context, key []byte, opts []Option, room func(bytes int) []byte) (Value, bool) {
	if c.direct == nil || len(opts) > 0 || len(key) == 0 || ctx.Err() != nil {
		return Value{}, false
	}
	return c.direct.read(key, !c.cfg.NoVerify, room)
}

func newBytes(n int) []byte { return make([]byte, n) }

// flags of a request: the owner is asked for the record's place when there is a use for it.
func (d *direct) flags(kind wire.Kind, to route) uint16 {
	if d == nil || to.epoch == 0 || to.relay || to.to.share.Load() == nil {
		return 0
	}
	if kind == wire.KindGet || kind == wire.KindPut {
		return wire.FlagPlace
	}
	return 0
}

// learn remembers the place in the reply to o.
func (d *direct) learn(o *op) {
	r := &o.call.reply
	s := o.sent.to.share.Load()
	if s == nil || r.ext.Place == 0 {
		return
	}
	bytes := int(r.ext.Size)
	if o.kind == wire.KindPut {
		bytes = o.bodyBytes()
	}
	d.places.put(o.key, &place{bytes: bytes, share: s, at: transport.Place{
		At: r.ext.Place, Generation: uint64(r.ext.Generation), Epoch: r.header.Epoch, Partition: uint16(o.view.ring.Partition(o.key)),
	}})
}

// bodyBytes is the length of what a put writes.
func (o *op) bodyBytes() int {
	if o.large != nil {
		return len(o.large.bytes)
	}
	return len(o.body)
}

// keepShares maps the memory of nodes that let us, and gives it back when they have ended.
func (c *Client) keepShares(ctx context.Context) {
	ticker := time.NewTicker(shareInterval)
	defer ticker.Stop()
	for {
		for _, p := range c.peers.all() {
			p.dropDeadShare()
			if info := p.link.Info(); info.State == transport.LinkOpen && p.asked != info.Peer.Incarnation && c.mapShare(ctx, p) {
				p.asked = info.Peer.Incarnation
			}
		}
		select {
		case <-ctx.Done():
			for _, p := range c.peers.all() {
				p.dropShare()
			}
			return
		case <-ticker.C:
		}
	}
}

// mapShare reports whether p has said what there is to know.
func (c *Client) mapShare(ctx context.Context, p *peer) bool {
	o := op{kind: wire.KindShare, to: p, deadline: time.Now().Add(tableTimeout)}
	c.start(&o)
	defer o.end(c)
	if c.await(ctx, &o) != stepDone {
		p.shareErr.Store(&o.err)
		return errors.Is(o.err, dramnode.ErrNotFound) || errors.Is(o.err, dramnode.ErrInvalid)
	}
	view, err := c.direct.sharer.OpenShare(o.call.reply.body)
	if err != nil {
		p.shareErr.Store(&err)
		return true
	}
	p.shareErr.Store(nil)
	c.peers.share(p, &share{view})
	return true
}

func (p *peer) dropDeadShare() {
	if s := p.share.Load(); s != nil && !s.view.Alive() {
		p.dropShare()
	}
}

func (p *peer) dropShare() {
	if s := p.share.Swap(nil); s != nil {
		s.view.Close()
	}
}
