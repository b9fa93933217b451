package node

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/wire"
)

var three = []string{"n1", "n2", "n3"}

// atRest waits until no node has anything but so many entries: no lease, no reservation, nothing staged, no tombstone.
func (c *cluster) atRest(entries int) {
	c.t.Helper()
	c.wait(fmt.Sprintf("%d entries and nothing else", entries), func() bool {
		for _, n := range c.nodes {
			s, pending := n.store.Stats(), 0
			for p := range n.replicas.parts {
				part := &n.replicas.parts[p]
				part.mu.RLock()
				stats := part.store.Stats()
				pending += len(part.waiting) + stats.Staged + stats.Tombstones
				part.mu.RUnlock()
			}
			if s.Leases+s.Reservations+pending != 0 || s.Entries != entries {
				return false
			}
		}
		return true
	})
	for name, n := range c.nodes {
		if err := n.store.Check(); err != nil {
			c.t.Errorf("%s: %v", name, err)
		}
	}
}

func (c *caller) remove(node, key string) {
	c.t.Helper()
	h := wire.Header{Kind: wire.KindDelete, Key: []byte(key), Ext: wire.AppendWriteExt(nil, wire.WriteExt{Client: c.id, Counter: c.counter.Add(1)})}
	r, err := c.do(node, h, nil)
	for tries := 0; errors.Is(err, dramnode.ErrUnknownOutcome) && tries < 10; tries++ {
		r, err = c.do(node, h, nil)
	}
	if err != nil {
		c.t.Fatalf("delete %s through %s: %v: %s", key, node, err, r.body)
	}
}

// TestEverySize writes values of all lengths at which something changes, one after the other under few keys, and reads them
// through every node. In the end all memory is free.
func TestEverySize(t *testing.T) {
	t.Parallel()
	const most = 2 << 20
	c := newClusterWith(t, 81, with(replicated, func(cfg *Config) { cfg.MaxValueBytes = most }), three...)
	user := c.caller()
	keys := []string{"k", "size", "other", string(bytes.Repeat([]byte("k"), dramnode.MaxKeyBytes))}
	for i, size := range []int{0, 1, 4096, 4097, 16 << 10, 16<<10 + 1, 64 << 10, 1 << 20, most, 3, 0} {
		for j, key := range keys {
			body := value(fmt.Sprintf("%d-%d", size, j), size)
			h := putOf(key, body)
			h.CRC++
			user.expect(three[(i+j)%3], h, body, wire.StatusCorrupt)
			g := user.put(three[(i+j)%3], key, body)
			for _, node := range three {
				r, err := user.do(node, wire.Header{Kind: wire.KindGet, Key: []byte(key)}, nil)
				if err != nil || r.ext.Generation != g || r.ext.Size != uint64(size) || !bytes.Equal(r.body, body) || size > 0 && r.header.CRC != wire.Checksum(body) {
					t.Fatalf("key %d with %d bytes through %s: %d bytes of generation %d, %v", j, size, node, len(r.body), r.ext.Generation, err)
				}
			}
		}
	}
	for i, key := range keys {
		user.remove(three[i%3], key)
	}
	c.atRest(0)
}

// TestManyRacers lets clients race for a generation through all nodes, with retries as clients make them.
func TestManyRacers(t *testing.T) {
	t.Parallel()
	const racers, rounds = 32, 10
	c := newClusterWith(t, 82, with(replicated), three...)
	users := make([]*caller, racers)
	for i := range users {
		users[i] = c.caller()
	}
	current := dramnode.Absent
	for round := range rounds {
		body := value("race", []int{4, 20_000}[round%2])
		won := make([]dramnode.Generation, racers)
		var wg sync.WaitGroup
		for i, user := range users {
			wg.Go(func() {
				h := conditional(putOf("race", body), current)
				h.Ext = wire.AppendWriteExt(nil, wire.WriteExt{Client: user.id, Counter: uint64(round + 1), FirstUnacked: uint64(round + 1), IfGeneration: current})
				r, err := user.do(three[(i+round)%3], h, body)
				for n := 0; n < 20 && errors.Is(err, dramnode.ErrUnknownOutcome); n++ {
					r, err = user.do(three[(i+n)%3], h, body)
				}
				if err == nil {
					won[i] = r.ext.Generation
				} else if !errors.Is(err, dramnode.ErrGenerationMismatch) {
					t.Errorf("round %d, racer %d: %v", round, i, err)
				}
			})
		}
		wg.Wait()
		won = slices.DeleteFunc(won, func(g dramnode.Generation) bool { return g == dramnode.Absent })
		if len(won) != 1 {
			t.Fatalf("round %d: winners %v", round, won)
		}
		current = won[0]
	}
	c.atRest(1)
}

