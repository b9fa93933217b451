package client

import (
	"context"
	"fmt"
	"sync"

	"github.com/dramnode/dramnode"
)

// A flight is an operation whose outcome goes to a function. Until done ran it belongs to the client. Pooled.
type flight struct {
	op     op
	client *Client
	ctx    context.Context
	get    func(Value, error)               // one of the two
	put    func(dramnode.Generation, error) // is set
}

var flights = sync.Pool{New: func() any { return new(flight) }}

// GetFunc starts a Get, does not wait, and has done called once with the outcome. Value.Bytes is the
// network's memory: it is valid until done returns. When GetFunc itself returns an error nothing was
// started and done does not run: an ErrBusy says that Config.Outstanding operations are under way.
//
// Done runs on the network's goroutine, which serves nobody else meanwhile: it must be short and must not
// wait for anything, the next answer least of all. It may start further operations with GetFunc and
// PutFunc, and always finds room for one, since its own operation is over. Values longer than
// transport.CopyBytes, and what had to be tried again, come on a goroutine of their own.
//
// The key must not change before done runs. Of the context the deadline counts at once; its
// cancellation ends further attempts only.
func (c *Client) GetFunc(ctx context.Context, key []byte, done func(Value, error), opts ...Option) error {
	f := c.flight(ctx)
	f.get = done
	err := c.prepareGet(ctx, &f.op, key, opts)
	return c.launch(f, err)
}

// PutFunc starts a Put; see GetFunc. The value must not change before done runs. A long value is copied to
// memory of the client; when there is none, PutFunc returns an ErrBusy.
func (c *Client) PutFunc(ctx context.Context, key, value []byte, done func(dramnode.Generation, error), opts ...Option) error {
	f := c.flight(ctx)
	f.put = done
	err := c.preparePut(ctx, &f.op, key, value, opts)
	if err == nil {
		err = c.attachNow(&f.op)
	}
	return c.launch(f, err)
}

func (c *Client) flight(ctx context.Context) *flight {
	f := flights.Get().(*flight)
	f.client, f.ctx = c, ctx
	return f
}

func (f *flight) recycle() {
	f.op.end(f.client)
	*f = flight{}
	flights.Put(f)
}

// launch starts f, unless it could not be prepared.
func (c *Client) launch(f *flight, err error) error {
	if err == nil && f.ctx.Err() != nil {
		err = fmt.Errorf("client: %w: %w", dramnode.ErrUnavailable, context.Cause(f.ctx))
	}
	if err == nil {
		err = c.closedErr()
	}
	if err == nil && !c.slots.try() {
		err = fmt.Errorf("client: %w: %d operations are under way", dramnode.ErrBusy, c.slots.limit())
	}
	if err != nil {
		f.recycle()
		return err
	}
	f.op.slot = true
	if c.prepare(&f.op) {
		f.op.call.flight = f
		f.op.sent.to.link.Call(&f.op.call.sent) // from here on f is Complete's
		return nil
	}
	f.op.slot = false
	c.slots.give()
	c.wg.Go(func() { f.land(c.finish(f.ctx, &f.op)) })
	return nil
}

// arrived takes the reply of f's first attempt, on the network's goroutine.
func (f *flight) arrived() {
	c := f.client
	s := c.settle(&f.op)
	switch {
	case s == stepDone && f.op.call.reply.placed == nil:
		f.land(nil)
	case s == stepFail:
		f.land(f.op.err)
	default: // takes long: a checksum, or a pause
		c.wg.Go(func() { f.land(c.proceed(f.ctx, &f.op, s)) })
	}
}

// land hands the outcome over.
func (f *flight) land(err error) {
	if f.put != nil {
		var g dramnode.Generation
		if err == nil {
			g = f.op.call.reply.ext.Generation
		}
		f.put(g, err)
		f.recycle()
		return
	}
	var v Value
	if err == nil {
		r := &f.op.call.reply
		v.Meta = r.meta()
		if err = f.client.verify(r); err == nil {
			v.Bytes = r.body
		}
	}
	f.get(v, err)
	f.recycle()
}
