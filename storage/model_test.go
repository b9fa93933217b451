package storage

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/dramnode/dramnode"
	"pgregory.net/rapid"
)

// A model is what a Store should be: maps, of what is committed, of what is staged, and of tombstones.
type model struct {
	*opened
	now      int64
	entries  map[modelKey]modelEntry
	staged   map[modelKey]modelEntry
	tombs    map[modelKey]dramnode.Generation
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
	deleted    bool // of one that is staged
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
	n := rapid.OneOf(rapid.Just(0), rapid.Just(8), rapid.IntRange(1, 200), rapid.IntRange(1700, 2100), rapid.IntRange(1, 40000)).Draw(t, "bytes")
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(n + i)
	}
	return b
}

func (m *model) drawDeadline(t *rapid.T) int64 {
	if !rapid.Bool().Draw(t, "ttl") {
		return 0
	}
	return m.now + int64(rapid.IntRange(0, 20).Draw(t, "life")) + 1
}

// done says that a write took effect, and not for want of memory or because of a staged version did not.
func (m *model) done(t *rapid.T, err error, refused bool) bool {
	switch {
	case refused:
		if !errors.Is(err, dramnode.ErrInvalid) && !errors.Is(err, dramnode.ErrNoMemory) {
			t.Fatalf("a write at once beside a staged version: %v", err)
		}
		return false
	case errors.Is(err, dramnode.ErrNoMemory):
		return false
	case err != nil:
		t.Fatal(err)
	}
	return true
}

// commit is what a commit does.
func (m *model) commit(k modelKey, e modelEntry) {
	delete(m.entries, k)
	delete(m.tombs, k)
	if e.deleted {
		m.tombs[k] = e.generation
	} else {
		m.entries[k] = e
	}
	delete(m.staged, k)
}

func (m *model) last(k modelKey) dramnode.Generation { return m.parts[k.partition].last }

func (m *model) write(t *rapid.T) {
	k, value, deadline := drawKey(t), drawValue(t), m.drawDeadline(t)
	_, staged := m.staged[k]
	err := m.put(k.partition, []byte(k.key), value, Info{CRC: uint32(len(value)), Deadline: deadline})
	if m.done(t, err, staged) {
		m.commit(k, modelEntry{value: value, generation: m.last(k), deadline: deadline})
	}
}

func (m *model) delete(t *rapid.T) {
	k := drawKey(t)
	_, staged := m.staged[k]
	if m.done(t, m.del(k.partition, []byte(k.key)), staged) {
		delete(m.entries, k)
		delete(m.tombs, k)
	}
}

func (m *model) leaveTomb(t *rapid.T) {
	if k := drawKey(t); m.done(t, m.bury(k.partition, []byte(k.key)), false) {
		m.commit(k, modelEntry{deleted: true, generation: m.last(k)})
	}
}

func (m *model) dropTombs(t *rapid.T) {
	k := drawKey(t)
	below := m.last(k) - dramnode.Generation(rapid.IntRange(0, 5).Draw(t, "recent"))
	m.parts[k.partition].DropTombstones(below)
	maps.DeleteFunc(m.tombs, func(of modelKey, g dramnode.Generation) bool { return of.partition == k.partition && g < below })
}

func (m *model) changeDeadline(t *rapid.T) {
	k, deadline := drawKey(t), m.drawDeadline(t)
	e, exists := m.entries[k]
	err := m.touch(k.partition, []byte(k.key), deadline)
	if !exists {
		if !errors.Is(err, dramnode.ErrNotFound) {
			t.Fatalf("a touch of a missing key: %v", err)
		}
		return
	}
	if m.done(t, err, false) {
		e.generation, e.deadline = m.last(k), deadline
		m.commit(k, e)
	}
}

func (m *model) stage(t *rapid.T) {
	k, value, deadline := drawKey(t), drawValue(t), m.drawDeadline(t)
	pt := &m.parts[k.partition]
	defer pt.Settle()
	r, err := pt.Reserve(len(k.key), len(value), rapid.Bool().Draw(t, "urgent"))
	if err == nil {
		copy(r.Bytes, value)
		info := pt.next(Info{CRC: uint32(len(value)), Deadline: deadline})
		if err = pt.Stage([]byte(k.key), Staged{Version: Version{Info: info, Blob: r.Token()}}); err != nil {
			pt.Free(r.Token())
		}
	}
	if m.done(t, err, false) {
		m.staged[k] = modelEntry{value: value, generation: pt.last, deadline: deadline}
	}
}

func (m *model) commitOrForget(t *rapid.T) {
	k := drawKey(t)
	pt, key := &m.parts[k.partition], []byte(k.key)
	defer pt.Settle()
	if e, staged := m.staged[k]; staged && rapid.Bool().Draw(t, "commit") {
		pt.Commit(key)
		m.commit(k, e)
		return
	}
	pt.Forget(key)
	delete(m.staged, k)
}

