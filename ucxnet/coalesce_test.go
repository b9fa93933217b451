package ucxnet

import (
	"bytes"
	"fmt"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/dramnode/dramnode/transport"
)

// floods returns calls with bodies of so many bytes, and the number of those that have ended.
func floods(n, bytes int) (calls []*transport.Call, done *atomic.Int64) {
	var busy atomic.Int64
	done = new(atomic.Int64)
	for range n {
		f := &flood{busy: &busy, done: done}
		f.call = transport.Call{Header: make([]byte, 8), Body: transport.Body{Bytes: make([]byte, bytes)}, Completer: f}
		calls = append(calls, &f.call)
	}
	return calls, done
}

func awaitCalls(t *testing.T, done *atomic.Int64, want int) {
	t.Helper()
	eventually(t, func() error {
		if got := done.Load(); got != int64(want) {
			return fmt.Errorf("%d of %d calls ended", got, want)
		}
		return nil
	})
}

// Short bodies that are sent together share messages, each way; how long they may be depends on the transport.
func TestShortBodiesShareMessages(t *testing.T) {
	const calls = 64
	for _, tc := range []struct {
		shm      ShmMode
		bytes    int
		separate uint64
	}{
		{ShmOff, 1000, 0},
		{ShmOff, 4096, 0},
		{ShmAuto, 1000, 0},
		{ShmAuto, 4096, calls},
	} {
		t.Run(fmt.Sprint(tc.shm, tc.bytes), func(t *testing.T) {
			p := newPair(t, tc.shm)
			before := p.client.Stats()
			all, done := floods(calls, tc.bytes)
			p.link.CallAll(all)
			awaitCalls(t, done, calls)
			eventually(t, func() error { // statistics are published now and then
				s := p.client.Stats()
				if got := s.BodiesSent - before.BodiesSent; got != tc.separate {
					return fmt.Errorf("%d bodies went alone, want %d", got, tc.separate)
				}
				frames, messages := s.FramesSent-before.FramesSent, s.MessagesSent-before.MessagesSent
				if s.Transfers != 0 || s.SendBytes != 0 { // of what was submitted between two steps, too
					return fmt.Errorf("UCX has %d transfers, and %d bytes of messages are in use", s.Transfers, s.SendBytes)
				}
				if tc.separate == 0 && (frames < calls || messages > calls/4) { // a few are heartbeats
					return fmt.Errorf("%d frames in %d messages", frames, messages)
				}
				return nil
			})
		})
	}
}

// What a peer does not read is not copied beyond copiedBytes: longer bodies wait where they lie.
func TestSlowReaderMakesNoCopies(t *testing.T) {
	child := startChild(t, "127.0.0.1:0", ShmOff)
	c := testConfig(transport.RoleClient)
	c.Timing = transport.Timing{Dead: time.Minute}
	n := start(t, c)
	l := dialOpen(t, n, child.addr)
	signal(t, child, syscall.SIGSTOP)
	const calls = 8000 // more than sockets hold
	all, done := floods(calls, 4096)
	l.CallAll(all)
	eventually(t, func() error {
		if s := n.Stats(); s.BodiesSent == 0 {
			return fmt.Errorf("no body waits by itself; %d frames in %d messages", s.FramesSent, s.MessagesSent)
		}
		return nil
	})
	signal(t, child, syscall.SIGCONT)
	awaitCalls(t, done, calls)
}

// A relay asks another network for the answer to each request, as a node does that is not the owner.
type relay struct{ owner transport.Link }

type relayed struct {
	call  transport.Call
	later transport.Responder
}

func (*relay) Place(*transport.Request, int) ([]byte, error) { panic("a short body was placed") }

func (r *relay) Serve(q *transport.Request) {
	f := &relayed{later: q.Detach()}
	f.call = transport.Call{Header: bytes.Clone(q.Header), Body: transport.Body{Bytes: bytes.Clone(q.Body)}, Completer: f}
	r.owner.Call(&f.call)
}

func (*relayed) PlaceReply(*transport.Call, []byte, int) ([]byte, error) {
	panic("a short reply was placed")
}

func (f *relayed) Complete(_ *transport.Call, header, body []byte, err error) {
	if err == nil {
		err = f.later.Respond(header, transport.Body{Bytes: bytes.Clone(body)})
	}
	if err != nil {
		panic(err)
	}
}

// What came together is passed on together, and so are the replies to it, as long as their bodies share messages.
func TestForwardedOperationsShareMessages(t *testing.T) {
	for _, tc := range []struct {
		shm   ShmMode
		bytes int
	}{{ShmOff, 64}, {ShmOff, 4096}, {ShmAuto, 64}, {ShmAuto, 1000}} {
		t.Run(fmt.Sprint(tc.shm, tc.bytes), func(t *testing.T) {
			const calls = 64
			p := newPair(t, tc.shm)
			h := &relay{}
			c := testConfig(transport.RoleNode)
			c.Listen, c.Handler, c.Shm = "127.0.0.1:0", h, tc.shm
			between := start(t, c)
			h.owner = dialOpen(t, between, p.server.Addr())
			awaitTransport(t, h.owner, tc.shm)
			link := dialOpen(t, p.client, between.Addr())
			awaitTransport(t, link, tc.shm)
			before := between.Stats()
			all, done := floods(calls, tc.bytes)
			link.CallAll(all)
			awaitCalls(t, done, calls)
			eventually(t, func() error { // statistics are published now and then
				s := between.Stats()
				frames, messages := s.FramesSent-before.FramesSent, s.MessagesSent-before.MessagesSent
				if frames < 2*calls || messages > calls/2 || s.BodiesSent != before.BodiesSent { // a few are heartbeats
					return fmt.Errorf("%d frames in %d messages, %d bodies alone", frames, messages, s.BodiesSent-before.BodiesSent)
				}
				return nil
			})
		})
	}
}
