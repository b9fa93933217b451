package cluster

import (
	"strings"
	"testing"
	"time"
)

func TestHostCutOffAndHealed(t *testing.T) {
	s := newStory(t).onHosts(3)
	s.start(3)
	s.agree(s.nodes...)
	for _, l := range s.state(s.nodes[0]).Links { // one machine, as it happens, but other network namespaces
		if !strings.HasPrefix(l.Transport, "tcp") || !strings.Contains(l.Fallback, "namespaces") {
			t.Errorf("the link to %s goes by %q, fallback %q, want tcp because of the namespaces", l.Peer, l.Transport, l.Fallback)
		}
	}
	fill := workload{Mode: "fill", Prefix: "kept/", Workers: 4, Keys: 100, Bytes: 50_000}
	s.drive(fill).wait()
	d := s.drive(load(5))
	if err := s.net.Cut(1); err != nil {
		t.Fatal(err)
	}
	pass(8 * time.Second)
	if err := s.net.Heal(1); err != nil {
		t.Fatal(err)
	}
	s.agree(s.nodes...)
	d.stop()
	s.kept(fill)
}

// A cut that no one is told of, with large transfers in flight: every pending call ends soon, with an
// error, and afterwards the link works again.
func TestSilentCutEndsPendingCalls(t *testing.T) {
	s := newStory(t).onHosts(2)
	s.start(2)
	s.agree(s.nodes...)
	// Without a deadline of their own nothing but the heartbeats ends the calls under way.
	w := workload{Mode: "load", Prefix: "big/", Workers: 8, Keys: 4, Bytes: 8 << 20, Seed: 6, OpLimit: time.Minute}
	d := s.drive(w)
	pass(2 * time.Second)
	if err := s.net.Cut(1); err != nil {
		t.Fatal(err)
	}
	const cut = 10 * time.Second
	pass(cut)
	if err := s.net.Heal(1); err != nil {
		t.Fatal(err)
	}
	s.agree(s.nodes...)
	r := d.stop()
	if r.Longest < cut/2 {
		t.Errorf("a cut of %v was not noticed: no operation took longer than %v", cut, r.Longest)
	}
	// A silent peer has 1 s, and 1 s more for each 32 MiB that are under way; at most 64 MiB are.
	if r.Unknown > cut/2 {
		t.Errorf("a write that was under way took %v to end", r.Unknown)
	}
}
