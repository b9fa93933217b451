package node

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/transport"
)

// Network returns a network for a client in this process. Its link to this node's own address calls
// Handler.Serve in the caller's goroutine, so an operation that is served here is over when Call returns;
// its other links are those that the node has already. Run only closes: calls that wait for another node
// end with the node's own network.
func (n *Node) Network() transport.Network {
	return &inside{n: n, links: map[*selfLink]struct{}{}, peer: transport.Peer{
		Role: transport.RoleClient, Name: n.self.Name, Incarnation: newID(), Transport: "inside",
	}}
}

// An inside is the network of one client in this process.
type inside struct {
	n    *Node
	peer transport.Peer // how the client appears to the node

	mu    sync.Mutex
	links map[*selfLink]struct{} // open
}

// Dial implements transport.Network.
func (i *inside) Dial(addr string) (transport.Link, error) {
	if addr != i.n.self.Addr {
		if _, err := i.n.peers.link(addr); err != nil {
			return nil, err
		}
		return peerLink{i.n.peers, addr}, nil
	}
	l := &selfLink{network: i, since: time.Now(), waiting: map[*waiting]struct{}{}}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.links[l] = struct{}{}
	return l, nil
}

// Alloc implements transport.Network.
func (i *inside) Alloc(bytes int) (transport.Region, error) { return i.n.network.Alloc(bytes) }

// Addr implements transport.Network.
func (i *inside) Addr() string { return "" }

// Run implements transport.Network.
func (i *inside) Run(ctx context.Context) error {
	<-ctx.Done()
	i.mu.Lock()
	links := i.links
	i.links = map[*selfLink]struct{}{}
	i.mu.Unlock()
	for l := range links {
		l.Close()
	}
	return nil
}

// A peerLink is the node's own link to an address, which the node replaces when it needs to.
type peerLink struct {
	peers *peers
	addr  string
}

// Call implements transport.Link.
func (l peerLink) Call(c *transport.Call) { l.CallAll([]*transport.Call{c}) }

// CallAll implements transport.Link.
func (l peerLink) CallAll(calls []*transport.Call) {
	link, err := l.peers.link(l.addr)
	if err != nil { // the address was good once
		for _, c := range calls {
			lose(c, fmt.Errorf("%w: %w", dramnode.ErrUnavailable, err))
		}
		return
	}
	link.CallAll(calls)
}

// Info implements transport.Link.
func (l peerLink) Info() transport.LinkInfo {
	link, err := l.peers.link(l.addr)
	if err != nil {
		return transport.LinkInfo{Addr: l.addr, Err: err}
	}
	return link.Info()
}

// Close implements transport.Link. The link is the node's, so it stays.
func (l peerLink) Close() {}

// lose ends a call that was not sent.
func lose(c *transport.Call, err error) {
	body := c.Body
	c.Completer.Complete(c, nil, nil, err)
	body.Release()
}

// A selfLink is the link to this node.
type selfLink struct {
	network *inside
	since   time.Time

	closed atomic.Bool

	mu      sync.Mutex
	waiting map[*waiting]struct{}
}

// requests hold what Serve sees of a call. Their Scratch makes them too large for a stack.
var requests = sync.Pool{New: func() any { return new(selfRequest) }}

// A selfRequest is a call while Place and Serve look at it.
type selfRequest struct {
	transport.Request
	link *selfLink
	call *transport.Call
}

// Call implements transport.Link.
func (l *selfLink) Call(c *transport.Call) {
	r := l.request()
	l.serve(r, c)
	r.recycle()
}

// CallAll implements transport.Link.
func (l *selfLink) CallAll(calls []*transport.Call) {
	r := l.request()
	for _, c := range calls {
		l.serve(r, c)
	}
	r.recycle()
}

// request returns what serve shows the node, for one call after the other.
func (l *selfLink) request() *selfRequest {
	r := requests.Get().(*selfRequest)
	r.link, r.Peer, r.Received, r.Conn = l, &l.network.peer, time.Now(), r
	return r
}

func (r *selfRequest) recycle() {
	r.link, r.call, r.Header, r.Body = nil, nil, nil, nil
	requests.Put(r)
}

