package object

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/dramnode/dramnode"
)

// bodyWait is how long a body waits for others to be stored before it is refused.
const bodyWait = 10 * time.Second

// A budget is bytes that are lent and come back.
type budget struct {
	total int64

	mu    sync.Mutex
	left  int64
	freed chan struct{} // closed and replaced when bytes come back
}

func newBudget(bytes int64) *budget {
	return &budget{total: bytes, left: bytes, freed: make(chan struct{})}
}

// take lends bytes; it waits a while for them, and then fails with dramnode.ErrBusy.
func (b *budget) take(ctx context.Context, bytes int64) error {
	if bytes > b.total {
		return fmt.Errorf("object: %w: a body of %d bytes, the limit for all is %d", dramnode.ErrTooLarge, bytes, b.total)
	}
	timer := time.NewTimer(bodyWait)
	defer timer.Stop()
	for {
		b.mu.Lock()
		if b.left >= bytes {
			b.left -= bytes
			b.mu.Unlock()
			return nil
		}
		freed := b.freed
		b.mu.Unlock()
		select {
		case <-freed:
		case <-ctx.Done():
			return fmt.Errorf("object: %w: %w", dramnode.ErrUnavailable, context.Cause(ctx))
		case <-timer.C:
			return fmt.Errorf("object: %w: %d bytes of bodies are on their way", dramnode.ErrBusy, b.total)
		}
	}
}

func (b *budget) give(bytes int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.left += bytes
	close(b.freed)
	b.freed = make(chan struct{})
}

// staged counts the bytes of parts that are not complete: what the last sweep found, and what this process
// added and removed since. It may be wrong by what other processes did since then.
type staged struct {
	mu    sync.Mutex
	bytes int64
}

func (s *staged) add(bytes, limit int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bytes+bytes > limit {
		return fmt.Errorf("object: %w: %d bytes of parts wait for completion, the limit is %d", dramnode.ErrNoMemory, s.bytes, limit)
	}
	s.bytes += bytes
	return nil
}

func (s *staged) remove(bytes int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bytes = max(0, s.bytes-bytes)
}

func (s *staged) set(bytes int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bytes = bytes
}
