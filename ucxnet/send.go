package ucxnet

/*
#include "shim.h"
*/
import "C"

import (
	"github.com/dramnode/dramnode/transport"
	"github.com/dramnode/dramnode/wire"
)

// Bodies up to these lengths share a message with other frames: two copies cost less than what a message of
// its own does, by tcp a system call at both ends. By shared memory UCX cuts messages of more than 8 KiB.
const (
	inlineBytes    = 2 << 10
	tcpInlineBytes = 8 << 10
)

// copiedBytes is how much UCX may hold of one endpoint's messages before bodies above inlineBytes are sent from
// where they lie again: a peer that reads slowly shall not make us copy what it asks for.
const copiedBytes = 1 << 20

// wideFrameBytes is the shortest frame for which a message by tcp may become longer than wire.BatchBytes:
// of longer frames too few would share one.
const wideFrameBytes = 1 << 10

// heldMessages is how many messages of one endpoint UCX may hold before further frames wait to be
// coalesced: a peer that reads slowly gets full messages, and does not cost a buffer per frame.
const heldMessages = 32

// fewFrames are not worth a message of their own while more come; measured over tcp with 64 calls.
const fewFrames = 32

// A bufferPool keeps free buffers of one size.
type bufferPool struct {
	free []*buffer
	size int
	kept int // free ones, at most
}

func newBufferPools() [3]bufferPool {
	return [...]bufferPool{
		{size: smallBufferBytes, kept: keptBuffers}, {size: largeBufferBytes, kept: keptBuffers}, {size: wideBufferBytes, kept: keptWideBuffers},
	}
}

// pool returns the pool of the shortest buffers that hold so many bytes.
func (p *poller) pool(bytes int) *bufferPool {
	i := 0
	for bytes > p.buffers[i].size {
		i++
	}
	return &p.buffers[i]
}

func (p *poller) buffer(bytes int) *buffer {
	pool := p.pool(bytes)
	p.held += pool.size
	n := len(pool.free)
	if n == 0 {
		return newBuffer(pool.size)
	}
	b := pool.free[n-1]
	pool.free = pool.free[:n-1]
	b.reset()
	return b
}

func (p *poller) putBuffer(b *buffer) {
	p.held -= b.cap
	pool := p.pool(b.cap)
	if len(pool.free) == pool.kept {
		b.free()
		return
	}
	pool.free = append(pool.free, b)
}

func (p *poller) freeBuffers() {
	for i := range p.buffers {
		for _, b := range p.buffers[i].free {
			b.free()
		}
		p.buffers[i].free = nil
	}
}

// appendFrame adds f, with its body inline, to ep's open message. There is no way for it to fail: the
// frame fits an empty message.
func (p *poller) appendFrame(ep *endpoint, f *wire.Frame) {
	need := wire.FrameBytes(len(f.Header), len(f.Body))
	if ep.batch != nil && (len(ep.batch.used)+need > batchBytes(ep.batch) || p.enough(ep)) {
		p.sealBatch(ep)
		ep.rail.submit() // the peer works on it while we fill the next
	}
	if ep.batch == nil {
		size := largeBufferBytes
		if need >= wideFrameBytes && !ep.rail.shm {
			size = wideBufferBytes
		}
		ep.batch = p.buffer(size)
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

// batchBytes is how long the message in b may become.
func batchBytes(b *buffer) int {
	if b.cap > largeBufferBytes {
		return b.cap
	}
	return wire.BatchBytes
}

// enough reports whether ep's open message shall take no more frames. Where all calls go out in one
// message, the peer has nothing to do until it has come, and we have nothing to do until it is answered;
// two messages of half of them keep both sides busy. A message costs a system call, so a short one does not pay.
func (p *poller) enough(ep *endpoint) bool {
	return ep.frames >= max(fewFrames, p.calls.len/2) && ep.messages < heldMessages
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
}

// submitMessage gives b to UCX as the data of one active message.
func (p *poller) submitMessage(ep *endpoint, b *buffer, am C.uint16_t) {
	t := p.transfers.add(sendMessage, ep)
	t.head = b
	ep.begin(p.now)
	ep.messages++
	ep.queued += b.cap
	ep.spoke = p.now
	c := ep.rail.command(C.DN_SEND)
	c.am, c.flags, c.token, c.ep = am, C.DN_EAGER, C.uint64_t(t.token()), ep.ucp
	c.body, c.body_len = cAddr(b.used), C.uint64_t(len(b.used))
}

// sendRequest sends a call's request by its endpoint.
func (p *poller) sendRequest(s *pending) {
	var f wire.Frame
	f.ID, f.Kind, f.Header = s.id, wire.FrameRequest, s.header
	if o := p.sendFrame(s.ep, &f, s.call.Body); o != nil {
		o.call, s.queued = s, o
		p.pumpBulk(s.ep)
	}
}

// sendFrame sends f with the body, whose bytes were checked and which it notes in f. What does not go inline is queued and
// returned; the caller pumps.
func (p *poller) sendFrame(ep *endpoint, f *wire.Frame, body transport.Body) *outgoing {
	n := len(body.Bytes)
	if n <= ep.rail.inline && (n <= inlineBytes || ep.queued < copiedBytes) {
		f.Body = body.Bytes
		p.appendFrame(ep, f)
		body.Release()
		return nil
	}
	o := p.newOutgoing(ep)
	f.Flags, f.BodyBytes = wire.FrameSeparate, n
	size := wire.MessageHeaderBytes + wire.FrameBytes(len(f.Header), 0)
	if p.n.regionOf(body.Bytes) == nil { // at most CopyBytes: goes behind the message
		o.head = p.buffer(size + n)
		copied := o.head.used[size : size+n]
		copy(copied, body.Bytes)
		body.Release()
		o.at = copied
	} else {
		o.head = p.buffer(size)
		o.body, o.at = body, body.Bytes
	}
	ep.queued += o.head.cap
	p.fillSeparate(o.head, ep, f)
	o.id, o.kind = f.ID, f.Kind
	ep.bulk.push(o)
	return o
}

// fillSeparate makes b the message of f, whose body is separate.
func (p *poller) fillSeparate(b *buffer, ep *endpoint, f *wire.Frame) {
	b.used = wire.AppendFrame(wire.AppendMessage(b.used, ep.handshake.mine.cluster), f)
	wire.SealMessage(b.used, 1)
}

// sent ends a send. On a live endpoint an error means that the connection is broken.
func (p *poller) sent(t *transfer, status Status) {
	ep, out := t.ep, t.out
	ep.end(p.now)
	ep.queued -= t.head.cap
	if t.kind == sendMessage {
		ep.messages--
		if ep.batch != nil && !ep.dirty {
			ep.dirty = true
			p.dirty = append(p.dirty, ep)
		}
	} else {
		ep.bulk.bytes -= len(t.at)
		out.held--
	}
	p.putBuffer(t.head)
	p.transfers.recycle(t)
	if out != nil && out.held == 0 && (out.sent == len(out.at) || ep.state >= epClosing) {
		p.endOutgoing(out)
	}
	if status != 0 && status != statusCanceled {
		p.closeEndpoint(ep, "send failed", status)
	}
	if ep.state < epClosing {
		p.pumpBulk(ep)
	}
	p.forget(ep)
}
