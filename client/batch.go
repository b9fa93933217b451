package client

import (
	"context"
	"time"

	"github.com/dramnode/dramnode/wire"
)

// A Batch is a list of operations on single keys that are sent together, each to its key's owner, and that
// are over together. Do runs them, in any order; then operation i, counted from 0 in the order in which
// they were added, has Err(i), Meta(i) and Bytes(i), until Reset makes the batch empty again. One goroutine
// uses a batch. It does not copy: keys and values stay as they are until Reset.
//
// It costs less than MultiGet and MultiPut where the same goroutine runs one batch after the other.
type Batch struct {
	client *Client
	ops    []op
	ends   []end
	live   []int // operations that Do must send
	writes numbers
	vet    func(key, read []byte, m Meta) error
	allow  func(key, value []byte) error // nil: everything
}

// An end is what became of one operation of a batch.
type end struct {
	meta  Meta
	bytes []byte
	err   error
}

// NewBatch returns an empty batch.
func (c *Client) NewBatch() *Batch { return &Batch{client: c, writes: numbers{acks: &c.acks}} }

// Vet has f judge every value that was read, whole or in part; its error becomes the operation's. It is for
// the layers between a client and its user.
func (b *Batch) Vet(f func(key, read []byte, m Meta) error) { b.vet = f }

// Allow has f judge every change before it is sent, with no value for one that is no put; its error becomes the
// operation's. It is for the layers between a client and its user.
func (b *Batch) Allow(f func(key, value []byte) error) { b.allow = f }

// allowed is f's word.
func (b *Batch) allowed(key, value []byte) error {
	if b.allow == nil {
		return nil
	}
	return b.allow(key, value)
}

// Len is the number of operations.
func (b *Batch) Len() int { return len(b.ops) }

// next adds an operation, in memory that an earlier one may have used.
func (b *Batch) next() (*op, *end) {
	b.ops, b.ends = append(b.ops, op{numbers: &b.writes}), append(b.ends, end{})
	b.live = append(b.live, len(b.ops)-1)
	return &b.ops[len(b.ops)-1], &b.ends[len(b.ends)-1]
}

// refuse keeps the operation that was added last from being sent.
func (b *Batch) refuse(e *end, err error) {
	if err != nil {
		e.err = err
		b.live = b.live[:len(b.live)-1]
	}
}

// Get adds a read; see Client.Get.
func (b *Batch) Get(key []byte, opts ...Option) {
	o, e := b.next()
	b.refuse(e, o.asGet(time.Time{}, key, opts))
}

// Stat adds a read of everything but the bytes; see Client.Stat.
func (b *Batch) Stat(key []byte) { b.Get(key, Range(0, 0)) }

// Put adds a write; see Client.Put.
func (b *Batch) Put(key, value []byte, opts ...Option) {
	o, e := b.next()
	if err := b.allowed(key, value); err != nil {
		b.refuse(e, err)
		return
	}
	b.refuse(e, b.client.asPut(o, time.Time{}, key, value, opts))
}

// Remove adds a deletion; see Client.Remove.
func (b *Batch) Remove(key []byte, opts ...Option) {
	b.change(wire.KindDelete, key, 0, opts)
}

// Touch adds a change of the life time; see Client.Touch.
func (b *Batch) Touch(key []byte, life time.Duration, opts ...Option) {
	b.change(wire.KindTouch, key, life, opts)
}

func (b *Batch) change(kind wire.Kind, key []byte, life time.Duration, opts []Option) {
	o, e := b.next()
	if err := b.allowed(key, nil); err != nil {
		b.refuse(e, err)
		return
	}
	b.refuse(e, b.client.asChange(o, kind, key, life, opts))
}

// Do runs the operations that were added since Reset. It is called once before the next Reset.
func (b *Batch) Do(ctx context.Context) {
	defer b.writes.end()
	if len(b.live) == 0 {
		return
	}
	c, now := b.client, time.Now()
	deadline := c.deadlineFrom(ctx, now)
	for _, i := range b.live {
		b.ops[i].deadline, b.ops[i].now = deadline, now
		if b.ops[i].kind != wire.KindGet {
			b.ops[i].number()
		}
	}
	if len(b.live) > 1 {
		c.doAll(ctx, b.ops, b.live, b.ended)
		return
	}
	o := &b.ops[b.live[0]]
	err := c.attach(ctx, o)
	if err == nil {
		err = c.do(ctx, o)
	}
	b.ended(b.live[0], err)
}

// ended notes what became of operation i. The reply of a read stays, since its bytes may be in use.
func (b *Batch) ended(i int, err error) {
	o, e := &b.ops[i], &b.ends[i]
	if err == nil {
		r := &o.call.reply
		e.meta, e.bytes = r.meta(), r.body
		err = b.client.verify(r)
		if err == nil && b.vet != nil && o.kind == wire.KindGet {
			err = b.vet(o.key, r.body, e.meta)
		}
	}
	if e.err = err; err != nil || o.kind != wire.KindGet {
		e.bytes = nil
		o.end(b.client)
	}
}

// Err is the error of operation i.
func (b *Batch) Err(i int) error { return b.ends[i].err }

// Meta tells of the value that was read; after a write it has its generation only.
func (b *Batch) Meta(i int) Meta { return b.ends[i].meta }

// Bytes is what was read. It is valid until Reset.
func (b *Batch) Bytes(i int) []byte { return b.ends[i].bytes }

// Take gives away what Bytes(i) lies in, for as long as the caller likes, when it is memory of a value's
// own. It is nil for short values and for all others.
func (b *Batch) Take(i int) *Buffer {
	a := b.ops[i].call
	if a == nil {
		return nil
	}
	taken := a.reply.placed
	a.reply.placed = nil
	return taken
}

// Reset makes the batch empty.
func (b *Batch) Reset() {
	for i := range b.ops {
		b.ops[i].end(b.client)
	}
	if len(b.ops) > keptOps {
		b.ops, b.ends, b.live = nil, nil, nil
	}
	clear(b.ops)
	clear(b.ends)
	b.ops, b.ends, b.live = b.ops[:0], b.ends[:0], b.live[:0]
}

const keptOps = 1024 // a batch that had more gives the memory back
