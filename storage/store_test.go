package storage

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/internal/invariant"
)

const testEpoch = 7

func open(tb testing.TB, arenaBytes int) *Store {
	tb.Helper()
	s, err := New(Config{Arena: make([]byte, arenaBytes), Partitions: 8, MaxValueBytes: 1 << 20})
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

func check(tb testing.TB, s *Store) {
	tb.Helper()
	if err := s.Check(); err != nil {
		tb.Fatal(err)
	}
}

func mustPut(tb testing.TB, s *Store, p uint16, key, value string, w Write) dramnode.Generation {
	tb.Helper()
	res, err := s.Put(p, []byte(key), []byte(value), w)
	if err != nil {
		tb.Fatalf("Put(%q): %v", key, err)
	}
	return res.Generation
}

func mustGet(tb testing.TB, s *Store, p uint16, key string, now int64) string {
	tb.Helper()
	v, ok := s.Get(p, []byte(key), now)
	if !ok {
		return "(missing)"
	}
	defer s.Release(v.Lease)
	if len(v.Bytes) != v.ValueBytes {
		tb.Errorf("Get(%q) has %d bytes and says %d", key, len(v.Bytes), v.ValueBytes)
	}
	return string(v.Bytes)
}

func TestPutGetDelete(t *testing.T) {
	s := open(t, 1<<20)
	for _, n := range []int{0, 1, 16, 1791, 1792, 1793, 2048, 4096, 16384, 16385, 100000} {
		want := bytes.Repeat([]byte{byte(n)}, n)
		key := fmt.Sprint("key", n)
		g := mustPut(t, s, 3, key, string(want), Write{Epoch: testEpoch, CRC: 99})
		v, ok := s.Get(3, []byte(key), 0)
		if !ok || !bytes.Equal(v.Bytes, want) || v.Generation != g || v.CRC != 99 {
			t.Errorf("Get of %d bytes: ok=%v, %d bytes, generation %d (want %d), crc %d", n, ok, len(v.Bytes), v.Generation, g, v.CRC)
		}
		s.Release(v.Lease)
		if _, ok := s.Get(4, []byte(key), 0); ok {
			t.Errorf("%q is in partition 4 too", key)
		}
		check(t, s)
		res, err := s.Delete(3, []byte(key), Write{Epoch: testEpoch})
		if err != nil || res.Previous != g || res.Generation <= g {
			t.Errorf("Delete = %+v, %v, want previous %d", res, err, g)
		}
		if got := mustGet(t, s, 3, key, 0); got != "(missing)" {
			t.Errorf("after Delete Get has %d bytes", len(got))
		}
		check(t, s)
	}
	if st := s.Stats(); st.Entries != 0 || st.RequestedBytes != 0 || len(st.Classes) != 0 {
		t.Errorf("the emptied store holds %+v", st)
	}
}

func TestConditions(t *testing.T) {
	type step struct {
		op    string
		ifGen int // -1: none, 0: absent, 1: the current one, 2: another one
		want  error
	}
	tests := map[string]struct {
		exists bool
		step
	}{
		"put new":                  {false, step{"put", -1, nil}},
		"put new if absent":        {false, step{"put", 0, nil}},
		"put new if other":         {false, step{"put", 2, dramnode.ErrGenerationMismatch}},
		"put old":                  {true, step{"put", -1, nil}},
		"put old if absent":        {true, step{"put", 0, dramnode.ErrGenerationMismatch}},
		"put old if current":       {true, step{"put", 1, nil}},
		"put old if other":         {true, step{"put", 2, dramnode.ErrGenerationMismatch}},
		"delete missing":           {false, step{"delete", -1, nil}},
		"delete missing if absent": {false, step{"delete", 0, nil}},
		"delete missing if other":  {false, step{"delete", 2, dramnode.ErrGenerationMismatch}},
		"delete old if current":    {true, step{"delete", 1, nil}},
		"delete old if absent":     {true, step{"delete", 0, dramnode.ErrGenerationMismatch}},
		"delete old if other":      {true, step{"delete", 2, dramnode.ErrGenerationMismatch}},
		"touch missing":            {false, step{"touch", -1, dramnode.ErrNotFound}},
		"touch missing if other":   {false, step{"touch", 2, dramnode.ErrNotFound}},
		"touch old":                {true, step{"touch", -1, nil}},
		"touch old if other":       {true, step{"touch", 2, dramnode.ErrGenerationMismatch}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s, key := open(t, 1<<20), []byte("k")
			var current dramnode.Generation
			if tt.exists {
				current = mustPut(t, s, 0, "k", "", Write{Epoch: testEpoch}) // an empty value is not a missing one
			}
			w := Write{Epoch: testEpoch, IfMatch: tt.ifGen >= 0}
			switch tt.ifGen {
			case 1:
				w.IfGeneration = current
			case 2:
				w.IfGeneration = current + 5
			}
			var res Result
			var err error
			switch tt.op {
			case "put":
				res, err = s.Put(0, key, []byte("new"), w)
			case "delete":
				res, err = s.Delete(0, key, w)
			case "touch":
				res, err = s.Touch(0, key, w)
			}
			if !errors.Is(err, tt.want) {
				t.Fatalf("%v, want %v", err, tt.want)
			}
			if ge := (*dramnode.GenerationError)(nil); errors.As(err, &ge) && ge.Current != current {
				t.Errorf("error says generation %d, current is %d", ge.Current, current)
			}
			if err == nil && res.Previous != current {
				t.Errorf("previous is %d, want %d", res.Previous, current)
			}
			info, ok := s.Stat(0, key, 0)
			if err != nil && (ok != tt.exists || info.Generation != current) {
				t.Errorf("a failed write changed the entry to %+v", info)
			}
			check(t, s)
			if r := s.Stats().Reservations; r != 0 {
				t.Errorf("%d reservations left", r)
			}
		})
	}
}

