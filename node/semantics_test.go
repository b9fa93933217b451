package node

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/control"
	"github.com/dramnode/dramnode/wire"
)

// expect sends a request once and checks the status of the answer.
func (c *caller) expect(node string, h wire.Header, body []byte, want wire.Status) reply {
	c.t.Helper()
	r := c.once(node, h, body)
	if r.err != nil || r.header.Status != want {
		c.t.Errorf("kind %d of %.40q through %s: %v: %.200s, %v; want %v", h.Kind, h.Key, node, r.header.Status, r.body, r.err, want)
	}
	return r
}

func putOf(key string, body []byte) wire.Header {
	return wire.Header{Kind: wire.KindPut, Key: []byte(key), CRC: wire.Checksum(body), Ext: wire.AppendWriteExt(nil, wire.WriteExt{})}
}

// gone waits until a key's life is over.
func (c *caller) gone(node, key string) {
	c.t.Helper()
	for deadline := time.Now().Add(eventually); ; <-time.After(time.Millisecond) {
		switch _, err := c.get(node, key); {
		case errors.Is(err, dramnode.ErrNotFound):
			return
		case err != nil || time.Now().After(deadline):
			c.t.Fatalf("get of %s through %s, which should end: %v", key, node, err)
		}
	}
}

// conditional makes a write hold only at generation g.
func conditional(h wire.Header, g dramnode.Generation) wire.Header {
	h.Flags |= wire.FlagIfMatch
	h.Ext = wire.AppendWriteExt(nil, wire.WriteExt{IfGeneration: g})
	return h
}

// TestSemantics asks two nodes, of which one is the owner of the key and one forwards.
func TestSemantics(t *testing.T) {
	eachCount(t, testSemantics)
}

func testSemantics(t *testing.T, copies func(*Config)) {
	c := newClusterWith(t, 31, with(copies, func(cfg *Config) { cfg.MaxValueBytes = 1 << 20 }), "n1", "n2")
	for _, node := range []string{"n1", "n2"} {
		user := c.caller()
		t.Run("ranges/"+node, func(t *testing.T) { testRanges(t, user, node) })
		t.Run("conditions/"+node, func(t *testing.T) { testConditions(t, user, node) })
		t.Run("limits/"+node, func(t *testing.T) { testLimits(t, user, node) })
		t.Run("fence/"+node, func(t *testing.T) { testFence(t, c, user, node) })
		t.Run("garbage/"+node, func(t *testing.T) { testGarbage(t, user, node) })
		t.Run("race/"+node, func(t *testing.T) { testOneWinner(t, c) })
		t.Run("damage/"+node, func(t *testing.T) {
			user.t = t
			h := putOf("damaged", []byte("value"))
			h.CRC++
			user.expect(node, h, []byte("value"), wire.StatusCorrupt)
			user.expect(node, wire.Header{Kind: wire.KindGet, Key: []byte("damaged")}, nil, wire.StatusNotFound)
		})
	}
}

