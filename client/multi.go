package client

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/transport"
)

// A GetResult is the outcome for one key of MultiGet.
type GetResult struct {
	Value
	Err error
}

// MultiGet reads many keys at once. Result i is that of keys[i].
func (c *Client) MultiGet(ctx context.Context, keys [][]byte, opts ...Option) []GetResult {
	results := make([]GetResult, len(keys))
	m := c.multi(len(keys))
	defer m.end()
	deadline := c.deadline(ctx)
	for i, key := range keys {
		var ok bool
		if results[i].Value, ok = c.readDirect(ctx, key, opts, newBytes); ok {
			continue
		}
		if results[i].Err = m.ops[i].asGet(deadline, key, opts); results[i].Err == nil {
			m.live = append(m.live, i)
		}
	}
	c.doAll(ctx, m.ops, m.live, func(i int, err error) {
		if results[i].Err = err; err == nil {
			results[i].Value, results[i].Err = value(c, &m.ops[i])
		}
		m.ops[i].end(c)
	})
	return results
}

// An Item is one write of MultiPut.
type Item struct {
	Key, Value []byte
	Options    []Option
}

// A PutResult is the outcome for one item of MultiPut.
type PutResult struct {
	Generation dramnode.Generation
	Err        error
}

// MultiPut writes many values at once; each write is on its own. Result i is that of items[i].
func (c *Client) MultiPut(ctx context.Context, items []Item) []PutResult {
	results := make([]PutResult, len(items))
	m := c.multi(len(items))
	defer m.end()
	deadline := c.deadline(ctx)
	for i, it := range items {
		m.ops[i].numbers = &m.writes
		if results[i].Err = c.asPut(&m.ops[i], deadline, it.Key, it.Value, it.Options); results[i].Err == nil {
			m.ops[i].number()
			m.live = append(m.live, i)
		}
	}
	c.doAll(ctx, m.ops, m.live, func(i int, err error) {
		if results[i].Err = err; err == nil {
			results[i].Generation = m.ops[i].call.reply.ext.Generation
		}
		m.ops[i].end(c)
	})
	return results
}

// A multi is what MultiGet and MultiPut need besides their results. Pooled: otherwise it would be most of their garbage.
type multi struct {
	ops    []op
	live   []int // that must be sent
	writes numbers
}

var multis = sync.Pool{New: func() any { return new(multi) }}

// multi returns n zero ops.
func (c *Client) multi(n int) *multi {
	m := multis.Get().(*multi)
	m.ops, m.live = slices.Grow(m.ops, n)[:n], slices.Grow(m.live, n)
	m.writes.acks = &c.acks
	return m
}

// end is called when all ops have ended.
func (m *multi) end() {
	m.writes.end()
	m.writes.acks = nil
	if len(m.ops) > keptOps {
		return
	}
	clear(m.ops)
	m.ops, m.live = m.ops[:0], m.live[:0]
	multis.Put(m)
}

// doAll drives the ops of these indices in rounds: each round sends what is left, pipelined, and what
// must be retried goes into the next. It calls done once for each index, and done ends the op when it is
// through with the reply.
func (c *Client) doAll(ctx context.Context, ops []op, live []int, done func(i int, err error)) {
	for len(live) > 0 {
		retry, leader, s := c.round(ctx, ops, live, done)
		live = live[:0]
		if len(retry) == 0 {
			return
		}
		// One refresh or pause serves all.
		err := c.again(ctx, &ops[leader], s)
		for _, i := range retry {
			if err != nil {
				done(i, ops[i].err)
				continue
			}
			if i != leader {
				ops[i].endAttempt()
				ops[i].try++
			}
			live = append(live, i)
		}
	}
}

// round sends one attempt of each op and collects them in the same order. It returns what is to be
// sent again, and which of those, the leader, says best how to go on.
func (c *Client) round(ctx context.Context, ops []op, live []int, end func(int, error)) (retry []int, leader int, s step) {
	var few [2 * bundleCalls]int
	sent := few[:0] // started and not collected, oldest first
	var out bundles
	now := time.Now()
	collect := func() {
		out.flush()
		i := sent[0]
		sent = sent[1:]
		switch next := c.await(ctx, &ops[i]); next {
		case stepDone:
			end(i, nil)
		case stepFail:
			end(i, ops[i].err)
		default:
			if len(retry) == 0 || next == stepRefresh {
				leader, s = i, next
			}
			retry = append(retry, i)
			ops[i].detach() // those that were not sent yet may need the memory
		}
	}
	for _, i := range live {
		for len(sent) >= c.slots.limit() {
			collect()
		}
		err := c.attachNow(&ops[i])
		for errors.Is(err, dramnode.ErrBusy) && len(sent) > 0 {
			collect() // our own earlier writes may hold the memory
			err = c.attachNow(&ops[i])
		}
		if errors.Is(err, dramnode.ErrBusy) {
			err = c.attach(ctx, &ops[i])
		}
		if err != nil {
			end(i, err)
			continue
		}
		ops[i].now = now
		if c.prepare(&ops[i]) {
			out.add(ops[i].sent.to.link, &ops[i].call.sent)
		}
		sent = append(sent, i)
	}
	for len(sent) > 0 {
		collect()
	}
	return retry, leader, s
}

// bundles are calls that wait to be given to their links together, so that they travel together: a link
// that gets them one by one is already sending the first when the second comes.
type bundles []bundle

type bundle struct {
	link  transport.Link
	calls []*transport.Call
}

// bundleCalls is as many as fit about one message. With more, the network would idle meanwhile.
const bundleCalls = 32

func (bs *bundles) add(l transport.Link, call *transport.Call) {
	for i := range *bs {
		if b := &(*bs)[i]; b.link == l {
			if b.calls = append(b.calls, call); len(b.calls) == bundleCalls {
				b.flush()
				if !answered(call) {
					runtime.Gosched() // where the network has no processor of its own, let it send
				}
			}
			return
		}
	}
	*bs = append(*bs, bundle{l, append(make([]*transport.Call, 0, bundleCalls), call)})
}

// answered reports that the network has a reply already, as one in this process may have.
func answered(c *transport.Call) bool {
	a, ok := c.Completer.(*call)
	return ok && a.state.Load() == callComplete
}

func (bs *bundles) flush() {
	for i := range *bs {
		(*bs)[i].flush()
	}
}

func (b *bundle) flush() {
	if len(b.calls) > 0 {
		b.link.CallAll(b.calls)
		b.calls = b.calls[:0]
	}
}
