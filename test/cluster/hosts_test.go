package cluster

import (
	"testing"
	"time"
)

func TestHostCutOffAndHealed(t *testing.T) {
	s := newStory(t).onHosts(3)
	s.start(3)
	s.agree(s.nodes...)
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
	w := workload{Mode: "load", Prefix: "big/", Workers: 8, Keys: 4, Bytes: 8 << 20, Seed: 6}
	d := s.drive(w)
	pass(2 * time.Second)
	if err := s.net.Cut(1); err != nil {
		t.Fatal(err)
	}
	pass(5 * time.Second)
	if err := s.net.Heal(1); err != nil {
		t.Fatal(err)
	}
	s.agree(s.nodes...)
	r := d.stop()
	if len(r.Errors) == 0 {
		t.Error("a cut of 5 s was not noticed")
	}
	t.Logf("the longest pending call took %v; heartbeats end them about 1 s after the cut", r.Unknown)
}
