package storage

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/dramnode/dramnode"
)

// Package replica/storetest holds Versions to what a replica needs of it. Here is what only this store promises.

func openVersions(tb testing.TB, c Config) (*Store, *Versions) {
	tb.Helper()
	s, err := New(c)
	if err != nil {
		tb.Fatal(err)
	}
	v, err := s.Versions(1)
	if err != nil {
		tb.Fatal(err)
	}
	return s, v
}

// stage makes a value of so many bytes the staged version of key.
func stage(tb testing.TB, v *Versions, key string, g dramnode.Generation, valueBytes int) uint64 {
	tb.Helper()
	r, err := v.Reserve(len(key), valueBytes, false)
	if err == nil {
		err = v.Stage([]byte(key), Staged{Version: Version{Info: Info{Generation: g}, Blob: r.Token()}})
	}
	if err != nil {
		tb.Fatal(err)
	}
	return r.Token()
}

func TestReadsSeeCommitted(t *testing.T) {
	s, v := openVersions(t, Config{Arena: make([]byte, 1<<20), Partitions: 4})
	key := []byte("key")
	list := func() (all []string) {
		s.List(Listing{}, func(e Entry) bool {
			all = append(all, fmt.Sprintf("%s %d", e.Key, e.Generation))
			return true
		})
		return all
	}
	stage(t, v, "key", 5, 100)
	if _, found, beside := read(v, nil, key, 0); found != Missing || !beside || len(list()) != 0 {
		t.Errorf("what is only staged can be read; listed are %q", list())
	}
	v.Commit(key)
	stage(t, v, "key", 6, 200)
	if info, _ := s.stat(1, key, 0); info.Generation != 5 || info.ValueBytes != 100 || fmt.Sprint(list()) != "[key 5]" {
		t.Errorf("beside a staged version stat tells %+v, and List %q", info, list())
	}
	v.Commit(key)
	if info, _ := s.stat(1, key, 0); info.Generation != 6 || fmt.Sprint(list()) != "[key 6]" {
		t.Errorf("after the commit stat tells %+v, and List %q", info, list())
	}
	check(t, s)
}

// TestLeaseOutlivesItsVersion: bytes that are being sent stay where they are.
func TestLeaseOutlivesItsVersion(t *testing.T) {
	s, v := openVersions(t, Config{Arena: make([]byte, 1<<20), Partitions: 4})
	for name, end := range map[string]func(key []byte, blob uint64){
		"freed":     func(_ []byte, blob uint64) { v.Free(blob) },
		"forgotten": func(key []byte, blob uint64) { mustSucceed(t, v.Stage(key, staged(1, blob))); v.Forget(key) },
		"replaced": func(key []byte, blob uint64) {
			mustSucceed(t, v.Stage(key, staged(1, blob)))
			v.Commit(key)
			mustSucceed(t, v.Stage(key, staged(2, 0)))
			v.Commit(key)
		},
		"cleared": func(key []byte, blob uint64) {
			mustSucceed(t, v.Stage(key, staged(1, blob)))
			v.Commit(key)
			v.Clear()
		},
	} {
		r, err := v.Reserve(len(name), 1000, false)
		if err != nil {
			t.Fatal(err)
		}
		want := bytes.Repeat([]byte(name[:1]), 1000)
		copy(r.Bytes, want)
		l := v.Lease(r.Token())
		end([]byte(name), r.Token())
		v.Settle()
		if !bytes.Equal(v.Bytes(r.Token()), want) || s.Stats().LeasedBytes != 1000 {
			t.Errorf("%s: a leased value changed, or %d bytes are leased", name, s.Stats().LeasedBytes)
		}
		check(t, s)
		s.Release(l)
		v.Clear()
		if st := s.Stats(); st.Leases != 0 || st.Reservations != 0 || st.Runs.Blocks != 0 || st.Entries != 0 {
			t.Errorf("%s: left over is %+v", name, st)
		}
		check(t, s)
	}
}

func staged(g dramnode.Generation, blob uint64) Staged {
	return Staged{Version: Version{Info: Info{Generation: g}, Blob: blob}}
}

// TestStagedBytesCount: values that nobody can read yet fill the arena as others do, and a share stays for what is urgent.
func TestStagedBytesCount(t *testing.T) {
	s, v := openVersions(t, Config{Arena: make([]byte, 4<<20), Partitions: 4})
	empty := s.Stats()
	n := 0
	for ; ; n++ {
		r, err := v.Reserve(4, 100<<10, false)
		if errors.Is(err, dramnode.ErrNoMemory) {
			break
		}
		mustSucceed(t, err)
		mustSucceed(t, v.Stage(fmt.Appendf(nil, "%04d", n), staged(1, r.Token())))
	}
	if used := s.Stats().UsedBytes - empty.UsedBytes; int(used) < n*100<<10 || n < 30 {
		t.Errorf("%d staged values of 100 KiB use %d bytes", n, used)
	}
	if r, err := v.Reserve(4, 100<<10, true); err != nil {
		t.Errorf("nothing is left for what is urgent: %v", err)
	} else {
		v.Free(r.Token())
		v.Settle()
	}
	check(t, s)
	v.Clear()
	v.Settle()
	if got := s.Stats(); fmt.Sprint(got) != fmt.Sprint(empty) {
		t.Errorf("cleared: %+v, at first %+v", got, empty)
	}
}

