package client

import "sync"

// acks numbers writes and knows the first number that is still in use, so that nodes may forget the
// outcomes of all before it.
type acks struct {
	mu    sync.Mutex
	next  uint64
	first uint64              // every counter below is answered
	done  map[uint64]struct{} // answered counters above first: bounded by the writes under way
}

// begin returns a new counter and the first one in use.
func (a *acks) begin() (counter, firstUnacked uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.done == nil {
		a.done = map[uint64]struct{}{}
		a.next, a.first = 1, 1
	}
	counter = a.next
	a.next++
	return counter, a.first
}

// end says that counter will not be sent again.
func (a *acks) end(counter uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if counter != a.first {
		a.done[counter] = struct{}{}
		return
	}
	for a.first++; ; a.first++ {
		if _, ok := a.done[a.first]; !ok {
			return
		}
		delete(a.done, a.first)
	}
}
