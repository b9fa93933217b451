package storage

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/internal/invariant"
)

func TestPutGetDelete(t *testing.T) {
	s := open(t, 1<<20)
	for _, n := range []int{0, 1, 16, 1791, 1792, 1793, 2048, 4096, 16384, 16385, 100000} {
		want := bytes.Repeat([]byte{byte(n)}, n)
		key := fmt.Sprint("key", n)
		g := mustPut(t, s, 3, key, string(want), Info{CRC: 99})
		v, ok := s.get(3, []byte(key), 0)
		if !ok || !bytes.Equal(v.Bytes, want) || v.Generation != g || v.CRC != 99 {
			t.Errorf("Get of %d bytes: ok=%v, %d bytes, generation %d (want %d), crc %d", n, ok, len(v.Bytes), v.Generation, g, v.CRC)
		}
		s.Release(v.Lease)
		if _, ok := s.get(4, []byte(key), 0); ok {
			t.Errorf("%q is in partition 4 too", key)
		}
		check(t, s)
		mustSucceed(t, s.del(3, []byte(key)))
		if got := mustGet(t, s, 3, key, 0); got != "(missing)" {
			t.Errorf("after its delete a value has %d bytes", len(got))
		}
		check(t, s)
	}
	if st := s.Stats(); st.Entries != 0 || st.RequestedBytes != 0 || len(st.Classes) != 0 {
		t.Errorf("the emptied store holds %+v", st)
	}
}

func TestLeases(t *testing.T) {
	for _, n := range []int{40, 5000, 200000} {
		s := open(t, 1<<20)
		before := s.Stats().UsedBytes
		value := bytes.Repeat([]byte("v"), n)
		mustPut(t, s, 0, "k", string(value), Info{})
		a, _ := s.get(0, []byte("k"), 0)
		b, _ := s.get(0, []byte("k"), 0)
		if st := s.Stats(); st.Leases != 2 || st.LeasedBytes != int64(n) {
			t.Errorf("%d leases on %d bytes, want 2 on %d", st.Leases, st.LeasedBytes, n)
		}
		s.Release(a.Lease)
		s.drop(0)
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
	mustPut(t, s, 0, "k", "value", Info{})
	v, _ := s.get(0, []byte("k"), 0)
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
		mustPut(t, s, 0, "k", string(make([]byte, n)), Info{})
		v, _ := s.get(0, []byte("k"), 0)
		s.Release(v.Lease)
		mustSucceed(t, s.del(0, []byte("k")))
		if !bytes.Equal(v.Bytes, bytes.Repeat([]byte{0xCC}, n)) {
			t.Errorf("a freed value of %d bytes is % x...", n, v.Bytes[:8])
		}
	}
}

func TestReservations(t *testing.T) {
	s := open(t, 1<<20)
	pt := &s.parts[0]
	for i, n := range []int{0, 1, lendMax, lendMax + 1, 300000} {
		r, err := pt.Reserve(1, n, false)
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
		mustSucceed(t, pt.Write([]byte("k"), 0, Version{Info: Info{Generation: dramnode.Generation(i + 1)}, Blob: again.Token()}))
		pt.Settle()
		if got := mustGet(t, s, 0, "k", 0); got != string(want) {
			t.Errorf("a reserved value of %d bytes is another one", n)
		}
		if st := s.Stats(); st.ReservedBytes != 0 || st.Reservations != 0 {
			t.Errorf("%d bytes stay reserved", st.ReservedBytes)
		}
		check(t, s)
	}
}

func TestAbortOfAVersionPanics(t *testing.T) {
	s := open(t, 1<<20)
	r, err := s.parts[0].Reserve(1, 100, false)
	mustSucceed(t, err)
	mustSucceed(t, s.parts[0].Write([]byte("k"), 0, Version{Info: Info{Generation: 1}, Blob: r.Token()}))
	for _, what := range []string{"written", "deleted"} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("Abort of a reservation that was %s went unnoticed", what)
				}
			}()
			s.Abort(r)
		}()
		s.drop(0)
	}
	check(t, s)
}

