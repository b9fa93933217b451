package ucxnet

/*
#include "shim.h"
*/
import "C"

import (
	"github.com/dramnode/dramnode/transport"
	"github.com/dramnode/dramnode/wire"
)

// inlineBytes is the longest body that shares a message with other frames: below it one copy costs
// less than the system call that a message of its own takes.
const inlineBytes = 2048

// heldMessages is how many messages of one endpoint UCX may hold before further frames wait to be
// coalesced: a peer that reads slowly gets full messages, and does not cost a buffer per frame.
const heldMessages = 32

func (p *poller) buffer(bytes int) *buffer {
	free, size := &p.small, smallBufferBytes
	if bytes > smallBufferBytes {
		free, size = &p.large, largeBufferBytes
	}
	n := len(*free)
	if n == 0 {
		return newBuffer(size)
	}
	b := (*free)[n-1]
	*free = (*free)[:n-1]
	b.reset()
	return b
}

func (p *poller) putBuffer(b *buffer) {
	free := &p.small
	if b.cap > smallBufferBytes {
		free = &p.large
	}
	if len(*free) == keptBuffers {
		b.free()
		return
	}
	*free = append(*free, b)
}

func (p *poller) freeBuffers() {
	for _, b := range append(p.small, p.large...) {
		b.free()
	}
	p.small, p.large = nil, nil
}

// appendFrame adds f, with its body inline, to ep's open message. There is no way for it to fail: the
// frame fits an empty message.
func (p *poller) appendFrame(ep *endpoint, f wire.Frame) {
	need := wire.FrameBytes(len(f.Header), len(f.Body))
	if ep.batch != nil && len(ep.batch.used)+need > wire.BatchBytes {
		p.sealBatch(ep)
	}
	if ep.batch == nil {
		ep.batch = p.buffer(largeBufferBytes)
		ep.batch.used = wire.AppendMessage(ep.batch.used, ep.handshake.mine.cluster)
		if !ep.dirty {
			ep.dirty = true
			p.dirty = append(p.dirty, ep)
		}
	}
	ep.batch.used = wire.AppendFrame(ep.batch.used, f)
	ep.frames++
	p.stats.FramesSent++
}

func (p *poller) sealBatch(ep *endpoint) {
	if ep.batch == nil || ep.frames == 0 {
		return
	}
	b := ep.batch
	wire.SealMessage(b.used, ep.frames)
	ep.batch, ep.frames = nil, 0
	p.stats.MessagesSent++
	p.submitMessage(ep, b, C.DN_AM_BATCH)
	if ep.link == nil && ep.queued > 8*p.n.limits.QueuedBytes { // calls are refused earlier; replies cannot be
		p.closeEndpoint(ep, "slow reader", errSlow)
	}
}

// submitMessage gives b to UCX as the data of one active message.
func (p *poller) submitMessage(ep *endpoint, b *buffer, am C.uint16_t) {
	t := p.transfers.add(sendMessage, ep)
	t.head = b
	ep.transfers++
	ep.messages++
	ep.queued += b.cap
	c := ep.rail.command(C.DN_SEND)
	c.am, c.flags, c.token, c.ep = am, C.DN_EAGER, C.uint64_t(t.token()), ep.ucp
	c.body, c.body_len = cAddr(b.used), C.uint64_t(len(b.used))
}

// sendRequest sends a call's request by its endpoint.
func (p *poller) sendRequest(s *pending) {
	f := wire.Frame{ID: s.id, Kind: wire.FrameRequest, Header: s.header}
	if t := p.sendFrame(s.ep, f, s.call.Body); t != nil {
		t.call = s
		s.queued = t
		p.pumpBulk(s.ep)
	}
}

// sendFrame sends f with the body, whose bytes were checked. What does not go inline is queued and
// returned; the caller pumps.
func (p *poller) sendFrame(ep *endpoint, f wire.Frame, body transport.Body) *transfer {
	n := len(body.Bytes)
	if n <= inlineBytes && wire.MessageHeaderBytes+wire.FrameBytes(len(f.Header), n) <= wire.BatchBytes {
		f.Body = body.Bytes
		p.appendFrame(ep, f)
		body.Release()
		return nil
	}
	t := p.transfers.add(sendSeparate, ep)
	f.Flags, f.BodyBytes = wire.FrameSeparate, n
	size := wire.MessageHeaderBytes + wire.FrameBytes(len(f.Header), 0)
	if p.n.regionOf(body.Bytes) == nil { // at most CopyBytes: goes behind the message
		t.head = p.buffer(size + n)
		copied := t.head.used[size : size+n]
		copy(copied, body.Bytes)
		body.Release()
		t.at = copied
	} else {
		t.head = p.buffer(size)
		t.body, t.at = body, body.Bytes
	}
	t.head.used = wire.AppendFrame(wire.AppendMessage(t.head.used, ep.handshake.mine.cluster), f)
	wire.SealMessage(t.head.used, 1)
	ep.bulk.push(t)
	return t
}

