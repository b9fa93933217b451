package ucxnet

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/transport"
)

// A pending is a call that a network owns, from Link.Call to Complete.
type pending struct {
	call   *transport.Call
	link   *link
	header []byte // copied: the caller's is its own again once Link.Call returns

	// Of the poller.
	id         uint64
	deadline   nanos     // 0: none
	ep         *endpoint // that carries it
	queued     *outgoing // the body that waits to be sent; nil once UCX may have the request
	receiving  bool      // UCX writes to the reply's memory: the call cannot end before that does
	prev, next *pending  // in ep.calls
}

// A pendingList is doubly linked through its elements.
type pendingList struct{ first *pending }

func (l *pendingList) add(s *pending) {
	s.prev, s.next = nil, l.first
	if l.first != nil {
		l.first.prev = s
	}
	l.first = s
}

func (l *pendingList) remove(s *pending) {
	if s.prev != nil {
		s.prev.next = s.next
	} else {
		l.first = s.next
	}
	if s.next != nil {
		s.next.prev = s.prev
	}
	s.prev, s.next = nil, nil
}

// A callTable gives calls their ids: the slot's index and its generation, so that a late reply never
// meets the slot's next user.
type callTable struct {
	slots    []callSlot
	free     []uint32
	len      int
	earliest nanos // no call ends before; a lower bound
}

type callSlot struct {
	s          *pending
	generation uint32
}

const never = nanos(math.MaxInt64)

func (t *callTable) add(s *pending) {
	var i uint32
	if n := len(t.free); n > 0 {
		i, t.free = t.free[n-1], t.free[:n-1]
	} else {
		i = uint32(len(t.slots))
		t.slots = append(t.slots, callSlot{})
	}
	t.slots[i].s = s
	t.len++
	s.id = uint64(t.slots[i].generation)<<32 | uint64(i)
	if s.deadline != 0 {
		t.earliest = min(t.earliest, s.deadline)
	}
}

// get returns the call with the id, nil when it has ended or never was.
func (t *callTable) get(id uint64) *pending {
	i := uint32(id)
	if int64(i) >= int64(len(t.slots)) || t.slots[i].generation != uint32(id>>32) {
		return nil
	}
	return t.slots[i].s
}

func (t *callTable) remove(s *pending) {
	i := uint32(s.id)
	t.slots[i].s = nil
	t.slots[i].generation++
	t.free = append(t.free, i)
	t.len--
}

// Call implements transport.Link.
func (l *link) Call(c *transport.Call) {
	l.wrap(c)
	l.n.inbox.push(c, c)
}

// CallAll implements transport.Link.
func (l *link) CallAll(calls []*transport.Call) {
	var newest *transport.Call
	for _, c := range calls {
		l.wrap(c)
		c.Transport.Next = newest
		newest = c
	}
	if newest != nil {
		l.n.inbox.push(newest, calls[0])
	}
}

func (l *link) wrap(c *transport.Call) {
	s := l.n.pending.Get().(*pending)
	s.call, s.link = c, l
	if len(c.Header) <= transport.MaxHeaderBytes {
		s.header = append(s.header[:0], c.Header...)
	}
	c.Transport.Link = s
}

// startCall sends a call, or ends it at once.
func (p *poller) startCall(s *pending) {
	l, c := s.link, s.call
	if err := p.admit(l, c); err != nil {
		p.endUnsent(s, err)
		return
	}
	switch {
	case !c.Deadline.IsZero():
		s.deadline = nanos(c.Deadline.Sub(p.start))
		if s.deadline <= p.now {
			p.endUnsent(s, fmt.Errorf("%w: link to %s: %w", dramnode.ErrUnavailable, l.addr, context.DeadlineExceeded))
			return
		}
	case c.Timeout > 0:
		s.deadline = p.now + nanos(c.Timeout)
		c.Deadline = p.start.Add(time.Duration(s.deadline))
	}
	p.calls.add(s)
	s.ep = l.current
	s.ep.calls.add(s)
	l.countPending(1)
	p.sendRequest(s)
}

// admit reports why c cannot be sent.
func (p *poller) admit(l *link, c *transport.Call) error {
	if l.removed {
		return fmt.Errorf("%w: %w: link to %s", dramnode.ErrUnavailable, dramnode.ErrClosed, l.addr)
	}
	if len(c.Header) > transport.MaxHeaderBytes {
		return fmt.Errorf("%w: header of %d bytes, want at most %d", dramnode.ErrInvalid, len(c.Header), transport.MaxHeaderBytes)
	}
	if err := p.n.checkBody(c.Body.Bytes); err != nil {
		return err
	}
	if l.current == nil {
		return l.unavailable
	}
	if l.pending >= p.n.limits.Calls || l.current.queued > p.n.limits.QueuedBytes || l.current.bulk.len() >= p.n.limits.QueuedBulk || p.crowded(l.current) {
		return fmt.Errorf("%w: link to %s: %d calls outstanding, %d bytes to be sent", dramnode.ErrBusy, l.addr, l.pending, l.current.queued)
	}
	return nil
}

func (p *poller) endUnsent(s *pending, err error) {
	body := s.call.Body
	body.Release()
	p.finish(s, nil, nil, err)
}

// complete ends a call that is in the table.
func (p *poller) complete(s *pending, header, body []byte, err error) {
	s.ep.calls.remove(s)
	p.calls.remove(s)
	s.link.countPending(-1)
	p.finish(s, header, body, err)
}

func (p *poller) finish(s *pending, header, body []byte, err error) {
	c := s.call
	c.Transport.Link = nil
	if cap(s.header) > largeBufferBytes {
		s.header = nil
	}
	*s = pending{header: s.header[:0]}
	p.n.pending.Put(s)
	p.completed = true
	c.Completer.Complete(c, header, body, err)
}

// callError is what a call ends with when its endpoint does, or its time.
func callError(s *pending, cause error) error {
	class := dramnode.ErrUnknownOutcome
	if s.queued != nil {
		class = dramnode.ErrUnavailable
	}
	return fmt.Errorf("%w: link to %s: %w", class, s.link.addr, cause)
}

// failCalls ends the calls of a closed endpoint, save those whose reply UCX may still be writing.
func (p *poller) failCalls(ep *endpoint, cause error) {
	for s := ep.calls.first; s != nil; {
		next := s.next
		if !s.receiving {
			p.dequeue(s)
			p.complete(s, nil, nil, callError(s, cause))
		}
		s = next
	}
}

// expireCalls ends the calls whose deadline has passed. One whose reply body is arriving gets a little
// longer, since the memory cannot be taken back; then its endpoint is closed.
func (p *poller) expireCalls() {
	if p.now < p.calls.earliest {
		return
	}
	earliest := never
	var stuck []*endpoint
	for i := range p.calls.slots {
		s := p.calls.slots[i].s
		switch {
		case s == nil || s.deadline == 0:
		case p.now < s.deadline:
			earliest = min(earliest, s.deadline)
		case !s.receiving:
			err := callError(s, context.DeadlineExceeded)
			p.dequeue(s)
			p.complete(s, nil, nil, err)
		case p.now < s.deadline+receiveExtra:
			earliest = min(earliest, s.deadline+receiveExtra)
		default:
			stuck = append(stuck, s.ep)
		}
	}
	p.calls.earliest = earliest
	for _, ep := range stuck {
		p.closeEndpoint(ep, "reply body stuck", errStuck)
	}
}

var errStuck = errors.New("a body did not travel in time")
