package ucxnet

import (
	"fmt"
	"sync/atomic"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/transport"
	"github.com/dramnode/dramnode/wire"
)

// A requestConn is the network's side of the request that the handler is looking at. There is one per
// poller, since there is one such request at a time.
type requestConn struct {
	p        *poller
	ep       *endpoint // nil outside of Place and Serve
	id       uint64
	answered bool // replied to or detached
}

func (c *requestConn) begin(ep *endpoint, id uint64) { c.ep, c.id, c.answered = ep, id, false }

func (c *requestConn) end() {
	c.ep = nil
	r := &c.p.req
	r.Peer, r.Header, r.Body, r.Err = nil, nil, nil, nil
}

// Reply implements transport.RequestConn.
func (c *requestConn) Reply(_ *transport.Request, header []byte, body transport.Body) {
	if c.ep == nil || c.answered {
		c.p.stats.BadReplies++
		body.Release()
		return
	}
	c.answered = true
	c.p.reply(c.ep, c.id, header, body)
}

// Detach implements transport.RequestConn.
func (c *requestConn) Detach(*transport.Request) transport.Responder {
	r := &responder{n: c.p.n, ep: c.ep, id: c.id}
	if c.ep == nil || c.answered {
		r.used.Store(true)
	}
	c.answered = true
	return r
}

// reply sends a reply, or drops it when the peer has gone.
func (p *poller) reply(ep *endpoint, id uint64, header []byte, body transport.Body) {
	if ep.state != epOpen {
		p.stats.LostReplies++
		body.Release()
		return
	}
	if err := checkReply(p.n, header, body); err != nil {
		p.stats.BadReplies++
		p.log.Error().Err(err).Msg("the handler's reply cannot be sent")
		body.Release()
		return
	}
	if p.sendFrame(ep, &wire.Frame{ID: id, Kind: wire.FrameReply, Header: header}, body) != nil {
		p.pumpBulk(ep)
		if ep.bulk.len() > p.n.limits.QueuedBulk {
			p.closeEndpoint(ep, "slow reader", errSlow)
		}
	}
}

func checkReply(n *Network, header []byte, body transport.Body) error {
	if len(header) > transport.MaxHeaderBytes {
		return fmt.Errorf("%w: header of %d bytes, want at most %d", dramnode.ErrInvalid, len(header), transport.MaxHeaderBytes)
	}
	return n.checkBody(body.Bytes)
}

// A responder answers a detached request. It is small and never reused: a second Respond must find it
// used, however late.
type responder struct {
	n    *Network
	ep   *endpoint // for the poller; nobody else looks inside
	id   uint64
	used atomic.Bool
}

// An answer carries a reply to the poller.
type answer struct {
	node   transport.Call
	ep     *endpoint
	id     uint64
	header []byte // copied
	body   transport.Body
}

// Respond implements transport.Responder.
func (r *responder) Respond(header []byte, body transport.Body) error {
	if !r.used.CompareAndSwap(false, true) {
		body.Release()
		return fmt.Errorf("%w: the request was answered already", dramnode.ErrInvalid)
	}
	if err := checkReply(r.n, header, body); err != nil {
		body.Release()
		return err
	}
	a := r.n.answers.Get().(*answer)
	a.ep, a.id, a.body = r.ep, r.id, body
	a.header = append(a.header[:0], header...)
	a.node.Transport.Link = a
	r.n.inbox.push(&a.node, &a.node)
	return nil
}

func (p *poller) sendAnswer(a *answer) {
	p.reply(a.ep, a.id, a.header, a.body)
	*a = answer{header: a.header[:0]}
	p.n.answers.Put(a)
}
