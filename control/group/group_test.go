package group

import (
	"cmp"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/control/leader"
	"github.com/dramnode/dramnode/control/lease"
	"github.com/dramnode/dramnode/control/state"
	"github.com/dramnode/dramnode/internal/rule"
	"github.com/dramnode/dramnode/ring"
)

const ms = time.Millisecond

// A world is a set of processes with clocks of their own and a network that delays, loses, repeats and
// reorders. It follows from its seed.
type world struct {
	t       failer
	r       *rand.Rand
	now     time.Duration
	procs   map[string]*proc // by address: the process that runs there now
	flights []flight
	cut     map[[2]string]bool
	loss    int // in 100
	nextID  uint64
	trace   uint64 // digest of all that was delivered
	newest  *state.State
	settled map[[3]uint64]string // the table of each version
	config  func(*Config)
}

type failer interface {
	Helper()
	Fatalf(format string, args ...any)
}

type proc struct {
	*Group
	addr   string
	base   time.Duration
	rate   float64
	paused bool
	inc    state.Incarnation
	seen   *state.State // what check has looked at
}

type flight struct {
	at   time.Duration
	n    uint64
	from string
	m    Message
}

func newWorld(t failer, seed uint64) *world {
	return &world{
		t: t, r: rand.New(rand.NewPCG(seed, 2)), procs: map[string]*proc{}, cut: map[[2]string]bool{},
		settled: map[[3]uint64]string{},
	}
}

func (w *world) clock(p *proc) time.Duration {
	return p.base + time.Duration(float64(w.now)*p.rate)
}

// start runs a new process at the address, whatever ran there before.
func (w *world) start(name string, seeds ...string) *proc {
	w.t.Helper()
	w.nextID++
	p := &proc{
		addr: name, base: time.Duration(w.r.Int64N(int64(time.Hour))), rate: 1 + (w.r.Float64()-0.5)*0.0099,
		inc: state.Incarnation(w.nextID<<32 | uint64(w.r.Uint32())),
	}
	cfg := Config{
		Self:     state.Node{Incarnation: p.inc, Name: name, Addr: name},
		Settings: ring.Config{Partitions: 7}, MaxValue: 1 << 20, Params: state.DefaultParams(), Timing: lease.DefaultTiming(),
		Seed: 1, NewID: func() uint64 { w.nextID++; return w.nextID },
		Seeds: seedsOf(name, seeds),
	}
	if w.config != nil {
		w.config(&cfg)
	}
	var err error
	if p.Group, err = New(cfg); err != nil {
		w.t.Fatalf("%v", err)
	}
	w.procs[name] = p
	return p
}

func (w *world) addrs() []string {
	var all []string
	for a := range w.procs {
		all = append(all, a)
	}
	slices.Sort(all)
	return all
}

func (w *world) sendAll(p *proc) {
	for _, m := range p.Take() {
		b := m.Append(nil)
		parsed, err := ParseMessage(b)
		if err != nil {
			w.t.Fatalf("%+v: %v", m, err)
		}
		parsed.Addr = m.Addr
		for range 1 + w.lottery(2) - w.lottery(w.loss) {
			w.nextID++
			delay := time.Duration(w.r.Int64N(int64(2 * ms)))
			if w.lottery(5) == 1 {
				delay = time.Duration(w.r.Int64N(int64(300 * ms)))
			}
			w.flights = append(w.flights, flight{w.now + delay, w.nextID, p.addr, parsed})
		}
	}
}

// lottery is 1 in percent of 100 draws, once faults are on.
func (w *world) lottery(percent int) int {
	if w.loss > 0 && w.r.IntN(100) < percent {
		return 1
	}
	return 0
}

