package control

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/ring"
	"github.com/dramnode/dramnode/wire"
)

// A net connects publishers by calls of functions. Everything runs in one synctest bubble, so time is
// virtual and a pause of a minute costs nothing.
type net struct {
	t *testing.T

	mu    sync.Mutex
	nodes []*proc // the dead too
	cut   map[[2]string]bool
	deaf  bool // gossip tells of no tables
	calls map[wire.Kind]int
}

type proc struct {
	*Publisher
	net    *net
	self   Member
	alive  bool
	stop   context.CancelFunc
	done   chan struct{}
	err    error
	tables []*Table // as OnTable saw them
}

func newNet(t *testing.T) *net {
	return &net{t: t, cut: map[[2]string]bool{}, calls: map[wire.Kind]int{}}
}

// start runs a process; change may set what decides about founding.
func (n *net) start(name string, incarnation uint64, change func(*PublisherConfig)) *proc {
	n.t.Helper()
	p := &proc{net: n, self: member(name, incarnation), alive: true, done: make(chan struct{})}
	cfg := PublisherConfig{
		Self: p.self, Settings: ring.Config{Partitions: 12}, MaxValue: 1 << 20, Limits: DefaultLimits(),
		Peers: p, Sightings: p.sightings, NewID: func() uint64 { return incarnation<<8 + 7 }, Now: time.Now, Log: zerolog.Nop(),
		OnTable: func(old, t *Table) {
			n.mu.Lock()
			defer n.mu.Unlock()
			p.tables = append(p.tables, t)
		},
	}
	if change != nil {
		change(&cfg)
	}
	var err error
	if p.Publisher, err = NewPublisher(cfg); err != nil {
		n.t.Fatal(err)
	}
	n.mu.Lock()
	n.nodes = append(n.nodes, p)
	n.mu.Unlock()
	ctx, cancel := context.WithCancel(n.t.Context())
	p.stop = cancel
	go func() {
		defer close(p.done)
		p.err = p.Run(ctx)
	}()
	n.t.Cleanup(func() { cancel(); <-p.done })
	return p
}

func alone(c *PublisherConfig) { c.Alone = true }

// seeds makes a process found only with these others.
func seeds(names ...string) func(*PublisherConfig) {
	return func(c *PublisherConfig) {
		c.Founders = func() (addresses []string, err error) {
			if !slices.Contains(names, c.Self.Name) {
				return nil, nil
			}
			for _, name := range names {
				addresses = append(addresses, name+":gossip")
			}
			return addresses, nil
		}
	}
}

func (p *proc) kill() {
	p.net.mu.Lock()
	p.alive = false
	p.net.mu.Unlock()
	p.stop()
	<-p.done
}

// isolate cuts p off from everybody, or heals that.
func (p *proc) isolate(cut bool) {
	p.net.mu.Lock()
	defer p.net.mu.Unlock()
	for _, o := range p.net.nodes {
		p.net.cut[[2]string{p.self.Name, o.self.Name}], p.net.cut[[2]string{o.self.Name, p.self.Name}] = cut, cut
	}
}

func (p *proc) reachesLocked(o *proc) bool {
	return o.alive && !p.net.cut[[2]string{p.self.Name, o.self.Name}]
}

// Contact implements Peers.
func (p *proc) Contact(incarnation uint64) bool {
	p.net.mu.Lock()
	defer p.net.mu.Unlock()
	return slices.ContainsFunc(p.net.nodes, func(o *proc) bool {
		return o != p && o.self.Incarnation == incarnation && p.reachesLocked(o)
	})
}

// Call implements Peers.
func (p *proc) Call(ctx context.Context, addr string, kind wire.Kind, body []byte) ([]byte, error) {
	p.net.mu.Lock()
	p.net.calls[kind]++
	i := slices.IndexFunc(p.net.nodes, func(o *proc) bool { return o.self.Addr == addr && p.reachesLocked(o) })
	p.net.mu.Unlock()
	if i < 0 {
		<-ctx.Done()
		return nil, fmt.Errorf("%w: %s", dramnode.ErrUnavailable, addr)
	}
	return p.net.nodes[i].Serve(kind, body)
}

func (p *proc) sightings() (s []Sighting) {
	p.net.mu.Lock()
	defer p.net.mu.Unlock()
	for _, o := range p.net.nodes {
		if o != p && !p.reachesLocked(o) {
			continue
		}
		one := Sighting{Name: o.self.Name, Incarnation: o.self.Incarnation, Addr: o.self.Addr, Gossip: o.self.Name + ":gossip"}
		if o.Publisher != nil && o.Table() != nil {
			one.ClusterID, one.TableVersion = o.Table().ClusterID, o.Table().Version
			if p.net.deaf {
				one.TableVersion = 0
			}
		}
		s = append(s, one)
	}
	return s
}

