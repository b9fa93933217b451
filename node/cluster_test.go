package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/control"
	"github.com/dramnode/dramnode/control/state"
	"github.com/dramnode/dramnode/ring"
	"github.com/dramnode/dramnode/test/proc"
	"github.com/dramnode/dramnode/transport"
	"github.com/dramnode/dramnode/transport/memnet"
	"github.com/dramnode/dramnode/wire"
)

// A cluster is a set of nodes in one process: requests cross memnet, gossip crosses the loopback.
type cluster struct {
	t     testing.TB
	world *memnet.World
	seeds []string
	nodes map[string]*running

	changes []func(*Config) // to the settings of every node
	log     *testLog
}

// A testLog writes to a test's log while the test runs. Timers of memberlist outlive its shutdown, and
// what they say then is of no interest.
type testLog struct {
	mu sync.Mutex
	t  testing.TB // nil once the test has ended
}

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

type running struct {
	*Node
	network *memnet.Network
	stop    context.CancelFunc
	done    chan struct{}
	err     error
}

// ended says how the node ended, or nothing while it runs.
func (r *running) ended() string {
	select {
	case <-r.done:
		return fmt.Sprintf("ended with %v: ", r.err)
	default:
		return ""
	}
}

// patience is the lease of nodes that nobody kills: a loaded machine may stand still for seconds.
const patience = 10 * time.Second

// failover makes nodes notice each other's deaths sooner.
func failover(cfg *Config) { cfg.Lease = 3 * time.Second }

// replicated makes them keep several copies.
func replicated(cfg *Config) { cfg.Replicas, cfg.Settings = 3, ring.Config{Partitions: 13} }

// eachCount runs a test of what holds however many copies there are.
func eachCount(t *testing.T, test func(t *testing.T, copies func(*Config))) {
	t.Parallel()
	for name, copies := range map[string]func(*Config){"one": func(*Config) {}, "three": replicated} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, copies)
		})
	}
}

const eventually = 2 * time.Minute // on a machine that has much else to do

func newCluster(t testing.TB, seed uint64, names ...string) *cluster {
	t.Helper()
	return newClusterWith(t, seed, nil, names...)
}

func newClusterWith(t testing.TB, seed uint64, changes []func(*Config), names ...string) *cluster {
	t.Helper()
	c := &cluster{t: t, world: memnet.New(seed), nodes: map[string]*running{}, log: &testLog{t: t}, changes: changes}
	t.Cleanup(c.log.end) // after every node's own clean-up
	for range names {
		c.seeds = append(c.seeds, proc.Address(t, nil))
	}
	for i, name := range names {
		c.start(name, c.seeds[i])
	}
	c.ready(names...)
	return c
}

// with is the changes that newClusterWith makes to the settings of every node.
func with(changes ...func(*Config)) []func(*Config) { return changes }

// start runs a node called name; its address in memnet is name:1. changes may adapt its settings.
func (c *cluster) start(name, gossip string, changes ...func(*Config)) *running {
	c.t.Helper()
	r := &running{done: make(chan struct{})}
	cfg := Config{
		Name: name, Listen: name + ":1", Gossip: gossip, HTTP: "127.0.0.1:0", ClusterName: "test", Join: c.seeds,
		MemoryBytes: 24 << 20, MaxValueBytes: 8 << 20, Settings: ring.Config{Partitions: 29}, Verify: true, Lease: patience,
		DrainTimeout: 20 * time.Second, Log: zerolog.New(c.log).Level(zerolog.InfoLevel),
		Open: func(id transport.Identity, h transport.Handler, e transport.Events) (transport.Network, error) {
			network, err := c.world.Network(memnet.Config{Identity: id, Addr: name + ":1", Handler: h, Events: e})
			r.network = network
			return network, err
		},
	}
	for _, change := range append(c.changes, changes...) {
		change(&cfg)
	}
	n, err := New(cfg)
	if err != nil {
		c.t.Fatal(err)
	}
	r.Node = n
	ctx, cancel := context.WithCancel(context.Background())
	r.stop = cancel
	go func() {
		defer close(r.done)
		r.err = n.Run(ctx)
	}()
	c.nodes[name] = r
	c.t.Cleanup(func() { r.stop(); <-r.done })
	return r
}

// ready waits until exactly these nodes serve, and have the copies that they should have in the end.
func (c *cluster) ready(names ...string) {
	c.t.Helper()
	c.settled(names...)
	c.wait(fmt.Sprintf("every copy to be where it belongs among %v", names), func() bool {
		s := c.nodes[names[0]].plane.member.Table()
		var members []ring.Member
		var nodes []state.Incarnation
		for i := range s.Nodes {
			if n := &s.Nodes[i]; n.Status == state.Up {
				members, nodes = append(members, ring.Member{Name: n.Name, Zone: n.Zone}), append(nodes, n.Incarnation)
			}
		}
		want, err := s.Settings.Targets(members, int(s.Params.Replicas))
		if err != nil || len(nodes) != len(names) {
			return false
		}
		for p := range want {
			for _, at := range want[p] {
				if !state.Has(s.Rows[p].Sync, nodes[at]) || len(s.Rows[p].Sync) != len(want[p]) {
					return false
				}
			}
		}
		return true
	})
	c.settled(names...)
}

