package client

import (
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"time"

	"github.com/dramnode/dramnode/control"
	"github.com/dramnode/dramnode/transport"
)

// Every member that has a partition answers reads of it. A read goes to the cheaper of two that are drawn, one of which is
// on this host if any is, and after a failure to one that was not asked yet.

// A load is what reads at a peer cost. Only reads that had a choice count.
type load struct {
	waiting atomic.Int32 // reads under way
	nanos   atomic.Int64 // that one takes, by samples
	near    atomic.Int32
}

// How near a peer is.
const (
	nearElsewhere int32 = iota
	nearHost
	nearProcess
)

const (
	sampleEvery  = 64 // reads go anywhere and are timed, so that who was slow once is not avoided for ever
	sampleWeight = 4  // of the samples before, +1
	refusedNanos = int64(50 * time.Millisecond)
)

// guess is what a read takes before one was timed.
var guess = [...]time.Duration{nearElsewhere: 100 * time.Microsecond, nearHost: 20 * time.Microsecond, nearProcess: 2 * time.Microsecond}

// connected notes where a peer is, once its link is open.
func (l *load) connected(info *transport.LinkInfo) {
	near := nearness(info)
	l.near.Store(near)
	l.nanos.CompareAndSwap(0, int64(guess[near]))
}

func nearness(info *transport.LinkInfo) int32 {
	name := info.Peer.Transport
	switch {
	case name == "inside":
		return nearProcess
	case info.Fallback != "", strings.HasPrefix(name, "sysv"), strings.HasPrefix(name, "posix"), strings.HasPrefix(name, "mem"), strings.HasSuffix(name, "/lo"):
		return nearHost
	}
	return nearElsewhere
}

func (l *load) cost() int64 { return (int64(l.waiting.Load()) + 1) * max(1, l.nanos.Load()) }

// done ends a read that began then, or was not timed.
func (l *load) done(began time.Time) {
	l.waiting.Add(-1)
	if !began.IsZero() {
		old := l.nanos.Load() // a sample that two of them lose is none that matters
		l.nanos.Store((old*sampleWeight + int64(time.Since(began))) / (sampleWeight + 1))
	}
}

// refused makes reads avoid a peer that answers quickly, but not with what was asked for.
func (l *load) refused() { l.nanos.Store(max(l.nanos.Load(), refusedNanos)) }

// A candidate is a replica that a read may go to.
type candidate struct {
	to  *peer
	bit uint8 // in op.tried
}

// candidates returns the replicas of row that are reached and were not tried.
func (c *Client) candidates(v *view, row *control.Row, tried uint8) (all [control.MaxReplicas]candidate, n int) {
	for i := range all {
		m := row.Owner
		if i > 0 {
			m = row.Backups[i-1]
		}
		if m == control.None {
			break
		}
		if bit := uint8(1) << i; tried&bit == 0 {
			if p, err := c.member(v, m); err == nil && p.usable() {
				all[n] = candidate{p, bit}
				n++
			}
		}
	}
	return all, n
}

// readRoute returns where a read of a partition with several replicas goes. ok is false when none of them is reached.
func (c *Client) readRoute(v *view, row *control.Row, o *op) (to route, ok bool) {
	all, n := c.candidates(v, row, o.tried)
	if n == 0 && o.tried != 0 {
		o.tried = 0
		all, n = c.candidates(v, row, 0)
	}
	if n == 0 {
		return route{}, false
	}
	random := rand.Uint32()
	i, sample := choose(all[:n], random)
	o.tried |= all[i].bit
	o.others = n > 1
	return route{to: all[i].to, read: true, sample: sample}, true
}

// choose returns the candidate that a read goes to, and whether it is a sample.
func choose(all []candidate, random uint32) (i int, sample bool) {
	sample = random%sampleEvery == 0
	random /= sampleEvery
	n := uint32(len(all))
	i = int(random % n)
	if n == 1 || sample {
		return i, sample
	}
	j := int((uint32(i) + 1 + random/n%(n-1)) % n)
	for k := range all { // who is nearer takes part, and wins a draw
		if all[k].to.load.near.Load() > all[i].to.load.near.Load() {
			if k == j {
				j = i
			}
			i = k
		}
	}
	if all[j].to.load.cost()*3/2 < all[i].to.load.cost() { // less is noise, and reads of a quiet client would all go to one
		i = j
	}
	return i, false
}
