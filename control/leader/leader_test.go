package leader

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/control/lease"
	"github.com/dramnode/dramnode/control/state"
	"github.com/dramnode/dramnode/internal/rule"
	"github.com/dramnode/dramnode/ring"
)

const ms = time.Millisecond

type testing_ interface {
	Helper()
	Fatalf(format string, args ...any)
}

// A bench is a leader with nodes that renew, activate and learn as replicas would, and no consensus: what
// is decided is applied at once.
type bench struct {
	t      testing_
	now    time.Duration
	s      *state.State
	l      *Leader
	alive  map[state.Incarnation]bool          // renews
	holder map[state.Incarnation]*lease.Holder // of everybody, dead or alive
	cut    map[state.Incarnation]bool          // alive, and does not reach the leader
	mute   map[state.Incarnation]bool          // answers no primary
	slow   map[state.Incarnation]bool          // never gets a row activated
}

func newNode(i state.Incarnation, name string) state.Node {
	return state.Node{Incarnation: i, Name: name, Addr: name + ":1", Status: state.Up}
}

func newBench(t testing_, partitions int, params state.Params) *bench {
	b := &bench{
		t: t, now: time.Minute, alive: map[state.Incarnation]bool{}, holder: map[state.Incarnation]*lease.Holder{},
		cut: map[state.Incarnation]bool{}, mute: map[state.Incarnation]bool{}, slow: map[state.Incarnation]bool{},
	}
	b.s = state.Found(7, ring.Config{Partitions: partitions}, 1, params, newNode(1, "n1"), 1)
	b.start(1)
	b.elect()
	return b
}

func (b *bench) elect() {
	b.l = New(1, b.s, lease.DefaultTiming(), b.now)
	b.l.Voting(nil, true)
}

func (b *bench) start(i state.Incarnation) {
	b.alive[i] = true
	b.holder[i] = lease.NewHolder(i, lease.DefaultTiming())
	b.holder[i].Install(b.s)
}

func (b *bench) join(i state.Incarnation, name string) {
	b.t.Helper()
	b.start(i)
	for range 20 {
		if err := b.l.Ask(b.now, Ask{Kind: AskJoin, Node: newNode(i, name)}); err != nil {
			b.t.Fatalf("%s: %v", name, err)
		}
		b.run(100 * ms)
		if b.s.Serves(i) {
			return
		}
	}
	b.t.Fatalf("%s does not get in", name)
}

// run lets time pass in steps of 25 ms.
func (b *bench) run(d time.Duration) {
	b.t.Helper()
	for end := b.now + d; b.now < end; {
		b.now += 25 * ms
		b.step()
	}
}

func (b *bench) step() {
	b.t.Helper()
	b.l.Grants.Turn(b.now)
	for _, n := range slices.Clone(b.s.Nodes) {
		i := n.Incarnation
		if r, due := b.holder[i].Due(b.now); due && b.alive[i] && !b.cut[i] {
			b.l.Grants.Renew(b.now, r)
		}
	}
	if id, start := b.l.Grants.Round(b.now); start {
		for _, r := range b.l.Grants.Confirmed(id, b.s.Serves) {
			table := b.s.Append(nil)
			if r.Applied >= 1 && r.Era == b.s.Era {
				table = b.s.Delta(r.Applied)
			}
			if err := b.holder[r.Node].Granted(b.now, lease.Grant{Era: b.s.Era, Sent: r.Sent, Length: time.Second, Table: table}); err != nil {
				b.t.Fatalf("%v", err)
			}
		}
	}
	b.replicas()
	for range 3 {
		batch := b.l.Decide(b.now, 1, b.s)
		b.checkFences(batch)
		next, errs := b.s.Apply(batch)
		if err := errors.Join(errs...); err != nil {
			b.t.Fatalf("a decision was rejected: %v", err)
		}
		if err := next.Validate(); err != nil {
			b.t.Fatalf("%v", err)
		}
		b.s = next
		b.l.Decided()
	}
}

