package memnet

import (
	"bytes"
	"container/heap"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/transport"
)

// Causes of a link that is not open. None wraps a sentinel that says whether a request was applied:
// that depends on the call and is added for each.
var (
	errNobody  = errors.New("connection refused: nobody listens")
	errTimeout = errors.New("no answer to the handshake")
	errReset   = errors.New("connection reset: a frame was lost")
	errGone    = errors.New("connection closed by the peer")
)

// A refusal is a cause that trying again soon will not change.
type refusal struct{ error }

func (r refusal) Unwrap() error { return r.error }

// admit says whether a and b may talk.
func admit(a, b transport.Identity) error {
	switch {
	case a.Cluster != b.Cluster:
		return refusal{fmt.Errorf("clusters differ: %q and %q", a.Cluster, b.Cluster)}
	case !bytes.Equal(a.Key, b.Key):
		return refusal{fmt.Errorf("%w: cluster keys differ", dramnode.ErrNotAuthorised)}
	}
	return nil
}

// forever is later than any test.
const forever = 100 * 365 * 24 * time.Hour

type link struct {
	network *Network
	addr    string

	// Guarded by world.mu.
	info   transport.LinkInfo
	closed bool
	bytes  int // of bodies of pending calls

	// The poller's own.
	order   uint64
	end     *end       // the connection or the attempt at one; nil in a pause
	waiting []*pending // calls that wait for the attempt
	why     error      // there is no connection
	dialled time.Time
	tickAt  time.Time // end of the pause or of the attempt
	pause   time.Duration
}

// CallAll implements transport.Link.
func (l *link) CallAll(calls []*transport.Call) {
	for _, c := range calls {
		l.Call(c)
	}
}

// Call hands c in.
func (l *link) Call(c *transport.Call) {
	n := l.network
	s := submission{kind: submitCall, link: l, call: c}
	n.world.mu.Lock()
	if l.info.Pending >= MaxPendingCalls || l.bytes+len(c.Body.Bytes) > MaxPendingBytes {
		s.err = fmt.Errorf("memnet: %s: %w: %d calls with %d bytes are pending", l.addr, dramnode.ErrBusy, l.info.Pending, l.bytes)
		s.loan = loan{body: c.Body}
	} else {
		s.loan, s.err = n.lendLocked(c.Header, c.Body)
	}
	l.info.Pending++
	l.bytes += len(c.Body.Bytes)
	ended := n.state == stateEnded
	if !ended {
		s.header = bytes.Clone(c.Header)
		n.submitLocked(s)
	}
	n.world.mu.Unlock()
	if ended {
		l.fail(newPending(s), l.failure(dramnode.ErrUnavailable, dramnode.ErrClosed))
	}
}

// Info returns a snapshot.
func (l *link) Info() transport.LinkInfo {
	l.network.world.mu.Lock()
	defer l.network.world.mu.Unlock()
	return l.info
}

// Close hands the wish to close in; the state is closed from here on.
func (l *link) Close() {
	n := l.network
	n.world.mu.Lock()
	defer n.world.mu.Unlock()
	if l.closed {
		return
	}
	l.closed = true
	l.info.State, l.info.Since, l.info.Err = transport.LinkClosed, time.Now(), dramnode.ErrClosed
	if n.state != stateEnded {
		n.submitLocked(submission{kind: submitClose, link: l})
	}
}

// setInfo changes the state. A closed link stays closed.
func (l *link) setInfo(s transport.LinkState, cause error) {
	l.network.world.mu.Lock()
	defer l.network.world.mu.Unlock()
	if l.closed && s != transport.LinkClosed {
		return
	}
	l.info.Err = nil
	if cause != nil {
		l.info.Err = fmt.Errorf("memnet: %s: %w", l.addr, cause)
	}
	if l.info.State != s {
		l.info.State, l.info.Since = s, time.Now()
	}
}

func (l *link) failure(kind, cause error) error {
	return fmt.Errorf("memnet: %s: %w: %w", l.addr, kind, cause)
}

// unsent is the error of a call that never left, for a cause.
func (l *link) unsent(cause error) error {
	if errors.Is(cause, dramnode.ErrNotAuthorised) {
		return fmt.Errorf("memnet: %s: %w", l.addr, cause)
	}
	return l.failure(dramnode.ErrUnavailable, cause)
}

// tick starts an attempt when the pause is over, and ends one that takes too long.
func (l *link) tick(now time.Time) {
	switch {
	case l.tickAt.After(now):
	case l.end == nil:
		l.dial(now)
	default:
		l.end.close(errTimeout, true)
	}
}

func (l *link) dial(now time.Time) {
	n, w := l.network, l.network.world
	l.dialled, l.tickAt = now, now.Add(n.config.Timing.Connect)
	w.mu.Lock()
	defer w.mu.Unlock()
	r := route{n.name, l.addr}
	w.dialled[r]++
	mine := newEnd(n, l, w.stream(r, w.dialled[r]))
	l.end = mine
	to := w.listenerLocked(l.addr)
	if to == nil {
		if _, stopped := w.blocked[r]; !stopped {
			n.postLocked(now.Add(w.delayLocked(mine.random)), event{kind: eventRefused, local: true, end: mine, err: errNobody})
		}
		return
	}
	theirs := newEnd(to, nil, w.stream(route{l.addr, n.name}, w.dialled[r]))
	mine.other, theirs.other = theirs, mine
	mine.sendLocked(event{kind: eventConnect}, true)
}

