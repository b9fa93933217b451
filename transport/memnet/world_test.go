package memnet_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/transport"
	"github.com/dramnode/dramnode/transport/memnet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A cluster is a server, a client and a link, in a bubble.
type cluster struct {
	world                  *memnet.World
	server, client         *memnet.Network
	link                   transport.Link
	stopServer, stopClient func() error
}

const serverAddr, clientAddr = "server:1", "client:1"

// inBubble runs f on a cluster with seed, whose link is open, in virtual time.
func inBubble(t *testing.T, seed uint64, h transport.Handler, f func(t *testing.T, c *cluster)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := &cluster{world: memnet.New(seed)}
		c.server = open(t, c.world, memnet.Config{Addr: serverAddr, Handler: h})
		c.client = open(t, c.world, memnet.Config{Addr: clientAddr, Handler: h})
		if e, ok := h.(*echo); ok {
			region, err := c.server.Alloc(1 << 20)
			if err != nil {
				t.Fatal(err)
			}
			e.region = region
		}
		c.stopServer, c.stopClient = run(t, c.server), run(t, c.client)
		defer func() {
			if err := errors.Join(c.stopClient(), c.stopServer()); err != nil && !errors.Is(err, memnet.ErrKilled) {
				t.Error(err)
			}
		}()
		var err error
		if c.link, err = c.client.Dial(serverAddr); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if i := c.link.Info(); i.State != transport.LinkOpen {
			t.Fatalf("the link is %+v", i)
		}
		f(t, c)
	})
}

func (c *cluster) call(header string) result {
	return call(c.link, header, transport.Body{}, time.Minute, nil)
}

func TestPartitionThatHealsInTime(t *testing.T) {
	inBubble(t, 1, &echo{}, func(t *testing.T, c *cluster) {
		begin := time.Now()
		c.world.Partition(clientAddr, serverAddr)
		w := &waiter{done: make(chan result, 1)}
		c.link.Call(&transport.Call{Header: []byte("patience"), Completer: w})
		time.Sleep(900 * time.Millisecond)
		c.world.Heal()
		if got := <-w.done; got.err != nil || got.header != "patience" || time.Since(begin) != 900*time.Millisecond {
			t.Errorf("got %v after %v, want the reply when the partition heals", got, time.Since(begin))
		}
		if i := c.link.Info(); i.Opened != 1 {
			t.Errorf("the link opened %d times, want once", i.Opened)
		}
	})
}

func TestCutOneWay(t *testing.T) {
	for _, cut := range [][2]string{{clientAddr, serverAddr}, {serverAddr, clientAddr}} {
		inBubble(t, 1, &echo{}, func(t *testing.T, c *cluster) {
			begin := time.Now()
			c.world.Cut(cut[0], cut[1])
			got := c.call("lost")
			if !errors.Is(got.err, dramnode.ErrUnknownOutcome) || time.Since(begin) != time.Second {
				t.Errorf("%v: got %v after %v, want an unknown outcome after 1 s", cut, got.err, time.Since(begin))
			}
			time.Sleep(10 * time.Second)
			if s := c.link.Info().State; s != transport.LinkConnecting {
				t.Errorf("%v: the link is %v while cut", cut, s)
			}
			c.world.Heal()
			time.Sleep(5 * time.Second)
			if got := c.call("found"); got.err != nil {
				t.Errorf("%v: after healing: %v", cut, got.err)
			}
		})
	}
}

// TestDelay checks that time passes both ways, and only virtual time.
func TestDelay(t *testing.T) {
	inBubble(t, 1, &echo{}, func(t *testing.T, c *cluster) {
		c.world.SetDelay(10*time.Millisecond, 30*time.Millisecond)
		for range 20 {
			begin := time.Now()
			c.call("slow")
			if d := time.Since(begin); d < 20*time.Millisecond || d > 60*time.Millisecond {
				t.Errorf("a call took %v, want 20 to 60 ms", d)
			}
		}
	})
}

// TestSameSeedSameFate draws delays and losses with two seeds, each twice.
func TestSameSeedSameFate(t *testing.T) {
	fate := func(seed uint64) (log []string) {
		inBubble(t, seed, &echo{}, func(t *testing.T, c *cluster) {
			c.world.SetDelay(time.Millisecond, 100*time.Millisecond)
			c.world.SetDrop(0.05)
			for i := range 100 {
				begin := time.Now()
				got := c.call("x")
				log = append(log, fmt.Sprint(i, time.Since(begin), got.err))
				if got.err != nil {
					time.Sleep(5 * time.Second)
				}
			}
		})
		return log
	}
	one, again, two := fate(1), fate(1), fate(2)
	if !slices.Equal(one, again) {
		t.Errorf("one seed, two fates:\n%v\n%v", one, again)
	}
	if slices.Equal(one, two) {
		t.Errorf("two seeds, one fate")
	}
	if !strings.Contains(strings.Join(one, "\n"), "frame was lost") {
		t.Errorf("nothing was lost: %v", one)
	}
}

