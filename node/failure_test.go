package node

import (
	"bytes"
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
	"github.com/dramnode/dramnode/test/proc"
	"github.com/dramnode/dramnode/wire"
)

// A stock is a set of entries that a test has written, with the generations of the writes.
type stock struct {
	c           *cluster
	user        *caller
	generations map[string]dramnode.Generation
	bytes       int
}

func (c *cluster) stock(through string, keys, bytes int) *stock {
	c.t.Helper()
	s := &stock{c: c, user: c.caller(), generations: map[string]dramnode.Generation{}, bytes: bytes}
	for i := range keys {
		key := fmt.Sprintf("stock-%d-%d", bytes, i)
		s.generations[key] = s.user.put(through, key, value(key, bytes))
	}
	return s
}

// check reads everything through a node. What lies in a partition that was lost since before must be
// missing, and said to be lost, all else must be there with its generation. It returns how many entries are missing.
func (s *stock) check(through string, before *control.Table) (missing int) {
	s.c.t.Helper()
	for key, generation := range s.generations {
		r, err := s.user.do(through, wire.Header{Kind: wire.KindGet, Key: []byte(key)}, nil)
		v := s.c.nodes[through].view.Load()
		p := v.Partition([]byte(key))
		lost := v.Table.Rows[p].Losses != before.Rows[p].Losses
		switch {
		case lost && errors.Is(err, dramnode.ErrPartitionLost):
			missing++
		case lost:
			s.c.t.Errorf("%s of the lost partition %d through %s: %v, want partition lost", key, p, through, err)
		case err != nil || r.ext.Generation != generation || !bytes.Equal(r.body, value(key, s.bytes)):
			s.c.t.Errorf("%s of partition %d through %s: %d bytes, generation %d (want %d), %v", key, p, through, len(r.body), r.ext.Generation, generation, err)
		}
	}
	return missing
}

func (c *cluster) hasEvent(text string) bool {
	for _, n := range c.nodes {
		if slices.ContainsFunc(n.Info().Events, func(e control.Event) bool { return strings.Contains(e.Text, text) }) {
			return true
		}
	}
	return false
}

// accept is an operator's word, to a node, about the losses of so many partitions.
func (c *cluster) accept(through string, partitions int) {
	c.t.Helper()
	if r := c.caller().once(through, wire.Header{Kind: wire.KindAccept}, nil); r.err != nil || string(r.body) != strconv.Itoa(partitions) {
		c.t.Errorf("accepting the losses of %d partitions: %q, %v", partitions, r.body, r.err)
	}
}

// keyOf returns a key, that nobody uses, of a partition of that owner.
func (c *cluster) keyOf(owner string) string {
	for i := 0; ; i++ {
		key := fmt.Sprintf("nobody-%d", i)
		if name, _ := c.owner(owner, key); name == owner {
			return key
		}
	}
}

func TestKillAndRestart(t *testing.T) {
	t.Parallel()
	c := newClusterWith(t, 11, with(failover), "n1", "n2", "n3")
	s := c.stock("n1", 300, 500)
	before := c.nodes["n1"].Table()
	owned := before.Owned()[before.Named("n2")]
	c.kill("n2")
	killed := time.Now()
	for key := range s.generations {
		owner, _ := c.owner("n1", key)
		r := s.user.once("n3", wire.Header{Kind: wire.KindGet, Key: []byte(key), BudgetMicros: 1e5}, nil)
		if want := owner != "n2"; (r.err == nil && r.header.Status == wire.StatusOK) != want {
			t.Fatalf("%s of %s while n2 is dead: %v, %v", key, owner, r.header.Status, r.err)
		} else if !want && r.header.Status != wire.StatusUnavailable {
			t.Fatalf("%s of the dead n2: %v: %s", key, r.header.Status, r.body)
		}
	}
	if time.Since(killed) < 20*time.Second && c.nodes["n1"].Table().Losses() != 0 {
		t.Error("partitions were given up before their time")
	}
	c.start("n2", proc.Address(t, nil))
	c.ready("n1", "n2", "n3")
	if got := c.nodes["n3"].Info().Losses; got != uint64(owned) {
		t.Errorf("%d losses, want the %d partitions of n2", got, owned)
	}
	if !c.hasEvent("n2 is back at n2:1 as a new process") {
		t.Error("no event tells of the loss")
	}
	for _, node := range []string{"n1", "n2", "n3"} {
		if s.check(node, before) == 0 {
			t.Error("no entry was lost; the test tests nothing")
		}
	}
	for key, old := range s.generations {
		if g := s.user.put("n1", key, []byte("again")); g <= old {
			t.Fatalf("%s has generation %d after %d", key, g, old)
		}
	}
	c.accept("n3", owned)
	if _, err := s.user.get("n2", c.keyOf("n2")); !errors.Is(err, dramnode.ErrNotFound) {
		t.Errorf("a key that is missing where losses were accepted: %v", err)
	}
}

