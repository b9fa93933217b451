package cluster

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/client"
	"github.com/dramnode/dramnode/storage"
	"github.com/dramnode/dramnode/transport"
	"github.com/dramnode/dramnode/ucxnet"
)

// The proof that a direct read is worth as much as a get: writers and readers race for the same keys, every read is
// held against what a register may return, and meanwhile owners are paused, killed, and lose what they own. Writes go
// by condition on the generation before them, one writer per key, so their sequence numbers only grow, also when nobody knows
// how one ended. Half of the readers compare no checksums: nothing but the sequence lock keeps their values whole.

// A register is one key, as far as all who use it in this process know.
type register struct {
	key []byte

	// Sequence numbers of writes. A read may return what was answered or seen before it began, or something newer; once
	// the key was seen without a value, only what was not answered or seen before that.
	answered atomic.Uint64 // highest that was answered or seen
	lowest   atomic.Uint64 // that may be seen again
	tried    atomic.Uint64 // highest that was sent

	// The last answered write with a time to live: whoever begins to read after ends must not see it.
	mortal atomic.Pointer[mortal]

	// The writer's own.
	generation dramnode.Generation
	doubtful   bool // generation is not known
	immortal   bool // a write whose condition was "absent" may still come, so the key must not be absent again
}

type mortal struct {
	sequence uint64
	ends     time.Time
}

func raise(n *atomic.Uint64, to uint64) {
	for old := n.Load(); old < to && !n.CompareAndSwap(old, to); old = n.Load() {
	}
}

// proofContent makes the content of one write: every 8 bytes tell key, sequence number and position.
func proofContent(b []byte, key, sequence uint64) {
	for at := range len(b) / 8 {
		word := sequence
		if at > 0 {
			word = (sequence*0x9e3779b97f4a7c15 ^ key<<48) + uint64(at)
		}
		binary.LittleEndian.PutUint64(b[8*at:], word)
	}
}

// whole returns the sequence number of a content, 0 when it is not that of any one write.
func whole(b []byte, key uint64) uint64 {
	if len(b) < 8 || len(b)%8 != 0 {
		return 0
	}
	sequence := binary.LittleEndian.Uint64(b)
	for at := 1; at < len(b)/8; at++ {
		if binary.LittleEndian.Uint64(b[8*at:]) != (sequence*0x9e3779b97f4a7c15^key<<48)+uint64(at) {
			return 0
		}
	}
	return sequence
}

// sizes of values: a word, some that are overwritten in place, some that are not.
var proofSizes = []int{8, 64, 64, 512, 4096, 4104, 64 << 10, 1 << 20}

type proof struct {
	s         *story
	registers []*register
	clients   []*client.Client

	reads, writes, gone, failed atomic.Uint64
	wrong                       atomic.Uint64
	mu                          sync.Mutex
	violations                  []string // the first few
}

func (p *proof) violation(format string, args ...any) {
	p.wrong.Add(1)
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.violations) < 10 {
		p.violations = append(p.violations, fmt.Sprintf(format, args...))
	}
}

// open returns a client of its own that reads directly.
func (p *proof) open(noVerify bool) *client.Client {
	p.s.t.Helper()
	network, err := ucxnet.New(ucxnet.Config{
		Identity: transport.Identity{Role: transport.RoleClient, Name: "proof", Incarnation: rand.Uint64() | 1, Cluster: p.s.name},
		Log:      zerolog.Nop(),
	})
	if err != nil {
		p.s.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), checkTimeout)
	defer cancel()
	c, err := client.Open(ctx, client.Config{Network: network, Addrs: p.s.addrs(), Timeout: 300 * time.Millisecond, MemoryBytes: 64 << 20, Direct: true, NoVerify: noVerify})
	if err != nil {
		p.s.t.Fatal(err)
	}
	p.clients = append(p.clients, c)
	return c
}