// A bulkQueue holds back bodies, so that a few travel at full speed rather than many slowly: their
// receivers' memory and caches are finite.
type bulkQueue struct {
	waiting []*transfer // oldest first, from head on; a nil was dequeued
	head    int
	weight  int // of the bodies under way: bulkWeight each, 1 for an eager one
	bytes   int // of them
}

const bulkWeight = 8

func (q *bulkQueue) len() int { return len(q.waiting) - q.head }

func (q *bulkQueue) push(t *transfer) {
	if q.head > 64 && q.head > len(q.waiting)/2 {
		q.waiting = q.waiting[:copy(q.waiting, q.waiting[q.head:])]
		q.head = 0
	}
	q.waiting = append(q.waiting, t)
}

func weigh(r *rail, t *transfer) int {
	if len(t.at) > r.eager {
		return bulkWeight
	}
	return 1
}

// pumpBulk starts waiting bodies as far as the limits go.
func (p *poller) pumpBulk(ep *endpoint) {
	q := &ep.bulk
	for q.head < len(q.waiting) {
		t := q.waiting[q.head]
		if t != nil {
			w := weigh(ep.rail, t)
			if q.weight > 0 && (q.weight+w > bulkWeight*p.n.limits.BulkTransfers || q.bytes+len(t.at) > p.n.limits.BulkBytes) {
				return
			}
			q.weight += w
			q.bytes += len(t.at)
			p.startBody(ep, t)
		}
		q.waiting[q.head] = nil
		q.head++
	}
	q.waiting, q.head = q.waiting[:0], 0
}

func (p *poller) startBody(ep *endpoint, t *transfer) {
	if t.call != nil {
		t.call.queued = nil
	}
	t.call = nil
	ep.transfers++
	p.stats.BodiesSent++
	c := ep.rail.command(C.DN_SEND)
	c.am, c.flags, c.token, c.ep = C.DN_AM_SEPARATE, C.DN_EAGER, C.uint64_t(t.token()), ep.ucp
	if len(t.at) > ep.rail.eager {
		c.flags = C.DN_RNDV
	}
	c.head, c.head_len = cAddr(t.head.used), C.uint64_t(len(t.head.used))
	c.body, c.body_len = cAddr(t.at), C.uint64_t(len(t.at))
}

// dequeue takes a call's body out of the queue, if it is there: the request was never sent.
func (p *poller) dequeue(s *pending) {
	t := s.queued
	if t == nil {
		return
	}
	for i, w := range t.ep.bulk.waiting {
		if w == t {
			t.ep.bulk.waiting[i] = nil
		}
	}
	p.discard(t)
}

// discard ends a transfer that UCX never saw.
func (p *poller) discard(t *transfer) {
	p.transfers.take(t.token())
	p.putBuffer(t.head)
	body := t.body
	p.transfers.recycle(t)
	body.Release()
}

// dropBulk ends what waits at a closed endpoint.
func (p *poller) dropBulk(ep *endpoint, cause error) {
	q := &ep.bulk
	for i := q.head; i < len(q.waiting); i++ {
		t := q.waiting[i]
		q.waiting[i] = nil
		switch {
		case t == nil:
		case t.call != nil:
			s := t.call
			err := callError(s, cause)
			p.discard(t)
			p.complete(s, nil, nil, err)
		default:
			p.stats.LostReplies++
			p.discard(t)
		}
	}
	q.waiting, q.head = nil, 0
}

// sent ends a send. On a live endpoint an error means that the connection is broken.
func (p *poller) sent(t *transfer, status Status) {
	ep, body := t.ep, t.body
	ep.transfers--
	if t.kind == sendMessage {
		ep.messages--
		ep.queued -= t.head.cap
		if ep.batch != nil && !ep.dirty {
			ep.dirty = true
			p.dirty = append(p.dirty, ep)
		}
	} else {
		ep.bulk.weight -= weigh(ep.rail, t)
		ep.bulk.bytes -= len(t.at)
	}
	p.putBuffer(t.head)
	p.transfers.recycle(t)
	p.releaseBody(ep, body)
	if status != 0 && status != statusCanceled {
		p.closeEndpoint(ep, "send failed", status)
	}
	if ep.state < epClosing {
		p.pumpBulk(ep)
	}
	p.forget(ep)
}
