package control

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/ring"
)

const someSeconds = 1_700_000_000

func testLimits() Limits {
	return Limits{LostAfter: 30 * time.Second, AbortAfter: 2 * time.Second, MovesPerMember: 3}
}

func member(name string, incarnation uint64) Member {
	return Member{Name: name, Incarnation: incarnation, Addr: name + ":1"}
}

// history feeds a planner with inputs and checks each table against the one before.
type history struct {
	planner Planner
	table   *Table
	nextID  uint64
	old     []Move // moves of earlier tables: reports about them are stale, or not
}

func newHistory(partitions int) *history {
	h := &history{planner: Planner{Limits: testLimits()}, nextID: 2}
	h.table = Bootstrap(member("n0", 1), 99, ring.Config{Partitions: partitions}, 1<<20, someSeconds)
	return h
}

func (h *history) newID() uint64 { h.nextID++; return h.nextID }

// moves are those that the table orders.
func (h *history) moves() (moves []Move) {
	for p, r := range h.table.Rows {
		if r.MoveTo != None {
			moves = append(moves, Move{ring.Partition(p), r.MoveID})
		}
	}
	return moves
}

// next plans once and returns what is wrong with the plan, "" for nothing.
func (h *history) next(in Input) (plan Plan, wrong string) {
	before := h.table
	copied := before.Append(nil)
	plan = h.planner.Next(before, in)
	if string(before.Append(nil)) != string(copied) {
		return plan, "the planner changed the table it was given"
	}
	if plan.Table == nil {
		return plan, ""
	}
	h.old = append(h.old, h.moves()...)
	h.table = plan.Table
	return plan, difference(before, plan.Table, in)
}

// difference checks a table against the one before it and the input that led to it.
func difference(a, b *Table, in Input) string {
	if err := b.Validate(); err != nil {
		return err.Error()
	}
	if b.Version != a.Version+1 || b.ClusterID != a.ClusterID || b.Publisher != in.Self {
		return fmt.Sprintf("version %d, cluster %d, publisher %d after %d", b.Version, b.ClusterID, b.Publisher, a.Version)
	}
	for _, m := range b.Members {
		if a.Index(m.Incarnation) == None && (m.Leaving || int(m.JoinSeq) > len(a.Members)+len(in.Joins)+int(a.Version)) {
			return fmt.Sprintf("a joiner decided about itself: %+v", m)
		}
	}
	from, to := make([]int, len(b.Members)), make([]int, len(b.Members))
	for p := range b.Rows {
		if wrong := rowDifference(a, b, p, in); wrong != "" {
			return fmt.Sprintf("row %d: %+v became %+v: %s", p, a.Rows[p], b.Rows[p], wrong)
		}
		if r := b.Rows[p]; r.MoveTo != None {
			from[r.Owner]++
			to[r.MoveTo]++
		}
	}
	for _, n := range append(from, to...) {
		if n > testLimits().MovesPerMember {
			return fmt.Sprintf("%d moves from or to one member", n)
		}
	}
	return ""
}

