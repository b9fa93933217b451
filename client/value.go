package client

import (
	"context"
	"fmt"
	"time"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/transport"
	"github.com/dramnode/dramnode/wire"
)

// Meta is what there is to know of a value beside its bytes.
type Meta struct {
	Generation dramnode.Generation
	Size       int64         // bytes of the whole value
	TTL        time.Duration // remaining life; 0: for ever
}

// A Value is what Get returns. Bytes are the caller's.
type Value struct {
	Bytes []byte
	Meta
}

// Get reads a value, or the part of it that Range or Suffix says. A missing key is dramnode.ErrNotFound.
func (c *Client) Get(ctx context.Context, key []byte, opts ...Option) (Value, error) {
	if v, ok := c.readDirect(ctx, key, opts, newBytes); ok {
		return v, nil
	}
	var o op
	if err := c.prepareGet(ctx, &o, key, opts); err != nil {
		return Value{}, err
	}
	defer o.end(c)
	if err := c.do(ctx, &o); err != nil {
		return Value{}, err
	}
	return value(c, &o)
}

// GetInto reads into dst: Value.Bytes is the part of dst that was filled. When dst is too short the
// error is dramnode.ErrOutOfRange, and Value.Size tells how long it must be. After an error dst may hold anything.
func (c *Client) GetInto(ctx context.Context, key, dst []byte, opts ...Option) (Value, error) {
	if v, ok := c.readDirect(ctx, key, opts, func(int) []byte { return dst }); ok {
		return v, nil
	}
	var o op
	if err := c.prepareGet(ctx, &o, key, opts); err != nil {
		return Value{}, err
	}
	defer o.end(c)
	if err := c.do(ctx, &o); err != nil {
		return Value{}, err
	}
	r := &o.call.reply
	v := Value{Meta: r.meta()}
	if len(r.body) > len(dst) {
		return v, fmt.Errorf("client: %w: %d bytes do not fit the caller's %d", dramnode.ErrOutOfRange, len(r.body), len(dst))
	}
	if err := c.verify(r); err != nil {
		return v, err
	}
	v.Bytes = dst[:len(r.body)]
	copyValue(v.Bytes, r.body)
	return v, nil
}

// GetBuffer reads without a copy: the network wrote a long value straight into the buffer. The caller
// releases it.
func (c *Client) GetBuffer(ctx context.Context, key []byte, opts ...Option) (*Buffer, Meta, error) {
	if b, v, ok := c.bufferDirect(ctx, key, opts); ok {
		return b, v.Meta, nil
	}
	var o op
	if err := c.prepareGet(ctx, &o, key, opts); err != nil {
		return nil, Meta{}, err
	}
	defer o.end(c)
	if err := c.do(ctx, &o); err != nil {
		return nil, Meta{}, err
	}
	r := &o.call.reply
	if err := c.verify(r); err != nil {
		return nil, r.meta(), err
	}
	b := r.placed
	if r.placed = nil; b == nil {
		b = heapBuffer(append([]byte(nil), r.body...))
	}
	return b, r.meta(), nil
}

// bufferDirect is readDirect into a buffer.
func (c *Client) bufferDirect(ctx context.Context, key []byte, opts []Option) (b *Buffer, v Value, ok bool) {
	v, ok = c.readDirect(ctx, key, opts, func(n int) []byte {
		if n <= transport.CopyBytes {
			b = heapBuffer(make([]byte, n))
			return b.bytes
		}
		var err error
		if b, err = c.pool.alloc(n); err != nil {
			b = nil
			return nil
		}
		return b.bytes
	})
	if b != nil && !ok {
		b.Release()
		b = nil
	}
	return b, v, ok
}

// Stat returns what there is to know of a value without reading it.
func (c *Client) Stat(ctx context.Context, key []byte) (Meta, error) {
	var o op
	if err := c.prepareGet(ctx, &o, key, []Option{Range(0, 0)}); err != nil {
		return Meta{}, err
	}
	defer o.end(c)
	if err := c.do(ctx, &o); err != nil {
		return Meta{}, err
	}
	return o.call.reply.meta(), nil
}

func (c *Client) prepareGet(ctx context.Context, o *op, key []byte, opts []Option) error {
	return o.asGet(c.opDeadline(ctx, o), key, opts)
}

func (o *op) asGet(deadline time.Time, key []byte, opts []Option) error {
	if err := dramnode.CheckKey(key); err != nil {
		return err
	}
	o.kind, o.key, o.deadline = wire.KindGet, key, deadline
	return o.asRead(opts)
}

// value copies the reply of a get.
func value(c *Client, o *op) (Value, error) {
	r := &o.call.reply
	if err := c.verify(r); err != nil {
		return Value{Meta: r.meta()}, err
	}
	bytes := make([]byte, len(r.body))
	copyValue(bytes, r.body)
	return Value{Bytes: bytes, Meta: r.meta()}, nil
}

func (r *reply) meta() Meta {
	return Meta{Generation: r.ext.Generation, Size: int64(r.ext.Size), TTL: ttl(r.ext.TTLMillis)}
}

// verify compares the checksum when the whole value is here.
func (c *Client) verify(r *reply) error {
	if c.cfg.NoVerify || uint64(len(r.body)) != r.ext.Size || r.placed != nil && r.placed.lent.Bytes != nil {
		return nil // not wanted, not possible, or it has not travelled
	}
	sum := r.sum.CRC
	if !r.sum.Done {
		sum = checksum(r.body)
	}
	if sum != r.header.CRC {
		return fmt.Errorf("client: %w: the value's is %#x, want %#x", dramnode.ErrCorrupt, sum, r.header.CRC)
	}
	return nil
}

