package client

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/transport"
)

// A Buffer is memory that values travel from and into without a copy. NewBuffer and GetBuffer return
// one, and whoever holds it calls Release once; after that, and after PutBuffer, its bytes are not the
// holder's any more. Buffers must be released before Client.Close, else their memory stays allocated.
type Buffer struct {
	bytes []byte
	pool  *pool // nil: bytes are the collector's, or lent
	lent  transport.Body
	unit  int32
	order int
	refs  atomic.Int32 // the holder, and each frame that names the bytes
	given atomic.Bool  // the holder's reference is gone
}

// Bytes returns the memory. It is valid until Release. What GetBuffer returned must only be read: inside a
// node it is the stored value itself.
func (b *Buffer) Bytes() []byte { return b.bytes }

// Release gives the memory back. A second call does nothing.
func (b *Buffer) Release() {
	if b.give() {
		b.drop()
	}
}

// give takes the holder's reference away, and reports false when it was gone.
func (b *Buffer) give() bool { return b.given.CompareAndSwap(false, true) }

func (b *Buffer) drop() {
	if b.refs.Add(-1) != 0 {
		return
	}
	if b.pool != nil {
		b.pool.give(b)
	} else {
		b.lent.Release()
	}
}

// lentBuffer is memory of a node in this process.
func lentBuffer(body transport.Body) *Buffer {
	b := heapBuffer(body.Bytes)
	b.lent = body
	return b
}

func heapBuffer(bytes []byte) *Buffer {
	b := &Buffer{bytes: bytes}
	b.refs.Store(1)
	return b
}

// unitBytes is the least that a pool hands out: all below is copied and needs no pool.
const unitBytes = 2 * transport.CopyBytes

// A pool cuts one Region into buffers.
type pool struct {
	region transport.Region

	mu     sync.Mutex
	bytes  []byte
	blocks *buddy
	lent   int           // buffers
	freed  chan struct{} // closed and replaced when memory came back and somebody waits; nil when nobody does
	closed bool
}

func newPool(n transport.Network, bytes int) (*pool, error) {
	region, err := n.Alloc(bytes)
	if err != nil {
		return nil, fmt.Errorf("client: %d bytes of buffers: %w", bytes, err)
	}
	memory := region.Bytes()
	return &pool{region: region, bytes: memory, blocks: newBuddy(len(memory) / unitBytes)}, nil
}

// alloc never waits: dramnode.ErrBusy says that the memory is in use, ErrNoMemory that it would never do.
func (p *pool) alloc(n int) (*Buffer, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.allocLocked(n)
}

func (p *pool) allocLocked(n int) (*Buffer, error) {
	order := orderFor((n + unitBytes - 1) / unitBytes)
	if !p.blocks.fits(order) {
		return nil, fmt.Errorf("client: %w: a body of %d bytes does not fit the client's %d bytes of buffers; raise Config.MemoryBytes", dramnode.ErrNoMemory, n, len(p.bytes))
	}
	if p.closed {
		return nil, fmt.Errorf("client: %w", dramnode.ErrClosed)
	}
	unit, ok := p.blocks.take(order)
	if !ok {
		return nil, fmt.Errorf("client: %w: all %d bytes of buffers are in use", dramnode.ErrBusy, len(p.bytes))
	}
	p.lent++
	start := int(unit) * unitBytes
	b := &Buffer{bytes: p.bytes[start : start+n : start+n], pool: p, unit: unit, order: order}
	b.refs.Store(1)
	return b, nil
}

// wait is alloc that waits for memory until the deadline.
func (p *pool) wait(ctx context.Context, n int, deadline time.Time) (*Buffer, error) {
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	for {
		p.mu.Lock()
		b, err := p.allocLocked(n)
		if err == nil || p.closed || !p.blocks.fits(orderFor((n+unitBytes-1)/unitBytes)) {
			p.mu.Unlock()
			return b, err
		}
		if p.freed == nil {
			p.freed = make(chan struct{})
		}
		freed := p.freed
		p.mu.Unlock()
		select {
		case <-freed:
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", err, context.Cause(ctx))
		case <-timer.C:
			return nil, fmt.Errorf("%w: %w", err, context.DeadlineExceeded)
		}
	}
}

func (p *pool) give(b *Buffer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.blocks.give(b.unit, b.order)
	p.lent--
	if p.freed != nil {
		close(p.freed)
		p.freed = nil
	}
	p.closeLocked()
}

// close ends the pool: the region goes with the last buffer. The network has ended by then.
func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	if p.freed != nil {
		close(p.freed)
		p.freed = nil
	}
	p.closeLocked()
}

func (p *pool) closeLocked() {
	if p.closed && p.lent == 0 && p.region != nil {
		// It can fail only when frames name the region, and every buffer is back.
		_ = p.region.Close()
		p.region = nil
	}
}
