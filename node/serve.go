package node

import (
	"fmt"
	"time"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/control"
	"github.com/dramnode/dramnode/router"
	"github.com/dramnode/dramnode/storage"
	"github.com/dramnode/dramnode/transport"
	"github.com/dramnode/dramnode/wire"
)

// maxControlBytes limits the body of a control request.
const maxControlBytes = scratchLarge

// A request is one operation on its way through this node: its parsed header, its body, and where the
// reply goes. It lives on a poller's stack until it must wait, then it is copied to the heap.
type request struct {
	h     wire.Header
	body  []byte
	value storage.Reservation // holds body when it was placed
	from  *transport.Request  // set while the poller waits for us
	later transport.Responder // set after from was detached

	sum      transport.Sum // of body, when it was placed and the network could
	received time.Time     // by the network
	inside   bool          // from a client in this process, so nothing can have been damaged on the way
}

// until is when the sender gives up; zero: never.
func (r *request) until() time.Time {
	if r.h.BudgetMicros == 0 {
		return time.Time{}
	}
	return r.received.Add(time.Duration(r.h.BudgetMicros) * time.Microsecond)
}

// An answer is what a request ends with. Those of small operations are filled in where they are sent from: to copy one takes as long as
// to make it.
type answer struct {
	status wire.Status
	flags  uint16
	ext    wire.ReplyExt
	hasExt bool
	crc    uint32
	epoch  uint32
	body   transport.Body
}

func failed(err error) answer {
	a := answer{status: wire.StatusOf(err), body: transport.Body{Bytes: []byte(err.Error())}}
	if mismatch, ok := err.(*dramnode.GenerationError); ok {
		a.ext, a.hasExt, a.body = wire.ReplyExt{Generation: mismatch.Current}, true, transport.Body{}
	}
	if len(a.body.Bytes) > maxErrorText {
		a.body.Bytes = a.body.Bytes[:maxErrorText]
	}
	return a
}

const maxErrorText = 1024

// reply sends a. The header is built in memory that the network copies before it returns.
func (n *Node) reply(r *request, a *answer) {
	var h wire.Header
	h.Kind, h.Status, h.Flags = r.h.Kind, a.status, wire.FlagReply|a.flags
	h.Epoch, h.CRC, h.TableVersion = a.epoch, a.crc, n.version.Load()
	var ext [wire.ReplyExtBytes]byte
	if a.hasExt {
		h.Ext = wire.AppendReplyExt(ext[:0], a.ext)
	}
	n.count(r.h.Kind, a.status)
	if r.from != nil {
		r.from.Reply(wire.AppendHeader(r.from.Scratch[:0], &h), a.body)
		return
	}
	if err := r.later.Respond(wire.AppendHeader(nil, &h), a.body); err != nil {
		n.cfg.Log.Error().Err(err).Uint8("kind", uint8(r.h.Kind)).Msg("reply not sent")
	}
}

// fail sends err.
func (n *Node) fail(r *request, err error) {
	a := failed(err)
	n.reply(r, &a)
}

// damaged reports whether the body is not the one that its sender summed.
func (n *Node) damaged(r *request) bool {
	switch {
	case !n.cfg.Verify || r.inside:
		return false
	case r.sum.Done:
		return r.sum.CRC != r.h.CRC
	}
	return wire.Checksum(r.body) != r.h.CRC
}

// detach lets r outlive the callback that brought it: what points into the network's memory is copied.
func (r *request) detach() {
	if r.from == nil {
		return
	}
	buf := make([]byte, 0, len(r.h.Ext)+len(r.h.Key))
	buf = append(append(buf, r.h.Ext...), r.h.Key...)
	r.h.Ext, r.h.Key = buf[:len(r.h.Ext):len(r.h.Ext)], buf[len(r.h.Ext):]
	if r.value.Bytes == nil { // inline, or in scratch memory
		r.body = append([]byte(nil), r.body...)
	}
	r.later, r.from = r.from.Detach(), nil
}

// Place implements transport.Handler: it reserves the memory that a put's value will stay in. What
// clients may send is never placed in scratch memory, which the table needs.
func (n *Node) Place(r *transport.Request, bytes int) ([]byte, error) {
	var req request
	err := n.parse(&req, r)
	if err == nil {
		var b []byte
		if b, err = n.place(&req, r, bytes); err == nil {
			r.Sum.Wanted = n.cfg.Verify && !req.inside
			return b, nil
		}
	}
	if !n.replicas.refuseValue(&req, err) {
		n.fail(&req, err)
	}
	return nil, transport.ErrRefused
}

