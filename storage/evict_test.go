package storage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/dramnode/dramnode"
)

// openCache opens a store that evicts, in all of its partitions.
func openCache(tb testing.TB, arenaBytes, partitions int) *opened {
	tb.Helper()
	s := openAll(tb, Config{Arena: make([]byte, arenaBytes), Partitions: partitions, MaxValueBytes: 1 << 20, Eviction: EvictS3FIFO})
	for p := range s.parts {
		s.parts[p].Evictable(true)
	}
	return s
}

// No put fails for want of room, however sizes change, and what was just written is there.
func TestEvictionMakesRoom(t *testing.T) {
	s := openCache(t, 8<<20, 16)
	rnd := rand.New(rand.NewPCG(1, 1))
	key := make([]byte, 8)
	for _, valueBytes := range []int{100, 5000, 300_000, 40, 20_000} {
		value := make([]byte, valueBytes)
		for written := 0; written < 12<<20; written += valueBytes + 100 {
			binary.LittleEndian.PutUint64(key, rnd.Uint64())
			p := uint16(rnd.Uint32N(16))
			if err := s.put(p, key, value[:1+rnd.IntN(valueBytes)], Info{Deadline: int64(rnd.Uint32N(2)) * 100}); err != nil {
				t.Fatalf("put of at most %d bytes: %v", valueBytes, err)
			}
			if _, ok := s.stat(p, key, 0); !ok {
				t.Fatal("an entry is gone right after its put")
			}
		}
		check(t, s)
	}
	st := s.Stats()
	if st.Evictions == 0 || st.EvictedBytes == 0 || st.UsedBytes < st.TotalBytes/2 {
		t.Errorf("after all that %+v", st)
	}
	if _, err := s.parts[0].Reserve(len(key), 1<<20+1, false); !errors.Is(err, dramnode.ErrTooLarge) {
		t.Errorf("a value over the limit: %v", err)
	}
	entries := s.Stats().Entries
	if _, err := s.ReserveScratch(9 << 20); !errors.Is(err, dramnode.ErrNoMemory) || s.Stats().Entries != entries {
		t.Errorf("scratch that cannot fit: %v, and %d of %d entries are left", err, s.Stats().Entries, entries)
	}
}

// Entries that are read again and again outlive a scan of many others, and one that comes back after its eviction enters main.
func TestEvictionKeepsWhatIsRead(t *testing.T) {
	s := openCache(t, 4<<20, 4)
	value := make([]byte, 1000)
	put := func(k uint64) {
		mustSucceed(t, s.put(uint16(k%4), binary.LittleEndian.AppendUint64(nil, k), value, Info{}))
	}
	dst := make([]byte, 1000)
	get := func(k uint64) bool {
		_, ok := s.getInto(dst, uint16(k%4), binary.LittleEndian.AppendUint64(nil, k), 0)
		return ok
	}
	const hot = 500
	for k := range uint64(hot) {
		put(k)
		get(k)
		get(k)
	}
	for k := range uint64(20_000) {
		put(1000 + k)
		get(k % hot)
	}
	kept := 0
	for k := range uint64(hot) {
		if get(k) {
			kept++
		}
	}
	if kept < hot*95/100 {
		t.Errorf("%d of %d entries that are read survive a scan", kept, hot)
	}
	last := uint64(1000 + 20_000 - 1)
	victim := last
	for get(victim) {
		victim--
	}
	put(victim)
	id := s.identify(uint16(victim%4), binary.LittleEndian.AppendUint64(nil, victim))
	sh := s.shard(id.partition)
	if rec := sh.index.find(&id); s.mem.queue(rec) != queueMain {
		t.Error("an entry that comes back while its ghost is known is not in main")
	}
	check(t, s)
}

// Leased and reserved bytes are never evicted.
func TestEvictionSpares(t *testing.T) {
	s := openCache(t, 1<<20, 4)
	want := bytes.Repeat([]byte("leased"), 1000)
	mustPut(t, s, 1, "leased", string(want), Info{})
	leased, _ := s.get(1, []byte("leased"), 0)
	r, err := s.parts[1].Reserve(len("reserved"), 5000, false)
	mustSucceed(t, err)
	copy(r.Bytes, want)
	for i := range 3000 {
		mustPut(t, s, uint16(i%2)*3, string(binary.LittleEndian.AppendUint64(nil, uint64(i))), string(want[:1000]), Info{})
	}
	if !bytes.Equal(leased.Bytes, want) || !bytes.Equal(r.Bytes, want[:5000]) {
		t.Error("leased or reserved bytes changed")
	}
	if _, ok := s.stat(1, []byte("leased"), 0); !ok {
		t.Error("an entry with a lease is gone")
	}
	s.Release(leased.Lease)
	s.Abort(r)
	check(t, s)
}

func TestEvictionNoneRefuses(t *testing.T) {
	s := open(t, 1<<20)
	n := fill(t, s, rand.New(rand.NewPCG(1, 2)), 100)
	if st := s.Stats(); st.Evictions != 0 || st.Entries != n {
		t.Errorf("%d entries were put: %+v", n, st)
	}
}

// TestConcurrentEviction has writers, readers with leases and a drop on a store that is always full.
func TestConcurrentEviction(t *testing.T) {
	s := openCache(t, 1<<20, 6)
	var wg sync.WaitGroup
	for n := range uint64(4) {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(n, 1))
			for range 5000 {
				k := rnd.Uint32N(5000)
				key, p := binary.LittleEndian.AppendUint32(nil, k), uint16(k%6)
				if v, ok := s.get(p, key, 0); ok {
					if crc32.ChecksumIEEE(v.Bytes) != v.CRC {
						t.Error("a value is torn")
					}
					s.Release(v.Lease)
					continue
				}
				value := make([]byte, rnd.IntN(2000))
				copy(value, key)
				if err := s.put(p, key, value, Info{CRC: crc32.ChecksumIEEE(value)}); err != nil {
					t.Error(err)
				}
				if k == 5 {
					s.drop(5)
				}
			}
		})
	}
	wg.Wait()
	check(t, s)
	if s.Stats().Evictions == 0 {
		t.Error("nothing was evicted")
	}
}

func TestParseEviction(t *testing.T) {
	for _, e := range []Eviction{EvictNone, EvictS3FIFO} {
		if got, err := ParseEviction(e.String()); got != e || err != nil {
			t.Errorf("ParseEviction(%q) = %v, %v", e, got, err)
		}
	}
	if _, err := ParseEviction("lru"); !errors.Is(err, dramnode.ErrInvalid) {
		t.Errorf("ParseEviction of lru: %v", err)
	}
}