// replicas ask for what their rows need, as the engine would.
func (b *bench) replicas() {
	for p := range b.s.Rows {
		r, at := &b.s.Rows[p], ring.Partition(p)
		if !b.reaches(r.Primary) {
			continue
		}
		silent := slices.IndexFunc(r.Sync, func(i state.Incarnation) bool { return !b.answers(i) && i != r.Primary })
		a := Ask{From: r.Primary, Partition: at, Epoch: r.Epoch}
		switch {
		case silent >= 0:
			a.Kind, a.Peer = AskReport, r.Sync[silent]
		case !r.Active() && !b.slow[r.Primary]:
			a.Kind = AskActivate
		case r.Learner != 0 && b.answers(r.Learner):
			a.Kind, a.Peer, a.AssignID = AskPromote, r.Learner, r.AssignID
		case r.Learner != 0:
			a.Kind, a.Peer = AskReport, r.Learner
		default:
			continue
		}
		if err := b.l.Ask(b.now, a); err != nil {
			b.t.Fatalf("%v", err)
		}
	}
}

func (b *bench) reaches(i state.Incarnation) bool { return b.alive[i] && !b.cut[i] }
func (b *bench) answers(i state.Incarnation) bool { return b.alive[i] && !b.mute[i] }

// checkFences is what leases are for: when a row is activated, nobody outside it may serve an older one.
func (b *bench) checkFences(batch []state.Command) {
	b.t.Helper()
	for _, c := range batch {
		a, ok := c.(state.Activate)
		if !ok {
			continue
		}
		for _, i := range b.s.Rows[a.Partition].Fence() {
			h := b.holder[i]
			if b.alive[i] && h.Valid(b.now) && h.Table().Version < b.s.Rows[a.Partition].EpochVersion {
				b.t.Fatalf("partition %d is activated while %x serves version %d until %v, now is %v", a.Partition, i, h.Table().Version, h.Until(), b.now)
			}
		}
	}
}

// settled says what is not as it should be in the end.
func (b *bench) settled() error {
	h := b.l.Health(b.s)
	if h.Inactive+h.Offline+h.UnderReplicated+h.Moves > 0 {
		return fmt.Errorf("%+v", h)
	}
	for p := range b.s.Rows {
		want := b.l.target.of(ring.Partition(p))
		r := &b.s.Rows[p]
		if sorted := slices.Sorted(slices.Values(want)); !slices.Equal(sorted, r.Sync) || r.Primary != want[0] {
			return fmt.Errorf("partition %d has primary %x of %x, want %x", p, r.Primary, r.Sync, want)
		}
	}
	return nil
}

func (b *bench) settle(limit time.Duration) {
	b.t.Helper()
	for end := b.now + limit; b.now < end; {
		b.run(100 * ms)
		if b.settled() == nil {
			return
		}
	}
	b.t.Fatalf("not settled after %v: %v", limit, b.settled())
}

// three is three nodes that have settled.
func three(t testing_, partitions int) *bench {
	t.Helper()
	b := newBench(t, partitions, state.DefaultParams())
	b.run(1100 * ms)
	b.join(2, "n2")
	b.join(3, "n3")
	b.settle(20 * time.Second)
	return b
}

func TestJoinsSpreadCopies(t *testing.T) {
	b := three(t, 31)
	if b.s.Losses() != 0 {
		t.Errorf("%d losses", b.s.Losses())
	}
}

// TestCrash: within a lease the rows are proposed without the dead node, and its own primaries move on.
func TestCrash(t *testing.T) {
	b := three(t, 31)
	delete(b.alive, 3)
	b.run(1200 * ms)
	if n := b.s.Node(3); n.Status != state.Suspended {
		t.Fatalf("after 1.2 s n3 is %v", n.Status)
	}
	for p := range b.s.Rows {
		if r := &b.s.Rows[p]; state.Has(r.Sync, 3) || !r.Active() {
			t.Fatalf("partition %d: %+v", p, *r)
		}
	}
	if h := b.l.Health(b.s); h.UnderReplicated != 31 || h.Losses != 0 {
		t.Errorf("%+v", h)
	}
	b.join(13, "n3") // the same name, nothing in memory
	b.settle(20 * time.Second)
	if b.s.Node(3) != nil || b.s.Losses() != 0 {
		t.Errorf("the old life %+v, losses %d", b.s.Node(3), b.s.Losses())
	}
}

// TestPause: a node that stands still longer than its lease comes back as it was.
func TestPause(t *testing.T) {
	b := three(t, 7)
	delete(b.alive, 2)
	b.run(1500 * ms)
	b.alive[2] = true
	b.settle(20 * time.Second)
	if n := b.s.Node(2); n == nil || n.Status != state.Up {
		t.Errorf("n2 is %+v", n)
	}
}

