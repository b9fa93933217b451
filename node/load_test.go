package node

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dramnode/dramnode"
	"github.com/dramnode/dramnode/test/proc"
	"github.com/dramnode/dramnode/wire"
)

// A pool is the nodes that clients may ask; it may change while they do.
type pool struct{ names atomic.Pointer[[]string] }

func newPool(names ...string) *pool {
	p := &pool{}
	p.set(names...)
	return p
}

func (p *pool) set(names ...string) { p.names.Store(&names) }

// through asks nodes at random until one gives an answer.
func (c *caller) through(p *pool, random *rand.Rand, h wire.Header, body []byte) (reply, error) {
	deadline := time.Now().Add(eventually)
	for {
		names := *p.names.Load()
		r := c.once(names[random.IntN(len(names))], h, body)
		err, again := r.failure(), false
		if errors.Is(err, dramnode.ErrUnknownOutcome) {
			again = h.Kind == wire.KindGet // reads may always be repeated
		} else {
			again = refused(err)
		}
		if !again || time.Now().After(deadline) {
			return r, err
		}
		<-time.After(2 * time.Millisecond) // or refused callers keep the nodes from renewing their leases
	}
}

// A load is goroutines that write, each its own keys, until stop. They note what was acknowledged.
type load struct {
	c       *cluster
	nodes   *pool
	done    chan struct{}
	writers sync.WaitGroup
	wrote   []map[string]written // by writer
}

// written is the last acknowledged write of a key. doubtful are those after it without an answer.
type written struct {
	generation dramnode.Generation
	sequence   int
	doubtful   []int
}

// differs says how the answer to a get contradicts what was written, "" when it does not.
func (w written) differs(key string, r reply, err error) string {
	if w.sequence == 0 && errors.Is(err, dramnode.ErrNotFound) {
		return "" // no write of it was acknowledged
	}
	ok := err == nil && r.ext.Generation == w.generation && bytes.Equal(r.body, sequenced(key, w.sequence))
	for _, s := range w.doubtful {
		ok = ok || err == nil && r.ext.Generation > w.generation && bytes.Equal(r.body, sequenced(key, s))
	}
	if ok {
		return ""
	}
	return fmt.Sprintf("%s: %.30q of generation %d, %v; want %+v", key, r.body, r.ext.Generation, err, w)
}

func sequenced(key string, sequence int) []byte {
	return value(fmt.Sprintf("%s@%d", key, sequence), 20+sequence*997%6000)
}

func (c *cluster) load(seed uint64, writers int, nodes ...string) *load {
	l := &load{c: c, nodes: newPool(nodes...), done: make(chan struct{})}
	for w := range writers {
		l.wrote = append(l.wrote, map[string]written{})
		user, random := c.caller(), rand.New(rand.NewPCG(seed, uint64(w)))
		l.writers.Go(func() { l.write(user, w, random) })
	}
	return l
}

func (l *load) write(user *caller, w int, random *rand.Rand) {
	for sequence := 1; ; sequence++ {
		select {
		case <-l.done:
			return
		default:
		}
		key := fmt.Sprintf("load-%d-%d", w, random.IntN(15))
		r, err := user.through(l.nodes, random, wire.Header{Kind: wire.KindGet, Key: []byte(key)}, nil)
		if wrong := l.wrote[w][key].differs(key, r, err); wrong != "" {
			l.c.t.Errorf("before write %d: %s", sequence, wrong)
			return
		}
		body := sequenced(key, sequence)
		h := wire.Header{Kind: wire.KindPut, Key: []byte(key), CRC: wire.Checksum(body), Ext: wire.AppendWriteExt(nil, wire.WriteExt{Client: uint64(w) + 1, Counter: uint64(sequence)})}
		r, err = user.through(l.nodes, random, h, body)
		last := l.wrote[w][key]
		switch {
		case errors.Is(err, dramnode.ErrUnknownOutcome):
			last.doubtful = append(last.doubtful, sequence)
		case err != nil:
			l.c.t.Errorf("put %s: %v: %s", key, err, r.body)
			return
		case r.ext.Generation <= last.generation:
			l.c.t.Errorf("put %s: generation %d after %d", key, r.ext.Generation, last.generation)
			return
		default:
			last = written{generation: r.ext.Generation, sequence: sequence}
		}
		l.wrote[w][key] = last
	}
}

// stop ends the load and checks every key through a node.
func (l *load) stop(through string) {
	l.c.t.Helper()
	close(l.done)
	l.writers.Wait()
	user, checked := l.c.caller(), 0
	for _, keys := range l.wrote {
		for key, last := range keys {
			r, err := user.do(through, wire.Header{Kind: wire.KindGet, Key: []byte(key)}, nil)
			if wrong := last.differs(key, r, err); wrong != "" {
				l.c.t.Errorf("at the end: %s", wrong)
			}
			checked++
		}
	}
	l.c.t.Logf("%d keys of %d writers checked", checked, len(l.wrote))
	if checked == 0 {
		l.c.t.Error("the load wrote nothing")
	}
}

func TestJoinAndLeaveUnderLoad(t *testing.T) {
	eachCount(t, testJoinAndLeaveUnderLoad)
}

func testJoinAndLeaveUnderLoad(t *testing.T, copies func(*Config)) {
	c := newClusterWith(t, 21, with(copies), "n1", "n2")
	s := c.stock("n1", 300, 2000)
	before := c.nodes["n1"].Table()
	user := c.caller()
	put := wire.Header{Kind: wire.KindPut}
	put.Ext = wire.AppendWriteExt(nil, wire.WriteExt{TTLMillis: 3_600_000})
	began := time.Now()
	for i := range 40 { // entries with a life to carry along
		put.Key = fmt.Appendf(nil, "mortal-%d", i)
		if _, err := user.do("n1", put, nil); err != nil {
			t.Fatal(err)
		}
	}
	c.world.SetDelay(0, 2*time.Millisecond) // so that writes meet every phase of a move
	l := c.load(21, 6, "n1", "n2")
	c.start("n3", proc.Address(t, nil))
	c.ready("n1", "n2", "n3")
	l.nodes.set("n1", "n2", "n3")
	c.nodes["n1"].stop()
	<-c.nodes["n1"].done
	l.nodes.set("n2", "n3")
	if err := c.nodes["n1"].err; err != nil {
		t.Fatalf("n1 left with %v", err)
	}
	c.ready("n2", "n3")
	l.stop("n3")
	for _, node := range []string{"n2", "n3"} {
		s.check(node, before)
		if losses := c.nodes[node].Info().Losses; losses != 0 {
			t.Errorf("%d losses", losses)
		}
	}
	for i := range 40 {
		r, err := user.do("n3", wire.Header{Kind: wire.KindGet, Key: fmt.Appendf(nil, "mortal-%d", i)}, nil)
		gone := uint64(time.Since(began).Milliseconds())
		if err != nil || r.ext.TTLMillis > 3_600_000 || r.ext.TTLMillis+gone+10_000 < 3_600_000 {
			t.Fatalf("mortal-%d after the move: ttl %d ms, %v", i, r.ext.TTLMillis, err)
		}
	}
}