// TestCutOff cuts a node off for a moment, and then for so long that it is given up.
func TestCutOff(t *testing.T) {
	t.Parallel()
	c := newClusterWith(t, 12, with(failover, func(cfg *Config) { cfg.LostAfter = 5 * time.Second }), "n1", "n2", "n3")
	s := c.stock("n2", 200, 500)
	before := c.nodes["n1"].Table()
	cut := func() {
		c.world.Partition("n2:1", "n1:1")
		c.world.Partition("n2:1", "n3:1")
	}
	ofN2 := ""
	for key := range s.generations {
		if owner, _ := c.owner("n1", key); owner == "n2" {
			ofN2 = key
		}
	}
	get := wire.Header{Kind: wire.KindGet, Key: []byte(ofN2)}
	cut()
	c.wait("n1 to lose n2", func() bool { return !c.nodes["n1"].peers.Contact(c.nodes["n2"].self.Incarnation) })
	if r := s.user.once("n1", get, nil); r.err == nil && r.header.Status != wire.StatusUnavailable {
		t.Errorf("a key of the node that is cut off: %v, %v", r.header.Status, r.err)
	}
	c.world.Heal()
	if missing := s.check("n3", before); missing != 0 || c.nodes["n3"].Info().Losses != 0 {
		t.Fatalf("%d entries are missing after a short cut", missing)
	}

	cut()
	c.wait("n2 to stop serving", func() bool {
		r := s.user.once("n2", get, nil)
		return r.err == nil && r.header.Status == wire.StatusNoQuorum
	})
	c.wait("n2 to be given up", func() bool { return c.nodes["n1"].Table().Named("n2") == control.None })
	c.ready("n1", "n3")
	old := c.nodes["n2"]
	select {
	case <-old.done:
		t.Fatalf("n2 ended without contact: %v", old.err)
	default:
	}
	s.check("n3", before)
	if !c.hasEvent("n2 was absent") {
		t.Error("no event tells of the loss")
	}
	c.world.Heal()
	select {
	case <-old.done:
	case <-time.After(eventually):
		t.Fatal("the given up incarnation goes on")
	}
	if !errors.Is(old.err, control.ErrRetired) {
		t.Errorf("n2 ended with %v, want ErrRetired", old.err)
	}
	c.start("n2", proc.Address(t, nil))
	c.ready("n1", "n2", "n3")
	s.check("n2", before)
}

// TestKillWhileMoving kills one party of many moves: what the victim did not own must survive.
func TestKillWhileMoving(t *testing.T) {
	t.Parallel()
	for _, victim := range []string{"n1", "n2", "n4"} { // two sources, of which one may lead, and the target
		t.Run(victim, func(t *testing.T) {
			t.Parallel()
			c := newClusterWith(t, 13, with(failover, func(cfg *Config) { cfg.LostAfter = 10 * time.Minute }), "n1", "n2", "n3") // who is killed comes back
			s := c.stock("n3", 600, 3000)
			before := c.nodes["n3"].Table()
			c.world.SetDelay(5*time.Millisecond, 20*time.Millisecond)
			c.start("n4", proc.Address(t, nil))
			c.wait("moves to be under way", func() bool {
				t := c.nodes["n3"].Table()
				i := t.Named("n4")
				return i != control.None && slices.ContainsFunc(t.Rows, func(r control.Row) bool { return r.MoveTo == i })
			})
			c.kill(victim)
			if victim == "n4" { // its target gone, each source serves all again
				c.wait("the moves to be called off", func() bool { return c.nodes["n3"].Info().Moving == 0 })
				for key := range s.generations {
					if owner, row := c.owner("n3", key); owner != "n4" {
						if row.Losses != 0 {
							t.Errorf("%s was lost", key)
						}
						s.generations[key] = s.user.put("n3", key, value(key, 3000))
					}
				}
			}
			c.world.SetDelay(0, 0)
			c.start(victim, proc.Address(t, nil))
			c.ready("n1", "n2", "n3", "n4")
			missing := s.check("n3", before)
			t.Logf("%d of %d entries were the victim's", missing, len(s.generations))
			if missing == len(s.generations) {
				t.Error("everything is lost")
			}
		})
	}
}

