package client

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/control"
	"github.com/dramnode/dramnode/ring"
	"github.com/dramnode/dramnode/transport"
	"github.com/dramnode/dramnode/wire"
)

func TestDecide(t *testing.T) {
	refused := fmt.Errorf("n1: %w: connection refused", dramnode.ErrUnavailable)
	lost := fmt.Errorf("n1: %w: %w", dramnode.ErrUnknownOutcome, dramnode.ErrClosed)
	pasts := []past{{}, {write: true}, {write: true, doubt: true}}
	for _, tc := range []struct {
		name   string
		err    error
		status wire.Status
		newer  bool
		want   [3]step // of a read, a write, and one in doubt
		doubt  bool    // of the writes
	}{
		{"ok", nil, wire.StatusOK, true, [3]step{stepDone, stepDone, stepDone}, false},
		{"moved", nil, wire.StatusNotOwner, true, [3]step{stepRefresh, stepRefresh, stepRefresh}, false},
		{"the node is behind", nil, wire.StatusNotOwner, false, [3]step{stepRetry, stepRetry, stepRetry}, false},
		{"not served yet", nil, wire.StatusUnavailable, false, [3]step{stepRetry, stepRetry, stepRetry}, false},
		{"not served, moved", nil, wire.StatusUnavailable, true, [3]step{stepRefresh, stepRefresh, stepRefresh}, false},
		{"no quorum", nil, wire.StatusNoQuorum, false, [3]step{stepRetry, stepRetry, stepRetry}, false},
		{"no quorum there", nil, wire.StatusNoQuorum, true, [3]step{stepRefresh, stepRefresh, stepRefresh}, false},
		{"queue full", nil, wire.StatusBusy, true, [3]step{stepRetry, stepRetry, stepRetry}, false},
		{"node closes", nil, wire.StatusClosed, false, [3]step{stepRetry, stepRetry, stepRetry}, false},
		{"nobody knows", nil, wire.StatusUnknownOutcome, false, [3]step{stepRetry, stepRetry, stepRetry}, true},
		{"nobody knows, moved", nil, wire.StatusUnknownOutcome, true, [3]step{stepRefresh, stepRefresh, stepRefresh}, true},
		{"missing", nil, wire.StatusNotFound, false, [3]step{stepFail, stepFail, stepFail}, false},
		{"condition", nil, wire.StatusGenerationMismatch, true, [3]step{stepFail, stepFail, stepFail}, false},
		{"memory", nil, wire.StatusNoMemory, false, [3]step{stepFail, stepFail, stepRetry}, false},
		{"degraded", nil, wire.StatusDegraded, false, [3]step{stepFail, stepFail, stepRetry}, false},
		{"invalid", nil, wire.StatusInvalid, false, [3]step{stepFail, stepFail, stepFail}, false},
		{"not sent", refused, 0, false, [3]step{stepRetry, stepRetry, stepRetry}, false},
		{"link full", dramnode.ErrBusy, 0, false, [3]step{stepRetry, stepRetry, stepRetry}, false},
		{"lost", lost, 0, false, [3]step{stepRetry, stepRetry, stepRetry}, true},
		{"wrong key", dramnode.ErrNotAuthorised, 0, false, [3]step{stepFail, stepFail, stepFail}, false},
		{"bad call", dramnode.ErrInvalid, 0, false, [3]step{stepFail, stepFail, stepFail}, false},
		{"malformed reply", errReply, 0, false, [3]step{stepFail, stepFail, stepFail}, true},
		{"no buffer now", &placeError{dramnode.ErrBusy}, 0, false, [3]step{stepRetry, stepFail, stepFail}, true},
		{"no buffer ever", &placeError{dramnode.ErrNoMemory}, 0, false, [3]step{stepFail, stepFail, stepFail}, true},
		{"no buffer, wrapped", fmt.Errorf("n1: %w", &placeError{dramnode.ErrBusy}), 0, false, [3]step{stepRetry, stepFail, stepFail}, true},
	} {
		for i, p := range pasts {
			s, doubt := decide(p, tc.err, tc.status, tc.newer)
			if s != tc.want[i] || doubt != (p.write && tc.doubt) {
				t.Errorf("%s after %+v: step %d, doubt %v, want %d, %v", tc.name, p, s, doubt, tc.want[i], tc.doubt)
			}
		}
	}
}