func TestGenerations(t *testing.T) {
	s := open(t, 1<<20)
	last := dramnode.Absent
	grows := func(what string, g dramnode.Generation) {
		t.Helper()
		if g <= last {
			t.Errorf("%s: generation %#x after %#x", what, g, last)
		}
		last = g
	}
	w := Write{Epoch: testEpoch}
	grows("put", mustPut(t, s, 1, "a", "x", w))
	if last != testEpoch<<32|1 {
		t.Errorf("first generation is %#x", last)
	}
	grows("overwrite", mustPut(t, s, 1, "a", "x", w))
	res, err := s.Delete(1, []byte("a"), w)
	if err != nil {
		t.Fatal(err)
	}
	grows("delete", res.Generation)
	grows("re-create", mustPut(t, s, 1, "a", "x", w))
	if _, err := s.DropPartition(1); err != nil {
		t.Fatal(err)
	}
	grows("after drop", mustPut(t, s, 1, "a", "x", w))
	grows("higher epoch", mustPut(t, s, 1, "a", "x", Write{Epoch: testEpoch + 1}))
	if last != (testEpoch+1)<<32|1 {
		t.Errorf("first generation of the epoch is %#x", last)
	}
	grows("lower epoch", mustPut(t, s, 1, "b", "x", w))
	check(t, s)
}

func TestLeases(t *testing.T) {
	for _, n := range []int{40, 5000, 200000} {
		s := open(t, 1<<20)
		before := s.Stats().UsedBytes
		value := bytes.Repeat([]byte("v"), n)
		mustPut(t, s, 0, "k", string(value), Write{Epoch: testEpoch})
		a, _ := s.Get(0, []byte("k"), 0)
		b, _ := s.Get(0, []byte("k"), 0)
		if st := s.Stats(); st.Leases != 2 || st.LeasedBytes != int64(n) {
			t.Errorf("%d leases on %d bytes, want 2 on %d", st.Leases, st.LeasedBytes, n)
		}
		s.Release(a.Lease)
		if _, err := s.DropPartition(0); err != nil {
			t.Fatal(err)
		}
		check(t, s)
		if !bytes.Equal(b.Bytes, value) {
			t.Error("the value changed under its lease")
		}
		if got := s.Stats().UsedBytes; got == before {
			t.Error("the leased bytes are not counted")
		}
		s.Release(b.Lease)
		if got := s.Stats().UsedBytes; got != before {
			t.Errorf("%d bytes are used after the last release, want %d", got, before)
		}
		check(t, s)
	}
}

func TestReleaseTwicePanics(t *testing.T) {
	s := open(t, 1<<20)
	mustPut(t, s, 0, "k", "value", Write{})
	v, _ := s.Get(0, []byte("k"), 0)
	s.Release(v.Lease)
	defer func() {
		if recover() == nil {
			t.Error("the second Release went unnoticed")
		}
	}()
	s.Release(v.Lease)
}

