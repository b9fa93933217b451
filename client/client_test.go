package client

import (
	"bytes"
	"context"
	"errors"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/transport"
	"github.com/dramnode/dramnode/wire"
)

func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i>>8)
	}
	return b
}

func TestValuesOfEverySize(t *testing.T) {
	ctx := t.Context()
	c := newTestCluster(t, 3).client(nil)
	for _, n := range []int{0, 1, 4096, 4097, 100_000, 3 << 20} {
		key, want := []byte{byte('a' + n%26), byte(n >> 8)}, pattern(n)
		g, err := c.Put(ctx, key, want)
		if err != nil {
			t.Fatalf("put %d: %v", n, err)
		}
		v, err := c.Get(ctx, key)
		if err != nil || !bytes.Equal(v.Bytes, want) || v.Bytes == nil || v.Generation != g || v.Size != int64(n) {
			t.Fatalf("get %d: %d bytes, generation %d (want %d), size %d, %v", n, len(v.Bytes), v.Generation, g, v.Size, err)
		}
		dst := make([]byte, n+1)
		if v, err := c.GetInto(ctx, key, dst); err != nil || !bytes.Equal(v.Bytes, want) {
			t.Fatalf("get into %d: %v", n, err)
		}
		b, meta, err := c.GetBuffer(ctx, key)
		if err != nil || !bytes.Equal(b.Bytes(), want) || meta.Generation != g {
			t.Fatalf("get buffer %d: %v", n, err)
		}
		b.Release()
		b.Release()
		if b, err = c.NewBuffer(ctx, n); err != nil {
			t.Fatal(err)
		}
		copy(b.Bytes(), want)
		if g2, err := c.PutBuffer(ctx, key, b); err != nil || g2 <= g {
			t.Fatalf("put buffer %d: generation %d after %d, %v", n, g2, g, err)
		}
		if _, err := c.PutBuffer(ctx, key, b); !errors.Is(err, dramnode.ErrInvalid) {
			t.Fatalf("a buffer was put twice: %v", err)
		}
	}
}

func TestConditionsRangesAndLife(t *testing.T) {
	ctx := t.Context()
	c := newTestCluster(t, 2).client(nil)
	key := []byte("k")
	if _, err := c.Get(ctx, key); !errors.Is(err, dramnode.ErrNotFound) {
		t.Errorf("get of a missing key: %v", err)
	}
	g, err := c.Put(ctx, key, []byte("0123456789"), IfAbsent(), TTL(1500*time.Microsecond))
	if err != nil {
		t.Fatal(err)
	}
	var mismatch *dramnode.GenerationError
	if _, err := c.Put(ctx, key, nil, IfAbsent()); !errors.As(err, &mismatch) || mismatch.Current != g {
		t.Errorf("second create: %v", err)
	}
	if _, err := c.Get(ctx, key, IfNotGeneration(g)); !errors.Is(err, dramnode.ErrGenerationMismatch) {
		t.Errorf("unchanged: %v", err)
	}
	for name, tc := range map[string]struct {
		opts []Option
		want string
		err  error
	}{
		"range":       {[]Option{Range(2, 4)}, "23", nil},
		"offset":      {[]Option{Range(8, -1)}, "89", nil},
		"suffix":      {[]Option{Suffix(3)}, "789", nil},
		"past":        {[]Option{Range(8, 12)}, "", dramnode.ErrOutOfRange},
		"clip":        {[]Option{Range(8, 12), Clip()}, "89", nil},
		"condition":   {[]Option{IfGeneration(g)}, "0123456789", nil},
		"two ranges":  {[]Option{Range(1, 2), Suffix(1)}, "", dramnode.ErrInvalid},
		"backwards":   {[]Option{Range(2, 1)}, "", dramnode.ErrInvalid},
		"lonely clip": {[]Option{Clip()}, "", dramnode.ErrInvalid},
		"ttl":         {[]Option{TTL(1)}, "", dramnode.ErrInvalid},
	} {
		if v, err := c.Get(ctx, key, tc.opts...); !errors.Is(err, tc.err) || string(v.Bytes) != tc.want {
			t.Errorf("%s: %q, %v; want %q, %v", name, v.Bytes, err, tc.want, tc.err)
		}
	}
	if m, err := c.Stat(ctx, key); err != nil || m != (Meta{Generation: g, Size: 10, TTL: 2 * time.Millisecond}) {
		t.Errorf("stat: %+v, %v", m, err)
	}
	g2, err := c.Touch(ctx, key, 0, IfGeneration(g))
	if err != nil || g2 <= g {
		t.Errorf("touch: %d after %d, %v", g2, g, err)
	}
	if v, err := c.GetInto(ctx, key, make([]byte, 3)); !errors.Is(err, dramnode.ErrOutOfRange) || v.Size != 10 {
		t.Errorf("short destination: %+v, %v", v, err)
	}
	if err := c.Delete(ctx, key, IfGeneration(g)); !errors.Is(err, dramnode.ErrGenerationMismatch) {
		t.Errorf("delete of an old generation: %v", err)
	}
	if err := c.Delete(ctx, key); err != nil {
		t.Error(err)
	}
	if _, err := c.Put(ctx, nil, nil); !errors.Is(err, dramnode.ErrInvalid) {
		t.Errorf("empty key: %v", err)
	}
	if _, err := c.Put(ctx, key, make([]byte, 9<<20)); !errors.Is(err, dramnode.ErrTooLarge) {
		t.Errorf("value beyond the cluster's limit: %v", err)
	}
}

