package gossip

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/test/proc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience limits every wait of these tests; none should come near it.
const patience = 30 * time.Second

// A logBuffer collects log lines of several goroutines.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(line []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(line)
}

func (b *logBuffer) contains(text string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Contains(b.buf.String(), text)
}

// A testNode is a Gossip that runs.
type testNode struct {
	*Gossip
	log     *logBuffer
	changed chan struct{}
	end     func() // ends Run, politely unless crash was set, and waits
}

func testConfig(name string, incarnation uint64, seeds ...string) Config {
	return Config{
		Meta:        Meta{Name: name, Incarnation: incarnation, Addr: "127.0.0.1:1", Settings: 7},
		Bind:        "127.0.0.1:0",
		Seeds:       seeds,
		Cluster:     "test",
		Profile:     Timing{ProbeInterval: 200 * time.Millisecond, ProbeTimeout: 100 * time.Millisecond, GossipInterval: 20 * time.Millisecond},
		RejoinEvery: 500 * time.Millisecond,
	}
}

func start(t *testing.T, c Config) *testNode {
	t.Helper()
	n := &testNode{log: &logBuffer{}, changed: make(chan struct{}, 1)}
	c.Log = zerolog.New(n.log)
	c.OnChange = func() { signal(n.changed) }
	g, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	n.Gossip = g
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	n.end = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run of %s: %v", c.Meta.Name, err)
		}
		if left := labelled(g.label()); left != 0 {
			t.Errorf("Run of %s left %d goroutines", c.Meta.Name, left)
		}
	})
	select {
	case <-g.Ready():
	case err := <-done:
		cancel()
		t.Fatalf("Run of %s: %v", c.Meta.Name, err)
	}
	t.Cleanup(n.end)
	return n
}

// await fails the test when cond does not come true.
func (n *testNode) await(t *testing.T, what string, cond func() bool) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-n.changed:
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s: not within %v: %s\nmembers %+v\nstatus %+v", n.conf.Meta.Name, patience, what, n.Members(), n.Status())
		}
	}
}

// alive names the living, with their incarnations.
func (n *testNode) alive() (keys []string) {
	for _, m := range n.Members() {
		if m.Alive {
			keys = append(keys, m.key())
		}
	}
	return keys
}

func (n *testNode) awaitAlive(t *testing.T, keys ...string) {
	t.Helper()
	n.await(t, fmt.Sprintf("alive are %v", keys), func() bool { return slices.Equal(n.alive(), keys) })
}

func (n *testNode) find(key string) (Member, bool) {
	for _, m := range n.Members() {
		if m.key() == key {
			return m, true
		}
	}
	return Member{}, false
}

func startMany(t *testing.T, count int, profile Timing) (nodes []*testNode, keys []string) {
	t.Helper()
	var seeds []string
	for i := range count {
		c := testConfig(fmt.Sprintf("n%02d", i), uint64(i+1), seeds...)
		c.Profile = profile
		n := start(t, c)
		nodes, keys = append(nodes, n), append(keys, n.meta.key())
		seeds = append(seeds, n.Addr())[:min(len(seeds)+1, 3)]
	}
	t.Cleanup(func() { // all at once, since each takes its time to leave
		var wg sync.WaitGroup
		for _, n := range nodes {
			wg.Go(n.end)
		}
		wg.Wait()
	})
	return nodes, keys
}

func TestFiveNodesThenLeaveThenCrash(t *testing.T) {
	t.Parallel()
	nodes, keys := startMany(t, 5, testConfig("", 0).Profile)
	for _, n := range nodes {
		n.awaitAlive(t, keys...)
	}
	m, _ := nodes[4].find(keys[0])
	if m.GossipAddr != nodes[0].Addr() || m.Addr != "127.0.0.1:1" || m.Since.IsZero() {
		t.Errorf("n04 knows n00 as %+v, want its address %s", m, nodes[0].Addr())
	}

	began := time.Now()
	nodes[4].end()
	if took := time.Since(began); took > patience/3 {
		t.Errorf("leaving took %v", took)
	}
	began = time.Now()
	for _, n := range nodes[:4] {
		n.awaitAlive(t, keys[:4]...)
	}
	t.Logf("leave seen by all after %v", time.Since(began))
	if m, ok := nodes[0].find(keys[4]); !ok || m.Alive {
		t.Errorf("the node that left is %+v, %v, want it to be known and not alive", m, ok)
	}

	nodes[3].crash = true
	nodes[3].end()
	began = time.Now()
	for _, n := range nodes[:3] {
		n.awaitAlive(t, keys[:3]...)
	}
	t.Logf("crash seen by all after %v", time.Since(began))
}

func TestSixteenNodes(t *testing.T) {
	t.Parallel()
	nodes, keys := startMany(t, 16, Timing{}) // the defaults
	for _, n := range nodes {
		n.awaitAlive(t, keys...)
	}
	if err := nodes[7].Update(func(m *Meta) { m.TableVersion = 42 }); err != nil {
		t.Fatal(err)
	}
	for _, n := range nodes {
		n.await(t, "n07 has table version 42", func() bool { m, _ := n.find(keys[7]); return m.TableVersion == 42 })
	}
}

