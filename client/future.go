package client

import (
	"context"
	"fmt"

	"github.com/dramnode/dramnode"
)

// A Future is an operation under way. Its owner calls Wait once; that also does what retries there are.
type Future[T any] struct {
	client *Client
	ctx    context.Context
	op     op
	err    error // it was not started, or Wait returned already
	ready  bool  // value is the outcome
	value  T
	result func(*Client, *op) (T, error)
}

var errWaited = fmt.Errorf("client: %w: the future was waited for before", dramnode.ErrInvalid)

// Wait returns the outcome. Until then the client keeps the reply's memory for it.
func (f *Future[T]) Wait() (T, error) {
	var none T
	if f.err != nil {
		return none, f.err
	}
	f.err = errWaited
	if f.ready {
		return f.value, nil
	}
	defer f.op.end(f.client)
	if err := f.client.finish(f.ctx, &f.op); err != nil {
		return none, err
	}
	return f.result(f.client, &f.op)
}

// StartGet is Get that does not wait for the answer. It waits while Config.Outstanding operations are
// under way. The context holds until Wait returned, and key must not change before.
func (c *Client) StartGet(ctx context.Context, key []byte, opts ...Option) *Future[Value] {
	f := &Future[Value]{client: c, ctx: ctx, result: value}
	if f.value, f.ready = c.readDirect(ctx, key, opts, newBytes); f.ready {
		return f
	}
	if f.err = c.prepareGet(ctx, &f.op, key, opts); f.err == nil {
		f.err = c.startSlot(ctx, &f.op)
	}
	return f
}

// StartPut is Put that does not wait for the answer; see StartGet. The value must not change before
// Wait returned. It waits for memory too when the value is long, so somebody must Wait for earlier
// futures before all of Config.MemoryBytes are in use; and replicas keep records of all the client's writes from
// the first future on that nobody waits for.
func (c *Client) StartPut(ctx context.Context, key, value []byte, opts ...Option) *Future[dramnode.Generation] {
	f := &Future[dramnode.Generation]{client: c, ctx: ctx, result: generation}
	if f.err = c.preparePut(ctx, &f.op, key, value, opts); f.err != nil {
		return f
	}
	if f.err = c.attach(ctx, &f.op); f.err == nil {
		f.err = c.startSlot(ctx, &f.op)
	}
	if f.err != nil {
		f.op.end(c)
	}
	return f
}

func generation(_ *Client, o *op) (dramnode.Generation, error) {
	return o.call.reply.ext.Generation, nil
}

// startSlot starts the first attempt of o once there is a slot. The slot comes back with the reply,
// whether anybody waits for it or not.
func (c *Client) startSlot(ctx context.Context, o *op) error {
	if !c.slots.try() {
		if err := c.slots.take(ctx, o.until()); err != nil {
			return err
		}
	}
	o.slot = true
	c.start(o)
	if o.slot { // it could not be sent
		o.slot = false
		c.slots.give()
	}
	return nil
}
