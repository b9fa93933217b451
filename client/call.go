package client

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/transport"
	"github.com/dramnode/dramnode/wire"
)

// A call is one attempt. Up to three parties hold it: the goroutine that waits, the network until
// Complete ran, and the network until the body's Release ran. The last one to let go recycles it, so a
// caller whose context ended leaves at once and the memory stays until the network is done.
type call struct {
	client *Client
	sent   transport.Call
	refs   atomic.Int32
	state  atomic.Int32
	done   chan struct{} // gets one token when reply is complete, if somebody waits by then
	slot   bool          // holds one of client.slots until complete
	flight *flight       // that is told when it is complete, instead of somebody who waits
	reader *load         // that counts it until it is complete
	began  time.Time     // with reader: if the time is to be taken

	header []byte  // of the request
	copied []byte  // the request's body when it is short
	large  *Buffer // the request's body otherwise; the call holds a reference until Release

	reply reply // the network's until complete, then the waiter's
}

// States of a call.
const (
	callSent     = iota
	callAwaited  // somebody waits for the token
	callComplete // nobody waited: there is no token, the state tells
)

// A reply is what came back.
type reply struct {
	header wire.Header // without Ext and Key
	ext    wire.ReplyExt
	body   []byte        // in inline or in placed
	inline []byte        // the call's own memory
	placed *Buffer       // the waiter may take it by setting it to nil
	sum    transport.Sum // of body, when the network could
	err    error
}

const keptInlineBytes = 64 << 10 // a call that grew beyond it shrinks when it is recycled

func (c *Client) newCall() *call {
	a, ok := c.calls.Get().(*call)
	if !ok {
		a = &call{client: c, done: make(chan struct{}, 1)}
		a.sent.Completer = a
	}
	return a
}

// load makes a ready to be handed to the network. The references are counted before anything can run.
func (a *call) load(body []byte, large *Buffer) {
	a.state.Store(callSent)
	a.sent.Header = a.header
	a.sent.Body = transport.Body{}
	refs := int32(2)
	switch {
	case large != nil && len(large.bytes) > transport.CopyBytes:
		large.refs.Add(1)
		a.large = large
		body = large.bytes
	case large != nil:
		body = large.bytes
		fallthrough
	default:
		a.copied = append(a.copied[:0], body...)
		body = a.copied
	}
	if len(body) > 0 {
		refs++
		a.sent.Body = transport.Body{Bytes: body, Releaser: a}
	}
	a.refs.Store(refs)
}

// reads counts a at the replica that it goes to.
func (a *call) reads(to route) {
	a.reader, a.began = &to.to.load, time.Time{}
	a.reader.waiting.Add(1)
	if to.sample {
		a.began = time.Now()
	}
}

// Release implements transport.Releaser for the request's body.
func (a *call) Release(uint64) {
	if a.large != nil {
		a.large.drop()
		a.large = nil
	}
	a.drop()
}

// PlaceReply implements transport.Completer. It runs on a poller, so it does not wait for memory.
func (a *call) PlaceReply(_ *transport.Call, _ []byte, n int) ([]byte, error) {
	from := a.client.spare
	if wire.Kind(a.header[0]) == wire.KindGet {
		from = a.client.pool
	}
	b, err := from.alloc(n)
	if err != nil {
		return nil, &placeError{err}
	}
	a.reply.placed = b
	return b.bytes, nil
}

// KeepReply implements transport.Keeper.
func (a *call) KeepReply(_ *transport.Call, body transport.Body) { a.reply.placed = lentBuffer(body) }

// A placeError says that the peer answered and the answer did not fit here.
type placeError struct{ error }

func (e *placeError) Unwrap() error { return e.error }

// Complete implements transport.Completer.
func (a *call) Complete(_ *transport.Call, header, body []byte, err error) {
	r := &a.reply
	if err == nil {
		err = r.parse(header)
	}
	if r.err = err; err == nil {
		r.sum = a.sent.Sum
		if r.body = body; r.placed == nil && a.flight == nil {
			r.inline = append(r.inline[:0], body...)
			r.body = r.inline
		}
	}
	if err == nil && r.header.Kind != wire.Kind(a.header[0]) {
		r.err = fmt.Errorf("%w: a reply of kind %d to a request of kind %d", errReply, r.header.Kind, a.header[0])
	}
	if a.reader != nil {
		a.reader.done(a.began)
		a.reader = nil
	}
	if a.slot {
		a.slot = false
		a.client.slots.give()
	}
	if f := a.flight; f != nil {
		a.flight = nil
		f.arrived()
		a.drop()
		return
	}
	if !a.state.CompareAndSwap(callSent, callComplete) {
		a.done <- struct{}{}
	}
	a.drop()
}

// parse keeps nothing of header.
func (r *reply) parse(header []byte) (err error) {
	h := &r.header
	if err = h.Parse(header); err == nil {
		if r.ext, err = wire.ParseReplyExt(h.Ext); err == nil && h.Flags&wire.FlagReply == 0 {
			err = errRequest
		}
	}
	if err != nil {
		*h = wire.Header{}
		return fmt.Errorf("%w: %w", errReply, err)
	}
	h.Ext, h.Key = nil, nil
	return nil
}

var errRequest = errors.New("a request came as a reply")

func (a *call) drop() {
	if a.refs.Add(-1) != 0 {
		return
	}
	if a.state.Load() == callAwaited {
		select {
		case <-a.done: // who waited has left
		default:
		}
	}
	if a.reply.placed != nil {
		a.reply.placed.Release()
	}
	inline := a.reply.inline
	if cap(inline) > keptInlineBytes {
		inline = nil
	}
	a.reply = reply{inline: inline}
	a.client.calls.Put(a)
}

// errReply is wrapped by what is wrong with a reply that arrived whole.
var errReply = fmt.Errorf("client: malformed reply: %w", dramnode.ErrCorrupt)
