package memnet

import (
	"cmp"
	"container/heap"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/transport"
)

// ErrKilled is what Run returns after World.Kill.
var ErrKilled = errors.New("memnet: killed")

// turnEvents limits the events of one turn of a poller, so that no source starves another.
const turnEvents = 64

// backlog limits the events that wait for Run.
const backlog = 1024

type state uint8

const (
	stateNew state = iota
	stateRunning
	stateEnded
)

// A Network is one process's network. The goroutine in Run is its only poller.
type Network struct {
	world  *World
	config Config
	name   string // in the world
	killed atomic.Bool
	woken  chan struct{} // holds one token

	// Guarded by world.mu.
	state     state
	inbox     eventHeap
	submitted []submission
	regions   []*region

	// The poller's own.
	random    *rand.Rand
	links     map[*link]struct{}
	ends      map[*end]struct{}
	deadlines deadlineHeap
	made      uint64 // links and ends so far: gives them an order
}

func newNetwork(w *World, c Config) *Network {
	name := c.Addr
	if name == "" {
		name = c.Identity.Name
	}
	return &Network{
		world:  w,
		config: c,
		name:   name,
		woken:  make(chan struct{}, 1),
		random: w.stream(route{from: name}, c.Identity.Incarnation),
		links:  map[*link]struct{}{},
		ends:   map[*end]struct{}{},
	}
}

// Addr is the address that peers dial.
func (n *Network) Addr() string { return n.config.Addr }

// Dial returns a new link to addr.
func (n *Network) Dial(addr string) (transport.Link, error) {
	if err := checkAddr(addr); err != nil {
		return nil, err
	}
	l := &link{network: n, addr: addr}
	l.info = transport.LinkInfo{Addr: addr, Since: time.Now()}
	n.world.mu.Lock()
	defer n.world.mu.Unlock()
	if n.state == stateEnded {
		l.closed = true
		l.info.State, l.info.Err = transport.LinkClosed, dramnode.ErrClosed
		return l, nil
	}
	n.submitLocked(submission{kind: submitDial, link: l})
	return l, nil
}

func checkAddr(addr string) error {
	host, port, err := net.SplitHostPort(addr)
	if err == nil && host != "" {
		if p, perr := strconv.ParseUint(port, 10, 16); perr == nil && p != 0 {
			return nil
		}
	}
	return fmt.Errorf("memnet: %w: address %q, want host:port", dramnode.ErrInvalid, addr)
}

// A submission is something that another goroutine wants of the poller. What may be queued is limited
// by the limits of links: calls here directly, replies because each answers a call.
type submission struct {
	kind   submitKind
	link   *link           // dial, call, close
	call   *transport.Call // call
	header []byte          // call, reply: a copy
	loan   loan            // call, reply
	end    *end            // reply
	id     uint64          // reply
	err    error           // call: why it must not be sent
}

type submitKind uint8

const (
	submitDial submitKind = iota
	submitCall
	submitClose
	submitReply
)

func (n *Network) submitLocked(s submission) {
	n.submitted = append(n.submitted, s)
	n.wake()
}

func (n *Network) wake() {
	select {
	case n.woken <- struct{}{}:
	default:
	}
}

