package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/rs/zerolog"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/control"
	"github.com/dramnode/dramnode/control/lease"
	"github.com/dramnode/dramnode/control/member"
	"github.com/dramnode/dramnode/control/state"
	"github.com/dramnode/dramnode/ring"
	"github.com/dramnode/dramnode/storage"
	"github.com/dramnode/dramnode/transport"
)

// Config is what a node needs to know. Addresses are "host:port".
type Config struct {
	Name        string // stable over restarts; default: the advertised address
	Listen      string // for the log; Open listens
	Gossip      string // memberlist's address, UDP and TCP
	HTTP        string // health, readiness and info; "" for none
	Advertise   string // where peers dial Listen; default: Listen
	Zone        string
	ClusterName string
	ClusterKey  []byte // nil for none
	Version     string // of the software, for people

	// GossipAdvertise is where peers dial Gossip; default: Gossip. It is also how a node finds itself
	// in Join.
	GossipAdvertise string

	// Join lists gossip addresses of seeds. Empty: found a cluster at once. With this node's own address in
	// it: found one once all of them are up and blank, else join. Without: join, and never found one.
	Join []string

	MemoryBytes   int64 // for entries, their index and values in transit
	RecordBytes   int64 // beside it, for the records by which retries are recognised
	MaxValueBytes int
	Eviction      storage.Eviction // of a full node; with any but EvictNone acknowledged values may go
	Settings      ring.Config
	Verify        bool          // check each value against its CRC32C where it lands
	Direct        bool          // let processes of this user on this host read values from our memory
	DrainTimeout  time.Duration // for giving the partitions away on the way out

	// These must be equal on all nodes.
	Mode     state.Mode    // a cache has single copies, gives them up after one lease, and needs no word of an operator
	Replicas int           // wanted copies of each partition; default 1
	MinSync  int           // copies without which writes are refused; default 1
	Lease    time.Duration // how long a node serves without hearing from the others; default 1 s
	OnLoss   state.OnLoss  // what becomes of a partition that has lost all copies
	// LostAfter is the absence after which the last copies count as lost, although their processes may live; default 30 s, 0 in a cache.
	LostAfter time.Duration

	Boot func() time.Duration // CLOCK_BOOTTIME, for leases; default: member.BootTime

	Log zerolog.Logger

	// Faces runs beside the node what serves other protocols; nil for none. It gets Node.Network, and its
	// context ends before the node hands its partitions over. When it returns it must hold no value's memory.
	// An error is logged, and the node goes on.
	Faces func(ctx context.Context, network transport.Network) error

	// Open returns the network that listens for this node. New closes it when it fails afterwards.
	Open func(id transport.Identity, h transport.Handler, e transport.Events) (transport.Network, error)
}

const (
	minMemoryBytes = 4 << 20
	evictShare     = 4 // of the longest values must fit in the memory of a node that evicts

	// A lease has to outlast the election of another leader, and not the patience of users.
	minLease = 700 * time.Millisecond
	maxLease = time.Minute
)

func (c *Config) setDefaults() {
	if c.Advertise == "" {
		c.Advertise = c.Listen
	}
	if c.GossipAdvertise == "" {
		c.GossipAdvertise = c.Gossip
	}
	if c.Name == "" {
		c.Name = c.Advertise
	}
	if c.ClusterName == "" {
		c.ClusterName = "default"
	}
	if c.MaxValueBytes == 0 {
		c.MaxValueBytes = dramnode.DefaultMaxValueBytes
	}
	if c.MemoryBytes == 0 {
		c.MemoryBytes = 1 << 30
	}
	if c.RecordBytes == 0 {
		c.RecordBytes = max(c.MemoryBytes/recordShare, leastRecords)
	}
	c.Replicas = max(c.Replicas, 1)
	if c.MinSync == 0 {
		c.MinSync = 1
	}
	if c.Lease == 0 {
		c.Lease = lease.DefaultTiming().Length
	}
	c.LostAfter = cmp.Or(c.LostAfter, state.DefaultParams().LostAfter)
	if c.Mode == state.Cache {
		c.LostAfter = 0
	}
	if c.Boot == nil {
		c.Boot = member.BootTime
	}
	if c.DrainTimeout == 0 {
		c.DrainTimeout = time.Minute
	}
}

