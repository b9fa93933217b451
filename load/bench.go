package load

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dramnode/dramnode/internal/cputime"
)

// A Bench is one set of keys and the load on it. Call Fill, then Run as often as wanted.
type Bench struct {
	cfg    Config
	stores []Store
	keys   *keySpace
	value  []byte
}

// New returns a Bench for a valid Config. Each store gets callers of its own, as if it were another
// program: a store is one connection to each server.
func New(c Config, stores ...Store) *Bench {
	return &Bench{cfg: c, stores: stores, keys: newKeySpace(c.Keys), value: newValue(c.ValueBytes)}
}

// newValue makes bytes that do not compress and are the same in every run.
func newValue(n int) []byte {
	value, random := make([]byte, (n+7)&^7), rand.New(rand.NewPCG(1, 2))
	for i := 0; i < len(value); i += 8 {
		binary.LittleEndian.PutUint64(value[i:], random.Uint64())
	}
	return value[:n]
}

const (
	fillers   = 4
	fillBytes = 4 << 20 // of values in one batch of a filler
	fillKeys  = 256
)

// Fill puts every key once and stops at the first error.
func (b *Bench) Fill(parent context.Context) error {
	ctx, cancel := context.WithCancelCause(parent)
	defer cancel(nil)
	step := max(1, min(fillKeys, fillBytes/max(1, b.cfg.ValueBytes)))
	var next atomic.Int64
	var wg sync.WaitGroup
	for i := range fillers {
		wg.Go(func() {
			for ctx.Err() == nil {
				to := int(next.Add(int64(step)))
				if to-step >= b.cfg.Keys {
					return
				}
				if err := b.fill(ctx, b.stores[i%len(b.stores)], to-step, min(to, b.cfg.Keys)); err != nil {
					cancel(err)
				}
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

func (b *Bench) fill(ctx context.Context, s Store, from, to int) error {
	if to-from == 1 {
		return s.Put(ctx, appendKey(nil, b.cfg.Prefix, from), b.value)
	}
	keys, errs := make([][]byte, to-from), make([]error, to-from)
	for i := range keys {
		keys[i] = appendKey(nil, b.cfg.Prefix, from+i)
	}
	s.PutAll(ctx, keys, b.value, errs)
	for i, err := range errs {
		if err != nil {
			return fmt.Errorf("fill: key %q: %w", keys[i], err)
		}
	}
	return nil
}

// Run puts the load on the stores and returns what it measured; when ctx ends early, what it has.
func (b *Bench) Run(ctx context.Context) Result {
	begin := time.Now()
	from := begin.Add(b.cfg.Warmup)
	w := &window{begin: begin, from: from, until: from.Add(b.cfg.Duration), open: b.cfg.Rate > 0}
	callers := b.callers(w)
	var wg sync.WaitGroup
	for _, c := range callers {
		wg.Go(func() {
			switch b.cfg.Mode {
			case Async:
				c.async(ctx)
			case Batch:
				c.batch(ctx)
			default:
				c.blocking(ctx)
			}
		})
	}
	r := b.watch(ctx, w, callers)
	ended := time.Now()
	wg.Wait()
	r.collect(w, callers, ended)
	return r
}

// callers makes those of all stores. In an open loop they take turns.
func (b *Bench) callers(w *window) []*caller {
	perStore, opsPerTurn := 1, 1
	switch b.cfg.Mode {
	case Blocking:
		perStore = b.cfg.Outstanding
	case Batch:
		opsPerTurn = b.cfg.Outstanding
	}
	var z zipf
	if b.cfg.Chooser != Uniform {
		z = newZipf(b.cfg.Keys)
	}
	all := make([]*caller, perStore*len(b.stores))
	for i := range all {
		c := &caller{
			bench: b, store: b.stores[i%len(b.stores)], window: w, first: w.begin,
			random:  rand.New(rand.NewPCG(b.cfg.Seed, uint64(i))),
			chooser: newChooser(b.cfg.Chooser, z),
			outcome: outcome{errors: map[string]int64{}},
		}
		if b.cfg.Rate > 0 {
			turn := float64(opsPerTurn) * float64(time.Second) / b.cfg.Rate
			c.interval = max(1, time.Duration(turn*float64(len(all))))
			c.first = w.begin.Add(time.Duration(turn * float64(i)))
		}
		all[i] = c
	}
	return all
}

// watch reads the processor times at both ends of the measurement and reports progress until then.
func (b *Bench) watch(ctx context.Context, w *window, callers []*caller) Result {
	var r Result
	p := newProgress(b.cfg.Progress, w, callers)
	p.wait(ctx, w.from)
	client, server := cputime.Process(), b.serverCPU(ctx)
	p.wait(ctx, w.until)
	r.ClientCPU = cputime.Process() - client
	if after := b.serverCPU(ctx); server > 0 && after > server {
		r.ServerCPU = after - server
	}
	return r
}

// serverCPU is 0 when nobody tells.
func (b *Bench) serverCPU(ctx context.Context) time.Duration {
	if b.cfg.ServerCPU == nil {
		return 0
	}
	d, err := b.cfg.ServerCPU(ctx)
	if err != nil {
		return 0
	}
	return d
}

// collect adds up what the callers noted; ended is when the measurement was over.
func (r *Result) collect(w *window, callers []*caller, ended time.Time) {
	end := w.until
	if ended.Before(end) {
		end = ended
	}
	r.Errors, r.ByKind, r.Latencies = map[string]int64{}, map[Kind]*Latencies{}, newLatencies()
	for _, c := range callers {
		if c.last.After(end) { // in an open loop those that were late belong to it
			end = c.last
		}
		r.Bytes += c.bytes
		if r.First == nil {
			r.First = c.firstErr
		}
		for class, n := range c.errors {
			r.Errors[class] += n
		}
		for k, l := range c.latencies {
			if l == nil {
				continue
			}
			if r.ByKind[Kind(k)] == nil {
				r.ByKind[Kind(k)] = newLatencies()
			}
			r.ByKind[Kind(k)].h.Merge(l.h)
			r.Latencies.h.Merge(l.h)
		}
	}
	r.Ops = r.Latencies.Count()
	r.Took = max(0, end.Sub(w.from))
}

const progressInterval = 250 * time.Millisecond

// A progress tells show how far the callers are.
type progress struct {
	show    func(Progress)
	window  *window
	callers []*caller

	at  time.Time // of the last report
	ops int64     // then
}

func newProgress(show func(Progress), w *window, callers []*caller) *progress {
	return &progress{show: show, window: w, callers: callers, at: w.begin}
}

// wait returns at that time, or when ctx ends.
func (p *progress) wait(ctx context.Context, until time.Time) {
	end := time.NewTimer(time.Until(until))
	defer end.Stop()
	tick := time.NewTicker(progressInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-end.C:
			return
		case now := <-tick.C:
			if p.show != nil {
				p.report(now)
			}
		}
	}
}

func (p *progress) report(now time.Time) {
	r := Progress{Warming: now.Before(p.window.from), Elapsed: now.Sub(p.window.begin), Of: p.window.until.Sub(p.window.begin)}
	for _, c := range p.callers {
		r.Ops += c.ops.Load()
		r.Errors += c.failed.Load()
	}
	r.OpsPerSecond = perSecond(float64(r.Ops-p.ops), now.Sub(p.at))
	p.at, p.ops = now, r.Ops
	p.show(r)
}
