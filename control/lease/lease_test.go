package lease

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/dramnode/dramnode/control/state"
	"github.com/dramnode/dramnode/internal/rule"
	"github.com/dramnode/dramnode/ring"
)

const ms = time.Millisecond

func table(t testing.TB) *state.State {
	t.Helper()
	s := state.Found(7, ring.Config{Partitions: 4}, 1, state.DefaultParams(), state.Node{Incarnation: 1, Name: "a", Addr: "a:1"}, 1)
	return must(t, s, state.Join{Node: state.Node{Incarnation: 2, Name: "b", Addr: "b:1", Status: state.Up}})
}

func must(t testing.TB, s *state.State, batch ...state.Command) *state.State {
	t.Helper()
	next, errs := s.Apply(batch)
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	return next
}

func anybody(state.Incarnation) bool { return true }

func TestLeaseCountsFromSending(t *testing.T) {
	s := table(t)
	h := NewHolder(2, DefaultTiming())
	h.Install(s)
	r, due := h.Due(500 * ms)
	if !due || r.Sent != 500*ms || r.Applied != s.Version {
		t.Fatalf("renewal %+v, %v", r, due)
	}
	if _, due := h.Due(599 * ms); due {
		t.Error("renews twice within the interval")
	}
	if err := h.Granted(900*ms, Grant{Era: 1, Sent: r.Sent, Length: time.Second, Table: s.Delta(s.Version)}); err != nil {
		t.Fatal(err)
	}
	if !h.Valid(1499*ms) || h.Valid(1500*ms) || h.Until() != 1500*ms {
		t.Errorf("a lease asked for at 500 ms ends at %v, want 1.5 s", h.Until())
	}
}

// TestLeaseOnlyWithTable: a grant whose table does not follow ours extends nothing.
func TestLeaseOnlyWithTable(t *testing.T) {
	s := table(t)
	later := must(t, s, state.Activate{Partition: 0, Epoch: 1, Primary: 1})
	last := must(t, later, state.Activate{Partition: 1, Epoch: 1, Primary: 1})
	h := NewHolder(2, DefaultTiming())
	h.Install(s)
	if err := h.Granted(0, Grant{Era: 1, Length: time.Second, Table: last.Delta(later.Version)}); !errors.Is(err, state.ErrGap) || h.Valid(0) {
		t.Errorf("%v, and valid: %v; want a gap and no lease", err, h.Valid(0))
	}
	if err := h.Granted(0, Grant{Era: 1, Length: time.Second, Table: last.Delta(s.Version)}); err != nil || h.Table().Version != last.Version || !h.Valid(0) {
		t.Errorf("%v, version %d, valid %v", err, h.Table().Version, h.Valid(0))
	}
	// An older grant that comes late may still tell until when its leader had held the lease.
	if err := h.Granted(50*ms, Grant{Era: 1, Sent: 50 * ms, Length: time.Second, Table: later.Delta(s.Version)}); err != nil || h.Table().Version != last.Version || h.Until() != 1050*ms {
		t.Errorf("%v, version %d, until %v", err, h.Table().Version, h.Until())
	}
}

func TestGrantsThatAreNotOurs(t *testing.T) {
	s := table(t)
	for name, g := range map[string]Grant{
		"from the future": {Era: 1, Sent: 2 * time.Second, Length: time.Second, Table: s.Delta(1)},
		"for too long":    {Era: 1, Sent: 0, Length: time.Hour, Table: s.Delta(1)},
		"negative":        {Era: 1, Sent: 0, Length: -1, Table: s.Delta(1)},
		"another era":     {Era: 2, Sent: 0, Length: time.Second, Table: s.Delta(1)},
	} {
		h := NewHolder(2, DefaultTiming())
		h.Install(s)
		if err := h.Granted(time.Second, g); !errors.Is(err, ErrGrant) || h.Until() != 0 {
			t.Errorf("%s: %v, until %v", name, err, h.Until())
		}
	}
}

func TestNoLeaseInAnotherEra(t *testing.T) {
	s := table(t)
	h := NewHolder(2, DefaultTiming())
	h.Install(s)
	if err := h.Granted(0, Grant{Era: 1, Length: time.Second, Table: s.Delta(1)}); err != nil || !h.Valid(1) {
		t.Fatal(err)
	}
	next := *s
	next.Era++
	if !h.Install(&next) || h.Valid(1) {
		t.Error("the lease of one era holds in the next")
	}
	if err := h.Granted(1, Grant{Era: 1, Length: time.Second, Table: s.Append(nil)}); !errors.Is(err, ErrGrant) || h.Valid(1) {
		t.Errorf("a grant of the era before: %v", err)
	}
}

