package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"
)

// What replication costs is measured on three nodes with one copy and three nodes with three copies, by turns.
const (
	costsLength = 1500 * time.Millisecond
	costsSmall  = 64
	costsLarge  = 4 << 20
	costsDepth  = 4 // large puts, and raw messages of each process, under way
)

// A costsReport has medians over the rounds.
type costsReport struct {
	Transport   string  `json:"transport"`
	Rounds      int     `json:"rounds"`
	PutSingle   float64 `json:"put_64_one_copy_us"`
	PutThree    float64 `json:"put_64_three_copies_us"`
	PutFactor   float64 `json:"put_64_factor"`
	GetSingle   float64 `json:"get_64_one_copy_us"`
	GetThree    float64 `json:"get_64_three_copies_us"`
	GetFactor   float64 `json:"get_64_factor"`
	LargeThree  float64 `json:"put_4mib_three_copies_gb_per_s"` // of values; three times as much travels
	LargeSingle float64 `json:"put_4mib_one_copy_gb_per_s"`
	Raw         float64 `json:"raw_three_transfers_gb_per_s"` // together
	Share       float64 `json:"share_of_raw"`
}

// measureCosts compares by each transport.
func (r *failoverReport) measureCosts(ctx context.Context, o *options) error {
	for _, transport := range transports {
		l := newLab(o.tools, transport)
		c, err := l.costs(ctx, o.rounds)
		l.stop()
		if err != nil {
			return fmt.Errorf("%s: %w", transport, err)
		}
		r.Costs = append(r.Costs, c)
	}
	return nil
}

// medians collects figures by name.
type medians map[string][]float64

func (m medians) of(name string) float64 { return spreadOf(m[name]).median }

func (l *lab) costs(ctx context.Context, rounds int) (costsReport, error) {
	one, err := startCluster(ctx, l.dramnode, l.shm(), failoverReplicas, 1)
	if err != nil {
		return costsReport{}, err
	}
	defer one.stop()
	three, err := startCluster(ctx, l.dramnode, l.shm(), failoverReplicas, failoverReplicas)
	if err != nil {
		return costsReport{}, err
	}
	defer three.stop()
	m := medians{}
	for range rounds {
		if err := l.costsRound(ctx, m, one, three); err != nil {
			return costsReport{}, err
		}
	}
	return costsReport{
		Transport: l.transport, Rounds: rounds,
		PutSingle: m.of("put one"), PutThree: m.of("put three"), PutFactor: m.of("put factor"),
		GetSingle: m.of("get one"), GetThree: m.of("get three"), GetFactor: m.of("get factor"),
		LargeSingle: m.of("large one"), LargeThree: m.of("large three"), Raw: m.of("raw"), Share: m.of("share"),
	}, nil
}

// costsRound measures everything once, one after the other; factors are taken within the round.
func (l *lab) costsRound(ctx context.Context, m medians, one, three *cluster) error {
	measure := func(c *cluster, p point) (sample, error) {
		return l.load(ctx, c.nodes[0].port, p, costsLength, "--cluster-name", c.name)
	}
	for _, op := range ops {
		p := newPoint(l.transport, op, costsSmall, 1)
		a, errA := measure(one, p)
		b, errB := measure(three, p)
		if err := errors.Join(errA, errB); err != nil {
			return err
		}
		m[op+" one"], m[op+" three"] = append(m[op+" one"], a.P50), append(m[op+" three"], b.P50)
		m[op+" factor"] = append(m[op+" factor"], b.P50/a.P50)
	}
	p := newPoint(l.transport, "put", costsLarge, costsDepth)
	a, errA := measure(one, p)
	b, errB := measure(three, p)
	raw, errRaw := l.rawTransfers(ctx, p)
	if err := errors.Join(errA, errB, errRaw); err != nil {
		return err
	}
	m["large one"], m["large three"] = append(m["large one"], a.GBPerS), append(m["large three"], b.GBPerS)
	m["raw"], m["share"] = append(m["raw"], raw), append(m["share"], failoverReplicas*b.GBPerS/raw)
	return nil
}

// rawTransfers runs as many plain transfers at once as there are copies, and returns their rate together.
func (l *lab) rawTransfers(ctx context.Context, p point) (gbPerS float64, err error) {
	type outcome struct {
		sample
		err error
	}
	outcomes := make(chan outcome, failoverReplicas)
	for range failoverReplicas {
		go func() {
			s, err := l.crefMeasure(ctx, p, costsLength)
			outcomes <- outcome{s, err}
		}()
	}
	for range failoverReplicas {
		o := <-outcomes
		gbPerS += o.GBPerS
		err = errors.Join(err, o.err)
	}
	return gbPerS, err
}

func (r *failoverReport) printCosts(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "\ntransport\t64 B put: 1 copy\t3 copies\tfactor\t64 B get: 1 copy\t3 copies\tfactor\t4 MiB put: 1 copy\t3 copies\t3 raw transfers\tshare\t")
	for _, c := range r.Costs {
		fmt.Fprintf(w, "%s\t%.1f us\t%.1f us\tx%.2f\t%.1f us\t%.1f us\tx%.2f\t%.2f GB/s\t%.2f GB/s\t%.2f GB/s\t%.0f %%\t\n", c.Transport,
			c.PutSingle, c.PutThree, c.PutFactor, c.GetSingle, c.GetThree, c.GetFactor, c.LargeSingle, c.LargeThree, c.Raw, 100*c.Share)
	}
	return w.Flush()
}
