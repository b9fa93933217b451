package gossip

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

// A Seed is how it went with one address of Config.Seeds.
type Seed struct {
	Addr   string
	Self   bool      // it is this node
	Joined time.Time // the last time it answered, or was seen alive as a member; zero for never
	Tried  time.Time // the last attempt; zero for none
	Err    error     // of the last attempt; nil when it went well
}

// Status is for people and metrics.
type Status struct {
	Seeds     []Seed    // in the order of Config.Seeds
	Refusals  []Refusal // in the last minutes, at most 64
	Refused   uint64    // how often a node was refused
	Conflicts uint64    // how often a member turned out to be of another cluster
}

// Status returns a snapshot.
func (g *Gossip) Status() Status {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := Status{Seeds: slices.Clone(g.seeds), Refused: g.refused, Conflicts: g.conflicts}
	for _, r := range g.refusals {
		s.Refusals = append(s.Refusals, r)
	}
	slices.SortFunc(s.Refusals, func(a, b Refusal) int { return b.Since.Compare(a.Since) })
	return s
}

// joinForEver dials seeds, and addresses of nodes seen before, that are not alive now: at once, and then
// again and again, because memberlist itself gives up on a node after a while and would never heal a
// long partition.
//
// The second round, soon after the first, asks all seeds once more: what was gossiped between a seed's
// answer and its taking us on its list passed us by, and else only the next full exchange would bring it.
func (g *Gossip) joinForEver(ctx context.Context, ml *memberlist.Memberlist, t *transport) {
	for round := 0; ; round++ {
		g.joinRound(ctx, ml, t, round == 1)
		select {
		case <-ctx.Done():
			return
		case <-time.After(g.pause(round == 0)):
		}
	}
}

// pause is RejoinEvery, or a fifth when soon or alone, half as long to half as long again so that nodes
// that started together do not dial together.
func (g *Gossip) pause(soon bool) time.Duration {
	g.mu.Lock()
	soon = soon || len(g.table.aliveAddrs()) == 0
	g.mu.Unlock()
	every := g.conf.RejoinEvery
	if soon {
		every /= 5
	}
	return every/2 + rand.N(every)
}

// joinRound tries every missing seed, or every seed, and some of the missing other addresses, a few at a
// time, so that those that never answer hold nobody up for longer than the stream timeout.
func (g *Gossip) joinRound(ctx context.Context, ml *memberlist.Memberlist, t *transport, everySeed bool) {
	slots := make(chan struct{}, joinsAtOnce)
	var wg sync.WaitGroup
	start := func(join func()) {
		select {
		case slots <- struct{}{}:
			wg.Go(func() { defer func() { <-slots }(); join() })
		case <-ctx.Done():
		}
	}
	for _, i := range rand.Perm(len(g.conf.Seeds)) { // so that silent ones are not always first
		start(func() { g.joinSeed(ctx, ml, t, seedTry{i, everySeed}) })
	}
	for _, addr := range g.missing(t) {
		start(func() {
			if _, err := ml.Join([]string{addr}); err != nil {
				g.conf.Log.Debug().Err(err).Str("addr", addr).Msg("gossip: rejoin")
			}
		})
	}
	wg.Wait()
}

// missing returns a few remembered addresses where nobody is alive, at random.
func (g *Gossip) missing(t *transport) []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	alive := g.table.aliveAddrs()
	var missing []string
	for addr := range g.table.seen {
		if !alive[addr] && addr != t.advertise.String() {
			missing = append(missing, addr)
		}
	}
	rand.Shuffle(len(missing), func(i, j int) { missing[i], missing[j] = missing[j], missing[i] })
	return missing[:min(len(missing), joinsAtOnce)]
}

// A seedTry is one attempt at the seed with this index.
type seedTry struct {
	index     int
	evenAlive bool // also when it is a living member already
}

func (g *Gossip) joinSeed(ctx context.Context, ml *memberlist.Memberlist, t *transport, try seedTry) {
	seed := Seed{Addr: g.conf.Seeds[try.index], Tried: time.Now()}
	ctx, cancel := context.WithTimeout(ctx, g.conf.Profile.StreamTimeout)
	defer cancel()
	addrs, err := resolve(ctx, seed.Addr)
	for _, addr := range addrs {
		seed.Self = seed.Self || addr == t.advertise || addr == t.bound()
	}
	if err == nil && !seed.Self && (try.evenAlive || !g.anyAlive(addrs)) {
		err = joinOne(ml, addrs)
	}
	if seed.Err = err; err == nil {
		seed.Joined = time.Now()
	}
	if ctx.Err() != context.Canceled {
		g.noteSeed(try.index, seed)
	}
}

func (g *Gossip) anyAlive(addrs []netip.AddrPort) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	alive := g.table.aliveAddrs()
	return slices.ContainsFunc(addrs, func(a netip.AddrPort) bool { return alive[a.String()] })
}

// joinOne succeeds when one of the addresses, all of one seed, answers.
func joinOne(ml *memberlist.Memberlist, addrs []netip.AddrPort) error {
	var errs []error
	for _, addr := range addrs {
		n, err := ml.Join([]string{addr.String()})
		if n > 0 {
			return nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// noteSeed stores the outcome and logs it when it is another than before.
func (g *Gossip) noteSeed(i int, seed Seed) {
	g.mu.Lock()
	defer g.mu.Unlock()
	old := g.seeds[i]
	if seed.Joined.IsZero() {
		seed.Joined = old.Joined
	}
	g.seeds[i] = seed
	switch log := g.conf.Log.With().Str("seed", seed.Addr).Logger(); {
	case seed.Err != nil && fmt.Sprint(seed.Err) != fmt.Sprint(old.Err):
		log.Warn().Err(seed.Err).Msg("gossip: seed cannot be joined, trying on")
	case seed.Err == nil && (old.Err != nil || old.Tried.IsZero()) && !seed.Self:
		log.Info().Msg("gossip: seed joined")
	}
}