// In builds with invariants a reader of freed memory sees 0xCC.
func TestFreedIsPoisoned(t *testing.T) {
	if !invariant.Enabled {
		t.Log("no poisoning in this build")
		return
	}
	for _, n := range []int{40, 5000, 200000} {
		s := open(t, 1<<20)
		mustPut(t, s, 0, "k", string(make([]byte, n)), Write{})
		v, _ := s.Get(0, []byte("k"), 0)
		s.Release(v.Lease)
		if _, err := s.Delete(0, []byte("k"), Write{}); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(v.Bytes, bytes.Repeat([]byte{0xCC}, n)) {
			t.Errorf("a freed value of %d bytes is % x...", n, v.Bytes[:8])
		}
	}
}

func TestReservations(t *testing.T) {
	s := open(t, 1<<20)
	for _, n := range []int{0, 1, inPlaceMax, inPlaceMax + 1, 300000} {
		r, err := s.Reserve([]byte("k"), n)
		if err != nil {
			t.Fatal(err)
		}
		for i := range r.Bytes {
			r.Bytes[i] = byte(i)
		}
		want := bytes.Clone(r.Bytes)
		again := s.Resume(r.Token())
		check(t, s)
		if st := s.Stats(); st.ReservedBytes != int64(n) || len(again.Bytes) != n {
			t.Errorf("%d bytes are reserved, %d resumed, want %d", st.ReservedBytes, len(again.Bytes), n)
		}
		if _, err := s.Commit(0, []byte("k"), again, Write{}); err != nil {
			t.Fatal(err)
		}
		if got := mustGet(t, s, 0, "k", 0); got != string(want) {
			t.Errorf("a reserved value of %d bytes is another one", n)
		}
		if st := s.Stats(); st.ReservedBytes != 0 || st.Reservations != 0 {
			t.Errorf("%d bytes stay reserved", st.ReservedBytes)
		}
		check(t, s)
	}
}

// A failed commit leaves the reservation with its owner.
func TestReservationAfterMismatch(t *testing.T) {
	s := open(t, 1<<20)
	r, err := s.Reserve([]byte("k"), 100)
	if err != nil {
		t.Fatal(err)
	}
	w := Write{IfMatch: true, IfGeneration: 5}
	if _, err := s.Commit(0, []byte("k"), r, w); !errors.Is(err, dramnode.ErrGenerationMismatch) {
		t.Fatal(err)
	}
	check(t, s)
	if _, err := s.Commit(0, []byte("k"), r, Write{}); err != nil {
		t.Errorf("the reservation cannot be committed any more: %v", err)
	}
	defer func() {
		if recover() == nil {
			t.Error("Abort of a committed and deleted reservation went unnoticed")
		}
	}()
	if _, err := s.DropPartition(0); err != nil {
		t.Fatal(err)
	}
	s.Abort(r)
}

// No two partitions mix, also when they share a shard.
func TestSharedShard(t *testing.T) {
	s, err := New(Config{Arena: make([]byte, 1<<20), Partitions: 2 * shardsMax})
	if err != nil {
		t.Fatal(err)
	}
	mustPut(t, s, 1, "k", "one", Write{})
	mustPut(t, s, 1+shardsMax, "k", "two", Write{})
	check(t, s)
	if a, b := mustGet(t, s, 1, "k", 0), mustGet(t, s, 1+shardsMax, "k", 0); a != "one" || b != "two" {
		t.Errorf("the values are %q and %q", a, b)
	}
	if n, err := s.DropPartition(1); err != nil || n != 1 {
		t.Errorf("DropPartition = %d, %v", n, err)
	}
	if b := mustGet(t, s, 1+shardsMax, "k", 0); b != "two" {
		t.Errorf("after the other partition was dropped: %q", b)
	}
	check(t, s)
}

// Expire goes on where it stopped, so that no shard waits for ever behind another one.
func TestExpireIsFair(t *testing.T) {
	s := open(t, 1<<20)
	mustPut(t, s, 5, "last", "v", Write{Deadline: 1})
	for i := range 20 {
		mustPut(t, s, 0, fmt.Sprint(i), "v", Write{Deadline: 1})
		s.Expire(1, 1)
	}
	if ps, _ := s.PartitionStats(5); ps.Entries != 0 {
		t.Error("an expired entry was never freed")
	}
	check(t, s)
}

