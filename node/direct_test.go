package node

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/ring"
	"github.com/dramnode/dramnode/test/proc"
	"github.com/dramnode/dramnode/transport"
	"github.com/dramnode/dramnode/transport/memnet"
	"github.com/dramnode/dramnode/wire"
)

// A noticeBoard is what the nodes of a cluster publish for direct readers. Nobody may publish a partition while somebody
// else still does: a reader of that one could miss the new owner's writes.
type noticeBoard struct {
	mu      sync.Mutex
	serving map[uint16]string // by partition: the node that says it serves
	changes int
	renewed map[string]int
	faults  []string
}

func (b *noticeBoard) fault(format string, args ...any) {
	b.faults = append(b.faults, fmt.Sprintf(format, args...))
}

// A sharingNetwork has regions that others could map.
type sharingNetwork struct {
	transport.Network
	board *noticeBoard
	name  string
}

func (n *sharingNetwork) Close() error {
	if c, ok := n.Network.(io.Closer); ok {
		return c.Close()
	}
	return nil
}

func (n *sharingNetwork) Share(c transport.ShareConfig) (transport.SharedRegion, error) {
	r, err := n.Alloc(c.Bytes)
	return &noticedRegion{r, n.board, n.name}, err
}

func (n *sharingNetwork) OpenShare([]byte) (transport.SharedView, error) {
	return nil, dramnode.ErrUnavailable
}

type noticedRegion struct {
	transport.Region
	board *noticeBoard
	name  string
}

func (r *noticedRegion) Words() []atomic.Uint64 { return nil }
func (r *noticedRegion) Ticket() []byte         { return []byte("ticket of " + r.name) }
func (r *noticedRegion) Now() int64             { return 1000 }

func (r *noticedRegion) Renew(until int64) {
	r.board.mu.Lock()
	defer r.board.mu.Unlock()
	r.board.renewed[r.name]++
	if until <= r.Now() || until > r.Now()+int64(vouchFor) {
		r.board.fault("%s vouches until %d", r.name, until)
	}
}

func (r *noticedRegion) SetPartition(p uint16, epoch uint32, serving bool) {
	r.board.mu.Lock()
	defer r.board.mu.Unlock()
	r.board.changes++
	by := r.board.serving[p]
	switch {
	case serving && by != "" && by != r.name:
		r.board.fault("%s serves partition %d in epoch %d while %s still says so", r.name, p, epoch, by)
	case serving:
		r.board.serving[p] = r.name
	case by == r.name:
		delete(r.board.serving, p)
	}
}

func newBoard() *noticeBoard {
	return &noticeBoard{serving: map[uint16]string{}, renewed: map[string]int{}}
}

// share makes a node publish on the board.
func (b *noticeBoard) share(c *Config) {
	open, name := c.Open, c.Name
	c.Direct = true
	c.Open = func(id transport.Identity, h transport.Handler, e transport.Events) (transport.Network, error) {
		n, err := open(id, h, e)
		return &sharingNetwork{n, b, name}, err
	}
}

// says waits until the board names exactly the owners of n's table.
func (b *noticeBoard) says(c *cluster, n *running) {
	c.t.Helper()
	c.wait("the board to name the owners", func() bool {
		t := n.Table()
		b.mu.Lock()
		defer b.mu.Unlock()
		for p, row := range t.Rows {
			if b.serving[uint16(p)] != t.Members[row.Owner].Name {
				return false
			}
		}
		return len(b.serving) == len(t.Rows)
	})
}

// Partitions move to a node that joins and from one that leaves: at no time do two nodes publish the same one.
func TestOneNodeAtATimeIsReadDirectly(t *testing.T) {
	t.Parallel()
	b := newBoard()
	c := newClusterWith(t, 71, with(b.share), "n1", "n2")
	b.says(c, c.nodes["n1"])
	user := c.caller()
	for i := range 200 {
		user.put("n1", fmt.Sprint("key", i), []byte("value"))
	}
	c.start("n3", proc.Address(t, nil))
	c.ready("n1", "n2", "n3")
	b.says(c, c.nodes["n3"])
	c.nodes["n1"].stop()
	<-c.nodes["n1"].done
	c.ready("n2", "n3")
	b.says(c, c.nodes["n2"])
	c.wait("everybody to vouch", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return b.renewed["n2"] > 2 && b.renewed["n3"] > 2
	})
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, fault := range b.faults {
		t.Error(fault)
	}
}

// The ticket is for those who ask, and a reply tells a record's place to those who want it.
func TestTicketAndPlaces(t *testing.T) {
	t.Parallel()
	c := newClusterWith(t, 73, with(newBoard().share), "n1")
	user := c.caller()
	user.put("n1", "key", []byte("value"))
	ask := func(h wire.Header) reply {
		t.Helper()
		h.BudgetMicros = budgetOf(10 * time.Second)
		r := user.once("n1", h, nil)
		if r.err != nil || r.header.Status != wire.StatusOK {
			t.Fatalf("%v, %v", r.header.Status, r.err)
		}
		return r
	}
	if r := ask(wire.Header{Kind: wire.KindShare}); string(r.body) != "ticket of n1" {
		t.Errorf("ticket %q", r.body)
	}
	if r := ask(wire.Header{Kind: wire.KindGet, Key: []byte("key")}); r.ext.Place != 0 {
		t.Errorf("a place that nobody asked for: %d", r.ext.Place)
	}
	if r := ask(wire.Header{Kind: wire.KindGet, Key: []byte("key"), Flags: wire.FlagPlace}); r.ext.Place == 0 {
		t.Error("no place")
	}
}

func TestNodeWithoutDirectHasNoTicket(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 74, "n1")
	if r := c.caller().once("n1", wire.Header{Kind: wire.KindShare}, nil); r.header.Status != wire.StatusNotFound {
		t.Errorf("%v, %v", r.header.Status, r.err)
	}
}

func TestDirectNeedsASharer(t *testing.T) {
	_, err := New(Config{
		Listen: "n1:1", Gossip: proc.Address(t, nil), Settings: ring.Config{Partitions: 7}, MemoryBytes: 24 << 20, MaxValueBytes: 1 << 20, Direct: true, Log: zerolog.Nop(),
		Open: func(id transport.Identity, h transport.Handler, e transport.Events) (transport.Network, error) {
			return memnet.New(75).Network(memnet.Config{Identity: id, Addr: "n1:1", Handler: h, Events: e})
		},
	})
	if !errors.Is(err, dramnode.ErrInvalid) {
		t.Error(err)
	}
}
