package state

import (
	"errors"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/dramnode/dramnode/internal/rule"
	"github.com/dramnode/dramnode/ring"
)

func node(i Incarnation, name string) Node {
	return Node{Incarnation: i, Name: name, Addr: name + ":7000", Status: Up}
}

// three is a cluster of a (1), b (2) and c (3) with four partitions; all copies of partition 0 are
// active in epoch 10, the others are at a alone.
func three(t testing.TB) *State {
	t.Helper()
	s := Found(7, ring.Config{Partitions: 4}, 1<<20, DefaultParams(), node(1, "a"), 10)
	s = must(t, s, Join{Node: node(2, "b")}, Join{Node: node(3, "c")})
	for p := range s.Rows {
		s = must(t, s, Activate{ring.Partition(p), 10, 1})
	}
	for _, learner := range []Incarnation{2, 3} {
		r := s.Rows[0]
		s = must(t, s, Assign{0, r.Epoch, 0, learner})
		s = must(t, s, Promote{0, r.Epoch, r.Epoch + 1, s.Rows[0].AssignID})
		s = must(t, s, Activate{0, r.Epoch + 1, 1})
	}
	return s
}

// must applies commands that have to be accepted.
func must(t testing.TB, s *State, batch ...Command) *State {
	t.Helper()
	next, errs := s.Apply(batch)
	if err := errors.Join(errs...); err != nil {
		t.Fatalf("%#v: %v", batch, err)
	}
	if err := next.Validate(); err != nil {
		t.Fatalf("after %#v: %v", batch, err)
	}
	return next
}

func TestFound(t *testing.T) {
	s := Found(7, ring.Config{Partitions: 4}, 1<<20, DefaultParams(), node(1, "a"), 10)
	if err := s.Validate(); err != nil {
		t.Fatal(err)
	}
	r := s.Rows[3]
	if r.Active() || r.Epoch != 10 || r.Primary != 1 || len(r.Fence()) != 0 {
		t.Errorf("the first row is %+v, want an inactive one of node 1 in epoch 10", r)
	}
}

func TestEpochNext(t *testing.T) {
	for _, c := range []struct {
		old  Epoch
		unix uint32
		want Epoch
	}{{0, 0, 1}, {5, 3, 6}, {5, 5, 6}, {5, 99, 99}, {7, math.MaxUint32, math.MaxInt32 - 1<<24}, {math.MaxInt32 - 9, math.MaxUint32, math.MaxInt32 - 8}} {
		if got := c.old.Next(c.unix); got != c.want {
			t.Errorf("epoch after %d at %d s is %d, want %d", c.old, c.unix, got, c.want)
		}
	}
}

// without runs f while a rule does not hold, in builds that can remove rules.
func without(t *testing.T, r rule.Rule, f func()) {
	t.Helper()
	if rule.Mutable {
		rule.Remove(r)
		defer rule.Remove()
		f()
	}
}

