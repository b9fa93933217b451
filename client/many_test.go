package client

import (
	"bytes"
	"errors"
	"fmt"
	"math/bits"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/transport"
	"github.com/dramnode/dramnode/wire"
)

func (s *slots) taken() int { return s.size - int(s.free.Load()) }

func fill(cluster *testCluster, n int, format string) {
	cluster.mu.Lock()
	defer cluster.mu.Unlock()
	for i := range n {
		cluster.generation++
		cluster.values[fmt.Sprintf(format, i)] = testValue{bytes: []byte("v"), generation: cluster.generation, crc: wire.Checksum([]byte("v"))}
	}
}

func listed(t *testing.T, c *Client, q Query) (keys []string) {
	t.Helper()
	for e, err := range c.List(t.Context(), q) {
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, string(e.Key))
	}
	return keys
}

func TestList(t *testing.T) {
	cluster := newTestCluster(t, 3)
	c := cluster.client(nil)
	if keys := listed(t, c, Query{}); len(keys) != 0 {
		t.Errorf("an empty cluster has %q", keys)
	}
	const n = 4000 // more than one page of every node
	fill(cluster, n, "a/%04d")
	fill(cluster, 5, "b/%d")
	// The partitions move while the list is read.
	pages := atomic.Int64{}
	cluster.nodes[0].setHook(func(_ *transport.Request, h wire.Header) bool {
		if h.Kind == wire.KindList && pages.Add(1) == 2 {
			cluster.install(cluster.newTable(2, func(p int) int { return (p + 1) % 3 }))
		}
		return false
	})
	keys := listed(t, c, Query{Prefix: []byte("a/")})
	if len(keys) != n {
		t.Fatalf("%d keys, want %d", len(keys), n)
	}
	for i, key := range keys {
		if want := fmt.Sprintf("a/%04d", i); key != want {
			t.Fatalf("key %d is %q, want %q", i, key, want)
		}
	}
	if c.Table().Version != 2 {
		t.Error("the partitions did not move during the list")
	}
	for _, tc := range []struct {
		q    Query
		want string
	}{
		{Query{Prefix: []byte("b/")}, "[b/0 b/1 b/2 b/3 b/4]"},
		{Query{Prefix: []byte("b/"), Limit: 2}, "[b/0 b/1]"},
		{Query{Prefix: []byte("b/"), After: []byte("b/2")}, "[b/3 b/4]"},
		{Query{Prefix: []byte("b/"), Start: []byte("b/1"), End: []byte("b/3")}, "[b/1 b/2]"},
		{Query{Start: []byte("a/3999"), Limit: 3}, "[a/3999 b/0 b/1]"},
	} {
		if got := fmt.Sprint(listed(t, c, tc.q)); got != tc.want {
			t.Errorf("%+v: %s, want %s", tc.q, got, tc.want)
		}
	}
}

func TestListStopsAtTheFirstError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cluster := newTestCluster(t, 2)
		c := cluster.client(func(cfg *Config) { cfg.Timeout = 100 * time.Millisecond })
		fill(cluster, 10, "%d")
		cluster.world.Partition(t.Name(), cluster.nodes[1].addr)
		var errs []error
		for e, err := range c.List(t.Context(), Query{}) {
			if err == nil {
				t.Errorf("key %q from a list with a gap", e.Key)
			}
			errs = append(errs, err)
		}
		if len(errs) != 1 || !errors.Is(errs[0], dramnode.ErrUnavailable) {
			t.Errorf("errors: %v", errs)
		}
	})
}

func TestDeleteRange(t *testing.T) {
	cluster := newTestCluster(t, 3)
	c := cluster.client(nil)
	fill(cluster, 50, "a/%02d")
	fill(cluster, 3, "b/%d")
	cluster.install(cluster.newTable(2, func(p int) int { return (p + 1) % 3 }))
	if n, err := c.DeleteRange(t.Context(), Query{Prefix: []byte("a/")}); n != 50 || err != nil {
		t.Errorf("deleted %d, %v", n, err)
	}
	if keys := fmt.Sprint(listed(t, c, Query{})); keys != "[b/0 b/1 b/2]" {
		t.Errorf("left: %s", keys)
	}
	if _, err := c.DeleteRange(t.Context(), Query{Limit: 1}); !errors.Is(err, dramnode.ErrInvalid) {
		t.Errorf("with a limit: %v", err)
	}
}

