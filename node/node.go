// Package node is one member of a cluster, from its start until it has left.
//
// It wires the parts and owns their lives: the network (package transport) brings requests, the router
// decides where they go, storage keeps the entries, the control plane says who owns what, gossip tells
// who is there. The data path runs on the network's pollers and never blocks them; whatever may take
// longer runs on goroutines that Run joins.
package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/control"
	"github.com/dramnode/dramnode/control/state"
	"github.com/dramnode/dramnode/gossip"
	"github.com/dramnode/dramnode/router"
	"github.com/dramnode/dramnode/storage"
	"github.com/dramnode/dramnode/transport"
)

var (
	errNoTable    = fmt.Errorf("%w: this node has no table yet", dramnode.ErrUnavailable)
	errNotServing = fmt.Errorf("%w: the partition is changing hands", dramnode.ErrUnavailable)
)

const (
	maxWorkers     = 256 // requests that run on goroutines
	leaveInterval  = 200 * time.Millisecond
	networkTimeout = 10 * time.Second
)

// A Node is one member.
type Node struct {
	cfg     Config
	self    control.Member
	started time.Time

	network  transport.Network
	regions  []transport.Region
	shared   transport.SharedRegion // that of the store, with Config.Direct; nil without
	store    *storage.Store
	scratch  *scratch
	peers    *peers
	plane    *plane
	replicas *replicas
	gossip   *gossip.Gossip
	http     net.Listener
	janitor  *janitor

	view    atomic.Pointer[router.View]
	version atomic.Uint64 // of the table in view
	leaving atomic.Bool

	context context.Context // ends when Run is over; workers hang on it
	cancel  context.CancelFunc
	work    sync.WaitGroup
	workers chan struct{}

	forwarded atomic.Uint64
	counters  counters
}

// New returns a node that listens but does nothing before Run.
func New(cfg Config) (*Node, error) {
	cfg.setDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	n := &Node{
		cfg: cfg, started: time.Now(), janitor: newJanitor(), workers: make(chan struct{}, maxWorkers),
		self: control.Member{Name: cfg.Name, Incarnation: newID(), Addr: cfg.Advertise, Zone: cfg.Zone},
	}
	n.context, n.cancel = context.WithCancel(context.Background())
	n.peers = newPeers()
	if err := n.open(); err != nil {
		n.close()
		return nil, err
	}
	return n, nil
}

func newID() uint64 {
	for {
		if id := rand.Uint64(); state.Incarnation(id).Valid() {
			return id
		}
	}
}

// open makes the parts in the order in which they need each other.
func (n *Node) open() (err error) {
	id := transport.Identity{Role: transport.RoleNode, Name: n.self.Name, Incarnation: n.self.Incarnation, Cluster: n.cfg.ClusterName, Key: n.cfg.ClusterKey}
	if n.network, err = n.cfg.Open(id, n, n.peers); err != nil {
		return err
	}
	n.peers.network = n.network
	if _, port, _ := net.SplitHostPort(n.self.Addr); port == "0" {
		n.self.Addr = n.network.Addr()
	}
	if n.plane, err = newPlane(n); err != nil {
		return err
	}
	if err := n.openMemory(); err != nil {
		return err
	}
	if n.replicas, err = newReplicas(n); err != nil {
		return err
	}
	if n.gossip, err = gossip.New(n.gossipConfig()); err != nil {
		return err
	}
	if n.cfg.HTTP != "" {
		if n.http, err = net.Listen("tcp", n.cfg.HTTP); err != nil {
			return fmt.Errorf("http: %w", err)
		}
	}
	return nil
}

func (n *Node) openMemory() error {
	c := storage.Config{Partitions: n.cfg.Settings.Count(), MaxValueBytes: n.cfg.MaxValueBytes, Eviction: n.cfg.Eviction}
	if err := n.openArena(&c); err != nil {
		return fmt.Errorf("memory of %d bytes: %w", n.cfg.MemoryBytes, err)
	}
	store, err := storage.New(c)
	if err != nil {
		return err
	}
	n.store = store
	control, err := n.network.Alloc(scratchRegion)
	if err != nil {
		return fmt.Errorf("memory for control messages: %w", err)
	}
	n.regions = append(n.regions, control)
	n.scratch = newScratch(control.Bytes())
	n.peers.scratch = n.scratch
	return nil
}

// openArena gets the memory of the store from the network.
func (n *Node) openArena(c *storage.Config) error {
	if n.cfg.Direct {
		return n.share(c)
	}
	arena, err := n.network.Alloc(int(n.cfg.MemoryBytes))
	if err != nil {
		return err
	}
	n.regions = append(n.regions, arena)
	c.Arena = arena.Bytes()
	return nil
}

func (n *Node) gossipConfig() gossip.Config {
	return gossip.Config{
		Meta: gossip.Meta{
			Name: n.self.Name, Incarnation: n.self.Incarnation, Addr: n.self.Addr, HTTP: n.cfg.HTTP, Zone: n.self.Zone,
			Version: n.cfg.Version, Settings: n.cfg.digest(),
		},
		Bind: n.cfg.Gossip, Advertise: n.cfg.GossipAdvertise, Seeds: n.cfg.Join, Cluster: n.cfg.ClusterName, Key: n.cfg.ClusterKey,
		Log: n.cfg.Log, OnChange: n.onGossip,
	}
}