func TestGetInto(t *testing.T) {
	s := open(t, 1<<20)
	mustPut(t, s, 0, "k", "value", Write{})
	dst := make([]byte, 5)
	if v, ok := s.GetInto(dst, 0, []byte("k"), 0); !ok || v.Lease != 0 || string(dst) != "value" || &v.Bytes[0] != &dst[0] {
		t.Errorf("GetInto with room = %+v, %v", v, ok)
	}
	v, ok := s.GetInto(dst[:4], 0, []byte("k"), 0)
	if !ok || v.Lease == 0 || string(v.Bytes) != "value" {
		t.Errorf("GetInto without room = %+v, %v", v, ok)
	}
	s.Release(v.Lease)
	check(t, s)
}

func TestDeadlines(t *testing.T) {
	s := open(t, 1<<20)
	g := mustPut(t, s, 0, "k", "v", Write{Now: 10, Deadline: 20})
	mustPut(t, s, 0, "stays", "v", Write{Now: 10})
	if got := mustGet(t, s, 0, "k", 19); got != "v" {
		t.Errorf("before the deadline: %q", got)
	}
	if got := mustGet(t, s, 0, "k", 20); got != "(missing)" {
		t.Errorf("at the deadline: %q", got)
	}
	if n := s.Expire(19, 10); n != 0 {
		t.Errorf("Expire before the deadline frees %d", n)
	}
	w := Write{Now: 20, IfMatch: true, IfGeneration: g}
	if _, err := s.Put(0, []byte("k"), nil, w); !errors.Is(err, dramnode.ErrGenerationMismatch) {
		t.Errorf("the generation of an expired entry matches: %v", err)
	}
	if _, err := s.Touch(0, []byte("k"), Write{Now: 20}); !errors.Is(err, dramnode.ErrNotFound) {
		t.Errorf("Touch of an expired entry: %v", err)
	}
	res, err := s.Put(0, []byte("k"), []byte("again"), Write{Now: 20, IfMatch: true, Deadline: 30})
	if err != nil || res.Previous != dramnode.Absent {
		t.Errorf("create over an expired entry = %+v, %v", res, err)
	}
	if _, err := s.Touch(0, []byte("k"), Write{Now: 21, Deadline: 40}); err != nil {
		t.Error(err)
	}
	if n := s.Expire(39, 10); n != 0 {
		t.Errorf("Expire after Touch frees %d", n)
	}
	check(t, s)
	if n := s.Expire(40, 10); n != 1 {
		t.Errorf("Expire frees %d, want 1", n)
	}
	if e := s.Stats().Entries; e != 1 {
		t.Errorf("%d entries left, want 1", e)
	}
	check(t, s)
}

func TestBadArguments(t *testing.T) {
	s := open(t, 1<<20)
	long := make([]byte, dramnode.MaxKeyBytes+1)
	for name, err := range map[string]error{
		"empty key": second(s.Put(0, nil, nil, Write{})),
		"long key":  second(s.Put(0, long, nil, Write{})),
		"partition": second(s.Put(8, []byte("k"), nil, Write{})),
		"epoch":     second(s.Put(0, []byte("k"), nil, Write{Epoch: 1 << 31})),
		"delete":    second(s.Delete(8, []byte("k"), Write{})),
		"touch":     second(s.Touch(8, []byte("k"), Write{})),
		"drop":      second(s.DropPartition(8)),
		"reserve":   second(s.Reserve([]byte("k"), -1)),
		"config":    second(New(Config{})),
	} {
		if !errors.Is(err, dramnode.ErrInvalid) {
			t.Errorf("%s: %v, want ErrInvalid", name, err)
		}
	}
	if _, err := s.Put(0, []byte("k"), make([]byte, 1<<20+1), Write{}); !errors.Is(err, dramnode.ErrTooLarge) {
		t.Errorf("a long value: %v", err)
	}
	if _, err := s.Put(0, long[1:], nil, Write{}); err != nil {
		t.Errorf("the longest key: %v", err)
	}
	if _, ok := s.Get(8, []byte("k"), 0); ok {
		t.Error("partition 8 has an entry")
	}
	check(t, s)
}

func second[T any](_ T, err error) error { return err }