// TestRereplicate: copies are made elsewhere after the delay, and at once when one is left.
func TestRereplicate(t *testing.T) {
	b := three(t, 7)
	b.join(4, "n4")
	b.settle(20 * time.Second)
	delete(b.alive, 3)
	b.run(5 * time.Second)
	if h := b.l.Health(b.s); h.Moves != 0 || h.UnderReplicated == 0 {
		t.Errorf("after 5 s: %+v, want no moves yet", h)
	}
	delete(b.alive, 2)
	b.run(1500 * ms)
	for p := range b.s.Rows {
		if r := &b.s.Rows[p]; len(r.Sync) == 1 {
			t.Errorf("after 1.5 s partition %d still has one copy: %+v", p, *r)
		}
	}
	b.run(15 * time.Second)
	if b.s.Losses() != 0 {
		t.Errorf("%d losses", b.s.Losses())
	}
}

func TestLossIsCounted(t *testing.T) {
	b := newBench(t, 7, state.DefaultParams())
	b.run(1100 * ms)
	params := b.s.Params
	params.Replicas = 1
	b.l.operator = append(b.l.operator, Ask{Kind: AskParams, AssignID: b.s.ParamsVersion, Params: params})
	b.join(2, "n2")
	b.settle(20 * time.Second)
	lost := 0
	for p := range b.s.Rows {
		if b.s.Rows[p].Primary == 2 {
			lost++
		}
	}
	delete(b.alive, 2)
	b.run(10 * time.Second)
	if h := b.l.Health(b.s); h.Offline != lost || h.Losses != 0 || lost == 0 {
		t.Fatalf("%+v with %d partitions at the dead node, want them offline and not lost", h, lost)
	}
	b.run(25 * time.Second) // LostAfter
	if h := b.l.Health(b.s); h.Losses != uint64(lost) || h.Offline != 0 || h.Unaccepted != lost {
		t.Fatalf("%+v, want %d losses", h, lost)
	}
	for p := range b.s.Rows {
		if err := b.l.Ask(b.now, Ask{Kind: AskAccept, Partition: ring.Partition(p), Count: 1}); err != nil {
			t.Fatal(err)
		}
	}
	b.run(100 * ms)
	if h := b.l.Health(b.s); h.Unaccepted != 0 {
		t.Errorf("%+v after all were accepted", h)
	}
}

// TestLossAtOnce: a new life of the only holder's name is proof enough.
func TestLossAtOnce(t *testing.T) {
	b := newBench(t, 7, state.DefaultParams())
	b.run(1100 * ms)
	b.s.Params.Replicas = 1
	b.join(2, "n2")
	b.settle(20 * time.Second)
	delete(b.alive, 2)
	b.join(12, "n2")
	b.settle(5 * time.Second)
	if b.s.Losses() == 0 {
		t.Error("nothing was lost")
	}
}

func TestRefusePolicyWaits(t *testing.T) {
	params := state.DefaultParams()
	params.Replicas, params.OnLoss = 1, state.Refuse
	b := newBench(t, 7, params)
	b.run(1100 * ms)
	b.join(2, "n2")
	b.settle(20 * time.Second)
	delete(b.alive, 2)
	b.run(60 * time.Second)
	if h := b.l.Health(b.s); h.Losses != 0 || h.Offline == 0 {
		t.Errorf("%+v, want the partitions offline until the operator decides", h)
	}
	b.run(params.ForgetAfter + time.Minute) // but it is not forgotten, since it may only be cut off
	b.alive[2] = true
	b.run(10 * time.Second)
	if h := b.l.Health(b.s); h.Losses != 0 || h.Offline != 0 || !b.s.Serves(2) {
		t.Errorf("%+v after the node with the last copies came back", h)
	}
	delete(b.alive, 2)
	b.run(60 * time.Second)
	for _, losses := range []uint32{0, 1} { // of each: it may start again, and then the loss is accepted
		for p := range b.s.Rows {
			if err := b.l.Ask(b.now, Ask{Kind: AskAccept, Partition: ring.Partition(p), Count: losses}); err != nil {
				t.Fatal(err)
			}
		}
		b.run(time.Second)
		if h := b.l.Health(b.s); h.Losses == 0 || h.Losses == 7 || h.Offline != 0 || (h.Unaccepted == 0) != (losses == 1) {
			t.Errorf("%+v after the operator has accepted %d losses", h, losses)
		}
	}
}