func TestLastWord(t *testing.T) {
	for _, tc := range []struct {
		err, doubted error
	}{
		{dramnode.ErrUnavailable, dramnode.ErrUnknownOutcome},
		{dramnode.ErrNoQuorum, dramnode.ErrUnknownOutcome},
		{dramnode.ErrNoMemory, dramnode.ErrUnknownOutcome},
		{dramnode.ErrUnknownOutcome, dramnode.ErrUnknownOutcome},
		{dramnode.ErrNotFound, dramnode.ErrNotFound},
		{&dramnode.GenerationError{Current: 3}, dramnode.ErrGenerationMismatch},
	} {
		err := fmt.Errorf("client: %w", tc.err)
		if got := lastWord(false, err); got != err {
			t.Errorf("%v without doubt became %v", err, got)
		}
		got := lastWord(true, err)
		if !errors.Is(got, tc.doubted) || tc.doubted == dramnode.ErrUnknownOutcome && tc.err != tc.doubted && errors.Is(got, tc.err) {
			t.Errorf("%v in doubt became %v", err, got)
		}
	}
}

func TestRecordsKept(t *testing.T) {
	table := func(cluster uint64, losses uint32) *control.Table {
		return &control.Table{ClusterID: cluster, Rows: []control.Row{{}, {Losses: losses}}}
	}
	for _, tc := range []struct {
		now  *control.Table
		p    ring.Partition
		want bool
	}{
		{table(1, 2), 1, true},
		{table(1, 3), 1, false},
		{table(1, 3), 0, true},
		{table(2, 2), 1, false},
		{&control.Table{ClusterID: 2}, 1, false},
	} {
		if got := recordsKept(table(1, 2), tc.now, tc.p); got != tc.want {
			t.Errorf("cluster %d, %+v, partition %d: %v", tc.now.ClusterID, tc.now.Rows, tc.p, got)
		}
	}
}

func TestAttemptLimit(t *testing.T) {
	for _, tc := range []struct {
		bytes, unanswered int
		want              time.Duration
	}{
		{0, 0, time.Second}, {0, 1, 2 * time.Second}, {0, 2, 4 * time.Second}, {0, 100, 32 * time.Second},
		{64 << 20, 0, 5 * time.Second}, {64 << 20, 1, 10 * time.Second},
	} {
		if got := attemptLimit(tc.bytes, tc.unanswered); got != tc.want {
			t.Errorf("%d bytes after %d: %v, want %v", tc.bytes, tc.unanswered, got, tc.want)
		}
	}
}

func TestChoose(t *testing.T) {
	replicas := func(nanos ...int64) (all []candidate) {
		for _, n := range nanos {
			p := &peer{}
			p.load.nanos.Store(n)
			all = append(all, candidate{to: p})
		}
		return all
	}
	count := func(all []candidate) (chosen [control.MaxReplicas]int, samples int) {
		for r := range uint32(64 * 60) {
			i, sample := choose(all, r)
			chosen[i]++
			if sample {
				samples++
			}
		}
		return chosen, samples
	}
	// An even choice among equals; of three, one takes part in two of three draws.
	if got, samples := count(replicas(5, 5, 5)); got[0] != 1280 || got[1] != 1280 || got[2] != 1280 || samples != 60 {
		t.Errorf("equals: %v with %d samples", got, samples)
	}
	if got, _ := count(replicas(5, 30, 12)); got[1] != 20 || got[0] != 20+2*1260 || got[2] != 20+1260 {
		t.Errorf("one slow, one fast: %v", got)
	}
	if got, _ := count(replicas(5)); got[0] != 3840 {
		t.Errorf("one: %v", got)
	}
	// What is under way counts.
	busy := replicas(5, 6)
	busy[0].to.load.waiting.Store(1)
	if got, _ := count(busy); got[1] != 3810 {
		t.Errorf("a busy one: %v", got)
	}
	// Who is near takes part always, and wins unless it costs more.
	near := replicas(5, 5, 5, 5)
	near[3].to.load.near.Store(nearHost)
	if got, _ := count(near); got[3] != 3840-45 {
		t.Errorf("one near: %v", got)
	}
	near[3].to.load.nanos.Store(7)
	if got, _ := count(near); got[3] != 3840-45 {
		t.Errorf("one near that is a little slower: %v", got)
	}
	near[3].to.load.nanos.Store(8)
	if got, _ := count(near); got[3] != 15 {
		t.Errorf("one near that is slow: %v", got)
	}
}

