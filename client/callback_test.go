package client

import (
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

// outcome is what a callback was given.
type outcome struct {
	value []byte
	meta  Meta
	err   error
}

// get and put are GetFunc and PutFunc that wait.
func get(t *testing.T, c *Client, key string, opts ...Option) outcome {
	t.Helper()
	ended := make(chan outcome, 1)
	err := c.GetFunc(t.Context(), []byte(key), func(v Value, err error) {
		ended <- outcome{append([]byte(nil), v.Bytes...), v.Meta, err}
	}, opts...)
	if err != nil {
		return outcome{err: err}
	}
	return <-ended
}

func put(t *testing.T, c *Client, key string, value []byte, opts ...Option) outcome {
	t.Helper()
	ended := make(chan outcome, 1)
	err := c.PutFunc(t.Context(), []byte(key), value, func(g dramnode.Generation, err error) {
		ended <- outcome{meta: Meta{Generation: g}, err: err}
	}, opts...)
	if err != nil {
		return outcome{err: err}
	}
	return <-ended
}

func TestCallbacks(t *testing.T) {
	cluster := newTestCluster(t, 2)
	c := cluster.client(nil)
	for _, bytes := range []int{0, 1, 64, transport.CopyBytes, transport.CopyBytes + 1, 100_000} {
		key := fmt.Sprintf("k%d", bytes)
		stored := put(t, c, key, pattern(bytes))
		if stored.err != nil || stored.meta.Generation == dramnode.Absent {
			t.Fatalf("put of %d bytes: %+v", bytes, stored)
		}
		got := get(t, c, key)
		if got.err != nil || string(got.value) != string(pattern(bytes)) || got.meta.Generation != stored.meta.Generation {
			t.Errorf("get of %d bytes: %d bytes, %+v, %v", bytes, len(got.value), got.meta, got.err)
		}
	}
	if o := get(t, c, "missing"); !errors.Is(o.err, dramnode.ErrNotFound) {
		t.Errorf("missing key: %v", o.err)
	}
	if o := put(t, c, "k1", nil, IfAbsent()); !errors.Is(o.err, dramnode.ErrGenerationMismatch) {
		t.Errorf("condition: %v", o.err)
	}
	for name, err := range map[string]error{
		"empty key": get(t, c, "").err, "ttl": get(t, c, "k", TTL(time.Second)).err, "empty key of a put": put(t, c, "", nil).err,
	} {
		if !errors.Is(err, dramnode.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := c.slots.taken(); n != 0 {
		t.Errorf("%d slots are taken", n)
	}
}

// TestCallbacksFollowEachOther: each starts the next, and there is always room for it.
func TestCallbacksFollowEachOther(t *testing.T) {
	const chains, links = 4, 200
	cluster := newTestCluster(t, 2)
	c := cluster.client(func(cfg *Config) { cfg.Outstanding = chains })
	var wg sync.WaitGroup
	var failed atomic.Int64
	for i := range chains {
		wg.Add(1)
		left, key := links, fmt.Appendf(nil, "chain%d", i)
		var next func(dramnode.Generation, error)
		next = func(_ dramnode.Generation, err error) {
			if err != nil {
				failed.Add(1)
			}
			if left--; left == 0 {
				wg.Done()
			} else if err := c.PutFunc(t.Context(), key, key, next); err != nil {
				failed.Add(1)
				wg.Done()
			}
		}
		if err := c.PutFunc(t.Context(), key, key, next); err != nil {
			t.Fatal(err)
		}
	}
	wg.Wait()
	if n := failed.Load(); n != 0 {
		t.Errorf("%d of %d puts failed", n, chains*links)
	}
}

func TestCallbacksAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cluster := newTestCluster(t, 1)
		c := cluster.client(func(cfg *Config) { cfg.Outstanding, cfg.Timeout = 2, 100*time.Millisecond })
		cluster.nodes[0].setHook(func(r *transport.Request, _ wire.Header) bool {
			r.Detach() // no answer ever
			return true
		})
		ended := make(chan error, 2)
		for range 2 {
			if err := c.GetFunc(t.Context(), []byte("a"), func(_ Value, err error) { ended <- err }); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.GetFunc(t.Context(), []byte("a"), func(Value, error) { t.Error("done of a get that was not started") }); !errors.Is(err, dramnode.ErrBusy) {
			t.Errorf("third get: %v", err)
		}
		for range 2 {
			if err := <-ended; !errors.Is(err, dramnode.ErrUnavailable) {
				t.Errorf("unanswered get: %v", err)
			}
		}
		cancelled, cancel := context.WithCancel(t.Context())
		cancel()
		if err := c.GetFunc(cancelled, []byte("a"), nil); !errors.Is(err, dramnode.ErrUnavailable) {
			t.Errorf("cancelled context: %v", err)
		}
	})
}

// TestCallbackIsRetried: a reply that says "later" leads to another attempt, off the network's goroutine.
func TestCallbackIsRetried(t *testing.T) {
	cluster := newTestCluster(t, 1)
	c := cluster.client(nil)
	var refused atomic.Int64
	cluster.nodes[0].setHook(func(r *transport.Request, h wire.Header) bool {
		if h.Kind != wire.KindPut || refused.Add(1) > 2 {
			return false
		}
		r.Reply(wire.AppendHeader(nil, &wire.Header{Kind: h.Kind, Status: wire.StatusBusy, Flags: wire.FlagReply}), transport.Body{})
		return true
	})
	if o := put(t, c, "k", []byte("v")); o.err != nil {
		t.Error(o.err)
	}
	if n := refused.Load(); n != 3 {
		t.Errorf("%d attempts, want 3", n)
	}
}