func TestLeave(t *testing.T) {
	b := three(t, 31)
	b.join(4, "n4")
	b.settle(20 * time.Second)
	if err := b.l.Ask(b.now, Ask{Kind: AskLeave, From: 2}); err != nil {
		t.Fatal(err)
	}
	b.settle(20 * time.Second)
	b.run(time.Second)
	if b.s.Node(2) != nil || b.s.Losses() != 0 {
		t.Errorf("n2 is %+v, losses %d", b.s.Node(2), b.s.Losses())
	}
}

func TestNameInUse(t *testing.T) {
	b := three(t, 3)
	b.start(9)
	var err error
	for range 50 {
		err = b.l.Ask(b.now, Ask{Kind: AskJoin, Node: newNode(9, "n2")})
		b.run(100 * ms)
	}
	if !errors.Is(err, dramnode.ErrClusterConflict) || !strings.Contains(err.Error(), "n2:1") {
		t.Errorf("a second process called n2: %v", err)
	}
}

// TestReport: who does not answer leaves the row, though its lease is fine, and the row does not take it
// back before the report has aged.
func TestReport(t *testing.T) {
	b := three(t, 7)
	b.mute[2] = true
	b.run(3 * time.Second)
	for p := range b.s.Rows {
		if r := &b.s.Rows[p]; r.Primary != 2 && (state.Has(r.Sync, 2) || !r.Active()) {
			t.Fatalf("partition %d: %+v", p, *r)
		}
	}
	b.mute = map[state.Incarnation]bool{}
	b.settle(30 * time.Second)
}

// TestStuckPrimary: a primary with a lease that does not get its row activated is replaced.
func TestStuckPrimary(t *testing.T) {
	b := three(t, 7)
	b.slow[2] = true
	delete(b.alive, 3)
	b.run(30 * time.Second) // also what its absence moves
	for range 20 {          // and it is not made the primary again, though the target says so
		b.run(100 * ms)
		for p := range b.s.Rows {
			if r := &b.s.Rows[p]; !r.Active() {
				t.Fatalf("partition %d: %+v", p, *r)
			}
		}
	}
}

// TestActivationOutlivesItsPrimary: a primary alone in its row asks for the activation and dies, while the two
// that it leaves out still hold leases. The question is answered when those have ended too: then all three are
// suspended, and the row must not become the dead one's alone.
func TestActivationOutlivesItsPrimary(t *testing.T) {
	b := three(t, 3)
	r := b.s.Rows[0]
	next, errs := b.s.Apply([]state.Command{state.Reconfigure{Epoch: r.Epoch, NewEpoch: r.Epoch + 1, Primary: r.Primary, Sync: []state.Incarnation{r.Primary}}})
	if errs[0] != nil {
		t.Fatal(errs[0])
	}
	b.s = next
	if err := b.l.Ask(b.now, Ask{Kind: AskActivate, From: r.Primary, Epoch: r.Epoch + 1}); err != nil {
		t.Fatal(err)
	}
	others := state.Without(r.Sync, r.Primary)
	for _, i := range r.Sync { // so that all leases end at once
		b.l.Grants.Renew(b.now, lease.Renewal{Node: i, Era: b.s.Era, Sent: b.now})
		b.cut[i] = true
	}
	b.run(3 * time.Second)
	for _, i := range r.Sync {
		if b.s.Serves(i) {
			t.Fatalf("%x is not suspended", i)
		}
	}
	if got := b.s.Rows[0]; !slices.Equal(got.ActSync, r.Sync) {
		t.Fatalf("%x were left out of %x by one who is suspended", others, r.Sync)
	}
	for _, i := range others {
		delete(b.cut, i)
	}
	b.run(3 * time.Second)
	if got := b.s.Rows[0]; !got.Active() || !slices.Equal(got.Sync, others) || got.LossCount != 0 {
		t.Errorf("with %x back the row is %+v", others, got)
	}
}