func rowDifference(a, b *Table, p int, in Input) string {
	ra, rb := a.Rows[p], b.Rows[p]
	oldOwner, newOwner := a.Members[ra.Owner], b.Members[rb.Owner]
	done := ra.MoveTo != None && slices.Contains(in.Done, Move{ring.Partition(p), ra.MoveID}) && in.Absent[a.Members[ra.MoveTo].Incarnation] == 0
	away := b.Index(oldOwner.Incarnation) == None // replaced or given up, unless it had nothing left
	gone := in.Absent[oldOwner.Incarnation] >= testLimits().LostAfter
	switch lost := !done && (gone || away); {
	case lost && rb.Losses != ra.Losses+1:
		return "the loss is not counted once"
	case !lost && rb.Losses != ra.Losses:
		return "a loss is counted"
	case lost && (rb.Assigned != 0 || rb.Epoch <= ra.Epoch):
		return "a lost row keeps its past"
	case lost && in.Absent[newOwner.Incarnation] > 0:
		return "a lost row went to an absent member"
	case lost && away && !gone && newOwner.Name != oldOwner.Name:
		return "a row did not go to the new life of its owner"
	case done && (newOwner.Incarnation != a.Members[ra.MoveTo].Incarnation || rb.Epoch <= ra.Epoch || rb.Assigned != ra.MoveID):
		return "a finished move is not committed"
	case !done && !lost && (newOwner.Incarnation != oldOwner.Incarnation || rb.Epoch != ra.Epoch || rb.Assigned != ra.Assigned):
		return "it changed without a reason"
	case rb.MoveTo != None && rb.MoveID != ra.MoveID && rb.MoveID != b.Version:
		return "a new move is not named after the version that orders it"
	case rb.MoveTo != None && rb.MoveID != b.Version && slices.Contains(in.Aborted, Move{ring.Partition(p), ra.MoveID}):
		return "a move goes on that was given up"
	}
	return ""
}

// draw invents what a publisher may hear, true or not.
func (h *history) draw(t *rapid.T) Input {
	in := Input{UnixSeconds: rapid.SampledFrom([]uint32{0, someSeconds, someSeconds + 9, math.MaxUint32}).Draw(t, "clock"), Absent: map[uint64]time.Duration{}}
	self := rapid.IntRange(0, len(h.table.Members)-1).Draw(t, "self")
	in.Self = h.table.Members[self].Incarnation
	for i, m := range h.table.Members {
		if i != self && rapid.IntRange(0, 5).Draw(t, "is absent") == 0 {
			in.Absent[m.Incarnation] = rapid.SampledFrom([]time.Duration{1, time.Second, 2 * time.Second, 29 * time.Second, 30 * time.Second, time.Hour}).Draw(t, "absence")
		}
		if rapid.IntRange(0, 7).Draw(t, "leaves") == 0 {
			in.Leaves = append(in.Leaves, m.Incarnation, m.Incarnation)
		}
	}
	for range rapid.IntRange(0, 2).Draw(t, "joins") {
		m := member(fmt.Sprintf("n%d", rapid.IntRange(0, 6).Draw(t, "name")), h.newID())
		m.JoinSeq, m.Leaving = rapid.Uint64().Draw(t, "claimed seq"), true // a joiner has no say in these
		in.Joins = append(in.Joins, m, m)
	}
	reports := append(h.moves(), h.old[max(0, len(h.old)-8):]...)
	reports = append(reports, Move{ring.Partition(len(h.table.Rows)), 3}, Move{0, 0}, Move{1, math.MaxUint64})
	in.Done = rapid.SliceOfN(rapid.SampledFrom(reports), 0, 8).Draw(t, "done")
	in.Aborted = rapid.SliceOfN(rapid.SampledFrom(reports), 0, 3).Draw(t, "aborted")
	in.Leaves = append(in.Leaves, 1<<60) // nobody
	return in
}

func TestPlannerKeepsItsRules(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := newHistory(rapid.IntRange(7, 24).Draw(t, "partitions"))
		for range rapid.IntRange(1, 25).Draw(t, "steps") {
			in := h.draw(t)
			before := h.table
			plan, wrong := h.next(in)
			if wrong != "" {
				t.Fatalf("%s\ninput %+v\nbefore %+v\nafter %+v", wrong, in, before, plan.Table)
			}
			for _, m := range in.Joins {
				old := before.Named(m.Name)
				if old != None && in.Absent[before.Members[old].Incarnation] == 0 && h.table.Index(m.Incarnation) != None && before.Index(m.Incarnation) == None {
					if !slices.Contains(in.Leaves, before.Members[old].Incarnation) && !before.Members[old].Leaving {
						t.Fatalf("%s joined under a name in use", m.Name)
					}
				}
			}
		}
		h.converge(t)
	})
}

