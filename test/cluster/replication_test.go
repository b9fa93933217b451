package cluster

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/test/history"
	"github.com/dramnode/dramnode/test/proc"
	"github.com/dramnode/dramnode/wire"
)

// Stories of clusters that keep three copies. Whatever happens to the nodes, what clients saw meanwhile has to be
// explained by one order of their operations (test/history), everything acknowledged is readable through each node
// afterwards, no loss is counted, and there are three copies of everything again.

const (
	copies = 3
	// replicatedPartitions keeps tables and failovers small: stories are about what happens, not about how much at once.
	replicatedPartitions = 101
	judgeLimit           = 60 * time.Second
)

// newReplicated is newStory with three copies.
func newReplicated(t *testing.T, args ...string) *story {
	s := newStory(t, append([]string{"--replicas", strconv.Itoa(copies), "--partitions", strconv.Itoa(replicatedPartitions)}, args...)...)
	s.cut = replicatedPartitions
	return s
}

// filled starts so many nodes, and puts values there that keptBy looks for in the end.
func filled(t *testing.T, nodes int) (s *story, fill workload) {
	t.Helper()
	s = newReplicated(t)
	s.start(nodes)
	s.copied(s.nodes...)
	fill = workload{Mode: "fill", Prefix: "kept/", Workers: 4, Keys: 50, Bytes: 100_000}
	s.drive(fill).wait()
	return s, fill
}

// recording is what clients do while something happens.
func recording(seed uint64) workload {
	return workload{Mode: "record", Prefix: fmt.Sprintf("hot/%d/", seed), Workers: 6, Keys: 12, Seed: seed, Recording: Recording{Since: clock()}}
}

// copied waits until these nodes, and nobody else, have three copies of everything.
func (s *story) copied(nodes ...*proc.Node) {
	s.t.Helper()
	s.awaitCopies(Recording{}, nodes)
}

func (s *story) awaitCopies(r Recording, nodes []*proc.Node) {
	s.t.Helper()
	r.Copies = min(copies, len(nodes))
	w := workload{Mode: "copies", Recording: r}
	for _, n := range nodes {
		w.Addrs = append(w.Addrs, n.Addr())
		incarnation, err := strconv.ParseUint(s.state(n).Incarnation, 16, 64)
		if err != nil {
			s.t.Fatal(err)
		}
		w.Alive = append(w.Alive, incarnation)
	}
	s.drive(w).wait()
}

// goesOn waits until so many more writes of a recording were acknowledged.
func (s *story) goesOn(d *driver, writes int64) {
	s.t.Helper()
	from := d.written.Load()
	s.await("writes to go on", func() string {
		select {
		case <-d.ended:
			s.t.Fatalf("the driver has ended: %.500s", d.text)
		default:
		}
		if n := d.written.Load() - from; n < writes {
			return strconv.FormatInt(n, 10) + " so far"
		}
		return ""
	})
}

// judge ends recordings, reads every key of them through every node, and judges the whole.
func (s *story) judge(nodes []*proc.Node, recordings ...*driver) {
	s.t.Helper()
	var ops []history.Op
	for _, d := range recordings {
		r := d.stop()
		if r.Written == 0 {
			s.t.Error("nothing was written")
		}
		ops = append(ops, r.History...)
	}
	s.judged(nodes, ops)
}

func (s *story) judged(nodes []*proc.Node, ops []history.Op) {
	s.t.Helper()
	keys := map[string]bool{}
	for i := range ops {
		keys[ops[i].Key] = true
	}
	reread := workload{Mode: "reread", Recording: Recording{First: 10_000, Only: slices.Sorted(maps.Keys(keys))}}
	for _, n := range nodes {
		reread.Addrs = append(reread.Addrs, n.Addr())
	}
	ops = append(ops, s.drive(reread).wait().History...)
	unknown := 0
	for i := range ops {
		if ops[i].Status == wire.StatusUnknownOutcome {
			unknown++
		}
	}
	s.t.Logf("%d operations on %d keys, %d of unknown outcome", len(ops), len(keys), unknown)
	if err := history.Check(ops, judgeLimit); err != nil {
		s.t.Errorf("%v", err)
		var first *history.Error
		if errors.As(err, &first) {
			for _, o := range first.Ops {
				s.t.Log(o)
			}
		}
	}
	for _, n := range nodes {
		if info := s.state(n); info.Losses != 0 || info.Conflicts != 0 {
			s.t.Errorf("%s counts %d losses and %d conflicts", n.Name(), info.Losses, info.Conflicts)
		}
	}
}

