package node

import (
	"sync"
	"testing"

	"github.com/dramnode/dramnode/replica"
	"github.com/dramnode/dramnode/transport"
	"github.com/dramnode/dramnode/wire"
)

// A trace has the messages between clients and replicas that nodes were handed, in their order. What comes after the round that
// decides a write it loses.
type trace struct {
	mu    sync.Mutex
	on    bool
	steps []traced
}

type traced struct {
	node string
	kind wire.Kind
	says replica.Kind // of wire.KindReplica
}

func (t *trace) open(cfg *Config) {
	open := cfg.Open
	cfg.Open = func(id transport.Identity, h transport.Handler, e transport.Events) (transport.Network, error) {
		return open(id, tracer{h, t, cfg.Name}, e)
	}
}

// take ends the trace.
func (t *trace) take() []traced {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.on = false
	return t.steps
}

func (t *trace) begin() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.on, t.steps = true, nil
}

// note adds a step, and reports whether it gets lost.
func (t *trace) note(s traced) (lost bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.on && s.says != replica.Floor { // which is what quiet partitions say
		t.steps = append(t.steps, s)
	}
	return t.on && s.says == replica.Commit
}

type tracer struct {
	transport.Handler
	trace *trace
	node  string
}

func (t tracer) Serve(r *transport.Request) {
	h, err := wire.ParseHeader(r.Header)
	if err == nil && (h.Kind == wire.KindPut || h.Kind == wire.KindReplica) {
		step := traced{node: t.node, kind: h.Kind}
		if h.Kind == wire.KindReplica {
			_, m, _ := replica.ParseMessage(&h)
			step.says = m.Kind
		}
		if t.trace.note(step) {
			reply := wire.Header{Kind: h.Kind, Flags: wire.FlagReply, Status: wire.StatusUnavailable}
			r.Reply(wire.AppendHeader(r.Scratch[:0], &reply), transport.Body{})
			return
		}
	}
	t.Handler.Serve(r)
}

// TestReplicatedPutTakesOneMoreRound holds that a short put is answered after the client's message and one from the primary to
// each backup, whose transport's reply acknowledges it: with nothing between or beside them, and though no commit arrives.
func TestReplicatedPutTakesOneMoreRound(t *testing.T) {
	t.Parallel()
	var log trace
	c := newClusterWith(t, 77, with(replicated, log.open), "n1", "n2", "n3")
	user := c.caller()
	for _, key := range []string{"first", "second", "third", "third"} {
		c.quiet()
		owner, _ := c.owner("n1", key)
		log.begin()
		user.put(owner, key, make([]byte, 64))
		steps := log.take()
		if len(steps) == 0 || steps[0] != (traced{node: owner, kind: wire.KindPut}) {
			t.Fatalf("a put at %s began with %+v", owner, steps)
		}
		prepared := map[string]bool{}
		for _, s := range steps[1:] {
			switch {
			case s.says == replica.Commit && len(prepared) == 2: // later
			case s.says == replica.Prepare && s.node != owner: // on a slow machine more than once
				prepared[s.node] = true
			default:
				t.Errorf("a put at %s took %+v", owner, steps)
			}
		}
		if len(prepared) != 2 {
			t.Errorf("%d backups were asked: %+v", len(prepared), steps)
		}
	}
}

// quiet waits until no partition has anything under way.
func (c *cluster) quiet() {
	c.t.Helper()
	c.wait("the partitions to be quiet", func() bool {
		for _, n := range c.nodes {
			for p := range n.replicas.parts {
				part := &n.replicas.parts[p]
				part.mu.RLock()
				busy := part.engine.Busy()
				part.mu.RUnlock()
				if busy {
					return false
				}
			}
		}
		return true
	})
}
