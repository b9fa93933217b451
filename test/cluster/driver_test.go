package cluster

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/rs/zerolog"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/client"
	"github.com/dramnode/dramnode/test/history"
	"github.com/dramnode/dramnode/transport"
	"github.com/dramnode/dramnode/ucxnet"
)

// A workload tells a driver process what to do.
type workload struct {
	Mode    string // "load", "record": until SIGTERM; "fill", "check", "reread", "refused", "copies": once; "connect": open and close Ops clients; "clear": delete the prefix
	Addrs   []string
	Cluster string
	Shm     string
	Prefix  string
	Workers int
	Keys    int // per worker
	Bytes   int // longest value
	Ops     int // per worker; 0: no limit
	Seed    uint64
	Deletes bool
	Large   bool          // all values are near the longest; usually most are small
	Via     bool          // each worker sends everything to one node, which forwards what it does not own
	OpLimit time.Duration // of one operation; default 5 s

	Recording

	host int // where the driver runs, if the story has hosts: 1 is the first node's, 0 the last one

	// Any accepts whichever write a check finds, as long as it is whole.
	Any bool

	// Lossy accepts that a key is missing, and counts it: its partition may have been lost.
	Lossy bool
}

// A report is what a driver found out.
type report struct {
	Ops        int
	Written    int // acknowledged writes
	Errors     map[string]int
	Missing    int           // keys that a lossy check found missing
	Longest    time.Duration // longest single operation, retries included
	Unknown    time.Duration // longest operation whose outcome was reported as unknown, earlier attempts included
	Violations []string      // wrong bytes, lost writes: must be empty
	History    []history.Op  // of a recording
	Failure    string        // why the driver could not work at all
}

const (
	driverEnv     = "DRAMNODE_TEST_DRIVER"
	driverStarted = "started"
	driverWritten = "written " // and how many writes were acknowledged so far
	openTimeout   = 5 * time.Second
	checkTimeout  = 40 * time.Second
)

// driverMain is the driver process: workload in, report out.
func driverMain(spec string) int {
	var w workload
	var r report
	if err := json.Unmarshal([]byte(spec), &w); err != nil {
		r.Failure = err.Error()
	} else if err := w.run(&r); err != nil {
		r.Failure = err.Error()
	}
	if err := json.NewEncoder(os.Stdout).Encode(r); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func (w *workload) run(r *report) error {
	if w.OpLimit == 0 {
		w.OpLimit = 5 * time.Second
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	fmt.Println(driverStarted) // from here on SIGTERM ends a load in order
	if w.Mode == "connect" {
		for range w.Ops {
			c, err := w.open(0)
			if err != nil {
				return err
			}
			if err := c.Close(); err != nil {
				return err
			}
			r.Ops++
		}
		return nil
	}
	switch w.Mode {
	case "clear":
		return w.clear(r)
	case "copies":
		return w.awaitCopies(ctx)
	case "record", "reread", "refused":
		return w.record(ctx, r)
	}
	workers := make([]*worker, w.Workers)
	var wg sync.WaitGroup
	for i := range workers {
		c, err := w.open(i)
		if err != nil {
			return err
		}
		defer c.Close()
		workers[i] = newWorker(w, i, c)
		wg.Go(func() { workers[i].run(ctx) })
	}
	wg.Wait()
	r.Errors = map[string]int{}
	for _, one := range workers {
		one.addTo(r)
	}
	return nil
}

// clear deletes every key with the prefix.
func (w *workload) clear(r *report) error {
	c, err := w.open(0)
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), checkTimeout)
	defer cancel()
	deleted, err := c.DeleteRange(ctx, client.Query{Prefix: []byte(w.Prefix)})
	r.Ops = int(deleted)
	return err
}

