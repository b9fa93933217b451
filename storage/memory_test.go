package storage

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/dramnode/dramnode"
)

func TestClasses(t *testing.T) {
	for unit := range 3 {
		m := &memory{refShift: refShiftMin + unit, pageBytes: defaultPageBytes, pageShift: 13}
		m.makeClasses()
		longest := m.classes[len(m.classes)-1].slotBytes
		if longest != slotPagesMax*m.pageBytes {
			t.Errorf("longest class has %d bytes", longest)
		}
		for n := 1; n <= longest; n++ {
			slot := m.classes[m.class(n)].slotBytes
			if slot < n || slot%(8<<unit) != 0 || m.class(n) > 0 && m.classes[m.class(n)-1].slotBytes >= n {
				t.Fatalf("%d bytes are in class %d of %d bytes", n, m.class(n), slot)
			}
			if n >= slotMin && slot-n >= max(8<<unit, n/8) {
				t.Fatalf("%d bytes get %d", n, slot)
			}
		}
		for _, c := range m.classes {
			span := c.pages * m.pageBytes
			if c.slots < 1 || c.slots*c.slotBytes > span || span-c.slots*c.slotBytes > span/16 {
				t.Errorf("class %+v wastes %d of %d bytes", c, span-c.slots*c.slotBytes, span)
			}
		}
	}
}

// fill puts values of about valueBytes until memory is full, and returns how many.
func fill(tb testing.TB, s *opened, rnd *rand.Rand, valueBytes int) (entries int) {
	tb.Helper()
	value := make([]byte, valueBytes*3/2)
	for {
		key := fmt.Appendf(nil, "key-%d", entries)
		err := s.put(uint16(entries%8), key, value[:valueBytes/2+rnd.IntN(valueBytes)], Info{Deadline: int64(entries % 2)})
		if errors.Is(err, dramnode.ErrNoMemory) {
			return entries
		}
		if err != nil {
			tb.Fatal(err)
		}
		entries++
	}
}

func TestFillDeleteFill(t *testing.T) {
	for _, valueBytes := range []int{20, 3000, 90000} {
		s, rnd := open(t, 4<<20), rand.New(rand.NewPCG(1, uint64(valueBytes)))
		empty := s.Stats()
		first := 0
		for round := range 3 {
			n := fill(t, s, rnd, valueBytes)
			check(t, s)
			if st := s.Stats(); st.Entries != n || st.FreeBytes > 200<<10 && valueBytes < 90000 || st.Reservations != 0 {
				t.Errorf("full of %d-byte values with %d entries: %+v", valueBytes, n, st)
			}
			if round == 0 {
				first = n
			} else if n < first*9/10 {
				t.Errorf("round %d holds %d entries, the first %d", round, n, first)
			}
			for _, i := range rnd.Perm(n) {
				mustSucceed(t, s.del(uint16(i%8), fmt.Appendf(nil, "key-%d", i)))
			}
			check(t, s)
			if st := s.Stats(); st.UsedBytes != empty.UsedBytes || st.RequestedBytes != 0 || st.LongestFreeBytes != empty.LongestFreeBytes {
				t.Errorf("emptied: %+v, at first %+v", st, empty)
			}
		}
	}
}

// useUp takes the pages and slots that are left.
func useUp(s *opened) (held []Reservation) {
	for bytes := 2048; bytes > 0; {
		r, err := s.ReserveScratch(bytes)
		if err != nil {
			bytes /= 2
			continue
		}
		held = append(held, r)
	}
	return held
}