// No two partitions mix, also when they share a shard.
func TestSharedShard(t *testing.T) {
	s := openAll(t, Config{Arena: make([]byte, 1<<20), Partitions: 2 * shardsMax})
	mustPut(t, s, 1, "k", "one", Info{})
	mustPut(t, s, 1+shardsMax, "k", "two", Info{})
	check(t, s)
	if a, b := mustGet(t, s, 1, "k", 0), mustGet(t, s, 1+shardsMax, "k", 0); a != "one" || b != "two" {
		t.Errorf("the values are %q and %q", a, b)
	}
	s.drop(1)
	if a := mustGet(t, s, 1, "k", 0); a != "(missing)" {
		t.Errorf("after its partition was dropped: %q", a)
	}
	if b := mustGet(t, s, 1+shardsMax, "k", 0); b != "two" {
		t.Errorf("after the other partition was dropped: %q", b)
	}
	check(t, s)
}

func TestReadInto(t *testing.T) {
	s := open(t, 1<<20)
	mustPut(t, s, 0, "k", "value", Info{})
	dst := make([]byte, 5)
	if v, ok := s.getInto(dst, 0, []byte("k"), 0); !ok || v.Lease != 0 || string(dst) != "value" || &v.Bytes[0] != &dst[0] {
		t.Errorf("a read with room = %+v, %v", v, ok)
	}
	v, ok := s.getInto(dst[:4], 0, []byte("k"), 0)
	if !ok || v.Lease == 0 || string(v.Bytes) != "value" {
		t.Errorf("a read without room = %+v, %v", v, ok)
	}
	s.Release(v.Lease)
	check(t, s)
}

func TestDeadlines(t *testing.T) {
	s := open(t, 1<<20)
	mustPut(t, s, 0, "k", "v", Info{Deadline: 20})
	mustPut(t, s, 0, "stays", "v", Info{})
	if got := mustGet(t, s, 0, "k", 19); got != "v" {
		t.Errorf("before the deadline: %q", got)
	}
	if v, found, _ := read(s.parts[0].Versions, nil, []byte("k"), 20); found != Overdue || v.Lease != 0 {
		t.Errorf("at the deadline: %v, %+v", found, v)
	}
	if n := s.expire(0, 19, 10); n != 0 {
		t.Errorf("%d entries are overdue before the deadline", n)
	}
	mustPut(t, s, 0, "k", "a", Info{Deadline: 30}) // in place
	mustSucceed(t, s.touch(0, []byte("k"), 40))
	if n := s.expire(0, 39, 10); n != 0 {
		t.Errorf("%d entries are overdue after a touch", n)
	}
	check(t, s)
	if n := s.expire(0, 40, 10); n != 1 {
		t.Errorf("%d entries are overdue, want 1", n)
	}
	if e := s.Stats().Entries; e != 1 {
		t.Errorf("%d entries left, want 1", e)
	}
	check(t, s)
}

func TestBadArguments(t *testing.T) {
	s := open(t, 1<<20)
	for name, err := range map[string]error{
		"partition": second(s.Versions(8)),
		"stats":     second(s.PartitionStats(8)),
		"long key":  second(s.parts[0].Reserve(dramnode.MaxKeyBytes+1, 1, false)),
		"reserve":   second(s.parts[0].Reserve(1, -1, false)),
		"scratch":   second(s.ReserveScratch(-1)),
		"config":    second(New(Config{})),
	} {
		if !errors.Is(err, dramnode.ErrInvalid) {
			t.Errorf("%s: %v, want ErrInvalid", name, err)
		}
	}
	if err := s.parts[0].Write([]byte("k"), 0, Version{Info: Info{Generation: 1}, Blob: s.parts[0].Lend(make([]byte, 1<<20+1))}); !errors.Is(err, dramnode.ErrTooLarge) {
		t.Errorf("a long value: %v", err)
	}
	if err := s.put(0, make([]byte, dramnode.MaxKeyBytes), nil, Info{}); err != nil {
		t.Errorf("the longest key: %v", err)
	}
	check(t, s)
}

func second[T any](_ T, err error) error { return err }
