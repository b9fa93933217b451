package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/dramnode/dramnode/client"
	"github.com/dramnode/dramnode/control"
)

const (
	failoverNodes    = 5
	failoverReplicas = 3
	failoverWindow   = 3 * time.Second  // after a kill, in which the others' keys are looked at
	failoverBefore   = time.Second      // before it, for comparison
	failoverLimit    = 30 * time.Second // for writes to go on
	leaderShare      = 5                // one more kill of the control leader for so many of data nodes
)

// A failoverReport is everything that -failover measures. Times are in milliseconds, but for those named us.
type failoverReport struct {
	Machine machine       `json:"machine"`
	Kills   []killReport  `json:"kills"`
	Costs   []costsReport `json:"costs"`
}

// A killReport is about kills of one kind.
type killReport struct {
	Killed string       `json:"killed"`
	Kills  int          `json:"kills"`
	Groups []groupStats `json:"groups"`
}

// A groupStats is about the keys whose partitions had something in common. A stall is, for one key and one kill, the
// longest time after the kill without an acknowledged write.
type groupStats struct {
	Group     string  `json:"group"`
	Stalls    int     `json:"stalls"`
	StallP50  float64 `json:"stall_p50"`
	StallP99  float64 `json:"stall_p99"`
	StallMax  float64 `json:"stall_max"`
	Ops       int     `json:"ops"` // gets and puts that were due in the 3 s after the kill
	P50       float64 `json:"p50"`
	P999      float64 `json:"p99_9"`
	Max       float64 `json:"max"`
	Before999 float64 `json:"before_p99_9"` // in the second before
	BeforeMax float64 `json:"before_max"`
	Errors    int     `json:"errors"`
	FirstErr  string  `json:"first_error,omitempty"`
}

// failover kills data nodes so many times, and control leaders a fifth as often; then it measures what replication
// costs.
func (o *options) failover(ctx context.Context, out io.Writer, file string) error {
	r := failoverReport{Machine: thisMachine()}
	if o.kills > 0 {
		if err := r.kill(ctx, o); err != nil {
			return err
		}
	}
	if err := errors.Join(r.printKills(out), r.measureCosts(ctx, o)); err != nil {
		return err
	}
	if err := r.printCosts(out); err != nil || file == "" {
		return err
	}
	text, err := json.MarshalIndent(&r, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(text, '\n'), 0o644)
}

// kill runs all the kills on one cluster.
func (r *failoverReport) kill(ctx context.Context, o *options) error {
	c, err := startCluster(ctx, o.dramnode, "auto", failoverNodes, failoverReplicas)
	if err != nil {
		return err
	}
	defer c.stop()
	leaders := max(1, o.kills/leaderShare)
	for _, round := range []struct {
		killed string
		kills  int
		victim func(i int) *clusterNode
	}{
		{"data node", o.kills, func(i int) *clusterNode { return c.notLeader(ctx, i) }},
		{"control leader", leaders, func(int) *clusterNode { return c.leader(ctx) }},
	} {
		all := newGroups()
		for i := range round.kills {
			if err := c.killOne(ctx, round.victim(i), all); err != nil {
				return fmt.Errorf("kill %d of %d, %s: %w", i+1, round.kills, round.killed, err)
			}
			fmt.Fprintf(os.Stderr, "%s %d of %d: writes stalled for at most %.0f ms, others %.0f ms\n", round.killed, i+1, round.kills, milliseconds(all[0].lastStall), milliseconds(all[2].lastStall))
		}
		r.Kills = append(r.Kills, killReport{round.killed, round.kills, all.stats()})
	}
	return nil
}

// notLeader takes turns.
func (c *cluster) notLeader(ctx context.Context, i int) *clusterNode {
	for {
		if n := c.nodes[i%len(c.nodes)]; n != c.leader(ctx) {
			return n
		}
		i++
	}
}

// killOne kills a node under load, and starts it again when the writes go on.
func (c *cluster) killOne(ctx context.Context, victim *clusterNode, all groups) error {
	if victim == nil || c.index(victim) == control.None {
		return errors.New("nobody to kill")
	}
	probes, err := all.probes(c.client, c.index(victim))
	if err != nil {
		return err
	}
	load, end := context.WithCancel(ctx)
	defer end()
	var wg sync.WaitGroup
	for _, p := range probes {
		wg.Go(func() { p.run(load, c.client) })
	}
	pause(ctx, 2*failoverBefore) // the first half is to warm up
	killed, err := c.kill(victim)
	if err == nil {
		pause(ctx, failoverWindow)
		err = c.resumed(ctx, probes, killed)
	}
	end()
	wg.Wait()
	if err != nil {
		return err
	}
	all.add(probes, killed)
	if err := c.start(victim); err != nil {
		return err
	}
	return errors.Join(victim.awaitReady(ctx), c.awaitCopies(ctx))
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// resumed waits until a write that began after the kill was acknowledged for every key.
func (c *cluster) resumed(ctx context.Context, probes []*probe, killed time.Time) error {
	for deadline := killed.Add(failoverLimit); ; pause(ctx, copiesPoll) {
		waiting := slices.DeleteFunc(slices.Clone(probes), func(p *probe) bool { return p.wrote(killed) })
		switch {
		case len(waiting) == 0 || ctx.Err() != nil:
			return ctx.Err()
		case time.Now().After(deadline):
			errs := []error{fmt.Errorf("%d of %d keys take no writes %v after the kill", len(waiting), len(probes), failoverLimit)}
			for _, p := range waiting {
				l, err := c.client.Locate(p.key)
				errs = append(errs, fmt.Errorf("the killed node had %s of partition %d, owned by %s (killed: %v): %+v", groupNames[p.group], l.Partition, l.Owner.Name, c.dead[l.Owner.Incarnation], l.Row), err)
			}
			return errors.Join(errs...)
		}
	}
}

func (r *failoverReport) printKills(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "killed\tkills\tkeys whose partitions had\tstall p50\tp99\tmax ms\tops in 3 s\tp50\tp99.9\tmax ms\tp99.9 before\tmax ms\terrors\t")
	for _, k := range r.Kills {
		for _, g := range k.Groups {
			fmt.Fprintf(w, "%s\t%d\t%s\t%.0f\t%.0f\t%.0f\t%d\t%.2f\t%.1f\t%.1f\t%.1f\t%.1f\t%d\t\n", k.Killed, k.Kills, g.Group, g.StallP50, g.StallP99, g.StallMax,
				g.Ops, g.P50, g.P999, g.Max, g.Before999, g.BeforeMax, g.Errors)
			if g.FirstErr != "" {
				fmt.Fprintf(w, "\t\tfirst error: %s\n", g.FirstErr)
			}
		}
	}
	return w.Flush()
}

// located tells what the member is to the key.
func located(c *client.Client, key []byte, member uint16) (group int, err error) {
	l, err := c.Locate(key)
	switch {
	case err != nil:
		return 0, err
	case l.Row.Owner == member:
		return ownsIt, nil
	case l.Row.IsBackup(member):
		return backsItUp, nil
	}
	return otherwise, nil
}
