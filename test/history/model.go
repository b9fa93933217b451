package history

import (
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/wire"
)

// Linearizable looks for an order of the operations on one key that explains every answer, and returns what is wrong,
// "" for nothing.
func Linearizable(ops []Op, limit time.Duration) string {
	history := make([]porcupine.Operation, len(ops))
	for i := range ops {
		o := &ops[i]
		history[i] = porcupine.Operation{ClientId: o.Client, Input: o, Output: o, Call: o.Call, Return: o.Return}
	}
	switch porcupine.CheckOperationsTimeout(model, history, limit) {
	case porcupine.Illegal:
		return "it is not linearizable"
	case porcupine.Unknown:
		return "it takes more than " + limit.String() + " to judge"
	}
	return ""
}

// A register is what one key may hold: value 0 is none. generation is unknown (doubtful) after a write without an
// answer; last is the highest generation that was seen.
type register struct {
	value            uint64
	generation, last dramnode.Generation
	doubtful         bool
}

// learned is the state with the generation g learned, if g is possible.
func (s register) learned(g dramnode.Generation) (register, bool) {
	if !s.doubtful {
		return s, s.generation == g
	}
	ok := g > s.last
	s.doubtful, s.generation, s.last = false, g, max(s.last, g)
	return s, ok
}

// step returns the states that o may lead to; none when its outcome is impossible.
func (s register) step(o *Op) []any {
	switch o.Status {
	case wire.StatusUnknownOutcome:
		return s.perhaps(o)
	case wire.StatusNotFound:
		if s.value == 0 && (o.Kind == wire.KindGet || o.Kind == wire.KindTouch) {
			return []any{s}
		}
		return nil
	case wire.StatusGenerationMismatch:
		s, ok := s.learned(o.Generation)
		if ok && o.Conditional && o.Generation != o.IfGeneration {
			return []any{s}
		}
		return nil
	case wire.StatusOK:
		return s.done(o)
	}
	return nil
}

// perhaps is step for an operation without an answer. One whose condition cannot hold is not executed.
func (s register) perhaps(o *Op) []any {
	next := register{value: o.Value, last: s.last, doubtful: o.Value != 0}
	switch {
	case !o.write() || s.value == 0 && o.Kind == wire.KindTouch:
		return []any{s}
	case o.Conditional && !s.doubtful && s.generation != o.IfGeneration, o.Conditional && s.doubtful && o.IfGeneration <= s.last:
		return []any{s}
	case o.Kind == wire.KindTouch:
		next.value, next.doubtful = s.value, true
	case o.Kind == wire.KindDelete:
		next.value, next.doubtful = 0, false
	}
	if o.Conditional {
		next.last = max(next.last, o.IfGeneration)
	}
	return []any{s, next}
}

// done is step for an operation that succeeded.
func (s register) done(o *Op) []any {
	if o.write() && o.Conditional {
		var ok bool
		if s, ok = s.learned(o.IfGeneration); !ok {
			return nil
		}
	}
	value := o.Value
	switch o.Kind {
	case wire.KindGet:
		if s, ok := s.learned(o.Generation); ok && s.value == value && value != 0 {
			return []any{s}
		}
		return nil
	case wire.KindDelete:
		if s.value == 0 {
			if o.Generation == dramnode.Absent {
				return []any{s}
			}
			return nil
		}
		value = 0
	case wire.KindTouch:
		if value = s.value; value == 0 {
			return nil
		}
	}
	if o.Generation <= s.last {
		return nil // generations are never used again
	}
	next := register{value: value, generation: o.Generation, last: o.Generation}
	if value == 0 {
		next.generation = dramnode.Absent
	}
	return []any{next}
}

var model = (&porcupine.NondeterministicModel{
	Init:  func() []any { return []any{register{}} },
	Step:  func(state, in, _ any) []any { return state.(register).step(in.(*Op)) },
	Equal: func(a, b any) bool { return a == b },
}).ToModel()
