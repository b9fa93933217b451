// Package memnet is a network in memory that keeps the contract of package transport, with faults
// that a seed decides. It runs inside testing/synctest bubbles and outside.
//
// A World holds networks that can reach each other, each the network of one process. The world is told
// what goes wrong: delays, lost frames, partitions, deaths. Each choice is drawn from a stream that
// belongs to one direction of one connection, so frame k of a connection fares the same in every run
// with the same seed and the same settings, whatever other connections do meanwhile.
//
// memnet is stricter than a real network where strictness finds faults in its users. A body is read
// late, on a poller, so memory that is reused before its Release shows up as wrong bytes or as a data
// race. Headers and inline bodies are overwritten once the callback that got them returned, and so is
// a closed Region. What only a wrong program does, such as placing a body outside every Region or
// leaving a request without answer, panics.
//
// Heartbeats are not frames here, but a connection that hears nothing for Timing.Dead closes as it
// would with them.
package memnet

import (
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/transport"
)

// Limits of one link; what exceeds them completes with dramnode.ErrBusy. They bound every queue here:
// a network holds at most this much for each link and each inbound peer.
const (
	MaxPendingCalls = 8192
	MaxPendingBytes = 256 << 20
)

// Poison is the byte that overwrites memory whose time is over.
const Poison = 0xCC

// A World is a set of networks and what goes wrong between them. Networks are named by the address
// that they listen on or, when they only dial, by their Identity.Name.
type World struct {
	seed uint64

	mu       sync.Mutex // guards all below, and what networks, links and ends say it guards
	networks map[*Network]struct{}
	blocked  map[route]time.Time // since when
	dialled  map[route]uint64    // connections so far
	delayMin time.Duration
	delayMax time.Duration
	drop     float64
	posted   uint64 // events so far: breaks ties of time
}

// A route is one direction between two named networks.
type route struct{ from, to string }

// New returns a world without faults.
func New(seed uint64) *World {
	return &World{
		seed:     seed,
		networks: map[*Network]struct{}{},
		blocked:  map[route]time.Time{},
		dialled:  map[route]uint64{},
	}
}

// Config describes one network.
type Config struct {
	Identity transport.Identity
	Addr     string // "host:port" of any meaning; "" when this network only dials
	Handler  transport.Handler
	Events   transport.Events
	Timing   transport.Timing
}

func (c Config) validate() error {
	invalid := func(format string, args ...any) error {
		return fmt.Errorf("memnet: %w: %s", dramnode.ErrInvalid, fmt.Sprintf(format, args...))
	}
	id := c.Identity
	switch {
	case id.Role != transport.RoleNode && id.Role != transport.RoleClient:
		return invalid("role %d", id.Role)
	case id.Incarnation == 0:
		return invalid("incarnation 0")
	case len(id.Name) > 128:
		return invalid("a name of %d bytes, want at most 128", len(id.Name))
	case c.Addr != "" && c.Handler == nil:
		return invalid("it listens on %s without a handler", c.Addr)
	case c.Addr != "":
		return checkAddr(c.Addr)
	}
	return nil
}

// Network returns a new network of w. Its address is taken from here until its Run returned.
func (w *World) Network(c Config) (*Network, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	c.Timing = c.Timing.WithDefaults()
	w.mu.Lock()
	defer w.mu.Unlock()
	if c.Addr != "" && w.listenerLocked(c.Addr) != nil {
		return nil, fmt.Errorf("memnet: %w: address %s is in use", dramnode.ErrInvalid, c.Addr)
	}
	n := newNetwork(w, c)
	w.networks[n] = struct{}{}
	return n, nil
}

func (w *World) listenerLocked(addr string) *Network {
	for n := range w.networks {
		if n.config.Addr == addr && !n.killed.Load() {
			return n
		}
	}
	return nil
}

// Partition stops all traffic between a and b, both ways. What is in flight waits: it arrives when the
// partition heals before either side noticed, as it would over TCP.
func (w *World) Partition(a, b string) {
	w.Cut(a, b)
	w.Cut(b, a)
}

// Cut stops the traffic from one network to another; the other direction goes on.
func (w *World) Cut(from, to string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	r := route{from, to}
	if _, ok := w.blocked[r]; !ok {
		w.blocked[r] = time.Now()
	}
	w.wakeAllLocked()
}

// Heal ends every partition and cut.
func (w *World) Heal() {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.blocked)
	w.wakeAllLocked()
}

// SetDelay makes every frame take between least and most from now on. Inline frames of one direction
// keep their order; a frame with a placed body may overtake them and be overtaken, as with rendezvous.
func (w *World) SetDelay(least, most time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.delayMin, w.delayMax = max(0, least), max(0, least, most)
}

// SetDrop makes every request and reply fall out with probability p. UCX is reliable, so one cannot be
// lost alone: the loss resets its connection.
func (w *World) SetDrop(p float64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.drop = p
}

// Kill ends the process of every network of this name: it makes no callback any more, also none for
// pending calls, and its Run returns ErrKilled. A callback that runs meanwhile comes to its end. Peers
// notice as they do when a kernel closes the sockets of a dead process.
func (w *World) Kill(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for n := range w.networks {
		if n.name == name {
			n.killed.Store(true)
			n.wake()
			if n.state == stateNew {
				n.state = stateEnded
				delete(w.networks, n)
			}
		}
	}
}

func (w *World) wakeAllLocked() {
	for n := range w.networks {
		n.wake()
	}
}

// stream returns the choices of one direction of the k-th connection of a route.
func (w *World) stream(r route, k uint64) *rand.Rand {
	h := fnv.New64a()
	fmt.Fprintf(h, "%q %q %d", r.from, r.to, k)
	return rand.New(rand.NewPCG(w.seed, h.Sum64()))
}

// delayLocked draws how long the next frame takes.
func (w *World) delayLocked(random *rand.Rand) time.Duration {
	if w.delayMax == 0 {
		return 0
	}
	return w.delayMin + time.Duration(random.Int64N(int64(w.delayMax-w.delayMin)+1))
}