// settle lets every source report its moves as done until nothing moves any more.
func (n *net) settle() {
	n.t.Helper()
	for range 100 {
		moving := false
		for _, p := range n.nodes {
			t := p.Table()
			if !p.alive || t == nil {
				continue
			}
			report := Proposal{Kind: ProposeDone, Member: p.self}
			for i, r := range t.Rows {
				if r.MoveTo != None {
					moving = true
					if t.Members[r.Owner].Incarnation == p.self.Incarnation {
						report.Moves = append(report.Moves, Move{ring.Partition(i), r.MoveID})
					}
				}
			}
			if len(report.Moves) > 0 {
				_ = p.Propose(n.t.Context(), report) // repeated until it is heard
			}
		}
		pause(time.Second)
		if !moving {
			return
		}
	}
	n.t.Fatal("moves do not end")
}

// pause lets virtual time pass and everybody react.
func pause(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// trio starts a cluster of a, b and c with incarnations 1, 2 and 3, at rest. a publishes.
func trio(t *testing.T) (n *net, a, b, c *proc) {
	t.Helper()
	n = newNet(t)
	a = n.start("a", 1, alone)
	pause(time.Second)
	b = n.start("b", 2, nil)
	pause(3 * time.Second)
	c = n.start("c", 3, nil)
	pause(3 * time.Second)
	n.settle()
	n.same(3, a, b, c)
	return n, a, b, c
}

// same fails unless all have one table of so many members.
func (n *net) same(members int, nodes ...*proc) {
	n.t.Helper()
	first := nodes[0].Table()
	for _, p := range nodes {
		if t := p.Table(); t == nil || string(t.Append(nil)) != string(first.Append(nil)) {
			n.t.Fatalf("%s and %s have different tables:\n%+v\n%+v", nodes[0].self.Name, p.self.Name, first, t)
		}
	}
	if len(first.Members) != members {
		n.t.Fatalf("%d members, want %d: %+v", len(first.Members), members, first.Members)
	}
	if err := first.Validate(); err != nil {
		n.t.Fatal(err)
	}
}

func (p *proc) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

func TestFoundingAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNet(t)
		p := n.start("a", 1, alone)
		pause(time.Second)
		n.same(1, p)
		if v := p.Table().Version; v != 1 || !p.Quorate() || len(p.tables) != 1 {
			t.Errorf("version %d, quorate %v, %d tables", v, p.Quorate(), len(p.tables))
		}
	})
}

func TestFoundingTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNet(t)
		a := n.start("a", 1, seeds("a", "b", "c"))
		b := n.start("b", 2, seeds("a", "b", "c"))
		pause(time.Minute)
		if a.Table() != nil || b.Table() != nil {
			t.Fatal("a cluster was founded while a seed is missing")
		}
		c := n.start("c", 3, seeds("a", "b", "c"))
		pause(5 * time.Second)
		n.settle()
		n.same(3, a, b, c)
		if first := a.tables[0]; len(first.Members) != 1 || first.Members[0].Name != "a" {
			t.Errorf("founded by %+v, want the lowest name", first.Members)
		}
		// A seed that comes back blank must not found a second cluster.
		b.kill()
		b = n.start("b", 22, seeds("a", "b", "c"))
		pause(5 * time.Second)
		n.same(3, a, b, c)
		if b.tables[0].ClusterID != a.Table().ClusterID {
			t.Error("the returning seed founded a cluster")
		}
	})
}

func TestNotInTheSeedList(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNet(t)
		p := n.start("x", 1, seeds("a", "b"))
		q := n.start("a", 2, nil)
		pause(time.Minute)
		if p.Table() != nil || q.Table() != nil {
			t.Error("a process that is not in its seed list founded a cluster")
		}
		if err := p.Propose(t.Context(), Proposal{Kind: ProposeLeave, Member: p.self}); !errors.Is(err, dramnode.ErrUnavailable) {
			t.Errorf("a proposal without table: %v", err)
		}
	})
}

func TestTakeover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, a, b, c := trio(t)
		a.kill()
		lost := uint64(b.Table().Owned()[b.Table().Index(1)])
		version := b.Table().Version
		pause(25 * time.Second)
		if b.Table().Version != version || b.Table().Losses() != 0 {
			t.Fatalf("rows were given up early: version %d after %d", b.Table().Version, version)
		}
		d := n.start("d", 4, nil) // needs a publisher
		pause(3 * time.Second)
		n.same(4, b, c, d)
		if b.Table().Publisher != 2 {
			t.Errorf("published by %d, want b", b.Table().Publisher)
		}
		pause(5 * time.Second)
		n.settle()
		n.same(3, b, c, d)
		if got := b.Table().Losses(); got != lost {
			t.Errorf("%d losses, want %d", got, lost)
		}
		if !slices.ContainsFunc(b.Events(), func(e Event) bool { return strings.Contains(e.Text, "lost") }) {
			t.Errorf("no event tells of the loss: %+v", b.Events())
		}
	})
}

