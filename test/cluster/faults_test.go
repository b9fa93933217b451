package cluster

import (
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/dramnode/dramnode/test/proc"
)

// ends waits until node i has ended and returns what it said.
func (s *story) ends(i int) string {
	s.t.Helper()
	select {
	case <-s.nodes[i].Exited():
	case <-time.After(settleLimit):
		s.t.Fatalf("%s still runs after %v", s.nodes[i].Name(), settleLimit)
	}
	return s.nodes[i].Log()
}

func (s *story) says(i int, want ...string) {
	s.t.Helper()
	said := s.ends(i)
	for _, w := range want {
		if !strings.Contains(said, w) {
			s.t.Errorf("%s ended without saying %q:\n%s", s.nodes[i].Name(), w, said)
		}
	}
}

func TestMoreNodesThanPartitionsAreRefused(t *testing.T) {
	s := newStory(t, "--partitions", "2")
	s.start(2)
	s.nodes[0].WaitReady()
	s.nodes[1].WaitReady()
	s.start(1)
	s.says(2, "3 members", "2 partitions")
}

// Members whose settings differ would look for keys elsewhere: a newcomer is told what differs, and ends.
func TestOtherSettingsAreRefused(t *testing.T) {
	for _, c := range []struct {
		name         string
		ours, theirs []string
		want         string
	}{
		{"partitions", nil, []string{"--partitions", "271"}, "partitions 271 here, 1031 there"},
		{"strategy", nil, []string{"--routing", "range", "--split", "m"}, "strategy range here, hash there"},
		{"splits", []string{"--routing", "range", "--split", "g,n"}, []string{"--routing", "range", "--split", "g,o"}, `split 1 "o" here, "n" there`},
		{"rules", []string{"--routing", "explicit", "--rule", "a/=n1"}, []string{"--routing", "explicit", "--rule", "a/=n2"}, `rule 0 "a/"=n2 here, "a/"=n1 there`},
		{"max-value", nil, []string{"--max-value", "1MiB"}, "max-value 1048576 here, 67108864 there"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStory(t, c.ours...)
			s.start(1)
			s.nodes[0].WaitReady()
			o := proc.Options{Name: "n2", Memory: "64MiB", Cluster: s.name, Args: c.theirs, Join: s.seeds(), Listen: proc.Address(t, nil)}
			s.options, s.nodes = append(s.options, o), append(s.nodes, proc.Start(t, s.program, o))
			s.says(1, "settings differ: "+c.want)
			if code := s.nodes[1].ExitCode(); code != 2 {
				t.Errorf("the stranger ended with exit code %d, want 2", code)
			}
			if info := s.state(s.nodes[0]); info.Members != 1 {
				t.Errorf("the cluster counts %d members", info.Members)
			}
		})
	}
}

func TestNameInUseIsRefused(t *testing.T) {
	s := newStory(t)
	s.start(2)
	s.agree(s.nodes...)
	o := s.options[1]
	o.Listen = proc.Address(t, nil)
	s.options, s.nodes = append(s.options, o), append(s.nodes, proc.Start(t, s.program, o))
	s.says(2, `"n2"`, "in use")
	s.agree(s.nodes[:2]...)
}

// A node that finds nobody to take its partitions says so, and its exit code too.
func TestLeavingWithoutAnHeir(t *testing.T) {
	s := newStory(t, "--drain-timeout", "2s")
	s.start(2)
	s.agree(s.nodes...)
	s.nodes[1].Kill()
	s.nodes[0].Signal(syscall.SIGTERM)
	s.says(0, "partitions were not given away within 2s")
	if code := s.nodes[0].ExitCode(); code != 8 {
		t.Errorf("it ended with exit code %d, want 8", code)
	}
}

func TestPortInUse(t *testing.T) {
	s := newStory(t)
	s.start(1)
	s.nodes[0].WaitReady()
	s.restart(0)
	s.nodes = append(s.nodes, s.nodes[0])
	s.says(0, s.options[0].Listen, "in use")
}

func TestSeedThatNeverAnswers(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0") // accepts, and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	s := newStory(t)
	o := proc.Options{Name: "n1", Memory: "64MiB", Cluster: s.name, Join: []string{silent.Addr().String()}, Listen: proc.Address(t, nil)}
	n := proc.Start(t, s.program, o)
	s.await("the node to say what it waits for", func() string {
		status, body, err := n.Get(t.Context(), "/readyz")
		if err != nil {
			return err.Error()
		}
		if status != 503 || !strings.Contains(string(body), silent.Addr().String()) {
			return string(body)
		}
		return ""
	})
	n.Stop()
}

func TestGarbageOnThePorts(t *testing.T) {
	s := newStory(t)
	s.start(2)
	s.agree(s.nodes...)
	d := s.drive(load(7))
	blobs := []string{"GET / HTTP/1.1\r\n\r\n", strings.Repeat("\xff", 100_000), "DRAM\x01", "\x00"}
	for _, addr := range []string{s.nodes[0].Addr(), s.nodes[0].GossipAddr(), s.nodes[0].HTTPAddr()} {
		for _, blob := range blobs {
			c, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			_ = c.SetDeadline(time.Now().Add(time.Second))
			_, _ = c.Write([]byte(blob)) // the node may hang up first
			c.Close()
		}
	}
	s.agree(s.nodes...)
	if r := d.stop(); len(r.Errors) > 0 {
		t.Errorf("garbage was felt elsewhere: %v", r.Errors)
	}
}

// What a client that dies in mid-put has reserved is given back, and no half value is seen.
func TestClientKilledInMidPut(t *testing.T) {
	s := newStory(t)
	s.start(2)
	s.agree(s.nodes...)
	w := workload{Mode: "load", Prefix: "dying/", Workers: 4, Keys: 2, Bytes: 16 << 20, Seed: 8}
	for range 5 {
		d := s.drive(w)
		pass(time.Second)
		if err := d.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = d.cmd.Wait() // killed
	}
	for _, n := range s.nodes {
		s.await("reserved memory to come back", func() string {
			if info := s.info(n); info == nil || info.Memory.Reserved > 0 || info.Memory.Leased > 0 {
				return "not yet"
			}
			return ""
		})
	}
	check := w
	check.Mode, check.Any, check.Lossy = "check", true, true
	s.drive(check).wait()
	check = w
	check.Ops, check.Prefix = 50, "after/"
	if r := s.drive(check).wait(); len(r.Errors) > 0 {
		t.Errorf("errors after the clients died: %v", r.Errors)
	}
}

// Full memory refuses, says so, and keeps what it has; deleting makes room again.
func TestMemoryFull(t *testing.T) {
	s := newStory(t, "--max-value", "4MiB")
	s.start(1)
	s.nodes[0].WaitReady()
	keep := workload{Mode: "fill", Prefix: "keep/", Workers: 2, Keys: 20, Bytes: 100_000}
	s.drive(keep).wait()
	w := workload{Mode: "load", Prefix: "full/", Workers: 4, Keys: 100, Bytes: 4 << 20, Ops: 150, Seed: 9, Large: true}
	r := s.drive(w).wait()
	if r.Errors["dramnode: no memory"] == 0 {
		t.Errorf("400 values of up to 4 MiB fit into 256 MiB: %v", r.Errors)
	}
	keep.Mode = "check"
	s.drive(keep).wait()
}
