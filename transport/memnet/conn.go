package memnet

import (
	"bytes"
	"cmp"
	"container/heap"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/transport"
)

// An end is one side of a connection. Its network's poller owns it, save where noted.
type end struct {
	network *Network
	other   *end  // nil when nobody listened
	link    *link // nil on the side that was dialled
	order   uint64

	random *rand.Rand // guarded by world.mu
	lastAt time.Time  // arrival of the last ordered event; guarded by world.mu

	open   bool // the handshake is done
	closed bool
	since  time.Time // of open
	peer   *transport.Peer
	held   []event // what a partition keeps from arriving

	calls     map[uint64]*pending
	outgoing  map[*outgoing]struct{}
	incoming  map[*incoming]struct{}
	callsMade uint64
	flights   uint64 // outgoing and incoming so far: gives them an order
}

func newEnd(n *Network, l *link, random *rand.Rand) *end {
	return &end{
		network:  n,
		link:     l,
		random:   random,
		calls:    map[uint64]*pending{},
		outgoing: map[*outgoing]struct{}{},
		incoming: map[*incoming]struct{}{},
	}
}

// A frame is a request when it reaches the side that was dialled, else a reply.
type frame struct {
	id     uint64
	header []byte
	body   []byte    // inline
	out    *outgoing // separate
}

// A loan is a body that the network holds until its release.
type loan struct {
	body   transport.Body
	region *region // of a long body
}

// lendLocked takes a frame's parts over, or says why it cannot. The body is lent in both cases.
func (n *Network) lendLocked(header []byte, body transport.Body) (loan, error) {
	switch size := len(body.Bytes); {
	case len(header) > transport.MaxHeaderBytes:
		return loan{body: body}, fmt.Errorf("memnet: %w: a header of %d bytes, want at most %d", dramnode.ErrInvalid, len(header), transport.MaxHeaderBytes)
	case size <= transport.CopyBytes:
		return loan{body: body}, nil
	default:
		r := n.regionLocked(body.Bytes)
		if r == nil {
			return loan{body: body}, fmt.Errorf("memnet: %w: a body of %d bytes lies in no region of this network", dramnode.ErrInvalid, size)
		}
		r.frames++
		return loan{body: body, region: r}, nil
	}
}

func (n *Network) endLoan(l loan) {
	n.leaveRegion(l.region)
	n.release(l.body)
}

func (n *Network) leaveRegion(r *region) {
	if r != nil {
		n.world.mu.Lock()
		r.frames--
		n.world.mu.Unlock()
	}
}

// An outgoing is a separate body that the receiver reads by itself.
type outgoing struct {
	loan  loan
	call  *pending // when it is a request's
	order uint64

	mu    sync.Mutex // so that nobody reads after the end
	bytes []byte     // nil after the end
}

// read copies from offset, and reports false after the end.
func (o *outgoing) read(dst []byte, offset int) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.bytes == nil {
		return false
	}
	copy(dst, o.bytes[offset:])
	return true
}

func (o *outgoing) end() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.bytes = nil
}

// An incoming is a separate body on its way into memory that a callback named.
type incoming struct {
	frame   *frame
	into    []byte
	region  *region
	offset  int
	piece   int
	order   uint64
	inbound *inbound // a request's
	cookie  uint64
	call    *pending // a reply's
	sum     transport.Sum
}

// castagnoli is the polynomial of transport.Sum.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// landed takes the piece up to next in.
func (in *incoming) landed(next int) {
	if in.sum.Wanted {
		in.sum.CRC = crc32.Update(in.sum.CRC, castagnoli, in.into[in.offset:next])
		in.sum.Done = next == len(in.into)
	}
	in.offset = next
}

// sendLocked lets ev reach the other end. Ordered events of one end arrive in order.
func (e *end) sendLocked(ev event, ordered bool) {
	if e.other == nil {
		return
	}
	at := time.Now().Add(e.network.world.delayLocked(e.random))
	if ordered {
		if at.Before(e.lastAt) {
			at = e.lastAt
		}
		e.lastAt = at
	}
	ev.end = e.other
	e.other.network.postLocked(at, ev)
}

func (e *end) send(ev event, ordered bool) {
	e.network.world.mu.Lock()
	defer e.network.world.mu.Unlock()
	e.sendLocked(ev, ordered)
}

