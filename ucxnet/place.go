package ucxnet

/*
#include "shim.h"
*/
import "C"

import (
	"cmp"
	"fmt"
	"hash/crc32"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/transport"
	"github.com/dramnode/dramnode/wire"
)

// An incoming is a body on its way to memory that the handler or the completer named. It ends once: when all of
// it is here, or when its connection is closed and UCX writes no more of it.
type incoming struct {
	ep     *endpoint
	key    bodyKey
	call   *pending // whose reply it is; nil for a request
	header []byte
	cookie uint64 // of the handler
	at     []byte // where it lands
	memh   C.uint64_t

	announced int       // bytes of the pieces that the peer has announced, in order
	pieces    []landing // of them, from the first on that is not here
	landed    int       // bytes before that one
	held      int       // pieces that UCX has
	err       error     // why not all of it comes
	sum       transport.Sum
}

// A landing is a piece that UCX receives or has received.
type landing struct {
	at   []byte
	here bool
}

// A bodyKey finds the body that a piece belongs to.
type bodyKey struct {
	kind wire.FrameKind
	id   uint64
}

func keyOf(f wire.Frame) bodyKey { return bodyKey{f.Kind, f.ID} }

// placeRequest asks the handler where a request's body shall land.
func (p *poller) placeRequest(ep *endpoint, e *C.dn_event, f wire.Frame) {
	h := p.n.config.Handler
	if h == nil || ep.link != nil || p.crowded(ep) || f.BodyBytes > p.n.limits.MaxBodyBytes || ep.receiving >= p.n.limits.InboundReceive {
		p.refuse(ep, f.ID)
		return
	}
	p.conn.begin(ep, f.ID)
	at, err := h.Place(p.request(ep, f.Header, nil), f.BodyBytes)
	answered, cookie, sum := p.conn.answered, p.req.Cookie, p.req.Sum
	p.conn.end()
	region := (*Region)(nil)
	if err == nil {
		if region = p.n.regionOf(at); region == nil || len(at) < f.BodyBytes {
			p.stats.BadReplies++
			p.log.Error().Int("bytes", f.BodyBytes).Msg("handler placed a body outside the regions")
			p.aborted(ep, f.ID, f.Header, at, cookie, dramnode.ErrInvalid)
		}
	}
	if region == nil || len(at) < f.BodyBytes {
		p.stats.Refused++
		if !answered {
			p.appendFrame(ep, &wire.Frame{Kind: wire.FrameRefused, ID: f.ID})
		}
		return
	}
	in := p.newIncoming(ep, f, at, region)
	in.cookie, in.sum.Wanted = cookie, sum.Wanted
	ep.receiving++
	p.startBody(in, e)
}

// placeReply asks the completer where a reply's body shall land.
func (p *poller) placeReply(ep *endpoint, e *C.dn_event, f wire.Frame) {
	s := p.replyTo(ep, f.ID)
	if s == nil {
		return
	}
	at, err := s.call.Completer.PlaceReply(s.call, f.Header, f.BodyBytes)
	if err != nil {
		p.complete(s, nil, nil, err)
		return
	}
	region := p.n.regionOf(at)
	if region == nil || len(at) < f.BodyBytes {
		err := fmt.Errorf("%w: a reply of %d bytes placed outside the network's regions", dramnode.ErrInvalid, f.BodyBytes)
		p.complete(s, nil, nil, err)
		return
	}
	in := p.newIncoming(ep, f, at, region)
	in.call, in.sum.Wanted = s, s.call.Sum.Wanted
	s.receiving = true
	p.startBody(in, e)
}

func (p *poller) newIncoming(ep *endpoint, f wire.Frame, at []byte, region *Region) *incoming {
	in := new(incoming)
	if n := len(p.spareIn); n > 0 {
		in, p.spareIn = p.spareIn[n-1], p.spareIn[:n-1]
	}
	in.ep, in.key, in.at, in.memh = ep, keyOf(f), at[:f.BodyBytes], region.handles[carrierOf(ep.rail)]
	in.header = append(in.header, f.Header...)
	return in
}

func (p *poller) recycleIncoming(in *incoming) {
	*in = incoming{header: in.header[:0], pieces: in.pieces[:0]}
	if len(p.spareIn) < keptBuffers {
		p.spareIn = append(p.spareIn, in)
	}
}

// startBody receives the first piece of a body, and expects the others.
func (p *poller) startBody(in *incoming, e *C.dn_event) {
	ep := in.ep
	ep.arriving += len(in.at)
	if ep.incoming == nil {
		ep.incoming = map[bodyKey]*incoming{}
	}
	ep.incoming[in.key] = in
	p.startReceive(in, e)
}

