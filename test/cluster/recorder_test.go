package cluster

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/client"
	"github.com/dramnode/dramnode/control"
	"github.com/dramnode/dramnode/test/history"
	"github.com/dramnode/dramnode/wire"
)

// A Recording is what a workload says about clients that note everything they do, on a few keys that all of them use.
// Keys come in sets of workload.Keys. Every setLength, by a clock that all drivers share, the next set is hot: so no
// history of a key is long.
type Recording struct {
	Since int64    // when the first set began to be hot
	First int      // number of the first worker: differs between drivers, which together make one history
	Node  string   // takes only keys of which this node is Role
	Role  string   // "primary" or "backup"; "": any key
	Only  []string // keys to reread

	// For "copies": how many there must be of each partition, all of them at these incarnations.
	Copies int
	Alive  []uint64
	// Stranded excuses partitions that have no copy there at all: the last ones are at nodes that are cut off.
	Stranded bool
}

const (
	setLength = 2 * time.Second
	sets      = 60 // then the first one again
	// recordPause is between the operations of one worker, so that a key has some 100 operations while it is hot.
	recordPause = 5 * time.Millisecond
)

// clock is in nanoseconds, and the same for all processes of the machine.
func clock() int64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		panic(err)
	}
	return t.Nano()
}

// record runs the workers of a recording. Every second one sends everything to one node; when there is something to
// reread, or to be refused, there is one such worker for each node.
func (w *workload) record(ctx context.Context, r *report) error {
	var written atomic.Int64
	workers := make([]*recorder, w.Workers)
	if w.Mode != "record" {
		workers = make([]*recorder, len(w.Addrs))
	}
	for i := range workers {
		one := *w
		one.Via = i%2 == 1 || w.Mode != "record"
		c, err := one.open(i)
		if err != nil {
			return err
		}
		defer c.Close()
		workers[i] = &recorder{w: w, c: c, id: w.First + i, rng: rand.New(rand.NewPCG(w.Seed, uint64(i))), seen: map[string]dramnode.Generation{}, written: &written}
		workers[i].Errors = map[string]int{}
	}
	keys := w.Only
	if len(keys) == 0 {
		var err error
		if keys, err = w.hot(workers[0].c); err != nil {
			return err
		}
	}
	stop := tell(&written)
	var wg sync.WaitGroup
	for _, one := range workers {
		wg.Go(func() {
			switch w.Mode {
			case "record":
				one.run(ctx, keys)
			case "reread":
				one.reread(keys)
			case "refused":
				one.refused(keys[:w.Keys])
			}
		})
	}
	wg.Wait()
	stop()
	r.Errors = map[string]int{}
	for _, one := range workers {
		one.addTo(r)
		r.History = append(r.History, one.History...)
	}
	return nil
}

// tell says on standard output how many writes were acknowledged, until stop.
func tell(written *atomic.Int64) (stop func()) {
	tick, done, ended := time.NewTicker(50*time.Millisecond), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				fmt.Printf("%s%d\n", driverWritten, written.Load())
			case <-done:
				return
			}
		}
	}()
	return func() {
		close(done)
		<-ended
	}
}

// hot returns the keys of all sets, one set after the other.
func (w *workload) hot(c *client.Client) (keys []string, err error) {
	for i := 0; len(keys) < sets*w.Keys; i++ {
		key := fmt.Sprintf("%s%d", w.Prefix, i)
		if i > 1000*sets*w.Keys {
			return nil, fmt.Errorf("%s is %s of none of %d keys", w.Node, w.Role, i)
		}
		l, err := c.Locate([]byte(key))
		if err != nil {
			return nil, err
		}
		if w.Role == "" || slices.Contains(w.roleOf(c.Table(), &l.Row), w.Node) {
			keys = append(keys, key)
		}
	}
	return keys, nil
}

// roleOf names the members that have the wanted role.
func (w *workload) roleOf(t *control.Table, r *control.Row) (names []string) {
	if w.Role == "primary" {
		return []string{t.Members[r.Owner].Name}
	}
	for _, b := range r.Backups {
		if b != control.None {
			names = append(names, t.Members[b].Name)
		}
	}
	return names
}

