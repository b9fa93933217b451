package history

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/wire"
)

// Oracle judges the history of one key by its generations and returns what is wrong, "" for nothing:
//
//   - each acknowledged write has a generation of its own, and each value one generation, unless the key was touched;
//   - what began after another operation had ended has a higher generation if it is a write, no lower one if it is a read;
//   - a generation shows the value that was written with it;
//   - nothing is missing but for a delete that may have been executed.
func Oracle(ops []Op) string {
	if fault := values(ops); fault != "" {
		return fault
	}
	return order(ops)
}

// values checks generations against values.
func values(ops []Op) string {
	writes, shows, made := map[dramnode.Generation]*Op{}, map[dramnode.Generation]*Op{}, map[uint64]*Op{}
	touched := slices.ContainsFunc(ops, func(o Op) bool { return o.Kind == wire.KindTouch })
	for i := range ops {
		o := &ops[i]
		if o.Status != wire.StatusOK || o.Generation == dramnode.Absent {
			continue
		}
		if o.write() {
			if other := writes[o.Generation]; other != nil {
				return fmt.Sprintf("two writes of one generation: %v; %v", other, o)
			}
			writes[o.Generation] = o
		}
		if o.Kind == wire.KindDelete || o.Kind == wire.KindTouch {
			continue
		}
		if other := shows[o.Generation]; other != nil && other.Value != o.Value {
			return fmt.Sprintf("two values of one generation: %v; %v", other, o)
		}
		if other := made[o.Value]; other != nil && other.Generation != o.Generation && !touched {
			return fmt.Sprintf("one value with two generations: %v; %v", other, o)
		}
		shows[o.Generation], made[o.Value] = o, o
	}
	for i := range ops {
		o := &ops[i]
		if by := writes[o.Generation]; by != nil && by.Kind == wire.KindDelete && o.Kind == wire.KindGet && o.Status == wire.StatusOK {
			return fmt.Sprintf("a value with the generation of a delete: %v; %v", by, o)
		}
	}
	return ""
}

// order checks generations against real time.
func order(ops []Op) string {
	byCall, byReturn := pointers(ops), pointers(ops)
	slices.SortFunc(byCall, func(a, b *Op) int { return cmp.Compare(a.Call, b.Call) })
	slices.SortFunc(byReturn, func(a, b *Op) int { return cmp.Compare(a.Return, b.Return) })
	deletes := deletesOf(byCall)
	var newest *Op // the highest generation that had been answered when o began
	next := 0
	for _, o := range byCall {
		for ; next < len(byReturn) && byReturn[next].Return < o.Call; next++ {
			if newest == nil || byReturn[next].Generation > newest.Generation {
				newest = byReturn[next]
			}
		}
		if newest == nil || o.unknown() {
			continue
		}
		switch {
		case o.Generation == dramnode.Absent && newest.Generation > deletes.highest(o.Return):
			return fmt.Sprintf("missing: %v, but before there was %v, and no delete since", o, newest)
		case o.Generation == dramnode.Absent:
		case o.Generation < newest.Generation, o.write() && o.Status == wire.StatusOK && o.Generation == newest.Generation:
			return fmt.Sprintf("out of order: %v, but before there was %v", o, newest)
		}
	}
	return ""
}

func pointers(ops []Op) []*Op {
	all := make([]*Op, len(ops))
	for i := range ops {
		all[i] = &ops[i]
	}
	return all
}

// A deletion is the call of a delete that may have been executed, with the highest generation of all deletes up to it.
type deletion struct {
	call       int64
	generation dramnode.Generation
}

// deletes are ascending by call.
type deletes []deletion

func deletesOf(byCall []*Op) (d deletes) {
	var highest dramnode.Generation
	for _, o := range byCall {
		switch {
		case o.Kind != wire.KindDelete:
			continue
		case o.unknown():
			highest = ^dramnode.Absent
		case o.Status == wire.StatusOK:
			highest = max(highest, o.Generation)
		}
		d = append(d, deletion{o.Call, highest})
	}
	return d
}

// highest returns the highest generation of a delete that began before that instant.
func (d deletes) highest(before int64) dramnode.Generation {
	i, _ := slices.BinarySearchFunc(d, before, func(e deletion, at int64) int { return cmp.Compare(e.call, at) })
	if i == 0 {
		return dramnode.Absent
	}
	return d[i-1].generation
}
