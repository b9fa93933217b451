package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/transport"
	"github.com/dramnode/dramnode/wire"
)

// A write is one way to write value under key.
type writeCall struct {
	name string
	do   func(ctx context.Context, c *Client, key, value []byte) (dramnode.Generation, error)
}

var writeCalls = []writeCall{
	{"Put", func(ctx context.Context, c *Client, key, value []byte) (dramnode.Generation, error) {
		return c.Put(ctx, key, value)
	}},
	{"Put of a new key", func(ctx context.Context, c *Client, key, value []byte) (dramnode.Generation, error) {
		return c.Put(ctx, key, value, IfAbsent())
	}},
	{"PutBuffer", func(ctx context.Context, c *Client, key, value []byte) (dramnode.Generation, error) {
		b, err := c.NewBuffer(ctx, len(value))
		if err != nil {
			return 0, err
		}
		copy(b.Bytes(), value)
		return c.PutBuffer(ctx, key, b)
	}},
	{"StartPut", func(ctx context.Context, c *Client, key, value []byte) (dramnode.Generation, error) {
		return c.StartPut(ctx, key, value).Wait()
	}},
	{"PutFunc", func(ctx context.Context, c *Client, key, value []byte) (g dramnode.Generation, err error) {
		done := make(chan struct{})
		refused := c.PutFunc(ctx, key, value, func(got dramnode.Generation, e error) {
			g, err = got, e
			close(done)
		})
		if refused != nil {
			return 0, refused
		}
		<-done
		return g, err
	}},
	{"MultiPut", func(ctx context.Context, c *Client, key, value []byte) (dramnode.Generation, error) {
		r := c.MultiPut(ctx, []Item{{Key: key, Value: value}})
		return r[0].Generation, r[0].Err
	}},
	{"Batch", func(ctx context.Context, c *Client, key, value []byte) (dramnode.Generation, error) {
		b := c.NewBatch()
		defer b.Reset()
		b.Put(key, value)
		b.Get([]byte("another"))
		b.Do(ctx)
		return b.Meta(0).Generation, b.Err(0)
	}},
}

// lose makes every node execute the first writes and say nothing of it, or that nobody knows.
func (c *testCluster) lose(first int64, silent bool) *atomic.Int64 {
	var seen atomic.Int64
	for _, n := range c.nodes {
		n.setHook(func(r *transport.Request, h wire.Header) bool {
			if h.Kind == wire.KindGet || h.Kind > wire.KindDeleteRange || seen.Add(1) > first {
				return false
			}
			if h.Kind < wire.KindList {
				c.remember(n.table.Load(), h, bytes.Clone(r.Body))
			}
			if silent {
				r.Detach()
			} else {
				n.status(r, h.Kind, wire.StatusUnknownOutcome, "")
			}
			return true
		})
	}
	return &seen
}

// A write whose answer was lost is sent again with its id and answered from the record: it is executed once, and its own
// condition is not held against it.
func TestLostAnswerIsAskedForAgain(t *testing.T) {
	for _, call := range writeCalls {
		for _, size := range []int{10, 50_000} {
			for _, silent := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%d/silent=%v", call.name, size, silent), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						cluster := newTestCluster(t, 3)
						cluster.replicate(1, 0)
						c := cluster.client(nil)
						seen := cluster.lose(2, silent)
						g, err := call.do(t.Context(), c, []byte("k"), pattern(size))
						if err != nil || g != 1 {
							t.Errorf("generation %d, %v; want 1", g, err)
						}
						if n := seen.Load(); n != 3 {
							t.Errorf("%d attempts, want 3", n)
						}
						cluster.mu.Lock()
						defer cluster.mu.Unlock()
						if len(cluster.records) != 1 || cluster.generation != 1 {
							t.Errorf("%d writes, %d records", cluster.generation, len(cluster.records))
						}
					})
				})
			}
		}
	}
}

func TestLostAnswersOfOtherWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		cluster := newTestCluster(t, 3)
		cluster.replicate(1, 0)
		c := cluster.client(nil)
		g, err := c.Put(ctx, []byte("k"), nil)
		if err != nil {
			t.Fatal(err)
		}
		cluster.lose(1, true)
		touched, err := c.Touch(ctx, []byte("k"), time.Hour, IfGeneration(g))
		if err != nil || touched != g+1 {
			t.Errorf("touch: generation %d, %v", touched, err)
		}
		cluster.lose(1, true)
		if err := c.Delete(ctx, []byte("k"), IfGeneration(touched)); err != nil {
			t.Errorf("delete: %v", err)
		}
	})
}

