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
func fill(tb testing.TB, s *Store, rnd *rand.Rand, valueBytes int) (entries int) {
	tb.Helper()
	value := make([]byte, valueBytes*3/2)
	for {
		key := fmt.Appendf(nil, "key-%d", entries)
		_, err := s.Put(uint16(entries%8), key, value[:valueBytes/2+rnd.IntN(valueBytes)], Write{Deadline: int64(entries % 2)})
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
				if _, err := s.Delete(uint16(i%8), fmt.Appendf(nil, "key-%d", i), Write{}); err != nil {
					t.Fatal(err)
				}
			}
			s.Expire(10, 1<<30)
			check(t, s)
			if st := s.Stats(); st.UsedBytes != empty.UsedBytes || st.RequestedBytes != 0 || st.LongestFreeBytes != empty.LongestFreeBytes {
				t.Errorf("emptied: %+v, at first %+v", st, empty)
			}
		}
	}
}

func TestNoMemoryChangesNothing(t *testing.T) {
	s := open(t, 1<<20)
	n := fill(t, s, rand.New(rand.NewPCG(1, 2)), 100)
	var held []Reservation // use up the free slots that are left
	for bytes := 2048; bytes > 0; {
		r, err := s.ReserveScratch(bytes)
		if err != nil {
			bytes /= 2
			continue
		}
		held = append(held, r)
	}
	before := s.Stats()
	key := []byte("key-0")
	if _, err := s.Put(0, key, make([]byte, 500), Write{}); !errors.Is(err, dramnode.ErrNoMemory) {
		t.Fatalf("Put into a full store: %v", err)
	}
	if _, err := s.Put(0, bytes.Repeat(key, 50), nil, Write{}); !errors.Is(err, dramnode.ErrNoMemory) {
		t.Fatalf("Put of a new key into a full store: %v", err)
	}
	check(t, s)
	if after := s.Stats(); fmt.Sprint(after) != fmt.Sprint(before) || after.Entries != n {
		t.Errorf("failed writes changed\n%+v to\n%+v", before, after)
	}
	for _, r := range held {
		s.Abort(r)
	}
	for i := range n / 2 {
		if _, err := s.Delete(uint16(i%8), fmt.Appendf(nil, "key-%d", i), Write{}); err != nil {
			t.Fatal(err)
		}
	}
	s.Expire(2, n)
	if _, err := s.Put(0, key, make([]byte, 500), Write{}); err != nil {
		t.Errorf("Put after room was made: %v", err)
	}
	check(t, s)
}

func TestLargeValues(t *testing.T) {
	const large = 64 << 20
	s, err := New(Config{Arena: make([]byte, 256<<20), Partitions: 8})
	if err != nil {
		t.Fatal(err)
	}
	for i := range uint16(3) {
		r, err := s.Reserve([]byte("large"), large)
		if err != nil {
			t.Fatal(err)
		}
		r.Bytes[0], r.Bytes[large-1] = byte(i), byte(i)
		if _, err := s.Commit(i, []byte("large"), r, Write{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Reserve([]byte("large"), large); !errors.Is(err, dramnode.ErrNoMemory) {
		t.Errorf("a fourth large value: %v", err)
	}
	if _, err := s.Reserve([]byte("large"), large+1); !errors.Is(err, dramnode.ErrTooLarge) {
		t.Errorf("a value over the limit: %v", err)
	}
	v, ok := s.Get(1, []byte("large"), 0)
	if !ok || len(v.Bytes) != large || v.Bytes[0] != 1 || v.Bytes[large-1] != 1 {
		t.Errorf("Get has %d bytes", len(v.Bytes))
	}
	s.Release(v.Lease)
	check(t, s)
	for i := range uint16(2) {
		if _, err := s.DropPartition(i); err != nil {
			t.Fatal(err)
		}
	}
	scratch, err := s.ReserveScratch(large + 4096)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Commit(1, []byte("large"), scratch, Write{}); !errors.Is(err, dramnode.ErrInvalid) {
		t.Errorf("commit of scratch: %v", err)
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
		s, err := New(Config{Arena: make([]byte, 32<<20), Partitions: 4, Eviction: tt.eviction})
		if err != nil {
			t.Fatal(err)
		}
		rnd, value := rand.New(rand.NewPCG(3, 4)), make([]byte, valueBytes)
		before := s.Stats()
		for i := range entries {
			key := fmt.Appendf(nil, tt.order, i)
			if tt.order == "" {
				key = fmt.Appendf(nil, "%016x", rnd.Uint64())
			}
			w := Write{Deadline: tt.deadline * int64(1+rnd.IntN(1<<40))}
			if _, err := s.Put(uint16(i%4), key, value, w); err != nil {
				t.Fatal(err)
			}
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
		if _, err := s.Put(uint16(entries%8), fmt.Appendf(nil, "key-%d", entries), make([]byte, 50+rnd.IntN(100)), Write{}); err != nil {
			t.Fatalf("%v at %d %%", err, s.Used())
		}
		entries++
	}
	if st := s.Stats(); st.UsedBytes*100 < st.TotalBytes*85 || st.UsedBytes*100 > st.TotalBytes*96 {
		t.Errorf("at 90 %% %d of %d bytes are used", st.UsedBytes, st.TotalBytes)
	}
	pages := s.Stats().UsedBytes
	for i := 0; i < entries; i += 2 { // of each slab some slots stay
		if _, err := s.Delete(uint16(i%8), fmt.Appendf(nil, "key-%d", i), Write{}); err != nil {
			t.Fatal(err)
		}
	}
	if st := s.Stats(); st.UsedBytes < pages*9/10 || s.Used() < 40 || s.Used() > 60 {
		t.Errorf("after every other delete %d of %d bytes are used, so the store says %d %%", st.UsedBytes, pages, s.Used())
	}
	fill(t, s, rnd, 3000)
	if used := s.Used(); used != 100 {
		t.Errorf("%d %% of a full store are used", used)
	}
}