// Put writes a value and returns its generation. It keeps neither key nor value.
func (c *Client) Put(ctx context.Context, key, value []byte, opts ...Option) (dramnode.Generation, error) {
	var o op
	if err := c.preparePut(ctx, &o, key, value, opts); err != nil {
		return 0, err
	}
	return c.doWrite(ctx, &o)
}

// NewBuffer returns a buffer of n bytes of any content, to be filled and given to PutBuffer or
// released. It waits for memory.
func (c *Client) NewBuffer(ctx context.Context, n int) (*Buffer, error) {
	if n < 0 {
		return nil, fmt.Errorf("client: %w: a buffer of %d bytes", dramnode.ErrInvalid, n)
	}
	if n <= transport.CopyBytes {
		return heapBuffer(make([]byte, n)), nil
	}
	return c.pool.wait(ctx, n, c.deadline(ctx))
}

// PutBuffer is Put without a copy. The buffer is given away, whatever the outcome: the network may
// read it after PutBuffer returned.
func (c *Client) PutBuffer(ctx context.Context, key []byte, b *Buffer, opts ...Option) (dramnode.Generation, error) {
	if !b.give() {
		return 0, fmt.Errorf("client: %w: the buffer was released or put before", dramnode.ErrInvalid)
	}
	o := op{large: b}
	if err := c.preparePut(ctx, &o, key, b.bytes, opts); err != nil {
		b.drop()
		return 0, err
	}
	return c.doWrite(ctx, &o)
}

// preparePut makes o a put and changes nothing else before it has succeeded.
func (c *Client) preparePut(ctx context.Context, o *op, key, value []byte, opts []Option) error {
	return c.asPut(o, c.opDeadline(ctx, o), key, value, opts)
}

func (c *Client) asPut(o *op, deadline time.Time, key, value []byte, opts []Option) error {
	if err := dramnode.CheckKey(key); err != nil {
		return err
	}
	if limit := int(c.Table().MaxValue); len(value) > limit {
		return fmt.Errorf("%w: %d bytes, the cluster's limit is %d", dramnode.ErrTooLarge, len(value), limit)
	}
	flags, ext, err := writeExt(wire.KindPut, opts)
	if err != nil {
		return err
	}
	o.kind, o.flags, o.key, o.deadline = wire.KindPut, flags, key, deadline
	o.body, o.crc = value, checksum(value)
	c.asWrite(o, ext)
	return nil
}

// attach copies a long body to memory that the network may read. It waits for such memory.
func (c *Client) attach(ctx context.Context, o *op) error {
	return o.attach(func(n int) (*Buffer, error) { return c.pool.wait(ctx, n, o.until()) })
}

// attachNow is attach that does not wait: it fails with dramnode.ErrBusy.
func (c *Client) attachNow(o *op) error { return o.attach(c.pool.alloc) }

func (o *op) attach(alloc func(bytes int) (*Buffer, error)) error {
	if o.large != nil || len(o.body) <= transport.CopyBytes {
		return nil
	}
	b, err := alloc(len(o.body))
	if err != nil {
		return err
	}
	copyValue(b.bytes, o.body)
	o.large = b
	return nil
}

func (c *Client) doWrite(ctx context.Context, o *op) (dramnode.Generation, error) {
	defer o.end(c)
	if err := c.attach(ctx, o); err != nil {
		return 0, err
	}
	if err := c.do(ctx, o); err != nil {
		return 0, err
	}
	return o.call.reply.ext.Generation, nil
}

// Delete removes a value. Without a condition, deleting what is not there succeeds.
func (c *Client) Delete(ctx context.Context, key []byte, opts ...Option) error {
	_, err := c.Remove(ctx, key, opts...)
	return err
}

// Remove is Delete that tells its generation: dramnode.Absent when there was no value.
func (c *Client) Remove(ctx context.Context, key []byte, opts ...Option) (dramnode.Generation, error) {
	return c.change(ctx, wire.KindDelete, key, 0, opts)
}

// Touch gives a value a new life time, 0 for ever, and returns its new generation.
func (c *Client) Touch(ctx context.Context, key []byte, life time.Duration, opts ...Option) (dramnode.Generation, error) {
	return c.change(ctx, wire.KindTouch, key, life, opts)
}

func (c *Client) change(ctx context.Context, kind wire.Kind, key []byte, life time.Duration, opts []Option) (dramnode.Generation, error) {
	var o op
	if err := c.asChange(&o, kind, key, life, opts); err != nil {
		return 0, err
	}
	o.deadline = c.deadline(ctx)
	return c.doWrite(ctx, &o)
}

// asChange makes o a deletion, or a change of the life time.
func (c *Client) asChange(o *op, kind wire.Kind, key []byte, life time.Duration, opts []Option) error {
	if err := dramnode.CheckKey(key); err != nil {
		return err
	}
	if life < 0 {
		return fmt.Errorf("client: %w: a TTL of %v", dramnode.ErrInvalid, life)
	}
	flags, ext, err := writeExt(kind, opts)
	if err != nil {
		return err
	}
	ext.TTLMillis = millis(life)
	o.kind, o.flags, o.key = kind, flags, key
	c.asWrite(o, ext)
	return nil
}
