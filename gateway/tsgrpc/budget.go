package tsgrpc

import (
	"context"
	"fmt"
	"sync"

	"github.com/dramnode/dramnode"
)

// A budget is memory that requests share. Who needs more than is left waits. Requests that hold some and wait for
// more could wait for each other for ever, so one of them at a time is let through: it gets what it needs, which
// is limited by the longest value, until it is over.
type budget struct {
	mu    sync.Mutex
	left  int64
	alone *loan         // is let through
	freed chan struct{} // closed and replaced when something comes back and somebody waits; nil when nobody does
}

func newBudget(bytes int64) *budget { return &budget{left: bytes} }

// A loan is what one request has of a budget.
type loan struct {
	from  *budget
	bytes int64
}

func (b *budget) loan() *loan { return &loan{from: b} }

// take adds to the loan; it waits as long as ctx lets it.
func (l *loan) take(ctx context.Context, bytes int64) error {
	b := l.from
	for {
		b.mu.Lock()
		if b.alone == nil && b.left < bytes {
			b.alone = l
		}
		if b.alone == l {
			b.mu.Unlock()
			return nil
		}
		if b.left >= bytes {
			b.left -= bytes
			l.bytes += bytes
			b.mu.Unlock()
			return nil
		}
		if b.freed == nil {
			b.freed = make(chan struct{})
		}
		freed := b.freed
		b.mu.Unlock()
		select {
		case <-freed:
		case <-ctx.Done():
			return fmt.Errorf("tsgrpc: %w: other values are on their way: %w", dramnode.ErrBusy, context.Cause(ctx))
		}
	}
}

// give returns what take had too much.
func (l *loan) give(bytes int64) {
	b := l.from
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.alone == l {
		return // it may not have taken it
	}
	l.bytes -= bytes
	b.give(bytes)
}

// end returns all.
func (l *loan) end() {
	b := l.from
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.alone == l {
		b.alone = nil
	}
	b.give(l.bytes)
	l.bytes = 0
}

// give is called with the lock.
func (b *budget) give(bytes int64) {
	b.left += bytes
	if b.freed != nil {
		close(b.freed)
		b.freed = nil
	}
}
