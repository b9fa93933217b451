package client

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/control"
	"github.com/dramnode/dramnode/ring"
	"github.com/dramnode/dramnode/transport"
	"github.com/dramnode/dramnode/wire"
)

// A peer is a node that the client has a link to.
type peer struct {
	addr string
	link transport.Link

	// trusted spares the question whether the link is open; the first failure ends it.
	trusted atomic.Bool
	load    load

	share    atomic.Pointer[share] // nil while its memory is not mapped
	shareErr atomic.Pointer[error] // why not
	asked    uint64                // the incarnation that has said whether we may; keepShares' own
}

func (p *peer) usable() bool {
	if p.trusted.Load() {
		return true
	}
	info := p.link.Info()
	open := info.State == transport.LinkOpen
	if open {
		p.load.connected(&info)
		p.trusted.Store(true)
	}
	return open
}

// refusal is an ErrNotAuthorised when the node refused us.
func (p *peer) refusal() error {
	info := p.link.Info()
	if info.State != transport.LinkRefused {
		return nil
	}
	return &refusedError{addr: p.addr, err: info.Err}
}

// A refusedError says which node refuses us, and why in the fewest words.
type refusedError struct {
	addr string
	err  error
}

func (e *refusedError) Error() string {
	return fmt.Sprintf("%v: %s refuses this client: %v", dramnode.ErrNotAuthorised, e.addr, cause(e.err))
}

// cause is what err says last, without the classes and links that were put before it.
func cause(err error) error {
	for {
		all, ok := err.(interface{ Unwrap() []error })
		if !ok {
			return err
		}
		list := all.Unwrap()
		if len(list) == 0 {
			return err
		}
		err = list[len(list)-1]
	}
}

func (e *refusedError) Unwrap() []error { return []error{dramnode.ErrNotAuthorised, e.err} }

// peers holds the links: to the seeds, and to those members that were needed so far.
type peers struct {
	network transport.Network
	seeds   map[string]bool // written before the first table only

	mu     sync.Mutex
	byAddr map[string]*peer
}

func newPeers(n transport.Network) *peers {
	return &peers{network: n, seeds: map[string]bool{}, byAddr: map[string]*peer{}}
}

func (s *peers) seed(addr string) (*peer, error) {
	s.seeds[addr] = true
	return s.dial(addr)
}

func (s *peers) dial(addr string) (*peer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.byAddr[addr]; p != nil {
		return p, nil
	}
	link, err := s.network.Dial(addr)
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	p := &peer{addr: addr, link: link}
	s.byAddr[addr] = p
	return p, nil
}

// all returns the peers in the order of their addresses.
func (s *peers) all() []*peer {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]*peer, 0, len(s.byAddr))
	for _, addr := range slices.Sorted(maps.Keys(s.byAddr)) {
		list = append(list, s.byAddr[addr])
	}
	return list
}

// other returns some usable peer but not, or nil.
func (s *peers) other(not *peer) *peer {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.byAddr {
		if p != not && p.usable() {
			return p
		}
	}
	return nil
}

// prune closes the links to all but the seeds and the members of t. A link with calls under way stays
// until the next table.
func (s *peers) prune(t *control.Table) {
	member := make(map[string]bool, len(t.Members))
	for i := range t.Members {
		member[t.Members[i].Addr] = true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for addr, p := range s.byAddr {
		if !member[addr] && !s.seeds[addr] && p.link.Info().Pending == 0 {
			p.link.Close()
			p.dropShare()
			delete(s.byAddr, addr)
		}
	}
}

// share makes p's memory readable, unless p was pruned while it was asked: then nobody would give it back.
func (s *peers) share(p *peer, memory *share) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byAddr[p.addr] != p {
		memory.view.Close()
		return
	}
	p.share.Store(memory)
}

// A view is one table with what the client needs beside it. It is replaced whole.
type view struct {
	table   *control.Table
	ring    *ring.Map
	members []atomic.Pointer[peer] // by index in table.Members; filled on first use
}

func (c *Client) member(v *view, i uint16) (*peer, error) {
	if p := v.members[i].Load(); p != nil {
		return p, nil
	}
	p, err := c.peers.dial(v.table.Members[i].Addr)
	if err != nil {
		return nil, fmt.Errorf("%w: member %s of the table: %w", dramnode.ErrUnavailable, v.table.Members[i].Name, err)
	}
	v.members[i].Store(p)
	return p, nil
}

// A route is where a request goes.
type route struct {
	to     *peer
	epoch  uint32 // the fence; 0 when to is not known to be the owner and forwards, or is one of several that answer
	relay  bool   // to forwards, by the row of that epoch
	read   bool   // to is one of several that answer
	sample bool   // with read: take the time
}

// route finds where o's next attempt goes. When the owner's link is not open, any node that is reached will forward; when
// none is, the request waits at the owner's link. Writes are fenced on either way, since the
// epoch tells by which of the partition's losses they are executed.
func (c *Client) route(v *view, o *op) (route, error) {
	p := v.ring.Partition(o.key)
	row := &v.table.Rows[p]
	if o.doubted != nil && !recordsKept(o.doubted.table, v.table, p) {
		o.over = true
		return route{}, errRecordsLost
	}
	o.others = false
	var forwarded route
	if o.write() {
		forwarded = route{epoch: row.Epoch, relay: true}
	}
	if c.via != nil {
		forwarded.to = c.via
		return forwarded, nil
	}
	owner, err := c.member(v, row.Owner)
	if row.Backups[0] != control.None && o.kind == wire.KindGet {
		if o.tried == 0 && err == nil && owner.share.Load() != nil && owner.usable() { // only the owner's memory is read directly
			o.tried, o.others = 1, true // as candidates counts
			return route{to: owner, epoch: row.Epoch}, nil
		}
		if to, ok := c.readRoute(v, row, o); ok {
			return to, nil
		}
	}
	if err == nil && owner.usable() {
		return route{to: owner, epoch: row.Epoch}, nil
	}
	if p := c.peers.other(owner); p != nil {
		forwarded.to = p
		return forwarded, nil
	}
	return route{to: owner, epoch: row.Epoch}, err
}
