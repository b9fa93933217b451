package load

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// A window is what is measured: operations that end in it, or in an open loop those that are due in it.
type window struct {
	begin, from, until time.Time // of the warm-up; of the measurement
	open               bool
}

func (w *window) holds(due, ended time.Time) bool {
	if w.open {
		return !due.Before(w.from) && due.Before(w.until)
	}
	return !ended.Before(w.from) && !ended.After(w.until)
}

// now is time.Now by one reading of a clock in place of two: it is asked for each operation.
func (w *window) now() time.Time { return w.begin.Add(time.Since(w.begin)) }

// A caller sends the operations of one goroutine and notes how they ended.
type caller struct {
	bench    *Bench
	store    Store
	window   *window
	random   *rand.Rand
	chooser  chooser
	interval time.Duration // between operations that are due; 0 in a closed loop
	first    time.Time     // the first is due

	mu sync.Mutex // of async callers: operations end on several goroutines
	outcome
	// For whoever draws progress, and on cache lines of their own.
	_           [64]byte
	ops, failed atomic.Int64
	_           [64]byte
}

// An outcome is a caller's part of a Result.
type outcome struct {
	last      time.Time // the last measured operation ended
	bytes     int64
	errors    map[string]int64
	firstErr  error
	latencies [kinds]*Latencies
}

// A request is one operation.
type request struct {
	kind   Kind
	number int // of the key
	key    []byte
}

// draw makes the next request, in the memory of r.
func (c *caller) draw(r *request) {
	r.kind = c.bench.cfg.Mix.pick(c.random)
	inserting := false
	if r.kind == Insert {
		if r.number, inserting = c.bench.keys.begin(); !inserting {
			r.kind = Put
		}
	}
	if !inserting {
		r.number = c.chooser.next(c.random, c.bench.keys.size())
	}
	r.key = appendKey(r.key[:0], c.bench.cfg.Prefix, r.number)
}

// note counts an operation that was due and has ended.
func (c *caller) note(ctx context.Context, r *request, due, ended time.Time, n int, err error) {
	if r.kind == Insert {
		c.bench.keys.end(r.number)
	}
	if err != nil && ctx.Err() != nil {
		return // we ended it
	}
	if err == nil && n != c.bench.cfg.ValueBytes && (r.kind == Get || r.kind == Modify) {
		err = fmt.Errorf("%w: %d bytes, want %d", errLength, n, c.bench.cfg.ValueBytes)
	}
	if err != nil {
		c.failed.Add(1)
	} else {
		c.ops.Add(1)
	}
	if !c.window.holds(due, ended) {
		return
	}
	c.last = ended
	if err != nil {
		c.errors[Class(err)]++
		if c.firstErr == nil {
			c.firstErr = fmt.Errorf("%v %q: %w", r.kind, r.key, err)
		}
		return
	}
	if c.latencies[r.kind] == nil {
		c.latencies[r.kind] = newLatencies()
	}
	c.latencies[r.kind].add(ended.Sub(due))
	c.bytes += c.moved(r.kind)
}

// moved is how many bytes of values an operation carries.
func (c *caller) moved(k Kind) int64 {
	switch k {
	case Scan:
		return 0
	case Modify:
		return 2 * int64(c.bench.cfg.ValueBytes)
	}
	return int64(c.bench.cfg.ValueBytes)
}