func testRanges(t *testing.T, user *caller, node string) {
	user.t = t
	const key, text = "range", "0123456789"
	g := user.put(node, key, []byte(text))
	end := int64(len(text))
	for _, x := range []struct {
		flags      uint16
		start, end int64
		want       string
		status     wire.Status
	}{
		{0, 0, 10, text, 0},
		{0, 2, 5, "234", 0},
		{0, 0, 0, "", 0}, // a stat
		{0, 10, 10, "", 0},
		{0, 3, -1, "3456789", 0},
		{0, 10, -1, "", 0},
		{0, 11, -1, "", wire.StatusOutOfRange},
		{0, 0, 11, "", wire.StatusOutOfRange},
		{0, 5, 4, "", wire.StatusOutOfRange},
		{0, -1, 4, "", wire.StatusOutOfRange},
		{0, 0, math.MinInt64, "", wire.StatusOutOfRange},
		{0, math.MaxInt64, -1, "", wire.StatusOutOfRange},
		{wire.FlagClip, 5, 99, "56789", 0},
		{wire.FlagClip, 99, 100, "", 0},
		{wire.FlagClip, 99, -1, "", 0},
		{wire.FlagClip, 5, 4, "", wire.StatusOutOfRange},
		{wire.FlagClip, 0, math.MaxInt64, text, 0},
		{wire.FlagSuffix, 3, 0, "789", 0},
		{wire.FlagSuffix, 10, 0, text, 0},
		{wire.FlagSuffix, 0, 0, "", 0},
		{wire.FlagSuffix, 11, 0, "", wire.StatusOutOfRange},
		{wire.FlagSuffix, -1, 0, "", wire.StatusOutOfRange},
		{wire.FlagSuffix, math.MaxInt64, 0, "", wire.StatusOutOfRange},
		{wire.FlagSuffix, math.MinInt64, 0, "", wire.StatusOutOfRange},
		{wire.FlagSuffix | wire.FlagClip, 11, 0, text, 0},
		{wire.FlagSuffix | wire.FlagClip, math.MaxInt64, 0, text, 0},
		{wire.FlagSuffix | wire.FlagClip, math.MinInt64, 0, "", wire.StatusOutOfRange},
	} {
		h := wire.Header{Kind: wire.KindGet, Flags: wire.FlagRange | x.flags, Key: []byte(key), Ext: wire.AppendReadExt(nil, wire.ReadExt{Start: x.start, End: x.end})}
		r := user.expect(node, h, nil, x.status)
		if x.status == wire.StatusOK && (string(r.body) != x.want || r.ext.Size != uint64(end) || r.ext.Generation != g) {
			t.Errorf("flags %#x [%d,%d): %q of %d bytes, generation %d; want %q, %d", x.flags, x.start, x.end, r.body, r.ext.Size, r.ext.Generation, x.want, g)
		}
	}
}

func testConditions(t *testing.T, user *caller, node string) {
	user.t = t
	key := "condition-" + node
	get := wire.Header{Kind: wire.KindGet, Key: []byte(key)}
	reads := func(flags uint16, e wire.ReadExt) wire.Header {
		h := get
		h.Flags, h.Ext = flags, wire.AppendReadExt(nil, e)
		return h
	}
	put, remove, touch := putOf(key, []byte("v")), wire.Header{Kind: wire.KindDelete, Key: []byte(key)}, wire.Header{Kind: wire.KindTouch, Key: []byte(key)}
	remove.Ext, touch.Ext = put.Ext, put.Ext

	// A missing key is missing whatever the condition of a read; writes compare with absent.
	user.expect(node, reads(wire.FlagIfMatch, wire.ReadExt{IfGeneration: 7}), nil, wire.StatusNotFound)
	user.expect(node, reads(wire.FlagIfNotMatch, wire.ReadExt{IfNotGeneration: 7}), nil, wire.StatusNotFound)
	user.expect(node, conditional(touch, 7), nil, wire.StatusNotFound)
	user.expect(node, touch, nil, wire.StatusNotFound)
	user.expect(node, remove, nil, wire.StatusOK)
	if r := user.expect(node, conditional(put, 7), []byte("v"), wire.StatusGenerationMismatch); r.ext.Generation != dramnode.Absent {
		t.Errorf("current generation %d of a missing key", r.ext.Generation)
	}
	first := user.expect(node, conditional(put, dramnode.Absent), []byte("v"), wire.StatusOK).ext.Generation
	if r := user.expect(node, conditional(put, dramnode.Absent), []byte("v"), wire.StatusGenerationMismatch); r.ext.Generation != first {
		t.Errorf("mismatch names %d, want %d", r.ext.Generation, first)
	}
	user.expect(node, reads(wire.FlagIfMatch, wire.ReadExt{IfGeneration: first}), nil, wire.StatusOK)
	user.expect(node, reads(wire.FlagIfNotMatch, wire.ReadExt{IfNotGeneration: first}), nil, wire.StatusGenerationMismatch)
	user.expect(node, reads(wire.FlagIfMatch, wire.ReadExt{IfGeneration: first + 1}), nil, wire.StatusGenerationMismatch)
	// The condition comes before the range.
	user.expect(node, reads(wire.FlagIfMatch|wire.FlagRange, wire.ReadExt{IfGeneration: first + 1, Start: 99, End: 100}), nil, wire.StatusGenerationMismatch)
	touched := user.expect(node, conditional(touch, first), nil, wire.StatusOK).ext.Generation
	user.expect(node, conditional(remove, first), nil, wire.StatusGenerationMismatch)
	deleted := user.expect(node, conditional(remove, touched), nil, wire.StatusOK).ext.Generation
	again := user.expect(node, put, []byte("v"), wire.StatusOK).ext.Generation
	if !(first < touched && touched < deleted && deleted < again) {
		t.Errorf("generations %d, %d, %d, %d do not rise", first, touched, deleted, again)
	}
	h := putOf(key, []byte("v"))
	h.Ext = wire.AppendWriteExt(nil, wire.WriteExt{TTLMillis: math.MaxUint64})
	user.expect(node, h, []byte("v"), wire.StatusOK) // a life beyond the clock's end is no short one
	user.expect(node, get, nil, wire.StatusOK)
	h.Ext = wire.AppendWriteExt(nil, wire.WriteExt{TTLMillis: 1})
	user.expect(node, h, []byte("v"), wire.StatusOK)
	user.gone(node, key)
}

