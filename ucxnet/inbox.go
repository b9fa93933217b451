package ucxnet

import (
	"fmt"
	"sync/atomic"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/transport"
)

// An inbox is how other goroutines hand work to the poller: a lock-free stack of calls, linked through
// Call.Transport.Next, that the poller takes whole and reverses. What else there is to hand over
// travels as a Call too; Call.Transport.Link says what it is: *pending, *answer or *command.
type inbox struct {
	head    atomic.Pointer[transport.Call]
	sleeper *sleeper
	closed  atomic.Bool
}

// A command is a function for the poller to run; rare, so it may allocate.
type command struct {
	node transport.Call
	link *link // that it is about
	run  func(*poller)
}

func (in *inbox) do(l *link, run func(*poller)) {
	c := &command{link: l, run: run}
	c.node.Transport.Link = c
	in.push(&c.node, &c.node)
}

// push adds a chain that leads from newest to oldest.
func (in *inbox) push(newest, oldest *transport.Call) {
	for {
		old := in.head.Load()
		oldest.Transport.Next = old
		if in.head.CompareAndSwap(old, newest) {
			break
		}
	}
	if in.closed.Load() { // the poller has gone: whoever comes late answers for itself
		in.discard()
		return
	}
	in.sleeper.wakeIfAsleep()
}

func (in *inbox) empty() bool { return in.head.Load() == nil }

// take empties the inbox and returns its content, oldest first.
func (in *inbox) take() *transport.Call {
	if in.head.Load() == nil {
		return nil
	}
	var first *transport.Call
	for c := in.head.Swap(nil); c != nil; {
		next := c.Transport.Next
		c.Transport.Next = first
		first, c = c, next
	}
	return first
}

// close makes every later push end at once with ErrClosed, and discards what is there.
func (in *inbox) close() {
	in.closed.Store(true)
	in.discard()
}

func (in *inbox) discard() {
	for c := in.take(); c != nil; {
		next := c.Transport.Next
		c.Transport.Next = nil
		switch o := c.Transport.Link.(type) {
		case *pending:
			l := o.link
			c.Transport.Link = nil
			c.Body.Release()
			c.Completer.Complete(c, nil, nil, fmt.Errorf("%w: %w: link to %s", dramnode.ErrUnavailable, dramnode.ErrClosed, l.addr))
		case *answer:
			o.body.Release()
		case *command:
			o.link.discarded()
		}
		c = next
	}
}
