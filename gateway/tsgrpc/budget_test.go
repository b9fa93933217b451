package tsgrpc

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dramnode/dramnode"
)

func TestBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBudget(100)
		first, second, third := b.loan(), b.loan(), b.loan()
		mustTake(t, first, 60)
		mustTake(t, second, 40)
		first.give(10)
		mustTake(t, second, 10) // what first has given back
		mustTake(t, second, 70) // one is let through
		mustTake(t, second, 1000)
		if b.left != 0 {
			t.Errorf("%d bytes are left", b.left)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := third.take(ctx, 1); !errors.Is(err, dramnode.ErrBusy) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("beside it: %v", err)
		}
		waits := make(chan error, 1)
		go func() { waits <- first.take(t.Context(), 90) }()
		synctest.Wait()
		second.end()
		synctest.Wait()
		if err := <-waits; err != nil {
			t.Error(err) // it is the next to be let through
		}
		mustTake(t, first, 1000)
		mustTake(t, third, 50)
		for _, l := range []*loan{first, second, third} {
			l.end()
			l.end()
		}
		if b.left != 100 || b.alone != nil {
			t.Errorf("%d bytes are left, and %v", b.left, b.alone)
		}
	})
}

func mustTake(t *testing.T, l *loan, bytes int64) {
	t.Helper()
	if err := l.take(t.Context(), bytes); err != nil {
		t.Fatal(err)
	}
}

// TestBudgetEnds lets many requests, each of which holds some and wants more, all come to their end.
func TestBudgetEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const budgetBytes, wantBytes = 100, 70
		b := newBudget(budgetBytes)
		var mu sync.Mutex
		held, most := int64(0), int64(0)
		count := func(bytes int64) {
			mu.Lock()
			defer mu.Unlock()
			held += bytes
			most = max(most, held)
		}
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				l := b.loan()
				for range wantBytes / 7 {
					if err := l.take(t.Context(), 7); err != nil {
						t.Error(err)
					}
					count(7)
					time.Sleep(time.Millisecond)
				}
				count(-wantBytes)
				l.end()
			})
		}
		wg.Wait()
		if b.left != budgetBytes || most > budgetBytes+wantBytes {
			t.Errorf("%d bytes are left, %d were lent at once", b.left, most)
		}
	})
}
