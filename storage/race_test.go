package storage

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/dramnode/dramnode"
)

// TestConcurrent has writers, readers that hold leases, a lister and an expirer at once. Every value
// carries its key, and its checksum as the CRC, so that a torn or reused one shows.
func TestConcurrent(t *testing.T) {
	const keys, turns = 60, 4000
	s, err := New(Config{Arena: make([]byte, 3<<20), Partitions: 6})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	run := func(f func(rnd *rand.Rand, turn int)) {
		seed := rand.Uint64()
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(seed, 1))
			for turn := range turns {
				f(rnd, turn)
			}
		})
	}
	verify := func(key, value []byte, crc uint32) {
		if crc32.ChecksumIEEE(value) != crc || binary.LittleEndian.Uint32(value) != binary.LittleEndian.Uint32(key) {
			t.Errorf("value of %x is torn: %d bytes", key, len(value))
		}
	}
	for range 2 {
		run(func(rnd *rand.Rand, turn int) { concurrentWrite(t, s, rnd, keys) })
		var held []Value
		run(func(rnd *rand.Rand, turn int) {
			k := rnd.Uint32N(keys)
			key := binary.LittleEndian.AppendUint32(nil, k)
			if v, ok := s.Get(uint16(k%6), key, 10); ok {
				verify(key, v.Bytes, v.CRC)
				held = append(held, v)
			}
			if len(held) > 3 || turn == turns-1 {
				for _, v := range held {
					if crc32.ChecksumIEEE(v.Bytes) != v.CRC {
						t.Error("a leased value changed")
					}
					s.Release(v.Lease)
				}
				held = held[:0]
			}
		})
	}
	run(func(rnd *rand.Rand, turn int) {
		s.Expire(10, 5)
		if turn%64 == 0 {
			s.Stats()
			last := ""
			s.List(Listing{Now: 10}, func(e Entry) bool {
				if last >= string(e.Key) {
					t.Errorf("%x listed after %x", e.Key, last)
				}
				last = string(e.Key)
				return true
			})
		}
		if turn%512 == 0 {
			if _, err := s.DropPartition(5); err != nil {
				t.Error(err)
			}
			if err := s.Check(); err != nil {
				t.Error(err)
			}
		}
	})
	wg.Wait()
	check(t, s)
	if st := s.Stats(); st.Leases != 0 || st.Reservations != 0 {
		t.Errorf("left over: %+v", st)
	}
}

func concurrentWrite(t *testing.T, s *Store, rnd *rand.Rand, keys uint32) {
	k := rnd.Uint32N(keys)
	key, p := binary.LittleEndian.AppendUint32(nil, k), uint16(k%6)
	w := Write{Epoch: 1, Now: 10}
	if rnd.IntN(4) == 0 {
		_, err := s.Delete(p, key, w)
		if err != nil {
			t.Error(err)
		}
		return
	}
	value := make([]byte, 4+rnd.IntN(4000))
	for i := range value {
		value[i] = byte(rnd.Uint32())
	}
	copy(value, key)
	w.CRC, w.Deadline = crc32.ChecksumIEEE(value), int64(rnd.IntN(2)*rnd.IntN(20))
	if _, err := s.Put(p, key, value, w); err != nil && !errors.Is(err, dramnode.ErrNoMemory) {
		t.Error(err)
	}
}

// TestGenerationOrder has goroutines that write one partition: each generation is given out once.
func TestGenerationOrder(t *testing.T) {
	s := open(t, 1<<20)
	const writers, writes = 4, 500
	got := make([][]dramnode.Generation, writers)
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			for range writes {
				res, err := s.Put(0, []byte("k"), []byte{byte(i)}, Write{Epoch: 3})
				if err != nil {
					t.Error(err)
					return
				}
				got[i] = append(got[i], res.Generation)
			}
		})
	}
	wg.Wait()
	seen := map[dramnode.Generation]bool{}
	for _, gs := range got {
		for i, g := range gs {
			if seen[g] || i > 0 && g <= gs[i-1] {
				t.Errorf("generation %d is repeated or out of order", g)
			}
			seen[g] = true
		}
	}
	if ps, _ := s.PartitionStats(0); ps.Last != 3<<32|writers*writes {
		t.Errorf("last generation %#x", ps.Last)
	}
}
