package client

import (
	"hash/maphash"
	"math/bits"
	"sync/atomic"

	"github.com/dramnode/dramnode/transport"
)

// A place is where the value of a key was last. It is never changed, only replaced. Of the key it has a hash: whoever reads
// there finds out whether the record is that of the key.
type place struct {
	hash  uint64 // set by put
	bytes int
	at    transport.Place
	share *share
}

// places remembers a bounded number of places. A key has placeWays slots that it shares with others. Readers take no
// lock; what two writers do at once to one key may leave an outdated place, which reading finds out.
type places struct {
	seed maphash.Seed
	sets []placeSet
	turn atomic.Uint32 // which slot makes room next
}

const placeWays = 4

type placeSet [placeWays]atomic.Pointer[place]

// newPlaces remembers about keys places.
func newPlaces(keys int) *places {
	sets := 1 << bits.Len(uint(max(keys, placeWays)/placeWays-1))
	return &places{seed: maphash.MakeSeed(), sets: make([]placeSet, sets)}
}

func (s *places) set(key []byte) (hash uint64, set *placeSet) {
	hash = maphash.Bytes(s.seed, key)
	return hash, &s.sets[hash&uint64(len(s.sets)-1)]
}

// find returns the place of key, or nil.
func (s *places) find(key []byte) *place {
	hash, set := s.set(key)
	for i := range set {
		if p := set[i].Load(); p != nil && p.hash == hash {
			return p
		}
	}
	return nil
}

// put remembers p, in the slot of its key's last place, or an empty one, or some other key's.
func (s *places) put(key []byte, p *place) {
	hash, set := s.set(key)
	p.hash = hash
	slot := int(s.turn.Add(1) % placeWays)
	for i := len(set) - 1; i >= 0; i-- {
		old := set[i].Load()
		if old == nil {
			slot = i
		} else if old.hash == hash {
			slot = i
			break
		}
	}
	set[slot].Store(p)
}

// forget drops p if it is still remembered.
func (s *places) forget(key []byte, p *place) {
	_, set := s.set(key)
	for i := range set {
		set[i].CompareAndSwap(p, nil)
	}
}