// keptBy checks through each of these nodes that every byte of a fill is there.
func (s *story) keptBy(fill workload, nodes ...*proc.Node) {
	s.t.Helper()
	for _, n := range nodes {
		check := fill
		check.Mode, check.Addrs, check.Via = "check", []string{n.Addr()}, true
		s.drive(check).wait()
	}
}

// others are the nodes without those of these indices.
func (s *story) others(out ...int) (nodes []*proc.Node) {
	for i, n := range s.nodes {
		if !slices.Contains(out, i) {
			nodes = append(nodes, n)
		}
	}
	return nodes
}

// leads returns the index of the node that leads the control plane.
func (s *story) leads() (index int) {
	s.t.Helper()
	s.await("a leader of the control plane", func() string {
		name := s.state(s.nodes[0]).Replication.Leader
		index = slices.IndexFunc(s.nodes, func(n *proc.Node) bool { return n.Name() == name })
		if index < 0 {
			return strconv.Quote(name)
		}
		return ""
	})
	return index
}

// victims are whom something happens to: what the node is to the keys in use, or to the control plane.
var victims = []struct {
	name string
	role string
}{{"primary", "primary"}, {"backup", "backup"}, {"control leader", ""}}

// strikes starts a recording for a role and returns it with whom to strike.
func (s *story) strikes(role string, seed uint64) (d *driver, victim int) {
	s.t.Helper()
	w := recording(seed)
	leader := s.leads()
	victim = leader
	if role != "" { // and not the leader
		victim = (leader + 1) % len(s.nodes)
		w.Node, w.Role = s.nodes[victim].Name(), role
	}
	d = s.drive(w)
	s.goesOn(d, 100)
	return d, victim
}

// long skips a story that make test has no time for.
func long(t *testing.T) {
	t.Helper()
	if os.Getenv("DRAMNODE_STORIES") == "" {
		t.Skip("a long story: make stories")
	}
}

func TestReplicatedNodesAreKilled(t *testing.T) {
	long(t)
	s, fill := filled(t, 4)
	for i, v := range victims {
		t.Logf("the %s is killed", v.name)
		d, victim := s.strikes(v.role, uint64(20+i))
		s.nodes[victim].Kill()
		s.goesOn(d, 200)
		s.copied(s.others(victim)...)
		s.goesOn(d, 100)
		s.judge(s.others(victim), d)
		s.restart(victim)
		s.copied(s.nodes...)
	}
	s.keptBy(fill, s.nodes...)
}

// A paused primary whose partitions went to others has requests waiting in its sockets when it wakes, and a lease that
// it does not know to be over.
func TestReplicatedNodesStandStill(t *testing.T) {
	s := newReplicated(t)
	s.start(4)
	s.copied(s.nodes...)
	for i, v := range victims {
		t.Logf("the %s stands still", v.name)
		d, victim := s.strikes(v.role, uint64(30+i))
		s.nodes[victim].Pause()
		s.goesOn(d, 200) // so others have taken over
		s.nodes[victim].Resume()
		s.goesOn(d, 200)
		s.agreeAgain(victim)
		s.copied(s.nodes...)
		s.judge(s.nodes, d)
	}
}

// agreeAgain waits until a node that was away is ready again, in this life or the next.
func (s *story) agreeAgain(i int) {
	s.t.Helper()
	s.await(s.nodes[i].Name()+" to be back", func() string {
		info := s.info(s.nodes[i])
		if info == nil || !info.Ready || !info.Quorate {
			return "not yet"
		}
		return ""
	})
}

// With as many nodes as copies, whoever comes back under its name at once is where the third copy goes; its memory is
// empty, and nobody may take it for the one that was there.
func TestReplicatedNodeComesBackAtOnce(t *testing.T) {
	s, fill := filled(t, 3)
	d := s.drive(recording(40))
	for i := range s.nodes {
		s.goesOn(d, 100)
		s.nodes[i].Kill()
		s.restart(i)
		s.goesOn(d, 100)
		s.copied(s.nodes...)
	}
	s.judge(s.nodes, d)
	s.keptBy(fill, s.nodes...)
}

// Of the nodes that have a partition's copies two die, but not at once.
func TestReplicatedNodesDieOneAfterTheOther(t *testing.T) {
	s, fill := filled(t, 5)
	d := s.drive(recording(50))
	s.goesOn(d, 100)
	first := s.leads()
	s.nodes[first].Kill()
	s.goesOn(d, 100)
	s.copied(s.others(first)...)
	second := (first + 1) % len(s.nodes)
	s.nodes[second].Kill()
	s.goesOn(d, 100)
	s.copied(s.others(first, second)...)
	s.judge(s.others(first, second), d)
	s.keptBy(fill, s.others(first, second)...)
}

