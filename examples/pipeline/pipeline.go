package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/client"
)

// store is what a stage needs of a client.
type store interface {
	Get(ctx context.Context, key []byte, opts ...client.Option) (client.Value, error)
	Put(ctx context.Context, key, value []byte, opts ...client.Option) (dramnode.Generation, error)
	Delete(ctx context.Context, key []byte, opts ...client.Option) error
}

const (
	window = 8 // items between collect and aggregate: what the cluster must hold at most
	poll   = 2 * time.Millisecond
)

// A pipeline is one run. Its keys, below prefix, are raw/i, done/i and total.
type pipeline struct {
	prefix string
	items  int
}

func (p *pipeline) key(format string, args ...any) []byte {
	return fmt.Appendf([]byte(p.prefix), format, args...)
}

// run runs the three stages until all items went through, or one stage failed.
func (p *pipeline) run(ctx context.Context, stores [3]store, out io.Writer) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var sum total
	var wg sync.WaitGroup
	errs := make([]error, 3)
	stage := func(i int, name string, do func() error) {
		wg.Go(func() {
			if err := do(); err != nil {
				errs[i] = fmt.Errorf("%s: %w", name, err)
				cancel(errs[i])
			}
		})
	}
	stage(0, "collect", func() error { return p.collect(ctx, stores[0]) })
	stage(1, "process", func() error { return p.process(ctx, stores[1]) })
	stage(2, "aggregate", func() (err error) { sum, err = p.aggregate(ctx, stores[2]); return err })
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := remove(ctx, stores[2], p.key("total")); err != nil {
		return err
	}
	fmt.Fprintf(out, "%d items, sum of squares %d\n", sum.count, sum.sum)
	return nil
}

// collect makes the numbers 1 to items.
func (p *pipeline) collect(ctx context.Context, s store) error {
	return p.produce(ctx, s, "raw", func(i int) (uint64, error) { return uint64(i), nil })
}

// process squares each number.
func (p *pipeline) process(ctx context.Context, s store) error {
	return p.produce(ctx, s, "done", func(i int) (uint64, error) {
		x, err := p.await(ctx, s, p.key("raw/%d", i))
		return x * x, err
	})
}

// produce writes the keys kind/1 to kind/items, at most window ahead of the total. A key is removed by
// the stage that wrote it, and only once it is in the total: a stage whose write had an unknown outcome
// can try again without bringing back what another stage has taken.
func (p *pipeline) produce(ctx context.Context, s store, kind string, value func(i int) (uint64, error)) error {
	for i := 1; i <= p.items+window; i++ {
		if old := i - window; old > 0 {
			if err := p.reached(ctx, s, old); err != nil {
				return err
			}
			if err := remove(ctx, s, p.key("%s/%d", kind, old)); err != nil {
				return err
			}
		}
		if i > p.items {
			continue
		}
		x, err := value(i)
		if err != nil {
			return err
		}
		if err := create(ctx, s, p.key("%s/%d", kind, i), number(x)); err != nil {
			return err
		}
	}
	return nil
}

// reached waits until item i is in the total.
func (p *pipeline) reached(ctx context.Context, s store, i int) error {
	return until(ctx, func() (bool, error) {
		t, _, err := p.total(ctx, s)
		return t.count >= uint64(i), err
	})
}

// aggregate adds up. The total knows how many items are in it, so adding one twice is impossible.
func (p *pipeline) aggregate(ctx context.Context, s store) (total, error) {
	for i := 1; i <= p.items; i++ {
		square, err := p.await(ctx, s, p.key("done/%d", i))
		if err != nil {
			return total{}, err
		}
		if err := p.add(ctx, s, uint64(i), square); err != nil {
			return total{}, err
		}
	}
	sum, _, err := p.total(ctx, s)
	return sum, err
}

// A total is the value of the key of that name.
type total struct{ count, sum uint64 }

// total returns the zero total and Absent before the first item.
func (p *pipeline) total(ctx context.Context, s store) (t total, g dramnode.Generation, err error) {
	v, err := s.Get(ctx, p.key("total"))
	if errors.Is(err, dramnode.ErrNotFound) {
		return t, dramnode.Absent, nil
	}
	if err == nil && len(v.Bytes) != 16 {
		err = fmt.Errorf("a total of %d bytes", len(v.Bytes))
	}
	if err != nil {
		return t, 0, err
	}
	return total{binary.LittleEndian.Uint64(v.Bytes), binary.LittleEndian.Uint64(v.Bytes[8:])}, v.Generation, nil
}

// add is a read and a conditional write. After an unknown outcome, as after a mismatch, reading again
// tells whether item i is in the total.
func (p *pipeline) add(ctx context.Context, s store, i, x uint64) error {
	return until(ctx, func() (bool, error) {
		t, g, err := p.total(ctx, s)
		if err != nil || t.count >= i {
			return err == nil, err
		}
		next := binary.LittleEndian.AppendUint64(number(i), t.sum+x)
		_, err = s.Put(ctx, p.key("total"), next, client.IfGeneration(g))
		if errors.Is(err, dramnode.ErrUnknownOutcome) || errors.Is(err, dramnode.ErrGenerationMismatch) {
			return false, nil
		}
		return err == nil, err
	})
}

// await waits for a number to be written.
func (p *pipeline) await(ctx context.Context, s store, key []byte) (x uint64, err error) {
	err = until(ctx, func() (bool, error) {
		v, err := s.Get(ctx, key)
		if errors.Is(err, dramnode.ErrNotFound) {
			return false, nil
		}
		if err == nil && len(v.Bytes) != 8 {
			err = fmt.Errorf("%s: %d bytes are no number", key, len(v.Bytes))
		}
		if err == nil {
			x = binary.LittleEndian.Uint64(v.Bytes)
		}
		return err == nil, err
	})
	return x, err
}

// create writes a value that nobody else writes or removes. After an unknown outcome the key may exist
// or come to exist: trying again is safe, and finding our own value is success.
func create(ctx context.Context, s store, key, value []byte) error {
	return until(ctx, func() (bool, error) {
		_, err := s.Put(ctx, key, value, client.IfAbsent())
		switch {
		case errors.Is(err, dramnode.ErrUnknownOutcome):
			return false, nil
		case !errors.Is(err, dramnode.ErrGenerationMismatch):
			return err == nil, err
		}
		v, getErr := s.Get(ctx, key)
		if getErr == nil && !bytes.Equal(v.Bytes, value) {
			return false, fmt.Errorf("%s: %w", key, err)
		}
		return getErr == nil, getErr
	})
}

// remove deletes; doing so twice does no harm.
func remove(ctx context.Context, s store, key []byte) error {
	return until(ctx, func() (bool, error) {
		err := s.Delete(ctx, key)
		if errors.Is(err, dramnode.ErrUnknownOutcome) {
			return false, nil
		}
		return err == nil, err
	})
}

// until calls do until it reports true or an error.
func until(ctx context.Context, do func() (bool, error)) error {
	ticker := time.NewTicker(poll)
	defer ticker.Stop()
	for {
		if done, err := do(); done || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ticker.C:
		}
	}
}

func number(x uint64) []byte { return binary.LittleEndian.AppendUint64(nil, x) }
