package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/transport"
	"github.com/dramnode/dramnode/transport/memnet"
	"github.com/dramnode/dramnode/wire"
)

// A testSharer is a network whose client reads the values of a testCluster by itself. A value's place is 8 times its generation.
type testSharer struct {
	*memnet.Network
	cluster *testCluster

	outcome atomic.Uint32 // of reads that would succeed
	damage  atomic.Bool
	opened  atomic.Int32
	refuse  error
}

func (s *testSharer) Share(transport.ShareConfig) (transport.SharedRegion, error) {
	return nil, dramnode.ErrInvalid
}

func (s *testSharer) OpenShare(ticket []byte) (transport.SharedView, error) {
	if string(ticket) != "ticket" {
		return nil, wire.ErrMalformed
	}
	if s.refuse != nil {
		return nil, s.refuse
	}
	s.opened.Add(1)
	return &testView{sharer: s}, nil
}

type testView struct {
	sharer *testSharer
	closed atomic.Bool
}

func (v *testView) Alive() bool {
	return transport.SharedOutcome(v.sharer.outcome.Load()) != transport.SharedOwnerGone
}
func (v *testView) Close() {
	if !v.closed.Swap(true) {
		v.sharer.opened.Add(-1)
	}
}

func (v *testView) Read(p transport.Place, key, dst []byte) (transport.SharedValue, transport.SharedOutcome) {
	if o := transport.SharedOutcome(v.sharer.outcome.Load()); o != transport.SharedRead {
		return transport.SharedValue{}, o
	}
	c := v.sharer.cluster
	c.mu.Lock()
	defer c.mu.Unlock()
	got, ok := c.values[string(key)]
	found := transport.SharedValue{Bytes: len(got.bytes), CRC: got.crc}
	switch {
	case !ok || p.At != 8*uint64(got.generation) || p.Generation != uint64(got.generation) || p.Epoch == 0:
		return transport.SharedValue{}, transport.SharedStale
	case len(dst) < len(got.bytes):
		return found, transport.SharedTooLong
	}
	copy(dst, got.bytes)
	if v.sharer.damage.Load() && len(dst) > 0 {
		dst[0]++
	}
	return found, transport.SharedRead
}

// directClient is a client that reads the one node's values directly.
func directClient(t *testing.T, refuse error) (*Client, *testSharer, *testNode) {
	cluster := newTestCluster(t, 1)
	node := cluster.nodes[0]
	hook := func(r *transport.Request, h wire.Header) bool {
		switch {
		case h.Kind == wire.KindShare:
			node.reply(r, &wire.Header{Kind: h.Kind}, []byte("ticket"))
		case h.Flags&wire.FlagPlace != 0 && h.Flags&wire.FlagFence != 0:
			node.served.Add(1)
			reply, body := cluster.apply(h, r.Body)
			if e, err := wire.ParseReplyExt(reply.Ext); err == nil && reply.Status == wire.StatusOK {
				e.Place = 8 * uint64(e.Generation)
				reply.Ext = wire.AppendReplyExt(nil, e)
			}
			reply.Epoch = h.Epoch
			node.reply(r, &reply, body)
		default:
			return false
		}
		return true
	}
	node.hook.Store(&hook)
	s := &testSharer{cluster: cluster, refuse: refuse}
	c := cluster.client(func(cfg *Config) {
		s.Network = cfg.Network.(*memnet.Network)
		cfg.Network, cfg.Direct, cfg.DirectKeys = s, true, 64
	})
	return c, s, node
}

// within polls, since the client maps memory in its own time.
func within(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); <-time.After(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("waited 20 s for ", what)
		}
	}
}

func TestDirect(t *testing.T) {
	c, s, node := directClient(t, nil)
	ctx := context.Background()
	within(t, "the memory", func() bool { return s.opened.Load() == 1 })
	for _, size := range []int{0, 10, 4096, 4097, 100_000} {
		key, value := fmt.Appendf(nil, "key%d", size), bytes.Repeat([]byte("v"), size)
		g, err := c.Put(ctx, key, value)
		if err != nil {
			t.Fatal(err)
		}
		before, hits := node.served.Load(), c.DirectStats().Hits
		check := func(how string, got []byte, m Meta, err error) {
			t.Helper()
			if err != nil || !bytes.Equal(got, value) || m.Generation != g || m.Size != int64(size) {
				t.Errorf("%s of %d bytes: %d bytes, %+v, %v", how, size, len(got), m, err)
			}
		}
		v, err := c.Get(ctx, key)
		check("Get", v.Bytes, v.Meta, err)
		v, err = c.GetInto(ctx, key, make([]byte, size+1))
		check("GetInto", v.Bytes, v.Meta, err)
		b, m, err := c.GetBuffer(ctx, key)
		check("GetBuffer", b.Bytes(), m, err)
		b.Release()
		r := c.MultiGet(ctx, [][]byte{key})[0]
		check("MultiGet", r.Bytes, r.Meta, r.Err)
		v, err = c.StartGet(ctx, key).Wait()
		check("StartGet", v.Bytes, v.Meta, err)
		if asked := node.served.Load() - before; asked != 0 || c.DirectStats().Hits-hits != 5 {
			t.Errorf("%d bytes: the owner was asked %d times, %d reads were direct", size, asked, c.DirectStats().Hits-hits)
		}
		if size > 0 {
			if _, err := c.GetInto(ctx, key, make([]byte, size-1)); !errors.Is(err, dramnode.ErrOutOfRange) {
				t.Errorf("into too little: %v", err)
			}
		}
		v, err = c.Get(ctx, key, Range(0, int64(size)))
		check("a range", v.Bytes, v.Meta, err)
		if node.served.Load() == before {
			t.Error("a range was read directly")
		}
	}
}