func (l *selfLink) serve(r *selfRequest, c *transport.Call) {
	if l.closed.Load() {
		lose(c, fmt.Errorf("%w: %w", dramnode.ErrUnavailable, dramnode.ErrClosed))
		return
	}
	r.call, r.Header = c, c.Header
	r.Body, r.Placed, r.Cookie = c.Body.Bytes, false, 0
	// From Reply on, c may be in use for something else.
	body := c.Body
	if len(body.Bytes) > transport.CopyBytes {
		r.Body, r.Placed = nil, true
		place, err := l.network.n.Place(&r.Request, len(body.Bytes))
		if err != nil { // it has replied
			body.Release()
			return
		}
		copy(place, body.Bytes)
		r.Body = place
	}
	l.network.n.Serve(&r.Request)
	body.Release()
	if l.closed.Load() { // meanwhile, and Close may not have seen what waits by now
		l.abandon()
	}
}

// Reply implements transport.RequestConn.
func (r *selfRequest) Reply(_ *transport.Request, header []byte, body transport.Body) {
	deliver(r.call, header, body)
}

// Detach implements transport.RequestConn. It completes nothing: the node may hold a lock.
func (r *selfRequest) Detach(*transport.Request) transport.Responder {
	l, w := r.link, &waiting{link: r.link, call: r.call}
	l.mu.Lock()
	l.waiting[w] = struct{}{}
	if deadline := r.call.Deadline; !deadline.IsZero() {
		w.timer = time.AfterFunc(time.Until(deadline), func() {
			w.giveUp(fmt.Errorf("%w: %w", dramnode.ErrUnknownOutcome, context.DeadlineExceeded))
		})
	}
	l.mu.Unlock()
	return w
}

var errLinkClosed = fmt.Errorf("%w: %w", dramnode.ErrUnknownOutcome, dramnode.ErrClosed)

// A waiting is a call whose request was detached. It is in its link's set until it ends.
type waiting struct {
	link      *selfLink
	call      *transport.Call
	timer     *time.Timer // nil: no deadline
	responded bool        // guarded by link.mu
}

// end reports whether w ends now, which it does once.
func (w *waiting) end() bool {
	if _, ok := w.link.waiting[w]; !ok {
		return false
	}
	delete(w.link.waiting, w)
	if w.timer != nil {
		w.timer.Stop()
	}
	return true
}

func (w *waiting) giveUp(err error) {
	w.link.mu.Lock()
	ended := w.end()
	w.link.mu.Unlock()
	if ended {
		w.call.Completer.Complete(w.call, nil, nil, err)
	}
}

// Respond implements transport.Responder.
func (w *waiting) Respond(header []byte, body transport.Body) error {
	w.link.mu.Lock()
	again := w.responded
	w.responded = true
	ended := w.end()
	w.link.mu.Unlock()
	if again {
		body.Release()
		return fmt.Errorf("node: %w: a second response", dramnode.ErrInvalid)
	}
	if !ended {
		body.Release() // nobody waits any more
		return nil
	}
	deliver(w.call, header, body)
	return nil
}

// deliver completes c with a reply. A long body is lent to a caller that can keep it, else copied.
func deliver(c *transport.Call, header []byte, body transport.Body) {
	bytes := body.Bytes
	if len(bytes) <= transport.CopyBytes {
		c.Completer.Complete(c, header, bytes, nil)
		body.Release()
		return
	}
	if k, ok := c.Completer.(transport.Keeper); ok {
		k.KeepReply(c, body)
		c.Completer.Complete(c, header, bytes, nil)
		return
	}
	place, err := c.Completer.PlaceReply(c, header, len(bytes))
	if err != nil {
		body.Release()
		c.Completer.Complete(c, nil, nil, err)
		return
	}
	copy(place, bytes)
	body.Release()
	c.Completer.Complete(c, header, place, nil)
}

// Info implements transport.Link.
func (l *selfLink) Info() transport.LinkInfo {
	n := l.network.n
	l.mu.Lock()
	defer l.mu.Unlock()
	info := transport.LinkInfo{
		Addr: n.self.Addr, State: transport.LinkOpen, Since: l.since, Opened: 1, Pending: len(l.waiting),
		Peer: transport.Peer{Role: transport.RoleNode, Name: n.self.Name, Incarnation: n.self.Incarnation, Addr: n.self.Addr, Transport: "inside"},
	}
	if l.closed.Load() {
		info.State, info.Err = transport.LinkClosed, dramnode.ErrClosed
	}
	return info
}

// Close implements transport.Link.
func (l *selfLink) Close() {
	l.closed.Store(true)
	l.abandon()
	l.network.mu.Lock()
	delete(l.network.links, l)
	l.network.mu.Unlock()
}

// abandon ends what waits.
func (l *selfLink) abandon() {
	l.mu.Lock()
	var left []*waiting
	for w := range l.waiting {
		left = append(left, w)
	}
	l.mu.Unlock()
	for _, w := range left {
		w.giveUp(errLinkClosed)
	}
}
