package node

import (
	"bytes"
	"fmt"
	"sync"
	"time"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/transport"
	"github.com/dramnode/dramnode/wire"
)

// peers keeps one link to every address that the table or gossip names, and knows which incarnations
// are in contact. It is the node's transport.Events.
type peers struct {
	scratch *scratch

	mu       sync.Mutex
	network  transport.Network
	links    map[string]transport.Link // by address
	contacts map[uint64]transport.Link // open links, by the incarnation at the other end
}

func newPeers() *peers {
	return &peers{links: map[string]transport.Link{}, contacts: map[uint64]transport.Link{}}
}

// LinkUp implements transport.Events.
func (p *peers) LinkUp(l transport.Link, peer transport.Peer) {
	p.mu.Lock()
	p.forgetLocked(l)
	p.contacts[peer.Incarnation] = l
	p.mu.Unlock()
}

// LinkDown implements transport.Events.
func (p *peers) LinkDown(l transport.Link, err error) {
	p.mu.Lock()
	p.forgetLocked(l)
	p.mu.Unlock()
}

func (p *peers) forgetLocked(l transport.Link) {
	for inc, known := range p.contacts {
		if known == l {
			delete(p.contacts, inc)
		}
	}
}

// Contact reports whether the process with this incarnation is reachable right now.
func (p *peers) Contact(incarnation uint64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.contacts[incarnation] != nil
}

// link returns the link to addr, dialling it first if need be.
func (p *peers) link(addr string) (transport.Link, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if l := p.links[addr]; l != nil {
		return l, nil
	}
	l, err := p.network.Dial(addr)
	if err != nil {
		return nil, err
	}
	p.links[addr] = l
	return l, nil
}

// keep closes the links to addresses that nobody names any more.
func (p *peers) keep(wanted map[string]bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for addr, l := range p.links {
		if !wanted[addr] {
			l.Close()
			p.forgetLocked(l)
			delete(p.links, addr)
		}
	}
}

func (p *peers) infos() map[string]transport.LinkInfo {
	p.mu.Lock()
	defer p.mu.Unlock()
	infos := make(map[string]transport.LinkInfo, len(p.links))
	for addr, l := range p.links {
		infos[addr] = l.Info()
	}
	return infos
}

// start sends a control request, which to hears the end of unless start fails.
func (p *peers) start(c *controlCall, to transport.Completer, addr string, kind wire.Kind, body []byte, deadline time.Time) error {
	l, err := p.link(addr)
	if err != nil {
		return err
	}
	h := wire.Header{Kind: kind}
	if !deadline.IsZero() {
		h.BudgetMicros = budgetOf(time.Until(deadline))
	}
	c.call = transport.Call{Header: wire.AppendHeader(nil, &h), Completer: to, Deadline: deadline}
	if c.call.Body, err = p.scratch.body(body); err != nil {
		return err
	}
	l.Call(&c.call)
	return nil
}

func budgetOf(left time.Duration) uint32 {
	return uint32(min(max(left.Microseconds(), 1), 1<<32-1))
}

// A controlCall lives until Complete, even when nobody waits for it any more.
type controlCall struct {
	call  transport.Call
	peers *peers
	place []byte
	reply []byte
	err   error
	done  chan struct{}
}

// PlaceReply implements transport.Completer.
func (c *controlCall) PlaceReply(_ *transport.Call, _ []byte, n int) (b []byte, err error) {
	c.place, err = c.peers.scratch.get(n)
	return c.place, err
}

// Complete implements transport.Completer.
func (c *controlCall) Complete(_ *transport.Call, header, body []byte, err error) {
	c.reply, c.err = replyOf(header, body, err)
	if c.place != nil {
		c.peers.scratch.put(c.place)
	}
	close(c.done)
}

// replyOf copies a reply's body, or turns its status into the error it stands for.
func replyOf(header, body []byte, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	h, err := wire.ParseHeader(header)
	if err != nil {
		return nil, err
	}
	if h.Status == wire.StatusNotOwner {
		return nil, fmt.Errorf("%w: not the owner", dramnode.ErrUnavailable)
	}
	if err := h.Status.Err(); err != nil {
		return nil, fmt.Errorf("%w: %s", err, bytes.TrimPrefix(body, []byte(err.Error()+": ")))
	}
	return append([]byte(nil), body...), nil
}