// TestRejected: every command names what it was decided for, and does nothing when that has passed.
func TestRejected(t *testing.T) {
	s := three(t) // partition 0 is active in epoch 12 with 1, 2 and 3
	assigned := must(t, s, Assign{1, 10, 0, 2})
	proposed := must(t, s, Reconfigure{0, 12, 13, 2, []Incarnation{2, 3}})
	id := assigned.Rows[1].AssignID
	for _, c := range []struct {
		s    *State
		c    Command
		want string
	}{
		{s, Join{Node: node(3, "d")}, "joined already"},
		{s, Join{Node: node(4, "a")}, "in place of 0"},
		{s, Join{Node: node(4, "a"), Replaces: 1}, "in place of 1"},
		{s, Join{Node: node(4, "d"), Replaces: 1}, "in place of 1"},
		{s, Join{Node: node(math.MaxUint64, "d")}, "incarnation"},
		{s, Join{Node: Node{Incarnation: 4, Name: "d", Addr: "d:1", Status: Leaving}}, "joins as leaving"},
		{s, Suspend{9}, "no node 9"},
		{s, Return{1}, "a is up"},
		{s, Retire{1}, "a is up"},
		{must(t, s, Leave{3}), Retire{3}, "still has partition 0"},
		{must(t, s, Leave{3}), Leave{3}, "c is leaving"},
		{s, Assign{9, 10, 0, 2}, "no partition 9"},
		{s, Assign{1, 9, 0, 2}, "in epoch 10, not 9"},
		{s, Assign{1, 10, 4, 2}, "assignment 0"},
		{s, Assign{1, 10, 0, 0}, "assignment 0"},
		{s, Assign{0, 12, 0, 2}, "at 2 already"},
		{s, Assign{1, 10, 0, 9}, "no node 9"},
		{must(t, s, Suspend{2}), Assign{1, 10, 0, 2}, "b is suspended"},
		{must(t, s, Join{Node: Node{Incarnation: 4, Name: "w", Addr: "w:1", Witness: true, Status: Up}}), Assign{1, 10, 0, 4}, "witness"},
		{assigned, Assign{1, 10, 0, 3}, "learner 2 by assignment"},
		{assigned, Promote{1, 10, 11, id + 1}, "not"},
		{assigned, Promote{1, 9, 11, id}, "in epoch 10, not 9"},
		{assigned, Promote{1, 10, 10, id}, "epoch 10 after 10"},
		{must(t, assigned, Suspend{2}), Promote{1, 10, 11, id}, "b is suspended"},
		{must(t, assigned, Assign{1, 10, id, 0}), Promote{1, 10, 11, id}, "no learner"},
		{proposed, Assign{0, 13, 0, 1}, "not active"},
		{proposed, Activate{0, 12, 1}, "in epoch 13, not 12"},
		{proposed, Activate{0, 13, 3}, "its primary is 2"},
		{s, Activate{0, 12, 1}, "is active"},
		{s, Reconfigure{0, 11, 14, 1, []Incarnation{1}}, "in epoch 12, not 11"},
		{s, Reconfigure{0, 12, 12, 1, []Incarnation{1}}, "epoch 12 after 12"},
		{s, Reconfigure{0, 12, 13, 1, nil}, "primary"},
		{s, Reconfigure{0, 12, 13, 1, []Incarnation{2, 3}}, "primary"},
		{s, Reconfigure{0, 12, 13, 1, []Incarnation{2, 1}}, "primary"},
		{s, Reconfigure{1, 10, 11, 1, []Incarnation{1, 2}}, "were not activated"},
		{s, DeclareLost{0, 12, 13, 3}, "a is up and may have it"},
		{must(t, s, Suspend{1}), DeclareLost{1, 10, 11, 3}, "a is suspended and may have it"},
		{s, AcceptLoss{0, 0}, "0 losses"},
		{s, Know{1}, "a is known"},
		{must(t, s, Suspend{2}), Know{2}, "b is suspended"},
		{s, SetParams{5, DefaultParams()}, "version 1, not 5"},
		{s, SetParams{1, Params{}}, "replicas = 0"},
	} {
		next, errs := c.s.Apply([]Command{c.c})
		if errs[0] == nil || !strings.Contains(errs[0].Error(), c.want) {
			t.Errorf("%#v: %v, want an error with %q", c.c, errs[0], c.want)
		}
		if next != c.s {
			t.Errorf("%#v: rejected, and yet the state changed", c.c)
		}
	}
}