func TestRestartIsANewIncarnation(t *testing.T) {
	for _, place := range []string{"same port", "another port"} {
		t.Run(place, func(t *testing.T) {
			t.Parallel()
			a := start(t, testConfig("a", 1))
			b := start(t, testConfig("b", 2, a.Addr()))
			a.awaitAlive(t, "a#1", "b#2")

			again := testConfig("b", 3, a.Addr())
			if place == "same port" {
				again.Bind = b.Addr()
			}
			b.crash = true
			b.end()
			start(t, again)
			began := time.Now()
			a.await(t, "b#3 is alive", func() bool { m, ok := a.find("b#3"); return ok && m.Alive })
			t.Logf("restart seen after %v", time.Since(began))
			a.awaitAlive(t, "a#1", "b#3")
		})
	}
}

func TestSeedComesLaterAndAgain(t *testing.T) {
	t.Parallel()
	first := start(t, testConfig("seed", 1))
	addr := first.Addr()
	first.end() // now the address is free, and known

	a := start(t, testConfig("a", 2, addr))
	a.await(t, "the seed was tried in vain", func() bool { return a.Status().Seeds[0].Err != nil })
	seedConfig := testConfig("seed", 3)
	seedConfig.Bind = addr
	start(t, seedConfig)
	a.awaitAlive(t, "a#2", "seed#3")
	a.await(t, "the seed's status is good", func() bool { s := a.Status().Seeds[0]; return s.Err == nil && !s.Joined.IsZero() })
}

// TestRememberedNodeIsRejoined restarts a node that knows no seeds at the place where another saw it.
func TestRememberedNodeIsRejoined(t *testing.T) {
	t.Parallel()
	a := start(t, testConfig("a", 1))
	b := start(t, testConfig("b", 2, a.Addr()))
	b.awaitAlive(t, "a#1", "b#2")
	addr := a.Addr()
	a.crash = true
	a.end()
	b.awaitAlive(t, "b#2")

	again := testConfig("a", 3)
	again.Bind = addr
	start(t, again)
	b.awaitAlive(t, "a#3", "b#2")
}

// refuses runs two nodes that know each other's address and must not merge, until both have tried.
func refuses(t *testing.T, a, b Config) (*testNode, *testNode) {
	t.Helper()
	a.Bind = proc.Address(t, nil)
	b.Seeds = []string{a.Bind}
	nb := start(t, b)
	a.Seeds = []string{nb.Addr()}
	na := start(t, a)
	for _, n := range []*testNode{na, nb} {
		from := time.Now()
		n.await(t, "the seed was tried in vain", func() bool {
			s := n.Status().Seeds[0]
			return s.Err != nil && s.Tried.After(from)
		})
		if got := n.Members(); len(got) != 1 || got[0].Name != n.meta.Name {
			t.Errorf("the members of %s are %+v, want itself alone", n.meta.Name, got)
		}
	}
	return na, nb
}

func TestOtherClusterNeverMerges(t *testing.T) {
	t.Parallel()
	b := testConfig("b", 2)
	b.Cluster = "other"
	refuses(t, testConfig("a", 1), b)
}

func TestKeys(t *testing.T) {
	keyed := func(name string, incarnation uint64, key string, seeds ...string) Config {
		c := testConfig(name, incarnation, seeds...)
		if key != "" {
			c.Key = []byte(key)
		}
		return c
	}
	t.Run("equal", func(t *testing.T) {
		t.Parallel()
		a := start(t, keyed("a", 1, "any length will do"))
		start(t, keyed("b", 2, "any length will do", a.Addr()))
		a.awaitAlive(t, "a#1", "b#2")
	})
	t.Run("wrong", func(t *testing.T) {
		t.Parallel()
		refuses(t, keyed("a", 1, "0123456789abcdef"), keyed("b", 2, "0123456789abcdeF"))
	})
	t.Run("one without", func(t *testing.T) {
		t.Parallel()
		refuses(t, keyed("a", 1, "0123456789abcdef"), keyed("b", 2, ""))
	})
}

func TestOtherSettingsAreRefused(t *testing.T) {
	t.Parallel()
	other := testConfig("b", 2)
	other.Meta.Settings = 8
	a, b := refuses(t, testConfig("a", 1), other)
	for _, n := range []*testNode{a, b} {
		n.await(t, "the refusal is logged", func() bool {
			return n.log.contains("settings differ") && n.log.contains("node refused")
		})
		status := n.Status()
		if len(status.Refusals) != 1 || status.Refused == 0 || !errors.Is(status.Refusals[0].Err, dramnode.ErrInvalid) {
			t.Errorf("the status of %s is %+v, want one refusal", n.meta.Name, status)
		} else if m := status.Refusals[0].Meta; m.Settings == n.meta.Settings || m.Name == n.meta.Name || m.Addr == "" {
			t.Errorf("%s refuses %+v", n.meta.Name, m)
		}
		if err := status.Seeds[0].Err; err == nil || !strings.Contains(err.Error(), "settings differ") {
			t.Errorf("the seed's error at %s is %v, want the settings named", n.meta.Name, err)
		}
	}
}