func TestSuspendedServesNothing(t *testing.T) {
	s := table(t)
	h := NewHolder(2, DefaultTiming())
	h.Install(s)
	next := must(t, s, state.Suspend{Node: 2})
	if err := h.Granted(0, Grant{Era: 1, Length: time.Second, Table: next.Delta(1)}); err != nil || h.Valid(1) || h.Until() != 0 {
		t.Errorf("%v; a suspended node holds a lease until %v", err, h.Until())
	}
}

func TestGrants(t *testing.T) {
	timing := DefaultTiming()
	hold := timing.Hold()
	if hold != 1060*ms {
		t.Fatalf("hold is %v", hold)
	}
	g := NewGrants(1, timing, 0)
	g.Renew(10*ms, Renewal{Node: 2, Era: 1, Applied: 5, Sent: 77})
	g.Renew(11*ms, Renewal{Node: 2, Era: 1, Applied: 4, Sent: 78})
	g.Renew(11*ms, Renewal{Node: 3, Era: 9, Applied: 99, Sent: 1})
	if _, start := g.Round(34 * ms); start {
		t.Error("a round before the batch time has passed")
	}
	id, start := g.Round(g.Next())
	if !start || g.Next() < time.Hour {
		t.Fatalf("no round at 35 ms, the next one at %v", g.Next())
	}
	g.Renew(36*ms, Renewal{Node: 2, Era: 1, Sent: 79})
	if _, again := g.Round(45 * ms); again {
		t.Error("a second round within the batch time")
	}
	granted := g.Confirmed(id, anybody)
	if len(granted) != 2 || granted[0].Sent != 78 || granted[1].Node != 3 {
		t.Errorf("granted %+v", granted)
	}
	if g.Applied(2) != 5 || g.Applied(3) != 0 {
		t.Errorf("applied %d and %d, want the highest of this era", g.Applied(2), g.Applied(3))
	}
	if !g.Holds(1000*ms, 2) || g.Ended(1070*ms, 2) || !g.Ended(1071*ms, 2) || g.Silent(1071*ms, 2) || !g.Silent(1096*ms, 2) {
		t.Error("a lease received at 11 ms ends at 1071 ms, and silence begins with what was heard last")
	}
}

func TestCondemned(t *testing.T) {
	g := NewGrants(1, DefaultTiming(), 0)
	g.Renew(0, Renewal{Node: 2})
	g.Condemn(2)
	id, _ := g.Round(25 * ms)
	if got := g.Confirmed(id, anybody); len(got) != 0 {
		t.Errorf("granted %+v to the condemned", got)
	}
	g.Absolve()
	g.Renew(30*ms, Renewal{Node: 2})
	id, _ = g.Round(60 * ms)
	if got := g.Confirmed(id, anybody); len(got) != 1 {
		t.Error("no grant once absolved")
	}
}

func TestNewLeaderWaits(t *testing.T) {
	g := NewGrants(1, DefaultTiming(), 5*time.Second)
	for now := 5 * time.Second; now < 6*time.Second; now += 100 * ms {
		g.Turn(now)
	}
	if g.Ended(6059*ms, 2) || !g.Ended(6060*ms, 2) {
		t.Error("a new leader judges after it held its term for as long as a lease may last, not before, not later")
	}
	g.Turn(7 * time.Second) // it stood still
	if g.Silent(8059*ms, 2) || !g.Silent(8060*ms, 2) {
		t.Error("a leader that stood still waits as if it were new")
	}
}

// A world has one node, its real clocks and two leaders, one after the other, that know only their own
// clocks. It looks for a moment at which a leader says that the lease has ended while the node thinks it
// valid for a table from before the moment.
type world struct {
	r     *rand.Rand
	now   time.Duration // nobody's clock
	rates [3]float64    // node, first and second leader
	base  [3]time.Duration
}

func (w *world) clock(i int) time.Duration {
	return w.base[i] + time.Duration(float64(w.now)*w.rates[i])
}

