//go:build !race

// Under the race detector sync.Pool forgets on purpose.

package client

import (
	"context"
	"errors"
	"testing"

	"github.com/dramnode/dramnode/control"
	"github.com/dramnode/dramnode/ring"
	"github.com/dramnode/dramnode/transport"
	"github.com/dramnode/dramnode/wire"
)

// An instantNetwork answers every call at once, in the caller's goroutine.
type instantNetwork struct{ table, get, value []byte }

func newInstantNetwork() *instantNetwork {
	t := control.Table{
		ClusterID: 1, Version: 1, Replicas: 1, MaxValue: 1 << 20, Settings: ring.Config{Partitions: 1},
		Members: []control.Member{{Name: "n", Incarnation: 1, Addr: DefaultAddr}},
		Rows:    []control.Row{{Epoch: 1, MoveTo: control.None, Backups: control.NoBackups}},
	}
	n := &instantNetwork{table: t.Append(nil), value: pattern(100)}
	n.get = wire.AppendHeader(nil, &wire.Header{
		Kind: wire.KindGet, Flags: wire.FlagReply, TableVersion: 1, CRC: wire.Checksum(n.value),
		Ext: wire.AppendReplyExt(nil, wire.ReplyExt{Generation: 1, Size: uint64(len(n.value))}),
	})
	return n
}

func (n *instantNetwork) Dial(string) (transport.Link, error) { return n, nil }
func (n *instantNetwork) Addr() string                        { return "" }
func (n *instantNetwork) Close()                              {}

func (n *instantNetwork) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

func (n *instantNetwork) Alloc(bytes int) (transport.Region, error) {
	return heapRegion(make([]byte, bytes)), nil
}

type heapRegion []byte

func (r heapRegion) Bytes() []byte { return r }
func (r heapRegion) Close() error  { return nil }

func (n *instantNetwork) Info() transport.LinkInfo {
	return transport.LinkInfo{State: transport.LinkOpen, Peer: transport.Peer{Incarnation: 1}}
}

func (n *instantNetwork) CallAll(calls []*transport.Call) {
	for _, c := range calls {
		n.Call(c)
	}
}

func (n *instantNetwork) Call(c *transport.Call) {
	c.Body.Release()
	switch wire.Kind(c.Header[0]) {
	case wire.KindGet:
		c.Completer.Complete(c, n.get, n.value, nil)
	case wire.KindPut:
		reply := [wire.HeaderBytes]byte{0: byte(wire.KindPut), 2: byte(wire.FlagReply)}
		c.Completer.Complete(c, reply[:], nil, nil)
	default:
		reply := wire.AppendHeader(nil, &wire.Header{Kind: wire.Kind(c.Header[0]), Flags: wire.FlagReply})
		c.Completer.Complete(c, reply, n.table, nil)
	}
}

func TestSmallOperationsHardlyAllocate(t *testing.T) {
	ctx := t.Context()
	c, err := Open(ctx, Config{Network: newInstantNetwork(), MemoryBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	key, dst := []byte("key"), make([]byte, 100)
	var got error
	done := func(_ Value, err error) { got = err }
	batch := c.NewBatch()
	for _, tc := range []struct {
		name string
		want float64
		do   func() error
	}{
		{"GetInto", 0, func() error { _, err := c.GetInto(ctx, key, dst); return err }},
		{"Get", 1, func() error { _, err := c.Get(ctx, key); return err }},
		{"GetFunc", 0, func() error { return errors.Join(c.GetFunc(ctx, key, done), got) }},
		{"Put", 1, func() error { _, err := c.Put(ctx, key, dst); return err }}, // the network's reply
		{"Batch of one", 0, func() error {
			batch.Reset()
			batch.Get(key, Range(0, 4), Clip())
			batch.Do(ctx)
			return batch.Err(0)
		}},
	} {
		if n := testing.AllocsPerRun(1000, func() {
			if err := tc.do(); err != nil {
				t.Fatal(err)
			}
		}); n > tc.want {
			t.Errorf("%s allocates %v times, want at most %v", tc.name, n, tc.want)
		}
	}
}

func BenchmarkGetInto(b *testing.B) {
	c, err := Open(b.Context(), Config{Network: newInstantNetwork(), MemoryBytes: 1 << 20})
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	key, dst := []byte("key"), make([]byte, 100)
	for b.Loop() {
		if _, err := c.GetInto(b.Context(), key, dst); err != nil {
			b.Fatal(err)
		}
	}
}
