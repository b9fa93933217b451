package client

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/dramnode/dramnode"
)

// slots bounds the operations under way: those of futures, callbacks and multi operations. Who finds
// none free may wait; a slot that comes back wakes one who does.
type slots struct {
	free    atomic.Int64
	size    int
	waiting atomic.Int64
	freed   chan struct{} // of one token
}

func (s *slots) init(n int) {
	s.size = n
	s.free.Store(int64(n))
	s.freed = make(chan struct{}, 1)
}

func (s *slots) limit() int { return s.size }

// try takes a slot if one is free.
func (s *slots) try() bool {
	for {
		n := s.free.Load()
		if n == 0 {
			return false
		}
		if s.free.CompareAndSwap(n, n-1) {
			return true
		}
	}
}

func (s *slots) give() {
	s.free.Add(1)
	if s.waiting.Load() > 0 {
		s.wake()
	}
}

func (s *slots) wake() {
	select {
	case s.freed <- struct{}{}:
	default:
	}
}

// take waits for a slot.
func (s *slots) take(ctx context.Context, deadline time.Time) error {
	if s.try() {
		return nil
	}
	s.waiting.Add(1)
	defer s.waiting.Add(-1)
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	var cause error
	for !s.try() {
		select {
		case <-s.freed:
		case <-ctx.Done():
			cause = context.Cause(ctx)
		case <-timer.C:
			cause = context.DeadlineExceeded
		}
		if cause != nil {
			s.wake() // the token may have come meanwhile, and be another's
			return fmt.Errorf("client: %w: %d operations are under way: %w", dramnode.ErrBusy, s.size, cause)
		}
	}
	if s.free.Load() > 0 {
		s.wake() // a second slot came back while the token of the first was there
	}
	return nil
}