// converge reports every move as done, with everybody present, and checks where the rows end.
func (h *history) converge(t *rapid.T) {
	losses := h.table.Losses()
	for range 300 {
		plan, wrong := h.next(Input{Self: h.table.Members[0].Incarnation, UnixSeconds: someSeconds, Done: h.moves()})
		if wrong != "" {
			t.Fatal(wrong)
		}
		if plan.Table == nil {
			break
		}
	}
	if h.table.Losses() != losses {
		t.Fatal("a loss, though everybody was there")
	}
	var staying []ring.Member
	for _, m := range h.table.Members {
		if !m.Leaving {
			staying = append(staying, ring.Member{Name: m.Name, Zone: m.Zone})
		}
	}
	if len(staying) == 0 {
		return // nobody to go to: everything stays where it is
	}
	if len(staying) != len(h.table.Members) || len(h.moves()) > 0 {
		t.Fatalf("not at rest: %+v", h.table)
	}
	targets, err := h.table.Settings.Targets(staying, 1)
	if err != nil {
		t.Fatal(err)
	}
	for p, r := range h.table.Rows {
		if r.Owner != targets[p][0] {
			t.Fatalf("row %d ended with %d, want %d", p, r.Owner, targets[p][0])
		}
	}
}

// plan feeds in and fails the test when a rule is broken.
func (h *history) plan(t *testing.T, in Input) Plan {
	t.Helper()
	if in.Self == 0 {
		in.Self = h.table.Members[0].Incarnation
	}
	in.UnixSeconds = someSeconds
	plan, wrong := h.next(in)
	if wrong != "" {
		t.Fatal(wrong)
	}
	return plan
}

// settle finishes all moves.
func (h *history) settle(t *testing.T) {
	t.Helper()
	for h.plan(t, Input{Done: h.moves()}).Table != nil {
	}
}

// three returns the history of a cluster of n0, n1 and n2 (incarnations 1, 11 and 12) at rest.
func three(t *testing.T) *history {
	t.Helper()
	h := newHistory(12)
	h.plan(t, Input{Joins: []Member{member("n1", 11), member("n2", 12)}})
	h.settle(t)
	if owned := h.table.Owned(); len(owned) != 3 || slices.Min(owned) == 0 {
		t.Fatalf("owned: %v", owned)
	}
	return h
}

func TestNameInUse(t *testing.T) {
	h := three(t)
	plan := h.plan(t, Input{Joins: []Member{member("n1", 99)}})
	if err := plan.Refused[99]; plan.Table != nil || !errors.Is(err, dramnode.ErrClusterConflict) || !strings.Contains(err.Error(), "n1:1") {
		t.Errorf("refused with %v, want a conflict that says where n1 is", err)
	}
}

func TestReplacement(t *testing.T) {
	h := three(t)
	lost := h.table.Owned()[1]
	plan := h.plan(t, Input{Joins: []Member{member("n1", 99)}, Absent: map[uint64]time.Duration{11: 1}})
	if plan.Table == nil || h.table.Losses() != uint64(lost) || h.table.Index(11) != None {
		t.Fatalf("losses %d, want %d: %+v", h.table.Losses(), lost, h.table)
	}
	if i := h.table.Index(99); h.table.Owned()[i] != lost || len(h.moves()) != 0 {
		t.Errorf("the new life owns %d rows, want the %d of the old", h.table.Owned()[i], lost)
	}
	if len(plan.Events) != 1 || !strings.Contains(plan.Events[0], "lost") {
		t.Errorf("events: %q", plan.Events)
	}
}

