package ucxnet

/*
#include "shim.h"
*/
import "C"

import (
	"slices"

	"github.com/dramnode/dramnode/transport"
	"github.com/dramnode/dramnode/wire"
)

// Bodies that do not go inline. A long one goes in pieces: UCX sends what it has of a connection one after
// the other, so that a small message waits for all that is ahead of it, and it says nothing about a body
// before all of it is here. With pieces, what is ahead is bounded for each peer, bodies take turns, and
// the receiver looks at each piece while it is in its cache and serves others in between.
//
// By shared memory a body goes as one: its receiver reads it bit by bit, small messages go another way, and a sender
// that is told of every piece does not sleep, which cost a third of the speed of 16 MiB values on two processors.

// A piece is longer than any body that goes eagerly, so that every piece of a body in pieces goes by rendezvous.
const (
	pieceBytes    = 512 << 10      // at most
	wholeBytes    = 1 << 40        // of what goes as one
	pieceMinBytes = pieceBytes / 4 // at least, but for the last one; what peers must keep to, so that pieces are few
)

// An outgoing is a body on its way out.
type outgoing struct {
	ep   *endpoint
	id   uint64 // of the frame
	kind wire.FrameKind
	head *buffer        // message of the first piece, until UCX has it
	body transport.Body // released at the end; absent when it was copied behind the message
	at   []byte         // its bytes
	call *pending       // whose request it is, until UCX has the first piece
	sent int            // bytes that UCX got
	held int            // pieces that UCX has
}

// A bulkQueue holds back bodies, so that a few travel at full speed rather than many slowly: their
// receivers' memory and caches are finite.
type bulkQueue struct {
	waiting []*outgoing // oldest first, from head on; a nil was dequeued
	head    int
	turns   []*outgoing // admitted, and not wholly with UCX: the first is next
	weight  int         // of the bodies admitted and not ended: bulkWeight each, 1 for an eager one
	bytes   int         // of pieces that UCX has
}

const bulkWeight = 8

func (q *bulkQueue) len() int { return len(q.waiting) - q.head }

func (q *bulkQueue) push(o *outgoing) {
	if q.head > 64 && q.head > len(q.waiting)/2 {
		q.waiting = q.waiting[:copy(q.waiting, q.waiting[q.head:])]
		q.head = 0
	}
	q.waiting = append(q.waiting, o)
}

func weigh(r *rail, o *outgoing) int {
	if len(o.at) > r.eager {
		return bulkWeight
	}
	return 1
}

// admit gives waiting bodies their turns, as far as their weights allow.
func (q *bulkQueue) admit(r *rail, most int) {
	for q.head < len(q.waiting) {
		if o := q.waiting[q.head]; o != nil {
			w := weigh(r, o)
			if q.weight > 0 && q.weight+w > most {
				return
			}
			q.weight += w
			q.turns = append(q.turns, o)
		}
		q.waiting[q.head] = nil
		q.head++
	}
	q.waiting, q.head = q.waiting[:0], 0
}

// pieceOf is the length of the next piece, of at most so many bytes, of a body of n bytes, of which left are left:
// n in equal parts, as few as possible, in whole pages but for the last.
func pieceOf(n, left, most int) int {
	pieces := (n + most - 1) / most
	const page = 4096
	return min((n/max(pieces, 1)+page-1)&^(page-1), left)
}

// pumpBulk gives UCX pieces of the bodies that have a turn, as far as the limits go.
func (p *poller) pumpBulk(ep *endpoint) {
	q, limits := &ep.bulk, &p.n.limits
	for {
		q.admit(ep.rail, bulkWeight*limits.BulkTransfers)
		if len(q.turns) == 0 {
			return
		}
		o := q.turns[0]
		n := pieceOf(len(o.at), len(o.at)-o.sent, ep.rail.piece)
		if q.bytes > 0 && q.bytes+n > limits.BulkBytes {
			return
		}
		q.turns = append(q.turns[:0], q.turns[1:]...)
		p.startPiece(o, n)
		if o.sent < len(o.at) {
			q.turns = append(q.turns, o)
		}
	}
}