// TestAssignABA: a promotion that was decided for one assignment of a node does not count for a later one.
func TestAssignABA(t *testing.T) {
	s := must(t, three(t), Assign{1, 10, 0, 2})
	old := s.Rows[1].AssignID
	s = must(t, s, Assign{1, 10, old, 3})
	s = must(t, s, Assign{1, 10, s.Rows[1].AssignID, 2}) // 2 again, in the same epoch
	late := []Command{Promote{1, 10, 11, old}}
	if _, errs := s.Apply(late); !errors.Is(errs[0], ErrRejected) {
		t.Errorf("the promotion of an earlier assignment: %v, want it rejected", errs[0])
	}
	without(t, rule.AssignMatches, func() {
		if _, errs := s.Apply(late); errs[0] != nil {
			t.Errorf("without the rule: %v, want it accepted", errs[0])
		}
	})
}

// TestLateActivate: the row moved on while the activation was under way.
func TestLateActivate(t *testing.T) {
	s := must(t, three(t), Reconfigure{0, 12, 13, 1, []Incarnation{1, 2}}, Reconfigure{0, 13, 14, 1, []Incarnation{1, 3}})
	late := []Command{Activate{0, 13, 1}}
	if _, errs := s.Apply(late); !errors.Is(errs[0], ErrRejected) {
		t.Errorf("%v, want it rejected: 3 has not adopted epoch 14", errs[0])
	}
	without(t, rule.EpochMatches, func() {
		if next, _ := s.Apply(late); !next.Rows[0].Active() {
			t.Error("without the rule the row is still inactive")
		}
	})
}

// TestActivateOfTheDead: a primary shrinks its row and dies. Its activation, applied after that, would leave the
// row to the dead alone while others still hold all of it.
func TestActivateOfTheDead(t *testing.T) {
	s := must(t, three(t), Reconfigure{0, 12, 13, 1, []Incarnation{1}}, Suspend{1})
	late := []Command{Activate{0, 13, 1}}
	if _, errs := s.Apply(late); !errors.Is(errs[0], ErrRejected) {
		t.Errorf("%v, want it rejected: the primary is suspended", errs[0])
	}
	without(t, rule.ActivateAlive, func() {
		if next, _ := s.Apply(late); !slices.Equal(next.Rows[0].ActSync, []Incarnation{1}) {
			t.Errorf("without the rule %x still count", next.Rows[0].ActSync)
		}
	})
	s = must(t, s, Reconfigure{0, 13, 14, 2, []Incarnation{2, 3}})
	must(t, must(t, s, Leave{3}), Activate{0, 14, 2}) // who leaves serves
	if _, errs := must(t, s, Suspend{3}).Apply([]Command{Activate{0, 14, 2}}); !errors.Is(errs[0], ErrRejected) {
		t.Errorf("%v, want it rejected: a backup is suspended", errs[0])
	}
}

// TestProposedSetIsNoSource: a member that a proposal left out comes back by the next one, since only the
// activated set counts.
func TestProposedSetIsNoSource(t *testing.T) {
	s := must(t, three(t), Reconfigure{0, 12, 13, 3, []Incarnation{2, 3}})
	if got := s.Rows[0].Fence(); !slices.Equal(got, []Incarnation{1}) {
		t.Errorf("fence %v, want the member that was left out", got)
	}
	back := []Command{Reconfigure{0, 13, 14, 1, []Incarnation{1}}}
	must(t, s, back...)
	without(t, rule.FromActivated, func() {
		if _, errs := s.Apply(back); errs[0] == nil {
			t.Error("with candidates from the proposed set it is accepted all the same")
		}
	})
	s = must(t, s, Activate{0, 13, 3})
	if _, errs := s.Apply([]Command{Reconfigure{0, 13, 14, 1, []Incarnation{1}}}); errs[0] == nil {
		t.Error("a member that an activation left out was taken back without a copy")
	}
}

func TestPromoteCountsAsActivated(t *testing.T) {
	s := must(t, three(t), Assign{1, 10, 0, 2})
	s = must(t, s, Promote{1, 10, 20, s.Rows[1].AssignID})
	r := s.Rows[1]
	if r.Active() || r.ActEpoch != 10 || r.Epoch != 20 || !slices.Equal(r.ActSync, []Incarnation{1, 2}) || r.Learner != 0 || r.EpochVersion != s.Version {
		t.Errorf("after the promotion: %+v", r)
	}
	must(t, s, Suspend{1}, Reconfigure{1, 20, 21, 2, []Incarnation{2}}) // the learner alone has everything
}