// TestDropResets: a lost frame costs the connection, and no call says "not applied" that may have been.
func TestDropResets(t *testing.T) {
	inBubble(t, 3, &echo{}, func(t *testing.T, c *cluster) {
		c.world.SetDrop(1)
		if got := c.call("lost"); !errors.Is(got.err, dramnode.ErrUnknownOutcome) {
			t.Errorf("got %v, want an unknown outcome", got.err)
		}
		c.world.SetDrop(0)
		time.Sleep(time.Second)
		if got := c.call("kept"); got.err != nil || c.link.Info().Opened != 2 {
			t.Errorf("afterwards: %v, opened %d times", got.err, c.link.Info().Opened)
		}
	})
}

// TestPlacedBodiesAreOvertaken sends a long body and then a short one; with delays either may win.
func TestPlacedBodiesAreOvertaken(t *testing.T) {
	inBubble(t, 1, &echo{}, func(t *testing.T, c *cluster) {
		c.world.SetDelay(0, 10*time.Millisecond)
		region, err := c.client.Alloc(100 << 10)
		if err != nil {
			t.Fatal(err)
		}
		order := make(chan string, 2)
		h := &order2{order}
		for range 50 {
			c.link.Call(&transport.Call{Header: []byte("long"), Body: transport.Body{Bytes: region.Bytes()[:64<<10]}, Completer: h})
			c.link.Call(&transport.Call{Header: []byte("short"), Completer: h})
			if <-order == "short" {
				return
			}
			<-order
		}
		t.Errorf("a short frame never overtook a long one")
	})
}

// order2 reports calls in the order in which they end.
type order2 struct{ ends chan string }

func (o *order2) PlaceReply(*transport.Call, []byte, int) ([]byte, error) {
	return nil, dramnode.ErrTooLarge
}
func (o *order2) Complete(c *transport.Call, _, _ []byte, _ error) { o.ends <- string(c.Header) }