// run returns what went wrong, or "".
func run(seed uint64) string {
	timing := DefaultTiming()
	w := &world{r: rand.New(rand.NewPCG(seed, 1))}
	for i := range w.rates {
		w.rates[i] = 1 + (w.r.Float64()-0.5)*timing.Drift*0.99
		w.base[i] = time.Duration(w.r.Int64N(int64(time.Hour)))
	}
	s := found()
	h := NewHolder(2, timing)
	h.Install(s)
	leader := 1
	g := NewGrants(1, timing, w.clock(1)-2*time.Second)
	var toLeader []Renewal
	var toNode []Grant
	var confirm uint64
	asking := time.Duration(w.r.Int64N(int64(4 * time.Second))) // then the node is cut off
	handover := time.Duration(w.r.Int64N(int64(4 * time.Second)))
	suspending := false
	for w.now < 6*time.Second {
		w.now += time.Duration(w.r.Int64N(int64(12 * ms)))
		g.Turn(w.clock(leader))
		if leader == 1 && w.now > handover {
			leader, confirm, toLeader, suspending = 2, 0, nil, false
			g = NewGrants(1, timing, w.clock(2))
		}
		if r, due := h.Due(w.clock(0)); due && w.now < asking {
			toLeader = append(toLeader, r)
		}
		if len(toLeader) > 0 && w.r.IntN(4) == 0 {
			g.Renew(w.clock(leader), toLeader[0])
			toLeader = toLeader[1:]
		}
		if id, start := g.Round(w.clock(leader)); start {
			confirm = id
		}
		if confirm > 0 && w.r.IntN(3) == 0 {
			for _, r := range g.Confirmed(confirm, s.Serves) {
				toNode = append(toNode, Grant{Era: 1, Sent: r.Sent, Length: timing.Length, Table: s.Delta(min(r.Applied, s.Version))})
			}
			confirm = 0
		}
		if len(toNode) > 0 && w.r.IntN(6) == 0 {
			if err := h.Granted(w.clock(0), toNode[0]); err != nil {
				return err.Error()
			}
			toNode = toNode[1:]
		}
		// The decision is made when the lease has ended, and in the log some time later.
		if !suspending && g.Ended(w.clock(leader), 2) {
			g.Condemn(2)
			suspending = true
			if w.r.IntN(2) == 0 {
				asking = 6 * time.Second // the node is back before the log has decided
			}
		} else if suspending && w.r.IntN(16) == 0 {
			if h.Valid(w.clock(0)) {
				return fmt.Sprintf("seed %d at %v: the node is suspended, and serves until %v", seed, w.now, h.Until()-w.base[0])
			}
			return ""
		}
	}
	return ""
}

func found() *state.State {
	s := state.Found(7, ring.Config{Partitions: 4}, 1, state.DefaultParams(), state.Node{Incarnation: 1, Name: "a", Addr: "a:1"}, 1)
	s, _ = s.Apply([]state.Command{state.Join{Node: state.Node{Incarnation: 2, Name: "b", Addr: "b:1", Status: state.Up}}})
	return s
}

func TestNobodyServesWithoutLease(t *testing.T) {
	for seed := range uint64(20_000) {
		if fault := run(seed); fault != "" {
			t.Fatal(fault)
		}
	}
}

// TestEveryRuleIsNeeded: without any one of them the same worlds show the fault.
func TestEveryRuleIsNeeded(t *testing.T) {
	if !rule.Mutable {
		t.Skip("needs -tags mutations")
	}
	defer rule.Remove()
	for _, r := range []rule.Rule{rule.LeaseFromSend, rule.DriftAllowed, rule.NewLeaderWaits, rule.CondemnedNoLease} {
		rule.Remove(r)
		fault := ""
		for seed := uint64(0); seed < 200_000 && fault == ""; seed++ {
			fault = run(seed)
		}
		if fault == "" {
			t.Errorf("%s: nothing was noticed without it in 200,000 runs", r)
		}
		t.Logf("%s: %s", r, fault)
	}
}

// TestFencedRenewsAtOnce: others wait until a node that a row leaves out has said that it knows.
func TestFencedRenewsAtOnce(t *testing.T) {
	s := must(t, table(t), state.Activate{Epoch: 1, Primary: 1}, state.Assign{Epoch: 1, Learner: 2})
	h := NewHolder(1, DefaultTiming())
	h.Install(s)
	if _, due := h.Due(500 * ms); !due {
		t.Fatal("the first renewal is not due")
	}
	s = must(t, s, state.Promote{Epoch: 1, NewEpoch: 2, AssignID: s.Rows[0].AssignID})
	if h.Install(s); h.next == 0 {
		t.Error("in a hurry, although it is in the row's set")
	}
	s = must(t, s, state.Reconfigure{Epoch: 2, NewEpoch: 3, Primary: 2, Sync: []state.Incarnation{2}})
	h.Install(s)
	if r, due := h.Due(510 * ms); !due || r.Applied != s.Version {
		t.Errorf("renewal %+v, due %v, want one of version %d at once", r, due, s.Version)
	}
	if _, due := h.Due(520 * ms); due {
		t.Error("renews again at once")
	}
}
