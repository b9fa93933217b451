package node

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/control"
	"github.com/dramnode/dramnode/replica"
	"github.com/dramnode/dramnode/test/history"
	"github.com/dramnode/dramnode/test/proc"
	"github.com/dramnode/dramnode/wire"
)

// same checks that the copies of each partition are equal once nothing is under way any more.
func (c *cluster) same(names ...string) {
	c.t.Helper()
	c.wait("the copies to be equal", func() bool {
		t := c.nodes[names[0]].Table()
		for p := range t.Rows {
			owner := c.contents(t.Members[t.Rows[p].Owner].Name, uint16(p))
			for _, b := range t.Rows[p].Backups {
				if b != control.None && c.contents(t.Members[b].Name, uint16(p)) != owner {
					return false
				}
			}
		}
		return true
	})
}

// contents describes what a node has of a partition.
func (c *cluster) contents(name string, p uint16) string {
	part := &c.nodes[name].replicas.parts[p]
	part.mu.Lock()
	defer part.mu.Unlock()
	var all []string
	for from, more := replica.Cursor(0), true; more; more = from != 0 {
		from = part.store.Scan(from, 1000, func(key []byte, v replica.Version, pending replica.Pending) {
			if v.Alive() || pending.Gen != 0 {
				all = append(all, fmt.Sprintf("%s:%d:%x:%d", key, v.Gen, v.Value.CRC, pending.Gen))
			}
		})
	}
	slices.Sort(all)
	return fmt.Sprint(slices.Compact(all))
}

func TestReplicatedValuesSurvive(t *testing.T) {
	t.Parallel()
	c := newClusterWith(t, 31, with(replicated, failover), "n1", "n2", "n3", "n4")
	s := c.stock("n1", 300, 500)
	long := c.stock("n2", 8, 300_000)
	before := c.nodes["n1"].Table()
	c.kill("n2")
	for _, node := range []string{"n1", "n3", "n4"} {
		if missing := s.check(node, before) + long.check(node, before); missing != 0 {
			t.Errorf("%d entries are missing after one node's death", missing)
		}
	}
	c.start("n2", proc.Address(t, nil))
	c.settled("n1", "n2", "n3", "n4")
	c.kill("n1")
	for _, node := range []string{"n2", "n3", "n4"} {
		s.check(node, before)
		long.check(node, before)
	}
	if losses := c.nodes["n3"].Info().Losses; losses != 0 {
		t.Errorf("%d losses", losses)
	}
	c.start("n1", proc.Address(t, nil))
	c.settled("n1", "n2", "n3", "n4")
	c.same("n1", "n2", "n3", "n4")
}

// TestReplicatedLinearizable lets clients work on the same keys through random nodes while nodes are killed, cut off, started
// anew and sent away, and then looks for an order of the operations that explains every answer.
func TestReplicatedLinearizable(t *testing.T) {
	t.Parallel()
	const clients, keys = 6, 150
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	c := newClusterWith(t, seed, with(replicated, failover), "n1", "n2", "n3", "n4")
	nodes := newPool("n1", "n2", "n3", "n4")
	began, done := time.Now(), make(chan struct{})
	var historians []*historian
	var wg sync.WaitGroup
	for id := range clients {
		h := &historian{t: t, id: id, user: c.caller(), nodes: nodes, random: rand.New(rand.NewPCG(seed, uint64(id))), seen: map[string]dramnode.Generation{}, began: began}
		historians = append(historians, h)
		wg.Go(func() {
			for range 400 {
				select {
				case <-done:
					return
				default:
					h.run(25, keys)
				}
			}
		})
	}
	nodes.set("n1", "n3", "n4")
	c.kill("n2")
	c.start("n2", proc.Address(t, nil))
	c.settled("n1", "n2", "n3", "n4")
	nodes.set("n1", "n2", "n4")
	for _, other := range []string{"n1", "n2", "n4"} {
		c.world.Partition("n3:1", other+":1")
	}
	c.wait("the others to do without n3", func() bool {
		t := c.nodes["n1"].Table()
		return !slices.ContainsFunc(t.Rows, func(r control.Row) bool { return t.Members[r.Owner].Name == "n3" })
	})
	c.wait("n3 to notice", func() bool { return c.nodes["n3"].unready() != "" })
	c.world.Heal()
	c.settled("n1", "n2", "n3", "n4")
	nodes.set("n2", "n3", "n4")
	c.nodes["n1"].stop()
	<-c.nodes["n1"].done
	if err := c.nodes["n1"].err; err != nil {
		t.Errorf("n1 left with %v", err)
	}
	c.settled("n2", "n3", "n4")
	close(done)
	wg.Wait()
	c.same("n2", "n3", "n4")
	var ops []history.Op
	unknown := 0
	for _, h := range historians {
		ops = append(ops, h.history...)
	}
	for _, o := range ops {
		if o.Status == wire.StatusUnknownOutcome {
			unknown++
		}
	}
	t.Logf("%d operations in %v, %d without an answer", len(ops), time.Since(began).Round(time.Millisecond), unknown)
	if losses := c.nodes["n2"].Info().Losses; losses != 0 {
		t.Errorf("%d losses", losses)
	}
	if err := history.Check(ops, eventually); err != nil {
		t.Errorf("seed %d: %v", seed, err)
	}
}

// TestReplicatedRetry sends each write twice: the second gets the first one's answer.
func TestReplicatedRetry(t *testing.T) {
	t.Parallel()
	c := newClusterWith(t, 32, with(replicated), "n1", "n2", "n3")
	user := c.caller()
	for i := range 50 {
		key := fmt.Sprintf("twice-%d", i%7)
		g, err := user.get("n1", key)
		if err != nil && !errors.Is(err, dramnode.ErrNotFound) {
			t.Fatal(err, g)
		}
		body := sequenced(key, i)
		h := wire.Header{Kind: wire.KindPut, Key: []byte(key), CRC: wire.Checksum(body), Ext: wire.AppendWriteExt(nil, wire.WriteExt{Client: 9, Counter: uint64(i + 1), FirstUnacked: uint64(i + 1)})}
		first, err := user.do("n1", h, body)
		if err != nil {
			t.Fatal(err)
		}
		again, err := user.do([]string{"n2", "n3"}[i%2], h, body)
		if err != nil || again.ext.Generation != first.ext.Generation {
			t.Fatalf("the second attempt of %s: generation %d and %v, want the first one's %d", key, again.ext.Generation, err, first.ext.Generation)
		}
	}
}

func TestReplicatedRanges(t *testing.T) {
	t.Parallel()
	c := newClusterWith(t, 33, with(replicated), "n1", "n2", "n3")
	s := c.stock("n2", 200, 50)
	keys := s.user.mustList(c.nodes["n1"], "", "", 37)
	if len(keys) != len(s.generations) {
		t.Errorf("%d keys are listed, want %d", len(keys), len(s.generations))
	}
	s.user.mustDelete(c.nodes["n2"], "stock-50-1", "stock-50-2", 111)
	if left := s.user.mustList(c.nodes["n3"], "", "", 1000); len(left) != len(s.generations)-111 {
		t.Errorf("%d are left of %d, want 111 deleted", len(left), len(s.generations))
	}
	c.same("n1", "n2", "n3")
}
