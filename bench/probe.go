package main

import (
	"context"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/dramnode/dramnode/client"
)

// Groups of keys, by what the killed node is to their partitions.
const (
	ownsIt = iota
	backsItUp
	otherwise
	groupCount
)

var groupNames = [groupCount]string{"the primary there", "a backup there", "no copy there"}

const (
	keysPerGroup = 8
	probeBytes   = 64
	// probePause is between operations that are due for one key, longer for those that only show when writes go on.
	probePause      = 15 * time.Millisecond
	stalledPause    = 25 * time.Millisecond
	failoverTimeout = 20 * time.Second // of an operation: a failover is to be a stall, not an error
)

// A probe is one key, on which one operation at a time is under way. Operations are due at fixed instants; one that is
// due while another is under way is sent after it, and counts from when it was due.
type probe struct {
	group int
	key   []byte
	pause time.Duration

	mu   sync.Mutex
	done []probed
}

// A probed is one operation that has ended.
type probed struct {
	due, begun, ended time.Time
	put               bool
	err               error
}

func (p *probe) run(ctx context.Context, c *client.Client) {
	value, dst := make([]byte, probeBytes), make([]byte, probeBytes)
	begun := time.Now()
	for i := 0; ; i++ {
		due := begun.Add(time.Duration(i) * p.pause)
		pause(ctx, time.Until(due))
		if ctx.Err() != nil {
			return
		}
		o := probed{due: due, begun: time.Now(), put: i%2 == 0 || p.group != otherwise}
		if i == 0 || o.begun.Before(due) {
			o.due = o.begun // late by the timer's fault
		}
		opCtx, cancel := context.WithTimeout(ctx, failoverTimeout)
		if o.put {
			_, o.err = c.Put(opCtx, p.key, value)
		} else {
			_, o.err = c.GetInto(opCtx, p.key, dst)
		}
		cancel()
		o.ended = time.Now()
		if ctx.Err() != nil {
			return // we ended it
		}
		p.mu.Lock()
		p.done = append(p.done, o)
		p.mu.Unlock()
	}
}

// wrote reports whether a put that began after that instant was acknowledged.
func (p *probe) wrote(after time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.ContainsFunc(p.done, func(o probed) bool { return o.put && o.err == nil && o.begun.After(after) })
}

// stall is the longest time after the kill without an acknowledged put.
func (p *probe) stall(killed time.Time) (longest time.Duration) {
	last := killed
	for _, o := range p.done {
		if !o.put || o.err != nil || o.ended.Before(killed) {
			continue
		}
		longest = max(longest, o.ended.Sub(last))
		last = o.ended
	}
	return longest
}

// A group collects what the probes of one kind saw over all kills.
type group struct {
	stalls        []time.Duration
	lastStall     time.Duration // the longest of the last kill
	after, before []time.Duration
	errors        int
	firstErr      error
}

type groups [groupCount]*group

func newGroups() (g groups) {
	for i := range g {
		g[i] = &group{}
	}
	return g
}

// probes makes keys for each group, each in another partition.
func (g groups) probes(c *client.Client, victim uint16) (all []*probe, err error) {
	var have [groupCount]int
	seen := map[any]bool{}
	for i := 0; len(all) < groupCount*keysPerGroup; i++ {
		if i > 1_000_000 {
			return nil, fmt.Errorf("keys for the victim's partitions: %d of %d", have, keysPerGroup)
		}
		key := fmt.Appendf(nil, "failover/%08d", i)
		of, err := located(c, key, victim)
		if err != nil {
			return nil, err
		}
		l, err := c.Locate(key)
		if err != nil {
			return nil, err
		}
		if have[of] == keysPerGroup || seen[l.Partition] {
			continue
		}
		seen[l.Partition] = true
		have[of]++
		p := &probe{group: of, key: key, pause: stalledPause}
		if of == otherwise {
			p.pause = probePause
		}
		all = append(all, p)
	}
	return all, nil
}

// add takes what the probes of one kill saw; they have ended.
func (g groups) add(probes []*probe, killed time.Time) {
	for _, of := range g {
		of.lastStall = 0
	}
	for _, p := range probes {
		of := g[p.group]
		stall := p.stall(killed)
		of.stalls, of.lastStall = append(of.stalls, stall), max(of.lastStall, stall)
		for _, o := range p.done {
			switch from := o.due.Sub(killed); {
			case o.err != nil:
				of.errors++
				if of.firstErr == nil {
					of.firstErr = o.err
				}
			case from >= 0 && from < failoverWindow:
				of.after = append(of.after, o.ended.Sub(o.due))
			case from >= -failoverBefore && o.ended.Before(killed):
				of.before = append(of.before, o.ended.Sub(o.due))
			}
		}
	}
}

func (g groups) stats() (all []groupStats) {
	for i, of := range g {
		for _, list := range [][]time.Duration{of.stalls, of.after, of.before} {
			slices.Sort(list)
		}
		s := groupStats{
			Group: groupNames[i], Stalls: len(of.stalls), StallP50: quantile(of.stalls, 0.5), StallP99: quantile(of.stalls, 0.99), StallMax: quantile(of.stalls, 1),
			Ops: len(of.after), P50: quantile(of.after, 0.5), P999: quantile(of.after, 0.999), Max: quantile(of.after, 1),
			Before999: quantile(of.before, 0.999), BeforeMax: quantile(of.before, 1), Errors: of.errors,
		}
		if of.firstErr != nil {
			s.FirstErr = of.firstErr.Error()
		}
		all = append(all, s)
	}
	return all
}

// quantile is of ascending values, in milliseconds: the smallest that a share q of them does not exceed.
func quantile(ascending []time.Duration, q float64) float64 {
	if len(ascending) == 0 {
		return 0
	}
	i := int(math.Ceil(q*float64(len(ascending)))) - 1
	return milliseconds(ascending[max(0, i)])
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