func TestConflictingClusterIDs(t *testing.T) {
	t.Parallel()
	a := start(t, testConfig("a", 1))
	b := start(t, testConfig("b", 2, a.Addr()))
	a.awaitAlive(t, "a#1", "b#2")
	b.awaitAlive(t, "a#1", "b#2")
	setID := func(n *testNode, id uint64) {
		if err := n.Update(func(m *Meta) { m.ClusterID = id }); err != nil {
			t.Fatal(err)
		}
	}
	setID(a, 10)
	b.await(t, "a has cluster 10", func() bool { m, _ := b.find("a#1"); return m.ClusterID == 10 })
	setID(b, 20)
	for _, n := range []*testNode{a, b} {
		n.await(t, "a conflict", func() bool { return len(n.Conflicts()) == 1 && len(n.Members()) == 1 })
		if got := n.Status().Conflicts; got != 1 {
			t.Errorf("%s counts %d conflicts, want 1", n.meta.Name, got)
		}
	}
	setID(b, 10)
	a.awaitAlive(t, "a#1", "b#2")
	b.awaitAlive(t, "a#1", "b#2")
}

// TestSilentSeed has a seed that takes connections and never answers, before one that does.
func TestSilentSeed(t *testing.T) {
	t.Parallel()
	silent, err := net.Listen("tcp", "127.0.0.1:0") // never accepts: the kernel does
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	a := start(t, testConfig("a", 1))
	c := testConfig("b", 2, silent.Addr().String(), a.Addr())
	c.Profile.StreamTimeout = time.Minute
	b := start(t, c)
	b.awaitAlive(t, "a#1", "b#2")
	began := time.Now()
	b.end() // must not wait for the silent one either
	if took := time.Since(began); took > patience/3 {
		t.Errorf("ending took %v", took)
	}
}

func TestSelfAsSeed(t *testing.T) {
	t.Parallel()
	addr := proc.Address(t, nil)
	c := testConfig("a", 1, addr)
	c.Bind = addr
	a := start(t, c)
	a.await(t, "it knows itself", func() bool { s := a.Status().Seeds[0]; return s.Self && s.Err == nil })
}

// TestNamesAndWildcards has a node that listens everywhere, and host names instead of addresses.
func TestNamesAndWildcards(t *testing.T) {
	t.Parallel()
	c := testConfig("a", 1)
	c.Bind, c.Advertise = "0.0.0.0:0", "localhost:0"
	a := start(t, c)
	_, port, err := net.SplitHostPort(a.Addr())
	if err != nil {
		t.Fatal(err)
	}
	b := start(t, testConfig("b", 2, "localhost:"+port))
	a.awaitAlive(t, "a#1", "b#2")
	b.awaitAlive(t, "a#1", "b#2")
	if m, _ := b.find("a#1"); m.GossipAddr != "127.0.0.1:"+port {
		t.Errorf("b knows a at %s, want 127.0.0.1:%s", m.GossipAddr, port)
	}
	b.await(t, "the seed is seen as joined", func() bool { return !b.Status().Seeds[0].Joined.IsZero() })
}

func TestAddressInUse(t *testing.T) {
	t.Parallel()
	a := start(t, testConfig("a", 1))
	c := testConfig("b", 2)
	c.Bind = a.Addr()
	g, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	err = g.Run(t.Context())
	if !errors.Is(err, syscall.EADDRINUSE) || err.Error() != "gossip: listen "+a.Addr()+": address already in use" {
		t.Errorf("Run: %v", err)
	}
	if err := g.Run(t.Context()); !errors.Is(err, dramnode.ErrInvalid) {
		t.Errorf("the second Run: %v, want ErrInvalid", err)
	}
}

func TestUpdateTooLong(t *testing.T) {
	t.Parallel()
	a := start(t, testConfig("a", 1))
	before := a.Members()
	err := a.Update(func(m *Meta) { m.Zone, m.Version = strings.Repeat("z", 255), strings.Repeat("v", 255) })
	if !errors.Is(err, dramnode.ErrInvalid) || !slices.Equal(a.Members(), before) {
		t.Errorf("Update: %v, members %+v, want ErrInvalid and no change", err, a.Members())
	}
}

// TestUseWhileItGossips is for the race detector.
func TestUseWhileItGossips(t *testing.T) {
	t.Parallel()
	nodes, _ := startMany(t, 3, testConfig("", 0).Profile)
	var wg sync.WaitGroup
	for _, n := range nodes {
		wg.Go(func() {
			for i := range uint64(200) {
				if err := n.Update(func(m *Meta) { m.TableVersion = i + 1 }); err != nil {
					t.Error(err)
				}
				n.Members()
				n.Conflicts()
				n.Status()
			}
		})
	}
	wg.Wait()
	for _, n := range nodes {
		n.await(t, "all have table version 200", func() bool {
			members := n.Members()
			return len(members) == 3 && !slices.ContainsFunc(members, func(m Member) bool { return m.TableVersion != 200 })
		})
	}
}