// sendFrame sends f with the body that l holds, or loses it and the connection.
func (e *end) sendFrame(f *frame, l loan, p *pending) {
	n, w := e.network, e.network.world
	if l.region == nil {
		f.body = bytes.Clone(l.body.Bytes)
	} else {
		e.flights++
		f.out = &outgoing{loan: l, call: p, order: e.flights, bytes: l.body.Bytes}
		e.outgoing[f.out] = struct{}{}
		if p != nil {
			p.out = f.out
		}
	}
	w.mu.Lock()
	if w.drop > 0 && e.random.Float64() < w.drop {
		n.postLocked(time.Now(), event{kind: eventClosed, local: true, end: e, err: errReset})
		e.sendLocked(event{kind: eventClosed, err: errReset}, true)
	} else {
		e.sendLocked(event{kind: eventFrame, frame: f}, f.out == nil)
	}
	w.mu.Unlock()
	if l.region == nil {
		n.endLoan(l)
	}
}

// call sends a request.
func (e *end) call(p *pending) {
	e.callsMade++
	p.id = e.callsMade
	e.calls[p.id] = p
	l := p.loan
	p.loan = loan{}
	e.sendFrame(&frame{id: p.id, header: p.header}, l, p)
}

// giveUp ends a call that was sent and not answered in time.
func (e *end) giveUp(p *pending) {
	delete(e.calls, p.id)
	e.link.complete(p, nil, nil, e.link.failure(dramnode.ErrUnknownOutcome, context.DeadlineExceeded))
}

// reply sends the reply that was handed in, unless the peer has gone.
func (e *end) reply(s submission) {
	if s.err != nil || e.closed {
		e.network.endLoan(s.loan)
		return
	}
	e.sendFrame(&frame{id: s.id, header: s.header}, s.loan, nil)
}

// deadAt is when the silence of the peer has lasted too long.
func (e *end) deadAt() (time.Time, bool) {
	if !e.open {
		return time.Time{}, false
	}
	w := e.network.world
	w.mu.Lock()
	defer w.mu.Unlock()
	since, silent := w.blocked[route{e.other.network.name, e.network.name}]
	if since.Before(e.since) {
		since = e.since
	}
	return since.Add(e.network.config.Timing.Dead), silent
}

// unholdLocked lets what a partition kept arrive.
func (e *end) unholdLocked() {
	for _, ev := range e.held {
		heap.Push(&e.network.inbox, ev)
	}
	e.held = nil
}

// receive handles one event.
func (n *Network) receive(ev event) {
	e := ev.end
	if e.closed || n.killed.Load() {
		return
	}
	switch ev.kind {
	case eventConnect:
		e.accept()
	case eventAccepted:
		e.accepted()
	case eventRefused, eventClosed:
		e.close(ev.err, ev.local)
	case eventFrame:
		if e.link == nil {
			e.request(ev.frame)
		} else {
			e.replied(ev.frame)
		}
	case eventPiece:
		e.fill(ev.in)
	case eventTaken:
		e.taken(ev.out)
	}
}

// accept is the listener's part of the handshake.
func (e *end) accept() {
	if err := admit(e.other.network.config.Identity, e.network.config.Identity); err != nil {
		e.closed = true
		e.send(event{kind: eventRefused, err: err}, true)
		return
	}
	e.establish()
	e.send(event{kind: eventAccepted}, true)
}

// accepted is the dialler's part of the handshake.
func (e *end) accepted() {
	e.establish()
	e.link.opened(*e.peer)
}

func (e *end) establish() {
	n := e.network
	n.made++
	e.order = n.made
	n.ends[e] = struct{}{}
	e.open, e.since = true, time.Now()
	c := e.other.network.config
	e.peer = &transport.Peer{
		Role:        c.Identity.Role,
		Name:        c.Identity.Name,
		Incarnation: c.Identity.Incarnation,
		Addr:        c.Addr,
		Transport:   "mem",
	}
}