func (p *proof) read(ctx context.Context, c *client.Client, i int, buf []byte) {
	r := p.registers[i]
	answered, lowest, begun := r.answered.Load(), r.lowest.Load(), time.Now()
	v, err := c.GetInto(ctx, r.key, buf)
	switch {
	case errors.Is(err, dramnode.ErrNotFound):
		raise(&r.lowest, answered+1)
		p.gone.Add(1)
		return
	case err != nil:
		p.failed.Add(1)
		return
	}
	p.reads.Add(1)
	sequence := whole(v.Bytes, uint64(i))
	switch {
	case sequence == 0:
		p.violation("%s: %d bytes that nobody wrote, generation %d", r.key, len(v.Bytes), v.Generation)
		return
	case sequence > r.tried.Load():
		p.violation("%s: write %d was read and never sent", r.key, sequence)
	case sequence < answered:
		p.violation("%s: write %d was read after %d was answered or seen", r.key, sequence, answered)
	case sequence < lowest:
		p.violation("%s: write %d was read after it was gone", r.key, sequence)
	}
	if m := r.mortal.Load(); m != nil && m.sequence == sequence && begun.After(m.ends) {
		p.violation("%s: write %d was read %v after its end", r.key, sequence, begun.Sub(m.ends))
	}
	raise(&r.answered, sequence)
}

func (p *proof) write(ctx context.Context, c *client.Client, rng *rand.Rand, i int, buf []byte) {
	r := p.registers[i]
	if r.doubtful && !p.learn(ctx, c, r) {
		return
	}
	sequence := r.tried.Add(1)
	var err error
	switch kind := rng.IntN(16); {
	case kind == 0 && r.generation != dramnode.Absent && !r.immortal:
		if err = c.Delete(ctx, r.key, client.IfGeneration(r.generation)); err == nil {
			r.generation = dramnode.Absent
		}
	case kind == 1 && r.generation != dramnode.Absent:
		r.mortal.Store(nil)
		r.generation, err = c.Touch(ctx, r.key, 0, client.IfGeneration(r.generation)) // the value stays, and so does its number
		p.outcome(r, 0, err)
		return
	default:
		b := buf[:proofSizes[rng.IntN(len(proofSizes))]]
		proofContent(b, uint64(i), sequence)
		opts := []client.Option{client.IfGeneration(r.generation)}
		life := time.Duration(0)
		if kind == 2 && !r.immortal {
			life = time.Duration(1+rng.IntN(20)) * time.Millisecond
			opts = append(opts, client.TTL(life))
		}
		wasAbsent := r.generation == dramnode.Absent
		r.generation, err = c.Put(ctx, r.key, b, opts...)
		r.immortal = r.immortal || wasAbsent && errors.Is(err, dramnode.ErrUnknownOutcome)
		if err == nil && life > 0 {
			r.mortal.Store(&mortal{sequence, time.Now().Add(life)})
			r.doubtful = true // it may be absent by the next write
		}
	}
	p.outcome(r, sequence, err)
}

// outcome notes an answered write. After any other the writer must look first.
func (p *proof) outcome(r *register, sequence uint64, err error) {
	if err != nil {
		r.doubtful = true
		p.failed.Add(1)
		return
	}
	raise(&r.answered, sequence)
	p.writes.Add(1)
}

// learn asks the owner for the key's generation.
func (p *proof) learn(ctx context.Context, c *client.Client, r *register) bool {
	m, err := c.Stat(ctx, r.key)
	switch {
	case errors.Is(err, dramnode.ErrNotFound):
		r.generation = dramnode.Absent
	case err != nil:
		p.failed.Add(1)
		return false
	default:
		r.generation = m.Generation
	}
	r.doubtful = false
	return true
}

