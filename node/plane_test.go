package node

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/control"
	"github.com/dramnode/dramnode/control/state"
	"github.com/dramnode/dramnode/storage"
	"github.com/dramnode/dramnode/test/proc"
	"github.com/dramnode/dramnode/wire"
)

// settled waits until exactly these nodes serve, and have as many copies of every partition as they can.
func (c *cluster) settled(names ...string) {
	c.t.Helper()
	slices.Sort(names)
	c.wait(fmt.Sprintf("%v to settle", names), func() bool {
		for _, name := range names {
			n := c.nodes[name]
			s, t := n.plane.member.Table(), n.Table()
			if s == nil || t == nil || n.unready() != "" {
				return false
			}
			var members []string
			for _, m := range t.Members {
				members = append(members, m.Name)
			}
			slices.Sort(members)
			if !slices.Equal(members, names) || t.Validate() != nil || t.Replicas != s.Params.Replicas {
				return false
			}
			for p := range s.Rows {
				if r := &s.Rows[p]; !r.Active() || r.Learner != 0 || len(s.Serving(r.Sync)) != min(int(s.Params.Replicas), len(names)) {
					return false
				}
			}
		}
		return c.nodes[names[0]].Table().ClusterID == c.nodes[names[len(names)-1]].Table().ClusterID
	})
}

// leading returns what the leader says of the partitions.
func (c *cluster) leading(names ...string) *control.Health {
	c.t.Helper()
	var health *control.Health
	c.wait("a leader to say how things are", func() bool {
		for _, name := range names {
			if r := c.nodes[name].Info().Replication; r.Leading && r.Health != nil && r.Leader == name {
				health = r.Health
				return true
			}
		}
		return false
	})
	return health
}

func (c *cluster) ends(r *running) error {
	c.t.Helper()
	c.wait("a node to end", func() bool { return r.ended() != "" })
	return r.err
}

// TestReplicatedLife is a cluster over a join, a leave, a crash and a cut.
func TestReplicatedLife(t *testing.T) {
	t.Parallel()
	c := newClusterWith(t, 31, with(replicated, failover), "n1", "n2", "n3")
	c.wait("the leader to say that nothing is missing", func() bool { return c.leading("n1", "n2", "n3").UnderReplicated == 0 })
	if h := c.leading("n1", "n2", "n3"); h.Partitions != 13 || h.Losses != 0 {
		t.Errorf("%+v", h)
	}
	for _, name := range []string{"n1", "n2", "n3"} {
		c.wait(name+" to name the leader", func() bool { return c.nodes[name].Info().Replication.Leader != "" })
		info := c.nodes[name].Info()
		if info.Copies != 13 || info.Members != 3 || info.Replication.Replicas != 3 || info.Replication.Era != 1 {
			t.Errorf("%s: %+v with %+v", name, info, info.Replication)
		}
	}
	user := c.caller()
	if r := user.once("n2", wire.Header{Kind: wire.KindTable}, nil); r.err != nil {
		t.Error(r.err)
	} else if table, err := control.ParseTable(r.body); err != nil || table.Replicas != 3 || len(table.Members) != 3 {
		t.Errorf("%+v, %v", table, err)
	}
	if r := user.once("n2", wire.Header{Kind: wire.KindMember}, nil); r.header.Status != wire.StatusNotAuthorised {
		t.Errorf("a client's control message: %v, %v", r.header.Status, r.err)
	}

	c.start("n4", proc.Address(t, nil))
	c.settled("n1", "n2", "n3", "n4")
	c.nodes["n1"].stop()
	if err := c.ends(c.nodes["n1"]); err != nil {
		t.Errorf("n1 left with %v", err)
	}
	c.settled("n2", "n3", "n4")

	c.kill("n3")
	c.wait("n3 to be suspended", func() bool {
		n := c.nodes["n2"].plane.member.Table().Named("n3")
		return n != nil && n.Status == state.Suspended
	})
	c.wait("the leader to miss a copy of each partition", func() bool { return c.leading("n2", "n4").UnderReplicated == 13 })
	c.start("n3", proc.Address(t, nil))
	c.settled("n2", "n3", "n4")
	for _, name := range []string{"n2", "n3", "n4"} {
		if losses := c.nodes[name].Info().Losses; losses != 0 {
			t.Errorf("%s counts %d losses", name, losses)
		}
	}
	if !c.hasEvent("n3 is back at n3:1 as a new process") {
		t.Error("no event tells of the new process")
	}
}

