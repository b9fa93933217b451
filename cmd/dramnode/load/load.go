// Package load measures a store with a closed loop: each worker sends its next operation when the last
// one is answered. Latencies are therefore those of this concurrency, not of a fixed arrival rate.
package load

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/dramnode/dramnode"
)

// A Store is what the load needs of a client. Its methods are called by several goroutines.
type Store interface {
	Put(ctx context.Context, key, value []byte) error
	// GetInto reads the value into dst and returns its length.
	GetInto(ctx context.Context, key, dst []byte) (int, error)
	Delete(ctx context.Context, key []byte) error
}

// Limits of a Config.
const (
	MaxKeys        = 1 << 20
	MaxConcurrency = 1024
	MaxDuration    = time.Hour
)

// maxErrors ends a phase: more would only repeat the first.
const maxErrors = 1000

// A Config says what to send.
type Config struct {
	Prefix      string // of the keys, which are this and a number
	Keys        int
	ValueBytes  int
	Concurrency int           // operations in flight
	Duration    time.Duration // of each phase
}

// Validate reports all faults at once.
func (c Config) Validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf("%w: %s", dramnode.ErrInvalid, fmt.Sprintf(format, args...)))
		}
	}
	check(c.Keys >= 1 && c.Keys <= MaxKeys, "--keys %d, want 1 to %d", c.Keys, MaxKeys)
	check(c.Concurrency >= 1 && c.Concurrency <= MaxConcurrency, "--concurrency %d, want 1 to %d", c.Concurrency, MaxConcurrency)
	check(c.ValueBytes >= 0, "--size %d, want 0 or more", c.ValueBytes)
	check(c.Duration > 0 && c.Duration <= MaxDuration, "--duration %v, want up to %v", c.Duration, MaxDuration)
	check(len(c.Prefix) <= dramnode.MaxKeyBytes-8, "the prefix has %d bytes, want at most %d", len(c.Prefix), dramnode.MaxKeyBytes-8)
	return errors.Join(errs...)
}

// A Result is one phase. Only operations that succeeded count.
type Result struct {
	Phase     string
	Took      time.Duration
	Ops       int64
	Bytes     int64
	Errors    int64
	First     error // of Errors
	Latencies *hdrhistogram.Histogram
}

// OpsPerSecond is the rate of operations.
func (r Result) OpsPerSecond() float64 { return float64(r.Ops) / r.Took.Seconds() }

// GBPerSecond is the rate of value bytes, in units of 1e9.
func (r Result) GBPerSecond() float64 { return float64(r.Bytes) / 1e9 / r.Took.Seconds() }

// Quantile is the latency that percent of the operations did not exceed.
func (r Result) Quantile(percent float64) time.Duration {
	return time.Duration(r.Latencies.ValueAtQuantile(percent))
}

// A Bench runs phases over one set of keys.
type Bench struct {
	Config
	store Store
}

// New returns a Bench for a valid Config.
func New(store Store, c Config) *Bench { return &Bench{Config: c, store: store} }

// Fill puts every key once.
func (b *Bench) Fill(ctx context.Context) error {
	value := b.value()
	return b.each(ctx, func(key []byte) error { return b.store.Put(ctx, key, value) })
}

// Clear deletes every key.
func (b *Bench) Clear(ctx context.Context) error {
	return b.each(ctx, func(key []byte) error { return b.store.Delete(ctx, key) })
}

// Puts writes random keys of the set for Duration.
func (b *Bench) Puts(ctx context.Context) Result {
	value := b.value()
	return b.phase(ctx, "put", func() func(key []byte) (int, error) {
		return func(key []byte) (int, error) { return len(value), b.store.Put(ctx, key, value) }
	})
}

// Gets reads random keys of the set for Duration; call Fill first.
func (b *Bench) Gets(ctx context.Context) Result {
	return b.phase(ctx, "get", func() func(key []byte) (int, error) {
		dst := make([]byte, b.ValueBytes)
		return func(key []byte) (int, error) { return b.store.GetInto(ctx, key, dst) }
	})
}

func (b *Bench) key(dst []byte, i int) []byte {
	return fmt.Appendf(append(dst[:0], b.Prefix...), "%07d", i)
}

// value does not compress and is the same in every run.
func (b *Bench) value() []byte {
	value, random := make([]byte, (b.ValueBytes+7)&^7), rand.New(rand.NewPCG(1, 2))
	for i := 0; i < len(value); i += 8 {
		binary.LittleEndian.PutUint64(value[i:], random.Uint64())
	}
	return value[:b.ValueBytes]
}

// each calls do for all keys, Concurrency at a time, and stops at the first error.
func (b *Bench) each(parent context.Context, do func(key []byte) error) error {
	ctx, cancel := context.WithCancelCause(parent)
	defer cancel(nil)
	var wg sync.WaitGroup
	for worker := range b.Concurrency {
		wg.Go(func() {
			var key []byte
			for i := worker; i < b.Keys && ctx.Err() == nil; i += b.Concurrency {
				key = b.key(key, i)
				if err := do(key); err != nil {
					cancel(fmt.Errorf("key %q: %w", key, err))
				}
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

// phase runs one operation per worker, made by newOp, over random keys until Duration is over.
func (b *Bench) phase(ctx context.Context, name string, newOp func() func(key []byte) (int, error)) Result {
	results := make([]Result, b.Concurrency)
	start := time.Now()
	var wg sync.WaitGroup
	for worker := range results {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(uint64(worker), 3))
			results[worker] = b.loop(ctx, start.Add(b.Duration), random, newOp())
		})
	}
	wg.Wait()
	total := Result{Phase: name, Took: time.Since(start), Latencies: newHistogram()}
	for _, r := range results {
		total.Ops += r.Ops
		total.Bytes += r.Bytes
		total.Errors += r.Errors
		if total.First == nil {
			total.First = r.First
		}
		total.Latencies.Merge(r.Latencies)
	}
	return total
}

func (b *Bench) loop(ctx context.Context, end time.Time, random *rand.Rand, op func(key []byte) (int, error)) Result {
	r := Result{Latencies: newHistogram()}
	var key []byte
	for before := time.Now(); before.Before(end) && ctx.Err() == nil && r.Errors < maxErrors; {
		key = b.key(key, random.IntN(b.Keys))
		n, err := op(key)
		after := time.Now()
		if err == nil {
			r.Ops++
			r.Bytes += int64(n)
			_ = r.Latencies.RecordValue(min(int64(after.Sub(before)), maxLatency)) // in range by min
		} else if r.Errors++; r.First == nil {
			r.First = fmt.Errorf("key %q: %w", key, err)
		}
		before = after
	}
	return r
}

// Latencies are nanoseconds with two digits of precision.
const maxLatency = int64(10 * time.Minute)

func newHistogram() *hdrhistogram.Histogram { return hdrhistogram.New(1, maxLatency, 2) }
