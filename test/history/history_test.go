package history

import (
	"errors"
	"testing"
	"time"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/wire"
)

// at places an operation: those with different numbers follow each other.
func at(i int, o Op) Op {
	o.Key, o.Call, o.Return = "k", int64(2*i), int64(2*i+1)
	return o
}

func put(i int, v uint64, g dramnode.Generation) Op {
	return at(i, Op{Kind: wire.KindPut, Value: v, Generation: g})
}

func get(i int, v uint64, g dramnode.Generation) Op {
	return at(i, Op{Kind: wire.KindGet, Value: v, Generation: g})
}

func missing(i int) Op { return at(i, Op{Kind: wire.KindGet, Status: wire.StatusNotFound}) }

func remove(i int, g dramnode.Generation) Op {
	return at(i, Op{Kind: wire.KindDelete, Generation: g})
}

// doubt makes o one without an answer.
func doubt(o Op) Op {
	o.Status, o.Generation, o.Return = wire.StatusUnknownOutcome, 0, Never
	return o
}

func when(g dramnode.Generation, o Op) Op {
	o.Conditional, o.IfGeneration = true, g
	return o
}

func mismatch(o Op, current dramnode.Generation) Op {
	o.Status, o.Generation = wire.StatusGenerationMismatch, current
	return o
}

// together makes operations overlap.
func together(ops ...Op) []Op {
	for i := range ops {
		ops[i].Call = ops[0].Call
	}
	return ops
}

func TestHistories(t *testing.T) {
	for name, c := range map[string]struct {
		ops     []Op
		wrong   bool
		unclear bool // the oracle does not see it
	}{
		"right":                    {ops: []Op{put(0, 1, 5), get(1, 1, 5), remove(2, 6), missing(3), put(4, 2, 7), get(5, 2, 7)}},
		"conditions":               {ops: []Op{when(0, put(0, 1, 5)), when(5, put(1, 2, 6)), mismatch(when(5, put(2, 3, 0)), 6), when(6, remove(3, 7)), mismatch(when(6, remove(4, 0)), 0)}},
		"stale read":               {ops: []Op{put(0, 1, 5), put(1, 2, 6), get(2, 1, 5)}, wrong: true},
		"stale mismatch":           {ops: []Op{put(0, 1, 5), put(1, 2, 6), mismatch(when(4, put(2, 3, 0)), 5)}, wrong: true},
		"either of two at once":    {ops: append(together(put(0, 1, 5), put(0, 2, 6), get(0, 1, 5)), get(1, 2, 6))},
		"generation reused":        {ops: []Op{put(0, 1, 5), put(1, 2, 5)}, wrong: true},
		"generation going down":    {ops: []Op{put(0, 1, 5), put(1, 2, 4)}, wrong: true},
		"lost write":               {ops: []Op{put(0, 1, 5), missing(1)}, wrong: true},
		"lost, and seen again":     {ops: []Op{put(0, 1, 5), at(1, Op{Kind: wire.KindDelete}), get(2, 1, 5)}, wrong: true},
		"deleted at once":          {ops: together(put(0, 1, 5), remove(0, 6), missing(0))},
		"deleted before":           {ops: []Op{put(0, 1, 5), remove(1, 6), put(2, 2, 7), missing(3)}, wrong: true},
		"seen after its delete":    {ops: []Op{put(0, 1, 5), remove(1, 6), get(2, 1, 5)}, wrong: true},
		"doubt, applied":           {ops: []Op{put(0, 1, 5), doubt(put(1, 2, 0)), get(2, 1, 5), get(3, 2, 9)}},
		"doubt, not":               {ops: []Op{put(0, 1, 5), doubt(put(1, 2, 0)), get(2, 1, 5)}},
		"doubt, back":              {ops: []Op{put(0, 1, 5), doubt(put(1, 2, 0)), get(2, 2, 9), get(3, 1, 5)}, wrong: true},
		"doubt, twice":             {ops: []Op{put(0, 1, 5), doubt(put(1, 2, 0)), get(2, 2, 9), put(3, 3, 10), get(4, 2, 11)}, wrong: true},
		"doubtful delete":          {ops: []Op{put(0, 1, 5), doubt(remove(1, 0)), get(2, 1, 5), missing(3)}},
		"doubtful delete, too old": {ops: []Op{doubt(remove(0, 0)), put(1, 1, 5), get(2, 1, 5), missing(3)}},
		"doubt, condition":         {ops: []Op{put(0, 1, 5), doubt(when(4, put(1, 2, 0))), get(2, 2, 9)}, wrong: true, unclear: true},
		"two winners":              {ops: []Op{put(0, 1, 5), when(5, put(1, 2, 6)), when(5, put(2, 3, 7))}, wrong: true, unclear: true},
		"values mixed up":          {ops: []Op{put(0, 1, 5), get(1, 2, 5)}, wrong: true},
		"touch":                    {ops: []Op{put(0, 1, 5), at(1, Op{Kind: wire.KindTouch, Generation: 6}), get(2, 1, 6)}},
		"touch, of nothing":        {ops: []Op{put(0, 1, 5), remove(1, 6), at(2, Op{Kind: wire.KindTouch, Generation: 7})}, wrong: true, unclear: true},
	} {
		if fault := Linearizable(c.ops, time.Minute); (fault != "") != c.wrong {
			t.Errorf("%s: porcupine says %q", name, fault)
		}
		if fault := Oracle(c.ops); (fault != "") != (c.wrong && !c.unclear) {
			t.Errorf("%s: the oracle says %q", name, fault)
		}
	}
}

func TestCheckNamesTheKey(t *testing.T) {
	ops := []Op{put(0, 1, 5), get(1, 1, 5)}
	for _, o := range []Op{put(0, 1, 5), missing(1), put(2, 1, 4)} {
		o.Key = "wrong"
		ops = append(ops, o)
	}
	var e *Error
	if err := Check(ops, time.Minute); !errors.As(err, &e) || e.Key != "wrong" || len(e.Ops) != 3 {
		t.Errorf("%v", err)
	}
	if err := Check(ops[:2], time.Minute); err != nil {
		t.Error(err)
	}
}