func TestStaleAsksAreDropped(t *testing.T) {
	b := three(t, 3)
	r := b.s.Rows[0]
	for _, a := range []Ask{
		{Kind: AskReport, From: r.Primary, Epoch: r.Epoch - 1, Peer: r.Sync[0]},
		{Kind: AskReport, From: 99, Epoch: r.Epoch, Peer: r.Sync[0]},
		{Kind: AskReport, From: r.Primary, Epoch: r.Epoch, Peer: r.Primary},
		{Kind: AskActivate, From: r.Primary, Epoch: r.Epoch - 1},
		{Kind: AskPromote, From: r.Primary, Epoch: r.Epoch, Peer: 9, AssignID: 3},
		{Kind: AskEpoch, From: 99, Epoch: r.Epoch},
		{Kind: AskActivate, From: 1, Partition: 999},
	} {
		if err := b.l.Ask(b.now, a); err != nil {
			t.Fatal(err)
		}
		if batch := b.l.Decide(b.now, 1, b.s); len(batch) != 0 {
			t.Errorf("%+v led to %#v", a, batch)
		}
	}
	if err := b.l.Ask(b.now, Ask{Kind: 99}); !errors.Is(err, dramnode.ErrInvalid) {
		t.Error(err)
	}
	if err := b.l.Ask(b.now, Ask{Kind: AskEpoch, From: r.Primary, Epoch: r.Epoch}); err != nil {
		t.Fatal(err)
	}
	b.run(50 * ms)
	if got := b.s.Rows[0]; got.Epoch <= r.Epoch || !slices.Equal(got.Sync, r.Sync) {
		t.Errorf("a fresh epoch was asked for: %+v", got)
	}
}

// TestOneCopyMovesInOneBatch: the promotion of the newcomer and the configuration without the source are one entry, so
// nobody waits for two. As long as the newcomer has not activated it, the source may get the row back.
func TestOneCopyMovesInOneBatch(t *testing.T) {
	params := state.DefaultParams()
	params.Replicas = 1
	b := newBench(t, 3, params)
	b.run(1100 * ms)
	b.mute[2] = true // it is reported, and not promoted, until we say so
	b.join(2, "n2")
	var p ring.Partition
	for end := b.now + 20*time.Second; b.now < end && b.s.Rows[p].Learner != 2; {
		b.run(25 * ms)
		p = ring.Partition(max(0, slices.IndexFunc(b.s.Rows, func(r state.Row) bool { return r.Learner == 2 })))
	}
	r := b.s.Rows[p]
	if r.Learner != 2 {
		t.Fatalf("nothing moves to the newcomer: %+v", r)
	}
	if err := b.l.Ask(b.now, Ask{Kind: AskPromote, From: 1, Partition: p, Epoch: r.Epoch, Peer: 2, AssignID: r.AssignID}); err != nil {
		t.Fatal(err)
	}
	next, errs := b.s.Apply(b.l.Decide(b.now, 1, b.s))
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	got := next.Rows[p]
	if got.Primary != 2 || !slices.Equal(got.Sync, []state.Incarnation{2}) || !slices.Equal(got.ActSync, []state.Incarnation{1, 2}) || got.Active() {
		t.Fatalf("after the promotion: %+v", got)
	}
	b.s = next
	b.l.Decided()
	delete(b.alive, 2) // before it could activate
	b.run(5 * time.Second)
	if got := b.s.Rows[p]; got.Primary != 1 || !got.Active() || got.LossCount != 0 {
		t.Errorf("after the newcomer's death: %+v", got)
	}
}

// TestJoinsOneAfterTheOther: targets change with every join, and a row never has more than one copy too
// many, however many nodes it was meant for on the way.
func TestJoinsOneAfterTheOther(t *testing.T) {
	b := newBench(t, 63, state.DefaultParams())
	b.run(1100 * ms)
	for i := state.Incarnation(2); i <= 10; i++ {
		b.join(i, fmt.Sprintf("n%d", i))
		for p := range b.s.Rows {
			if r := &b.s.Rows[p]; len(r.Sync) > int(b.s.Params.Replicas)+1 {
				t.Fatalf("partition %d: %+v", p, *r)
			}
		}
	}
	b.settle(time.Minute)
}

