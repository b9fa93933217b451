package cluster

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

func load(seed uint64) workload {
	return workload{Mode: "load", Prefix: "load/", Workers: 8, Keys: 40, Bytes: 200_000, Seed: seed, Deletes: true}
}

func TestAnyNodeAnswersForAnyKey(t *testing.T) {
	s := newStory(t)
	s.start(3)
	s.agree(s.nodes...)
	fill := workload{Mode: "fill", Prefix: "any/", Workers: 4, Keys: 250, Bytes: 100_000}
	fill.Addrs = []string{s.nodes[0].Addr()}
	s.drive(fill).wait()
	for _, n := range s.nodes {
		check := fill
		check.Mode, check.Addrs = "check", []string{n.Addr()}
		s.drive(check).wait()
	}
}

// With range, neighbouring keys share a partition, and with explicit a prefix lives where its rule says;
// any node answers for any key all the same, and nodes come and go.
func TestRoutingByRangeAndByRules(t *testing.T) {
	for _, c := range []struct {
		name string
		args []string
		cut  int
		home map[string]string // key -> partition, or owner
	}{
		{"range", []string{"--routing", "range", "--split", "load/2,load/4,load/6", "--split", "t"}, 5,
			map[string]string{"a": "partition  0 ", "load/1/9": "partition  0 ", "load/2": "partition  1 ", "load/5/1": "partition  2 ", "load/7/39": "partition  3 ", "t": "partition  4 "}},
		{"explicit", []string{"--routing", "explicit", "--partitions", "101", "--rule", "load/1=n2", "--rule", "load/=n1", "--rule", "gone/=n9"}, 104,
			map[string]string{"load/1/9": "owner      n2 ", "load/7/39": "owner      n1 ", "load/2/1": "owner      n1 ", "gone/1": "partition  103 "}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStory(t, c.args...)
			s.cut = c.cut
			s.start(2)
			s.agree(s.nodes...)
			d := s.drive(load(10))
			s.start(1)
			s.agree(s.nodes...)
			s.nodes[2].Stop()
			s.agree(s.nodes[:2]...)
			if r := d.stop(); r.Written == 0 {
				t.Error("nothing was written")
			}
			for key, want := range c.home {
				if shown := s.cli(0, "locate", key); !strings.Contains(shown, want) {
					t.Errorf("%s: want %q in\n%s", key, want, shown)
				}
			}
			if info := s.state(s.nodes[0]); info.Losses != 0 {
				t.Errorf("something was lost: %+v", info)
			}
		})
	}
}

func TestRandomOperationsMatchAModel(t *testing.T) {
	s := newStory(t)
	s.start(3)
	s.agree(s.nodes...)
	w := load(1)
	w.Ops, w.Via = 1250, true // 8 clients: 10,000 operations, each client through one of the nodes
	r := s.drive(w).wait()
	if r.Ops < 10_000 {
		t.Errorf("%d operations, want 10,000", r.Ops)
	}
	if len(r.Errors) > 0 {
		t.Errorf("errors in a healthy cluster: %v", r.Errors)
	}
}

func TestSharedMemory(t *testing.T) {
	s := newStory(t, "--shm", "on")
	s.start(3)
	s.agree(s.nodes...)
	w := load(2)
	w.Shm, w.Ops = "on", 500
	if r := s.drive(w).wait(); len(r.Errors) > 0 {
		t.Errorf("errors in a healthy cluster: %v", r.Errors)
	}
}

// With the default settings, what is on one host shares memory, and says so.
func TestSharedMemoryIsTheDefault(t *testing.T) {
	s := newStory(t)
	s.start(2)
	s.agree(s.nodes...)
	s.await("the nodes to share memory", func() string {
		if shown := s.cli(0, "nodes", "--links"); !strings.Contains(shown, "sysv+cma") {
			return shown
		}
		return ""
	})
	if shown := s.cli(0, "nodes"); strings.Count(shown, "sysv+cma") != 2 {
		t.Errorf("dramnode nodes shows no shared memory with two nodes of its host:\n%s", shown)
	}
	shown := s.cli(0, "nodes", "--shm", "off")
	if strings.Contains(shown, "sysv") || strings.Contains(shown, "no shm") {
		t.Errorf("with --shm off dramnode nodes shows:\n%s", shown)
	}
}