// open returns worker i's own client. Each starts from another node.
func (w *workload) open(i int) (*client.Client, error) {
	shm, err := ucxnet.ParseShmMode(w.Shm)
	if err != nil {
		return nil, err
	}
	network, err := ucxnet.New(ucxnet.Config{
		Identity: transport.Identity{Role: transport.RoleClient, Name: "driver", Incarnation: rand.Uint64() | 1, Cluster: w.Cluster},
		Shm:      shm, Log: zerolog.New(os.Stderr),
	})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), checkTimeout)
	defer cancel()
	first := i % len(w.Addrs)
	c := client.Config{Network: network, Addrs: slices.Concat(w.Addrs[first:], w.Addrs[:first]), Timeout: openTimeout, MemoryBytes: 128 << 20}
	if w.Via {
		c.Via = c.Addrs[0]
	}
	return client.Open(ctx, c)
}

// A worker owns its keys: nobody else writes them, so it knows what each may hold.
type worker struct {
	w    *workload
	c    *client.Client
	rng  *rand.Rand
	keys []*known
	report
}

// known is what a worker knows of one key. A sequence number of 0 stands for no value.
type known struct {
	key  []byte
	last uint64 // sequence number of the last write that was tried
	now  uint64 // that of the last acknowledged one
	gen  dramnode.Generation
	late []uint64 // writes of unknown outcome: each may be there, or may still come
}

func newWorker(w *workload, i int, c *client.Client) *worker {
	one := &worker{w: w, c: c, rng: rand.New(rand.NewPCG(w.Seed, uint64(i)))}
	one.Errors = map[string]int{}
	for k := range w.Keys {
		one.keys = append(one.keys, &known{key: fmt.Appendf(nil, "%s%d/%d", w.Prefix, i, k)})
	}
	return one
}

func (one *worker) addTo(r *report) {
	r.Ops += one.Ops
	r.Written += one.Written
	r.Missing += one.Missing
	r.Longest = max(r.Longest, one.Longest)
	r.Unknown = max(r.Unknown, one.Unknown)
	r.Violations = append(r.Violations, one.Violations...)
	for what, n := range one.Errors {
		r.Errors[what] += n
	}
}

func (one *worker) run(ctx context.Context) {
	switch one.w.Mode {
	case "fill":
		for _, k := range one.keys {
			one.until(func() bool {
				k.last = 0 // what is repeated after an unknown outcome is the same write, for checks by other drivers
				return one.put(k)
			})
		}
	case "check":
		for _, k := range one.keys {
			k.now, k.last = 1, 1
			one.until(func() bool { return one.get(k) })
		}
	default:
		for n := 0; (one.w.Ops == 0 || n < one.w.Ops) && ctx.Err() == nil; n++ {
			one.step()
		}
		for _, k := range one.keys {
			one.until(func() bool { return one.get(k) })
		}
	}
}

// until repeats do, which reports whether it is settled, as long as a check may take.
func (one *worker) until(do func() bool) {
	deadline := time.Now().Add(checkTimeout)
	for !do() {
		if time.Now().After(deadline) {
			one.violation("no answer within %v", checkTimeout)
			return
		}
		pause()
	}
}

// pause keeps a failing operation from becoming a busy loop.
func pause() { <-time.After(20 * time.Millisecond) }

func (one *worker) step() {
	k := one.keys[one.rng.IntN(len(one.keys))]
	settled := true
	switch p := one.rng.IntN(10); {
	case p < 5:
		settled = one.put(k)
	case p == 9 && one.w.Deletes:
		settled = one.delete(k)
	default:
		settled = one.get(k)
	}
	if !settled {
		pause()
	}
}

// timed runs one operation and counts it. settled is false when it had certainly no effect.
func (one *worker) timed(do func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), one.w.OpLimit)
	defer cancel()
	start := time.Now()
	err := do(ctx)
	one.Longest = max(one.Longest, time.Since(start))
	if errors.Is(err, dramnode.ErrUnknownOutcome) {
		one.Unknown = max(one.Unknown, time.Since(start))
	}
	one.Ops++
	if err != nil && !errors.Is(err, dramnode.ErrNotFound) {
		one.Errors[class(err)]++
	}
	return err
}

