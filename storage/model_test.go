package storage

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/dramnode/dramnode"
	"pgregory.net/rapid"
)

// A model is what a Store should be: a map, with every generation given out.
type model struct {
	store    *Store
	now      int64
	entries  map[modelKey]modelEntry
	last     map[uint16]dramnode.Generation
	leases   []modelLease
	reserved []Reservation
}

type modelKey struct {
	partition uint16
	key       string
}

type modelEntry struct {
	value      []byte
	generation dramnode.Generation
	deadline   int64
}

type modelLease struct {
	value Value
	want  []byte
}

// Of the model's partitions the first two share a shard.
var modelPartitions = []uint16{0, shardsMax, 1}

const configPartitions = shardsMax + 1

func (m *model) get(k modelKey) (e modelEntry, ok bool) {
	e, ok = m.entries[k]
	return e, ok && (e.deadline == 0 || m.now < e.deadline)
}

func drawKey(t *rapid.T) modelKey {
	p := rapid.SampledFrom(modelPartitions).Draw(t, "partition")
	n := rapid.IntRange(0, 30).Draw(t, "key")
	return modelKey{p, string(bytes.Repeat([]byte{'a' + byte(n)}, 1+n*n))}
}

func drawValue(t *rapid.T) []byte {
	n := rapid.OneOf(rapid.Just(0), rapid.IntRange(1, 200), rapid.IntRange(1700, 2100), rapid.IntRange(1, 40000)).Draw(t, "bytes")
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(n + i)
	}
	return b
}

func (m *model) drawWrite(t *rapid.T, k modelKey) (w Write, holds bool) {
	w = Write{Epoch: uint32(rapid.IntRange(1, 3).Draw(t, "epoch")), Now: m.now}
	if rapid.Bool().Draw(t, "ttl") {
		w.Deadline = m.now + int64(rapid.IntRange(0, 20).Draw(t, "life")) + 1
	}
	e, ok := m.get(k)
	if !ok {
		e.generation = dramnode.Absent
	}
	switch rapid.IntRange(0, 4).Draw(t, "condition") {
	case 0:
		w.IfMatch = true
	case 1:
		w.IfMatch, w.IfGeneration = true, e.generation
	case 2:
		w.IfMatch, w.IfGeneration = true, e.generation+1
	}
	return w, !w.IfMatch || w.IfGeneration == e.generation
}

// wrote checks a write's outcome; done says that it took effect.
func (m *model) wrote(t *rapid.T, k modelKey, res Result, err error, holds bool) (done bool) {
	e, ok := m.get(k)
	if !ok {
		e.generation = dramnode.Absent
	}
	ge := (*dramnode.GenerationError)(nil)
	switch {
	case errors.As(err, &ge):
		if holds || ge.Current != e.generation {
			t.Fatalf("%v, holds=%v, current is %d", err, holds, e.generation)
		}
		return false
	case errors.Is(err, dramnode.ErrNoMemory):
		return false
	case err != nil:
		t.Fatal(err)
	case !holds:
		t.Fatalf("the condition does not hold, and the write did not fail")
	case res.Previous != e.generation:
		t.Fatalf("previous generation is %d, want %d", res.Previous, e.generation)
	}
	if res.Generation == dramnode.Absent {
		return false
	}
	if res.Generation <= m.last[k.partition] {
		t.Fatalf("generation %d after %d", res.Generation, m.last[k.partition])
	}
	m.last[k.partition] = res.Generation
	return true
}

func (m *model) put(t *rapid.T) {
	k, value := drawKey(t), drawValue(t)
	w, holds := m.drawWrite(t, k)
	w.CRC = uint32(len(value))
	res, err := m.store.Put(k.partition, []byte(k.key), value, w)
	if m.wrote(t, k, res, err, holds) {
		m.entries[k] = modelEntry{value, res.Generation, w.Deadline}
	}
}

func (m *model) delete(t *rapid.T) {
	k := drawKey(t)
	w, holds := m.drawWrite(t, k)
	_, exists := m.get(k)
	res, err := m.store.Delete(k.partition, []byte(k.key), w)
	if m.wrote(t, k, res, err, holds) {
		delete(m.entries, k)
	} else if err == nil && exists {
		t.Fatal("Delete did nothing")
	}
}

func (m *model) touch(t *rapid.T) {
	k := drawKey(t)
	w, holds := m.drawWrite(t, k)
	e, exists := m.get(k)
	res, err := m.store.Touch(k.partition, []byte(k.key), w)
	if !exists {
		if !errors.Is(err, dramnode.ErrNotFound) {
			t.Fatalf("Touch of a missing key: %v", err)
		}
		return
	}
	if m.wrote(t, k, res, err, holds) {
		e.generation, e.deadline = res.Generation, w.Deadline
		m.entries[k] = e
	}
}

func (m *model) lease(t *rapid.T) {
	k := drawKey(t)
	v, ok := m.store.Get(k.partition, []byte(k.key), m.now)
	e, want := m.get(k)
	if ok != want {
		t.Fatalf("Get = %v, want %v", ok, want)
	}
	if ok && (v.Generation != e.generation || v.Deadline != e.deadline || !bytes.Equal(v.Bytes, e.value) || int(v.CRC) != len(e.value)) {
		t.Fatalf("Get = %+v, want %+v", v.Info, e)
	}
	if ok {
		m.leases = append(m.leases, modelLease{v, e.value})
	}
}

