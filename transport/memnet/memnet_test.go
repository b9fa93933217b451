package memnet_test

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/transport"
	"github.com/dramnode/dramnode/transport/memnet"
)

type echo struct{ region transport.Region }

func (h *echo) Place(r *transport.Request, n int) ([]byte, error) { return h.region.Bytes()[:n], nil }
func (h *echo) Serve(r *transport.Request) {
	switch {
	case r.Err != nil:
	case r.Placed:
		r.Reply(r.Header, transport.Body{Bytes: r.Body})
	default:
		r.Reply(r.Header, transport.Body{Bytes: bytes.Clone(r.Body)})
	}
}

type result struct {
	header, body string
	err          error
}

// A waiter completes one call at a time.
type waiter struct {
	done chan result
	into []byte
}

func (w *waiter) PlaceReply(c *transport.Call, header []byte, n int) ([]byte, error) {
	if n > len(w.into) {
		return nil, dramnode.ErrTooLarge
	}
	return w.into[:n], nil
}

func (w *waiter) Complete(c *transport.Call, header, body []byte, err error) {
	w.done <- result{string(header), string(body), err}
}

func call(l transport.Link, header string, body transport.Body, deadline time.Duration, into []byte) result {
	w := &waiter{done: make(chan result, 1), into: into}
	l.Call(&transport.Call{Header: []byte(header), Body: body, Deadline: time.Now().Add(deadline), Completer: w})
	return <-w.done
}

func open(t *testing.T, w *memnet.World, c memnet.Config) *memnet.Network {
	t.Helper()
	if c.Identity.Role == 0 {
		c.Identity = transport.Identity{Role: transport.RoleNode, Name: c.Addr, Incarnation: 1}
	}
	n, err := w.Network(c)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func run(t *testing.T, n *memnet.Network) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	return func() error { cancel(); return <-done }
}

func TestEcho(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := memnet.New(1)
		h := &echo{}
		a, b := open(t, w, memnet.Config{Addr: "a:1", Handler: h}), open(t, w, memnet.Config{Addr: "b:1", Handler: h})
		stopA, stopB := run(t, a), run(t, b)
		l, err := a.Dial("b:1")
		if err != nil {
			t.Fatal(err)
		}
		got := call(l, "hello", transport.Body{Bytes: []byte("world")}, time.Second, nil)
		if got != (result{"hello", "world", nil}) {
			t.Errorf("got %v", got)
		}
		w.Partition("a:1", "b:1")
		begin := time.Now()
		got = call(l, "hello", transport.Body{}, time.Minute, nil)
		if !errors.Is(got.err, dramnode.ErrUnknownOutcome) || errors.Is(got.err, dramnode.ErrUnavailable) {
			t.Errorf("partitioned: got %v, want unknown outcome", got.err)
		}
		if d := time.Since(begin); d != time.Second {
			t.Errorf("the partition was noticed after %v, want 1 s", d)
		}
		got = call(l, "hello", transport.Body{}, time.Minute, nil)
		if !errors.Is(got.err, dramnode.ErrUnavailable) {
			t.Errorf("after: got %v, want unavailable", got.err)
		}
		w.Heal()
		time.Sleep(5 * time.Second)
		if i := l.Info(); i.State != transport.LinkOpen || i.Opened != 2 {
			t.Errorf("after healing: %+v", i)
		}
		if err := errors.Join(stopA(), stopB()); err != nil {
			t.Error(err)
		}
	})
}