func (n *Node) place(req *request, r *transport.Request, bytes int) ([]byte, error) {
	switch req.h.Kind {
	case wire.KindPut:
		res, err := n.replicas.placePut(req, bytes)
		r.Cookie = res.Token()
		return res.Bytes, err
	case wire.KindReplica:
		res, err := n.replicas.placeMessage(req, bytes)
		r.Cookie = res.Token()
		return res.Bytes, err
	case wire.KindList, wire.KindDeleteRange:
		if bytes > n.cfg.MaxValueBytes {
			return nil, fmt.Errorf("%w: a request of kind %d with %d bytes", dramnode.ErrTooLarge, req.h.Kind, bytes)
		}
		res, err := n.store.ReserveScratch(bytes)
		r.Cookie = res.Token()
		return res.Bytes, err
	case wire.KindMember:
		if bytes > maxControlBytes {
			return nil, fmt.Errorf("%w: control request of %d bytes", dramnode.ErrTooLarge, bytes)
		}
		return n.scratch.get(bytes)
	}
	return nil, fmt.Errorf("%w: a request of kind %d has no body of %d bytes", dramnode.ErrInvalid, req.h.Kind, bytes)
}

// parse validates what a peer sent. The reply to a request without a readable header carries kind 0
// data, so that the sender's own error handling sees it.
func (n *Node) parse(req *request, r *transport.Request) (err error) {
	req.from, req.received = r, r.Received
	_, req.inside = r.Conn.(*selfRequest)
	if req.received.IsZero() {
		req.received = time.Now()
	}
	if err = req.h.Parse(r.Header); err != nil {
		req.h = wire.Header{Kind: wire.KindInfo}
		return fmt.Errorf("%w: %w", dramnode.ErrInvalid, err)
	}
	if req.h.Flags&wire.FlagReply != 0 {
		return fmt.Errorf("%w: a reply came as a request", dramnode.ErrInvalid)
	}
	if onlyNodes(&req.h) && r.Peer.Role != transport.RoleNode {
		return fmt.Errorf("%w: only nodes may send requests of kind %d", dramnode.ErrNotAuthorised, req.h.Kind)
	}
	return nil
}

// Serve implements transport.Handler.
func (n *Node) Serve(r *transport.Request) {
	var req request
	err := n.parse(&req, r)
	if r.Placed && r.Cookie != 0 {
		req.value = n.store.Resume(r.Cookie)
	}
	if r.Err != nil {
		n.free(&req, r)
		return
	}
	if err != nil {
		n.free(&req, r)
		n.fail(&req, err)
		return
	}
	req.body, req.sum = r.Body, r.Sum
	switch req.h.Kind {
	case wire.KindGet, wire.KindPut, wire.KindDelete, wire.KindTouch:
		n.serveKey(&req)
		return
	case wire.KindList, wire.KindDeleteRange:
		n.later(&req, n.replicas.serveRange)
	case wire.KindReplica:
		n.replicas.serveMessage(&req)
		return
	case wire.KindMember: // leases hang on it: it does not wait for a worker
		_, err := n.plane.serve(req.h.Kind, req.body)
		n.replyBytes(&req, nil, err)
	case wire.KindShare:
		n.serveShare(&req)
	case wire.KindInfo:
		n.later(&req, n.serveInfo)
	case wire.KindAccept:
		n.later(&req, n.serveAccept)
	case wire.KindRecover:
		n.later(&req, n.serveRecover)
	default:
		n.later(&req, n.serveControl)
	}
	if r.Placed && r.Cookie == 0 {
		n.scratch.put(r.Body) // later has copied it
	}
}

// onlyNodes are the kinds that a client has no business with.
func onlyNodes(h *wire.Header) bool {
	switch h.Kind {
	case wire.KindReplica, wire.KindMember:
		return true
	}
	return h.Flags&wire.FlagHop != 0
}

// later runs do on a goroutine of the node, unless too many run already.
func (n *Node) later(r *request, do func(*request)) {
	r.detach()
	kept := *r
	select {
	case n.workers <- struct{}{}:
		n.work.Go(func() {
			defer func() { <-n.workers }()
			do(&kept)
		})
	default:
		n.drop(&kept)
		n.fail(&kept, fmt.Errorf("%w: %d requests of this kind are under way", dramnode.ErrBusy, cap(n.workers)))
	}
}

// free gives back the memory that Place named.
func (n *Node) free(req *request, r *transport.Request) {
	if !r.Placed {
		return
	}
	if req.value.Bytes != nil {
		n.store.Abort(req.value)
		return
	}
	n.scratch.put(r.Body)
}

// drop gives back a value that was not stored.
func (n *Node) drop(req *request) {
	if req.value.Bytes != nil {
		n.store.Abort(req.value)
		req.value = storage.Reservation{}
	}
}

// serveKey handles an operation on one key: here, at the owner, or not at all.
func (n *Node) serveKey(r *request) {
	if err := dramnode.CheckKey(r.h.Key); err != nil {
		n.drop(r)
		n.fail(r, err)
		return
	}
	v := n.view.Load()
	if v == nil || v.Self == control.None {
		n.drop(r)
		n.fail(r, errNoTable)
		return
	}
	switch d := v.Route(&r.h); d.Action {
	case router.Serve:
		n.replicas.serveKey(d, r)
	case router.Forward:
		n.forward(v, d, r)
	case router.Refuse:
		n.drop(r)
		n.refuse(r, d)
	}
}

// refuse says who owns the partition as far as we know.
func (n *Node) refuse(r *request, d router.Decision) {
	n.reply(r, &answer{status: wire.StatusNotOwner, epoch: d.Row.Epoch, body: transport.Body{Bytes: control.AppendRow(nil, *d.Row)}})
}
