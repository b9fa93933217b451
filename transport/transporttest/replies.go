package transporttest

import (
	"encoding/binary"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/transport"
)

// testReplyFromScratch replies with a header and a body in the request's scratch, which is written over
// before the network can have sent them. The calls are handed in together, and keep their order.
func testReplyFromScratch(t *testing.T, open Open) {
	const calls = 100
	body := func(i byte) []byte { return pattern(900, uint64(i)) }
	next := byte(0) // the poller's
	h := &scripted{serve: func(r *transport.Request) {
		if r.Header[0] != next {
			t.Errorf("call %d arrived as number %d", r.Header[0], next)
		}
		next++
		reply := append(r.Scratch[:0], r.Header[0])
		r.Reply(reply, transport.Body{Bytes: append(reply, body(r.Header[0])...)[1:]})
		scribble(r.Scratch[:])
	}}
	_, client, l := pair(t, open, h, 4096, 4)
	var made []*call
	var all []*transport.Call
	for i := range byte(calls) {
		c := client.newCall([]byte{i}, transport.Body{}, 0)
		c.live.Store(true)
		made, all = append(made, c), append(all, &c.Call)
	}
	l.CallAll(all)
	for i, c := range made {
		checkEcho(t, c.wait(), []byte{byte(i)}, body(byte(i)))
	}
	l.CallAll(nil)
}

func testSecondReply(t *testing.T, open Open) {
	h, held := hold(10)
	server, client, l := pair(t, open, h, 100<<10, 4)
	for i, n := range []int{0, 10, 100 << 10} {
		c := client.newCall([]byte("once"), transport.Body{}, 0)
		c.start(l)
		r := await(t, held, "request")
		first, second := server.pool.body(n, 1, false), server.pool.body(n, 2, false)
		if err := r.Respond([]byte("first"), first); err != nil {
			t.Errorf("first Respond: %v", err)
		}
		wantError(t, r.Respond([]byte("second"), second), dramnode.ErrInvalid)
		wantError(t, r.Respond([]byte("third"), transport.Body{}), dramnode.ErrInvalid)
		o := c.wait()
		checkEcho(t, o, []byte("first"), pattern(n, 1))
		if i == 0 && len(o.body) != 0 {
			t.Errorf("got a body of %d bytes, want none", len(o.body))
		}
	}
}

// testLateReply answers calls whose deadline is over: nobody sees it, and every body comes back.
func testLateReply(t *testing.T, open Open) {
	h, held := hold(10)
	server, client, l := pair(t, open, h, 100<<10, 4)
	for _, n := range []int{0, 10, 100 << 10} {
		late := client.newCall([]byte("late"), transport.Body{}, reachable)
		late.start(l)
		r := await(t, held, "request")
		wantError(t, late.wait().err, dramnode.ErrUnknownOutcome)
		if err := r.Respond([]byte("late"), server.pool.body(n, 1, false)); err != nil {
			t.Errorf("late Respond: %v", err)
		}
		next := client.newCall([]byte("next"), transport.Body{}, 0)
		next.start(l)
		await(t, held, "request").Respond([]byte("next"), transport.Body{})
		checkEcho(t, next.wait(), []byte("next"), nil)
	}
}

// testReplyToGonePeer answers calls whose peer has gone, some before and some after that is noticed.
func testReplyToGonePeer(t *testing.T, open Open) {
	const calls = 20
	h, held := hold(calls)
	server, client, l := pair(t, open, h, 100<<10, 2*calls)
	for i := range calls {
		client.newCall([]byte("gone"), client.pool.body(i*5000, 1, false), 0).start(l)
	}
	var responders []transport.Responder
	for range calls {
		responders = append(responders, await(t, held, "request"))
	}
	client.stop()
	for i, r := range responders {
		if i == calls/2 { // by then the server has noticed, since a new client of the same kind is served
			other := start(t, open, Config{Identity: transport.Identity{Role: transport.RoleClient}}, 4096, 1)
			other.dial(server.network.Addr())
		}
		body := server.pool.body(i*5000, 1, false)
		if err := r.Respond([]byte("gone"), body); err != nil {
			t.Errorf("Respond to a peer that has gone: %v", err)
		}
	}
	eventually(t, func() string {
		server.pool.mu.Lock()
		defer server.pool.mu.Unlock()
		if server.pool.leases > 0 {
			return fmt.Sprintf("%d bodies for a peer that has gone are not released", server.pool.leases)
		}
		return ""
	})
}

// testDetachedReplies answers from a goroutine per request, in any order.
func testDetachedReplies(t *testing.T, open Open) {
	const calls = 200
	var answering sync.WaitGroup
	h := &scripted{}
	h.serve = func(r *transport.Request) {
		i, responder := binary.LittleEndian.Uint32(r.Header), r.Detach()
		answering.Go(func() {
			header := binary.LittleEndian.AppendUint32(nil, i)
			if err := responder.Respond(header, h.pool.body(int(i)*50, uint64(i), i%2 == 0)); err != nil {
				t.Errorf("Respond: %v", err)
			}
		})
	}
	_, client, l := pair(t, open, h, 16<<10, calls)
	var started []*call
	for i := range calls {
		c := client.newCall(binary.LittleEndian.AppendUint32(nil, uint32(i)), client.pool.body(i, 1, false), 0)
		c.start(l)
		started = append(started, c)
	}
	for i, c := range started {
		checkEcho(t, c.wait(), binary.LittleEndian.AppendUint32(nil, uint32(i)), pattern(i*50, uint64(i)))
	}
	answering.Wait()
}

// testHeldReplies never answers calls of all sizes: the deadline, given as an instant or as a time-out,
// ends each.
func testHeldReplies(t *testing.T, open Open) {
	const calls = 60
	h, _ := hold(calls)
	_, client, l := pair(t, open, h, 100<<10, calls)
	var started []*call
	for i := range calls {
		c := client.newCall([]byte("held"), client.pool.body(i*1600, 1, false), 0)
		if limit := reachable + time.Duration(i)*time.Millisecond; i%2 == 0 {
			c.Deadline = time.Now().Add(limit)
		} else {
			c.Timeout = limit
		}
		c.start(l)
		started = append(started, c)
	}
	for _, c := range started {
		wantError(t, c.wait().err, dramnode.ErrUnknownOutcome)
	}
	if i := l.Info(); i.Pending != 0 || i.State != transport.LinkOpen {
		t.Errorf("after all deadlines: %+v, want an open link and no pending call", i)
	}
}

// testFlood makes far more calls than a link may hold. Each ends, and the link serves on.
func testFlood(t *testing.T, open Open) {
	const calls = 20000
	h, held := hold(calls)
	_, client, l := pair(t, open, h, 4096, 1)
	var started []*call
	for range calls {
		c := client.newCall([]byte("flood"), transport.Body{}, 500*time.Millisecond)
		c.start(l)
		started = append(started, c)
	}
	for _, c := range started {
		wantError(t, c.wait().err, dramnode.ErrUnknownOutcome, dramnode.ErrBusy, dramnode.ErrUnavailable)
	}
	client.awaitState(l, transport.LinkOpen)
	for len(held) > 0 {
		(<-held).Respond(nil, transport.Body{})
	}
	c := client.newCall([]byte("after"), transport.Body{}, 0)
	c.start(l)
	await(t, held, "request").Respond([]byte("after"), transport.Body{})
	checkEcho(t, c.wait(), []byte("after"), nil)
}