func TestReadsAreVerified(t *testing.T) {
	ctx := t.Context()
	cluster := newTestCluster(t, 1)
	c := cluster.client(nil)
	if _, err := c.Put(ctx, []byte("k"), []byte("value")); err != nil {
		t.Fatal(err)
	}
	cluster.mu.Lock()
	cluster.values["k"].bytes[0] ^= 1
	cluster.mu.Unlock()
	if _, err := c.Get(ctx, []byte("k")); !errors.Is(err, dramnode.ErrCorrupt) {
		t.Errorf("a damaged value: %v", err)
	}
	if _, err := c.Get(ctx, []byte("k"), Range(0, 2)); err != nil {
		t.Errorf("a part has no checksum: %v", err)
	}
	trusting := cluster.client(func(cfg *Config) { cfg.NoVerify = true })
	if _, err := trusting.Get(ctx, []byte("k")); err != nil {
		t.Errorf("NoVerify: %v", err)
	}
}

func TestStaleTableIsReplaced(t *testing.T) {
	ctx := t.Context()
	cluster := newTestCluster(t, 2)
	c := cluster.client(nil)
	for _, key := range []string{"a", "b", "c", "d"} {
		if _, err := c.Put(ctx, []byte(key), []byte(key)); err != nil {
			t.Fatal(err)
		}
	}
	cluster.install(cluster.newTable(2, func(int) int { return 1 }))
	for _, key := range []string{"a", "b", "c", "d"} {
		if _, err := c.Put(ctx, []byte(key), []byte("new")); err != nil {
			t.Fatal(err)
		}
	}
	if v := c.Table().Version; v != 2 {
		t.Errorf("table version %d, want 2", v)
	}
}

// A node that is behind says "not owner" with an older table: there is nothing to fetch.
func TestNotOwnerWithoutNewerTableIsRetried(t *testing.T) {
	ctx := t.Context()
	cluster := newTestCluster(t, 1)
	c := cluster.client(nil)
	var refused atomic.Int64
	node := cluster.nodes[0]
	node.setHook(func(r *transport.Request, h wire.Header) bool {
		if h.Kind == wire.KindTable {
			t.Error("the table was fetched")
		}
		if refused.Add(1) > 3 {
			return false
		}
		node.notOwner(r, h.Kind, node.table.Load().Rows[0])
		return true
	})
	if _, err := c.Put(ctx, []byte("k"), pattern(10_000)); err != nil {
		t.Fatal(err)
	}
	if n := refused.Load(); n != 4 {
		t.Errorf("%d attempts, want 4", n)
	}
}

// The same write has the same id in all its attempts.
func TestWriteKeepsItsIdentity(t *testing.T) {
	ctx := t.Context()
	cluster := newTestCluster(t, 1)
	c := cluster.client(nil)
	var ids []wire.WriteExt // used by one poller, read after the put
	node := cluster.nodes[0]
	node.setHook(func(r *transport.Request, h wire.Header) bool {
		e, err := wire.ParseWriteExt(h.Ext)
		if err != nil {
			t.Error(err)
		}
		if h.Flags&wire.FlagFence == 0 || h.Epoch != 1 || h.TableVersion != 1 || h.BudgetMicros == 0 {
			t.Errorf("header %+v, want a fence of epoch 1 and a budget", h)
		}
		if ids = append(ids, e); len(ids) < 3 {
			node.status(r, h.Kind, []wire.Status{wire.StatusBusy, wire.StatusUnavailable}[len(ids)-1], "")
			return true
		}
		return false
	})
	if _, err := c.Put(ctx, []byte("k"), []byte("v")); err != nil {
		t.Fatal(err)
	}
	if len(ids) != 3 || ids[0] != ids[1] || ids[1] != ids[2] {
		t.Errorf("ids of the attempts: %+v", ids)
	}
	if _, err := c.Put(ctx, []byte("k"), []byte("v")); err != nil {
		t.Fatal(err)
	}
	if last := ids[3]; last.Counter != ids[0].Counter+1 || last.FirstUnacked != last.Counter {
		t.Errorf("the next write: %+v after %+v", last, ids[0])
	}
}