// TestMoveLimits: no node takes or gives more than it may, rows with one copy come first, and a spent
// budget waits.
func TestMoveLimits(t *testing.T) {
	b := newBench(t, 63, state.DefaultParams())
	b.run(1100 * ms)
	for p := range b.s.Rows {
		b.l.Usage(ring.Partition(p), 1<<30)
	}
	b.start(2)
	_ = b.l.Ask(b.now, Ask{Kind: AskJoin, Node: newNode(2, "n2")})
	b.now += 25 * ms
	batch := b.l.Decide(b.now, 1, b.s)
	assigned := 0
	for _, c := range batch {
		if a, ok := c.(state.Assign); ok && a.Learner == 2 {
			assigned++
		}
	}
	if assigned != 1 {
		t.Errorf("%d moves of 1 GiB began at once with a budget of 256 MiB/s, want 1", assigned)
	}
	b.s.Params.RebuildBudget = 1 << 40
	b.elect()
	b.mute[2] = true // learners do not get on
	b.join(2, "n2")
	b.run(1100 * ms)
	if h := b.l.Health(b.s); h.MissingBytes != 0 || h.UnderReplicated == 0 {
		t.Errorf("%+v: a new leader knows no sizes yet", h)
	}
	b.run(25 * ms)
	if h := b.l.Health(b.s); h.Moves > 2 {
		t.Errorf("%+v, want at most two moves into n2", h)
	}
}

// TestSmallMoves: partitions that are known to be small move many at a time.
func TestSmallMoves(t *testing.T) {
	for _, c := range []struct {
		bytes uint64 // 0: not known
		most  int
	}{{0, 2}, {smallBytes - 1, 2 * smallMoves}, {smallBytes, 2}} {
		params := state.DefaultParams()
		params.RebuildBudget = 1 << 40
		b := newBench(t, 63, params)
		b.run(1100 * ms)
		for p := range b.s.Rows {
			if c.bytes > 0 {
				b.l.Usage(ring.Partition(p), c.bytes)
			}
		}
		b.start(2)
		_ = b.l.Ask(b.now, Ask{Kind: AskJoin, Node: newNode(2, "n2")})
		b.now += 25 * ms
		assigned := 0
		for _, cmd := range b.l.Decide(b.now, 1, b.s) {
			if a, ok := cmd.(state.Assign); ok && a.Learner == 2 {
				assigned++
			}
		}
		if assigned != c.most {
			t.Errorf("%d moves of %d bytes began at once, want %d", assigned, c.bytes, c.most)
		}
	}
}

