package ucxnet

/*
#include "shim.h"
*/
import "C"

import (
	"errors"
	"fmt"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/transport"
	"github.com/dramnode/dramnode/wire"
)

// onMessage handles one active message. A rendezvous descriptor that nobody took is released.
func (p *poller) onMessage(r *rail, e *C.dn_event) {
	p.stats.MessagesIn++
	ep := r.endpoints[e.ep]
	if ep == nil || ep.state >= epRefusing {
		if ep == nil {
			p.stats.Orphans++
		}
	} else {
		ep.heard = p.now
		if err := p.onContent(ep, e); err != nil {
			p.closeEndpoint(ep, reasonOf(err), err)
		}
	}
	if e.flags&C.DN_RNDV_DESC != 0 {
		r.command(C.DN_RELEASE).ep = e.data
	}
}

func reasonOf(err error) string {
	for _, r := range []struct {
		err    error
		reason string
	}{
		{wire.ErrChecksum, "checksum"}, {wire.ErrCluster, "cluster"}, {wire.ErrVersion, "version"},
		{wire.ErrMalformed, "malformed"}, {errProtocol, "protocol"}, {dramnode.ErrNotAuthorised, "handshake"},
	} {
		if errors.Is(err, r.err) {
			return r.reason
		}
	}
	return "other"
}

// onContent parses a message. Its error closes the endpoint.
func (p *poller) onContent(ep *endpoint, e *C.dn_event) error {
	rendezvous := e.flags&C.DN_RNDV_DESC != 0
	if e.am == C.DN_AM_SEPARATE {
		return p.onSeparate(ep, e)
	}
	if rendezvous || e.head_len != 0 {
		return fmt.Errorf("%w: a message of kind %d with a header or by rendezvous", errProtocol, e.am)
	}
	data := cBytes(e.data, int(e.len))
	if e.am == C.DN_AM_HELLO {
		return p.onHello(ep, data)
	}
	m, err := wire.ReadMessage(data, ep.handshake.mine.cluster, -1)
	if err != nil {
		return err
	}
	var f wire.Frame
	for ep.state < epRefusing {
		ok, err := m.Next(&f)
		if err != nil {
			return err
		}
		if !ok {
			return nil
		}
		if err := p.onFrame(ep, &f); err != nil {
			return err
		}
	}
	return nil // closed by what one of its frames caused
}

func (p *poller) onFrame(ep *endpoint, f *wire.Frame) error {
	p.stats.FramesIn++
	if ep.state == epIntroducing && f.Kind == wire.FrameIntro {
		return p.onIntro(ep, f.Header)
	}
	if ep.state != epOpen {
		return fmt.Errorf("%w: frame of kind %d before the introduction", errProtocol, f.Kind)
	}
	switch f.Kind {
	case wire.FrameRequest:
		p.serve(ep, f.ID, f.Header, f.Body)
	case wire.FrameReply:
		p.onReply(ep, f)
	case wire.FrameRefused:
		if s := p.calls.get(f.ID); s != nil && s.ep == ep && s.queued == nil && !s.receiving {
			p.complete(s, nil, nil, fmt.Errorf("%w: link to %s: the peer refuses the request", dramnode.ErrUnavailable, s.link.addr))
		}
	case wire.FramePing:
		p.appendFrame(ep, &wire.Frame{Kind: wire.FramePong, ID: f.ID})
	case wire.FramePong:
		if ep.link != nil {
			ep.link.roundTrip.Store(int64(max(0, min(p.clock()-nanos(f.ID), never))))
		}
	default:
		return fmt.Errorf("%w: a second introduction", errProtocol)
	}
	return nil
}

// replyTo finds the call that a reply ends; late and unknown replies are counted.
func (p *poller) replyTo(ep *endpoint, id uint64) *pending {
	s := p.calls.get(id)
	if s == nil || s.ep != ep || s.queued != nil || s.receiving {
		p.stats.LateReplies++
		return nil
	}
	return s
}

func (p *poller) onReply(ep *endpoint, f *wire.Frame) {
	if s := p.replyTo(ep, f.ID); s != nil {
		p.complete(s, f.Header, f.Body, nil)
	}
}

// onSeparate handles a frame whose body is the message's data.
func (p *poller) onSeparate(ep *endpoint, e *C.dn_event) error {
	m, err := wire.ReadMessage(cBytes(e.head, int(e.head_len)), ep.handshake.mine.cluster, int(e.len))
	if err != nil {
		return err
	}
	var f wire.Frame
	ok, err := m.Next(&f)
	if err != nil {
		return err
	}
	if !ok || ep.state != epOpen || f.Kind != wire.FrameRequest && f.Kind != wire.FrameReply {
		return fmt.Errorf("%w: frame of kind %d with a separate body", errProtocol, f.Kind)
	}
	if _, err := m.Next(new(wire.Frame)); err != nil { // nothing may follow the one frame
		return err
	}
	p.stats.FramesIn++
	rendezvous := e.flags&C.DN_RNDV_DESC != 0
	if err := checkPiece(f, int(e.len), rendezvous); err != nil {
		return err
	}
	switch {
	case f.Flags&wire.FramePiece != 0:
		return p.onPiece(ep, e, f)
	case ep.incoming[keyOf(f)] != nil:
		return fmt.Errorf("%w: a body begins again", errProtocol)
	case f.Kind == wire.FrameReply && rendezvous:
		p.placeReply(ep, e, f)
	case f.Kind == wire.FrameReply:
		f.Body = cBytes(e.data, int(e.len))
		p.onReply(ep, &f)
	case rendezvous:
		p.placeRequest(ep, e, f)
	case f.BodyBytes > p.n.limits.MaxBodyBytes:
		p.refuse(ep, f.ID)
	default:
		p.serve(ep, f.ID, f.Header, cBytes(e.data, int(e.len)))
	}
	return nil
}

// checkPiece reports what is wrong with a message that has n bytes of a body.
func checkPiece(f wire.Frame, n int, rendezvous bool) error {
	whole := n == f.BodyBytes
	switch {
	case !rendezvous && (f.Flags&wire.FramePiece != 0 || !whole):
		return fmt.Errorf("%w: an eager body in pieces", errProtocol)
	case rendezvous && (n == 0 || !whole && n < pieceMinBytes):
		return fmt.Errorf("%w: a piece of %d bytes", errProtocol, n)
	}
	return nil
}

// request fills the poller's one request. Its scratch is left alone: clearing it would cost more than
// most handlers do.
func (p *poller) request(ep *endpoint, header, body []byte) *transport.Request {
	r := &p.req
	r.Peer, r.Header, r.Body = ep.peer, header, body
	r.Placed, r.Cookie, r.Err, r.Sum = false, 0, nil, transport.Sum{}
	r.Received, r.Conn = p.stamp, &p.conn
	return r
}

func (p *poller) refuse(ep *endpoint, id uint64) {
	p.stats.Refused++
	p.appendFrame(ep, &wire.Frame{Kind: wire.FrameRefused, ID: id})
}

func (p *poller) serve(ep *endpoint, id uint64, header, body []byte) {
	h := p.n.config.Handler
	if h == nil || ep.link != nil || p.crowded(ep) {
		p.refuse(ep, id)
		return
	}
	p.stats.Requests++
	p.conn.begin(ep, id)
	h.Serve(p.request(ep, header, body))
	p.conn.end()
}