// run lets time pass, 5 ms at a time.
func (w *world) run(d time.Duration) {
	w.t.Helper()
	for end := w.now + d; w.now < end; {
		w.now += 5 * ms
		w.deliver()
		for _, a := range w.addrs() {
			p := w.procs[a]
			if p == nil || p.paused || p.Err() != nil {
				continue
			}
			if now := w.clock(p); now >= p.Next() { // it need not be asked more often
				p.Tick(now, uint32(w.now/time.Second))
			}
			if w.r.IntN(4) == 0 {
				w.replicas(p)
			}
			w.sendAll(p)
		}
		w.check()
	}
}

func (w *world) deliver() {
	slices.SortFunc(w.flights, func(a, b flight) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.n, b.n)) })
	for turns := 0; len(w.flights) > 0 && w.flights[0].at <= w.now && turns < 10_000; turns++ {
		f := w.flights[0]
		w.flights = w.flights[1:]
		p := w.procs[f.m.Addr]
		if p == nil || p.Err() != nil || w.cut[[2]string{f.from, f.m.Addr}] {
			continue
		}
		if p.paused {
			f.at = w.now + 10*ms
			w.flights = append(w.flights, f)
			slices.SortFunc(w.flights, func(a, b flight) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.n, b.n)) })
			continue
		}
		h := fnv.New64a()
		fmt.Fprint(h, w.trace, w.now, f.from, f.m.Addr, f.m.Append(nil))
		w.trace = h.Sum64()
		p.Step(w.clock(p), f.m)
		w.sendAll(p)
	}
}

// replicas asks for what the rows of p need, as the engine would: an activation once every member has
// adopted the row, a promotion at once, a report of who does not get on.
func (w *world) replicas(p *proc) {
	t := p.Table()
	if t == nil {
		return
	}
	for at := range t.Rows {
		r := &t.Rows[at]
		if r.Primary != p.inc {
			continue
		}
		a := leader.Ask{Partition: ring.Partition(at), Epoch: r.Epoch}
		silent := slices.IndexFunc(r.Sync, func(i state.Incarnation) bool { return !w.adopted(p, i, at, r.Epoch) })
		switch {
		case !r.Active() && silent < 0:
			a.Kind = leader.AskActivate
		case silent >= 0 && w.loss > 0 && w.r.IntN(20) == 0:
			a.Kind, a.Peer = leader.AskReport, r.Sync[silent]
		case r.Learner != 0 && w.adopted(p, r.Learner, at, r.Epoch):
			a.Kind, a.Peer, a.AssignID = leader.AskPromote, r.Learner, r.AssignID
		default:
			continue
		}
		p.Ask(a)
	}
}

// adopted reports whether p hears that node i follows the row.
func (w *world) adopted(p *proc, i state.Incarnation, at int, e state.Epoch) bool {
	for _, q := range w.procs {
		if q.inc == i {
			t := q.Table()
			return !q.paused && !w.cut[[2]string{p.addr, q.addr}] && !w.cut[[2]string{q.addr, p.addr}] && t != nil && t.Rows[at].Epoch == e
		}
	}
	return false
}

// check holds the promises of the control plane at every moment: one table per version; and nobody serves
// by an old table, under a lease, what others were given since.
func (w *world) check() {
	w.t.Helper()
	for _, a := range w.addrs() {
		p := w.procs[a]
		if p.log == nil || p.log.state == nil {
			continue
		}
		if s := p.log.state; s != p.seen {
			p.seen = s
			if w.newest != nil && s.ClusterID != w.newest.ClusterID {
				w.refounded(s)
			} else if s.Newer(w.newest) {
				w.newest = s
			}
			key := [3]uint64{s.ClusterID, uint64(s.Era), s.Version}
			text := string(s.Append(nil))
			if old, ok := w.settled[key]; ok && old != text {
				w.t.Fatalf("two tables of version %d in era %d", s.Version, s.Era)
			}
			w.settled[key] = text
		}
	}
	if w.newest == nil {
		return
	}
	for _, a := range w.addrs() {
		p := w.procs[a]
		if p.Table() == nil || p.Err() != nil || !p.Lease.Valid(w.clock(p)) {
			continue
		}
		for at := range w.newest.Rows {
			now, old := &w.newest.Rows[at], &p.Table().Rows[at]
			if now.Active() && now.Epoch > old.Epoch && state.Has(old.Sync, p.inc) && !state.Has(now.Sync, p.inc) {
				w.t.Fatalf("at %v %s serves partition %d in epoch %d, active is %d without it", w.now, a, at, old.Epoch, now.Epoch)
			}
		}
	}
}

