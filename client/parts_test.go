package client

import (
	"errors"
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/wire"
)

func TestDecide(t *testing.T) {
	refused := fmt.Errorf("n1: %w: connection refused", dramnode.ErrUnavailable)
	lost := fmt.Errorf("n1: %w: %w", dramnode.ErrUnknownOutcome, dramnode.ErrClosed)
	for _, tc := range []struct {
		name        string
		err         error
		status      wire.Status
		newer       bool
		read, write step
	}{
		{"ok", nil, wire.StatusOK, true, stepDone, stepDone},
		{"moved", nil, wire.StatusNotOwner, true, stepRefresh, stepRefresh},
		{"the node is behind", nil, wire.StatusNotOwner, false, stepRetry, stepRetry},
		{"not served yet", nil, wire.StatusUnavailable, false, stepRetry, stepRetry},
		{"not served, moved", nil, wire.StatusUnavailable, true, stepRefresh, stepRefresh},
		{"queue full", nil, wire.StatusBusy, true, stepRetry, stepRetry},
		{"node closes", nil, wire.StatusClosed, false, stepRetry, stepRetry},
		{"forward lost", nil, wire.StatusUnknownOutcome, false, stepRetry, stepFail},
		{"missing", nil, wire.StatusNotFound, false, stepFail, stepFail},
		{"condition", nil, wire.StatusGenerationMismatch, true, stepFail, stepFail},
		{"memory", nil, wire.StatusNoMemory, false, stepFail, stepFail},
		{"no quorum", nil, wire.StatusNoQuorum, false, stepFail, stepFail},
		{"not sent", refused, 0, false, stepRetry, stepRetry},
		{"link full", dramnode.ErrBusy, 0, false, stepRetry, stepRetry},
		{"lost", lost, 0, false, stepRetry, stepFail},
		{"wrong key", dramnode.ErrNotAuthorised, 0, false, stepFail, stepFail},
		{"bad call", dramnode.ErrInvalid, 0, false, stepFail, stepFail},
		{"malformed reply", errReply, 0, false, stepFail, stepFail},
		{"no buffer now", &placeError{dramnode.ErrBusy}, 0, false, stepRetry, stepFail},
		{"no buffer ever", &placeError{dramnode.ErrNoMemory}, 0, false, stepFail, stepFail},
		{"no buffer, wrapped", fmt.Errorf("n1: %w", &placeError{dramnode.ErrBusy}), 0, false, stepRetry, stepFail},
	} {
		if got := decide(false, tc.err, tc.status, tc.newer); got != tc.read {
			t.Errorf("read, %s: step %d, want %d", tc.name, got, tc.read)
		}
		if got := decide(true, tc.err, tc.status, tc.newer); got != tc.write {
			t.Errorf("write, %s: step %d, want %d", tc.name, got, tc.write)
		}
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
	if len(a.done) != 0 {
		t.Errorf("%d counters are kept", len(a.done))
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