// A recorder is one client that notes what it does.
type recorder struct {
	w       *workload
	c       *client.Client
	id      int
	rng     *rand.Rand
	seen    map[string]dramnode.Generation // last, by key, for conditions
	count   uint64
	written *atomic.Int64
	report
}

func (one *recorder) addTo(r *report) { (&worker{report: one.report}).addTo(r) }

// run does what clients do until ctx ends.
func (one *recorder) run(ctx context.Context, keys []string) {
	tick := time.NewTicker(recordPause)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		set := int((clock()-one.w.Since)/int64(setLength)) % sets
		one.do(one.draw(keys[set*one.w.Keys+one.rng.IntN(one.w.Keys)]))
	}
}

// draw makes an operation. Values are never used twice.
func (one *recorder) draw(key string) history.Op {
	one.count++
	o := history.Op{Client: one.id, Key: key, Kind: wire.KindGet}
	switch n := one.rng.IntN(100); {
	case n < 40:
	case n < 65:
		o.Kind = wire.KindPut
	case n < 85:
		o.Kind, o.Conditional, o.IfGeneration = wire.KindPut, true, one.seen[key]
	case n < 93:
		o.Kind = wire.KindDelete
	default:
		o.Kind, o.Conditional, o.IfGeneration = wire.KindDelete, true, one.seen[key]
	}
	if o.Kind == wire.KindPut {
		o.Value = uint64(one.id)<<32 | one.count
	}
	return o
}

// do runs o and notes it, unless it certainly did nothing and says nothing. It reports whether o has an answer.
func (one *recorder) do(o history.Op) (answered bool) {
	ctx, cancel := context.WithTimeout(context.Background(), one.w.OpLimit)
	defer cancel()
	o.Call = clock()
	value, err := one.send(ctx, &o)
	o.Return = clock()
	one.Ops++
	one.Longest = max(one.Longest, time.Duration(o.Return-o.Call))
	var mismatch *dramnode.GenerationError
	switch {
	case err == nil && o.Kind == wire.KindGet:
		if o.Value = valueOf(value); o.Value == 0 {
			one.violation("get %s: %d bytes that nobody wrote", o.Key, len(value))
			return true
		}
	case err == nil:
		one.Written++
		one.written.Add(1)
	case errors.Is(err, dramnode.ErrNotFound):
		o.Status = wire.StatusNotFound
	case errors.As(err, &mismatch):
		o.Status, o.Generation = wire.StatusGenerationMismatch, mismatch.Current
	case errors.Is(err, dramnode.ErrUnknownOutcome):
		one.Errors[class(err)]++
		one.Unknown = max(one.Unknown, time.Duration(o.Return-o.Call))
		o.Status, o.Return = wire.StatusUnknownOutcome, history.Never
	default:
		one.Errors[class(err)]++
		return false
	}
	one.seen[o.Key] = o.Generation
	if o.Kind == wire.KindDelete && err == nil {
		one.seen[o.Key] = dramnode.Absent
	}
	one.History = append(one.History, o)
	return true
}

// send runs o and notes its generation.
func (one *recorder) send(ctx context.Context, o *history.Op) (value []byte, err error) {
	var opts []client.Option
	if o.Conditional {
		opts = append(opts, client.IfGeneration(o.IfGeneration))
	}
	switch o.Kind {
	case wire.KindPut:
		o.Generation, err = one.c.Put(ctx, []byte(o.Key), valueFor(o.Value), opts...)
	case wire.KindDelete:
		o.Generation, err = one.c.Remove(ctx, []byte(o.Key), opts...)
	default:
		var v client.Value
		v, err = one.c.Get(ctx, []byte(o.Key), opts...)
		value, o.Generation = v.Bytes, v.Generation
	}
	return value, err
}

// reread reads keys until each has an answer.
func (one *recorder) reread(keys []string) {
	for _, key := range keys {
		deadline := time.Now().Add(checkTimeout)
		for !one.do(history.Op{Client: one.id, Key: key, Kind: wire.KindGet}) {
			if time.Now().After(deadline) {
				one.violation("get %s: no answer within %v: %v", key, checkTimeout, one.Errors)
				return
			}
			pause()
		}
	}
}