func TestLoad(t *testing.T) {
	var l load
	l.connected(&transport.LinkInfo{Peer: transport.Peer{Transport: "tcp/lo"}})
	if l.near.Load() != nearHost || l.cost() != int64(guess[nearHost]) {
		t.Errorf("tcp/lo: near %d, cost %d", l.near.Load(), l.cost())
	}
	l.waiting.Add(2)
	if l.cost() != 3*int64(guess[nearHost]) {
		t.Errorf("cost %d with two under way", l.cost())
	}
	l.done(time.Time{})
	l.done(time.Now().Add(-time.Hour))
	if l.cost() < int64(time.Hour)/(sampleWeight+1) || l.waiting.Load() != 0 {
		t.Errorf("cost %d after an hour", l.cost())
	}
	var other load
	other.connected(&transport.LinkInfo{Peer: transport.Peer{Transport: "rc_mlx5/mlx5_0"}})
	other.refused()
	if other.near.Load() != nearElsewhere || other.cost() != refusedNanos {
		t.Errorf("near %d, cost %d after a refusal", other.near.Load(), other.cost())
	}
}

// A reader is not told of an outcome that is unknown: there is none.
func TestFailureOfReads(t *testing.T) {
	lost := reply{err: fmt.Errorf("%w: link to n1: gone", dramnode.ErrUnknownOutcome)}
	err := failure(false, &lost)
	if !errors.Is(err, dramnode.ErrUnavailable) || errors.Is(err, dramnode.ErrUnknownOutcome) || err.Error() != "dramnode: unavailable: link to n1: gone" {
		t.Errorf("%v", err)
	}
}

// A write may end as "nothing happened" only when that is so.
func TestFailureOfWrites(t *testing.T) {
	for _, r := range []reply{
		{err: errReply},
		{err: &placeError{dramnode.ErrBusy}},
		{err: fmt.Errorf("n1: %w", dramnode.ErrUnknownOutcome)},
		{header: wire.Header{Status: wire.StatusUnknownOutcome}},
	} {
		if err := failure(true, &r); !errors.Is(err, dramnode.ErrUnknownOutcome) || errors.Is(err, dramnode.ErrBusy) {
			t.Errorf("write: %v", err)
		}
		if err := failure(false, &r); errors.Is(err, dramnode.ErrUnknownOutcome) {
			t.Errorf("read: %v", err)
		}
	}
}

func TestAcks(t *testing.T) {
	var a acks
	begin := func(counter, first uint64) {
		t.Helper()
		if c, f := a.begin(1); c != counter || f != first {
			t.Errorf("write %d with %d unacked, want %d and %d", c, f, counter, first)
		}
	}
	begin(1, 1)
	begin(2, 1)
	begin(3, 1)
	a.end(2, 1)
	begin(4, 1)
	a.end(1, 1)
	begin(5, 3)
	a.end(3, 1)
	a.end(4, 1)
	a.end(5, 1)
	begin(6, 6)
	one, other := numbers{acks: &a}, numbers{acks: &a}
	for i := range uint64(blockNumbers + 1) { // two blocks
		want := 7 + i
		if i == blockNumbers {
			want += blockNumbers // the other's block lies between
		}
		if c, f := one.begin(); c != want || f != 6 {
			t.Errorf("write %d of a batch is %d with %d unacked, want %d and 6", i, c, f, want)
		}
		if i == 0 {
			other.begin()
		}
	}
	other.end()
	a.end(6, 1)
	begin(7+3*blockNumbers, 7)
	one.end()
	one.end() // nothing
	a.end(7+3*blockNumbers, 1)
	begin(8+3*blockNumbers, 8+3*blockNumbers)
}