func TestReplaceAndLose(t *testing.T) {
	s := must(t, three(t), Suspend{1}, Join{Node: node(4, "a"), Replaces: 1})
	if n := s.Named("a"); n == nil || n.Incarnation != 4 || s.Node(1).Status != Gone || s.Serves(1) {
		t.Fatalf("a is %+v, its old life %+v", n, s.Node(1))
	}
	if _, errs := s.Apply([]Command{DeclareLost{0, 12, 13, 4}}); errs[0] == nil {
		t.Error("partition 0 was declared lost with two copies left")
	}
	s = must(t, s, DeclareLost{1, 10, 30, 4})
	if r := s.Rows[1]; r.LossCount != 1 || r.Active() || r.ActEpoch != 0 || r.Primary != 4 || !slices.Equal(r.ActSync, []Incarnation{4}) {
		t.Errorf("after the loss: %+v", r)
	}
	// The new owner dies before it activates: nothing was served, so nothing more was lost.
	s = must(t, s, Suspend{4}, Retire{4}, DeclareLost{1, 30, 31, 3})
	if r := s.Rows[1]; r.LossCount != 1 || s.Losses() != 1 {
		t.Errorf("a partition that was empty was lost again: %+v", r)
	}
	s = must(t, s, Activate{1, 31, 3}, AcceptLoss{1, 1})
	if r := s.Rows[1]; r.LossAccepted != 1 || !r.Active() {
		t.Errorf("after the acknowledgement: %+v", r)
	}
}

// TestForgotten: who was retired in its absence is dead when its name is another process's, and long gone when somebody is made known.
func TestForgotten(t *testing.T) {
	node := func(i Incarnation, name string) Join {
		return Join{Node: Node{Incarnation: i, Name: name, Addr: name + ":1", Status: Up}}
	}
	absent := []Command{Suspend{3}, Retire{3}}
	for name, c := range map[string]struct {
		then      []Command
		forgotten bool
	}{
		"nothing":                 {nil, true},
		"another one joins":       {[]Command{node(4, "d")}, true},
		"its name joins":          {[]Command{node(4, "c")}, false},
		"a second one is, too":    {[]Command{Suspend{2}, Retire{2}, node(4, "c")}, true},
		"the second one is back":  {[]Command{Suspend{2}, Retire{2}, node(4, "b")}, true},
		"somebody is made known":  {[]Command{node(4, "d"), Know{4}}, false},
		"somebody leaves as well": {[]Command{Leave{2}}, true},
	} {
		s := must(t, three(t), append(slices.Clone(absent), c.then...)...)
		if got := s.Forgotten != 0; got != c.forgotten {
			t.Errorf("%s: forgotten %v (%q), want %v", name, got, s.ForgottenName, c.forgotten)
		}
	}
}

// TestPrune: who is gone is remembered as long as a row names it.
func TestPrune(t *testing.T) {
	s := must(t, three(t), Suspend{3}, Retire{3})
	if s.Node(3) == nil {
		t.Fatal("node 3 is forgotten while partition 0 names it")
	}
	s = must(t, s, Reconfigure{0, 12, 13, 1, []Incarnation{1, 2}})
	if s.Node(3) == nil {
		t.Fatal("node 3 is forgotten while it is fenced")
	}
	s = must(t, s, Activate{0, 13, 1})
	if s.Node(3) != nil || s.NodesVersion != s.Version {
		t.Errorf("node 3 is still known: %+v", s.Nodes)
	}
}