// run races until stop is called, which returns the hits and fallbacks of all clients.
func (p *proof) run(writers, readers int) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for n := range writers {
		c := p.open(false)
		wg.Go(func() {
			rng, buf := rand.New(rand.NewPCG(1, uint64(n))), make([]byte, 1<<20)
			for ctx.Err() == nil {
				p.write(ctx, c, rng, n+writers*rng.IntN(len(p.registers)/writers), buf)
			}
		})
	}
	for n := range readers {
		c := p.open(n%2 == 1)
		wg.Go(func() {
			rng, buf := rand.New(rand.NewPCG(2, uint64(n))), make([]byte, 1<<20)
			for ctx.Err() == nil {
				i := rng.IntN(len(p.registers))
				for range 8 { // the first may only learn where the value is
					p.read(ctx, c, i, buf)
				}
			}
		})
	}
	return func() {
		cancel()
		wg.Wait()
		for _, c := range p.clients {
			if err := c.Close(); err != nil {
				p.s.t.Error(err)
			}
		}
	}
}

func (p *proof) hits() (hits uint64) {
	for _, c := range p.clients {
		hits += c.DirectStats().Hits
	}
	return hits
}

// goOn waits until the clients read directly again, whatever happened.
func (p *proof) goOn() {
	p.s.t.Helper()
	before := p.hits()
	p.s.await("direct reads", func() string {
		if n := p.hits() - before; n < 1000 {
			return fmt.Sprintf("%d of them so far", n)
		}
		return ""
	})
}

// accept lets what was lost be absent.
func (p *proof) accept() {
	p.s.t.Helper()
	p.s.await("losses to be accepted", func() string {
		if _, err := p.clients[0].AcceptLosses(context.Background()); err != nil {
			return err.Error()
		}
		return ""
	})
}

// proofTime is how long the faults go on; set DRAMNODE_PROOF for more, such as 5m. 0: each of the quick ones once.
func proofTime(t *testing.T) time.Duration {
	text := os.Getenv("DRAMNODE_PROOF")
	if text == "" {
		return 0
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatalf("DRAMNODE_PROOF: %v", err)
	}
	return d
}

// absence is longer than the others wait before they give an owner's partitions away.
const absence = 34 * time.Second

func TestDirectReadsRaceWithEverything(t *testing.T) {
	s := newStory(t, "--direct")
	s.start(3)
	s.agree(s.nodes...)
	p := &proof{s: s}
	for i := range 48 {
		p.registers = append(p.registers, &register{key: fmt.Appendf(nil, "proof/%d/%s", i, strings.Repeat("k", i))})
	}
	limit, begun := proofTime(t), time.Now()
	stop := p.run(2, 4)
	p.goOn()

	rng := rand.New(rand.NewPCG(3, 4))
	brief := func(i int) { // the owner stands still for longer than it vouched for
		s.nodes[i].Pause()
		pass(time.Duration(100+rng.IntN(1500)) * time.Millisecond)
		s.nodes[i].Resume()
	}
	killed := func(i int) { // and its name has an empty successor at once
		s.nodes[i].Kill()
		s.restart(i)
		s.agree(s.nodes...)
		p.accept()
	}
	leaves := func(i int) { // its partitions move away and back
		s.nodes[i].Stop()
		s.restart(i)
		s.agree(s.nodes...)
	}
	condemned := func(i int) { // the others take its partitions while it stands still, memory and all
		s.nodes[i].Pause()
		pass(absence)
		p.accept()
		p.goOn() // at the heirs
		s.nodes[i].Resume()
		s.agree(s.nodes...)
	}
	faults := []func(int){brief, killed, leaves}
	counts := [4]int{}
	for n := 0; n < len(faults) || time.Since(begun) < limit; n++ {
		fault := n % len(faults)
		node := rng.IntN(len(s.nodes))
		if limit > 0 && n%12 == 3 {
			fault = 3
			condemned(node)
		} else {
			faults[fault](node)
		}
		counts[fault]++
		p.goOn()
	}
	stop()

	hits, fallbacks := p.hits(), map[string]uint64{}
	for _, c := range p.clients {
		for reason, n := range c.DirectStats().Fallbacks {
			fallbacks[reason] += n
		}
	}
	t.Logf("%v: %d reads checked, %d of them direct, %d writes, %d times gone, %d failed; owner asked instead: %v; %d pauses, %d kills, %d leaves, %d takeovers",
		time.Since(begun).Round(time.Second), p.reads.Load(), hits, p.writes.Load(), p.gone.Load(), p.failed.Load(), fallbacks, counts[0], counts[1], counts[2], counts[3])
	for _, v := range p.violations {
		t.Error(v)
	}
	if n := p.wrong.Load(); n > 0 {
		t.Errorf("%d violations in all", n)
	}
	for reason := transport.SharedStale; reason <= transport.SharedOwnerGone; reason++ {
		if limit > 0 && fallbacks[reason.String()] == 0 { // in a few seconds not every read that could be is under way
			t.Errorf("no read was refused as %q: that was not tried", reason)
		}
	}
}

