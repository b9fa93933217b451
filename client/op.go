package client

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"time"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/transport"
	"github.com/dramnode/dramnode/wire"
)

// An op is one operation with all its attempts. Its owner is the goroutine that drives it:
//
//	start, await, and then either end or, after a stepRetry or stepRefresh, again and start ...
type op struct {
	kind     wire.Kind
	flags    uint16
	fence    uint32 // with to: an epoch; 0: none
	key      []byte
	ext      [wire.WriteExtBytes]byte
	extBytes int
	crc      uint32
	body     []byte        // short
	large    *Buffer       // the op's reference
	to       *peer         // nil: the owner of key
	deadline time.Time     // zero: timeout after the network took the first attempt in
	timeout  time.Duration // used while deadline is zero: most operations need no clock of their own
	now      time.Time     // when deadline was computed; zero: long ago
	counter  uint64        // of a write
	numbers  *numbers      // where counter is from, which also ends it; nil: from Client.acks
	slot     bool          // the next attempt frees one of Client.slots

	tried      uint8  // replicas that were asked since the last pause; see candidate
	others     bool   // there are replicas that were not
	bounded    bool   // timeout or deadline is within recordedLife
	over       bool   // there must be no other attempt
	unanswered uint16 // attempts that may have been executed
	doubted    *view  // of the first of them; nil: there is none

	call *call // the current attempt, with its reply after await
	sent route
	view *view // at the time of the attempt
	try  int
	err  error // what the caller gets if the latest attempt was the last
}

func (o *op) write() bool { return o.counter != 0 }

// asWrite gives o its idempotency id, the same for all attempts; to an op with numbers only those do.
func (c *Client) asWrite(o *op, e wire.WriteExt) {
	e.Client = c.id
	if o.numbers == nil {
		e.Counter, e.FirstUnacked = c.acks.begin(1)
		o.counter = e.Counter
	}
	o.extBytes = len(wire.AppendWriteExt(o.ext[:0], e))
}

// number gives o the counter that asWrite left out. A batch does it when it is about to be sent: until a counter is
// answered, nodes keep records of all the client's writes from there on.
func (o *op) number() {
	e, _ := wire.ParseWriteExt(o.ext[:o.extBytes]) // asWrite made it
	e.Counter, e.FirstUnacked = o.numbers.begin()
	o.counter = e.Counter
	wire.AppendWriteExt(o.ext[:0], e)
}

// start sends one attempt and does not wait.
func (c *Client) start(o *op) {
	if c.prepare(o) {
		o.sent.to.link.Call(&o.call.sent)
	}
}

// prepare makes the attempt's call, which must go to o.sent.to. False: it cannot be sent.
func (c *Client) prepare(o *op) bool {
	o.call = nil
	o.view = c.view.Load()
	o.sent = route{to: o.to, epoch: o.fence}
	if o.to == nil {
		var err error
		if o.sent, err = c.route(o.view, o); err != nil {
			o.err = lastWord(o.doubted != nil, err)
			return false
		}
	}
	left := o.timeout
	if !o.deadline.IsZero() {
		if o.now.IsZero() {
			o.now = time.Now()
		}
		left = o.deadline.Sub(o.now)
	}
	all := left
	if o.write() {
		left = o.bound(left)
	}
	a := c.newCall()
	var h wire.Header // field by field: a literal is made elsewhere and then copied
	h.Kind, h.Flags, h.Epoch = o.kind, o.flags, o.sent.epoch
	h.BudgetMicros, h.CRC = budget(left), o.crc
	h.Ext, h.Key = o.ext[:o.extBytes], o.key
	if o.view != nil {
		h.TableVersion = o.view.table.Version
	}
	if h.Epoch != 0 {
		h.Flags |= wire.FlagFence
	}
	if o.sent.relay {
		h.Flags |= wire.FlagRelay
	}
	h.Flags |= c.direct.flags(o.kind, o.sent)
	a.header = wire.AppendHeader(a.header[:0], &h)
	a.sent.Deadline, a.sent.Timeout = o.deadline, o.timeout
	if left < all {
		a.sent.Timeout = left
		if !o.deadline.IsZero() {
			a.sent.Deadline = o.now.Add(left)
		}
	}
	if o.sent.read {
		a.reads(o.sent)
	}
	a.sent.Sum = transport.Sum{Wanted: o.kind == wire.KindGet && !c.cfg.NoVerify}
	a.slot, o.slot = o.slot, false
	o.call, o.now = a, time.Time{}
	a.load(o.body, o.large)
	return true
}

// bound returns how long the attempt of a write may take, of what is left. The first
// attempt also limits all that follow.
func (o *op) bound(left time.Duration) time.Duration {
	if !o.bounded {
		o.bounded = true
		left = min(left, recordedLife)
		if o.deadline.IsZero() {
			o.timeout = left
		} else {
			o.deadline = earlier(o.deadline, o.now.Add(left))
		}
	}
	return min(left, attemptLimit(o.bodyBytes(), int(o.unanswered)))
}

// until is when o must have ended, counted from now if nothing was sent yet.
func (o *op) until() time.Time {
	if o.deadline.IsZero() {
		o.deadline = time.Now().Add(o.timeout)
	}
	return o.deadline
}

// budget crosses the wire as a duration, since clocks differ. 0 would mean no limit.
func budget(left time.Duration) uint32 {
	return uint32(min(max(1, left.Microseconds()), math.MaxUint32))
}

