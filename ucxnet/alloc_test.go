package ucxnet

import (
	"sync"
	"testing"

	"github.com/dramnode/dramnode/transport"
)

// A counted call reads a short reply where it lies.
type counted struct {
	call transport.Call
	left *sync.WaitGroup
	err  error
}

func (*counted) PlaceReply(*transport.Call, []byte, int) ([]byte, error) {
	panic("a short reply was placed")
}

func (c *counted) Complete(_ *transport.Call, _, _ []byte, err error) {
	c.err = err
	c.left.Done()
}

// A lean handler answers everything with the same value, and allocates nothing itself.
type lean struct{ value [64]byte }

func (*lean) Place(*transport.Request, int) ([]byte, error) { return nil, transport.ErrRefused }

func (s *lean) Serve(r *transport.Request) {
	r.Reply(append(r.Scratch[:0], "header"...), transport.Body{Bytes: s.value[:]})
}

// Small calls allocate nothing at either end, whose networks share this process. What goes on by time does, seldom.
func TestSmallCallsDoNotAllocate(t *testing.T) {
	bothRails(t, func(t *testing.T, shm ShmMode) {
		const calls = 64
		c := testConfig(transport.RoleNode)
		c.Listen, c.Handler, c.Shm = "127.0.0.1:0", new(lean), shm
		server := start(t, c)
		c = testConfig(transport.RoleClient)
		c.Shm = shm
		link := dialOpen(t, start(t, c), server.Addr())
		awaitTransport(t, link, shm)
		var left sync.WaitGroup
		var all [calls]*counted
		var submit [calls]*transport.Call
		for i := range all {
			all[i] = &counted{left: &left}
			submit[i] = &all[i].call
		}
		header := []byte("header")
		n := testing.AllocsPerRun(300, func() {
			left.Add(calls)
			for _, c := range all {
				c.call = transport.Call{Header: header, Completer: c}
			}
			link.CallAll(submit[:])
			left.Wait()
			for _, c := range all {
				if c.err != nil {
					t.Fatal(c.err)
				}
			}
		})
		t.Logf("%v allocations by %d calls", n, calls)
		if n >= calls { // under the race detector sync.Pool forgets one in four
			t.Errorf("%d calls allocate %v times", calls, n)
		}
	})
}