// onPiece receives a later piece of a body. There is no such body when it was refused: then nobody takes its pieces.
func (p *poller) onPiece(ep *endpoint, e *C.dn_event, f wire.Frame) error {
	in := ep.incoming[keyOf(f)]
	if in == nil {
		return nil
	}
	if len(f.Header) != 0 || f.BodyBytes != len(in.at)-in.announced {
		return fmt.Errorf("%w: a piece out of order", errProtocol)
	}
	p.startReceive(in, e)
	return nil
}

func (p *poller) startReceive(in *incoming, e *C.dn_event) {
	ep, n := in.ep, int(e.len)
	t := p.transfers.add(receivePiece, ep)
	t.in, t.at = in, in.at[in.announced:in.announced+n]
	in.announced += n
	in.pieces = append(in.pieces, landing{at: t.at})
	in.held++
	ep.begin(p.now)
	c := ep.rail.command(C.DN_RECV)
	c.ep, c.token = e.data, C.uint64_t(t.token())
	c.body, c.body_len = cAddr(t.at), C.uint64_t(n)
	c.memh = in.memh
	e.flags &^= C.DN_RNDV_DESC // taken
}

// received ends the receive of a piece.
func (p *poller) received(t *transfer, status Status) {
	ep, in := t.ep, t.in
	if status == 0 && ep.rail.shm && ep.state >= epClosing {
		status = statusCanceled // read from memory that the peer may have given up meanwhile
	}
	ep.end(p.now)
	in.held--
	if status == 0 {
		ep.heard = p.now
		in.land(t.at)
	} else {
		in.err = status
	}
	p.transfers.recycle(t)
	if in.landed == len(in.at) || in.held == 0 && ep.state >= epClosing {
		p.endIncoming(in)
	}
	if status != 0 {
		p.closeEndpoint(ep, "receive failed", status)
	}
	p.forget(ep)
}

// land notes that a piece is here, and sums what is here without a gap.
func (in *incoming) land(at []byte) {
	n, gap := 0, false
	for i := range in.pieces {
		l := &in.pieces[i]
		if &l.at[0] == &at[0] {
			l.here = true
		}
		if gap = gap || !l.here; gap {
			continue
		}
		if in.sum.Wanted {
			in.sum.CRC = crc32.Update(in.sum.CRC, wire.Castagnoli, l.at)
		}
		in.landed += len(l.at)
		n++
	}
	in.pieces = in.pieces[:copy(in.pieces, in.pieces[n:])]
}

// dropIncoming ends the bodies of a closed endpoint of which UCX writes nothing.
func (p *poller) dropIncoming(ep *endpoint, cause error) {
	for _, in := range ep.incoming {
		if in.held == 0 {
			in.err = cmp.Or(in.err, cause)
			p.endIncoming(in)
		}
	}
}

// endIncoming tells what became of a body.
func (p *poller) endIncoming(in *incoming) {
	ep, s := in.ep, in.call
	delete(ep.incoming, in.key)
	ep.arriving -= len(in.at)
	if in.landed < len(in.at) { // what UCX had of a closed endpoint may all have come, and not the rest
		in.err = cmp.Or(in.err, error(statusCanceled))
	}
	in.sum.Done = in.sum.Wanted && in.err == nil
	switch {
	case s == nil:
		ep.receiving--
		p.servePlaced(in)
	case in.err == nil:
		s.receiving, s.call.Sum = false, in.sum
		p.complete(s, in.header, in.at, nil)
	default:
		s.receiving = false
		p.complete(s, nil, nil, callError(s, in.err))
	}
	p.recycleIncoming(in)
}

func (p *poller) servePlaced(in *incoming) {
	if in.err != nil {
		p.aborted(in.ep, in.key.id, in.header, in.at, in.cookie, in.err)
		return
	}
	p.stats.Requests++
	p.conn.begin(in.ep, in.key.id)
	r := p.request(in.ep, in.header, in.at)
	r.Placed, r.Cookie, r.Sum = true, in.cookie, in.sum
	p.n.config.Handler.Serve(r)
	p.conn.end()
}

// aborted gives the handler back the memory of a body that did not arrive.
func (p *poller) aborted(ep *endpoint, id uint64, header, at []byte, cookie uint64, cause error) {
	p.conn.begin(ep, id)
	p.conn.answered = true // nothing may be replied
	r := p.request(ep, header, at)
	r.Placed, r.Cookie = true, cookie
	r.Err = fmt.Errorf("%w: the body did not arrive: %w", dramnode.ErrUnavailable, cause)
	p.n.config.Handler.Serve(r)
	p.conn.end()
}
