package node

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/test/proc"
	"github.com/dramnode/dramnode/wire"
)

// An op is one operation of a history. value names what a put wrote or a get saw; 0 is no value.
type op struct {
	kind   wire.Kind
	key    string
	ifGen  dramnode.Generation
	ifThat bool // the condition ifGen holds
	value  uint64
}

type observed struct {
	status     wire.Status
	generation dramnode.Generation
	value      uint64
}

// A keyState is what one key may hold: value 0 is none. generation is unknown (doubtful) after a write
// without an answer; last is the highest generation that was seen.
type keyState struct {
	value            uint64
	generation, last dramnode.Generation
	doubtful         bool
}

// current is the state with the generation g learned, if g is possible.
func (s keyState) current(g dramnode.Generation) (keyState, bool) {
	if s.doubtful {
		s.doubtful, s.generation = false, g
		ok := g > s.last
		s.last = max(s.last, g)
		return s, ok
	}
	return s, s.generation == g
}

// step returns the states that in may lead to, given its outcome; none when the outcome is impossible.
func step(s keyState, in op, out observed) []keyState {
	write := in.kind != wire.KindGet
	switch out.status {
	case wire.StatusUnknownOutcome:
		applied := keyState{value: in.value, last: s.last, doubtful: in.value != 0}
		switch {
		case !write || s.value == 0 && in.kind == wire.KindTouch:
			return []keyState{s}
		case in.kind == wire.KindTouch:
			applied.value, applied.doubtful = s.value, true
		}
		return []keyState{s, applied}
	case wire.StatusNotFound:
		if s.value == 0 && (in.kind == wire.KindGet || in.kind == wire.KindTouch) {
			return []keyState{s}
		}
		return nil
	case wire.StatusGenerationMismatch:
		s, ok := s.current(out.generation)
		if ok && in.ifThat && out.generation != in.ifGen {
			return []keyState{s}
		}
		return nil
	case wire.StatusOK:
	default:
		return nil
	}
	if write && in.ifThat {
		var ok bool
		if s, ok = s.current(in.ifGen); !ok {
			return nil
		}
	}
	switch in.kind {
	case wire.KindGet:
		if s, ok := s.current(out.generation); ok && s.value == out.value && s.value != 0 {
			return []keyState{s}
		}
		return nil
	case wire.KindDelete:
		if s.value == 0 {
			if out.generation == dramnode.Absent {
				return []keyState{s}
			}
			return nil
		}
		in.value = 0
	case wire.KindTouch:
		if in.value = s.value; s.value == 0 {
			return nil
		}
	}
	if out.generation <= s.last {
		return nil // generations are never used again
	}
	next := keyState{value: in.value, generation: out.generation, last: out.generation}
	if in.value == 0 {
		next.generation = dramnode.Absent
	}
	return []keyState{next}
}

func model() porcupine.Model {
	m := porcupine.NondeterministicModel{
		Partition: func(history []porcupine.Operation) (parts [][]porcupine.Operation) {
			byKey := map[string]int{}
			for _, o := range history {
				key := o.Input.(op).key
				i, ok := byKey[key]
				if !ok {
					i = len(parts)
					byKey[key], parts = i, append(parts, nil)
				}
				parts[i] = append(parts[i], o)
			}
			return parts
		},
		Init: func() []any { return []any{keyState{}} },
		Step: func(state, in, out any) (next []any) {
			for _, s := range step(state.(keyState), in.(op), out.(observed)) {
				next = append(next, s)
			}
			return next
		},
		Equal: func(a, b any) bool { return a == b },
		DescribeOperation: func(in, out any) string {
			return fmt.Sprintf("%+v -> %+v", in, out)
		},
	}
	return m.ToModel()
}

// bodyOf is the value that a put with this number writes; its first 8 bytes tell which.
func bodyOf(number uint64) []byte {
	size := 8 + int(number*2654435761%300)
	if number%97 == 0 {
		size += 9000 // too long to travel inline
	}
	return bytes.Repeat(fmt.Appendf(nil, "%08x", number), size/8+1)[:size]
}

// A historian is one client that records what it does.
type historian struct {
	t       *testing.T
	id      int
	user    *caller
	nodes   *pool
	random  *rand.Rand
	seen    map[string]dramnode.Generation // for conditions
	history []porcupine.Operation
	began   time.Time
	counter uint64 // of writes
}