// close ends the connection at this side. Bodies come back first, then what depended on them is told.
func (e *end) close(cause error, tellPeer bool) {
	if e.closed {
		return
	}
	n, l, wasOpen := e.network, e.link, e.open
	e.closed, e.open, e.held = true, false, nil
	delete(n.ends, e)
	if tellPeer {
		e.send(event{kind: eventClosed, err: errGone}, true)
	}
	lost := l != nil && l.end == e
	if lost {
		l.lost(cause)
	}
	for _, o := range sorted(e.outgoing, func(o *outgoing) uint64 { return o.order }) {
		o.end()
		n.endLoan(o.loan)
	}
	for _, in := range sorted(e.incoming, func(in *incoming) uint64 { return in.order }) {
		n.leaveRegion(in.region)
		if in.inbound != nil {
			err := fmt.Errorf("memnet: the body did not arrive: %w", cause)
			in.inbound.serve(&transport.Request{Header: in.frame.header, Body: in.into, Placed: true, Cookie: in.cookie, Err: err})
		}
	}
	for _, id := range sortedIDs(e.calls) {
		l.complete(e.calls[id], nil, nil, l.failure(dramnode.ErrUnknownOutcome, cause))
	}
	if lost {
		l.tellLost(cause, wasOpen)
	}
}

func sorted[T comparable](set map[T]struct{}, order func(T) uint64) []T {
	list := make([]T, 0, len(set))
	for t := range set {
		list = append(list, t)
	}
	slices.SortFunc(list, func(a, b T) int { return cmp.Compare(order(a), order(b)) })
	return list
}

