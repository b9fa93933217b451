package node

import (
	"testing"
	"time"

	"github.com/dramnode/dramnode/transport"
	"github.com/dramnode/dramnode/wire"
)

// A sink takes replies and keeps nothing but what it needs to check them.
type sink struct {
	t      testing.TB
	status wire.Status
	body   int
}

func (s *sink) Reply(_ *transport.Request, header []byte, body transport.Body) {
	s.status, s.body = wire.Status(header[1]), len(body.Bytes)
	body.Release()
}

func (s *sink) Detach(*transport.Request) transport.Responder {
	s.t.Fatal("a small operation at its owner was not served at once")
	return nil
}

// small are the requests that a node serves in place: the body, and the length of the reply's.
var small = []struct {
	name  string
	h     wire.Header
	body  int
	reply int
}{
	{"put", wire.Header{Kind: wire.KindPut, Flags: wire.FlagFence}, 64, 0},
	{"put of 600 bytes", wire.Header{Kind: wire.KindPut, Flags: wire.FlagFence}, 600, 0},
	{"get", wire.Header{Kind: wire.KindGet, Flags: wire.FlagFence}, 0, 64},
	{"get of 4 KiB", wire.Header{Kind: wire.KindGet, Flags: wire.FlagFence}, 0, 4096},
}

// serveSmall returns a function that has n serve one small request, after a put of a value that it finds.
func serveSmall(t testing.TB, n *Node, i int) func() {
	s := &sink{t: t}
	client, counter, ext := newID(), uint64(0), make([]byte, wire.WriteExtBytes)
	serve := func(h wire.Header, body []byte) func() {
		h.Key = []byte("key")
		h.BudgetMicros = 1e6
		h.CRC = wire.Checksum(body)
		v := n.view.Load()
		h.Epoch = v.Table.Rows[v.Partition(h.Key)].Epoch
		header := wire.AppendHeader(make([]byte, 0, 256), &h)
		r := &transport.Request{Peer: &transport.Peer{Role: transport.RoleClient}, Header: header, Body: body, Received: time.Now(), Conn: s}
		return func() {
			if h.Kind == wire.KindPut { // another one each time, with some before it under way
				counter++
				h.Ext = wire.AppendWriteExt(ext[:0], wire.WriteExt{Client: client, Counter: counter, FirstUnacked: max(counter, 16) - 15})
				r.Header = wire.AppendHeader(header[:0], &h)
			}
			n.Serve(r)
		}
	}
	if small[i].reply > 0 {
		serve(small[0].h, make([]byte, small[i].reply))()
	}
	do := serve(small[i].h, make([]byte, small[i].body))
	return func() {
		if do(); s.status != wire.StatusOK || s.body != small[i].reply {
			t.Fatalf("status %d with %d bytes, want %d", s.status, s.body, small[i].reply)
		}
	}
}

// eachSmall runs do for a node alone, of a cluster with one copy and of one that wants three.
func eachSmall[T testing.TB](t T, run func(name string, do func(T)) bool, do func(t T, n *Node, i int)) {
	single, several := newCluster(t, 71, "n1"), newClusterWith(t, 72, with(replicated), "n1")
	for name, c := range map[string]*cluster{"one copy": single, "replicated": several} {
		for i := range small {
			run(name+"/"+small[i].name, func(t T) { do(t, c.nodes["n1"].Node, i) })
		}
	}
}

func TestSmallOperationsDoNotAllocate(t *testing.T) {
	eachSmall(t, t.Run, func(t *testing.T, n *Node, i int) {
		if n := testing.AllocsPerRun(1000, serveSmall(t, n, i)); n != 0 {
			t.Errorf("%v allocations", n)
		}
	})
}

func BenchmarkServe(b *testing.B) {
	eachSmall(b, b.Run, func(b *testing.B, n *Node, i int) {
		serve := serveSmall(b, n, i)
		b.ReportAllocs()
		for b.Loop() {
			serve()
		}
	})
}
