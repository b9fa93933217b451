package storetest

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/replica"
)

// Run holds the stores that open returns against the contract.
func Run(t *testing.T, open func() Subject) {
	t.Run("model", func(t *testing.T) {
		rapid.Check(t, func(t *rapid.T) { runModel(t, open()) })
	})
	t.Run("scan meets what stays", func(t *testing.T) { scanMeetsWhatStays(t, open()) })
	t.Run("commit needs no memory", func(t *testing.T) { commitNeedsNoMemory(t, open()) })
}

// A model is what a store should be.
type model struct {
	store   Subject
	entries map[string]*entry
	gen     dramnode.Generation
	value   int
	held    []replica.Value // the caller's
	dropped []kept          // in this step: to be readable until Settle
}

type entry struct {
	committed   replica.Version
	pending     replica.Pending
	value, next int // what their blobs stand for
}

type kept struct {
	blob  replica.Blob
	value int
}

func drawKey(t *rapid.T) string {
	n := rapid.IntRange(0, 40).Draw(t, "key")
	return string(bytes.Repeat([]byte{'a' + byte(n%20)}, n))
}

func (m *model) at(key string) *entry {
	if m.entries[key] == nil {
		m.entries[key] = &entry{}
	}
	return m.entries[key]
}

// drop notes that a version's blob is given up, unless the entry still has it.
func (m *model) drop(e *entry, b replica.Blob, value int) {
	if b != 0 && b != e.committed.Value.Blob && b != e.pending.Value.Blob {
		m.dropped = append(m.dropped, kept{b, value})
	}
}

// draw makes a version with a new blob.
func (m *model) draw(t *rapid.T, key string) (v replica.Version, value int) {
	m.gen += dramnode.Generation(rapid.IntRange(1, 3).Draw(t, "gen"))
	v.Gen = m.gen
	if rapid.Bool().Draw(t, "ttl") {
		v.Deadline = int64(rapid.IntRange(1, 12).Draw(t, "deadline"))
	}
	if rapid.IntRange(0, 9).Draw(t, "empty") == 0 {
		return v, 0
	}
	m.value++
	size := rapid.OneOf(rapid.Uint32Range(8, 60), rapid.Uint32Range(8, 30_000)).Draw(t, "bytes")
	b, ok := m.store.New(len(key), m.value, size)
	if !ok {
		t.Skip("no room")
	}
	v.Value = replica.Value{Blob: b, Bytes: size, CRC: uint32(m.value)}
	return v, m.value
}

// must says whether a call that may find no memory did what it should.
func (m *model) must(t *rapid.T, err error, b replica.Blob) bool {
	if err != nil {
		m.store.Free(b)
	}
	return err == nil
}

func (m *model) prepare(t *rapid.T) {
	key := drawKey(t)
	e := m.at(key)
	v, value := replica.Version{}, 0
	fresh := false
	switch kind := rapid.IntRange(0, 4).Draw(t, "kind"); {
	case kind == 0:
		m.gen++
		v = replica.Version{Gen: m.gen, Deleted: true}
	case kind == 1 && e.committed.Alive():
		m.gen++
		v, value = e.committed, e.value
		v.Gen, v.Deadline = m.gen, int64(rapid.IntRange(0, 12).Draw(t, "deadline"))
	default:
		v, value = m.draw(t, key)
		fresh = true
	}
	p := replica.Pending{Version: v, Origin: replica.Origin{Client: uint64(m.gen), Counter: 2, FirstUnacked: 3}}
	if err := m.store.Prepare([]byte(key), p); err != nil {
		if fresh {
			m.store.Free(v.Value.Blob)
		}
		return
	}
	old, was := e.pending.Value.Blob, e.next
	e.pending, e.next = p, value
	m.drop(e, old, was)
}

func (m *model) commit(t *rapid.T) {
	key := drawKey(t)
	e := m.at(key)
	if e.pending.Gen == 0 {
		t.Skip("nothing is pending")
	}
	m.store.Commit([]byte(key))
	old, was := e.committed.Value.Blob, e.value
	e.committed, e.value = e.pending.Version, e.next
	e.pending, e.next = replica.Pending{}, 0
	m.drop(e, old, was)
}