func class(err error) string {
	for _, e := range []error{dramnode.ErrUnavailable, dramnode.ErrUnknownOutcome, dramnode.ErrNoQuorum, dramnode.ErrBusy, dramnode.ErrNoMemory, dramnode.ErrGenerationMismatch, dramnode.ErrPartitionLost} {
		if errors.Is(err, e) {
			return e.Error()
		}
	}
	return err.Error()
}

func (one *worker) put(k *known) bool {
	k.last++
	v := one.w.content(k.key, k.last)
	var gen dramnode.Generation
	err := one.timed(func(ctx context.Context) (err error) {
		gen, err = one.c.Put(ctx, k.key, v)
		return err
	})
	switch {
	case err == nil:
		if gen <= k.gen {
			one.violation("put %s: generation %d after %d", k.key, gen, k.gen)
		}
		k.now, k.gen = k.last, gen
		one.Written++
		return true
	case errors.Is(err, dramnode.ErrUnknownOutcome):
		k.late = append(k.late, k.last)
	case errors.Is(err, dramnode.ErrNoMemory):
		return true // certainly not applied, and waiting would not help
	}
	return one.w.Mode != "fill" && errors.Is(err, dramnode.ErrUnknownOutcome)
}

func (one *worker) delete(k *known) bool {
	err := one.timed(func(ctx context.Context) error { return one.c.Delete(ctx, k.key) })
	switch {
	case err == nil:
		k.now = 0
		one.Written++
		return true
	case errors.Is(err, dramnode.ErrUnknownOutcome):
		k.late = append(k.late, 0)
		return true
	}
	return false
}

// get reads k and checks every byte.
func (one *worker) get(k *known) bool {
	var v client.Value
	err := one.timed(func(ctx context.Context) (err error) {
		v, err = one.c.Get(ctx, k.key)
		return err
	})
	switch {
	case errors.Is(err, dramnode.ErrNotFound), one.w.Lossy && errors.Is(err, dramnode.ErrPartitionLost):
		one.missing(k)
		return true
	case err != nil:
		return false
	}
	if len(v.Bytes) < 8 {
		one.violation("get %s: %d bytes", k.key, len(v.Bytes))
		return true
	}
	seq := binary.LittleEndian.Uint64(v.Bytes)
	if seq != k.now && !slices.Contains(k.late, seq) && !one.w.Any {
		one.violation("get %s: write %d, want %d or one of %v", k.key, seq, k.now, k.late)
	} else if !bytes.Equal(v.Bytes, one.w.content(k.key, seq)) {
		one.violation("get %s: the bytes of write %d are damaged", k.key, seq)
	}
	if v.Generation < k.gen {
		one.violation("get %s: generation %d after %d", k.key, v.Generation, k.gen)
	}
	k.gen = max(k.gen, v.Generation)
	return true
}

func (one *worker) missing(k *known) {
	switch {
	case k.now == 0 || slices.Contains(k.late, 0):
	case one.w.Lossy:
		one.Missing++
		k.now = 0
	default:
		one.violation("get %s: missing, want write %d", k.key, k.now)
	}
}

const maxViolations = 20

func (one *worker) violation(format string, args ...any) {
	if len(one.Violations) < maxViolations {
		one.Violations = append(one.Violations, fmt.Sprintf(format, args...))
	}
}

// content is the value of a key's write seq: its number, then bytes that depend on key and number, of a
// length that does too.
func (w *workload) content(key []byte, seq uint64) []byte {
	rng := rand.New(rand.NewPCG(seq, uint64(len(key))<<32|uint64(key[len(key)-1])))
	n := 8 + rng.IntN(max(w.Bytes-8, 1))
	if w.Large {
		n = w.Bytes - rng.IntN(w.Bytes/8)
	} else if rng.IntN(4) > 0 {
		n = min(n, 8+rng.IntN(1024))
	}
	b := make([]byte, n)
	binary.LittleEndian.PutUint64(b, seq)
	copy(b[8:], key)
	x := rng.Uint64()
	for i := 8 + len(key); i < n; i++ {
		x = x*6364136223846793005 + 1442695040888963407
		b[i] = byte(x >> 56)
	}
	return b
}