func TestFinalErrorsCarryTheNodesWords(t *testing.T) {
	ctx := t.Context()
	cluster := newTestCluster(t, 1)
	c := cluster.client(nil)
	node := cluster.nodes[0]
	node.setHook(func(r *transport.Request, h wire.Header) bool {
		node.status(r, h.Kind, wire.StatusNoMemory, "all of 1 GiB is in use")
		return true
	})
	_, err := c.Put(ctx, []byte("k"), []byte("v"))
	if !errors.Is(err, dramnode.ErrNoMemory) || err.Error() != "dramnode: no memory: all of 1 GiB is in use" {
		t.Errorf("error: %v", err)
	}
}

func TestLostReplies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cluster := newTestCluster(t, 1)
		c := cluster.client(nil)
		node := cluster.nodes[0]
		var seen atomic.Int64
		node.setHook(func(r *transport.Request, h wire.Header) bool {
			if h.Kind == wire.KindPut {
				seen.Add(1)
			}
			r.Detach() // and no reply, ever
			return true
		})
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		_, err := c.Put(ctx, []byte("k"), pattern(50_000))
		if !errors.Is(err, dramnode.ErrUnknownOutcome) {
			t.Errorf("put: %v", err)
		}
		if n := seen.Load(); n != 1 {
			t.Errorf("the put was sent %d times", n)
		}
		ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if _, err := c.Get(ctx, []byte("k")); !errors.Is(err, dramnode.ErrUnavailable) || errors.Is(err, dramnode.ErrUnknownOutcome) {
			t.Errorf("get: %v", err)
		}
	})
}

// Frames get lost with their connections: reads come through, writes say whether they know.
func TestLossyNetwork(t *testing.T) {
	ctx := t.Context()
	cluster := newTestCluster(t, 3)
	c := cluster.client(nil)
	value := pattern(20_000)
	if _, err := c.Put(ctx, []byte("k"), value); err != nil {
		t.Fatal(err)
	}
	cluster.world.SetDrop(0.2)
	defer cluster.world.SetDrop(0)
	for i := range 40 {
		key := []byte{byte(i)}
		if _, err := c.Put(ctx, key, key); err != nil && !errors.Is(err, dramnode.ErrUnknownOutcome) {
			t.Errorf("put: %v", err)
		}
		if v, err := c.Get(ctx, []byte("k")); err != nil || !bytes.Equal(v.Bytes, value) {
			t.Errorf("get: %v", err)
		}
	}
}

func TestContextEndsWhileTheNetworkOwnsTheCall(t *testing.T) {
	cluster := newTestCluster(t, 1)
	c := cluster.client(nil)
	if _, err := c.Put(t.Context(), []byte("k"), pattern(100_000)); err != nil {
		t.Fatal(err)
	}
	node := cluster.nodes[0]
	held := make(chan func(), 2)
	node.setHook(func(r *transport.Request, h wire.Header) bool {
		later := r.Detach()
		h.Key, h.Ext = bytes.Clone(h.Key), bytes.Clone(h.Ext)
		body := bytes.Clone(r.Body)
		held <- func() {
			reply, body := cluster.apply(h, body)
			if err := later.Respond(node.frame(&reply, body)); err != nil {
				t.Error(err)
			}
		}
		return true
	})
	for _, do := range []func(context.Context) error{
		func(ctx context.Context) error { _, err := c.Put(ctx, []byte("p"), pattern(200_000)); return err },
		func(ctx context.Context) error { _, err := c.Get(ctx, []byte("k")); return err },
	} {
		ctx, cancel := context.WithCancelCause(t.Context())
		result := make(chan error)
		go func() { result <- do(ctx) }()
		answer := <-held
		reason := errors.New("the caller lost interest")
		cancel(reason)
		if err := <-result; !errors.Is(err, reason) {
			t.Errorf("the call ended with %v", err)
		}
		answer() // the late reply finds its memory
	}
	node.setHook(func(*transport.Request, wire.Header) bool { return false })
	if v, err := c.Get(t.Context(), []byte("p")); err != nil || !bytes.Equal(v.Bytes, pattern(200_000)) {
		t.Errorf("the abandoned put was answered but not applied: %v", err)
	}
}