func TestKilledServer(t *testing.T) {
	inBubble(t, 1, &silent{}, func(t *testing.T, c *cluster) {
		w := &waiter{done: make(chan result, 1)}
		c.link.Call(&transport.Call{Header: []byte("h"), Completer: w})
		synctest.Wait()
		c.world.Kill(serverAddr)
		if got := <-w.done; !errors.Is(got.err, dramnode.ErrUnknownOutcome) {
			t.Errorf("got %v, want an unknown outcome", got.err)
		}
		if got := c.call("dead"); !errors.Is(got.err, dramnode.ErrUnavailable) {
			t.Errorf("got %v, want unavailable", got.err)
		}
		id := transport.Identity{Role: transport.RoleNode, Name: "again", Incarnation: 2}
		next := open(t, c.world, memnet.Config{Identity: id, Addr: serverAddr, Handler: &echo{}})
		stop := run(t, next)
		time.Sleep(5 * time.Second)
		if i := c.link.Info(); i.State != transport.LinkOpen || i.Peer.Incarnation != 2 {
			t.Errorf("the link is %+v, want open to the next incarnation", i)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

// silent detaches every request and forgets it.
type silent struct{}

func (silent) Place(r *transport.Request, _ int) ([]byte, error) {
	r.Detach()
	return nil, transport.ErrRefused
}
func (silent) Serve(r *transport.Request) {
	if r.Err == nil {
		r.Detach()
	}
}

// TestKilledClient: no callback runs any more at the dead side.
func TestKilledClient(t *testing.T) {
	inBubble(t, 1, &silent{}, func(t *testing.T, c *cluster) {
		w := &waiter{done: make(chan result, 1)}
		c.link.Call(&transport.Call{Header: []byte("h"), Body: transport.Body{Bytes: []byte("b")}, Completer: w})
		synctest.Wait()
		c.world.Kill(clientAddr)
		c.link.Call(&transport.Call{Header: []byte("h"), Completer: w})
		if err := c.stopClient(); !errors.Is(err, memnet.ErrKilled) {
			t.Errorf("Run returned %v, want ErrKilled", err)
		}
		c.stopClient = func() error { return nil }
		time.Sleep(time.Minute)
		if len(w.done) != 0 {
			t.Errorf("a call of a dead process completed: %v", <-w.done)
		}
	})
}

// TestBusy fills a link.
func TestBusy(t *testing.T) {
	inBubble(t, 1, &silent{}, func(t *testing.T, c *cluster) {
		w := &waiter{done: make(chan result, memnet.MaxPendingCalls+1)}
		for range memnet.MaxPendingCalls + 1 {
			c.link.Call(&transport.Call{Header: []byte("h"), Deadline: time.Now().Add(time.Second), Completer: w})
		}
		if got := <-w.done; !errors.Is(got.err, dramnode.ErrBusy) {
			t.Errorf("the call too many got %v, want busy", got.err)
		}
		for range memnet.MaxPendingCalls {
			if got := <-w.done; !errors.Is(got.err, dramnode.ErrUnknownOutcome) {
				t.Fatalf("got %v, want an unknown outcome", got.err)
			}
		}
	})
}

// TestPoison keeps what may not be kept.
func TestPoison(t *testing.T) {
	k := &keeper{}
	inBubble(t, 1, k, func(t *testing.T, c *cluster) {
		call(c.link, "header", transport.Body{Bytes: []byte("body")}, time.Second, nil)
		if want := strings.Repeat("\xCC", 10); string(k.header)+string(k.body) != want {
			t.Errorf("after Serve the request reads %q %q, want poison", k.header, k.body)
		}
		region, err := c.client.Alloc(8)
		if err != nil {
			t.Fatal(err)
		}
		b := region.Bytes()
		b[3] = 1 // a page that was never written stays as it is
		if err := region.Close(); err != nil || b[0] != memnet.Poison || b[7] != memnet.Poison {
			t.Errorf("a closed region reads %x (%v), want poison", b, err)
		}
		if err := region.Close(); !errors.Is(err, dramnode.ErrClosed) {
			t.Errorf("closing a region again: %v, want ErrClosed", err)
		}
	})
}

type keeper struct{ header, body []byte }

func (k *keeper) Place(*transport.Request, int) ([]byte, error) { return nil, nil }
func (k *keeper) Serve(r *transport.Request) {
	k.header, k.body = r.Header, r.Body
	r.Reply(nil, transport.Body{})
}

// TestRegionInUse: a region that a frame in flight names cannot be closed.
func TestRegionInUse(t *testing.T) {
	inBubble(t, 1, &echo{}, func(t *testing.T, c *cluster) {
		region, err := c.client.Alloc(64 << 10)
		if err != nil {
			t.Fatal(err)
		}
		c.world.Partition(clientAddr, serverAddr)
		w := &waiter{done: make(chan result, 1)}
		c.link.Call(&transport.Call{Body: transport.Body{Bytes: region.Bytes()}, Completer: w})
		if err := region.Close(); !errors.Is(err, dramnode.ErrInvalid) {
			t.Errorf("Close of a region in use: %v, want ErrInvalid", err)
		}
		<-w.done
		if err := region.Close(); err != nil {
			t.Errorf("Close of a region no longer in use: %v", err)
		}
	})
}

// TestDeadlineWaitsForBody: memory that a peer may still read stays lent at the deadline.
func TestDeadlineWaitsForBody(t *testing.T) {
	inBubble(t, 1, &echo{}, func(t *testing.T, c *cluster) {
		region, err := c.client.Alloc(64 << 10)
		if err != nil {
			t.Fatal(err)
		}
		c.world.SetDelay(200*time.Millisecond, 200*time.Millisecond)
		begin := time.Now()
		got := call(c.link, "h", transport.Body{Bytes: region.Bytes()}, 100*time.Millisecond, nil)
		if !errors.Is(got.err, dramnode.ErrUnknownOutcome) || time.Since(begin) < 400*time.Millisecond {
			t.Errorf("got %v after %v, want an unknown outcome once the body was read", got.err, time.Since(begin))
		}
		if got := call(c.link, "h", transport.Body{}, 100*time.Millisecond, nil); !errors.Is(got.err, dramnode.ErrUnknownOutcome) {
			t.Errorf("without a body: got %v, want an unknown outcome", got.err)
		}
		if err := region.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestInvalidConfigs(t *testing.T) {
	good := transport.Identity{Role: transport.RoleNode, Name: "n", Incarnation: 1}
	w := memnet.New(1)
	if _, err := w.Network(memnet.Config{Identity: good, Addr: "a:1", Handler: &echo{}}); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]memnet.Config{
		"role":        {Identity: transport.Identity{Name: "n", Incarnation: 1}},
		"incarnation": {Identity: transport.Identity{Role: transport.RoleNode, Name: "n"}},
		"name":        {Identity: transport.Identity{Role: transport.RoleNode, Name: strings.Repeat("n", 129), Incarnation: 1}},
		"handler":     {Identity: good, Addr: "b:1"},
		"address":     {Identity: good, Addr: "b", Handler: &echo{}},
		"in use":      {Identity: good, Addr: "a:1", Handler: &echo{}},
	} {
		if _, err := w.Network(c); !errors.Is(err, dramnode.ErrInvalid) {
			t.Errorf("%s: got %v, want ErrInvalid", name, err)
		}
	}
}

func TestRunRunsOnce(t *testing.T) {
	n := open(t, memnet.New(1), memnet.Config{Addr: "a:1", Handler: &echo{}})
	if err := run(t, n)(); err != nil {
		t.Error(err)
	}
	if err := n.Run(context.Background()); !errors.Is(err, dramnode.ErrInvalid) {
		t.Errorf("a second Run returned %v, want ErrInvalid", err)
	}
	if l, err := n.Dial("b:1"); err != nil || l.Info().State != transport.LinkClosed {
		t.Errorf("after Run a new link is %+v (%v), want closed", l.Info(), err)
	}
}