// await waits for the attempt. After stepFail o.err is the error for the caller.
func (c *Client) await(ctx context.Context, o *op) step {
	a := o.call
	if a == nil { // it could not be sent
		if o.over {
			return stepFail
		}
		return stepRetry
	}
	if a.state.CompareAndSwap(callSent, callAwaited) {
		select {
		case <-a.done:
		case <-ctx.Done():
			return o.abandon(context.Cause(ctx))
		}
	}
	return c.settle(o)
}

// settle says what follows from the reply.
func (c *Client) settle(o *op) step {
	r := &o.call.reply
	newer, lost, cut := false, false, false
	if r.err != nil {
		lost = !errors.As(r.err, new(*placeError))
		o.sent.to.trusted.Store(!lost)
	} else if o.view != nil {
		newer = r.header.TableVersion > o.view.table.Version
		if r.header.Status == wire.StatusNotOwner && !newer {
			newer = !o.sent.to.isMember(o.view.table)
		}
		cut = r.header.Status == wire.StatusNoQuorum // so others may know of a newer table
	}
	s, doubt := stepDone, false
	if r.err != nil || r.header.Status != wire.StatusOK {
		s, doubt = decide(past{o.write(), o.doubted != nil}, r.err, r.header.Status, newer)
	}
	if doubt {
		o.unanswered++
		if o.doubted == nil {
			o.doubted = o.view
		}
	}
	if s != stepDone {
		o.err = lastWord(o.doubted != nil, failure(o.write(), r))
		if o.sent.read && s != stepFail && (lost || r.err == nil) {
			o.sent.to.load.refused()
		}
	} else if c.direct != nil && r.ext.Place != 0 {
		c.direct.learn(o)
	}
	if o.view != nil && o.kind != wire.KindTable && s != stepRefresh && (newer || lost || cut) {
		c.noteStale()
	}
	return s
}

// abandon leaves the attempt to the network, which recycles it.
func (o *op) abandon(cause error) step {
	if o.write() {
		o.err = fmt.Errorf("client: %w: %w", dramnode.ErrUnknownOutcome, cause)
	} else {
		o.err = fmt.Errorf("client: %w: %w", dramnode.ErrUnavailable, cause)
	}
	return stepFail
}

// endAttempt lets go of the attempt and of its reply.
func (o *op) endAttempt() {
	if o.call != nil {
		o.call.drop()
		o.call = nil
	}
}

// end lets go of everything.
func (o *op) end(c *Client) {
	o.endAttempt()
	o.detach()
	if o.counter != 0 && o.numbers == nil {
		c.acks.end(o.counter, 1)
	}
	o.counter = 0
}

// detach lets go of the memory for a long body.
func (o *op) detach() {
	if o.large != nil {
		o.large.drop()
		o.large = nil
	}
}

// again prepares the attempt after s. Its error, which is also o.err, says why there is none.
func (c *Client) again(ctx context.Context, o *op, s step) error {
	if o.deadline.IsZero() && o.call != nil && !o.call.sent.Deadline.IsZero() {
		sent := &o.call.sent
		o.deadline = sent.Deadline.Add(o.timeout - sent.Timeout) // from when the network took the attempt in
	}
	o.until()
	o.endAttempt()
	try := o.try
	o.try++
	if s == stepRefresh && c.refresh(ctx, o.sent.to, o.view, o.deadline) == nil && c.view.Load() != o.view {
		o.tried = 0
		return nil
	}
	if o.others && c.closedErr() == nil && ctx.Err() == nil {
		return nil
	}
	if err := c.pause(ctx, backoff(try), o.deadline); err != nil {
		o.err = fmt.Errorf("%w (attempt %d was the last: %w)", o.err, o.try, err)
		return o.err
	}
	return nil
}

const (
	pauseMin = 2 * time.Millisecond
	pauseMax = 100 * time.Millisecond
)

// backoff is the pause after the attempt with this number, counted from 0.
func backoff(try int) time.Duration {
	pause := min(pauseMin<<min(try, 16), pauseMax)
	return pause/2 + rand.N(pause/2)
}

// pause waits, or says why there is no time to.
func (c *Client) pause(ctx context.Context, d time.Duration, deadline time.Time) error {
	if err := c.closedErr(); err != nil {
		return err
	}
	if time.Until(deadline) <= d {
		return context.DeadlineExceeded
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-c.ended:
		return c.closedErr()
	}
}

// do drives o until its reply is in o.call.reply or it has failed. The caller ends o.
func (c *Client) do(ctx context.Context, o *op) error {
	if ctx.Err() != nil {
		return fmt.Errorf("client: %w: %w", dramnode.ErrUnavailable, context.Cause(ctx))
	}
	c.start(o)
	return c.finish(ctx, o)
}

// finish is do for an op whose first attempt was started.
func (c *Client) finish(ctx context.Context, o *op) error { return c.proceed(ctx, o, c.await(ctx, o)) }

// proceed is finish after an attempt that ended with s.
func (c *Client) proceed(ctx context.Context, o *op, s step) error {
	for {
		switch s {
		case stepDone:
			return nil
		case stepFail:
			return o.err
		}
		if err := c.again(ctx, o, s); err != nil {
			return err
		}
		c.start(o)
		s = c.await(ctx, o)
	}
}