// Whatever a direct read ends with, the caller gets the owner's answer, and the next one is direct again when it can be.
func TestDirectFallsBack(t *testing.T) {
	c, s, node := directClient(t, nil)
	ctx, key := context.Background(), []byte("key")
	within(t, "the memory", func() bool { return s.opened.Load() == 1 })
	if _, err := c.Put(ctx, key, []byte("value")); err != nil {
		t.Fatal(err)
	}
	read := func(what string, asked int64) {
		t.Helper()
		before := node.served.Load()
		if v, err := c.Get(ctx, key); err != nil || string(v.Bytes) != "value" || node.served.Load()-before != asked {
			t.Errorf("%s: %q, %v, and the owner was asked %d times", what, v.Bytes, err, node.served.Load()-before)
		}
	}
	read("at first", 0)
	for o := transport.SharedRead + 1; o < transport.SharedOwnerGone; o++ {
		s.outcome.Store(uint32(o))
		read(o.String(), 1)
		s.outcome.Store(0)
		read("after "+o.String(), 0)
		if got := c.DirectStats().Fallbacks[o.String()]; got != 1 {
			t.Errorf("%v was counted %d times", o, got)
		}
	}
	s.damage.Store(true)
	read("damaged", 1)
	s.damage.Store(false)
	if got := c.DirectStats().Fallbacks["corrupt"]; got != 1 {
		t.Errorf("damage was counted %d times", got)
	}
	s.cluster.apply(wire.Header{Kind: wire.KindDelete, Key: key, Ext: wire.AppendWriteExt(nil, wire.WriteExt{Client: 1, Counter: 1, FirstUnacked: 1})}, nil)
	if _, err := c.Get(ctx, key); !errors.Is(err, dramnode.ErrNotFound) {
		t.Errorf("a value that somebody else deleted: %v", err)
	}
	s.outcome.Store(uint32(transport.SharedOwnerGone))
	within(t, "the dead owner's memory to go", func() bool { return s.opened.Load() == 0 })
}

func TestDirectRefused(t *testing.T) {
	c, _, node := directClient(t, dramnode.ErrNotAuthorised)
	within(t, "the refusal", func() bool { return errors.Is(c.DirectStats().Refused[node.addr], dramnode.ErrNotAuthorised) })
	if _, err := c.Put(context.Background(), []byte("key"), nil); err != nil {
		t.Error(err)
	}
}

func TestDirectNeedsASharer(t *testing.T) {
	cluster := newTestCluster(t, 1)
	network := cluster.network("test")
	for _, cfg := range []Config{
		{Network: network, Direct: true}, {Network: &testSharer{Network: network}, Direct: true, Via: "10.0.0.1:1"},
		{Network: &testSharer{Network: network}, Direct: true, DirectKeys: -1},
	} {
		if err := cfg.Validate(); !errors.Is(err, dramnode.ErrInvalid) {
			t.Errorf("%+v: %v", cfg, err)
		}
	}
}

// What is found was put for that key and not forgotten since; what was put last for a set of keys is there.
func TestPlaces(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := newPlaces(rapid.IntRange(1, 64).Draw(t, "keys"))
		last := map[string]*place{}
		for n := range rapid.IntRange(1, 300).Draw(t, "steps") {
			key := fmt.Appendf(nil, "key%d", rapid.IntRange(0, 40).Draw(t, "key"))
			found := s.find(key)
			if found != nil && found != last[string(key)] {
				t.Fatalf("%s: an outdated place", key)
			}
			if found != nil && rapid.Bool().Draw(t, "forget") {
				s.forget(key, found)
				if s.find(key) != nil {
					t.Fatalf("%s was not forgotten", key)
				}
				continue
			}
			p := &place{bytes: n}
			s.put(key, p)
			if last[string(key)] = p; s.find(key) != p {
				t.Fatalf("%s was put and is not found", key)
			}
		}
	})
}

// The memory of a node that was pruned while it was asked is given back: nobody would do that later.
func TestSharedMemoryOfAFormerMember(t *testing.T) {
	c, s, node := directClient(t, nil)
	within(t, "the memory", func() bool { return s.opened.Load() == 1 })
	view, err := s.OpenShare([]byte("ticket"))
	if err != nil {
		t.Fatal(err)
	}
	former := &peer{addr: node.addr}
	if c.peers.share(former, &share{view}); s.opened.Load() != 1 || former.share.Load() != nil {
		t.Errorf("%d views are open, want only the member's", s.opened.Load())
	}
}
