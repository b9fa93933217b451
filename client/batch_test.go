package client

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/transport"
	"github.com/dramnode/dramnode/wire"
)

func TestBatch(t *testing.T) {
	cluster := newTestCluster(t, 3)
	c := cluster.client(func(cfg *Config) { cfg.Outstanding = 8 })
	ctx, b := t.Context(), c.NewBatch()
	long := pattern(100_000)
	for round := range 3 { // with the memory of the round before
		for i := range 50 {
			b.Put(fmt.Appendf(nil, "%d/%d", round, i), fmt.Appendf(nil, "v%d", i), TTL(time.Hour))
		}
		b.Put([]byte("long"), long)
		b.Put(nil, nil)
		b.Do(ctx)
		if n := b.Len(); n != 52 || !errors.Is(b.Err(51), dramnode.ErrInvalid) {
			t.Fatalf("%d operations, the last ends with %v", n, b.Err(51))
		}
		generation := b.Meta(7).Generation
		for i := range 51 {
			if b.Err(i) != nil || b.Meta(i).Generation == 0 || b.Bytes(i) != nil || b.Take(i) != nil {
				t.Errorf("put %d: %v, %+v", i, b.Err(i), b.Meta(i))
			}
		}
		b.Reset()

		b.Get(fmt.Appendf(nil, "%d/7", round))
		b.Get([]byte("long"), Range(10, 90_000))
		b.Get([]byte("none"))
		b.Stat([]byte("long"))
		b.Get(fmt.Appendf(nil, "%d/7", round), IfGeneration(generation+1000))
		b.Touch(fmt.Appendf(nil, "%d/8", round), time.Minute)
		b.Remove(fmt.Appendf(nil, "%d/9", round))
		b.Touch([]byte("none"), time.Minute)
		b.Do(ctx)
		if b.Err(0) != nil || string(b.Bytes(0)) != "v7" || b.Meta(0).Generation != generation || b.Meta(0).TTL != time.Hour || b.Take(0) != nil {
			t.Errorf("get: %q, %+v, %v", b.Bytes(0), b.Meta(0), b.Err(0))
		}
		taken := b.Take(1)
		if b.Err(1) != nil || !bytes.Equal(b.Bytes(1), long[10:90_000]) || taken == nil {
			t.Errorf("long get: %d bytes, %v, taken %v", len(b.Bytes(1)), b.Err(1), taken)
		}
		mismatch := new(dramnode.GenerationError)
		if !errors.Is(b.Err(2), dramnode.ErrNotFound) || b.Meta(3).Size != int64(len(long)) || !errors.As(b.Err(4), &mismatch) || mismatch.Current != generation {
			t.Errorf("%v, %+v, %v", b.Err(2), b.Meta(3), b.Err(4))
		}
		if b.Err(5) != nil || b.Err(6) != nil || !errors.Is(b.Err(7), dramnode.ErrNotFound) {
			t.Errorf("touch %v, remove %v, touch of nothing %v", b.Err(5), b.Err(6), b.Err(7))
		}
		b.Reset()
		if !bytes.Equal(taken.Bytes(), long[10:90_000]) {
			t.Error("a taken buffer changed with Reset")
		}
		taken.Release()
	}
	b.Do(ctx) // nothing
	if c.pool.lent != 0 || c.acks.first != c.acks.next {
		t.Errorf("left over: %d buffers, acknowledgements from %d to %d", c.pool.lent, c.acks.first, c.acks.next)
	}
}

// What was certainly not applied is sent again, alone and with others.
func TestBatchRetries(t *testing.T) {
	cluster := newTestCluster(t, 2)
	c := cluster.client(nil)
	for _, size := range []int{1, 10} {
		busy := map[string]bool{}
		for _, n := range cluster.nodes {
			n.setHook(func(r *transport.Request, h wire.Header) bool {
				cluster.mu.Lock()
				defer cluster.mu.Unlock()
				if h.Kind != wire.KindPut || busy[string(h.Key)] {
					return false
				}
				busy[string(h.Key)] = true
				n.status(r, h.Kind, wire.StatusBusy, "")
				return true
			})
		}
		b := c.NewBatch()
		for i := range size {
			b.Put(fmt.Appendf(nil, "k%d", i), []byte("v"))
		}
		b.Do(t.Context())
		for i := range size {
			if b.Err(i) != nil || !busy[fmt.Sprintf("k%d", i)] {
				t.Errorf("operation %d of %d: %v, refused first: %v", i, size, b.Err(i), busy)
			}
		}
		b.Reset()
	}
}