// Clients and a node are killed under load over shared memory. The client that lives on loses only what the
// killed node held, and the nodes that live on keep nothing of the dead.
func TestKillsOverSharedMemory(t *testing.T) {
	s := newStory(t, "--shm", "on")
	s.start(3)
	s.agree(s.nodes...)
	w := load(31)
	w.Shm, w.Bytes, w.Lossy = "on", 1<<20, true
	survivor := s.drive(w)
	w.Workers, w.Prefix, w.Any = 4, "dying/", true
	cycle := func() {
		d := s.drive(w)
		pass(500*time.Millisecond + time.Duration(rand.IntN(100_000))*time.Microsecond)
		if err := d.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = d.cmd.Wait() // killed
		s.nodes[2].Kill()
		s.restart(2)
		s.agree(s.nodes...)
	}
	cycle()
	before := s.usage(0)
	for range cycles(t, 3) {
		cycle()
	}
	if r := survivor.stop(); r.Written == 0 {
		t.Error("the survivor wrote nothing")
	}
	s.grown(0, before)
}

func TestNodesJoinAndLeaveUnderLoad(t *testing.T) {
	s := newStory(t)
	s.start(2)
	s.agree(s.nodes...)
	d := s.drive(load(3))
	s.start(2)
	s.agree(s.nodes...)
	s.nodes[0].Stop() // it founded the cluster
	s.agree(s.nodes[1:]...)
	s.nodes[3].Stop()
	s.agree(s.nodes[1:3]...)
	if r := d.stop(); r.Written == 0 {
		t.Error("nothing was written")
	}
	if info := s.state(s.nodes[1]); info.Losses != 0 {
		t.Errorf("joining and leaving lost something: %+v", info)
	}
}

func TestKilledNodeComesBackUnderItsName(t *testing.T) {
	s := newStory(t)
	s.start(3)
	s.agree(s.nodes...)
	fill := workload{Mode: "fill", Prefix: "kept/", Workers: 4, Keys: 200, Bytes: 50_000}
	s.drive(fill).wait()
	lost := s.state(s.nodes[1]).Partitions
	s.nodes[1].Kill()
	s.restart(1)
	s.agree(s.nodes...)
	if info := s.state(s.nodes[0]); info.Losses != uint64(lost) {
		t.Errorf("%d losses counted, the killed node owned %d partitions", info.Losses, lost)
	}
	if shown, want := s.cli(2, "partitions"), fmt.Sprintf(" %d losses", lost); !strings.Contains(shown, want) {
		t.Errorf("dramnode partitions does not say %q:\n%s", want, shown)
	}
	if shown, want := s.cli(2, "nodes", "--json"), fmt.Sprintf("as a new process: %d partitions lost and recreated empty", lost); strings.Count(shown, want) == 0 {
		t.Errorf("no node's events say %q:\n%s", want, shown)
	}
	check := fill
	check.Mode, check.Lossy = "check", true
	r := s.drive(check).wait()
	if total := fill.Workers * fill.Keys; r.Missing == 0 || r.Missing > total*6/10 {
		t.Errorf("%d of %d keys are missing, want about a third", r.Missing, total)
	}
	s.drive(fill).wait()
	check.Lossy = false
	s.drive(check).wait()
}

func TestPausedNodeKeepsItsEntries(t *testing.T) {
	s := newStory(t)
	s.start(3)
	s.agree(s.nodes...)
	fill := workload{Mode: "fill", Prefix: "kept/", Workers: 4, Keys: 100, Bytes: 50_000}
	s.drive(fill).wait()
	w := load(4)
	w.OpLimit = 500 * time.Millisecond // so that the other nodes' keys get their share of the operations
	d := s.drive(w)
	s.nodes[2].Pause()
	pass(10 * time.Second)
	s.nodes[2].Resume()
	s.agree(s.nodes...)
	d.stop()
	s.kept(fill)
}