// TestOthersLeaveItAlone: neither time nor want of memory removes an entry behind a replica's back.
func TestOthersLeaveItAlone(t *testing.T) {
	s := openCache(t, 1<<20, 4)
	s.parts[1].Evictable(false)
	mustPut(t, s, 1, "k", "value", Info{Deadline: 10})
	for i := range 20 { // far more than fits
		mustSucceed(t, s.put(2, fmt.Appendf(nil, "%d", i), make([]byte, 200<<10), Info{}))
	}
	if info, ok := s.stat(1, []byte("k"), 9); !ok || info.Generation != 1 {
		t.Error("the entry is gone")
	}
	if _, found, _ := read(s.parts[1].Versions, nil, []byte("k"), 100); found != Overdue {
		t.Errorf("an overdue entry is found as %d", found)
	}
	if _, err := s.Versions(1); !errors.Is(err, dramnode.ErrInvalid) {
		t.Errorf("a partition is opened twice: %v", err)
	}
	check(t, s)
}

// TestValueOfAnotherKey: a peer may stage a value for one key and prepare it for another.
func TestValueOfAnotherKey(t *testing.T) {
	s, v := openVersions(t, Config{Arena: make([]byte, 1<<20), Partitions: 4})
	r, err := v.Reserve(3, 100, false)
	mustSucceed(t, err)
	if err := v.Stage([]byte("longer"), staged(1, r.Token())); !errors.Is(err, dramnode.ErrInvalid) {
		t.Errorf("staged under a longer key: %v", err)
	}
	v.Free(r.Token())
	v.Settle()
	check(t, s)
}

func TestVersionsDoNotAllocate(t *testing.T) {
	_, v := openVersions(t, Config{Arena: make([]byte, 1<<20), Partitions: 4})
	key, g := []byte("key"), dramnode.Generation(0)
	if n := testing.AllocsPerRun(1000, func() {
		g++
		r, _ := v.Reserve(len(key), 64, false)
		st := staged(g, r.Token())
		st.Deadline = int64(g)
		_ = v.Stage(key, st)
		v.Get(key)
		v.Commit(key)
		v.DropTombstones(g)
		v.Settle()
	}); n != 0 {
		t.Errorf("a write allocates %v times", n)
	}
	value := make([]byte, 64)
	if n := testing.AllocsPerRun(1000, func() {
		g++
		_ = v.Write(key, v.Committed(key).Blob, Version{Info: Info{Generation: g}, Blob: v.Lend(value)})
		v.Settle()
	}); n != 0 {
		t.Errorf("a write at once allocates %v times", n)
	}
}

// TestEvictionWaitsForTheStep: what a step was told of is there until it is settled, and may go then.
func TestEvictionWaitsForTheStep(t *testing.T) {
	s, v := openVersions(t, Config{Arena: make([]byte, 1<<20), Partitions: 4, Eviction: EvictS3FIFO})
	other, err := s.Versions(2)
	mustSucceed(t, err)
	v.Evictable(true)
	other.Evictable(true)
	key, value := []byte("k"), bytes.Repeat([]byte("v"), 1000)
	write := func(v *Versions, key []byte, g dramnode.Generation) {
		t.Helper()
		mustSucceed(t, v.Write(key, 0, Version{Info: Info{Generation: g}, Blob: v.Lend(value)}))
	}
	crowd := func() {
		for i := range 5000 { // far more than fits
			write(other, fmt.Appendf(nil, "%d", i), dramnode.Generation(i+1))
			other.Settle()
		}
	}
	write(v, key, 1)
	v.Settle()
	committed, _ := v.Get(key)
	crowd()
	mustSucceed(t, v.Stage(key, staged(2, committed.Blob))) // as a touch does
	v.Settle()
	crowd()
	if got, _ := v.Get(key); got.Generation != 1 || !bytes.Equal(v.Bytes(got.Blob), value) {
		t.Errorf("a step was told of version 1, and finds %+v", got)
	}
	v.Commit(key)
	v.Settle()
	crowd()
	if got, _ := v.Get(key); got.Generation != 0 {
		t.Errorf("%+v is not evicted once it may be", got)
	}
	check(t, s)
}

// TestWriteInPlace: a short value of the same length needs no memory, unless somebody has a lease on the old one.
func TestWriteInPlace(t *testing.T) {
	s, v := openVersions(t, Config{Arena: make([]byte, 1<<20), Partitions: 4})
	key := []byte("key")
	write := func(g dramnode.Generation, value string) uint64 {
		t.Helper()
		mustSucceed(t, v.Write(key, v.Committed(key).Blob, Version{Info: Info{Generation: g, Deadline: int64(g)}, Blob: v.Lend([]byte(value))}))
		v.Settle()
		got, _ := v.Get(key)
		if got.Generation != g || string(v.Bytes(got.Blob)) != value || got.Deadline != int64(g) {
			t.Errorf("version %d with %q reads as %+v", g, value, got)
		}
		check(t, s)
		return got.Blob
	}
	first := write(1, "one")
	if second := write(2, "two"); second != first {
		t.Error("a value of the same length has got another place")
	}
	l := v.Lease(first)
	if third := write(3, "thr"); third == first || string(v.Bytes(first)) != "two" {
		t.Error("a leased value was written over")
	}
	s.Release(l)
	write(4, "longer")
	mustSucceed(t, v.Stage(key, staged(5, 0)))
	if err := v.Write(key, 0, Version{Info: Info{Generation: 6}, Blob: v.Lend([]byte("x"))}); !errors.Is(err, dramnode.ErrInvalid) {
		t.Errorf("a write under a staged version: %v", err)
	}
	v.Commit(key)
	mustSucceed(t, v.Write(key, 0, Version{Info: Info{Generation: 7}, Deleted: true}))
	v.Settle()
	if st := v.Stats(); st != (VersionsStats{}) || s.Stats().Reservations != 0 {
		t.Errorf("after the delete there are %+v", st)
	}
	check(t, s)
}