func TestMulti(t *testing.T) {
	ctx := t.Context()
	cluster := newTestCluster(t, 3)
	c := cluster.client(func(cfg *Config) { cfg.MemoryBytes, cfg.Outstanding = 256<<10, 16 })
	var items []Item
	var keys [][]byte
	for i := range 100 {
		size := i
		if i%10 == 0 {
			size = 30_000 // all of them together are more than the client's memory
		}
		keys = append(keys, fmt.Appendf(nil, "key %d", i))
		items = append(items, Item{Key: keys[i], Value: pattern(size)})
	}
	items[7].Options = []Option{IfGeneration(99)}
	keys[8], items[8].Key = nil, nil
	cluster.install(cluster.newTable(2, func(p int) int { return (p + 1) % 3 })) // the client has an old table
	for i, r := range c.MultiPut(ctx, items) {
		switch i {
		case 7:
			if !errors.Is(r.Err, dramnode.ErrGenerationMismatch) {
				t.Errorf("put 7: %v", r.Err)
			}
		case 8:
			if !errors.Is(r.Err, dramnode.ErrInvalid) {
				t.Errorf("put 8: %v", r.Err)
			}
		default:
			if r.Err != nil || r.Generation == 0 {
				t.Errorf("put %d: %d, %v", i, r.Generation, r.Err)
			}
		}
	}
	for i, r := range c.MultiGet(ctx, keys) {
		switch i {
		case 7:
			if !errors.Is(r.Err, dramnode.ErrNotFound) {
				t.Errorf("get 7: %v", r.Err)
			}
		case 8:
			if !errors.Is(r.Err, dramnode.ErrInvalid) {
				t.Errorf("get 8: %v", r.Err)
			}
		default:
			if r.Err != nil || !bytes.Equal(r.Bytes, items[i].Value) {
				t.Errorf("get %d: %d bytes, %v", i, len(r.Bytes), r.Err)
			}
		}
	}
	if c.MultiGet(ctx, nil) == nil || c.acks.first != c.acks.next {
		t.Error("leftovers")
	}
}

// Writes that must be tried again do not keep the memory that the others wait for.
func TestMultiRetriesInLittleMemory(t *testing.T) {
	cluster := newTestCluster(t, 1)
	c := cluster.client(func(cfg *Config) { cfg.MemoryBytes = 64 << 10 })
	node := cluster.nodes[0]
	var busy atomic.Int64
	node.setHook(func(r *transport.Request, h wire.Header) bool {
		if busy.Add(1) > 4 {
			return false
		}
		node.status(r, h.Kind, wire.StatusBusy, "")
		return true
	})
	var items []Item
	for i := range 4 {
		items = append(items, Item{Key: []byte{byte(i)}, Value: pattern(50_000)})
	}
	for i, r := range c.MultiPut(t.Context(), items) {
		if r.Err != nil {
			t.Errorf("put %d: %v", i, r.Err)
		}
	}
}

func TestMultiEndsWithItsDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cluster := newTestCluster(t, 1)
		c := cluster.client(func(cfg *Config) { cfg.Timeout = 50 * time.Millisecond })
		node := cluster.nodes[0]
		node.setHook(func(r *transport.Request, h wire.Header) bool {
			node.status(r, h.Kind, wire.StatusUnavailable, "")
			return true
		})
		for i, r := range c.MultiPut(t.Context(), []Item{{Key: []byte("a")}, {Key: []byte("b")}}) {
			if !errors.Is(r.Err, dramnode.ErrUnavailable) {
				t.Errorf("put %d: %v", i, r.Err)
			}
		}
	})
}

func TestFutures(t *testing.T) {
	ctx := t.Context()
	cluster := newTestCluster(t, 2)
	c := cluster.client(func(cfg *Config) { cfg.Outstanding = 4 })
	var puts []*Future[dramnode.Generation]
	for i := range 20 {
		puts = append(puts, c.StartPut(ctx, fmt.Appendf(nil, "%d", i), pattern(1000*i)))
	}
	for i, f := range puts {
		if g, err := f.Wait(); err != nil || g == 0 {
			t.Errorf("put %d: %d, %v", i, g, err)
		}
	}
	cluster.install(cluster.newTable(2, func(p int) int { return (p + 1) % 2 }))
	var gets []*Future[Value]
	for i := range 21 {
		gets = append(gets, c.StartGet(ctx, fmt.Appendf(nil, "%d", i)))
	}
	for i, f := range gets[:20] {
		if v, err := f.Wait(); err != nil || !bytes.Equal(v.Bytes, pattern(1000*i)) {
			t.Errorf("get %d: %d bytes, %v", i, len(v.Bytes), err)
		}
	}
	if _, err := gets[0].Wait(); !errors.Is(err, dramnode.ErrInvalid) {
		t.Errorf("second wait: %v", err)
	}
	if _, err := gets[20].Wait(); !errors.Is(err, dramnode.ErrNotFound) {
		t.Errorf("get of a missing key: %v", err)
	}
	if _, err := c.StartPut(ctx, nil, nil).Wait(); !errors.Is(err, dramnode.ErrInvalid) {
		t.Errorf("empty key: %v", err)
	}
	if n := c.slots.taken(); n != 0 {
		t.Errorf("%d slots are taken", n)
	}
}

func TestFuturesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cluster := newTestCluster(t, 1)
		c := cluster.client(func(cfg *Config) { cfg.Outstanding, cfg.Timeout = 2, 100*time.Millisecond })
		cluster.nodes[0].setHook(func(r *transport.Request, h wire.Header) bool {
			r.Detach()
			return true
		})
		first, second := c.StartGet(t.Context(), []byte("a")), c.StartGet(t.Context(), []byte("b"))
		if n := c.slots.taken(); n != 2 {
			t.Errorf("%d slots are taken, want 2", n)
		}
		for _, f := range []*Future[Value]{c.StartGet(t.Context(), []byte("c")), first, second} {
			if _, err := f.Wait(); !errors.Is(err, dramnode.ErrBusy) && !errors.Is(err, dramnode.ErrUnavailable) {
				t.Errorf("error: %v", err)
			}
		}
	})
}

func TestNodesAndLocate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cluster := newTestCluster(t, 2)
		c := cluster.client(func(cfg *Config) { cfg.Timeout = 100 * time.Millisecond })
		l, err := c.Locate([]byte("k"))
		if err != nil || l.Owner.Name != fmt.Sprintf("n%d", l.Partition%2) || l.MovesTo != nil {
			t.Errorf("location %+v, %v", l, err)
		}
		for i, n := range c.Nodes(t.Context()) {
			if want := fmt.Sprintf("n%d", i); n.Err != nil || n.Info.Name != want || n.Name != want || n.Owned != testPartitions/2 {
				t.Errorf("node %d: %+v", i, n)
			}
		}
		cluster.world.Kill(cluster.nodes[1].addr)
		nodes := c.Nodes(t.Context())
		if nodes[0].Err != nil || !errors.Is(nodes[1].Err, dramnode.ErrUnavailable) {
			t.Errorf("errors %v and %v", nodes[0].Err, nodes[1].Err)
		}
	})
}

// Links to members that left are closed; those to seeds stay.
func TestLinksOfFormerMembersClose(t *testing.T) {
	ctx := t.Context()
	cluster := newTestCluster(t, 3)
	c := cluster.client(nil)
	c.Nodes(ctx)
	if n := len(c.Links()); n != 3 {
		t.Fatalf("%d links, want 3", n)
	}
	all := cluster.nodes
	cluster.nodes = all[1:2]
	table := cluster.newTable(2, func(int) int { return 0 })
	cluster.nodes = all
	for _, n := range all {
		n.table.Store(table)
	}
	if err := c.Refresh(ctx); err != nil {
		t.Fatal(err)
	}
	if links := c.Links(); len(links) != 2 || links[0].Addr != all[0].addr || links[1].Addr != all[1].addr {
		t.Errorf("links: %+v", links)
	}
}

// A partition on the move is asked for apart, so its refusal costs no answer for the others.
func TestListAsksApartForWhatMoves(t *testing.T) {
	const moving = 0
	cluster := newTestCluster(t, 2)
	table := cluster.newTable(2, func(p int) int { return p % 2 })
	table.Rows[moving].MoveTo, table.Rows[moving].MoveID = 1, 2
	cluster.install(table)
	c := cluster.client(nil)
	fill(cluster, 200, "a/%04d")
	var alone, others atomic.Int64
	cluster.nodes[0].setHook(func(r *transport.Request, h wire.Header) bool {
		if h.Kind != wire.KindList {
			return false
		}
		q, err := wire.ParseListRequest(r.Body, nil)
		if err != nil {
			t.Error(err)
			return false
		}
		if bitmap(q.Partitions).has(moving) {
			if alone.Add(1); bits.OnesCount64(q.Partitions[0]) != 1 {
				t.Error("what moves is not asked for apart")
			}
			if alone.Load() < 3 {
				cluster.nodes[0].reply(r, &wire.Header{Kind: h.Kind, Status: wire.StatusUnavailable}, nil)
				return true
			}
		} else {
			others.Add(1)
		}
		return false
	})
	if keys := listed(t, c, Query{}); len(keys) != 200 {
		t.Errorf("%d keys, want 200", len(keys))
	}
	if alone.Load() != 3 || others.Load() != 1 {
		t.Errorf("the moving partition was asked for %d times, the others %d; want 3 and 1", alone.Load(), others.Load())
	}
}

// A member that cannot be dialled fails the whole; the numbers of the writes that were prepared are free again.
func TestDeleteRangeOfAnAddressThatCannotBe(t *testing.T) {
	cluster := newTestCluster(t, 2)
	table := cluster.newTable(2, func(p int) int { return p % 2 })
	table.Members[1].Addr = "nowhere"
	for _, n := range cluster.nodes {
		n.table.Store(table)
	}
	c := cluster.client(nil)
	if _, err := c.DeleteRange(t.Context(), Query{}); !errors.Is(err, dramnode.ErrUnavailable) {
		t.Errorf("error: %v", err)
	}
	if counter, first := c.acks.begin(1); counter != first {
		t.Errorf("write %d is still in use before write %d", first, counter)
	}
}
