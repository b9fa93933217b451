package client

import (
	"hash/maphash"
	"math/bits"
	"sync/atomic"

	"github.com/dramnode/dramnode/transport"
)

// A place is where the value of a key was last. It is never changed, only replaced.
type place struct {
	key   string
	bytes int
	at    transport.Place
	share *share
}

// places remembers a bounded number of places. A key has placeWays slots that it shares with others. Readers take no
// lock; what two writers do at once to one key may leave an outdated place, which reading finds out.
type places struct {
	seed  maphash.Seed
	slots []atomic.Pointer[place]
	turn  atomic.Uint32 // which slot makes room next
}

const placeWays = 4 // 32 bytes of slots: one look at memory

// newPlaces remembers about keys places.
func newPlaces(keys int) *places {
	sets := 1 << bits.Len(uint(max(keys, placeWays)/placeWays-1))
	return &places{seed: maphash.MakeSeed(), slots: make([]atomic.Pointer[place], sets*placeWays)}
}

func (s *places) set(key []byte) []atomic.Pointer[place] {
	at := int(maphash.Bytes(s.seed, key)) & (len(s.slots) - 1) &^ (placeWays - 1)
	return s.slots[at : at+placeWays : at+placeWays]
}

// find returns the place of key, or nil.
func (s *places) find(key []byte) *place {
	set := s.set(key)
	for i := range set {
		if p := set[i].Load(); p != nil && p.key == string(key) {
			return p
		}
	}
	return nil
}

// put remembers p, in the slot of its key's last place, or an empty one, or some other key's.
func (s *places) put(key []byte, p *place) {
	set := s.set(key)
	slot := int(s.turn.Add(1) % placeWays)
	for i := len(set) - 1; i >= 0; i-- {
		old := set[i].Load()
		if old == nil {
			slot = i
		} else if old.key == p.key {
			slot = i
			break
		}
	}
	set[slot].Store(p)
}

// forget drops p if it is still remembered.
func (s *places) forget(key []byte, p *place) {
	set := s.set(key)
	for i := range set {
		set[i].CompareAndSwap(p, nil)
	}
}
