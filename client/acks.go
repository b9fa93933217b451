package client

import (
	"math/bits"
	"sync"
)

// acks numbers writes and knows the first number that is still in use, so that nodes may forget the
// outcomes of all before it. A number is in use until its write will not be sent again: also while it is retried, and no
// longer once its caller was told that nobody knows, since nodes refuse a late copy then.
type acks struct {
	mu    sync.Mutex
	next  uint64
	first uint64   // every counter below is answered
	done  []uint64 // a ring of bits, one for each counter from first to next: it is answered. A power of two long
}

// begin returns the first of n new counters, and the first one in use.
func (a *acks) begin(n uint64) (counter, firstUnacked uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.done == nil {
		a.next, a.first = 1, 1
		a.done = make([]uint64, 16)
	}
	counter = a.next
	a.next += n
	for (a.next-1)/64-a.first/64 >= uint64(len(a.done)) {
		a.grow()
	}
	return counter, a.first
}

// grow doubles the ring. One write that takes long keeps a bit for each that is answered meanwhile.
func (a *acks) grow() {
	old := a.done
	a.done = make([]uint64, 2*len(old))
	for i := range uint64(len(old)) {
		*a.word(a.first + 64*i) = old[(a.first/64+i)%uint64(len(old))]
	}
}

// word has counter's bit.
func (a *acks) word(counter uint64) *uint64 { return &a.done[counter/64%uint64(len(a.done))] }

// end says that what one begin returned will not be sent again.
func (a *acks) end(counter, n uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for c := counter; c < counter+n; c++ {
		*a.word(c) |= 1 << (c % 64)
	}
	for {
		word := a.word(a.first)
		answered := bits.TrailingZeros64(^(*word >> (a.first % 64)))
		if a.first += uint64(answered); answered == 0 || a.first%64 != 0 {
			return
		}
		*word = 0
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