// refounded: a second cluster is right only when every process of the first is dead.
func (w *world) refounded(s *state.State) {
	w.t.Helper()
	for _, a := range w.addrs() {
		if p := w.procs[a]; p.Err() == nil && p.cluster == w.newest.ClusterID {
			w.t.Fatalf("a second cluster was founded while %s is in the first", a)
		}
	}
	w.newest = s
}

func (w *world) leader() *proc {
	for _, a := range w.addrs() {
		if p := w.procs[a]; p.Leading() && p.log.established() {
			return p
		}
	}
	return nil
}

// settle waits until n members are up with all their copies.
func (w *world) settle(n int, limit time.Duration) {
	w.t.Helper()
	var why error
	for end := w.now + limit; w.now < end; {
		w.run(100 * ms)
		if why = w.unsettled(n); why == nil {
			return
		}
	}
	w.t.Fatalf("not settled after %v: %v", limit, why)
}

func (w *world) unsettled(n int) error {
	l := w.leader()
	if l == nil {
		return errors.New("no leader")
	}
	up := 0
	for _, node := range l.Table().Nodes {
		p := w.procs[node.Addr]
		if node.Status == state.Up && p.inc == node.Incarnation && p.Lease.Valid(w.clock(p)) && p.Table().Version == l.Table().Version {
			up++
		}
	}
	voters, settled := l.log.voters()
	wanted := min(n, 5)
	if wanted%2 == 0 {
		wanted--
	}
	h, _ := l.Health()
	if up != n || len(l.Table().Nodes) != n || !settled || len(voters) != wanted || len(l.log.conf.GetLearners()) != n-wanted ||
		h.Inactive+h.Offline+h.UnderReplicated+h.Moves > 0 {
		return fmt.Errorf("%d of %d up with leases, %d known, voters %v, learners %v, %+v", up, n, len(l.Table().Nodes), voters, l.log.conf.GetLearners(), h)
	}
	return nil
}

// cluster is n settled nodes a, b, c...
func cluster(t failer, seed uint64, n int) *world {
	t.Helper()
	return clusterWith(t, seed, n, nil)
}

func clusterWith(t failer, seed uint64, n int, config func(*Config)) *world {
	t.Helper()
	w := newWorld(t, seed)
	w.config = config
	var names []string
	for i := range n {
		names = append(names, string(rune('a'+i)))
	}
	for _, name := range names {
		w.start(name, names...)
	}
	w.settle(n, 30*time.Second)
	return w
}

func TestFoundAlone(t *testing.T) {
	w := newWorld(t, 1)
	p := w.start("a")
	w.run(10 * ms)
	if !p.Leading() {
		t.Error("a process without seeds does not lead at once")
	}
	w.settle(1, 2*time.Second)
}

// TestFoundTogether: the same flags everywhere, and one cluster.
func TestFoundTogether(t *testing.T) {
	for n := 2; n <= 6; n++ {
		w := cluster(t, uint64(n), n)
		if w.newest.Losses() != 0 {
			t.Errorf("%d losses", w.newest.Losses())
		}
	}
}

// TestNotFoundWithoutAllSeeds: seeds that restarted are blank again, so a majority proves nothing.
func TestNotFoundWithoutAllSeeds(t *testing.T) {
	w := newWorld(t, 3)
	for _, name := range []string{"a", "b"} {
		w.start(name, "a", "b", "c")
	}
	w.run(10 * time.Second)
	if w.newest != nil {
		t.Fatal("two of three seeds founded a cluster")
	}
	w.start("d", "a") // own address not listed
	w.run(time.Second)
	w.start("c", "a", "b", "c")
	w.settle(4, 30*time.Second)
}

