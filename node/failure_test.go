package node

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/control"
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
// missing, all else must be there with its generation. It returns how many entries are missing.
func (s *stock) check(through string, before *control.Table) (missing int) {
	s.c.t.Helper()
	for key, generation := range s.generations {
		r, err := s.user.do(through, wire.Header{Kind: wire.KindGet, Key: []byte(key)}, nil)
		v := s.c.nodes[through].view.Load()
		p := v.Partition([]byte(key))
		lost := v.Table.Rows[p].Losses != before.Rows[p].Losses
		switch {
		case lost && errors.Is(err, dramnode.ErrNotFound):
			missing++
		case lost:
			s.c.t.Errorf("%s of the lost partition %d through %s: %v, want not found", key, p, through, err)
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

func TestKillAndRestart(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 11, "n1", "n2", "n3")
	c.agree("n1", "n2", "n3")
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
	c.agree("n1", "n2", "n3")
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
}

// TestCutOff cuts a node off for a moment, and then for so long that it is given up.
func TestCutOff(t *testing.T) {
	t.Parallel()
	c := newClusterWith(t, 12, func(cfg *Config) { cfg.Limits.LostAfter = 5 * time.Second }, "n1", "n2", "n3")
	c.agree("n1", "n2", "n3")
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
	if c.nodes["n1"].Table().Named("n2") == control.None {
		t.Error("n2 was given up before it had stopped serving")
	}
	c.wait("n2 to be given up", func() bool { return c.nodes["n1"].Table().Named("n2") == control.None })
	c.agree("n1", "n3")
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
	c.agree("n1", "n2", "n3")
	s.check("n2", before)
}

// TestKillWhileMoving kills one party of many moves: what the victim did not own must survive.
func TestKillWhileMoving(t *testing.T) {
	t.Parallel()
	for _, victim := range []string{"n1", "n2", "n4"} { // publisher and source, source, target
		t.Run(victim, func(t *testing.T) {
			t.Parallel()
			c := newClusterWith(t, 13, func(cfg *Config) {
				cfg.Limits.MovesPerMember, cfg.Limits.LostAfter = 4, 10*time.Minute // who is killed comes back in the test
			}, "n1", "n2", "n3")
			c.agree("n1", "n2", "n3")
			s := c.stock("n3", 600, 3000)
			before := c.nodes["n3"].Table()
			c.world.SetDelay(time.Millisecond, 3*time.Millisecond)
			c.start("n4", proc.Address(t, nil))
			c.wait("moves to be under way", func() bool { // some done, some not
				t := c.nodes["n3"].Table()
				i := t.Named("n4")
				if i == control.None || t.Owned()[i] == 0 {
					return false
				}
				return slices.ContainsFunc(t.Rows, func(r control.Row) bool { return r.MoveTo == i })
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
			c.agree("n1", "n2", "n3", "n4")
			missing := s.check("n3", before)
			t.Logf("%d of %d entries were the victim's", missing, len(s.generations))
			if missing == len(s.generations) {
				t.Error("everything is lost")
			}
		})
	}
}