// Once the partition was lost nobody remembers the first attempt.
func TestLossEndsRetries(t *testing.T) {
	for _, tc := range []struct {
		losses uint32
		want   error
	}{{1, dramnode.ErrUnknownOutcome}, {0, nil}} {
		for _, call := range writeCalls {
			t.Run(fmt.Sprintf("%s/%d", call.name, tc.losses), func(t *testing.T) {
				cluster := newTestCluster(t, 3)
				cluster.replicate(1, 0)
				c := cluster.client(nil)
				var seen atomic.Int64
				for _, n := range cluster.nodes {
					n.setHook(func(r *transport.Request, h wire.Header) bool {
						if h.Kind != wire.KindPut || seen.Add(1) > 1 {
							return false
						}
						cluster.remember(n.table.Load(), h, bytes.Clone(r.Body))
						cluster.replicate(2, tc.losses)
						n.status(r, h.Kind, wire.StatusUnknownOutcome, "")
						return true
					})
				}
				_, err := call.do(t.Context(), c, []byte("k"), pattern(10))
				if !errors.Is(err, tc.want) {
					t.Errorf("%v, want %v", err, tc.want)
				}
				cluster.mu.Lock()
				defer cluster.mu.Unlock()
				if cluster.generation != 1 {
					t.Errorf("executed %d times", cluster.generation)
				}
			})
		}
	}
}

// What a caller gets when time runs out depends on whether any attempt may have been executed.
func TestLastWordAtTheDeadline(t *testing.T) {
	for _, tc := range []struct {
		name    string
		answers []wire.Status // the last goes on
		want    error
	}{
		{"refused", []wire.Status{wire.StatusNoQuorum}, dramnode.ErrNoQuorum},
		{"unavailable", []wire.Status{wire.StatusUnavailable}, dramnode.ErrUnavailable},
		{"silence", []wire.Status{silence}, dramnode.ErrUnknownOutcome},
		{"silence, then refused", []wire.Status{silence, wire.StatusNoQuorum}, dramnode.ErrUnknownOutcome},
		{"nobody knows, then busy", []wire.Status{wire.StatusUnknownOutcome, wire.StatusBusy}, dramnode.ErrUnknownOutcome},
		{"nobody knows, then full", []wire.Status{wire.StatusUnknownOutcome, wire.StatusNoMemory}, dramnode.ErrUnknownOutcome},
		{"nobody knows, then invalid", []wire.Status{wire.StatusUnknownOutcome, wire.StatusInvalid}, dramnode.ErrUnknownOutcome},
		{"nobody knows, then missing", []wire.Status{wire.StatusUnknownOutcome, wire.StatusNotFound}, dramnode.ErrNotFound},
		{"nobody knows, then another generation", []wire.Status{silence, wire.StatusGenerationMismatch}, dramnode.ErrGenerationMismatch},
		{"refused, then full", []wire.Status{wire.StatusNoQuorum, wire.StatusNoMemory}, dramnode.ErrNoMemory},
	} {
		for _, call := range writeCalls {
			t.Run(tc.name+"/"+call.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					cluster := newTestCluster(t, 1)
					cluster.replicate(1, 0)
					c := cluster.client(nil)
					var seen atomic.Int64
					node := cluster.nodes[0]
					node.setHook(func(r *transport.Request, h wire.Header) bool {
						if h.Kind != wire.KindPut {
							return false
						}
						s := tc.answers[min(int(seen.Add(1)), len(tc.answers))-1]
						if s == silence {
							r.Detach()
						} else {
							node.status(r, h.Kind, s, "")
						}
						return true
					})
					began := time.Now()
					_, err := call.do(t.Context(), c, []byte("k"), pattern(10))
					if !errors.Is(err, tc.want) || tc.want == dramnode.ErrUnknownOutcome && (errors.Is(err, dramnode.ErrNoQuorum) || errors.Is(err, dramnode.ErrNoMemory)) {
						t.Errorf("%v, want %v", err, tc.want)
					}
					if d := time.Since(began); d > c.cfg.Timeout { // of the bubble's clock
						t.Errorf("took %v", d)
					}
				})
			})
		}
	}
}

const silence = wire.Status(255)