func TestNoMemoryChangesNothing(t *testing.T) {
	s := open(t, 1<<20)
	pt := &s.parts[0]
	early, err := pt.Reserve(len("key-8"), 100, false)
	mustSucceed(t, err)
	n := fill(t, s, rand.New(rand.NewPCG(1, 2)), 100)
	held := useUp(s)
	before := s.Stats()
	key, long := []byte("key-0"), bytes.Repeat([]byte("key"), 300)
	longest := Info{Generation: 1 << 40, Deadline: 1 << 40}
	for name, write := range map[string]func() error{
		"put":            func() error { return s.put(0, key, make([]byte, 500), Info{}) },
		"put of nothing": func() error { return s.put(0, long, nil, Info{}) },
		"reserve":        func() error { return second(pt.Reserve(len(key), 500, true)) },
		"stage":          func() error { return pt.Stage([]byte("key-8"), staged(1<<40, early.Token())) },
		"stage a delete": func() error { return pt.Stage(long, Staged{Version: Version{Info: longest, Deleted: true}}) },
		"apply":          func() error { return pt.Apply(long, Version{Info: longest}) },
		"apply a delete": func() error { return pt.Apply(long, Version{Info: longest, Deleted: true}) },
	} {
		if err := write(); !errors.Is(err, dramnode.ErrNoMemory) {
			t.Fatalf("%s in a full store: %v", name, err)
		}
		check(t, s)
		if after := s.Stats(); fmt.Sprint(after) != fmt.Sprint(before) || after.Entries != n {
			t.Errorf("%s, which failed, changed\n%+v to\n%+v", name, before, after)
		}
	}
	for _, r := range append(held, early) {
		s.Abort(r)
	}
	for i := range n / 2 {
		mustSucceed(t, s.del(uint16(i%8), fmt.Appendf(nil, "key-%d", i)))
	}
	if err := s.put(0, key, make([]byte, 500), Info{}); err != nil {
		t.Errorf("a put after room was made: %v", err)
	}
	check(t, s)
}

// TestDeadlineWithoutMemory: a write in place needs none but where its deadline is another one, and is as it was when there is none.
func TestDeadlineWithoutMemory(t *testing.T) {
	s, rnd := open(t, 1<<20), rand.New(rand.NewPCG(1, 2))
	n := fill(t, s, rnd, 20)
	useUp(s)
	refused := [2]int{} // by deadline before: none, and some
	for i := range n {
		p, key := uint16(i%8), fmt.Appendf(nil, "key-%d", i)
		before, _ := s.stat(p, key, 0)
		err := s.put(p, key, make([]byte, before.ValueBytes), Info{Deadline: 2 + rnd.Int64N(1<<40)})
		after, ok := s.stat(p, key, 0)
		switch {
		case err == nil:
		case !errors.Is(err, dramnode.ErrNoMemory) || !ok || after != before:
			t.Fatalf("%v, and %+v became %+v", err, before, after)
		default:
			refused[i%2]++
		}
		if i%500 < 2 {
			check(t, s)
		}
	}
	if refused[0] == 0 || refused[1] == 0 {
		t.Errorf("%d refusals are too few", refused)
	}
}

func TestLargeValues(t *testing.T) {
	const large = 64 << 20
	s := openAll(t, Config{Arena: make([]byte, 256<<20), Partitions: 8})
	key := []byte("large")
	for i := range uint16(3) {
		r, err := s.parts[i].Reserve(len(key), large, false)
		if err != nil {
			t.Fatal(err)
		}
		r.Bytes[0], r.Bytes[large-1] = byte(i), byte(i)
		mustSucceed(t, s.parts[i].Write(key, 0, Version{Info: Info{Generation: 1}, Blob: r.Token()}))
	}
	if _, err := s.parts[3].Reserve(len(key), large, false); !errors.Is(err, dramnode.ErrNoMemory) {
		t.Errorf("a fourth large value: %v", err)
	}
	if _, err := s.parts[3].Reserve(len(key), large+1, false); !errors.Is(err, dramnode.ErrTooLarge) {
		t.Errorf("a value over the limit: %v", err)
	}
	v, ok := s.get(1, key, 0)
	if !ok || len(v.Bytes) != large || v.Bytes[0] != 1 || v.Bytes[large-1] != 1 {
		t.Errorf("a large value has %d bytes", len(v.Bytes))
	}
	s.Release(v.Lease)
	check(t, s)
	s.drop(0)
	s.drop(1)
	scratch, err := s.ReserveScratch(large + 4096)
	mustSucceed(t, err)
	if err := s.parts[1].Write(key, 0, Version{Info: Info{Generation: 2}, Blob: scratch.Token()}); !errors.Is(err, dramnode.ErrInvalid) {
		t.Errorf("a write of scratch: %v", err)
	}
	s.Abort(scratch)
	check(t, s)
}