func TestAbsenceIsNoLossBeforeItsTime(t *testing.T) {
	h := three(t)
	lost := h.table.Owned()[1]
	if plan := h.plan(t, Input{Absent: map[uint64]time.Duration{11: 30*time.Second - 1}}); plan.Table != nil {
		t.Fatalf("planned %+v", plan.Table)
	}
	h.plan(t, Input{Absent: map[uint64]time.Duration{11: 30 * time.Second}})
	if h.table.Losses() != uint64(lost) || h.table.Named("n1") != None {
		t.Fatalf("losses %d, want %d", h.table.Losses(), lost)
	}
	h.settle(t)
	if h.table.Losses() != uint64(lost) {
		t.Error("losses are counted twice")
	}
}

// TestLostRowsGoToThePresent has two members absent, one for so long that it is given up.
func TestLostRowsGoToThePresent(t *testing.T) {
	h := three(t)
	h.plan(t, Input{Absent: map[uint64]time.Duration{11: time.Minute, 12: time.Second}}) // next checks the heirs
	if h.table.Named("n1") != None || h.table.Named("n2") == None {
		t.Fatalf("members: %+v", h.table.Members)
	}
}

func TestDoneByADeadTarget(t *testing.T) {
	h := newHistory(12)
	h.plan(t, Input{Joins: []Member{member("n1", 11)}})
	moves := h.moves()
	if h.plan(t, Input{Done: moves, Absent: map[uint64]time.Duration{11: 1}}); h.table.Owned()[0] != 12 {
		t.Fatal("rows went to a target that had just died")
	}
	h.plan(t, Input{Done: moves, Absent: map[uint64]time.Duration{11: 2 * time.Second}})
	if len(h.moves()) != 0 || h.table.Owned()[0] != 12 || h.table.Losses() != 0 {
		t.Fatalf("the moves are not called off: %+v", h.table.Rows)
	}
}

func TestDoneBeforeTheSourceDied(t *testing.T) {
	h := newHistory(12)
	h.plan(t, Input{Joins: []Member{member("n1", 11)}})
	moves := h.moves()
	h.plan(t, Input{Self: 11, Done: moves, Joins: []Member{member("n0", 99)}, Absent: map[uint64]time.Duration{1: 1}})
	if want := uint64(12 - len(moves)); h.table.Losses() != want {
		t.Errorf("losses %d, want %d: the moved partitions were safe", h.table.Losses(), want)
	}
}

func TestEverybodyLeaves(t *testing.T) {
	h := three(t)
	h.plan(t, Input{Leaves: []uint64{1, 11, 12}})
	before := slices.Clone(h.table.Rows)
	h.settle(t)
	if h.table.Losses() != 0 || !slices.Equal(h.table.Rows, before) || len(h.table.Members) != 3 {
		t.Fatalf("rows moved or were lost with nobody to take them: %+v", h.table)
	}
	h.plan(t, Input{Joins: []Member{member("n3", 13)}})
	h.settle(t)
	if len(h.table.Members) != 1 || h.table.Members[0].Name != "n3" || h.table.Losses() != 0 {
		t.Fatalf("one more process did not take everything: %+v", h.table)
	}
}

func TestTooManyMembers(t *testing.T) {
	h := newHistory(2)
	h.table.Settings = ring.Config{Partitions: 1, Strategy: ring.Explicit, Rules: []ring.Rule{{Prefix: "x", Node: "n0"}}}
	plan := h.plan(t, Input{Joins: []Member{member("n1", 11)}})
	if plan.Table != nil || !errors.Is(plan.Refused[11], dramnode.ErrInvalid) {
		t.Errorf("a second member for one placed partition: %v", plan.Refused[11])
	}
}

func TestEpochsSurviveAWrongClock(t *testing.T) {
	if e := nextEpoch(5, math.MaxUint32); e <= 5 || e > math.MaxInt32-1<<20 {
		t.Errorf("a clock of the far future leads to epoch %d", e)
	}
	if e := nextEpoch(someSeconds, 0); e != someSeconds+1 {
		t.Errorf("a clock of the past leads to epoch %d", e)
	}
	if e := nextEpoch(1, someSeconds); e != someSeconds {
		t.Errorf("epoch %d, want the clock's %d", e, someSeconds)
	}
}
