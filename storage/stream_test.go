package storage

import (
	"errors"
	"fmt"
	"testing"

	"github.com/dramnode/dramnode"
)

func next(t *testing.T, st *Stream, s *Store, maxItems int) (items []Item, caughtUp bool) {
	t.Helper()
	items, caughtUp, err := st.Next(nil, maxItems, 1<<30, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, it := range items {
		s.Release(it.Lease)
	}
	return items, caughtUp
}

func TestStream(t *testing.T) {
	s := open(t, 1<<20)
	w := Write{Epoch: 1}
	for i := range 5 {
		mustPut(t, s, 2, fmt.Sprint(i), "v", w)
	}
	mustPut(t, s, 3, "other", "v", w)
	st, err := s.StartStream(2)
	if err != nil {
		t.Fatal(err)
	}
	items, caughtUp := next(t, st, s, 2)
	if len(items) != 2 || caughtUp || string(items[0].Key) != "0" || string(items[1].Key) != "1" {
		t.Fatalf("first items %+v, caught up %v", items, caughtUp)
	}
	// "2" is next: it moves to the end. "0" was sent: it comes again. "3" is deleted before it was sent.
	mustPut(t, s, 2, "2", "new", w)
	mustPut(t, s, 2, "0", "new", w)
	if _, err := s.Delete(2, []byte("3"), w); err != nil {
		t.Fatal(err)
	}
	check(t, s)
	items, caughtUp = next(t, st, s, 100)
	got := ""
	for _, it := range items {
		got += fmt.Sprintf("%s:%d:%v ", it.Key, len(it.Value), it.Deleted)
	}
	if want := "4:1:false 2:3:false 0:3:false 3:0:true "; got != want || !caughtUp {
		t.Errorf("then came %q, want %q; caught up %v", got, want, caughtUp)
	}
	if items, caughtUp = next(t, st, s, 100); len(items) != 0 || !caughtUp {
		t.Errorf("after the end came %+v", items)
	}
	mustPut(t, s, 2, "9", "v", w)
	if items, _ = next(t, st, s, 100); len(items) != 1 {
		t.Errorf("a write after the end sends %+v", items)
	}
	if ps, _ := s.PartitionStats(2); ps.Tombstones != 1 {
		t.Errorf("%d tombstones while streaming", ps.Tombstones)
	}
	st.Close()
	st.Close()
	if ps, _ := s.PartitionStats(2); ps.Tombstones != 0 || ps.Entries != 5 {
		t.Errorf("after Close %+v", ps)
	}
	if _, _, err := st.Next(nil, 1, 1, 0); !errors.Is(err, dramnode.ErrClosed) {
		t.Errorf("Next after Close: %v", err)
	}
	check(t, s)
}

func TestStreamBudget(t *testing.T) {
	s := open(t, 1<<20)
	for i := range 10 {
		mustPut(t, s, 0, fmt.Sprint(i), string(make([]byte, 99)), Write{})
	}
	st, err := s.StartStream(0)
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	items, caughtUp, err := st.Next(nil, 100, 250, 0)
	if err != nil || len(items) != 3 || caughtUp {
		t.Errorf("a budget of 250 bytes gives %d items of 100, caught up %v, %v", len(items), caughtUp, err)
	}
	if st := s.Stats(); st.Leases != 3 {
		t.Errorf("%d leases, want 3", st.Leases)
	}
}

func TestStreamsAreLimited(t *testing.T) {
	s := open(t, 1<<20)
	for range streamsMax {
		if _, err := s.StartStream(0); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.StartStream(0); !errors.Is(err, dramnode.ErrBusy) {
		t.Errorf("one stream too many: %v", err)
	}
}

// An entry that expires before it was sent takes an older value at the receiver with it.
func TestStreamOfExpired(t *testing.T) {
	for _, freed := range []bool{false, true} {
		s := open(t, 1<<20)
		mustPut(t, s, 0, "k", "old", Write{})
		st, err := s.StartStream(0)
		if err != nil {
			t.Fatal(err)
		}
		next(t, st, s, 10)
		g := mustPut(t, s, 0, "k", "new", Write{Deadline: 5})
		if freed && s.Expire(5, 10) != 1 {
			t.Error("nothing expired")
		}
		check(t, s)
		items, _, err := st.Next(nil, 10, 1000, 5)
		if err != nil || len(items) != 1 || !items[0].Deleted || items[0].Generation != g {
			t.Errorf("freed=%v: %+v, %v; want a tombstone of generation %d", freed, items, err, g)
		}
		st.Close()
		check(t, s)
	}
}

func TestApply(t *testing.T) {
	k := []byte("k")
	put := func(g dramnode.Generation) Item { return Item{Key: k, Generation: g, Value: []byte{byte(g)}} }
	del := func(g dramnode.Generation) Item { return Item{Key: k, Generation: g, Deleted: true} }
	tests := map[string]struct {
		items   []Item
		applied string
		want    string
	}{
		"in order":             {[]Item{put(1), put(2)}, "yy", "\x02"},
		"twice":                {[]Item{put(1), put(1)}, "yn", "\x01"},
		"out of order":         {[]Item{put(2), put(1)}, "yn", "\x02"},
		"delete":               {[]Item{put(1), del(2)}, "yy", "(missing)"},
		"late put":             {[]Item{put(1), del(3), put(2)}, "yyn", "(missing)"},
		"delete comes first":   {[]Item{del(3), put(2)}, "yn", "(missing)"},
		"re-create":            {[]Item{del(3), put(4), del(3)}, "yyn", "\x04"},
		"deletes out of order": {[]Item{del(3), del(5), del(4), put(5)}, "yynn", "(missing)"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := open(t, 1<<20)
			if err := s.StartReceive(0); err != nil {
				t.Fatal(err)
			}
			mustApply(t, s, Item{Key: []byte("z"), Generation: 10}) // k goes in before it
			got := ""
			for _, it := range tt.items {
				got += map[bool]string{true: "y", false: "n"}[mustApply(t, s, it)]
				check(t, s)
			}
			if got != tt.applied {
				t.Errorf("applied %s, want %s", got, tt.applied)
			}
			if err := s.EndReceive(0); err != nil {
				t.Fatal(err)
			}
			check(t, s)
			if got := mustGet(t, s, 0, "k", 0); got != tt.want {
				t.Errorf("value %q, want %q", got, tt.want)
			}
			if ps, _ := s.PartitionStats(0); ps.Last != 10 || ps.Tombstones != 0 {
				t.Errorf("finally %+v", ps)
			}
		})
	}
}

func mustApply(t *testing.T, s *Store, it Item) bool {
	t.Helper()
	applied, err := s.Apply(0, it)
	if err != nil {
		t.Fatal(err)
	}
	return applied
}

// A stream of a partition that is itself received out of order misses nothing.
func TestStreamOfReceived(t *testing.T) {
	s := open(t, 1<<20)
	if err := s.StartReceive(0); err != nil {
		t.Fatal(err)
	}
	for g := range dramnode.Generation(4) {
		mustApply(t, s, Item{Key: fmt.Append(nil, 10*g+10), Generation: 10*g + 10})
	}
	st, err := s.StartStream(0)
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	next(t, st, s, 3)
	mustApply(t, s, Item{Key: []byte("late"), Generation: 15})
	seen := map[string]bool{}
	last := dramnode.Absent
	items, _ := next(t, st, s, 100)
	for _, it := range items {
		seen[string(it.Key)] = true
		if it.Generation <= last {
			t.Errorf("generation %d after %d", it.Generation, last)
		}
		last = it.Generation
	}
	if !seen["late"] || !seen["40"] {
		t.Errorf("then came %v, want late and 40 among it", seen)
	}
	check(t, s)
}

// What is written while a partition is dropped stays: the drop does not chase it.
func TestDropWhileWriting(t *testing.T) {
	s := open(t, 4<<20)
	for i := range 3 {
		mustPut(t, s, 0, fmt.Sprint("old", i), "v", Write{})
	}
	last := s.partitions[0].last
	mustPut(t, s, 0, "new", "v", Write{})
	if n := s.dropUpTo(0, last); n != 3 {
		t.Errorf("%d records are dropped, want 3", n)
	}
	if got := mustGet(t, s, 0, "new", 0); got != "v" {
		t.Errorf("the new entry is %q", got)
	}
	check(t, s)
}

func TestDropLarge(t *testing.T) {
	s := open(t, 4<<20)
	before := s.Stats().UsedBytes
	for i := range 2*stepRecords + 7 {
		mustPut(t, s, 0, fmt.Sprint(i), "v", Write{})
		mustPut(t, s, 1, fmt.Sprint(i), "v", Write{})
	}
	for p := range uint16(2) {
		if n, err := s.DropPartition(p); err != nil || n != 2*stepRecords+7 {
			t.Errorf("DropPartition = %d, %v", n, err)
		}
		check(t, s)
	}
	if got := s.Stats().UsedBytes; got != before {
		t.Errorf("%d bytes are used, want %d", got, before)
	}
}