func (p *poller) startPiece(o *outgoing, n int) {
	ep := o.ep
	t := p.transfers.add(sendPiece, ep)
	t.out, t.at, t.head = o, o.at[o.sent:o.sent+n], o.head
	if o.sent == 0 {
		p.stats.BodiesSent++
		o.head = nil
		if o.call != nil {
			o.call.queued, o.call = nil, nil
		}
	} else {
		t.head = p.buffer(smallBufferBytes)
		ep.queued += t.head.cap
		f := wire.Frame{ID: o.id, Kind: o.kind, Flags: wire.FrameSeparate | wire.FramePiece, BodyBytes: len(o.at) - o.sent}
		p.fillSeparate(t.head, ep, &f)
	}
	p.stats.PiecesSent++
	o.sent += n
	o.held++
	ep.bulk.bytes += n
	ep.begin(p.now)
	c := ep.rail.command(C.DN_SEND)
	c.am, c.flags, c.token, c.ep = C.DN_AM_SEPARATE, C.DN_EAGER, C.uint64_t(t.token()), ep.ucp
	if len(o.at) > ep.rail.eager {
		c.flags = C.DN_RNDV
	}
	c.head, c.head_len = cAddr(t.head.used), C.uint64_t(len(t.head.used))
	c.body, c.body_len = cAddr(t.at), C.uint64_t(len(t.at))
}

func (p *poller) newOutgoing(ep *endpoint) *outgoing {
	o := new(outgoing)
	if n := len(p.spareOut); n > 0 {
		o, p.spareOut = p.spareOut[n-1], p.spareOut[:n-1]
	}
	o.ep = ep
	return o
}

// endOutgoing gives back a body that is sent, or of which no more will be.
func (p *poller) endOutgoing(o *outgoing) {
	ep, body := o.ep, o.body
	ep.bulk.weight -= weigh(ep.rail, o)
	p.recycleOutgoing(o)
	p.releaseBody(ep, body)
}

// discard ends a body of which UCX never saw anything.
func (p *poller) discard(o *outgoing) {
	o.ep.queued -= o.head.cap
	p.putBuffer(o.head)
	body := o.body
	p.recycleOutgoing(o)
	body.Release()
}

func (p *poller) recycleOutgoing(o *outgoing) {
	*o = outgoing{}
	if len(p.spareOut) < keptBuffers {
		p.spareOut = append(p.spareOut, o)
	}
}

// dequeue takes a call's body out of the queue, if none of it was sent: so the request was not.
func (p *poller) dequeue(s *pending) {
	o := s.queued
	if o == nil {
		return
	}
	q := &o.ep.bulk
	if i := slices.Index(q.turns, o); i >= 0 {
		q.turns = slices.Delete(q.turns, i, i+1)
		q.weight -= weigh(o.ep.rail, o)
	} else if i := slices.Index(q.waiting, o); i >= 0 {
		q.waiting[i] = nil
	}
	p.discard(o)
}

// dropBulk ends what waits at a closed endpoint. Of a body that was begun UCX may have pieces: then the last of
// them ends it.
func (p *poller) dropBulk(ep *endpoint, cause error) {
	q := &ep.bulk
	left := append(q.turns, q.waiting[q.head:]...)
	q.turns, q.waiting, q.head = nil, nil, 0
	for _, o := range left {
		switch {
		case o == nil || o.held > 0:
		case o.sent > 0:
			p.endOutgoing(o)
		case o.call != nil:
			s := o.call
			err := callError(s, cause)
			p.discard(o)
			p.complete(s, nil, nil, err)
		default:
			p.stats.LostReplies++
			p.discard(o)
		}
	}
}
