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
	s := openAll(t, Config{Arena: make([]byte, 3<<20), Partitions: 6})
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
			if v, ok := s.get(uint16(k%6), key, 10); ok {
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
		s.expire(uint16(turn%6), 10, 5)
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
			s.drop(5)
			if err := s.checkAmidst(); err != nil {
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

func concurrentWrite(t *testing.T, s *opened, rnd *rand.Rand, keys uint32) {
	k := rnd.Uint32N(keys)
	key, p := binary.LittleEndian.AppendUint32(nil, k), uint16(k%6)
	var err error
	switch rnd.IntN(8) {
	case 0:
		err = s.del(p, key)
	case 1:
		err = s.bury(p, key)
	case 2:
		if err = s.touch(p, key, int64(rnd.IntN(20))); errors.Is(err, dramnode.ErrNotFound) {
			err = nil
		}
	default:
		value := make([]byte, 4+rnd.IntN(2*lendMax))
		for i := range value {
			value[i] = byte(rnd.Uint32())
		}
		copy(value, key)
		err = s.put(p, key, value, Info{CRC: crc32.ChecksumIEEE(value), Deadline: int64(rnd.IntN(2) * rnd.IntN(20))})
	}
	if err != nil && !errors.Is(err, dramnode.ErrNoMemory) {
		t.Error(err)
	}
}