// TestTwoNodes kills each of two nodes in turn: the name that comes back proves its old process dead, also where that was the
// only voter. What it had alone is lost.
func TestTwoNodes(t *testing.T) {
	t.Parallel()
	c := newClusterWith(t, 14, with(failover), "n1", "n2")
	for i, victim := range []string{"n1", "n2"} {
		other := map[string]string{"n1": "n2", "n2": "n1"}[victim]
		s, before := c.stock(other, 100, 50), c.nodes[other].Table()
		c.kill(victim)
		c.start(victim, c.seeds[i]) // where the other one's seeds are
		c.ready("n1", "n2")
		after := c.nodes[other].Table()
		kept := 0
		for key, generation := range s.generations {
			r, err := s.user.do(victim, wire.Header{Kind: wire.KindGet, Key: []byte(key)}, nil)
			p := c.nodes[other].view.Load().Partition([]byte(key))
			switch was := before.Members[before.Rows[p].Owner].Name; {
			case was == other && (err != nil || r.ext.Generation != generation):
				t.Errorf("%s of %s: generation %d, %v", key, other, r.ext.Generation, err)
			case was == other:
				kept++
			case !errors.Is(err, dramnode.ErrPartitionLost):
				t.Errorf("%s of the killed %s: %v", key, victim, err)
			}
		}
		if kept == 0 || kept == len(s.generations) || after.Losses() == before.Losses() {
			t.Errorf("%d of %d entries are left, losses %d after %d", kept, len(s.generations), after.Losses(), before.Losses())
		}
		if r := c.caller().once(other, wire.Header{Kind: wire.KindAccept}, nil); r.err != nil || r.header.Status != wire.StatusOK {
			t.Errorf("accepting: %v, %v", r.header.Status, r.err)
		}
		for key := range s.generations {
			s.user.remove(other, key)
		}
	}
}

// TestCache has a node's partitions appear again, empty and without a word, as soon as its lease has ended.
func TestCache(t *testing.T) {
	t.Parallel()
	c := newClusterWith(t, 15, with(failover, func(cfg *Config) { cfg.Mode = state.Cache }), "n1", "n2", "n3")
	s, before := c.stock("n1", 200, 50), c.nodes["n1"].Table()
	c.kill("n3")
	missing := 0
	for key := range s.generations {
		r, err := s.user.do("n2", wire.Header{Kind: wire.KindGet, Key: []byte(key)}, nil)
		p := c.nodes["n1"].view.Load().Partition([]byte(key))
		if was := before.Members[before.Rows[p].Owner].Name; (was == "n3") != errors.Is(err, dramnode.ErrNotFound) || was != "n3" && err != nil {
			t.Errorf("%s of %s: %v: %s", key, was, err, r.body)
		} else if was == "n3" {
			missing++
			s.user.put("n2", key, []byte("again"))
		}
	}
	if losses := c.nodes["n1"].Info().Losses; missing == 0 || losses != uint64(before.Owned()[before.Named("n3")]) {
		t.Errorf("%d keys are missing, %d losses", missing, losses)
	}
	if h := c.leading("n1", "n2"); h.Unaccepted != 0 {
		t.Errorf("losses of %d partitions wait for somebody", h.Unaccepted)
	}
	c.start("n3", proc.Address(t, nil))
	c.ready("n1", "n2", "n3")
}