// No copy of a write may live longer than the records of replicas.
func TestWritesEndBeforeTheirRecords(t *testing.T) {
	for _, timeout := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			cluster := newTestCluster(t, 1)
			cluster.replicate(1, 0)
			c := cluster.client(func(cfg *Config) { cfg.Timeout = time.Hour })
			ctx := t.Context()
			if !timeout {
				var cancel func()
				ctx, cancel = context.WithTimeout(ctx, time.Hour)
				defer cancel()
			}
			began := time.Now()
			var budgets []time.Duration
			cluster.nodes[0].setHook(func(r *transport.Request, h wire.Header) bool {
				if h.Kind != wire.KindPut {
					return false
				}
				budget := time.Duration(h.BudgetMicros) * time.Microsecond
				budgets = append(budgets, budget)
				if end := time.Since(began) + budget; end > recordedLife {
					t.Errorf("attempt %d may be executed %v after the first", len(budgets), end)
				}
				r.Detach()
				return true
			})
			if _, err := c.Put(ctx, []byte("k"), nil); !errors.Is(err, dramnode.ErrUnknownOutcome) {
				t.Errorf("%v", err)
			}
			if d := time.Since(began); d > recordedLife || len(budgets) != 5 || budgets[0] != time.Second || budgets[1] != 2*time.Second {
				t.Errorf("took %v with budgets %v", d, budgets)
			}
		})
	}
}

// A counter counts as acknowledged only when its write will not be sent again.
func TestRetriedWritesAreNotAcknowledged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		cluster := newTestCluster(t, 1)
		cluster.replicate(1, 0)
		c := cluster.client(nil)
		var mu sync.Mutex
		var last wire.WriteExt
		node := cluster.nodes[0]
		node.setHook(func(r *transport.Request, h wire.Header) bool {
			if h.Kind != wire.KindPut {
				return false
			}
			mu.Lock()
			defer mu.Unlock()
			var err error
			if last, err = wire.ParseWriteExt(h.Ext); err != nil {
				t.Error(err)
			}
			if string(h.Key) == "lost" {
				r.Detach()
				return true
			}
			return false
		})
		put := func(key string, counter, firstUnacked uint64) {
			t.Helper()
			_, err := c.Put(ctx, []byte(key), nil)
			mu.Lock()
			defer mu.Unlock()
			if err != nil || last.Counter != counter || last.FirstUnacked != firstUnacked {
				t.Errorf("%s: %+v, %v; want %d with %d unacknowledged", key, last, err, counter, firstUnacked)
			}
		}
		put("a", 1, 1)
		abandoned, cancel := context.WithCancel(ctx)
		results := make(chan error, 2)
		go func() { _, err := c.Put(ctx, []byte("lost"), nil); results <- err }()
		synctest.Wait()
		put("b", 3, 2)
		time.Sleep(2 * time.Second) // the bubble's: it is being retried
		put("c", 4, 2)
		if err := <-results; !errors.Is(err, dramnode.ErrUnknownOutcome) {
			t.Errorf("%v", err)
		}
		put("d", 5, 5)
		go func() { _, err := c.Put(abandoned, []byte("lost"), nil); results <- err }()
		synctest.Wait()
		put("e", 7, 6)
		cancel()
		if err := <-results; !errors.Is(err, dramnode.ErrUnknownOutcome) {
			t.Errorf("%v", err)
		}
		put("f", 8, 8)
	})
}