func (h *historian) run(operations, keys int) {
	for i := range operations {
		in := op{key: fmt.Sprintf("h-%d", h.random.IntN(keys))}
		switch n := h.random.IntN(100); {
		case n < 45:
			in.kind = wire.KindGet
		case n < 60:
			in.kind = wire.KindPut
		case n < 75:
			in.kind, in.ifThat, in.ifGen = wire.KindPut, true, h.seen[in.key]
		case n < 82:
			in.kind = wire.KindDelete
		case n < 90:
			in.kind, in.ifThat, in.ifGen = wire.KindDelete, true, h.seen[in.key]
		default:
			in.kind = wire.KindTouch
		}
		if in.kind == wire.KindPut {
			in.value = uint64(h.id)<<20 | uint64(i) + 1
		}
		if !h.record(in) {
			return
		}
	}
}

func (h *historian) record(in op) bool {
	header := wire.Header{Kind: in.kind, Key: []byte(in.key)}
	var body []byte
	ranged := in.kind == wire.KindGet && h.random.IntN(3) == 0
	switch {
	case ranged:
		header.Flags = wire.FlagRange
		header.Ext = wire.AppendReadExt(nil, wire.ReadExt{Start: 0, End: 8})
	case in.kind != wire.KindGet:
		h.counter++
		header.Ext = wire.AppendWriteExt(nil, wire.WriteExt{Client: uint64(h.id) + 1, Counter: h.counter, FirstUnacked: h.counter, IfGeneration: in.ifGen, TTLMillis: uint64(h.random.IntN(2)) * 3_600_000})
	}
	if in.kind == wire.KindPut {
		body = bodyOf(in.value)
		header.CRC = wire.Checksum(body)
	}
	if in.ifThat {
		header.Flags |= wire.FlagIfMatch
	}
	call := time.Since(h.began)
	r, err := h.user.through(h.nodes, h.random, header, body)
	end := time.Since(h.began)
	out := observed{status: wire.StatusOf(err), generation: r.ext.Generation}
	switch {
	case err == nil && in.kind == wire.KindGet:
		if _, scanErr := fmt.Sscanf(string(r.body[:min(8, len(r.body))]), "%x", &out.value); scanErr != nil {
			h.t.Errorf("%+v: %q: %v", in, r.body, scanErr)
			return false
		}
		whole := bodyOf(out.value)
		if got := r.body; ranged && !bytes.Equal(got, whole[:8]) || !ranged && !bytes.Equal(got, whole) || r.ext.Size != uint64(len(whole)) {
			h.t.Errorf("%+v: %d bytes that nobody wrote", in, len(got))
			return false
		}
		h.seen[in.key] = out.generation
	case err == nil:
		if h.seen[in.key] = out.generation; in.kind == wire.KindDelete {
			h.seen[in.key] = dramnode.Absent
		}
	case errors.Is(err, dramnode.ErrNotFound):
		h.seen[in.key] = dramnode.Absent
	case errors.Is(err, dramnode.ErrGenerationMismatch):
		h.seen[in.key] = out.generation
	case errors.Is(err, dramnode.ErrUnknownOutcome):
		end = math.MaxInt64 // it may yet be applied
	default:
		h.t.Errorf("%+v: %v: %s", in, err, r.body)
		return false
	}
	h.history = append(h.history, porcupine.Operation{ClientId: h.id, Input: in, Call: int64(call), Output: out, Return: int64(end)})
	return true
}

