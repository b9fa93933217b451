package sim

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dramnode/dramnode/control/state"
	"github.com/dramnode/dramnode/internal/invariant"
	"github.com/dramnode/dramnode/internal/rule"
	"github.com/dramnode/dramnode/wire"
)

var (
	runs    = flag.Uint64("runs", 0, "seeds to run; 0: as many as fit in -for")
	first   = flag.Uint64("first", 0, "the first seed")
	seconds = flag.Int("for", 10, "without -runs: seconds to run")
	replay  = flag.Uint64("seed", 0, "replay one seed and print its trace")
	inArena = flag.Bool("arena", false, "keep the entries by package storage, as nodes do")
	without = flag.String("without", "", "the rule, or the rules with \" + \" between, that do not hold in -seed and TestMutations (-tags mutations)")
)

// search runs seeds on all processors until done says so; the result that found something is returned.
func search(from, to uint64, until time.Time, arena, removed, stop bool) (found []Result, total stats, n uint64) {
	defer debug.SetGCPercent(debug.SetGCPercent(800)) // worlds are small and many
	var next, done atomic.Uint64
	next.Store(from)
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for {
				seed := next.Add(1) - 1
				if seed >= to || !until.IsZero() && time.Now().After(until) {
					return
				}
				r := Run(seed, arena, removed, false)
				done.Add(1)
				mu.Lock()
				total.add(r.stats)
				if len(r.Faults) > 0 {
					found = append(found, r)
				}
				full := len(found) > 0 && (stop || len(found) >= 20)
				mu.Unlock()
				if full {
					next.Store(to)
					return
				}
			}
		})
	}
	wg.Wait()
	return found, total, done.Load()
}

// rulesOf splits the names of rules that are removed together.
func rulesOf(names string) (rules []rule.Rule) {
	for name := range strings.SplitSeq(names, " + ") {
		rules = append(rules, rule.Rule(name))
	}
	return rules
}

func (s *stats) add(o stats) {
	s.events += o.events
	s.ops += o.ops
	s.acked += o.acked
	s.reads += o.reads
	s.epochs += o.epochs
	s.losses += o.losses
	s.leaderless += o.leaderless
	s.undecided += o.undecided
}

// TestSeeds runs seeds under all rules: none may fail.
func TestSeeds(t *testing.T) {
	if *replay != 0 {
		rule.Remove(rulesOf(*without)...)
		r := Run(*replay, *inArena, *without != "", true)
		fmt.Fprint(os.Stdout, r.Trace)
		if len(r.Faults) > 0 {
			t.Fatalf("seed %d:\n%s", r.Seed, strings.Join(r.Faults, "\n"))
		}
		return
	}
	to, until := *first+*runs, time.Time{}
	if *runs == 0 {
		to, until = 1<<62, time.Now().Add(time.Duration(*seconds)*time.Second)
	}
	start := time.Now()
	found, s, n := search(*first, to, until, *inArena, false, false)
	t.Logf("%d seeds from %d in %v: %d events, %d operations, %d answered (%d reads), %d epochs, %d losses, %d without control plane in the end, %d histories too long for porcupine",
		n, *first, time.Since(start).Round(time.Second), s.events, s.ops, s.acked, s.reads, s.epochs, s.losses, s.leaderless, s.undecided)
	for _, r := range found {
		t.Errorf("seed %d (replay: go test ./test/sim -run TestSeeds -args -arena=%v -seed %d):\n%s", r.Seed, *inArena, r.Seed, strings.Join(r.Faults, "\n"))
	}
}

// arenaSeeds is how many seeds run over package storage each time, and checkedSeeds how many where everything is checked.
const arenaSeeds, checkedSeeds = 2000, 150

// TestArena runs seeds over the store that nodes have, whose bytes are poisoned when they are freed if the race detector is on.
func TestArena(t *testing.T) {
	to := uint64(arenaSeeds)
	if invariant.Enabled {
		to = checkedSeeds
	}
	found, s, n := search(0, to, time.Time{}, true, false, false)
	t.Logf("%d seeds: %d operations, %d answered, %d epochs", n, s.ops, s.acked, s.epochs)
	for _, r := range found {
		t.Errorf("seed %d (replay: go test ./test/sim -run TestSeeds -args -arena -seed %d):\n%s", r.Seed, r.Seed, strings.Join(r.Faults, "\n"))
	}
}

// TestReplay: a seed decides everything, in a world with the product's consensus too.
func TestReplay(t *testing.T) {
	kinds := map[bool]int{}
	for seed := uint64(0); seed < 1000 && (kinds[true] < 3 || kinds[false] < 3); seed++ {
		w := newWorld(seed, false, false)
		if kinds[w.raft]++; kinds[w.raft] > 3 {
			continue
		}
		arena := kinds[w.raft] == 1
		a, b := Run(seed, arena, false, true), Run(seed, arena, false, true)
		if a.Trace != b.Trace || a.stats != b.stats {
			t.Errorf("seed %d runs in two ways: %+v and %+v", seed, a.stats, b.stats)
		}
	}
}

// TestRetryAfterLoss: a write that may have been executed is not sent to a partition that has forgotten it.
func TestRetryAfterLoss(t *testing.T) {
	for _, c := range []struct {
		name           string
		kind           wire.Kind
		refused        int
		losses, doubts uint32
		again          bool
	}{
		{"nothing was lost", wire.KindPut, 0, 0, 0, true},
		{"lost", wire.KindPut, 0, 1, 0, false},
		{"perhaps lost", wire.KindPut, 0, 0, 1, false},
		{"lost, a range", wire.KindDeleteRange, 0, 1, 0, false},
		{"lost, and certainly not executed before", wire.KindPut, 1, 1, 0, true},
		{"lost, a read", wire.KindGet, 0, 1, 0, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := quiet()
			client, o := w.callers[0], &op{kind: c.kind, key: keyName(0)}
			client.begin(o)
			o.refused = c.refused
			for _, n := range w.nodes {
				later := *n.table
				later.Rows = append([]state.Row(nil), later.Rows...)
				later.Rows[0].LossCount, later.Rows[0].Doubts = c.losses, c.doubts
				n.table = &later
			}
			client.try(o)
			if sent := o.attempts == 2; sent != c.again || o.unknown == c.again {
				t.Errorf("sent again: %v, unknown outcome: %v", sent, o.unknown)
			}
		})
	}
}

// quiet returns a world whose nodes have tables, and in which nothing has happened.
func quiet() *world {
	for seed := uint64(0); ; seed++ {
		if w := newWorld(seed, false, false); !w.raft {
			return w
		}
	}
}