func TestReadsWaitForBufferMemory(t *testing.T) {
	ctx := t.Context()
	cluster := newTestCluster(t, 2)
	c := cluster.client(func(cfg *Config) { cfg.MemoryBytes = 128 << 10 })
	if _, err := c.Put(ctx, []byte("k"), pattern(60_000)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Put(ctx, []byte("big"), pattern(1<<20)); !errors.Is(err, dramnode.ErrNoMemory) {
		t.Errorf("a value beyond all memory: %v", err)
	}
	var held []*Buffer
	for range 2 {
		b, err := c.NewBuffer(ctx, 60_000)
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, b)
	}
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if _, err := c.Get(short, []byte("k")); !errors.Is(err, dramnode.ErrBusy) && !errors.Is(err, dramnode.ErrUnavailable) {
		t.Errorf("get without memory: %v", err)
	}
	// A table is long too, and gets through.
	cluster.install(cluster.newTable(2, func(int) int { return 1 }))
	if _, err := c.Put(ctx, []byte("short"), []byte("v")); err != nil {
		t.Errorf("put after a move: %v", err)
	}
	result := make(chan error)
	go func() { _, err := c.Get(ctx, []byte("k")); result <- err }()
	go func() { _, err := c.Put(ctx, []byte("l"), pattern(60_000)); result <- err }()
	for _, b := range held {
		b.Release()
	}
	for range held {
		if err := <-result; err != nil {
			t.Error(err)
		}
	}
}

func TestOwnerOutOfReachIsServedByAnother(t *testing.T) {
	ctx := t.Context()
	cluster := newTestCluster(t, 2)
	c := cluster.client(nil)
	cluster.install(cluster.newTable(2, func(int) int { return 1 }))
	cluster.world.Partition(t.Name(), cluster.nodes[1].addr)
	if err := c.Refresh(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Put(ctx, []byte("k"), []byte("v")); err != nil {
		t.Fatal(err)
	}
	if n := cluster.nodes[0].forwarded.Load(); n == 0 {
		t.Error("node 0 forwarded nothing")
	}
	cluster.world.Heal()
	for cluster.nodes[1].served.Load() == 0 {
		if _, err := c.Get(ctx, []byte("k")); err != nil {
			t.Fatal(err)
		}
	}
}

func TestViaForwards(t *testing.T) {
	ctx := t.Context()
	cluster := newTestCluster(t, 3)
	cluster.install(cluster.newTable(2, func(int) int { return 1 }))
	c := cluster.client(func(cfg *Config) { cfg.Via = cluster.nodes[2].addr })
	if _, err := c.Put(ctx, []byte("k"), []byte("v")); err != nil {
		t.Fatal(err)
	}
	if v, err := c.StartGet(ctx, []byte("k")).Wait(); err != nil || string(v.Bytes) != "v" {
		t.Fatalf("%q, %v", v.Bytes, err)
	}
	if r := c.MultiGet(ctx, [][]byte{[]byte("k")}); r[0].Err != nil {
		t.Fatal(r[0].Err)
	}
	if direct, forwarded := cluster.nodes[1].served.Load(), cluster.nodes[2].forwarded.Load(); direct != 0 || forwarded != 3 {
		t.Errorf("the owner got %d requests, node 2 %d; want all 3 there", direct, forwarded)
	}
}

func TestNobodyAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cluster := newTestCluster(t, 1)
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		_, err := Open(ctx, Config{Network: cluster.network("test"), Addrs: []string{"10.9.9.9:1"}, MemoryBytes: 1 << 20})
		if !errors.Is(err, dramnode.ErrUnavailable) {
			t.Errorf("error: %v", err)
		}
		for _, part := range []string{"no node answers at 10.9.9.9:1", "refused", "is it running?"} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%q is not in %q", part, err)
			}
		}
	})
}

func TestNoTableYet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cluster := newTestCluster(t, 1)
		node := cluster.nodes[0]
		node.setHook(func(r *transport.Request, h wire.Header) bool {
			node.status(r, h.Kind, wire.StatusUnavailable, "this node has no table yet")
			return true
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := Open(ctx, Config{Network: cluster.network("test"), Addrs: []string{node.addr}, MemoryBytes: 1 << 20})
		if !errors.Is(err, dramnode.ErrUnavailable) || !strings.Contains(err.Error(), "no table yet") || strings.Contains(err.Error(), "running") {
			t.Errorf("error: %v", err)
		}
	})
}