func sortedIDs(calls map[uint64]*pending) []uint64 {
	ids := make([]uint64, 0, len(calls))
	for id := range calls {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// request asks the handler where a separate body goes, or serves at once.
func (e *end) request(f *frame) {
	in := &inbound{end: e, id: f.id}
	if f.out == nil {
		in.serve(&transport.Request{Header: f.header, Body: f.body})
		return
	}
	r := &transport.Request{Peer: e.peer, Header: bytes.Clone(f.header), Conn: in}
	n := len(f.out.loan.body.Bytes)
	into, err := e.network.config.Handler.Place(r, n)
	poison(r.Header)
	if err != nil {
		if !errors.Is(err, transport.ErrRefused) || !in.taken.Load() {
			panic(fmt.Sprintf("memnet: Place returned %v, answered=%v; to refuse it answers and returns ErrRefused", err, in.taken.Load()))
		}
		e.send(event{kind: eventTaken, out: f.out}, false)
		return
	}
	e.take(f, into, &incoming{inbound: in, cookie: r.Cookie, sum: transport.Sum{Wanted: r.Sum.Wanted}})
}

// replied completes a call, after its separate body if there is one.
func (e *end) replied(f *frame) {
	p := e.calls[f.id]
	switch {
	case p == nil || p.expired:
		if f.out != nil { // too late: nobody wants the body
			e.send(event{kind: eventTaken, out: f.out}, false)
		}
	case f.out == nil:
		e.finish(p, f.header, f.body, nil)
		poison(f.body)
	default:
		into, err := p.call.Completer.PlaceReply(p.call, f.header, len(f.out.loan.body.Bytes))
		if err != nil {
			e.send(event{kind: eventTaken, out: f.out}, false)
			e.finish(p, nil, nil, err)
			return
		}
		p.in = &incoming{call: p, sum: transport.Sum{Wanted: p.call.Sum.Wanted}}
		e.take(f, into, p.in)
	}
}

// finish completes a call that was sent. A request's body that the peer never took is waited for.
func (e *end) finish(p *pending, header, body []byte, err error) {
	delete(e.calls, p.id)
	if p.out != nil {
		p.out.call = nil
	}
	e.link.complete(p, header, body, err)
	poison(header)
}

// take starts the way of a separate body into memory. It comes in a few pieces, between which others
// may overtake it.
func (e *end) take(f *frame, into []byte, in *incoming) {
	n, w := e.network, e.network.world
	w.mu.Lock()
	in.region = n.regionLocked(into)
	if in.region == nil || len(into) != len(f.out.loan.body.Bytes) {
		w.mu.Unlock()
		panic(fmt.Sprintf("memnet: %d bytes were placed for a body of %d, in a region: %v", len(into), len(f.out.loan.body.Bytes), in.region != nil))
	}
	in.region.frames++
	pieces := 1 + e.random.IntN(4)
	w.mu.Unlock()
	e.flights++
	in.frame, in.into, in.order, in.piece = f, into, e.flights, (len(into)+pieces-1)/pieces
	e.incoming[in] = struct{}{}
	e.fill(in)
}

// fill lets one piece arrive.
func (e *end) fill(in *incoming) {
	next := min(in.offset+in.piece, len(in.into))
	if !in.frame.out.read(in.into[in.offset:next], in.offset) {
		return // the sender gave up: its close follows
	}
	in.landed(next)
	if next < len(in.into) {
		n, w := e.network, e.network.world
		w.mu.Lock()
		n.postLocked(time.Now().Add(w.delayLocked(e.random)), event{kind: eventPiece, end: e, in: in})
		w.mu.Unlock()
		return
	}
	delete(e.incoming, in)
	e.network.leaveRegion(in.region)
	e.send(event{kind: eventTaken, out: in.frame.out}, false)
	if in.inbound != nil {
		in.inbound.serve(&transport.Request{Header: in.frame.header, Body: in.into, Placed: true, Cookie: in.cookie, Sum: in.sum})
		return
	}
	in.call.call.Sum = in.sum
	e.finish(in.call, in.frame.header, in.into, nil)
}

// taken releases a body that the other side is done with.
func (e *end) taken(o *outgoing) {
	if _, ok := e.outgoing[o]; !ok {
		return
	}
	delete(e.outgoing, o)
	o.end()
	e.network.endLoan(o.loan)
	if p := o.call; p != nil {
		p.out = nil
		if p.expired {
			e.giveUp(p)
		}
	}
}

// An inbound is a request at the side that was dialled.
type inbound struct {
	end   *end
	id    uint64
	taken atomic.Bool // answered, or detached
}

// serve runs the handler's Serve. Afterwards nothing of r may be kept but placed memory.
func (in *inbound) serve(r *transport.Request) {
	n := in.end.network
	if n.killed.Load() {
		return
	}
	r.Peer, r.Conn = in.end.peer, in
	header, body, placed, err := r.Header, r.Body, r.Placed, r.Err
	n.config.Handler.Serve(r)
	poison(header)
	if !placed {
		poison(body)
	}
	if answered := in.taken.Load(); answered == (err != nil) {
		panic(fmt.Sprintf("memnet: Serve returned answered=%v for a request with error %v", answered, err))
	}
}

// Reply answers from inside a callback. A second reply is dropped.
func (in *inbound) Reply(_ *transport.Request, header []byte, body transport.Body) {
	n := in.end.network
	if !in.taken.CompareAndSwap(false, true) {
		n.release(body)
		return
	}
	if body.Releaser == nil && len(body.Bytes) <= transport.CopyBytes {
		body.Bytes = bytes.Clone(body.Bytes) // it may be the request's scratch
	}
	if err := in.answer(header, body, nil); err != nil {
		panic(err)
	}
}

// Detach lets the request be answered later.
func (in *inbound) Detach(*transport.Request) transport.Responder {
	r := &responder{inbound: in}
	r.used.Store(!in.taken.CompareAndSwap(false, true))
	return r
}

// answer hands a reply in, or only its body when there is already an error. The poller releases it.
func (in *inbound) answer(header []byte, body transport.Body, err error) error {
	n := in.end.network
	s := submission{kind: submitReply, end: in.end, id: in.id, err: err}
	n.world.mu.Lock()
	if err == nil {
		s.loan, s.err = n.lendLocked(header, body)
		s.header = bytes.Clone(header)
	} else {
		s.loan = loan{body: body}
	}
	ended := n.state == stateEnded
	if !ended {
		n.submitLocked(s)
	}
	n.world.mu.Unlock()
	if ended {
		n.endLoan(s.loan)
	}
	return s.err
}

type responder struct {
	inbound *inbound
	used    atomic.Bool
}

// Respond sends the reply, once.
func (r *responder) Respond(header []byte, body transport.Body) error {
	if !r.used.CompareAndSwap(false, true) {
		return r.inbound.answer(nil, body, fmt.Errorf("memnet: %w: a second reply", dramnode.ErrInvalid))
	}
	return r.inbound.answer(header, body, nil)
}