// TestReplicatedCutOff cuts a node off for a while, and then until another process has its name.
func TestReplicatedCutOff(t *testing.T) {
	t.Parallel()
	c := newClusterWith(t, 32, with(replicated, failover), "n1", "n2", "n3")
	cut := func() {
		c.world.Partition("n2:1", "n1:1")
		c.world.Partition("n2:1", "n3:1")
		c.wait("n2 to be without quorum", func() bool { return strings.Contains(c.nodes["n2"].unready(), dramnode.ErrNoQuorum.Error()) })
		c.wait("the others to do without n2", func() bool {
			s := c.nodes["n1"].plane.member.Table()
			return !s.Serves(state.Incarnation(c.nodes["n2"].self.Incarnation)) && c.nodes["n1"].unready() == ""
		})
	}
	get := wire.Header{Kind: wire.KindGet, Key: []byte("key")}
	cut()
	if r := c.caller().once("n2", get, nil); r.err != nil || r.header.Status.Err() == nil {
		t.Errorf("a node without lease answers a get: %v, %v", r.header.Status, r.err)
	}
	if info := c.nodes["n2"].Info(); info.Quorate || info.Ready {
		t.Errorf("%+v", info)
	}
	c.world.Heal()
	c.settled("n1", "n2", "n3")

	cut()
	old := c.nodes["n2"]
	c.start("n2b", proc.Address(t, nil), func(cfg *Config) { cfg.Name = "n2" })
	c.wait("the new n2 to be a member", func() bool { return c.nodes["n2b"].Table() != nil && c.nodes["n2b"].unready() == "" })
	c.world.Heal()
	if err := c.ends(old); !errors.Is(err, control.ErrRetired) {
		t.Errorf("the old n2 ends with %v, want ErrRetired", err)
	}
	c.nodes["n2"] = c.nodes["n2b"]
	delete(c.nodes, "n2b")
	c.settled("n1", "n2", "n3")
}

// TestReplicatedMajorityLost restarts two of three, which the third cannot do without.
func TestReplicatedMajorityLost(t *testing.T) {
	t.Parallel()
	c := newClusterWith(t, 33, with(replicated, failover), "n1", "n2", "n3")
	c.kill("n2", "n3") // at once, or n1 may do without one of them before
	c.wait("n1 to be without quorum", func() bool { return !c.nodes["n1"].plane.member.Leased() })
	before := c.nodes["n1"].Table().Version
	c.start("n2", proc.Address(t, nil))
	c.start("n3", proc.Address(t, nil))
	c.settled("n1", "n2", "n3")
	if now := c.nodes["n3"].Table(); now.Version>>control.EraShift != 2 || now.Version < before || now.Losses() == 0 {
		t.Errorf("version %x after %x, %d losses and doubts", now.Version, before, now.Losses())
	}
	unaccepted := c.leading("n1", "n2", "n3").Unaccepted
	if r := c.caller().once("n2", wire.Header{Kind: wire.KindAccept}, nil); r.err != nil || string(r.body) != strconv.Itoa(unaccepted) || unaccepted == 0 {
		t.Errorf("accepting the losses of %d partitions: %q, %v", unaccepted, r.body, r.err)
	}
	c.wait("the leader to count no loss any more", func() bool { return c.leading("n1", "n2", "n3").Unaccepted == 0 })
}