// kill ends nodes as a crash would: their peers see only that their connections are gone.
func (c *cluster) kill(names ...string) {
	c.t.Helper()
	for _, name := range names {
		c.world.Kill(name + ":1")
	}
	for _, name := range names {
		<-c.nodes[name].done
		if err := c.nodes[name].err; !errors.Is(err, memnet.ErrKilled) {
			c.t.Errorf("%s ended with %v", name, err)
		}
	}
}

// owner names the owner of key by the table of a node.
func (c *cluster) owner(node, key string) (name string, row control.Row) {
	v := c.nodes[node].view.Load()
	row = v.Table.Rows[v.Partition([]byte(key))]
	return v.Table.Members[row.Owner].Name, row
}

func (c *cluster) wait(what string, ok func() bool) {
	c.t.Helper()
	deadline := time.After(eventually)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			for name, n := range c.nodes {
				c.t.Logf("%s: %s%+v", name, n.ended(), n.Info())
			}
			c.t.Fatalf("waited %v for %s", eventually, what)
		case <-tick.C:
		}
	}
}

// A caller is a client without any knowledge of the table: it asks one node for everything.
type caller struct {
	t       testing.TB
	network *memnet.Network
	memory  []byte
	mu      sync.Mutex
	links   map[string]transport.Link
	id      uint64
	counter atomic.Uint64 // of writes
}

func (c *cluster) caller() *caller {
	c.t.Helper()
	network, err := c.world.Network(memnet.Config{Identity: transport.Identity{Role: transport.RoleClient, Name: "caller", Incarnation: newID(), Cluster: "test"}})
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- network.Run(ctx) }()
	c.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			c.t.Error(err)
		}
	})
	region, err := network.Alloc(4 << 20)
	if err != nil {
		c.t.Fatal(err)
	}
	return &caller{t: c.t, network: network, memory: region.Bytes(), links: map[string]transport.Link{}, id: newID()}
}

type reply struct {
	header wire.Header
	ext    wire.ReplyExt
	body   []byte
	err    error
}

type oneCall struct {
	transport.Call
	place []byte
	done  chan reply
}

func (o *oneCall) PlaceReply(_ *transport.Call, _ []byte, n int) ([]byte, error) {
	return o.place[:n], nil
}

func (o *oneCall) Complete(_ *transport.Call, header, body []byte, err error) {
	r := reply{err: err, body: append([]byte(nil), body...)}
	if err == nil {
		r.header, r.err = wire.ParseHeader(append([]byte(nil), header...))
		if r.err == nil && r.header.Kind != wire.KindList {
			r.ext, r.err = wire.ParseReplyExt(r.header.Ext)
		}
	}
	o.done <- r
}

// once sends one request to the node; the caller's memory serves one long body at a time.
func (c *caller) once(node string, h wire.Header, body []byte) reply {
	c.t.Helper()
	c.mu.Lock()
	l := c.links[node]
	if l == nil {
		var err error
		if l, err = c.network.Dial(node + ":1"); err != nil {
			c.t.Fatal(err)
		}
		c.links[node] = l
	}
	c.mu.Unlock()
	half := len(c.memory) / 2
	o := &oneCall{place: c.memory[half:], done: make(chan reply, 1)}
	o.Header = wire.AppendHeader(nil, &h)
	if len(body) > transport.CopyBytes {
		body = c.memory[:copy(c.memory[:half], body)]
	}
	o.Body.Bytes = body
	o.Deadline = time.Now().Add(5 * time.Second)
	o.Completer = o
	l.Call(&o.Call)
	return <-o.done
}

// failure is what r means to the sender; a refusal by a node that is not the owner is worth a retry.
func (r *reply) failure() error {
	switch {
	case r.err != nil:
		return r.err
	case r.header.Status == wire.StatusNotOwner:
		return dramnode.ErrUnavailable
	}
	return r.header.Status.Err()
}

// refused reports whether a request that failed was certainly not applied, and may be a moment later: who is short of processor
// time may lose its lease, and its partitions, in any test.
func refused(err error) bool {
	return errors.Is(err, dramnode.ErrUnavailable) || errors.Is(err, dramnode.ErrNoQuorum)
}

// do retries what was certainly not applied.
func (c *caller) do(node string, h wire.Header, body []byte) (reply, error) {
	c.t.Helper()
	deadline := time.Now().Add(eventually)
	for {
		r := c.once(node, h, body)
		err := r.failure()
		if !refused(err) || time.Now().After(deadline) {
			return r, err
		}
		<-time.After(5 * time.Millisecond)
	}
}

func (c *caller) put(node, key string, value []byte) dramnode.Generation {
	c.t.Helper()
	h := wire.Header{Kind: wire.KindPut, Key: []byte(key), CRC: wire.Checksum(value), Ext: wire.AppendWriteExt(nil, wire.WriteExt{Client: c.id, Counter: c.counter.Add(1)})}
	r, err := c.do(node, h, value)
	if err != nil {
		c.t.Fatalf("put %s through %s: %v: %s", key, node, err, r.body)
	}
	return r.ext.Generation
}

func (c *caller) get(node, key string) ([]byte, error) {
	c.t.Helper()
	r, err := c.do(node, wire.Header{Kind: wire.KindGet, Key: []byte(key)}, nil)
	if err == nil && wire.Checksum(r.body) != r.header.CRC {
		c.t.Errorf("get %s through %s: wrong checksum", key, node)
	}
	return r.body, err
}