func (m *model) apply(t *rapid.T) {
	key := drawKey(t)
	e := m.at(key)
	v, value := replica.Version{}, 0
	switch rapid.IntRange(0, 3).Draw(t, "kind") {
	case 0:
	case 1:
		m.gen++
		v = replica.Version{Gen: m.gen - dramnode.Generation(rapid.IntRange(0, int(min(m.gen-1, 5))).Draw(t, "older")), Deleted: true}
	default:
		v, value = m.draw(t, key)
	}
	if !m.must(t, m.store.Apply([]byte(key), v), v.Value.Blob) {
		return
	}
	old, was := e.committed.Value.Blob, e.value
	e.committed, e.value = v, value
	m.drop(e, old, was)
}

// lend applies a value that is lent, or keeps it and applies that.
func (m *model) lend(t *rapid.T) {
	key := drawKey(t)
	e := m.at(key)
	m.gen++
	m.value++
	value := replica.Value{Bytes: rapid.OneOf(rapid.Just(uint32(24)), rapid.Uint32Range(8, 5000)).Draw(t, "bytes"), CRC: uint32(m.value)}
	value.Blob = m.store.Lend(m.value, value.Bytes)
	lent := e.pending.Gen == 0 && rapid.Bool().Draw(t, "at once")
	if !lent {
		b, err := m.store.Keep([]byte(key), value)
		if !m.must(t, err, value.Blob) {
			return
		}
		value.Blob = b
	}
	v := replica.Version{Gen: m.gen, Value: value, Deadline: int64(rapid.IntRange(0, 12).Draw(t, "deadline"))}
	write := m.store.Apply
	if lent {
		write = func(key []byte, v replica.Version) error {
			return m.store.Write(key, m.store.Committed(key).Value.Blob, replica.Pending{Version: v})
		}
	}
	if !m.must(t, write([]byte(key), v), value.Blob) {
		return
	}
	old, was := e.committed.Value.Blob, e.value
	e.committed, e.value = v, m.value
	if !lent {
		m.drop(e, old, was)
		return
	}
	got, _ := m.store.Get([]byte(key))
	e.committed.Value.Blob = got.Value.Blob
}

// write applies a value or a delete that is never pending.
func (m *model) write(t *rapid.T) {
	key := drawKey(t)
	e := m.at(key)
	if e.pending.Gen != 0 {
		t.Skip("a version is pending")
	}
	v, value := replica.Version{}, 0
	if rapid.IntRange(0, 2).Draw(t, "kind") == 0 {
		m.gen++
		v = replica.Version{Gen: m.gen, Deleted: true}
	} else {
		v, value = m.draw(t, key)
	}
	if !m.must(t, m.store.Write([]byte(key), m.store.Committed([]byte(key)).Value.Blob, replica.Pending{Version: v}), v.Value.Blob) {
		return
	}
	old, was := e.committed.Value.Blob, e.value
	if e.committed, e.value = v, value; v.Deleted {
		e.committed = replica.Version{}
	}
	m.drop(e, old, was)
}

func (m *model) forget(t *rapid.T) {
	key := drawKey(t)
	e := m.at(key)
	m.store.Forget([]byte(key))
	old, was := e.pending.Value.Blob, e.next
	e.pending, e.next = replica.Pending{}, 0
	m.drop(e, old, was)
}

func (m *model) hold(t *rapid.T) {
	m.value++
	if b, ok := m.store.New(3, m.value, 20); ok {
		m.held = append(m.held, replica.Value{Blob: b, CRC: uint32(m.value)})
	}
}

func (m *model) free(t *rapid.T) {
	if len(m.held) == 0 {
		t.Skip("no blob is held")
	}
	v := m.held[0]
	m.held = m.held[1:]
	m.store.Free(v.Blob)
	m.dropped = append(m.dropped, kept{v.Blob, int(v.CRC)})
}

func (m *model) dropTombstones(t *rapid.T) {
	below := m.gen - dramnode.Generation(rapid.IntRange(0, int(min(m.gen, 6))).Draw(t, "kept"))
	m.store.DropTombstones(below)
	for _, e := range m.entries {
		if e.committed.Deleted && e.committed.Gen < below {
			e.committed = replica.Version{}
		}
	}
}

func (m *model) clear(t *rapid.T) {
	if rapid.IntRange(0, 9).Draw(t, "really") > 0 {
		t.Skip("seldom")
	}
	m.store.Clear()
	m.dropped = nil
	clear(m.entries)
}

// settle reads what was dropped for the last time.
func (m *model) settle(t *rapid.T) {
	for _, d := range m.dropped {
		if got := m.store.Value(d.blob); got != d.value {
			t.Fatalf("a blob that was given up in this step reads as %d, want %d", got, d.value)
		}
	}
	m.dropped = nil
	m.store.Settle()
	held := len(m.held)
	if m.store.Blobs() != m.store.Used()+held {
		t.Fatalf("%d blobs, of which versions have %d and the caller %d", m.store.Blobs(), m.store.Used(), held)
	}
}