func (m *model) release(t *rapid.T) {
	if len(m.leases) == 0 {
		t.Skip("no lease")
	}
	i := rapid.IntRange(0, len(m.leases)-1).Draw(t, "lease")
	l := m.leases[i]
	if !bytes.Equal(l.value.Bytes, l.want) {
		t.Fatalf("a leased value of %d bytes changed", len(l.want))
	}
	m.store.Release(l.value.Lease)
	m.leases = slices.Delete(m.leases, i, i+1)
}

func (m *model) reserve(t *rapid.T) {
	if r, err := m.store.ReserveScratch(rapid.IntRange(0, 60000).Draw(t, "bytes")); err == nil {
		m.reserved = append(m.reserved, r)
	} else if !errors.Is(err, dramnode.ErrNoMemory) {
		t.Fatal(err)
	}
}

func (m *model) abort(t *rapid.T) {
	for _, r := range m.reserved {
		m.store.Abort(r)
	}
	m.reserved = nil
}

func (m *model) advance(t *rapid.T) { m.now += int64(rapid.IntRange(1, 10).Draw(t, "time")) }

func (m *model) expire(t *rapid.T) {
	due := 0
	for _, e := range m.entries {
		if e.deadline != 0 && e.deadline <= m.now {
			due++
		}
	}
	n, budget := 0, rapid.IntRange(0, 50).Draw(t, "budget")
	if n = m.store.Expire(m.now, budget); n != min(due, budget) {
		t.Fatalf("Expire frees %d of %d with budget %d", n, due, budget)
	}
	if n == due {
		for k := range m.entries {
			if _, ok := m.get(k); !ok {
				delete(m.entries, k)
			}
		}
		return
	}
	for k := range m.entries { // which ones is not said: forget those that are gone
		if _, ok := m.get(k); !ok {
			id := m.store.identify(k.partition, []byte(k.key))
			if rec := m.store.shard(k.partition).index.find(&id); rec == none || !m.store.mem.live(rec) {
				delete(m.entries, k)
			}
		}
	}
}

func (m *model) drop(t *rapid.T) {
	p := drawKey(t).partition
	if _, err := m.store.DropPartition(p); err != nil {
		t.Fatal(err)
	}
	for k := range m.entries {
		if k.partition == p {
			delete(m.entries, k)
		}
	}
}

func (m *model) check(t *rapid.T) {
	if err := m.store.Check(); err != nil {
		t.Fatal(err)
	}
	var want []modelKey
	for k := range m.entries {
		if _, ok := m.get(k); ok {
			want = append(want, k)
		}
	}
	slices.SortFunc(want, func(a, b modelKey) int {
		return cmp.Or(cmp.Compare(a.key, b.key), cmp.Compare(a.partition, b.partition))
	})
	var got []modelKey
	m.store.List(Listing{Now: m.now}, func(e Entry) bool {
		got = append(got, modelKey{e.Partition, string(e.Key)})
		return true
	})
	if !slices.Equal(want, got) {
		t.Fatalf("List = %v, want %v", got, want)
	}
	for _, l := range m.leases {
		if !bytes.Equal(l.value.Bytes, l.want) {
			t.Fatalf("a leased value of %d bytes changed", len(l.want))
		}
	}
}

// end releases everything and expects all memory back.
func (m *model) end(t *rapid.T, empty Stats) {
	m.abort(t)
	for _, l := range m.leases {
		m.store.Release(l.value.Lease)
	}
	for _, p := range modelPartitions {
		if _, err := m.store.DropPartition(p); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.store.Check(); err != nil {
		t.Fatal(err)
	}
	if got := m.store.Stats(); fmt.Sprint(got) != fmt.Sprint(empty) {
		t.Fatalf("emptied store has %+v, want %+v", got, empty)
	}
}

func TestModel(t *testing.T) { rapid.Check(t, runModel) }

func FuzzModel(f *testing.F) { f.Fuzz(rapid.MakeFuzz(runModel)) }

func runModel(t *rapid.T) {
	arena := make([]byte, rapid.SampledFrom([]int{200 << 10, 2 << 20}).Draw(t, "arena"))
	s, err := New(Config{Arena: arena, Partitions: configPartitions})
	if err != nil {
		t.Fatal(err)
	}
	empty := s.Stats()
	m := &model{
		store:   s,
		entries: map[modelKey]modelEntry{},
		last:    map[uint16]dramnode.Generation{},
	}
	for range 3 { // rapid's runs are short
		t.Repeat(map[string]func(*rapid.T){
			"":        m.check,
			"put":     m.put,
			"put too": m.put,
			"delete":  m.delete,
			"touch":   m.touch,
			"lease":   m.lease,
			"release": m.release,
			"reserve": m.reserve,
			"abort":   m.abort,
			"advance": m.advance,
			"expire":  m.expire,
			"drop":    m.drop,
		})
	}
	m.end(t, empty)
}