// TestDirectReadsNeedNoOwner: an owner that does not run at all is read for as long as it vouched.
func TestDirectReadsNeedNoOwner(t *testing.T) {
	s := newStory(t, "--direct")
	s.start(1)
	s.agree(s.nodes...)
	p := &proof{s: s, registers: []*register{{key: []byte("one")}}}
	c := p.open(false)
	defer c.Close()
	ctx := context.Background()
	if _, err := c.Put(ctx, []byte("one"), []byte("value")); err != nil {
		t.Fatal(err)
	}
	direct := func() bool {
		before := c.DirectStats().Hits
		_, err := c.Get(ctx, []byte("one"))
		return err == nil && c.DirectStats().Hits == before+1
	}
	s.await("a direct read", func() string {
		if direct() {
			return ""
		}
		return fmt.Sprint(c.DirectStats())
	})
	before := c.DirectStats().Hits
	s.nodes[0].Signal(syscall.SIGSTOP)
	for direct() {
	}
	if got := c.DirectStats(); got.Hits-before < 10 || got.Fallbacks[transport.SharedNotValid.String()] == 0 {
		t.Errorf("%d direct reads, then %v", got.Hits-before, got.Fallbacks)
	}
	s.nodes[0].Resume()
	s.await("direct reads again", func() string {
		if direct() {
			return ""
		}
		return fmt.Sprint(c.DirectStats())
	})
}