// opened makes the link carry calls.
func (l *link) opened(p transport.Peer) {
	n := l.network
	now := time.Now()
	l.pause, l.tickAt = 0, now.Add(forever)
	l.setInfo(transport.LinkOpen, nil)
	n.world.mu.Lock()
	l.info.Peer = p
	l.info.Opened++
	l.info.RoundTrip = now.Sub(l.dialled)
	n.world.mu.Unlock()
	if n.config.Events != nil && !n.killed.Load() {
		n.config.Events.LinkUp(l, p)
	}
	waiting := l.waiting
	l.waiting = nil
	for _, p := range waiting {
		p.waiting = false
		l.end.call(p)
	}
}

// start sends a call, lets it wait for the attempt under way, or fails it.
func (l *link) start(s submission) {
	p := newPending(s)
	if c := p.call; c.Deadline.IsZero() && c.Timeout > 0 {
		c.Deadline = time.Now().Add(c.Timeout)
	}
	_, alive := l.network.links[l]
	switch {
	case s.err != nil:
		l.fail(p, s.err)
	case !alive:
		l.fail(p, l.unsent(dramnode.ErrClosed))
	case p.hasDeadline() && !p.call.Deadline.After(time.Now()):
		l.fail(p, l.unsent(context.DeadlineExceeded))
	case l.end == nil:
		l.fail(p, l.unsent(l.why))
	default:
		if p.hasDeadline() {
			heap.Push(&l.network.deadlines, p)
		}
		if l.end.open {
			l.end.call(p)
			return
		}
		p.waiting = true
		l.waiting = append(l.waiting, p)
	}
}

// lost sets the state after the connection or the attempt ended, before any callback tells of it.
func (l *link) lost(cause error) {
	timing := l.network.config.Timing
	l.end, l.why = nil, cause
	l.pause = min(max(2*l.pause, timing.RetryMin), timing.RetryMax)
	state := transport.LinkConnecting
	if errors.As(cause, new(refusal)) {
		state, l.pause = transport.LinkRefused, timing.RetryMax
	}
	jittered := l.pause/2 + time.Duration(l.network.random.Int64N(int64(l.pause/2)+1))
	l.tickAt = time.Now().Add(jittered)
	l.setInfo(state, cause)
}

// tellLost calls back after lost: calls that waited fail.
func (l *link) tellLost(cause error, wasOpen bool) {
	n := l.network
	waiting := l.waiting
	l.waiting = nil
	for _, p := range waiting {
		l.fail(p, l.unsent(cause))
	}
	if wasOpen && n.config.Events != nil && !n.killed.Load() {
		n.config.Events.LinkDown(l, fmt.Errorf("memnet: %s: %w", l.addr, cause))
	}
}

// shut closes the link for good.
func (l *link) shut(cause error) {
	n := l.network
	if _, ok := n.links[l]; !ok {
		return
	}
	delete(n.links, l)
	e := l.end
	l.end = nil
	n.world.mu.Lock()
	l.closed = true
	n.world.mu.Unlock()
	l.setInfo(transport.LinkClosed, cause)
	wasOpen := e != nil && e.open
	if e != nil {
		e.close(cause, true)
	}
	l.tellLost(cause, wasOpen)
}

// A pending is a call without its end.
type pending struct {
	link    *link
	call    *transport.Call
	header  []byte
	loan    loan // of a call that was not sent; afterwards it is the connection's
	bytes   int
	id      uint64
	at      int // in the heap of deadlines, -1 when absent
	waiting bool
	out     *outgoing // the body's way out, when it is separate and not done
	in      *incoming // the reply's body on its way
	expired bool      // only out is waited for
}

func newPending(s submission) *pending {
	return &pending{link: s.link, call: s.call, header: s.header, loan: s.loan, bytes: len(s.call.Body.Bytes), at: -1}
}

func (p *pending) hasDeadline() bool { return !p.call.Deadline.IsZero() }

// fail completes a call that was not sent.
func (l *link) fail(p *pending, err error) {
	l.network.endLoan(p.loan)
	l.complete(p, nil, nil, err)
}

// complete is the end of p. It is no longer known to anyone else.
func (l *link) complete(p *pending, header, body []byte, err error) {
	n := l.network
	if p.at >= 0 {
		heap.Remove(&n.deadlines, p.at)
	}
	n.world.mu.Lock()
	l.info.Pending--
	l.bytes -= p.bytes
	n.world.mu.Unlock()
	if !n.killed.Load() {
		p.call.Completer.Complete(p.call, header, body, err)
	}
}

// expire handles a deadline. A body in flight is waited for, since a network card could not be stopped.
func (n *Network) expire(p *pending) {
	heap.Remove(&n.deadlines, p.at)
	l := p.link
	switch {
	case p.waiting:
		for i, other := range l.waiting {
			if other == p {
				l.waiting = append(l.waiting[:i], l.waiting[i+1:]...)
				break
			}
		}
		l.fail(p, l.unsent(context.DeadlineExceeded))
	case p.in != nil:
	case p.out != nil:
		p.expired = true
	default:
		l.end.giveUp(p)
	}
}

type deadlineHeap []*pending

func (h deadlineHeap) Len() int           { return len(h) }
func (h deadlineHeap) Less(i, j int) bool { return h[i].call.Deadline.Before(h[j].call.Deadline) }
func (h deadlineHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].at, h[j].at = i, j
}
func (h *deadlineHeap) Push(x any) {
	p := x.(*pending)
	p.at = len(*h)
	*h = append(*h, p)
}
func (h *deadlineHeap) Pop() any {
	last := len(*h) - 1
	p := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	p.at = -1
	return p
}