func TestOneOfTheAddressesAnswers(t *testing.T) {
	cluster := newTestCluster(t, 2)
	cluster.world.Partition(t.Name(), cluster.nodes[0].addr)
	c := cluster.client(func(cfg *Config) { cfg.Addrs = []string{cluster.nodes[0].addr, cluster.nodes[1].addr} })
	if _, err := c.Put(t.Context(), []byte("k"), []byte("v")); err != nil {
		t.Error(err)
	}
}

func TestRefusedClientLearnsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cluster := newTestCluster(t, 1)
		start := time.Now()
		_, err := Open(t.Context(), Config{Network: cluster.network("another"), Addrs: []string{cluster.nodes[0].addr}, MemoryBytes: 1 << 20})
		if !errors.Is(err, dramnode.ErrNotAuthorised) {
			t.Errorf("error: %v", err)
		}
		if took := time.Since(start); took > 3*time.Second {
			t.Errorf("it took %v", took)
		}
	})
}

func TestClosedClient(t *testing.T) {
	ctx := t.Context()
	cluster := newTestCluster(t, 1)
	c, err := Open(ctx, Config{Network: cluster.network("test"), Addrs: []string{cluster.nodes[0].addr}, MemoryBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	b, err := c.NewBuffer(ctx, 10_000)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	b.Bytes()[0] = 1 // still ours
	b.Release()
	for range 2 {
		if _, err := c.Put(ctx, []byte("k"), []byte("v")); !errors.Is(err, dramnode.ErrClosed) {
			t.Errorf("put: %v", err)
		}
		if _, err := c.Put(ctx, []byte("k"), pattern(10_000)); !errors.Is(err, dramnode.ErrClosed) {
			t.Errorf("long put: %v", err)
		}
		if err := c.Close(); err != nil {
			t.Errorf("second close: %v", err)
		}
	}
}

// All processes were replaced: another cluster answers at the same addresses.
func TestClusterIsReplaced(t *testing.T) {
	ctx := t.Context()
	cluster := newTestCluster(t, 1)
	c := cluster.client(nil)
	old := cluster.nodes[0]
	foreign := *old.table.Load()
	foreign.ClusterID = 8
	if err := c.install(&foreign); !errors.Is(err, dramnode.ErrClusterConflict) {
		t.Errorf("a foreign table while our cluster lives: %v", err)
	}
	cluster.world.Kill(old.addr)
	runCtx, stop := context.WithCancel(context.Background())
	stopOld := cluster.stop
	cluster.stop = func() { stopOld(); stop() }
	n := cluster.addNode(runCtx, 0, 999)
	cluster.nodes = cluster.nodes[1:]
	t.Cleanup(func() { old.pool.close() })
	table := cluster.newTable(1, func(int) int { return 0 })
	table.ClusterID = 8
	for i := range table.Rows {
		table.Rows[i].Epoch = 50
	}
	n.table.Store(table)
	for c.Links()[0].Peer.Incarnation != n.incarnation { // an idle client sees no failure, only another process
		runtime.Gosched()
	}
	if _, err := c.Get(ctx, []byte("k")); !errors.Is(err, dramnode.ErrNotFound) {
		t.Fatalf("get from the new cluster: %v", err)
	}
	if id := c.Table().ClusterID; id != 8 {
		t.Errorf("cluster %d, want 8", id)
	}
}

// A stingyNetwork has memory for one region.
type stingyNetwork struct {
	transport.Network
	region *countedRegion
}

type countedRegion struct {
	transport.Region
	closed int
}

func (r *countedRegion) Close() error {
	r.closed++
	return r.Region.Close()
}

func (n *stingyNetwork) Alloc(bytes int) (transport.Region, error) {
	if n.region != nil {
		return nil, dramnode.ErrNoMemory
	}
	region, err := n.Network.Alloc(bytes)
	n.region = &countedRegion{Region: region}
	return n.region, err
}

func TestOpenWithoutMemoryLeavesNone(t *testing.T) {
	n := &stingyNetwork{Network: newTestCluster(t, 1).network("test")}
	if _, err := Open(t.Context(), Config{Network: n, MemoryBytes: 1 << 20}); !errors.Is(err, dramnode.ErrNoMemory) {
		t.Errorf("error: %v", err)
	}
	if n.region.closed != 1 {
		t.Errorf("the region of values was closed %d times", n.region.closed)
	}
}