// Writes that go through another node keep their fence, which that node minds.
func TestRelayedWritesAreFenced(t *testing.T) {
	ctx := t.Context()
	cluster := newTestCluster(t, 3)
	cluster.replicate(1, 0)
	c := cluster.client(func(cfg *Config) { cfg.Via = cluster.nodes[0].addr })
	var unfenced, gets atomic.Int64
	cluster.nodes[0].setHook(func(r *transport.Request, h wire.Header) bool {
		switch h.Kind {
		case wire.KindPut:
			if h.Flags&wire.FlagFence == 0 || h.Flags&wire.FlagRelay == 0 || h.Epoch == 0 {
				unfenced.Add(1)
			}
		case wire.KindGet:
			gets.Add(1)
		}
		return false
	})
	for version := range uint64(2) {
		cluster.replicate(version+1, 0)
		for i := range 10 {
			key := []byte{byte(i) + 1}
			if _, err := c.Put(ctx, key, key); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Get(ctx, key); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n, m := unfenced.Load(), gets.Load(); n != 0 || m != 20 {
		t.Errorf("%d writes without fence, %d of 20 gets", n, m)
	}
	if v := c.Table().Version; v != 2 {
		t.Errorf("table version %d", v)
	}
}

// Reads of one key are spread over all who have it.
func TestHotKeyIsReadEverywhere(t *testing.T) {
	ctx := t.Context()
	cluster := newTestCluster(t, 4)
	cluster.replicate(1, 0)
	c := cluster.client(nil)
	key := []byte("hot")
	if _, err := c.Put(ctx, key, key); err != nil {
		t.Fatal(err)
	}
	v := c.view.Load()
	row := v.table.Rows[v.ring.Partition(key)]
	const reads = 2000
	for range reads {
		if _, err := c.Get(ctx, key); err != nil {
			t.Fatal(err)
		}
	}
	served := 0
	for i, n := range cluster.nodes {
		has := int(row.Owner) == i || row.IsBackup(uint16(i))
		if got := int(n.served.Load()); has == (got == 0) {
			t.Errorf("node %d, of the partition: %v, served %d requests of %v", i, has, got, row)
		}
		served += int(n.served.Load() + n.forwarded.Load())
	}
	if served != reads+1 {
		t.Errorf("%d requests for %d reads and a write", served, reads)
	}
	for _, p := range c.peers.all() {
		if n := p.load.waiting.Load(); n != 0 {
			t.Errorf("%d reads are under way at %s", n, p.addr)
		}
	}
}

// A read that one replica does not answer is another's, whoever asks.
func TestReadsFallOver(t *testing.T) {
	readCalls := map[string]func(ctx context.Context, c *Client, key []byte) ([]byte, error){
		"Get": func(ctx context.Context, c *Client, key []byte) ([]byte, error) {
			v, err := c.Get(ctx, key)
			return v.Bytes, err
		},
		"StartGet": func(ctx context.Context, c *Client, key []byte) ([]byte, error) {
			v, err := c.StartGet(ctx, key).Wait()
			return v.Bytes, err
		},
		"GetFunc": func(ctx context.Context, c *Client, key []byte) (bytes []byte, err error) {
			done := make(chan struct{})
			refused := c.GetFunc(ctx, key, func(v Value, e error) {
				bytes, err = append(bytes, v.Bytes...), e
				close(done)
			})
			if refused != nil {
				return nil, refused
			}
			<-done
			return bytes, err
		},
		"MultiGet": func(ctx context.Context, c *Client, key []byte) ([]byte, error) {
			r := c.MultiGet(ctx, [][]byte{key, key})
			return r[1].Bytes, errors.Join(r[0].Err, r[1].Err)
		},
		"Batch": func(ctx context.Context, c *Client, key []byte) ([]byte, error) {
			b := c.NewBatch()
			defer b.Reset()
			b.Get(key)
			b.Get(key)
			b.Do(ctx)
			return bytes.Clone(b.Bytes(1)), errors.Join(b.Err(0), b.Err(1))
		},
	}
	for name, read := range readCalls {
		for _, status := range []wire.Status{wire.StatusNoQuorum, wire.StatusUnavailable, wire.StatusUnknownOutcome, wire.StatusBusy} {
			t.Run(fmt.Sprintf("%s/%v", name, status), func(t *testing.T) {
				ctx := t.Context()
				cluster := newTestCluster(t, 3)
				cluster.replicate(1, 0)
				c := cluster.client(nil)
				key := []byte("k")
				if _, err := c.Put(ctx, key, key); err != nil {
					t.Fatal(err)
				}
				for _, n := range cluster.nodes[:2] { // wherever the owner is, one or both of them are backups
					n.setHook(func(r *transport.Request, h wire.Header) bool {
						if h.Kind != wire.KindGet {
							return false
						}
						n.status(r, h.Kind, status, "")
						return true
					})
				}
				for range 20 {
					if got, err := read(ctx, c, key); err != nil || !bytes.Equal(got, key) {
						t.Fatalf("%q, %v", got, err)
					}
				}
			})
		}
	}
}

// Reads go on while a node is gone, and do not wait for another table.
func TestReadsSurviveTheOwner(t *testing.T) {
	ctx := t.Context()
	cluster := newTestCluster(t, 3)
	cluster.replicate(1, 0)
	c := cluster.client(nil)
	for i := range 50 {
		if _, err := c.Put(ctx, []byte{byte(i) + 1}, []byte("v")); err != nil {
			t.Fatal(err)
		}
	}
	cluster.world.Kill(cluster.nodes[1].addr)
	for i := range 50 {
		if v, err := c.Get(ctx, []byte{byte(i) + 1}); err != nil || string(v.Bytes) != "v" {
			t.Fatalf("%q, %v", v.Bytes, err)
		}
	}
}

func TestAllowStale(t *testing.T) {
	ctx := t.Context()
	cluster := newTestCluster(t, 1)
	c := cluster.client(nil)
	if _, err := c.Put(ctx, []byte("k"), []byte("value")); err != nil {
		t.Fatal(err)
	}
	var flags []uint16
	cluster.nodes[0].setHook(func(_ *transport.Request, h wire.Header) bool {
		flags = append(flags, h.Flags&(wire.FlagStale|wire.FlagRange))
		if h.Flags&wire.FlagRange == 0 && len(h.Ext) != 0 {
			t.Errorf("an extension of %d bytes that says nothing", len(h.Ext))
		}
		return false
	})
	for _, tc := range []struct {
		opts []Option
		want string
	}{{nil, "value"}, {[]Option{AllowStale()}, "value"}, {[]Option{AllowStale(), Range(1, 3)}, "al"}} {
		if v, err := c.Get(ctx, []byte("k"), tc.opts...); err != nil || string(v.Bytes) != tc.want {
			t.Errorf("%q, %v", v.Bytes, err)
		}
	}
	if want := []uint16{0, wire.FlagStale, wire.FlagStale | wire.FlagRange}; fmt.Sprint(flags) != fmt.Sprint(want) {
		t.Errorf("flags %v, want %v", flags, want)
	}
	if _, err := c.Put(ctx, []byte("k"), nil, AllowStale()); !errors.Is(err, dramnode.ErrInvalid) {
		t.Errorf("a stale write: %v", err)
	}
}

// A delete-range has one id for all its requests, each with the epoch of its partitions.
func TestDeleteRangeIsRetried(t *testing.T) {
	for _, tc := range []struct {
		name   string
		losses uint32
		want   error
	}{{"kept", 0, nil}, {"lost", 1, dramnode.ErrUnknownOutcome}} {
		t.Run(tc.name, func(t *testing.T) {
			ctx := t.Context()
			cluster := newTestCluster(t, 3)
			cluster.replicate(1, 0)
			c := cluster.client(nil)
			for i := range 100 {
				if _, err := c.Put(ctx, []byte{'k', byte(i)}, nil); err != nil {
					t.Fatal(err)
				}
			}
			var mu sync.Mutex
			ids := map[uint64]int{}
			lost := 0
			for _, n := range cluster.nodes {
				n.setHook(func(r *transport.Request, h wire.Header) bool {
					if h.Kind != wire.KindDeleteRange {
						return false
					}
					mu.Lock()
					defer mu.Unlock()
					e, err := wire.ParseWriteExt(h.Ext)
					if err != nil || h.Flags&wire.FlagFence == 0 || h.Epoch == 0 {
						t.Errorf("header %+v: %v", h, err)
					}
					ids[e.Counter]++
					if n.index == 1 && lost == 0 {
						lost++
						cluster.replicate(2, tc.losses)
						n.status(r, h.Kind, wire.StatusUnknownOutcome, "")
						return true
					}
					return false
				})
			}
			_, err := c.DeleteRange(ctx, Query{Prefix: []byte("k")})
			if !errors.Is(err, tc.want) {
				t.Errorf("%v, want %v", err, tc.want)
			}
			mu.Lock()
			if len(ids) != 1 || tc.want == nil && ids[101] <= 3 {
				t.Errorf("ids %v", ids)
			}
			mu.Unlock()
			left := 0
			for range c.List(ctx, Query{}) {
				left++
			}
			if (left == 0) != (tc.want == nil) {
				t.Errorf("%d keys are left", left)
			}
		})
	}
}

// A batch that waits to be run keeps no counter in use: nodes would keep records of all writes meanwhile.
func TestIdleBatchHoldsNoCounter(t *testing.T) {
	cluster := newTestCluster(t, 1)
	c := cluster.client(nil)
	b := c.NewBatch()
	b.Put([]byte("k"), []byte("old"))
	for range 3 {
		if _, err := c.Put(t.Context(), []byte("k"), []byte("new")); err != nil {
			t.Fatal(err)
		}
	}
	if c.acks.first != 4 || c.acks.next != 4 {
		t.Errorf("%d is unacknowledged, the next is %d", c.acks.first, c.acks.next)
	}
	b.Do(t.Context())
	if b.Err(0) != nil || b.Meta(0).Generation != 4 {
		t.Errorf("%v, %+v", b.Err(0), b.Meta(0))
	}
}