// Run is the poller. It returns nil after ctx ended, or ErrKilled. Afterwards calls complete, and the
// bodies of late replies are released, on the goroutine that hands them in.
func (n *Network) Run(ctx context.Context) error {
	n.world.mu.Lock()
	fresh := n.state == stateNew
	if fresh {
		n.state = stateRunning
	}
	n.world.mu.Unlock()
	if n.killed.Load() {
		return ErrKilled
	}
	if !fresh {
		return fmt.Errorf("memnet: %w: Run runs once", dramnode.ErrInvalid)
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil && !n.killed.Load() {
		n.turn(time.Now())
		pause := time.Until(n.nextTurn())
		if pause <= 0 {
			continue
		}
		timer.Reset(pause)
		select {
		case <-n.woken:
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	n.shutDown()
	if n.killed.Load() {
		return ErrKilled
	}
	return nil
}

// turn does all that is due.
func (n *Network) turn(now time.Time) {
	n.handIn()
	for _, ev := range n.dueEvents(now) {
		n.receive(ev)
	}
	n.closeSilent(now)
	for len(n.deadlines) > 0 && !n.deadlines[0].call.Deadline.After(now) {
		n.expire(n.deadlines[0])
	}
	for _, l := range n.sortedLinks() {
		l.tick(now)
	}
}

// handIn handles what other goroutines submitted.
func (n *Network) handIn() {
	n.world.mu.Lock()
	submitted := n.submitted
	n.submitted = nil
	n.world.mu.Unlock()
	for _, s := range submitted {
		switch s.kind {
		case submitDial:
			n.made++
			s.link.order = n.made
			n.links[s.link] = struct{}{}
			s.link.tick(time.Now()) // so that calls handed in next wait for the first attempt
		case submitCall:
			s.link.start(s)
		case submitClose:
			s.link.shut(dramnode.ErrClosed)
		case submitReply:
			s.end.reply(s)
		}
	}
}

// dueEvents takes what has arrived. What a partition stops waits at its connection, or is lost when
// there is none yet.
func (n *Network) dueEvents(now time.Time) []event {
	w := n.world
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.blocked) == 0 {
		for e := range n.ends {
			e.unholdLocked()
		}
	}
	var due []event
	for len(n.inbox) > 0 && len(due) < turnEvents && !n.inbox[0].at.After(now) {
		ev := heap.Pop(&n.inbox).(event)
		stopped := false
		if !ev.local {
			_, stopped = w.blocked[route{ev.end.other.network.name, n.name}]
		}
		switch {
		case !stopped:
			due = append(due, ev)
		case ev.end.open:
			ev.end.held = append(ev.end.held, ev)
		}
	}
	return due
}

// closeSilent closes the connections that heard nothing for Timing.Dead.
func (n *Network) closeSilent(now time.Time) {
	for _, e := range n.sortedEnds() {
		if at, ok := e.deadAt(); ok && !at.After(now) {
			e.close(fmt.Errorf("silent for %v", n.config.Timing.Dead), true)
		}
	}
}

// nextTurn is when the poller has something to do that nobody will wake it for.
func (n *Network) nextTurn() time.Time {
	next := time.Now().Add(time.Hour)
	earlier := func(t time.Time) {
		if t.Before(next) {
			next = t
		}
	}
	if len(n.deadlines) > 0 {
		earlier(n.deadlines[0].call.Deadline)
	}
	for l := range n.links {
		earlier(l.tickAt)
	}
	for e := range n.ends {
		if at, ok := e.deadAt(); ok {
			earlier(at)
		}
	}
	n.world.mu.Lock()
	defer n.world.mu.Unlock()
	if len(n.inbox) > 0 {
		earlier(n.inbox[0].at)
	}
	return next
}

// shutDown closes everything. Calls that completers start meanwhile end too, before Run returns.
func (n *Network) shutDown() {
	for _, l := range n.sortedLinks() {
		l.shut(dramnode.ErrClosed)
	}
	for _, e := range n.sortedEnds() {
		e.close(dramnode.ErrClosed, true)
	}
	for !n.endIfIdle() {
		n.handIn()
		for _, l := range n.sortedLinks() { // dialled meanwhile
			l.shut(dramnode.ErrClosed)
		}
	}
}

func (n *Network) endIfIdle() bool {
	w := n.world
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(n.submitted) > 0 {
		return false
	}
	n.state = stateEnded
	delete(w.networks, n)
	for _, ev := range n.inbox {
		n.bounceLocked(ev)
	}
	n.inbox = nil
	return true
}

// bounceLocked answers an event that comes too late for n: an attempt to connect is refused.
func (n *Network) bounceLocked(ev event) {
	if ev.kind == eventConnect {
		ev.end.sendLocked(event{kind: eventRefused, err: errNobody}, true)
	}
}

func (n *Network) sortedLinks() []*link {
	links := make([]*link, 0, len(n.links))
	for l := range n.links {
		links = append(links, l)
	}
	slices.SortFunc(links, func(a, b *link) int { return cmp.Compare(a.order, b.order) })
	return links
}

func (n *Network) sortedEnds() []*end {
	ends := make([]*end, 0, len(n.ends))
	for e := range n.ends {
		ends = append(ends, e)
	}
	slices.SortFunc(ends, func(a, b *end) int { return cmp.Compare(a.order, b.order) })
	return ends
}

// release gives a body back, unless the process is dead.
func (n *Network) release(b transport.Body) {
	if !n.killed.Load() {
		b.Release()
	}
}

// An event is something that reaches an end.
type event struct {
	at    time.Time
	order uint64
	kind  eventKind
	local bool // did not cross the network
	end   *end
	frame *frame
	in    *incoming
	out   *outgoing
	err   error
}

type eventKind uint8

const (
	eventConnect eventKind = iota // to the listener: a peer wants to connect
	eventAccepted
	eventRefused
	eventFrame
	eventPiece // the next piece of a separate body arrives
	eventTaken // to the sender: its separate body was read, or refused
	eventClosed
)

// postLocked puts ev into n's inbox. Before Run, it holds as many connections as a listener's backlog.
func (n *Network) postLocked(at time.Time, ev event) {
	late := n.state == stateEnded || n.killed.Load()
	if late || n.state == stateNew && len(n.inbox) >= backlog {
		n.bounceLocked(ev)
		return
	}
	n.world.posted++
	ev.at, ev.order = at, n.world.posted
	heap.Push(&n.inbox, ev)
	n.wake()
}

type eventHeap []event

func (h eventHeap) Len() int { return len(h) }
func (h eventHeap) Less(i, j int) bool {
	if !h[i].at.Equal(h[j].at) {
		return h[i].at.Before(h[j].at)
	}
	return h[i].order < h[j].order
}
func (h eventHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *eventHeap) Push(x any)   { *h = append(*h, x.(event)) }
func (h *eventHeap) Pop() any {
	last := len(*h) - 1
	ev := (*h)[last]
	(*h)[last] = event{}
	*h = (*h)[:last]
	return ev
}
