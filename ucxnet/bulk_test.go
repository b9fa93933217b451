package ucxnet

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/dramnode/dramnode/transport"
	"github.com/dramnode/dramnode/wire"
)

// What peers rely on: all but the last piece have at least pieceMinBytes, and none has more than pieceBytes.
func TestPieces(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 64<<20).Draw(t, "bytes")
		for left := n; left > 0; {
			piece := pieceOf(n, left, pieceBytes)
			if piece <= 0 || piece > pieceBytes || piece > left || piece < left && piece < pieceMinBytes {
				t.Fatalf("of %d bytes %d are left: a piece of %d", n, left, piece)
			}
			left -= piece
		}
	})
	if pieceBytes/2 <= max(tcpEagerBytes, shmEagerBytes) {
		t.Error("a piece may be short enough to go eagerly")
	}
}

// bulkPoller has an endpoint without UCX: what it would be told is in the rail's commands.
func bulkPoller(l Limits) (*poller, *endpoint) {
	p := &poller{n: &Network{limits: l.withDefaults()}, endpoints: map[uint64]*endpoint{}, buffers: newBufferPools()}
	p.n.regions.Store(&[]*Region{})
	p.conn.p = p
	ep := &endpoint{rail: &rail{lengths: lengthsOf(false)}, state: epOpen, handshake: newHandshake(transport.Identity{}, true, [nonceBytes]byte{})}
	return p, ep
}

func (p *poller) testBody(ep *endpoint, id uint64, n int, r transport.Releaser) *outgoing {
	o := p.newOutgoing(ep)
	o.id, o.kind, o.at, o.head = id, wire.FrameReply, make([]byte, n), p.buffer(smallBufferBytes)
	o.body = transport.Body{Bytes: o.at, Releaser: r}
	ep.queued += o.head.cap
	p.fillSeparate(o.head, ep, &wire.Frame{ID: id, Kind: o.kind, Flags: wire.FrameSeparate, BodyBytes: n})
	ep.bulk.push(o)
	return o
}

// underWay returns what UCX would have.
func (p *poller) underWay(ep *endpoint) []*transfer { return p.transfers.of(ep) }

// The pieces of all bodies of an endpoint stay within BulkBytes, however many wait, and each body is released once,
// after its last piece.
func TestBytesUnderWayAreBounded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limits := Limits{
			BulkTransfers: rapid.IntRange(1, 8).Draw(t, "transfers"),
			BulkBytes:     rapid.IntRange(1, 4<<20).Draw(t, "bytes"),
		}
		p, ep := bulkPoller(limits)
		defer p.freeBuffers()
		var gone released
		sizes := rapid.SliceOfN(rapid.IntRange(1, 3<<20), 1, 12).Draw(t, "sizes")
		for i, n := range sizes {
			p.testBody(ep, uint64(i), n, &gone)
		}
		closeAt := rapid.IntRange(0, 60).Draw(t, "close at")
		p.pumpBulk(ep)
		for step := 0; ; step++ {
			ts := p.underWay(ep)
			if len(ts) == 0 {
				break
			}
			bytes := 0
			for _, x := range ts {
				bytes += len(x.at)
			}
			if bytes != ep.bulk.bytes || bytes > limits.BulkBytes && len(ts) > 1 {
				t.Fatalf("%d bytes in %d pieces are under way, counted as %d, the limit is %d", bytes, len(ts), ep.bulk.bytes, limits.BulkBytes)
			}
			if step == closeAt {
				ep.state = epClosing
				p.dropBulk(ep, errSilent)
			}
			i := rapid.IntRange(0, len(ts)-1).Draw(t, "ends")
			p.transfers.take(ts[i].token())
			p.sent(ts[i], 0)
		}
		if got := gone.n.Load(); got != int64(len(sizes)) {
			t.Fatalf("%d of %d bodies were released", got, len(sizes))
		}
		if p.held != 0 || ep.queued != 0 {
			t.Fatalf("left: buffers of %d bytes, %d counted as queued", p.held, ep.queued)
		}
		if q := ep.bulk; q.bytes != 0 || len(q.turns) != 0 || q.len() != 0 || ep.state == epOpen && q.weight != 0 {
			t.Fatalf("left: %d bytes, %d turns, %d waiting, weight %d", q.bytes, len(q.turns), q.len(), q.weight)
		}
	})
}

// A body that comes later does not wait for all of a longer one.
func TestBodiesTakeTurns(t *testing.T) {
	p, ep := bulkPoller(Limits{BulkBytes: 2 * pieceBytes})
	defer p.freeBuffers()
	long := p.testBody(ep, 1, 32*pieceBytes, nil)
	p.pumpBulk(ep)
	var gone released
	p.testBody(ep, 2, pieceBytes, &gone)
	p.pumpBulk(ep)
	for gone.n.Load() == 0 && long.sent < len(long.at) {
		newest := p.underWay(ep)[0] // in the slot that was free last
		p.transfers.take(newest.token())
		p.sent(newest, 0)
	}
	if gone.n.Load() != 1 || long.sent > 4*pieceBytes {
		t.Errorf("the later body was sent %d times, when %d bytes of the earlier were", gone.n.Load(), long.sent)
	}
}

