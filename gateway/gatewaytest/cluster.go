// Package gatewaytest runs real nodes in one process for the tests of the faces: requests cross
// transport/memnet, gossip crosses the loopback.
package gatewaytest

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/dramnode/dramnode/client"
	"github.com/dramnode/dramnode/control"
	"github.com/dramnode/dramnode/gateway"
	"github.com/dramnode/dramnode/node"
	"github.com/dramnode/dramnode/ring"
	"github.com/dramnode/dramnode/test/proc"
	"github.com/dramnode/dramnode/transport"
	"github.com/dramnode/dramnode/transport/memnet"
)

// patience is how long the harness waits for what must happen.
const patience = 30 * time.Second

// MaxValueBytes is the longest value of a Cluster.
const MaxValueBytes = 8 << 20

// A Cluster is a set of nodes, n0, n1, ..., that have agreed. They end with the test.
type Cluster struct {
	Timeout time.Duration // of the operations of its clients; zero: theirs

	t     testing.TB
	world *memnet.World
	log   *testLog
	nodes []*member

	settings ring.Config // of the nodes
}

type member struct {
	*node.Node
	stop context.CancelFunc
	done chan struct{}
}

// Replicated makes the nodes of a cluster keep three copies.
func Replicated(cfg *node.Config) {
	cfg.Replicas, cfg.Settings = 3, ring.Config{Partitions: 13}
}

// OneOwner makes all keys that a test would use belong to one node of a cluster of three.
func OneOwner(cfg *node.Config) {
	cfg.Settings = ring.Config{Strategy: ring.Range, Splits: [][]byte{{255, 254}, {255, 255}}}
}

// NewCluster starts nodes with so much memory each and waits until they serve. changes are made to the settings of each.
func NewCluster(t testing.TB, nodes int, memoryBytes int64, changes ...func(*node.Config)) *Cluster {
	t.Helper()
	c := &Cluster{t: t, world: memnet.New(1), log: &testLog{t: t}}
	t.Cleanup(c.log.end) // after the nodes have ended
	var seeds []string
	for range nodes {
		seeds = append(seeds, proc.Address(t, nil))
	}
	for i := range nodes {
		c.start(i, seeds, memoryBytes, changes)
	}
	c.await("one table for all", func() bool {
		first := c.nodes[0].Table()
		if first == nil {
			return false
		}
		for _, n := range c.nodes {
			if t := n.Table(); t == nil || t.Version != first.Version || len(t.Members) != nodes || !n.Info().Ready || n.Info().Moving > 0 {
				return false
			}
		}
		return c.placed(first)
	})
	return c
}

// placed reports whether every copy is where it stays: the moves after a join come in turns, and between two nothing moves.
func (c *Cluster) placed(t *control.Table) bool {
	members := make([]ring.Member, len(t.Members))
	for i := range members {
		members[i] = ring.Member{Name: t.Members[i].Name, Zone: t.Members[i].Zone}
	}
	want, err := c.settings.Targets(members, int(t.Replicas))
	for p := range want {
		for _, at := range want[p] {
			if r := &t.Rows[p]; r.Owner != at && !r.IsBackup(at) {
				return false
			}
		}
	}
	return err == nil
}

func (c *Cluster) start(i int, seeds []string, memoryBytes int64, changes []func(*node.Config)) {
	c.t.Helper()
	m := &member{done: make(chan struct{})}
	addr := name(i) + ":1"
	cfg := node.Config{
		Name: name(i), Listen: addr, Gossip: seeds[i], ClusterName: "test", Join: seeds,
		MemoryBytes: memoryBytes, MaxValueBytes: MaxValueBytes, Settings: ring.Config{Partitions: 29}, Verify: true, Lease: 5 * time.Second, // a loaded machine may stand still for seconds
		DrainTimeout: time.Millisecond, // at the end of a test nobody needs the entries
		Log:          zerolog.New(c.log).Level(zerolog.WarnLevel),
		Open: func(id transport.Identity, h transport.Handler, e transport.Events) (transport.Network, error) {
			return c.world.Network(memnet.Config{Identity: id, Addr: addr, Handler: h, Events: e})
		},
	}
	for _, change := range changes {
		change(&cfg)
	}
	c.settings = cfg.Settings
	n, err := node.New(cfg)
	if err != nil {
		c.t.Fatal(err)
	}
	m.Node = n
	ctx, cancel := context.WithCancel(context.Background())
	m.stop = cancel
	go func() {
		defer close(m.done)
		_ = n.Run(ctx) // a node that a test killed fails
	}()
	c.nodes = append(c.nodes, m)
	c.t.Cleanup(func() { m.stop(); <-m.done })
}

func name(i int) string { return fmt.Sprintf("n%d", i) }

func (c *Cluster) await(what string, good func() bool) {
	c.t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	limit := time.NewTimer(patience)
	defer limit.Stop()
	for !good() {
		select {
		case <-tick.C:
		case <-limit.C:
			c.t.Fatalf("waited %v for %s", patience, what)
		}
	}
}

// Node returns node i.
func (c *Cluster) Node(i int) *node.Node { return c.nodes[i].Node }

// Kill ends node i without a word to the others, as a crash of its process would.
func (c *Cluster) Kill(i int) { c.world.Kill(c.nodes[i].Addr()) }

// Inside opens a client in the process of node i, as its faces have one. It ends with the test.
func (c *Cluster) Inside(i int) *client.Client {
	c.t.Helper()
	n := c.nodes[i]
	return c.open(client.Config{Network: n.Network(), Addrs: []string{n.Addr()}})
}

// Outside opens a client in a process of its own that sends every read and write of a key to node i.
func (c *Cluster) Outside(i int) *client.Client {
	c.t.Helper()
	network, err := c.world.Network(memnet.Config{
		Identity: transport.Identity{Role: transport.RoleClient, Name: "outside", Incarnation: 1<<32 + uint64(len(c.nodes)), Cluster: "test"},
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return c.open(client.Config{Network: network, Addrs: []string{c.nodes[i].Addr()}, Via: c.nodes[i].Addr()})
}

func (c *Cluster) open(cfg client.Config) *client.Client {
	c.t.Helper()
	cfg.MemoryBytes, cfg.Timeout = 8*MaxValueBytes, c.Timeout
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cl, err := client.Open(ctx, cfg)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() {
		if err := cl.Close(); err != nil {
			c.t.Errorf("closing a client: %v", err)
		}
	})
	return cl
}

// Owned returns a key with this prefix that node i owns, and another in each call with another prefix.
func (c *Cluster) Owned(i int, cl *client.Client, prefix string) []byte {
	c.t.Helper()
	for k := range 10_000 {
		key := fmt.Appendf(nil, "%s%d", prefix, k)
		l, err := cl.Locate(key)
		if err != nil {
			c.t.Fatal(err)
		}
		if l.Owner.Name == name(i) {
			return key
		}
	}
	c.t.Fatalf("node %d owns no key", i)
	return nil
}

// Serve runs a face on a free port over s and returns its address. It ends with the test.
func Serve(t testing.TB, serve gateway.Serve, s gateway.Store) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- serve(ctx, l, s) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("the face ended with %v", err)
			}
		case <-time.After(patience):
			t.Errorf("the face did not end within %v", patience)
		}
	})
	return l.Addr().String()
}

// A testLog writes to a test's log while the test runs.
type testLog struct {
	mu sync.Mutex
	t  testing.TB // nil once the test has ended
}

// Write implements io.Writer.
func (l *testLog) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.t != nil {
		l.t.Logf("%s", bytes.TrimSpace(line))
	}
	return len(line), nil
}

func (l *testLog) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.t = nil
}