// boot is this node's clock for leases and lives: it goes on while the machine is suspended.
func (n *Node) boot() time.Duration { return n.cfg.Boot() }

// Run serves until ctx ends, then gives the partitions away and leaves. It returns nil after a complete
// leave, control.ErrRetired when the cluster declared this incarnation lost, or what else ended it.
func (n *Node) Run(ctx context.Context) error {
	defer n.close()
	services := newServices()
	network := services.start(n.network.Run)
	janitor := services.start(func(ctx context.Context) error { n.janitor.run(ctx); return nil })
	gossiping := services.start(n.gossip.Run)
	vouching := services.start(func(ctx context.Context) error { n.vouch(ctx); return nil })
	admin := services.start(n.serveHTTP)
	plane := services.start(n.runPlane)
	faces := services.start(n.runFaces)
	replicas := services.start(n.replicas.run)

	err := services.wait(ctx)
	faces.stop() // first, since they hold values' memory
	if ctx.Err() != nil && err == nil {
		err = n.leave(plane)
	}
	// Nobody is told anything new, then nobody is served, then what waited is answered, then the
	// network goes, which completes every call and returns every buffer.
	plane.stop()
	replicas.stop()
	gossiping.stop()
	admin.stop()
	vouching.stop()
	n.cancel()
	n.replicas.retire()
	janitor.stop()
	network.stop()
	n.work.Wait()
	if err == nil {
		err = errors.Join(network.err, gossiping.err)
	}
	return err
}

// runPlane takes part once gossip listens: a node whose port is taken must not found a cluster before it ends.
func (n *Node) runPlane(ctx context.Context) error {
	select {
	case <-n.gossip.Ready():
		return n.plane.run(ctx)
	case <-ctx.Done():
		return nil
	}
}

func (n *Node) runFaces(ctx context.Context) error {
	if n.cfg.Faces != nil {
		if err := n.cfg.Faces(ctx, n.Network()); err != nil && ctx.Err() == nil {
			n.cfg.Log.Error().Err(err).Msg("no other protocol is served any more")
		}
	}
	<-ctx.Done()
	return nil
}

// leave gives the partitions to the others, as long as there are others to take them.
func (n *Node) leave(plane *service) error {
	n.leaving.Store(true)
	ctx, cancel := context.WithTimeout(n.context, n.cfg.DrainTimeout)
	defer cancel()
	for n.someoneStays() {
		if err := n.plane.leave(); err != nil {
			n.cfg.Log.Debug().Err(err).Msg("leaving is not heard")
		}
		t := time.NewTimer(leaveInterval)
		select {
		case <-t.C:
		case <-plane.done:
			t.Stop()
			if errors.Is(plane.err, control.ErrRetired) {
				return nil // the table lists us no more: everything is with the others
			}
			return plane.err
		case <-ctx.Done():
			t.Stop()
			return n.undrained()
		}
	}
	return nil
}

// someoneStays reports whether another member could take our partitions. Where all of them have copies elsewhere
// that member must be in contact, since then no harm is done by leaving without its help.
func (n *Node) someoneStays() bool {
	t := n.plane.table()
	if t == nil || t.Index(n.self.Incarnation) == control.None {
		return false
	}
	sole, _ := n.holds(t)
	for i := range t.Members {
		m := &t.Members[i]
		if m.Incarnation != n.self.Incarnation && !m.Leaving && (sole > 0 || n.peers.Contact(m.Incarnation)) {
			return true
		}
	}
	return false
}

// holds counts the partitions that only this node has, and those that others have too.
func (n *Node) holds(t *control.Table) (sole, shared int) {
	self := t.Index(n.self.Incarnation)
	for p := range t.Rows {
		switch r := &t.Rows[p]; {
		case r.Owner == self && r.Backups == control.NoBackups:
			sole++
		case r.Owner == self || r.IsBackup(self):
			shared++
		}
	}
	return sole, shared
}

func (n *Node) owned() int {
	t := n.plane.table()
	if t == nil {
		return 0
	}
	if i := t.Index(n.self.Incarnation); i != control.None {
		return t.Owned()[i]
	}
	return 0
}

// undrained says what was not given away in time.
func (n *Node) undrained() error {
	sole, shared := 0, 0
	if t := n.plane.table(); t != nil {
		sole, shared = n.holds(t)
	}
	switch {
	case sole > 0:
		return fmt.Errorf("%w: %d partitions were not given away within %v", dramnode.ErrPartitionLost, sole, n.cfg.DrainTimeout)
	case shared > 0:
		return fmt.Errorf("%w: %d partitions have one copy less, which was not made elsewhere within %v", dramnode.ErrDegraded, shared, n.cfg.DrainTimeout)
	}
	return fmt.Errorf("%w: within %v the others neither heard that this node leaves nor could do without its vote", dramnode.ErrUnavailable, n.cfg.DrainTimeout)
}

func (n *Node) close() {
	n.cancel()
	if n.http != nil {
		n.http.Close()
	}
	if c, ok := n.network.(io.Closer); ok {
		if err := c.Close(); err != nil {
			n.cfg.Log.Warn().Err(err).Msg("network not closed cleanly")
		}
	}
	for _, r := range n.regions {
		if err := r.Close(); err != nil {
			n.cfg.Log.Warn().Err(err).Msg("memory not released")
		}
	}
}