func TestVoters(t *testing.T) {
	zone := func(n state.Node, zone string) state.Node { n.Zone = zone; return n }
	status := func(n state.Node, status state.Status) state.Node { n.Status = status; return n }
	n := func(i state.Incarnation) state.Node {
		n := newNode(i, fmt.Sprintf("n%d", i))
		n.Known = true
		return n
	}
	unknown := func(n state.Node) state.Node { n.Known = false; return n }
	type ids = []state.Incarnation
	for name, c := range map[string]struct {
		nodes   []state.Node
		present ids
		unready ids
		want    ids
	}{
		"one":                      {[]state.Node{n(1)}, ids{1}, nil, ids{1}},
		"two: never an even set":   {[]state.Node{n(1), n(2)}, ids{1}, nil, ids{1}},
		"three":                    {[]state.Node{n(1), n(2), n(3)}, ids{1}, nil, ids{1, 2, 3}},
		"three, one without log":   {[]state.Node{n(1), n(2), n(3)}, ids{1}, ids{3}, ids{1}},
		"three, one unknown":       {[]state.Node{n(1), n(2), unknown(n(3))}, ids{1}, nil, ids{1}},
		"four":                     {[]state.Node{n(1), n(2), n(3), n(4)}, ids{1, 2, 3}, nil, ids{1, 2, 3}},
		"seven":                    {[]state.Node{n(1), n(2), n(3), n(4), n(5), n(6), n(7)}, ids{1, 2, 3}, nil, ids{1, 2, 3, 4, 5}},
		"swap":                     {[]state.Node{n(1), status(n(2), state.Suspended), n(3), n(4)}, ids{1, 2, 3}, nil, ids{1, 3, 4}},
		"who leaves does not vote": {[]state.Node{status(n(1), state.Leaving), n(2), n(3), n(4)}, ids{1, 2, 3}, nil, ids{2, 3, 4}},
		"who leaves votes rather than a dead one": {[]state.Node{status(n(1), state.Leaving), n(2), n(4)}, ids{1, 2, 3}, nil, ids{1, 2, 4}},
		"who leaves votes for want of others":     {[]state.Node{status(n(1), state.Leaving), n(2), n(3)}, ids{1, 2, 3}, nil, ids{1, 2, 3}},
		"shrink waits":                            {[]state.Node{n(1), status(n(2), state.Suspended), n(3)}, ids{1, 2, 3}, nil, ids{1, 2, 3}},
		"five to three at once":                   {[]state.Node{n(1), n(2), n(3), status(n(4), state.Suspended), n(5)}, ids{1, 2, 3, 4, 5}, nil, ids{1, 2, 3}},
		"zones":                                   {[]state.Node{zone(n(1), "a"), zone(n(2), "a"), zone(n(3), "a"), zone(n(4), "b"), zone(n(5), "c")}, ids{1}, nil, ids{1, 2, 3, 4, 5}},
		"zones of three":                          {[]state.Node{zone(n(1), "a"), zone(n(2), "a"), zone(n(3), "b"), zone(n(4), "c")}, ids{1}, nil, ids{1, 3, 4}},
		"a zone for a voter":                      {[]state.Node{zone(n(1), "a"), zone(n(2), "a"), zone(n(3), "a"), zone(n(4), "b")}, ids{1, 2, 3}, nil, ids{1, 2, 4}},
		"nobody is up":                            {[]state.Node{status(n(1), state.Leaving)}, ids{1}, nil, ids{1}},
	} {
		s := state.Found(7, ring.Config{Partitions: 9}, 1, state.DefaultParams(), n(1), 1)
		s.Nodes = c.nodes
		l := New(1, s, lease.DefaultTiming(), 0)
		got := l.Voters(time.Second, s, c.present, func(i state.Incarnation) bool { return !slices.Contains(c.unready, i) })
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

// TestKnow: a node votes when all who might found the control plane anew know of it. One that was cut off
// before it joined stands in the way for as long as that may be.
func TestKnow(t *testing.T) {
	b := three(t, 7)
	b.run(lease.DefaultTiming().Length) // for everybody to say what it knows
	for _, n := range b.s.Nodes {
		if !n.Known {
			t.Errorf("%s is unknown in a settled cluster", n.Name)
		}
	}
	delete(b.alive, 3)
	b.run(2 * time.Second)
	b.join(4, "n4")
	b.run(time.Minute)
	if b.s.Node(4).Known {
		t.Error("n4 is known while n3 may recover without it")
	}
	present := []state.Incarnation{1, 2, 3}
	all := func(state.Incarnation) bool { return true }
	if got := b.l.Voters(b.now+time.Hour, b.s, present, all); !slices.Equal(got, present) {
		t.Errorf("%v, want nobody dropped while n4 is about to be known", got)
	}
	b.run(knowAfter)
	if got := b.l.Voters(b.now, b.s, present, all); !slices.Equal(got, []state.Incarnation{1, 2, 4}) {
		t.Errorf("%v, want n4 in the place of n3", got)
	}
}

// TestLeaveWaitsForVotes: who leaves is let go when the rest of the voters are a majority without it.
func TestLeaveWaitsForVotes(t *testing.T) {
	type ids = []state.Incarnation
	for name, c := range map[string]struct {
		voters  ids
		settled bool
		gone    bool
	}{
		"not a voter":                       {ids{1}, true, true},
		"one of three":                      {ids{1, 2, 3}, true, true},
		"the only voter":                    {ids{2}, true, false},
		"another voter was replaced":        {ids{1, 2, 99}, true, false},
		"while the voters change":           {ids{1, 2, 3}, false, false},
		"not a voter, while these change":   {ids{1}, false, false},
		"one of five, another was replaced": {ids{1, 2, 3, 4, 99}, true, true},
	} {
		b := three(t, 7)
		b.join(4, "n4")
		if err := b.l.Ask(b.now, Ask{Kind: AskLeave, From: 2}); err != nil {
			t.Fatal(err)
		}
		b.l.Voting(c.voters, c.settled)
		b.run(20 * time.Second)
		if gone := b.s.Node(2) == nil || b.s.Node(2).Status == state.Gone; gone != c.gone {
			t.Errorf("%s: gone %v, want %v (%+v)", name, gone, c.gone, b.s.Node(2))
		}
		all := func(state.Incarnation) bool { return true }
		b.l.Voters(b.now, b.s, c.voters, all)
		if got := b.l.Voters(b.now+holdDelay, b.s, c.voters, all); !c.gone && c.settled && slices.Contains(got, 2) {
			t.Errorf("%s: voters %v still hold it back", name, got)
		}
	}
}

func TestVotersShrinkInTheEnd(t *testing.T) {
	b := three(t, 3)
	delete(b.alive, 3)
	b.run(2 * time.Second)
	present := []state.Incarnation{1, 2, 3}
	all := func(state.Incarnation) bool { return true }
	if got := b.l.Voters(b.now, b.s, present, all); len(got) != 3 {
		t.Errorf("%v at once", got)
	}
	if got := b.l.Voters(b.now+shrinkDelay, b.s, present, all); !slices.Equal(got, []state.Incarnation{1}) {
		t.Errorf("%v after %v", got, shrinkDelay)
	}
}

// TestStorm: whatever happens to up to five nodes, no row is activated over somebody who still serves
// (checkFences), every decision fits the state, and in the end all is well again. Nothing is lost while
// a name never restarts and nobody is absent for long.
func TestStorm(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := three(t, rapid.IntRange(5, 9).Draw(t, "partitions"))
		next := state.Incarnation(20)
		names := map[state.Incarnation]string{1: "n1", 2: "n2", 3: "n3"}
		restarts := false
		for range rapid.IntRange(1, 12).Draw(t, "events") {
			i := state.Incarnation(rapid.IntRange(2, 5).Draw(t, "node"))
			switch rapid.IntRange(0, 6).Draw(t, "event") {
			case 0:
				delete(b.alive, i)
			case 1:
				if b.s.Node(i) != nil && b.holder[i] != nil {
					b.alive[i] = true
				}
			case 2:
				b.cut[i] = !b.cut[i]
			case 3:
				b.mute[i] = !b.mute[i]
			case 4:
				b.elect()
			case 5:
				if n := b.s.Node(i); n != nil && n.Status == state.Suspended && !b.alive[i] {
					restarts = true
					next++
					names[next] = n.Name
					b.start(next)
					_ = b.l.Ask(b.now, Ask{Kind: AskJoin, Node: newNode(next, n.Name)})
				}
			case 6:
				if b.holder[i] == nil {
					b.start(i)
					_ = b.l.Ask(b.now, Ask{Kind: AskJoin, Node: newNode(i, fmt.Sprintf("n%d", i))})
				}
			}
			b.run(time.Duration(rapid.IntRange(1, 60).Draw(t, "steps")) * 25 * ms)
		}
		b.cut, b.mute = map[state.Incarnation]bool{}, map[state.Incarnation]bool{}
		for _, n := range b.s.Nodes {
			b.alive[n.Incarnation] = true
		}
		b.settle(60 * time.Second)
		if b.s.Losses() > 0 && !restarts {
			t.Fatalf("%d losses though nobody restarted", b.s.Losses())
		}
	})
}

// TestFenceIsNeeded: without it the storm's check fails.
func TestFenceIsNeeded(t *testing.T) {
	if !rule.Mutable {
		t.Skip("needs -tags mutations")
	}
	defer rule.Remove()
	for _, r := range []rule.Rule{rule.Fence, rule.NewLeaderWaits} {
		rule.Remove(r)
		if !caught(func(t testing_) {
			b := three(t, 7)
			if r == rule.NewLeaderWaits {
				b.elect()
			}
			b.cut[2] = true
			b.elect()
			b.mute[2] = true // its peers report it
			b.run(2 * time.Second)
		}) {
			t.Errorf("%s: nothing was noticed without it", r)
		}
	}
}

type catcher struct{}

type fault string

func (catcher) Helper()                           {}
func (catcher) Fatalf(format string, args ...any) { panic(fault(fmt.Sprintf(format, args...))) }

func caught(f func(testing_)) (yes bool) {
	defer func() {
		switch p := recover().(type) {
		case nil:
		case fault:
			yes = true
		default:
			panic(p)
		}
	}()
	f(catcher{})
	return false
}