func (m *model) lease(t *rapid.T) {
	k := drawKey(t)
	v, ok := m.opened.get(k.partition, []byte(k.key), m.now)
	e, want := m.get(k)
	if ok != want {
		t.Fatalf("a read = %v, want %v", ok, want)
	}
	if ok && (v.Generation != e.generation || v.Deadline != e.deadline || !bytes.Equal(v.Bytes, e.value) || int(v.CRC) != len(e.value)) {
		t.Fatalf("a read = %+v, want %+v", v.Info, e)
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
	m.Release(l.value.Lease)
	m.leases = slices.Delete(m.leases, i, i+1)
}

func (m *model) reserve(t *rapid.T) {
	if r, err := m.ReserveScratch(rapid.IntRange(0, 60000).Draw(t, "bytes")); err == nil {
		m.reserved = append(m.reserved, r)
	} else if !errors.Is(err, dramnode.ErrNoMemory) {
		t.Fatal(err)
	}
}

func (m *model) abort(t *rapid.T) {
	for _, r := range m.reserved {
		m.Abort(r)
	}
	m.reserved = nil
}

func (m *model) advance(t *rapid.T) { m.now += int64(rapid.IntRange(1, 10).Draw(t, "time")) }

func (m *model) removeOverdue(t *rapid.T) {
	p, due := drawKey(t).partition, 0
	overdue := func(k modelKey, e modelEntry) bool { return k.partition == p && e.deadline != 0 && e.deadline <= m.now }
	for k, e := range m.entries {
		if overdue(k, e) {
			due++
		}
	}
	budget := rapid.IntRange(0, 50).Draw(t, "budget")
	if n := m.expire(p, m.now, budget); n != min(due, budget) {
		t.Fatalf("%d of %d overdue entries are found with budget %d", n, due, budget)
	}
	maps.DeleteFunc(m.entries, func(k modelKey, e modelEntry) bool { // which ones is not said: forget those that are gone
		committed, _ := m.parts[p].Get([]byte(k.key))
		return overdue(k, e) && committed.Generation == 0
	})
}

func (m *model) clear(t *rapid.T) {
	p := drawKey(t).partition
	m.drop(p)
	maps.DeleteFunc(m.entries, func(k modelKey, _ modelEntry) bool { return k.partition == p })
	maps.DeleteFunc(m.staged, func(k modelKey, _ modelEntry) bool { return k.partition == p })
	maps.DeleteFunc(m.tombs, func(k modelKey, _ dramnode.Generation) bool { return k.partition == p })
}

func (m *model) agree(t *rapid.T) {
	if err := m.Check(); err != nil {
		t.Fatal(err)
	}
	if st := m.Stats(); st.Entries != len(m.entries) || st.Tombstones != len(m.tombs) {
		t.Fatalf("%d entries and %d tombstones, want %d and %d", st.Entries, st.Tombstones, len(m.entries), len(m.tombs))
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
	m.List(Listing{Now: m.now}, func(e Entry) bool {
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
		m.Release(l.value.Lease)
	}
	for _, p := range modelPartitions {
		m.drop(p)
	}
	if err := m.Check(); err != nil {
		t.Fatal(err)
	}
	if got := m.Stats(); fmt.Sprint(got) != fmt.Sprint(empty) {
		t.Fatalf("emptied store has %+v, want %+v", got, empty)
	}
}

func TestModel(t *testing.T) { rapid.Check(t, func(r *rapid.T) { runModel(t, r) }) }

func FuzzModel(f *testing.F) { f.Fuzz(rapid.MakeFuzz(func(t *rapid.T) { runModel(f, t) })) }

func runModel(tb testing.TB, t *rapid.T) {
	arena := make([]byte, rapid.SampledFrom([]int{200 << 10, 2 << 20}).Draw(t, "arena"))
	s := openAll(tb, Config{Arena: arena, Partitions: configPartitions})
	empty := s.Stats()
	m := &model{
		opened:  s,
		entries: map[modelKey]modelEntry{},
		staged:  map[modelKey]modelEntry{},
		tombs:   map[modelKey]dramnode.Generation{},
	}
	for range 3 { // rapid's runs are short
		t.Repeat(map[string]func(*rapid.T){
			"":                 m.agree,
			"write":            m.write,
			"write too":        m.write,
			"delete":           m.delete,
			"leave tombstone":  m.leaveTomb,
			"drop tombstones":  m.dropTombs,
			"touch":            m.changeDeadline,
			"stage":            m.stage,
			"commit or forget": m.commitOrForget,
			"lease":            m.lease,
			"release":          m.release,
			"reserve":          m.reserve,
			"abort":            m.abort,
			"advance":          m.advance,
			"expire":           m.removeOverdue,
			"clear":            m.clear,
		})
	}
	m.end(t, empty)
}