// randomCommand draws a command that is often, and not always, right for s.
func randomCommand(t *rapid.T, s *State) Command {
	p := ring.Partition(rapid.IntRange(0, len(s.Rows)-1).Draw(t, "partition"))
	r := &s.Rows[p]
	inc := Incarnation(rapid.Uint64Range(1, 9).Draw(t, "node"))
	epoch := r.Epoch
	if rapid.IntRange(0, 9).Draw(t, "stale") == 0 {
		epoch--
	}
	next := r.Epoch + Epoch(rapid.IntRange(0, 3).Draw(t, "step"))
	switch rapid.IntRange(0, 12).Draw(t, "kind") {
	case 0:
		name := string(rune('a' + rapid.IntRange(0, 5).Draw(t, "name")))
		var old Incarnation
		if n := s.Named(name); n != nil {
			old = n.Incarnation
		}
		return Join{Node: node(inc, name), Replaces: old}
	case 1:
		return Suspend{inc}
	case 2:
		return Return{inc}
	case 3:
		return Leave{inc}
	case 4:
		return Retire{inc}
	case 5:
		return Assign{p, epoch, r.AssignID, rapid.SampledFrom([]Incarnation{0, inc}).Draw(t, "learner")}
	case 6:
		return Promote{p, epoch, next, r.AssignID}
	case 7, 8:
		return Activate{p, epoch, r.Primary}
	case 9:
		sync := rapid.SliceOfNDistinct(rapid.SampledFrom(r.ActSync), 1, len(r.ActSync), rapid.ID[Incarnation]).Draw(t, "sync")
		slices.Sort(sync)
		if rapid.IntRange(0, 5).Draw(t, "foreign") == 0 {
			sync = With(sync, inc)
		}
		return Reconfigure{p, epoch, next, sync[0], sync}
	case 11:
		return Know{inc}
	case 10:
		return DeclareLost{p, epoch, next, inc}
	}
	return AcceptLoss{p, r.LossCount}
}

// TestApplyProperties: whatever is proposed, the state stays valid, versions and epochs grow, a row's set
// stays within what was activated, deltas from every version lead to the same state, and codecs lose
// nothing.
func TestApplyProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := Found(7, ring.Config{Partitions: 3}, 1<<20, DefaultParams(), node(1, "a"), 10)
		history := []*State{s}
		for range rapid.IntRange(1, 40).Draw(t, "batches") {
			var batch []Command
			for range rapid.IntRange(1, 3).Draw(t, "commands") {
				batch = append(batch, randomCommand(t, s))
			}
			parsed, err := ParseBatch(AppendBatch(nil, batch))
			if err != nil || !reflect.DeepEqual(parsed, batch) {
				t.Fatalf("batch %#v came back as %#v, %v", batch, parsed, err)
			}
			before := s.Append(nil)
			next, errs := s.Apply(batch)
			if string(before) != string(s.Append(nil)) {
				t.Fatalf("Apply changed the old state")
			}
			accepted := len(errs) - len(slices.DeleteFunc(slices.Clone(errs), func(err error) bool { return err == nil }))
			if next.Version != s.Version+uint64(accepted) {
				t.Fatalf("version %d after %d with %d accepted", next.Version, s.Version, accepted)
			}
			checkStep(t, s, next)
			s = next
			history = append(history, s)
		}
		checkDeltas(t, history)
	})
}

func checkStep(t *rapid.T, s, next *State) {
	if err := next.Validate(); err != nil {
		t.Fatal(err)
	}
	for p := range s.Rows {
		old, r := &s.Rows[p], &next.Rows[p]
		if r.Epoch < old.Epoch || r.LossCount < old.LossCount || r.LossCount == old.LossCount && r.ActEpoch < old.ActEpoch && old.LossCount == r.LossCount && r.ActEpoch != 0 {
			t.Fatalf("partition %d went from %+v to %+v", p, *old, *r)
		}
		if !reflect.DeepEqual(*old, *r) && r.Modified <= s.Version {
			t.Fatalf("partition %d changed in version %d, and says %d", p, next.Version, r.Modified)
		}
	}
	for i := range next.Nodes {
		if n := &next.Nodes[i]; s.Node(n.Incarnation) != nil && s.Node(n.Incarnation).Status == Gone && n.Status != Gone {
			t.Fatalf("%+v came back from the gone", n)
		}
	}
}