// Counters end in any order, and first is the lowest that has not.
func TestAcksInAnyOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var a acks
		next := uint64(1)
		open := map[uint64]uint64{} // begun, with how many
		var order []uint64
		for range rapid.IntRange(1, 300).Draw(t, "steps") {
			if len(order) > 0 && rapid.IntRange(0, 3).Draw(t, "end") == 0 {
				i := rapid.IntRange(0, len(order)-1).Draw(t, "which")
				a.end(order[i], open[order[i]])
				delete(open, order[i])
				order = append(order[:i], order[i+1:]...)
				continue
			}
			n := rapid.SampledFrom([]uint64{1, blockNumbers}).Draw(t, "n")
			first := next
			for c := range open {
				first = min(first, c)
			}
			if counter, unacked := a.begin(n); counter != next || unacked != first {
				t.Fatalf("counter %d with %d unacknowledged, want %d and %d of %v", counter, unacked, next, first, order)
			}
			open[next], order = n, append(order, next)
			next += n
		}
		for _, c := range order {
			a.end(c, open[c])
		}
		if a.first != next {
			t.Fatalf("%d is unacknowledged, want %d", a.first, next)
		}
	})
}

func BenchmarkAcks(b *testing.B) {
	var a acks
	for b.Loop() {
		one, _ := a.begin(1)
		other, _ := a.begin(1)
		a.end(other, 1)
		a.end(one, 1)
	}
}

// Blocks never overlap, a failed take means that no such block is free, and all comes back in one piece.
func TestBuddy(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		units := rapid.IntRange(1, 200).Draw(t, "units")
		b := newBuddy(units)
		largest := len(b.heads) - 1
		used := make([]bool, units)
		type block struct {
			unit  int32
			order int
		}
		var taken []block
		for range rapid.IntRange(0, 100).Draw(t, "steps") {
			if len(taken) > 0 && rapid.Bool().Draw(t, "give") {
				i := rapid.IntRange(0, len(taken)-1).Draw(t, "which")
				for u := range int32(1) << taken[i].order {
					used[taken[i].unit+u] = false
				}
				b.give(taken[i].unit, taken[i].order)
				taken[i] = taken[len(taken)-1]
				taken = taken[:len(taken)-1]
				continue
			}
			order := rapid.IntRange(0, largest).Draw(t, "order")
			unit, ok := b.take(order)
			if !ok {
				for at := 0; at+1<<order <= units; at += 1 << order {
					free := true
					for u := range 1 << order {
						free = free && !used[at+u]
					}
					if free {
						t.Fatalf("no block of order %d was found, but one is free at %d", order, at)
					}
				}
				continue
			}
			for u := range int32(1) << order {
				if used[unit+u] {
					t.Fatalf("unit %d was given twice", unit+u)
				}
				used[unit+u] = true
			}
			taken = append(taken, block{unit, order})
		}
		for _, x := range taken {
			b.give(x.unit, x.order)
		}
		if unit, ok := b.take(largest); !ok || unit != 0 {
			t.Fatalf("the memory is in pieces after everything came back")
		}
	})
}

func TestOrderFor(t *testing.T) {
	for n, want := range map[int]int{0: 0, 1: 0, 2: 1, 3: 2, 4: 2, 5: 3} {
		if got := orderFor(n); got != want {
			t.Errorf("orderFor(%d) = %d, want %d", n, got, want)
		}
	}
}

// The caller may leave before the network has read the body, so it must not be the caller's memory.
func TestShortBodiesAreCopied(t *testing.T) {
	var c Client
	for _, large := range []bool{false, true} {
		value, buffer := []byte("value"), (*Buffer)(nil)
		if large {
			buffer = heapBuffer(value)
		}
		a := c.newCall()
		a.load(value, buffer)
		value[0] = 'X'
		if got := string(a.sent.Body.Bytes); got != "value" {
			t.Errorf("in a Buffer: %v: the network reads %q", large, got)
		}
	}
}
