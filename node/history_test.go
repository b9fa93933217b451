package node

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/test/history"
	"github.com/dramnode/dramnode/test/proc"
	"github.com/dramnode/dramnode/wire"
)

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
	history []history.Op
	began   time.Time
	counter uint64 // of writes
	values  uint64 // that were written: none twice
}

func (h *historian) run(operations, keys int) {
	for range operations {
		in := history.Op{Client: h.id, Key: fmt.Sprintf("h-%d", h.random.IntN(keys)), Kind: wire.KindTouch}
		switch n := h.random.IntN(100); {
		case n < 45:
			in.Kind = wire.KindGet
		case n < 60:
			in.Kind = wire.KindPut
		case n < 75:
			in.Kind, in.Conditional, in.IfGeneration = wire.KindPut, true, h.seen[in.Key]
		case n < 82:
			in.Kind = wire.KindDelete
		case n < 90:
			in.Kind, in.Conditional, in.IfGeneration = wire.KindDelete, true, h.seen[in.Key]
		}
		if in.Kind == wire.KindPut {
			h.values++
			in.Value = uint64(h.id)<<20 | h.values
		}
		if !h.record(in) {
			return
		}
	}
}

func (h *historian) record(in history.Op) bool {
	header := wire.Header{Kind: in.Kind, Key: []byte(in.Key)}
	var body []byte
	ranged := in.Kind == wire.KindGet && h.random.IntN(3) == 0
	switch {
	case ranged:
		header.Flags = wire.FlagRange
		header.Ext = wire.AppendReadExt(nil, wire.ReadExt{Start: 0, End: 8})
	case in.Kind != wire.KindGet:
		h.counter++
		header.Ext = wire.AppendWriteExt(nil, wire.WriteExt{Client: uint64(h.id) + 1, Counter: h.counter, FirstUnacked: h.counter, IfGeneration: in.IfGeneration, TTLMillis: uint64(h.random.IntN(2)) * 3_600_000})
	}
	if in.Kind == wire.KindPut {
		body = bodyOf(in.Value)
		header.CRC = wire.Checksum(body)
	}
	if in.Conditional {
		header.Flags |= wire.FlagIfMatch
	}
	in.Call = int64(time.Since(h.began))
	r, err := h.user.through(h.nodes, h.random, header, body)
	in.Return, in.Status = int64(time.Since(h.began)), wire.StatusOf(err)
	switch {
	case err == nil && in.Kind == wire.KindGet:
		if _, scanErr := fmt.Sscanf(string(r.body[:min(8, len(r.body))]), "%x", &in.Value); scanErr != nil {
			h.t.Errorf("%+v: %q: %v", in, r.body, scanErr)
			return false
		}
		whole := bodyOf(in.Value)
		if got := r.body; ranged && !bytes.Equal(got, whole[:8]) || !ranged && !bytes.Equal(got, whole) || r.ext.Size != uint64(len(whole)) {
			h.t.Errorf("%+v: %d bytes that nobody wrote", in, len(got))
			return false
		}
		in.Generation = r.ext.Generation
	case err == nil, errors.Is(err, dramnode.ErrGenerationMismatch):
		in.Generation = r.ext.Generation
	case errors.Is(err, dramnode.ErrNotFound):
	case errors.Is(err, dramnode.ErrUnknownOutcome):
		in.Return = history.Never // it may yet be applied
	default:
		h.t.Errorf("%+v: %v: %s", in, err, r.body)
		return false
	}
	if !errors.Is(err, dramnode.ErrUnknownOutcome) {
		h.seen[in.Key] = in.Generation
	}
	if err == nil && in.Kind == wire.KindDelete {
		h.seen[in.Key] = dramnode.Absent
	}
	h.history = append(h.history, in)
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
	var ops []history.Op
	unknown := 0
	for _, h := range historians {
		ops = append(ops, h.history...)
	}
	for _, o := range ops {
		if o.Status == wire.StatusUnknownOutcome {
			unknown++
		}
	}
	after := slices.IndexFunc(ops, func(o history.Op) bool { return o.Call > int64(left) })
	t.Logf("%d operations in %v, %d without an answer; n1 had left after %v", len(ops), time.Since(began).Round(time.Millisecond), unknown, left.Round(time.Millisecond))
	if after < 0 {
		t.Log("the clients were ready before n1 had left")
	}
	if losses := c.nodes["n2"].Info().Losses; losses != 0 {
		t.Errorf("%d losses", losses)
	}
	if err := history.Check(ops, eventually); err != nil {
		t.Errorf("seed %d: %v", seed, err)
	}
}