func TestRestartIsAnotherMember(t *testing.T) {
	w := cluster(t, 4, 3)
	for _, name := range []string{"a", "b", "c", "a"} {
		w.start(name, "a", "b", "c")
		w.settle(3, 30*time.Second)
	}
	if w.newest.Losses() != 0 {
		t.Errorf("%d losses with one restart at a time", w.newest.Losses())
	}
}

func TestLeaderDies(t *testing.T) {
	w := cluster(t, 5, 5)
	before := w.now
	delete(w.procs, w.leader().addr)
	for w.leader() == nil {
		w.run(5 * ms)
		if w.now-before > 2*time.Second {
			t.Fatal("no new leader after 2 s")
		}
	}
	for w.newest.Version == 0 || slices.ContainsFunc(w.newest.Rows, func(r state.Row) bool { return !r.Active() }) || len(w.newest.Serving(w.newest.Rows[0].Sync)) != len(w.newest.Rows[0].Sync) {
		w.run(5 * ms)
		if w.now-before > 5*time.Second {
			t.Fatal("the rows are not active after 5 s")
		}
	}
	w.run(20 * time.Second)
	for _, p := range w.procs {
		if voters, _ := p.log.voters(); len(voters) != 3 {
			t.Errorf("%s has voters %v, want 3 of the 4", p.addr, voters)
		}
	}
}

// TestMinorityHasNoLease: who is cut off from the majority serves nothing, and comes back with its memory.
func TestMinorityHasNoLease(t *testing.T) {
	w := cluster(t, 6, 5)
	w.isolate([]string{"a", "b"}, true)
	w.run(3 * time.Second)
	for _, a := range []string{"a", "b"} {
		if p := w.procs[a]; p.Lease.Valid(w.clock(p)) {
			t.Errorf("%s has a lease in a minority of two", a)
		}
	}
	if l := w.leader(); l == nil || l.addr < "c" && !w.procs["c"].Leading() && !w.procs["d"].Leading() && !w.procs["e"].Leading() {
		t.Error("the majority has no leader")
	}
	w.cut = map[[2]string]bool{}
	incs := []state.Incarnation{w.procs["a"].inc, w.procs["b"].inc}
	w.settle(5, 30*time.Second)
	for _, i := range incs {
		if !w.newest.Serves(i) {
			t.Errorf("%x did not return", i)
		}
	}
}

func (w *world) isolate(side []string, on bool) {
	for _, a := range w.addrs() {
		for _, b := range w.addrs() {
			if slices.Contains(side, a) != slices.Contains(side, b) {
				w.cut[[2]string{a, b}] = on
			}
		}
	}
}

func TestLeave(t *testing.T) {
	w := cluster(t, 7, 4)
	l := w.leader()
	for range 100 { // the leader leaves: it hands over first
		l.Ask(leader.Ask{Kind: leader.AskLeave})
		w.run(100 * ms)
		if errors.Is(l.Err(), ErrRetired) {
			break
		}
	}
	if !errors.Is(l.Err(), ErrRetired) {
		t.Fatalf("%s does not get out: %v, %+v", l.addr, l.Err(), l.Table().Node(l.inc))
	}
	w.settle(3, 20*time.Second)
	if w.newest.Losses() != 0 {
		t.Errorf("%d losses", w.newest.Losses())
	}
}

// TestLeaveBesideARestart: nobody leaves whose vote the others still need, although another voter has just died.
func TestLeaveBesideARestart(t *testing.T) {
	for seed := range uint64(8) {
		w := cluster(t, 200+seed, 3)
		leaver := w.leader()
		others := slices.DeleteFunc(w.addrs(), func(a string) bool { return a == leaver.addr })
		if seed%2 == 0 {
			leaver, others = w.procs[others[0]], []string{others[1], leaver.addr}
		}
		w.start(others[seed/2%2], "a", "b", "c") // in the place of one that is killed
		w.run(time.Duration(w.r.Int64N(int64(3 * time.Second))))
		for asked := w.now; !errors.Is(leaver.Err(), ErrRetired); w.run(100 * ms) {
			leaver.Ask(leader.Ask{Kind: leader.AskLeave})
			if w.now-asked > 20*time.Second {
				t.Fatalf("seed %d: %s does not get out: %v, %+v", seed, leaver.addr, leaver.Err(), leaver.Table().Node(leaver.inc))
			}
		}
		w.start(leaver.addr, "a", "b", "c")
		w.settle(3, 30*time.Second)
	}
}