// due returns when operation i of this caller is due: now in a closed loop; else it waits for that
// instant, which may have passed. A caller that was idle until then and woke late is late by the timer's
// fault and not the store's, so its operation is due when it woke.
func (c *caller) due(ctx context.Context, i int, now time.Time) time.Time {
	if c.interval == 0 {
		return now
	}
	due := c.first.Add(time.Duration(i) * c.interval)
	pause := time.Until(due)
	if pause <= 0 {
		return due
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	return c.window.now()
}

// more reports whether an operation that is due then is to be sent.
func (c *caller) more(ctx context.Context, due time.Time) bool {
	return due.Before(c.window.until) && ctx.Err() == nil
}

// blocking is a caller with one operation at a time.
func (c *caller) blocking(ctx context.Context) {
	dst := make([]byte, c.bench.cfg.ValueBytes)
	var r request
	now := c.window.now()
	for i := 0; ; i++ {
		due := c.due(ctx, i, now)
		if !c.more(ctx, due) {
			return
		}
		c.draw(&r)
		n, err := c.do(ctx, &r, dst)
		now = c.window.now()
		c.note(ctx, &r, due, now, n, err)
	}
}

func (c *caller) do(ctx context.Context, r *request, dst []byte) (int, error) {
	switch r.kind {
	case Get:
		return c.store.Get(ctx, r.key, dst)
	case Scan:
		return c.store.Scan(ctx, []byte(c.bench.cfg.Prefix), r.key, 1+c.random.IntN(MaxScanKeys))
	case Modify:
		n, err := c.store.Get(ctx, r.key, dst)
		if err == nil {
			err = c.store.Put(ctx, r.key, c.bench.value)
		}
		return n, err
	}
	return 0, c.store.Put(ctx, r.key, c.bench.value)
}

// A flight is an operation under way, again and again in one slot.
type flight struct {
	request
	due  time.Time
	slot Slot
}

// start starts the flight's next operation, which was drawn. One that cannot be started has ended.
func (c *caller) start(ctx context.Context, f *flight) (started bool) {
	var err error
	if f.kind == Get {
		err = f.slot.Get(ctx, f.key)
	} else {
		err = f.slot.Put(ctx, f.key, c.bench.value)
	}
	if err != nil {
		c.land(ctx, f, 0, err)
	}
	return err == nil
}

// ready draws the flight's next operation.
func (c *caller) ready(f *flight, due time.Time) {
	c.mu.Lock()
	c.draw(&f.request)
	f.due = due
	c.mu.Unlock()
}

// land notes how the flight's operation ended.
func (c *caller) land(ctx context.Context, f *flight, n int, err error) {
	c.mu.Lock()
	c.note(ctx, &f.request, f.due, c.window.now(), n, err)
	c.mu.Unlock()
}

// turn notes how the flight's operation ended and draws the next one, if there is to be one.
func (c *caller) turn(ctx context.Context, f *flight, n int, err error) (more bool) {
	now := c.window.now()
	c.mu.Lock()
	c.note(ctx, &f.request, f.due, now, n, err)
	if more = c.more(ctx, now); more {
		c.draw(&f.request)
		f.due = now
	}
	c.mu.Unlock()
	return more
}

// async keeps Outstanding operations under way: where one ends, the next begins.
func (c *caller) async(ctx context.Context) {
	if c.interval > 0 {
		c.asyncPaced(ctx)
		return
	}
	var wg sync.WaitGroup
	for range c.bench.cfg.Outstanding {
		wg.Add(1)
		f := &flight{}
		f.slot = c.store.NewSlot(func(n int, err error) {
			if !c.turn(ctx, f, n, err) {
				wg.Done()
			} else if !c.start(ctx, f) {
				go c.restart(ctx, f, &wg)
			}
		})
		c.ready(f, c.window.now())
		if !c.start(ctx, f) {
			go c.restart(ctx, f, &wg)
		}
	}
	wg.Wait()
}

const restartPause = time.Millisecond

// restart tries to start a flight that could not be started, until it is or time is over.
func (c *caller) restart(ctx context.Context, f *flight, wg *sync.WaitGroup) {
	for {
		time.Sleep(restartPause)
		now := c.window.now()
		if !c.more(ctx, now) {
			wg.Done()
			return
		}
		c.ready(f, now)
		if c.start(ctx, f) {
			return
		}
	}
}

// asyncPaced sends when it is time; the flights come back when they have landed.
func (c *caller) asyncPaced(ctx context.Context) {
	idle := make(chan *flight, c.bench.cfg.Outstanding)
	for range cap(idle) {
		f := &flight{}
		f.slot = c.store.NewSlot(func(n int, err error) {
			c.land(ctx, f, n, err)
			idle <- f
		})
		idle <- f
	}
	for i := 0; ; i++ {
		due := c.due(ctx, i, time.Time{})
		if !c.more(ctx, due) {
			break
		}
		f := <-idle
		c.ready(f, due)
		if !c.start(ctx, f) {
			idle <- f
		}
	}
	for range cap(idle) {
		<-idle
	}
}

// A volley is one batch: its gets and its puts.
type volley struct {
	requests []request
	keys     [][]byte
	lengths  []int
	errs     []error
}

func newVolley(n int) *volley {
	return &volley{make([]request, 0, n), make([][]byte, 0, n), make([]int, n), make([]error, n)}
}

// add returns the place of one more request.
func (v *volley) add(r request) {
	at := len(v.requests)
	v.requests = v.requests[:at+1]
	key := append(v.requests[at].key[:0], r.key...)
	r.key = key
	v.requests[at] = r
	v.keys = append(v.keys, key)
}

func (v *volley) reset() { v.requests, v.keys = v.requests[:0], v.keys[:0] }

// batch sends a batch when the last one is answered; each of its operations takes as long as it did.
func (c *caller) batch(ctx context.Context) {
	size := c.bench.cfg.Outstanding
	gets, puts := newVolley(size), newVolley(size)
	var r request
	now := c.window.now()
	for i := 0; ; i++ {
		due := c.due(ctx, i, now)
		if !c.more(ctx, due) {
			return
		}
		gets.reset()
		puts.reset()
		for range size {
			if c.draw(&r); r.kind == Get {
				gets.add(r)
			} else {
				puts.add(r)
			}
		}
		if len(gets.keys) > 0 {
			c.store.GetAll(ctx, gets.keys, gets.lengths, gets.errs)
		}
		if len(puts.keys) > 0 {
			c.store.PutAll(ctx, puts.keys, c.bench.value, puts.errs)
		}
		now = c.window.now()
		for _, v := range []*volley{gets, puts} {
			for i := range v.requests {
				c.note(ctx, &v.requests[i], due, now, v.lengths[i], v.errs[i])
			}
		}
	}
}
