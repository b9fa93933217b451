package group

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/control/state"
)

// TestVoterOfTwoReturns: the only voter of two nodes dies. The other refuses until the name is back, and
// then goes on in a new era with everything it had.
func TestVoterOfTwoReturns(t *testing.T) {
	w := cluster(t, 20, 2)
	voters, _ := w.leader().log.voters()
	voter, other := w.procs["a"], w.procs["b"]
	if voters[0] == other.inc {
		voter, other = other, voter
	}
	delete(w.procs, voter.addr)
	w.run(20 * time.Second)
	if other.Lease.Valid(w.clock(other)) || other.Table().Era != 1 {
		t.Fatalf("a learner serves on its own, in era %d", other.Table().Era)
	}
	w.start(voter.addr, "a", "b")
	w.settle(2, 20*time.Second)
	if s := w.newest; s.Era != 2 || !s.Serves(other.inc) || s.Rows[0].LossCount != 0 || s.Rows[0].Doubts != 1 {
		t.Errorf("era %d, nodes %+v, first row %+v", s.Era, s.Nodes, s.Rows[0])
	}
	for range 3 { // and it works again
		w.start(voter.addr, "a", "b")
		w.settle(2, 20*time.Second)
	}
}

// TestMajorityReturns: two of three restart together.
func TestMajorityReturns(t *testing.T) {
	w := cluster(t, 21, 3)
	kept := w.procs["c"]
	w.start("a", "a", "b", "c")
	w.start("b", "a", "b", "c")
	w.settle(3, 30*time.Second)
	if w.newest.Era != 2 || !w.newest.Serves(kept.inc) {
		t.Errorf("era %d, nodes %+v", w.newest.Era, w.newest.Nodes)
	}
	for p, r := range w.newest.Rows {
		if r.LossCount != 0 || r.Doubts != 1 {
			t.Errorf("partition %d, with a copy left: %+v", p, r)
		}
	}
}

// TestNoRecoveryWithoutProof: silence proves nothing, however long it lasts.
func TestNoRecoveryWithoutProof(t *testing.T) {
	w := cluster(t, 22, 3)
	delete(w.procs, "a")
	delete(w.procs, "b")
	w.run(time.Minute)
	if c := w.procs["c"]; c.Table().Era != 1 || c.Lease.Valid(w.clock(c)) {
		t.Errorf("era %d with one of three", c.Table().Era)
	}
	w.start("a", "a", "b", "c") // one proof is not enough: b may be alive, with others
	w.run(time.Minute)
	if c := w.procs["c"]; c.Table().Era != 1 || c.Lease.Valid(w.clock(c)) {
		t.Errorf("era %d while b is not accounted for", c.Table().Era)
	}
	if err := w.procs["c"].Recover([]string{"b"}); err != nil {
		t.Fatal(err)
	}
	w.settle(2, 30*time.Second)
	if w.newest.Era != 2 {
		t.Errorf("era %d after the operator's word", w.newest.Era)
	}
}

// TestRecoveryAsksLearnersToo is the counter-example to "every missing voter is proven dead": the voters
// that c knew of are dead, but d and e, which c has never heard of, could be the majority by now. They must
// not be; and c must wait for the leases that they were granted.
func TestRecoveryAsksLearnersToo(t *testing.T) {
	w := cluster(t, 23, 3)
	if !w.procs["a"].Leading() {
		t.Fatal("the seed has another leader: choose another seed")
	}
	w.isolate([]string{"c"}, true)
	w.run(3 * time.Second)
	w.start("d", "a", "b")
	w.start("e", "a", "b")
	w.run(60 * time.Second)
	if voters, _ := w.procs["a"].log.voters(); state.Has(voters, w.procs["d"].inc) || state.Has(voters, w.procs["e"].inc) {
		t.Fatalf("%v vote while c, which does not know them, may recover", voters)
	}
	// a and b restart where c hears them, and d and e do not.
	w.start("a", "a", "b", "c")
	w.start("b", "a", "b", "c")
	w.cut = map[[2]string]bool{}
	w.isolate([]string{"d", "e"}, true)
	w.run(20 * time.Second) // check: nobody serves what others were given
	c, d := w.procs["c"], w.procs["d"]
	if c.Lease.Valid(w.clock(c)) && d.Lease.Valid(w.clock(d)) {
		t.Error("c and d serve in two control planes")
	}
}

// TestOperatorsWord: what can be checked of it is, and then it counts, also long after the voters were lost; but not for ever.
func TestOperatorsWord(t *testing.T) {
	w := cluster(t, 24, 5)
	refused := func(at string, word []string, want error, text string) {
		t.Helper()
		if err := w.procs[at].Recover(word); !errors.Is(err, want) || !strings.Contains(err.Error(), text) {
			t.Errorf("%q said at %s: %v, want %q", word, at, err, text)
		}
	}
	refused("a", nil, dramnode.ErrInvalid, "nothing to recover")
	for _, name := range []string{"a", "b", "c"} {
		delete(w.procs, name)
	}
	w.run(2 * time.Second)
	refused("d", []string{"a", "b", "c"}, dramnode.ErrUnavailable, "too short")
	w.run(5 * time.Minute) // longer than nodes recover by themselves
	refused("d", []string{"a", "b", "c", "x"}, dramnode.ErrInvalid, `no other node is called "x"`)
	refused("d", []string{"a", "b", "c", "d"}, dramnode.ErrInvalid, `no other node is called "d"`)
	refused("d", []string{"a", "b", "c", "e"}, dramnode.ErrInvalid, "e is alive")
	refused("d", []string{"a", "b"}, dramnode.ErrUnavailable, "no answer from c")
	w.isolate([]string{"e"}, true)
	w.run(10 * time.Second)
	refused("d", []string{"a", "b", "c"}, dramnode.ErrUnavailable, "no answer from e")
	w.cut = map[[2]string]bool{}
	w.run(10 * time.Second)
	word := []string{"a", "b", "c"}
	if err := w.procs["d"].Recover(word); err != nil {
		t.Fatal(err)
	}
	w.isolate([]string{"e"}, true) // so nothing can come of it
	w.run(10 * time.Second)
	w.cut = map[[2]string]bool{}
	w.run(10 * time.Second)
	if era := w.procs["d"].Table().Era; era != 1 {
		t.Fatalf("era %d on a word that was said long ago", era)
	}
	if err := w.procs["d"].Recover(word); err != nil {
		t.Fatal(err)
	}
	w.settle(2, 30*time.Second)
	if w.newest.Era != 2 || !w.newest.Serves(w.procs["e"].inc) {
		t.Errorf("era %d, nodes %+v", w.newest.Era, w.newest.Nodes)
	}
	refused("d", word, dramnode.ErrInvalid, "nothing to recover")
	if err := newWorld(t, 1).start("z", "y").Recover(nil); err == nil {
		t.Error("a process without a cluster recovers one")
	}
}