// Pieces may land in any order; the sum is that of the body.
func TestLanding(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		body := rapid.SliceOfN(rapid.Byte(), 1, 200).Draw(t, "body")
		in := &incoming{at: bytes.Clone(body), sum: transport.Sum{Wanted: true}}
		var announced [][]byte
		for at := 0; at < len(body) || len(announced) > 0; {
			if at < len(body) && (len(announced) == 0 || rapid.Bool().Draw(t, "announce")) {
				n := rapid.IntRange(1, len(body)-at).Draw(t, "piece")
				announced = append(announced, in.at[at:at+n])
				in.pieces = append(in.pieces, landing{at: in.at[at : at+n]})
				at += n
				continue
			}
			i := rapid.IntRange(0, len(announced)-1).Draw(t, "lands")
			in.land(announced[i])
			announced = slices.Delete(announced, i, i+1)
		}
		if in.landed != len(body) || len(in.pieces) != 0 || in.sum.CRC != wire.Checksum(body) {
			t.Fatalf("%d of %d bytes landed, %d pieces are left, sum %#x, want %#x",
				in.landed, len(body), len(in.pieces), in.sum.CRC, wire.Checksum(body))
		}
	})
}

func TestCheckPiece(t *testing.T) {
	for _, c := range []struct {
		name       string
		body, n    int
		flags      uint8
		rendezvous bool
		want       error
	}{
		{"eager", 5000, 5000, 0, false, nil},
		{"eager, not all of it", 5000, 4999, 0, false, errProtocol},
		{"eager, a later piece", 5000, 5000, wire.FramePiece, false, errProtocol},
		{"whole", 100, 100, 0, true, nil},
		{"nothing", 0, 0, 0, true, errProtocol},
		{"first of several", 1 << 20, pieceMinBytes, 0, true, nil},
		{"too short a first", 1 << 20, pieceMinBytes - 1, 0, true, errProtocol},
		{"too short a later one", 1 << 20, pieceMinBytes - 1, wire.FramePiece, true, errProtocol},
		{"last", 7, 7, wire.FramePiece, true, nil},
	} {
		f := wire.Frame{Kind: wire.FrameReply, Flags: wire.FrameSeparate | c.flags, BodyBytes: c.body}
		if err := checkPiece(f, c.n, c.rendezvous); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, err, c.want)
		}
	}
}

// A placedBodies notes how bodies ended.
type placedBodies struct{ ends []error }

func (*placedBodies) Place(*transport.Request, int) ([]byte, error) { panic("not asked") }
func (h *placedBodies) Serve(r *transport.Request)                  { h.ends = append(h.ends, r.Err) }

// A closed endpoint ends each body once, and one of which the peer has not sent all is no body, even if every piece of it
// that UCX had came.
func TestCutOffBodiesEndOnce(t *testing.T) {
	if _, err := Version(); err != nil { // UCX names its errors
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		p, ep := bulkPoller(Limits{})
		var h placedBodies
		p.n.config.Handler = &h
		in := &incoming{ep: ep, at: make([]byte, 1<<20)}
		ep.incoming, ep.receiving, ep.arriving = map[bodyKey]*incoming{in.key: in}, 1, len(in.at)
		pieces := rapid.IntRange(0, 4).Draw(t, "announced quarters")
		for i := range pieces {
			x := p.transfers.add(receivePiece, ep)
			x.in, x.at = in, in.at[i<<18:(i+1)<<18]
			in.pieces, in.held = append(in.pieces, landing{at: x.at}), in.held+1
			ep.begin(0)
		}
		closeAt := rapid.IntRange(0, pieces).Draw(t, "close at")
		failed := false
		for i := 0; ; i++ {
			if i == closeAt {
				ep.state = epClosing
				p.dropIncoming(ep, errSilent)
			}
			ts := p.transfers.of(ep)
			if len(ts) == 0 {
				break
			}
			x := ts[rapid.IntRange(0, len(ts)-1).Draw(t, "ends")]
			p.transfers.take(x.token())
			status := Status(0)
			if ep.state == epClosing && rapid.Bool().Draw(t, "fails") {
				status, failed = statusCanceled, true
			}
			p.received(x, status)
		}
		whole := pieces == 4 && !failed
		if len(h.ends) != 1 || (h.ends[0] == nil) != whole {
			t.Fatalf("whole %v: the body ended with %v", whole, h.ends)
		}
		if len(ep.incoming) != 0 || ep.receiving != 0 || ep.arriving != 0 || ep.transfers != 0 {
			t.Fatalf("left: %d bodies, %d receiving, %d bytes, %d transfers", len(ep.incoming), ep.receiving, ep.arriving, ep.transfers)
		}
	})
}