// TestChurn: three nodes restart one after the other, killed, by leaving or after they were given up, each as soon as the last one serves again. They seldom
// need to found the control plane anew: when one is killed before another that has restarted votes again.
func TestChurn(t *testing.T) {
	eras := 0
	for seed := range uint64(10) {
		w := clusterWith(t, 300+seed, 3, func(c *Config) { c.Params.Replicas = uint8(1 + 2*(seed%2)) })
		for range 12 {
			p := w.procs[w.addrs()[w.r.IntN(3)]]
			how := [...]string{"killed", "killed", "leaves", "leaves", "absent"}[w.r.IntN(5)]
			switch how {
			case "absent": // for so long that its single copies are given up; then it has to start anew
				w.isolate([]string{p.addr}, true)
				w.run(34 * time.Second)
				w.isolate([]string{p.addr}, false)
			case "leaves":
				for asked := w.now; !errors.Is(p.Err(), ErrRetired); w.run(100 * ms) {
					p.Ask(leader.Ask{Kind: leader.AskLeave})
					if w.now-asked > 20*time.Second {
						t.Fatalf("seed %d: %s does not get out: %v, %+v\n%s", seed, p.addr, p.Err(), p.Table().Node(p.inc), w.about())
					}
				}
			}
			w.start(p.addr, "a", "b", "c")
			for began := w.now; !w.serve(); w.run(10 * ms) {
				if w.now-began > 20*time.Second {
					t.Fatalf("seed %d: %s (%s) is not back\n%s", seed, p.addr, how, w.about())
				}
			}
			w.run(time.Duration(w.r.Int64N(int64(3 * time.Second))))
		}
		w.settle(3, time.Minute)
		eras += int(w.newest.Era) - 1
	}
	t.Logf("%d eras more", eras)
}

// serve reports whether all processes are up by one table, and every row is served.
func (w *world) serve() bool {
	for _, p := range w.procs {
		t := p.Table()
		if t == nil || t.Version != w.newest.Version || t.Era != w.newest.Era || !p.Lease.Valid(w.clock(p)) || t.Node(p.inc) == nil || t.Node(p.inc).Status != state.Up {
			return false
		}
	}
	return !slices.ContainsFunc(w.newest.Rows, func(r state.Row) bool { return !r.Active() })
}