func TestReplicatedNodesJoinAndLeave(t *testing.T) {
	long(t)
	s, fill := filled(t, 3)
	d := s.drive(recording(60))
	s.goesOn(d, 100)
	s.start(2)
	s.copied(s.nodes...)
	s.goesOn(d, 100)
	first := s.leads()
	s.nodes[first].Stop()
	s.copied(s.others(first)...)
	s.goesOn(d, 100)
	second := (first + 1) % len(s.nodes)
	s.nodes[second].Stop()
	s.copied(s.others(first, second)...)
	s.goesOn(d, 100)
	s.judge(s.others(first, second), d)
	s.keptBy(fill, s.others(first, second)...)
}

// Who has copies of everything, and less memory than the others, is not filled up by them: values are refused in its name while
// it stays in sync, and all that was acknowledged stays.
func TestReplicatedMemoryFullAtABackup(t *testing.T) {
	long(t)
	s := newReplicated(t, "--max-value", "4MiB")
	s.memory = []string{"256MiB", "256MiB", "64MiB"}
	s.start(3)
	s.copied(s.nodes...)
	fill := workload{Mode: "fill", Prefix: "kept/", Workers: 2, Keys: 20, Bytes: 100_000}
	s.drive(fill).wait()
	d := s.drive(recording(70))
	s.goesOn(d, 100)
	full := workload{Mode: "load", Prefix: "full/", Workers: 4, Keys: 10, Bytes: 3_900_000, Ops: 60, Seed: 71, Large: true}
	r := s.drive(full).wait()
	if r.Errors[dramnode.ErrNoMemory.Error()] == 0 {
		t.Errorf("100 MB fit into 64 MiB: %v", r.Errors)
	}
	for err := range r.Errors {
		if err != dramnode.ErrNoMemory.Error() {
			t.Errorf("while a node is full: %v", r.Errors)
		}
	}
	s.copied(s.nodes...) // with everything long
	s.drive(workload{Mode: "clear", Prefix: "full/"}).wait()
	s.copied(s.nodes...)
	s.goesOn(d, 100)
	again := full
	again.Prefix, again.Keys, again.Ops, again.Workers = "again/", 2, 10, 2
	if r := s.drive(again).wait(); len(r.Errors) > 0 {
		t.Errorf("errors after everything long was deleted: %v", r.Errors)
	}
	s.copied(s.nodes...)
	s.judge(s.nodes, d)
	s.keptBy(fill, s.nodes...)
}

// Two of five nodes are cut off from the others, with clients on both sides. On a busy machine a node may have been too
// slow for some partition just before, which then has its last copies at the two: nobody may give these up.
func TestReplicatedNetworkCutInTwo(t *testing.T) {
	s := newReplicated(t, "--on-loss", "refuse").onHosts(5)
	s.start(5)
	s.copied(s.nodes...)
	minority, majority := []int{0, 1}, []int{2, 3, 4}
	fill := workload{Mode: "fill", Prefix: "kept/", Workers: 4, Keys: 50, Bytes: 100_000}
	s.drive(fill).wait()
	w := recording(80)
	there := s.drive(w) // on a host of its own, with the majority
	w.host, w.Seed, w.First = 1, 81, 100
	here := s.drive(w)
	s.goesOn(there, 100)
	s.goesOn(here, 100)
	for _, i := range minority {
		for _, j := range append(slices.Clone(majority), s.net.Len()-1) {
			if err := s.net.CutPair(i, j); err != nil {
				t.Fatal(err)
			}
		}
	}
	refused := workload{Mode: "refused", Prefix: w.Prefix, Keys: 12, Seed: 82, OpLimit: time.Second, Addrs: []string{s.nodes[0].Addr()}, host: 1}
	refused.Recording = Recording{First: 200, Node: s.nodes[0].Name(), Role: "primary"}
	r := s.drive(refused).wait()
	if r.Errors[dramnode.ErrNoQuorum.Error()] == 0 {
		t.Errorf("the minority never said %q: %v", dramnode.ErrNoQuorum, r.Errors)
	}
	s.goesOn(there, 200)
	s.awaitCopies(Recording{Stranded: true}, s.others(minority...))
	s.goesOn(there, 100)
	if err := s.net.HealAll(); err != nil {
		t.Fatal(err)
	}
	for _, i := range minority {
		s.agreeAgain(i)
	}
	s.copied(s.nodes...)
	s.goesOn(there, 100)
	s.goesOn(here, 100)
	ops := append(there.stop().History, here.stop().History...)
	s.judged(s.nodes, append(ops, r.History...))
	s.keptBy(fill, s.nodes...)
}