// keys returns the keys that match, in order.
func (m *model) keys(match func(*entry) bool) []string {
	var all []string
	for key, e := range m.entries {
		if match(e) {
			all = append(all, key)
		}
	}
	slices.Sort(all)
	return all
}

func (m *model) check(t *rapid.T) {
	if err := m.store.Check(); err != nil {
		t.Fatal(err)
	}
	for key, e := range m.entries {
		m.compare(t, []byte(key), e)
	}
	committed := m.keys(func(e *entry) bool { return e.committed.Gen != 0 })
	if got := m.scan(t, rapid.IntRange(1, 9).Draw(t, "page")); !slices.Equal(got, committed) {
		t.Fatalf("Scan visits %q, want %q", got, committed)
	}
	var pending []string
	m.store.Pendings(func(key []byte, _ replica.Version, _ replica.Pending) { pending = append(pending, string(key)) })
	if want := m.keys(func(e *entry) bool { return e.pending.Gen != 0 }); !slices.Equal(pending, want) {
		t.Fatalf("Pendings visits %q, want %q", pending, want)
	}
	if want := len(m.keys(func(e *entry) bool { return e.committed.Deleted })); m.store.Tombstones() != want {
		t.Fatalf("%d tombstones, want %d", m.store.Tombstones(), want)
	}
	m.list(t)
	m.expired(t)
}

// compare holds Get against the model.
func (m *model) compare(t *rapid.T, key []byte, e *entry) {
	committed, pending := m.store.Get(key)
	if only := m.store.Committed(key); only != committed {
		t.Fatalf("Committed(%q) = %+v, and Get %+v", key, only, committed)
	}
	if committed != e.committed || pending != e.pending {
		t.Fatalf("Get(%q) = %+v and %+v, want %+v and %+v", key, committed, pending, e.committed, e.pending)
	}
	if a, b := m.store.Value(committed.Value.Blob), m.store.Value(pending.Value.Blob); a != e.value || b != e.next {
		t.Fatalf("the values of %q are %d and %d, want %d and %d", key, a, b, e.value, e.next)
	}
}

// scan returns the keys of all pages, in order.
func (m *model) scan(t *rapid.T, page int) []string {
	seen := map[string]bool{}
	for cursor, pages := replica.Cursor(0), 0; ; pages++ {
		next := m.store.Scan(cursor, page, func(key []byte, committed replica.Version, pending replica.Pending) {
			if e := m.at(string(key)); committed != e.committed || pending != e.pending {
				t.Fatalf("Scan tells %+v and %+v of %q, want %+v and %+v", committed, pending, key, e.committed, e.pending)
			}
			seen[string(key)] = true
		})
		if next == 0 {
			return slices.Sorted(maps.Keys(seen))
		}
		if next <= cursor || pages > 10_000 {
			t.Fatalf("page %d of a scan leads from %x to %x", pages, cursor, next)
		}
		cursor = next
	}
}

func (m *model) list(t *rapid.T) {
	start, end := drawKey(t), drawKey(t)
	limit := rapid.IntRange(1, 9).Draw(t, "limit")
	var got []string
	for from := []byte(start); from != nil; {
		n := 0
		from = m.store.List(from, []byte(end), limit, func(key []byte, committed replica.Version) {
			if n++; !committed.Alive() {
				t.Fatalf("List tells %+v of %q", committed, key)
			}
			got = append(got, string(key))
		})
		if n > limit {
			t.Fatalf("List visits %d keys, the limit is %d", n, limit)
		}
	}
	var want []string
	for _, key := range m.keys(func(e *entry) bool { return e.committed.Alive() }) {
		if key >= start && key < end {
			want = append(want, key)
		}
	}
	if !slices.Equal(got, want) {
		t.Fatalf("List from %q to %q visits %q, want %q", start, end, got, want)
	}
}

func (m *model) expired(t *rapid.T) {
	now := int64(rapid.IntRange(0, 13).Draw(t, "now"))
	var got []int64
	seen := map[string]bool{}
	m.store.Expired(now, func(key []byte) bool {
		got = append(got, m.at(string(key)).committed.Deadline)
		seen[string(key)] = true
		return true
	})
	want := m.keys(func(e *entry) bool {
		return e.committed.Alive() && e.committed.Deadline != 0 && e.committed.Deadline <= now
	})
	if !slices.IsSorted(got) || !slices.Equal(slices.Sorted(maps.Keys(seen)), want) {
		t.Fatalf("Expired visits %v with deadlines %v, want %v", seen, got, want)
	}
}