// about tells what each process thinks of the voters.
func (w *world) about() string {
	var b strings.Builder
	for _, a := range w.addrs() {
		p := w.procs[a]
		fmt.Fprintf(&b, "%s %x leads %v", a, uint64(p.inc), p.Leading())
		if p.log != nil {
			fmt.Fprintf(&b, " term %d conf %v", p.log.term(), p.log.conf)
		}
		if t := p.Table(); t != nil {
			for _, n := range t.Nodes {
				fmt.Fprintf(&b, "\n  %s %x %v known %v", n.Name, uint64(n.Incarnation), n.Status, n.Known)
			}
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// TestAllLeaveButOne: each leaves as soon as the others can do without it, and they need not wait for the rest to be patient.
func TestAllLeaveButOne(t *testing.T) {
	w := cluster(t, 9, 3)
	var leavers []*proc
	for _, a := range []string{"a", "b"} {
		leavers = append(leavers, w.procs[a])
	}
	out := func(p *proc) bool { return errors.Is(p.Err(), ErrRetired) }
	for began := w.now; !out(leavers[0]) || !out(leavers[1]); w.run(100 * ms) {
		for _, p := range leavers {
			p.Ask(leader.Ask{Kind: leader.AskLeave})
			if out(p) {
				delete(w.procs, p.addr)
			}
		}
		if w.now-began > 20*time.Second {
			t.Fatalf("they do not get out: %v, %v", leavers[0].Err(), leavers[1].Err())
		}
	}
	delete(w.procs, "a")
	delete(w.procs, "b")
	w.settle(1, 20*time.Second)
	if w.newest.Losses() != 0 {
		t.Errorf("%d losses", w.newest.Losses())
	}
}

func TestJoinRefused(t *testing.T) {
	w := cluster(t, 8, 3)
	w.config = func(c *Config) { c.Settings.Partitions = 9 }
	p := w.start("x", "a", "b", "c")
	w.run(3 * time.Second)
	if !errors.Is(p.Err(), dramnode.ErrClusterConflict) || !strings.Contains(p.Err().Error(), "partitions 9 here, 7 there") {
		t.Errorf("other partitions: %v", p.Err())
	}
	w.config = func(c *Config) { c.MaxValue = 5 }
	p = w.start("x", "b")
	w.run(3 * time.Second)
	if p.Err() == nil || !strings.Contains(p.Err().Error(), "max-value") {
		t.Errorf("another max-value: %v", p.Err())
	}
	for want, change := range map[string]func(*Config){
		"replicas 2 here, 3 there":            func(c *Config) { c.Params.Replicas = 2 },
		"min-sync 2 here, 1 there":            func(c *Config) { c.Params.MinSync = 2 },
		"on-loss refuse here, recreate there": func(c *Config) { c.Params.OnLoss = state.Refuse },
		"lost-after 9s here, 30s there":       func(c *Config) { c.Params.LostAfter = 9 * time.Second },
		"lease 2s here, 1s there":             func(c *Config) { c.Timing.Length = 2 * time.Second },
	} {
		w.config = change
		p = w.start("x", "b")
		w.run(3 * time.Second)
		if !errors.Is(p.Err(), dramnode.ErrClusterConflict) || !strings.Contains(p.Err().Error(), want) {
			t.Errorf("%v, want %q", p.Err(), want)
		}
	}
	w.config = func(c *Config) { c.Self.Name = "b" }
	p = w.start("x", "c")
	w.run(6 * time.Second)
	if !errors.Is(p.Err(), dramnode.ErrClusterConflict) || !strings.Contains(p.Err().Error(), "in use by b") {
		t.Errorf("a taken name: %v", p.Err())
	}
}

func TestOtherCluster(t *testing.T) {
	w := cluster(t, 9, 3)
	m := Message{Kind: KindRenew, Cluster: w.procs["a"].cluster + 1, Era: 1, From: 99, To: w.procs["a"].inc}
	before := w.procs["a"].Conflicts()
	w.procs["a"].Step(w.clock(w.procs["a"]), m)
	if w.procs["a"].Conflicts() != before+1 {
		t.Error("a message of another cluster was not counted")
	}
}

// TestCompaction: the log stays short, and who missed what was dropped gets a snapshot.
func TestCompaction(t *testing.T) {
	w := cluster(t, 10, 3)
	w.isolate([]string{"c"}, true)
	for range 3 * maxEntries {
		params := w.newest.Params
		params.RebuildBudget++
		l := w.leader()
		if l == nil {
			w.run(100 * ms)
			continue
		}
		l.Ask(leader.Ask{Kind: leader.AskParams, AssignID: w.newest.ParamsVersion, Params: params})
		w.run(5 * ms)
	}
	l := w.leader()
	first, _ := l.log.storage.FirstIndex()
	last, _ := l.log.storage.LastIndex()
	if first < 10 || last-first > 2*maxEntries {
		t.Errorf("the log has entries %d to %d", first, last)
	}
	w.cut = map[[2]string]bool{}
	w.settle(3, 30*time.Second)
}

// storm does whatever can happen to up to five nodes.
func storm(t failer, seed uint64) *world {
	w := cluster(t, seed, 3+int(seed%3))
	names := w.addrs()
	w.loss = 3
	for range 12 {
		a := names[w.r.IntN(len(names))]
		switch w.r.IntN(6) {
		case 0:
			w.start(a, names...)
		case 1:
			w.procs[a].paused = !w.procs[a].paused
		case 2:
			w.isolate([]string{a}, true)
		case 3:
			b := names[w.r.IntN(len(names))]
			w.cut[[2]string{a, b}] = true // one way
		case 4:
			w.cut = map[[2]string]bool{}
		case 5:
			if l := w.leader(); l != nil {
				w.isolate([]string{l.addr}, true)
			}
		}
		for _, a := range names {
			if w.procs[a].Err() != nil {
				w.start(a, names...)
			}
		}
		w.run(time.Duration(w.r.Int64N(int64(2500 * ms))))
		for _, a := range names {
			w.procs[a].paused = w.procs[a].paused && w.r.IntN(2) == 0
		}
	}
	return w
}

// TestStorm: the promises hold all the time (check), and when the storm is over, the cluster heals without
// help, also when most voters restarted at once.
func TestStorm(t *testing.T) {
	recovered := 0
	for seed := range uint64(stormSeeds) {
		w := storm(t, seed)
		w.calm(seed)
		if w.newest.Era > 1 {
			recovered++
		}
	}
	if recovered == 0 {
		t.Error("no storm was bad enough for a recovery")
	}
}

const stormSeeds = 30

func (w *world) calm(seed uint64) {
	w.t.Helper()
	w.loss, w.cut = 0, map[[2]string]bool{}
	names := w.addrs()
	for range 600 {
		for _, a := range names {
			w.procs[a].paused = false
			if w.procs[a].Err() != nil { // retired: the supervisor starts it again
				w.start(a, names...)
			}
		}
		w.run(200 * ms)
		if w.unsettled(len(names)) == nil {
			return
		}
	}
	w.t.Fatalf("seed %d: not well after two minutes of calm: %v", seed, w.unsettled(len(names)))
}

// TestReplay: a seed leads to the same messages at the same times.
func TestReplay(t *testing.T) {
	for seed := range uint64(3) {
		if a, b := storm(t, seed).trace, storm(t, seed).trace; a != b {
			t.Errorf("seed %d led to %x and then to %x", seed, a, b)
		}
	}
}

type fault string

type catcher struct{}

func (catcher) Helper()                           {}
func (catcher) Fatalf(format string, args ...any) { panic(fault(fmt.Sprintf(format, args...))) }

func caught(seed uint64) (text fault) {
	defer func() {
		switch p := recover().(type) {
		case nil:
		case fault:
			text = p
		default:
			panic(p)
		}
	}()
	storm(catcher{}, seed)
	return ""
}

// TestRulesAreNeeded: without any one of them some storm shows a node that serves what others were given.
func TestRulesAreNeeded(t *testing.T) {
	if !rule.Mutable {
		t.Skip("needs -tags mutations")
	}
	defer rule.Remove()
	for _, r := range []rule.Rule{rule.Fence, rule.NewLeaderWaits, rule.QuorumRound, rule.LeaseFromSend} {
		rule.Remove(r)
		var text fault
		seed := uint64(0)
		for ; seed < 300 && text == ""; seed++ {
			text = caught(seed)
		}
		t.Logf("%s: seed %d: %s", r, seed-1, text)
		if text == "" {
			t.Errorf("%s: nothing was noticed without it", r)
		}
	}
}

// seedsOf is what a process is told that may ask all seeds, and founds a cluster with them if it is one.
func seedsOf(name string, seeds []string) func() Seeds {
	if len(seeds) == 0 {
		return nil
	}
	s := Seeds{Members: seeds}
	if slices.Contains(seeds, name) {
		s.Founders = seeds
	}
	return func() Seeds { return s }
}