// TestOverhead holds the package comment to its word about what an entry costs beside its key and value.
func TestOverhead(t *testing.T) {
	const entries, keyBytes, valueBytes = 100_000, 16, 64
	for _, tt := range []struct {
		name        string
		order       string
		eviction    Eviction
		deadline    int64
		least, most float64
	}{
		{"ascending keys", "%016d", EvictNone, 0, recordHeader + 7, recordHeader + 9},
		{"random keys", "", EvictNone, 0, recordHeader + 8, recordHeader + 12},
		{"deadlines", "", EvictNone, 1, recordHeader + 14, recordHeader + 22},
		{"eviction", "", EvictS3FIFO, 0, recordHeader + linkBytes + 8, recordHeader + linkBytes + 4 + 14},
	} {
		s := openAll(t, Config{Arena: make([]byte, 32<<20), Partitions: 4, Eviction: tt.eviction})
		rnd, value := rand.New(rand.NewPCG(3, 4)), make([]byte, valueBytes)
		before := s.Stats()
		for i := range entries {
			key := fmt.Appendf(nil, tt.order, i)
			if tt.order == "" {
				key = fmt.Appendf(nil, "%016x", rnd.Uint64())
			}
			mustSucceed(t, s.put(uint16(i%4), key, value, Info{Deadline: tt.deadline * int64(1+rnd.IntN(1<<40))}))
		}
		after := s.Stats()
		perEntry := float64(after.UsedBytes-before.UsedBytes)/entries - keyBytes - valueBytes
		t.Logf("%s: an entry costs %.1f bytes beside key and value", tt.name, perEntry)
		if perEntry < tt.least || perEntry > tt.most {
			t.Errorf("%s: an entry costs %.1f bytes beside key and value, want %.0f to %.0f", tt.name, perEntry, tt.least, tt.most)
		}
	}
}

// TestUsed: as long as there are pages, the free slots of slabs are room; without pages there is none for what others stage.
func TestUsed(t *testing.T) {
	s, rnd := open(t, 4<<20), rand.New(rand.NewPCG(3, 4))
	if used := s.Used(); used > 1 {
		t.Errorf("%d %% of an empty store are used", used)
	}
	entries := 0
	for s.Used() < 90 {
		if err := s.put(uint16(entries%8), fmt.Appendf(nil, "key-%d", entries), make([]byte, 50+rnd.IntN(100)), Info{}); err != nil {
			t.Fatalf("%v at %d %%", err, s.Used())
		}
		entries++
	}
	if st := s.Stats(); st.UsedBytes*100 < st.TotalBytes*85 || st.UsedBytes*100 > st.TotalBytes*96 {
		t.Errorf("at 90 %% %d of %d bytes are used", st.UsedBytes, st.TotalBytes)
	}
	pages := s.Stats().UsedBytes
	for i := 0; i < entries; i += 2 { // of each slab some slots stay
		mustSucceed(t, s.del(uint16(i%8), fmt.Appendf(nil, "key-%d", i)))
	}
	if st := s.Stats(); st.UsedBytes < pages*9/10 || s.Used() < 40 || s.Used() > 60 {
		t.Errorf("after every other delete %d of %d bytes are used, so the store says %d %%", st.UsedBytes, pages, s.Used())
	}
	fill(t, s, rnd, 2000) // each fits into a page
	if used := s.Used(); used != 100 {
		t.Errorf("%d %% of a full store are used", used)
	}
}