func TestMinorityDoesNotPublish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, a, b, c := trio(t)
		version := a.Table().Version
		a.isolate(true)
		pause(time.Second)
		if err := a.Propose(t.Context(), Proposal{Kind: ProposeLeave, Member: a.self}); err != nil {
			t.Fatal(err) // heard by itself, but not decided
		}
		pause(10 * time.Second)
		if a.Table().Version != version || !a.Quorate() {
			t.Fatalf("alone: version %d after %d, quorate %v", a.Table().Version, version, a.Quorate())
		}
		pause(12 * time.Second)
		if a.Quorate() || !b.Quorate() || !c.Quorate() {
			t.Fatalf("quorate: a %v, b %v, c %v", a.Quorate(), b.Quorate(), c.Quorate())
		}
		a.isolate(false)
		pause(2 * time.Second)
		n.settle()
		if !a.Quorate() && !a.ended() {
			t.Error("not quorate again")
		}
		if got := b.Table().Losses(); got != 0 {
			t.Errorf("%d losses, but a was back in time", got)
		}
	})
}

// TestReturnOfAStalePublisher cuts the publisher off while another publishes a join, and then lets it
// return with nothing of its own to publish.
func TestReturnOfAStalePublisher(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, a, b, c := trio(t)
		a.isolate(true)
		pause(5 * time.Second)
		d := n.start("d", 4, nil)
		n.mu.Lock()
		n.cut[[2]string{"a", "d"}], n.cut[[2]string{"d", "a"}] = true, true
		n.mu.Unlock()
		pause(3 * time.Second)
		n.same(4, b, c, d)
		a.isolate(false)
		pause(2 * time.Second)
		n.settle()
		n.same(4, a, b, c, d)
		if a.Table().Losses() != 0 || a.Table().Publisher != 1 {
			t.Errorf("losses %d, publisher %d", a.Table().Losses(), a.Table().Publisher)
		}
	})
}

func TestRetired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, a, b, c := trio(t)
		a.isolate(true)
		pause(40 * time.Second)
		n.settle()
		n.same(2, b, c)
		if a.ended() {
			t.Fatalf("ended without contact: %v", a.err)
		}
		a.isolate(false)
		pause(2 * time.Second)
		if !a.ended() || !errors.Is(a.err, ErrRetired) {
			t.Fatalf("the given up incarnation ended %v with %v", a.ended(), a.err)
		}
		last := a.tables[len(a.tables)-1]
		if last.Index(1) != None {
			t.Error("OnTable did not see the table that retires it")
		}
		a.kill()
		back := n.start("a", 11, nil)
		pause(5 * time.Second)
		n.settle()
		n.same(3, b, c, back)
	})
}

func TestEqualVersions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, _, b, _ := trio(t)
		other := b.Table().clone()
		other.Publisher = 3
		if _, err := b.Serve(wire.KindPublish, other.Append(nil)); !errors.Is(err, dramnode.ErrClusterConflict) {
			t.Errorf("another table of the same version: %v", err)
		}
		other = b.Table().clone()
		other.ClusterID++
		other.Version += 5
		if _, err := b.Serve(wire.KindPublish, other.Append(nil)); !errors.Is(err, dramnode.ErrClusterConflict) {
			t.Errorf("a table of another cluster: %v", err)
		}
		if got := b.Conflicts(); got != 2 {
			t.Errorf("%d conflicts counted, want 2", got)
		}
		if _, err := b.Serve(wire.KindPublish, b.Table().Append(nil)); err != nil {
			t.Errorf("the same table again: %v", err)
		}
		older := b.Table().clone()
		older.Version, older.Publisher = 1, 3
		if _, err := b.Serve(wire.KindPublish, older.Append(nil)); err != nil || b.Table().Version == 1 {
			t.Errorf("an older table: %v, now %d", err, b.Table().Version)
		}
		if _, err := b.Serve(wire.KindProbe, probe{ClusterID: 5, Version: 9, Publisher: 1}.append(nil)); !errors.Is(err, dramnode.ErrClusterConflict) {
			t.Errorf("a probe of another cluster: %v", err)
		}
		for _, kind := range []wire.Kind{wire.KindPublish, wire.KindProbe, wire.KindPropose, wire.KindGet} {
			if _, err := b.Serve(kind, []byte("nonsense")); !errors.Is(err, dramnode.ErrInvalid) {
				t.Errorf("nonsense of kind %d: %v", kind, err)
			}
		}
	})
}

func TestNameInUseIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, a, b, c := trio(t)
		twin := n.start("bb", 22, func(cfg *PublisherConfig) { cfg.Self.Name = "b" })
		pause(10 * time.Second)
		if !twin.ended() || !errors.Is(twin.err, dramnode.ErrClusterConflict) || !strings.Contains(twin.err.Error(), "in use by b:1") {
			t.Fatalf("ended %v: %v", twin.ended(), twin.err)
		}
		n.same(3, a, b, c)
		if a.Table().Index(2) == None {
			t.Error("the rightful b is gone")
		}
	})
}

// TestQuickRestart restarts a process before anybody has noticed its death: that is no name in use.
func TestQuickRestart(t *testing.T) {
	for _, name := range []string{"a", "b"} { // the publisher, and another
		synctest.Test(t, func(t *testing.T) {
			n, a, b, c := trio(t)
			old := map[string]*proc{"a": a, "b": b}[name]
			rest := slices.DeleteFunc([]*proc{a, b, c}, func(p *proc) bool { return p == old })
			lost := uint64(c.Table().Owned()[c.Table().Named(name)])
			old.kill()
			back := n.start(name, 22, nil)
			pause(8 * time.Second)
			if back.ended() {
				t.Fatalf("%s was refused: %v", name, back.err)
			}
			n.settle()
			n.same(3, append(rest, back)...)
			if got := c.Table().Losses(); got != lost {
				t.Errorf("%d losses, want the %d rows of %s", got, lost, name)
			}
		})
	}
}

func TestSettingsMustAgree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, _, _, _ := trio(t)
		other := n.start("d", 4, func(c *PublisherConfig) { c.Settings.Partitions = 13 })
		bigger := n.start("e", 5, func(c *PublisherConfig) { c.MaxValue = 2 << 20 })
		pause(5 * time.Second)
		for p, both := range map[*proc][]string{other: {"12", "13"}, bigger: {"1048576", "2097152"}} {
			if !p.ended() || !errors.Is(p.err, dramnode.ErrInvalid) || !strings.Contains(p.err.Error(), both[0]) || !strings.Contains(p.err.Error(), both[1]) {
				t.Errorf("%s ended %v with %v, want a text that names %v", p.self.Name, p.ended(), p.err, both)
			}
		}
	})
}

func TestCatchUp(t *testing.T) {
	for _, how := range []string{"gossip", "hint"} {
		synctest.Test(t, func(t *testing.T) {
			n, a, b, c := trio(t)
			n.mu.Lock()
			n.deaf = how == "hint"
			n.cut[[2]string{"a", "c"}] = true // a's pushes do not reach c
			n.mu.Unlock()
			d := n.start("d", 4, nil)
			n.mu.Lock()
			n.cut[[2]string{"c", "a"}], n.cut[[2]string{"c", "b"}], n.cut[[2]string{"c", "d"}] = true, true, true
			n.mu.Unlock()
			pause(2 * time.Second)
			n.same(4, a, b, d)
			if c.Table().Version == a.Table().Version {
				t.Fatal("c has the table already; the test tests nothing")
			}
			n.mu.Lock()
			clear(n.cut)
			n.mu.Unlock()
			if how == "hint" {
				pause(time.Second)
				c.Hint(a.Table().Version)
			}
			pause(time.Second)
			n.same(4, a, b, c, d)
		})
	}
}

func TestAbsurdHintDoesNotSpin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, a, b, c := trio(t)
		n.mu.Lock()
		clear(n.calls)
		n.mu.Unlock()
		for _, p := range []*proc{a, b, c} {
			p.Hint(math.MaxUint64)
		}
		pause(10 * time.Second)
		n.mu.Lock()
		fetched := n.calls[wire.KindTable]
		n.mu.Unlock()
		if fetched > 10 {
			t.Errorf("%d tables were fetched because of one hint", fetched)
		}
		d := n.start("d", 4, nil)
		pause(3 * time.Second)
		n.same(4, a, b, c, d)
	})
}

func TestLeaveOfThePublisher(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, a, b, c := trio(t)
		if err := a.Propose(t.Context(), Proposal{Kind: ProposeLeave, Member: a.self}); err != nil {
			t.Fatal(err)
		}
		pause(time.Second)
		n.settle()
		pause(time.Second)
		if !a.ended() || !errors.Is(a.err, ErrRetired) {
			t.Fatalf("a ended %v with %v", a.ended(), a.err)
		}
		n.same(2, b, c)
		if b.Table().Losses() != 0 {
			t.Errorf("%d losses by a leave", b.Table().Losses())
		}
	})
}