// TestLives lists entries while some of them expire, everywhere, and others were touched to live on.
func TestLives(t *testing.T) {
	t.Parallel()
	c := newClusterWith(t, 83, with(replicated), three...)
	user := c.caller()
	var stay []string
	for i := range 60 {
		key := fmt.Sprintf("life-%02d", i)
		body := value(key, 100*i*i%40_000)
		ext := wire.WriteExt{Client: user.id, Counter: user.counter.Add(1), TTLMillis: 1000}
		if i%3 == 0 { // its life is over long before the list
			ext.TTLMillis = 1
		}
		h := putOf(key, body)
		h.Ext = wire.AppendWriteExt(nil, ext)
		if i%3 == 1 {
			stay = append(stay, key)
			ext.TTLMillis = 0
			h.Ext = wire.AppendWriteExt(nil, ext)
		}
		if _, err := user.do(three[i%3], h, body); err != nil {
			t.Fatal(err)
		}
		if i%3 == 1 && i%2 == 0 { // has a life now, and a long one
			touch := wire.Header{Kind: wire.KindTouch, Key: []byte(key)}
			touch.Ext = wire.AppendWriteExt(nil, wire.WriteExt{Client: user.id, Counter: user.counter.Add(1), TTLMillis: 3_600_000})
			if _, err := user.do(three[(i+1)%3], touch, nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	c.wait("the others to expire", func() bool {
		keys := user.mustList(c.nodes["n2"], "life-", "life.", 7)
		for _, key := range stay {
			if !slices.Contains(keys, key) {
				t.Fatalf("%s is not listed: %q", key, keys)
			}
		}
		return len(keys) == len(stay)
	})
	for i := range 60 {
		for _, node := range three {
			if got, err := user.get(node, fmt.Sprintf("life-%02d", i)); (err == nil) != (i%3 == 1) {
				t.Errorf("life-%02d through %s: %d bytes, %v", i, node, len(got), err)
			}
		}
	}
	c.atRest(len(stay))
}

// TestFullBackup has a backup with less memory than the others: what it has no room for is not written anywhere, since the
// primaries refuse it by name before it is full. It stays in sync, and deletes go on.
func TestFullBackup(t *testing.T) {
	t.Parallel()
	c := newClusterWith(t, 84, with(replicated, failover, func(cfg *Config) {
		if cfg.MaxValueBytes = 1 << 20; cfg.Name == "n3" {
			cfg.MemoryBytes = 6 << 20
		}
	}), three...)
	user := c.caller()
	kept, refused := map[string][]byte{}, 0
	named := 0
	before := c.nodes["n1"].plane.member.Table()
	for i := 0; refused < 6 || named == 0; i++ { // the first refusals may come before anybody knows whose memory is full
		key := fmt.Sprintf("fill-%d", i)
		owner, _ := c.owner("n1", key)
		if owner == "n3" {
			continue
		}
		body := value(key, 100_000+i) // a few per cent of n3: it says that it is full before it is
		switch r, err := user.do(owner, putOf(key, body), body); {
		case i > 300:
			t.Fatal("n3 has room for all")
		case err == nil:
			kept[key] = body
		case errors.Is(err, dramnode.ErrNoMemory):
			refused++
			if strings.Contains(string(r.body), "node n3 is 9") {
				named++
			}
			if got, err := user.get(owner, key); !errors.Is(err, dramnode.ErrNotFound) {
				t.Errorf("%s, which was refused: %d bytes, %v", key, len(got), err)
			}
		default:
			t.Fatalf("%s: %v: %s", key, err, r.body)
		}
	}
	for key, body := range kept {
		for _, node := range three {
			if got, err := user.get(node, key); err != nil || !bytes.Equal(got, body) {
				t.Fatalf("%s through %s: %d bytes, %v", key, node, len(got), err)
			}
		}
	}
	if losses := c.nodes["n1"].Info().Losses; losses != 0 || len(kept) < 5 || named == 0 {
		t.Errorf("%d losses, %d values kept, %d refusals that name n3", losses, len(kept), named)
	}
	for p, r := range c.nodes["n1"].plane.member.Table().Rows {
		if r.Epoch != before.Rows[p].Epoch {
			t.Errorf("partition %d got another configuration: %+v, was %+v", p, r, before.Rows[p])
		}
	}
	for key := range kept {
		user.remove("n1", key)
	}
	c.atRest(0)
	c.settled(three...)
	again := 0
	for key, body := range kept {
		if again++; again > len(kept)/2 {
			break // in another order not all of them may fit
		}
		c.wait("the primaries to hear that there is room again", func() bool {
			_, err := user.do("n2", putOf(key, body), body)
			if err != nil && !errors.Is(err, dramnode.ErrNoMemory) {
				t.Fatalf("%s: %v", key, err)
			}
			return err == nil
		})
	}
}