func testLimits(t *testing.T, user *caller, node string) {
	user.t = t
	long := string(bytes.Repeat([]byte("k"), dramnode.MaxKeyBytes))
	user.put(node, long, []byte("at the limit"))
	if got, err := user.get(node, long); err != nil || string(got) != "at the limit" {
		t.Errorf("a key of %d bytes: %q, %v", len(long), got, err)
	}
	for _, key := range []string{"", long + "k"} {
		user.expect(node, putOf(key, nil), nil, wire.StatusInvalid)
		user.expect(node, wire.Header{Kind: wire.KindGet, Key: []byte(key)}, nil, wire.StatusInvalid)
		user.expect(node, putOf(key, make([]byte, 9000)), make([]byte, 9000), wire.StatusInvalid)
	}
	for i := range 4 { // some are local, some are forwarded
		key := fmt.Sprintf("large-%d", i)
		body := value(key, 1<<20)
		user.put(node, key, body)
		if got, err := user.get(node, key); err != nil || !bytes.Equal(got, body) {
			t.Errorf("a value at the limit: %d bytes, %v", len(got), err)
		}
		body = append(body, 0)
		user.expect(node, putOf(key, body), body, wire.StatusTooLarge)
	}
}

// testFence sends requests that hold only in one epoch of the partition: to be served in it by the
// owner, and refused with the owner's row by everybody else.
func testFence(t *testing.T, c *cluster, user *caller, node string) {
	user.t = t
	for i := range 8 {
		key := fmt.Sprintf("fenced-%d", i)
		user.put(node, key, nil)
		owner, row := c.owner(node, key)
		h := putOf(key, nil) // reads hold by the lease of whoever has a copy, in any epoch
		h.Flags, h.Epoch = wire.FlagFence, row.Epoch
		want := wire.StatusNotOwner
		if owner == node {
			want = wire.StatusOK
		}
		user.expect(node, h, nil, want)
		for _, epoch := range []uint32{0, row.Epoch - 1, row.Epoch + 1} {
			h.Epoch = epoch
			if owner == node {
				user.expect(node, h, nil, wire.StatusUnavailable)
				continue
			}
			r := user.expect(node, h, nil, wire.StatusNotOwner)
			if want := control.AppendRow(nil, row); !bytes.Equal(r.body, want) || r.header.Epoch != row.Epoch {
				t.Errorf("refused with %x in epoch %d, want %x of %+v", r.body, r.header.Epoch, want, row)
			}
		}
	}
}