func TestSixteenNodesAgree(t *testing.T) {
	s := newStory(t)
	s.start(16)
	s.agree(s.nodes...)
	fill := workload{Mode: "fill", Prefix: "wide/", Workers: 4, Keys: 100, Bytes: 20_000}
	s.drive(fill).wait()
	s.kept(fill)
}

// Two clusters know each other's addresses, but their names differ.
func TestTwoClustersNeverMerge(t *testing.T) {
	a, b := newStory(t), newStory(t)
	b.name += "-b"
	a.start(2)
	b.start(1)
	b.options = append(b.options, b.options[0])
	a.agree(a.nodes...)
	b.agree(b.nodes...)
	// A third node of b is told to join a as well.
	o := b.options[0]
	o.Name, o.Listen = "n2", a.options[1].Listen
	stranger := newStory(t)
	stranger.name = b.name
	stranger.start(1)
	stranger.nodes[0].Kill()
	stranger.options[0].Name = "n2"
	stranger.options[0].Join = append(a.seeds(), b.seeds()...)
	stranger.restart(0)
	b.agree(b.nodes[0], stranger.nodes[0])
	a.agree(a.nodes...)
	if x, y := a.state(a.nodes[0]).ClusterID, b.state(b.nodes[0]).ClusterID; x == y {
		t.Errorf("both clusters have the id %s", x)
	}
}

// cycles is how often the tests below repeat; set DRAMNODE_CYCLES for more.
func cycles(t *testing.T, usual int) int {
	t.Helper()
	text := os.Getenv("DRAMNODE_CYCLES")
	if text == "" {
		return usual
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("DRAMNODE_CYCLES=%q: want a number", text)
	}
	return n
}

type usage struct {
	RSS, FDs, Threads int
	Transport         any
}

func (s *story) usage(i int) usage {
	n := s.nodes[i]
	u := usage{RSS: int(n.RSSBytes()) >> 20, FDs: n.FDs(), Threads: n.Threads()}
	if info := s.info(n); info != nil {
		u.Transport = info.Transport
	}
	return u
}

// grown fails the test when a node has more descriptors or threads than before, or much more memory.
func (s *story) grown(i int, before usage) {
	s.t.Helper()
	s.await(s.nodes[i].Name()+" to give everything back", func() string {
		after := s.usage(i)
		switch {
		case after.FDs > before.FDs+2:
			return "descriptors " + strconv.Itoa(before.FDs) + " -> " + strconv.Itoa(after.FDs)
		case after.Threads > before.Threads+4:
			return "threads " + strconv.Itoa(before.Threads) + " -> " + strconv.Itoa(after.Threads)
		case after.RSS > before.RSS+64:
			return "MiB " + strconv.Itoa(before.RSS) + " -> " + strconv.Itoa(after.RSS)
		}
		return ""
	})
	s.t.Logf("%s before %+v\nafter %+v", s.nodes[i].Name(), before, s.usage(i))
}

func TestClientsComeAndGoWithoutATrace(t *testing.T) {
	s := newStory(t)
	s.start(2)
	s.agree(s.nodes...)
	s.drive(workload{Mode: "connect", Ops: 20}).wait() // pools fill
	before := s.usage(0)
	s.drive(workload{Mode: "connect", Ops: 5 * cycles(t, 20)}).wait()
	s.grown(0, before)
}

func TestPeerKilledAgainAndAgainLeavesNoTrace(t *testing.T) {
	s := newStory(t)
	s.start(2)
	s.agree(s.nodes...)
	cycle := func() {
		s.nodes[1].Kill()
		s.restart(1)
		s.agree(s.nodes...)
	}
	cycle()
	before := s.usage(0)
	for range cycles(t, 5) {
		cycle()
	}
	s.grown(0, before)
}
