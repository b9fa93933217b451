package member

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/control/group"
	"github.com/dramnode/dramnode/control/leader"
	"github.com/dramnode/dramnode/control/lease"
	"github.com/dramnode/dramnode/control/state"
	"github.com/dramnode/dramnode/ring"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A fabric delivers at once, or not at all.
type fabric struct {
	mu      sync.Mutex
	members map[string]*Member
}

func (f *fabric) Send(addr string, b []byte) {
	f.mu.Lock()
	m := f.members[addr]
	f.mu.Unlock()
	if m != nil {
		_ = m.Deliver(b) // a full inbox loses messages, as a network does
	}
}

func (f *fabric) put(addr string, m *Member) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if m == nil {
		delete(f.members, addr)
	} else {
		f.members[addr] = m
	}
}

// A process is a running member whose replicas do what their rows want.
type process struct {
	*Member
	name string
	stop context.CancelFunc
	done chan error
}

func (f *fabric) start(t *testing.T, name string, incarnation state.Incarnation, seeds ...string) *process {
	t.Helper()
	begin := time.Now()
	p := &process{name: name, done: make(chan error, 1)}
	cfg := Config{
		Group: group.Config{
			Self:     state.Node{Incarnation: incarnation, Name: name, Addr: name},
			Settings: ring.Config{Partitions: 7}, MaxValue: 1, Params: state.DefaultParams(), Timing: lease.DefaultTiming(),
			NewID: func() uint64 { return 77 }, Seeds: seedsOf(name, seeds),
		},
		Peers:   f,
		OnTable: func(old, new *state.State) {},
		Sizes: func() (sizes []group.Usage) {
			if table := p.Table(); table != nil {
				for at := range table.Rows {
					if table.Rows[at].Primary == incarnation {
						sizes = append(sizes, group.Usage{Partition: ring.Partition(at), Bytes: 1000})
					}
				}
			}
			return sizes
		},
		Boot: func() time.Duration { return time.Since(begin) },
		Wall: time.Now,
		Log:  zerolog.Nop(),
	}
	var err error
	if p.Member, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	f.put(name, p.Member)
	ctx, cancel := context.WithCancel(t.Context())
	p.stop = cancel
	go func() {
		var replicas sync.WaitGroup
		replicas.Go(func() { p.replicas(ctx, incarnation) })
		p.done <- p.Run(ctx)
		f.put(name, nil)
		cancel()
		replicas.Wait()
		close(p.done)
	}()
	return p
}

func (p *process) replicas(ctx context.Context, self state.Incarnation) {
	for ctx.Err() == nil {
		time.Sleep(10 * time.Millisecond)
		table := p.Table()
		if table == nil {
			continue
		}
		for at := range table.Rows {
			r := &table.Rows[at]
			a := leader.Ask{Partition: ring.Partition(at), Epoch: r.Epoch, Kind: leader.AskActivate}
			if r.Active() {
				a.Kind, a.Peer, a.AssignID = leader.AskPromote, r.Learner, r.AssignID
			}
			if r.Primary == self && (!r.Active() || r.Learner != 0) {
				_ = p.Ask(a)
			}
		}
	}
}

func (p *process) end(t *testing.T) error {
	t.Helper()
	p.stop()
	var err error
	for e := range p.done {
		err = errors.Join(err, e)
	}
	return err
}

// eventually lets virtual time pass until f is content.
func eventually(t *testing.T, f func() error) {
	t.Helper()
	var err error
	for range 600 {
		time.Sleep(100 * time.Millisecond)
		synctest.Wait()
		if err = f(); err == nil {
			return
		}
	}
	t.Fatalf("not after a minute: %v", err)
}

func healthy(members map[string]*process) func() error {
	return func() error {
		leading := 0
		for _, name := range slices.Sorted(maps.Keys(members)) {
			m := members[name]
			if !m.Leased() {
				return fmt.Errorf("%s has no lease", name)
			}
			if s := m.Status(); s.Leading {
				leading++
				if h := s.Health; h.Inactive+h.Offline+h.UnderReplicated > 0 || len(m.Table().Nodes) != len(members) {
					return fmt.Errorf("%+v with %d nodes", h, len(m.Table().Nodes))
				}
			}
		}
		if leading != 1 {
			return fmt.Errorf("%d leaders", leading)
		}
		return nil
	}
}

// TestLife is a cluster from its founding over a crash, a restart and a leave to its end.
func TestLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fabric{members: map[string]*Member{}}
		members := map[string]*process{}
		for i, name := range []string{"a", "b", "c"} {
			members[name] = f.start(t, name, state.Incarnation(i+1), "a", "b", "c")
		}
		eventually(t, healthy(members))
		if err := members["b"].end(t); err != nil {
			t.Fatal(err)
		}
		if members["b"].Leased() {
			t.Error("a member that ended still has a lease")
		}
		members["b"] = f.start(t, "b", 12, "a", "b", "c")
		eventually(t, healthy(members))

		left := members["a"]
		if err := left.Leave(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := left.end(t); !Retired(err) {
			t.Errorf("a member that left ends with %v", err)
		}
		delete(members, "a")
		eventually(t, healthy(members))
		var texts []string
		for _, e := range members["c"].Events() {
			texts = append(texts, e.Text)
		}
		if all := strings.Join(texts, "\n"); !strings.Contains(all, "b is back at b as a new process") || !strings.Contains(all, "a is leaving") {
			t.Errorf("events:\n%s", all)
		}
		for _, m := range members {
			if err := m.end(t); err != nil {
				t.Error(err)
			}
		}
	})
}

func TestDeliverRefuses(t *testing.T) {
	m, err := New(Config{Group: group.Config{
		Self: state.Node{Incarnation: 1, Name: "a", Addr: "a"}, Params: state.DefaultParams(), Timing: lease.DefaultTiming(),
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Deliver([]byte("nonsense")); !errors.Is(err, dramnode.ErrInvalid) {
		t.Error(err)
	}
	ok := group.Message{Kind: group.KindRefuse, From: 2}
	for range inboxLength {
		if err := m.Deliver(ok.Append(nil)); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.Deliver(ok.Append(nil)); !errors.Is(err, dramnode.ErrBusy) {
		t.Errorf("a full inbox: %v", err)
	}
	if _, err := New(Config{}); !errors.Is(err, dramnode.ErrInvalid) {
		t.Errorf("an empty configuration: %v", err)
	}
}

func TestBootTime(t *testing.T) {
	if a, b := BootTime(), BootTime(); a <= 0 || b < a {
		t.Errorf("%v and then %v", a, b)
	}
}

// seedsOf is what a process is told that may ask all seeds, and founds a cluster with them if it is one.
func seedsOf(name string, seeds []string) func() group.Seeds {
	if len(seeds) == 0 {
		return nil
	}
	s := group.Seeds{Members: seeds}
	if slices.Contains(seeds, name) {
		s.Founders = seeds
	}
	return func() group.Seeds { return s }
}