// TestLinearizable lets clients work on the same keys through random nodes while one node joins and
// another leaves, and then looks for an order of the operations that explains every answer.
func TestLinearizable(t *testing.T) {
	t.Parallel()
	const clients, operations, keys = 8, 10_000, 400
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	c := newCluster(t, seed, "n1", "n2", "n3")
	c.agree("n1", "n2", "n3")
	nodes := newPool("n1", "n2", "n3")
	began := time.Now()
	var historians []*historian
	var wg sync.WaitGroup
	half := make(chan struct{}, clients)
	for id := range clients {
		h := &historian{t: t, id: id, user: c.caller(), nodes: nodes, random: rand.New(rand.NewPCG(seed, uint64(id))), seen: map[string]dramnode.Generation{}, began: began}
		historians = append(historians, h)
		wg.Go(func() {
			h.run(operations/4, keys)
			half <- struct{}{}
			h.run(operations-operations/4, keys)
		})
	}
	<-half
	c.start("n4", proc.Address(t, nil))
	c.wait("n4 to own partitions", func() bool { return c.nodes["n4"].owned() > 0 })
	nodes.set("n1", "n2", "n3", "n4")
	c.wait("n4 to have its partitions", func() bool { return c.nodes["n4"].Info().Moving == 0 })
	c.nodes["n1"].stop()
	<-c.nodes["n1"].done
	if err := c.nodes["n1"].err; err != nil {
		t.Errorf("n1 left with %v", err)
	}
	nodes.set("n2", "n3", "n4")
	left := time.Since(began)
	wg.Wait()
	var history []porcupine.Operation
	unknown := 0
	for _, h := range historians {
		history = append(history, h.history...)
	}
	for _, o := range history {
		if o.Output.(observed).status == wire.StatusUnknownOutcome {
			unknown++
		}
	}
	after := slices.IndexFunc(history, func(o porcupine.Operation) bool { return o.Call > int64(left) })
	t.Logf("%d operations in %v, %d without an answer; n1 had left after %v", len(history), time.Since(began).Round(time.Millisecond), unknown, left.Round(time.Millisecond))
	if after < 0 {
		t.Log("the clients were ready before n1 had left")
	}
	if losses := c.nodes["n2"].Info().Losses; losses != 0 {
		t.Errorf("%d losses", losses)
	}
	if got := porcupine.CheckOperationsTimeout(model(), history, eventually); got != porcupine.Ok {
		t.Errorf("seed %d: the history is %s, want one that is linearizable", seed, got)
	}
}

// TestModelNoticesWrongHistories keeps the test above able to fail.
func TestModelNoticesWrongHistories(t *testing.T) {
	at := func(i int, in op, out observed) porcupine.Operation {
		in.key = "k"
		return porcupine.Operation{Input: in, Output: out, Call: int64(2 * i), Return: int64(2*i + 1)}
	}
	put := func(i int, v uint64, g dramnode.Generation) porcupine.Operation {
		return at(i, op{kind: wire.KindPut, value: v}, observed{generation: g})
	}
	get := func(i int, v uint64, g dramnode.Generation) porcupine.Operation {
		return at(i, op{kind: wire.KindGet}, observed{generation: g, value: v})
	}
	lost := at(1, op{kind: wire.KindPut, value: 2}, observed{status: wire.StatusUnknownOutcome})
	lost.Return = math.MaxInt64
	for name, c := range map[string]struct {
		history []porcupine.Operation
		want    porcupine.CheckResult
	}{
		"right":             {[]porcupine.Operation{put(0, 1, 5), get(1, 1, 5)}, porcupine.Ok},
		"stale read":        {[]porcupine.Operation{put(0, 1, 5), put(1, 2, 6), get(2, 1, 5)}, porcupine.Illegal},
		"generation reused": {[]porcupine.Operation{put(0, 1, 5), put(1, 2, 5)}, porcupine.Illegal},
		"lost write":        {[]porcupine.Operation{put(0, 1, 5), at(1, op{kind: wire.KindGet}, observed{status: wire.StatusNotFound})}, porcupine.Illegal},
		"doubt, applied":    {[]porcupine.Operation{put(0, 1, 5), lost, get(2, 1, 5), get(3, 2, 9)}, porcupine.Ok},
		"doubt, not":        {[]porcupine.Operation{put(0, 1, 5), lost, get(2, 1, 5)}, porcupine.Ok},
		"doubt, back":       {[]porcupine.Operation{put(0, 1, 5), lost, get(2, 2, 9), get(3, 1, 5)}, porcupine.Illegal},
		"two winners": {[]porcupine.Operation{
			put(0, 1, 5),
			at(1, op{kind: wire.KindPut, value: 2, ifThat: true, ifGen: 5}, observed{generation: 6}),
			at(2, op{kind: wire.KindPut, value: 3, ifThat: true, ifGen: 5}, observed{generation: 7}),
		}, porcupine.Illegal},
	} {
		if got := porcupine.CheckOperationsTimeout(model(), c.history, eventually); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}
