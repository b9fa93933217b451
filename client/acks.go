package client

import "sync"

// acks numbers writes and knows the first number that is still in use, so that nodes may forget the
// outcomes of all before it.
type acks struct {
	mu    sync.Mutex
	next  uint64
	first uint64            // every counter below is answered
	done  map[uint64]uint64 // answered counters above first, as ranges [key, value): bounded by the writes under way
}

// begin returns the first of n new counters, and the first one in use.
func (a *acks) begin(n uint64) (counter, firstUnacked uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.done == nil {
		a.done = map[uint64]uint64{}
		a.next, a.first = 1, 1
	}
	counter = a.next
	a.next += n
	return counter, a.first
}

// end says that what one begin returned will not be sent again.
func (a *acks) end(counter, n uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if counter != a.first {
		a.done[counter] = counter + n
		return
	}
	a.first += n
	for next, ok := a.done[a.first]; ok; next, ok = a.done[a.first] {
		delete(a.done, a.first)
		a.first = next
	}
}

// numbers are the counters of one batch, taken so many at a time that batches of several goroutines do not meet
// at every write.
type numbers struct {
	acks         *acks
	blocks       []uint64 // the first counter of each
	left         uint64   // of the last block
	firstUnacked uint64   // when that was taken
}

const blockNumbers = 64

func (s *numbers) begin() (counter, firstUnacked uint64) {
	if s.left == 0 {
		var block uint64
		block, s.firstUnacked = s.acks.begin(blockNumbers)
		s.blocks, s.left = append(s.blocks, block), blockNumbers
	}
	counter = s.blocks[len(s.blocks)-1] + blockNumbers - s.left
	s.left--
	return counter, s.firstUnacked
}

// end is acks.end for all counters that were taken, used or not.
func (s *numbers) end() {
	for _, block := range s.blocks {
		s.acks.end(block, blockNumbers)
	}
	s.blocks, s.left = s.blocks[:0], 0
}