func testGarbage(t *testing.T, user *caller, node string) {
	user.t = t
	random := rand.New(rand.NewPCG(7, 7))
	for range 300 {
		header := make([]byte, random.IntN(100))
		for i := range header {
			header[i] = byte(random.Uint32())
		}
		if len(header) > 0 && random.IntN(2) == 0 { // almost right
			header[0] = []byte{1, 2, 5, 6, 32, 37}[random.IntN(6)]
		}
		o := &oneCall{place: user.memory, done: make(chan reply, 1)}
		o.Header, o.Body.Bytes, o.Deadline, o.Completer = header, header, time.Now().Add(5*time.Second), o
		user.once(node, wire.Header{Kind: wire.KindGet, Key: []byte("dial")}, nil)
		user.links[node].Call(&o.Call)
		if r := <-o.done; r.err != nil || r.header.Status != wire.StatusInvalid && r.header.Status != wire.StatusNotAuthorised {
			t.Fatalf("garbage %x: %v, %v", header, r.header.Status, r.err)
		}
	}
	large := make([]byte, 100_000)
	for _, kind := range []wire.Kind{wire.KindGet, wire.KindDelete, wire.KindTouch, wire.KindTable, wire.KindInfo} {
		user.expect(node, wire.Header{Kind: kind, Key: []byte("k")}, large, wire.StatusInvalid)
	}
	user.expect(node, wire.Header{Kind: wire.KindPut, Key: []byte("k")}, nil, wire.StatusInvalid)                                        // no extension
	user.expect(node, wire.Header{Kind: wire.KindGet, Key: []byte("k"), Ext: []byte{1}, Flags: wire.FlagRange}, nil, wire.StatusInvalid) // half of one
	for _, kind := range []wire.Kind{wire.KindList, wire.KindDeleteRange} {
		user.expect(node, wire.Header{Kind: kind}, large, wire.StatusInvalid)
		user.expect(node, wire.Header{Kind: kind}, []byte("nonsense"), wire.StatusInvalid)
	}
	for _, kind := range []wire.Kind{wire.KindMember, wire.KindReplica} {
		user.expect(node, wire.Header{Kind: kind}, nil, wire.StatusNotAuthorised)
		user.expect(node, wire.Header{Kind: kind}, large, wire.StatusNotAuthorised)
	}
	user.expect(node, wire.Header{Kind: wire.KindGet, Flags: wire.FlagHop, Key: []byte("k")}, nil, wire.StatusNotAuthorised)
	user.put(node, "alive", []byte("yes"))
	if got, err := user.get(node, "alive"); err != nil || string(got) != "yes" {
		t.Errorf("after garbage: %q, %v", got, err)
	}
}

// testOneWinner lets clients race for one generation, round after round.
func testOneWinner(t *testing.T, c *cluster) {
	const racers, rounds = 6, 30
	users := make([]*caller, racers)
	for i := range users {
		users[i] = c.caller()
	}
	current := dramnode.Absent
	users[0].expect("n1", wire.Header{Kind: wire.KindDelete, Key: []byte("race"), Ext: putOf("", nil).Ext}, nil, wire.StatusOK)
	for round := range rounds {
		var wg sync.WaitGroup
		won := make([]dramnode.Generation, racers)
		for i, user := range users {
			wg.Go(func() {
				r, err := user.do([]string{"n1", "n2"}[i%2], conditional(putOf("race", []byte{byte(i)}), current), []byte{byte(i)})
				if err == nil {
					won[i] = r.ext.Generation
				}
			})
		}
		wg.Wait()
		winners := 0
		for _, g := range won {
			if g != 0 {
				winners++
				current = g
			}
		}
		if winners != 1 {
			t.Fatalf("round %d: %d winners", round, winners)
		}
	}
}

func TestFullMemory(t *testing.T) {
	t.Parallel()
	c := newClusterWith(t, 32, with(func(cfg *Config) { cfg.MemoryBytes, cfg.MaxValueBytes = 6<<20, 1<<20 }), "n1")
	user := c.caller()
	body := value("x", 300_000)
	stored := 0
	for ; ; stored++ {
		r := user.once("n1", putOf(fmt.Sprintf("fill-%d", stored), body), body)
		if r.err != nil {
			t.Fatal(r.err)
		}
		if r.header.Status == wire.StatusNoMemory {
			break
		}
		if r.header.Status != wire.StatusOK || stored > 100 {
			t.Fatalf("put %d: %v: %s", stored, r.header.Status, r.body)
		}
	}
	for i := range stored { // a refused write has changed nothing
		if got, err := user.get("n1", fmt.Sprintf("fill-%d", i)); err != nil || !bytes.Equal(got, body) {
			t.Fatalf("fill-%d of %d: %d bytes, %v", i, stored, len(got), err)
		}
	}
	user.expect("n1", wire.Header{Kind: wire.KindTable}, nil, wire.StatusOK) // control goes on
	for i := range stored {
		user.expect("n1", wire.Header{Kind: wire.KindDelete, Key: fmt.Appendf(nil, "fill-%d", i), Ext: putOf("", nil).Ext}, nil, wire.StatusOK)
	}
	for i := range stored {
		user.put("n1", fmt.Sprintf("again-%d", i), body)
	}
	if m := c.nodes["n1"].Info().Memory; m.Reserved != 0 || m.Leased != 0 {
		t.Errorf("at rest %d bytes are reserved and %d leased", m.Reserved, m.Leased)
	}
}