func checkDeltas(t *rapid.T, history []*State) {
	last := history[len(history)-1]
	from := rapid.IntRange(0, len(history)-1).Draw(t, "since")
	at := rapid.IntRange(from, len(history)-1).Draw(t, "at")
	merged, err := history[at].Merge(last.Delta(history[from].Version))
	if err != nil || string(merged.Append(nil)) != string(last.Append(nil)) {
		t.Fatalf("version %d with the changes from %d to %d: %v", history[at].Version, history[from].Version, last.Version, err)
	}
	if history[from].Version < history[at].Version {
		if _, err := history[from].Merge(last.Delta(history[at].Version)); !errors.Is(err, ErrGap) && history[at].Version > history[from].Version {
			t.Fatalf("a delta over a gap: %v", err)
		}
	}
	full, err := Parse(last.Append(nil))
	if err != nil || !reflect.DeepEqual(full, last) {
		t.Fatalf("%+v came back as %+v, %v", last, full, err)
	}
}

func TestEvents(t *testing.T) {
	s := three(t)
	gone := must(t, s, Suspend{1}, Join{Node: node(4, "a"), Replaces: 1}, DeclareLost{1, 10, 30, 4}, DeclareLost{2, 10, 30, 4})
	want := []string{"a is back at a:7000 as a new process: 2 partitions lost and recreated empty"}
	if got := gone.Events(s); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	next := *gone
	next.Era++
	want = []string{"the control plane was founded anew: era 2", "c is suspended, was up", "1 losses were accepted"}
	if got := must(t, &next, Suspend{3}, AcceptLoss{1, 1}).Events(gone); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	given := must(t, s, Suspend{1}, Retire{1}, DeclareLost{1, 10, 30, 2}, DeclareLost{2, 10, 30, 2}, DeclareLost{3, 10, 30, 3})
	if got := given.Events(s); !slices.Equal(got, []string{"a was absent and is given up: 3 partitions lost and recreated empty"}) {
		t.Errorf("%q", got)
	}
	left := must(t, must(t, s, Join{Node: node(4, "d")}), Leave{4})
	if got := must(t, left, Retire{4}).Events(left); !slices.Equal(got, []string{"d has left"}) {
		t.Errorf("%q", got)
	}
}

func TestRecover(t *testing.T) {
	s := must(t, three(t), Suspend{2}, Assign{1, 10, 0, 3})
	next := s.Recover(5, []Incarnation{2, 3}, 7)
	if err := next.Validate(); err != nil {
		t.Fatal(err)
	}
	if !next.Newer(s) || next.Era != 5 || next.Node(1).Status != Gone || next.Node(2).Status != Up {
		t.Errorf("era %d, nodes %+v", next.Era, next.Nodes)
	}
	r := next.Rows[0]
	if r.Active() || r.Epoch != 12+recoveryGap+1 || r.Doubts != 1 || r.LossCount != 0 || r.Unaccepted() != 1 || !slices.Equal(r.Sync, []Incarnation{2, 3}) || !Has(r.Sync, r.Primary) {
		t.Errorf("a row with two survivors: %+v", r)
	}
	lost := next.Rows[1]
	if lost.Doubts != 0 || lost.Learner != 0 || len(next.Serving(lost.ActSync)) != 0 {
		t.Errorf("a row without survivors: %+v", lost)
	}
	next = must(t, next, DeclareLost{1, lost.Epoch, lost.Epoch + 1, 3})
	if r := next.Rows[1]; r.LossCount != 1 {
		t.Errorf("%+v", r)
	}
	must(t, next, AcceptLoss{0, 1}, AcceptLoss{1, 1})
}
