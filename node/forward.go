package node

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/router"
	"github.com/dramnode/dramnode/storage"
	"github.com/dramnode/dramnode/transport"
	"github.com/dramnode/dramnode/wire"
)

// A forward is one operation that this node hands to the owner: it owns the request until the owner's
// reply, or the lack of one, was passed back. Three parties may hold it: the call until it is complete, and
// the network as long as it reads the request's body or the reply's. The last to let go recycles it. Pooled:
// a short body costs no new memory, either way.
type forward struct {
	n     *Node
	call  transport.Call
	later transport.Responder
	kind  wire.Kind

	header [wire.HeaderBytes + wire.WriteExtBytes + dramnode.MaxKeyBytes]byte
	small  [transport.CopyBytes]byte // the request's body when it is short
	passed []byte                    // the reply's body when it is short
	value  storage.Reservation       // the request's body when it is long
	result storage.Reservation       // the reply's body when it is long

	holders atomic.Int32
}

var forwards = sync.Pool{New: func() any { return new(forward) }}

// forward sends r to the owner, once.
func (n *Node) forward(v *router.View, d router.Decision, r *request) {
	owner := &v.Table.Members[d.Row.Owner]
	link, err := n.peers.link(owner.Addr)
	switch {
	case err != nil:
	case !r.until().IsZero() && time.Now().After(r.until()):
		err = fmt.Errorf("%w: no time left to ask %s", dramnode.ErrUnavailable, owner.Name)
	case r.h.Flags&wire.FlagRelay != 0 && link.Info().State != transport.LinkOpen: // its sender need not wait here
		err = fmt.Errorf("%w: %s is not reached from here either", dramnode.ErrUnavailable, owner.Name)
	}
	if err != nil {
		n.drop(r)
		n.fail(r, err)
		return
	}
	f := forwards.Get().(*forward)
	f.n, f.kind = n, r.h.Kind
	if err := f.takeBody(r); err != nil {
		forwards.Put(f)
		n.fail(r, err)
		return
	}
	h := r.h
	h.Flags |= wire.FlagHop | wire.FlagFence
	h.Epoch, h.TableVersion = d.Row.Epoch, v.Table.Version
	if !r.until().IsZero() {
		h.BudgetMicros = budgetOf(time.Until(r.until()))
	}
	f.call.Header = wire.AppendHeader(f.header[:0], &h)
	f.call.Deadline = r.until()
	f.call.Completer = f
	if r.from != nil {
		f.later = r.from.Detach()
	} else {
		f.later = r.later
	}
	n.forwarded.Add(1)
	link.Call(&f.call)
}

// takeBody moves r's body to where it may stay until the network has sent it.
func (f *forward) takeBody(r *request) error {
	body := r.body
	switch {
	case r.value.Bytes != nil:
		f.value, r.value = r.value, storage.Reservation{}
		body = f.value.Bytes
	case len(body) > transport.CopyBytes:
		res, err := f.n.store.ReserveScratch(len(body))
		if err != nil {
			return err
		}
		copy(res.Bytes, body)
		f.value, body = res, res.Bytes
	default:
		body = f.small[:copy(f.small[:], body)]
	}
	f.call.Body = transport.Body{}
	f.holders.Store(1)
	if len(body) > 0 {
		f.call.Body = f.lend(body)
	}
	return nil
}

// lend makes a body of b, which f keeps until the network releases it.
func (f *forward) lend(b []byte) transport.Body {
	f.holders.Add(1)
	return transport.Body{Bytes: b, Releaser: f}
}

// Release implements transport.Releaser for the bodies that f lends.
func (f *forward) Release(uint64) { f.drop() }

// PlaceReply implements transport.Completer.
func (f *forward) PlaceReply(_ *transport.Call, _ []byte, bytes int) (b []byte, err error) {
	if f.result, err = f.n.store.ReserveScratch(bytes); err != nil {
		return nil, err
	}
	return f.result.Bytes, nil
}

// Complete implements transport.Completer: the owner's reply goes back as it is.
func (f *forward) Complete(_ *transport.Call, header, body []byte, err error) {
	defer f.drop()
	if err != nil {
		f.n.store.Abort(f.result)
		f.result = storage.Reservation{}
		f.fail(err)
		return
	}
	out, err := f.passOn(body)
	if err != nil {
		f.fail(err)
		return
	}
	f.respond(header, out)
}

// passOn returns the reply's body in memory that outlives the callback.
func (f *forward) passOn(body []byte) (transport.Body, error) {
	switch {
	case f.result.Bytes != nil: // where it is
	case len(body) == 0:
		return transport.Body{}, nil
	case len(body) <= transport.CopyBytes:
		f.passed = append(f.passed[:0], body...)
		return f.lend(f.passed), nil
	default:
		res, err := f.n.store.ReserveScratch(len(body))
		if err != nil {
			return transport.Body{}, err
		}
		copy(res.Bytes, body)
		f.result = res
	}
	out := transport.Body{Bytes: f.result.Bytes, Releaser: reservations{f.n.store}, Token: f.result.Token()}
	f.result = storage.Reservation{}
	return out, nil
}

// fail answers with what a failed call means to the sender: a read that may have been seen is merely
// unavailable, a write's outcome is unknown.
func (f *forward) fail(err error) {
	if errors.Is(err, dramnode.ErrUnknownOutcome) && f.kind == wire.KindGet {
		err = fmt.Errorf("%w: %v", dramnode.ErrUnavailable, err)
	}
	a := failed(err)
	h := wire.Header{Kind: f.kind, Status: a.status, Flags: wire.FlagReply, TableVersion: f.n.version.Load()}
	f.n.count(f.kind, a.status)
	f.respond(wire.AppendHeader(nil, &h), a.body)
}

func (f *forward) respond(header []byte, body transport.Body) {
	if err := f.later.Respond(header, body); err != nil {
		f.n.cfg.Log.Error().Err(err).Msg("forwarded reply not sent")
	}
}

// drop is what a holder does that lets go.
func (f *forward) drop() {
	if f.holders.Add(-1) != 0 {
		return
	}
	f.n.store.Abort(f.value)
	f.value, f.later, f.call = storage.Reservation{}, nil, transport.Call{}
	forwards.Put(f)
}