// Validate reports every fault at once, each an ErrInvalid that names the setting.
func (c *Config) Validate() error {
	d := *c
	d.setDefaults()
	var errs []error
	fault := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("%w: %s", dramnode.ErrInvalid, fmt.Sprintf(format, args...)))
	}
	for _, a := range []struct{ name, addr string }{{"listen", d.Listen}, {"advertise", d.Advertise}, {"gossip", d.Gossip}, {"http", d.HTTP}} {
		if a.name == "http" && a.addr == "" {
			continue
		}
		if _, _, err := net.SplitHostPort(a.addr); err != nil {
			fault("%s address %q: %v", a.name, a.addr, err)
		}
	}
	for _, seed := range d.Join {
		if _, _, err := net.SplitHostPort(seed); err != nil {
			fault("join address %q: %v", seed, err)
		}
	}
	if len(d.Name) > 128 {
		fault("name of %d bytes, at most 128", len(d.Name))
	}
	if d.MemoryBytes < minMemoryBytes {
		fault("memory of %d bytes, want at least %d", d.MemoryBytes, minMemoryBytes)
	}
	if d.RecordBytes < 0 {
		fault("records of %d bytes", d.RecordBytes)
	}
	if d.MaxValueBytes < 1 || d.MaxValueBytes > math.MaxInt32 || int64(d.MaxValueBytes) > d.MemoryBytes {
		fault("max-value of %d bytes, want 1 to %d and at most memory (%d)", d.MaxValueBytes, math.MaxInt32, d.MemoryBytes)
	}
	if d.Eviction != storage.EvictNone && evictShare*int64(d.MaxValueBytes) > d.MemoryBytes {
		fault("eviction %v with max-value of %d bytes and memory of %d: one value would push out most others, want at least %d times max-value",
			d.Eviction, d.MaxValueBytes, d.MemoryBytes, evictShare)
	}
	if d.DrainTimeout < 0 {
		fault("drain-timeout of %v", d.DrainTimeout)
	}
	if d.Replicas > control.MaxReplicas {
		fault("replicas %d, at most %d", d.Replicas, control.MaxReplicas)
	}
	if c.Replicas < 0 {
		fault("replicas %d", c.Replicas)
	}
	if d.MinSync < 1 || d.MinSync > d.Replicas {
		fault("min-sync %d, want 1 to replicas (%d)", d.MinSync, d.Replicas)
	}
	if d.Lease < minLease || d.Lease > maxLease {
		fault("lease of %v, want %v to %v", d.Lease, minLease, maxLease)
	}
	if d.Mode == state.Cache && (d.Replicas > 1 || d.OnLoss != state.Recreate) {
		fault("mode %v with %d replicas and on-loss %v: a cache has one copy, and goes on without it", d.Mode, d.Replicas, d.OnLoss)
	}
	if d.LostAfter < 0 {
		fault("lost-after of %v", d.LostAfter)
	}
	if d.Replicas > 1 && d.Eviction != storage.EvictNone {
		fault("eviction %v with %d replicas: copies would differ in what they drop", d.Eviction, d.Replicas)
	}
	if d.Open == nil {
		fault("no network to open")
	}
	if err := d.Settings.Validate(); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// digest is what gossip compares: nodes with another one are kept away.
func (c *Config) digest() uint64 {
	h := xxhash.NewWithSeed(c.Settings.Digest())
	fmt.Fprint(h, c.Mode, c.Replicas, c.MinSync, c.OnLoss, c.Lease, c.LostAfter)
	return h.Sum64()
}
