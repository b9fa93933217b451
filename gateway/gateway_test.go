package gateway_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/client"
	"github.com/dramnode/dramnode/gateway"
	"github.com/dramnode/dramnode/gateway/gatewaytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A client inside a node reads and writes what that node owns and what others own.
func TestInside(t *testing.T) {
	c := gatewaytest.NewCluster(t, 3, 64<<20)
	inside, ctx := c.Inside(0), context.Background()
	for _, size := range []int{0, 1, 900, 2000, 4096, 4097, 1 << 20, gatewaytest.MaxValueBytes} {
		for owner := range 3 {
			key := c.Owned(owner, inside, "k")
			value := bytes.Repeat([]byte{byte(size), 7}, size/2+1)[:size]
			g, err := inside.Put(ctx, key, value)
			if err != nil {
				t.Fatalf("put of %d bytes at node %d: %v", size, owner, err)
			}
			b, meta, err := inside.GetBuffer(ctx, key)
			if err != nil {
				t.Fatalf("get of %d bytes at node %d: %v", size, owner, err)
			}
			if meta.Generation != g || !bytes.Equal(b.Bytes(), value) {
				t.Errorf("%d bytes at node %d come back as %d of generation %d, want %d", size, owner, len(b.Bytes()), meta.Generation, g)
			}
			b.Release()
			if removed, err := inside.Remove(ctx, key, client.IfGeneration(g)); err != nil || removed <= g {
				t.Errorf("remove: generation %d, %v", removed, err)
			}
			if removed, err := inside.Remove(ctx, key); err != nil || removed != dramnode.Absent {
				t.Errorf("second remove: generation %d, %v", removed, err)
			}
		}
	}
	if leased := c.Node(0).Info().Memory.Leased; leased != 0 {
		t.Errorf("%d bytes are leased after all buffers were released", leased)
	}
}

// A long value is not copied: what the buffer shows is the stored memory, which outlives its deletion.
func TestInsideLendsMemory(t *testing.T) {
	c := gatewaytest.NewCluster(t, 1, 64<<20)
	inside, ctx := c.Inside(0), context.Background()
	value := bytes.Repeat([]byte("dram"), 1<<18)
	if _, err := inside.Put(ctx, []byte("k"), value); err != nil {
		t.Fatal(err)
	}
	b, _, err := inside.GetBuffer(ctx, []byte("k"), client.Range(4, -1))
	if err != nil {
		t.Fatal(err)
	}
	if leased := c.Node(0).Info().Memory.Leased; leased < int64(len(value)) {
		t.Errorf("%d bytes are leased, want the whole value", leased)
	}
	if err := inside.Delete(ctx, []byte("k")); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b.Bytes(), value[4:]) {
		t.Error("a lent value has changed after its deletion")
	}
	b.Release()
	if leased := c.Node(0).Info().Memory.Leased; leased != 0 {
		t.Errorf("%d bytes are leased after the release", leased)
	}
}

// Lists and requests that wait go through other goroutines of the node, and end with their context.
func TestInsideLater(t *testing.T) {
	c := gatewaytest.NewCluster(t, 2, 64<<20)
	inside, ctx := c.Inside(0), context.Background()
	var items []client.Item
	for i := range 500 {
		items = append(items, client.Item{Key: c.Owned(i%2, inside, string(rune('a'+i%26))+string(rune('a'+i/26))), Value: []byte("v")})
	}
	for i, r := range inside.MultiPut(ctx, items) {
		if r.Err != nil {
			t.Fatalf("item %d: %v", i, r.Err)
		}
	}
	n := 0
	for _, err := range inside.List(ctx, client.Query{}) {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	if n != len(items) {
		t.Errorf("the list has %d keys, want %d", n, len(items))
	}
	if deleted, err := inside.DeleteRange(ctx, client.Query{}); err != nil || deleted != uint64(n) {
		t.Errorf("%d deleted, %v; want %d", deleted, err, n)
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := inside.Get(ended, []byte("k")); !errors.Is(err, dramnode.ErrUnavailable) {
		t.Errorf("get after the context ended: %v", err)
	}
}

// Run serves once there is a table, and ends with its context or with the first face that fails.
func TestRun(t *testing.T) {
	c := gatewaytest.NewCluster(t, 1, 64<<20)
	broken := errors.New("broken")
	for _, want := range []error{nil, broken} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		serve := func(ctx context.Context, l net.Listener, s gateway.Store) error {
			if _, err := s.Put(ctx, []byte("k"), []byte("v")); err != nil {
				t.Error(err)
			}
			if want == nil {
				cancel()
			}
			return want
		}
		n := c.Node(0)
		err = gateway.Run(ctx, client.Config{Network: n.Network(), Addrs: []string{n.Addr()}}, []gateway.Face{{Name: "test", Listener: l, Serve: serve}})
		if !errors.Is(err, want) {
			t.Errorf("Run ends with %v, want %v", err, want)
		}
		if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("the listener is left open: %v", err)
		}
	}
}
