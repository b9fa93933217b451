package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

func main() {
	if err := bench(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// options are the command line.
type options struct {
	tools
	points  string
	rounds  int
	budget  time.Duration
	short   bool
	json    string
	docs    string
	from    string
	without string
	bulk    bool
	fails   bool
	where   bool
	kills   int
}

func bench(args []string) error {
	var o options
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.StringVar(&o.dramnode, "dramnode", "bin/dramnode", "program")
	f.StringVar(&o.tools.cref, "cref", "out/bench/cref", "program")
	f.StringVar(&o.tools.olric, "olric", "out/bench/olric", "program")
	f.StringVar(&o.points, "points", "", "measure only points whose name matches this `regexp`, such as ^tcp/get/64B/")
	f.IntVar(&o.rounds, "rounds", 3, "measurements of each point by each contender")
	f.DurationVar(&o.budget, "budget", 22*time.Minute, "for everything; the length of a measurement follows from it")
	f.BoolVar(&o.short, "short", false, "measure a few points for so short a time that only failures mean something")
	f.StringVar(&o.json, "json", "out/bench/results.json", "write all figures to `file`")
	f.StringVar(&o.docs, "docs", "", "write performance.md and its plots to `directory`")
	f.StringVar(&o.from, "from", "", "measure nothing: make the documents from the figures in `file`")
	f.StringVar(&o.without, "without", "", "leave out contenders whose names match this `regexp`")
	f.BoolVar(&o.bulk, "beside", false, "measure only what bulk puts cost small gets")
	f.BoolVar(&o.fails, "failover", false, "measure only what happens when nodes are killed, and what three copies cost")
	f.IntVar(&o.kills, "kills", 50, "of data nodes, for -failover; a fifth as many of control leaders; 0: only what copies cost")
	f.BoolVar(&o.where, "profile", false, "only tell where the processor time of small operations goes; needs perf")
	busy := f.Float64("spin", 0, "only use so many processors for a while, for -beside")
	if err := f.Parse(args); err != nil {
		return err
	}
	if *busy > 0 {
		spin(*busy)
		return nil
	}
	if f.NArg() > 0 || o.rounds < 1 || o.budget <= 0 || o.kills < 0 {
		f.Usage()
		return errors.New("what is asked for cannot be")
	}
	if o.bulk {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		return o.beside(ctx, os.Stdout)
	}
	if o.where {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		return o.profile(ctx, os.Stdout)
	}
	if o.fails {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		file := "" // unless one is asked for
		f.Visit(func(given *flag.Flag) {
			if given.Name == "json" {
				file = o.json
			}
		})
		return o.failover(ctx, os.Stdout, file)
	}
	r, err := o.report()
	if err != nil {
		return err
	}
	if o.docs != "" {
		if err := writeDocs(o.docs, r); err != nil {
			return err
		}
	}
	for _, failure := range r.Failures {
		fmt.Fprintln(os.Stderr, "failed:", failure)
	}
	if n := len(r.Failures); n > 0 {
		return fmt.Errorf("%d measurements failed", n)
	}
	return nil
}

// report measures, or reads what was measured.
func (o *options) report() (*report, error) {
	if o.from != "" {
		return readReport(o.from)
	}
	points := allPoints()
	if o.short {
		points, o.rounds = shortPoints(), 1
	}
	points, err := matching(points, o.points)
	if err != nil {
		return nil, err
	}
	if err := o.missing(); err != nil {
		return nil, err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	r := &report{Machine: thisMachine(), Rounds: o.rounds}
	if busy(r.Machine) && !o.short {
		fmt.Fprintf(os.Stderr, "the machine has other work (load average %s): do not trust what comes\n", r.Machine.Load)
	}
	if o.points == "" {
		entries := memoryEntries
		if o.short {
			entries /= 20
		}
		l := newLab(o.tools, "tcp")
		r.measureMemory(ctx, l, entries)
		l.stop()
	}
	r.run(ctx, o, points)
	if ctx.Err() != nil {
		return nil, errors.New("interrupted")
	}
	if err := os.MkdirAll(filepath.Dir(o.json), 0o755); err != nil {
		return nil, err
	}
	return r, r.write(o.json)
}

// missing names the programs that are not there.
func (o *options) missing() error {
	var errs []error
	for _, program := range []string{o.dramnode, o.tools.cref, o.tools.olric, "ucx_perftest", "redis-server", "redis-benchmark", "memcached", "memcslap"} {
		if _, err := exec.LookPath(program); err != nil {
			errs = append(errs, err)
		}
	}
	if len(errs) > 0 {
		return fmt.Errorf("%w\n`make bench` installs and builds what is missing", errors.Join(errs...))
	}
	return nil
}

const (
	shortLength = 100 * time.Millisecond
	// overhead is what a measurement takes beside its length, about: processes start, keys are put.
	overhead  = 400 * time.Millisecond
	minLength = 200 * time.Millisecond
	maxLength = 3 * time.Second
)

// length is how long each of n measurements may be. A quarter is the warm-up, and tools that take a number
// instead of a time need a first look.
func length(budget time.Duration, n int) time.Duration {
	each := budget/time.Duration(max(1, n)) - overhead
	return max(minLength, min(maxLength, each*10/13)).Round(time.Millisecond)
}

// A turn is what is measured in one go: contender c at point p.
type turn struct {
	p         point
	contender *contender
}

// run measures all points, round by round at each. What was begun when the budget is used up is finished.
func (r *report) run(ctx context.Context, o *options, points []point) {
	labs := map[string]*lab{}
	contenders := map[string][]contender{}
	n := 0
	for _, transport := range transports {
		labs[transport] = newLab(o.tools, transport)
		contenders[transport] = chosen(labs[transport].contenders(), o.without)
	}
	for _, p := range points {
		for _, c := range contenders[p.Transport] {
			if c.serves(p) {
				n++
			}
		}
	}
	for _, c := range contenders[transports[0]] {
		r.Given = append(r.Given, c.given)
	}
	measured := length(o.budget, n*o.rounds)
	if o.short {
		measured = shortLength
	}
	r.Seconds = measured.Seconds()
	fmt.Fprintf(os.Stderr, "%d points, %d contenders, %d rounds: %d measurements of %v\n", len(points), len(r.Given), o.rounds, n*o.rounds, measured)
	deadline := time.Now().Add(o.budget)
	for _, transport := range transports {
		for _, p := range points {
			if p.Transport != transport || ctx.Err() != nil {
				continue
			}
			if time.Now().After(deadline) && !o.short {
				r.Left = append(r.Left, p.String())
				continue
			}
			r.measure(ctx, p, contenders[transport], o.rounds, measured)
		}
		labs[transport].stop()
	}
}

// measure runs the rounds of one point. Every second round goes the other way round, so that nobody is
// always measured after the same one.
func (r *report) measure(ctx context.Context, p point, all []contender, rounds int, length time.Duration) {
	failed := map[string]bool{} // not tried again: failures take long
	for round := range rounds {
		order := slices.Clone(all)
		if round%2 == 1 {
			slices.Reverse(order)
		}
		for _, c := range order {
			if !c.serves(p) || failed[c.Name] || ctx.Err() != nil {
				continue
			}
			s, err := c.measure(ctx, p, length)
			if err != nil {
				failed[c.Name] = true
				r.Failures = append(r.Failures, fmt.Sprintf("%s, %s: %v", p, c.Name, err))
				continue
			}
			r.Results = append(r.Results, result{p, c.Name, round, s})
			fmt.Fprintf(os.Stderr, "%-22s %-20s %12.0f ops/s %8.3f GB/s  p50 %10.2f us  p99 %10.2f us\n", p, c.Name, s.OpsPerS, s.GBPerS, s.P50, s.P99)
		}
	}
}