// TestDirectReadsRaceWithTheStore is the race at its narrowest: store and readers in one process, without a network in
// between, so that many a read is under way while its record is overwritten, moved, deleted, or its memory is used again.
func TestDirectReadsRaceWithTheStore(t *testing.T) {
	network, err := ucxnet.New(ucxnet.Config{Identity: transport.Identity{Role: transport.RoleNode, Name: "store", Incarnation: 1, Cluster: t.Name()}, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	defer network.Close()
	const keys, epoch, partitions = 6, 7, 3
	sizes := []int{8, 64, 512, 4096, 4096, 4096, 4104, 16 << 10, 64 << 10}
	begun := time.Now()
	region, err := network.Share(transport.ShareConfig{Bytes: 32 << 20, Partitions: partitions, Clock: func() int64 { return int64(time.Since(begun)) + 1 }})
	if err != nil {
		t.Fatal(err)
	}
	defer region.Close()
	store, err := storage.New(storage.Config{Arena: region.Bytes(), Words: region.Words(), Partitions: partitions})
	if err != nil {
		t.Fatal(err)
	}
	var parts [partitions]*storage.Versions
	for p := range uint16(partitions) {
		if parts[p], err = store.Versions(p); err != nil {
			t.Fatal(err)
		}
		region.SetPartition(p, epoch, true)
	}
	limit := max(3*time.Second, proofTime(t)/2)
	region.Renew(region.Now() + int64(time.Hour))

	p := &proof{s: &story{t: t}}
	var spots [keys]atomic.Pointer[transport.Place]
	for i := range keys {
		p.registers = append(p.registers, &register{key: fmt.Appendf(nil, "key%d", i)})
	}
	var stale atomic.Uint64
	var wg sync.WaitGroup
	wg.Go(func() { // the writer
		rng, buf := rand.New(rand.NewPCG(5, 6)), make([]byte, 1<<20)
		for time.Since(begun) < limit {
			i := rng.IntN(keys)
			r, part := p.registers[i], uint16(i%partitions)
			sequence := r.tried.Add(1)
			if rng.IntN(20) == 0 {
				if err := parts[part].Write(r.key, 0, storage.Version{Info: storage.Info{Generation: dramnode.Generation(sequence)}, Deleted: true}); err != nil {
					t.Error(err)
				}
			} else {
				b := buf[:sizes[rng.IntN(len(sizes))]]
				proofContent(b, uint64(i), sequence)
				at, err := writeAs(parts[part], r.key, b, sequence)
				if err != nil {
					t.Error(err)
					return
				}
				spots[i].Store(&transport.Place{At: at, Generation: sequence, Epoch: epoch, Partition: part})
			}
			parts[part].Settle()
			raise(&r.answered, sequence)
			p.writes.Add(1)
			for n := rng.IntN(8); n > 0; n-- { // let the readers at it for a moment
				runtime.Gosched()
			}
		}
	})
	for n := range max(1, runtime.GOMAXPROCS(0)-1) {
		wg.Go(func() {
			view, err := network.OpenShare(region.Ticket())
			if err != nil {
				t.Error(err)
				return
			}
			defer view.Close()
			rng, dst := rand.New(rand.NewPCG(7, uint64(n))), make([]byte, 1<<20)
			var known [keys]*transport.Place // often outdated, like that of a client
			for time.Since(begun) < limit {
				i := rng.IntN(keys)
				r := p.registers[i]
				if known[i] == nil || rng.IntN(4) == 0 {
					known[i] = spots[i].Load()
				}
				answered, spot := r.answered.Load(), known[i]
				if spot == nil {
					continue
				}
				v, outcome := view.Read(*spot, r.key, dst)
				if outcome != transport.SharedRead {
					if outcome != transport.SharedStale {
						p.violation("%s: %v", r.key, outcome)
					}
					stale.Add(1)
					continue
				}
				sequence := whole(dst[:v.Bytes], uint64(i))
				if sequence == 0 || sequence < answered || sequence > r.tried.Load() {
					p.violation("%s: %d bytes of write %d after %d was answered", r.key, v.Bytes, sequence, answered)
				}
				raise(&r.answered, sequence)
				p.reads.Add(1)
			}
		})
	}
	wg.Wait()
	t.Logf("%d reads, %d refused as stale, %d writes", p.reads.Load(), stale.Load(), p.writes.Load())
	for _, v := range p.violations {
		t.Error(v)
	}
	if n := p.wrong.Load(); n > 0 {
		t.Errorf("%d violations in all", n)
	}
	if p.reads.Load() == 0 || stale.Load() == 0 {
		t.Errorf("%d reads and %d refusals are no race", p.reads.Load(), stale.Load())
	}
}

// writeAs writes one version as nodes do: a short value is lent and perhaps copied over the old one, a longer one has come to memory
// of its own. It returns the place of the record.
func writeAs(v *storage.Versions, key, value []byte, generation uint64) (at uint64, err error) {
	const lendMax = 4 << 10
	to := storage.Version{Info: storage.Info{Generation: dramnode.Generation(generation)}}
	if len(value) <= lendMax {
		to.Blob = v.Lend(value)
	} else {
		r, err := v.Reserve(len(key), len(value), false)
		if err != nil {
			return 0, err
		}
		copy(r.Bytes, value)
		to.Blob = r.Token()
	}
	if err := v.Write(key, 0, to); err != nil {
		return 0, err
	}
	written, _ := v.Get(key)
	return written.Blob, nil
}