// TestClustersDoNotMerge lets a process see two clusters.
func TestClustersDoNotMerge(t *testing.T) {
	t.Parallel()
	one := newClusterWith(t, 34, with(replicated), "a1", "a2")
	two := &cluster{t: t, world: one.world, nodes: map[string]*running{}, log: one.log, changes: one.changes}
	for range 2 {
		two.seeds = append(two.seeds, proc.Address(t, nil))
	}
	two.start("b1", two.seeds[0])
	two.start("b2", two.seeds[1])
	one.settled("a1", "a2")
	two.settled("b1", "b2")
	x := one.start("x", proc.Address(t, nil), func(cfg *Config) { cfg.Join = append(slices.Clone(one.seeds), two.seeds...) })
	one.wait("x to be in a cluster", func() bool { return x.Table() != nil && x.unready() == "" })
	if x.Table().ClusterID == two.nodes["b1"].Table().ClusterID {
		two.nodes["x"] = x
		delete(one.nodes, "x")
		two.settled("b1", "b2", "x")
		one.settled("a1", "a2")
	} else {
		one.settled("a1", "a2", "x")
		two.settled("b1", "b2")
	}
	if one.nodes["a1"].Table().ClusterID == two.nodes["b1"].Table().ClusterID {
		t.Error("the clusters have merged")
	}
}

func TestReplicatedJoinRefused(t *testing.T) {
	t.Parallel()
	c := newClusterWith(t, 35, with(replicated), "n1", "n2")
	for name, test := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"x1": {func(cfg *Config) { cfg.Settings.Partitions = 9 }, "partitions 9 here, 13 there"},
		"x2": {func(cfg *Config) { cfg.Replicas = 2 }, "replicas 2 here, 3 there"},
		"x3": {func(cfg *Config) { cfg.MinSync = 2 }, "min-sync 2 here, 1 there"},
		"x4": {func(cfg *Config) { cfg.OnLoss = state.Refuse }, "on-loss refuse here, recreate there"},
		"x5": {func(cfg *Config) { cfg.Lease = 4 * time.Second }, "lease 4s here, 10s there"},
		"x6": {func(cfg *Config) { cfg.Replicas = 1 }, "replicas 1 here, 3 there"},
		"x9": {func(cfg *Config) { cfg.Mode, cfg.Replicas = state.Cache, 1 }, "mode cache here, strong there"},
		"x7": {func(cfg *Config) { cfg.MaxValueBytes = 1 << 20 }, "max-value 1048576 here, 8388608 there"},
		"xa": {func(cfg *Config) { cfg.LostAfter = time.Second }, "lost-after 1s here, 30s there"},
		"x8": {func(cfg *Config) { cfg.Name = "n2" }, `the name "n2" is in use by n2:1`},
	} {
		err := c.ends(c.start(name, proc.Address(t, nil), test.change))
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s ends with %v, want %q", name, err, test.want)
		}
		if !errors.Is(err, dramnode.ErrInvalid) {
			t.Errorf("%s: %v is no ErrInvalid", name, err)
		}
	}
	c.settled("n1", "n2")
}

func TestReplicatedConfig(t *testing.T) {
	good := Config{Listen: "a:1", Gossip: "a:2", Replicas: 3, MemoryBytes: 64 << 20, MaxValueBytes: 1 << 20}
	for name, test := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"eviction": {func(c *Config) { c.Eviction = storage.EvictS3FIFO }, "eviction s3fifo with 3 replicas"},
		"cache":    {func(c *Config) { c.Mode = state.Cache }, "mode cache with 3 replicas"},
		"too many": {func(c *Config) { c.Replicas = 6 }, "replicas 6, at most 5"},
		"negative": {func(c *Config) { c.Replicas = -1 }, "replicas -1"},
		"min-sync": {func(c *Config) { c.MinSync = 4 }, "min-sync 4, want 1 to replicas (3)"},
		"single":   {func(c *Config) { c.Replicas, c.MinSync = 1, 2 }, "min-sync 2, want 1 to replicas (1)"},
		"lease":    {func(c *Config) { c.Lease = time.Millisecond }, "lease of 1ms, want 700ms to 1m0s"},
	} {
		bad := good
		test.change(&bad)
		if err := bad.Validate(); err == nil || !strings.Contains(err.Error(), test.want) || !errors.Is(err, dramnode.ErrInvalid) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
	good.setDefaults()
	if timing := good.timing(); timing.Length != time.Second || timing.Renew != 200*time.Millisecond || good.MinSync != 1 {
		t.Errorf("%+v", timing)
	}
	if err := good.params().Validate(); err != nil {
		t.Error(err)
	}
}
