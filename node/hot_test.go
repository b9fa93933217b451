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
	{"put", wire.Header{Kind: wire.KindPut, Flags: wire.FlagFence, Ext: wire.AppendWriteExt(nil, wire.WriteExt{Client: 1, Counter: 1})}, 64, 0},
	{"get", wire.Header{Kind: wire.KindGet, Flags: wire.FlagFence}, 0, 64},
	{"get of 4 KiB", wire.Header{Kind: wire.KindGet, Flags: wire.FlagFence}, 0, 4096},
}

// serveSmall returns a function that has n serve one small request, after a put of a value that it finds.
func serveSmall(t testing.TB, n *Node, i int) func() {
	s := &sink{t: t}
	serve := func(h wire.Header, body []byte) func() {
		h.Key = []byte("key")
		h.BudgetMicros = 1e6
		h.CRC = wire.Checksum(body)
		v := n.view.Load()
		h.Epoch = v.Table.Rows[v.Partition(h.Key)].Epoch
		header := wire.AppendHeader(nil, &h)
		r := &transport.Request{Peer: &transport.Peer{Role: transport.RoleClient}, Header: header, Body: body, Received: time.Now(), Conn: s}
		return func() { n.Serve(r) }
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

func TestSmallOperationsDoNotAllocate(t *testing.T) {
	c := newCluster(t, 71, "n1")
	c.agree("n1")
	for i := range small {
		if n := testing.AllocsPerRun(1000, serveSmall(t, c.nodes["n1"].Node, i)); n != 0 {
			t.Errorf("%s allocates %v times", small[i].name, n)
		}
	}
}

func BenchmarkServe(b *testing.B) {
	c := newCluster(b, 71, "n1")
	c.agree("n1")
	for i := range small {
		b.Run(small[i].name, func(b *testing.B) {
			serve := serveSmall(b, c.nodes["n1"].Node, i)
			b.ReportAllocs()
			for b.Loop() {
				serve()
			}
		})
	}
}