const refusals = 5

// refused sends reads and writes to a node that is cut off, until it says so, and then some more: nothing may succeed.
func (one *recorder) refused(keys []string) {
	said := func() int { return one.Errors[dramnode.ErrNoQuorum.Error()] }
	next := func() bool {
		o := history.Op{Client: one.id, Key: keys[one.rng.IntN(len(keys))], Kind: wire.KindGet}
		if one.count++; one.count%2 == 0 {
			o.Kind, o.Value = wire.KindPut, uint64(one.id)<<32|one.count
		}
		return one.do(o)
	}
	for deadline := time.Now().Add(checkTimeout); said() == 0; next() {
		if time.Now().After(deadline) {
			one.violation("a node that is cut off never said %q, but %v", dramnode.ErrNoQuorum, one.Errors)
			return
		}
	}
	for range refusals {
		if next() && one.History[len(one.History)-1].Status != wire.StatusUnknownOutcome {
			one.violation("a node that is cut off answered: %v", one.History[len(one.History)-1])
		}
	}
}

func (one *recorder) violation(format string, args ...any) {
	if len(one.Violations) < maxViolations {
		one.Violations = append(one.Violations, fmt.Sprintf(format, args...))
	}
}

// valueFor is the value that a put with this number writes; valueOf tells the number of a value, 0 when nobody wrote it.
// Most travel inside of messages, some beside them, a few in pieces.
func valueFor(number uint64) []byte {
	size := 8 + int(number*2654435761%300)*8
	switch {
	case number%41 == 0:
		size = 700 << 10
	case number%11 == 0:
		size += 20 << 10
	}
	b := make([]byte, size)
	for i := 0; i < size; i += 8 {
		binary.LittleEndian.PutUint64(b[i:], number+uint64(i)<<48)
	}
	return b
}

func valueOf(b []byte) uint64 {
	if len(b) < 8 {
		return 0
	}
	number := binary.LittleEndian.Uint64(b)
	if !bytes.Equal(b, valueFor(number)) {
		return 0
	}
	return number
}

// awaitCopies returns when the table has so many copies of each partition, all at these incarnations, some at each of
// them, and none under way.
func (w *workload) awaitCopies(ctx context.Context) error {
	c, err := w.open(0)
	if err != nil {
		return err
	}
	defer c.Close()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	ctx, cancel := context.WithTimeout(ctx, settleLimit)
	defer cancel()
	for {
		reason := w.fewCopies(c.Table())
		if reason == "" {
			return nil
		}
		if err := c.Refresh(ctx); err != nil {
			reason += "; " + err.Error()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("waited %v for %d copies of everything: %s", settleLimit, w.Copies, reason)
		}
	}
}

// fewCopies says what a table lacks, "" for nothing.
func (w *workload) fewCopies(t *control.Table) string {
	wrong, moving, first := 0, 0, ""
	holds := map[uint64]bool{}
	for p := range t.Rows {
		r := &t.Rows[p]
		have, living := 0, 0
		for _, i := range append([]uint16{r.Owner}, r.Backups[:]...) {
			if i == control.None {
				continue
			}
			have++
			if slices.Contains(w.Alive, t.Members[i].Incarnation) {
				living++
				holds[t.Members[i].Incarnation] = true
			}
		}
		if living == 0 && w.Stranded {
			continue
		}
		isWrong, isMoving := have != w.Copies || living != have, r.MoveTo != control.None
		if isWrong {
			wrong++
		}
		if isMoving {
			moving++
		}
		if first == "" && (isWrong || isMoving) {
			first = fmt.Sprintf("partition %d: %+v", p, *r)
		}
	}
	if first == "" && len(holds) == len(w.Alive) {
		return ""
	}
	return fmt.Sprintf("table %x with %d members, replicas %d: %d of %d partitions have other copies, %d are on the move, %d of %d nodes have some; %s",
		t.Version, len(t.Members), t.Replicas, wrong, len(t.Rows), moving, len(holds), len(w.Alive), first)
}
