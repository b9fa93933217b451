package resp

import "hash/maphash"

// touched is the set of keys that a batch has operations on, by hash: two keys that look alike only cost a
// batch of their own.
type touched struct {
	slots [2 * maxBatch]touch
	round uint32
	count int
}

type touch struct {
	hash  uint64
	round uint32 // of the set in which the slot is in use
	write bool
}

var seed = maphash.MakeSeed()

// add puts key into the set, unless an operation on it may not join those there: one is on the same key, and
// one of the two writes; or the set is full.
func (t *touched) add(key []byte, write bool) bool {
	if t.count >= maxBatch {
		return false
	}
	s := t.find(key)
	if s.round == t.round {
		return !s.write && !write
	}
	t.put(s, write)
	return true
}

// addAll puts the keys of one command into the set, whose own operations may happen in any order. It does
// nothing and returns false where add would.
func (t *touched) addAll(keys [][]byte, step int, write bool) bool {
	if t.count+len(keys)/step > maxBatch {
		return false
	}
	for i := 0; i < len(keys); i += step {
		if s := t.find(keys[i]); s.round == t.round && (s.write || write) {
			return false
		}
	}
	for i := 0; i < len(keys); i += step {
		if s := t.find(keys[i]); s.round != t.round {
			t.put(s, write)
		}
	}
	return true
}

// find returns the slot of key, or the free one that it may take.
func (t *touched) find(key []byte) *touch {
	if t.round == 0 {
		t.round = 1
	}
	hash := maphash.Bytes(seed, key)
	for i := hash; ; i++ { // at most half of the slots are in use
		s := &t.slots[i%uint64(len(t.slots))]
		if s.round != t.round {
			s.hash = hash
			return s
		}
		if s.hash == hash {
			return s
		}
	}
}

func (t *touched) put(s *touch, write bool) {
	s.round, s.write = t.round, write
	t.count++
}

func (t *touched) reset() {
	t.count = 0
	if t.round++; t.round == 0 { // after 4 billion batches the old marks would look new
		*t = touched{}
	}
}