func runModel(t *rapid.T, s Subject) {
	m := &model{store: s, entries: map[string]*entry{}}
	for range 2 { // rapid's runs are short
		t.Repeat(map[string]func(*rapid.T){
			"": m.check, "prepare": m.prepare, "prepare too": m.prepare, "commit": m.commit, "commit too": m.commit, "apply": m.apply, "lend": m.lend, "write": m.write, "forget": m.forget,
			"hold": m.hold, "free": m.free, "drop tombstones": m.dropTombstones, "clear": m.clear, "settle": m.settle,
		})
	}
	m.settle(t)
	for _, v := range m.held {
		s.Free(v.Blob)
	}
	s.Clear()
	s.Settle()
	if err := s.Check(); err != nil || s.Blobs() != 0 || s.Tombstones() != 0 {
		t.Fatalf("emptied: %d blobs, %d tombstones, %v", s.Blobs(), s.Tombstones(), err)
	}
}

// scanMeetsWhatStays: between the pages the store grows and shrinks by many keys.
func scanMeetsWhatStays(t *testing.T, s Subject) {
	key := func(kind string, i int) []byte { return fmt.Appendf(nil, "%s-%d", kind, i) }
	put := func(k []byte, gen int) {
		b, ok := s.New(len(k), gen, 8)
		if !ok {
			t.Fatal("no room")
		}
		if err := s.Apply(k, replica.Version{Gen: dramnode.Generation(gen), Value: replica.Value{Blob: b, Bytes: 8}}); err != nil {
			t.Fatal(err)
		}
	}
	const stay, come = 300, 900
	for i := range stay {
		put(key("stay", i), 1+i)
	}
	for round := range 2 { // keys come while it scans, then go
		seen := map[string]int{}
		step := 0
		for cursor := replica.Cursor(0); ; step++ {
			for i := step * 30; i < min(step*30+30, come); i++ {
				if round == 0 {
					put(key("come", i), 1+i)
				} else if err := s.Apply(key("come", i), replica.Version{}); err != nil {
					t.Fatal(err)
				}
			}
			s.Settle()
			if cursor = s.Scan(cursor, 10, func(k []byte, _ replica.Version, _ replica.Pending) { seen[string(k)]++ }); cursor == 0 {
				break
			}
		}
		if step < 5 {
			t.Errorf("round %d is over after %d pages", round, step)
		}
		for i := range stay {
			if seen[string(key("stay", i))] == 0 {
				t.Errorf("round %d: a key that was there all the time is not visited", round)
			}
		}
	}
}

// commitNeedsNoMemory fills the store with what is not committed, and commits it.
func commitNeedsNoMemory(t *testing.T, s Subject) {
	const deadline = 5 // of all: they stand side by side
	type staged struct {
		key   []byte
		value int
	}
	var all []staged
	full := false
	for i := 0; i < 5000 && !full; i++ {
		k := fmt.Appendf(nil, "%04d", i*7919%10_000)
		b, ok := s.New(len(k), i, 40)
		if !ok {
			break
		}
		v := replica.Version{Gen: dramnode.Generation(i + 1), Deadline: deadline, Value: replica.Value{Blob: b, Bytes: 40}}
		if full = s.Prepare(k, replica.Pending{Version: v}) != nil; full {
			s.Free(b)
			continue
		}
		all = append(all, staged{k, i})
	}
	for _, size := range []uint32{512, 64, 8} { // what is left
		for range 5000 {
			if _, ok := s.New(4, 1, size); !ok {
				break
			}
		}
	}
	for i := range all {
		s.Commit(all[len(all)-1-i].key)
		s.Settle()
	}
	for _, e := range all {
		if v, _ := s.Get(e.key); s.Value(v.Value.Blob) != e.value {
			t.Fatalf("%s has value %d, want %d", e.key, s.Value(v.Value.Blob), e.value)
		}
	}
	for i, e := range all { // deletes, and touches with another deadline
		gen := dramnode.Generation(10_000 + i)
		v := replica.Version{Gen: gen, Deleted: true}
		if i%2 == 0 {
			v, _ = s.Get(e.key)
			v.Gen, v.Deadline = gen, deadline+int64(i%3)
		}
		if s.Prepare(e.key, replica.Pending{Version: v}) == nil {
			s.Commit(e.key)
			s.Settle()
		}
	}
	if err := s.Check(); err != nil {
		t.Fatal(err)
	}
}
